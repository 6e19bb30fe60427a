//! An adapter for servers of notes, as somebody outside would write it, and how it can be wrong.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use integration_engine::adapter::{
    Adapter, AdapterDescription, Answer, Call, CallError, Connection, Effect, Operation, UpstreamLimits,
};
use integration_engine::credential::Credential;
use integration_engine::data::Data;
use integration_model::definition::{AuthType, DefinitionSpec, Method};
use integration_model::{ErrorCode, InstanceId, Problem};
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

/// What an adapter may get wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    DefaultThatDoesNotFit,
    TakesUnknownMembers,
    TakesAnyConfig,
    TakesAnyCredential,
    SendsBeforeItChecks,
    Panics,
    ShowsSecretInDryRuns,
    ShowsSecretInErrors,
    AddsInTests,
    ForgetsItsText,
    KeepsClosedConnections,
    KeepsLateConnections,
    TellsRefusedCredentialsAsFailures,
    TellsLimitsAsFailures,
    TellsTimeoutsAsFailures,
    CutsLargeAnswers,
    GoesAroundThePolicy,
    DoesNotRepeat,
    LooksAtNoClock,
    TakesHalfAnAnswer,
    TakesAnyAnswer,
    SaysThatNothingHappened,
}

/// The longest line of a server.
const MAX_LINE: usize = 1000;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

#[derive(Default)]
struct Notes {
    flaw: Option<Flaw>,
    kept: Mutex<HashMap<InstanceId, Box<dyn Stream>>>,
}

pub(super) struct NotesAdapter(Arc<Notes>);

struct NotesOperation {
    notes: Arc<Notes>,
    command: String,
    param: Option<String>,
}

impl NotesAdapter {
    pub(super) fn with(flaw: Option<Flaw>) -> Self {
        Self(Arc::new(Notes { flaw, ..Notes::default() }))
    }
}

impl Adapter for NotesAdapter {
    fn describe(&self) -> AdapterDescription {
        let port = if self.0.has(Flaw::DefaultThatDoesNotFit) { 0 } else { 7 };
        AdapterDescription {
            adapter_type: "notes",
            version: "1.0.0",
            description: "Servers of notes",
            auth_types: &[AuthType::Basic],
            operation_schema: json!({
                "type": "object", "required": ["command"], "additionalProperties": false,
                "properties": {
                    "command": {"enum": ["ECHO", "ADD", "COUNT", "LARGE", "WAIT"]}, "param": {"type": "string"},
                },
            }),
            config_schema: json!({
                "type": "object", "required": ["host", "port"],
                "properties": {
                    "host": {"type": "string"},
                    "port": {"type": "integer", "minimum": 1, "maximum": 65535, "default": port},
                },
            }),
        }
    }

    fn compile(&self, _: &DefinitionSpec, method: &Method) -> Result<Arc<dyn Operation>, Vec<Problem>> {
        let mut problems = Vec::new();
        let members = method.operation.as_object().cloned().unwrap_or_default();
        let unknown = members.keys().filter(|name| !matches!(name.as_str(), "command" | "param"));
        if !self.0.has(Flaw::TakesUnknownMembers) {
            problems.extend(unknown.map(|name| Problem::new(format!("/{name}"), "expected no such member")));
        }
        let command = members.get("command").and_then(Value::as_str).unwrap_or_default();
        if !["ECHO", "ADD", "COUNT", "LARGE", "WAIT"].contains(&command) {
            problems.push(Problem::new("/command", "expected ECHO, ADD, COUNT, LARGE or WAIT"));
        }
        if members.get("param").is_some_and(|param| !param.is_string()) {
            problems.push(Problem::new("/param", "expected the name of a param"));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let param = members.get("param").and_then(Value::as_str).map(str::to_owned);
        Ok(Arc::new(NotesOperation { notes: Arc::clone(&self.0), command: command.to_owned(), param }))
    }

    fn check_config(&self, config: &Map<String, Value>) -> Vec<Problem> {
        if self.0.has(Flaw::TakesAnyConfig) {
            return Vec::new();
        }
        let host = config.get("host").is_some_and(Value::is_string);
        let port = port_in(config).is_some();
        let problems = [(host, "/host", "expected a host name"), (port, "/port", "expected 1 to 65535")];
        let wrong = problems.into_iter().filter(|(fits, ..)| !fits);
        wrong.map(|(_, pointer, message)| Problem::new(pointer, message)).collect()
    }

    fn check_credential(&self, _: &Map<String, Value>, credential: &Credential) -> Result<(), Problem> {
        match credential.request_part() {
            Credential::Basic { .. } => Ok(()),
            _ if self.0.has(Flaw::TakesAnyCredential) => Ok(()),
            _ => Err(Problem::new("/data", "expected a credential of type basic")),
        }
    }

    fn test<'a>(&'a self, call: Connection<'a>) -> BoxFuture<'a, Result<String, CallError>> {
        let command = if self.0.has(Flaw::AddsInTests) { "ADD" } else { "COUNT" };
        Box::pin(async move { self.0.ask(&call, command, "").await.map(|count| format!("there are {count} notes")) })
    }
}

impl Operation for NotesOperation {
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, CallError>> {
        Box::pin(async move {
            if self.notes.has(Flaw::SendsBeforeItChecks) {
                let _ = self.notes.ask(&call.connection, "COUNT", "").await;
            }
            let text = self.text(&call)?;
            let said = self.notes.ask(&call.connection, &self.command, &text).await?;
            Ok(Answer {
                data: Data::from_value(said.into()),
                upstream_status: None,
                next_page: None,
                limits: UpstreamLimits::default(),
                warnings: Vec::new(),
            })
        })
    }

