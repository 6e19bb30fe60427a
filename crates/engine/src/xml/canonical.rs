//! Parts of documents that others wrote, in the form that Exclusive XML Canonicalization without
//! comments gives them (<https://www.w3.org/TR/xml-exc-c14n/>): the octets that they signed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::read::declared_prefix;
use super::walk::{MAX_NODES, Step, Tag, Walk};
use super::write::{Place, escape, push_attribute};
use super::{Element, Scope, XML_NAMESPACE};

/// Namespaces by their prefixes, the default by none.
type Namespaces = BTreeMap<String, Arc<str>>;

/// The canonical form of an element of the document `text`. The `inclusive` prefixes are declared
/// wherever they are in scope, `#default` for the one that is none.
///
/// Processing instructions are left out, so that the digest of what holds one fits nothing.
pub(crate) fn canonical(text: &str, element: &Element, inclusive: &[&str]) -> Result<String, String> {
    let part = text.get(element.source.clone()).ok_or("a part of another document")?;
    let inclusive = inclusive.iter().map(|prefix| if *prefix == "#default" { "" } else { prefix }).collect();
    let mut form = Form { around: &element.scope, inclusive, open: Vec::new(), out: String::with_capacity(part.len()) };
    let mut walk = Walk::new(part, MAX_NODES);
    while let Some(step) = walk.next()? {
        match step {
            Step::Open(tag) => form.open(tag)?,
            Step::Text(text) => escape(&text, Place::Text, &mut form.out),
            Step::Close { .. } => {
                let name = form.open.pop().map(|level| level.name).unwrap_or_default();
                form.out.push_str(&format!("</{name}>"));
            }
        }
    }
    Ok(form.out)
}

struct Form<'a> {
    around: &'a Scope,
    inclusive: BTreeSet<&'a str>,
    open: Vec<Level>,
    out: String,
}

/// An element whose end has not come: what it declares, and what was written of that.
struct Level {
    name: String,
    declared: Namespaces,
    written: Namespaces,
}

impl Form<'_> {
    fn open(&mut self, tag: Tag) -> Result<(), String> {
        let mut declared = Namespaces::new();
        let mut plain = Vec::new();
        for (name, value) in tag.attributes {
            match declared_prefix(&name) {
                Some(prefix) => drop(declared.insert(prefix.to_owned(), Arc::from(value))),
                None => plain.push((name, value)),
            }
        }
        self.open.push(Level { name: tag.name.clone(), declared, written: Namespaces::new() });
        let mut attributes = Vec::with_capacity(plain.len());
        let mut used = BTreeSet::from([prefix_of(&tag.name).0]);
        for (name, value) in &plain {
            let (prefix, local) = prefix_of(name);
            // Attributes without a prefix are in no namespace.
            let namespace = if prefix.is_empty() { Arc::from("") } else { self.namespace(prefix)? };
            if !prefix.is_empty() {
                used.insert(prefix);
            }
            attributes.push(((namespace, local), name, value));
        }
        attributes.sort();
        let mut wanted = Namespaces::new();
        for prefix in used {
            wanted.insert(prefix.to_owned(), self.namespace(prefix)?);
        }
        for prefix in &self.inclusive {
            if let Ok(namespace) = self.namespace(prefix) {
                wanted.insert((*prefix).to_owned(), namespace);
            }
        }
        // What is written already is not written again, and no default is what there is at first.
        wanted.retain(|prefix, namespace| match self.written(prefix) {
            Some(written) => written != namespace,
            None => !namespace.is_empty() && namespace.as_ref() != XML_NAMESPACE,
        });
        self.out.push('<');
        self.out.push_str(&tag.name);
        for (prefix, namespace) in &wanted {
            let name = if prefix.is_empty() { "xmlns".to_owned() } else { format!("xmlns:{prefix}") };
            push_attribute(&name, namespace, &mut self.out);
        }
        for (_, name, value) in attributes {
            push_attribute(name, value, &mut self.out);
        }
        self.out.push('>');
        if let Some(level) = self.open.last_mut() {
            level.written = wanted;
        }
        Ok(())
    }

    /// What a prefix stands for at the open element.
    fn namespace(&self, prefix: &str) -> Result<Arc<str>, String> {
        let inner = self.open.iter().rev().find_map(|level| level.declared.get(prefix));
        match inner.cloned().or_else(|| self.around.namespace(prefix)) {
            Some(namespace) => Ok(namespace),
            None if prefix.is_empty() => Ok(Arc::from("")),
            None => Err(format!("the prefix {prefix:?} is not declared")),
        }
    }

    /// What the elements around have written of a prefix.
    fn written(&self, prefix: &str) -> Option<&Arc<str>> {
        self.open.iter().rev().find_map(|level| level.written.get(prefix))
    }
}

/// The prefix of a name, empty where it has none, and the rest.
fn prefix_of(name: &str) -> (&str, &str) {
    name.split_once(':').unwrap_or(("", name))
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    const DOCUMENT: &str = concat!(
        "<?xml version='1.0'?>\n<o:root xmlns:o='urn:o' xmlns='urn:d' xmlns:q='urn:q' xmlns:unused='urn:u'>",
        "<a b='2' o:a=\"1\" a='&lt;&quot;&#10;>' xml:lang='en'><!-- no -->x<![CDATA[<&]]>\r\ny&#13;",
        "<b xmlns=''><o:c xmlns:o='urn:o'/><d xmlns='urn:d' t='q:T'/></b></a></o:root>"
    );

    fn part(inclusive: &[&str]) -> String {
        let root = read(DOCUMENT).expect("a document");
        canonical(DOCUMENT, root.child("urn:d", "a").expect("an element"), inclusive).expect("a form")
    }

    #[test]
    fn parts_are_written_as_the_recommendation_says() {
        let head = r#"<a xmlns="urn:d" xmlns:o="urn:o""#;
        let rest = concat!(
            r#" a="&lt;&quot;&#xA;>" b="2" xml:lang="en" o:a="1">"#,
            "x&lt;&amp;\ny&#xD;<b xmlns=\"\"><o:c></o:c><d xmlns=\"urn:d\" t=\"q:T\"></d></b></a>"
        );
        assert_eq!(part(&[]), format!("{head}{rest}"));
        // Prefixes that stand in values are declared where those who sign ask for it.
        assert_eq!(part(&["q", "#default", "none"]), format!("{head} xmlns:q=\"urn:q\"{rest}"));
    }

    #[test]
    fn what_is_canonical_stays_as_it_is() {
        let form = part(&["q"]);
        let again = read(&form).expect("a document");
        assert_eq!(canonical(&form, &again, &["q"]).expect("a form"), form);
    }
}
