//! One full connection by a person in a browser: a headless Chromium, driven by WebDriver.

use std::net::SocketAddr;
use std::process::Command;

use http::Request;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{SECRET, begin, guarded, program, status, token_of_a_call};
use crate::client::send;
use crate::oauth::wait_for;
use crate::process::Program;

/// The key under which WebDriver gives elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser; it ends with this value.
struct Browser {
    address: SocketAddr,
    session: String,
    _driver: Program,
    _profile: TempDir,
}

impl Browser {
    async fn start(driver: &str) -> Self {
        let (process, port) = Program::start(Command::new(driver).arg("--port=0"), |line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let profile = tempfile::tempdir().unwrap();
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--no-proxy-server".to_owned(),
            // The browser ends with its driver, however that ends.
            "--remote-debugging-pipe".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let capabilities = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}});
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut browser = Self { address, session: String::new(), _driver: process, _profile: profile };
        let made = browser.command("POST", "/session", &capabilities).await;
        browser.session = format!("/session/{}", made["sessionId"].as_str().unwrap());
        browser
    }

    async fn command(&self, verb: &str, path: &str, body: &Value) -> Value {
        let (status, value) = self.answer(verb, path, body).await;
        assert_eq!(status, 200, "{verb} {path}: {value}");
        value
    }

    async fn answer(&self, verb: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = Request::builder()
            .method(verb)
            .uri(path)
            .header("host", self.address.to_string())
            .header("content-type", "application/json");
        let body = if verb == "GET" { String::new() } else { body.to_string() };
        let answer = send(self.address, request, &body).await;
        (answer.status, answer.json()["value"].clone())
    }

    async fn open(&self, url: &str) {
        self.command("POST", &format!("{}/url", self.session), &json!({"url": url})).await;
    }

    async fn run(&self, script: &str) -> Value {
        self.command("POST", &format!("{}/execute/sync", self.session), &script_body(script)).await
    }

    async fn find(&self, selector: &str) -> String {
        let body = json!({"using": "css selector", "value": selector});
        let found = self.command("POST", &format!("{}/element", self.session), &body).await;
        format!("{}/element/{}", self.session, found[ELEMENT].as_str().unwrap())
    }

    async fn type_into(&self, selector: &str, text: &str) {
        let element = self.find(selector).await;
        self.command("POST", &format!("{element}/value"), &json!({"text": text})).await;
    }

    async fn click(&self, selector: &str) {
        let element = self.find(selector).await;
        self.command("POST", &format!("{element}/click"), &json!({})).await;
    }

    /// Waits until the page is there, with its styles, and holds what the selector names.
    async fn wait_for(&self, selector: &str) {
        self.wait_until(&format!("document.querySelector({}) !== null", json!(selector))).await;
    }

    /// Waits until the page is there, with its styles, and the condition holds. A page that is
    /// left while it is asked answers with a fault; it is asked again.
    async fn wait_until(&self, condition: &str) {
        let body = script_body(&format!("return document.readyState === 'complete' && {condition}"));
        let path = format!("{}/execute/sync", self.session);
        wait_for(async || self.answer("POST", &path, &body).await.1 == json!(true)).await;
    }

    async fn close(self) {
        self.command("DELETE", &self.session, &json!({})).await;
    }
}

fn script_body(script: &str) -> Value {
    json!({"script": script, "args": []})
}

#[tokio::test]
async fn a_person_connects_in_a_browser() {
    let Some(driver) = program("INTEGRATION_TEST_CHROMEDRIVER") else { return };
    let config = |_: &super::Provider| json!({"clientId": "basic", "clientSecret": SECRET, "additionalParameters": {"prompt": "consent"}});
    let Some((service, provider)) = guarded(600, config).await else { return };
    let browser = Browser::start(&driver).await;
    browser.open(&begin(&service).await).await;
    browser.wait_for("input[name=login]").await;
    browser.type_into("input[name=login]", "ann").await;
    browser.type_into("input[name=password]", "any will do").await;
    browser.click("button[type=submit]").await;
    // The server asks whether ann agrees.
    browser.wait_for("input[name=prompt][value=consent]").await;
    browser.click("button[type=submit]").await;
    browser.wait_for("main.page h1").await;

    // The page can be read by people and by what reads pages to them; its style is in force
    // although the policy allows next to nothing.
    let page = browser
        .run(
            "return {language: document.documentElement.lang, title: document.title,
                 headings: [...document.querySelectorAll('h1')].map(h => h.textContent),
                 landmarks: document.querySelectorAll('main').length,
                 status: document.querySelector('[role=status]')?.textContent,
                 scripts: document.scripts.length,
                 viewport: document.querySelector('meta[name=viewport]') !== null,
                 width: getComputedStyle(document.querySelector('main')).maxWidth,
                 overflows: document.documentElement.scrollWidth > innerWidth}",
        )
        .await;
    assert_eq!(
        page,
        json!({
            "language": "en", "title": "Connected · Integration Service", "headings": ["Connected"], "landmarks": 1,
            "status": "The integration mine is connected.", "scripts": 0, "viewport": true, "width": "1024px",
            "overflows": false,
        })
    );
    assert_eq!(status(&service).await, "CONNECTED");
    assert!(provider.knows(&token_of_a_call(&service).await).await);

    // Going back and forth, as people do, sends the same answer again and takes nothing away.
    browser.run("location.reload()").await;
    browser.wait_until("document.querySelector('h1')?.textContent === 'Not connected'").await;
    assert_eq!(status(&service).await, "CONNECTED");
    browser.close().await;
}
