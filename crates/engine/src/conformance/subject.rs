//! What is checked, ready to be called in every way that a check needs; and what is asked of
//! each of its errors, whatever the check.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use integration_model::definition::{Definition, DefinitionStatus};
use integration_model::{ErrorCode, InstanceId, Problem, Timestamp};
use integration_store::{Clock, Ids};
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};
use url::Url;

use super::UnusableSample;
use super::counterpart::{Behaviour, Counterpart, Fault, System};
use super::report::Skip;
use super::sample::{Endpoint, FailingCall, Sample, SampleCall, SampleCredential, holds};
use crate::adapter::{Adapter, Adapters, Call, CallError, Config, Connection, Effect};
use crate::credential::{AuthWants, Credential};
use crate::http_client::{HttpClient, HttpClientSettings};
use crate::network::{EgressPolicy, Resolve};
use crate::params::Params;
use crate::registry::{CompiledDefinition, CompiledMethod, PolicyDefaults};

/// How long after its deadline a call is still waited for, before it counts as hung.
const HUNG_AFTER: Duration = Duration::from_secs(20);
/// The longest message of an error, in bytes.
const MAX_MESSAGE: usize = 4096;

pub(super) struct Subject {
    pub(super) adapter: Arc<dyn Adapter>,
    pub(super) adapters: Adapters,
    pub(super) sample: Sample,
    pub(super) config: Map<String, Value>,
    pub(super) credential: Credential,
    definition: Result<CompiledDefinition, Vec<Problem>>,
    endpoint: Option<Endpoint>,
    direct: HttpClient,
    /// Leads every host name to this machine.
    detour: HttpClient,
    /// The same, and allows no private address.
    fenced: HttpClient,
    clock: Clock,
    ids: Ids,
    numbers: AtomicU64,
    complaints: Mutex<BTreeSet<String>>,
    totals: OnceCell<Result<Totals, String>>,
}

/// How much goes both ways in the first call, on a connection of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Totals {
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// How a call reaches the system, or what stands in its place.
pub(super) struct Way<'a> {
    pub(super) instance: InstanceId,
    pub(super) config: Config,
    pub(super) credential: &'a Credential,
    pub(super) http: &'a HttpClient,
    pub(super) patience: Duration,
}

struct Loopback;

impl Resolve for Loopback {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
        Box::pin(async { Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]) })
    }
}

impl Subject {
    pub(super) fn new(adapter: Arc<dyn Adapter>, sample: Sample, egress: EgressPolicy) -> Result<Self, UnusableSample> {
        let unusable = |message: String| UnusableSample(message);
        let clock = Clock::system();
        let adapters = Adapters::from_iter([Arc::clone(&adapter)]);
        let spec = &sample.definition;
        let adapter_type = adapter.describe().adapter_type;
        if spec.adapter_type != adapter_type {
            return Err(unusable(format!(
                "the definition is of type {}, the adapter {adapter_type}",
                spec.adapter_type
            )));
        }
        let mut config = spec.default_config.clone();
        config.extend(sample.config.clone());
        let credential = match &sample.credential {
            Some(credential) => parse(credential, &sample, &clock).map_err(unusable)?,
            None => Credential::None,
        };
        let now = clock.now();
        let definition = Definition {
            spec: spec.clone(),
            status: DefinitionStatus::Published,
            created_at: now,
            updated_at: now,
            published_at: Some(now),
        };
        let endpoint = match &sample.endpoint {
            Some(Endpoint::None) => None,
            Some(endpoint) => Some(endpoint.clone()),
            None => endpoint_in(&config),
        };
        let client = |policy: EgressPolicy, detour: bool| {
            let settings = HttpClientSettings::default();
            let client = if detour {
                HttpClient::with_resolver(settings, policy, Arc::new(Loopback))
            } else {
                HttpClient::new(settings, policy)
            };
            client.map_err(|error| unusable(error.to_string()))
        };
        let loopback = EgressPolicy::parse(["127.0.0.1"]).unwrap_or_default();
        Ok(Self {
            definition: CompiledDefinition::new(definition, &adapters, PolicyDefaults::default()),
            direct: client(egress, false)?,
            detour: client(loopback, true)?,
            fenced: client(EgressPolicy::public_only(), true)?,
            numbers: AtomicU64::new(0),
            complaints: Mutex::default(),
            totals: OnceCell::new(),
            adapter,
            adapters,
            config,
            credential,
            endpoint,
            ids: Ids::new(clock.clone()),
            clock,
            sample,
        })
    }

