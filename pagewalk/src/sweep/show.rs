//! What `pagewalk sweep` prints.

use super::job::Job;
use super::place::Place;
use super::slurm::Submitted;
use crate::report::thousands;
use anyhow::Result;
use lab::sweep::{Collected, Costs, Found, Key, Options};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write;
use std::path::Path;

/// Reasons that are printed; `--json` has all.
const REASONS: usize = 10;

/// As all of `--json` is, with what it is.
fn json_text(kind: &str, value: serde_json::Value) -> Result<String> {
    let mut text = serde_json::Map::new();
    text.insert("schema".into(), crate::SCHEMA.into());
    text.insert("kind".into(), kind.into());
    if let serde_json::Value::Object(fields) = value {
        text.extend(fields);
    }
    Ok(serde_json::to_string_pretty(&text)? + "\n")
}

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
        let listed: Vec<_> = plan
            .points
            .iter()
            .filter(|_| list)
            .map(|point| {
                let cost = costs.of(point);
                let values: serde_json::Map<_, _> =
                    plan.varied().map(String::from).zip(plan.values(point).cloned()).collect();
                json!({ "key": point.key, "point": plan.describe(point), "parameters": values,
                    "seconds": cost.seconds, "bytes": cost.bytes })
            })
            .collect();
        let refused: Vec<_> = plan.refused.iter().map(|refused| {
            json!({ "points": refused.points, "reason": refused.reason, "first": refused.first })
        }).collect();
        let mut value = json!({
            "name": plan.sweep.name, "plan": plan.digest(), "directory": place.directory,
            "points": plan.points.len(), "done": counts.rows, "failed": counts.failed,
            "refused": refused, "excluded": plan.excluded, "same": plan.same,
            "estimate": { "probed": probed, "core_seconds": seconds, "seconds": wall, "workers": options.workers,
                "longest_seconds": longest, "largest_bytes": largest, "bytes": together },
        });
        if list {
            value["list"] = listed.into();
        }
        return json_text("sweep-plan", value);
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

/// Failed points by reason: how many, and one of them.
fn failures(place: &Place, found: &Found) -> Vec<(String, u64, String)> {
    let mut reasons = BTreeMap::<&str, (u64, String)>::new();
    for point in &place.plan.points {
        if let Some(reason) = found.failed.get(&point.key) {
            let entry = reasons.entry(reason).or_insert_with(|| (0, place.plan.describe(point)));
            entry.0 += 1;
        }
    }
    let mut all: Vec<_> =
        reasons.into_iter().map(|(reason, (n, first))| (reason.to_string(), n, first)).collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}

fn failures_text(failures: &[(String, u64, String)]) -> String {
    let mut text = String::new();
    for (reason, n, first) in failures.iter().take(REASONS) {
        text += &format!("failed: {}: {reason}\n  the first: {first}\n", points(*n));
    }
    if failures.len() > REASONS {
        text += &format!("failed for {} other reasons: --json lists them\n", failures.len() - REASONS);
    }
    text
}

fn failures_json(failures: &[(String, u64, String)]) -> Vec<serde_json::Value> {
    let one =
        |(reason, n, first): &(String, u64, String)| json!({ "points": n, "reason": reason, "first": first });
    failures.iter().map(one).collect()
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
        return json_text(
            "sweep-run",
            json!({ "directory": place.directory, "done": counts.rows, "failed": counts.failed,
            "missing": counts.missing, "refused": refused, "too_large": large.len(), "failures": failures_json(&failures) }),
        );
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
        let jobs: Vec<_> = jobs
            .iter()
            .map(|(job, states)| {
                let states = states.as_ref().map_or_else(|e| json!(e.to_string()), |states| json!(states));
                json!({ "array": job.array, "collect": job.collect, "tasks": job.tasks, "states": states })
            })
            .collect();
        return json_text(
            "sweep-status",
            json!({ "directory": place.directory, "points": place.plan.points.len(),
            "done": counts.rows, "running": running, "failed": counts.failed, "waiting": waiting, "worker": holder,
            "failures": failures_json(&failures), "damaged": found.damaged, "different": found.different, "slurm": jobs }),
        );
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
        return json_text(
            "sweep-collect",
            json!({ "file": file, "rows": counts.rows, "failed": counts.failed, "missing": counts.missing }),
        );
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

pub(super) fn submitted(submitted: &Submitted, job: &Job, place: &Place, as_json: bool) -> Result<String> {
    if as_json {
        return json_text(
            "sweep-submit",
            json!({ "array": submitted.array, "collect": submitted.collect, "tasks": job.tasks,
            "directory": place.directory, "longest_seconds": job.seconds, "largest_bytes": job.bytes }),
        );
    }
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

pub(super) fn cancelled(ended: &[String], as_json: bool) -> Result<String> {
    if as_json {
        return json_text("sweep-cancel", json!({ "ended": ended }));
    }
    Ok(match ended {
        [] => "nothing runs\n".to_string(),
        all => format!("ended: {}\n", all.join(", ")),
    })
}
