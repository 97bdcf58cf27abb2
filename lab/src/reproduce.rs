//! What others measured, beside what the model says.
//!
//! A row never decides a parameter: profiles are made of facts about hardware,
//! and where the model is off, the row shows by how much.

pub mod all;
pub mod babelfish;
pub mod passthrough;
pub mod ptemagnet;
pub mod segments;
pub mod sheet;
pub mod together;

use crate::experiment::{self, Experiment, ExperimentError, Progress, SEED};
use crate::outcome::Outcome;
use crate::system::System;
use crate::world::World;
use machine::input::{Setup, Source};
use machine::profile::Profile;
use serde::Serialize;
use std::ops::ControlFlow;

/// One number, measured and modelled.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What it is.
    pub what: String,
    /// Unit: `cycles`, `share`, `ns`.
    pub unit: &'static str,
    /// Measured.
    pub measured: f64,
    /// Where it was measured, and how far to trust that.
    pub source: &'static str,
    /// Ours.
    pub model: f64,
}

impl From<&Row> for sheet::Row {
    fn from(row: &Row) -> sheet::Row {
        let unit = if row.unit == "share" { sheet::Unit::Share } else { sheet::Unit::Cycles };
        sheet::Row::new("gups", row.what.clone(), unit, (row.measured, "F:AE-M"), row.model)
    }
}

impl Row {
    /// How far the model is off, as a share of what was measured.
    pub fn difference(&self) -> f64 {
        self.model / self.measured - 1.0
    }
}

/// Accesses of one experiment of [`gups`].
const GUPS_ACCESSES: u64 = 4_000_000;
/// Several times the lines of the last-level cache (35 MiB: 573 440 lines).
const GUPS_WARMUP: u64 = 6_000_000;

