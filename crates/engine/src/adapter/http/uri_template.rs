//! URI templates (RFC 6570, levels 1 to 4): parsed once, expanded per call.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::values::ParamValue;
use crate::http_client::UNRESERVED;

/// The longest template, in bytes.
const MAX_TEMPLATE: usize = 8 * 1024;

/// What a URI may hold outside its percent-encoded parts: all but controls, space and
/// `"<>\^`{|}` and `%`.
const OUTSIDE_URI: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}')
    .add(b'%');

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UriTemplate {
    pub(super) parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Text that goes into the URI as it is.
    Literal(String),
    Expression(Expression),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expression {
    pub(super) operator: Operator,
    pub(super) variables: Vec<Variable>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) name: String,
    modifier: Modifier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Modifier {
    None,
    Prefix(usize),
    Explode,
}

/// The expression types of RFC 6570, section 3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    /// `{var}`
    Simple,
    /// `{+var}`
    Reserved,
    /// `{#var}`
    Fragment,
    /// `{.var}`
    Label,
    /// `{/var}`
    Segment,
    /// `{;var}`
    Parameter,
    /// `{?var}`
    Query,
    /// `{&var}`
    Continuation,
}

/// The text is no URI template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no URI template (RFC 6570): {message} at byte {offset}")]
pub(super) struct InvalidTemplate {
    offset: usize,
    message: String,
}

/// A value has a form that its variable does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PrefixOfComposite;

impl UriTemplate {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        let fail = |offset, message: &str| Err(InvalidTemplate { offset, message: message.to_owned() });
        if text.len() > MAX_TEMPLATE {
            return fail(MAX_TEMPLATE, "too long");
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let offset = text.len() - rest.len() + at;
            let Some(inner) = rest[at..].strip_prefix('{') else { return fail(offset, "'}' without '{'") };
            let Some(end) = inner.find(['{', '}']).filter(|end| inner[*end..].starts_with('}')) else {
                return fail(offset, "'{' without '}'");
            };
            push_literal(&rest[..at], &mut parts);
            let expression =
                Expression::parse(&inner[..end]).map_err(|message| InvalidTemplate { offset: offset + 1, message })?;
            parts.push(Part::Expression(expression));
            rest = &inner[end + 1..];
        }
        push_literal(rest, &mut parts);
        Ok(Self { parts })
    }

    pub(super) fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.parts.iter().filter_map(|part| match part {
            Part::Expression(expression) => Some(expression),
            Part::Literal(_) => None,
        })
    }

    /// Appends the expansion to `out`. `lookup` finds the values of variables.
    pub(super) fn expand<'a, E: From<PrefixOfComposite>>(
        &self,
        out: &mut String,
        mut lookup: impl FnMut(&Variable, Operator) -> Result<Option<ParamValue<'a>>, E>,
    ) -> Result<(), E> {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Expression(expression) => expression.expand(out, &mut lookup)?,
            }
        }
        Ok(())
    }
}

fn push_literal(text: &str, parts: &mut Vec<Part>) {
    if !text.is_empty() {
        let mut literal = String::with_capacity(text.len());
        push_reserved(text, &mut literal);
        parts.push(Part::Literal(literal));
    }
}

impl Operator {
    fn split(body: &str) -> Result<(Self, &str), String> {
        let operator = match body.bytes().next() {
            Some(b'+') => Self::Reserved,
            Some(b'#') => Self::Fragment,
            Some(b'.') => Self::Label,
            Some(b'/') => Self::Segment,
            Some(b';') => Self::Parameter,
            Some(b'?') => Self::Query,
            Some(b'&') => Self::Continuation,
            Some(b'=' | b',' | b'!' | b'@' | b'|') => return Err("an operator that is set aside".to_owned()),
            _ => return Ok((Self::Simple, body)),
        };
        Ok((operator, &body[1..]))
    }

    const fn first(self) -> &'static str {
        match self {
            Self::Simple | Self::Reserved => "",
            Self::Fragment => "#",
            Self::Label => ".",
            Self::Segment => "/",
            Self::Parameter => ";",
            Self::Query => "?",
            Self::Continuation => "&",
        }
    }

    const fn separator(self) -> &'static str {
        match self {
            Self::Simple | Self::Reserved | Self::Fragment => ",",
            Self::Label => ".",
            Self::Segment => "/",
            Self::Parameter => ";",
            Self::Query | Self::Continuation => "&",
        }
    }

    const fn is_named(self) -> bool {
        matches!(self, Self::Parameter | Self::Query | Self::Continuation)
    }

    fn push_value(self, text: &str, out: &mut String) {
        match self {
            Self::Reserved | Self::Fragment => push_reserved(text, out),
            _ => push_encoded(text, out),
        }
    }

    fn push_name(self, name: &str, is_empty: bool, out: &mut String) {
        out.push_str(name);
        // `{;x}` writes an empty value as `;x`, `{?x}` as `?x=`.
        if !(is_empty && self == Self::Parameter) {
            out.push('=');
        }
    }
}

