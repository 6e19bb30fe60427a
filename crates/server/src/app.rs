//! The service put together: store, engine, background work, HTTP. Owns the order in which
//! the parts start and stop; `serve`, `demo` and the tests start the same whole.

use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use integration_engine::adapter::AdapterSettings;
use integration_engine::http_client::{HttpClient, HttpClientSettings};
use integration_engine::limits::LimitRules;
use integration_engine::network::EgressPolicy;
use integration_engine::registry::PolicyDefaults;
use integration_engine::{Engine, EngineSettings};
use integration_model::audit::{AuditAction, AuditDraft, TargetType};
use integration_model::execution::{Execution, ExecutionStatus};
use integration_model::principal::Principal;
use integration_store::{Clock, LOG_CHUNK_ROWS, Store, StoreOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{AccessKey, Authenticator, Services, TokenVerifier};
use crate::api::oauth::CALLBACK_PATH;
use crate::config::{Config, Integrations, Secret};
use crate::custody::{external_secrets, keyring};
use crate::fast_path::ExecutePath;
use crate::seed;
use crate::serve::{FastPath, Handlers, ServeOptions, Server};
use crate::state::AppState;
use crate::telemetry::Metrics;
use crate::telemetry::execution_log::{ExecutionLine, ExecutionLog};
use crate::tls::Tls;

/// How long background work may take to end after the last request.
const BACKGROUND_STOP: Duration = Duration::from_secs(10);
/// How often partitions whose retention has passed are looked for.
const RETENTION_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// How often credentials that the credential store did not take are offered to it again.
const DEFERRED_INTERVAL: Duration = Duration::from_secs(60);
/// How often the uses of credentials and instances are written.
const USES_INTERVAL: Duration = Duration::from_secs(1);
/// How often spools of dead processes are looked for, and it is put down where the audit ends.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How often what came into the logs is indexed.
const LOG_INDEX_INTERVAL: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What the service is made of.
pub struct AppParts {
    pub config: Config,
    pub integrations: Integrations,
    pub rate_limits: LimitRules,
    pub admin_key: Secret,
    pub metrics: Metrics,
    pub execution_log: ExecutionLog,
    /// Gives new limits as they come; none where nobody watches the file.
    pub new_limits: Option<watch::Receiver<Arc<LimitRules>>>,
}

/// The running service.
pub struct App {
    server: Server,
    engine: Arc<Engine>,
    stopping: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
    shutdown_timeout: Duration,
}

impl App {
    /// Starts everything; callers are served when this returns.
    pub async fn start(parts: AppParts) -> anyhow::Result<Self> {
        let AppParts { config, integrations, rate_limits, admin_key, metrics, execution_log, new_limits } = parts;
        let tls = callers_tls(&config)?;
        let options = ServeOptions::from_config(&config.server, tls.clone()).context("the host is no address")?;
        let workers = options.workers;
        let store = open_store(&config, workers + 1).await?;
        let http = http_client(&config, workers)?;
        let engine = Arc::new(Engine::new(
            store,
            http,
            engine_settings(&config),
            rate_limits,
            Arc::new(LogObserver(execution_log)),
        ));
        // What it does at start is larger than what is done later.
        let to_connect = Box::pin(seed::register(&engine, integrations)).await?;
        warn_of_missing_adapters(&engine).await?;

        let stop = CancellationToken::new();
        let stopping = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(metrics.clone().run_upkeep(stop.clone()));
        tasks.spawn(Arc::clone(&engine).run_queue(stop.clone()));
        tasks.spawn({
            let (engine, stop) = (Arc::clone(&engine), stop.clone());
            async move { stop.run_until_cancelled(Box::pin(seed::connect(&engine, to_connect))).await }
        });
        tasks.spawn(Arc::clone(&engine).run_refresh(stop.clone()));
        tasks.spawn(Arc::clone(&engine).follow_changes(stop.clone()));
        tasks.spawn(Arc::clone(&engine).run_connections(stop.clone()));
        tasks.spawn(Arc::clone(&engine).run_rotation_reminders(stop.clone()));
        tasks.spawn(every(USES_INTERVAL, Arc::clone(&engine), stop.clone(), write_uses));
        tasks.spawn(every(LOG_INTERVAL, Arc::clone(&engine), stop.clone(), tend_log));
        tasks.spawn(every(LOG_INDEX_INTERVAL, Arc::clone(&engine), stop.clone(), index_logs));
        tasks.spawn(every(RETENTION_INTERVAL, Arc::clone(&engine), stop.clone(), drop_old_partitions));
        tasks.spawn(every(DEFERRED_INTERVAL, Arc::clone(&engine), stop.clone(), move_deferred_credentials));
        if let Some(receiver) = new_limits {
            tasks.spawn(follow_limits(Arc::clone(&engine), receiver, stop.clone()));
        }

        if let Some(tls) = tls {
            let hangups = signal(SignalKind::hangup()).context("cannot listen for signals")?;
            tasks.spawn(tls.follow(hangups, stop.clone()));
        }

        let openapi = crate::router::describe().to_json().context("the API's description cannot be written")?;
        let authenticator = authenticator(&engine, &admin_key, &config, workers, &tasks, &stop).await?;
        let state = AppState {
            engine: Arc::clone(&engine),
            authenticator,
            metrics,
            stopping: stopping.clone(),
            openapi: Arc::from(openapi),
        };
        let router = crate::router::build(state.clone());
        let fast_path: Arc<dyn FastPath> = Arc::new(ExecutePath::new(state));
        let handlers = Handlers { router, fast_path: Some(fast_path) };
        let server = Server::start(options, move |_| handlers.clone())?;
        engine.set_callback_url(format!("{}{CALLBACK_PATH}", config.server.public_url(server.address())));
        let url = format!("{}://{}", config.server.scheme(), server.address());
        tracing::info!(address = %server.address(), url, workers, "serving");
        Ok(Self { server, engine, stopping, stop, tasks, shutdown_timeout: config.server.shutdown_timeout() })
    }

    /// The address that callers reach.
    pub fn address(&self) -> std::net::SocketAddr {
        self.server.address()
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Stops accepting, lets what runs finish, flushes what is to be written.
    pub async fn stop(self) {
        self.stopping.cancel();
        self.server.stop();
        let deadline = tokio::time::Instant::now() + self.shutdown_timeout;
        self.server.stopped().await;
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(self.shutdown_timeout + BACKGROUND_STOP, self.tasks.wait()).await.is_err() {
            tracing::warn!("background work did not end in time");
        }
        self.engine.drain(deadline).await;
        self.engine.store().close().await;
    }
}

/// Says which definitions cannot execute here. It is no reason not to start: the others do.
async fn warn_of_missing_adapters(engine: &Engine) -> anyhow::Result<()> {
    let incompatible = engine.check_adapters().await.context("cannot check the definitions' adapters")?;
    for definition in incompatible.iter() {
        tracing::warn!(
            definition = %definition.definition_id, version = definition.version,
            "no adapter runs this definition, and calls of its instances are refused: {}", definition.message
        );
    }
    Ok(())
}

/// The TLS that callers speak, where they do.
fn callers_tls(config: &Config) -> anyhow::Result<Option<Arc<Tls>>> {
    if !config.server.tls.is_on() {
        return Ok(None);
    }
    let tls = Tls::load(&config.server.tls).map_err(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("server.tls is not usable: {}", problems.join("; "))
    })?;
    Ok(Some(Arc::new(tls)))
}

/// Knows all keys, and follows their changes.
async fn authenticator(
    engine: &Engine,
    admin_key: &Secret,
    config: &Config,
    workers: usize,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Authenticator> {
    let store = engine.store();
    let failures = config.access.failed_attempts_per_minute;
    let services = Services::new(&config.access, config.server.tls.takes_client_certificates());
    let mut authenticator = Authenticator::new(AccessKey::admin(admin_key), store.clock().clone(), failures);
    authenticator = authenticator.with_services(services);
    if !config.access.jwt.is_empty() {
        let http = Arc::new(http_client(config, workers)?);
        authenticator =
            authenticator.with_tokens(TokenVerifier::new(&config.access.jwt, &http, store.clock().clone())?);
    }
    let seen = store.last_change().await.context("cannot read the API keys")?;
    authenticator.read_keys(store).await.context("cannot read the API keys")?;
    tasks.spawn(authenticator.clone().follow_keys(store.clone(), seen, stop.clone()));
    Ok(authenticator)
}

/// Opens the database with the master keys that belong to it. `shards` is the number of
/// threads that will use it.
pub async fn open_store(config: &Config, shards: usize) -> anyhow::Result<Store> {
    // What is made here is for this user alone: the log holds params and answers.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data_dir)
        .with_context(|| format!("cannot make the data folder {}", config.data_dir.display()))?;
    let options = StoreOptions {
        database_url: config.database_url().expose().to_owned(),
        keys: keyring(config, shards)?,
        secrets: external_secrets(config, shards)?,
        fallback: config.vault.fallback.into(),
        clock: Clock::system(),
        execution_retention: DAY * config.database.execution_retention_days,
        event_retention: DAY * config.database.event_retention_days,
        audit_retention: DAY * config.database.audit_retention_days,
        spool_folder: config.spool_folder(),
        max_connections: config.database.max_connections,
        journal_sync: config.database.journal_sync.into(),
    };
    Store::open(options).await.context("cannot open the database")
}

fn http_client(config: &Config, workers: usize) -> anyhow::Result<HttpClient> {
    let policy = EgressPolicy::parse(config.http.egress_allow.iter().map(String::as_str)).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("http.egressAllow: {}", faults.join("; "))
    })?;
    let settings = HttpClientSettings {
        connect_timeout: Duration::from_millis(config.http.connect_timeout_ms),
        idle_timeout: Duration::from_millis(config.http.pool_idle_timeout_ms),
        max_idle_per_host: config.http.max_idle_per_host,
        // One for each serving thread, and one for what runs in the background.
        shards: workers + 1,
        max_response_bytes: config.http.max_response_bytes,
    };
    HttpClient::new(settings, policy).context("outbound HTTP cannot be set up")
}

