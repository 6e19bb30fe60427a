//! The outbound client: egress, redirects, TLS, compression, limits, connections.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Version};
use integration_engine::http_client::{
    HttpClient, HttpClientSettings, HttpError, InboundResponse, OutboundRequest, Phase, RedirectMode, RedirectPolicy,
    RedirectRefusal,
};
use integration_engine::network::{ClientIdentity, EgressPolicy, NetworkError, Resolve, TlsProfile};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::time::Instant;

use crate::upstream::{RawUpstream, Script, Upstream, json_reply, reply};

const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1"];

pub(crate) fn loopback_client() -> HttpClient {
    let policy = EgressPolicy::parse(LOOPBACK).expect("a policy");
    HttpClient::new(HttpClientSettings::default(), policy).expect("a client")
}

fn strict_client() -> HttpClient {
    HttpClient::new(HttpClientSettings::default(), EgressPolicy::public_only()).expect("a client")
}

/// Resolves every name to the same addresses, or never.
struct FixedResolver(Option<Vec<IpAddr>>);

impl Resolve for FixedResolver {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async {
            match &self.0 {
                Some(addresses) => Ok(addresses.clone()),
                None => std::future::pending().await,
            }
        })
    }
}

fn client_resolving(addresses: Option<&[&str]>, allow: &[&str]) -> HttpClient {
    let addresses = addresses.map(|list| list.iter().map(|text| text.parse().expect("an address")).collect());
    let policy = EgressPolicy::parse(allow.iter().copied()).expect("a policy");
    HttpClient::with_resolver(HttpClientSettings::default(), policy, Arc::new(FixedResolver(addresses)))
        .expect("a client")
}

fn get(url: &str) -> OutboundRequest {
    OutboundRequest {
        method: Method::GET,
        url: url.parse().expect("a URI"),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        profile: None,
        redirects: RedirectPolicy::default(),
        max_response_bytes: 64 * 1024,
        repeatable: true,
        fresh_connection: false,
    }
}

fn following(request: OutboundRequest) -> OutboundRequest {
    OutboundRequest { redirects: RedirectPolicy { mode: RedirectMode::Follow, max_hops: 3 }, ..request }
}

async fn send(client: &HttpClient, request: OutboundRequest) -> Result<InboundResponse, HttpError> {
    client.send(request, Instant::now() + Duration::from_secs(10)).await
}

async fn send_briefly(client: &HttpClient, request: OutboundRequest) -> Result<InboundResponse, HttpError> {
    client.send(request, Instant::now() + Duration::from_millis(300)).await
}

#[tokio::test]
async fn loopback_is_refused_in_every_spelling() {
    let upstream = Upstream::start(|_| json_reply("{}")).await;
    let port = upstream.address.port();
    for host in [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "017700000001",
        "0x7f000001",
        "0177.0.0.1",
        "0x7f.1",
        "0x7F.0.0.0x1",
        "0.0.0.0",
        "0",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:0:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
    ] {
        let error = send(&strict_client(), get(&format!("http://{host}:{port}/"))).await.expect_err(host);
        // Some systems do not find the absolute name.
        let not_found = host == "localhost." && matches!(error, HttpError::Network(NetworkError::Resolve { .. }));
        assert!(
            not_found || matches!(error, HttpError::Network(NetworkError::EgressDenied { .. })),
            "{host}: {error:?}"
        );
        assert!(!error.request_was_sent());
    }
    assert!(upstream.seen().is_empty());
}

