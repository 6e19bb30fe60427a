//! Objects in a folder of this machine: what may be reached, and what may not.

use std::os::unix::fs::symlink;

use serde_json::json;
use tempfile::TempDir;

use super::{data, failure, instance, large_content, life_of_objects, pages, tested};
use crate::service::TestService;

/// A service with an instance of the folder `files` in the operator's.
pub(super) async fn service() -> (TestService, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let settings = format!("adapters:\n  storage:\n    folder: {}\n", folder.path().display());
    let service = TestService::start_configured(&[("integration_service.yaml", &settings)], &[]).await;
    std::fs::create_dir(folder.path().join("files")).unwrap();
    instance(&service, "none", json!({"provider": "folder", "bucket": "files", "prefix": "app/"}), None).await;
    (service, folder)
}

#[tokio::test]
async fn a_folder_keeps_objects() {
    let (service, folder) = service().await;
    life_of_objects(&service).await;
    pages(&service).await;
    large_content(&service).await;
    assert_eq!(std::fs::read(folder.path().join("files/app/list/2")).unwrap(), b"2");
    let put = data(&service, "putNew", json!({"key": "new", "content": {"n": 1}})).await;
    let there = failure(&service, "putNew", json!({"key": "new", "content": 2})).await;
    assert_eq!(there["details"]["upstreamStatus"], 412, "{there}");
    data(&service, "putOver", json!({"key": "new", "content": "x", "etag": put["etag"]})).await;
    let lost = failure(&service, "putOver", json!({"key": "new", "content": "y", "etag": put["etag"]})).await;
    assert_eq!(lost["details"]["upstreamStatus"], 412, "{lost}");
    assert_eq!(data(&service, "get", json!({"key": "new"})).await["content"], "x");
    assert_eq!(failure(&service, "get", json!({"key": "new", "first": 9})).await["details"]["upstreamStatus"], 416);
    for (method, params) in [
        ("linkToGet", json!({"key": "new"})),
        ("put", json!({"key": "new", "content": "x", "type": null, "author": "Ann"})),
        ("put", json!({"key": ".upload-x", "content": "x", "type": null, "author": null})),
    ] {
        assert_eq!(failure(&service, method, params).await["code"], "VALIDATION_ERROR", "{method}");
    }
}

#[tokio::test]
async fn links_lead_nowhere_outside() {
    let (service, folder) = service().await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let app = folder.path().join("files/app");
    std::fs::create_dir_all(&app).unwrap();
    symlink(outside.path(), app.join("dir")).unwrap();
    symlink(outside.path().join("secret"), app.join("file")).unwrap();
    symlink("../../../outside", app.join("relative")).unwrap();
    for key in ["dir/secret", "file", "relative"] {
        for method in ["get", "head"] {
            let error = failure(&service, method, json!({ "key": key })).await;
            assert_eq!(error["code"], "UPSTREAM_ERROR", "{error}");
        }
    }
    let written = json!({"key": "dir/new", "content": "x", "type": null, "author": null});
    failure(&service, "put", written).await;
    failure(&service, "copy", json!({"from": "dir/secret", "to": "copied"})).await;
    failure(&service, "delete", json!({"key": "dir/secret"})).await;
    // Written over, the link itself is replaced.
    data(&service, "put", json!({"key": "file", "content": "x", "type": null, "author": null})).await;
    assert_eq!(std::fs::read_to_string(outside.path().join("secret")).unwrap(), "secret");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    let listed = data(&service, "listFolder", json!({"prefix": ""})).await;
    assert_eq!(super::told(&listed), (vec!["file"], vec![]));

    // The instance's own folder must not be a link either.
    symlink(outside.path(), folder.path().join("linked")).unwrap();
    let config = json!({"config": {"provider": "folder", "bucket": "linked"}});
    let changed = service.with_body("PATCH", "/api/v1/integration-instances/files", &config).await;
    assert_eq!(changed.status, 200, "{}", changed.json());
    let error = failure(&service, "get", json!({"key": "secret"})).await;
    assert_eq!(error["code"], "INSTANCE_NOT_READY", "{error}");
}

#[tokio::test]
async fn without_a_folder_of_the_operator_nothing_is_kept() {
    let service = TestService::start().await;
    instance(&service, "none", json!({"provider": "folder", "bucket": "files"}), None).await;
    let error = failure(&service, "getBytes", json!({"key": "x"})).await;
    assert_eq!(error["code"], "INSTANCE_NOT_READY", "{error}");
    assert!(error["message"].as_str().unwrap().contains("adapters.storage.folder"), "{error}");
    let (healthy, said) = tested(&service).await;
    assert!(!healthy && said.contains("adapters.storage.folder"), "{said}");
}
