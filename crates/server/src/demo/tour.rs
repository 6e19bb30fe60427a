//! The steps of the tour, in their order. Each says what it does, does it, shows the answer
//! and checks it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::header::LOCATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

use super::narration::Narration;
use super::upstream::{FAILURES, OWNER, REPOSITORY, Witness};
use crate::cli::client::{Answer, Client};
use crate::config::Secret;

/// The definition that the tour imports.
const DEFINITION: &str = include_str!("../../../../examples/github.yaml");
const DEFINITIONS: &str = "/api/v1/integration-definitions";
const INSTANCES: &str = "/api/v1/integration-instances";
/// The instance's id.
const INSTANCE: &str = "gh";
const IDEMPOTENCY_KEY: &str = "demo-issue-1";

/// The metrics that are shown, each of one method.
const METRICS: &[(&str, &str)] = &[
    ("integration_executions_total", "getRepository"),
    ("integration_cache_hits_total", "getRepository"),
    ("integration_upstream_attempts_total", "listLanguages"),
    ("integration_retries_total", "listLanguages"),
];

/// How often an asynchronous execution is asked for, and how long the pauses are.
const POLLS: u32 = 200;
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// One way through the service.
pub(crate) struct Tour {
    client: Client,
    url: Url,
    admin_key: Secret,
    sandbox: Witness,
    narration: Narration,
}

type Step = fn(&Tour) -> anyhow::Result<()>;

const STEPS: &[(&str, Step)] = &[
    ("Import a definition of GitHub's REST API (examples/github.yaml) and publish it", Tour::publish_definition),
    ("Connect it: an instance with the sandbox's address", Tour::create_instance),
    ("Store its credential: encrypted at rest, never given back", Tour::store_credential),
    ("Test the connection", Tour::test_connection),
    ("Dry run: the exact request, secrets redacted, nothing sent", Tour::dry_run),
    ("Execute getRepository; a JSONata transform shapes the answer", Tour::execute),
    ("The same again: answered from the cache", Tour::execute_cached),
    ("Read all pages of a list: listIssues, three to a page", Tour::read_all_pages),
    ("A system that fails twice with 502: retried until it answers", Tour::retry),
    ("Params that do not fit are refused before anything is sent", Tour::refuse_invalid_params),
    ("Open an issue twice with one Idempotency-Key: it is made once", Tour::create_once),
    ("An asynchronous call: queued, then read from its log row", Tour::execute_later),
    ("The execution log", Tour::show_log),
    ("The events", Tour::show_events),
    ("The metrics", Tour::show_metrics),
    ("Where to look", Tour::show_addresses),
];

impl Tour {
    pub(crate) fn new(client: Client, url: Url, admin_key: Secret, sandbox: Witness) -> Self {
        Self { client, url, admin_key, sandbox, narration: Narration::new() }
    }

