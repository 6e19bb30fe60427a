//! The page that a person sees who comes back from an authorization server: whether the
//! connection was made, and if not, why and what to do.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::response::{Html, IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_FRAME_OPTIONS};
use http::{HeaderValue, StatusCode};
use integration_model::{ErrorCode, InstanceId};

use super::{STYLE, escape};
use crate::error::ApiError;

/// Nothing but the page's own style: no scripts, no forms, no frames, nothing loaded.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let style = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("base64 is visible ASCII")
});

/// The page for one connection. Everything that came from elsewhere is escaped.
pub(crate) fn page(instance: Option<&InstanceId>, result: &Result<(), ApiError>, correlation_id: &str) -> Response {
    let (status, title, text) = match result {
        Ok(()) => (StatusCode::OK, "Connected", success(instance)),
        Err(error) => (error.status(), "Not connected", failure(instance, error, correlation_id)),
    };
    let body = format!("<main class=\"page\"><h1>{title}</h1>{text}</main>");
    let headers = [
        (CONTENT_SECURITY_POLICY, POLICY.clone()),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    ];
    (status, headers, Html(super::page(title, &body))).into_response()
}

fn success(instance: Option<&InstanceId>) -> String {
    let name = instance.map(|id| format!(" <strong>{}</strong>", escape(id.as_str()))).unwrap_or_default();
    format!("<p role=\"status\">The integration{name} is connected.</p><p>You can close this window.</p>")
}

fn failure(instance: Option<&InstanceId>, error: &ApiError, correlation_id: &str) -> String {
    let name = instance.map(|id| format!(" <strong>{}</strong>", escape(id.as_str()))).unwrap_or_default();
    let faults: String = error.errors.iter().map(|fault| format!("<li>{}</li>", escape(&fault.message))).collect();
    let faults = if faults.is_empty() { faults } else { format!("<ul>{faults}</ul>") };
    format!(
        "<p role=\"alert\">The integration{name} was not connected: {}.</p>{faults}<h2>What to do</h2><p>{}</p>\
         <p class=\"soft\">{} · <code>{}</code></p>",
        escape(&error.detail),
        remedy(error.code),
        error.code,
        escape(correlation_id),
    )
}

fn remedy(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Validation => {
            "Go back to where you began and connect again. A link like this one can be used once, and only for a few \
             minutes."
        }
        ErrorCode::Auth => {
            "If you refused on purpose, there is nothing to do. Otherwise connect again and agree to what is asked, or \
             tell whoever runs this service what stands here."
        }
        ErrorCode::Upstream => "The other system has a problem just now. Try again in a few minutes.",
        _ => "Tell whoever runs this service what stands here; connecting again may not help.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_elsewhere_becomes_markup() {
        let error = ApiError::new(ErrorCode::Auth, "<script>alert(1)</script>\"'&");
        let text = failure(None, &error, "<b>id</b>");
        assert!(!text.contains("<script>") && !text.contains("<b>"), "{text}");
        assert!(text.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;"));
    }
}
