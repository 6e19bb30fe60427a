//! Logs and metrics. Owns how lines look and where they go, and what each metric means.
//! Must not know what is being measured or logged.

pub mod execution_log;
pub mod metrics;
mod writer;

use std::io::IsTerminal as _;

use integration_model::Timestamp;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

pub use execution_log::{ExecutionLine, ExecutionLog};
pub use metrics::Metrics;
pub use writer::{LogGuard, LogWriter};

use crate::config::{LogConfig, LogFormat, LogLevel};

/// The crates whose lines are shown at the level that is configured; others are shown from
/// their warnings on, as their detail is about themselves.
const OWN_CRATES: &[&str] = &["integration_service", "integration_engine", "integration_store"];

/// Sends the process's log lines to `writer`. Fails where a logger is installed already.
pub fn install_logger(config: &LogConfig, writer: LogWriter) -> Result<(), TryInitError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(config.level))
        .with_timer(Clock)
        .with_ansi(config.format == LogFormat::Text && std::io::stdout().is_terminal())
        .with_writer(writer);
    match config.format {
        LogFormat::Json => {
            builder.json().flatten_event(true).with_current_span(false).with_span_list(false).finish().try_init()
        }
        LogFormat::Text => builder.finish().try_init(),
    }
}

fn filter(level: LogLevel) -> EnvFilter {
    let level = level_name(level);
    let directives: Vec<String> = OWN_CRATES.iter().map(|name| format!("{name}={level}")).collect();
    EnvFilter::new(format!("{},{}", if level == "error" { "error" } else { "warn" }, directives.join(",")))
}

const fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

/// RFC 3339 with milliseconds, as everywhere in the service.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        write!(w, "{}", now())
    }
}

fn now() -> Timestamp {
    #[expect(
        clippy::disallowed_methods,
        reason = "log lines tell the time of the wall, whatever clock the store was given"
    )]
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::EPOCH.saturating_add(since_epoch)
}
