//! `serve`: the process from its start to its end. Owns the order in which the parts start
//! and stop.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::ConfigArguments;
use super::terminal::complain;
use crate::access::generate_key;
use crate::app::{App, AppParts};
use crate::config::watch::RateLimitsWatcher;
use crate::config::{Config, Environment, Flags, Loaded, Secret, is_admin_key};
use crate::telemetry::execution_log::ExecutionLog;
use crate::telemetry::{self, LogWriter, Metrics};

#[derive(Debug, Args)]
pub(super) struct ServeArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// The address to listen on [default: 127.0.0.1].
    #[arg(long)]
    host: Option<String>,
    /// The port to listen on; 0 takes a free one [default: 8002].
    #[arg(long)]
    port: Option<u16>,
}

/// How long the last log lines may take to be written.
const LOG_FLUSH: Duration = Duration::from_secs(2);

/// How long background work may take to end after the last request.
const BACKGROUND_STOP: Duration = Duration::from_secs(10);

pub(super) fn run(arguments: &ServeArguments, environment: &Environment) -> anyhow::Result<()> {
    let flags = Flags { host: arguments.host.clone(), port: arguments.port, ..arguments.config.flags() };
    let loaded = Config::load(&flags, environment).context("the configuration is faulty, so nothing was started")?;
    let (writer, log) = LogWriter::start(std::io::stdout()).context("cannot start the log's thread")?;
    let execution_log = ExecutionLog::new(&loaded.config.log, writer.clone());
    telemetry::install_logger(&loaded.config.log, writer).context("cannot install the logger")?;
    let metrics = Metrics::install().context("cannot install the metrics recorder")?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let background = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("background")
        .enable_all()
        .build()
        .context("cannot start the background runtime")?;
    let result = background.block_on(serve(loaded, environment, metrics, execution_log));
    background.shutdown_timeout(BACKGROUND_STOP);
    log.flush(LOG_FLUSH);
    result
}

async fn serve(
    loaded: Loaded,
    environment: &Environment,
    metrics: Metrics,
    execution_log: ExecutionLog,
) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen().context("cannot listen for signals")?;
    let hangups = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let admin_key = admin_key(&loaded.config)?;
    let stop = CancellationToken::new();
    let (watcher, new_limits) =
        RateLimitsWatcher::new(loaded.config_dir, environment.clone(), loaded.rate_limits.clone());
    let watching = tokio::spawn(watcher.run(hangups, stop.clone()));
    let app = App::start(AppParts {
        config: loaded.config,
        integrations: loaded.integrations,
        rate_limits: loaded.rate_limits,
        admin_key,
        metrics,
        execution_log,
        new_limits: Some(new_limits),
    })
    .await?;

    signals.next().await;
    tracing::info!("stopping: running requests may finish; a second signal stops at once");
    // Whoever does not want to wait sends a second signal.
    tokio::spawn(async move {
        signals.next().await;
        complain("stopped at once by a second signal");
        std::process::exit(1);
    });
    app.stop().await;
    stop.cancel();
    watching.await.context("the watcher of the rate limits broke off")?;
    tracing::info!("stopped");
    Ok(())
}

/// SIGTERM and SIGINT.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The admin key: as given, or from its file, which the first start makes.
fn admin_key(config: &Config) -> anyhow::Result<Secret> {
    if let Some(key) = &config.access.admin_key {
        return Ok(key.clone());
    }
    let path = config.admin_key_file();
    let shown = path.display().to_string();
    match std::fs::read_to_string(&path) {
        Ok(text) if is_admin_key(text.trim()) => return Ok(Secret::new(text.trim())),
        Ok(_) => anyhow::bail!("{shown} holds no admin key; delete it to have a new one made"),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read the admin key from {shown}")),
    }
    let key = generate_key()?;
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot make the data folder {}", config.data_dir.display()))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot make {shown}"))?;
    writeln!(file, "{}", key.expose())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {shown}"))?;
    complain(&format!("The admin key, shown this once and kept in {shown}:\n\n    {}\n", key.expose()));
    Ok(key)
}
