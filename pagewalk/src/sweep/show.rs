//! What `pagewalk sweep` prints.

use super::job::Job;
use super::place::Place;
use super::slurm::Submitted;
use super::told::{
    Cancelled, ClusterJob, Commands, Estimate, Failure, Gathered, Listed, Planned, Ran, Refused, States,
    Status, Submission, Task, Worked,
};
use crate::json_text;
use crate::report::thousands;
use anyhow::Result;
use lab::sweep::{Collected, Costs, Found, Key, Options, Tally};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write;
use std::path::Path;

/// Reasons that are printed; `--json` has all.
const REASONS: usize = 10;

/// `1 point`, `2 points`.
fn points(n: u64) -> String {
    format!("{} point{}", thousands(n), if n == 1 { "" } else { "s" })
}

/// A duration as people say it.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        b if b < 10 << 30 => format!("{} MiB", b.div_ceil(1 << 20)),
        b => format!("{:.1} GiB", b as f64 / (1u64 << 30) as f64),
    }
}

pub(super) fn plan(
    place: &Place,
    costs: &Costs<'_>,
    (probed, together): (usize, u64),
    found: &Found,
    options: Options,
    list: bool,
    as_json: bool,
) -> Result<String> {
    let plan = &place.plan;
    let counts = Collected::count(plan, found);
    let (mut seconds, mut longest, mut largest, mut left) = (0.0, 0.0_f64, 0, 0.0);
    for point in &plan.points {
        let cost = costs.of(point);
        seconds += cost.seconds;
        longest = longest.max(cost.seconds);
        largest = largest.max(cost.bytes);
        if !found.done.contains_key(&point.key) {
            left += cost.seconds;
        }
    }
    let wall = (left / options.workers as f64).max(if left > 0.0 { longest.min(left) } else { 0.0 });
    if as_json {
        let point = |point: &lab::sweep::Point| {
            let cost = costs.of(point);
            let parameters = plan.varied().map(String::from).zip(plan.values(point).cloned()).collect();
            let point_is = plan.describe(point);
            Listed { key: point.key, point: point_is, parameters, seconds: cost.seconds, bytes: cost.bytes }
        };
        let refused = |refused: &lab::sweep::Refused| Refused {
            points: refused.points,
            reason: refused.reason.clone(),
            first: refused.first.clone(),
        };
        let planned = Planned {
            name: plan.sweep.name.clone(),
            plan: plan.digest(),
            directory: place.directory.clone(),
            points: plan.points.len(),
            done: counts.rows,
            failed: counts.failed,
            refused: plan.refused.iter().map(refused).collect(),
            excluded: plan.excluded,
            same: plan.same,
            estimate: Estimate {
                probed,
                core_seconds: seconds,
                seconds: wall,
                workers: options.workers,
                longest_seconds: longest,
                largest_bytes: largest,
                bytes: together,
            },
            list: list.then(|| plan.points.iter().map(point).collect()),
        };
        return json_text("sweep-plan", &planned);
    }
    let mut text = format!("{}: {}", plan.sweep.name, points(plan.points.len() as u64));
    let axes = plan.sweep.axes.iter().filter(|axis| axis.rows.len() > 1);
    let axes: Vec<String> = axes
        .map(|axis| {
            let names: Vec<&str> =
                axis.names.iter().filter(|name| *name != "repetition").map(String::as_str).collect();
            format!("{} {}", axis.rows.len(), names.join(" with "))
        })
        .collect();
    if !axes.is_empty() {
        write!(text, " ({})", axes.join(" × "))?;
    }
    text.push('\n');
    if list {
        for point in &plan.points {
            let cost = costs.of(point);
            let key = point.key.to_string();
            let (time, size) = (duration(cost.seconds), size(cost.bytes));
            writeln!(text, "  {}  {time:>8}  {size:>9}  {}", &key[..12], plan.describe(point))?;
        }
    }
    if plan.excluded + plan.same > 0 {
        writeln!(
            text,
            "left out: {} by exclusions, {} the same as another",
            thousands(plan.excluded),
            thousands(plan.same)
        )?;
    }
    for refused in plan.refused.iter().take(REASONS) {
        writeln!(
            text,
            "refused: {}: {}\n  the first: {}",
            points(refused.points),
            refused.reason,
            refused.first
        )?;
    }
    if plan.refused.len() > REASONS {
        writeln!(text, "refused for {} other reasons: --json lists them", plan.refused.len() - REASONS)?;
    }
    let how = match probed {
        0 => "by the rough model, without probes".to_string(),
        n => format!("from probes of {}", points(n as u64)),
    };
    writeln!(
        text,
        "estimate ({how}): {} of one core, {} here on {}; a point takes {} and {} at most, all at once {}",
        duration(seconds),
        duration(wall),
        if options.workers == 1 { "1 core".to_string() } else { format!("{} cores", options.workers) },
        duration(longest),
        size(largest),
        size(together),
    )?;
    if largest > options.memory {
        writeln!(
            text,
            "some points take more than the {} that may be used: they need --memory",
            size(options.memory)
        )?;
    }
    if counts.rows + counts.failed > 0 {
        writeln!(
            text,
            "in {}: {} done, {} failed",
            place.directory.display(),
            thousands(counts.rows),
            thousands(counts.failed)
        )?;
    }
    Ok(text)
}