/// A config's URLs are read by the rules of browsers before they come here: every spelling
/// of an address has become that address, or is no URL.
#[tokio::test]
async fn a_spelling_that_is_read_leads_where_it_is_checked() {
    for host in
        ["127.1", "2130706433", "0x7f.1", "0177.1", "127.0.0.1.", "①②⑦.0.0.1", "[::ffff:127.0.0.1]", "%31%32%37.1"]
    {
        let url = url::Url::parse(&format!("http://{host}/")).expect(host);
        let error = send(&strict_client(), get(url.as_str())).await.expect_err(host);
        assert!(matches!(error, HttpError::Network(NetworkError::EgressDenied { .. })), "{host} as {url}: {error:?}");
    }
    for host in ["[fe80::1%25lo]", "[fe80::1%lo]", "256.1.1.1", "127.0.0.1%00.example.com", "1.2.3.4.5"] {
        assert!(url::Url::parse(&format!("http://{host}/")).is_err(), "{host}");
    }
}

#[tokio::test]
async fn a_name_that_resolves_to_a_private_address_is_refused() {
    for address in [
        "10.0.0.7",
        "169.254.169.254",
        "fd00:ec2::254",
        "::ffff:192.168.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "100.64.0.1",
    ] {
        let client = client_resolving(Some(&[address]), &[]);
        let error = send(&client, get("http://api.example/")).await.expect_err(address);
        let HttpError::Network(NetworkError::EgressDenied { host, address: denied }) = error else {
            panic!("{error:?}")
        };
        assert_eq!((host.as_str(), denied.to_string()), ("api.example", address.to_owned()));
    }
}

