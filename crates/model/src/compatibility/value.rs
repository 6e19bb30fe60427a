//! The proof for what a value is by itself: its type, listed values, numbers and strings.

use serde_json::{Map, Value};

use super::containment::{Certainty, Place, Proof};
use super::demand::{Demands, NumberBound, Side, TypeSet, as_count};
use super::number::{equal, is_multiple};

impl<'a> Proof<'a, '_> {
    pub(super) fn check_types(&mut self, sub: &Demands<'a>, schema: &'a Map<String, Value>, place: &mut Place<'a, '_>) {
        let Some(keyword) = schema.get("type") else { return };
        let outside = sub.types().without(TypeSet::read(keyword));
        if !outside.is_empty() {
            place.broken("type", self.say(format!("no longer takes {outside}"), format!("may now be {outside}")));
        }
    }

    pub(super) fn check_values(
        &mut self,
        sub: &Demands<'a>,
        schema: &'a Map<String, Value>,
        place: &mut Place<'a, '_>,
    ) {
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

    pub(super) fn check_numbers(
        &mut self,
        sub: &Demands<'a>,
        schema: &'a Map<String, Value>,
        place: &mut Place<'a, '_>,
    ) {
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
    pub(super) fn check_counts(
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

    pub(super) fn check_strings(
        &mut self,
        sub: &Demands<'a>,
        schema: &'a Map<String, Value>,
        place: &mut Place<'a, '_>,
    ) {
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
