//! What a schema demands of a value, read as a list of demands that hold together.
//!
//! Owns: following references, taking `allOf` apart, and the facts that a list of demands
//! gives (types, bounds, members). Must not know: which of two schemas is the newer one.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Number, Value};

use super::number::{Budget, as_integer, compare_numbers, equal, is_integer};

/// A set of JSON types; whole numbers and fractions are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TypeSet(u8);

impl TypeSet {
    pub(super) const NULL: Self = Self(1);
    pub(super) const BOOLEAN: Self = Self(2);
    pub(super) const INTEGER: Self = Self(4);
    const FRACTION: Self = Self(8);
    pub(super) const NUMBER: Self = Self(Self::INTEGER.0 | Self::FRACTION.0);
    pub(super) const STRING: Self = Self(16);
    pub(super) const ARRAY: Self = Self(32);
    pub(super) const OBJECT: Self = Self(64);
    pub(super) const ALL: Self = Self(127);

    /// The types in words and bits; `number` last, for it covers `integer`.
    const NAMED: [(&'static str, Self); 7] = [
        ("null", Self::NULL),
        ("boolean", Self::BOOLEAN),
        ("string", Self::STRING),
        ("array", Self::ARRAY),
        ("object", Self::OBJECT),
        ("integer", Self::INTEGER),
        ("number", Self::NUMBER),
    ];

    /// Reads a schema's `type`; an unknown name stands for nothing.
    pub(super) fn read(keyword: &Value) -> Self {
        let named = |name: &Value| {
            let found = Self::NAMED.iter().find(|(text, _)| name.as_str() == Some(text));
            found.map_or(Self(0), |(_, types)| *types)
        };
        match keyword {
            // A list with more names than there are types is none that compiles.
            Value::Array(names) => names.iter().take(16).map(named).fold(Self(0), Self::or),
            name => named(name),
        }
    }

    pub(super) fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::NULL,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Number(number) if is_integer(number) => Self::INTEGER,
            Value::Number(_) => Self::FRACTION,
            Value::String(_) => Self::STRING,
            Value::Array(_) => Self::ARRAY,
            Value::Object(_) => Self::OBJECT,
        }
    }

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Each type of the set on its own; numbers stay together.
    pub(super) fn apart(self) -> Vec<Self> {
        [Self::NULL, Self::BOOLEAN, Self::STRING, Self::ARRAY, Self::OBJECT, Self::NUMBER]
            .into_iter()
            .map(|kind| self.and(kind))
            .filter(|kind| !kind.is_empty())
            .collect()
    }
}

impl std::fmt::Display for TypeSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut names = Vec::new();
        for (name, types) in Self::NAMED {
            let covered = types == Self::INTEGER && self.meets(Self::FRACTION);
            if !covered && self.meets(types) && (types != Self::NUMBER || self.meets(Self::FRACTION)) {
                names.push(name);
            }
        }
        f.write_str(&names.join(", "))
    }
}

/// The document that a schema stands in, where its references lead.
#[derive(Debug)]
pub(super) struct Document<'a> {
    root: &'a Value,
    /// Up to draft 7 nothing beside a `$ref` counts.
    reference_has_siblings: bool,
}

impl<'a> Document<'a> {
    pub(super) fn new(root: &'a Value) -> Self {
        let draft = root.get("$schema").and_then(Value::as_str).unwrap_or_default();
        let is_old = ["draft-03", "draft-04", "draft-06", "draft-07"].iter().any(|name| draft.contains(name));
        Self { root, reference_has_siblings: !is_old }
    }

    fn resolve(&self, reference: &str) -> Option<&'a Value> {
        let pointer = reference.strip_prefix('#')?;
        // Percent-encoded references are rare; taking them for unknown is safe.
        if pointer.contains('%') { None } else { self.root.pointer(pointer) }
    }
}

/// One schema and where its references lead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) schema: &'a Value,
    pub(super) document: &'a Document<'a>,
}