fn engine_settings(config: &Config) -> EngineSettings {
    EngineSettings {
        default_timeout: Duration::from_millis(config.execution.default_timeout_ms),
        max_timeout: Duration::from_millis(config.execution.max_timeout_ms),
        max_pages: config.execution.max_pages,
        max_collected_bytes: config.http.max_response_bytes,
        keep_params: config.execution.keep_params,
        max_concurrent: config.execution.max_concurrent,
        cache_bytes: config.cache.max_bytes,
        async_workers: config.execution.async_workers,
        policies: PolicyDefaults {
            retry: config.execution.retry.clone(),
            circuit_breaker: config.execution.circuit_breaker,
        },
        rotation_reminder: DAY * config.credentials.rotation_reminder_days,
        lease: Duration::from_millis(config.execution.lease_ms),
        return_urls: config.oauth.return_urls(),
        adapters: AdapterSettings {
            sqlite_folder: config.adapters.sqlite.folder.clone(),
            storage_folder: config.adapters.storage.folder.clone(),
        },
    }
}

/// Does something at once and then again and again, until the service stops.
async fn every<W: Future<Output = ()>>(
    interval: Duration,
    engine: Arc<Engine>,
    stop: CancellationToken,
    work: impl Fn(Arc<Engine>) -> W,
) {
    let mut ticks = tokio::time::interval(interval);
    // Where it took longer than that, it is not done more often afterwards.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        work(Arc::clone(&engine)).await;
    }
}

