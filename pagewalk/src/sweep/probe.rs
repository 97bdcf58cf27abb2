//! Short runs of a few points, from which the others' time and memory are estimated.

use lab::experiment::run_each;
use lab::sweep::{Costs, Plan, Point, Probe};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Points that are probed at most, and what all of that may take.
const PROBES: usize = 8;
const BUDGET: Duration = Duration::from_secs(12);
/// Accesses of a probe, and what they may take.
const ACCESSES: u64 = 400_000;
const EACH: Duration = Duration::from_secs(2);
/// A point whose world takes longer, or more memory, by the rough model, is not probed.
const BUILD_SECONDS: f64 = 4.0;

/// Estimates of a plan's points, and how many were probed.
pub(super) fn costs(plan: &Plan, memory: u64) -> (Costs<'_>, usize) {
    let mut costs = Costs::new(plan);
    let begun = Instant::now();
    let mut probes = Vec::new();
    for point in costs.worth_probing(PROBES) {
        let short = |point: &Point| {
            let cost = costs.of_first(point, ACCESSES);
            cost.seconds < BUILD_SECONDS && cost.bytes < memory
        };
        if begun.elapsed() < BUDGET
            && short(&point)
            && let Some(probe) = probe(plan, &point)
        {
            probes.push((point, probe));
        }
    }
    probes.iter().for_each(|(point, probe)| costs.correct(point, probe));
    (costs, probes.len())
}

/// Runs the beginning of a point; `None` if it fails, which the run will tell of.
fn probe(plan: &Plan, point: &Point) -> Option<Probe> {
    let accesses = plan.accesses(point).min(ACCESSES);
    let mut member = plan.member(point);
    (member.warmup, member.accesses) = (0, Some(accesses));
    let before = forget_peak();
    let mut source = plan.inputs[point.input as usize].open(point.seed).ok()?;
    let begun = Instant::now();
    let mut first = None;
    let mut seen = 0;
    let outcomes = run_each(vec![member], &mut *source, &mut |progress| {
        seen = progress.accesses;
        let (_, since) = *first.get_or_insert((seen, Instant::now()));
        if since.elapsed() > EACH { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if outcomes.ok()?.is_some_and(|outcomes| outcomes.iter().any(Result::is_err)) {
        return None;
    }
    let (early, at) = first?;
    let building = (at - begun).as_secs_f64();
    // The world is built and the first blocks are run before progress is heard of.
    let (build_seconds, run_seconds) = match seen - early {
        0 => (building / 2.0, building / 2.0),
        later => {
            let rate = at.elapsed().as_secs_f64() / later as f64;
            ((building - rate * early as f64).max(0.0), rate * seen as f64)
        }
    };
    Some(Probe { build_seconds, accesses: seen, run_seconds, bytes: peak().saturating_sub(before) })
}

/// Forgets the peak of our memory (`clear_refs`, proc(5)); returns what there is now.
fn forget_peak() -> u64 {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    field("VmRSS:")
}

fn peak() -> u64 {
    field("VmHWM:")
}

fn field(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) << 10
}