#[tokio::test]
async fn what_is_allowed_by_network_or_name_is_reached() {
    let upstream = Upstream::start(|_| json_reply("{}")).await;
    let port = upstream.address.port();
    let url = format!("http://api.internal.example:{port}/");
    for allow in ["127.0.0.1/32", "api.internal.example", "*.internal.example"] {
        let client = client_resolving(Some(&["127.0.0.1"]), &[allow]);
        assert_eq!(send(&client, get(&url)).await.expect("an answer").status, 200, "{allow}");
    }
    // An address that is not allowed is passed over, not connected to.
    let client = client_resolving(Some(&["10.255.255.1", "127.0.0.1"]), &["127.0.0.1"]);
    assert_eq!(send(&client, get(&url)).await.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_new_policy_holds_for_kept_connections_too() {
    let upstream = Upstream::start(|_| json_reply("{}")).await;
    let client = loopback_client();
    send(&client, get(&upstream.url("/"))).await.expect("an answer");
    client.set_egress_policy(EgressPolicy::public_only()).expect("TLS");
    let error = send(&client, get(&upstream.url("/"))).await.expect_err("denied");
    assert!(matches!(error, HttpError::Network(NetworkError::EgressDenied { .. })), "{error:?}");
    assert_eq!(*client.egress_policy(), EgressPolicy::public_only());
}

#[tokio::test]
async fn only_http_urls_without_user_information_are_requested() {
    for url in ["ftp://example.com/", "http://user:secret@example.com/", "/relative"] {
        let error = send(&strict_client(), get(url)).await.expect_err(url);
        assert!(matches!(error, HttpError::InvalidUrl { .. }), "{error:?}");
        assert!(!error.to_string().contains("secret"));
    }
}

#[tokio::test]
async fn connections_are_kept() {
    let upstream = Upstream::start(|_| json_reply("{}")).await;
    let client = loopback_client();
    for _ in 0..3 {
        send(&client, get(&upstream.url("/"))).await.expect("an answer");
        tokio::task::yield_now().await;
    }
    let peers: std::collections::HashSet<_> = upstream.seen().iter().map(|seen| seen.peer).collect();
    assert_eq!(peers.len(), 1);
}

#[tokio::test]
async fn a_stale_connection_is_replaced_only_where_the_request_is_repeatable() {
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_vec();
    for repeatable in [true, false] {
        let upstream = RawUpstream::start(Script::AnswerOnce(ok.clone())).await;
        let client = loopback_client();
        let request = OutboundRequest { repeatable, ..get(&format!("http://{}/", upstream.address)) };
        send(&client, request.clone()).await.expect("an answer");
        tokio::task::yield_now().await;
        let second = send(&client, request).await;
        if repeatable {
            assert_eq!(second.expect("an answer").status, 200);
            assert_eq!(upstream.requests(), 3);
        } else {
            let error = second.expect_err("lost");
            assert!(matches!(error, HttpError::ConnectionLost { sent: true, .. }), "{error:?}");
            assert_eq!(upstream.requests(), 2);
        }
    }
}

#[tokio::test]
async fn a_fresh_connection_that_is_closed_is_not_retried() {
    let upstream = RawUpstream::start(Script::Send(Vec::new())).await;
    let error = send(&loopback_client(), get(&format!("http://{}/", upstream.address))).await.expect_err("lost");
    assert!(matches!(error, HttpError::ConnectionLost { sent: true, .. }), "{error:?}");
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn a_deadline_tells_how_far_the_exchange_had_come() {
    let error = send_briefly(&client_resolving(None, &[]), get("http://api.example/")).await.expect_err("no address");
    assert!(matches!(error, HttpError::TimedOut { sent: false, phase: Phase::Connect }), "{error:?}");

    let silent = RawUpstream::start(Script::SendAndHold(Vec::new())).await;
    let url = format!("http://{}/", silent.address);
    for request in [get(&url), OutboundRequest { method: Method::POST, body: Bytes::from_static(b"x"), ..get(&url) }] {
        let error = send_briefly(&loopback_client(), request).await.expect_err("no answer");
        assert!(matches!(error, HttpError::TimedOut { sent: true, phase: Phase::Response }), "{error:?}");
    }

    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec();
    let partial = RawUpstream::start(Script::SendAndHold(head)).await;
    let error = send_briefly(&loopback_client(), get(&format!("http://{}/", partial.address))).await.expect_err("half");
    assert!(matches!(error, HttpError::TimedOut { sent: true, phase: Phase::Body }), "{error:?}");
}

#[tokio::test]
async fn a_closed_port_is_a_connect_error() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let error = send(&loopback_client(), get(&format!("http://{address}/"))).await.expect_err("closed");
    assert!(matches!(error, HttpError::Network(NetworkError::Connect { .. })), "{error:?}");
    assert!(!error.request_was_sent());
    let error = send(&client_resolving(Some(&[]), &[]), get("http://none.example/")).await.expect_err("no address");
    assert!(matches!(error, HttpError::Network(NetworkError::Resolve { .. })), "{error:?}");
}

#[tokio::test]
async fn redirects_within_the_origin_are_followed() {
    let upstream = Upstream::start(|seen| match seen.target.as_str() {
        "/303" => reply(303, &[("location", "/end?x=1#f")], ""),
        "/302" => reply(302, &[("location", "end")], ""),
        "/307" => reply(307, &[("location", "/end")], ""),
        "/304" => reply(304, &[("location", "/end")], ""),
        _ => json_reply("{}"),
    })
    .await;
    let post = |path: &str| {
        let mut request =
            OutboundRequest { method: Method::POST, body: Bytes::from_static(b"hi"), ..get(&upstream.url(path)) };
        request.headers.insert("content-type", HeaderValue::from_static("text/plain"));
        request.headers.insert("authorization", HeaderValue::from_static("Bearer t"));
        request
    };
    for (path, method, body, target) in
        [("/303", "GET", "", "/end?x=1"), ("/302", "GET", "", "/end"), ("/307", "POST", "hi", "/end")]
    {
        let response = send(&loopback_client(), post(path)).await.expect("an answer");
        assert_eq!((response.status.as_u16(), response.url.path()), (200, "/end"));
        let last = upstream.seen().pop().expect("a request");
        assert_eq!((last.method.as_str(), last.body_text(), last.target.as_str()), (method, body, target));
        assert_eq!(last.header("content-type").is_some(), method == "POST");
        assert_eq!(last.header("authorization"), Some("Bearer t"));
    }
    assert_eq!(send(&loopback_client(), get(&upstream.url("/304"))).await.expect("an answer").status, 304);
}

#[tokio::test]
async fn credentials_stay_behind_where_a_redirect_leaves_the_origin() {
    let target = Upstream::start(|_| json_reply("{}")).await;
    let location = target.url("/elsewhere");
    let upstream = Upstream::start(move |_| reply(307, &[("location", location.as_str())], "")).await;
    let request = || {
        let mut request = get(&upstream.url("/?key=secret"));
        let mut marked = HeaderValue::from_static("secret");
        marked.set_sensitive(true);
        request.headers.insert("x-own-key", marked);
        for name in ["authorization", "cookie", "x-api-key"] {
            request.headers.insert(name, HeaderValue::from_static("secret"));
        }
        request.headers.insert("x-trace", HeaderValue::from_static("t"));
        request
    };
    let error = send(&loopback_client(), request()).await.expect_err("another origin");
    assert!(matches!(error, HttpError::Redirect { refusal: RedirectRefusal::OtherOrigin, .. }), "{error:?}");
    assert!(target.seen().is_empty());

    send(&loopback_client(), following(request())).await.expect("an answer");
    let seen = target.only();
    for name in ["x-own-key", "authorization", "cookie", "x-api-key"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!((seen.header("x-trace"), seen.target.as_str()), (Some("t"), "/elsewhere"));
    assert_eq!(seen.header("host"), Some(target.address.to_string().as_str()));
}

#[tokio::test]
async fn redirects_end_and_stay_within_the_policy() {
    let upstream = Upstream::start(|seen| {
        let location = match seen.target.as_str() {
            "/loop" => "/loop",
            "/metadata" => "http://169.254.169.254/latest",
            "/user" => "http://u:p@127.0.0.1/",
            "/file" => "file:///etc/passwd",
            _ => "http://[",
        };
        reply(302, &[("location", location)], "")
    })
    .await;
    let fail = async |path: &str| {
        let request = following(get(&upstream.url(path)));
        send(&loopback_client(), request).await.expect_err(path)
    };
    let error = fail("/loop").await;
    assert!(matches!(error, HttpError::Redirect { refusal: RedirectRefusal::TooMany { limit: 3 }, .. }), "{error:?}");
    let error = fail("/metadata").await;
    let HttpError::RedirectTarget { source } = &error else { panic!("{error:?}") };
    assert!(matches!(**source, HttpError::Network(NetworkError::EgressDenied { .. })), "{source:?}");
    assert!(error.request_was_sent(), "the first request was");
    for path in ["/user", "/file", "/broken"] {
        let error = fail(path).await;
        assert!(matches!(error, HttpError::Redirect { refusal: RedirectRefusal::InvalidLocation, .. }), "{error:?}");
    }
    let request = OutboundRequest {
        redirects: RedirectPolicy { mode: RedirectMode::None, max_hops: 5 },
        ..get(&upstream.url("/loop"))
    };
    assert_eq!(send(&loopback_client(), request).await.expect("the redirect itself").status, 302);
}

fn gzip(plain: Vec<u8>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&plain).expect("memory");
    encoder.finish().expect("memory")
}

fn zlib(plain: Vec<u8>) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&plain).expect("memory");
    encoder.finish().expect("memory")
}

