//! TLS of callers: versions, protocols, client certificates, faults of the files, and files
//! that change while the service runs.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use integration_service::config::{Config, Environment, Flags};
use rustls::version::{TLS12, TLS13};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::binary::{Running, folder, run};
use crate::client::{Answer, get, send_http2_over, send_over};
use crate::pki::{Authority, Identity, connect, write_private};
use crate::service::TestService;

/// A folder with the files of TLS in it.
pub(crate) struct TlsFiles {
    pub(crate) authority: Authority,
    folder: TempDir,
}

impl TlsFiles {
    pub(crate) fn new() -> Self {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        authority.issue("127.0.0.1").write(folder.path());
        std::fs::write(folder.path().join("ca.crt"), &authority.pem).unwrap();
        Self { authority, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The settings of TLS as a file, with these lines besides.
    fn settings(&self, more: &str) -> String {
        format!(
            "server:\n  tls:\n    certificateFile: {}\n    keyFile: {}\n{more}",
            self.path("tls.crt"),
            self.path("tls.key")
        )
    }

    pub(crate) fn client_settings(&self, mode: &str) -> String {
        self.settings(&format!("    clientCaFile: {}\n    clientCertificates: {mode}\n", self.path("ca.crt")))
    }

    pub(crate) async fn start(&self, settings: &str) -> TestService {
        TestService::start_configured(&[("integration_service.yaml", settings)], &[]).await
    }
}

async fn health(address: SocketAddr, authority: &Authority, identity: Option<&Identity>) -> Option<Answer> {
    let stream = connect(address, &authority.client(identity)).await.ok()?;
    send_over(stream, get("/health"), "").await.ok()
}

#[tokio::test]
async fn both_versions_and_both_protocols_are_spoken() {
    let files = TlsFiles::new();
    let service = files.start(&files.settings("")).await;
    for version in [&TLS12, &TLS13] {
        for protocol in ["h2", "http/1.1"] {
            let mut config = files.authority.client_of(&[version], None);
            config.alpn_protocols = vec![protocol.into()];
            let stream = connect(service.address(), &config).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
            let answer = match protocol {
                "h2" => send_http2_over(stream, &format!("https://{}/health", service.address())).await,
                _ => send_over(stream, get("/health"), "").await.unwrap(),
            };
            assert_eq!((answer.status, answer.header("strict-transport-security")), (200, "max-age=31536000"));
        }
    }
    let plain = TcpStream::connect(service.address()).await.unwrap();
    assert!(send_over(plain, get("/health"), "").await.is_err(), "plain HTTP is not answered");
}

#[tokio::test]
async fn an_old_version_is_refused_where_the_settings_say_so() {
    let files = TlsFiles::new();
    let service = files.start(&files.settings("    minVersion: \"1.3\"\n")).await;
    assert!(connect(service.address(), &files.authority.client_of(&[&TLS12], None)).await.is_err());
    assert!(connect(service.address(), &files.authority.client_of(&[&TLS13], None)).await.is_ok());
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_is_closed() {
    let files = TlsFiles::new();
    let service = files.start(&files.settings("  requestHeaderTimeoutMs: 100\n")).await;
    for text in [&b""[..], &[0x16, 3, 1, 2, 0], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = TcpStream::connect(service.address()).await.unwrap();
        stream.write_all(text).await.unwrap();
        // A reset closes as well as an orderly end.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    assert_eq!(health(service.address(), &files.authority, None).await.unwrap().status, 200);
}

#[tokio::test]
async fn client_certificates_are_verified() {
    let files = TlsFiles::new();
    let (known, stranger) =
        (files.authority.issue("spiffe://example.org/a"), Authority::new().issue("spiffe://example.org/a"));
    let expired = files.authority.issue_with("spiffe://example.org/a", |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    for (mode, without) in [("optional", true), ("required", false)] {
        let service = files.start(&files.client_settings(mode)).await;
        let answers = async |identity| health(service.address(), &files.authority, identity).await.is_some();
        assert!(answers(Some(&known)).await, "{mode}");
        assert!(!answers(Some(&stranger)).await, "{mode}");
        assert!(!answers(Some(&expired)).await, "{mode}");
        assert_eq!(answers(None).await, without, "{mode}");
    }
}

fn faults(settings: &str) -> String {
    let folder = folder(&[("integration_service.yaml", settings)]);
    let flags = Flags { config_dir: Some(folder.path().join("config")), ..Flags::default() };
    let mut text = String::new();
    if let Err(errors) = Config::load(&flags, &Environment::default()) {
        for fault in errors.faults() {
            writeln!(text, "{fault}").unwrap();
        }
    }
    text
}

#[test]
fn faulty_files_are_refused_before_anything_starts() {
    let files = TlsFiles::new();
    let (certificate, key) = (files.folder.path().join("tls.crt"), files.folder.path().join("tls.key"));
    let sound = Authority::new().issue("127.0.0.1");
    let reset = || {
        sound.write(files.folder.path());
    };
    let expect = |settings: &str, expected: &str| {
        let told = faults(settings);
        assert!(told.contains(expected), "{expected}: {told}");
        assert!(!told.contains("PRIVATE KEY"), "{told}");
    };
    reset();
    assert_eq!(faults(&files.settings("")), "");
    assert_eq!(faults(&files.settings("  host: 0.0.0.0\n")), "", "TLS opens the service beyond loopback");
    assert_eq!(faults(&files.client_settings("optional")), "");
    expect("server: {host: 0.0.0.0}", "/server/host: expected a loopback address");
    expect(
        &format!("server: {{tls: {{keyFile: {}}}}}", key.display()),
        "/server/tls/certificateFile: expected a certificate and",
    );
    expect(
        "server: {tls: {clientCertificates: required}}",
        "/server/tls/certificateFile: expected the certificate of the service",
    );
    expect(&files.settings("    clientCertificates: optional\n"), "/server/tls/clientCaFile: expected the authorities");
    expect(&files.settings("    minVersion: \"1.1\"\n"), "/server/tls/minVersion");

    write_private(&key, &Authority::new().issue("127.0.0.1").key);
    expect(&files.settings(""), "/server/tls/keyFile: the private key does not belong to the certificate");
    write_private(&key, "no key");
    expect(&files.settings(""), "/server/tls/keyFile: expected a private key in PEM");
    reset();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    expect(&files.settings(""), "it can be used by everybody (mode 0644)");
    reset();
    std::fs::write(&certificate, "").unwrap();
    expect(&files.settings(""), "/server/tls/certificateFile: expected the certificate in PEM");
    std::fs::remove_file(&certificate).unwrap();
    expect(&files.settings(""), "tls.crt: No such file");
    reset();
    std::fs::write(files.folder.path().join("ca.crt"), &sound.key).unwrap();
    expect(&files.client_settings("required"), "/server/tls/clientCaFile: expected authorities in PEM");
}

/// The serial of the certificate that the service shows.
async fn shown(address: SocketAddr, authority: &Authority) -> Option<Vec<u8>> {
    let stream = connect(address, &authority.client(None)).await.ok()?;
    stream.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_files_are_taken_without_a_restart_and_faulty_ones_are_not() {
    let files = TlsFiles::new();
    let folder = folder(&[("integration_service.yaml", &files.settings(""))]);
    let mut running = tokio::task::block_in_place(|| Running::start(folder.path()));
    let address: SocketAddr = running.url.strip_prefix("https://").unwrap().parse().unwrap();
    let mut reload = |told: &str| {
        running.signal("-HUP");
        tokio::task::block_in_place(|| running.wait_for_line(told));
    };
    let first = shown(address, &files.authority).await.unwrap();

    let next = files.authority.issue("127.0.0.1");
    write_private(&files.folder.path().join("tls.key"), &next.key);
    reload("certificates not reloaded, the old ones stay: /server/tls/keyFile: the private key does not belong");
    assert_eq!(shown(address, &files.authority).await.unwrap(), first);
    std::fs::remove_file(files.folder.path().join("tls.crt")).unwrap();
    reload("certificates not reloaded, the old ones stay: /server/tls/certificateFile");
    assert_eq!(shown(address, &files.authority).await.unwrap(), first);

    next.write(files.folder.path());
    reload("certificates reloaded");
    let second = shown(address, &files.authority).await.unwrap();
    assert_ne!(second, first);

    // Without a signal the files are looked at, too.
    files.authority.issue("127.0.0.1").write(files.folder.path());
    tokio::task::block_in_place(|| running.wait_for_line("certificates reloaded"));
    assert_ne!(shown(address, &files.authority).await.unwrap(), second);
    running.signal("-TERM");
    assert_eq!(tokio::task::block_in_place(|| running.end()).0, 0);
}

#[test]
fn commands_reach_a_service_by_tls() {
    let files = TlsFiles::new();
    let client = files.authority.issue("spiffe://example.org/operator");
    write_private(&files.folder.path().join("client.key"), &client.key);
    std::fs::write(files.folder.path().join("client.crt"), &client.certificate).unwrap();
    let folder = folder(&[("integration_service.yaml", &files.client_settings("required"))]);
    let running = Running::start(folder.path());
    let health = |more: &[&str]| {
        let arguments = ["health", "--url", &running.url];
        run(folder.path(), &[&arguments[..], more].concat())
    };
    let (ca, certificate, key) = (files.path("ca.crt"), files.path("client.crt"), files.path("client.key"));
    let identity = ["--client-certificate", certificate.as_str(), "--client-key", key.as_str()];
    let (code, out, error) = health(&[&["--ca-file", ca.as_str()], &identity[..]].concat());
    assert_eq!(code, 0, "{out}{error}");
    assert_eq!(health(&["--ca-file", &ca]).0, 1, "no certificate is shown");
    assert_eq!(health(&identity).0, 1, "the authority is not among the machine's");
    running.signal("-TERM");
    assert_eq!(running.end().0, 0);
}

/// The service on a port that its configuration names.
fn with_port(folder: &Path, settings: &str) -> Running {
    let text = settings.replace("PORT", &free_port().to_string());
    std::fs::write(folder.join("config/integration_service.yaml"), text).unwrap();
    Running::start_with(folder, &["serve"])
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn the_health_of_ones_own_service_needs_no_arguments() {
    let files = TlsFiles::new();
    let folder = folder(&[]);
    let running = with_port(folder.path(), &files.settings("  port: PORT\n"));
    let (code, out, error) = run(folder.path(), &["health"]);
    assert_eq!(code, 0, "{out}{error}");
    running.signal("-TERM");
    assert_eq!(running.end().0, 0);
    let plain = with_port(folder.path(), "server: {port: PORT}\n");
    assert_eq!(run(folder.path(), &["health"]).0, 0);
    plain.signal("-TERM");
    assert_eq!(plain.end().0, 0);
}