async fn drop_old_partitions(engine: Arc<Engine>) {
    match engine.store().drop_expired_partitions().await {
        Ok(dropped) if dropped.is_empty() => {}
        Ok(dropped) => tracing::info!(partitions = ?dropped, "dropped partitions whose retention has passed"),
        Err(error) => tracing::error!(error = %error, "old partitions could not be dropped"),
    }
    match engine.store().keep_audit_head().await {
        // Where logs are kept elsewhere, so is this.
        Ok(head) => tracing::info!(audit.head = %head, "where the audit ends"),
        Err(error) => tracing::error!(error = %error, "where the audit ends could not be put down"),
    }
    if let Err(error) = engine.store().purge_expired_claims(10_000).await {
        tracing::error!(error = %error, "old idempotency keys could not be dropped");
    }
    if let Err(error) = engine.store().purge_deliveries(100_000).await {
        tracing::error!(error = %error, "old deliveries of webhooks could not be forgotten");
    }
    if let Err(error) = engine.store().purge_changes().await {
        tracing::error!(error = %error, "old changes could not be dropped");
    }
}

async fn write_uses(engine: Arc<Engine>) {
    // They are kept, and written at a later time.
    if let Err(error) = engine.store().write_uses().await {
        tracing::debug!(%error, "the uses of credentials and instances could not be written");
    }
}

