//! Jobs: tasks for another scheduler, written down once so that every machine divides the work alike.

use anyhow::{Context, Result, bail};
use lab::sweep::{Key, Plan, Unit, replace};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// The first line of a job's tasks.
#[derive(Serialize, Deserialize)]
struct Head {
    plan: Key,
    version: String,
    tasks: usize,
}

/// A job: a directory in `jobs/` of the sweep's.
pub(super) struct Job {
    pub(super) name: String,
    pub(super) directory: PathBuf,
    pub(super) tasks: usize,
    /// Seconds and bytes of the largest task.
    pub(super) seconds: f64,
    pub(super) bytes: u64,
}

/// Puts units together to tasks of about `seconds` each, and writes them down.
pub(super) fn create(sweep: &Path, plan: &Plan, units: &[Unit], seconds: f64, most: usize) -> Result<Job> {
    let mut target = seconds;
    let mut tasks = packed(units, target);
    while tasks.len() > most {
        target *= 1.1;
        tasks = packed(units, target);
    }
    let head = Head { plan: plan.digest(), version: lab::results::version(), tasks: tasks.len() };
    let mut text = serde_json::to_string(&head)? + "\n";
    for (units, _, _) in &tasks {
        let points: Vec<&Vec<usize>> = units.iter().map(|unit| &unit.points).collect();
        text += &(serde_json::to_string(&points)? + "\n");
    }
    let name = Key::of(text.as_bytes()).to_string()[..12].to_string();
    let directory = sweep.join("jobs").join(&name);
    fs::create_dir_all(&directory)
        .and_then(|()| replace(&directory.join("tasks"), text.as_bytes()))
        .with_context(|| format!("cannot write job {}", directory.display()))?;
    let seconds = tasks.iter().map(|task| task.1).fold(0.0, f64::max);
    let bytes = tasks.iter().map(|task| task.2).max().unwrap_or(0);
    Ok(Job { name, directory, tasks: tasks.len(), seconds, bytes })
}

/// Units of a task, its seconds, and the bytes of its largest unit.
type Task<'a> = (Vec<&'a Unit>, f64, u64);

/// Neighbours together, up to so many seconds.
fn packed(units: &[Unit], seconds: f64) -> Vec<Task<'_>> {
    let mut tasks: Vec<Task<'_>> = Vec::new();
    for unit in units {
        match tasks.last_mut() {
            Some((units, taken, bytes)) if *taken + unit.cost.seconds <= seconds => {
                units.push(unit);
                *taken += unit.cost.seconds;
                *bytes = (*bytes).max(unit.cost.bytes);
            }
            _ => tasks.push((vec![unit], unit.cost.seconds, unit.cost.bytes)),
        }
    }
    tasks
}

/// The units of a task: places of points.
pub(super) fn task(sweep: &Path, job: &str, task: usize, plan: &Plan) -> Result<Vec<Vec<usize>>> {
    let path = sweep.join("jobs").join(job).join("tasks");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = text.lines();
    let head: Head = serde_json::from_str(lines.next().unwrap_or_default())
        .with_context(|| format!("{}: its first line is damaged; make the job again", path.display()))?;
    if head.plan != plan.digest() {
        bail!(
            "job {job} was made for another plan: by pagewalk {}, this is {}; or the sweep's inputs changed since. Make the \
             job again",
            head.version,
            lab::results::version()
        );
    }
    let line = lines
        .nth(task)
        .with_context(|| format!("job {job} has tasks 0 to {}", head.tasks.saturating_sub(1)))?;
    let units: Vec<Vec<usize>> = serde_json::from_str(line)
        .with_context(|| format!("{}: task {task} is damaged; make the job again", path.display()))?;
    if units.iter().any(|unit| unit.is_empty() || unit.iter().any(|at| *at >= plan.points.len())) {
        bail!("{}: task {task} names points that there are not; make the job again", path.display());
    }
    Ok(units)
}
