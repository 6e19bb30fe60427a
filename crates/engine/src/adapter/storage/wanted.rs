//! What one call wants: its key, content and conditions, the params filled in.

use std::sync::Arc;

use bytes::Bytes;
use integration_model::ErrorCode;
use serde_json::Value;

use super::config::StorageConfig;
use super::content;
use super::key::{KeyTemplate, check_segments};
use super::request::{Conditions, Listing, NewObject};
use super::spec::{Action, OperationSpec};
use crate::adapter::template::{Template, invalid_param};
use crate::adapter::{Call, CallError, PageCursor};
use crate::params::Params;
use crate::stream::{ContentStream, Upload};

/// What one call wants, its params filled in.
pub(super) struct Wanted {
    /// The key as the caller knows it, without what the config says goes before it.
    pub(super) own_key: String,
    pub(super) key: String,
    pub(super) source: String,
    /// As a param holds it.
    pub(super) content: Option<Bytes>,
    pub(super) new: NewObject,
    pub(super) conditions: Conditions,
    pub(super) range: Option<(u64, Option<u64>)>,
    pub(super) prefix: String,
    pub(super) config_prefix: String,
    pub(super) after: Option<String>,
}

impl Wanted {
    pub(super) fn of(spec: &OperationSpec, config: &StorageConfig, call: &Call<'_>) -> Result<Self, CallError> {
        let params = call.params;
        let key_of = |template: &KeyTemplate, is_there: bool| {
            if is_there { template.render(&config.prefix, params) } else { Ok(String::new()) }
        };
        let key = key_of(&spec.key, spec.action != Action::List)?;
        let content_type = spec.content_type.as_ref().map(|template| optional(template, params)).transpose()?;
        let mut metadata = Vec::new();
        for (name, template) in &spec.metadata {
            metadata.extend(optional(template, params)?.map(|value| (name.clone(), value)));
        }
        let condition = |template: &Option<Template>| match template {
            Some(template) => optional(template, params),
            None => Ok(None),
        };
        let prefix = format!("{}{}", config.prefix, optional(&spec.prefix, params)?.unwrap_or_default());
        check_prefix(&prefix)?;
        Ok(Self {
            own_key: key.strip_prefix(&config.prefix).unwrap_or_default().to_owned(),
            source: key_of(&spec.source, spec.action == Action::Copy)?,
            key,
            content: match &spec.content {
                Some(name) if params.get(name).is_some() => Some(content::read(spec.encoding, params, name)?),
                _ => None,
            },
            new: NewObject { content_type: content_type.flatten(), metadata },
            conditions: Conditions {
                if_match: condition(&spec.if_match)?,
                if_none_match: condition(&spec.if_none_match)?,
            },
            range: match &spec.range {
                Some((first, last)) => range(first, last.as_ref(), params)?,
                None => None,
            },
            prefix,
            config_prefix: config.prefix.clone(),
            after: call.page.map(|PageCursor(cursor)| cursor.clone()),
        })
    }

    /// How much content a param holds.
    pub(super) fn size(&self) -> usize {
        self.content.as_ref().map_or(0, Bytes::len)
    }

    /// The content, which comes in a param or beside the params.
    pub(super) fn upload(&self, stream: Option<&ContentStream>) -> Result<Arc<Upload>, CallError> {
        let refused = |message: &str| Err(CallError::not_sent(ErrorCode::Validation, message));
        match (&self.content, stream) {
            (None, Some(ContentStream::Upload(upload))) => Ok(Arc::clone(upload)),
            (Some(_), Some(ContentStream::Upload(_))) => refused("the content came twice: as the body and as a param"),
            (Some(content), _) => Ok(Arc::new(Upload::from(content.clone()))),
            (None, _) => refused(
                "there is no content: expected the param that the method names for it, or the body with Content-Type: application/octet-stream",
            ),
        }
    }

    pub(super) fn listing<'a>(&'a self, spec: &'a OperationSpec) -> Listing<'a> {
        Listing {
            prefix: &self.prefix,
            delimiter: spec.delimiter.as_deref(),
            page_size: spec.page_size,
            after: self.after.as_deref(),
        }
    }
}

/// A text whose params may be missing: then it is, too.
fn optional(template: &Template, params: &Params) -> Result<Option<String>, CallError> {
    let is_missing = |name: &str| params.get(name).is_none_or(Value::is_null);
    if template.params().any(is_missing) {
        return Ok(None);
    }
    template.render(params).map(Some)
}

/// The beginning of keys: what a key may not hold, it may not either.
fn check_prefix(prefix: &str) -> Result<(), CallError> {
    let whole = format!("{prefix}x");
    check_segments(&whole).map_err(|message| CallError::not_sent(ErrorCode::Validation, format!("prefix: {message}")))
}

fn range(first: &Template, last: Option<&Template>, params: &Params) -> Result<Option<(u64, Option<u64>)>, CallError> {
    let number = |template: &Template, text: String| {
        let name = template.params().next().unwrap_or_default();
        text.parse::<u64>().map_err(|_| invalid_param(name, "expected a whole number from 0: it counts bytes"))
    };
    let Some(text) = optional(first, params)? else { return Ok(None) };
    let from = number(first, text)?;
    let to = match last {
        Some(template) => optional(template, params)?.map(|text| number(template, text)).transpose()?,
        None => None,
    };
    if to.is_some_and(|to| to < from) {
        return Err(CallError::not_sent(
            ErrorCode::Validation,
            "range: expected a last byte that is not before the first",
        ));
    }
    Ok(Some((from, to)))
}