    fn preview(&self, call: Call<'_>) -> Result<Value, CallError> {
        let mut shown = json!({"command": self.command, "text": self.text(&call)?});
        if let (true, Credential::Basic { password, .. }) =
            (self.notes.has(Flaw::ShowsSecretInDryRuns), call.connection.credential)
        {
            shown["password"] = password.expose_secret().into();
        }
        Ok(shown)
    }

    fn join_pages(&self, pages: Vec<Data>) -> Result<Data, CallError> {
        Ok(pages.into_iter().next().unwrap_or_else(Data::null))
    }
}

impl NotesOperation {
    fn text(&self, call: &Call<'_>) -> Result<String, CallError> {
        let Some(name) = &self.param else { return Ok(String::new()) };
        let text = call.params.get(name).and_then(Value::as_str);
        if self.notes.has(Flaw::Panics) {
            assert!(text.is_some(), "a text");
        }
        match text {
            Some(_) if self.notes.has(Flaw::ForgetsItsText) => Ok("something".to_owned()),
            Some(text) if !text.contains(['\r', '\n']) => Ok(text.to_owned()),
            _ => {
                let problem = Problem::new(format!("/params/{name}"), "expected one line of text");
                let error = CallError::not_sent(ErrorCode::Validation, "the params do not fit");
                Err(error.with_detail("errors", json!([problem])))
            }
        }
    }
}

fn port_in(config: &Map<String, Value>) -> Option<u16> {
    config.get("port")?.as_u64()?.try_into().ok().filter(|port| *port > 0)
}

impl Notes {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// Asks on the kept connection, or on a new one; it is kept where its answer was complete.
    async fn ask(&self, connection: &Connection<'_>, command: &str, text: &str) -> Result<String, CallError> {
        if Instant::now() >= connection.deadline && !self.has(Flaw::LooksAtNoClock) {
            return Err(self.timed_out(Effect::None));
        }
        let kept = self.kept.lock().unwrap().remove(connection.instance);
        let was_kept = kept.is_some();
        let mut stream = match kept {
            Some(stream) => stream,
            None => self.open(connection).await?,
        };
        // A connection that was closed meanwhile is known by it, and counting again does no harm.
        let mut ended = self.exchange(&mut stream, connection, command, text).await;
        let is_repeatable = command != "ADD" && !self.has(Flaw::KeepsClosedConnections);
        if was_kept && is_repeatable && ended.as_ref().is_err_and(|error| error.code == ErrorCode::Upstream) {
            stream = self.open(connection).await?;
            ended = self.exchange(&mut stream, connection, command, text).await;
        }
        let keeps_all = self.has(Flaw::KeepsLateConnections) || self.has(Flaw::KeepsClosedConnections);
        if ended.is_ok() || keeps_all {
            self.kept.lock().unwrap().insert(connection.instance.clone(), stream);
        }
        ended
    }

