//! What `pagewalk sweep` tells programs.

use lab::sweep::Key;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// `sweep plan`.
#[derive(Serialize)]
pub(super) struct Planned {
    /// The sweep's name.
    pub(super) name: String,
    /// What the file comes to: the same for two files that have the same points.
    pub(super) plan: Key,
    /// Where results are kept.
    pub(super) directory: PathBuf,
    /// Points to run, done or not.
    pub(super) points: usize,
    /// Of these, done.
    pub(super) done: u64,
    /// Of these, failed.
    pub(super) failed: u64,
    /// Points that make no sense, by the reason.
    pub(super) refused: Vec<Refused>,
    /// Points that the file excludes.
    pub(super) excluded: u64,
    /// Points that are the same as another.
    pub(super) same: u64,
    /// What it takes.
    pub(super) estimate: Estimate,
    /// With `--points`, every point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) list: Option<Vec<Listed>>,
}

/// Points that make no sense.
#[derive(Serialize)]
pub(super) struct Refused {
    /// How many.
    pub(super) points: u64,
    /// Why.
    pub(super) reason: String,
    /// The first of them.
    pub(super) first: String,
}

/// What a sweep takes.
#[derive(Serialize)]
pub(super) struct Estimate {
    /// Points that were probed for it; 0: by the rough model alone.
    pub(super) probed: usize,
    /// Seconds of one core for all points.
    pub(super) core_seconds: f64,
    /// Seconds here for what is left.
    pub(super) seconds: f64,
    /// Points at the same time.
    pub(super) workers: usize,
    /// Seconds of the longest point.
    pub(super) longest_seconds: f64,
    /// Bytes of the largest point.
    pub(super) largest_bytes: u64,
    /// Bytes of all that run at once.
    pub(super) bytes: u64,
}

/// A point.
#[derive(Serialize)]
pub(super) struct Listed {
    /// Its key, by which its result is kept.
    pub(super) key: Key,
    /// What it is, in words.
    pub(super) point: String,
    /// The parameters that differ between points.
    pub(super) parameters: Map<String, Value>,
    /// Seconds that it takes.
    pub(super) seconds: f64,
    /// Bytes that it takes.
    pub(super) bytes: u64,
}

/// `sweep run`.
#[derive(Serialize)]
pub(super) struct Ran {
    /// Where results are kept.
    pub(super) directory: PathBuf,
    /// Points with a result.
    pub(super) done: u64,
    /// Points that failed.
    pub(super) failed: u64,
    /// Points with neither.
    pub(super) missing: u64,
    /// Points that make no sense.
    pub(super) refused: u64,
    /// Points that need more memory than may be used.
    pub(super) too_large: usize,
    /// Failed points by the reason.
    pub(super) failures: Vec<Failure>,
}

/// Points that failed.
#[derive(Serialize)]
pub(super) struct Failure {
    /// How many.
    pub(super) points: u64,
    /// Why.
    pub(super) reason: String,
    /// The first of them.
    pub(super) first: String,
}

/// `sweep status`.
#[derive(Serialize)]
pub(super) struct Status {
    /// Where results are kept.
    pub(super) directory: PathBuf,
    /// Points to run, done or not.
    pub(super) points: usize,
    /// Points with a result.
    pub(super) done: u64,
    /// Points that run now.
    pub(super) running: u64,
    /// Points that failed.
    pub(super) failed: u64,
    /// Points that are still to run.
    pub(super) waiting: u64,
    /// Who works on it here, if anybody does.
    pub(super) worker: Option<String>,
    /// Failed points by the reason.
    pub(super) failures: Vec<Failure>,
    /// Files that are damaged: what they had runs again.
    pub(super) damaged: Vec<PathBuf>,
    /// Points with two results that differ, which must not be.
    pub(super) different: Vec<Key>,
    /// Jobs of the cluster.
    pub(super) slurm: Vec<ClusterJob>,
}

/// A job of the cluster.
#[derive(Serialize)]
pub(super) struct ClusterJob {
    /// The array's number.
    pub(super) array: String,
    /// The number of the job that collects.
    pub(super) collect: Option<String>,
    /// Tasks of the array.
    pub(super) tasks: usize,
    /// Tasks by state, as far as the cluster still knows; text if it cannot be asked.
    pub(super) states: States,
}

/// What the cluster says of a job.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum States {
    /// Tasks by state.
    Known(BTreeMap<String, usize>),
    /// Why it cannot be asked.
    Unknown(String),
}

/// `sweep run --on slurm`.
#[derive(Serialize)]
pub(super) struct Submission {
    /// The array's number, if anything was left to run.
    pub(super) array: Option<String>,
    /// The number of the job that collects.
    pub(super) collect: Option<String>,
    /// Tasks of the array.
    pub(super) tasks: usize,
    /// Where results are kept.
    pub(super) directory: PathBuf,
    /// Seconds of the longest task.
    pub(super) longest_seconds: f64,
    /// Bytes of the largest task.
    pub(super) largest_bytes: u64,
}

/// `sweep collect`.
#[derive(Serialize)]
pub(super) struct Gathered {
    /// The file that was written.
    pub(super) file: PathBuf,
    /// Its rows.
    pub(super) rows: u64,
    /// Points that failed, which it does not have.
    pub(super) failed: u64,
    /// Points without a result.
    pub(super) missing: u64,
}

/// `sweep commands`.
#[derive(Serialize)]
pub(super) struct Commands {
    /// A task each, in order.
    pub(super) rows: Vec<Task>,
}

/// A task of a job.
#[derive(Serialize)]
pub(super) struct Task {
    /// Its number.
    pub(super) task: usize,
    /// The command that runs it, for a shell.
    pub(super) command: String,
}

/// `sweep work`.
#[derive(Serialize)]
pub(super) struct Worked {
    /// The job.
    pub(super) job: String,
    /// The task of it.
    pub(super) task: usize,
    /// Points that were done now.
    pub(super) done: u64,
    /// Points that failed now.
    pub(super) failed: u64,
}

/// `sweep cancel`.
#[derive(Serialize)]
pub(super) struct Cancelled {
    /// What was ended.
    pub(super) ended: Vec<String>,
}
