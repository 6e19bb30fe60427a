//! The registry's rows: each version of a definition is one, global to all tenants.

use std::collections::BTreeMap;

use integration_model::audit::{AuditDraft, TargetType};
use integration_model::definition::DefinitionSummary;
use integration_model::definition::{AuthType, Definition, DefinitionSpec, DefinitionStatus};
use integration_model::page::PageRequest;
use integration_model::{DefinitionId, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use semver::Version;
use serde_json::json;

use crate::audit::AuditTarget;
use crate::changes::Changed;
use crate::database::Tx;
use crate::error::StoreError;
use crate::filter::{Conditions, DefinitionSort, search_text};
use crate::sql::{Backend, Query, Row, to_json, to_readable_json};
use crate::store::Store;
use crate::vault::Sealed;

/// Which definitions a list gives: the newest version of each that passes.
#[derive(Debug, Clone, Default)]
pub struct DefinitionFilter {
    pub adapter_type: Option<String>,
    pub status: Option<DefinitionStatus>,
    pub auth_type: Option<AuthType>,
    /// Contained in the name, the description or the id, in any case.
    pub q: Option<String>,
    /// Labels that have to be there, with these values.
    pub labels: Vec<(String, String)>,
}

const SUMMARY_COLUMNS: &str = "id, name, description, version, adapter_type, auth_type, method_count, labels, status, \
     created_at, updated_at, published_at";

impl Tx {
    /// Has a change of a version put down. Definitions belong to no tenant.
    fn audit_definition(&mut self, audit: AuditDraft, id: &DefinitionId, version: &str) {
        let audit = audit.to(TargetType::Definition, id.as_str()).with_details(json!({"version": version}));
        self.audit(audit, AuditTarget { tenant: None, instance: None, credential: None });
    }
}

/// What a version of a definition asks of the adapter that is to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterDemand {
    pub definition_id: DefinitionId,
    pub version: String,
    pub adapter_type: String,
    /// A range of semantic versions.
    pub adapter_version: Option<String>,
}

