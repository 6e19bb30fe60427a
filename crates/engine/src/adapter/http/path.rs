//! The path of an operation: a URI template whose params cannot leave their place.

use percent_encoding::percent_decode_str;

use super::uri_template::{Operator, Part, PrefixOfComposite, UriTemplate, Variable};
use super::values::{ParamValue, invalid_param};
use crate::adapter::CallError;
use crate::params::Params;
use crate::prefetch;

/// A path template, split where its query begins.
#[derive(Debug, Clone, Default)]
pub(super) struct PathTemplate {
    path: UriTemplate,
    query: UriTemplate,
    has_expressions: bool,
}

/// Why an expansion stopped; which param it was is said by the caller.
enum Stop {
    Refused(CallError),
    PrefixOfComposite,
}

impl From<PrefixOfComposite> for Stop {
    fn from(_: PrefixOfComposite) -> Self {
        Self::PrefixOfComposite
    }
}

impl From<Stop> for CallError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(error) => error,
            Stop::PrefixOfComposite => CallError::not_sent(
                integration_model::ErrorCode::Validation,
                "the path takes a prefix of a param that is an array or an object; expected a string",
            ),
        }
    }
}

impl PathTemplate {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let UriTemplate { parts } = UriTemplate::parse(text).map_err(|error| error.to_string())?;
        let mut template = Self::default();
        for part in parts {
            template.push(part)?;
        }
        let starts_well = match template.path.parts.first() {
            None => true,
            Some(Part::Literal(text)) => text.starts_with('/'),
            Some(Part::Expression(expression)) => expression.operator == Operator::Segment,
        };
        if !starts_well {
            return Err("expected a path that begins with '/'".to_owned());
        }
        template.check_literals()?;
        template.has_expressions = template.path.expressions().next().is_some();
        Ok(template)
    }

    fn push(&mut self, part: Part) -> Result<(), String> {
        match part {
            Part::Expression(expression) if expression.operator == Operator::Fragment => {
                Err("expected no fragment, which is never sent".to_owned())
            }
            Part::Literal(text) if text.contains('#') => Err("expected no fragment, which is never sent".to_owned()),
            Part::Literal(text) if self.query.parts.is_empty() => {
                match text.split_once('?') {
                    None => self.path.parts.push(Part::Literal(text)),
                    Some((path, query)) => {
                        if !path.is_empty() {
                            self.path.parts.push(Part::Literal(path.to_owned()));
                        }
                        self.query.parts.push(Part::Literal(query.to_owned()));
                    }
                }
                Ok(())
            }
            Part::Expression(expression)
                if self.query.parts.is_empty()
                    && !matches!(expression.operator, Operator::Query | Operator::Continuation) =>
            {
                self.path.parts.push(Part::Expression(expression));
                Ok(())
            }
            part => {
                self.query.parts.push(part);
                Ok(())
            }
        }
    }

    /// Dot segments in the template would only confuse; `x{a}` may still become one, which
    /// the expansion refuses.
    fn check_literals(&self) -> Result<(), String> {
        let mut skeleton = String::new();
        for part in &self.path.parts {
            match part {
                Part::Literal(text) => skeleton.push_str(text),
                Part::Expression(_) => skeleton.push('x'),
            }
        }
        if has_dot_segment(&skeleton) { Err("expected no '.' or '..' segments".to_owned()) } else { Ok(()) }
    }

    /// The names of the params that the path takes.
    pub(super) fn params(&self) -> impl Iterator<Item = &str> {
        let variables = self.path.expressions().chain(self.query.expressions());
        variables.flat_map(|expression| &expression.variables).map(|variable| variable.name.as_str())
    }

    /// Reads ahead what a call reads of it.
    pub(super) fn prefetch(&self) {
        prefetch::words((self.has_expressions, self.query.parts.len()));
        if let Some(Part::Literal(text)) = self.path.parts.first() {
            prefetch::text(text);
        }
    }

    /// Appends the path. Whatever the params hold, it stays a path: no query, no fragment,
    /// no dot segments, no segment that is missing.
    pub(super) fn push_path(&self, params: &Params, out: &mut String) -> Result<(), CallError> {
        if !self.has_expressions {
            self.path.expand(out, |_, _| Ok::<_, Stop>(None))?;
            return Ok(());
        }
        let mut path = String::with_capacity(64);
        self.path.expand(&mut path, |variable, operator| segment_value(params, variable, operator))?;
        if has_dot_segment(&path) {
            return Err(self.dot_segment(params));
        }
        for (index, piece) in path.split(['?', '#']).enumerate() {
            if index > 0 {
                // Reserved expansion lets these through; in a path they would end it.
                let at = piece.as_ptr() as usize - path.as_ptr() as usize - 1;
                out.push_str(if path.as_bytes()[at] == b'?' { "%3F" } else { "%23" });
            }
            out.push_str(piece);
        }
        Ok(())
    }

    /// The query that the template makes, without a separator at either end.
    pub(super) fn query(&self, params: &Params) -> Result<Option<String>, CallError> {
        if self.query.parts.is_empty() {
            return Ok(None);
        }
        let mut query = String::with_capacity(64);
        self.query.expand(&mut query, |variable, _| Ok::<_, Stop>(ParamValue::read(params, &variable.name)))?;
        let query = query.trim_matches(['?', '&']).replace('#', "%23");
        Ok((!query.is_empty()).then_some(query))
    }

    fn dot_segment(&self, params: &Params) -> CallError {
        let names =
            || self.path.expressions().flat_map(|expression| &expression.variables).map(|variable| &variable.name);
        let guilty = |name: &&String| {
            let text = ParamValue::read(params, name).map(ParamValue::into_joined).unwrap_or_default();
            text.split(['/', ',']).any(|piece| piece.contains('.'))
        };
        let name = names().find(guilty).or_else(|| names().next()).map_or("", String::as_str);
        invalid_param(name, "expected no value that makes a '.' or '..' segment of the path")
    }
}

/// The value of a variable in the path; refused where it would leave a segment empty.
fn segment_value<'a>(
    params: &'a Params,
    variable: &Variable,
    operator: Operator,
) -> Result<Option<ParamValue<'a>>, Stop> {
    let value = ParamValue::read(params, &variable.name);
    let fills = match &value {
        None => !matches!(operator, Operator::Simple | Operator::Reserved),
        Some(ParamValue::Text(text)) => !text.is_empty() || operator == Operator::Parameter,
        Some(ParamValue::List(items)) => items.iter().all(|item| !item.is_empty()),
        Some(ParamValue::Map(_)) => true,
    };
    if fills {
        Ok(value)
    } else {
        Err(Stop::Refused(invalid_param(&variable.name, "expected a value for the path that is not empty")))
    }
}

/// Whether a server may read a segment as `.` or `..`, also where it decodes slashes or
/// takes off path parameters first.
fn has_dot_segment(path: &str) -> bool {
    if !path.contains(['.', '%']) {
        return false;
    }
    path.split('/').any(|segment| {
        let decoded = percent_decode_str(segment).decode_utf8_lossy();
        let is_dots = |piece: &str| matches!(piece.split(';').next(), Some("." | ".."));
        decoded.split(['/', '\\']).any(is_dots)
    })
}

#[cfg(test)]
mod tests;