impl<'a> Node<'a> {
    pub(super) fn root(document: &'a Document<'a>) -> Self {
        Self { schema: document.root, document }
    }

    pub(super) fn at(self, schema: &'a Value) -> Self {
        Self { schema, document: self.document }
    }

    /// The target of the schema's `$ref`: none without one, `Some(None)` where it leads nowhere.
    pub(super) fn reference(self) -> Option<Option<Self>> {
        let reference = self.schema.get("$ref")?.as_str()?;
        Some(self.document.resolve(reference).map(|target| self.at(target)))
    }

    /// Whether keywords beside a `$ref` count.
    pub(super) fn reads_beside_reference(self) -> bool {
        self.document.reference_has_siblings
    }
}

/// One demand on a value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Demand<'a> {
    /// It fits a schema; the flag says that its `anyOf` and `oneOf` were taken apart already.
    Schema {
        node: Node<'a>,
        split: Split,
    },
    Types(TypeSet),
    /// It is exactly this value.
    Is(&'a Value),
}

/// Which alternatives of a schema were already taken apart into cases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Split {
    any_of: bool,
    one_of: bool,
}

impl<'a> Demand<'a> {
    pub(super) fn schema(node: Node<'a>) -> Self {
        Self::Schema { node, split: Split::default() }
    }

    /// What tells two demands apart: an address and a mark.
    pub(super) fn key(&self) -> (usize, u8) {
        match self {
            Self::Schema { node, split } => {
                (std::ptr::from_ref(node.schema) as usize, u8::from(split.any_of) | u8::from(split.one_of) << 1)
            }
            Self::Types(types) => (usize::from(types.0), 4),
            Self::Is(value) => (std::ptr::from_ref::<Value>(value) as usize, 5),
        }
    }

    fn members(&self) -> Option<&'a Map<String, Value>> {
        match self {
            Self::Schema { node, .. } => node.schema.as_object(),
            Self::Types(_) | Self::Is(_) => None,
        }
    }
}

/// The most demands that one list is taken apart into; the rest is left out, which only
/// makes proofs fail.
const MAX_DEMANDS: usize = 200;

/// Demands that hold together, taken apart: references followed, `allOf` opened.
#[derive(Debug, Clone)]
pub(super) struct Demands<'a>(pub(super) Vec<Demand<'a>>);

