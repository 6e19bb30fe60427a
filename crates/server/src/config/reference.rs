//! `${NAME}` and `${NAME:-default}` in the scalars of configuration files; `$${` is a
//! literal `${`. A value put in stays one text: it cannot bring structure with it.

use serde_json::Value;

use super::document::{Content, Node, child_pointer};
use super::environment::Environment;
use super::fault::Fault;

/// Puts the environment's values in, everywhere in `node`.
pub(crate) fn substitute(node: &mut Node, environment: &Environment, faults: &mut Vec<Fault>) {
    substitute_at(node, "", environment, faults);
}

fn substitute_at(node: &mut Node, pointer: &str, environment: &Environment, faults: &mut Vec<Fault>) {
    match &mut node.content {
        Content::Scalar(Value::String(text)) if text.contains("${") => match resolve(text, environment) {
            Ok(resolved) => {
                // A text that only escapes references is as its author wrote it.
                node.substituted = resolved.referenced;
                *text = resolved.text;
            }
            Err(message) => faults.push(Fault::new(node.origin.clone(), pointer, message)),
        },
        Content::Scalar(_) => {}
        Content::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                substitute_at(item, &child_pointer(pointer, index), environment, faults);
            }
        }
        Content::Mapping(entries) => {
            for entry in entries {
                substitute_at(&mut entry.value, &child_pointer(pointer, &entry.key), environment, faults);
            }
        }
    }
}

struct Resolved {
    text: String,
    referenced: bool,
}

fn resolve(text: &str, environment: &Environment) -> Result<Resolved, String> {
    let mut resolved = Resolved { text: String::with_capacity(text.len()), referenced: false };
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if let Some(before) = rest[..start].strip_suffix('$') {
            resolved.text.push_str(before);
            resolved.text.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        resolved.text.push_str(&rest[..start]);
        let inner = &rest[start + 2..];
        let (reference, after) = inner.split_once('}').ok_or("a reference ${… lacks its closing brace")?;
        resolved.text.push_str(value_of(reference, environment)?);
        resolved.referenced = true;
        rest = after;
    }
    resolved.text.push_str(rest);
    Ok(resolved)
}

fn value_of<'a>(reference: &'a str, environment: &'a Environment) -> Result<&'a str, String> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if !is_variable_name(name) {
        return Err("expected ${NAME} or ${NAME:-default}; $${ writes a literal ${".to_owned());
    }
    environment
        .get(name)
        .or(default)
        .ok_or_else(|| format!("the environment variable {name} is not set; set it or write ${{{name}:-default}}"))
}

fn is_variable_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> Result<String, String> {
        let environment = Environment::from_iter([("KEY", "v}al$"), ("EMPTY", "")]);
        resolve(text, &environment).map(|resolved| resolved.text)
    }

    #[test]
    fn references_are_replaced_once_and_escapes_kept() {
        assert_eq!(resolved("a-${KEY}-${NONE:-d e}").as_deref(), Ok("a-v}al$-d e"));
        assert_eq!(resolved("$${KEY} $x ${EMPTY:-other}").as_deref(), Ok("${KEY} $x other"));
        assert_eq!(resolved("${NONE:-}").as_deref(), Ok(""));
    }

    #[test]
    fn a_missing_variable_is_named_and_broken_references_are_refused() {
        assert!(resolved("${NONE}").is_err_and(|message| message.contains("NONE")));
        for broken in ["${", "${}", "${1A}", "${a b}", "${KEY"] {
            assert!(resolved(broken).is_err(), "{broken}");
        }
    }
}