    pub(super) fn adapter_type(&self) -> String {
        self.sample.definition.adapter_type.clone()
    }

    /// What the errors since the last look did not hold to.
    pub(super) fn complaints(&self) -> impl Iterator<Item = String> {
        std::mem::take(&mut *self.complaints.lock().unwrap_or_else(PoisonError::into_inner)).into_iter()
    }

    fn complain(&self, complaint: String) {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).insert(complaint);
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The deadline of calls that are to end by it.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.sample.patience_ms)
    }

    /// A number that no call had before.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The calls, or why there are none.
    pub(super) fn calls(&self) -> Result<&[SampleCall], Skip> {
        match self.sample.calls.as_slice() {
            [] if self.sample.definition.methods.is_empty() => Err(Skip::new("it executes nothing")),
            [] => Err(Skip::new("the sample has no calls")),
            calls => Ok(calls),
        }
    }

    pub(super) fn first_call(&self) -> Result<&SampleCall, Skip> {
        // There is at least one.
        self.calls().map(|calls| &calls[0])
    }

    pub(super) fn credential_of(&self, credential: &SampleCredential) -> Result<Credential, String> {
        parse(credential, &self.sample, &self.clock)
    }

    /// The way to the real system, as a new instance.
    pub(super) fn direct(&self) -> Way<'_> {
        self.way(self.config.clone(), &self.direct, self.sample.timeout_ms)
    }

    fn way<'a>(&'a self, config: Map<String, Value>, http: &'a HttpClient, patience_ms: u64) -> Way<'a> {
        // Nothing is kept over from the instances before.
        let instance = InstanceId::from_uuid(self.ids.next());
        let patience = Duration::from_millis(patience_ms);
        Way { instance, config: config.into(), credential: &self.credential, http, patience }
    }

    /// The way to a counterpart, for calls that are to end by what it does.
    pub(super) fn led_to(&self, address: SocketAddr) -> Result<Way<'_>, Skip> {
        Ok(self.way(self.config_for(address)?, &self.detour, self.sample.timeout_ms))
    }

    /// The same, for calls that are to end by their deadline.
    pub(super) fn impatiently_led_to(&self, address: SocketAddr) -> Result<Way<'_>, Skip> {
        Ok(self.way(self.config_for(address)?, &self.detour, self.sample.patience_ms))
    }

    /// The same, where the egress policy forbids it.
    pub(super) fn fenced_from(&self, address: SocketAddr) -> Result<Way<'_>, Skip> {
        Ok(self.way(self.config_for(address)?, &self.fenced, self.sample.timeout_ms))
    }

    fn endpoint(&self) -> Result<&Endpoint, Skip> {
        self.endpoint.as_ref().ok_or_else(|| Skip::new("it makes no connections"))
    }

    /// The config with the counterpart's address for the system's. A host name stays, for TLS
    /// and the system itself to see.
    fn config_for(&self, address: SocketAddr) -> Result<Map<String, Value>, Skip> {
        let mut config = Value::Object(self.config.clone());
        let wrong = |pointer: &str| Skip::new(format!("the sample's config has no address at {pointer}"));
        match self.endpoint()? {
            Endpoint::Url(pointer) => {
                let text = config.pointer_mut(pointer).ok_or_else(|| wrong(pointer))?;
                let url = text.as_str().and_then(|text| Url::parse(text).ok());
                let mut url = url.ok_or_else(|| wrong(pointer))?;
                if !matches!(url.host(), Some(url::Host::Domain(_))) {
                    url.set_ip_host(address.ip()).map_err(|()| wrong(pointer))?;
                }
                url.set_port(Some(address.port())).map_err(|()| wrong(pointer))?;
                let had_slash = text.as_str().is_some_and(|text| text.ends_with('/'));
                let url = url.as_str();
                *text = if had_slash { url } else { url.trim_end_matches('/') }.into();
            }
            Endpoint::HostAndPort { host, port } => {
                let text = config.pointer_mut(host).ok_or_else(|| wrong(host))?;
                if text.as_str().is_some_and(|host| host.parse::<IpAddr>().is_ok()) {
                    *text = address.ip().to_string().into();
                }
                *config.pointer_mut(port).ok_or_else(|| wrong(port))? = address.port().into();
            }
            Endpoint::None => {}
        }
        match config {
            Value::Object(config) => Ok(config),
            _ => Err(wrong("")),
        }
    }

    /// A counterpart, or why there is none.
    pub(super) async fn counterpart(&self, behaviour: Behaviour) -> Result<Counterpart, Skip> {
        self.endpoint()?;
        Counterpart::start(behaviour).await.map_err(|error| Skip::new(format!("nothing can listen here: {error}")))
    }

    /// A relay before the real system.
    pub(super) async fn relay(&self, fault: Fault) -> Result<Counterpart, Skip> {
        let (host, port) = self.address()?;
        let system = System { network: Arc::clone(self.direct.network()), host, port };
        Counterpart::start_with(Behaviour::Relaying(Arc::new(system)), fault)
            .await
            .map_err(|error| Skip::new(format!("nothing can listen here: {error}")))
    }

    fn address(&self) -> Result<(String, u16), Skip> {
        let config = Value::Object(self.config.clone());
        let found = match self.endpoint()? {
            Endpoint::Url(pointer) => config.pointer(pointer).and_then(Value::as_str).and_then(|text| {
                let url = Url::parse(text).ok()?;
                let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
                Some((host, url.port_or_known_default()?))
            }),
            Endpoint::HostAndPort { host, port } => {
                let host = config.pointer(host).and_then(Value::as_str);
                let port = config.pointer(port).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
                host.map(str::to_owned).zip(port)
            }
            Endpoint::None => None,
        };
        found.ok_or_else(|| Skip::new("the sample's config does not say host and port, or a URL"))
    }

    /// How much the first call sends and receives, through a relay that changes nothing.
    pub(super) async fn totals(&self) -> Result<Totals, Skip> {
        let call = self.first_call()?;
        self.endpoint()?;
        let measure = async {
            let relay = self.relay(Fault::None).await.map_err(|Skip(why)| why)?;
            let way = self.led_to(relay.address).map_err(|Skip(why)| why)?;
            match self.answer(&way, call).await {
                Ok(()) => {}
                Err(fault) => return Err(format!("the system answers otherwise through a relay: {fault}")),
            }
            let counts = relay.counts();
            Ok(Totals { sent: counts.sent, received: counts.received })
        };
        self.totals.get_or_init(|| measure).await.clone().map_err(Skip::new)
    }

    pub(super) fn method(&self, name: &str) -> Result<Arc<CompiledMethod>, CallError> {
        let missing = |message: String| CallError::not_sent(ErrorCode::MethodNotFound, message);
        let definition = self.definition.as_ref().map_err(|_| missing("the definition cannot be used".to_owned()))?;
        let index = definition.method_index(name);
        let index = index.ok_or_else(|| missing(format!("the sample's definition has no method {name}")))?;
        definition
            .method(index)
            .map_err(|problems| missing(format!("the method {name} does not compile: {problems:?}")))
    }

    /// Makes a call as an execution makes one attempt: params checked and transformed, the
    /// answer transformed.
    pub(super) async fn call(&self, way: &Way<'_>, call: &SampleCall) -> Result<Value, CallError> {
        self.call_before(way, call, Instant::now() + way.patience).await
    }

    pub(super) async fn call_before(
        &self,
        way: &Way<'_>,
        call: &SampleCall,
        deadline: Instant,
    ) -> Result<Value, CallError> {
        let method = self.method(&call.method)?;
        let params = params_of(&method, call)?;
        let key = format!("conformance-{}", self.number());
        let attempt = Call {
            connection: self.connection(way, deadline),
            params: &params,
            idempotency_key: &key,
            traceparent: None,
            page: None,
        };
        let data = self.ended(way, deadline, "a call", method.operation.call(attempt)).await?.data;
        let told = |error: String| CallError::not_sent(ErrorCode::Upstream, error);
        let value = data.value().map_err(|error| {
            let bytes = data.text().len();
            self.complain(format!("a call succeeds with data that is not JSON ({bytes} bytes)"));
            told(error.to_string())
        })?;
        match &method.response_transform {
            Some(transform) => transform.apply(value).map_err(|error| told(error.to_string())),
            None => Ok(value.clone()),
        }
    }

    pub(super) async fn test(&self, way: &Way<'_>) -> Result<String, CallError> {
        let deadline = Instant::now() + way.patience;
        self.ended(way, deadline, "the connection test", self.adapter.test(self.connection(way, deadline))).await
    }

    /// Shows what a call would send.
    pub(super) fn preview(&self, way: &Way<'_>, call: &SampleCall) -> Result<Value, CallError> {
        let method = self.method(&call.method)?;
        let params = params_of(&method, call)?;
        self.preview_of(way, &method, &params)
    }

    pub(super) fn preview_of(
        &self,
        way: &Way<'_>,
        method: &CompiledMethod,
        params: &Params,
    ) -> Result<Value, CallError> {
        let connection = self.connection(way, Instant::now() + way.patience);
        let call = Call { connection, params, idempotency_key: "conformance", traceparent: None, page: None };
        let shown = std::panic::catch_unwind(AssertUnwindSafe(|| method.operation.preview(call)));
        let shown = shown.unwrap_or_else(|_| Err(self.broken("a dry run panics")));
        shown.inspect_err(|error| self.look_at(error, way.credential))
    }

    fn connection<'a>(&'a self, way: &'a Way<'a>, deadline: Instant) -> Connection<'a> {
        Connection {
            instance: &way.instance,
            config: &way.config,
            credential: way.credential,
            custom_auth: self.sample.definition.custom_auth.as_ref(),
            http: way.http,
            deadline,
            now: self.clock.now(),
        }
    }

    /// The end of what was begun; a panic and a hung call are the adapter's faults.
    async fn ended<T>(
        &self,
        way: &Way<'_>,
        deadline: Instant,
        what: &str,
        begun: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let ended = match timeout(left + HUNG_AFTER, AssertUnwindSafe(begun).catch_unwind()).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(_)) => Err(self.broken(&format!("{what} panics"))),
            Err(_) => Err(self.broken(&format!("{what} does not end with its deadline"))),
        };
        ended.inspect_err(|error| self.look_at(error, way.credential))
    }

    fn broken(&self, how: &str) -> CallError {
        self.complain(how.to_owned());
        CallError::not_sent(ErrorCode::Internal, how)
    }

    /// What holds of every error.
    fn look_at(&self, error: &CallError, credential: &Credential) {
        let code = error.code.as_str();
        let text = format!("{} {}", error.message, json!(error.details));
        if shows_secret(credential, &text) {
            self.complain(format!("an error {code} shows a secret of the credential"));
        }
        if error.message.trim().is_empty() || error.message.len() > MAX_MESSAGE {
            self.complain(format!("an error {code} has a message of {} bytes", error.message.len()));
        }
        if error.message.chars().any(char::is_control) {
            self.complain(format!("the message of an error {code} has control characters"));
        }
        if error.credential_refused && error.code != ErrorCode::Auth {
            self.complain(format!("a refused credential is told as {code}, expected AUTH_ERROR"));
        }
        if error.code == ErrorCode::EgressDenied && (error.effect != Effect::None || error.retryable) {
            self.complain("an error EGRESS_DENIED says that something happened, or may be repeated".to_owned());
        }
    }

    /// What is wrong with the answer to a call that works.
    pub(super) fn answered(&self, call: &SampleCall, answer: Result<Value, CallError>) -> Result<(), String> {
        match (answer, &call.data) {
            (Err(error), _) => Err(format!("{}: {}", call.method, told(&error))),
            (Ok(data), Some(expected)) if !holds(&data, expected) => {
                Err(format!("{} gives {}, expected {}", call.method, shortened(&data), shortened(expected)))
            }
            _ => Ok(()),
        }
    }

    /// Makes a call that works; what is wrong with its answer.
    pub(super) async fn answer(&self, way: &Way<'_>, call: &SampleCall) -> Result<(), String> {
        self.answered(call, self.call(way, call).await)
    }

    /// The call that a failing one differs from the first by.
    pub(super) fn failing(&self, failing: &FailingCall) -> Result<(SampleCall, Map<String, Value>), Skip> {
        let first = self.first_call()?;
        let mut config = self.config.clone();
        config.extend(failing.config.clone());
        let method = failing.method.clone().unwrap_or_else(|| first.method.clone());
        let params = failing.params.clone().unwrap_or_else(|| first.params.clone());
        Ok((SampleCall { method, params, data: None }, config))
    }
}