impl<'a> Demands<'a> {
    /// Takes the list apart; none where no value can meet it.
    pub(super) fn expand(list: &[Demand<'a>], budget: &mut Budget) -> Option<Self> {
        let mut expanded = Vec::new();
        let mut seen: HashSet<usize> = list.iter().map(|demand| demand.key().0).collect();
        let mut waiting: Vec<Demand<'a>> = list.iter().rev().copied().collect();
        while let Some(demand) = waiting.pop() {
            let Demand::Schema { node, .. } = demand else {
                expanded.push(demand);
                continue;
            };
            if node.schema == &Value::Bool(false) {
                return None;
            }
            if !budget.spend(1) || expanded.len() >= MAX_DEMANDS {
                continue;
            }
            let mut wait_for = |target: Node<'a>| {
                if seen.insert(std::ptr::from_ref(target.schema) as usize) {
                    waiting.push(Demand::schema(target));
                }
            };
            if let Some(reference) = node.reference() {
                if let Some(target) = reference {
                    wait_for(target);
                }
                if !node.reads_beside_reference() {
                    continue;
                }
            }
            for part in node.schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
                wait_for(node.at(part));
            }
            if node.schema.is_object() {
                expanded.push(demand);
            }
        }
        let demands = Self(expanded);
        if demands.is_impossible(budget) { None } else { Some(demands) }
    }

    fn is_impossible(&self, budget: &mut Budget) -> bool {
        if self.types().is_empty() {
            return true;
        }
        let Some(value) = self.value() else { return false };
        self.enumerations().any(|values| !values.iter().any(|allowed| equal(allowed, value, budget)) && budget.0 > 0)
    }

    pub(super) fn schemas(&self) -> impl Iterator<Item = (Node<'a>, &'a Map<String, Value>)> + '_ {
        self.0.iter().filter_map(|demand| match demand {
            Demand::Schema { node, .. } => Some((*node, node.schema.as_object()?)),
            Demand::Types(_) | Demand::Is(_) => None,
        })
    }

    /// What the schemas of the list say under a keyword.
    pub(super) fn keyword<'k>(&'k self, name: &'k str) -> impl Iterator<Item = &'a Value> + 'k {
        self.0.iter().filter_map(move |demand| demand.members()?.get(name))
    }

    /// The one value that meets the list, where it is demanded.
    pub(super) fn value(&self) -> Option<&'a Value> {
        self.0.iter().find_map(|demand| match demand {
            Demand::Is(value) => Some(*value),
            _ => None,
        })
    }

    fn enumerations(&self) -> impl Iterator<Item = &'a [Value]> + '_ {
        let several = self.keyword("enum").filter_map(|values| values.as_array().map(Vec::as_slice));
        several.chain(self.keyword("const").map(std::slice::from_ref))
    }

    /// The finitely many values that can meet the list, where it says so.
    pub(super) fn values(&self) -> Option<Vec<&'a Value>> {
        if let Some(value) = self.value() {
            return Some(vec![value]);
        }
        let smallest = self.enumerations().min_by_key(|values| values.len())?;
        Some(smallest.iter().collect())
    }

    pub(super) fn types(&self) -> TypeSet {
        self.0.iter().fold(TypeSet::ALL, |types, demand| {
            types.and(match demand {
                Demand::Schema { node, .. } => node.schema.get("type").map_or(TypeSet::ALL, TypeSet::read),
                Demand::Types(only) => *only,
                Demand::Is(value) => TypeSet::of(value),
            })
        })
    }

    /// The list with one demand more.
    pub(super) fn with(&self, demand: Demand<'a>) -> Vec<Demand<'a>> {
        let mut list = self.0.clone();
        list.push(demand);
        list
    }

    /// The cases of the first `anyOf` or `oneOf` that was not taken apart yet.
    pub(super) fn cases(&self) -> Option<Vec<Vec<Demand<'a>>>> {
        self.0.iter().enumerate().find_map(|(index, demand)| {
            let Demand::Schema { node, split } = demand else { return None };
            let (keyword, split) = if !split.any_of && node.schema.get("anyOf").is_some() {
                ("anyOf", Split { any_of: true, ..*split })
            } else if !split.one_of && node.schema.get("oneOf").is_some() {
                ("oneOf", Split { one_of: true, ..*split })
            } else {
                return None;
            };
            let cases = node.schema.get(keyword)?.as_array()?;
            let mut rest = self.0.clone();
            rest[index] = Demand::Schema { node: *node, split };
            let case = |case| {
                let mut list = rest.clone();
                list.push(Demand::schema(node.at(case)));
                list
            };
            Some(cases.iter().map(case).collect())
        })
    }

    /// The tightest lower (`Ordering::Greater`) or upper (`Ordering::Less`) bound of numbers.
    pub(super) fn number_bound(&self, side: Side) -> Option<NumberBound> {
        let own = self.schemas().flat_map(|(_, schema)| NumberBound::read(schema, side));
        let exact = self.value().and_then(Value::as_number);
        let exact = exact.map(|limit| NumberBound { limit: limit.clone(), exclusive: false });
        let only_integers = !self.types().meets(TypeSet::FRACTION);
        own.chain(exact)
            .map(|bound| if only_integers { bound.among_integers(side) } else { bound })
            .reduce(|best, bound| if best.implies(&bound, side) { best } else { bound })
    }

    /// The tightest bound of a count: `minLength`, `maxItems`, …
    pub(super) fn count_bound(&self, keyword: &str, side: Side, exact: impl Fn(&Value) -> Option<u64>) -> Option<u64> {
        let own = self.keyword(keyword).filter_map(as_count);
        let all = own.chain(self.value().and_then(exact));
        match side {
            Side::Lower => all.max(),
            Side::Upper => all.min(),
        }
    }

    pub(super) fn required(&self) -> BTreeSet<&'a str> {
        let named = self.keyword("required").filter_map(Value::as_array).flatten().filter_map(Value::as_str);
        let present = self.value().and_then(Value::as_object).into_iter().flat_map(|object| object.keys());
        named.chain(present.map(String::as_str)).collect()
    }

    /// The names of the properties that the list speaks of.
    pub(super) fn property_names(&self) -> BTreeSet<&'a str> {
        let declared = self.keyword("properties").filter_map(Value::as_object).flat_map(|named| named.keys());
        let present = self.value().and_then(Value::as_object).into_iter().flat_map(|object| object.keys());
        declared.chain(present).map(String::as_str).collect()
    }

    /// What the list demands of a property where it is there; none where it cannot be.
    pub(super) fn property(&self, name: &str) -> Option<Member<'a>> {
        let mut member = Member::default();
        for demand in &self.0 {
            match demand {
                Demand::Is(Value::Object(object)) => member.add(Demand::Is(object.get(name)?)),
                Demand::Schema { node, .. } => {
                    let declared = node.schema.get("properties").and_then(|named| named.get(name));
                    let has_patterns = node.schema.get("patternProperties").is_some();
                    if let Some(schema) = declared {
                        member.add(Demand::schema(node.at(schema)));
                    } else if has_patterns {
                        // It may match a pattern or not: nothing is known but that it is spoken of.
                        member.is_spoken_of = true;
                    } else if let Some(schema) = node.schema.get("additionalProperties") {
                        member.add(Demand::schema(node.at(schema)));
                    }
                }
                Demand::Types(_) | Demand::Is(_) => {}
            }
        }
        Some(member)
    }

    /// What the list demands of properties that it does not name.
    pub(super) fn other_properties(&self) -> Vec<Demand<'a>> {
        let other = |(node, schema): (Node<'a>, &'a Map<String, Value>)| {
            schema.get("additionalProperties").map(|schema| Demand::schema(node.at(schema)))
        };
        self.schemas().filter_map(other).collect()
    }

    /// What the list demands of the item at `index`; none where it cannot be there.
    pub(super) fn item(&self, index: usize) -> Option<Vec<Demand<'a>>> {
        let mut demands = Vec::new();
        for demand in &self.0 {
            match demand {
                Demand::Is(Value::Array(items)) => demands.push(Demand::Is(items.get(index)?)),
                Demand::Schema { node, .. } => {
                    let tuple = Tuple::read(*node);
                    demands.extend(tuple.item(index).map(Demand::schema));
                }
                Demand::Types(_) | Demand::Is(_) => {}
            }
        }
        Some(demands)
    }

    /// How many items at the front the list tells apart.
    pub(super) fn front_items(&self) -> usize {
        let named = self.schemas().map(|(node, _)| Tuple::read(node).front.len()).max().unwrap_or(0);
        let present = self.value().and_then(Value::as_array).map_or(0, Vec::len);
        named.max(present)
    }

    /// Whether the list surely shares no value with `other`.
    pub(super) fn is_disjoint(&self, other: &Self, depth: usize, budget: &mut Budget) -> bool {
        let shared = self.types().and(other.types());
        if shared.is_empty() {
            return true;
        }
        if depth == 0 || !budget.spend(1 + self.0.len() + other.0.len()) {
            return false;
        }
        if let (Some(left), Some(right)) = (self.values(), other.values()) {
            let meet = left.iter().any(|left| right.iter().any(|right| equal(left, right, budget)));
            return !meet && budget.0 > 0;
        }
        if shared != TypeSet::OBJECT {
            return false;
        }
        // A property that must be there and fits only one of the two tells them apart.
        let required: BTreeSet<&str> = self.required().union(&other.required()).copied().collect();
        required.into_iter().any(|name| {
            let (Some(left), Some(right)) = (self.property(name), other.property(name)) else { return true };
            match (Demands::expand(&left.demands, budget), Demands::expand(&right.demands, budget)) {
                (Some(left), Some(right)) => left.is_disjoint(&right, depth - 1, budget),
                _ => true,
            }
        })
    }
}

