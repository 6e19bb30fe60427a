//! Several changes of one instance at the same moment.

use std::sync::Arc;

use serde_json::json;

use crate::client::assert_problem;
use crate::instances::{create, patch, path, with_if_match, with_pets};

#[tokio::test]
async fn of_concurrent_changes_from_one_version_one_wins() {
    let service = Arc::new(with_pets("none").await);
    create(&service, "mine").await;
    let changes = (0..12).map(|n| {
        let service = service.clone();
        tokio::spawn(async move {
            with_if_match(&service, "PATCH", &path("mine"), "\"1\"", &json!({"labels": {format!("l{n}"): "x"}}))
                .await
                .status
        })
    });
    let mut statuses = Vec::new();
    for change in changes.collect::<Vec<_>>() {
        statuses.push(change.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..]), (200, &[412; 11][..]));
    assert_eq!(service.get(&path("mine")).await.json()["labels"].as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn concurrent_changes_that_name_no_version_are_all_made() {
    let service = Arc::new(with_pets("api_key").await);
    create(&service, "mine").await;
    let tasks: Vec<_> = (0..24)
        .map(|n| {
            let service = service.clone();
            tokio::spawn(async move {
                match n % 4 {
                    0 => {
                        let credential = json!({"type": "api_key", "data": {"key": "k"}});
                        service.post(&format!("{}/credentials", path("mine")), &credential).await
                    }
                    1 => service.post(&format!("{}/upgrade", path("mine")), &json!({})).await,
                    _ => patch(&service, "mine", &json!({"labels": {format!("l{n}"): "x"}})).await,
                }
            })
        })
        .collect();
    for task in tasks {
        let answer = task.await.unwrap();
        assert!(answer.status < 300, "{}", answer.json());
    }
    let instance = service.get(&path("mine")).await.json();
    assert_eq!(instance["labels"].as_object().unwrap().len(), 12);
    assert_eq!((&instance["status"], &instance["version"]), (&json!("CONNECTED"), &json!(25)));
}

#[tokio::test]
async fn a_deletion_amid_changes_leaves_nobody_with_a_fault() {
    let service = Arc::new(with_pets("api_key").await);
    for round in 0..3 {
        create(&service, "mine").await;
        let tasks: Vec<_> = (0..10)
            .map(|n| {
                let service = service.clone();
                tokio::spawn(async move {
                    let credentials = format!("{}/credentials", path("mine"));
                    match n {
                        5 => service.delete(&path("mine")).await,
                        0 | 8 => service.post(&credentials, &json!({"type": "api_key", "data": {"key": "k"}})).await,
                        1 | 7 => service.delete(&credentials).await,
                        2 => service.post("/integrations/mine/test", &json!({})).await,
                        3 => service.post(&format!("{}/disconnect", path("mine")), &json!({})).await,
                        4 => service.execute("mine", "call", &json!({})).await,
                        _ => patch(&service, "mine", &json!({"name": format!("{n}")})).await,
                    }
                })
            })
            .collect();
        for task in tasks {
            let answer = task.await.unwrap();
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(
                answer.status < 300 || matches!(answer.status, 404 | 409),
                "round {round}: {} {text}",
                answer.status
            );
        }
        assert_problem(&service.get(&path("mine")).await, 404, "INSTANCE_NOT_FOUND");
    }
}
