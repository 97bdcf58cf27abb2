//! Lists and ranges.

use super::file::POINTS_MAX;
use serde_json::{Number, Value as Json};

/// The values of a list, or of a range: `{ from = 1, to = 9, step = 2 }`, `{ from = "64MiB", to = "1GiB", times = 2 }`.
pub(super) fn values(value: &Json) -> Result<Vec<Json>, String> {
    let values = match value {
        Json::Array(values) => values.clone(),
        Json::Object(range) => {
            if let Some(key) =
                range.keys().find(|key| !["from", "to", "step", "times"].contains(&key.as_str()))
            {
                return Err(format!("`{key}` is no part of a range: `from`, `to`, and `step` or `times`"));
            }
            let get = |key: &str| range.get(key).map(number).transpose();
            let (Some(from), Some(to)) = (get("from")?, get("to")?) else {
                return Err("a range has `from` and `to`".to_string());
            };
            match (get("step")?, get("times")?) {
                (Some(step), None) => added(from, to, step)?,
                (None, Some(times)) => multiplied(from, to, times)?,
                (None, None) => added(from, to, Step::Whole(1))?,
                (Some(_), Some(_)) => return Err("a range has `step` or `times`, not both".to_string()),
            }
        }
        one => return Err(format!("{one} is one value; write a list, or put it under [base]")),
    };
    match values.len() as u64 {
        0 => Err("no values".to_string()),
        n if n > POINTS_MAX => Err(format!("more than {POINTS_MAX} values")),
        _ => Ok(values),
    }
}

#[derive(Clone, Copy)]
enum Step {
    Whole(u64),
    Real(f64),
}

impl Step {
    fn real(self) -> f64 {
        match self {
            Step::Whole(n) => n as f64,
            Step::Real(x) => x,
        }
    }
}

fn number(value: &Json) -> Result<Step, String> {
    let wrong =
        || format!("{value} is no number of a range; write 4, 0.5, \"2M\" or \"64MiB\", not negative");
    match value {
        Json::Number(n) => match (n.as_u64(), n.as_f64()) {
            (Some(n), _) => Ok(Step::Whole(n)),
            (None, Some(x)) if x >= 0.0 => Ok(Step::Real(x)),
            _ => Err(wrong()),
        },
        Json::String(text) => quantity(text).map(Step::Whole).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

/// A whole number with a suffix: `k`, `M`, `G` are powers of ten, `KiB`, `MiB`, `GiB`, `TiB` of two.
pub fn quantity(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let factor: u64 = match &text[digits..] {
        "" => 1,
        "k" | "K" => 1_000,
        "M" | "m" => 1_000_000,
        "G" | "g" => 1_000_000_000,
        "KiB" | "Ki" => 1 << 10,
        "MiB" | "Mi" => 1 << 20,
        "GiB" | "Gi" => 1 << 30,
        "TiB" | "Ti" => 1 << 40,
        _ => return None,
    };
    text[..digits].replace('_', "").parse::<u64>().ok()?.checked_mul(factor)
}

fn added(from: Step, to: Step, step: Step) -> Result<Vec<Json>, String> {
    if step.real() <= 0.0 {
        return Err("`step` must be more than 0".to_string());
    }
    if let (Step::Whole(from), Step::Whole(to), Step::Whole(step)) = (from, to, step) {
        if from <= to && (to - from) / step >= POINTS_MAX {
            return Err(format!("more than {POINTS_MAX} values"));
        }
        return Ok((from..=to).step_by(step as usize).map(Json::from).collect());
    }
    let (from, to, step) = (from.real(), to.real(), step.real());
    // The end belongs to the range also where binary fractions miss it by a little.
    let steps = ((to - from) / step + 1e-9).floor();
    if steps >= POINTS_MAX as f64 {
        return Err(format!("more than {POINTS_MAX} values"));
    }
    if steps < 0.0 {
        return Ok(Vec::new());
    }
    Ok((0..=steps as u64).map(|i| rounded(from + i as f64 * step)).collect())
}

fn multiplied(from: Step, to: Step, times: Step) -> Result<Vec<Json>, String> {
    if times.real() <= 1.0 || from.real() <= 0.0 {
        return Err("`times` must be more than 1, and `from` more than 0".to_string());
    }
    let mut values = Vec::new();
    if let (Step::Whole(mut at), Step::Whole(to), Step::Whole(times)) = (from, to, times) {
        while at <= to {
            values.push(Json::from(at));
            let Some(next) = at.checked_mul(times) else { break };
            at = next;
        }
        return Ok(values);
    }
    let mut at = from.real();
    while at <= to.real() * (1.0 + 1e-9) && (values.len() as u64) <= POINTS_MAX {
        values.push(rounded(at));
        at *= times.real();
    }
    Ok(values)
}

/// Without the last digits, which are the errors of adding up: 0.3 instead of 0.30000000000000004.
fn rounded(x: f64) -> Json {
    let x: f64 = format!("{x:.12e}").parse().expect("a number just printed");
    Number::from_f64(x).map_or(Json::Null, Json::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ranges_are_what_they_say() {
        let of = |value: Json| values(&value).map(Json::from);
        assert_eq!(of(json!({"from": 1, "to": 7, "step": 3})), Ok(json!([1, 4, 7])));
        assert_eq!(of(json!({"from": 1, "to": 3})), Ok(json!([1, 2, 3])));
        assert_eq!(of(json!({"from": 0.0, "to": 0.4, "step": 0.1})), Ok(json!([0.0, 0.1, 0.2, 0.3, 0.4])));
        assert_eq!(
            of(json!({"from": "64MiB", "to": "256MiB", "times": 2})),
            Ok(json!([1u64 << 26, 1u64 << 27, 1u64 << 28]))
        );
        assert_eq!(of(json!({"from": 1, "to": 2, "times": 1.5})), Ok(json!([1.0, 1.5])));
        assert_eq!(of(json!(["a", 2])), Ok(json!(["a", 2])));
        for (wrong, word) in [
            (json!({"from": 1, "to": 3, "step": 0}), "more than 0"),
            (json!({"from": 3, "to": 1}), "no values"),
            (json!({"from": 1, "to": 3, "by": 1}), "no part of a range"),
            (json!({"from": 1}), "`from` and `to`"),
            (json!({"from": 1, "to": 9, "step": 1, "times": 2}), "not both"),
            (json!({"from": 0, "to": 9, "times": 2}), "more than 0"),
            (json!({"from": 0, "to": u64::MAX}), "more than"),
            (json!({"from": 0.0, "to": 1e18, "step": 0.5}), "more than"),
            (json!({"from": -1, "to": 9}), "not negative"),
            (json!([]), "no values"),
            (json!(3), "write a list"),
        ] {
            let why = values(&wrong).unwrap_err();
            assert!(why.contains(word), "{wrong}: {why}");
        }
        assert_eq!(quantity("1_000k"), Some(1_000_000));
        assert_eq!(quantity("2GiB"), Some(2 << 30));
        assert_eq!(quantity("x"), None);
        assert_eq!(quantity("99999999999G"), None);
    }
}
