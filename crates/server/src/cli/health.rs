//! `health`: asks a running service whether it can do its work.

use anyhow::bail;
use http::Method;

use super::client::{Client, ServiceArguments};
use super::terminal::say;
use crate::config::Environment;

pub(super) fn run(arguments: &ServiceArguments, environment: &Environment) -> anyhow::Result<()> {
    // Health is open to all: a missing key must not hide the answer.
    let answer = Client::without_key(arguments, environment)?.send(Method::GET, "/health/ready", None)?;
    say(&answer.pretty());
    if !answer.status.is_success() {
        bail!("the service is not ready");
    }
    Ok(())
}
