//! `audit …`: checks the chain of the audit's rows, and exports them. Reads the database, also
//! while the service runs.

use std::io::Write as _;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use futures_util::{StreamExt as _, pin_mut};
use integration_model::audit::{AuditAction, TargetType};
use integration_model::{InstanceId, TenantId, Timestamp};
use integration_store::{AuditFilter, AuditHead, AuditReport, Store};

use super::ConfigArguments;
use super::terminal::{complain, say};
use crate::api::audit::export_lines;
use crate::app::open_store;
use crate::config::Environment;

/// After how many rows a check says how far it is.
const PROGRESS: u64 = 100_000;

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Check every row of the audit against the chain of hashes, and print where it ends.
    ///
    /// Ends with 1 where a row was changed, removed, added or moved, and says which.
    Verify(VerifyArguments),
    /// Write the audit to standard output, one JSON object a line, the oldest entries first.
    Export(Box<ExportArguments>),
}

#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    /// A head that an earlier check printed and that was kept elsewhere: the chain has to go
    /// through it.
    #[arg(long, value_name = "SEQUENCE:HASH")]
    expect_head: Option<AuditHead>,
    #[command(flatten)]
    config: ConfigArguments,
}

#[derive(Debug, Args)]
pub(super) struct ExportArguments {
    /// RFC 3339; the earliest.
    #[arg(long, value_parser = Timestamp::parse)]
    from: Option<Timestamp>,
    /// RFC 3339; before this [default: now].
    #[arg(long, value_parser = Timestamp::parse)]
    until: Option<Timestamp>,
    /// Who did it.
    #[arg(long)]
    principal: Option<String>,
    /// What was done, such as instance.created; several separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = parse_action)]
    action: Vec<AuditAction>,
    /// Of what belongs to this tenant.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Of this instance.
    #[arg(long)]
    instance: Option<InstanceId>,
    #[command(flatten)]
    config: ConfigArguments,
}

fn parse_action(text: &str) -> Result<AuditAction, String> {
    AuditAction::parse(text).ok_or_else(|| {
        let known: Vec<_> = AuditAction::ALL.iter().map(|action| action.as_str()).collect();
        format!("expected one of {}", known.join(", "))
    })
}

pub(super) fn run(command: AuditCommand, environment: &Environment) -> anyhow::Result<()> {
    let config = match &command {
        AuditCommand::Verify(arguments) => &arguments.config,
        AuditCommand::Export(arguments) => &arguments.config,
    };
    let config = config.load(environment).context("the configuration is faulty")?.config;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    runtime.block_on(async {
        let store = open_store(&config, 1).await?;
        let done = match command {
            AuditCommand::Verify(arguments) => verify(&store, arguments.expect_head).await,
            AuditCommand::Export(arguments) => export(&store, *arguments).await,
        };
        store.close().await;
        done
    })
}

async fn verify(store: &Store, expected: Option<AuditHead>) -> anyhow::Result<()> {
    let mut told = 0;
    let progress = move |rows: u64| {
        if rows >= told + PROGRESS {
            told = rows;
            complain(&format!("{rows} rows fit"));
        }
    };
    let AuditReport { rows, anchor, head, newest, fault } =
        store.verify_audit(expected, progress).await.context("the audit cannot be read")?;
    if anchor.sequence > 0 {
        say(&format!("rows up to {} were dropped by retention", anchor.sequence));
    }
    let newest = newest.map(|time| format!(", the newest of {time}")).unwrap_or_default();
    say(&format!("{rows} rows fit{newest}"));
    if let Some(fault) = fault {
        let time = fault.time.map(|time| format!(" of {time}")).unwrap_or_default();
        bail!("the audit is not whole: row {}{time}, {}: {}", fault.sequence, fault.kind.as_str(), fault.message);
    }
    if expected.is_some_and(|expected| expected.sequence <= anchor.sequence && expected != anchor) {
        bail!("the expected head is older than the rows that are kept, so that it cannot be compared");
    }
    say(&format!("head {head}"));
    Ok(())
}

async fn export(store: &Store, arguments: ExportArguments) -> anyhow::Result<()> {
    let filter = AuditFilter {
        tenant: arguments.tenant,
        principal: arguments.principal,
        actions: arguments.action,
        target: arguments.instance.map(|id| (TargetType::Instance, id.to_string())),
        from: arguments.from,
        until: arguments.until,
    };
    let lines = export_lines(store.clone(), filter);
    pin_mut!(lines);
    while let Some(lines) = lines.next().await {
        let lines = lines.context("the audit cannot be read")?;
        std::io::stdout().lock().write_all(&lines).context("the export cannot be written")?;
    }
    Ok(())
}
