//! What methods send, and what comes of the replies.

use serde_json::{Value, json};

use super::{Rig, command, connect, definition, open};
use crate::databases::{data, error, unique};
use crate::service::TestService;

#[tokio::test]
async fn a_param_is_never_more_than_one_argument() {
    let methods = [
        command("set", json!(["SET", "user:{a}", "{b}"])),
        command("get", json!(["get", "user:{a}"])),
        command("keys", json!(["SCAN", 0, "COUNT", 1000])),
    ];
    let Some(rig) = Rig::start(&[], &methods).await else { return };
    for hostile in
        ["1 EX 10", "x\r\nFLUSHALL\r\n", "*1\r\n$8\r\nFLUSHALL\r\n", "\"", "{b}", "{{b}}", "\u{0}", "é ☃", ""]
    {
        assert_eq!(data(&rig.call("set", &json!({"a": hostile, "b": hostile})).await), "OK");
        assert_eq!(data(&rig.call("get", &json!({"a": hostile})).await), hostile);
        assert_eq!(rig.server.ask("TTL user:1").await, ":-2\r\n");
    }
    assert_eq!(data(&rig.call("keys", &json!({})).await)[1].as_array().unwrap().len(), 9);
    for params in [
        json!({"a": "x"}),
        json!({"a": "x", "b": null}),
        json!({"a": "x", "b": ["y", "EX", "9"]}),
        json!({"a": "x", "b": {}}),
    ] {
        let refused = error(&rig.call("set", &params).await, "VALIDATION_ERROR");
        assert_eq!(refused["details"]["errors"][0]["pointer"], "/params/b", "{refused}");
    }
}