/// Failed points by reason.
fn failures(place: &Place, found: &Found) -> Vec<Failure> {
    let mut reasons = BTreeMap::<&str, (u64, String)>::new();
    for point in &place.plan.points {
        if let Some(reason) = found.failed.get(&point.key) {
            let entry = reasons.entry(reason).or_insert_with(|| (0, place.plan.describe(point)));
            entry.0 += 1;
        }
    }
    let failure =
        |(reason, (points, first)): (&str, _)| Failure { points, reason: reason.to_string(), first };
    let mut all: Vec<_> = reasons.into_iter().map(failure).collect();
    all.sort_by(|a, b| b.points.cmp(&a.points).then(a.reason.cmp(&b.reason)));
    all
}

fn failures_text(failures: &[Failure]) -> String {
    let mut text = String::new();
    for failure in failures.iter().take(REASONS) {
        text += &format!(
            "failed: {}: {}\n  the first: {}\n",
            points(failure.points),
            failure.reason,
            failure.first
        );
    }
    if failures.len() > REASONS {
        text += &format!("failed for {} other reasons: --json lists them\n", failures.len() - REASONS);
    }
    text
}

pub(super) fn ran(
    place: &Place,
    found: &Found,
    counts: &Collected,
    large: &[usize],
    options: Options,
    as_json: bool,
) -> Result<String> {
    let failures = failures(place, found);
    let refused: u64 = place.plan.refused.iter().map(|refused| refused.points).sum();
    if as_json {
        let ran = Ran {
            directory: place.directory.clone(),
            done: counts.rows,
            failed: counts.failed,
            missing: counts.missing,
            refused,
            too_large: large.len(),
            failures,
        };
        return json_text("sweep-run", &ran);
    }
    let mut text = format!("{}: {} done", place.plan.sweep.name, points(counts.rows));
    for (n, what) in [(counts.failed, "failed"), (counts.missing, "missing"), (refused, "refused")] {
        if n > 0 {
            text += &format!(", {} {what}", thousands(n));
        }
    }
    text.push('\n');
    text += &failures_text(&failures);
    if let Some(first) = large.first() {
        text += &format!(
            "{} need more than {}: give --memory, or run them elsewhere\n  the first: {}\n",
            points(large.len() as u64),
            size(options.memory),
            place.plan.describe(&place.plan.points[*first]),
        );
    }
    if counts.failed > 0 {
        text += "`--retry` runs failed points again\n";
    }
    text += &format!("next: pagewalk sweep collect {}\n", place.directory.display());
    Ok(text)
}

