//! Exact questions about JSON numbers and equality of JSON values, as JSON Schema asks them.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// Orders two JSON numbers; integers exactly, others as doubles.
pub(super) fn compare_numbers(left: &Number, right: &Number) -> Ordering {
    match (as_integer(left), as_integer(right)) {
        (Some(left), Some(right)) => left.cmp(&right),
        _ => {
            let (left, right) = (left.as_f64().unwrap_or(f64::NAN), right.as_f64().unwrap_or(f64::NAN));
            left.partial_cmp(&right).unwrap_or(Ordering::Equal)
        }
    }
}

/// The number as an integer, where it is one that was written without a fraction.
pub(super) fn as_integer(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

/// Whether JSON Schema takes the number for an integer: `1.0` is one.
pub(super) fn is_integer(number: &Number) -> bool {
    as_integer(number).is_some() || number.as_f64().is_some_and(|value| value.fract() == 0.0)
}

/// Whether `value` is a multiple of `divisor`; none where the digits do not fit.
pub(super) fn is_multiple(value: &Number, divisor: &Number) -> Option<bool> {
    let (value, divisor) = (Decimal::read(value)?, Decimal::read(divisor)?);
    let shift = value.exponent.checked_sub(divisor.exponent)?;
    let scale = 10_i128.checked_pow(shift.unsigned_abs())?;
    let (value, divisor) = if shift >= 0 {
        (value.digits.checked_mul(scale)?, divisor.digits)
    } else {
        (value.digits, divisor.digits.checked_mul(scale)?)
    };
    value.checked_rem(divisor).map(|rest| rest == 0)
}

/// `digits` × 10^`exponent`.
struct Decimal {
    digits: i128,
    exponent: i32,
}

impl Decimal {
    fn read(number: &Number) -> Option<Self> {
        let text = number.to_string();
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text.as_str(), 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}").parse().ok()?;
        Some(Self { digits, exponent: exponent.checked_sub(i32::try_from(fraction.len()).ok()?)? })
    }
}

/// Work that may still be done; every loop over an author's input draws on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget(pub(super) usize);

impl Budget {
    /// Takes `steps`; false once nothing is left.
    pub(super) fn spend(&mut self, steps: usize) -> bool {
        self.0 = self.0.saturating_sub(steps);
        self.0 > 0
    }
}

/// Whether two values are equal for JSON Schema: `1` and `1.0` are. Counts as unequal
/// once the budget is spent.
pub(super) fn equal(left: &Value, right: &Value, budget: &mut Budget) -> bool {
    if !budget.spend(1) {
        return false;
    }
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => compare_numbers(left, right) == Ordering::Equal,
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| equal(left, right, budget))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, left)| right.get(key).is_some_and(|right| equal(left, right, budget)))
        }
        (left, right) => left == right,
    }
}

/// Whether two pieces of schemas say the same whatever document they stand in: equal, and
/// without references.
pub(super) fn equal_and_closed(left: &Value, right: &Value, budget: &mut Budget) -> bool {
    equal(left, right, budget) && has_no_reference(left, budget)
}

fn has_no_reference(schema: &Value, budget: &mut Budget) -> bool {
    if !budget.spend(1) {
        return false;
    }
    match schema {
        Value::Array(items) => items.iter().all(|item| has_no_reference(item, budget)),
        Value::Object(members) => members.iter().all(|(key, value)| {
            !matches!(key.as_str(), "$ref" | "$dynamicRef" | "$recursiveRef") && has_no_reference(value, budget)
        }),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        serde_json::from_str(text).expect("a JSON number")
    }

    #[test]
    fn multiples_are_exact_in_decimal() {
        for (value, divisor, expected) in [
            ("0.3", "0.1", Some(true)),
            ("10", "5", Some(true)),
            ("1e3", "0.001", Some(true)),
            ("0.15", "0.1", Some(false)),
            ("7", "2", Some(false)),
            ("1e300", "1e-300", None),
            ("1", "0", None),
        ] {
            assert_eq!(is_multiple(&number(value), &number(divisor)), expected, "{value} by {divisor}");
        }
    }

    #[test]
    fn large_integers_are_told_apart() {
        assert_eq!(compare_numbers(&number("9007199254740993"), &number("9007199254740992")), Ordering::Greater);
        assert_eq!(compare_numbers(&number("18446744073709551615"), &number("-1")), Ordering::Greater);
        assert_eq!(compare_numbers(&number("1"), &number("1.0")), Ordering::Equal);
    }
}