impl Expression {
    fn parse(body: &str) -> Result<Self, String> {
        let (operator, list) = Operator::split(body)?;
        let variables = list.split(',').map(Variable::parse).collect::<Result<_, _>>()?;
        Ok(Self { operator, variables })
    }

    fn expand<'a, E: From<PrefixOfComposite>>(
        &self,
        out: &mut String,
        lookup: &mut impl FnMut(&Variable, Operator) -> Result<Option<ParamValue<'a>>, E>,
    ) -> Result<(), E> {
        let mut between = self.operator.first();
        for variable in &self.variables {
            let Some(value) = lookup(variable, self.operator)? else { continue };
            out.push_str(between);
            between = self.operator.separator();
            variable.expand(self.operator, &value, out)?;
        }
        Ok(())
    }
}

impl Variable {
    fn parse(spec: &str) -> Result<Self, String> {
        let (name, modifier) = match (spec.strip_suffix('*'), spec.split_once(':')) {
            (Some(name), _) => (name, Modifier::Explode),
            (None, Some((name, length))) => {
                let fits = (1..=4).contains(&length.len())
                    && length.bytes().all(|b| b.is_ascii_digit())
                    && !length.starts_with('0');
                let length = length.parse().ok().filter(|_| fits).ok_or("a prefix length that is not 1 to 9999")?;
                (name, Modifier::Prefix(length))
            }
            (None, None) => (spec, Modifier::None),
        };
        if is_variable_name(name) {
            Ok(Self { name: name.to_owned(), modifier })
        } else {
            Err(format!("{name:?} is no variable name"))
        }
    }

    fn expand(&self, operator: Operator, value: &ParamValue<'_>, out: &mut String) -> Result<(), PrefixOfComposite> {
        match (value, self.modifier) {
            (ParamValue::Text(text), modifier) => {
                let text: &str = match modifier {
                    Modifier::Prefix(length) => text.char_indices().nth(length).map_or(text, |(end, _)| &text[..end]),
                    _ => text,
                };
                if operator.is_named() {
                    operator.push_name(&self.name, text.is_empty(), out);
                }
                operator.push_value(text, out);
            }
            (_, Modifier::Prefix(_)) => return Err(PrefixOfComposite),
            (ParamValue::List(items), Modifier::Explode) => {
                join(operator.separator(), items, out, |item, out| {
                    if operator.is_named() {
                        operator.push_name(&self.name, item.is_empty(), out);
                    }
                    operator.push_value(item, out);
                });
            }
            (ParamValue::Map(members), Modifier::Explode) => {
                join(operator.separator(), members, out, |(name, value), out| {
                    operator.push_value(name, out);
                    if operator.is_named() {
                        operator.push_name("", value.is_empty(), out);
                    } else {
                        out.push('=');
                    }
                    operator.push_value(value, out);
                });
            }
            (ParamValue::List(items), Modifier::None) => {
                if operator.is_named() {
                    operator.push_name(&self.name, false, out);
                }
                join(",", items, out, |item, out| operator.push_value(item, out));
            }
            (ParamValue::Map(members), Modifier::None) => {
                if operator.is_named() {
                    operator.push_name(&self.name, false, out);
                }
                join(",", members, out, |(name, value), out| {
                    operator.push_value(name, out);
                    out.push(',');
                    operator.push_value(value, out);
                });
            }
        }
        Ok(())
    }
}

fn join<T>(separator: &str, items: &[T], out: &mut String, mut push: impl FnMut(&T, &mut String)) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(separator);
        }
        push(item, out);
    }
}

/// `varname` of RFC 6570: letters, digits, `_`, percent-encoded bytes, single dots between.
fn is_variable_name(name: &str) -> bool {
    let is_piece = |piece: &str| {
        let mut bytes = piece.bytes();
        !piece.is_empty()
            && loop {
                match bytes.next() {
                    None => break true,
                    Some(b'%') => {
                        let hex = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_hexdigit());
                        if !(hex(bytes.next()) && hex(bytes.next())) {
                            break false;
                        }
                    }
                    Some(b) if b.is_ascii_alphanumeric() || b == b'_' => {}
                    Some(_) => break false,
                }
            }
    };
    name.split('.').all(is_piece)
}

/// Encodes everything but unreserved characters.
pub(super) fn push_encoded(text: &str, out: &mut String) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{}", utf8_percent_encode(text, UNRESERVED));
}

/// Encodes what cannot stand in a URI; keeps reserved characters and percent-encoded bytes.
fn push_reserved(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let _ = write!(out, "{}", utf8_percent_encode(&rest[..at], OUTSIDE_URI));
        let is_encoded = rest.as_bytes().get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        out.push_str(if is_encoded { "%" } else { "%25" });
        rest = &rest[at + 1..];
    }
    let _ = write!(out, "{}", utf8_percent_encode(rest, OUTSIDE_URI));
}

#[cfg(test)]
mod tests;
