//! The list of workloads, and building one from its name.

use machine::input::Source;

use crate::parameters::{Parameter, Parameters};
use crate::together::Together;

/// Builds a workload's source.
pub(crate) type Build = fn(&Parameters, u64) -> Result<Box<dyn Source + Send>, WorkloadError>;

/// A workload: what it is and what it can be told.
#[derive(Clone, Copy)]
pub struct Workload {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Where its access pattern comes from.
    pub source: &'static str,
    /// What it can be told.
    pub parameters: &'static [Parameter],
    pub(crate) build: Build,
}

impl PartialEq for Workload {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl std::fmt::Debug for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workload").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a workload could not be built.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// There is no workload of that name.
    #[error("there is no workload `{name}`; nearest: {}", nearest.join(", "))]
    UnknownWorkload {
        /// What was asked for.
        name: String,
        /// Names that look like it, best first.
        nearest: Vec<&'static str>,
    },
    /// The workload has no such parameter.
    #[error("workload `{workload}` has no parameter `{key}`; nearest: {}", nearest.join(", "))]
    UnknownParameter {
        /// The workload.
        workload: String,
        /// What was set.
        key: String,
        /// Parameters that look like it, best first.
        nearest: Vec<&'static str>,
    },
    /// The text is not a value of the parameter's kind.
    #[error("workload `{workload}`: {key}={value} is {reason}")]
    BadValue {
        /// The workload.
        workload: String,
        /// The parameter.
        key: &'static str,
        /// What was written.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The value is outside the parameter's bounds.
    #[error("workload `{workload}`: {key}={value} is out of range; allowed: {range}")]
    OutOfRange {
        /// The workload.
        workload: String,
        /// The parameter.
        key: &'static str,
        /// What was written.
        value: String,
        /// What is allowed.
        range: String,
    },
    /// A parameter is set twice.
    #[error("workload `{workload}`: {key} is set twice")]
    SetTwice {
        /// The workload.
        workload: String,
        /// The parameter.
        key: String,
    },
    /// The text after the name is not `key=value,key=value`.
    #[error("workload `{workload}`: `{part}` is not key=value")]
    Syntax {
        /// The workload.
        workload: String,
        /// The part that could not be read.
        part: String,
    },
    /// Each value is fine, all together are not.
    #[error("workload `{workload}`: {reason}")]
    Impossible {
        /// The workload.
        workload: String,
        /// Why.
        reason: String,
    },
}

/// All workloads, in the order in which a reader should meet them.
pub fn list() -> &'static [Workload] {
    crate::ALL
}

/// The names nearest to `name`, best first, at most three.
pub(crate) fn nearest(name: &str, names: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let mut scored: Vec<_> = names.map(|n| (strsim::damerau_levenshtein(name, n), n)).collect();
    scored.sort();
    scored.truncate(3);
    scored.into_iter().map(|(_, n)| n).collect()
}

/// The workload of that name.
///
/// # Errors
/// If there is none; the error names the nearest.
pub fn find(name: &str) -> Result<&'static Workload, WorkloadError> {
    list().iter().find(|w| w.name == name).ok_or_else(|| WorkloadError::UnknownWorkload {
        name: name.to_string(),
        nearest: nearest(name, list().iter().map(|w| w.name)),
    })
}

/// Reads `name` or `name:key=value,key=value`.
///
/// # Errors
/// If the workload, a key or a value is not known; the error says what is.
pub fn parse(spec: &str) -> Result<Parameters, WorkloadError> {
    let (name, rest) = spec.split_once(':').unwrap_or((spec, ""));
    let mut parameters = Parameters::new(find(name.trim())?);
    let mut seen = Vec::new();
    for part in rest.split(',').filter(|p| !p.trim().is_empty()) {
        let Some((key, value)) = part.split_once('=') else {
            return Err(WorkloadError::Syntax { workload: name.to_string(), part: part.to_string() });
        };
        let key = key.trim();
        if seen.contains(&key) {
            return Err(WorkloadError::SetTwice { workload: name.to_string(), key: key.to_string() });
        }
        parameters.set(key, value.trim())?;
        seen.push(key);
    }
    Ok(parameters)
}

/// The source of a workload with these parameters. The same parameters and
/// seed give the same accesses, on any machine.
///
/// # Errors
/// If the values do not go together.
pub fn build_with(parameters: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    (parameters.workload().build)(parameters, seed)
}

/// The source of `name` or `name:key=value,key=value`; or of several that run at the same time,
/// `name + name:key=value` (see [`Together`]).
///
/// # Errors
/// As [`parse`] and [`build_with`].
pub fn build(spec: &str, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    if spec.contains('+') {
        return Ok(Box::new(Together::parse(spec, seed)?));
    }
    build_with(&parse(spec)?, seed)
}
