//! What a workload can be told: names, units, defaults, and values read from text.

use std::collections::BTreeMap;
use std::fmt;

use crate::WorkloadError;
use crate::registry::{Workload, nearest};

/// What kind of value a parameter takes, and within which bounds (both inclusive).
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Unit {
    /// A size in bytes: `4KiB`, `512MiB`, `64GiB`, `10GB`, `2^36`.
    Bytes {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// A number of things: `16`, `10K`, `1M`, `2^30`.
    Count {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// A number with a fraction.
    Real {
        /// Smallest.
        min: f64,
        /// Largest.
        max: f64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
}

impl Unit {
    /// A word for the unit, for lists: `bytes`, `count`, `number`, `choice`.
    pub const fn name(self) -> &'static str {
        match self {
            Unit::Bytes { .. } => "bytes",
            Unit::Count { .. } => "count",
            Unit::Real { .. } => "number",
            Unit::Choice(_) => "choice",
        }
    }

    fn read(self, text: &str) -> Result<Value, Wrong> {
        match self {
            Unit::Bytes { min, max } => {
                let v = integer(text, true).ok_or(Wrong::Form("not a size such as 4KiB, 64GiB or 2^36"))?;
                in_range(v, min, max).map(Value::Bytes)
            }
            Unit::Count { min, max } => {
                let v = integer(text, false).ok_or(Wrong::Form("not a number such as 16, 1M or 2^30"))?;
                in_range(v, min, max).map(Value::Count)
            }
            Unit::Real { min, max } => {
                let v: f64 = text.parse().map_err(|_| Wrong::Form("not a number such as 0.99"))?;
                if v >= min && v <= max { Ok(Value::Real(v)) } else { Err(Wrong::Range) }
            }
            Unit::Choice(words) => {
                words.iter().find(|w| **w == text).map(|w| Value::Choice(w)).ok_or(Wrong::Range)
            }
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Unit::Bytes { min, max } => write!(f, "{} to {}", Value::Bytes(min), Value::Bytes(max)),
            Unit::Count { min, max } => write!(f, "{} to {}", Value::Count(min), Value::Count(max)),
            Unit::Real { min, max } => write!(f, "{min} to {max}"),
            Unit::Choice(words) => f.write_str(&words.join(" | ")),
        }
    }
}

enum Wrong {
    Form(&'static str),
    Range,
}

/// A size in bytes as parameters are written: `4KiB`, `1.5GiB`, `10GB`, `2^36`; `None` if it is none.
pub fn size(text: &str) -> Option<u64> {
    integer(text, true)
}

fn in_range(v: u64, min: u64, max: u64) -> Result<u64, Wrong> {
    if (min..=max).contains(&v) { Ok(v) } else { Err(Wrong::Range) }
}

/// Reads `64GiB`, `10M`, `2^30`, `1_000`; `None` if it is none of them or does not fit.
///
/// `Ki`, `Mi`, `Gi`, `Ti` are powers of two with and without a `B`. `K`, `M`,
/// `G`, `T` are powers of ten, for bytes only with a `B`: a bare `64G` of bytes
/// is refused, since half the tools mean 2^30 by it.
fn integer(text: &str, bytes: bool) -> Option<u64> {
    let text = text.trim();
    if let Some((base, exponent)) = text.split_once('^') {
        return base.parse::<u64>().ok()?.checked_pow(exponent.parse().ok()?);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_' && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor: u64 = match (suffix, bytes) {
        ("", _) | ("B", true) => 1,
        ("Ki", _) | ("KiB", true) => 1 << 10,
        ("Mi", _) | ("MiB", true) => 1 << 20,
        ("Gi", _) | ("GiB", true) => 1 << 30,
        ("Ti", _) | ("TiB", true) => 1 << 40,
        ("K" | "k", false) | ("KB" | "kB", true) => 1_000,
        ("M", false) | ("MB", true) => 1_000_000,
        ("G", false) | ("GB", true) => 1_000_000_000,
        ("T", false) | ("TB", true) => 1_000_000_000_000,
        _ => return None,
    };
    let number = number.replace('_', "");
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    // 1.5GiB: exact as long as the product is a whole number below 2^53.
    let product = number.parse::<f64>().ok()? * factor as f64;
    (product.fract() == 0.0 && product < (1u64 << 53) as f64).then_some(product as u64)
}

/// A parameter's value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value {
    /// Bytes.
    Bytes(u64),
    /// A number of things.
    Count(u64),
    /// A number with a fraction.
    Real(f64),
    /// A word.
    Choice(&'static str),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Value::Bytes(v) => {
                let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
                match units.iter().find(|(u, _)| v >= *u && v % u == 0) {
                    Some((u, name)) => write!(f, "{}{name}", v / u),
                    None => write!(f, "{v}B"),
                }
            }
            Value::Count(v) => write!(f, "{v}"),
            Value::Real(v) => write!(f, "{v}"),
            Value::Choice(v) => f.write_str(v),
        }
    }
}

