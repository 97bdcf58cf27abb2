//! References and checks of a walk that finds every cache of the walker empty.

use super::super::segments::wrong;
use super::super::sheet::{Row, Unit};
use crate::experiment::{self, Experiment, ExperimentError};
use crate::system::System;
use crate::world::World;
use machine::explain::What;
use machine::profile::Profile;
use paging::Va;

/// References that the walker makes, and checks of segments or tags, for one page of `system`.
fn of_a_cold_walk(system: &str) -> Result<[f64; 2], ExperimentError> {
    let mut profile = Profile::builtin("sandy-bridge-en").map_err(|error| wrong(system, error))?;
    profile.walk_cache.clear();
    profile.nested_tlb = None;
    let mut source = workloads::build("gups:footprint=64MiB", 1).map_err(|error| wrong(system, error))?;
    let setup = source.setup()?;
    let named = System::parse(system).map_err(|error| wrong(system, error))?;
    let experiment = Experiment {
        systems: Vec::new(),
        profile,
        warmup: 0,
        accesses: Some(0),
        seed: 1,
        verify: false,
        layout: None,
        threads: 1,
        dump_tables: None,
    };
    let failed = |error| ExperimentError::World { system: system.to_string(), error: Box::new(error) };
    let mut world = World::new(experiment::plan(&experiment, named, &setup)?, &setup).map_err(failed)?;
    let page = Va::new(setup.processes[0].regions[0].start.raw() + (1234 << 12));
    let walk = world.explain(0, page, true).map_err(failed)?;
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
