//! Keeps each step of an evaluation bounded.
//!
//! The engine looks at its clock between steps. Within one, a built-in function could still
//! pad a text to a gigabyte, or write out a small value that refers to itself a billion
//! times over. So the expression is rewritten: what is combined, compared or handed to a
//! function goes through a function of ours first, which weighs it as if it were written
//! out and otherwise hands it on as it is. Functions that multiply what they are given may
//! only be called by name, where this can be seen, and `$eval` not at all.

use std::cell::RefCell;
use std::rc::Rc;

use jsonata_core::ast::{AstNode, BinaryOp, PathStep, Stage, StepId};
use jsonata_core::evaluator::{Evaluator, EvaluatorError};
use jsonata_core::value::{JValue, with_stack};

use super::TransformError;
use super::convert::VALUE_WEIGHT;

/// Begins the message of an error of ours.
pub(super) const LIMIT_CODE: &str = "LIMIT";
/// Our function in the rewritten expression; no expression can write this name.
const GUARD: &str = "weighed operand";

/// Texts that are cut into pieces: each piece costs far more than its bytes.
const MAX_CUT_TEXT: usize = 1024 * 1024;
/// How far a text may be padded.
const MAX_PADDING: f64 = 1_048_576.0;
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

/// Functions that can make much of little; they are guarded where they are called.
const MULTIPLIERS: [&str; 11] = [
    "distinct",
    "formatInteger",
    "formatNumber",
    "fromMillis",
    "join",
    "match",
    "pad",
    "parseInteger",
    "replace",
    "split",
    "toMillis",
];

/// What a value is about to be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
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
    /// Items compared with each other.
    Compared,
    Picture,
    DatePicture,
}

const USES: [Use; 9] = [
    Use::Operand,
    Use::Variable,
    Use::Multiplicand,
    Use::Factor,
    Use::CutText,
    Use::Width,
    Use::Compared,
    Use::Picture,
    Use::DatePicture,
];

/// Rewrites an expression so that [`install`]ed guards see what its steps work on.
pub(super) fn rewrite(node: AstNode) -> Result<AstNode, TransformError> {
    // The parser bounds the depth; the stack grows where a thread's own is small.
    with_stack(|| rewrite_node(node))
}

fn rewrite_node(node: AstNode) -> Result<AstNode, TransformError> {
    Ok(match node {
        AstNode::Variable(name) => {
            refuse_as_value(&name)?;
            if name == "$" { AstNode::Variable(name) } else { guarded(Use::Variable, AstNode::Variable(name)) }
        }
        AstNode::Path { steps } => AstNode::Path { steps: rewrite_steps(steps)? },
        AstNode::Binary { op, lhs, rhs } => rewrite_binary(op, *lhs, *rhs)?,
        AstNode::Unary { op, operand } => AstNode::Unary { op, operand: rewrite_boxed(operand)? },
        AstNode::Function { name, args, is_builtin } => rewrite_function(name, args, is_builtin)?,
        AstNode::Call { procedure, args } => {
            AstNode::Call { procedure: Box::new(rewrite_callee(*procedure)?), args: rewrite_operands(args)? }
        }
        AstNode::Lambda { params, body, signature, thunk } => {
            params.iter().try_for_each(|name| refuse_as_name(name))?;
            AstNode::Lambda { params, body: rewrite_boxed(body)?, signature, thunk }
        }
        AstNode::Array(items) => AstNode::Array(rewrite_operands(items)?),
        AstNode::ArrayGroup(items) => AstNode::ArrayGroup(rewrite_operands(items)?),
        AstNode::Object(pairs) => AstNode::Object(rewrite_pairs(pairs)?),
        AstNode::ObjectTransform { input, pattern } => {
            AstNode::ObjectTransform { input: rewrite_boxed(input)?, pattern: rewrite_pairs(pattern)? }
        }
        AstNode::Block(nodes) => AstNode::Block(nodes.into_iter().map(rewrite).collect::<Result<_, _>>()?),
        AstNode::Conditional { condition, then_branch, else_branch } => AstNode::Conditional {
            condition: rewrite_boxed(condition)?,
            then_branch: rewrite_boxed(then_branch)?,
            else_branch: else_branch.map(rewrite_boxed).transpose()?,
        },
        AstNode::FunctionApplication(inner) => AstNode::FunctionApplication(rewrite_boxed(inner)?),
        AstNode::Sort { input, terms } => AstNode::Sort {
            input: rewrite_boxed(input)?,
            terms: terms
                .into_iter()
                .map(|(term, ascending)| Ok((rewrite(term)?, ascending)))
                .collect::<Result<_, TransformError>>()?,
        },
        AstNode::Transform { location, update, delete } => AstNode::Transform {
            location: rewrite_boxed(location)?,
            update: rewrite_boxed(update)?,
            delete: delete.map(rewrite_boxed).transpose()?,
        },
        leaf @ (AstNode::String(_)
        | AstNode::Name(_)
        | AstNode::Number(_)
        | AstNode::Boolean(_)
        | AstNode::Null
        | AstNode::Undefined
        | AstNode::Placeholder
        | AstNode::Regex { .. }
        | AstNode::ParentVariable(_)
        | AstNode::Wildcard
        | AstNode::Descendant
        | AstNode::Parent(_)) => leaf,
    })
}

