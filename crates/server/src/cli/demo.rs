//! `demo`: the whole service for a moment, in a folder of its own, with a sandbox to call.
//! Owns the process: folder, log, signals. What is shown is the tour's.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use integration_engine::limits::LimitRules;
use url::Url;

use super::client::Client;
use super::serve::StopSignals;
use super::terminal::say;
use crate::access::generate_key;
use crate::app::{App, AppParts};
use crate::config::{Config, Integrations, LogFormat, Secret};
use crate::demo::{Sandbox, Tour};
use crate::telemetry::{self, ExecutionLog, LogWriter, Metrics};

#[derive(Debug, Args)]
pub(super) struct DemoArguments {
    /// End when everything was shown, instead of staying up to be looked at.
    #[arg(long)]
    once: bool,
    /// The port of the service [default: a free one].
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u16,
}

/// Somebody ended the demo before it had shown everything.
#[derive(Debug, thiserror::Error)]
#[error("the demo was interrupted before everything was shown; its temporary folder is removed")]
struct Interrupted;

/// How long the last log lines may take to be written.
const LOG_FLUSH: Duration = Duration::from_secs(2);
/// How long background work may take to end after the last request.
const BACKGROUND_STOP: Duration = Duration::from_secs(2);

pub(super) fn run(arguments: &DemoArguments) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("integration-service-demo-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .context("cannot make a temporary folder")?;
    match demonstrate(arguments, folder.path()) {
        Ok(()) => {
            folder.close().context("the temporary folder could not be removed")?;
            say("The demo has ended; its temporary folder is removed.");
            Ok(())
        }
        Err(error) if error.is::<Interrupted>() => {
            folder.close().context("the temporary folder could not be removed")?;
            Err(error)
        }
        Err(error) => {
            let kept = folder.keep();
            Err(error.context(format!("the demo failed; its data and log are kept in {}", kept.display())))
        }
    }
}

fn demonstrate(arguments: &DemoArguments, folder: &Path) -> anyhow::Result<()> {
    let config = configuration(arguments, folder);
    let file = File::create(folder.join("service.log")).context("cannot make the log file")?;
    let (writer, log) = LogWriter::start(file).context("cannot start the log's thread")?;
    let execution_log = ExecutionLog::new(&config.log, writer.clone());
    telemetry::install_logger(&config.log, writer).context("cannot install the logger")?;
    let metrics = Metrics::install().context("cannot install the metrics recorder")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let result = runtime.block_on(show(arguments, config, metrics, execution_log));
    runtime.shutdown_timeout(BACKGROUND_STOP);
    log.flush(LOG_FLUSH);
    result
}

/// The defaults in a folder of their own: neither files nor the environment change a demo.
fn configuration(arguments: &DemoArguments, folder: &Path) -> Config {
    let mut config = Config { data_dir: folder.join("data"), ..Config::default() };
    config.server.port = arguments.port;
    config.server.shutdown_timeout_ms = 3_000;
    // The log's file is no terminal, whatever standard output is.
    config.log.format = LogFormat::Json;
    config
}

async fn show(
    arguments: &DemoArguments,
    mut config: Config,
    metrics: Metrics,
    execution_log: ExecutionLog,
) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen().context("cannot listen for signals")?;
    let sandbox = Sandbox::start().await.context("the sandbox cannot be started")?;
    config.http.egress_allow = vec![sandbox.address().ip().to_string()];
    let admin_key = generate_key()?;
    let app = App::start(AppParts {
        config,
        integrations: Integrations::default(),
        rate_limits: LimitRules::default(),
        admin_key: admin_key.clone(),
        metrics,
        execution_log,
        new_limits: None,
    })
    .await?;

    let url = Url::parse(&format!("http://{}", app.address())).context("the service's own address")?;
    let result = tokio::select! {
        result = take_tour(url, admin_key, &sandbox) => result,
        () = signals.next() => Err(Interrupted.into()),
    };
    if result.is_ok() && !arguments.once {
        say("\nThe service stays up to be looked at. Ctrl-C ends it.");
        signals.next().await;
    }
    app.stop().await;
    result
}

/// The tour has a thread of its own, as its client waits for each answer.
async fn take_tour(url: Url, admin_key: Secret, sandbox: &Sandbox) -> anyhow::Result<()> {
    let witness = sandbox.witness();
    let tour = move || Tour::new(Client::to(url.clone(), &admin_key)?, url, admin_key, witness).run();
    match tokio::task::spawn_blocking(tour).await {
        Ok(result) => result,
        Err(error) => bail!("the tour broke off: {error}"),
    }
}