impl Store {
    /// Stores a new version as a DRAFT. The client secret of its `oauth2Config` comes apart
    /// and is sealed; one inside the spec is dropped.
    pub async fn insert_definition(
        &self,
        spec: &DefinitionSpec,
        client_secret: Option<SecretString>,
        audit: AuditDraft,
    ) -> Result<Definition, StoreError> {
        let now = self.clock().now();
        let definition = Definition {
            spec: without_secret(spec),
            status: DefinitionStatus::Draft,
            created_at: now,
            updated_at: now,
            published_at: None,
        };
        let secret = self.seal_client_secret(spec, client_secret).await?;
        let stored = definition.clone();
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    insert(tx, &stored, secret).await?;
                    tx.audit_definition(audit, &stored.spec.id, &stored.spec.version.to_string());
                    Ok(())
                })
            })
            .await
            .map_err(|error| error.or_exists(|| format!("definition {:?} {}", spec.id, spec.version)))?;
        Ok(definition)
    }

    /// Writes a DRAFT anew. Without a client secret, the stored one stays.
    pub async fn update_draft(
        &self,
        spec: &DefinitionSpec,
        client_secret: Option<SecretString>,
        audit: AuditDraft,
    ) -> Result<Definition, StoreError> {
        let secret = self.seal_client_secret(spec, client_secret).await?;
        let spec = without_secret(spec);
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    tx.audit_definition(audit, &spec.id, &spec.version.to_string());
                    update(tx, spec, secret).await
                })
            })
            .await
    }

    /// Deletes a DRAFT.
    pub async fn delete_draft(
        &self,
        id: &DefinitionId,
        version: &Version,
        audit: AuditDraft,
    ) -> Result<(), StoreError> {
        let (id, version) = (id.clone(), version.to_string());
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let deleted = Query::new("delete from definitions where id = $1 and version = $2 and status = $3")
                        .bind(id.as_str())
                        .bind(version.as_str())
                        .bind(DefinitionStatus::Draft.as_str())
                        .execute(&mut tx.connection)
                        .await?;
                    if deleted == 0 {
                        return Err(not_in_status(tx, &id, &version, DefinitionStatus::Draft).await);
                    }
                    tx.audit_definition(audit, &id, &version);
                    Ok(())
                })
            })
            .await
            .map_err(|error| {
                if error.is_missing_reference() {
                    StoreError::Conflict("instances are pinned to this version".to_owned())
                } else {
                    error
                }
            })
    }

    /// Moves a version to another status, if it still is as it was `read`; the first
    /// publication sets `publishedAt`.
    pub async fn set_definition_status(
        &self,
        read: &Definition,
        to: DefinitionStatus,
        audit: AuditDraft,
    ) -> Result<Definition, StoreError> {
        let (id, version) = (read.spec.id.clone(), read.spec.version.to_string());
        let (from, read_at) = (read.status, read.updated_at);
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let now = tx.db.clock.now();
                    let published = (to == DefinitionStatus::Published).then_some(now);
                    let changed = Query::new(
                        "update definitions set status = $1, updated_at = $2,
                         published_at = coalesce(published_at, $3)
                         where id = $4 and version = $5 and status = $6 and updated_at = $7",
                    )
                    .bind(to.as_str())
                    .bind(now)
                    .bind(published)
                    .bind(id.as_str())
                    .bind(version.as_str())
                    .bind(from.as_str())
                    .bind(read_at)
                    .execute(&mut tx.connection)
                    .await?;
                    if changed == 0 {
                        return Err(not_in_status(tx, &id, &version, from).await);
                    }
                    tx.note(Changed::Definition(id.clone()));
                    tx.audit_definition(audit, &id, &version);
                    let row = select_one(&id, &version).fetch_one(&mut tx.connection).await?;
                    read_definition(&row)
                })
            })
            .await
    }

    /// One version.
    pub async fn definition(&self, id: &DefinitionId, version: &Version) -> Result<Option<Definition>, StoreError> {
        let row = select_one(id, &version.to_string()).fetch_optional(self.pool()).await?;
        row.as_ref().map(read_definition).transpose()
    }

    /// The highest version (by semver precedence) in one of these statuses; of any where none is named.
    pub async fn latest_definition(
        &self,
        id: &DefinitionId,
        statuses: &[DefinitionStatus],
    ) -> Result<Option<Definition>, StoreError> {
        let mut conditions = Conditions::default();
        conditions.add("id = ?", [id.as_str().into()]);
        if !statuses.is_empty() {
            let marks = vec!["?"; statuses.len()].join(", ");
            conditions.add(&format!("status in ({marks})"), statuses.iter().map(|status| status.as_str().into()));
        }
        let clause = conditions.where_clause();
        let text = format!(
            "select spec, status, created_at, updated_at, published_at from definitions{clause} \
             order by precedence desc, version desc limit 1"
        );
        let row = conditions.into_query(text).fetch_optional(self.pool()).await?;
        row.as_ref().map(read_definition).transpose()
    }

    /// All versions, newest first.
    pub async fn definition_versions(&self, id: &DefinitionId) -> Result<Vec<DefinitionSummary>, StoreError> {
        let text =
            format!("select {SUMMARY_COLUMNS} from definitions where id = $1 order by precedence desc, version desc");
        let rows = Query::built(text, vec![id.as_str().into()]).fetch_all(self.pool()).await?;
        rows.iter().map(read_summary).collect()
    }

    /// A page of the definitions that pass the filter, and how many pass.
    pub async fn list_definitions(
        &self,
        filter: &DefinitionFilter,
        page: PageRequest,
        sort: DefinitionSort,
    ) -> Result<(Vec<DefinitionSummary>, u64), StoreError> {
        let mut conditions = conditions(filter);
        let clause = conditions.where_clause();
        let count_text = format!("select count(distinct id) from definitions{clause}");
        let total = conditions.clone().into_query(count_text).fetch_one(self.pool()).await?.count(0)?;
        let limit = conditions.placeholder(page.limit);
        let offset = conditions.placeholder(page.offset());
        let text = format!(
            "select {SUMMARY_COLUMNS} from (
                 select {SUMMARY_COLUMNS},
                     row_number() over (partition by id order by precedence desc, version desc) as place
                 from definitions{clause}
             ) as placed where place = 1 order by {} limit {limit} offset {offset}",
            sort.order_by(),
        );
        let rows = conditions.into_query(text).fetch_all(self.pool()).await?;
        Ok((rows.iter().map(read_summary).collect::<Result<_, _>>()?, total))
    }

    /// What versions that execute ask of an adapter: of those of other types than these, and of
    /// those that ask for a version of theirs. No definition is read whole for it: there may be
    /// thousands.
    pub async fn adapter_demands(&self, adapter_types: &[&str], limit: u32) -> Result<Vec<AdapterDemand>, StoreError> {
        let mut conditions = Conditions::default();
        let executing = [DefinitionStatus::Published, DefinitionStatus::Deprecated];
        conditions.add("status in (?, ?)", executing.map(|status| status.as_str().into()));
        let places = vec!["?"; adapter_types.len()].join(", ");
        conditions.add(
            &format!("(adapter_type not in ({places}) or spec like ?)"),
            adapter_types.iter().map(|name| (*name).into()).chain(["%\"adapterVersion\":%".into()]),
        );
        let range = match self.pool().backend() {
            Backend::Sqlite => "json_extract(spec, '$.adapterVersion')",
            Backend::Postgres => "spec::json ->> 'adapterVersion'",
        };
        let clause = conditions.where_clause();
        let limit = conditions.placeholder(limit);
        let text = format!(
            "select id, version, adapter_type, {range} from definitions{clause} order by id, precedence limit {limit}"
        );
        let rows = conditions.into_query(text).fetch_all(self.pool()).await?;
        rows.iter()
            .map(|row| {
                Ok(AdapterDemand {
                    definition_id: row.parsed(0, |text| DefinitionId::parse(text).ok())?,
                    version: row.text(1)?,
                    adapter_type: row.text(2)?,
                    adapter_version: row.opt_text(3)?,
                })
            })
            .collect()
    }

    /// The secret of a version's OAuth client: its client secret, or its private key in PEM.
    pub async fn definition_client_secret(
        &self,
        id: &DefinitionId,
        version: &Version,
    ) -> Result<Option<SecretString>, StoreError> {
        let version = version.to_string();
        let row = Query::new(
            "select secret_id, key_id, wrapped_key, sealed from definitions
             where id = $1 and version = $2 and secret_id is not null",
        )
        .bind(id.as_str())
        .bind(version.as_str())
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let sealed = Sealed::from_row(row.uuid(0)?, row.text(1)?, row.bytes(2)?, row.bytes(3)?);
        let secret = self.vault().open(&sealed, &secret_owner(id, &version)).await?;
        let text = std::str::from_utf8(&secret).map_err(|error| StoreError::corrupt("client secret", error))?;
        Ok(Some(SecretString::from(text)))
    }

    /// How many instances are pinned to a definition, or to one version of it.
    pub async fn count_instances_of(&self, id: &DefinitionId, version: Option<&Version>) -> Result<u64, StoreError> {
        let mut conditions = Conditions::default();
        conditions.add("definition_id = ?", [id.as_str().into()]);
        conditions.add_if("definition_version = ?", version.map(Version::to_string));
        let text = format!("select count(*) from instances{}", conditions.where_clause());
        conditions.into_query(text).fetch_one(self.pool()).await?.count(0)
    }

    async fn seal_client_secret(
        &self,
        spec: &DefinitionSpec,
        secret: Option<SecretString>,
    ) -> Result<Option<Sealed>, StoreError> {
        let Some(secret) = secret else { return Ok(None) };
        let version = spec.version.to_string();
        let owner = secret_owner(&spec.id, &version);
        Ok(Some(self.vault().seal(self.ids().next(), &owner, secret.expose_secret().as_bytes()).await?))
    }
}

