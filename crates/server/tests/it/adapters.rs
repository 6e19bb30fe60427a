//! What the adapters say of themselves and of their instances, and definitions that ask for a
//! version of theirs.

use serde_json::{Value, json};

use crate::access::key;
use crate::client::{assert_problem, pointers};
use crate::service::{TestService, definition, json_response};

const ADAPTERS: &str = "/api/v1/adapters";

async fn http_adapter(service: &TestService) -> Value {
    service.items(ADAPTERS).await.into_iter().find(|adapter| adapter["type"] == "http").unwrap()
}

fn failing_soon() -> Value {
    let breaker = json!({"failureThreshold": 1, "windowMs": 60000, "openMs": 60000});
    definition("pets", &json!({"circuitBreaker": breaker}))
}

#[tokio::test]
async fn an_adapter_tells_how_its_instances_fare() {
    let service = TestService::start().await;
    let http = http_adapter(&service).await;
    assert_eq!(http["compatibleWith"], format!(">=1.0.0, <={}", http["version"].as_str().unwrap()));
    let unused = json!({"status": "healthy", "instances": {}, "instancesWithOpenCircuitBreaker": 0});
    assert_eq!(http["health"], unused);

    service.instance_of(&failing_soon(), "well").await;
    for (tenant, id) in [("default", "failing"), ("acme", "theirs")] {
        let config = json!({"baseUrl": service.upstream.url()});
        let instance = json!({"id": id, "integrationDefinitionId": "pets", "name": id, "config": config});
        let created = service.send_as(tenant, "POST", "/api/v1/integration-instances", &instance).await;
        assert_eq!(created.status, 201, "{}", created.json());
    }
    let unfit = json!({"id": "unfit", "integrationDefinitionId": "pets", "name": "unfit"});
    assert_eq!(service.post("/api/v1/integration-instances", &unfit).await.status, 201);
    assert_eq!(service.execute("well", "call", &json!({})).await.status, 200);
    service.upstream.then(json_response(500, &json!({})));
    assert_eq!(service.execute("failing", "call", &json!({})).await.status, 502);
    let health = http_adapter(&service).await["health"].clone();
    let instances = json!({"CONNECTED": 3, "PENDING_CONFIGURATION": 1});
    assert_eq!(health, json!({"status": "degraded", "instances": instances, "instancesWithOpenCircuitBreaker": 1}));

    // A tenant is told of its own.
    let of_acme = service.send_as("acme", "GET", ADAPTERS, &Value::Null).await.json();
    let health = of_acme["items"].as_array().unwrap().iter().find(|adapter| adapter["type"] == "http").unwrap();
    let unaffected = json!({"status": "healthy", "instances": {"CONNECTED": 1}, "instancesWithOpenCircuitBreaker": 0});
    assert_eq!(health["health"], unaffected);

    for id in ["well", "theirs", "unfit"] {
        assert_eq!(service.delete(&format!("/api/v1/integration-instances/{id}")).await.status, 204);
    }
    assert_eq!(http_adapter(&service).await["health"]["status"], "unhealthy");
    let reset = service.post("/integrations/failing/circuit-breaker/reset", &json!({})).await;
    assert_eq!(reset.status, 200);
    assert_eq!(http_adapter(&service).await["health"]["status"], "healthy");
}

#[tokio::test]
async fn a_definition_that_asks_for_another_version_is_not_published() {
    let service = TestService::start().await;
    let mut pets = definition("pets", &json!({}));
    pets["adapterVersion"] = json!(">=7.0, <8");
    let refused = service.post("/api/v1/integration-definitions?publish=true", &pets).await;
    assert_problem(&refused, 400, "VALIDATION_ERROR");
    assert_eq!(pointers(&refused), ["/adapterVersion"]);
    let message = refused.json()["errors"][0]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("the http adapter is 1.") && message.contains(">=7.0, <8"), "{message}");
    let checked = service.post("/api/v1/integration-definitions/validate", &pets).await.json();
    assert_eq!((&checked["valid"], &checked["problems"][0]["pointer"]), (&json!(false), &json!("/adapterVersion")));

    pets["adapterVersion"] = json!("about one");
    let unreadable = service.post("/api/v1/integration-definitions", &pets).await;
    assert_problem(&unreadable, 400, "VALIDATION_ERROR");
    assert_eq!(pointers(&unreadable), ["/adapterVersion"]);
    pets["adapterVersion"] = Value::Null;
    let any = service.post("/api/v1/integration-definitions/validate", &pets).await.json();
    assert_eq!(any["valid"], true, "{any}");
    pets["adapterVersion"] = json!(">=1.0, <2");
    let published = service.post("/api/v1/integration-definitions?publish=true", &pets).await;
    assert_eq!((published.status, &published.json()["adapterVersion"]), (201, &json!(">=1.0, <2")));
}

