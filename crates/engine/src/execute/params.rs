//! Params of a call, held against their schema; a text that was found good before is not read again.

use bytes::Bytes;
use integration_model::Problem;

use super::Failure;
use crate::params::Params;
use crate::policy::cache::{CacheKey, CacheScope, ResponseCache, TextKey};
use crate::registry::CompiledMethod;

/// The longest text that is known again.
const MAX_KNOWN_TEXT: usize = 4_096;

/// Params that fit their schema.
#[derive(Debug)]
pub(super) struct CheckedParams {
    pub(super) params: Params,
    pub(super) text: KnownText,
}

/// What the cache may know of the text of params.
#[derive(Debug)]
pub(crate) enum KnownText {
    /// Which answer it asks for.
    Asks(CacheKey),
    /// Nothing yet.
    New(TextKey),
    /// It is not to be kept.
    Not,
}

/// Reads params and holds them against the schema.
pub(super) fn check(
    text: Bytes,
    method: &CompiledMethod,
    scope: &CacheScope<'_>,
    cache: &ResponseCache,
) -> Result<CheckedParams, Failure> {
    let name = (method.cache.is_some() && text.len() <= MAX_KNOWN_TEXT)
        .then(|| TextKey::new(scope, method.compilation, &text));
    if let Some(key) = name.as_ref().and_then(|name| cache.known(name)) {
        return Ok(CheckedParams { params: Params::known(text), text: KnownText::Asks(key) });
    }
    let params = Params::from_json(text).map_err(|problem| Failure::validation(vec![problem]))?;
    validate(method, &params)?;
    Ok(CheckedParams { params, text: name.map_or(KnownText::Not, KnownText::New) })
}

fn validate(method: &CompiledMethod, params: &Params) -> Result<(), Failure> {
    method.param_schema.validate(params.as_value()).map_err(|problems| {
        let problems = problems.into_iter();
        Failure::validation(
            problems.map(|problem| Problem::new(format!("/params{}", problem.pointer), problem.message)).collect(),
        )
    })
}

#[cfg(test)]
mod tests {
    use integration_model::definition::{Definition, DefinitionSpec, DefinitionStatus};
    use integration_model::{InstanceId, TenantId, Timestamp};
    use serde_json::json;

    use super::*;
    use crate::adapter::Adapters;
    use crate::registry::{CompiledDefinition, PolicyDefaults};

    fn compiled(schema: &serde_json::Value) -> std::sync::Arc<CompiledMethod> {
        let spec = DefinitionSpec::from_json(json!({
            "id": "petshop", "name": "Pets", "description": "", "version": "1.0.0", "type": "http", "authType": "none",
            "methods": [{
                "name": "getPet", "operation": {"verb": "GET", "path": "/pets"}, "idempotent": true,
                "paramSchema": schema, "cache": {"ttlMs": 60_000},
            }],
        }))
        .expect("a definition");
        let now = Timestamp::from_micros(0);
        let status = DefinitionStatus::Published;
        let definition = Definition { spec, status, created_at: now, updated_at: now, published_at: Some(now) };
        let compiled =
            CompiledDefinition::new(definition, &Adapters::with(&Default::default()), PolicyDefaults::default());
        compiled.expect("it compiles").method(0).expect("it compiles")
    }

    /// Reads params as a call does that finds its answer in the cache; gives whether they were parsed.
    fn call(method: &CompiledMethod, instance: &str, text: &str, cache: &ResponseCache) -> Result<bool, Failure> {
        let (tenant, instance) = (TenantId::default_tenant(), InstanceId::parse(instance).expect("an id"));
        let scope =
            CacheScope { tenant: &tenant, instance: &instance, definition_version: "1.0.0", method: &method.name };
        let CheckedParams { params, text: known } = check(Bytes::from(text.to_owned()), method, &scope, cache)?;
        let was_read = params.is_read();
        let key = CacheKey::new(&scope, params.as_object(), &[]);
        assert_eq!(params.text(), text.as_bytes());
        match known {
            KnownText::New(name) => cache.remember(name, &key),
            KnownText::Asks(known) => assert!(known == key, "the key is that of the params"),
            KnownText::Not => {}
        }
        Ok(was_read)
    }

    fn pet_schema(kind: &str) -> serde_json::Value {
        json!({"type": "object", "properties": {"petId": {"type": kind}}})
    }

    #[test]
    fn a_text_that_was_found_good_is_not_read_again() {
        let (method, cache) = (compiled(&pet_schema("integer")), ResponseCache::new(1 << 20));
        let read = |text| call(&method, "pets", text, &cache).expect("it fits");
        assert!(read(r#"{"petId": 7}"#));
        assert!(!read(r#"{"petId": 7}"#));
        assert!(read(r#"{"petId":7}"#), "another text, which means the same");
        assert!(!read(r#"{"petId":7}"#));
        assert!(call(&method, "others", r#"{"petId": 7}"#, &cache).expect("it fits"), "another instance's");
        assert!(call(&compiled(&pet_schema("integer")), "pets", r#"{"petId": 7}"#, &cache).expect("it fits"));
    }

    #[test]
    fn what_does_not_fit_never_does() {
        let (method, cache) = (compiled(&pet_schema("integer")), ResponseCache::new(1 << 20));
        for text in [r#"{"petId": "x"}"#, "[]", r#"{"petId": 7, "petId": 8}"#, "{"] {
            for _ in 0..3 {
                assert_eq!(
                    call(&method, "pets", text, &cache).expect_err(text).code,
                    integration_model::ErrorCode::Validation
                );
            }
        }
        assert!(call(&method, "pets", r#"{"petId": 7}"#, &cache).is_ok());
        let changed = compiled(&pet_schema("string"));
        assert!(call(&changed, "pets", r#"{"petId": 7}"#, &cache).is_err(), "what it fitted is no more");
    }

    #[test]
    fn long_texts_and_those_of_a_cleared_instance_are_read_each_time() {
        let (method, cache) = (compiled(&json!(true)), ResponseCache::new(1 << 20));
        let long = format!("{{\"a\": \"{}\"}}", "x".repeat(MAX_KNOWN_TEXT));
        for _ in 0..2 {
            assert!(call(&method, "pets", &long, &cache).expect("it fits"));
        }
        for instance in ["pets", "others"] {
            assert!(call(&method, instance, "{}", &cache).expect("it fits"));
        }
        cache.clear(&InstanceId::parse("pets").expect("an id"));
        assert!(call(&method, "pets", "{}", &cache).expect("it fits"));
        assert!(!call(&method, "others", "{}", &cache).expect("it fits"));
    }
}
