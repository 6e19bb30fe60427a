//! Whether everything that one JSON Schema takes is taken by another.
//!
//! Owns: the proof by structural recursion, and the findings where it fails; the keywords
//! are proved in `value`, `member` and `combination`. Must not
//! know: definitions and versions. What it cannot prove it says so; it never claims a
//! containment that does not hold. Schemas may refer to themselves: a pair that is being
//! proved counts as proved meanwhile, as is right for greatest fixed points.

use std::collections::HashMap;
use std::marker::PhantomData;

use serde_json::Value;

use super::demand::{Demand, Demands, Document, Node, TypeSet};
use super::number::Budget;

/// Which of the two schemas is the newer, and what a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// What callers send: all that the old schema takes, the new one must take.
    Input,
    /// What callers get: all that the new schema lets out, the old one must have let out.
    Output,
}

/// How sure a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Certainty {
    Broken,
    Unproven,
}

/// One place where containment fails.
#[derive(Debug)]
pub(super) struct Finding<'a> {
    /// The schema in the new document, by address.
    pub(super) at: &'a Value,
    /// The keyword in it, where it is there.
    pub(super) keyword: &'a str,
    pub(super) certainty: Certainty,
    pub(super) message: String,
}

pub(super) const TOO_LARGE: &str = "nested too deeply or too large to compare";

/// The longest message of a finding, in characters.
const MAX_MESSAGE: usize = 200;

/// How deep schemas are compared.
const MAX_DEPTH: usize = 64;

/// Finds where values of `sub` may fall outside `sup`. Values are known to be of `types`.
pub(super) fn compare_schemas<'a>(
    sub: &'a Document<'a>,
    sup: &'a Document<'a>,
    types: TypeSet,
    direction: Direction,
    budget: &mut Budget,
) -> Vec<Finding<'a>> {
    let at = match direction {
        Direction::Input => Node::root(sup).schema,
        Direction::Output => Node::root(sub).schema,
    };
    let mut proof = Proof {
        direction,
        ignores_undeclared: direction == Direction::Input,
        memo: HashMap::new(),
        trail: Vec::new(),
        depth: 0,
        budget,
        documents: PhantomData,
    };
    let mut findings = Vec::new();
    proof.check(&[Demand::schema(Node::root(sub)), Demand::Types(types)], Node::root(sup), at, &mut findings);
    findings
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Pair {
    sub: Vec<(usize, u8)>,
    sup: usize,
    ignores_undeclared: bool,
}

#[derive(Debug, Clone)]
enum Outcome {
    UnderWay,
    Contained,
    Failed(Certainty, String),
}

pub(super) struct Proof<'a, 'b> {
    direction: Direction,
    /// Whether a property that the sub-schema never spoke of counts as never sent: an
    /// optional parameter added to an open object is an addition, not a narrowing.
    pub(super) ignores_undeclared: bool,
    memo: HashMap<Pair, Outcome>,
    /// The pairs held for contained, in the order of their proofs.
    trail: Vec<Pair>,
    depth: usize,
    pub(super) budget: &'b mut Budget,
    /// The memo knows schemas by their addresses, so the documents must stay where they are.
    documents: PhantomData<&'a Value>,
}

/// Where findings of one comparison go, and where in the new document it stands.
pub(super) struct Place<'a, 'f> {
    pub(super) at: &'a Value,
    pub(super) findings: &'f mut Vec<Finding<'a>>,
}

impl<'a> Place<'a, '_> {
    pub(super) fn add(&mut self, certainty: Certainty, keyword: &'a str, message: impl Into<String>) {
        let mut message = message.into();
        // Names and patterns in it are an author's, of any length.
        if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(end);
            message.push('…');
        }
        self.findings.push(Finding { at: self.at, keyword, certainty, message });
    }

    pub(super) fn broken(&mut self, keyword: &'a str, message: impl Into<String>) {
        self.add(Certainty::Broken, keyword, message);
    }

    pub(super) fn unproven(&mut self, keyword: &'a str, message: impl Into<String>) {
        self.add(Certainty::Unproven, keyword, message);
    }
}

