//! The provider: hands tokens out, exchanges each refresh token once, and keeps account.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use integration_model::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use url::form_urlencoded;

use super::{TOKEN_LIFE, now};
use crate::oidc;
use crate::oidc::person::Person;

/// Where the certified server sends people back to; nobody goes there.
const REDIRECT_URI: &str = "http://127.0.0.1:8002/api/v1/oauth/callback";

/// Gives tokens, itself or from a certified server, and knows what became of each.
#[derive(Clone, Default)]
pub(super) struct Provider {
    granted: Arc<Mutex<Granted>>,
    /// Told when a token was exchanged, before that is answered.
    pub(super) exchanged: Arc<Notify>,
    certified: Option<Arc<oidc::Provider>>,
}

#[derive(Default)]
struct Granted {
    /// Whose each refresh token is, or was.
    owners: HashMap<String, usize>,
    /// The refresh token of each grant that is good, where this is the server.
    refresh_tokens: HashMap<usize, String>,
    /// When each grant's token was exchanged.
    exchanges: HashMap<usize, Vec<Timestamp>>,
    access_tokens: HashMap<String, Instant>,
    /// Numbers the tokens, where this is the server.
    issued: u64,
    reuses: Vec<String>,
}

impl Provider {
    /// One with a certified server behind it; nothing where that is not installed.
    pub(super) fn certified() -> Option<Self> {
        let token_seconds = u32::try_from(TOKEN_LIFE.as_secs()).unwrap();
        let certified = oidc::Provider::start_for(REDIRECT_URI, token_seconds)?;
        Some(Self { certified: Some(Arc::new(certified)), ..Self::default() })
    }

    pub(super) async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let provider = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let provider = provider.clone();
                let service = service_fn(move |request| provider.clone().answer(request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        address
    }

    /// When a token of this grant was last exchanged.
    pub(super) fn last_exchange(&self, number: usize) -> Option<Timestamp> {
        self.granted().exchanges.get(&number)?.last().copied()
    }

    pub(super) fn exchanges(&self) -> usize {
        self.granted().exchanges.values().map(Vec::len).sum()
    }

    /// Refresh tokens that came a second time.
    pub(super) fn reuses(&self) -> Vec<String> {
        self.granted().reuses.clone()
    }

    fn granted(&self) -> MutexGuard<'_, Granted> {
        self.granted.lock().unwrap()
    }

    /// What a person gets who connects an instance: the tokens of a fresh grant.
    pub(super) async fn grant(&self, number: usize) -> Value {
        let token = match &self.certified {
            None => self.granted().issue(number),
            Some(certified) => connect(certified).await,
        };
        self.granted().note(number, &token);
        token
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let authorization = request.headers().get("authorization").cloned();
        if request.uri().path() != "/token" {
            let bearer = authorization.as_ref().map(|value| value.to_str().unwrap());
            let token = bearer.and_then(|bearer| bearer.strip_prefix("Bearer "));
            let is_good = token.is_some_and(|token| {
                self.granted().access_tokens.get(token).is_some_and(|until| Instant::now() < *until)
            });
            return Ok(json_response(if is_good { 200 } else { 401 }, &json!({})));
        }
        let body = request.into_body().collect().await?.to_bytes();
        let token = form_urlencoded::parse(&body).find(|(name, _)| name == "refresh_token").unwrap().1.into_owned();
        // In a task of its own, so that the witness is there although the caller is not.
        let (status, body) = tokio::spawn(self.clone().exchange(token, authorization, body)).await.unwrap();
        self.exchanged.notify_waiters();
        // So that faults fall between the exchange and its answer too.
        let pause = self.granted().owners.len() * 37 % 120;
        sleep(Duration::from_millis(pause as u64)).await;
        Ok(json_response(status, &body))
    }

    async fn exchange(self, token: String, authorization: Option<HeaderValue>, body: Bytes) -> (u16, Value) {
        let answer = match &self.certified {
            None => self.granted().exchange(&token),
            Some(certified) => {
                let request = Request::post("/token").header("authorization", authorization.unwrap());
                let answer = ask(certified, request, std::str::from_utf8(&body).unwrap()).await;
                (answer.status == 200).then(|| answer.json())
            }
        };
        self.granted().witness(&token, answer)
    }
}

impl Granted {
    /// Gives the tokens of a grant, where this is the server.
    fn issue(&mut self, number: usize) -> Value {
        self.issued += 1;
        let (access_token, refresh_token) = (format!("at-{}", self.issued), format!("rt-{}", self.issued));
        self.refresh_tokens.insert(number, refresh_token.clone());
        json!({
            "access_token": access_token, "refresh_token": refresh_token, "token_type": "Bearer",
            "expires_in": TOKEN_LIFE.as_secs(),
        })
    }

    /// Exchanges a refresh token, where this is the server. One that was exchanged before
    /// ends its grant.
    fn exchange(&mut self, token: &str) -> Option<Value> {
        let number = self.owners[token];
        if self.refresh_tokens.get(&number).is_none_or(|good| good != token) {
            self.refresh_tokens.remove(&number);
            return None;
        }
        Some(self.issue(number))
    }

    /// Remembers whose the tokens are, and how long they hold.
    fn note(&mut self, number: usize, token: &Value) {
        let text = |name: &str| token[name].as_str().unwrap().to_owned();
        self.owners.insert(text("refresh_token"), number);
        self.access_tokens.insert(text("access_token"), Instant::now() + TOKEN_LIFE);
    }

    /// Writes down what became of a refresh token that was presented.
    fn witness(&mut self, presented: &str, answer: Option<Value>) -> (u16, Value) {
        let number = self.owners[presented];
        match answer {
            Some(token) => {
                self.exchanges.entry(number).or_default().push(now());
                self.note(number, &token);
                (200, token)
            }
            None => {
                self.reuses.push(format!("of grant {number} at {}", now()));
                (400, json!({"error": "invalid_grant"}))
            }
        }
    }
}

/// Connects at the certified server as a person does; gives the tokens.
async fn connect(certified: &oidc::Provider) -> Value {
    const VERIFIER: &str = "a-verifier-that-is-long-enough-for-the-rules-of-pkce";
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, VERIFIER.as_bytes()));
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("client_id", "basic"),
            ("response_type", "code"),
            ("redirect_uri", REDIRECT_URI),
            ("scope", "openid offline_access api:read"),
            ("prompt", "consent"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ])
        .finish();
    let back = Person::new(&certified.issuer).agree(&format!("{}/auth?{query}", certified.issuer)).await;
    let code = form_urlencoded::parse(back.split_once('?').unwrap().1.as_bytes())
        .find(|(name, _)| name == "code")
        .unwrap_or_else(|| panic!("a code in {back}"))
        .1
        .into_owned();
    let form = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", REDIRECT_URI),
            ("code_verifier", VERIFIER),
        ])
        .finish();
    let client = STANDARD.encode(format!("basic:{}", oidc::SECRET));
    let answer =
        ask(certified, Request::post("/token").header("authorization", format!("Basic {client}")), &form).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.json()
}

async fn ask(certified: &oidc::Provider, request: http::request::Builder, form: &str) -> crate::client::Answer {
    let address = certified.issuer.trim_start_matches("http://");
    let request = request.header("host", address).header("content-type", "application/x-www-form-urlencoded");
    crate::client::send(address.parse().unwrap(), request, form).await
}

fn json_response(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Full::from(body.to_string())).unwrap()
}
