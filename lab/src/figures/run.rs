//! Running the cells of a figure.

use super::Figure;
use crate::experiment::{self, Experiment, ExperimentError};
use crate::system::System;
use crate::world::{World, WorldError};
use machine::input::{Block, More, Source};
use machine::profile::{Profile, Ways};
use serde::Serialize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How a figure is run.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Only these workloads; all if there are none.
    pub workloads: &'a [String],
    /// Only these configurations, and the first; all if there are none.
    pub configs: &'a [String],
    /// Footprints and each node's memory are divided by this, 1 for the figure's own.
    pub divide: u64,
    /// Last-level caches are divided by the same, so that as large a share of the entries fits.
    pub caches: bool,
    /// Accesses are divided by this: for tests.
    pub fewer: u64,
    /// Check every access.
    pub verify: bool,
    /// Worker threads; 0 for one a core.
    pub threads: usize,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options {
            workloads: &[],
            configs: &[],
            divide: 1,
            caches: false,
            fewer: 1,
            verify: false,
            threads: 0,
        }
    }
}

/// A cell: what was measured and what the model says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// The figure.
    pub figure: &'static str,
    /// The workload.
    pub workload: &'static str,
    /// MiB of its footprint here.
    pub mib: u64,
    /// The configuration's letters.
    pub config: String,
    /// The system that it is.
    pub system: String,
    /// Runtime as a share of the first configuration's, measured.
    pub measured: f64,
    /// Share of cycles with a walk in progress, measured.
    pub measured_walk: Option<f64>,
    /// Whose measurement, and how far to trust it.
    pub source: &'static str,
    /// Cycles an access, modelled.
    pub cycles_per_access: f64,
    /// Runtime as a share of the first configuration's, modelled.
    pub model: f64,
    /// Share of cycles with a walk in progress, modelled.
    pub model_walk: f64,
    /// The configuration that the mechanism is compared with.
    pub without: Option<String>,
}

impl Cell {
    /// How far the model is off, as a share of what was measured.
    pub fn difference(&self) -> f64 {
        self.model / self.measured - 1.0
    }
}

/// What one world is used for: cells that differ in interference only, the quiet ones first.
struct Job {
    load: usize,
    cells: Vec<(usize, System)>,
}

/// Runs the cells of `figure`, and tells of each one that is done.
///
/// # Errors
/// [`ExperimentError`].
pub fn run(
    figure: &Figure,
    options: &Options<'_>,
    done: &(dyn Fn(usize, usize, &str) + Sync),
) -> Result<Vec<Cell>, ExperimentError> {
    let wanted = |list: &[String], name: &str| list.is_empty() || list.iter().any(|w| w == name);
    let mut cells = Vec::new();
    for row in figure.measured() {
        let Some(load) = figure.loads.iter().find(|load| load.name == row.workload) else { continue };
        let first = !cells.iter().any(|c: &Cell| c.workload == load.name);
        // What the others are shares of.
        let base = row.ratio == 1.0 && figure.names[0].ends_with("-thp") || first;
        if !wanted(options.workloads, &row.workload) || !(base || wanted(options.configs, &row.config)) {
            continue;
        }
        let Some(system) = (figure.system)(&row.config) else { continue };
        let cell = Cell {
            figure: figure.names[0],
            workload: load.name,
            mib: mib(load, options),
            system: system.to_string(),
            measured: row.ratio,
            measured_walk: row.walk,
            source: figure.source,
            cycles_per_access: 0.0,
            model: 0.0,
            model_walk: 0.0,
            without: (figure.without)(&row.config),
            config: row.config,
        };
        cells.push(cell);
    }
    let jobs = jobs(figure, &cells);
    let next = AtomicUsize::new(0);
    let finished = AtomicUsize::new(0);
    let points = Mutex::new(vec![(0.0, 0.0); cells.len()]);
    let workers = crate::workers(options.threads);
    let work = || -> Result<(), ExperimentError> {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            self::job(figure, job, options, &mut |index, point| {
                // A poisoned lock: another worker panicked, and its panic is passed on.
                if let Ok(mut points) = points.lock() {
                    points[index] = point;
                }
                let cell: &Cell = &cells[index];
                let count = finished.fetch_add(1, Ordering::Relaxed) + 1;
                done(count, cells.len(), &format!("{} {}", cell.workload, cell.config));
            })?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers.min(jobs.len())).map(|_| scope.spawn(work)).collect();
        handles.into_iter().try_for_each(|handle| match handle.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let points = points.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (cell, (cycles, walk)) in cells.iter_mut().zip(&points) {
        (cell.cycles_per_access, cell.model_walk) = (*cycles, *walk);
    }
    for index in 0..cells.len() {
        let base = cells.iter().find(|c| c.workload == cells[index].workload && c.measured == 1.0);
        let base = base.map_or(f64::NAN, |base| base.cycles_per_access);
        cells[index].model = cells[index].cycles_per_access / base;
    }
    Ok(cells)
}

/// A node has no less memory than this, however much it is divided: the kernel, and a VM of whole GiB.
const LEAST_GIB: u64 = 4;

fn mib(load: &super::Load, options: &Options<'_>) -> u64 {
    (load.paper_gib * 1024 / load.divided / options.divide.max(1)).max(64)
}

/// Cells by the world that they need.
fn jobs(figure: &Figure, cells: &[Cell]) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    for (index, cell) in cells.iter().enumerate() {
        let Some(system) = (figure.system)(&cell.config) else { continue };
        let load = figure.loads.iter().position(|load| load.name == cell.workload).unwrap_or(0);
        let quiet = |system: System| System { interference: None, ..system };
        let known = jobs.iter_mut().find(|job| job.load == load && quiet(job.cells[0].1) == quiet(system));
        match known {
            Some(job) => job.cells.push((index, system)),
            None => jobs.push(Job { load, cells: vec![(index, system)] }),
        }
    }
    jobs.iter_mut().for_each(|job| job.cells.sort_by_key(|(_, system)| system.interference.is_some()));
    jobs
}

