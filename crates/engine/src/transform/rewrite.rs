//! Rewrites an expression so that every value is weighed before a step multiplies it.
//!
//! What is combined, compared, bound or handed to a function goes through the [`guard`]
//! first. Functions that multiply what they are given may only be called by name, where this
//! can be seen, and `$eval` not at all. What only goes into the result is left as it is: the
//! result is weighed once at the end.

use jsonata_core::ast::{AstNode, BinaryOp, PathStep, Stage, StepId};
use jsonata_core::value::with_stack;

use super::TransformError;
use super::guard::{GUARD, Use};

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

/// Rewrites a whole expression.
pub(super) fn rewrite_expression(node: AstNode) -> Result<AstNode, TransformError> {
    rewrite_result(node)
}

/// Rewrites what makes the result, or a part of it, and is used for nothing else.
fn rewrite_result(node: AstNode) -> Result<AstNode, TransformError> {
    with_stack(|| {
        Ok(match node {
            AstNode::Object(pairs) => AstNode::Object(
                pairs.into_iter().map(|(name, value)| Ok((rewrite(name)?, rewrite_result(value)?))).collect::<Result<
                    _,
                    TransformError,
                >>(
                )?,
            ),
            AstNode::Array(items) => AstNode::Array(items.into_iter().map(rewrite_result).collect::<Result<_, _>>()?),
            AstNode::Block(mut nodes) => {
                let last = nodes.pop().map(rewrite_result).transpose()?;
                let before = nodes.into_iter().map(rewrite).collect::<Result<Vec<_>, _>>()?;
                AstNode::Block(before.into_iter().chain(last).collect())
            }
            AstNode::Conditional { condition, then_branch, else_branch } => AstNode::Conditional {
                condition: rewrite_boxed(condition)?,
                then_branch: Box::new(rewrite_result(*then_branch)?),
                else_branch: else_branch.map(|branch| rewrite_result(*branch).map(Box::new)).transpose()?,
            },
            AstNode::Path { steps } => AstNode::Path { steps: rewrite_steps(steps, true)? },
            AstNode::Variable(_) => rewrite_callee(node)?,
            other => rewrite(other)?,
        })
    })
}

/// Rewrites what other steps may use.
fn rewrite(node: AstNode) -> Result<AstNode, TransformError> {
    // The parser bounds the depth; the stack grows where a thread's own is small.
    with_stack(|| rewrite_node(node))
}

fn rewrite_node(node: AstNode) -> Result<AstNode, TransformError> {
    Ok(match node {
        AstNode::Variable(name) => {
            refuse_as_value(&name)?;
            if name == "$" { AstNode::Variable(name) } else { guarded(Use::Variable, AstNode::Variable(name)) }
        }
        AstNode::Path { steps } => AstNode::Path { steps: rewrite_steps(steps, false)? },
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

fn rewrite_steps(steps: Vec<PathStep>, is_result: bool) -> Result<Vec<PathStep>, TransformError> {
    // `*` and `**` walk through all that the steps before them made.
    let last_walk = steps.iter().rposition(|step| matches!(step.node, AstNode::Wildcard | AstNode::Descendant));
    let count = steps.len();
    steps
        .into_iter()
        .enumerate()
        .map(|(index, step)| {
            let is_walked = last_walk.is_some_and(|walk| index < walk);
            rewrite_step(step, is_walked, is_result && index + 1 == count)
        })
        .collect()
}

fn rewrite_step(mut step: PathStep, is_walked: bool, is_result: bool) -> Result<PathStep, TransformError> {
    for name in step.focus.iter().chain(&step.index_var) {
        refuse_as_name(name)?;
    }
    step.node = match step.node {
        // Filters look at what the step makes, and so use it.
        node @ AstNode::Object(_) if is_result && step.stages.is_empty() => rewrite_result(node)?,
        AstNode::FunctionApplication(inner) if is_result && step.stages.is_empty() => {
            AstNode::FunctionApplication(Box::new(rewrite_result(*inner)?))
        }
        node @ (AstNode::Function { .. } | AstNode::Call { .. } | AstNode::Block(_)) if is_walked => {
            guarded(Use::Operand, rewrite(node)?)
        }
        AstNode::FunctionApplication(inner) if is_walked => {
            AstNode::FunctionApplication(Box::new(guarded(Use::Operand, rewrite(*inner)?)))
        }
        // A variable as a step selects only; wrapped in a call, it would no longer begin a
        // path of its own.
        node => rewrite_callee(node)?,
    };
    step.stages = step.stages.into_iter().map(rewrite_stage).collect::<Result<_, _>>()?;
    step.id = StepId::default();
    Ok(step)
}

fn rewrite_stage(stage: Stage) -> Result<Stage, TransformError> {
    match stage {
        Stage::Filter(filter) => rewrite_boxed(filter).map(Stage::Filter),
        Stage::Index(name) => refuse_as_name(&name).map(|()| Stage::Index(name)),
        Stage::KeepArray => Ok(Stage::KeepArray),
    }
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
        ("formatInteger", 0) if !is_plain_picture(args.get(1)) => Use::Numeral,
        ("formatNumber" | "formatInteger" | "parseInteger", 1) => Use::Picture,
        _ => Use::Operand,
    }
}

/// Whether a picture is known beforehand, and is not of Roman numerals.
fn is_plain_picture(picture: Option<&AstNode>) -> bool {
    matches!(picture, Some(AstNode::String(text)) if !text.contains(['i', 'I']))
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
    let args = vec![AstNode::Number(used_as.code()), node];
    AstNode::Function { name: GUARD.to_owned(), args, is_builtin: true }
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
