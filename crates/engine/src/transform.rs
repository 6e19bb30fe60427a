//! Transforms: JSONata expressions from one JSON value to another, within limits.
//!
//! Owns: compiling, the limits, and the way between the values of the expression engine and
//! our own. Must not know: whose params or answers it maps. The engine (`jsonata-core`) is
//! known here and nowhere else.
//!
//! The engine stops for time between steps, not within one, so that one call of a built-in
//! function could run and allocate without end. [`rewrite`] therefore changes an expression so
//! that every value is weighed before a step multiplies it.

mod convert;
mod guard;
mod rewrite;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use jsonata_core::ast::AstNode;
use jsonata_core::evaluator::{Context, Evaluator, EvaluatorOptions};
use jsonata_core::parser;
use serde_json::Value;

/// The longest expression, in bytes.
pub const MAX_EXPRESSION_LENGTH: usize = 64 * 1024;
/// The longest message of an error, in bytes.
const MAX_MESSAGE_LENGTH: usize = 300;
/// Input longer than this is worth a thread of its own.
const HEAVY_INPUT: usize = 64 * 1024;

/// What one evaluation may use. Weight counts 16 bytes for each value and the bytes of each
/// text and member name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransformLimits {
    /// Checked between steps; each step is bounded by the weights.
    pub time: Duration,
    pub input_weight: usize,
    pub output_weight: usize,
    /// What any one step may work on.
    pub step_weight: usize,
    /// How deep calls and values may nest while evaluating.
    pub stack_depth: usize,
    /// How many items a sequence may have.
    pub sequence_length: usize,
}

impl Default for TransformLimits {
    fn default() -> Self {
        Self {
            time: Duration::from_millis(200),
            input_weight: 32 * 1024 * 1024,
            output_weight: 8 * 1024 * 1024,
            step_weight: 8 * 1024 * 1024,
            stack_depth: 3_000,
            sequence_length: 500_000,
        }
    }
}

/// Why a transform was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransformError {
    #[error("the expression has {length} bytes; expected at most {MAX_EXPRESSION_LENGTH}")]
    TooLong { length: usize },
    /// The expression is not JSONata.
    #[error("the expression does not parse: {0}")]
    Syntax(String),
    /// The expression asks for what could not be bounded.
    #[error("{0}")]
    Forbidden(String),
    /// The evaluation failed: a type error, an `$error`, a division by zero.
    #[error("the expression failed: {0}")]
    Failed(String),
    #[error("the expression took longer than {} ms", .0.as_millis())]
    TimedOut(Duration),
    #[error("the expression went past a limit: {0}")]
    LimitExceeded(String),
    #[error("the input is larger than a transform takes: expected a weight of at most {limit}")]
    InputTooLarge { limit: usize },
    #[error("the result is larger than a transform may make: expected a weight of at most {limit}")]
    OutputTooLarge { limit: usize },
    #[error("the {what} nests deeper than {limit} levels")]
    TooDeep { what: &'static str, limit: usize },
    /// A fault of the engine.
    #[error("the expression engine failed on this expression")]
    Engine,
}

/// A compiled expression; shared between threads.
pub struct Transform {
    expression: AstNode,
    limits: TransformLimits,
}

impl std::fmt::Debug for Transform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transform").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Transform {
    /// Compiles an expression, with the usual limits.
    pub fn compile(expression: &str) -> Result<Self, TransformError> {
        Self::compile_with(expression, TransformLimits::default())
    }

    pub fn compile_with(expression: &str, limits: TransformLimits) -> Result<Self, TransformError> {
        if expression.len() > MAX_EXPRESSION_LENGTH {
            return Err(TransformError::TooLong { length: expression.len() });
        }
        let parsed = shielded(|| parser::parse(expression))?;
        let parsed = parsed.map_err(|error| TransformError::Syntax(bounded(error.to_string())))?;
        Ok(Self { expression: rewrite::rewrite_expression(parsed)?, limits })
    }

    /// Evaluates the expression over `input`; an undefined result is `null`.
    ///
    /// Numbers are IEEE 754 doubles: whole ones stay whole up to 2^53, larger ones lose digits.
    /// This blocks for up to the time limit: where [`is_heavy`] says so, run it on a thread
    /// meant for that (`tokio::task::spawn_blocking`).
    pub fn apply(&self, input: &Value) -> Result<Value, TransformError> {
        shielded(|| self.evaluate(input))?
    }

    fn evaluate(&self, input: &Value) -> Result<Value, TransformError> {
        let input = convert::from_json(input, self.limits.input_weight)?;
        let options = EvaluatorOptions {
            timeout_ms: Some(u64::try_from(self.limits.time.as_millis()).unwrap_or(u64::MAX)),
            max_stack_depth: Some(self.limits.stack_depth),
            max_sequence_length: Some(self.limits.sequence_length),
            ..EvaluatorOptions::default()
        };
        let mut evaluator = Evaluator::with_options(Context::new(), options);
        guard::install(&mut evaluator, self.limits.step_weight).map_err(|_| TransformError::Engine)?;
        let output = evaluator.evaluate(&self.expression, &input).map_err(|error| self.failure(&error.to_string()))?;
        convert::to_json(&output, self.limits.output_weight)
    }

    fn failure(&self, message: &str) -> TransformError {
        let message = message.strip_prefix("Evaluation error: ").unwrap_or(message);
        let code = message.split(':').next().unwrap_or_default();
        match code {
            "D1012" => TransformError::TimedOut(self.limits.time),
            "D1011" | "D2014" | "D2015" | "U1001" | guard::LIMIT_CODE => {
                TransformError::LimitExceeded(bounded(message.to_owned()))
            }
            _ => TransformError::Failed(bounded(message.to_owned())),
        }
    }
}

/// Whether a transform of input text this long should leave the threads that serve requests.
pub const fn is_heavy(input_length: usize) -> bool {
    input_length > HEAVY_INPUT
}

/// Runs the engine such that a panic of it is an error of this one expression.
fn shielded<T>(run: impl FnOnce() -> T) -> Result<T, TransformError> {
    // Nothing that the closures change is looked at after a panic.
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| TransformError::Engine)
}

fn bounded(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_LENGTH {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_LENGTH - '…'.len_utf8()));
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests;