#[expect(clippy::boxed_local, reason = "the tree is made of boxes")]
fn rewrite_boxed(node: Box<AstNode>) -> Result<Box<AstNode>, TransformError> {
    rewrite(*node).map(Box::new)
}

/// What is called, or stands right of `~>`: a variable there must stay one.
fn rewrite_callee(node: AstNode) -> Result<AstNode, TransformError> {
    match node {
        AstNode::Variable(name) => {
            refuse_as_value(&name)?;
            Ok(AstNode::Variable(name))
        }
        other => rewrite(other),
    }
}

fn rewrite_binary(op: BinaryOp, lhs: AstNode, rhs: AstNode) -> Result<AstNode, TransformError> {
    let (lhs, rhs) = match op {
        BinaryOp::Concatenate | BinaryOp::Equal | BinaryOp::NotEqual | BinaryOp::In => {
            (rewrite_operand(lhs)?, rewrite_operand(rhs)?)
        }
        BinaryOp::ColonEqual | BinaryOp::FocusBind | BinaryOp::IndexBind => {
            if let AstNode::Variable(name) = &lhs {
                refuse_as_name(name)?;
            }
            (lhs, rewrite(rhs)?)
        }
        BinaryOp::ChainPipe => match rhs {
            // The same call, written so that the guards of its arguments fit.
            AstNode::Function { name, mut args, is_builtin: true }
                if is_multiplier(&name) && !has_placeholder(&args) =>
            {
                args.insert(0, lhs);
                return rewrite_function(name, args, true);
            }
            rhs => (rewrite_operand(lhs)?, rewrite_chained(rhs)?),
        },
        _ => (rewrite(lhs)?, rewrite(rhs)?),
    };
    Ok(AstNode::Binary { op, lhs: Box::new(lhs), rhs: Box::new(rhs) })
}

fn rewrite_chained(rhs: AstNode) -> Result<AstNode, TransformError> {
    if let AstNode::Path { steps } = &rhs
        && let [PathStep { node: AstNode::Function { name, .. }, .. }] = steps.as_slice()
        && is_multiplier(name)
    {
        return Err(TransformError::Forbidden(format!(
            "${name} cannot be filtered right of ~>; put the call in parentheses first"
        )));
    }
    rewrite_callee(rhs)
}

fn rewrite_steps(steps: Vec<PathStep>) -> Result<Vec<PathStep>, TransformError> {
    // `*` and `**` walk through all that the steps before them made.
    let last_walk = steps.iter().rposition(|step| matches!(step.node, AstNode::Wildcard | AstNode::Descendant));
    steps
        .into_iter()
        .enumerate()
        .map(|(index, step)| rewrite_step(step, last_walk.is_some_and(|last| index < last)))
        .collect()
}

fn rewrite_step(mut step: PathStep, is_walked: bool) -> Result<PathStep, TransformError> {
    for name in step.focus.iter().chain(&step.index_var) {
        refuse_as_name(name)?;
    }
    step.stages = step
        .stages
        .into_iter()
        .map(|stage| match stage {
            Stage::Filter(filter) => rewrite_boxed(filter).map(Stage::Filter),
            Stage::Index(name) => refuse_as_name(&name).map(|()| Stage::Index(name)),
            Stage::KeepArray => Ok(Stage::KeepArray),
        })
        .collect::<Result<_, _>>()?;
    // A variable as a step selects only; wrapped in a call, it would no longer begin a path
    // of its own.
    let node = rewrite_callee(step.node)?;
    step.node = match node {
        node @ (AstNode::Function { .. } | AstNode::Call { .. } | AstNode::Block(_)) if is_walked => {
            guarded(Use::Operand, node)
        }
        AstNode::FunctionApplication(inner) if is_walked => {
            AstNode::FunctionApplication(Box::new(guarded(Use::Operand, *inner)))
        }
        node => node,
    };
    step.id = StepId::default();
    Ok(step)
}

fn rewrite_pairs(pairs: Vec<(AstNode, AstNode)>) -> Result<Vec<(AstNode, AstNode)>, TransformError> {
    pairs.into_iter().map(|(name, value)| Ok((rewrite(name)?, rewrite_operand(value)?))).collect()
}

fn rewrite_operands(nodes: Vec<AstNode>) -> Result<Vec<AstNode>, TransformError> {
    nodes.into_iter().map(rewrite_operand).collect()
}

fn rewrite_operand(node: AstNode) -> Result<AstNode, TransformError> {
    rewrite_as(Use::Operand, node)
}

fn rewrite_as(used_as: Use, node: AstNode) -> Result<AstNode, TransformError> {
    let node = rewrite(node)?;
    Ok(if needs_guard(used_as, &node) { guarded(used_as, node) } else { node })
}

