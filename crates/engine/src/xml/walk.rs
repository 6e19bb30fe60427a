//! One way through a document, within bounds, for all that reads XML. Document types are refused,
//! so that no entities can be declared. Must not know namespaces, and what is made of the steps.

use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::MAX_DEPTH;

/// The most elements and attributes that are read from an answer.
pub(crate) const MAX_NODES: usize = 200_000;
const MAX_ATTRIBUTES: usize = 256;

/// What comes next in a document.
#[derive(Debug)]
pub(crate) enum Step {
    Open(Tag),
    /// A piece of the text of the open element; one text may come in several.
    Text(String),
    /// The open element ends; what follows it begins at this byte.
    Close {
        end: usize,
    },
}

/// The beginning of an element, with names as they are written.
#[derive(Debug)]
pub(crate) struct Tag {
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
    /// The byte at which it begins.
    pub(crate) start: usize,
}

/// Goes through a document with one root element.
pub(crate) struct Walk<'a> {
    reader: Reader<&'a [u8]>,
    /// Where in the text it began.
    offset: usize,
    max_nodes: usize,
    nodes: usize,
    depth: usize,
    had_root: bool,
    /// Whether the open element has no end tag of its own.
    is_empty: bool,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(text: &'a str, max_nodes: usize) -> Self {
        // The reader passes over a byte order mark, and does not count it.
        let marked = text.trim_start_matches('\u{feff}');
        let (reader, offset) = (Reader::from_str(marked), text.len() - marked.len());
        Self { reader, offset, max_nodes, nodes: 0, depth: 0, had_root: false, is_empty: false }
    }

    /// The next step; none at the document's end.
    pub(crate) fn next(&mut self) -> Result<Option<Step>, String> {
        if std::mem::take(&mut self.is_empty) {
            return self.close().map(Some);
        }
        loop {
            let start = self.position();
            let event = self.reader.read_event();
            let event = event.map_err(|error| format!("at byte {}: {error}", self.reader.error_position()))?;
            let text = match event {
                Event::Start(tag) => return self.open(&tag, start).map(Some),
                Event::Empty(tag) => {
                    self.is_empty = true;
                    return self.open(&tag, start).map(Some);
                }
                Event::End(_) => return self.close().map(Some),
                Event::Text(text) => text.xml10_content().into_owned(),
                Event::CData(text) => text.xml10_content().into_owned(),
                Event::GeneralRef(reference) => resolve_reference(&reference)?,
                Event::DocType(_) => return Err("document types are not read".to_owned()),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => continue,
                Event::Eof => return self.finish(),
            };
            if self.depth > 0 {
                return Ok(Some(Step::Text(text)));
            }
            if !text.trim().is_empty() {
                return Err("text outside the root element".to_owned());
            }
        }
    }

    fn open(&mut self, tag: &BytesStart<'_>, start: usize) -> Result<Step, String> {
        if self.depth == 0 && std::mem::replace(&mut self.had_root, true) {
            return Err("a second root element".to_owned());
        }
        if self.depth >= MAX_DEPTH {
            return Err(format!("expected at most {MAX_DEPTH} levels"));
        }
        self.depth += 1;
        self.count()?;
        let mut attributes = Vec::new();
        for attribute in tag.attributes() {
            if attributes.len() >= MAX_ATTRIBUTES {
                return Err(format!("expected at most {MAX_ATTRIBUTES} attributes of an element"));
            }
            self.count()?;
            let attribute = attribute.map_err(|error| error.to_string())?;
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| error.to_string())?;
            attributes.push((attribute.key.as_ref().to_owned(), value.into_owned()));
        }
        Ok(Step::Open(Tag { name: tag.name().as_ref().to_owned(), attributes, start }))
    }

    fn close(&mut self) -> Result<Step, String> {
        self.depth = self.depth.checked_sub(1).ok_or("an end tag without its start")?;
        Ok(Step::Close { end: self.position() })
    }

    fn count(&mut self) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > self.max_nodes {
            return Err(format!("expected at most {} elements and attributes", self.max_nodes));
        }
        Ok(())
    }

    fn finish(&self) -> Result<Option<Step>, String> {
        match (self.depth, self.had_root) {
            (0, true) => Ok(None),
            (0, false) => Err("no root element".to_owned()),
            _ => Err("it ends within an element".to_owned()),
        }
    }

    fn position(&self) -> usize {
        usize::try_from(self.reader.buffer_position()).map_or(usize::MAX, |at| at.saturating_add(self.offset))
    }
}

/// What a reference such as `&amp;` or `&#10;` stands for.
fn resolve_reference(reference: &BytesRef<'_>) -> Result<String, String> {
    if let Some(character) = reference.resolve_char_ref().map_err(|error| error.to_string())? {
        return Ok(character.to_string());
    }
    let name = reference.xml10_content();
    resolve_xml_entity(&name).map(str::to_owned).ok_or_else(|| format!("the entity {name:?} is not declared"))
}