/// One thing that a workload can be told.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Parameter {
    /// Its key: `footprint`.
    pub name: &'static str,
    /// What it counts and its bounds.
    pub unit: Unit,
    /// The value if nothing is said, as it would be written.
    pub default: &'static str,
    /// What it means, in one line.
    pub meaning: &'static str,
}

/// All values of one workload: the defaults, and what was set.
#[derive(Clone, PartialEq, Debug)]
pub struct Parameters {
    workload: &'static Workload,
    values: BTreeMap<&'static str, Value>,
}

impl Parameters {
    /// The defaults of `workload`.
    ///
    /// # Panics
    /// If a default in the workload's own table does not fit its unit; a test reads them all.
    pub fn new(workload: &'static Workload) -> Parameters {
        let values = workload
            .parameters
            .iter()
            .map(|p| match p.unit.read(p.default) {
                Ok(v) => (p.name, v),
                Err(_) => panic!("{}: default of {} is not {}", workload.name, p.name, p.unit),
            })
            .collect();
        Parameters { workload, values }
    }

    /// Sets `key` from text, as written on a command line or in a configuration file.
    ///
    /// # Errors
    /// If there is no such key, or the text is no such value, or out of range.
    pub fn set(&mut self, key: &str, text: &str) -> Result<(), WorkloadError> {
        let workload = self.workload.name.to_string();
        let Some(p) = self.workload.parameters.iter().find(|p| p.name == key) else {
            return Err(WorkloadError::UnknownParameter {
                nearest: nearest(key, self.workload.parameters.iter().map(|p| p.name)),
                workload,
                key: key.to_string(),
            });
        };
        let (key, value) = (p.name, text.to_string());
        let value = p.unit.read(text).map_err(|wrong| match wrong {
            Wrong::Form(reason) => WorkloadError::BadValue { workload, key, value, reason },
            Wrong::Range => WorkloadError::OutOfRange { workload, key, value, range: p.unit.to_string() },
        })?;
        self.values.insert(p.name, value);
        Ok(())
    }

    /// The workload that these are for.
    pub fn workload(&self) -> &'static Workload {
        self.workload
    }

    /// Every parameter and its value, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Value)> + '_ {
        self.values.iter().map(|(k, v)| (*k, *v))
    }

    /// The value of `key`, if there is such a parameter.
    pub fn get(&self, key: &str) -> Option<Value> {
        self.values.get(key).copied()
    }

    /// The workload and what differs from its defaults, as [`crate::build`] reads it.
    pub fn spec(&self) -> String {
        let defaults = Parameters::new(self.workload);
        let set: Vec<String> = self
            .workload
            .parameters
            .iter()
            .filter(|p| self.values[p.name] != defaults.values[p.name])
            .map(|p| format!("{}={}", p.name, self.values[p.name]))
            .collect();
        if set.is_empty() {
            self.workload.name.to_string()
        } else {
            format!("{}:{}", self.workload.name, set.join(","))
        }
    }

    // The four below are for the workloads themselves, which name only keys of
    // their own table; a test builds each of them.

    pub(crate) fn bytes(&self, key: &str) -> u64 {
        match self.values[key] {
            Value::Bytes(v) => v,
            other => unreachable!("{key} is {other:?}"),
        }
    }
    pub(crate) fn count(&self, key: &str) -> u64 {
        match self.values[key] {
            Value::Count(v) => v,
            other => unreachable!("{key} is {other:?}"),
        }
    }
    pub(crate) fn real(&self, key: &str) -> f64 {
        match self.values[key] {
            Value::Real(v) => v,
            other => unreachable!("{key} is {other:?}"),
        }
    }
    pub(crate) fn choice(&self, key: &str) -> &'static str {
        match self.values[key] {
            Value::Choice(v) => v,
            other => unreachable!("{key} is {other:?}"),
        }
    }

    /// The combination of values makes no sense.
    pub(crate) fn impossible(&self, reason: impl Into<String>) -> WorkloadError {
        WorkloadError::Impossible { workload: self.workload.name.to_string(), reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts() {
        for (text, bytes, expect) in [
            ("64GiB", true, Some(64 << 30)),
            ("4KiB", true, Some(4096)),
            ("1.5GiB", true, Some(3 << 29)),
            ("10GB", true, Some(10_000_000_000)),
            ("123", true, Some(123)),
            ("2^36", true, Some(1 << 36)),
            ("1M", false, Some(1_000_000)),
            ("1_000", false, Some(1000)),
            ("2^30", false, Some(1 << 30)),
            ("2^64", false, None),
            ("64G", true, None),
            ("64GiB", false, None),
            ("99999999TiB", true, None),
            ("", false, None),
            ("-1", false, None),
            ("1.0000000001GiB", true, None),
            ("2^", false, None),
            ("GiB", true, None),
        ] {
            assert_eq!(integer(text, bytes), expect, "{text}");
        }
    }

    #[test]
    fn bytes_are_written_so_that_they_are_read_back() {
        for v in [1, 4096, 5000, 1 << 30, 3 << 29, (1 << 40) + 4096] {
            assert_eq!(integer(&Value::Bytes(v).to_string(), true), Some(v));
        }
    }
}
