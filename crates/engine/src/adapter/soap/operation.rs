//! One operation, compiled: from a call to an envelope, from an envelope to data.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, StatusCode};
use integration_model::definition::Method;
use integration_model::{ErrorCode, Problem, Timestamp};
use serde_json::Value;
use tokio::time::Instant;

use super::super::http::connection::TlsProfiles;
use super::super::http::endpoint::Endpoint;
use super::super::http::errors::{Refusal, excerpt, undecodable};
use super::super::http::headers::{HeaderSpec as HttpHeaders, RequestHeaders};
use super::super::http::limits::limits;
use super::answer::{Reader, generic};
use super::compose::Composer;
use super::envelope::{self, Content, Envelope, SoapVersion, content, prefixes};
use super::fault::{Fault, REASON};
use super::header::Header;
use super::model::{Compiler, Element as Described, Model};
use super::security::{Occasion, Security, Verifier};
use super::spec::{FaultRule, OperationSpec};
use crate::adapter::{Answer, Call, CallError, Effect, Operation};
use crate::credential::Credential;
use crate::data::Data;
use crate::http_client::InboundResponse;
use crate::xml::{self, Element, Node};

/// From this size on, an answer is read beside the runtime's threads.
const LARGE: usize = 128 * 1024;

pub(super) struct SoapOperation {
    content: Arc<Message>,
    as_given: bool,
    headers: Vec<Header>,
    /// The params that go into the header.
    header_params: Vec<String>,
    rules: Vec<FaultRule>,
    /// One for each version.
    endpoints: [(SoapVersion, Endpoint); 2],
}

/// What goes into the body and comes back in it.
struct Message {
    model: Model,
    request: Option<Described>,
    response: Option<Described>,
    one_way: bool,
}

impl SoapOperation {
    /// Compiles a method's operation; all that is wrong with it at once.
    pub(super) fn compile(method: &Method, profiles: Arc<TlsProfiles>) -> Result<Self, Vec<Problem>> {
        let spec = OperationSpec::read(method)?;
        let mut compiler = Compiler::new(&spec.types, &spec.namespace, spec.only_namespace());
        let request = spec.request.as_ref().map(|request| compiler.element(request, None, "/request"));
        let response = spec.response.as_ref().map(|response| compiler.element(response, None, "/response"));
        let headers = Header::compile_all(&spec.headers, method, &mut compiler);
        let model = compiler.finish()?;
        Ok(Self {
            content: Arc::new(Message { model, request, response, one_way: spec.one_way }),
            endpoints: SoapVersion::ALL.map(|version| (version, endpoint(version, &spec, method, &profiles))),
            as_given: spec.as_given,
            header_params: headers.iter().filter_map(|header| header.param().cloned()).collect(),
            headers,
            rules: spec.error_mapping,
        })
    }

    /// The envelope of a call.
    fn envelope(&self, call: &Call<'_>, version: SoapVersion, redacted: bool) -> Result<String, CallError> {
        let composer = Composer { model: &self.content.model, as_given: self.as_given };
        let mut body = Element::new(version.name("Body"));
        if let Some(request) = &self.content.request {
            body.content = composer.elements(request, &self.body_params(call), "/params")?;
        }
        let mut blocks = Vec::new();
        let mut prefixes = prefixes(version);
        if let Some(security) = Security::of(call.connection.config) {
            let occasion = Occasion::new(call.connection.now, redacted)?;
            let credential = call.connection.credential;
            blocks.push(Node::Element(security.header(version, credential, &mut body, &occasion, &mut prefixes)?));
        }
        for header in &self.headers {
            header.write(&composer, call.params, version, &mut blocks)?;
        }
        Ok(Envelope { version, headers: blocks, body }.write(&mut prefixes))
    }

    /// The params that are the body: all but those of the header.
    fn body_params(&self, call: &Call<'_>) -> Bytes {
        let params = call.params;
        if !self.header_params.iter().any(|name| params.get(name).is_some()) {
            return params.text();
        }
        let mut text = Vec::with_capacity(256);
        for name in params.as_object().keys().filter(|name| !self.header_params.contains(name)) {
            let Some(value) = params.json_text(name) else { continue };
            text.push(if text.is_empty() { b'{' } else { b',' });
            text.extend_from_slice(Value::from(name.as_str()).to_string().as_bytes());
            text.push(b':');
            text.extend_from_slice(&value);
        }
        if text.is_empty() {
            text.push(b'{');
        }
        text.push(b'}');
        Bytes::from(text)
    }

    /// The endpoint of the version that an instance speaks.
    fn endpoint(&self, version: SoapVersion) -> &Endpoint {
        let [(_, first), (other, second)] = &self.endpoints;
        if *other == version { second } else { first }
    }

    async fn run(&self, call: Call<'_>) -> Result<Answer, CallError> {
        let config = call.connection.config;
        let version = SoapVersion::of(config);
        let verifier = Verifier::of(config)
            .map_err(|fault| CallError::not_sent(ErrorCode::Internal, format!("the config's security: {fault}")))?;
        let body = Bytes::from(self.envelope(&call, version, false)?);
        let started = Instant::now();
        let response = self.endpoint(version).post_proven(&call, body, Security::proof(config)).await?;
        let now = call.connection.now.saturating_add(started.elapsed());
        self.read_answer(response, &call, verifier.map(|verifier| (verifier, now))).await
    }

