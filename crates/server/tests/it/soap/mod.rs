//! SOAP through the front door, against a real server: a description imported, an instance
//! connected, methods executed, and all that can go wrong.

use std::process::Command;

use serde_json::{Value, json};

use crate::oidc::program;
use crate::process::Program;
use crate::service::TestService;

/// A running SOAP server; it ends with this value.
pub(crate) struct Server {
    pub(crate) url: String,
    _process: Program,
}

impl Server {
    /// Starts one; nothing where it is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&Value::Null)
    }

    /// Starts one that signs answers.
    fn start_with(signers: &Value) -> Option<Self> {
        let modules = program("INTEGRATION_TEST_NODE_MODULES")?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/soap/server.cjs");
        let mut command = Command::new("node");
        command.arg(script).env("SETTINGS", json!({"modules": modules, "signers": signers}).to_string());
        let (process, said) = Program::start(&mut command, |line| serde_json::from_str::<Value>(&line).ok());
        Some(Self { url: said["url"].as_str().unwrap().to_owned(), _process: process })
    }

    /// The definition that the server's description becomes, imported from where it is.
    pub(crate) async fn definition(&self, service: &TestService, auth_type: &str) -> Value {
        let source = json!({"url": format!("{}/open?wsdl", self.url)});
        let imported = service.post("/api/v1/imports/wsdl?dryRun=true", &source).await;
        assert_eq!(imported.status, 200, "{}", imported.json());
        let mut document = imported.json()["definition"].clone();
        document["authType"] = auth_type.into();
        document
    }

    /// A service with an instance `calc` of the server at this path.
    async fn connected(&self, path: &str, auth_type: &str, config: Value) -> TestService {
        let service = TestService::start().await;
        publish(&service, &self.definition(&service, auth_type).await).await;
        self.instance(&service, path, config).await;
        service
    }

    async fn instance(&self, service: &TestService, path: &str, more: Value) {
        let mut config = json!({"baseUrl": format!("{}{path}", self.url)});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let instance = json!({"id": "calc", "integrationDefinitionId": "calculator", "name": "Calc", "config": config});
        let created = service.post("/api/v1/integration-instances", &instance).await;
        assert_eq!(created.status, 201, "{}", created.json());
    }
}

async fn publish(service: &TestService, document: &Value) {
    let created = service.post("/api/v1/integration-definitions?publish=true", document).await;
    assert_eq!(created.status, 201, "{}", created.json());
}

async fn store(service: &TestService, credential: &Value) -> u16 {
    service.post("/api/v1/integration-instances/calc/credentials", credential).await.status
}

fn basic(password: &str) -> Value {
    json!({"type": "basic", "data": {"username": "svc", "password": password}})
}

#[tokio::test]
async fn an_imported_description_executes_in_both_versions() {
    let Some(server) = Server::start() else { return };
    for (path, version) in [("/open", "1.1"), ("/open12", "1.2")] {
        let service = server.connected(path, "none", json!({"soapVersion": version})).await;
        let executed = service.execute("calc", "Add", &json!({"a": 1, "b": [2, 3]})).await;
        assert_eq!((executed.status, executed.json()["data"].clone()), (200, json!({"sum": 6, "step": [2, 3]})));
        let one = service.execute("calc", "Add", &json!({"a": 1, "b": [2]})).await.json();
        assert_eq!(one["data"], json!({"sum": 3, "step": [2]}), "{one}");

        let refused = service.execute("calc", "Add", &json!({"a": "x", "c": 1})).await;
        assert_eq!((refused.status, refused.json()["error"]["code"].clone()), (400, json!("VALIDATION_ERROR")));

        let failed = service.execute("calc", "Divide", &json!({"a": 1.5, "b": 0})).await;
        let error = failed.json()["error"].clone();
        assert_eq!(
            (failed.status, &error["code"], &error["retryable"]),
            (502, &json!("UPSTREAM_ERROR"), &json!(false))
        );
        assert_eq!(error["details"]["fault"]["reason"], "division by zero", "{error}");
        let tested = service.post("/api/v1/integration-instances/calc/test", &json!({})).await;
        assert_eq!(tested.status, 200, "{}", tested.json());
    }
}

