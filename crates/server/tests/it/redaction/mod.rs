//! Secrets never come out: marked ones of every type are planted in a service of its own
//! process, everything is run, and the marks are looked for in all that comes out of it:
//! answers, logs at the finest level, metrics, pages, the database, the spool.

mod flows;
mod search;
mod talkative;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use serde_json::{Value, json};

use search::{Output, contains};
use talkative::Talkative;

use crate::client::{Answer, send};
use crate::process;
use crate::service::{Upstream, bytes_below, definition, json_request, json_response};

/// What is planted, by where. To have another secret looked for, add it here and use it.
const SECRETS: &[(&str, &str)] = &[
    ("admin key", ADMIN_KEY),
    ("basic password", "MarkBasicPw-a1b2c3d4e5"),
    ("api key in a header", "MarkApiKeyHeader-f6a7b8c9"),
    ("api key in a query", "MarkApiKeyQuery-d0e1f2a3"),
    ("oauth2 access token", "MarkAccessToken-b4c5d6e7"),
    ("oauth2 refresh token", "MarkRefreshToken-f8a9b0c1"),
    ("jwt token", "MarkJwtToken-d2e3f4a5b6"),
    ("custom header field", "MarkCustomHeader-c7d8e9f0"),
    ("custom query field", "MarkCustomQuery-a1b2c3d4/+"),
    ("client secret of a definition", "MarkClientSecret-e5f6a7b8"),
    ("credential in the wrong place", "MarkMisplaced-c9d0e1f2a3"),
    // A caller's own data: kept for replays, as `execution.keepParams` says, and told nobody.
    ("secret among params", "MarkAmongParams-a1b2c3d4"),
    ("rotated key that is refused", "MarkRefusedRotation-b4c5d6"),
    ("client secret in use", "MarkUsedClientSecret-e7f8a9"),
    ("authorization code", "MarkAuthorizationCode-b0c1d2"),
    ("access token of a flow", "MarkFlowAccessToken-e3f4a5"),
    ("refresh token of a flow", "MarkFlowRefreshToken-b6c7d8"),
    ("renewed access token", "MarkRenewedAccess-e9f0a1b2"),
    ("renewed refresh token", "MarkRenewedRefresh-c3d4e5f6"),
    ("password of a login", "MarkLoginPassword-a7b8c9d0"),
    ("session of a login", "MarkSession-e1f2a3b4c5d6"),
    ("secret of a webhook", "MarkWebhookSecret-a7b8c9d0"),
    ("secret of a webhook that is replaced", "MarkReplacedSecret-e1f2a3b4"),
];

const ADMIN_KEY: &str = "MarkAdminKey-e7f8a9b0c1d2";

fn secret(place: &str) -> &'static str {
    SECRETS.iter().find(|(name, _)| *name == place).unwrap_or_else(|| panic!("no secret {place:?}")).1
}

/// Runs the service and keeps what it answers.
struct Run {
    service: Talkative,
    output: Output,
}

impl Run {
    async fn send(&mut self, place: &str, request: http::request::Builder, body: &str) -> Answer {
        let answer = self.service.send(request, body).await;
        self.output.add_answer(place, &answer);
        answer
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), Request::get(path).header("host", "test"), "").await
    }

    async fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.send(&format!("POST {path}"), json_request("POST", path), &body.to_string()).await
    }

    async fn execute(&mut self, id: &str, params: &Value) -> Answer {
        self.post(&format!("/execute/{id}/call"), &json!({"params": params})).await
    }
}

/// An upstream that says back all that it was told, in every place that an answer has.
fn echo(status: u16, request: &crate::service::Received) -> axum::response::Response {
    let mut response = http::Response::builder().status(status).header("content-type", "application/json");
    let headers: BTreeMap<&str, &str> =
        request.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or("?"))).collect();
    for (name, value) in &headers {
        if ["authorization", "x-api-key", "x-mark"].contains(name) {
            response = response.header(format!("x-echo-{name}"), *value).header("www-authenticate", *value);
        }
    }
    let body = json!({
        "headers": headers, "url": request.path_and_query,
        "base64": headers.get("authorization").map(|value| STANDARD.encode(value)),
        "decoded": headers.get("authorization").and_then(|value| value.strip_prefix("Basic "))
            .and_then(|value| STANDARD.decode(value).ok()).map(|value| String::from_utf8_lossy(&value).into_owned()),
    });
    response.body(axum::body::Body::from(body.to_string())).unwrap()
}

