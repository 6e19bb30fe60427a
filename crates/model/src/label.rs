//! Labels: what people file definitions and instances under. Owns their bounds.

use std::collections::BTreeMap;

use crate::Problem;
use crate::problem::push_pointer;

/// The most labels of one resource.
pub const MAX_LABELS: usize = 64;
/// The longest key, in characters.
pub const MAX_KEY: usize = 64;
/// The longest value, in characters.
pub const MAX_VALUE: usize = 256;

/// What is wrong with labels that stand at `/labels`.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    if labels.len() > MAX_LABELS {
        problems.push(Problem::new("/labels", format!("expected at most {MAX_LABELS} labels")));
    }
    let unfit = |(key, value): &(&String, &String)| {
        !fits(key, 1, MAX_KEY) || !fits(value, 0, MAX_VALUE) || key.contains(['=', ','])
    };
    for (key, _) in labels.iter().filter(unfit).take(MAX_LABELS) {
        problems.push(Problem::new(
            push_pointer("/labels", key),
            format!(
                "expected a key of 1 to {MAX_KEY} characters without '=' and ',', and a value of at most {MAX_VALUE}; neither with control characters"
            ),
        ));
    }
    problems
}

/// Whether a text for people has so many characters, and none that steers a terminal or
/// ends a text in a database.
pub fn fits(text: &str, least: usize, most: usize) -> bool {
    let length = text.chars().take(most + 1).count();
    (least..=most).contains(&length) && !text.chars().any(char::is_control)
}
