//! What is asked of an execution.

use bytes::Bytes;
use integration_model::execution::ExecutionMode;
use integration_model::principal::Principal;
use integration_model::{ExecutionId, TenantId};
use serde::{Deserialize, Serialize};

use crate::stream::ContentStream;

/// One call of a method.
#[derive(Debug, Clone)]
pub struct ExecuteRequest {
    pub principal: Principal,
    /// The tenant the caller acts for, where it names one.
    pub tenant: Option<TenantId>,
    pub instance: String,
    pub method: String,
    /// The JSON text of `params`.
    pub params: Bytes,
    pub mode: ExecutionMode,
    pub correlation_id: String,
    pub traceparent: Option<String>,
    pub task_id: Option<String>,
    pub idempotency_key: Option<String>,
    pub paginate: Paginate,
    pub dry_run: bool,
    /// Given where the execution has its row already: it comes from the queue.
    pub execution_id: Option<ExecutionId>,
    pub replay_of: Option<ExecutionId>,
    /// Content that comes beside the params, or that is wanted in place of the data.
    pub stream: Option<ContentStream>,
}

impl ExecuteRequest {
    /// Whether another attempt can be made as far as content goes.
    pub(crate) fn can_be_sent_again(&self) -> bool {
        self.stream.as_ref().is_none_or(ContentStream::is_whole)
    }

    /// Whether the caller is taking content in place of the data.
    pub(crate) fn is_downloading(&self) -> bool {
        matches!(&self.stream, Some(ContentStream::Download(download)) if download.has_begun())
    }

    /// Whether the caller may know of what this tenant owns.
    pub(crate) fn may_see(&self, owner: &TenantId) -> bool {
        self.principal.may_see(owner) && self.tenant.as_ref().is_none_or(|tenant| tenant == owner)
    }
}

/// How many pages of a paginated answer are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Paginate {
    /// What one request gives.
    #[default]
    Off,
    /// One page, from a cursor on, with the cursor of the next in `meta.nextPage`.
    Page(Option<String>),
    /// All pages, joined, up to the bound.
    All,
}

impl Paginate {
    /// Tells calls for different pages apart.
    pub(crate) fn as_text(&self) -> String {
        match self {
            Self::Off => String::new(),
            Self::Page(cursor) => format!("page:{}", cursor.as_deref().unwrap_or_default()),
            Self::All => "all".to_owned(),
        }
    }
}