/// What is demanded of one property.
#[derive(Debug, Default)]
pub(super) struct Member<'a> {
    pub(super) demands: Vec<Demand<'a>>,
    /// Whether any schema says something of it, be it by `additionalProperties`.
    pub(super) is_spoken_of: bool,
}

impl<'a> Member<'a> {
    fn add(&mut self, demand: Demand<'a>) {
        self.demands.push(demand);
        self.is_spoken_of = true;
    }
}

/// A schema's word on items: those at the front by place, and all the others.
pub(super) struct Tuple<'a> {
    pub(super) front: &'a [Value],
    pub(super) rest: Option<&'a Value>,
    node: Node<'a>,
}

impl<'a> Tuple<'a> {
    /// Reads `prefixItems` and `items`, or the older `items` array and `additionalItems`.
    pub(super) fn read(node: Node<'a>) -> Self {
        let (front, rest) = match node.schema.get("items") {
            Some(Value::Array(front)) => (Some(front), node.schema.get("additionalItems")),
            rest => (node.schema.get("prefixItems").and_then(Value::as_array), rest),
        };
        Self { front: front.map_or(&[], Vec::as_slice), rest, node }
    }

    pub(super) fn item(&self, index: usize) -> Option<Node<'a>> {
        self.front.get(index).or(self.rest).map(|schema| self.node.at(schema))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Lower,
    Upper,
}