    /// Takes all steps; the first that goes wrong ends the tour with its name.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        self.narration.tell_whole(&format!("The service runs at {}", self.origin()));
        self.narration.tell_whole(&format!("A sandbox of GitHub's REST API runs at {}", self.sandbox.base_url()));
        for (title, step) in STEPS {
            let number = self.narration.step(title);
            step(&self).with_context(|| format!("step {number} ({title})"))?;
        }
        Ok(())
    }

    fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    fn publish_definition(&self) -> anyhow::Result<()> {
        let definition: Value = serde_saphyr::from_str(DEFINITION).context("the example is no YAML")?;
        let made = self.ask(StatusCode::CREATED, Method::POST, DEFINITIONS, &[], Some(&definition))?.json()?;
        expect(&made, "/status", "DRAFT")?;
        let path = format!("{DEFINITIONS}/github/versions/1.0.0/publish");
        let published = self.ask(StatusCode::OK, Method::POST, &path, &[], None)?.json()?;
        expect(&published, "/status", "PUBLISHED")?;
        let methods =
            definition["methods"].as_array().into_iter().flatten().filter_map(|method| method["name"].as_str());
        self.narration.tell(&format!("methods: {}", methods.collect::<Vec<_>>().join(", ")));
        Ok(())
    }

    fn create_instance(&self) -> anyhow::Result<()> {
        let new = json!({
            "id": INSTANCE,
            "integrationDefinitionId": "github",
            "name": "GitHub sandbox",
            "config": {"baseUrl": self.sandbox.base_url()},
        });
        let instance = self.ask(StatusCode::CREATED, Method::POST, INSTANCES, &[], Some(&new))?.json()?;
        self.narration.json(&pick(&instance, &["id", "definitionVersion", "config", "status"]));
        expect(&instance, "/status", "PENDING_AUTHENTICATION")
    }

    fn store_credential(&self) -> anyhow::Result<()> {
        let credential = json!({"type": "oauth2", "data": {"access_token": self.sandbox.token().expose()}});
        let path = format!("{INSTANCES}/{INSTANCE}/credentials");
        self.ask(StatusCode::CREATED, Method::POST, &path, &[], Some(&credential))?;
        let status = self.ask(StatusCode::OK, Method::GET, &format!("{path}/status"), &[], None)?.json()?;
        self.narration.json(&pick(&status, &["status", "type", "keyId"]));
        expect(&status, "/status", "valid")?;
        let instance = self.ask(StatusCode::OK, Method::GET, &format!("{INSTANCES}/{INSTANCE}"), &[], None)?.json()?;
        self.narration.json(&pick(&instance, &["status"]));
        expect(&instance, "/status", "CONNECTED")
    }

    fn test_connection(&self) -> anyhow::Result<()> {
        let path = format!("{INSTANCES}/{INSTANCE}/test");
        let report = self.ask(StatusCode::OK, Method::POST, &path, &[], None)?.json()?;
        self.narration.json(&pick(&report, &["healthy", "message", "instanceStatus"]));
        expect(&report, "/healthy", true)
    }

    fn dry_run(&self) -> anyhow::Result<()> {
        let before = self.sandbox.requests();
        let answer = self.execute_method("createIssue?dryRun=true", &[], issue_params(), StatusCode::OK)?;
        self.narration.json(&answer["data"]);
        expect(&answer, "/data/method", "POST")?;
        expect(&answer, "/data/headers/authorization", "[redacted]")?;
        expect(&answer, "/data/body/title", "Greet the demo's readers")?;
        ensure!(self.sandbox.requests() == before, "the sandbox got a request from a dry run");
        Ok(())
    }

    fn execute(&self) -> anyhow::Result<()> {
        let answer = self.execute_method("getRepository", &[], repository(), StatusCode::OK)?;
        self.narration.json(&answer);
        expect(&answer, "/status", "SUCCESS")?;
        expect(&answer, "/data/name", format!("{OWNER}/{REPOSITORY}"))?;
        expect(&answer, "/meta/cached", false)?;
        expect(&answer, "/meta/attempts", 1)
    }

    fn execute_cached(&self) -> anyhow::Result<()> {
        let before = self.sandbox.requests();
        let answer = self.execute_method("getRepository", &[], repository(), StatusCode::OK)?;
        self.narration.json(&pick(&answer, &["meta"]));
        expect(&answer, "/meta/cached", true)?;
        expect(&answer, "/meta/attempts", 0)?;
        ensure!(self.sandbox.requests() == before, "the sandbox was asked although the answer was cached");
        Ok(())
    }

    fn read_all_pages(&self) -> anyhow::Result<()> {
        let mut params = repository();
        params["state"] = json!("all");
        params["perPage"] = json!(3);
        let answer = self.execute_method("listIssues?paginate=all", &[], params, StatusCode::OK)?;
        let issues = answer["data"].as_array().context("expected data to be a list")?;
        for issue in issues {
            let text = |name: &str| issue[name].as_str().unwrap_or_default().to_owned();
            self.narration.tell(&format!("  #{} {:<6} {}", issue["number"], text("state"), text("title")));
        }
        self.narration.json(&pick(&answer, &["meta"]));
        ensure!(issues.len() == self.sandbox.issues(), "expected all {} issues", self.sandbox.issues());
        expect(&answer, "/meta/pages", self.sandbox.issues().div_ceil(3))
    }

    fn retry(&self) -> anyhow::Result<()> {
        let answer = self.execute_method("listLanguages", &[], repository(), StatusCode::OK)?;
        self.narration.json(&pick(&answer, &["data", "meta"]));
        expect(&answer, "/meta/attempts", FAILURES + 1)
    }

    fn refuse_invalid_params(&self) -> anyhow::Result<()> {
        let params = json!({"owner": OWNER, "repo": "no/such/name", "perPage": 1_000, "colour": "blue"});
        let before = self.sandbox.requests();
        let answer = self.execute_method("listIssues", &[], params, StatusCode::BAD_REQUEST)?;
        self.narration.json(&answer["error"]);
        expect(&answer, "/error/code", "VALIDATION_ERROR")?;
        let pointers: Vec<&str> = answer["error"]["details"]["errors"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|problem| problem["pointer"].as_str())
            .collect();
        for expected in ["/params/repo", "/params/perPage"] {
            ensure!(pointers.contains(&expected), "expected a fault at {expected}, found {pointers:?}");
        }
        ensure!(self.sandbox.requests() == before, "the sandbox got a request with refused params");
        Ok(())
    }

    fn create_once(&self) -> anyhow::Result<()> {
        let before = self.sandbox.issues();
        let headers = [("idempotency-key", IDEMPOTENCY_KEY)];
        let first = self.execute_raw("createIssue", &headers, issue_params(), StatusCode::OK)?;
        let again = self.execute_raw("createIssue", &headers, issue_params(), StatusCode::OK)?;
        self.narration.tell(&format!("Idempotency-Replayed: {}", again.header("idempotency-replayed")));
        let (first, replayed) = (first.json()?, again.header("idempotency-replayed") == "true");
        self.narration.json(&pick(&first["data"], &["number", "title", "html_url"]));
        ensure!(replayed, "expected the second answer to say Idempotency-Replayed: true");
        ensure!(first == again.json()?, "expected both answers to be the same");
        ensure!(self.sandbox.issues() == before + 1, "expected one new issue in the sandbox");
        Ok(())
    }

    fn execute_later(&self) -> anyhow::Result<()> {
        let headers = [("prefer", "respond-async")];
        let queued = self.execute_raw("getAuthenticatedUser", &headers, json!({}), StatusCode::ACCEPTED)?;
        let location = queued.header(LOCATION.as_str()).to_owned();
        self.narration.tell(&format!("Location: {location}"));
        ensure!(location.starts_with("/api/v1/executions/"), "expected a Location, found {location:?}");
        let row = self.wait_for_end(&location)?;
        self.narration.json(&pick(&row, &["status", "mode", "methodName", "attempts", "durationMs", "data"]));
        expect(&row, "/status", "SUCCESS")?;
        expect(&row, "/data/login", OWNER)
    }

    fn wait_for_end(&self, location: &str) -> anyhow::Result<Value> {
        for _ in 0..POLLS {
            let row = self.get(location)?.json()?;
            if matches!(row["status"].as_str(), Some("SUCCESS" | "ERROR")) {
                self.narration.request(&format!("GET {location}"), StatusCode::OK.as_u16());
                return Ok(row);
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "the tour has a thread of its own, outside of every runtime"
            )]
            std::thread::sleep(POLL_PAUSE);
        }
        anyhow::bail!("the execution did not end within {:?}", POLL_PAUSE * POLLS)
    }

    fn show_log(&self) -> anyhow::Result<()> {
        let path = format!("/api/v1/executions?instance={INSTANCE}");
        let list = self.ask(StatusCode::OK, Method::GET, &path, &[], None)?.json()?;
        let rows = list["items"].as_array().context("expected items")?;
        self.narration.tell("  method                status   code              attempts  cached  upstream    ms");
        for row in rows {
            let text = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
            let code = row["error"]["code"].as_str().unwrap_or("-");
            let number = |name: &str| row[name].as_u64().map_or("-".to_owned(), |number| number.to_string());
            let cached = if row["cached"] == true { "yes" } else { "no" };
            self.narration.tell(&format!(
                "  {:<20}  {:<7}  {code:<16}  {:>8}  {cached:>6}  {:>8}  {:>4}",
                text("methodName"),
                text("status"),
                number("attempts"),
                number("upstreamStatus"),
                number("durationMs"),
            ));
        }
        let methods: Vec<&str> = rows.iter().rev().filter_map(|row| row["methodName"].as_str()).collect();
        let expected = [
            "getRepository",
            "getRepository",
            "listIssues",
            "listLanguages",
            "listIssues",
            "createIssue",
            "getAuthenticatedUser",
        ];
        ensure!(methods == expected, "expected a row for each of {expected:?}, found {methods:?}");
        Ok(())
    }

    fn show_events(&self) -> anyhow::Result<()> {
        let path = format!("/api/v1/events?instance={INSTANCE}");
        let list = self.ask(StatusCode::OK, Method::GET, &path, &[], None)?.json()?;
        let events = list["items"].as_array().context("expected items")?;
        for event in events.iter().rev() {
            let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            let subject = match text("/data/methodName") {
                method if method.is_empty() => text("/data/currentStatus"),
                method => method,
            };
            self.narration.tell(&format!("  {}  {:<29} {subject}", text("/timestamp"), text("/type")));
        }
        let executed = events.iter().find(|event| event["type"] == "integration.method.executed");
        self.narration.tell("One of them whole:");
        self.narration.json(executed.context("expected an event integration.method.executed")?);
        let count = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
        ensure!(count("integration.connected") == 1, "expected one event integration.connected");
        ensure!(count("integration.method.executed") == 6, "expected an event for each of the 6 successes");
        ensure!(count("integration.method.failed") == 1, "expected an event for the one failure");
        Ok(())
    }

    fn show_metrics(&self) -> anyhow::Result<()> {
        let answer = self.ask(StatusCode::OK, Method::GET, "/status/metrics", &[], None)?;
        let text = answer.text();
        let of_calls = |line: &&str| {
            METRICS.iter().any(|(name, method)| {
                line.starts_with(name) && line.contains(&format!("{{integration=\"{INSTANCE}\",method=\"{method}\""))
            })
        };
        let lines: Vec<&str> = text.lines().filter(of_calls).collect();
        for line in &lines {
            self.narration.tell(line);
        }
        for (name, value) in [("integration_cache_hits_total", 1), ("integration_retries_total", FAILURES)] {
            let expected = format!(" {value}");
            let told = lines.iter().any(|line| line.starts_with(name) && line.ends_with(&expected));
            ensure!(told, "expected {name} to be {value}");
        }
        Ok(())
    }

    fn show_addresses(&self) -> anyhow::Result<()> {
        let origin = self.origin();
        for (what, path) in [("API", ""), ("reference", "/docs"), ("metrics", "/status/metrics")] {
            self.narration.tell_whole(&format!("{what:<10} {origin}{path}"));
        }
        self.narration.tell_whole(&format!("{:<10} {}", "admin key", self.admin_key.expose()));
        self.narration
            .tell("Programs send it as Authorization: Bearer KEY; browsers take it as a password, with any user.");
        ensure!(self.get("/docs")?.status == StatusCode::OK, "expected /docs to be there");
        Ok(())
    }

    /// Executes a method; gives the documents' own answer.
    fn execute_method(
        &self,
        method: &str,
        headers: &[(&'static str, &'static str)],
        params: Value,
        expected: StatusCode,
    ) -> anyhow::Result<Value> {
        self.execute_raw(method, headers, params, expected)?.json()
    }

    fn execute_raw(
        &self,
        method: &str,
        headers: &[(&'static str, &'static str)],
        params: Value,
        expected: StatusCode,
    ) -> anyhow::Result<Answer> {
        let body = json!({ "params": params });
        self.ask(expected, Method::POST, &format!("/execute/{INSTANCE}/{method}"), headers, Some(&body))
    }

    /// Sends a request, tells of it, and checks the status; the credential must never come back.
    fn ask(
        &self,
        expected: StatusCode,
        method: Method,
        path: &str,
        headers: &[(&'static str, &'static str)],
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let told = format!("{method} {path}");
        let extra: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let answer = self.client.send_with(&extra, method, path, body)?;
        self.narration.request(&told, answer.status.as_u16());
        for (name, value) in headers {
            self.narration.tell(&format!("  with {name}: {value}"));
        }
        ensure!(answer.status == expected, "expected {told} to be answered {expected}: {}", answer.pretty());
        self.without_secret(answer)
    }

    /// The same for a reading that is not worth telling.
    fn get(&self, path: &str) -> anyhow::Result<Answer> {
        let answer = self.client.send_with(&HeaderMap::new(), Method::GET, path, None)?;
        ensure!(answer.status == StatusCode::OK, "expected GET {path} to be answered 200: {}", answer.pretty());
        self.without_secret(answer)
    }

    fn without_secret(&self, answer: Answer) -> anyhow::Result<Answer> {
        ensure!(!answer.text().contains(self.sandbox.token().expose()), "an answer holds the credential");
        Ok(answer)
    }
}

fn repository() -> Value {
    json!({"owner": OWNER, "repo": REPOSITORY})
}

fn issue_params() -> Value {
    let mut params = repository();
    params["title"] = json!("Greet the demo's readers");
    params["body"] = json!("They came a long way.");
    params
}

/// Some members of an object.
fn pick(document: &Value, names: &[&str]) -> Value {
    let members = names.iter().filter_map(|name| Some(((*name).to_owned(), document.get(*name)?.clone())));
    Value::Object(members.collect())
}

fn expect(document: &Value, pointer: &str, expected: impl Into<Value>) -> anyhow::Result<()> {
    let expected = expected.into();
    let found = document.pointer(pointer).unwrap_or(&Value::Null);
    ensure!(*found == expected, "expected {pointer} to be {expected}, found {found}");
    Ok(())
}
