//! The log line of one execution. It is written for every call, so it goes round the
//! general logger: one line made by hand, one queue.

use std::fmt::Write as _;
use std::time::Duration;

use integration_model::{ErrorCode, ExecutionId, Timestamp};

use super::now;
use super::writer::LogWriter;
use crate::config::{LogConfig, LogFormat, LogLevel};

/// What is said of one execution; nothing of it is secret.
#[derive(Debug, Clone)]
pub struct ExecutionLine<'a> {
    pub execution_id: ExecutionId,
    pub correlation_id: &'a str,
    pub trace_id: Option<&'a str>,
    pub tenant_id: &'a str,
    pub instance_id: &'a str,
    pub method: &'a str,
    /// `SUCCESS` or `ERROR`.
    pub status: &'a str,
    pub code: Option<ErrorCode>,
    pub duration: Duration,
    pub attempts: u32,
    pub cached: bool,
}

/// Writes the lines of executions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ExecutionLog {
    writer: LogWriter,
    format: LogFormat,
    level: LogLevel,
}

impl ExecutionLog {
    pub fn new(config: &LogConfig, writer: LogWriter) -> Self {
        Self { writer, format: config.format, level: config.level }
    }

    /// Queues the line of one execution; errors are warnings, all else is information.
    pub fn write(&self, line: &ExecutionLine<'_>) {
        let enabled = match self.level {
            LogLevel::Error => false,
            LogLevel::Warn => line.code.is_some(),
            LogLevel::Info | LogLevel::Debug | LogLevel::Trace => true,
        };
        if enabled {
            let text = match self.format {
                LogFormat::Json => json(line, now()),
                LogFormat::Text => plain(line, now()),
            };
            self.writer.write_line(text.into_bytes());
        }
    }
}

const TARGET: &str = "integration_service::execution";

fn json(line: &ExecutionLine<'_>, time: Timestamp) -> String {
    let mut out = String::with_capacity(512);
    let level = if line.code.is_some() { "WARN" } else { "INFO" };
    // Writing to a string does not fail.
    let _ = write!(out, r#"{{"timestamp":"{time}","level":"{level}","message":"execution","target":"{TARGET}""#);
    let _ = write!(out, r#","executionId":"{}""#, line.execution_id);
    push_field(&mut out, "correlationId", line.correlation_id);
    if let Some(trace_id) = line.trace_id {
        push_field(&mut out, "traceId", trace_id);
    }
    push_field(&mut out, "tenantId", line.tenant_id);
    push_field(&mut out, "instanceId", line.instance_id);
    push_field(&mut out, "method", line.method);
    push_field(&mut out, "status", line.status);
    if let Some(code) = line.code {
        push_field(&mut out, "code", code.as_str());
    }
    let millis = line.duration.as_millis();
    let _ = write!(out, r#","durationMs":{millis},"attempts":{},"cached":{}}}"#, line.attempts, line.cached);
    out.push('\n');
    out
}

fn push_field(out: &mut String, name: &str, value: &str) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":\"");
    push_escaped(out, value);
    out.push('"');
}

/// Escapes as JSON strings ask; line separators too, which some readers of lines break at.
fn push_escaped(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

fn plain(line: &ExecutionLine<'_>, time: Timestamp) -> String {
    let code = line.code.map_or("", ErrorCode::as_str);
    let level = if line.code.is_some() { "WARN" } else { "INFO" };
    format!(
        "{time} {level:>5} execution {} {}/{} {}{}{code} in {:.1?}, attempts {}{} correlationId={}\n",
        line.execution_id,
        line.instance_id.escape_debug(),
        line.method.escape_debug(),
        line.status,
        if code.is_empty() { "" } else { " " },
        line.duration,
        line.attempts,
        if line.cached { ", cached" } else { "" },
        line.correlation_id.escape_debug(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::writer::tests::Buffer;
    use super::*;

    fn line(method: &str) -> ExecutionLine<'_> {
        ExecutionLine {
            execution_id: ExecutionId::parse("01890a5d-ac96-774b-bcce-b302099a8057").expect("an id"),
            correlation_id: "c-1",
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736"),
            tenant_id: "default",
            instance_id: "petshop",
            method,
            status: "ERROR",
            code: Some(ErrorCode::Timeout),
            duration: Duration::from_micros(1_042),
            attempts: 2,
            cached: false,
        }
    }

    #[test]
    fn a_line_is_one_json_object_whatever_its_texts_hold() {
        let method = "a\"b\\c\nd\u{1}\u{2028}\u{7f}é";
        let text = json(&line(method), Timestamp::from_micros(1_700_000_000_123_456));
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["method"], method);
        assert_eq!(value["timestamp"], "2023-11-14T22:13:20.123Z");
        assert_eq!(value["durationMs"], 1);
        assert_eq!(value["code"], "TIMEOUT");
        assert_eq!(value["attempts"], 2);
    }

    #[test]
    fn the_level_decides_which_lines_are_written() {
        for (level, lines) in [(LogLevel::Error, 0), (LogLevel::Warn, 1), (LogLevel::Info, 2)] {
            let buffer = Buffer::default();
            let (writer, guard) = LogWriter::start(buffer.clone()).expect("a thread");
            let log = ExecutionLog::new(&LogConfig { level, format: LogFormat::Text }, writer);
            log.write(&line("getPet"));
            log.write(&ExecutionLine { code: None, status: "SUCCESS", ..line("getPet") });
            drop(guard);
            assert_eq!(buffer.text().lines().count(), lines, "{level:?}");
        }
    }
}
