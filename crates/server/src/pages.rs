//! Pages for people: the reference of the API and the page of each error code. Made on
//! the server from what is in the binary: no scripts, nothing from elsewhere.

use std::fmt::Write as _;

use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use http::header::CONTENT_TYPE;
use integration_model::ErrorCode;
use serde_json::Value;

use crate::error::ApiError;
use crate::extract::Path;
use crate::state::AppState;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}\
code,pre{font-family:ui-monospace,monospace;font-size:.9em}pre{background:#f4f4f4;padding:1rem;overflow:auto}\
h2{margin-top:3rem;border-bottom:1px solid #ccc}h3{margin-top:2rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}a{color:#0b4fa8}";

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
    Ok(Html(render_reference(&api)))
}

/// The page of one error code.
pub(crate) async fn error_page(Path(code): Path<String>) -> Result<Html<String>, ApiError> {
    let code = ErrorCode::parse(&code)
        .ok_or_else(|| ApiError::new(ErrorCode::NotFound, format!("there is no error code {code:?}")))?;
    let text = crate::error_pages::text(code);
    Ok(Html(page(code.as_str(), &format!("<p><a href=\"/docs\">API reference</a></p><pre>{}</pre>", escape(text)))))
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
<title>{0} · Integration Service</title><style>{STYLE}</style></head><body><main><h1>{0}</h1>{body}</main></body></html>",
        escape(title)
    )
}

fn render_reference(api: &Value) -> String {
    let mut body = format!(
        "<p>{}</p><p>The same for machines: <a href=\"/openapi.json\">openapi.json</a> (OpenAPI 3.1).</p><nav aria-label=\"Contents\"><ul>",
        escape(text_of(&api["info"], "description"))
    );
    let tags: Vec<_> = api["tags"].as_array().into_iter().flatten().collect();
    for tag in &tags {
        let (name, meaning) = (escape(text_of(tag, "name")), escape(text_of(tag, "description")));
        let _ = write!(body, "<li><a href=\"#{name}\">{name}</a>: {meaning}</li>");
    }
    body.push_str("<li><a href=\"#errors\">errors</a>: the stable codes.</li></ul></nav>");
    for tag in &tags {
        let name = text_of(tag, "name");
        let _ = write!(body, "<h2 id=\"{0}\">{0}</h2>", escape(name));
        for (path, verb, operation) in operations(api) {
            if operation["tags"][0] == name {
                render_operation(&mut body, path, verb, operation);
            }
        }
    }
    body.push_str("<h2 id=\"errors\">errors</h2>");
    let rows = ErrorCode::ALL
        .iter()
        .map(|code| [format!("<a href=\"/docs/errors/{code}\"><code>{code}</code></a>"), escape(code.summary())]);
    push_table(&mut body, ["code", "meaning"], rows);
    page("API reference", &body)
}

/// Every operation with its path and verb.
fn operations(api: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = api["paths"].as_object().into_iter().flatten();
    paths.flat_map(|(path, item)| {
        item.as_object().into_iter().flatten().map(move |(verb, operation)| (path.as_str(), verb.as_str(), operation))
    })
}

fn render_operation(body: &mut String, path: &str, verb: &str, operation: &Value) {
    let _ = write!(
        body,
        "<h3><code>{} {}</code></h3><p>{}</p>",
        verb.to_uppercase(),
        escape(path),
        escape(text_of(operation, "summary"))
    );
    if !text_of(operation, "description").is_empty() {
        let _ = write!(body, "<p>{}</p>", escape(text_of(operation, "description")));
    }
    let parameters: Vec<_> = operation["parameters"].as_array().into_iter().flatten().collect();
    if !parameters.is_empty() {
        let rows = parameters.iter().map(|parameter| {
            let needed = if parameter["required"] == true { " (required)" } else { "" };
            [
                format!("<code>{}</code>", escape(text_of(parameter, "name"))),
                format!("{}{needed}", escape(text_of(parameter, "in"))),
                escape(text_of(parameter, "description")),
            ]
        });
        push_table(body, ["parameter", "in", "meaning"], rows);
    }
    for (label, members) in [("Body", &operation["requestBody"]["content"]), ("Answers", &operation["responses"])] {
        let names: Vec<_> = members.as_object().into_iter().flatten().map(|(name, _)| name).collect();
        if !names.is_empty() {
            let names: Vec<_> = names.iter().map(|name| format!("<code>{}</code>", escape(name))).collect();
            let _ = write!(body, "<p>{label}: {}</p>", names.join(", "));
        }
    }
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

fn text_of<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
