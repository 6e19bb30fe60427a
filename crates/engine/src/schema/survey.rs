//! What a schema costs to check against, found out before it is compiled.
//!
//! A schema of a few lines can ask for more work than the universe has time for, by
//! referring to the same parts again and again. So its parts are laid out as a graph: which
//! parts apply to the same value (`allOf`, `$ref`, …), and which to a value within
//! (`properties`, `items`, …).

use std::collections::HashMap;

use integration_model::Problem;
use integration_model::problem::push_pointer;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

/// The largest schema: values, levels, bytes of text.
const MAX_VALUES: usize = 100_000;
const MAX_DEPTH: usize = 100;
const MAX_TEXT: usize = 4 * 1024 * 1024;
/// The most parts that may apply to one and the same value, and how far they may be nested.
const MAX_APPLIED: u64 = 10_000;
const MAX_APPLIED_DEPTH: u32 = 64;
/// The most parts with an `$id`, and the most uses of one part by another.
const MAX_IDS: usize = 100;
const MAX_USES: usize = 500_000;
/// The most parts of a schema without recursion, each counted as often as it is used.
const MAX_EXPANDED: u64 = 10_000_000;
/// The most work to spend on telling all problems of a value.
const BEARABLE: f64 = 100_000.0;

/// Keywords whose subschemas apply to the same value.
const IN_PLACE: [&str; 4] = ["not", "if", "then", "else"];
const IN_PLACE_LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const IN_PLACE_MAPS: [&str; 2] = ["dependentSchemas", "dependencies"];
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];
/// Keywords whose subschemas apply to values within.
const WITHIN: [&str; 9] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "items",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "extends",
];
const WITHIN_LISTS: [&str; 2] = ["items", "prefixItems"];
const WITHIN_MAPS: [&str; 2] = ["patternProperties", "properties"];
/// Keywords that hold subschemas for others to refer to.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];

/// How much work a value can make.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Effort {
    /// Parts that apply to one value at most.
    applied: u64,
    /// Parts that apply to one value because of one part around it, at most.
    fan_out: u64,
}

impl Effort {
    /// Whether all alternatives can be looked at for a value of this depth.
    pub(super) fn is_bearable(self, depth: usize) -> bool {
        let exponent = i32::try_from(depth).unwrap_or(i32::MAX);
        self.applied as f64 * (self.fan_out.max(1) as f64).powi(exponent) <= BEARABLE
    }
}

/// Refuses what is too large to look at.
pub(super) fn check_size(schema: &Value) -> Result<(), Vec<Problem>> {
    let mut values = 0_usize;
    let mut text = 0_usize;
    let mut level = vec![schema];
    for _ in 0..=MAX_DEPTH {
        values += level.len();
        text += level.iter().map(|value| value.as_str().map_or(0, str::len)).sum::<usize>();
        if values > MAX_VALUES {
            return refuse("", format!("expected a schema of at most {MAX_VALUES} values"));
        }
        level = level.into_iter().flat_map(members_of).collect();
        if level.is_empty() {
            if text > MAX_TEXT {
                return refuse("", format!("expected a schema of at most {MAX_TEXT} bytes"));
            }
            return Ok(());
        }
    }
    refuse("", format!("expected a schema of at most {MAX_DEPTH} levels"))
}

/// How many levels of arrays and objects a value has.
pub(super) fn depth_of(value: &Value) -> usize {
    let mut level = vec![value];
    let mut depth = 0;
    loop {
        level = level.into_iter().flat_map(members_of).collect();
        if level.is_empty() {
            return depth;
        }
        depth += 1;
    }
}

fn members_of(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(members) => members.values().collect(),
        _ => Vec::new(),
    }
}

fn refuse<T>(pointer: impl Into<String>, message: impl Into<String>) -> Result<T, Vec<Problem>> {
    Err(vec![Problem::new(pointer, message)])
}

/// Lays a schema out and measures it. The problems: references that lead nowhere or outside,
/// parts that apply to themselves, and more work than can be borne.
pub(super) fn survey(schema: &Value) -> Result<Effort, Vec<Problem>> {
    let mut graph = Graph { root: schema, named: HashMap::new(), parts: Vec::new(), index: HashMap::new() };
    let id = if schema.get("$schema").is_some_and(is_draft_4) { "id" } else { "$id" };
    graph.find_names(schema, id, 0);
    if graph.resources().count() > MAX_IDS {
        return refuse("", format!("expected at most {MAX_IDS} subschemas with an {id}"));
    }
    let problems = graph.lay_out();
    if !problems.is_empty() {
        return Err(problems);
    }
    let effort = graph.measure_in_place()?;
    graph.check_expansion()?;
    Ok(effort)
}

struct Graph<'s> {
    root: &'s Value,
    /// Parts by `$id`, and by `#` and anchor. Several may share a dynamic anchor.
    named: HashMap<String, Vec<&'s Value>>,
    parts: Vec<Part<'s>>,
    index: HashMap<*const Value, usize>,
}

