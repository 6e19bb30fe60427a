//! An authorization server with a resource beside it. It exchanges refresh tokens for new
//! ones, ends the whole grant where one comes a second time, and misbehaves on cue.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use url::form_urlencoded;

/// What the token endpoint does with one request instead of what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Answers with this status, having done nothing.
    Status(u16),
    /// Answers 200 with a page for people.
    Page,
    /// Closes the connection, having done nothing.
    LostRequest,
    /// Exchanges the token, and closes the connection before it answers.
    LostAnswer,
}

#[derive(Debug)]
struct State {
    rotates: bool,
    expires_in: Option<u64>,
    issued: u32,
    /// The refresh token that is good; without rotation it stays.
    refresh_token: String,
    /// The newest access token, while it is good.
    access_token: Option<String>,
    is_revoked: bool,
    accepts_nothing: bool,
    faults: VecDeque<Fault>,
    exchanges: u32,
    reuses: u32,
    refused_calls: u32,
    calls: u32,
}

/// A running server; it ends with its value.
pub(crate) struct TokenServer {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    _serving: JoinSet<()>,
}

impl TokenServer {
    pub(crate) async fn start(rotates: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State {
            rotates,
            expires_in: Some(3_600),
            issued: 0,
            refresh_token: "refresh-0".to_owned(),
            access_token: Some("access-0".to_owned()),
            is_revoked: false,
            accepts_nothing: false,
            faults: VecDeque::new(),
            exchanges: 0,
            reuses: 0,
            refused_calls: 0,
            calls: 0,
        }));
        let mut serving = JoinSet::new();
        let shared = Arc::clone(&state);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let state = Arc::clone(&shared);
                let service = service_fn(move |request| answer(Arc::clone(&state), request));
                connections.spawn(async move {
                    let connection = hyper::server::conn::http1::Builder::new();
                    // A fault on cue ends the connection with an error.
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, state, _serving: serving }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }

    /// What the next requests for a token meet.
    pub(crate) fn then(&self, faults: &[Fault]) {
        self.state().faults.extend(faults);
    }

    /// The access token is good no longer; the grant is.
    pub(crate) fn expire_access_token(&self) {
        self.state().access_token = None;
    }

    /// The person took the grant back.
    pub(crate) fn revoke(&self) {
        self.state().is_revoked = true;
    }

    /// No access token is good from here on.
    pub(crate) fn refuse_all_tokens(&self) {
        self.state().accepts_nothing = true;
    }

    /// New tokens name no expiry.
    pub(crate) fn name_no_expiry(&self) {
        self.state().expires_in = None;
    }

    /// Tokens that were given out by exchange.
    pub(crate) fn exchanges(&self) -> u32 {
        self.state().exchanges
    }

    /// Refresh tokens that came a second time.
    pub(crate) fn reuses(&self) -> u32 {
        self.state().reuses
    }

    /// Calls of the resource, and those of them that were refused.
    pub(crate) fn calls(&self) -> (u32, u32) {
        let state = self.state();
        (state.calls, state.refused_calls)
    }
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut state = state.lock().expect("no panic while locked");
    if head.uri.path() != "/token" {
        let bearer = head.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_good = !state.is_revoked
            && !state.accepts_nothing
            && state.access_token.as_ref().is_some_and(|token| bearer == format!("Bearer {token}"));
        state.calls += 1;
        state.refused_calls += u32::from(!is_good);
        let (status, body) = if is_good { (200, json!({"ok": true})) } else { (401, json!({"error": "bad token"})) };
        return Ok(json_response(status, &body));
    }
    assert_eq!(head.method, Method::POST);
    let form: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
    let field = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    match state.faults.pop_front() {
        Some(Fault::Status(status)) => Ok(json_response(status, &json!({"error": "temporarily_unavailable"}))),
        Some(Fault::Page) => Ok(Response::new(Full::from("<html>We will be right back</html>"))),
        Some(Fault::LostRequest) => Err(io::Error::other("on cue")),
        Some(Fault::LostAnswer) => {
            exchange(&mut state, field("refresh_token"));
            Err(io::Error::other("on cue"))
        }
        None => Ok(exchange(&mut state, field("refresh_token"))),
    }
}

fn exchange(state: &mut State, refresh_token: Option<&str>) -> Response<Full<Bytes>> {
    let is_known = refresh_token.is_some_and(|token| token == state.refresh_token);
    if !is_known {
        state.reuses += 1;
        state.is_revoked = true;
    }
    if state.is_revoked {
        let refusal = json!({"error": "invalid_grant", "error_description": "grant request is invalid"});
        return json_response(400, &refusal);
    }
    state.exchanges += 1;
    state.issued += 1;
    let access_token = format!("access-{}", state.issued);
    state.access_token = Some(access_token.clone());
    let mut token = json!({"access_token": access_token, "token_type": "Bearer"});
    if let Some(expires_in) = state.expires_in {
        token["expires_in"] = expires_in.into();
    }
    if state.rotates {
        state.refresh_token = format!("refresh-{}", state.issued);
        token["refresh_token"] = state.refresh_token.as_str().into();
    }
    json_response(200, &token)
}

fn json_response(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Full::from(body.to_string())).expect("a response")
}
