//! Whether everything that one JSON Schema takes is taken by another.
//!
//! Owns: the proof by structural recursion, and the findings where it fails. Must not
//! know: definitions and versions. What it cannot prove it says so; it never claims a
//! containment that does not hold. Schemas may refer to themselves: a pair that is being
//! proved counts as proved meanwhile, as is right for greatest fixed points.

use std::collections::HashMap;
use std::marker::PhantomData;

use serde_json::{Map, Value};

use super::demand::{Demand, Demands, Document, Node, NumberBound, Side, Tuple, TypeSet, as_count};
use super::number::{Budget, equal, equal_and_closed, is_multiple};

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

struct Proof<'a, 'b> {
    direction: Direction,
    /// Whether a property that the sub-schema never spoke of counts as never sent: an
    /// optional parameter added to an open object is an addition, not a narrowing.
    ignores_undeclared: bool,
    memo: HashMap<Pair, Outcome>,
    /// The pairs held for contained, in the order of their proofs.
    trail: Vec<Pair>,
    depth: usize,
    budget: &'b mut Budget,
    /// The memo knows schemas by their addresses, so the documents must stay where they are.
    documents: PhantomData<&'a Value>,
}

/// Where findings of one comparison go, and where in the new document it stands.
struct Place<'a, 'f> {
    at: &'a Value,
    findings: &'f mut Vec<Finding<'a>>,
}

impl<'a> Place<'a, '_> {
    fn add(&mut self, certainty: Certainty, keyword: &'a str, message: impl Into<String>) {
        self.findings.push(Finding { at: self.at, keyword, certainty, message: message.into() });
    }

    fn broken(&mut self, keyword: &'a str, message: impl Into<String>) {
        self.add(Certainty::Broken, keyword, message);
    }

    fn unproven(&mut self, keyword: &'a str, message: impl Into<String>) {
        self.add(Certainty::Unproven, keyword, message);
    }
}

