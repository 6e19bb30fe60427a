//! The JSON Schemas that adapters bring: of their operations and of what they read from a
//! config.

use integration_model::Problem;
use jsonschema::Validator;
use serde_json::Value;

/// A JSON Schema of ours and the validator compiled from it.
pub(in crate::adapter) struct OwnSchema {
    pub(in crate::adapter) document: Value,
    validator: Validator,
}

impl OwnSchema {
    pub(in crate::adapter) fn compile(text: &str) -> Self {
        let document: Value = serde_json::from_str(text).expect("the built-in schema is JSON");
        let validator = jsonschema::validator_for(&document).expect("the built-in schema is a schema");
        Self { document, validator }
    }

    /// All faults of a document.
    pub(in crate::adapter) fn check(&self, document: &Value) -> Vec<Problem> {
        let problem = |error: jsonschema::ValidationError<'_>| {
            Problem::new(error.instance_path().to_string(), error.masked().to_string())
        };
        self.validator.iter_errors(document).map(problem).collect()
    }
}
