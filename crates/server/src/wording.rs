//! What a reader of data says of a fault, in words for people: what was expected, and of
//! which kind the value is. Never the value itself, which may be a secret.

/// Rewords a message of serde's.
pub(crate) fn explain(message: &str) -> String {
    let message = without_position(message);
    if let Some(field) = missing_field(message) {
        return format!("expected the key {field}");
    }
    // The value may hold any text: what is expected comes after it.
    let expected = message.rsplit_once(", expected ").map(|(_, expected)| expected.replace('`', ""));
    if message.starts_with("unknown field") {
        return match expected {
            Some(expected) => format!("unknown key; expected {expected}"),
            None => "unknown key".to_owned(),
        };
    }
    if message.starts_with("unknown variant") {
        return format!("expected {}", expected.as_deref().unwrap_or("another value"));
    }
    match message.split_once(' ') {
        Some(("invalid", what)) if ["type: ", "value: ", "length "].iter().any(|start| what.starts_with(start)) => {
            let expected = expected.as_deref().unwrap_or("another value");
            let found = kind_of(what).map_or(String::new(), |kind| format!(", found {kind}"));
            format!("expected {}{found}", in_words(expected))
        }
        _ => message.to_owned(),
    }
}

/// The field that a message says is missing.
pub(crate) fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.split('`').next()
}

/// Names a type of ours as people call its values.
pub(crate) fn in_words(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "i32" | "i64" => "a whole number",
        "f64" => "a number",
        "a boolean" | "bool" => "true or false",
        "a string" | "a borrowed string" => "a string",
        "a sequence" => "an array",
        "a map" => "an object",
        name if name.starts_with("struct ") => "an object",
        other => other,
    }
}

fn kind_of(what: &str) -> Option<&'static str> {
    let kinds = [
        ("type: boolean", "a boolean"),
        ("type: integer", "a number"),
        ("value: integer", "a number"),
        ("type: floating point", "a number"),
        ("value: floating point", "a number"),
        ("type: string", "a string"),
        ("value: string", "a string"),
        ("type: null", "null"),
        ("type: unit", "null"),
        ("type: sequence", "an array"),
        ("length", "an array"),
        ("type: map", "an object"),
    ];
    kinds.into_iter().find(|(start, _)| what.starts_with(start)).map(|(_, kind)| kind)
}

/// A message about text ends with its position, which the pointer tells better.
fn without_position(message: &str) -> &str {
    match message.rsplit_once(" at line ") {
        Some((before, position)) if position.bytes().all(|b| b.is_ascii_digit() || b" column".contains(&b)) => before,
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_tell_what_is_expected_and_never_the_value() {
        let cases = [
            ("missing field `id` at line 1 column 2", "expected the key id"),
            ("unknown field `x`, expected one of `a`, `b`", "unknown key; expected one of a, b"),
            ("unknown field `x`, there are no fields", "unknown key"),
            ("unknown variant `hunter2`, expected `a` or `b`", "expected a or b"),
            (
                "invalid type: string \"hunter2, expected x\", expected u16",
                "expected a whole number from 0 to 65535, found a string",
            ),
            (
                "invalid value: integer `-1`, expected u64 at line 3 column 9",
                "expected a whole number, 0 or more, found a number",
            ),
            ("invalid length 0, expected struct Pet with 2 elements", "expected an object, found an array"),
            ("invalid type: null, expected a map", "expected an object, found null"),
            ("expected a colour", "expected a colour"),
        ];
        for (message, words) in cases {
            assert_eq!(explain(message), words);
        }
    }
}
