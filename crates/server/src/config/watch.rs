//! Reload of `rate_limits.yaml` without a restart: on SIGHUP, and when the file changes. A
//! wrong file is refused with a line in the log, and the limits before it stay.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{ConfigErrors, Environment, RATE_LIMITS_FILE, read_rate_limits};
use integration_engine::limits::LimitRules;

/// How often the file is looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(3);

/// What tells one state of a file from another: when it was written, and its length.
type Stamp = Option<(SystemTime, u64)>;

/// Watches the file of one configuration folder.
#[derive(Debug)]
pub struct RateLimitsWatcher {
    config_dir: PathBuf,
    environment: Environment,
    sender: watch::Sender<Arc<LimitRules>>,
    stamp: Stamp,
}

impl RateLimitsWatcher {
    /// Starts from limits that were read before; the receiver sees each new state.
    pub fn new(
        config_dir: PathBuf,
        environment: Environment,
        limits: LimitRules,
    ) -> (Self, watch::Receiver<Arc<LimitRules>>) {
        let (sender, receiver) = watch::channel(Arc::new(limits));
        let stamp = stamp_of(&config_dir);
        (Self { config_dir, environment, sender, stamp }, receiver)
    }

    /// Runs until `stop`; the task belongs to its caller. `hangups` is made by the caller
    /// too, early: until somebody listens, SIGHUP ends the process.
    pub async fn run(mut self, mut hangups: Signal, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        loop {
            let forced = tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => false,
                hangup = hangups.recv() => {
                    if hangup.is_none() {
                        return;
                    }
                    true
                }
            };
            // Reading a small file now and then may block a thread of the background runtime.
            match self.poll(forced) {
                Ok(true) => tracing::info!("rate limits reloaded"),
                Ok(false) => {}
                Err(errors) => {
                    for fault in errors.faults() {
                        tracing::error!("rate limits not reloaded, the old ones stay: {fault}");
                    }
                }
            }
        }
    }

    /// Looks at the file once; true where its limits were read and sent. Unless `forced`, a
    /// file that has not changed since is not read, so a wrong one is reported once.
    pub fn poll(&mut self, forced: bool) -> Result<bool, ConfigErrors> {
        let stamp = stamp_of(&self.config_dir);
        if stamp == self.stamp && !forced {
            return Ok(false);
        }
        self.stamp = stamp;
        let limits = read_rate_limits(&self.config_dir, &self.environment)?;
        self.sender.send_replace(Arc::new(limits));
        Ok(true)
    }
}

fn stamp_of(config_dir: &std::path::Path) -> Stamp {
    let metadata = std::fs::metadata(config_dir.join(RATE_LIMITS_FILE)).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
