//! `openapi`: prints the service's description, as a running service serves it.

use anyhow::Context as _;

use super::terminal::say;

pub(super) fn run() -> anyhow::Result<()> {
    let document = crate::router::describe().to_pretty_json().context("the description cannot be written")?;
    say(&document);
    Ok(())
}
