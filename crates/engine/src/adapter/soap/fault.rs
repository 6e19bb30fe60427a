//! Faults of SOAP 1.1 and 1.2, and what they mean.

use std::collections::BTreeMap;

use http::{HeaderMap, StatusCode};
use integration_model::ErrorCode;
use serde_json::{Value, json};

use super::super::http::errors::excerpt;
use super::super::http::limits::limits;
use super::answer::generic;
use super::spec::FaultRule;
use crate::adapter::{CallError, Effect};
use crate::credential::Credential;
use crate::xml::Element;

/// How much of a fault's reason goes into the error's message.
pub(super) const REASON: usize = 500;
/// How much of a fault's detail goes into the error's details.
const DETAIL: usize = 4 * 1024;
/// How deep subcodes are followed.
const MAX_SUBCODES: usize = 8;

/// Codes of WS-Security by which the credential is refused.
const REFUSALS: [&str; 4] = ["FailedAuthentication", "InvalidSecurityToken", "FailedCheck", "SecurityTokenUnavailable"];

/// A fault, as both versions tell it.
pub(super) struct Fault<'a> {
    /// The code and its subcodes, without prefixes.
    codes: Vec<String>,
    reason: String,
    detail: Option<&'a Element>,
}

impl<'a> Fault<'a> {
    /// Reads a fault by its names alone: systems confuse the namespaces of the versions, and some
    /// the versions.
    pub(super) fn read(fault: &'a Element) -> Self {
        let named = |element: &'a Element, name: &str| element.children().find(|child| child.name.local == name);
        let code = |element: &Element| element.text().trim().rsplit(':').next().unwrap_or_default().to_owned();
        let mut codes: Vec<_> = named(fault, "faultcode").map(code).into_iter().collect();
        let mut at = named(fault, "Code").filter(|_| codes.is_empty());
        while let Some(element) = at.filter(|_| codes.len() < MAX_SUBCODES) {
            codes.extend(named(element, "Value").map(code));
            at = named(element, "Subcode");
        }
        let text = || named(named(fault, "Reason")?, "Text");
        let reason = named(fault, "faultstring").or_else(text);
        let detail = named(fault, "detail").or_else(|| named(fault, "Detail"));
        Self { codes, reason: reason.map(Element::text).unwrap_or_default(), detail }
    }

    /// Its codes and its reason in a line.
    pub(super) fn summary(&self) -> String {
        format!("{}: {}", self.codes.join("/"), self.reason.trim())
    }

    fn is(&self, wanted: &str) -> bool {
        self.codes.iter().any(|code| code == wanted)
    }

    fn fits(&self, rule: &FaultRule) -> bool {
        let has_detail =
            |name: &String| self.detail.is_some_and(|detail| detail.children().any(|one| one.name.local == *name));
        rule.fault.as_ref().is_none_or(|code| self.is(code)) && rule.detail.as_ref().is_none_or(has_detail)
    }

    /// Whose fault it is: `Client` and `Sender` say the caller's, dots refine it.
    fn blames_caller(&self) -> bool {
        const OURS: [&str; 5] = ["Client", "Sender", "MustUnderstand", "VersionMismatch", "DataEncodingUnknown"];
        self.codes.first().is_some_and(|code| OURS.contains(&code.split('.').next().unwrap_or_default()))
    }

    /// The error that the fault is; the first of the `rules` that fits says more.
    pub(super) fn into_error(
        self,
        rules: &[FaultRule],
        status: StatusCode,
        headers: &HeaderMap,
        credential: &Credential,
    ) -> CallError {
        let rule = rules.iter().find(|rule| self.fits(rule));
        let refused = status == StatusCode::UNAUTHORIZED || REFUSALS.iter().any(|code| self.is(code));
        let default_code = if refused { ErrorCode::Auth } else { ErrorCode::Upstream };
        let code = rule.map_or(default_code, |rule| rule.code);
        let blames_caller = self.blames_caller() || refused;
        let name = excerpt(self.codes.join("/").as_bytes(), REASON, credential);
        let reason = excerpt(self.reason.trim().as_bytes(), REASON, credential);
        let message = match reason.is_empty() {
            true => format!("the upstream answered a fault {name}"),
            false => format!("the upstream answered a fault {name}: {reason}"),
        };
        let error = CallError {
            code,
            message,
            details: BTreeMap::new(),
            retryable: rule.and_then(|rule| rule.retryable).unwrap_or(!blames_caller),
            // A refused credential means that nothing was done.
            effect: if refused { Effect::None } else { Effect::Answered },
            upstream_failed: !blames_caller,
            credential_refused: code == ErrorCode::Auth,
            upstream_status: Some(status.as_u16()),
            limits: limits(headers),
        };
        let codes: Vec<_> = self.codes.iter().map(|code| excerpt(code.as_bytes(), REASON, credential)).collect();
        let error = error
            .with_detail("upstreamStatus", status.as_u16())
            .with_detail("fault", json!({"codes": codes, "reason": reason}));
        match self.detail.map(|detail| told(detail, credential)) {
            Some(detail) if !detail.is_null() => error.with_detail("faultDetail", detail),
            _ => error,
        }
    }
}

/// The detail by its names; its beginning where it is long.
fn told(detail: &Element, credential: &Credential) -> Value {
    let mut text = String::new();
    generic(detail, None, &mut text);
    let shown = excerpt(text.as_bytes(), DETAIL, credential);
    serde_json::from_str(&shown).unwrap_or(Value::String(shown))
}