impl<'a> Proof<'a, '_> {
    /// Checks that all values which meet `sub` fit `sup`.
    pub(super) fn check(&mut self, sub: &[Demand<'a>], sup: Node<'a>, at: &'a Value, findings: &mut Vec<Finding<'a>>) {
        let at = self.place_in_new(sub, sup, at);
        let mut place = Place { at, findings };
        if self.depth >= MAX_DEPTH || !self.budget.spend(4 + sub.len()) {
            place.unproven("", TOO_LARGE);
            return;
        }
        let mut key: Vec<_> = sub.iter().map(Demand::key).collect();
        key.sort_unstable();
        let pair = Pair {
            sub: key,
            sup: std::ptr::from_ref(sup.schema) as usize,
            ignores_undeclared: self.ignores_undeclared,
        };
        match self.memo.get(&pair) {
            Some(Outcome::UnderWay | Outcome::Contained) => return,
            Some(Outcome::Failed(certainty, message)) => {
                let (certainty, message) = (*certainty, message.clone());
                place.add(certainty, "", message);
                return;
            }
            None => {}
        }
        let (findings_before, trail_before) = (place.findings.len(), self.trail.len());
        self.memo.insert(pair.clone(), Outcome::UnderWay);
        self.depth += 1;
        self.check_anew(sub, sup, &mut place);
        self.depth -= 1;
        match place.findings.get(findings_before) {
            None => {
                self.memo.insert(pair.clone(), Outcome::Contained);
                self.trail.push(pair);
            }
            Some(first) => {
                let outcome = Outcome::Failed(first.certainty, first.message.clone());
                self.memo.insert(pair, outcome);
                // What was proved meanwhile may have leaned on this pair.
                for leaning in self.trail.drain(trail_before..) {
                    self.memo.remove(&leaning);
                }
            }
        }
    }

    /// The place in the new document that stands for this comparison.
    fn place_in_new(&self, sub: &[Demand<'a>], sup: Node<'a>, parent: &'a Value) -> &'a Value {
        match self.direction {
            Direction::Input => sup.schema,
            Direction::Output => {
                let first = sub.iter().find_map(|demand| match demand {
                    Demand::Schema { node, .. } => Some(node.schema),
                    _ => None,
                });
                first.unwrap_or(parent)
            }
        }
    }

    fn check_anew(&mut self, sub: &[Demand<'a>], sup: Node<'a>, place: &mut Place<'a, '_>) {
        let Some(sub) = Demands::expand(sub, self.budget) else { return };
        match sup.schema {
            Value::Bool(true) => return,
            Value::Bool(false) => {
                place.broken("", self.say("takes nothing any longer", "may now hold something"));
                return;
            }
            Value::Object(_) => {}
            _ => {
                place.unproven("", "expected a schema: an object or a boolean");
                return;
            }
        }
        if sub.value().is_none()
            && let Some(values) = sub.values()
        {
            for value in values {
                self.check(&sub.with(Demand::Is(value)), sup, place.at, place.findings);
            }
            return;
        }
        let Some(cases) = sub.cases() else {
            self.check_keywords(&sub, sup, place);
            return;
        };
        // Often the alternatives do not matter; taking them apart costs, so it comes second.
        let mut attempt = Vec::new();
        self.check_keywords(&sub, sup, &mut Place { at: place.at, findings: &mut attempt });
        if attempt.is_empty() {
            return;
        }
        for case in cases {
            self.check(&case, sup, place.at, place.findings);
        }
    }

    /// Whether the containment can be proved, without telling why not.
    pub(super) fn holds(&mut self, sub: &[Demand<'a>], sup: Node<'a>) -> bool {
        let mut findings = Vec::new();
        self.check(sub, sup, sup.schema, &mut findings);
        findings.is_empty()
    }

    /// As [`Proof::holds`], with every property counted that may be there.
    pub(super) fn holds_strictly(&mut self, sub: &[Demand<'a>], sup: Node<'a>) -> bool {
        let ignores_undeclared = std::mem::replace(&mut self.ignores_undeclared, false);
        let holds = self.holds(sub, sup);
        self.ignores_undeclared = ignores_undeclared;
        holds
    }

    pub(super) fn say(&self, narrowed: impl Into<String>, widened: impl Into<String>) -> String {
        match self.direction {
            Direction::Input => narrowed.into(),
            Direction::Output => widened.into(),
        }
    }

    fn check_keywords(&mut self, sub: &Demands<'a>, sup: Node<'a>, place: &mut Place<'a, '_>) {
        let Some(schema) = sup.schema.as_object() else { return };
        if let Some(reference) = sup.reference() {
            match reference {
                Some(target) => self.check(&sub.0, target, place.at, place.findings),
                None => place.unproven("$ref", "the reference leads nowhere within the schema"),
            }
            if !sup.reads_beside_reference() {
                return;
            }
        }
        self.check_types(sub, schema, place);
        self.check_values(sub, schema, place);
        let types = sub.types();
        if types.meets(TypeSet::NUMBER) {
            self.check_numbers(sub, schema, place);
        }
        if types.meets(TypeSet::STRING) {
            self.check_strings(sub, schema, place);
        }
        if types.meets(TypeSet::ARRAY) {
            self.check_arrays(sub, sup, schema, place);
        }
        if types.meets(TypeSet::OBJECT) {
            self.check_objects(sub, sup, schema, place);
        }
        self.check_combinations(sub, sup, schema, place);
        self.check_others(sub, schema, place);
    }
}