/// One subschema.
struct Part<'s> {
    keywords: &'s Map<String, Value>,
    pointer: String,
    in_place: Vec<usize>,
    within: Vec<usize>,
    /// How many of its own keywords may apply to one value within.
    overlap: u64,
}

/// What applies to a value together with a part.
#[derive(Debug, Clone, Copy)]
struct Closure {
    applied: u64,
    depth: u32,
    fan_out: u64,
}

impl<'s> Graph<'s> {
    fn find_names(&mut self, schema: &'s Value, id: &str, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        if let Some(keywords) = schema.as_object() {
            for (keyword, prefix) in [(id, ""), ("$anchor", "#"), ("$dynamicAnchor", "#")] {
                if let Some(name) = keywords.get(keyword).and_then(Value::as_str) {
                    self.named.entry(format!("{prefix}{}", name.trim_end_matches('#'))).or_default().push(schema);
                }
            }
        }
        for member in members_of(schema) {
            self.find_names(member, id, depth + 1);
        }
    }

    /// The parts that have an `$id`, with it.
    fn resources(&self) -> impl Iterator<Item = (&str, &'s Value)> {
        let ids = self.named.iter().filter(|(name, _)| !name.starts_with('#'));
        ids.flat_map(|(name, parts)| parts.iter().map(|part| (name.as_str(), *part)))
    }

    /// Finds all parts, beginning with the whole schema.
    fn lay_out(&mut self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.part(self.root, "");
        let mut next = 0;
        let mut uses = 0;
        while let Some(part) = self.parts.get(next) {
            let (keywords, pointer) = (part.keywords, part.pointer.clone());
            for keyword in REFERENCES {
                let Some(reference) = keywords.get(keyword).and_then(Value::as_str) else { continue };
                let targets = self.resolve(reference);
                if targets.is_empty() && !is_meta_schema(reference) {
                    problems.push(Problem::new(push_pointer(&pointer, keyword), unresolved(reference)));
                }
                for target in targets {
                    let target = self.part(target, &push_pointer(&pointer, keyword));
                    self.parts[next].in_place.extend(target);
                }
            }
            for (target, at) in subschemas(keywords, &pointer, &IN_PLACE, &IN_PLACE_LISTS, &IN_PLACE_MAPS) {
                let target = self.part(target, &at);
                self.parts[next].in_place.extend(target);
            }
            for (target, at) in subschemas(keywords, &pointer, &WITHIN, &WITHIN_LISTS, &WITHIN_MAPS) {
                let target = self.part(target, &at);
                self.parts[next].within.extend(target);
            }
            // Not applied here, but to be looked at: what they refer to may be wrong as well.
            for (target, at) in subschemas(keywords, &pointer, &[], &[], &DEFINITIONS) {
                self.part(target, &at);
            }
            uses += self.parts[next].in_place.len() + self.parts[next].within.len();
            if uses > MAX_USES {
                return vec![Problem::new("", "too many references between subschemas")];
            }
            next += 1;
        }
        problems
    }

    /// The number of a part; none of a boolean, which costs nothing.
    fn part(&mut self, schema: &'s Value, pointer: &str) -> Option<usize> {
        let keywords = schema.as_object()?;
        let address = std::ptr::from_ref(schema);
        if let Some(&number) = self.index.get(&address) {
            return Some(number);
        }
        let number = self.parts.len();
        self.index.insert(address, number);
        let part = Part {
            keywords,
            pointer: pointer.to_owned(),
            in_place: Vec::new(),
            within: Vec::new(),
            overlap: overlap_of(keywords),
        };
        self.parts.push(part);
        Some(number)
    }

    /// What a reference may mean, within the schema. Where a part has an `$id`, a pointer is
    /// relative to it; both readings are taken, since the larger one counts.
    fn resolve(&self, reference: &str) -> Vec<&'s Value> {
        let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let fragment = percent_decode_str(fragment).decode_utf8_lossy();
        if !fragment.is_empty() && !fragment.starts_with('/') {
            return self.named.get(&format!("#{fragment}")).cloned().unwrap_or_default();
        }
        // An `$id` may be written relative to the one around it.
        let is_meant =
            |id: &str| document.is_empty() || !id.is_empty() && (document.ends_with(id) || id.ends_with(document));
        let whole = document.is_empty().then_some(self.root);
        let resources = self.resources().filter(|(id, _)| is_meant(id)).map(|(_, part)| part);
        whole.into_iter().chain(resources).filter_map(|document| document.pointer(&fragment)).collect()
    }

    /// How much applies to one value together; refuses loops and excess.
    fn measure_in_place(&self) -> Result<Effort, Vec<Problem>> {
        let mut closures = vec![Progress::Unknown; self.parts.len()];
        let mut effort = Effort { applied: 1, fan_out: 1 };
        for number in 0..self.parts.len() {
            let closure = self.close(number, &mut closures, 0)?;
            effort.applied = effort.applied.max(closure.applied);
            effort.fan_out = effort.fan_out.max(closure.fan_out);
        }
        Ok(effort)
    }

    fn close(&self, number: usize, closures: &mut [Progress], depth: u32) -> Result<Closure, Vec<Problem>> {
        let part = &self.parts[number];
        match closures[number] {
            Progress::Known(closure) => return Ok(closure),
            Progress::UnderWay => {
                return refuse(part.pointer.as_str(), "the schema refers to itself for one and the same value");
            }
            Progress::Unknown => {}
        }
        let too_much = || refuse(part.pointer.as_str(), "too many subschemas apply to one and the same value");
        if depth > MAX_APPLIED_DEPTH {
            return too_much();
        }
        closures[number] = Progress::UnderWay;
        let mut closure = Closure { applied: 1, depth: 1, fan_out: part.overlap };
        for &other in &part.in_place {
            let other = self.close(other, closures, depth + 1)?;
            closure.applied = closure.applied.saturating_add(other.applied);
            closure.depth = closure.depth.max(other.depth + 1);
            closure.fan_out = closure.fan_out.saturating_add(other.fan_out);
        }
        if closure.applied > MAX_APPLIED || closure.depth > MAX_APPLIED_DEPTH {
            return too_much();
        }
        closures[number] = Progress::Known(closure);
        Ok(closure)
    }

    /// Counts the parts of a schema without recursion as often as they are used. Recursive
    /// ones the validator remembers by value, so that they stay in proportion to it.
    fn check_expansion(&self) -> Result<(), Vec<Problem>> {
        let uses = |part: &Part<'_>| part.in_place.iter().chain(&part.within).copied().collect::<Vec<_>>();
        let mut waiting_for = vec![0_usize; self.parts.len()];
        let mut used_by = vec![Vec::new(); self.parts.len()];
        for (number, part) in self.parts.iter().enumerate() {
            for used in uses(part) {
                waiting_for[number] += 1;
                used_by[used].push(number);
            }
        }
        let mut expanded = vec![1_u64; self.parts.len()];
        let mut ready: Vec<usize> = (0..self.parts.len()).filter(|&number| waiting_for[number] == 0).collect();
        while let Some(number) = ready.pop() {
            if expanded[number] > MAX_EXPANDED {
                let pointer = self.parts[number].pointer.as_str();
                return refuse(pointer, "the schema uses the same subschemas too many times over");
            }
            for &user in &used_by[number] {
                expanded[user] = expanded[user].saturating_add(expanded[number]);
                waiting_for[user] -= 1;
                if waiting_for[user] == 0 {
                    ready.push(user);
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Progress {
    Unknown,
    UnderWay,
    Known(Closure),
}

/// The subschemas under some keywords, with the places they stand.
fn subschemas<'s>(
    keywords: &'s Map<String, Value>,
    pointer: &str,
    single: &[&str],
    lists: &[&str],
    maps: &[&str],
) -> Vec<(&'s Value, String)> {
    let mut found = Vec::new();
    for keyword in single {
        if let Some(schema @ Value::Object(_)) = keywords.get(*keyword) {
            found.push((schema, push_pointer(pointer, keyword)));
        }
    }
    for keyword in lists {
        let schemas = keywords.get(*keyword).and_then(Value::as_array).into_iter().flatten();
        let at = push_pointer(pointer, keyword);
        found.extend(schemas.enumerate().map(|(index, schema)| (schema, push_pointer(&at, &index.to_string()))));
    }
    for keyword in maps {
        let schemas = keywords.get(*keyword).and_then(Value::as_object).into_iter().flatten();
        let at = push_pointer(pointer, keyword);
        found.extend(schemas.map(|(name, schema)| (schema, push_pointer(&at, name))));
    }
    found
}

/// How many keywords of one schema object may apply to the same value within: each pattern
/// that matches, and one of the others; `contains` besides `items`.
fn overlap_of(keywords: &Map<String, Value>) -> u64 {
    let has = |names: &[&str]| names.iter().any(|name| keywords.contains_key(*name));
    let patterns = keywords.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len) as u64;
    let of_object = patterns + u64::from(has(&["properties", "additionalProperties", "unevaluatedProperties"]));
    let of_array = u64::from(has(&["items", "prefixItems", "additionalItems", "unevaluatedItems"]))
        + u64::from(has(&["contains"]));
    of_object.max(of_array)
}

fn is_draft_4(dialect: &Value) -> bool {
    dialect.as_str().is_some_and(|dialect| dialect.contains("draft-04"))
}

/// The drafts' own schemas are known without being fetched.
fn is_meta_schema(reference: &str) -> bool {
    ["http://json-schema.org/", "https://json-schema.org/"].iter().any(|site| reference.starts_with(site))
}

fn unresolved(reference: &str) -> &'static str {
    if reference.starts_with('#') {
        "the reference leads nowhere in this schema"
    } else {
        "expected a reference within this schema (#, #/pointer, #anchor, or an $id in it): remote schemas and files are not read"
    }
}
