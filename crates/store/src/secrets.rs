//! Where sealed secrets are: in their row, or in a store of their own that the row refers
//! to. Must not know how that store is reached, nor how secrets are sealed.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use integration_model::definition::AuthType;
use integration_model::{InstanceId, TenantId};
use uuid::Uuid;

use crate::service::ServiceFuture;

/// Keeps sealed secrets outside of the database.
pub trait SecretStore: fmt::Debug + Send + Sync {
    /// Keeps a secret, and answers when it is sure to be kept. The same secret again changes
    /// nothing. Gives the id under which the store has it.
    fn put<'a>(&'a self, secret: SealedSecret<'a>) -> ServiceFuture<'a, String>;

    /// The sealed secret under this id.
    fn get<'a>(&'a self, id: &'a str) -> ServiceFuture<'a, Vec<u8>>;

    /// Forgets a secret; that there is none is no failure.
    fn delete<'a>(&'a self, id: &'a str) -> ServiceFuture<'a, ()>;
}

/// A secret on its way out, and whose it is.
#[derive(Debug, Clone, Copy)]
pub struct SealedSecret<'a> {
    pub id: Uuid,
    pub owner: SecretOwner<'a>,
    /// What only the row's data key opens.
    pub sealed: &'a [u8],
}

/// Whose a secret is.
#[derive(Debug, Clone, Copy)]
pub struct SecretOwner<'a> {
    pub tenant_id: &'a TenantId,
    pub instance_id: &'a InstanceId,
    pub auth_type: AuthType,
}

/// The store of secrets outside of the database.
#[derive(Debug, Clone)]
pub struct ExternalSecrets {
    pub store: Arc<dyn SecretStore>,
    /// Whether new secrets go there; else it is only read, until all are moved back.
    pub keeps_new: bool,
}

/// The first byte of what stands in a row for a secret that is elsewhere. What is sealed
/// begins with another byte.
const REFERENCE: u8 = 2;
/// The longest id that a store may give.
pub const MAX_SECRET_ID_LENGTH: usize = 256;

/// What a row's `sealed` column holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// The sealed secret itself.
    Here(&'a [u8]),
    Elsewhere(Reference<'a>),
}

/// What stands in a row for a secret that is elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reference<'a> {
    digest: &'a [u8],
    pub(crate) id: &'a str,
}

impl<'a> Place<'a> {
    /// Nothing where the column cannot be read.
    pub(crate) fn of(column: &'a [u8]) -> Option<Self> {
        let Some(rest) = column.strip_prefix(&[REFERENCE]) else { return Some(Self::Here(column)) };
        let (digest, id) = rest.split_at_checked(SHA256_OUTPUT_LEN)?;
        let id = std::str::from_utf8(id).ok().filter(|id| !id.is_empty())?;
        Some(Self::Elsewhere(Reference { digest, id }))
    }
}

impl Reference<'_> {
    /// The column's bytes for a secret that a store keeps under `id`.
    pub(crate) fn column(id: &str, sealed: &[u8]) -> Vec<u8> {
        let mut column = Vec::with_capacity(1 + SHA256_OUTPUT_LEN + id.len());
        column.push(REFERENCE);
        column.extend_from_slice(digest(&SHA256, sealed).as_ref());
        column.extend_from_slice(id.as_bytes());
        column
    }

    /// Whether `sealed` is what was given to the store.
    pub(crate) fn is_of(&self, sealed: &[u8]) -> bool {
        digest(&SHA256, sealed).as_ref() == self.digest
    }
}

/// The beginning of the column's bytes for secrets that are elsewhere.
pub(crate) const fn reference_prefix() -> &'static [u8] {
    &[REFERENCE]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_says_where_its_secret_is() {
        let sealed = [1, 2, 3];
        assert_eq!(Place::of(&sealed), Some(Place::Here(&sealed)));
        let column = Reference::column("id-1", &sealed);
        let Some(Place::Elsewhere(reference)) = Place::of(&column) else { panic!("a reference") };
        assert_eq!(reference.id, "id-1");
        assert!(reference.is_of(&sealed) && !reference.is_of(&[1, 2]));
        for cut in 1..=33 {
            assert_eq!(Place::of(&column[..cut]), None, "{cut}");
        }
    }
}