#[tokio::test]
async fn username_tokens_are_taken_as_text_and_as_digest_and_refusals_are_told() {
    let Some(server) = Server::start() else { return };
    for password in ["text", "digest"] {
        let security = json!({"security": {"usernameToken": {"password": password}, "timestamp": {}}});
        let service = server.connected("/guarded", "basic", security).await;
        assert_eq!(store(&service, &basic("s3cret")).await, 201);
        for _ in 0..2 {
            let executed = service.execute("calc", "Add", &json!({"a": 1, "b": [2]})).await;
            assert_eq!(executed.status, 200, "{}", executed.json());
        }
        let dry = service.post("/execute/calc/Add?dryRun=true", &json!({"params": {"a": 1, "b": [2]}})).await;
        let text = String::from_utf8(dry.body.to_vec()).unwrap();
        assert!(text.contains("[redacted]</wsse:Password>") && !text.contains("s3cret"), "{text}");

        assert_eq!(store(&service, &basic("wrong-s3cret")).await, 201);
        let refused = service.execute("calc", "Add", &json!({"a": 1, "b": [2]})).await;
        let text = String::from_utf8(refused.body.to_vec()).unwrap();
        assert_eq!(refused.status, 502, "{text}");
        assert!(text.contains("AUTH_ERROR") && !text.contains("wrong-s3cret"), "{text}");
    }
}