#[tokio::test]
async fn params_fill_arguments_in_the_forms_that_are_asked_for() {
    let methods = [
        command("hset", json!(["HSET", "{{tag}}:h", {"spread": "a"}])),
        command("hgetall", json!(["HGETALL", "{{tag}}:h"])),
        command("rpush", json!(["RPUSH", "l", {"spread": "a"}])),
        command("lrange", json!(["LRANGE", "l", 0, -1])),
        command(
            "set",
            json!(["SET", "k", {"json": "a"}, {"when": "b", "arguments": ["EX", "{b}"]}, {"when": "c", "arguments": ["GET"]}]),
        ),
        command("bytes", json!(["SET", "k", {"base64": "a"}])),
        open("get", &json!({"command": ["GET", "k"], "resultEncoding": "json"})),
        open("getBytes", &json!({"command": ["GET", "k"], "resultEncoding": "base64"})),
        command("getText", json!(["GET", "k"])),
    ];
    let Some(rig) = Rig::start(&[], &methods).await else { return };
    let request = crate::service::json_request("POST", "/execute/cache/hset");
    let body = r#"{"params": {"a": {"n": 12345678901234567890.10, "s": "x y", "t": true}}}"#;
    assert_eq!(data(&rig.service.send(request, body).await), 3);
    assert_eq!(
        data(&rig.call("hgetall", &json!({})).await),
        json!({"n": "12345678901234567890.10", "s": "x y", "t": "true"})
    );
    assert_eq!(rig.server.ask("EXISTS {tag}:h").await, ":1\r\n");
    assert_eq!(data(&rig.call("rpush", &json!({"a": ["x y", 7, false, ""]})).await), 4);
    assert_eq!(data(&rig.call("lrange", &json!({})).await), json!(["x y", "7", "false", ""]));
    for params in
        [json!({"a": []}), json!({"a": {}}), json!({"a": "x"}), json!({"a": [null]}), json!({"a": [["x"]]}), json!({})]
    {
        error(&rig.call("rpush", &params).await, "VALIDATION_ERROR");
    }

    let document = json!({"a": {"n": [1, null]}, "b": 100, "c": false});
    assert_eq!(data(&rig.call("set", &document).await), "OK");
    assert_eq!(rig.server.ask("TTL k").await, ":100\r\n");
    assert_eq!(data(&rig.call("get", &json!({})).await), json!({"n": [1, null]}));
    assert_eq!(data(&rig.call("set", &json!({"a": 1, "c": true})).await), r#"{"n":[1,null]}"#);
    assert_eq!(rig.server.ask("TTL k").await, ":-1\r\n");

    assert_eq!(data(&rig.call("bytes", &json!({"a": "/wABAg=="})).await), "OK");
    assert_eq!(data(&rig.call("getBytes", &json!({})).await), "/wABAg==");
    for name in ["getText", "get"] {
        let refused = error(&rig.call(name, &json!({})).await, "UPSTREAM_ERROR");
        assert!(refused["message"].as_str().unwrap().contains("resultEncoding"), "{refused}");
    }
    error(&rig.call("bytes", &json!({"a": "no base64"})).await, "VALIDATION_ERROR");
}

#[tokio::test]
async fn replies_come_back_without_loss() {
    let methods = [
        command("count", json!(["INCRBY", "n", "{a}"])),
        command("score", json!(["ZSCORE", "z", "m"])),
        command("with", json!(["ZRANGE", "z", 0, -1, "WITHSCORES"])),
        command("hash", json!(["HGETALL", "h"])),
        command("set", json!(["SMEMBERS", "s"])),
        command("read", json!(["XRANGE", "x", "-", "+"])),
        command("nothing", json!(["MGET", "none", "n"])),
    ];
    let Some(rig) = Rig::start(&[], &methods).await else { return };
    rig.server.ask("ZADD z 1.5 m inf top\r\nHSET h f v\r\nSADD s one\r\nXADD x 1-1 f v").await;
    assert_eq!(data(&rig.call("count", &json!({"a": 5})).await), 5);
    assert_eq!(data(&rig.call("count", &json!({"a": "9007199254740990"})).await), "9007199254740995");
    assert_eq!(data(&rig.call("score", &json!({})).await), 1.5);
    assert_eq!(data(&rig.call("with", &json!({})).await), json!([["m", 1.5], ["top", "Infinity"]]));
    assert_eq!(data(&rig.call("hash", &json!({})).await), json!({"f": "v"}));
    assert_eq!(data(&rig.call("set", &json!({})).await), json!(["one"]));
    assert_eq!(data(&rig.call("read", &json!({})).await), json!([["1-1", ["f", "v"]]]));
    assert_eq!(data(&rig.call("nothing", &json!({})).await), json!([null, "9007199254740995"]));
    // The older protocol has texts and lists alone; other databases hold other keys.
    rig.reconfigure(rig.server.address, &json!({"protocol": 2})).await;
    assert_eq!(data(&rig.call("score", &json!({})).await), "1.5");
    assert_eq!(data(&rig.call("hash", &json!({})).await), json!(["f", "v"]));
    rig.reconfigure(rig.server.address, &json!({"database": 3})).await;
    assert_eq!(data(&rig.call("count", &json!({"a": 1})).await), 1);
    assert_eq!(rig.server.ask("SELECT 3\r\nGET n").await, "+OK\r\n$1\r\n1\r\n");
}

#[tokio::test]
async fn commands_go_together_and_transactions_are_whole() {
    let two = |first: Value| json!({"pipeline": [["SET", "p", "{a}"], first, ["GET", "p"]]});
    let transaction = |mut operation: Value| {
        operation["transaction"] = json!(true);
        operation
    };
    let methods = [
        open("pipeline", &two(json!(["INCR", "n"]))),
        open("transaction", &transaction(two(json!(["INCR", "n"])))),
        open("wrongType", &two(json!(["LPUSH", "n", "x"]))),
        open("wrongTypeWithin", &transaction(two(json!(["LPUSH", "n", "x"])))),
        open("discarded", &transaction(two(json!(["GET"])))),
        open("mapped", &json!({"command": ["LPUSH", "n", "x"], "errorMapping": {"WRONGTYPE": "CONFLICT"}})),
    ];
    let Some(rig) = Rig::start(&[], &methods).await else { return };
    assert_eq!(data(&rig.call("pipeline", &json!({"a": "x"})).await), json!(["OK", 1, "x"]));
    assert_eq!(data(&rig.call("transaction", &json!({"a": "y"})).await), json!(["OK", 2, "y"]));
    for name in ["wrongType", "wrongTypeWithin"] {
        let refused = error(&rig.call(name, &json!({"a": name})).await, "UPSTREAM_ERROR");
        assert_eq!(
            (&refused["details"]["redisCode"], &refused["details"]["command"]),
            (&json!("WRONGTYPE"), &json!(1))
        );
        assert_eq!(refused["retryable"], false);
        // What stood before it is done.
        assert!(rig.server.ask("GET p").await.contains(name));
    }
    let refused = error(&rig.call("discarded", &json!({"a": "never"})).await, "UPSTREAM_ERROR");
    assert_eq!(refused["details"]["command"], 1, "{refused}");
    assert!(refused["details"]["redisMessage"].as_str().unwrap().contains("wrong number of arguments"), "{refused}");
    assert!(!rig.server.ask("GET p").await.contains("never"));
    error(&rig.call("mapped", &json!({})).await, "CONFLICT");
}

#[tokio::test]
async fn commands_that_do_harm_are_refused_or_have_to_be_allowed() {
    let service = TestService::start().await;
    for (operation, pointer) in [
        (json!({"command": ["SUBSCRIBE", "c"]}), "/command/0"),
        (json!({"command": ["blpop", "l", 0]}), "/command/0"),
        (json!({"command": ["CLIENT", "KILL", "x"]}), "/command/0"),
        (json!({"command": ["SELECT", 1]}), "/command/0"),
        (json!({"command": ["FLUSHALL"]}), "/command/0"),
        (json!({"command": ["EVAL", "return 1", 0]}), "/command/0"),
        (json!({"command": ["NOT.KNOWN"]}), "/command/0"),
        (json!({"pipeline": [["GET", "x"], ["MULTI"]], "restricted": true}), "/pipeline/1/0"),
        (json!({"command": ["XREAD", "block", 0, "STREAMS", "x", "$"]}), "/command/0"),
        (json!({"command": ["GET", "{unknown}"]}), "/command"),
        (json!({"command": ["GET", {"spread": "unknown"}]}), "/command"),
        (json!({"command": ["GET", "{"]}), "/command/1"),
        (json!({"command": ["{a}", "x"]}), "/command/0"),
        (json!({"command": ["GET", "x"], "transaction": true}), "/transaction"),
        (json!({"command": ["GET", "x"], "pipeline": [["GET", "x"]]}), ""),
        (json!({"command": ["GET", "x"], "errorMapping": {"WRONGTYPE": "NO_SUCH"}}), "/errorMapping/WRONGTYPE"),
        (json!({"pipeline": []}), "/pipeline"),
    ] {
        let definition = definition("none", &[open("m", &operation)]);
        let refused = service.post("/api/v1/integration-definitions?publish=true", &definition).await;
        assert_eq!(refused.status, 400, "{operation}: {}", refused.json());
        let pointers = crate::client::pointers(&refused);
        assert!(pointers.contains(&format!("/methods/0/operation{pointer}")), "{operation}: {pointers:?}");
    }
    let mut increment = command("m", json!(["INCR", "n"]));
    increment["idempotent"] = json!(true);
    let refused = service.post("/api/v1/integration-definitions?publish=true", &definition("none", &[increment])).await;
    assert_eq!(refused.status, 400, "{}", refused.json());
    for (config, pointer) in [
        (json!({}), ""),
        (json!({"host": "h", "port": 0}), "/port"),
        (json!({"host": "h", "database": -1}), "/database"),
        (json!({"host": "h", "protocol": 4}), "/protocol"),
        (json!({"host": "h", "tls": {"caCertificate": "x"}}), "/tls/caCertificate"),
        (json!({"host": "h", "allowCommands": ["FLUSH ALL"]}), "/allowCommands/0"),
    ] {
        let id = unique("bad");
        let mut definition = definition("none", &[command("m", json!(["PING"]))]);
        definition["id"] = json!(id);
        assert_eq!(service.post("/api/v1/integration-definitions?publish=true", &definition).await.status, 201);
        let instance = json!({"id": id, "integrationDefinitionId": id, "name": "x", "config": config});
        let created = service.post("/api/v1/integration-instances", &instance).await.json();
        assert_eq!(created["status"], "PENDING_CONFIGURATION", "{pointer} {created}");
        assert!(created["error"].to_string().contains(pointer), "{pointer} {created}");
    }

    let restricted = |name: &str, operation: Value| {
        let mut method = open(name, &operation);
        method["operation"]["restricted"] = json!(true);
        method
    };
    let methods = [
        restricted("flush", json!({"command": ["FLUSHDB"]})),
        restricted("script", json!({"command": ["EVAL", "return {{KEYS[1], ARGV[1]}}", 1, "{a}", "{b}"]})),
        command("read", json!(["XREAD", "{a}", "{b}", "STREAMS", "x", "$"])),
    ];
    let Some(rig) = Rig::start(&[], &methods).await else { return };
    let refused = rig.call("flush", &json!({})).await;
    assert!(error(&refused, "FORBIDDEN")["message"].as_str().unwrap().contains("allowCommands"));
    rig.reconfigure(rig.server.address, &json!({"allowCommands": ["flushdb", "EVAL"]})).await;
    assert_eq!(data(&rig.call("flush", &json!({})).await), "OK");
    assert_eq!(data(&rig.call("script", &json!({"a": "k", "b": "v"})).await), json!(["k", "v"]));
    error(&rig.call("read", &json!({"a": "Block", "b": 0})).await, "VALIDATION_ERROR");
}

#[tokio::test]
async fn a_dry_run_shows_the_commands_and_no_secret() {
    let service = TestService::start().await;
    let methods = [open(
        "both",
        &json!({"pipeline": [["SET", "k:{a}", {"base64": "b"}], ["GET", "k:{a}"]], "transaction": true}),
    )];
    let credential = super::basic("u", "a-very-secret-password");
    connect(&service, &definition("basic", &methods), &json!({"host": "redis.example"}), Some(&credential)).await;
    let body = json!({"params": {"a": "a-very-secret-password", "b": "/w=="}});
    let shown = data(&service.post("/execute/cache/both?dryRun=true", &body).await);
    assert_eq!(shown["commands"][0], json!(["SET", "k:[redacted]", {"base64": "/w=="}]));
    assert_eq!(
        (&shown["transaction"], &shown["host"], &shown["port"]),
        (&json!(true), &json!("redis.example"), &json!(6379))
    );
}

#[tokio::test]
async fn the_example_works() {
    let Some(server) = super::Server::start(&["--requirepass", "right-secret"]) else { return };
    let service = TestService::start().await;
    let request = http::Request::post("/api/v1/integration-definitions?publish=true")
        .header("host", "test")
        .header("content-type", "application/yaml");
    let created = service.send(request, include_str!("../../../../../examples/redis.yaml")).await;
    assert_eq!(created.status, 201, "{}", created.json());
    let instance = json!({
        "id": "cache", "integrationDefinitionId": "shop-redis", "name": "cache", "config": super::config(server.address),
    });
    assert_eq!(service.post("/api/v1/integration-instances", &instance).await.status, 201);
    super::store_credential(&service, &super::basic("default", "right-secret")).await;
    let ann = json!({"user": "ann"});
    assert_eq!(data(&service.execute("cache", "getSession", &ann).await), Value::Null);
    let session = json!({"user": "ann", "session": {"cart": [7]}, "ttl": 60});
    assert_eq!(data(&service.execute("cache", "saveSession", &session).await), "OK");
    assert_eq!(data(&service.execute("cache", "getSession", &ann).await), json!({"cart": [7]}));
    let visits = data(&service.execute("cache", "countVisit", &ann).await);
    assert_eq!((&visits["visits"], visits["seconds"].is_number()), (&json!(1), true), "{visits}");
    assert_eq!(data(&service.execute("cache", "enqueueJobs", &json!({"jobs": ["a", "b c"]})).await), 2);
}

#[tokio::test]
async fn the_adapter_describes_itself() {
    let service = TestService::start().await;
    let adapters = service.get("/api/v1/adapters").await.json();
    let adapter = adapters["items"].as_array().unwrap().iter().find(|adapter| adapter["type"] == "redis").unwrap();
    assert_eq!(adapter["authTypes"], json!(["basic", "api_key", "none"]));
    assert!(adapter["operationSchema"]["properties"]["pipeline"].is_object(), "{adapter}");
    assert!(adapter["configSchema"]["properties"]["allowCommands"].is_object(), "{adapter}");
}
