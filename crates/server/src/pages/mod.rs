//! Pages for people: the reference of the API, the page of each error code, and the one that
//! ends a person's connection. Made on
//! the server from what is in the binary: no scripts, nothing from elsewhere.

pub(crate) mod connection;
mod prose;
mod reference;

use std::fmt::Write as _;

use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use http::header::CONTENT_TYPE;
use integration_model::ErrorCode;
use serde_json::Value;

use crate::error::ApiError;
use crate::extract::Path;
use crate::state::AppState;

const STYLE: &str = include_str!("style.css");

/// The API's description as JSON.
pub(crate) async fn openapi_json(State(state): State<AppState>) -> Response {
    ([(CONTENT_TYPE, "application/json")], state.openapi.to_string()).into_response()
}

/// The API's description for reading.
pub(crate) async fn reference(State(state): State<AppState>) -> Result<Html<String>, ApiError> {
    let api: Value = serde_json::from_str(&state.openapi).map_err(|error| {
        tracing::error!(error = %error, "the API's description is not readable");
        ApiError::internal()
    })?;
    Ok(Html(reference::render(&api)))
}

/// The page of one error code.
pub(crate) async fn error_page(Path(code): Path<String>) -> Result<Html<String>, ApiError> {
    let code = ErrorCode::parse(&code)
        .ok_or_else(|| ApiError::new(ErrorCode::NotFound, format!("there is no error code {code:?}")))?;
    let text = prose::render(crate::error_pages::text(code));
    let body = format!("<main class=\"page\"><p><a href=\"/docs#errors\">API reference</a></p>{text}</main>");
    Ok(Html(page(code.as_str(), &body)))
}

/// A whole page around a body, which is HTML already.
fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{} · Integration Service</title><style>{STYLE}</style></head><body>{body}</body></html>",
        escape(title)
    )
}

/// A table; the cells are HTML already.
fn push_table<const N: usize>(body: &mut String, heads: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    body.push_str("<table><thead><tr>");
    for head in heads {
        let _ = write!(body, "<th scope=\"col\">{head}</th>");
    }
    body.push_str("</tr></thead><tbody>");
    for row in rows {
        let _ = write!(body, "<tr><td>{}</td></tr>", row.join("</td><td>"));
    }
    body.push_str("</tbody></table>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
