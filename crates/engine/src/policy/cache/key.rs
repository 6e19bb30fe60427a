//! What tells answers apart.

use std::hash::{Hash, Hasher};

use aws_lc_rs::digest::{Context, SHA256};
use integration_model::{InstanceId, TenantId};
use serde_json::{Map, Value};

/// Names an answer: a SHA-256 over all that it depends on, so that no two callers meet by
/// chance or by design, whatever their tenant.
#[derive(Clone)]
pub struct CacheKey {
    digest: [u8; 32],
    instance: InstanceId,
}

/// Whose method an answer is of.
#[derive(Debug, Clone, Copy)]
pub struct CacheScope<'a> {
    pub tenant: &'a TenantId,
    pub instance: &'a InstanceId,
    pub definition_version: &'a str,
    pub method: &'a str,
}

impl CacheKey {
    /// The key of an answer to `params`, of which only those in `vary` tell answers apart (all
    /// of them where it is empty).
    pub fn new(scope: &CacheScope<'_>, params: &Map<String, Value>, vary: &[String]) -> Self {
        let mut text = Text::of(scope);
        let varies = |name: &String| vary.is_empty() || vary.contains(name);
        text.put_object(params.iter().filter(|(name, _)| varies(name)));
        Self { digest: text.digest(), instance: scope.instance.clone() }
    }

    pub(super) fn instance(&self) -> &InstanceId {
        &self.instance
    }
}

/// Names the very text of a call's params: a SHA-256 over it and all that decides what it means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TextKey([u8; 32]);

impl TextKey {
    /// The key of a text that was held against the schema of this compilation of the method.
    pub fn new(scope: &CacheScope<'_>, compilation: u64, params: &[u8]) -> Self {
        let mut text = Text::of(scope);
        text.0.extend_from_slice(&compilation.to_le_bytes());
        text.0.extend_from_slice(params);
        Self(text.digest())
    }
}

impl PartialEq for CacheKey {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for CacheKey {}

impl Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl std::fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CacheKey({})", self.instance)
    }
}

/// Values written so that different ones never give the same bytes: each begins with its kind
/// and its length. Object members come sorted, since their order means nothing.
struct Text(Vec<u8>);

impl Text {
    fn of(scope: &CacheScope<'_>) -> Self {
        let mut text = Self(Vec::with_capacity(256));
        text.put_str(scope.tenant.as_str());
        text.put_str(scope.instance.as_str());
        text.put_str(scope.definition_version);
        text.put_str(scope.method);
        text
    }

    fn digest(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        context.update(&self.0);
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }

    fn put_length(&mut self, kind: u8, length: usize) {
        self.0.push(kind);
        self.0.extend_from_slice(&(length as u64).to_le_bytes());
    }

    fn put_str(&mut self, text: &str) {
        self.put_length(b's', text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn put_object<'v>(&mut self, members: impl Iterator<Item = (&'v String, &'v Value)>) {
        let mut members: Vec<_> = members.collect();
        members.sort_unstable_by_key(|(name, _)| *name);
        self.put_length(b'o', members.len());
        for (name, value) in members {
            self.put_str(name);
            self.put(value);
        }
    }

    fn put(&mut self, value: &Value) {
        match value {
            Value::Null => self.0.push(b'n'),
            Value::Bool(true) => self.0.push(b't'),
            Value::Bool(false) => self.0.push(b'f'),
            Value::Number(number) => {
                let text = number.to_string();
                self.put_length(b'd', text.len());
                self.0.extend_from_slice(text.as_bytes());
            }
            Value::String(text) => self.put_str(text),
            Value::Array(items) => {
                self.put_length(b'a', items.len());
                items.iter().for_each(|item| self.put(item));
            }
            Value::Object(members) => self.put_object(members.iter()),
        }
    }
}