fn parse(credential: &SampleCredential, sample: &Sample, clock: &Clock) -> Result<Credential, String> {
    let (wants, now) = (AuthWants::of(&sample.definition), clock.now());
    let (parsed, _) = Credential::parse(credential.auth_type, &credential.data, wants, now)
        .map_err(|problems| format!("/credential{}", problems.first().map(ToString::to_string).unwrap_or_default()))?;
    let (signed, _) = parsed.signed(now).map_err(|error| error.to_string())?;
    Ok(signed)
}

fn endpoint_in(config: &Map<String, Value>) -> Option<Endpoint> {
    let url = ["baseUrl", "endpoint"].into_iter().find(|name| config.contains_key(*name));
    match url {
        Some(name) => Some(Endpoint::Url(format!("/{name}"))),
        None if config.contains_key("host") => {
            Some(Endpoint::HostAndPort { host: "/host".to_owned(), port: "/port".to_owned() })
        }
        None => None,
    }
}

fn params_of(method: &CompiledMethod, call: &SampleCall) -> Result<Params, CallError> {
    let refused = |problems: Vec<Problem>| {
        let problems = problems.into_iter();
        let at_params = problems.map(|problem| Problem::new(format!("/params{}", problem.pointer), problem.message));
        CallError::not_sent(ErrorCode::Validation, "the params do not fit the method's paramSchema")
            .with_detail("errors", json!(at_params.collect::<Vec<_>>()))
    };
    let params = Value::Object(call.params.clone());
    method.param_schema.validate(&params).map_err(refused)?;
    let transformed = method.request_transform.as_ref().map(|transform| transform.apply(&params)).transpose();
    match transformed {
        Ok(None) => Ok(Params::from_object(call.params.clone())),
        Ok(Some(Value::Object(params))) => Ok(Params::from_object(params)),
        Ok(Some(_)) => Err(CallError::not_sent(ErrorCode::Transform, "the request transform makes no object")),
        Err(error) => Err(CallError::not_sent(ErrorCode::Transform, error.to_string())),
    }
}

/// Whether a text shows a secret, as it is or in a form in which it travels.
pub(super) fn shows_secret(credential: &Credential, text: &str) -> bool {
    credential.redact(text) != text
}

/// An error in a few words.
pub(super) fn told(error: &CallError) -> String {
    let CallError { code, retryable, effect, message, .. } = error;
    let message: String = message.chars().filter(|c| !c.is_control()).take(300).collect();
    format!("{} (retryable: {retryable}, effect: {effect:?}): {message}", code.as_str())
}

/// The beginning of a value's text.
pub(super) fn shortened(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > 300 {
        text.truncate(text.floor_char_boundary(300));
        text.push('…');
    }
    text
}
