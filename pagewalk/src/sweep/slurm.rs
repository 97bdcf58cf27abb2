//! Slurm: a job array, and a job that collects when it has ended.
//!
//! Only `sbatch`, `squeue`, `scancel` and `scontrol` are used, and only what they print in all versions of the last
//! ten years. What became of points is read from the sweep's directory, not from accounting, which not every cluster has.

use super::job::Job;
use crate::shells::quoted;
use anyhow::{Context, Result, bail};
use lab::sweep::replace;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// A job that was submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Submitted {
    /// The array.
    pub(super) array: String,
    /// The job that collects.
    pub(super) collect: Option<String>,
    /// Tasks of the array.
    pub(super) tasks: usize,
}

const FILE: &str = "slurm.json";

/// Runs a command of Slurm's and returns what it printed.
fn slurm(program: &str, args: &[String]) -> Result<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().with_context(|| {
        format!(
            "cannot run {program}; is this a machine of the cluster? `pagewalk sweep commands` is for others"
        )
    })?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Tasks that the cluster lets an array have.
pub(super) fn largest_array() -> Result<usize> {
    let config = slurm("scontrol", &["show".into(), "config".into()])?;
    let line = config.lines().find_map(|line| line.strip_prefix("MaxArraySize"));
    // Slurm's default, should a version not tell it.
    Ok(line.and_then(|line| line.trim_start_matches([' ', '=']).trim().parse().ok()).unwrap_or(1001))
}

/// Submits a job.
pub(super) fn submit(
    sweep: &Path,
    name: &str,
    job: &Job,
    at_once: u32,
    options: &[String],
) -> Result<Submitted> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let program = quoted(&program.to_string_lossy());
    let sweep = std::path::absolute(sweep)?;
    let place = quoted(&sweep.to_string_lossy());
    let directory = std::path::absolute(&job.directory)?;
    let script = |file: &str, command: String| -> Result<String> {
        let path = directory.join(file);
        replace(&path, format!("#!/bin/sh\nexec {command}\n").as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    };
    let task =
        script("task.sh", format!("{program} -q sweep work {place} {} \"$SLURM_ARRAY_TASK_ID\"", job.name))?;
    let collect = script("collect.sh", format!("{program} -q sweep collect {place} --partial"))?;
    let throttle = if at_once > 0 { format!("%{at_once}") } else { String::new() };
    // An estimate is one: what takes twice as long, or half as much memory more, shall not be killed.
    let minutes = (job.seconds * 3.0 / 60.0).ceil() as u64 + 10;
    let mib = ((job.bytes * 3 / 2) >> 20) + 128;
    let log = |name: &str| format!("--output={}", directory.join(name).display());
    let mut args: Vec<String> = [
        "--parsable".to_string(),
        format!("--job-name={name}"),
        format!("--array=0-{}{throttle}", job.tasks - 1),
        "--requeue".to_string(),
        "--open-mode=append".to_string(),
        "--ntasks=1".to_string(),
        "--cpus-per-task=1".to_string(),
        format!("--mem={mib}M"),
        format!("--time={minutes}"),
        log("%a.log"),
    ]
    .into();
    args.extend(options.iter().cloned());
    args.push(task);
    let id = |printed: String| printed.trim().split(';').next().unwrap_or_default().to_string();
    let mut submitted = Submitted { array: id(slurm("sbatch", &args)?), collect: None, tasks: job.tasks };
    let keep = |submitted: &Submitted| -> Result<()> {
        let text = serde_json::to_string(submitted)?;
        replace(&directory.join(FILE), text.as_bytes())
            .with_context(|| format!("Slurm has job {}, but it cannot be written down", submitted.array))
    };
    keep(&submitted)?;
    let mut args: Vec<String> = [
        "--parsable".to_string(),
        format!("--job-name={name}-collect"),
        format!("--dependency=afterany:{}", submitted.array),
        "--requeue".to_string(),
        "--ntasks=1".to_string(),
        log("collect.log"),
    ]
    .into();
    args.extend(options.iter().cloned());
    args.push(collect);
    submitted.collect = Some(id(slurm("sbatch", &args)?));
    keep(&submitted)?;
    Ok(submitted)
}

/// Jobs that were submitted for a sweep.
pub(super) fn submitted(sweep: &Path) -> Vec<Submitted> {
    let jobs = fs::read_dir(sweep.join("jobs")).into_iter().flatten().flatten();
    let mut all: Vec<Submitted> =
        jobs.filter_map(|job| serde_json::from_slice(&fs::read(job.path().join(FILE)).ok()?).ok()).collect();
    all.sort_by_key(|job| (job.array.len(), job.array.clone()));
    all
}

/// How many tasks of a job are in which state, as far as the cluster still knows it; nothing for a job that has ended.
pub(super) fn states(job: &Submitted) -> Result<BTreeMap<String, usize>> {
    let ids = [Some(&job.array), job.collect.as_ref()].into_iter().flatten().cloned().collect::<Vec<_>>();
    let mut states = BTreeMap::new();
    for (id, of) in ids.iter().zip(["", " (collect)"]) {
        let args = ["-h", "-r", "-o", "%T", "-j", id].map(String::from);
        let printed = match slurm("squeue", &args) {
            Ok(printed) => printed,
            // Slurm forgets jobs some minutes after they have ended.
            Err(e) if e.to_string().contains("Invalid job id") => continue,
            Err(e) => return Err(e),
        };
        for state in printed.lines().map(str::trim).filter(|line| !line.is_empty()) {
            *states.entry(format!("{}{of}", state.to_lowercase())).or_default() += 1;
        }
    }
    Ok(states)
}

/// Ends a job.
pub(super) fn cancel(job: &Submitted) -> Result<()> {
    for id in [Some(&job.array), job.collect.as_ref()].into_iter().flatten() {
        match slurm("scancel", std::slice::from_ref(id)) {
            Err(e) if !e.to_string().contains("Invalid job id") => return Err(e),
            _ => {}
        }
    }
    Ok(())
}
