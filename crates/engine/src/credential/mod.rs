//! Credentials in use.
/// A decrypted credential.
pub struct Credential {}