fn secret_owner<'a>(id: &'a DefinitionId, version: &'a str) -> [&'a [u8]; 3] {
    [b"client-secret", id.as_str().as_bytes(), version.as_bytes()]
}

fn without_secret(spec: &DefinitionSpec) -> DefinitionSpec {
    let mut spec = spec.clone();
    if let Some(config) = &mut spec.oauth2_config {
        **config = config.without_secret();
    }
    spec
}

fn conditions(filter: &DefinitionFilter) -> Conditions {
    let mut conditions = Conditions::default();
    conditions.add_if("adapter_type = ?", filter.adapter_type.as_deref());
    conditions.add_if("status = ?", filter.status.map(DefinitionStatus::as_str));
    conditions.add_if("auth_type = ?", filter.auth_type.map(AuthType::as_str));
    conditions.add_search("search", filter.q.as_deref());
    for (name, value) in &filter.labels {
        conditions.add(
            "exists (select 1 from definition_labels l where l.definition_id = definitions.id
             and l.version = definitions.version and l.name = ? and l.value = ?)",
            [name.as_str().into(), value.as_str().into()],
        );
    }
    conditions
}

async fn insert(tx: &mut Tx, definition: &Definition, secret: Option<Sealed>) -> Result<(), StoreError> {
    let spec = &definition.spec;
    let version = spec.version.to_string();
    let (secret_id, key_id, wrapped_key, sealed) = secret_columns(secret);
    Query::new(
        "insert into definitions (
             id, version, precedence, name, description, adapter_type, auth_type, status, method_count, labels, search,
             created_at, updated_at, secret_id, key_id, wrapped_key, sealed, spec
         ) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
    )
    .bind(spec.id.as_str())
    .bind(version.as_str())
    .bind(precedence(&spec.version))
    .bind(spec.name.as_str())
    .bind(spec.description.as_str())
    .bind(spec.adapter_type.as_str())
    .bind(spec.auth_type.as_str())
    .bind(definition.status.as_str())
    .bind(count_methods(spec))
    .bind(to_json(&spec.labels)?)
    .bind(search_text(&[spec.id.as_str(), &spec.name, &spec.description]))
    .bind(definition.created_at)
    .bind(definition.updated_at)
    .bind(secret_id)
    .bind(key_id)
    .bind(wrapped_key)
    .bind(sealed)
    .bind(to_readable_json(spec)?)
    .execute(&mut tx.connection)
    .await?;
    insert_labels(tx, &spec.id, &version, &spec.labels).await
}

