//! Servers as the config of instances: `baseUrl`, with a field for each variable.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use url::Url;

use super::documents::Node;
use super::{Dialect, Source};

/// The most servers that are named in a description.
const MAX_TOLD: usize = 20;
const MAX_URL: usize = 2_000;
/// Fields that the adapter reads itself.
const ADAPTERS_OWN: [&str; 4] = ["baseUrl", "headers", "tls", "timeoutMs"];

/// What the servers of a document become.
pub(super) struct Config {
    pub(super) schema: Value,
    pub(super) defaults: Map<String, Value>,
    pub(super) lost: Vec<String>,
}

/// The text of a server's URL, as the document has it, for each operation alike.
pub(super) fn url_of<'a>(operation: Node<'a>, item: Node<'a>) -> Option<&'a str> {
    let first = |node: Node<'a>| node.items_of("servers").next().and_then(|server| server.text("url"));
    first(operation).or_else(|| first(item))
}

/// The server that most operations are at; none is that of the whole document.
pub(super) fn usual<'a>(urls: impl Iterator<Item = Option<&'a str>>) -> Option<&'a str> {
    let mut counts: HashMap<Option<&str>, usize> = HashMap::new();
    urls.for_each(|url| *counts.entry(url).or_default() += 1);
    let most = counts.into_iter().max_by_key(|(url, count)| (*count, url.is_none()));
    most.and_then(|(url, _)| url)
}

/// The servers that the whole document names.
pub(super) fn of_document<'a>(source: &Source<'a>) -> Vec<Node<'a>> {
    source.documents.root().items_of("servers").filter(|server| server.text("url").is_some()).collect()
}

/// 2.0: scheme, host and path.
pub(super) fn of_swagger(source: &Source<'_>) -> Option<String> {
    let root = source.documents.root();
    let schemes: Vec<&str> = root.items_of("schemes").filter_map(|scheme| scheme.value.as_str()).collect();
    let scheme = if schemes.is_empty() || schemes.contains(&"https") { "https" } else { "http" };
    let path = root.text("basePath").unwrap_or_default();
    match root.text("host") {
        Some(host) => Some(format!("{scheme}://{host}{path}")),
        None => (!path.is_empty()).then(|| path.to_owned()),
    }
}

impl Config {
    /// The config of instances at `server`. `others` are told of; `origin` is where the
    /// document came from.
    pub(super) fn of(source: &Source<'_>, server: Option<&str>, origin: Option<&Url>) -> Self {
        let servers = of_document(source);
        let mut lost = Vec::new();
        let (text, variables) = match server {
            Some(text) => {
                let described = servers.iter().find(|known| known.text("url") == Some(text));
                (Some(text.to_owned()), described.copied())
            }
            None if source.dialect == Dialect::V2 => (of_swagger(source), None),
            None => {
                (servers.first().and_then(|server| server.text("url")).map(str::to_owned), servers.first().copied())
            }
        };
        let mut properties = Map::new();
        let mut defaults = Map::new();
        let filled = text.map(|text| fill(&text, variables, &mut properties, &mut defaults, &mut lost));
        let filled = filled.and_then(|text| match absolute(&text, origin) {
            Some(url) => Some(url),
            None => {
                lost.push(format!("the server {text:?} has no host: the config of instances has to give the baseUrl"));
                None
            }
        });
        let mut told: Vec<&str> = servers.iter().filter_map(|server| server.text("url")).take(MAX_TOLD).collect();
        told.retain(|url| url.len() <= MAX_URL && Some(*url) != filled.as_deref());
        let mut description = "Where the system is.".to_owned();
        if !told.is_empty() {
            description.push_str(" Others: ");
            description.push_str(&told.join(", "));
        }
        let mut base_url = json!({"type": "string", "description": description});
        match filled {
            Some(url) => {
                base_url["default"] = url.as_str().into();
                defaults.insert("baseUrl".to_owned(), url.into());
            }
            None if servers.is_empty() && source.dialect != Dialect::V2 => {
                lost.push("it names no server: the config of instances has to give the baseUrl".to_owned());
            }
            None => {}
        }
        properties.insert("baseUrl".to_owned(), base_url);
        let schema = json!({"type": "object", "required": ["baseUrl"], "properties": properties});
        Self { schema, defaults, lost }
    }
}

/// Puts fields of the config in place of a URL's variables; such as would change its parts
/// are put in as they are by default.
fn fill(
    text: &str,
    server: Option<Node<'_>>,
    properties: &mut Map<String, Value>,
    defaults: &mut Map<String, Value>,
    lost: &mut Vec<String>,
) -> String {
    let mut filled = text.to_owned();
    for (name, variable) in server.into_iter().flat_map(|server| server.members_of("variables")) {
        let place = format!("{{{name}}}");
        let Some(default) = variable.value.get("default").and_then(as_text) else { continue };
        if !filled.contains(&place) {
            continue;
        }
        let choices: Vec<String> = variable.items_of("enum").filter_map(|value| as_text(value.value)).collect();
        let is_plain = |value: &String| {
            !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "-._~".contains(c))
        };
        let is_name = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !is_name || !is_plain(&default) || !choices.iter().all(is_plain) {
            filled = filled.replace(&place, &default);
            lost.push(format!("the server's variable {name:?} is {default:?} in the baseUrl, not a field of its own"));
            continue;
        }
        let field = if ADAPTERS_OWN.contains(&name) { format!("server_{name}") } else { name.to_owned() };
        filled = filled.replace(&place, &format!("{{config.{field}}}"));
        let mut schema = json!({"type": "string", "default": default});
        if !choices.is_empty() {
            schema["enum"] = choices.into();
        }
        if let Some(description) = variable.text("description") {
            schema["description"] = description.chars().take(400).collect::<String>().into();
        }
        properties.insert(field.clone(), schema);
        defaults.insert(field, default.into());
    }
    filled
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The URL, with a host; none where the document does not tell which.
fn absolute(text: &str, origin: Option<&Url>) -> Option<String> {
    let text = text.trim();
    if text.len() > MAX_URL {
        return None;
    }
    if text.starts_with("http://") || text.starts_with("https://") || text.starts_with("{config.") {
        return Some(text.to_owned());
    }
    let joined = origin?.join(text).ok()?;
    matches!(joined.scheme(), "http" | "https").then(|| joined.as_str().trim_end_matches('/').to_owned())
}
