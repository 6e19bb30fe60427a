//! Pages for people: the reference of the API and the page of each error code. Made on
//! the server from what is in the binary: no scripts, nothing from elsewhere.

use std::fmt::Write as _;

use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use http::header::CONTENT_TYPE;
use integration_model::ErrorCode;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{OpenApi, Required};

use crate::error::ApiError;
use crate::extract::Path;
use crate::state::AppState;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}\
code,pre{font-family:ui-monospace,monospace;font-size:.9em}pre{background:#f4f4f4;padding:1rem;overflow:auto}\
h2{margin-top:3rem;border-bottom:1px solid #ccc}h3{margin-top:2rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}a{color:#0b4fa8}";

/// The API's description as JSON.
pub async fn openapi_json(State(state): State<AppState>) -> Response {
    ([(CONTENT_TYPE, "application/json")], state.openapi.to_string()).into_response()
}

/// The API's description for reading.
pub async fn reference() -> Html<String> {
    Html(render_reference(&crate::router::describe()))
}

/// The page of one error code.
pub async fn error_page(Path(code): Path<String>) -> Result<Html<String>, ApiError> {
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

fn render_reference(api: &OpenApi) -> String {
    let mut body = format!(
        "<p>{}</p><p>The same for machines: <a href=\"/openapi.json\">openapi.json</a> (OpenAPI 3.1).</p><nav aria-label=\"Contents\"><ul>",
        escape(api.info.description.as_deref().unwrap_or_default())
    );
    let tags = api.tags.as_deref().unwrap_or_default();
    for tag in tags {
        let _ = write!(body, "<li><a href=\"#{0}\">{0}</a>: {1}</li>", escape(&tag.name), escape(tag.description.as_deref().unwrap_or_default()));
    }
    body.push_str("<li><a href=\"#errors\">errors</a>: the stable codes.</li></ul></nav>");
    for tag in tags {
        let _ = write!(body, "<h2 id=\"{0}\">{0}</h2>", escape(&tag.name));
        for (path, item) in &api.paths.paths {
            for (verb, operation) in operations(item) {
                if operation.tags.as_deref().unwrap_or_default().contains(&tag.name) {
                    render_operation(&mut body, verb, path, operation);
                }
            }
        }
    }
    body.push_str("<h2 id=\"errors\">errors</h2><table><thead><tr><th scope=\"col\">code</th><th scope=\"col\">meaning</th></tr></thead><tbody>");
    for code in ErrorCode::ALL {
        let _ = write!(body, "<tr><td><a href=\"/docs/errors/{code}\"><code>{code}</code></a></td><td>{}</td></tr>", escape(code.summary()));
    }
    body.push_str("</tbody></table>");
    page("API reference", &body)
}

fn operations(item: &PathItem) -> impl Iterator<Item = (&'static str, &Operation)> {
    [("GET", &item.get), ("POST", &item.post), ("PUT", &item.put), ("PATCH", &item.patch), ("DELETE", &item.delete)]
        .into_iter()
        .filter_map(|(verb, operation)| operation.as_ref().map(|operation| (verb, operation)))
}

fn render_operation(body: &mut String, verb: &str, path: &str, operation: &Operation) {
    let _ = write!(body, "<h3><code>{verb} {}</code></h3><p>{}</p>", escape(path), escape(operation.summary.as_deref().unwrap_or_default()));
    if let Some(text) = &operation.description {
        let _ = write!(body, "<p>{}</p>", escape(text));
    }
    let parameters = operation.parameters.as_deref().unwrap_or_default();
    if !parameters.is_empty() {
        body.push_str("<table><thead><tr><th scope=\"col\">parameter</th><th scope=\"col\">in</th><th scope=\"col\">meaning</th></tr></thead><tbody>");
        for parameter in parameters {
            let place = serde_json::to_value(&parameter.parameter_in).ok();
            let place = place.as_ref().and_then(|value| value.as_str()).unwrap_or_default().to_owned();
            let needed = if parameter.required == Required::True { " (required)" } else { "" };
            let _ = write!(body, "<tr><td><code>{}</code></td><td>{}{needed}</td><td>{}</td></tr>", escape(&parameter.name), escape(&place), escape(parameter.description.as_deref().unwrap_or_default()));
        }
        body.push_str("</tbody></table>");
    }
    if let Some(request) = &operation.request_body {
        let kinds: Vec<_> = request.content.keys().map(|kind| format!("<code>{}</code>", escape(kind))).collect();
        let _ = write!(body, "<p>Body: {}</p>", kinds.join(", "));
    }
    let answers: Vec<_> = operation.responses.responses.keys().map(|status| format!("<code>{}</code>", escape(status))).collect();
    let _ = write!(body, "<p>Answers: {}</p>", answers.join(", "));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