async fn update(tx: &mut Tx, spec: DefinitionSpec, secret: Option<Sealed>) -> Result<Definition, StoreError> {
    let version = spec.version.to_string();
    let now = tx.db.clock.now();
    let (secret_id, key_id, wrapped_key, sealed) = secret_columns(secret);
    let row = Query::new(
        "update definitions set name = $1, description = $2, adapter_type = $3, auth_type = $4, method_count = $5,
         labels = $6, search = $7, updated_at = $8, secret_id = coalesce($9, secret_id),
         key_id = coalesce($10, key_id), wrapped_key = coalesce($11, wrapped_key), sealed = coalesce($12, sealed),
         spec = $13 where id = $14 and version = $15 and status = $16 returning created_at, published_at",
    )
    .bind(spec.name.as_str())
    .bind(spec.description.as_str())
    .bind(spec.adapter_type.as_str())
    .bind(spec.auth_type.as_str())
    .bind(count_methods(&spec))
    .bind(to_json(&spec.labels)?)
    .bind(search_text(&[spec.id.as_str(), &spec.name, &spec.description]))
    .bind(now)
    .bind(secret_id)
    .bind(key_id)
    .bind(wrapped_key)
    .bind(sealed)
    .bind(to_readable_json(&spec)?)
    .bind(spec.id.as_str())
    .bind(version.as_str())
    .bind(DefinitionStatus::Draft.as_str())
    .fetch_optional(&mut tx.connection)
    .await?;
    let Some(row) = row else {
        return Err(not_in_status(tx, &spec.id, &version, DefinitionStatus::Draft).await);
    };
    Query::new("delete from definition_labels where definition_id = $1 and version = $2")
        .bind(spec.id.as_str())
        .bind(version.as_str())
        .execute(&mut tx.connection)
        .await?;
    insert_labels(tx, &spec.id, &version, &spec.labels).await?;
    Ok(Definition {
        status: DefinitionStatus::Draft,
        created_at: row.time(0)?,
        updated_at: now,
        published_at: row.opt_time(1)?,
        spec,
    })
}

type SecretColumns = (Option<Vec<u8>>, Option<String>, Option<Vec<u8>>, Option<Vec<u8>>);

fn secret_columns(secret: Option<Sealed>) -> SecretColumns {
    match secret {
        Some(secret) => (
            Some(secret.secret_id.as_bytes().to_vec()),
            Some(secret.key_id),
            Some(secret.wrapped_key),
            Some(secret.sealed),
        ),
        None => (None, None, None, None),
    }
}

fn count_methods(spec: &DefinitionSpec) -> i64 {
    i64::try_from(spec.methods.len()).unwrap_or(i64::MAX)
}