impl<'a> Proof<'a, '_> {
    /// Checks that all values which meet `sub` fit `sup`.
    fn check(&mut self, sub: &[Demand<'a>], sup: Node<'a>, at: &'a Value, findings: &mut Vec<Finding<'a>>) {
        let at = self.place_in_new(sub, sup, at);
        let mut place = Place { at, findings };
        if self.depth >= MAX_DEPTH || !self.budget.spend(4 + sub.len()) {
            place.unproven("", "nested too deeply or too large to compare");
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
    fn holds(&mut self, sub: &[Demand<'a>], sup: Node<'a>) -> bool {
        let mut findings = Vec::new();
        self.check(sub, sup, sup.schema, &mut findings);
        findings.is_empty()
    }

    /// As [`Proof::holds`], with every property counted that may be there.
    fn holds_strictly(&mut self, sub: &[Demand<'a>], sup: Node<'a>) -> bool {
        let ignores_undeclared = std::mem::replace(&mut self.ignores_undeclared, false);
        let holds = self.holds(sub, sup);
        self.ignores_undeclared = ignores_undeclared;
        holds
    }

    fn say(&self, narrowed: impl Into<String>, widened: impl Into<String>) -> String {
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

    fn check_types(&mut self, sub: &Demands<'a>, schema: &'a Map<String, Value>, place: &mut Place<'a, '_>) {
        let Some(keyword) = schema.get("type") else { return };
        let outside = sub.types().without(TypeSet::read(keyword));
        if !outside.is_empty() {
            place.broken("type", self.say(format!("no longer takes {outside}"), format!("may now be {outside}")));
        }
    }

    fn check_values(&mut self, sub: &Demands<'a>, schema: &'a Map<String, Value>, place: &mut Place<'a, '_>) {
        static FEW: [Value; 3] = [Value::Null, Value::Bool(false), Value::Bool(true)];
        let enumerated = schema.get("enum").and_then(Value::as_array).map(|values| ("enum", values.as_slice()));
        let constant = schema.get("const").map(|value| ("const", std::slice::from_ref(value)));
        for (keyword, allowed) in enumerated.into_iter().chain(constant) {
            let values: Vec<&Value> = match sub.value() {
                Some(value) => vec![value],
                None if sub.types().without(TypeSet::NULL.or(TypeSet::BOOLEAN)).is_empty() => {
                    FEW.iter().filter(|value| sub.types().meets(TypeSet::of(value))).collect()
                }
                None => {
                    place.broken(
                        keyword,
                        self.say("takes only the listed values now", "may now hold other values than the listed ones"),
                    );
                    continue;
                }
            };
            for value in values {
                if !allowed.iter().any(|allowed| equal(allowed, value, self.budget)) {
                    let value = excerpt(value);
                    place.broken(keyword, self.say(format!("no longer takes {value}"), format!("may now be {value}")));
                }
            }
        }
    }

    fn check_numbers(&mut self, sub: &Demands<'a>, schema: &'a Map<String, Value>, place: &mut Place<'a, '_>) {
        for (side, keyword, word) in [(Side::Lower, "minimum", "at least"), (Side::Upper, "maximum", "at most")] {
            let held = sub.number_bound(side);
            for wanted in NumberBound::read(schema, side) {
                if held.as_ref().is_none_or(|held| !held.implies(&wanted, side)) {
                    let limit = format!("{word} {}{}", wanted.limit, if wanted.exclusive { ", exclusive" } else { "" });
                    place.broken(
                        keyword,
                        self.say(format!("must now be {limit}"), format!("need no longer be {limit}")),
                    );
                }
            }
        }
        let Some(divisor) = schema.get("multipleOf").and_then(Value::as_number) else { return };
        let one = serde_json::Number::from(1);
        let whole = (!sub.types().meets(TypeSet::NUMBER.without(TypeSet::INTEGER))).then_some(&one);
        let exact = sub.value().and_then(Value::as_number);
        let held = sub.keyword("multipleOf").filter_map(Value::as_number).chain(whole).chain(exact);
        let proofs: Vec<Option<bool>> = held.map(|held| is_multiple(held, divisor)).collect();
        if proofs.contains(&Some(true)) {
            return;
        }
        let message = self
            .say(format!("must now be a multiple of {divisor}"), format!("need no longer be a multiple of {divisor}"));
        let certainty = if proofs.contains(&None) { Certainty::Unproven } else { Certainty::Broken };
        place.add(certainty, "multipleOf", message);
    }

    /// Checks a lower and an upper bound of a count.
    fn check_counts(
        &mut self,
        schema: &'a Map<String, Value>,
        [lower, upper]: [(&'a str, Option<u64>); 2],
        place: &mut Place<'a, '_>,
    ) {
        if let Some(wanted) = schema.get(lower.0).and_then(as_count)
            && lower.1.unwrap_or(0) < wanted
        {
            let keyword = lower.0;
            place.broken(
                keyword,
                self.say(format!("{keyword} is {wanted} now"), format!("{keyword} {wanted} no longer holds")),
            );
        }
        if let Some(wanted) = schema.get(upper.0).and_then(as_count)
            && upper.1.is_none_or(|held| held > wanted)
        {
            let keyword = upper.0;
            place.broken(
                keyword,
                self.say(format!("{keyword} is {wanted} now"), format!("{keyword} {wanted} no longer holds")),
            );
        }
    }

    fn check_strings(&mut self, sub: &Demands<'a>, schema: &'a Map<String, Value>, place: &mut Place<'a, '_>) {
        let length = |value: &Value| value.as_str().and_then(|text| u64::try_from(text.chars().count()).ok());
        let bounds = [
            ("minLength", sub.count_bound("minLength", Side::Lower, length)),
            ("maxLength", sub.count_bound("maxLength", Side::Upper, length)),
        ];
        self.check_counts(schema, bounds, place);
        for keyword in ["pattern", "format"] {
            let Some(wanted) = schema.get(keyword).and_then(Value::as_str) else { continue };
            if keyword == "format" && !is_string_format(wanted) {
                continue;
            }
            let held: Vec<&str> = sub.keyword(keyword).filter_map(Value::as_str).collect();
            if held.iter().any(|held| *held == wanted || (keyword == "format" && is_within_format(held, wanted))) {
                continue;
            }
            if held.is_empty() && sub.value().is_none() {
                place.broken(
                    keyword,
                    self.say(
                        format!("must now fit the {keyword} {wanted:?}"),
                        format!("need no longer fit the {keyword} {wanted:?}"),
                    ),
                );
            } else {
                place.unproven(keyword, format!("the {keyword} is not known to allow all that it has to: {wanted:?}"));
            }
        }
    }

    fn check_arrays(
        &mut self,
        sub: &Demands<'a>,
        sup: Node<'a>,
        schema: &'a Map<String, Value>,
        place: &mut Place<'a, '_>,
    ) {
        let length = |value: &Value| value.as_array().and_then(|items| u64::try_from(items.len()).ok());
        let longest = sub.count_bound("maxItems", Side::Upper, length);
        let shortest = sub.count_bound("minItems", Side::Lower, length);
        self.check_counts(schema, [("minItems", shortest), ("maxItems", longest)], place);
        if schema.get("uniqueItems") == Some(&Value::Bool(true)) && !self.has_unique_items(sub, longest) {
            place.broken("uniqueItems", self.say("no longer takes an item twice", "may now hold an item twice"));
        }
        let tuple = Tuple::read(sup);
        if tuple.front.is_empty() && tuple.rest.is_none() {
            return;
        }
        let told_apart = tuple.front.len().max(sub.front_items());
        let reachable = longest.and_then(|longest| usize::try_from(longest).ok()).unwrap_or(usize::MAX);
        // One step past those told apart stands for all the others.
        for index in 0..=told_apart.min(reachable) {
            if index >= reachable || !self.budget.spend(1) {
                break;
            }
            let (Some(wanted), Some(held)) = (tuple.item(index), sub.item(index)) else { continue };
            self.check(&held, wanted, place.at, place.findings);
        }
    }

    fn has_unique_items(&mut self, sub: &Demands<'a>, longest: Option<u64>) -> bool {
        if longest.is_some_and(|longest| longest <= 1)
            || sub.keyword("uniqueItems").any(|word| word == &Value::Bool(true))
        {
            return true;
        }
        let Some(items) = sub.value().and_then(Value::as_array) else { return false };
        let is_repeated = |(index, item): (usize, &Value), budget: &mut Budget| {
            items[..index].iter().any(|earlier| !budget.spend(1) || equal(earlier, item, budget))
        };
        !items.iter().enumerate().any(|item| is_repeated(item, self.budget))
    }

    fn check_objects(
        &mut self,
        sub: &Demands<'a>,
        sup: Node<'a>,
        schema: &'a Map<String, Value>,
        place: &mut Place<'a, '_>,
    ) {
        let held = sub.required();
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if !held.contains(name) {
                place.broken(
                    "required",
                    self.say(format!("{name:?} is required now"), format!("{name:?} may be missing now")),
                );
            }
        }
        let size = |value: &Value| value.as_object().and_then(|members| u64::try_from(members.len()).ok());
        let at_least = sub.count_bound("minProperties", Side::Lower, size).max(u64::try_from(held.len()).ok());
        let at_most = sub.count_bound("maxProperties", Side::Upper, size);
        self.check_counts(schema, [("minProperties", at_least), ("maxProperties", at_most)], place);

        let named = schema.get("properties").and_then(Value::as_object);
        for (name, wanted) in named.into_iter().flatten() {
            let Some(member) = sub.property(name) else { continue };
            let wanted = sup.at(wanted);
            if !member.demands.is_empty() {
                self.check(&member.demands, wanted, place.at, place.findings);
            } else if member.is_spoken_of && !self.holds(&[], wanted) {
                place.unproven("properties", format!("{name:?} may match a pattern, and is not known to fit"));
            } else if !self.ignores_undeclared && !self.holds(&[], wanted) {
                place.broken("properties", format!("{name:?} is no longer described: it may be anything"));
            }
        }
        self.check_pattern_properties(sub, sup, schema, place);
        self.check_additional_properties(sub, sup, schema, place);
        if let Some(wanted) = schema.get("propertyNames") {
            let mut held: Vec<Demand<'a>> = vec![Demand::Types(TypeSet::STRING)];
            held.extend(
                sub.schemas().filter_map(|(node, schema)| Some(Demand::schema(node.at(schema.get("propertyNames")?)))),
            );
            if !self.holds(&held, sup.at(wanted)) {
                place.unproven("propertyNames", "the names of properties may not all fit");
            }
        }
    }

    /// Without running patterns: a pattern is met by the same pattern, or by all that may match it.
    fn check_pattern_properties(
        &mut self,
        sub: &Demands<'a>,
        sup: Node<'a>,
        schema: &'a Map<String, Value>,
        place: &mut Place<'a, '_>,
    ) {
        for (pattern, wanted) in schema.get("patternProperties").and_then(Value::as_object).into_iter().flatten() {
            let wanted = sup.at(wanted);
            let same: Vec<Demand<'a>> = sub
                .schemas()
                .filter_map(|(node, schema)| {
                    schema.get("patternProperties")?.get(pattern).map(|held| Demand::schema(node.at(held)))
                })
                .collect();
            if !same.is_empty() {
                self.check(&same, wanted, place.at, place.findings);
                continue;
            }
            let names = sub.property_names();
            let named_fit = names.into_iter().all(|name| match sub.property(name) {
                Some(member) => self.holds(&member.demands, wanted),
                None => true,
            });
            let others_fit = sub.value().is_some()
                || (sub.keyword("patternProperties").next().is_none() && self.holds(&sub.other_properties(), wanted));
            if !named_fit || !others_fit {
                place.unproven("patternProperties", format!("properties that match {pattern:?} are not known to fit"));
            }
        }
    }

    fn check_additional_properties(
        &mut self,
        sub: &Demands<'a>,
        sup: Node<'a>,
        schema: &'a Map<String, Value>,
        place: &mut Place<'a, '_>,
    ) {
        const KEYWORD: &str = "additionalProperties";
        let Some(wanted) = schema.get(KEYWORD).filter(|wanted| *wanted != &Value::Bool(true)) else { return };
        let wanted = sup.at(wanted);
        let named = schema.get("properties").and_then(Value::as_object);
        let patterns =
            schema.get("patternProperties").and_then(Value::as_object).filter(|patterns| !patterns.is_empty());
        for name in sub.property_names() {
            let Some(member) = sub.property(name) else { continue };
            if named.is_some_and(|named| named.contains_key(name)) || self.holds(&member.demands, wanted) {
                continue;
            }
            if patterns.is_some() {
                place.unproven(KEYWORD, format!("{name:?} is not known to match a pattern"));
            } else if wanted.schema == &Value::Bool(false) {
                place.broken(KEYWORD, self.say(format!("no longer takes {name:?}"), format!("may now hold {name:?}")));
            } else {
                self.check(&member.demands, wanted, place.at, place.findings);
            }
        }
        if sub.value().is_some() {
            return;
        }
        for (node, held) in sub.schemas() {
            for (pattern, held) in held.get("patternProperties").and_then(Value::as_object).into_iter().flatten() {
                let is_excluded = patterns.is_some_and(|patterns| patterns.contains_key(pattern));
                if !is_excluded && !self.holds(&[Demand::schema(node.at(held))], wanted) {
                    place.unproven(KEYWORD, format!("properties that match {pattern:?} are not known to fit"));
                }
            }
        }
        let mut others = Vec::new();
        self.check(&sub.other_properties(), wanted, place.at, &mut others);
        if let Some(worst) = others.iter().find(|found| found.certainty == Certainty::Broken).or(others.first()) {
            let message = self.say(
                "takes fewer properties beyond those it names",
                "may now hold more properties beyond those it names",
            );
            place.add(worst.certainty, KEYWORD, message);
        }
    }

    fn check_combinations(
        &mut self,
        sub: &Demands<'a>,
        sup: Node<'a>,
        schema: &'a Map<String, Value>,
        place: &mut Place<'a, '_>,
    ) {
        let list = |keyword: &str| schema.get(keyword).and_then(Value::as_array);
        for part in list("allOf").into_iter().flatten() {
            self.check(&sub.0, sup.at(part), place.at, place.findings);
        }
        if let Some(branches) = list("anyOf")
            && !self.is_within_one(sub, sup, branches, false)
        {
            place.unproven("anyOf", "no alternative is known to allow all that has to be allowed");
        }
        if let Some(branches) = list("oneOf")
            && !self.has_same_alternatives(sub, sup, branches)
            && !self.is_within_one(sub, sup, branches, true)
        {
            place.unproven("oneOf", "not known to fit exactly one of the alternatives");
        }
        if let Some(excluded) = schema.get("not")
            && !self.is_outside(sub, sup.at(excluded))
        {
            place.unproven("not", "not known to avoid what is excluded");
        }
    }

    /// Whether each case of `sub` lies within one of the branches, and with `alone` in no other.
    fn is_within_one(&mut self, sub: &Demands<'a>, sup: Node<'a>, branches: &'a [Value], alone: bool) -> bool {
        if !self.budget.spend(1 + branches.len()) {
            return false;
        }
        for (index, branch) in branches.iter().enumerate() {
            if self.holds(&sub.0, sup.at(branch)) {
                let mut others = branches.iter().enumerate().filter(|(other, _)| *other != index);
                return !alone || others.all(|(_, other)| self.is_outside(sub, sup.at(other)));
            }
        }
        let cases = sub.cases().or_else(|| {
            let types = sub.types().apart();
            (types.len() > 1).then(|| types.into_iter().map(|kind| sub.with(Demand::Types(kind))).collect())
        });
        cases.is_some_and(|cases| {
            cases.iter().all(|case| match Demands::expand(case, self.budget) {
                Some(case) => self.is_within_one(&case, sup, branches, alone),
                None => true,
            })
        })
    }

    /// Whether `sub` has a `oneOf` whose alternatives mean the same one by one.
    fn has_same_alternatives(&mut self, sub: &Demands<'a>, sup: Node<'a>, branches: &'a [Value]) -> bool {
        let held: Vec<(Node<'a>, &'a Vec<Value>)> = sub
            .schemas()
            .filter_map(|(node, schema)| Some((node, schema.get("oneOf")?.as_array()?)))
            .filter(|(_, held)| held.len() == branches.len())
            .collect();
        held.into_iter().any(|(node, held)| {
            held.iter().zip(branches).all(|(held, branch)| {
                let (held, branch) = (node.at(held), sup.at(branch));
                self.holds_strictly(&[Demand::schema(held)], branch)
                    && self.holds_strictly(&[Demand::schema(branch)], held)
            })
        })
    }

    /// Whether no value of `sub` fits `excluded`.
    fn is_outside(&mut self, sub: &Demands<'a>, excluded: Node<'a>) -> bool {
        let Some(excluded_demands) = Demands::expand(&[Demand::schema(excluded)], self.budget) else { return true };
        if sub.is_disjoint(&excluded_demands, 8, self.budget) {
            return true;
        }
        let already: Vec<Node<'a>> =
            sub.schemas().filter_map(|(node, schema)| Some(node.at(schema.get("not")?))).collect();
        already.into_iter().any(|held| self.holds_strictly(&[Demand::schema(excluded)], held))
    }

    /// Keywords that are compared as they stand.
    fn check_others(&mut self, sub: &Demands<'a>, schema: &'a Map<String, Value>, place: &mut Place<'a, '_>) {
        const GROUPS: [&[&str]; 6] = [
            &["if", "then", "else"],
            &["contains", "minContains", "maxContains"],
            &["dependentRequired"],
            &["dependentSchemas"],
            &["dependencies"],
            &["$dynamicRef", "$recursiveRef"],
        ];
        for group in GROUPS {
            let Some(named) = group.iter().find(|keyword| schema.contains_key(**keyword)) else { continue };
            let same = sub.schemas().any(|(_, held)| {
                group.iter().all(|keyword| match (held.get(*keyword), schema.get(*keyword)) {
                    (None, None) => true,
                    (Some(held), Some(wanted)) => equal_and_closed(held, wanted, self.budget),
                    _ => false,
                })
            });
            if !same {
                place.unproven(named, format!("{named} is compared only as it stands, and differs"));
            }
        }
        for keyword in ["unevaluatedProperties", "unevaluatedItems"] {
            let Some(wanted) = schema.get(keyword).filter(|wanted| *wanted != &Value::Bool(true)) else { continue };
            // What counts as evaluated hangs on the whole schema around it.
            let same = sub.schemas().any(|(_, held)| {
                held.len() == schema.len()
                    && held.get(keyword) == Some(wanted)
                    && held.iter().all(|(name, held)| {
                        schema.get(name).is_some_and(|wanted| equal_and_closed(held, wanted, self.budget))
                    })
            });
            if !same {
                place.unproven(keyword, format!("{keyword} is compared only with the same schema around it"));
            }
        }
    }
}

/// The formats that JSON Schema defines for strings; others say nothing that is checked.
fn is_string_format(format: &str) -> bool {
    const KNOWN: [&str; 19] = [
        "date-time",
        "date",
        "time",
        "duration",
        "email",
        "idn-email",
        "hostname",
        "idn-hostname",
        "ipv4",
        "ipv6",
        "uri",
        "uri-reference",
        "iri",
        "iri-reference",
        "uuid",
        "uri-template",
        "json-pointer",
        "relative-json-pointer",
        "regex",
    ];
    KNOWN.contains(&format)
}

/// Whether every string of the one format is of the other.
fn is_within_format(narrow: &str, wide: &str) -> bool {
    const WITHIN: [(&str, &str); 7] = [
        ("email", "idn-email"),
        ("hostname", "idn-hostname"),
        ("uri", "uri-reference"),
        ("uri", "iri"),
        ("uri", "iri-reference"),
        ("uri-reference", "iri-reference"),
        ("iri", "iri-reference"),
    ];
    WITHIN.contains(&(narrow, wide))
}

/// The value as text, short enough for a message.
fn excerpt(value: &Value) -> String {
    const LENGTH: usize = 60;
    let text = match value {
        Value::Array(items) if items.len() > LENGTH => return format!("an array of {} items", items.len()),
        Value::Object(members) if members.len() > LENGTH => return format!("an object of {} members", members.len()),
        value => value.to_string(),
    };
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
