//! The files of a description, and the references between their parts. Must not know what
//! the parts mean.

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde_json::Value;

/// The most references that are followed from one to the next.
const MAX_HOPS: usize = 32;

/// The document itself, and the files beside it that it refers to.
#[derive(Debug, Clone)]
pub struct Documents {
    /// The document comes first.
    files: Vec<(String, Value)>,
}

/// A value, and the file that its references start from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'a> {
    file: usize,
    pub(super) value: &'a Value,
}

/// The place of a part: its file, and the pointer within.
pub(super) type Place = (usize, String);

impl Documents {
    /// A document without other files.
    pub fn single(document: Value) -> Self {
        Self { files: vec![(String::new(), document)] }
    }

    /// A document of this name, and others by their paths from the same folder, `/` between
    /// their parts.
    pub fn with_files(name: &str, document: Value, others: BTreeMap<String, Value>) -> Self {
        let mut files = vec![(name.to_owned(), document)];
        files.extend(others.into_iter().filter(|(other, _)| other != name));
        Self { files }
    }

    pub(super) fn root(&self) -> Node<'_> {
        Node { file: 0, value: &self.files[0].1 }
    }

    /// The part that a reference leads to; the message says why there is none.
    pub(super) fn resolve(&self, from: Node<'_>, reference: &str) -> Result<(Node<'_>, Place), String> {
        let (path, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let missing = |why: &str| Err(format!("the reference {reference:?} {why}"));
        let file = if path.is_empty() {
            from.file
        } else if is_remote(path) {
            return missing("leads to another host, which is not asked");
        } else {
            let name = join(&self.files[from.file].0, path);
            match name.and_then(|name| self.files.iter().position(|(known, _)| *known == name)) {
                Some(file) => file,
                None => return missing("leads to a file that is not at hand"),
            }
        };
        let pointer = percent_decode_str(fragment).decode_utf8_lossy().into_owned();
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return missing("names no place by a JSON Pointer");
        }
        match self.files[file].1.pointer(&pointer) {
            Some(value) => Ok((Node { file, value }, (file, pointer))),
            None => missing("leads nowhere"),
        }
    }

    /// The part itself, references followed; the message says why there is none.
    pub(super) fn follow<'a>(&'a self, mut node: Node<'a>) -> Result<Node<'a>, String> {
        for _ in 0..MAX_HOPS {
            match node.text("$ref") {
                None => return Ok(node),
                Some(reference) => node = self.resolve(node, reference)?.0,
            }
        }
        Err(format!("a chain of more than {MAX_HOPS} references"))
    }
}

impl<'a> Node<'a> {
    pub(super) fn at(self, value: &'a Value) -> Self {
        Self { file: self.file, value }
    }

    /// A member that is not null.
    pub(super) fn get(self, name: &str) -> Option<Self> {
        self.value.get(name).filter(|value| !value.is_null()).map(|value| self.at(value))
    }

    pub(super) fn text(self, name: &str) -> Option<&'a str> {
        self.value.get(name).and_then(Value::as_str)
    }

    pub(super) fn flag(self, name: &str) -> Option<bool> {
        self.value.get(name).and_then(Value::as_bool)
    }

    /// The members of an object; none of anything else.
    pub(super) fn members(self) -> impl Iterator<Item = (&'a str, Self)> {
        let members = self.value.as_object().into_iter().flatten();
        members.map(move |(name, value)| (name.as_str(), self.at(value)))
    }

    /// The members of the object that is the member `name`.
    pub(super) fn members_of(self, name: &str) -> impl Iterator<Item = (&'a str, Self)> {
        self.get(name).into_iter().flat_map(Self::members)
    }

    /// The items of the array that is the member `name`.
    pub(super) fn items_of(self, name: &str) -> impl Iterator<Item = Self> {
        self.value.get(name).and_then(Value::as_array).into_iter().flatten().map(move |value| self.at(value))
    }
}

/// Whether a reference leads to another host, or to anything else than a file.
pub fn is_remote(path: &str) -> bool {
    path.starts_with("//") || path.split('/').next().is_some_and(|first| first.contains(':'))
}

/// The path that `reference` means in a file at `from`; none where it leaves the folder.
pub fn join(from: &str, reference: &str) -> Option<String> {
    let mut parts: Vec<Cow<'_, str>> = from.split('/').map(Cow::from).collect();
    parts.pop();
    if reference.starts_with('/') {
        return None;
    }
    for part in reference.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(percent_decode_str(part).decode_utf8().ok()?),
        }
    }
    let leaves = |part: &Cow<'_, str>| matches!(&**part, "." | "..") || part.contains(['/', '\\', '\0']);
    (!parts.is_empty() && !parts.iter().any(leaves)).then(|| parts.join("/"))
}

/// Every other file that a document refers to, as it names it.
pub fn file_references(document: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    let mut open = vec![document];
    while let Some(value) = open.pop() {
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                    let path = reference.split('#').next().unwrap_or_default();
                    if !path.is_empty() && !is_remote(path) {
                        found.push(path);
                    }
                }
                open.extend(members.values());
            }
            _ => {}
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_stay_in_the_folder() {
        assert_eq!(join("api.yaml", "./a/b.yaml").as_deref(), Some("a/b.yaml"));
        assert_eq!(join("a/b.yaml", "../c.yaml").as_deref(), Some("c.yaml"));
        assert_eq!(join("a/b.yaml", "c%20d.yaml").as_deref(), Some("a/c d.yaml"));
        for outside in ["../x.yaml", "/etc/passwd", "a/../../x", "%2e%2e/x", "a%2f..%2fx", "..\\x%5c"] {
            let joined = join("api.yaml", outside);
            assert!(joined.is_none() || outside == "..\\x%5c", "{outside}: {joined:?}");
        }
        assert!(is_remote("https://a.example/x") && is_remote("//a.example/x") && is_remote("file:///etc/passwd"));
        assert!(!is_remote("a/b:c.yaml"));
    }

    #[test]
    fn a_reference_is_followed_from_the_file_where_it_stands() {
        let root = json!({"a": {"$ref": "parts/one.yaml#/x~1y"}, "loop": {"$ref": "#/loop"}, "far": {"$ref": "https://a.example/x#/y"}});
        let one = json!({"x/y": {"$ref": "two.yaml"}});
        let others =
            BTreeMap::from([("parts/one.yaml".to_owned(), one), ("parts/two.yaml".to_owned(), json!({"found": true}))]);
        let documents = Documents::with_files("api.yaml", root, others);
        let follow = |name| documents.follow(documents.root().get(name).expect("a member"));
        assert_eq!(follow("a").expect("a part").flag("found"), Some(true));
        assert!(follow("loop").expect_err("a loop").contains("chain"));
        assert!(follow("far").expect_err("another host").contains("another host"));
        assert_eq!(file_references(&documents.files[0].1), ["parts/one.yaml"]);
    }
}