#[tokio::test]
async fn signatures_are_verified_by_another_implementation() {
    let Some(server) = Server::start() else { return };
    let security = json!({"security": {"timestamp": {}, "usernameToken": {}, "signature": {"signToken": true}}});
    let service = server.connected("/signed", "basic", security).await;
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["client.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut credential = basic("s3cret");
    assert_eq!(store(&service, &credential).await, 400, "a signature needs a key");
    credential["data"]["clientCertificate"] =
        json!({"certificate": certificate.pem(), "privateKey": key.serialize_pem()});
    assert_eq!(store(&service, &credential).await, 201);
    let executed = service.execute("calc", "Add", &json!({"a": 1, "b": [2, 3]})).await.json();
    assert_eq!(executed["data"]["part"], json!(["Body", "Timestamp", "UsernameToken"]), "{executed}");
}

/// A key and a certificate of it, as the test's server takes them.
fn signer(key: &rcgen::KeyPair) -> Value {
    let certificate = rcgen::CertificateParams::new(vec!["server.test".to_owned()]).unwrap().self_signed(key).unwrap();
    json!({"key": key.serialize_pem(), "certificate": certificate.pem()})
}

#[tokio::test]
async fn answers_must_be_signed_where_the_config_says_so() {
    let rsa = || rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let ecdsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let signers = json!({"rsa": signer(&rsa()), "ecdsa": signer(&ecdsa), "other": signer(&rsa())});
    let Some(server) = Server::start_with(&signers) else { return };
    let pem = |name: &str| signers[name]["certificate"].as_str().unwrap();
    let response = json!({"certificates": format!("{}{}", pem("rsa"), pem("ecdsa"))});
    let mut document = server.definition(&TestService::start().await, "none").await;
    document["methods"][0]["resultSchema"] = json!({});
    let service = TestService::start().await;
    publish(&service, &document).await;
    for (name, reason) in [
        ("rsa", None),
        ("ecdsa", None),
        ("inclusive", None),
        ("fault", Some("no such number")),
        ("unsigned", Some("it has no Signature")),
        ("altered", Some("its Body is not what was signed")),
        ("wrapped", Some("its Body is not signed")),
        ("expired", Some("its Timestamp has expired")),
        ("other", Some("its certificate is not among those")),
        ("sha1", Some("rsa-sha1, which is not taken")),
        ("body-only", Some("its Timestamp is not signed")),
    ] {
        let config = json!({"baseUrl": format!("{}/answers/{name}", server.url), "security": {"response": response}});
        let id = format!("calc-{name}");
        let instance = json!({"id": id, "integrationDefinitionId": "calculator", "name": "Calc", "config": config});
        assert_eq!(service.post("/api/v1/integration-instances", &instance).await.status, 201);
        let executed = service.execute(&id, "Add", &json!({"a": 1, "b": [2]})).await;
        match reason {
            None => assert_eq!(executed.json()["data"]["sum"], 3, "{name}: {}", executed.json()),
            Some(reason) => {
                let error = executed.json()["error"].clone();
                assert_eq!((executed.status, &error["code"]), (502, &json!("UPSTREAM_ERROR")), "{name}: {error}");
                assert!(error["message"].as_str().unwrap().contains(reason), "{name}: {error}");
                let outcome = if name == "fault" { Value::Null } else { json!("unknown") };
                assert_eq!(error["details"]["outcome"], outcome, "{name}: {error}");
            }
        }
    }
    let config = json!({"baseUrl": server.url, "security": {"response": {"certificates": "none"}}});
    let instance = json!({"id": "bad", "integrationDefinitionId": "calculator", "name": "Bad", "config": config});
    let created = service.post("/api/v1/integration-instances", &instance).await.json();
    assert!(created.to_string().contains("/security/response/certificates"), "{created}");
}

#[tokio::test]
async fn calls_are_limited_in_fixed_windows() {
    let Some(server) = Server::start() else { return };
    let mut document = server.definition(&TestService::start().await, "none").await;
    for method in document["methods"].as_array_mut().unwrap() {
        method["rateLimits"] = json!({"requestsPerMinute": 2, "burstLimit": 2, "algorithm": "fixed_window"});
    }
    let service = TestService::start().await;
    publish(&service, &document).await;
    server.instance(&service, "/open", json!({})).await;
    let mut codes = Vec::new();
    for _ in 0..3 {
        codes.push(service.execute("calc", "Add", &json!({"a": 1, "b": [2]})).await.status);
    }
    assert_eq!(codes, [200, 200, 429]);
}

/// Answers that a SOAP server would give.
fn xml_response(body: &str) -> axum::response::Response {
    let text = format!(
        r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>{body}</s:Body></s:Envelope>"#
    );
    axum::response::Response::builder().header("content-type", "text/xml").body(text.into()).unwrap()
}

#[tokio::test]
async fn the_example_executes() {
    let service = TestService::start().await;
    let example = include_str!("../../../../../examples/number-conversion.yaml");
    let request =
        crate::client::post("/api/v1/integration-definitions?publish=true").header("content-type", "application/yaml");
    let published = service.send(request, example).await;
    assert_eq!(published.status, 201, "{}", published.json());
    let config = json!({"baseUrl": service.upstream.url()});
    let instance =
        json!({"id": "words", "integrationDefinitionId": "number-conversion", "name": "Words", "config": config});
    assert_eq!(service.post("/api/v1/integration-instances", &instance).await.status, 201);
    service.upstream.then(xml_response(
        r#"<m:NumberToWordsResponse xmlns:m="http://www.dataaccess.com/webservicesserver/"><m:NumberToWordsResult>seven </m:NumberToWordsResult></m:NumberToWordsResponse>"#,
    ));
    let executed = service.execute("words", "numberToWords", &json!({"ubiNum": 7})).await.json();
    assert_eq!(executed["data"], "seven", "{executed}");
    let received = service.upstream.received();
    let text = std::str::from_utf8(&received[0].body).unwrap();
    assert!(
        text.contains(
            r#"<n1:NumberToWords xmlns:n1="http://www.dataaccess.com/webservicesserver/"><n1:ubiNum>7</n1:ubiNum>"#
        ),
        "{text}"
    );
}

const DESCRIPTION: &str = r#"<definitions name="Shop" targetNamespace="urn:w" xmlns="http://schemas.xmlsoap.org/wsdl/" xmlns:w="urn:w" xmlns:t="urn:t"
    xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/" xmlns:xs="http://www.w3.org/2001/XMLSchema">
  <types><xs:schema><xs:import namespace="urn:t" schemaLocation="types/shop.xsd"/></xs:schema></types>
  <message name="I"><part name="p" element="t:Order"/></message>
  <portType name="P"><operation name="Order"><input message="w:I"/></operation></portType>
  <binding name="B" type="w:P"><soap:binding transport="http://schemas.xmlsoap.org/soap/http"/>
    <operation name="Order"><soap:operation soapAction="urn:order"/><input><soap:body use="literal"/></input></operation></binding>
  <service name="Shop"><port name="P" binding="w:B"><soap:address location="https://shop.example/"/></port></service>
</definitions>"#;
const SCHEMA: &str = r#"<xs:schema targetNamespace="urn:t" xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="Order">
  <xs:complexType><xs:sequence><xs:element name="item" type="xs:int"/></xs:sequence></xs:complexType></xs:element></xs:schema>"#;

#[tokio::test]
async fn descriptions_of_several_files_are_imported_by_the_endpoint() {
    let service = TestService::start().await;
    let files = json!({"document": "shop.wsdl", "files": {"shop.wsdl": DESCRIPTION, "types/shop.xsd": SCHEMA}});
    let imported = service.post("/api/v1/imports/wsdl?publish=true", &files).await;
    assert_eq!(imported.status, 201, "{}", imported.json());
    assert_eq!(imported.json()["report"]["methodCount"], 1);
    let methods = service.get("/api/v1/integration-definitions/shop/methods").await.json();
    assert_eq!(methods["items"][0]["paramSchema"]["required"], json!(["item"]), "{methods}");

    let alone = crate::client::post("/api/v1/imports/wsdl?dryRun=true").header("content-type", "text/xml");
    let refused = service.send(alone, DESCRIPTION).await;
    assert_eq!(refused.status, 400, "{}", refused.json());
    assert!(refused.json()["detail"].as_str().unwrap().contains("\"Order\" is not declared"), "{}", refused.json());
    let other = crate::client::post("/api/v1/imports/wsdl").header("content-type", "text/html");
    assert_eq!(service.send(other, DESCRIPTION).await.status, 415);
    for body in ["{}", "<a/>", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "{\"document\": \"x\", \"files\": {}}"] {
        let broken = crate::client::post("/api/v1/imports/wsdl").header("content-type", "application/json");
        assert_eq!(service.send(broken, body).await.status, 400, "{body}");
    }
}

#[tokio::test]
async fn what_a_description_behind_a_url_imports_is_fetched_too() {
    let service = TestService::start().await;
    service.upstream.always(|received| {
        let text = match received.path_and_query.as_str() {
            "/ws/shop?wsdl" => DESCRIPTION.replace("types/shop.xsd", "shop?xsd=1"),
            // It includes itself, one that is not there, and one that may not be asked for.
            "/ws/shop?xsd=1" => SCHEMA.replace(
                "<xs:element name=\"Order\">",
                concat!(
                    "<xs:include schemaLocation='?xsd=1'/><xs:include schemaLocation='/gone.xsd'/>",
                    "<xs:import namespace='urn:x' schemaLocation='http://10.0.0.1/inside.xsd'/><xs:element name=\"Order\">"
                ),
            ),
            _ => return axum::response::Response::builder().status(404).body("of the inside".into()).unwrap(),
        };
        axum::response::Response::builder().header("content-type", "text/xml").body(text.into()).unwrap()
    });
    let source = json!({"url": format!("{}/ws/shop?wsdl", service.upstream.url())});
    let imported = service.post("/api/v1/imports/wsdl?dryRun=true", &source).await;
    assert_eq!(imported.status, 200, "{}", imported.json());
    let imported = imported.json();
    assert_eq!(imported["definition"]["methods"][0]["paramSchema"]["required"], json!(["item"]), "{imported}");
    let findings = imported["report"]["findings"].to_string();
    assert!(findings.contains("/gone.xsd") && findings.contains("10.0.0.1"), "{findings}");
    assert!(!findings.contains("of the inside"), "{findings}");
    let asked: Vec<_> = service.upstream.received().into_iter().map(|received| received.path_and_query).collect();
    assert_eq!(asked, ["/ws/shop?wsdl", "/ws/shop?xsd=1", "/gone.xsd"]);
}

#[test]
fn the_command_imports_a_description_with_the_files_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("types")).unwrap();
    std::fs::write(folder.path().join("shop.wsdl"), DESCRIPTION).unwrap();
    std::fs::write(folder.path().join("types/shop.xsd"), SCHEMA).unwrap();
    let import = |path: &std::path::Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_integration-service"));
        command.env_clear().args(["definitions", "import", "--dry-run", "--findings"]).arg(path).output().unwrap()
    };
    for path in [folder.path().to_owned(), folder.path().join("shop.wsdl")] {
        let output = import(&path);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let row = said.lines().find(|line| line.contains("shop.wsdl")).unwrap();
        assert!(row.contains("1.0.0") && row.contains("not stored"), "{said}");
    }
    std::fs::write(folder.path().join("shop.wsdl"), "<definitions xmlns='http://schemas.xmlsoap.org/wsdl/'/>").unwrap();
    assert!(!import(folder.path()).status.success());
}
