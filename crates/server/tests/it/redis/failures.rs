//! What goes wrong: refused credentials, broken servers, limits, time.

use serde_json::{Value, json};

use super::{Rig, Server, basic, command, config, configure, connect, definition, free_port, open, store_credential};
use crate::databases::{data, error, proxy};
use crate::pki::Authority;
use crate::service::TestService;

async fn test(service: &TestService) -> Value {
    service.post("/api/v1/integration-instances/cache/test", &json!({})).await.json()
}

async fn status(service: &TestService) -> Value {
    service.get("/api/v1/integration-instances/cache").await.json()["status"].clone()
}

#[tokio::test]
async fn a_refused_user_or_password_is_told_as_such() {
    let Some(server) = Server::start(&["--requirepass", "right-secret"]) else { return };
    server.ask("AUTH right-secret\r\nACL SETUSER limited on >limited-secret ~own:* +@read +ping +hello").await;
    let service = TestService::start().await;
    let methods = [command("get", json!(["GET", "{a}"])), command("set", json!(["SET", "{a}", "x"]))];
    let wrong = basic("limited", "wrong-secret");
    connect(&service, &definition("basic", &methods), &config(server.address), Some(&wrong)).await;
    for protocol in [3, 2] {
        configure_credential(&service, &server, protocol, &wrong).await;
        let refused = error(&service.execute("cache", "get", &json!({"a": "own:1"})).await, "AUTH_ERROR");
        assert_eq!(refused["details"]["redisCode"], "WRONGPASS", "{refused}");
        assert!(!refused.to_string().contains("wrong-secret"));
        assert_eq!(status(&service).await, "AUTH_ERROR");

        store_credential(&service, &basic("limited", "limited-secret")).await;
        let tested = test(&service).await;
        assert_eq!(tested["healthy"], true, "{tested}");
        assert_eq!(tested["message"].as_str().unwrap().starts_with("Redis 7"), protocol == 3, "{tested}");
        assert_eq!(data(&service.execute("cache", "get", &json!({"a": "own:1"})).await), Value::Null);
        for (name, key) in [("get", "others:1"), ("set", "own:1")] {
            let refused = error(&service.execute("cache", name, &json!({"a": key})).await, "UPSTREAM_ERROR");
            assert_eq!((&refused["details"]["redisCode"], &refused["retryable"]), (&json!("NOPERM"), &json!(false)));
        }
        // The server's own user has a password alone.
        store_credential(&service, &basic("default", "right-secret")).await;
        assert_eq!(data(&service.execute("cache", "set", &json!({"a": "own:1"})).await), "OK");
        server.ask("AUTH right-secret\r\nDEL own:1").await;
    }
}

async fn configure_credential(service: &TestService, server: &Server, protocol: u8, credential: &Value) {
    store_credential(service, credential).await;
    let mut config = config(server.address);
    config["protocol"] = json!(protocol);
    let changed = service.with_body("PATCH", "/api/v1/integration-instances/cache", &json!({"config": config})).await;
    assert_eq!(changed.status, 200, "{}", changed.json());
}

#[tokio::test]
async fn a_password_may_stand_alone_and_may_not_be_missing() {
    let Some(server) = Server::start(&["--requirepass", "right-secret"]) else { return };
    let service = TestService::start().await;
    let credential = |key: &str| json!({"type": "api_key", "data": {"key": key}});
    let methods = [command("get", json!(["GET", "x"]))];
    connect(&service, &definition("api_key", &methods), &config(server.address), Some(&credential("wrong"))).await;
    error(&service.execute("cache", "get", &json!({})).await, "AUTH_ERROR");
    store_credential(&service, &credential("right-secret")).await;
    assert_eq!(data(&service.execute("cache", "get", &json!({})).await), Value::Null);
    // A server that asks for a password, and an instance that has none.
    let service = TestService::start().await;
    let methods = [command("get", json!(["GET", "x"]))];
    connect(&service, &definition("none", &methods), &config(server.address), None).await;
    for protocol in [3, 2] {
        configure(&service, server.address, &json!({"protocol": protocol})).await;
        let refused = error(&service.execute("cache", "get", &json!({})).await, "AUTH_ERROR");
        assert_eq!(refused["details"]["redisCode"], "NOAUTH", "{refused}");
        assert_eq!(test(&service).await["healthy"], false);
    }
}