async fn insert_labels(
    tx: &mut Tx,
    id: &DefinitionId,
    version: &str,
    labels: &BTreeMap<String, String>,
) -> Result<(), StoreError> {
    for (name, value) in labels {
        Query::new("insert into definition_labels (definition_id, version, name, value) values ($1, $2, $3, $4)")
            .bind(id.as_str())
            .bind(version)
            .bind(name.as_str())
            .bind(value.as_str())
            .execute(&mut tx.connection)
            .await?;
    }
    Ok(())
}

/// Why no row changed: there is none, it is in another status, or its content is another.
async fn not_in_status(tx: &mut Tx, id: &DefinitionId, version: &str, expected: DefinitionStatus) -> StoreError {
    let row = Query::new("select status from definitions where id = $1 and version = $2")
        .bind(id.as_str())
        .bind(version)
        .fetch_optional(&mut tx.connection)
        .await;
    match row.and_then(|row| row.map(|row| row.text(0)).transpose()) {
        Ok(None) => StoreError::NotFound,
        Ok(Some(status)) if status == expected.as_str() => {
            StoreError::Conflict(format!("{id} {version} was changed meanwhile: read it again"))
        }
        Ok(Some(status)) => StoreError::Conflict(format!("{id} {version} is {status}, expected {}", expected.as_str())),
        Err(error) => error,
    }
}

fn select_one(id: &DefinitionId, version: &str) -> Query {
    Query::new(
        "select spec, status, created_at, updated_at, published_at from definitions where id = $1 and version = $2",
    )
    .bind(id.as_str())
    .bind(version)
}

fn read_definition(row: &Row) -> Result<Definition, StoreError> {
    Ok(Definition {
        spec: row.json(0)?,
        status: row.parsed(1, DefinitionStatus::parse)?,
        created_at: row.time(2)?,
        updated_at: row.time(3)?,
        published_at: row.opt_int(4)?.map(Timestamp::from_micros),
    })
}

fn read_summary(row: &Row) -> Result<DefinitionSummary, StoreError> {
    Ok(DefinitionSummary {
        id: row.parsed(0, |text| DefinitionId::parse(text).ok())?,
        name: row.text(1)?,
        description: row.text(2)?,
        version: row.text(3)?,
        adapter_type: row.text(4)?,
        auth_type: row.parsed(5, AuthType::parse)?,
        method_count: u32::try_from(row.int(6)?).map_err(|error| StoreError::corrupt("method count", error))?,
        labels: row.json(7)?,
        status: row.parsed(8, DefinitionStatus::parse)?,
        created_at: row.time(9)?,
        updated_at: row.time(10)?,
        published_at: row.opt_time(11)?,
    })
}

/// Bytes that sort as versions do by semver precedence; build metadata has no part in it.
fn precedence(version: &Version) -> Vec<u8> {
    const END: u8 = 0;
    const NUMERIC: u8 = 1;
    const ALPHANUMERIC: u8 = 2;
    const RELEASE: u8 = 0xFF;
    let mut key = Vec::with_capacity(32);
    for number in [version.major, version.minor, version.patch] {
        key.extend_from_slice(&number.to_be_bytes());
    }
    if version.pre.is_empty() {
        key.push(RELEASE);
        return key;
    }
    for identifier in version.pre.split('.') {
        if identifier.bytes().all(|byte| byte.is_ascii_digit()) {
            // Without leading zeros, the longer number is the larger one.
            key.push(NUMERIC);
            key.extend_from_slice(&(identifier.len() as u64).to_be_bytes());
            key.extend_from_slice(identifier.as_bytes());
        } else {
            key.push(ALPHANUMERIC);
            key.extend_from_slice(identifier.as_bytes());
            key.push(END);
        }
    }
    key.push(END);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_by_semver_precedence() {
        let ascending = [
            "1.0.0-1",
            "1.0.0-2",
            "1.0.0-10",
            "1.0.0-18446744073709551616",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-alpha-beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.2.0",
            "1.10.0",
            "2.0.0-rc.1",
            "10.0.0",
        ];
        let versions: Vec<Version> = ascending.iter().map(|text| text.parse().expect(text)).collect();
        for pair in versions.windows(2) {
            assert!(pair[0] < pair[1], "{} {}", pair[0], pair[1]);
            assert!(precedence(&pair[0]) < precedence(&pair[1]), "{} {}", pair[0], pair[1]);
        }
        let built: Version = "1.0.0+build.5".parse().expect("a version");
        assert_eq!(precedence(&built), precedence(&Version::new(1, 0, 0)));
    }
}
