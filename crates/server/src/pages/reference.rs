//! The reference of the API as a page, from its description. Knows OpenAPI, no endpoint.

use std::fmt::Write as _;

use integration_model::ErrorCode;
use serde_json::Value;

use super::{escape, page, prose, push_table};

/// The whole page.
pub(super) fn render(api: &Value) -> String {
    let tags: Vec<&Value> = api["tags"].as_array().into_iter().flatten().collect();
    let mut body = String::from("<div class=\"with-contents\">");
    push_contents(&mut body, api, &tags);
    let _ = write!(
        body,
        "<main><h1>API reference</h1>{}<p>The same for machines: <a href=\"/openapi.json\">openapi.json</a> (OpenAPI 3.1).</p>",
        prose::render(text_of(&api["info"], "description"))
    );
    for tag in tags {
        let name = text_of(tag, "name");
        let _ = write!(body, "<h2 id=\"{0}\">{0}</h2>{1}", escape(name), prose::render(text_of(tag, "description")));
        for (path, verb, operation) in operations(api).filter(|(.., operation)| operation["tags"][0] == name) {
            push_operation(&mut body, api, path, verb, operation);
        }
    }
    push_errors(&mut body);
    push_schemas(&mut body, api);
    body.push_str("</main></div>");
    page("API reference", &body)
}

fn push_contents(body: &mut String, api: &Value, tags: &[&Value]) {
    body.push_str("<nav aria-label=\"Contents\" tabindex=\"0\"><ul>");
    for tag in tags {
        let name = text_of(tag, "name");
        let _ = write!(body, "<li><a href=\"#{0}\">{0}</a><ul>", escape(name));
        for (.., operation) in operations(api).filter(|(.., operation)| operation["tags"][0] == name) {
            let id = escape(text_of(operation, "operationId"));
            let _ = write!(body, "<li><a href=\"#operation-{id}\">{id}</a></li>");
        }
        body.push_str("</ul></li>");
    }
    body.push_str("<li><a href=\"#errors\">errors</a></li><li><a href=\"#schemas\">schemas</a></li></ul></nav>");
}

/// Every operation with its path and verb.
fn operations(api: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = api["paths"].as_object().into_iter().flatten();
    paths.flat_map(|(path, item)| {
        item.as_object().into_iter().flatten().map(move |(verb, operation)| (path.as_str(), verb.as_str(), operation))
    })
}

fn push_operation(body: &mut String, api: &Value, path: &str, verb: &str, operation: &Value) {
    let _ = write!(
        body,
        "<section id=\"operation-{}\"><h3><code><span class=\"verb\">{}</span>{}</code></h3>{}{}",
        escape(text_of(operation, "operationId")),
        verb.to_uppercase(),
        escape(path),
        prose::render(text_of(operation, "summary")),
        prose::render(text_of(operation, "description"))
    );
    let parameters: Vec<_> = operation["parameters"].as_array().into_iter().flatten().collect();
    if !parameters.is_empty() {
        body.push_str("<h4>Parameters</h4>");
        let rows = parameters.iter().map(|parameter| {
            let parameter = resolved(api, parameter);
            let needed = if parameter["required"] == true { ", required" } else { "" };
            [
                format!("<code>{}</code>", escape(text_of(parameter, "name"))),
                format!("{}{needed}", escape(text_of(parameter, "in"))),
                type_of(&parameter["schema"]),
                prose::inline(text_of(parameter, "description")),
            ]
        });
        push_table(body, ["name", "in", "type", "meaning"], rows);
    }
    let contents = operation["requestBody"]["content"].as_object();
    if let Some(contents) = contents {
        let shapes: Vec<_> = contents.iter().map(|(kind, content)| shape(kind, content)).collect();
        let _ = write!(body, "<h4>Body</h4><p>{}</p>", shapes.join(", or "));
    }
    body.push_str("<h4>Answers</h4>");
    let answers = operation["responses"].as_object().into_iter().flatten().map(|(status, response)| {
        let response = resolved(api, response);
        let contents = response["content"].as_object().into_iter().flatten();
        let shapes: Vec<_> = contents.map(|(kind, content)| shape(kind, content)).collect();
        let description = prose::inline(text_of(response, "description"));
        [format!("<code>{}</code>", escape(status)), description, shapes.join("<br>")]
    });
    push_table(body, ["status", "meaning", "body"], answers);
    body.push_str("</section>");
}

fn push_errors(body: &mut String) {
    body.push_str("<h2 id=\"errors\">errors</h2><p>The stable codes; each has a page.</p>");
    let rows = ErrorCode::ALL.iter().map(|code| {
        [format!("<a href=\"/docs/errors/{code}\"><code>{code}</code></a>"), prose::inline(code.summary())]
    });
    push_table(body, ["code", "meaning"], rows);
}

fn push_schemas(body: &mut String, api: &Value) {
    body.push_str("<h2 id=\"schemas\">schemas</h2><p>The shapes of bodies and answers.</p>");
    for (name, schema) in api["components"]["schemas"].as_object().into_iter().flatten() {
        let name = escape(name);
        let _ = write!(
            body,
            "<section id=\"schema-{name}\"><h3>{name}</h3>{}",
            prose::render(text_of(schema, "description"))
        );
        let members = schema["properties"].as_object();
        if let Some(members) = members {
            let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
            let rows = members.iter().map(|(member, schema)| {
                let needed = if required.iter().any(|name| name == member) { ", required" } else { "" };
                [
                    format!("<code>{}</code>", escape(member)),
                    format!("{}{needed}", type_of(schema)),
                    prose::inline(&description_of(schema)),
                ]
            });
            push_table(body, ["member", "type", "meaning"], rows);
        } else {
            let _ = write!(body, "<p>{}</p>", type_of(schema));
        }
        body.push_str("</section>");
    }
}

/// What a reference within the description stands for; anything else stands for itself.
fn resolved<'a>(api: &'a Value, value: &'a Value) -> &'a Value {
    value["$ref"]
        .as_str()
        .and_then(|reference| reference.strip_prefix('#'))
        .and_then(|pointer| api.pointer(pointer))
        .unwrap_or(value)
}

fn shape(kind: &str, content: &Value) -> String {
    format!("{} <span class=\"soft\">{}</span>", type_of(&content["schema"]), escape(kind))
}

/// The first description of a schema, or of one of its alternatives.
fn description_of(schema: &Value) -> String {
    let own = text_of(schema, "description");
    let alternatives = schema["oneOf"].as_array().into_iter().flatten();
    let first = alternatives.map(|alternative| text_of(alternative, "description")).find(|text| !text.is_empty());
    if own.is_empty() { first.unwrap_or_default().to_owned() } else { own.to_owned() }
}

/// What a schema takes, in a few words with links; HTML.
fn type_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        return format!("<a href=\"#schema-{0}\">{0}</a>", escape(name));
    }
    if let Some(alternatives) = schema["oneOf"].as_array() {
        return alternatives.iter().map(type_of).collect::<Vec<_>>().join(" or ");
    }
    if let Some(values) = schema["enum"].as_array() {
        let values = values.iter().filter_map(Value::as_str);
        return values.map(|value| format!("<code>{}</code>", escape(value))).collect::<Vec<_>>().join(", ");
    }
    let name = match &schema["type"] {
        Value::String(name) if name == "array" => return format!("array of {}", type_of(&schema["items"])),
        Value::String(name) => name.clone(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        _ => "anything".to_owned(),
    };
    match schema["format"].as_str() {
        Some(format) => format!("{} ({})", escape(&name), escape(format)),
        None => escape(&name),
    }
}

fn text_of<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}