fn deflate(plain: Vec<u8>) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&plain).expect("memory");
    encoder.finish().expect("memory")
}

/// `hello` in brotli.
const BROTLI_HELLO: &[u8] = b"\x0b\x02\x80hello\x03";

async fn fetch(encoding: &'static str, body: Vec<u8>, limit: usize) -> Result<InboundResponse, HttpError> {
    let upstream = Upstream::start(move |_| reply(200, &[("content-encoding", encoding)], body.clone())).await;
    let request = OutboundRequest { max_response_bytes: limit, ..get(&upstream.url("/")) };
    send(&loopback_client(), request).await
}

#[tokio::test]
async fn compressed_answers_are_read() {
    let nested = gzip(zlib(b"hello".to_vec()));
    for (encoding, body) in [
        ("gzip", gzip(b"hello".to_vec())),
        ("x-gzip", gzip(b"hello".to_vec())),
        ("deflate", zlib(b"hello".to_vec())),
        ("deflate", deflate(b"hello".to_vec())),
        ("br", BROTLI_HELLO.to_vec()),
        ("deflate, gzip", nested),
        ("identity", b"hello".to_vec()),
    ] {
        let response = fetch(encoding, body, 1000).await.expect(encoding);
        assert_eq!(response.body, "hello", "{encoding}");
        assert_eq!(response.headers.contains_key("content-encoding"), encoding == "identity");
    }
    // Large enough to be decompressed beside the runtime's threads.
    let mut noise = vec![0u8; 100_000];
    for (index, byte) in noise.iter_mut().enumerate() {
        *byte = (index.wrapping_mul(2_654_435_761) >> 13) as u8;
    }
    let response = fetch("gzip", gzip(noise.clone()), 200_000).await.expect("an answer");
    assert_eq!(response.body, noise);
}

