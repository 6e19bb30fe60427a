//! The proof for schemas made of schemas, and for keywords that are compared as they stand.

use serde_json::{Map, Value};

use super::containment::{Place, Proof};
use super::demand::{Demand, Demands, Node};
use super::number::equal_and_closed;

impl<'a> Proof<'a, '_> {
    pub(super) fn check_combinations(
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
    pub(super) fn check_others(
        &mut self,
        sub: &Demands<'a>,
        schema: &'a Map<String, Value>,
        place: &mut Place<'a, '_>,
    ) {
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