    async fn read_answer(
        &self,
        response: InboundResponse,
        call: &Call<'_>,
        check: Option<(Verifier, Timestamp)>,
    ) -> Result<Answer, CallError> {
        let InboundResponse { status, headers, body, .. } = response;
        let credential = call.connection.credential;
        let answer = |data| Answer {
            data,
            upstream_status: Some(status.as_u16()),
            next_page: None,
            limits: limits(&headers),
            warnings: Vec::new(),
        };
        if status.is_success() && body.iter().all(u8::is_ascii_whitespace) {
            // Where answers are signed, one that says nothing is none.
            return match self.content.one_way || (status == StatusCode::ACCEPTED && check.is_none()) {
                true => Ok(answer(Data::null())),
                false => Err(undecodable(status, "it is empty")),
            };
        }
        // A fault comes with any status.
        let message = Arc::clone(&self.content);
        let text = body.clone();
        let is_success = status.is_success();
        let read = if body.len() < LARGE {
            message.read(&text, is_success, check)
        } else {
            let work = tokio::task::spawn_blocking(move || message.read(&text, is_success, check));
            work.await.unwrap_or_else(|_| Err("its reading was interrupted".to_owned()))
        };
        match read {
            Ok(Told::Data(data)) => Ok(answer(data)),
            Ok(Told::Fault(fault)) => Err(Fault::read(&fault).into_error(&self.rules, status, &headers, credential)),
            Ok(Told::Unverified(reason)) => Err(unverified(status, &reason, credential)),
            Err(fault) if is_success => Err(undecodable(status, &fault)),
            Err(_) => Err(Refusal { status, headers: &headers, body: &body, credential }.into_error(None)),
        }
    }
}

fn endpoint(version: SoapVersion, spec: &OperationSpec, method: &Method, profiles: &Arc<TlsProfiles>) -> Endpoint {
    let (action, none) = (version.action(&spec.soap_action), BTreeMap::new());
    let headers = HttpHeaders {
        accept: None,
        usual_accept: version.media_type(),
        params: &none,
        constants: &action,
        idempotency_key: None,
    };
    // The check of the operation lets no action pass that a header cannot carry.
    let content_type = HeaderValue::from_str(&version.content_type(&spec.soap_action));
    Endpoint {
        profiles: Arc::clone(profiles),
        headers: RequestHeaders::new(headers),
        content_type: content_type.unwrap_or(HeaderValue::from_static("text/xml")),
        max_response_bytes: spec.max_response_bytes,
        repeatable: method.idempotent,
    }
}

/// The error of an answer that is not signed as the config asks: nothing that it says counts.
fn unverified(status: StatusCode, reason: &str, credential: &Credential) -> CallError {
    let reason = excerpt(reason.as_bytes(), REASON, credential);
    CallError {
        effect: Effect::Unknown,
        upstream_failed: true,
        upstream_status: Some(status.as_u16()),
        ..CallError::not_sent(ErrorCode::Upstream, format!("the upstream's answer is not accepted: {reason}"))
    }
    .with_detail("upstreamStatus", status.as_u16())
}

/// What an answer says.
enum Told {
    Data(Data),
    Fault(Box<Element>),
    /// It is not signed as the config asks.
    Unverified(String),
}

impl Message {
    fn read(&self, body: &[u8], is_success: bool, check: Option<(Verifier, Timestamp)>) -> Result<Told, String> {
        let text = std::str::from_utf8(body).map_err(|error| format!("it is not UTF-8: {error}"))?;
        let root = xml::read(text).map_err(|fault| format!("it is not XML: {fault}"))?;
        let mut body = Cow::Borrowed(envelope::body(&root)?);
        if let Some((verifier, now)) = check {
            body = match verifier.body(text, &root, now) {
                Ok(signed) => Cow::Owned(signed),
                Err(reason) => return Ok(Told::Unverified(with_fault(reason, &body))),
            };
        }
        let element = match content(&body) {
            Content::Fault(fault) => return Ok(Told::Fault(Box::new(fault.clone()))),
            _ if !is_success => return Err("no fault".to_owned()),
            Content::Body(None) => return Ok(Told::Data(Data::null())),
            Content::Body(Some(element)) => element,
        };
        let mut json = String::with_capacity(text.len());
        match &self.response {
            Some(described) => Reader { model: &self.model }.read(described, element, &mut json),
            None => generic(element, None, &mut json),
        }
        Ok(Told::Data(Data::from_text(Bytes::from(json))))
    }
}

/// Why an answer is not accepted, and the fault that it would be: it may say why.
fn with_fault(reason: String, body: &Element) -> String {
    match content(body) {
        Content::Fault(fault) => format!("{reason}; it says that it is a fault {}", Fault::read(fault).summary()),
        Content::Body(_) => reason,
    }
}

impl Operation for SoapOperation {
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, CallError>> {
        Box::pin(self.run(call))
    }

    fn preview(&self, call: Call<'_>) -> Result<Value, CallError> {
        let config = call.connection.config;
        let version = SoapVersion::of(config);
        let body = Bytes::from(self.envelope(&call, version, true)?);
        self.endpoint(version).preview_proven(&call, body, Security::proof(config))
    }

    fn join_pages(&self, pages: Vec<Data>) -> Result<Data, CallError> {
        Ok(pages.into_iter().next().unwrap_or_else(Data::null))
    }
}