/// Commits what processes that died left in their spools, and puts down where the audit ends.
async fn tend_log(engine: Arc<Engine>) {
    match engine.store().recover_spool().await {
        Ok(0) => {}
        Ok(lines) => tracing::warn!(lines, "what waited in the spool is committed"),
        Err(error) => tracing::error!(error = %error, "what waits in the spool could not be committed"),
    }
    if let Err(error) = engine.store().keep_audit_head().await {
        tracing::error!(error = %error, "where the audit ends could not be put down");
    }
}

async fn index_logs(engine: Arc<Engine>) {
    // Lists are slower until a later time succeeds.
    if let Err(error) = engine.store().index_logs(LOG_CHUNK_ROWS).await {
        tracing::warn!(%error, "what came into the logs could not be indexed by instance");
    }
}

async fn move_deferred_credentials(engine: Arc<Engine>) {
    match engine.store().move_deferred_credentials().await {
        Ok(0) => {}
        Ok(moved) => tracing::info!(credentials = moved, "credentials were moved to the credential store"),
        Err(error) if error.is_unavailable() => {}
        Err(error) => {
            tracing::warn!(error = %error.chain(), "credentials could not be moved to the credential store")
        }
    }
}

async fn follow_limits(engine: Arc<Engine>, mut receiver: watch::Receiver<Arc<LimitRules>>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = receiver.changed() => if changed.is_err() { return },
        }
        let rules = receiver.borrow_and_update().clone();
        engine.replace_limits((*rules).clone());
        let audit = AuditDraft::done(
            AuditAction::ConfigurationReloaded,
            &Principal::system().name,
            "the file changed",
            "configuration",
        )
        .to(TargetType::Configuration, "rate_limits.yaml");
        if let Err(error) = engine.store().append_audit(audit, None, None, None).await {
            tracing::error!(error = %error, "that limits were reloaded could not be put into the audit");
        }
        tracing::info!("new rate limits are in force");
    }
}

/// Writes the line of each execution.
struct LogObserver(ExecutionLog);

impl integration_engine::ExecutionObserver for LogObserver {
    fn finished(&self, execution: &Execution, traceparent: Option<&str>) {
        self.0.write(&ExecutionLine {
            execution_id: execution.id,
            correlation_id: &execution.correlation_id,
            trace_id: traceparent.and_then(|parent| parent.get(3..35)),
            tenant_id: execution.tenant_id.as_str(),
            instance_id: execution.integration_instance_id.as_str(),
            method: &execution.method_name,
            status: if execution.status == ExecutionStatus::Success { "SUCCESS" } else { "ERROR" },
            code: execution.error.as_ref().map(|error| error.code),
            duration: Duration::from_millis(execution.duration_ms.unwrap_or_default()),
            attempts: execution.attempts,
            cached: execution.cached,
        });
    }
}
