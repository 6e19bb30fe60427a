//! The proof for what a value holds: items of arrays, properties of objects.

use serde_json::{Map, Value};

use super::containment::{Certainty, Place, Proof, TOO_LARGE};
use super::demand::{Demand, Demands, Node, Side, Tuple, TypeSet};
use super::number::{Budget, equal};

impl<'a> Proof<'a, '_> {
    pub(super) fn check_arrays(
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
            if index >= reachable {
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

    pub(super) fn check_objects(
        &mut self,
        sub: &Demands<'a>,
        sup: Node<'a>,
        schema: &'a Map<String, Value>,
        place: &mut Place<'a, '_>,
    ) {
        let held = sub.required();
        let wanted_count = schema.get("required").and_then(Value::as_array).map_or(0, Vec::len);
        if !self.budget.spend(held.len() + wanted_count + sub.property_names().len()) {
            place.unproven("", TOO_LARGE);
            return;
        }
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
    pub(super) fn check_pattern_properties(
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

    pub(super) fn check_additional_properties(
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
}
