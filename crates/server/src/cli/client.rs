//! The client of the commands that talk to a running service: one connection a request,
//! `http` or `https`. The address is the user's own choice, so no egress rule applies.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use axum::body::Body;
use bytes::Bytes;
use clap::Args;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use super::ConfigArguments;
use super::trust::{self, TrustArguments};
use crate::config::{ADMIN_KEY, Environment, Secret};

/// Which service is asked, and as whom.
#[derive(Debug, Args)]
pub(super) struct ServiceArguments {
    /// The service's address [default: that of the configuration, such as http://127.0.0.1:8002].
    #[arg(long)]
    url: Option<Url>,
    /// The key [default: the admin key of the configuration, or of the file admin.key in
    /// the data folder]. Other users of the machine can see arguments: better set INTEGRATION_SERVICE_ADMIN_KEY.
    #[arg(long, value_parser = parse_secret)]
    key: Option<Secret>,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    config: ConfigArguments,
}

fn parse_secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

const DEFAULT_URL: &str = "http://127.0.0.1:8002";

/// The longest that a method may take is ten minutes; a little more for the way.
const TIMEOUT: Duration = Duration::from_secs(620);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The media type of what is no JSON.
const CONTENT: &str = "application/octet-stream";
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Talks to one service.
pub(crate) struct Client {
    service: Service,
    headers: HeaderMap,
    runtime: tokio::runtime::Runtime,
}

/// What the service said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Client {
    pub(super) fn new(arguments: &ServiceArguments, environment: &Environment) -> anyhow::Result<Self> {
        Self::with_key(arguments.service(environment)?, &find_key(arguments, environment)?)
    }

    /// Talks to the service at `url` with `key`.
    pub(crate) fn to(url: Url, key: &Secret) -> anyhow::Result<Self> {
        Self::with_key(Service::new(url, &TrustArguments::default(), None)?, key)
    }

    fn with_key(service: Service, key: &Secret) -> anyhow::Result<Self> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
            .map_err(|_| anyhow!("the key holds characters that cannot be sent"))?;
        value.set_sensitive(true);
        Self::with_headers(service, HeaderMap::from_iter([(AUTHORIZATION, value)]))
    }

    pub(super) fn without_key(arguments: &ServiceArguments, environment: &Environment) -> anyhow::Result<Self> {
        Self::with_headers(arguments.service(environment)?, HeaderMap::new())
    }

    fn with_headers(service: Service, headers: HeaderMap) -> anyhow::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
        Ok(Self { service, headers, runtime })
    }

    pub(super) fn set_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    /// Sends one request; `path` begins with a slash and is encoded.
    pub(super) fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        self.send_with(&HeaderMap::new(), method, path, body)
    }

    /// The same with headers for this request alone.
    pub(crate) fn send_with(
        &self,
        headers: &HeaderMap,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let mut request = self.request(headers, method, path)?;
        if let Some(body) = body {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Body::from(serde_json::to_vec(body).context("cannot write the request")?);
        }
        self.carry_out(request, None)
    }

    /// Sends bytes as they come, with their number where it is known.
    pub(super) fn send_content(
        &self,
        headers: &HeaderMap,
        path: &str,
        content: Body,
        length: Option<u64>,
    ) -> anyhow::Result<Answer> {
        let mut request = self.request(headers, Method::POST, path)?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT));
        request.headers_mut().extend(length.map(|length| (CONTENT_LENGTH, HeaderValue::from(length))));
        *request.body_mut() = content;
        self.carry_out(request, None)
    }

    /// Asks for bytes, which are written as they come; an answer without them is JSON.
    pub(super) fn take_content(&self, path: &str, body: &Value, output: &mut dyn Write) -> anyhow::Result<Answer> {
        let headers = [(ACCEPT, CONTENT), (CONTENT_TYPE, "application/json")];
        let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let mut request = self.request(&HeaderMap::from_iter(headers), Method::POST, path)?;
        *request.body_mut() = Body::from(serde_json::to_vec(body).context("cannot write the request")?);
        self.carry_out(request, Some(output))
    }

    fn carry_out(&self, request: Request<Body>, output: Option<&mut dyn Write>) -> anyhow::Result<Answer> {
        self.runtime
            .block_on(async { tokio::time::timeout(TIMEOUT, self.exchange(request, output)).await })
            .map_err(|_| anyhow!("no answer within {} s", TIMEOUT.as_secs()))?
            .with_context(|| {
                format!(
                    "{} cannot be asked; does the service run there?",
                    self.service.url.origin().ascii_serialization()
                )
            })
    }

    fn request(&self, headers: &HeaderMap, method: Method, path: &str) -> anyhow::Result<Request<Body>> {
        let url = &self.service.url;
        let target = format!("{}{path}", url.path().trim_end_matches('/'));
        let mut request = Request::builder().method(method).uri(target);
        let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
        request = request.header(HOST, authority);
        for (name, value) in self.headers.iter().chain(headers) {
            request = request.header(name, value);
        }
        request.body(Body::empty()).context("cannot make the request")
    }

    async fn exchange(&self, request: Request<Body>, output: Option<&mut dyn Write>) -> anyhow::Result<Answer> {
        let Service { url, tls } = &self.service;
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = url.port_or_known_default().unwrap_or(80);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port)))
            .await
            .map_err(|_| anyhow!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))??;
        if let Some(tls) = tls {
            let name = ServerName::try_from(host.to_owned()).context("the host is no name for TLS")?;
            send_over(tls.connect(name, stream).await.context("TLS failed")?, request, output).await
        } else {
            send_over(stream, request, output).await
        }
    }
}