    async fn open(&self, connection: &Connection<'_>) -> Result<Box<dyn Stream>, CallError> {
        let host = connection.config.get("host").and_then(Value::as_str).unwrap_or_default();
        let port = port_in(connection.config).unwrap_or_default();
        let mut stream: Box<dyn Stream> = if self.has(Flaw::GoesAroundThePolicy) {
            let stream = tokio::net::TcpStream::connect((host, port)).await;
            Box::new(stream.map_err(|error| self.failed(&error.to_string(), Effect::None))?)
        } else {
            let connected = connection.network().connect(host, port, None, connection.deadline).await;
            Box::new(connected.map_err(|error| {
                let error = CallError::from(error);
                CallError { retryable: error.retryable && !self.has(Flaw::DoesNotRepeat), ..error }
            })?)
        };
        if let Credential::Basic { password, .. } = connection.credential.request_part() {
            let password = password.expose_secret();
            let asked = self.exchange(&mut stream, connection, "AUTH", password).await;
            asked.map_err(|error| CallError { effect: Effect::None, ..error })?;
        }
        Ok(stream)
    }

    async fn exchange(
        &self,
        stream: &mut Box<dyn Stream>,
        connection: &Connection<'_>,
        command: &str,
        text: &str,
    ) -> Result<String, CallError> {
        let effect = match command {
            "ADD" if !self.has(Flaw::SaysThatNothingHappened) => Effect::Unknown,
            _ => Effect::None,
        };
        let lost = || self.failed("the connection was lost", effect);
        let asking = async {
            stream.write_all(format!("{command} {text}\n").as_bytes()).await.map_err(|_| lost())?;
            let mut line = Vec::new();
            let mut byte = [0];
            while line.last() != Some(&b'\n') {
                match stream.read(&mut byte).await {
                    Ok(1) if line.len() < MAX_LINE => line.push(byte[0]),
                    Ok(1) if self.has(Flaw::CutsLargeAnswers) => break,
                    Ok(1) => {
                        let message = format!("the answer is longer than {MAX_LINE} bytes");
                        return Err(CallError { retryable: false, ..self.failed(&message, Effect::Answered) });
                    }
                    _ if self.has(Flaw::TakesHalfAnAnswer) && line.len() > 3 => break,
                    _ => return Err(lost()),
                }
            }
            Ok(line)
        };
        let asked = timeout_at(connection.deadline, asking).await;
        let line = asked.unwrap_or_else(|_| Err(self.timed_out(effect)))?;
        let line = String::from_utf8(line).map_err(|_| self.failed("the answer is no text", effect))?;
        let line = line.trim_end_matches('\n');
        match line.split_once(' ').unwrap_or((line, "")) {
            ("OK", said) => Ok(said.to_owned()),
            ("DENIED", said) if self.has(Flaw::ShowsSecretInErrors) => Err(CallError {
                credential_refused: true,
                ..CallError::not_sent(ErrorCode::Auth, format!("no {said}"))
            }),
            ("DENIED", _) if !self.has(Flaw::TellsRefusedCredentialsAsFailures) => Err(CallError {
                credential_refused: true,
                ..CallError::not_sent(ErrorCode::Auth, "the password is wrong")
            }),
            ("LATER", _) if !self.has(Flaw::TellsLimitsAsFailures) => {
                let error = CallError::not_sent(ErrorCode::RateLimitExceeded, "the server has no time");
                Err(CallError { retryable: true, ..error })
            }
            _ if self.has(Flaw::TakesAnyAnswer) => Ok(line.to_owned()),
            _ => Err(self.failed("the answer cannot be read", Effect::Answered)),
        }
    }

    fn timed_out(&self, effect: Effect) -> CallError {
        let code = if self.has(Flaw::TellsTimeoutsAsFailures) { ErrorCode::Upstream } else { ErrorCode::Timeout };
        let error = CallError::not_sent(code, "the deadline passed");
        CallError { retryable: true, upstream_failed: true, effect, ..error }
    }

    fn failed(&self, message: &str, effect: Effect) -> CallError {
        let error = CallError::not_sent(ErrorCode::Upstream, message);
        CallError { retryable: !self.has(Flaw::DoesNotRepeat), upstream_failed: true, effect, ..error }
    }
}