fn modelled(
    profile: &Profile,
    systems: &[System],
    workload: &str,
    warmup: u64,
    accesses: u64,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Outcome>, ExperimentError> {
    let systems = systems.iter().copied();
    let experiment =
        Experiment { warmup, accesses: Some(accesses), ..Experiment::new(profile.clone(), systems) };
    experiment::run(&experiment, &mut *built(workload)?, progress)
}

/// The machine of this name.
fn builtin(machine: &str) -> Result<Profile, ExperimentError> {
    Profile::builtin(machine).map_err(|error| ExperimentError::input(machine, error))
}

/// The system of this name.
fn parse(system: &str) -> Result<System, ExperimentError> {
    System::parse(system).map_err(|error| ExperimentError::input(system, error))
}

/// The workload of this name and these parameters, with the seed that is taken if none is asked for.
fn built(workload: &str) -> Result<Box<dyn Source + Send>, ExperimentError> {
    workloads::build(workload, SEED).map_err(|error| ExperimentError::input(workload, error))
}

/// A world of `system` on `profile` with what `setup` fills, in which nothing has run.
fn fresh_world(profile: &Profile, system: &str, setup: &Setup) -> Result<World, ExperimentError> {
    let system = parse(system)?;
    experiment::world(&Experiment::new(profile.clone(), [system]), system, setup)
}

/// GUPS over 64 GiB on one node of the Mitosis machine: cycles of an update and
/// the walker's share, with 4 KiB and with huge pages.
///
/// # Errors
/// [`ExperimentError`].
pub fn gups(progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Vec<Row>, ExperimentError> {
    const SOURCE: &str = "Mitosis, Fig. 6 and 10 reference data, LP-LD and TLP-LD [F:AE-M]; 2^31 updates [D]";
    let profile = builtin("haswell-ex")?;
    let systems = [parse("native")?, parse("native-thp")?];
    let outcomes =
        modelled(&profile, &systems, "gups:footprint=64GiB", GUPS_WARMUP, GUPS_ACCESSES, progress)?;
    // 454e9 cycles (4 KiB) and 0.39 of them (huge pages), for 2^30 iterations of two updates.
    let measured = [("4 KiB", 211.0, 0.83), ("2 MiB", 82.0, 0.47)];
    Ok(outcomes
        .iter()
        .zip(measured)
        .flat_map(|(o, (pages, cycles, share))| {
            [
                Row {
                    what: format!("GUPS 64 GiB, {pages}: cycles per update"),
                    unit: "cycles",
                    measured: cycles,
                    source: SOURCE,
                    model: o.cycles_per_access(),
                },
                Row {
                    what: format!("GUPS 64 GiB, {pages}: walker busy"),
                    unit: "share",
                    measured: share,
                    source: SOURCE,
                    model: o.translation.share,
                },
            ]
        })
        .collect())
}

/// The measured curve: nanoseconds per access by footprint.
static CURVE: &str = include_str!("../../data/measured/tlb-curve-zen4.csv");

/// The columns of [`CURVE`]: workload parameters and system of each.
const COLUMNS: [(&str, &str, &str); 9] = [
    ("page_4k", "chase:granule=page,pattern=rand", "nested"),
    ("page_2m", "chase:granule=page,pattern=rand", "nested-thp-4k"),
    ("line_4k", "chase:granule=line,pattern=rand", "nested"),
    ("line_2m", "chase:granule=line,pattern=rand", "nested-thp-4k"),
    ("gups_4k", "gups:updates=1", "nested"),
    ("gups_2m", "gups:updates=1", "nested-thp-4k"),
    ("grp8_4k", "chase:granule=page,pattern=grp8", "nested"),
    ("grp512_4k", "chase:granule=page,pattern=grp512", "nested"),
    ("seq_4k", "chase:granule=page,pattern=seq", "nested"),
];

/// One footprint of the curve.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CurvePoint {
    /// KiB touched.
    pub kib: u64,
    /// The column's name.
    pub column: &'static str,
    /// Nanoseconds per access, measured.
    pub measured: f64,
    /// Nanoseconds per access, modelled.
    pub model: f64,
}

/// Accesses of a point of the curve, at most: with more the large footprints take minutes.
pub const CURVE_ACCESSES: u64 = 2_500_000;

/// The curve of TLB cost by footprint on the Zen 4, for the columns and footprints (KiB) named (all
/// if none are), with so many accesses of a point at most.
///
/// # Errors
/// [`ExperimentError`].
pub fn curve(
    columns: &[String],
    footprints: &[u64],
    most: u64,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<CurvePoint>, ExperimentError> {
    let profile = builtin("zen4")?;
    let mut lines = CURVE.lines().filter(|l| !l.starts_with('#'));
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let rows: Vec<Vec<&str>> = lines.map(|l| l.split(',').collect()).collect();
    let mut points = Vec::new();
    for (column, workload, system) in COLUMNS {
        if !columns.is_empty() && !columns.iter().any(|c| c == column) {
            continue;
        }
        let at = header.iter().position(|h| *h == column).unwrap_or(0);
        let system = parse(system)?;
        for row in &rows {
            let (Ok(kib), Ok(measured)) = (row[0].parse::<u64>(), row[at].parse::<f64>()) else { continue };
            if !footprints.is_empty() && !footprints.contains(&kib) {
                continue;
            }
            let pages = kib / 4;
            let lap = if workload.contains("granule=line") { pages * 64 } else { pages };
            // A lap to warm up and one to count, but enough of either that edges do not matter.
            let n = lap.clamp(100_000, most);
            // GUPS tables are powers of two; the chase takes any whole number of pages.
            let size =
                if workload.starts_with("gups") { (kib * 1024).next_power_of_two() / 1024 } else { kib };
            if size != kib {
                continue;
            }
            let spec = format!("{workload},footprint={kib}KiB");
            if built(&spec).is_err() {
                // Fewer pages than a group of the pattern has.
                continue;
            }
            let outcomes = modelled(&profile, &[system], &spec, n, n, progress)?;
            let model = outcomes[0].cycles_per_access() * 1000.0 / profile.clock.mhz as f64;
            points.push(CurvePoint { kib, column, measured, model });
        }
    }
    Ok(points)
}

/// Names of the curve's columns.
pub fn curve_columns() -> Vec<&'static str> {
    COLUMNS.iter().map(|(name, ..)| *name).collect()
}
