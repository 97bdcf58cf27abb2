//! References and checks of a walk that finds every cache of the walker empty.

use super::super::sheet::{Row, Unit};
use super::super::{built, fresh_world, segments};
use crate::experiment::ExperimentError;
use machine::explain::What;
use paging::Va;

/// References that the walker makes, and checks of segments or tags, for one page of `system`.
fn of_a_cold_walk(system: &str) -> Result<[f64; 2], ExperimentError> {
    let mut profile = segments::profile()?;
    profile.walk_cache.clear();
    profile.nested_tlb = None;
    let setup = built("gups:footprint=64MiB")?.setup()?;
    let mut world = fresh_world(&profile, system, &setup)?;
    let page = Va::new(setup.processes[0].regions[0].start.raw() + (1234 << 12));
    let walk = world.explain(0, page, true).map_err(ExperimentError::under(system))?;
    let count = |of: &dyn Fn(&What) -> bool| walk.steps.iter().filter(|step| of(&step.what)).count() as f64;
    let checks = count(&|what| matches!(what, What::Check(_)));
    Ok([count(&|what| matches!(what, What::Reference { .. })), checks])
}

/// A system, its references and checks in the paper, and how far to trust them.
type Published = (&'static str, [f64; 2], &'static str);

/// The modes of direct segments.
pub const SEGMENTS: [Published; 5] = [
    ("native", [4.0, 0.0], "F:abs"),
    ("nested", [24.0, 0.0], "F:abs"),
    ("dual-direct", [0.0, 1.0], "M-h"),
    ("vmm-direct", [4.0, 5.0], "M-h"),
    ("guest-direct", [4.0, 1.0], "M-h"),
];
/// Pass-through beside what it replaces.
pub const TAGS: [Published; 4] = [
    ("nested+5level", [35.0, 0.0], "D"),
    ("shadow", [4.0, 0.0], "D"),
    ("passthrough", [4.0, 5.0], "D"),
    ("passthrough+no-table-check", [4.0, 1.0], "D"),
];

/// References and checks by system, beside a paper's.
///
/// # Errors
/// [`ExperimentError`].
pub fn rows(systems: &[Published]) -> Result<Vec<Row>, ExperimentError> {
    let mut rows = Vec::new();
    for (system, paper, trust) in systems {
        let ours = of_a_cold_walk(system)?;
        rows.extend(["references", "checks"].into_iter().enumerate().map(|(at, what)| {
            let what = format!("{system}: {what}");
            Row::new(*system, what, Unit::Exact, (paper[at], *trust), ours[at])
        }));
    }
    Ok(rows)
}
