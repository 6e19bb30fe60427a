//! How the end of an execution is written into the spool, and read back by the process that
//! recovers it.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use integration_model::Timestamp;
use integration_model::event::EventDraft;
use integration_model::execution::Execution;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::audit::CredentialUse;
use crate::executions::kept_params;
use crate::journal::ExecutionRecord;

/// What no other line of the spool begins with.
const BEGINNING: &[u8] = b"{\"record\":";

/// A line of the spool.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SpooledRecord<'a> {
    record: Ended<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ended<'a> {
    execution: Cow<'a, Execution>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    params: Option<Cow<'a, str>>,
    events: Cow<'a, [EventDraft]>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    uses: Vec<Use<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Use<'a> {
    id: Uuid,
    at: Timestamp,
    credential: Option<Uuid>,
    why: Cow<'a, str>,
}

impl<'a> SpooledRecord<'a> {
    /// Of a record that only adds rows.
    pub(crate) fn of(record: &'a ExecutionRecord) -> Self {
        let uses = record.credential_uses.iter().map(|used| Use {
            id: used.id(),
            at: used.at(),
            credential: used.credential(),
            why: Cow::Borrowed(used.why()),
        });
        Self {
            record: Ended {
                execution: Cow::Borrowed(&record.execution),
                params: record.params.as_ref().and_then(kept_params).map(Cow::Borrowed),
                events: Cow::Borrowed(&record.events),
                uses: uses.collect(),
            },
        }
    }

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
