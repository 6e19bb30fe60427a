//! The schema's versions: embedded, forward-only, paired for both databases. Must not know
//! what the tables mean.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use integration_model::Timestamp;

use crate::error::StoreError;
use crate::sql::{Backend, Connection, Query};

struct Migration {
    version: i64,
    name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

macro_rules! migrations {
    ($($version:literal $name:literal;)+) => {
        &[$(Migration {
            version: $version,
            name: $name,
            sqlite: include_str!(concat!("../migrations/sqlite/", $name, ".sql")),
            postgres: include_str!(concat!("../migrations/postgres/", $name, ".sql")),
        }),+]
    };
}

const MIGRATIONS: &[Migration] = migrations! {
    1 "0001_core";
    2 "0002_refresh";
    3 "0003_oauth";
    5 "0005_audit";
    6 "0006_access";
    7 "0007_audit_chain";
    8 "0008_webhooks";
    9 "0009_lists";
    10 "0010_log_chunks";
    11 "0011_log_rows";
    12 "0012_spools";
};

/// Holds off other processes that migrate the same PostgreSQL database.
const LOCK: i64 = 0x696e_7465_6772_6174;

impl Migration {
    fn script(&self, backend: Backend) -> &'static str {
        match backend {
            Backend::Sqlite => self.sqlite,
            Backend::Postgres => self.postgres,
        }
    }
}

/// Brings the schema to this program's version, all steps in the given transaction; gives
/// the names of the steps that were missing.
pub(crate) async fn migrate(connection: &mut Connection, now: Timestamp) -> Result<Vec<String>, StoreError> {
    let backend = connection.backend();
    if backend == Backend::Postgres {
        Query::new("select 1 from pg_advisory_xact_lock($1)").bind(LOCK).fetch_all(&mut *connection).await?;
    }
    Query::new(
        "create table if not exists schema_migrations (
            version bigint not null primary key, name text not null, checksum text not null, applied_at bigint not null
        )",
    )
    .execute(connection)
    .await?;
    let applied = applied(connection).await?;
    check_history(backend, &applied)?;
    let mut names = Vec::new();
    for migration in MIGRATIONS.iter().filter(|m| !applied.iter().any(|row| row.version == m.version)) {
        let script = migration.script(backend);
        connection.run_script(script.to_owned()).await?;
        Query::new("insert into schema_migrations (version, name, checksum, applied_at) values ($1, $2, $3, $4)")
            .bind(migration.version)
            .bind(migration.name)
            .bind(checksum(script))
            .bind(now)
            .execute(connection)
            .await?;
        names.push(migration.name.to_owned());
    }
    Ok(names)
}

struct Applied {
    version: i64,
    name: String,
    checksum: String,
}

async fn applied(connection: &mut Connection) -> Result<Vec<Applied>, StoreError> {
    let rows = Query::new("select version, name, checksum from schema_migrations order by version")
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| Ok(Applied { version: row.int(0)?, name: row.text(1)?, checksum: row.text(2)? })).collect()
}

fn check_history(backend: Backend, applied: &[Applied]) -> Result<(), StoreError> {
    for row in applied {
        let Some(known) = MIGRATIONS.iter().find(|migration| migration.version == row.version) else {
            return Err(StoreError::Config(format!(
                "the database is newer than this program: it has migration {:?}, and this program ends at {:?}; run \
                 the newer program",
                row.name,
                MIGRATIONS.last().map_or("none", |last| last.name),
            )));
        };
        if checksum(known.script(backend)) != row.checksum {
            return Err(StoreError::Config(format!(
                "migration {:?} of the database is not the one of this program (the checksums differ)",
                row.name
            )));
        }
    }
    Ok(())
}

fn checksum(script: &str) -> String {
    digest(&SHA256, script.as_bytes()).as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
