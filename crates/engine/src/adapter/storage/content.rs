//! Content of objects: from a param, and into an answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;

use super::spec::ContentForm;
use crate::adapter::CallError;
use crate::adapter::http::decode::beside_the_runtime;
use crate::adapter::http::encode::decode_base64;
use crate::adapter::template::{invalid_param, text_of};
use crate::params::Params;

/// The content that a param holds.
pub(super) fn read(form: ContentForm, params: &Params, name: &str) -> Result<Bytes, CallError> {
    match form {
        ContentForm::Text => text_of(params, name).map(Bytes::from),
        ContentForm::Json => {
            params.json_text(name).ok_or_else(|| invalid_param(name, "expected a value: it is the content"))
        }
        ContentForm::Base64 => {
            let content = params.get(name).and_then(Value::as_str).and_then(decode_base64);
            content
                .map(Bytes::from)
                .ok_or_else(|| invalid_param(name, "expected a string in base64: it is the content"))
        }
    }
}

/// Content as an answer holds it; the error says what is wrong with it.
pub(super) async fn write(form: ContentForm, content: Bytes) -> Result<Value, String> {
    let size = content.len();
    beside_the_runtime(size, move || match form {
        ContentForm::Base64 => Ok(Value::String(STANDARD.encode(&content))),
        ContentForm::Text => match String::from_utf8(content.into()) {
            Ok(text) => Ok(Value::String(text)),
            Err(error) => Err(format!("it is not UTF-8: {}", error.utf8_error())),
        },
        ContentForm::Json => {
            integration_model::json::from_slice(&content).map_err(|error| format!("it is not JSON: {error}"))
        }
    })
    .await
}