/// The instances, each with a credential of another kind.
fn credentials() -> Vec<(&'static str, Value)> {
    vec![
        ("basic", json!({"type": "basic", "data": {"username": "ann", "password": secret("basic password")}})),
        (
            "key-header",
            json!({"type": "api_key", "data": {"key": secret("api key in a header"), "headerOrParam": "X-Mark"}}),
        ),
        (
            "key-query",
            json!({"type": "api_key", "data": {"key": secret("api key in a query"), "headerOrParam": "key", "inHeader": false}}),
        ),
        (
            "oauth2",
            json!({"type": "oauth2", "data": {"access_token": secret("oauth2 access token"),
                "refresh_token": secret("oauth2 refresh token"), "token_type": "Bearer"}}),
        ),
        ("jwt", json!({"type": "jwt", "data": {"token": secret("jwt token")}})),
        (
            "custom",
            json!({"type": "custom", "data": {"h": secret("custom header field"), "q": secret("custom query field")}}),
        ),
    ]
}

fn definition_of(id: &str, auth_type: &str) -> Value {
    // The answer is dropped: what a successful upstream says to its caller is the caller's.
    let mut document = definition(id, &json!({"responseTransform": "{'ok': true}", "timeoutMs": 1500}));
    document["authType"] = json!(auth_type);
    document["testMethod"] = json!("call");
    if auth_type == "custom" {
        document["customAuth"] = json!({"headers": {"X-Mark": "h"}, "query": {"sig": "q"}});
    }
    if auth_type == "oauth2" {
        document["oauth2Config"] = json!({
            "authorizationUrl": "http://127.0.0.1:9/authorize", "tokenUrl": "http://127.0.0.1:9/token",
            "clientId": "us", "clientSecret": secret("client secret of a definition"),
            "scope": "read",
        });
    }
    document
}

/// The part of a PEM that tells one key from another.
fn pem_body(pem: &str) -> Vec<u8> {
    pem.lines().nth(2).unwrap().as_bytes().to_vec()
}

