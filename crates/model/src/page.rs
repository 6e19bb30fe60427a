//! Paging of lists.

use serde::{Deserialize, Serialize};

/// The largest page that a list gives.
pub const MAX_LIMIT: u32 = 200;

/// Which page of a list is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    /// From 1.
    pub page: u32,
    /// 1 to [`MAX_LIMIT`].
    pub limit: u32,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { page: 1, limit: 20 }
    }
}

impl PageRequest {
    pub fn offset(self) -> i64 {
        i64::from(self.page.saturating_sub(1)) * i64::from(self.limit)
    }
}

/// Where in its list a page lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Pagination {
    pub page: u32,
    pub limit: u32,
    pub total: u64,
    pub pages: u64,
}

impl Pagination {
    pub fn new(request: PageRequest, total: u64) -> Self {
        let pages = total.div_ceil(u64::from(request.limit.max(1)));
        Self { page: request.page, limit: request.limit, total, pages }
    }
}
