//! A person without a browser: keeps cookies, follows redirects, sends forms.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::Request;

use crate::client::{Answer, send};

pub(crate) struct Person {
    origin: String,
    address: SocketAddr,
    cookies: BTreeMap<String, String>,
}

impl Person {
    /// Somebody whom the authorization server does not know yet.
    pub(crate) fn new(issuer: &str) -> Self {
        let address = issuer.trim_start_matches("http://").parse().unwrap();
        Self { origin: issuer.to_owned(), address, cookies: BTreeMap::new() }
    }

    /// Logs in and agrees to what an authorization URL asks; gives the path and query of the
    /// callback to which the server sends.
    pub(crate) async fn agree(mut self, url: &str) -> String {
        let mut answer = self.get(url).await;
        for _ in 0..20 {
            let location = answer.header("location").to_owned();
            answer = if location.is_empty() {
                self.submit_page(&answer).await
            } else if location.starts_with('/') || location.starts_with(&self.origin) {
                self.get(&location).await
            } else {
                let url = url::Url::parse(&location).unwrap();
                return format!("{}?{}", url.path(), url.query().unwrap());
            };
        }
        panic!("the server never sends back");
    }

    /// Confirms the code of a device, logs in and agrees.
    pub(crate) async fn agree_on_device(mut self, url: &str) {
        let mut answer = self.get(url).await;
        for _ in 0..20 {
            let location = answer.header("location").to_owned();
            let page = String::from_utf8_lossy(&answer.body).into_owned();
            answer = if !location.is_empty() {
                self.get(&location).await
            } else if page.contains("<form") {
                self.submit_page(&answer).await
            } else {
                assert!(page.contains("Success"), "{page}");
                return;
            };
        }
        panic!("the server is never content");
    }

    /// Sends the form of a page, with a name where it asks for one.
    async fn submit_page(&mut self, page: &Answer) -> Answer {
        let html = String::from_utf8_lossy(&page.body).into_owned();
        assert_eq!(page.status, 200, "{html}");
        let action = between(&html, "action=\"", "\"").unwrap_or_else(|| panic!("a form in {html}")).to_owned();
        let mut fields: Vec<(String, String)> = html
            .split("<input")
            .skip(1)
            .filter_map(|input| {
                let tag = input.split('>').next().unwrap();
                let name = between(tag, "name=\"", "\"")?;
                Some((name.to_owned(), between(tag, "value=\"", "\"").unwrap_or_default().to_owned()))
            })
            .filter(|(name, _)| name != "abort")
            .collect();
        for (name, value) in &mut fields {
            match name.as_str() {
                "login" => "ann".clone_into(value),
                "password" => "any will do".clone_into(value),
                _ => {}
            }
        }
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.post_form(&action, &fields).await
    }

    async fn get(&mut self, url: &str) -> Answer {
        self.send(Request::get(self.path(url)), "").await
    }

    pub(crate) async fn post_form(&mut self, url: &str, fields: &[(&str, &str)]) -> Answer {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = Request::post(self.path(url)).header("content-type", "application/x-www-form-urlencoded");
        self.send(request, &body).await
    }

    fn path(&self, url: &str) -> String {
        url.strip_prefix(&self.origin).unwrap_or(url).to_owned()
    }

    async fn send(&mut self, request: http::request::Builder, body: &str) -> Answer {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let host = self.address.to_string();
        let answer = send(self.address, request.header("host", host).header("cookie", cookies.join("; ")), body).await;
        for cookie in answer.headers.get_all("set-cookie") {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}
