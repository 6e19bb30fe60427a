//! JSON Schemas: compiled once, checked often.
//!
//! Owns: which schemas are taken, and how what does not fit is told. Must not know: what is
//! checked. The validator (`jsonschema`) is known here and nowhere else.
//!
//! Drafts 4, 6, 7, 2019-09 and 2020-12, by `$schema`; 2020-12 without. References stay within
//! the schema; nothing is fetched.

mod survey;

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use integration_model::Problem;
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

use survey::Effort;

/// At most this many problems are told one by one.
pub const MAX_PROBLEMS: usize = 50;
/// Further problems are counted up to here.
const MAX_COUNTED: usize = 1_000;
/// The longest message of a problem, in bytes.
const MAX_MESSAGE_LENGTH: usize = 300;
/// What one pattern may use: steps back while matching, bytes once compiled.
const BACKTRACK_LIMIT: usize = 10_000;
const PATTERN_SIZE_LIMIT: usize = 1024 * 1024;
/// What stands in for a value in messages: values may be large, or private.
const MASK: &str = "the value";

/// Keywords that tell about values and let all of them pass.
const ANNOTATIONS: [&str; 9] =
    ["$comment", "$schema", "default", "deprecated", "description", "examples", "readOnly", "title", "writeOnly"];

/// A compiled schema; shared between threads.
pub struct Schema {
    /// None where every value passes.
    check: Option<Arc<Check>>,
}

/// What schemas are compiled to that are in use, by their texts: versions of a definition, and
/// definitions like each other, share it, and so the memory that a call reads.
static COMPILED: LazyLock<Mutex<Compiled>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Compiled {
    by_text: HashMap<String, Weak<Check>>,
    /// At how many entries those that nobody uses any more are taken out.
    full_at: usize,
}

impl Compiled {
    fn lock() -> MutexGuard<'static, Self> {
        COMPILED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, text: &str) -> Option<Arc<Check>> {
        self.by_text.get(text)?.upgrade()
    }

    /// Gives what another thread was faster with, where one was.
    fn insert(&mut self, text: String, check: Check) -> Arc<Check> {
        if let Some(check) = self.get(&text) {
            return check;
        }
        if self.by_text.len() >= self.full_at {
            self.by_text.retain(|_, check| check.strong_count() > 0);
            self.full_at = (2 * self.by_text.len()).max(64);
        }
        let check = Arc::new(check);
        self.by_text.insert(text, Arc::downgrade(&check));
        check
    }
}

struct Check {
    validator: Validator,
    effort: Effort,
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schema").field("is_trivial", &self.is_trivial()).finish()
    }
}

impl Schema {
    /// Compiles a schema; the problems point into it.
    pub fn compile(schema: &Value) -> Result<Self, Vec<Problem>> {
        match schema {
            Value::Bool(true) => return Ok(Self { check: None }),
            Value::Bool(false) | Value::Object(_) => {}
            _ => return Err(vec![Problem::new("", "expected a JSON Schema: an object, true or false")]),
        }
        survey::check_size(schema)?;
        let text = schema.to_string();
        let known = Compiled::lock().get(&text);
        if known.is_some() {
            return Ok(Self { check: known });
        }
        check_against_meta_schema(schema)?;
        let effort = survey::survey(schema)?;
        if schema.as_object().is_some_and(|keywords| keywords.keys().all(|name| ANNOTATIONS.contains(&name.as_str()))) {
            return Ok(Self { check: None });
        }
        let patterns = PatternOptions::fancy_regex().backtrack_limit(BACKTRACK_LIMIT).size_limit(PATTERN_SIZE_LIMIT);
        let validator = jsonschema::options()
            .offline()
            .should_validate_formats(true)
            .with_pattern_options(patterns)
            .build(schema)
            .map_err(|error| vec![problem(&error)])?;
        Ok(Self { check: Some(Compiled::lock().insert(text, Check { validator, effort })) })
    }

    /// Whether every value passes, so that none needs to be parsed for it.
    pub fn is_trivial(&self) -> bool {
        self.check.is_none()
    }

    /// Checks a value. The problems point into it: all of them up to [`MAX_PROBLEMS`], and
    /// then one that says how many more there are.
    pub fn validate(&self, value: &Value) -> Result<(), Vec<Problem>> {
        let Some(check) = &self.check else { return Ok(()) };
        if check.validator.is_valid(value) {
            return Ok(());
        }
        Err(check.problems(value))
    }
}

impl Check {
    /// Finding all problems looks into every alternative again and again, where finding out
    /// whether there is one does not.
    fn problems(&self, value: &Value) -> Vec<Problem> {
        if !self.effort.is_bearable(survey::depth_of(value)) {
            let message = "does not fit the schema, which has too many alternatives at this depth to say where";
            return vec![Problem::new("", message)];
        }
        let mut errors = self.validator.iter_errors(value);
        let mut problems: Vec<Problem> = errors.by_ref().take(MAX_PROBLEMS).map(|error| problem(&error)).collect();
        match errors.take(MAX_COUNTED).count() {
            0 => {}
            MAX_COUNTED => problems.push(Problem::new("", format!("and {MAX_COUNTED} or more further problems"))),
            more => problems.push(Problem::new("", format!("and {more} further problems"))),
        }
        problems
    }
}

fn check_against_meta_schema(schema: &Value) -> Result<(), Vec<Problem>> {
    let meta_schema = jsonschema::meta::validator_for(schema).map_err(|_| {
        vec![Problem::new(
            "/$schema",
            "expected the URI of JSON Schema draft-04, draft-06, draft-07, 2019-09 or 2020-12, or no $schema",
        )]
    })?;
    let problems: Vec<_> = meta_schema.iter_errors(schema).take(MAX_PROBLEMS).map(|error| problem(&error)).collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn problem(error: &ValidationError<'_>) -> Problem {
    let mut message = Message(String::new());
    // Writing fails once the message is full; what is there by then is kept.
    let _ = write!(message, "{}", error.masked_with(MASK));
    Problem::new(error.instance_path().as_str(), message.0)
}

/// Text that takes no more than fits a message.
struct Message(String);

impl Write for Message {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = MAX_MESSAGE_LENGTH - '…'.len_utf8() - self.0.len();
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        self.0.push('…');
        Err(std::fmt::Error)
    }
}

#[cfg(test)]
mod tests;