#[tokio::test]
async fn no_secret_comes_out() {
    let folder = process::folder(&[]);
    let upstream = Upstream::start().await;
    let mut secrets: Vec<(String, Vec<u8>)> =
        SECRETS.iter().map(|(name, secret)| ((*name).to_owned(), secret.as_bytes().to_vec())).collect();
    let mut run = Run { service: Talkative::start(folder.path()), output: Output::default() };

    let mut planted = credentials();
    let signing_key = crate::credentials::signing_key_pem();
    secrets.push(("private key of a jwt".to_owned(), pem_body(&signing_key)));
    planted.push((
        "jwt-key",
        json!({"type": "jwt", "data": {"privateKey": signing_key, "algorithm": "ES256", "issuer": "us"}}),
    ));
    for (id, credential) in &planted {
        plant(&mut run, &upstream, id, credential).await;
    }
    for (id, credential) in &planted {
        run_everything(&mut run, &upstream, id, credential).await;
    }
    secrets.extend(flows::run_all(&mut run, &upstream).await);
    secrets.push(("hidden part of an API key".to_owned(), use_api_key(&mut run).await));
    receive_webhooks(&mut run).await;
    let of_upstream = upstream.received();
    for (name, secret) in SECRETS.iter().filter(|(name, _)| !NEVER_SENT.contains(name)) {
        let sent = of_upstream.iter().any(|request| {
            let mut said = Output::default();
            said.add("url", request.path_and_query.as_bytes());
            request.headers.values().for_each(|value| said.add("headers", value.as_bytes()));
            !said.leaks(&[((*name).to_owned(), secret.as_bytes().to_vec())]).is_empty()
        });
        assert!(sent, "{name} never went to the upstream: the search would prove nothing");
    }
    read_everything(&mut run).await;

    // Ends it in the middle of a call, as a crash does, then once more in order.
    let hanging = hang(&run, &upstream).await;
    let Run { service, mut output } = run;
    output.add("log until SIGABRT", &service.end("-ABRT"));
    hanging.abort();
    output.add("files after SIGABRT", &outside_of_configuration(folder.path()));
    let again = Talkative::start(folder.path());
    let mut run = Run { service: again, output };
    read_everything(&mut run).await;
    let unknown = run.get("/api/v1/audit?action=credential.used&limit=200").await.json();
    assert!(unknown["items"].as_array().unwrap().iter().any(|entry| entry["outcome"] == "unknown"), "{unknown}");
    let Run { service, mut output } = run;
    output.add("log until SIGTERM", &service.end("-TERM"));
    output.add("files", &outside_of_configuration(folder.path()));
    let master_key = std::fs::read(folder.path().join("data/master.key")).unwrap();
    let master_key = ("master key".to_owned(), key_part(&master_key));
    let mut everything = Output::default();
    everything.add("all files", &bytes_below(folder.path()));
    assert!(!everything.leaks(std::slice::from_ref(&master_key)).is_empty(), "it is found where it is");
    secrets.push(master_key);
    command_lines(&mut output, folder.path());

    let log = String::from_utf8_lossy(&output.0["log until SIGABRT"]).into_owned();
    assert!(log.contains("\"level\":\"DEBUG\"") || log.contains("\"level\":\"TRACE\""), "the log is talkative: {log}");
    let mut leaks = output.leaks(&secrets);
    leaks.retain(|leak| !(leak.starts_with("secret among params") && leak.contains(" in files")));
    assert!(leaks.is_empty(), "{} leaks:\n{}", leaks.len(), leaks.join("\n"));
}

/// Makes a key, whose answer tells it, uses it well and badly, and revokes it; gives what nobody
/// is told of it again.
async fn use_api_key(run: &mut Run) -> Vec<u8> {
    let new = json!({"name": "monitoring", "roles": ["monitor"]}).to_string();
    let made = run.service.send(crate::service::json_request("POST", "/api/v1/api-keys"), &new).await;
    assert_eq!(made.status, 201, "{}", made.json());
    let key = made.json()["key"].as_str().unwrap().to_owned();
    for (path, status) in [("/status/health", 200), ("/integrations", 403), ("/nowhere", 404)] {
        let request = http::Request::get(path).header("host", "test").header("authorization", format!("Bearer {key}"));
        let answer = send(run.service.address, request, "").await;
        assert_eq!(answer.status, status, "{path}");
        run.output.add_answer(path, &answer);
    }
    let listed = run.get("/api/v1/api-keys").await.json();
    assert_eq!(listed["items"][0]["prefix"], key[..12], "{listed}");
    let path = format!("/api/v1/api-keys/{}", made.json()["id"].as_str().unwrap());
    assert_eq!(run.service.send(crate::service::json_request("DELETE", &path), "").await.status, 204);
    let request = http::Request::get("/status/health").header("host", "test").header("x-api-key", &key);
    let refused = send(run.service.address, request, "").await;
    assert_eq!(refused.status, 401);
    run.output.add_answer("a revoked key", &refused);
    key.as_bytes()[12..].to_vec()
}

/// What is planted where the service has no reason to send it on.
const NEVER_SENT: &[&str] = &[
    "admin key",
    "oauth2 refresh token",
    "client secret of a definition",
    "credential in the wrong place",
    "secret among params",
    // They go to authorization servers of their own.
    "client secret in use",
    "authorization code",
    "refresh token of a flow",
    "renewed refresh token",
    "password of a login",
    "secret of a webhook",
    "secret of a webhook that is replaced",
];

/// The key itself, which stands after its id.
fn key_part(file: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(file);
    let line = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#')).unwrap();
    line.rsplit([':', '=', ' ']).find(|part| part.len() >= 16).unwrap_or(line).as_bytes().to_vec()
}

