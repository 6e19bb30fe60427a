//! The guard: looks at values before a step of an evaluation works on them.
//!
//! The engine looks at its clock between steps. Within one, a built-in function could still
//! pad a text to a gigabyte, or write out a small value that refers to itself a billion times
//! over. So [`super::rewrite`] puts a function of ours before such steps; it weighs a value as
//! if it were written out, and otherwise hands it on as it is.

use std::cell::RefCell;
use std::rc::Rc;

use jsonata_core::evaluator::{Evaluator, EvaluatorError};
use jsonata_core::value::JValue;

use super::convert::VALUE_WEIGHT;

/// Begins the message of an error of ours.
pub(super) const LIMIT_CODE: &str = "LIMIT";
/// Our function in the rewritten expression; no expression can write this name.
pub(super) const GUARD: &str = "weighed operand";

/// Texts that are cut into pieces: each piece costs far more than its bytes.
const MAX_CUT_TEXT: usize = 1024 * 1024;
/// How far a text may be padded.
const MAX_PADDING: f64 = 1_048_576.0;
/// The largest number to write as a Roman numeral.
const MAX_NUMERAL: f64 = 1_000_000.0;
/// The longest picture of a number or a date.
const MAX_PICTURE: usize = 256;
/// The longest run of digits in the picture of a date: they say how wide a part gets.
const MAX_PICTURE_DIGITS: usize = 4;
/// What `$distinct` may compare: items times their weight.
const MAX_COMPARED: usize = 1 << 31;
/// How deep a value may nest while evaluating.
const MAX_VALUE_DEPTH: usize = 256;
/// How many times the weight of a step the product of text and replacement may have.
const PRODUCT_FACTOR: usize = 8;

/// What a value is about to be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Weighed, and nothing else.
    Operand,
    /// Read from a variable: perhaps again and again, so that its weight is remembered.
    Variable,
    /// Each character of it, or each item, may meet the next `Factor`.
    Multiplicand,
    /// Inserted once for each character or item of the `Multiplicand` before.
    Factor,
    /// Cut into pieces.
    CutText,
    /// A width, where it is a number.
    Width,
    /// Perhaps written as a Roman numeral, which has a letter for each thousand.
    Numeral,
    /// Items compared with each other.
    Compared,
    Picture,
    DatePicture,
}

const USES: [Use; 10] = [
    Use::Operand,
    Use::Variable,
    Use::Multiplicand,
    Use::Factor,
    Use::CutText,
    Use::Width,
    Use::Numeral,
    Use::Compared,
    Use::Picture,
    Use::DatePicture,
];

impl Use {
    /// How a rewritten expression tells us the use.
    pub(super) fn code(self) -> f64 {
        USES.iter().position(|each| *each == self).unwrap_or_default() as f64
    }

    fn from_code(code: f64) -> Self {
        USES.get(code as usize).copied().unwrap_or(Self::Operand)
    }
}

/// Gives an evaluator the function that rewritten expressions call.
pub(super) fn install(evaluator: &mut Evaluator, step_weight: usize) -> Result<(), EvaluatorError> {
    let guard = RefCell::new(Guard { step_weight, multiplicands: Vec::new(), known: Vec::new() });
    evaluator.register_fn(GUARD, move |args: &[JValue]| match args {
        [JValue::Number(code), value] => guard.borrow_mut().check(Use::from_code(*code), value).map(|()| value.clone()),
        _ => Err(EvaluatorError::EvaluationError("a guard takes two arguments".into())),
    })
}

/// How many large values are remembered as weighed, and from how many items on.
const MAX_KNOWN: usize = 8;
const WORTH_KNOWING: usize = 64;

/// The state of the guards during one evaluation.
struct Guard {
    step_weight: usize,
    /// How often each replacement or separator to come may be inserted. Arguments are
    /// evaluated in order, so that calls within calls make a stack.
    multiplicands: Vec<usize>,
    /// Values of variables that were weighed.
    known: Vec<JValue>,
}