pub(super) fn status(
    place: &Place,
    found: &Found,
    running: &[Key],
    holder: Option<String>,
    jobs: &[(Submitted, Result<BTreeMap<String, usize>>)],
    as_json: bool,
) -> Result<String> {
    let counts = Collected::count(&place.plan, found);
    let keys: HashSet<Key> = running.iter().copied().filter(|key| !found.done.contains_key(key)).collect();
    let running = place.plan.points.iter().filter(|point| keys.contains(&point.key)).count() as u64;
    let waiting = counts.missing.saturating_sub(running);
    let failures = failures(place, found);
    if as_json {
        let job = |(job, states): &(Submitted, Result<BTreeMap<String, usize>>)| ClusterJob {
            array: job.array.clone(),
            collect: job.collect.clone(),
            tasks: job.tasks,
            states: states
                .as_ref()
                .map_or_else(|e| States::Unknown(e.to_string()), |s| States::Known(s.clone())),
        };
        let status = Status {
            directory: place.directory.clone(),
            points: place.plan.points.len(),
            done: counts.rows,
            running,
            failed: counts.failed,
            waiting,
            worker: holder,
            failures,
            damaged: found.damaged.clone(),
            different: found.different.clone(),
            slurm: jobs.iter().map(job).collect(),
        };
        return json_text("sweep-status", &status);
    }
    let mut text = format!(
        "{}: {}: {} done, {} running, {} failed, {} waiting\n",
        place.plan.sweep.name,
        points(place.plan.points.len() as u64),
        thousands(counts.rows),
        thousands(running),
        thousands(counts.failed),
        thousands(waiting),
    );
    if let Some(holder) = holder {
        text += &format!("{holder} works on it\n");
    }
    text += &failures_text(&failures);
    if !found.damaged.is_empty() {
        let files: BTreeSet<String> = found.damaged.iter().map(|path| path.display().to_string()).collect();
        text += &format!(
            "damaged, what they had runs again: {}\n",
            files.into_iter().collect::<Vec<_>>().join(", ")
        );
    }
    if !found.different.is_empty() {
        text += &format!(
            "{} have two results that differ: the same inputs must give the same\n",
            points(found.different.len() as u64)
        );
    }
    for (job, states) in jobs {
        let states = match states {
            Ok(states) if states.is_empty() => "ended".to_string(),
            Ok(states) => {
                states.iter().map(|(state, n)| format!("{n} {state}")).collect::<Vec<_>>().join(", ")
            }
            Err(e) => format!("{e:#}"),
        };
        text += &format!("Slurm job {} of {} tasks: {states}\n", job.array, job.tasks);
    }
    Ok(text)
}

pub(super) fn collected(file: &Path, counts: &Collected, as_json: bool) -> Result<String> {
    if as_json {
        let gathered = Gathered {
            file: file.to_path_buf(),
            rows: counts.rows,
            failed: counts.failed,
            missing: counts.missing,
        };
        return json_text("sweep-collect", &gathered);
    }
    let mut text = format!("{}: {} rows", file.display(), thousands(counts.rows));
    if counts.failed + counts.missing > 0 {
        text += &format!(
            "; without {} that failed and {} that have no result yet",
            points(counts.failed),
            thousands(counts.missing)
        );
    }
    Ok(text + "\n")
}

/// What was submitted; `None` if nothing was left to run.
pub(super) fn submitted(done: Option<(&Submitted, &Job)>, place: &Place, as_json: bool) -> Result<String> {
    if as_json {
        let submission = Submission {
            array: done.map(|(submitted, _)| submitted.array.clone()),
            collect: done.and_then(|(submitted, _)| submitted.collect.clone()),
            tasks: done.map_or(0, |(_, job)| job.tasks),
            directory: place.directory.clone(),
            longest_seconds: done.map_or(0.0, |(_, job)| job.seconds),
            largest_bytes: done.map_or(0, |(_, job)| job.bytes),
        };
        return json_text("sweep-submit", &submission);
    }
    let Some((submitted, job)) = done else { return Ok("nothing is left to run\n".to_string()) };
    Ok(format!(
        "Slurm job {}: {} tasks, the longest of about {}, {} at most; job {} collects to {}\nnext: pagewalk sweep status {}\n",
        submitted.array,
        job.tasks,
        duration(job.seconds),
        size(job.bytes),
        submitted.collect.as_deref().unwrap_or("?"),
        place.directory.join("results.parquet").display(),
        place.directory.display(),
    ))
}

/// Commands, a task each.
pub(super) fn commands(commands: Vec<String>, as_json: bool) -> Result<String> {
    if as_json {
        let task = |(task, command)| Task { task, command };
        let commands = Commands { rows: commands.into_iter().enumerate().map(task).collect() };
        return json_text("sweep-commands", &commands);
    }
    Ok(commands.iter().map(|command| format!("{command}\n")).collect())
}

pub(super) fn worked(job: &str, task: usize, tally: Tally, as_json: bool) -> Result<String> {
    if as_json {
        let worked = Worked { job: job.to_string(), task, done: tally.done, failed: tally.failed };
        return json_text("sweep-work", &worked);
    }
    Ok(format!("task {task} of job {job}: {} points done, {} failed\n", tally.done, tally.failed))
}

pub(super) fn cancelled(ended: Vec<String>, as_json: bool) -> Result<String> {
    if as_json {
        return json_text("sweep-cancel", &Cancelled { ended });
    }
    Ok(match ended.as_slice() {
        [] => "nothing runs\n".to_string(),
        all => format!("ended: {}\n", all.join(", ")),
    })
}