/// All files but those that hold a secret by their nature.
fn outside_of_configuration(folder: &Path) -> Vec<u8> {
    let copy = tempfile::tempdir().unwrap();
    let status = Command::new("cp").args(["-r", "data"]).arg(copy.path()).current_dir(folder).status().unwrap();
    assert!(status.success());
    for own in ["master.key", "admin.key"] {
        // The admin key came by the environment.
        let _ = std::fs::remove_file(copy.path().join("data").join(own));
    }
    bytes_below(copy.path())
}

async fn plant(run: &mut Run, upstream: &Upstream, id: &str, credential: &Value) {
    let auth_type = credential["type"].as_str().unwrap();
    let document = definition_of(id, auth_type);
    let created = run.post("/api/v1/integration-definitions?publish=true", &document).await;
    assert_eq!(created.status, 201, "{}", created.json());
    let instance = json!({"id": id, "integrationDefinitionId": id, "name": id, "config": {"baseUrl": upstream.url()}});
    let created = run.post("/api/v1/integration-instances", &instance).await;
    assert_eq!(created.status, 201, "{}", created.json());
    let stored = run.post(&format!("/api/v1/integration-instances/{id}/credentials"), credential).await;
    assert_eq!(stored.status, 201, "{}", stored.json());
}

/// Everything that one instance can be asked to do, well and badly.
async fn run_everything(run: &mut Run, upstream: &Upstream, id: &str, credential: &Value) {
    let instance = format!("/api/v1/integration-instances/{id}");
    upstream.always(|_| json_response(200, &json!({"ok": true})));
    assert_eq!(run.execute(id, &json!({})).await.status, 200);
    let preview = run.post(&format!("/execute/{id}/call?dryRun=true"), &json!({"params": {}})).await;
    assert_eq!(preview.status, 200, "{}", preview.json());
    assert_eq!(run.post(&format!("{instance}/test"), &json!({})).await.status, 200);
    for status in [400, 404, 409, 422, 429, 500, 503] {
        upstream.always(move |request| echo(status, request));
        let failed = run.execute(id, &json!({})).await;
        assert_ne!(failed.status, 200);
    }
    for verb in ["reset"] {
        run.post(&format!("/integrations/{id}/circuit-breaker/{verb}"), &json!({})).await;
    }
    upstream.always(|_| {
        http::Response::builder().status(200).header("content-type", "application/json").body("{broken".into()).unwrap()
    });
    run.execute(id, &json!({})).await;
    run.execute(id, &json!([secret("secret among params")])).await;

    // Redirects, also to where it must not go.
    upstream.always(|request| {
        http::Response::builder()
            .status(307)
            .header("location", format!("http://10.0.0.1{}", request.path_and_query))
            .body(axum::body::Body::empty())
            .unwrap()
    });
    run.execute(id, &json!({})).await;
    upstream.always(move |request| echo(401, request));
    run.post(&format!("{instance}/test"), &json!({})).await;
    run.execute(id, &json!({})).await;

    // The same credential heals it; one with faults, and one that is refused, do not get in.
    let refused =
        json!({"type": "api_key", "data": {"key": secret("rotated key that is refused"), "headerOrParam": "X-Mark"}});
    if credential["type"] == "api_key" {
        assert_eq!(run.post(&format!("{instance}/credentials/rotate"), &refused).await.status, 502);
    }
    upstream.always(|_| json_response(200, &json!({"ok": true})));
    let rotated = run.post(&format!("{instance}/credentials/rotate"), credential).await;
    assert_eq!(rotated.status, 200, "{}", rotated.json());
    run.send(
        "rotate without a body",
        Request::post(format!("{instance}/credentials/rotate")).header("host", "test"),
        "",
    )
    .await;
    let misplaced = secret("credential in the wrong place");
    for body in [
        json!({"type": credential["type"], "data": misplaced}),
        json!({"type": misplaced, "data": {}}),
        json!({"type": credential["type"], "data": {"expires_at": misplaced, "inHeader": misplaced, "algorithm": misplaced}}),
        json!({"type": credential["type"], "data": credential["data"], "extra": misplaced}),
        json!(misplaced),
    ] {
        let refused = run.post(&format!("{instance}/credentials"), &body).await;
        assert_ne!(refused.status, 201);
    }
    run.send("broken JSON", json_request("POST", &format!("{instance}/credentials")), &credential.to_string()[..40])
        .await;
    run.post(
        "/api/v1/events",
        &json!({
            "type": "system.credential.rotated", "id": "0198c0de-0000-7000-8000-00000000aaaa",
            "timestamp": "2026-01-31T10:30:00Z", "data": {"integrationInstanceId": id},
            "metadata": {"correlationId": "c", "source": "s"},
        }),
    )
    .await;
    let queued = json_request("POST", &format!("/execute/{id}/call")).header("prefer", "respond-async");
    run.send("queued", queued, &json!({"params": {}}).to_string()).await;
}