/// A bound of numbers.
#[derive(Debug, Clone)]
pub(super) struct NumberBound {
    pub(super) limit: Number,
    pub(super) exclusive: bool,
}

impl NumberBound {
    /// The bounds that one schema sets; draft 4 wrote `exclusiveMinimum` as a boolean.
    pub(super) fn read(schema: &Map<String, Value>, side: Side) -> Vec<Self> {
        let (inclusive, exclusive) = match side {
            Side::Lower => ("minimum", "exclusiveMinimum"),
            Side::Upper => ("maximum", "exclusiveMaximum"),
        };
        let is_exclusive = schema.get(exclusive) == Some(&Value::Bool(true));
        let of = |keyword: &str, exclusive| {
            let limit = schema.get(keyword).and_then(Value::as_number).cloned();
            limit.map(|limit| Self { limit, exclusive })
        };
        of(inclusive, is_exclusive).into_iter().chain(of(exclusive, true)).collect()
    }

    /// The same bound for whole numbers: more than 4 is 5 or more.
    fn among_integers(self, side: Side) -> Self {
        let Some(limit) = as_integer(&self.limit).filter(|_| self.exclusive) else { return self };
        let next = match side {
            Side::Lower => limit + 1,
            Side::Upper => limit - 1,
        };
        match i64::try_from(next) {
            Ok(next) => Self { limit: next.into(), exclusive: false },
            Err(_) => self,
        }
    }

    /// Whether every number within `self` is within `other`.
    pub(super) fn implies(&self, other: &Self, side: Side) -> bool {
        let order = compare_numbers(&self.limit, &other.limit);
        match (order, side) {
            (Ordering::Equal, _) => self.exclusive || !other.exclusive,
            (Ordering::Greater, Side::Lower) | (Ordering::Less, Side::Upper) => true,
            _ => false,
        }
    }
}

/// A count as JSON Schema writes it: `3` or `3.0`.
pub(super) fn as_count(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let number = value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..9.0e15).contains(number))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number below 2^53")]
        Some(number as u64)
    })
}
