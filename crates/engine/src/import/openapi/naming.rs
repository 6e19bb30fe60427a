//! Names for what the document names otherwise, or not at all. Must not know the rest of the
//! document.

use std::collections::HashMap;

use integration_model::DefinitionId;
use integration_model::definition::is_valid_method_name;
use semver::Version;

/// Room is left for a number.
const MAX_METHOD_NAME: usize = 120;
const MAX_ID: usize = 60;

/// Gives each name once; those that come again are numbered, in the order of the document.
#[derive(Debug, Default)]
pub(in crate::import) struct UniqueNames {
    /// The number to try next.
    taken: HashMap<String, usize>,
}

impl UniqueNames {
    pub(in crate::import) fn take(&mut self, name: String) -> String {
        let Some(next) = self.taken.get(&name).copied() else {
            self.taken.insert(name.clone(), 2);
            return name;
        };
        let mut number = next;
        let numbered = loop {
            let numbered = format!("{name}{number}");
            number += 1;
            if !self.taken.contains_key(&numbered) {
                break numbered;
            }
        };
        self.taken.insert(name, number);
        self.taken.insert(numbered.clone(), 2);
        numbered
    }
}

/// The name of an operation's method: its id, words joined where it holds other characters
/// than a method's name may; else verb and path.
pub(super) fn method_name(operation_id: Option<&str>, verb: &str, path: &str) -> String {
    let of_id = operation_id.map(|id| camel_case(id, |c| matches!(c, '_' | '.'))).filter(|name| !name.is_empty());
    let mut name = of_id.unwrap_or_else(|| {
        let mut text = verb.to_ascii_lowercase();
        for segment in path.split(['?', '#']).next().unwrap_or_default().split('/') {
            let by = if segment.starts_with('{') { " by " } else { " " };
            text.push_str(by);
            text.push_str(segment);
        }
        camel_case(&text, |_| false)
    });
    name.truncate(MAX_METHOD_NAME);
    if !is_valid_method_name(&name) {
        name.insert(0, '_');
    }
    name
}

/// Joins words; each but the first begins with a capital. ASCII alone is kept.
fn camel_case(text: &str, also: impl Fn(char) -> bool) -> String {
    let mut words = text.split(|c: char| !(c.is_ascii_alphanumeric() || also(c))).filter(|word| !word.is_empty());
    let mut name = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut characters = word.chars();
        name.extend(characters.next().map(|c| c.to_ascii_uppercase()));
        name.push_str(characters.as_str());
    }
    name
}

/// The id of a definition with this title.
pub(in crate::import) fn definition_id(title: &str) -> Option<DefinitionId> {
    let mut id = String::new();
    for c in title.chars().take(4 * MAX_ID) {
        if c.is_ascii_alphanumeric() {
            id.push(c.to_ascii_lowercase());
        } else if !id.is_empty() && !id.ends_with('-') {
            id.push('-');
        }
    }
    id.truncate(MAX_ID);
    DefinitionId::parse(id.trim_end_matches('-')).ok()
}

/// A version out of what a document calls its version: `2`, `v1.4`, `2023-08-16`.
pub(super) fn semantic_version(text: &str) -> Option<Version> {
    let text = text.trim();
    if let Ok(version) = Version::parse(text) {
        return Some(version);
    }
    let numbers = text.trim_start_matches(['v', 'V']);
    let mut parts = [0_u64; 3];
    let mut count = 0;
    for (part, number) in parts.iter_mut().zip(numbers.split(['.', '-', '_'])) {
        match number.parse() {
            Ok(number) => *part = number,
            Err(_) => break,
        }
        count += 1;
    }
    (count > 0).then(|| Version::new(parts[0], parts[1], parts[2]))
}

/// A name that a URI template takes (RFC 6570, `varname`).
pub(super) fn variable_name(name: &str) -> String {
    let clean: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(200).collect();
    if clean.is_empty() { "_".to_owned() } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_named_by_their_ids_or_by_verb_and_path() {
        for (id, verb, path, expected) in [
            (Some("getPet"), "get", "/", "getPet"),
            (Some("repos/list-for-org"), "get", "/", "reposListForOrg"),
            (Some("admin_apps_approve"), "get", "/", "admin_apps_approve"),
            (Some("Envelopes.Get List"), "get", "/", "Envelopes.GetList"),
            (Some("2fa/enable"), "get", "/", "_2faEnable"),
            (Some("größe"), "get", "/", "grE"),
            (Some("///"), "get", "/pets", "getPets"),
            (None, "get", "/pets/{petId}/toys.json", "getPetsByPetIdToysJson"),
            (None, "post", "/", "post"),
        ] {
            assert_eq!(method_name(id, verb, path), expected);
        }
        let long = method_name(Some(&"x".repeat(500)), "get", "/");
        assert!(is_valid_method_name(&long) && long.len() == MAX_METHOD_NAME);
    }

    #[test]
    fn names_that_come_again_are_numbered() {
        let mut names = UniqueNames::default();
        let given: Vec<String> = ["a", "a", "a2", "a"].into_iter().map(|name| names.take(name.to_owned())).collect();
        assert_eq!(given, ["a", "a2", "a22", "a3"]);
    }

    #[test]
    fn versions_and_ids_are_made_of_what_people_write() {
        for (text, expected) in [
            ("1.2.3", Some("1.2.3")),
            ("1.2.3-beta.1", Some("1.2.3-beta.1")),
            ("v2", Some("2.0.0")),
            ("2.13", Some("2.13.0")),
            ("2024.0", Some("2024.0.0")),
            ("2023-08-16", Some("2023.8.16")),
            ("latest", None),
            ("", None),
        ] {
            assert_eq!(semantic_version(text).map(|version| version.to_string()).as_deref(), expected, "{text}");
        }
        assert_eq!(
            definition_id("  GitHub v3 – REST API ").map(|id| id.to_string()).as_deref(),
            Some("github-v3-rest-api")
        );
        assert_eq!(definition_id("日本"), None);
    }
}
