//! `api-keys …`: makes, lists and revokes API keys in the database, beside a service that runs.

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use integration_model::api_key::{ApiKey, NewApiKey};
use integration_model::page::PageRequest;
use integration_model::principal::{Grant, Principal, Role};
use integration_model::{TenantId, Timestamp};
use integration_store::Store;

use super::ConfigArguments;
use super::terminal::{complain, say};
use crate::access::{create_api_key, list_api_keys, revoke_api_key};
use crate::app::open_store;
use crate::config::Environment;
use crate::error::ApiError;

#[derive(Debug, Subcommand)]
pub(super) enum ApiKeysCommand {
    /// Make a key and print it, this once.
    Create(CreateArguments),
    /// List the keys, the newest first; not the keys themselves.
    List(ListArguments),
    /// Revoke a key. A running service refuses it within a second.
    Revoke(RevokeArguments),
}

#[derive(Debug, Args)]
pub(super) struct CreateArguments {
    /// What the key is for.
    name: String,
    /// admin, developer, operator, credential_manager, executor, auditor or monitor; several
    /// separated by commas.
    #[arg(long = "role", value_delimiter = ',', value_parser = parse_role)]
    roles: Vec<Role>,
    /// INSTANCE for all of its methods, INSTANCE:METHOD,METHOD for some; may come several times.
    #[arg(long = "grant", value_parser = parse_grant)]
    grants: Vec<Grant>,
    /// The tenant that the key is bound to [default: none, it acts for all].
    #[arg(long)]
    tenant: Option<TenantId>,
    /// When it expires, such as 2027-01-31T00:00:00Z [default: never].
    #[arg(long, value_parser = Timestamp::parse)]
    expires: Option<Timestamp>,
    #[command(flatten)]
    config: ConfigArguments,
}

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// Only keys that are bound to this tenant.
    #[arg(long)]
    tenant: Option<TenantId>,
    #[command(flatten)]
    config: ConfigArguments,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArguments {
    /// The key's id, or its prefix (isk_…) as the list shows them.
    key: String,
    #[command(flatten)]
    config: ConfigArguments,
}

fn parse_role(text: &str) -> Result<Role, String> {
    let known = || Role::ALL.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ");
    Role::parse(text).ok_or_else(|| format!("expected {}", known()))
}

fn parse_grant(text: &str) -> Result<Grant, std::convert::Infallible> {
    let (instance, methods) = text.split_once(':').unwrap_or((text, ""));
    let methods = methods.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    Ok(Grant { instance: instance.to_owned(), methods })
}

pub(super) fn run(command: ApiKeysCommand, environment: &Environment) -> anyhow::Result<()> {
    let config = match &command {
        ApiKeysCommand::Create(CreateArguments { config, .. })
        | ApiKeysCommand::List(ListArguments { config, .. })
        | ApiKeysCommand::Revoke(RevokeArguments { config, .. }) => config,
    };
    let config = config.load(environment).context("the configuration is faulty, so nothing was done")?.config;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    runtime.block_on(async {
        let store = open_store(&config, 1).await?;
        let result = match command {
            ApiKeysCommand::Create(arguments) => create(&store, arguments).await,
            ApiKeysCommand::List(arguments) => list(&store, arguments.tenant).await,
            ApiKeysCommand::Revoke(arguments) => revoke(&store, &arguments.key).await,
        };
        store.close().await;
        result
    })
}

/// Whoever may use the command line on the database.
fn at_the_command_line() -> Principal {
    Principal { name: "command-line".into(), ..Principal::system() }
}

const CORRELATION_ID: &str = "command-line";

async fn create(store: &Store, arguments: CreateArguments) -> anyhow::Result<()> {
    let new = NewApiKey {
        name: arguments.name,
        roles: arguments.roles.into_iter().collect(),
        grants: arguments.grants,
        tenant_id: arguments.tenant,
        expires_at: arguments.expires,
    };
    let (known, key) = create_api_key(store, new, &at_the_command_line(), CORRELATION_ID).await.map_err(in_words)?;
    complain(&format!("The key of {:?} ({}), shown this once:", known.name, known.id));
    say(key.expose());
    Ok(())
}

async fn list(store: &Store, tenant: Option<TenantId>) -> anyhow::Result<()> {
    let principal = Principal { tenant, ..at_the_command_line() };
    let mut page = PageRequest { page: 1, limit: 200 };
    loop {
        let (keys, total) = list_api_keys(store, &principal, page).await.map_err(in_words)?;
        let now = store.clock().now();
        keys.iter().for_each(|key| say(&line(key, now)));
        if u64::from(page.page) * u64::from(page.limit) >= total {
            return Ok(());
        }
        page.page += 1;
    }
}

/// `ID  PREFIX  STATE  RIGHTS  TENANT  NAME`
fn line(key: &ApiKey, now: Timestamp) -> String {
    let state = match (key.revoked_at, key.expires_at) {
        (Some(_), _) => "revoked".to_owned(),
        (None, Some(at)) if at <= now => "expired".to_owned(),
        (None, Some(at)) => format!("valid until {at}"),
        (None, None) => "valid".to_owned(),
    };
    let roles = key.roles.iter().map(|role| role.as_str().to_owned());
    let grants = key.grants.iter().map(|grant| match grant.methods.as_slice() {
        [] => grant.instance.clone(),
        methods => format!("{}:{}", grant.instance, methods.join("+")),
    });
    let rights: Vec<_> = roles.chain(grants).collect();
    let tenant = key.tenant_id.as_ref().map_or("all tenants", TenantId::as_str);
    format!("{}  {}  {state}  {}  {tenant}  {}", key.id, key.prefix, rights.join(","), key.name)
}

async fn revoke(store: &Store, text: &str) -> anyhow::Result<()> {
    let principal = at_the_command_line();
    let id = match find_by_prefix(store, text).await? {
        Some(id) => id,
        None => text.to_owned(),
    };
    let key = revoke_api_key(store, &id, &principal, CORRELATION_ID).await.map_err(in_words)?;
    if key.revoked_at.is_some() {
        bail!("the key of {:?} ({}) was revoked before", key.name, key.id);
    }
    say(&format!("The key of {:?} ({}) is revoked.", key.name, key.id));
    Ok(())
}

/// People have the prefix at hand: logs and the audit name callers by it.
async fn find_by_prefix(store: &Store, prefix: &str) -> anyhow::Result<Option<String>> {
    let keys = store.valid_api_keys().await.context("the API keys cannot be read")?;
    Ok(keys.into_iter().find(|(key, _)| key.prefix == prefix).map(|(key, _)| key.id))
}

fn in_words(error: ApiError) -> anyhow::Error {
    let faults: Vec<_> = error.errors.iter().map(ToString::to_string).collect();
    match faults.as_slice() {
        [] => anyhow::anyhow!(error.detail),
        faults => anyhow::anyhow!(faults.join("; ")),
    }
}
