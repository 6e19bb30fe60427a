//! Who calls.

use crate::TenantId;

/// The authenticated caller of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// A stable name for logs and audit, never a secret: `api-key:isk_AbCd`.
    pub name: String,
    /// The tenant to which the caller is bound; none may act for all.
    pub tenant: Option<TenantId>,
}

impl Principal {
    /// The service itself: background work, start-up registration, the demo.
    pub fn system() -> Self {
        Self { name: "system".to_owned(), tenant: None }
    }

    /// Whether this caller may see what belongs to `owner`.
    pub fn may_see(&self, owner: &TenantId) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| tenant == owner)
    }
}