#[tokio::test]
async fn tls_proves_the_server_and_the_client() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let own = authority.issue("127.0.0.1");
    let (certificate, key) = (file("server.crt", &own.certificate), file("server.key", &own.key));
    let ca = file("ca.crt", &authority.pem);
    let port = free_port();
    let text = port.to_string();
    let settings = ["--port", "0", "--tls-port", &text, "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let settings =
        [&settings[..], &["--tls-ca-cert-file", &ca, "--tls-auth-clients", "yes", "--requirepass", "secret-word"]];
    let Some(server) = Server::start_at(port, &settings.concat()) else { return };
    let service = TestService::start().await;
    // Redis takes a certificate for self-signed whose name is its issuer's.
    let identity = authority.issue_with("client.example", |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "client");
    });
    let mut credential = basic("default", "secret-word");
    credential["data"]["clientCertificate"] = json!({"certificate": identity.certificate, "privateKey": identity.key});
    let methods = [command("set", json!(["SET", "k", "{a}"]))];
    connect(&service, &definition("basic", &methods), &config(server.address), Some(&credential)).await;
    let params = json!({"a": "x".repeat(100_000)});
    let call = || service.execute("cache", "set", &params);
    for (tls, works) in [
        (json!({"mode": "verify-full", "caCertificate": authority.pem}), true),
        (json!({"mode": "verify-full", "caCertificate": stranger.pem}), false),
        (json!({"mode": "verify-full"}), false),
        (json!({"mode": "disable"}), false),
    ] {
        configure(&service, server.address, &json!({"tls": tls})).await;
        let answer = call().await.json();
        assert_eq!(answer["status"] == "SUCCESS", works, "{tls} {answer}");
    }
    // Without a certificate of its own, a client is not let in.
    store_credential(&service, &basic("default", "secret-word")).await;
    configure(&service, server.address, &json!({"tls": {"mode": "verify-full", "caCertificate": authority.pem}})).await;
    assert_eq!(call().await.json()["error"]["code"], "UPSTREAM_ERROR");
}

#[tokio::test]
async fn what_is_larger_than_allowed_is_refused() {
    let methods = [
        open("get", &json!({"command": ["GETRANGE", "k", 0, "{a}"], "maxReplyBytes": 1024})),
        open("list", &json!({"command": ["LRANGE", "l", 0, "{a}"], "maxReplyBytes": 1024})),
        command("fill", json!(["RPUSH", "l", {"spread": "a"}])),
    ];
    let Some(rig) = Rig::start(&[], &methods).await else { return };
    rig.server.ask("SETRANGE k 100000 x").await;
    data(&rig.call("fill", &json!({"a": vec!["x"; 5_000]})).await);
    for (name, fits) in [("get", 999), ("list", 99)] {
        data(&rig.call(name, &json!({"a": fits})).await);
        let refused = error(&rig.call(name, &json!({"a": -1})).await, "UPSTREAM_ERROR");
        assert!(refused["message"].as_str().unwrap().contains("maxReplyBytes"), "{refused}");
        assert_eq!(refused["retryable"], false);
        data(&rig.call(name, &json!({"a": fits})).await);
    }
    error(&rig.call("fill", &json!({"a": vec!["x"; 10_000]})).await, "VALIDATION_ERROR");
}