#[tokio::test]
async fn compression_bombs_stop_at_the_limit() {
    let bomb = gzip(vec![0; 20_000_000]);
    assert!(bomb.len() < 64 * 1024);
    for (encoding, body) in [("gzip", bomb.clone()), ("gzip, gzip", gzip(bomb)), ("deflate", zlib(vec![0; 5_000_000]))]
    {
        let error = fetch(encoding, body, 64 * 1024).await.expect_err(encoding);
        assert!(matches!(error, HttpError::TooLarge { limit: 65_536 }), "{error:?}");
    }
}

#[tokio::test]
async fn broken_and_unknown_codings_are_malformed() {
    let mut cut = gzip(b"hello".to_vec());
    cut.truncate(12);
    for (encoding, body) in [
        ("gzip", cut),
        ("gzip", b"\x1f\x8bxxx".to_vec()),
        ("br", b"\xff\xff\xff".to_vec()),
        ("deflate", b"\xff\xff\xff".to_vec()),
        ("zstd", b"x".to_vec()),
        ("gzip, gzip, gzip, gzip", b"x".to_vec()),
    ] {
        let error = fetch(encoding, body, 1000).await.expect_err(encoding);
        assert!(matches!(error, HttpError::Malformed { .. }), "{encoding}: {error:?}");
    }
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused() {
    let error = fetch("identity", vec![b'x'; 1001], 1000).await.expect_err("too large");
    assert!(matches!(error, HttpError::TooLarge { limit: 1000 }), "{error:?}");
    assert_eq!(fetch("identity", vec![b'x'; 1000], 1000).await.expect("an answer").body.len(), 1000);
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let endless = RawUpstream::start(Script::Repeat(
        head,
        b"400\r\n".iter().chain(&[b'x'; 1024]).chain(b"\r\n").copied().collect(),
    ))
    .await;
    let error = send(&loopback_client(), get(&format!("http://{}/", endless.address))).await.expect_err("endless");
    assert!(matches!(error, HttpError::TooLarge { .. }), "{error:?}");
}

/// An authority, a server certificate for 127.0.0.1 and a client certificate, all fresh.
pub(crate) struct Pki {
    authority_pem: String,
    server: (rustls::pki_types::CertificateDer<'static>, PrivateKeyDer<'static>),
    pub(crate) client: (String, String),
    roots: RootCertStore,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).expect("a certificate");
        let issuer = Issuer::new(params, key);
        let issue = |name: &str| {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new([name.to_owned()]).expect("params");
            (params.signed_by(&key, &issuer).expect("a certificate"), key)
        };
        let (server, server_key) = issue("127.0.0.1");
        let (client, client_key) = issue("client.example");
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).expect("a root");
        Self {
            authority_pem: authority.pem(),
            server: (server.der().clone(), PrivateKeyDer::Pkcs8(server_key.serialize_der().into())),
            client: (client.pem(), client_key.serialize_pem()),
            roots,
        }
    }

    pub(crate) fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    pub(crate) fn server_config(&self, wants_client: bool, protocols: &[&str]) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("protocol versions");
        let builder = if wants_client {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots.clone()), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        } else {
            builder.with_no_client_auth()
        };
        let (certificate, key) = (self.server.0.clone(), self.server.1.clone_key());
        let mut config = builder.with_single_cert(vec![certificate], key).expect("a certificate");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }

    fn profile(&self, with_client: bool) -> Arc<TlsProfile> {
        let (certificate, key) = &self.client;
        let identity = with_client.then(|| Arc::new(ClientIdentity::from_pem(certificate, key).expect("an identity")));
        Arc::new(TlsProfile::new(Some(&self.authority_pem), identity).expect("a profile"))
    }
}