async fn send_over<S>(stream: S, request: Request<Body>, output: Option<&mut dyn Write>) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the exchange: its own failure is seen there.
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (http::response::Parts { status, headers, .. }, mut body) = response.into_parts();
    let is_content = headers.get(CONTENT_TYPE).is_some_and(|value| value == CONTENT);
    if let (true, Some(output)) = (is_content, output) {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| anyhow!(error).context("the content is not complete"))?;
            if let Some(piece) = frame.data_ref() {
                output.write_all(piece).context("the content cannot be written")?;
            }
        }
        output.flush().context("the content cannot be written")?;
        return Ok(Answer { status, headers, body: Bytes::new() });
    }
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
    driver.abort();
    let body = body.map_err(|error| anyhow!(error).context("the answer was not complete"))?.to_bytes();
    Ok(Answer { status, headers, body })
}

impl ServiceArguments {
    /// Where the service is: as given, or where the configuration at hand has it.
    fn service(&self, environment: &Environment) -> anyhow::Result<Service> {
        if let Some(url) = &self.url {
            if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
                bail!("expected --url to be http://HOST:PORT or https://HOST:PORT");
            }
            return Service::new(url.clone(), &self.trust, None);
        }
        // What is wrong with the configuration is said where it is needed.
        let config = self.config.load(environment).ok().map(|loaded| loaded.config.server);
        let Some((config, mut address)) = config.and_then(|config| config.address().map(|address| (config, address)))
        else {
            return Service::new(Url::parse(DEFAULT_URL).context("the default URL")?, &self.trust, None);
        };
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        let url = Url::parse(&format!("{}://{address}", config.scheme())).context("the service's address")?;
        Service::new(url, &self.trust, config.tls.certificate_file.as_deref())
    }
}

/// A service and how it is reached.
struct Service {
    url: Url,
    tls: Option<TlsConnector>,
}

impl Service {
    fn new(url: Url, trust: &TrustArguments, own_certificate: Option<&Path>) -> anyhow::Result<Self> {
        let tls = if url.scheme() == "https" { Some(trust::connector(trust, own_certificate)?) } else { None };
        Ok(Self { url, tls })
    }
}

/// From the flag, or from where the service itself has it.
fn find_key(arguments: &ServiceArguments, environment: &Environment) -> anyhow::Result<Secret> {
    if let Some(key) = &arguments.key {
        return Ok(key.clone());
    }
    if let Some(key) = environment.get(ADMIN_KEY) {
        return Ok(Secret::new(key));
    }
    let config =
        arguments.config.load(environment).context("no --key is given, and the configuration is faulty")?.config;
    if let Some(key) = &config.access.admin_key {
        return Ok(key.clone());
    }
    let path = config.admin_key_file();
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("no key: give --key, set {ADMIN_KEY}, or run where {} can be read", path.display()))?;
    Ok(Secret::new(text.trim()))
}

impl Answer {
    /// A header's text; empty where it is not there or no text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Whether the answer was content, which went elsewhere.
    pub(super) fn is_content(&self) -> bool {
        self.header("content-type") == CONTENT
    }

    /// In place of content, what is known of it.
    pub(super) fn with_facts(self) -> Self {
        Self { body: Bytes::copy_from_slice(self.header("x-data").as_bytes()), ..self }
    }

    /// The body as text.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).context("the answer is not JSON; is this the service's address?")
    }

    /// The answer for people: JSON indented, all else as it is.
    pub(crate) fn pretty(&self) -> String {
        match serde_json::from_slice::<Value>(&self.body) {
            Ok(value) => format!("{value:#}"),
            Err(_) => self.text().into_owned(),
        }
    }

    /// A refusal in words, every fault of the input in a line of its own.
    pub(super) fn explain(&self) -> String {
        let Ok(problem) = self.json() else { return format!("HTTP {}", self.status) };
        let text = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut message = format!("{} (HTTP {}): {}", text("code"), self.status.as_u16(), text("detail"));
        for fault in problem.get("errors").and_then(Value::as_array).into_iter().flatten() {
            let part = |name: &str| fault.get(name).and_then(Value::as_str).unwrap_or_default();
            let _ = write!(message, "\n  {}: {}", part("pointer"), part("message"));
        }
        message
    }
}

/// Writes text so that it is one segment of a path.
pub(super) fn encode_segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