/// As where the database comes from a service with other adapters.
async fn change_definitions(service: &TestService, statement: &'static str) {
    use sqlx::Connection as _;
    let url = format!("sqlite://{}", service.folder.path().join("data/integration.db").display());
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn definitions_that_no_adapter_runs_are_told_of_at_start() {
    let service = TestService::start().await;
    for (id, range) in [("newer", ">=1.0, <2"), ("fine", "^1.0")] {
        let mut pets = definition(id, &json!({}));
        pets["adapterVersion"] = json!(range);
        service.instance_of(&pets, id).await;
    }
    service.instance_of(&definition("elsewhere", &json!({})), "elsewhere").await;
    let checks = service.get("/status/health").await.json();
    assert!(!checks.to_string().contains("adapters"), "{checks}");
    change_definitions(
        &service,
        r#"update definitions set spec = replace(spec, '">=1.0, <2"', '">=7.0, <8"') where id = 'newer';
           update definitions set adapter_type = 'carrier-pigeon', spec = replace(spec, '"type":"http"', '"type":"carrier-pigeon"')
           where id = 'elsewhere'"#,
    )
    .await;

    let service = service.restart(&[], &[]).await.unwrap();
    let ready = service.get("/health/ready").await;
    assert_eq!(ready.status, 200, "the other definitions execute");
    let degraded = json!({"name": "adapters", "status": "degraded"});
    assert!(ready.json()["checks"].as_array().unwrap().contains(&degraded), "{}", ready.json());
    let told = service.get(ADAPTERS).await.json()["incompatible"].clone();
    let ids: Vec<_> = told.as_array().unwrap().iter().map(|one| one["definitionId"].clone()).collect();
    assert_eq!(ids, ["elsewhere", "newer"], "{told}");
    assert!(told[0]["message"].as_str().unwrap().starts_with("there is no adapter \"carrier-pigeon\""), "{told}");
    assert_eq!(told[1]["adapterVersion"], ">=7.0, <8");
    let metrics = service.get("/status/metrics").await;
    assert!(String::from_utf8_lossy(&metrics.body).contains("# TYPE integration_incompatible_definitions gauge"));
    assert_eq!(service.execute("fine", "call", &json!({})).await.status, 200);
    for id in ["newer", "elsewhere"] {
        let refused = service.execute(id, "call", &json!({})).await;
        assert!(refused.status >= 400, "{id}: {}", refused.json());
    }
    assert_eq!(service.upstream.received().len(), 1);

    // Archived, they are no longer in the way.
    for id in ["newer", "elsewhere"] {
        for step in ["deprecate", "archive"] {
            let path = format!("/api/v1/integration-definitions/{id}/versions/1.0.0/{step}");
            assert_eq!(service.post(&path, &json!({})).await.status, 200, "{id} {step}");
        }
    }
    assert_eq!(service.get(ADAPTERS).await.json()["incompatible"], json!([]));
    assert!(!service.get("/health/ready").await.json().to_string().contains("adapters"));
}

#[tokio::test]
async fn who_reads_definitions_reads_adapters() {
    let service = TestService::start().await;
    let monitor = key(&service, &json!({"roles": ["monitor"]})).await;
    let request = http::Request::get(ADAPTERS).header("host", "test").header("x-api-key", monitor);
    let refused = crate::client::send(service.address(), request, "").await;
    assert_problem(&refused, 403, "FORBIDDEN");
}