#[tokio::test]
async fn http_2_is_spoken_where_the_upstream_offers_it() {
    let pki = Pki::new();
    let client = loopback_client();
    for (protocols, version) in
        [(&["h2", "http/1.1"][..], Version::HTTP_2), (&["http/1.1"], Version::HTTP_11), (&[], Version::HTTP_11)]
    {
        let upstream = Upstream::start_tls(pki.server_config(false, protocols), |_| json_reply("{}")).await;
        let url = format!("https://{}/", upstream.address);
        for body in ["", "hello"] {
            let request = OutboundRequest { profile: Some(pki.profile(false)), body: Bytes::from(body), ..get(&url) };
            let response = send(&client, request).await.expect("an answer");
            assert_eq!((response.version, response.body.as_ref()), (version, &b"{}"[..]));
        }
        let seen = upstream.seen();
        assert_eq!((seen[0].version, seen[1].body_text()), (version, "hello"));
        assert_eq!(seen[0].peer, seen[1].peer, "the connection is kept");
    }
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused() {
    let pki = Pki::new();
    let upstream = Upstream::start_tls(pki.server_config(false, &[]), |_| json_reply("{}")).await;
    let error = send(&loopback_client(), get(&format!("https://{}/", upstream.address))).await.expect_err("untrusted");
    assert!(matches!(error, HttpError::Network(NetworkError::Tls { .. })), "{error:?}");
    assert!(!error.request_was_sent());
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn client_certificates_are_shown_to_upstreams_that_want_them() {
    let pki = Pki::new();
    let upstream = Upstream::start_tls(pki.server_config(true, &["h2"]), |_| json_reply("{}")).await;
    let client = loopback_client();
    let request = |with_client| OutboundRequest {
        profile: Some(pki.profile(with_client)),
        ..get(&format!("https://{}/", upstream.address))
    };
    assert_eq!(send(&client, request(true)).await.expect("an answer").status, 200);
    assert!(send(&client, request(false)).await.is_err());
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_client_certificate_stays_behind_where_a_redirect_leaves_the_origin() {
    let pki = Pki::new();
    let target = Upstream::start_tls(pki.server_config(true, &[]), |_| json_reply("{}")).await;
    let location = format!("https://{}/", target.address);
    let answer = move |_: &crate::upstream::Seen| reply(307, &[("location", location.as_str())], "");
    let upstream = Upstream::start_tls(pki.server_config(true, &[]), answer).await;
    let request =
        OutboundRequest { profile: Some(pki.profile(true)), ..get(&format!("https://{}/", upstream.address)) };
    let error = send(&loopback_client(), following(request)).await.expect_err("no profile for the target");
    let HttpError::RedirectTarget { source } = &error else { panic!("{error:?}") };
    assert!(matches!(**source, HttpError::Network(NetworkError::Tls { .. })), "{source:?}");
    assert_eq!((upstream.seen().len(), target.seen().len()), (1, 0));
}