#[tokio::test]
async fn large_requests_and_answers_pass_each_other() {
    let big = "x".repeat(300_000);
    let pipeline: Vec<Value> = (0..20).map(|_| json!(["ECHO", "{a}"])).collect();
    let methods = [open("echo", &json!({"pipeline": pipeline, "maxReplyBytes": 16_000_000}))];
    let Some(rig) = Rig::start(&[], &methods).await else { return };
    let echoed = data(&rig.call("echo", &json!({"a": big})).await);
    assert!(echoed.as_array().unwrap().iter().all(|one| one.as_str() == Some(&big)) && echoed[19].is_string());
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_is_replaced() {
    let Some(rig) = Rig::start(&[], &[command("write", json!(["INCR", "n"]))]).await else { return };
    for round in 1..=3 {
        assert_eq!(data(&rig.call("write", &json!({})).await), round);
        assert_eq!(rig.server.ask("CLIENT KILL TYPE normal SKIPME yes").await, ":1\r\n", "the connection was kept");
    }
}

#[tokio::test]
async fn a_server_that_refuses_for_now_can_be_asked_again() {
    let Some(rig) = Rig::start(&[], &[command("write", json!(["SET", "k", "{a}"]))]).await else { return };
    rig.server.ask("CONFIG SET maxmemory 1").await;
    let refused = error(&rig.call("write", &json!({"a": "x"})).await, "UPSTREAM_ERROR");
    assert_eq!((&refused["details"]["redisCode"], &refused["retryable"]), (&json!("OOM"), &json!(true)), "{refused}");
    rig.server.ask("CONFIG SET maxmemory 0\r\nREPLICAOF 127.0.0.1 1").await;
    let refused = error(&rig.call("write", &json!({"a": "x"})).await, "UPSTREAM_ERROR");
    assert_eq!(
        (&refused["details"]["redisCode"], &refused["retryable"]),
        (&json!("READONLY"), &json!(true)),
        "{refused}"
    );
    rig.server.ask("REPLICAOF NO ONE").await;
    data(&rig.call("write", &json!({"a": "x"})).await);
}

#[tokio::test]
async fn calls_beyond_the_pool_wait_for_a_bounded_time() {
    let mut slow = command("slow", json!(["GET", "k"]));
    slow["timeoutMs"] = json!(60_000);
    let Some(rig) = Rig::start(&[], &[slow]).await else { return };
    rig.reconfigure(rig.server.address, &json!({"pool": {"maxConnections": 1, "acquireTimeoutMs": 20}})).await;
    data(&rig.call("slow", &json!({})).await);
    rig.server.process.pause();
    let none = json!({});
    let (one, other) = (rig.call("slow", &none), rig.call("slow", &none));
    tokio::pin!(one, other);
    // Either of them may have the connection.
    let (refused, held) = tokio::select! {
        refused = &mut one => (refused, other),
        refused = &mut other => (refused, one),
    };
    assert_eq!(error(&refused, "OVERLOADED")["retryable"], true);
    rig.server.process.resume();
    data(&held.await);
}

#[tokio::test]
async fn a_server_that_speaks_something_else_is_an_error_and_no_more() {
    let service = TestService::start().await;
    let mut methods = [command("read", json!(["GET", "k"])), command("write", json!(["SET", "k", "v"]))];
    for method in &mut methods {
        method["timeoutMs"] = json!(500);
        method["circuitBreaker"] = json!({"failureThreshold": 1000, "windowMs": 1000, "openMs": 1000});
    }
    let nowhere = ([127, 0, 0, 1], 1).into();
    connect(&service, &definition("none", &methods), &config(nowhere), None).await;
    let mut endless = b"$2000000000\r\n".to_vec();
    endless.resize(1 << 20, b'x');
    for answer in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![0; 64],
        b"220 mail.example ESMTP\r\n".to_vec(),
        b"*1\r\n".repeat(10_000),
        b"*1000000000\r\n".to_vec(),
        b"+OK".to_vec(),
        endless,
    ] {
        let address = proxy::babble(answer.clone()).await;
        for protocol in [3, 2] {
            configure(&service, address, &json!({"protocol": protocol})).await;
            for name in ["read", "write"] {
                let answered = service.execute("cache", name, &json!({})).await.json();
                let code = answered["error"]["code"].as_str().unwrap_or_default();
                assert!(["UPSTREAM_ERROR", "TIMEOUT"].contains(&code), "{answered}");
            }
        }
    }
    configure(&service, nowhere, &json!({})).await;
    let refused = error(&service.execute("cache", "write", &json!({})).await, "UPSTREAM_ERROR");
    assert_eq!((&refused["retryable"], &refused["details"]["outcome"]), (&json!(true), &Value::Null), "{refused}");
}
