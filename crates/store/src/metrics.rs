//! The names of the store's metrics, and what they mean.

/// Uses of a data key that the key service could not be asked about again.
pub(crate) const KEY_SERVICE_FALLBACKS: &str = "integration_key_service_fallbacks_total";
/// Uses of a credential that the credential store could not be asked for again.
pub(crate) const CREDENTIAL_STORE_FALLBACKS: &str = "integration_credential_store_fallbacks_total";
/// Credentials that the credential store did not take.
pub(crate) const CREDENTIAL_STORE_DEFERRED: &str = "integration_credential_store_deferred_total";
/// Rows of the audit that were committed.
pub(crate) const AUDIT_ROWS: &str = "integration_audit_rows_total";
/// The sequence number of the audit's newest row.
pub(crate) const AUDIT_HEAD: &str = "integration_audit_head_sequence";
/// Executions in the spool that are not committed yet.
pub(crate) const SPOOLED_RECORDS: &str = "integration_spooled_records";
/// Executions that are not in the index by instance yet.
pub(crate) const UNINDEXED_EXECUTIONS: &str = "integration_unindexed_executions";

/// The names and help texts of all metrics of the store, for the exporter.
pub const DESCRIPTIONS: &[(&str, &str)] = &[
    (KEY_SERVICE_FALLBACKS, "Uses of a data key that is no longer fresh, while the key service did not answer."),
    (
        CREDENTIAL_STORE_FALLBACKS,
        "Uses of a credential that is no longer fresh, while the credential store did not answer.",
    ),
    (
        CREDENTIAL_STORE_DEFERRED,
        "Credentials that stay in the database because the credential store did not take them.",
    ),
    (AUDIT_ROWS, "Rows of the audit that this process committed."),
    (AUDIT_HEAD, "The sequence number of the audit's newest row."),
    (SPOOLED_RECORDS, "Executions that are in the spool and wait for their commit."),
    (UNINDEXED_EXECUTIONS, "Executions of SQLite's log that the index by instance does not hold yet."),
];
