//! How the end of an execution was written into the spool before [`crate::encoded`]: read where a
//! process of that time was killed.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use integration_model::Timestamp;
use integration_model::event::EventDraft;
use integration_model::execution::Execution;
use serde::Deserialize;
use uuid::Uuid;

use crate::audit::CredentialUse;
use crate::journal::ExecutionRecord;

/// What no other line of the spool begins with.
const BEGINNING: &[u8] = b"{\"record\":";

/// A line of the spool.
#[derive(Debug, Deserialize)]
pub(crate) struct SpooledRecord<'a> {
    record: Ended<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ended<'a> {
    execution: Cow<'a, Execution>,
    #[serde(default)]
    params: Option<Cow<'a, str>>,
    events: Cow<'a, [EventDraft]>,
    #[serde(default)]
    uses: Vec<Use<'a>>,
}

#[derive(Debug, Deserialize)]
struct Use<'a> {
    id: Uuid,
    at: Timestamp,
    credential: Option<Uuid>,
    why: Cow<'a, str>,
}

impl SpooledRecord<'_> {
    /// Reads a line.
    pub(crate) fn read(line: &[u8]) -> Result<ExecutionRecord, serde_json::Error> {
        let SpooledRecord { record } = serde_json::from_slice(line)?;
        let uses = record.uses.into_iter();
        Ok(ExecutionRecord {
            execution: Arc::new(record.execution.into_owned()),
            params: record.params.map(|params| Bytes::from(params.into_owned())),
            events: record.events.into_owned(),
            idempotency: None,
            answer: None,
            credential_uses: uses
                .map(|used| CredentialUse::recovered(used.id, used.at, used.credential, used.why.into_owned()))
                .collect(),
            from_queue: false,
        })
    }
}

pub(crate) fn is_record(line: &[u8]) -> bool {
    line.starts_with(BEGINNING)
}