fn rewrite_function(name: String, mut args: Vec<AstNode>, is_builtin: bool) -> Result<AstNode, TransformError> {
    if name == "eval" {
        return Err(TransformError::Forbidden(
            "$eval is not available in transforms: what it would run cannot be checked beforehand".into(),
        ));
    }
    if !is_builtin || !is_multiplier(&name) {
        return Ok(AstNode::Function { args: rewrite_operands(args)?, name, is_builtin });
    }
    if has_placeholder(&args) {
        return Err(TransformError::Forbidden(format!(
            "${name} cannot be applied partially; write function($v){{ ${name}($v, …) }}"
        )));
    }
    name_the_context(&name, &mut args);
    let uses: Vec<Use> = (0..args.len()).map(|index| use_of_argument(&name, index, &args)).collect();
    let args = args.into_iter().zip(uses).map(|(arg, used_as)| rewrite_as(used_as, arg)).collect::<Result<_, _>>()?;
    Ok(AstNode::Function { name, args, is_builtin })
}

/// Where a text is left out, the context stands in for it; written out, it can be guarded.
fn name_the_context(name: &str, args: &mut Vec<AstNode>) {
    let is_left_out = match name {
        "split" | "match" => args.len() == 1,
        "replace" => args.len() == 2,
        _ => false,
    };
    if is_left_out {
        args.insert(0, AstNode::Variable(String::new()));
    }
}

fn use_of_argument(name: &str, index: usize, args: &[AstNode]) -> Use {
    let inserted = match name {
        "join" => 1,
        // A function makes each replacement in a step of its own.
        "replace" if !matches!(args.get(2), Some(AstNode::Lambda { .. })) => 2,
        _ => usize::MAX,
    };
    match (name, index) {
        ("replace" | "join", 0) if inserted < args.len() => Use::Multiplicand,
        ("replace" | "join", _) if inserted == index => Use::Factor,
        ("distinct", _) => Use::Compared,
        ("pad", _) => Use::Width,
        ("split" | "match", 0) => Use::CutText,
        ("fromMillis", _) | ("toMillis", 1) => Use::DatePicture,
        ("formatNumber" | "formatInteger" | "parseInteger", 1) => Use::Picture,
        _ => Use::Operand,
    }
}

/// Constants cannot grow, and functions weigh nothing. Arrays are looked at item by item:
/// the engine tells an array that is written out from one that comes from elsewhere.
fn needs_guard(used_as: Use, node: &AstNode) -> bool {
    match node {
        AstNode::Lambda { .. } | AstNode::Regex { .. } | AstNode::Placeholder => false,
        AstNode::String(_)
        | AstNode::Number(_)
        | AstNode::Boolean(_)
        | AstNode::Null
        | AstNode::Undefined
        | AstNode::Transform { .. } => used_as != Use::Operand,
        AstNode::Array(_) | AstNode::ArrayGroup(_) | AstNode::Object(_) => used_as != Use::Operand,
        AstNode::Path { steps } if matches!(steps.as_slice(), [PathStep { node: AstNode::Array(_), .. }]) => {
            used_as != Use::Operand
        }
        AstNode::Function { name, .. } if name == GUARD => used_as != Use::Operand,
        _ => true,
    }
}

fn guarded(used_as: Use, node: AstNode) -> AstNode {
    let code = USES.iter().position(|each| *each == used_as).unwrap_or_default();
    AstNode::Function { name: GUARD.to_owned(), args: vec![AstNode::Number(code as f64), node], is_builtin: true }
}

fn is_multiplier(name: &str) -> bool {
    MULTIPLIERS.contains(&name)
}

fn has_placeholder(args: &[AstNode]) -> bool {
    args.iter().any(|arg| matches!(arg, AstNode::Placeholder))
}

fn refuse_as_value(name: &str) -> Result<(), TransformError> {
    if name == "eval" || is_multiplier(name) {
        return Err(TransformError::Forbidden(format!(
            "${name} cannot be used as a value; write function($v){{ ${name}($v, …) }}"
        )));
    }
    Ok(())
}

/// A name bound to something else would hide from us which function a call means.
fn refuse_as_name(name: &str) -> Result<(), TransformError> {
    if name == "eval" || is_multiplier(name) {
        return Err(TransformError::Forbidden(format!("${name} is a function; choose another name for the variable")));
    }
    Ok(())
}

/// Gives an evaluator the function that rewritten expressions call.
pub(super) fn install(evaluator: &mut Evaluator, step_weight: usize) -> Result<(), EvaluatorError> {
    let guard = RefCell::new(Guard { step_weight, multiplicands: Vec::new(), known: Vec::new() });
    evaluator.register_fn(GUARD, move |args: &[JValue]| match args {
        [JValue::Number(code), value] => {
            let used_as = USES.get(*code as usize).copied().unwrap_or(Use::Operand);
            guard.borrow_mut().check(used_as, value).map(|()| value.clone())
        }
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