impl Guard {
    fn check(&mut self, used_as: Use, value: &JValue) -> Result<(), EvaluatorError> {
        match (used_as, value) {
            (Use::Variable, _) => self.weigh_variable(value),
            (Use::Multiplicand, _) => {
                let weight = self.weigh(value)?;
                let times = match value {
                    JValue::String(text) => text.len() + 1,
                    JValue::Array(items) => items.len(),
                    _ => weight,
                };
                self.multiplicands.push(times);
                Ok(())
            }
            (Use::Factor, _) => self.check_factor(value),
            (Use::CutText, JValue::String(text)) if text.len() > MAX_CUT_TEXT => {
                exceeded(format!("a text to cut or search has {} bytes; expected at most {MAX_CUT_TEXT}", text.len()))
            }
            (Use::Width, JValue::Number(width)) if width.abs() > MAX_PADDING => {
                exceeded(format!("a text is padded to {width} characters; expected at most {MAX_PADDING}"))
            }
            (Use::Numeral, JValue::Number(number)) if number.abs() > MAX_NUMERAL => {
                exceeded(format!("expected a number of at most {MAX_NUMERAL} to write as a numeral"))
            }
            (Use::Compared, JValue::Array(items)) => {
                let compared = self.weigh(value)?.saturating_mul(items.len());
                if compared > MAX_COMPARED { exceeded("too many items for $distinct to compare") } else { Ok(()) }
            }
            (Use::Picture | Use::DatePicture, JValue::String(picture)) if picture.len() > MAX_PICTURE => {
                exceeded(format!("a picture has {} bytes; expected at most {MAX_PICTURE}", picture.len()))
            }
            (Use::DatePicture, JValue::String(picture)) if longest_digits(picture) > MAX_PICTURE_DIGITS => {
                exceeded(format!("the picture of a date has more than {MAX_PICTURE_DIGITS} digits in a row"))
            }
            _ => self.weigh(value).map(drop),
        }
    }

    fn check_factor(&mut self, value: &JValue) -> Result<(), EvaluatorError> {
        let times = self.multiplicands.pop().unwrap_or(self.step_weight);
        let length = match value {
            JValue::String(text) => text.len(),
            // The text may be left out of $replace, and what follows it then moves up.
            JValue::Number(_) => return exceeded("the text that $replace works on must be its first argument"),
            _ => 0,
        };
        if times.saturating_mul(length) > self.step_weight.saturating_mul(PRODUCT_FACTOR) {
            return exceeded("a replacement or separator of this length could make too long a text");
        }
        Ok(())
    }

    fn weigh_variable(&mut self, value: &JValue) -> Result<(), EvaluatorError> {
        let worth_knowing = match value {
            JValue::Array(items) => items.len() >= WORTH_KNOWING,
            JValue::Object(members) => members.len() >= WORTH_KNOWING,
            _ => false,
        };
        if worth_knowing && self.known.iter().any(|known| is_same(known, value)) {
            return Ok(());
        }
        self.weigh(value)?;
        if worth_knowing {
            if self.known.len() >= MAX_KNOWN {
                self.known.remove(0);
            }
            self.known.push(value.clone());
        }
        Ok(())
    }

    fn weigh(&self, value: &JValue) -> Result<usize, EvaluatorError> {
        let mut left = self.step_weight;
        weigh(value, &mut left, 0)?;
        Ok(self.step_weight - left)
    }
}

/// Weighs a value as if it were written out: what is shared within counts each time.
fn weigh(value: &JValue, left: &mut usize, depth: usize) -> Result<(), EvaluatorError> {
    if depth > MAX_VALUE_DEPTH {
        return exceeded(format!("a value nests deeper than {MAX_VALUE_DEPTH} levels"));
    }
    let text = value.as_str().map_or(0, str::len);
    take(left, text)?;
    match value {
        JValue::Array(items) => items.iter().try_for_each(|item| weigh(item, left, depth + 1)),
        JValue::Object(members) => members.iter().try_for_each(|(name, member)| {
            take(left, name.len())?;
            weigh(member, left, depth + 1)
        }),
        _ => Ok(()),
    }
}

fn take(left: &mut usize, text: usize) -> Result<(), EvaluatorError> {
    match left.checked_sub(text + VALUE_WEIGHT) {
        Some(rest) => {
            *left = rest;
            Ok(())
        }
        None => exceeded("a value is too large for one step"),
    }
}

fn is_same(a: &JValue, b: &JValue) -> bool {
    match (a, b) {
        (JValue::Array(a), JValue::Array(b)) => jsonata_core::value::JArray::ptr_eq(a, b),
        (JValue::Object(a), JValue::Object(b)) => Rc::ptr_eq(a, b),
        _ => false,
    }
}

fn longest_digits(text: &str) -> usize {
    text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0)
}

fn exceeded<T>(message: impl std::fmt::Display) -> Result<T, EvaluatorError> {
    Err(EvaluatorError::EvaluationError(format!("{LIMIT_CODE}: {message}")))
}
