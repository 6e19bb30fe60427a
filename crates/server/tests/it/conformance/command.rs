//! `adapters check`, through the binary.

use std::process::Command;

use serde_json::json;

use crate::service::{Upstream, json_response};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/conformance/petshop.yaml");

/// Runs the command in an empty folder.
async fn adapters(arguments: &[&str], shop: &Upstream) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_integration-service"));
    command.env_clear().current_dir(folder.path()).arg("adapters").args(arguments);
    command.env("INTEGRATION_SERVICE_EGRESS_ALLOW", "127.0.0.1").env("PETSHOP_URL", shop.url());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// The shop of the example, whose dog has this name.
async fn shop(dog: &'static str) -> Upstream {
    let shop = Upstream::start().await;
    shop.always(move |request| match request.path_and_query.as_str() {
        "/pets/7.json" => json_response(200, &json!({"id": 7, "name": dog, "tag": "dog"})),
        "/pets/8.json" => json_response(200, &json!({"id": 8, "name": "Tom", "tag": "cat"})),
        _ => json_response(404, &json!({})),
    });
    shop
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_passes_and_a_system_that_answers_otherwise_fails() {
    let right = shop("Rex").await;
    let (code, out, error) = adapters(&["check", EXAMPLE], &right).await;
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("CHECK "), "{out}");
    assert!(out.contains("\nlost answer         passed\n"), "{out}");
    assert!(out.contains("\nlost write          skipped  the sample has no write\n"), "{out}");
    assert!(out.contains("\nhttp: ") && out.contains(" passed, 0 failed, "), "{out}");

    let wrong = shop("Max").await;
    let (code, out, error) = adapters(&["check", EXAMPLE, "--explain"], &wrong).await;
    assert_eq!(code, 1, "{out}");
    let finding = r#"getPet gives {"id":7,"label":"Max the dog"}, expected {"label":"Rex the dog"}"#;
    assert!(out.contains("Calls give the expected data") && out.contains(finding), "{out}");
    assert!(error.ends_with(" checks failed\n"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_used_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let shop = shop("Rex").await;
    for (text, told) in [
        ("definition: nowhere.yaml\n", "sample.yaml:1:1: /definition: "),
        ("config: {}\ncalls: 7\n", "sample.yaml:2:1: /calls: "),
        (
            "credential: {type: basic, data: {password: \"${NOT_SET}\"}}\n",
            "the environment variable NOT_SET is not set",
        ),
    ] {
        let file = folder.path().join("sample.yaml");
        std::fs::write(&file, text).unwrap();
        let (code, out, error) = adapters(&["check", file.to_str().unwrap()], &shop).await;
        assert_eq!((code, out.as_str()), (1, ""), "{error}");
        assert!(error.contains(told), "{error}");
    }
    let definition = "id: a\nname: A\nversion: 1.0.0\ntype: carrier-pigeon\nauthType: none\nmethods: []\n";
    std::fs::write(folder.path().join("pigeons.yaml"), definition).unwrap();
    let file = folder.path().join("sample.yaml");
    std::fs::write(&file, "definition: pigeons.yaml\n").unwrap();
    let (code, _, error) = adapters(&["check", file.to_str().unwrap()], &shop).await;
    assert_eq!(code, 1);
    assert!(error.contains("there is no adapter \"carrier-pigeon\"; known: email, graphql, http, "), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_adapters_are_listed() {
    let (code, out, _) = adapters(&["list"], &shop("Rex").await).await;
    assert_eq!(code, 0);
    assert!(out.starts_with("TYPE        VERSION  WHAT IT SPEAKS\nemail       1.0.0    Mail over SMTP"), "{out}");
}