/// Deliveries under both secrets, well and badly signed.
async fn receive_webhooks(run: &mut Run) {
    let (before, after) = (secret("secret of a webhook that is replaced"), secret("secret of a webhook"));
    let document = json!({
        "id": "hook", "name": "hook", "version": "1.0.0", "type": "webhook", "authType": "custom",
        "defaultConfig": {"scheme": "github"}, "methods": []
    });
    assert_eq!(run.post("/api/v1/integration-definitions?publish=true", &document).await.status, 201);
    let instance = json!({"id": "hook", "integrationDefinitionId": "hook", "name": "hook"});
    assert_eq!(run.post("/api/v1/integration-instances", &instance).await.status, 201);
    let path = "/api/v1/integration-instances/hook/credentials";
    let credential = json!({"type": "custom", "data": {"secrets": [before]}});
    assert_eq!(run.post(path, &credential).await.status, 201);
    let rotation = json!({"data": {"secrets": [after]}, "overlapSeconds": 3600});
    assert_eq!(run.post(&format!("{path}/rotate"), &rotation).await.status, 200);
    for (id, key, body, status) in [
        ("1", before, r#"{"a":1}"#, 200),
        ("1", after, r#"{"a":1}"#, 200),
        ("2", after, "no JSON", 200),
        ("3", "another", "{}", 401),
    ] {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key.as_bytes());
        let tag = aws_lc_rs::hmac::sign(&key, body.as_bytes());
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let request = json_request("POST", "/webhooks/hook")
            .header("x-github-delivery", id)
            .header("x-hub-signature-256", format!("sha256={hex}"));
        assert_eq!(run.send("a delivery", request, body).await.status, status);
    }
    for secrets in [json!([after, 7]), json!([{"secret": after, "expiresAt": after}]), json!({"secret": after})] {
        let refused = run.post(path, &json!({"type": "custom", "data": {"secrets": secrets}})).await;
        assert_eq!(refused.status, 400);
    }
    run.post("/api/v1/integration-instances/hook/test", &json!({})).await;
    run.get(&format!("{path}/status")).await;
}

/// Everything that can be read.
async fn read_everything(run: &mut Run) {
    for path in [
        "/health",
        "/health/ready",
        "/health/live",
        "/status/health",
        "/status/metrics",
        "/openapi.json",
        "/docs",
        "/docs/errors/AUTH_ERROR",
        "/api/v1/audit?limit=200",
        "/api/v1/events?limit=200",
        "/api/v1/executions?limit=200",
        "/api/v1/integration-definitions?limit=200",
        "/api/v1/integration-instances?limit=200",
        "/integrations?limit=200",
        "/nothing",
    ] {
        run.get(path).await;
    }
    for (id, _) in credentials() {
        for path in [
            format!("/api/v1/integration-instances/{id}"),
            format!("/api/v1/integration-instances/{id}/credentials/status"),
            format!("/api/v1/integration-instances/{id}/executions"),
            format!("/api/v1/integration-definitions/{id}"),
            format!("/api/v1/integration-definitions/{id}/versions/1.0.0"),
            format!("/integrations/{id}"),
            format!("/integrations/{id}/health"),
            format!("/integrations/{id}/status"),
            format!("/integrations/{id}/circuit-breaker"),
            format!("/integrations/{id}/rate-limit"),
            format!("/integrations/{id}/cache"),
        ] {
            run.get(&path).await;
        }
    }
    let executions = run.get("/api/v1/executions?limit=200").await.json();
    for execution in executions["items"].as_array().unwrap().iter().take(30) {
        run.get(&format!("/api/v1/executions/{}", execution["id"].as_str().unwrap())).await;
    }
    // The stream does not end by itself.
    let stream = Request::get("/api/v1/events/stream")
        .header("host", "test")
        .header("last-event-id", "00000000-0000-7000-8000-000000000000");
    let text = read_stream(run.service.address, stream).await;
    assert!(contains(&text, b"integration.method.failed") || text.is_empty());
    run.output.add("event stream", &text);
}

/// What a stream says until it says nothing for a moment.
async fn read_stream(address: SocketAddr, request: http::request::Builder) -> Vec<u8> {
    use http_body_util::BodyExt as _;
    let request = request.header("x-api-key", ADMIN_KEY).body(http_body_util::Full::new(bytes::Bytes::new())).unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut body = sender.send_request(request).await.unwrap().into_body();
    let mut text = Vec::new();
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(Duration::from_millis(700), body.frame()).await {
        if let Some(data) = frame.data_ref() {
            text.extend_from_slice(data);
        }
    }
    connection.abort();
    text
}

/// A call that is under way, its credential sent.
async fn hang(run: &Run, upstream: &Upstream) -> tokio::task::JoinHandle<()> {
    // A listener that answers nobody.
    let before = upstream.received().len();
    let (address, id) = (run.service.address, "basic");
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = json!({"config": {"baseUrl": format!("http://{}", silent.local_addr().unwrap())}});
    let changed = run
        .service
        .send(json_request("PATCH", &format!("/api/v1/integration-instances/{id}")), &config.to_string())
        .await;
    assert_eq!(changed.status, 200, "{}", String::from_utf8_lossy(&changed.body));
    let call = tokio::spawn(async move {
        let request = Request::post(format!("/execute/{id}/call"))
            .header("host", "test")
            .header("content-type", "application/json")
            .header("x-api-key", ADMIN_KEY);
        // It ends with the process.
        let request = request.body(http_body_util::Full::new(bytes::Bytes::from_static(b"{\"params\":{}}"))).unwrap();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let _ = sender.send_request(request).await;
        connection.abort();
    });
    let (mut accepted, _) = silent.accept().await.unwrap();
    let mut head = [0; 16];
    tokio::io::AsyncReadExt::read_exact(&mut accepted, &mut head).await.unwrap();
    assert_eq!(upstream.received().len(), before);
    // Held open, so that the call waits.
    tokio::spawn(async move {
        let _held = (accepted, silent);
        std::future::pending::<()>().await;
    });
    call
}

/// What the commands say about settings that hold a secret, and are wrong.
fn command_lines(output: &mut Output, folder: &Path) {
    let misplaced = secret("credential in the wrong place");
    let wrong: [&[(&str, &str)]; 4] = [
        &[("INTEGRATION_SERVICE_MASTER_KEY", misplaced)],
        &[("INTEGRATION_SERVICE_ADMIN_KEY", "short"), ("INTEGRATION_SERVICE_DATABASE_URL", misplaced)],
        &[("INTEGRATION_SERVICE_DATABASE_URL", "postgres://ann:MarkMisplaced-c9d0e1f2a3@127.0.0.1:1/x")],
        &[("INTEGRATION_SERVICE_ADMIN_KEY", ADMIN_KEY), ("LOG_LEVEL", "loud")],
    ];
    for (number, variables) in wrong.into_iter().enumerate() {
        for arguments in [&["config", "check"][..], &["serve", "--port", "0"]] {
            if arguments[0] == "serve" && number == 3 {
                continue;
            }
            let said = Command::new(env!("CARGO_BIN_EXE_integration-service"))
                .env_clear()
                .envs(variables.iter().copied())
                .env("RUST_BACKTRACE", "full")
                .current_dir(folder)
                .args(arguments)
                .output()
                .unwrap();
            let place = format!("{} with wrong settings {number}", arguments.join(" "));
            output.add(place.clone(), &said.stdout);
            output.add(place, &said.stderr);
        }
    }
}