/// Builds a world and measures its cells.
fn job(
    figure: &Figure,
    job: &Job,
    options: &Options<'_>,
    done: &mut dyn FnMut(usize, (f64, f64)),
) -> Result<(), ExperimentError> {
    let load = &figure.loads[job.load];
    let wrong = |e| ExperimentError::input(figure.machine, e);
    let mut profile = Profile::builtin(figure.machine).map_err(wrong)?;
    let divide = load.divided * options.divide.max(1);
    profile.topology.gib_per_socket = (profile.topology.gib_per_socket / divide).max(LEAST_GIB);
    if options.caches {
        let l2 = profile.cache.l2.kib;
        let llc = &mut profile.cache.llc;
        let ways = if let Ways::Number(ways) = llc.ways { ways } else { 1 };
        // No smaller than the level before it, and of whole sets.
        llc.kib = (llc.kib / divide).max(l2).next_multiple_of(ways);
        profile = profile.checked(figure.machine).map_err(wrong)?;
    }
    let separator = if load.spec.contains(':') { ',' } else { ':' };
    let spec = format!("{}{separator}footprint={}MiB", load.spec, mib(load, options));
    let mut source = workloads::build(&spec, 1).map_err(|e| ExperimentError::input(&spec, e))?;
    let setup = source.setup()?;
    let fewer = options.fewer.max(1);
    let (warmup, accesses) = (load.accesses.0 / fewer, load.accesses.1 / fewer);
    let system = job.cells[0].1;
    let experiment = Experiment {
        warmup,
        accesses: Some(accesses),
        verify: options.verify,
        threads: 1,
        ..Experiment::new(profile, [system])
    };
    let mut world = experiment::world(&experiment, system, &setup)?;
    let failed = &ExperimentError::under(system);
    for (index, system) in &job.cells {
        world.set_interference(system.interference);
        pass(&mut world, &mut *source, warmup, failed)?;
        let before: u64 = world.cycles().iter().sum();
        world.reset_counters();
        pass(&mut world, &mut *source, accesses, failed)?;
        let cycles = world.cycles().iter().sum::<u64>() - before;
        let cost = experiment::translation(&world, &world.machine().counters(), cycles);
        let counted = world.machine().counters().accesses.max(1);
        done(*index, (cycles as f64 / counted as f64, cost.share));
    }
    Ok(())
}

/// Runs about `accesses` more accesses.
fn pass(
    world: &mut World,
    source: &mut dyn Source,
    accesses: u64,
    failed: &dyn Fn(WorldError) -> ExperimentError,
) -> Result<(), ExperimentError> {
    let mut seen = 0;
    let mut block = Block::new();
    while seen < accesses {
        let more = source.fill(&mut block)?;
        seen += block.accesses.len() as u64;
        world.run(&block).map_err(failed)?;
        if more == More::No {
            break;
        }
    }
    Ok(())
}
