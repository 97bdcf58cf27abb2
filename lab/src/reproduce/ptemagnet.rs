//! PTEMagnet's set-up: each benchmark in a VM alone, with one heavy co-runner and with a mix,
//! without reservations and with them.
//!
//! The others run for a while; then the benchmark begins and fills its data while they go on
//! ([`workloads::Together`]), from one guest allocator through the lists of their CPUs. The
//! co-runners map, fill and unmap buffers all the time, so frames go back in an order that is
//! not the one they came in, and the benchmark's pages are scattered as they
//! would be. Nothing is fragmented beforehand.

pub mod fault;

use super::sheet::{Row, Unit, change};
use super::{builtin, parse};
use crate::experiment::{self, Experiment, ExperimentError, Progress};
use crate::outcome::{LineCounts, ratio};
use crate::scenario::{Scenario, ScenarioError};
use crate::system::System;
use machine::input::Source;
use machine::metrics::{Counters, Served};
use machine::profile::Profile;
use machine::timing::TICKS;
use paging::frames::CpuId;
use serde::Serialize;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use workloads::Together;

/// The benchmarks, as workloads. `{}` is the footprint of a graph.
pub const BENCHMARKS: [(&str, &str); 8] = [
    // With few edges a vertex takes 32 bytes instead of 144: what is read at random is as large in less than a
    // quarter of the memory, and what is read in sequence, which no page table notices, is small.
    ("pagerank", "pagerank:footprint={},degree=2,threads=2"),
    ("bfs", "bfs:footprint={},degree=2,threads=2"),
    ("cc", "cc:footprint={},degree=2,threads=2"),
    ("nibble", "nibble:footprint={},degree=2,threads=2"),
    // SPEC CPU 2017 runs single-threaded.
    ("mcf", "mcf:footprint=512MiB"),
    ("gcc", "gcc:footprint=512MiB"),
    ("xz", "xz"),
    ("omnetpp", "omnetpp"),
];

/// An inference loop on four threads (the paper: object detection of the ML benchmarks).
const HEAVY: &str = "inference:threads=4";

/// Cycles that the others run before the benchmark begins: they are at work when it comes,
/// and frames have changed hands.
const AHEAD: u64 = 100_000_000;

/// Instructions of a program for each page that it fills before what is measured: 20 for each of 1024 elements of 4 bytes, which
/// are read from a file, checked and put in their place (an estimate). 2.3 µs a page at least, 1.8 GB/s, is about what a
/// read from the page cache and a pass over it allow; building a graph from its edges takes 10 to 20 µs a page. Meanwhile
/// the others allocate and free.
const BUILD: u16 = 20 * 1024;

/// The paper's mix: functions in Python and two programs of SPEC. What a call of a function allocated is given back when it returns:
/// a rendered table (`chameleon`) and a parsed document (`json_serdes`) as large mappings, blocks of a cipher (`pyaes`) in
/// arenas of 256 KiB, the tensors of a small network (`rnn_serving`). Sizes are estimates.
const MIX: &str = "churn:operation=remap,mapping=16MiB,footprint=64MiB,period=1024 + \
                   churn:operation=remap,mapping=256KiB,footprint=64MiB,period=256 + \
                   churn:operation=remap,mapping=8MiB,footprint=32MiB,period=1024 + \
                   inference:tensor=256KiB,weights=32MiB + \
                   gcc:footprint=256MiB + xz:footprint=256MiB";

/// Who else runs in the VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Company {
    /// Nobody.
    Alone,
    /// One heavy co-runner.
    Heavy,
    /// Six smaller ones.
    Mix,
}

impl Company {
    /// All of them.
    pub const ALL: [Company; 3] = [Company::Alone, Company::Heavy, Company::Mix];

    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Company::Alone => "alone",
            Company::Heavy => "heavy",
            Company::Mix => "mix",
        }
    }

    fn with(self, benchmark: &str) -> String {
        match self {
            Company::Alone => benchmark.to_string(),
            Company::Heavy => format!("{benchmark} + {HEAVY}"),
            Company::Mix => format!("{benchmark} + {MIX}"),
        }
    }
}

/// What is run.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Names of [`BENCHMARKS`]; all if empty.
    pub benchmarks: Vec<String>,
    /// Bytes of a graph, as a workload's parameter: `2GiB`; the paper's are of the 16 GB class.
    pub footprint: String,
    /// Bytes of the other benchmarks; each has its own if none are said.
    pub others: Option<String>,
    /// Accesses of the benchmark that are counted.
    pub accesses: u64,
    /// Accesses of the benchmark before that, after its data is filled.
    pub warmup: u64,
    /// Seed of everything random.
    pub seed: u64,
    /// Check every access.
    pub verify: bool,
}

impl Default for Choice {
    fn default() -> Self {
        Choice {
            benchmarks: Vec::new(),
            footprint: "512MiB".to_string(),
            others: None,
            accesses: 4_000_000,
            warmup: 1_000_000,
            seed: crate::experiment::SEED,
            verify: false,
        }
    }
}

/// One benchmark in one company under one system: the benchmark's own cores, and the guest's allocator.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The system.
    pub system: String,
    /// How the benchmark's table lies in the VM's.
    pub lines: LineCounts,
    /// Cycles of the slowest of the benchmark's cores.
    pub cycles: u64,
    /// Cycles of its cores with a walk in progress.
    pub walk_cycles: u64,
    /// Cycles of the walker's references to the VM's table.
    pub host_cycles: u64,
    /// Leaf entries of the VM's table that memory served.
    pub host_from_memory: u64,
    /// Leaf entries of the process's table that memory served.
    pub guest_from_memory: u64,
    /// Walks.
    pub walks: u64,
    /// Blocks that the guest's allocator handed out, to all, from the start.
    pub allocations: u64,
    /// The most frames that were kept for later faults, of all programs.
    pub reserved_peak: u64,
    /// The same on average over the run.
    pub reserved_mean: f64,
    /// Pages that the programs fill at first.
    pub pages: u64,
}

/// A benchmark in one company, without reservations and with them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// Which benchmark.
    pub benchmark: String,
    /// Who else runs.
    pub company: Company,
    /// Without.
    pub without: Measured,
    /// With.
    pub with: Measured,
}

impl Pair {
    /// By how much less time the benchmark takes with reservations, as a share.
    pub fn gain(&self) -> f64 {
        1.0 - ratio(self.with.cycles, self.without.cycles)
    }
}

/// All that is printed.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The machine.
    pub machine: String,
    /// Benchmarks by company.
    pub pairs: Vec<Pair>,
    /// Set-ups that leave nothing to gain, on the first benchmark with the heavy co-runner.
    pub limits: Vec<Limit>,
    /// What a fault costs in our own code.
    pub fault: fault::FaultCost,
}

/// A set-up in which reservations do little.
#[derive(Clone, Debug, Serialize)]
pub struct Limit {
    /// What it is.
    pub what: &'static str,
    /// What came out.
    pub pair: Pair,
}

/// Systems with which reservations have little left to do: what, company, without, with.
pub type LimitSystems = (&'static str, Company, &'static str, &'static str);

/// The machine.
const MACHINE: &str = "broadwell";

const LIMITS: [LimitSystems; 3] = [
    (
        "a fresh guest, nobody else, lists that take 1365 frames at once",
        Company::Alone,
        "nested+pcp=1365",
        "nested+ptemagnet+pcp=1365",
    ),
    ("huge pages in the guest", Company::Heavy, "nested-thp-4k", "nested-thp-4k+ptemagnet"),
    ("huge pages in guest and host", Company::Heavy, "nested-thp-thp", "nested-thp-thp+ptemagnet"),
];

/// A quantity and its changes in the paper: from alone to co-located, and from there to reservations.
type Part = (&'static str, fn(&Measured) -> f64, [f64; 2]);

/// What is measured of PageRank beside the heavy co-runner.
const PAGERANK: [Part; 5] = [
    ("execution time", |m| m.cycles as f64, [0.11, -0.07]),
    ("walk cycles", |m| m.walk_cycles as f64, [0.61, -0.17]),
    ("cycles of references to the VM's table", |m| m.host_cycles as f64, [1.17, -0.26]),
    ("host entries from memory", |m| m.host_from_memory as f64, [2.83, -0.13]),
    ("host lines per guest line", |m| m.lines.mean, [2.42, -0.66]),
];

/// The paper's numbers beside ours, as far as what was run can tell.
pub fn published(pairs: &[Pair]) -> Vec<Row> {
    let find = |name: &str, company| pairs.iter().find(|p| p.benchmark == name && p.company == company);
    let mut rows = Vec::new();
    if let (Some(alone), Some(heavy)) = (find("pagerank", Company::Alone), find("pagerank", Company::Heavy)) {
        for (at, group) in
            ["pagerank, heavy co-runner against alone", "the same, with reservations"].iter().enumerate()
        {
            let (from, to) = [(&alone.without, &heavy.without), (&heavy.without, &heavy.with)][at];
            rows.extend(PAGERANK.iter().map(|(what, get, paper)| {
                Row::new(
                    *group,
                    format!("{group}: {what}"),
                    Unit::Change,
                    (paper[at], "M-m"),
                    change(get(from), get(to)),
                )
            }));
        }
    }
    // With a mix of co-runners: 3 to 4 % in the mean, 5 to 10 % at most.
    for (company, paper, trust) in
        [(Company::Heavy, [-0.04, -0.09], "F:abs"), (Company::Mix, [-0.035, -0.075], "M-l")]
    {
        let gains: Vec<f64> = pairs.iter().filter(|p| p.company == company).map(|p| -p.gain()).collect();
        if gains.is_empty() {
            continue;
        }
        let mean = gains.iter().sum::<f64>() / gains.len() as f64;
        let most = gains.iter().fold(f64::INFINITY, |a, b| a.min(*b));
        let name = company.name();
        for (what, paper, ours) in [("mean", paper[0], mean), ("most", paper[1], most)] {
            let what = format!("time, {name}, {what}");
            rows.push(Row::new(what.clone(), what, Unit::Change, (paper, trust), ours));
        }
    }
    let most = |get: &dyn Fn(&Pair) -> f64| pairs.iter().map(get).fold(0.0, f64::max);
    let kept = most(&|p| p.with.reserved_mean / p.with.pages.max(1) as f64);
    let lines = most(&|p| p.with.lines.mean);
    rows.push(Row::new(
        "lines",
        "host lines per guest line with reservations, most",
        Unit::Mean,
        (1.0, "M-l"),
        lines,
    ));
    rows.push(
        Row::new("kept", "reserved and not used, on average, most", Unit::Memory, (0.002, "F:KW"), kept)
            .at_most(),
    );
    rows
}

struct Job {
    spec: String,
    system: System,
}

/// Shared by the workers.
struct Board<'a> {
    jobs: &'a [Job],
    next: AtomicUsize,
    done: AtomicU64,
    stop: AtomicBool,
    results: Mutex<Vec<Option<Result<Measured, ExperimentError>>>>,
}

/// The programs of a job.
fn programs(spec: &str, seed: u64) -> Result<Together, ExperimentError> {
    let programs = Together::parse(spec, seed).map_err(|error| ExperimentError::input(spec, error))?;
    Ok(programs.filling_in(BUILD))
}

/// Runs everything.
///
/// # Errors
/// [`ExperimentError`]; also if a benchmark's name is none.
pub fn run(
    choice: &Choice,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report, ExperimentError> {
    let profile = builtin(MACHINE)?;
    // First, while nothing else runs.
    let fault = fault::cost();
    let (pairs, limits) = pairs(choice, &LIMITS, progress)?;
    Ok(Report { machine: profile.title, pairs, limits, fault })
}

/// Runs benchmarks in every company, and the set-ups of `limits` with the first of them.
///
/// # Errors
/// As [`run`].
pub fn pairs(
    choice: &Choice,
    limits: &[LimitSystems],
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(Vec<Pair>, Vec<Limit>), ExperimentError> {
    let profile = builtin(MACHINE)?;
    let mut chosen = Vec::new();
    for (name, spec) in BENCHMARKS {
        if choice.benchmarks.is_empty() || choice.benchmarks.iter().any(|b| b == name) {
            let spec = match &choice.others {
                // All of the others may be given one.
                Some(bytes) if !spec.contains("{}") => format!("{name}:footprint={bytes}"),
                _ => spec.replace("{}", &choice.footprint),
            };
            chosen.push((name, spec));
        }
    }
    let known = |name: &String| BENCHMARKS.iter().any(|(known, _)| known == name);
    if let Some(name) = choice.benchmarks.iter().find(|name| !known(name)) {
        let names: Vec<&str> = BENCHMARKS.iter().map(|(name, _)| *name).collect();
        let reason = format!("it is no benchmark of PTEMagnet's; there are {}", names.join(", "));
        return Err(ExperimentError::input(name, reason));
    }
    let (without, with) = (parse("nested")?, parse("nested+ptemagnet")?);
    let mut jobs = Vec::new();
    for (_, spec) in &chosen {
        for company in Company::ALL {
            let spec = company.with(spec);
            jobs.push(Job { spec: spec.clone(), system: without });
            jobs.push(Job { spec, system: with });
        }
    }
    for &(_, company, without, with) in limits {
        for name in [without, with] {
            jobs.push(Job { spec: company.with(&chosen[0].1), system: parse(name)? });
        }
    }
    let mut measured = work(choice, &profile, &jobs, progress)?.into_iter();
    let mut pair = |benchmark: &str, company| {
        let (without, with) = measured.next().zip(measured.next())?;
        Some(Pair { benchmark: benchmark.to_string(), company, without, with })
    };
    let mut pairs = Vec::new();
    for (name, _) in &chosen {
        pairs.extend(Company::ALL.into_iter().filter_map(|company| pair(name, company)));
    }
    let limit = |&(what, company, ..): &LimitSystems| Some(Limit { what, pair: pair(chosen[0].0, company)? });
    let limits = limits.iter().filter_map(limit).collect();
    Ok((pairs, limits))
}

/// Runs all jobs, one a core at a time. What was not finished is not among the results.
fn work(
    choice: &Choice,
    profile: &Profile,
    jobs: &[Job],
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Measured>, ExperimentError> {
    let mut total = 0;
    for job in jobs {
        let mut source = programs(&job.spec, choice.seed)?;
        source.setup()?;
        total += source.filling()[0] + choice.warmup + choice.accesses;
    }
    let board = Board {
        jobs,
        next: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        results: Mutex::new(jobs.iter().map(|_| None).collect()),
    };
    let workers = crate::workers(0).min(jobs.len());
    std::thread::scope(|scope| {
        let mut handles: Vec<_> =
            (0..workers).map(|_| scope.spawn(|| worker(choice, profile, &board))).collect();
        while !handles.is_empty() {
            std::thread::sleep(Duration::from_millis(50));
            handles.retain(|handle| !handle.is_finished());
            let accesses = board.done.load(Ordering::Relaxed);
            if progress(Progress { accesses, total: Some(total), misses: 0 }).is_break() {
                board.stop.store(true, Ordering::Relaxed);
            }
        }
    });
    board.results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
}

fn worker(choice: &Choice, profile: &Profile, board: &Board<'_>) {
    while let Some((at, job)) = {
        let at = board.next.fetch_add(1, Ordering::Relaxed);
        board.jobs.get(at).map(|job| (at, job))
    } {
        let result = measure(choice, profile, job, board).transpose();
        let failed = !matches!(result, Some(Ok(_)));
        board.results.lock().unwrap_or_else(PoisonError::into_inner)[at] = result;
        if failed {
            board.stop.store(true, Ordering::Relaxed);
            return;
        }
    }
}

/// Runs one job; `None` if it was stopped.
fn measure(
    choice: &Choice,
    profile: &Profile,
    job: &Job,
    board: &Board<'_>,
) -> Result<Option<Measured>, ExperimentError> {
    let (mut scenario, setup) = Scenario::new(programs(&job.spec, choice.seed)?)?;
    let fills = scenario.filling();
    let experiment = Experiment {
        seed: choice.seed,
        verify: choice.verify,
        ..Experiment::new(profile.clone(), [job.system])
    };
    let mut world = experiment::world(&experiment, job.system, &setup)?;
    let failed = |error| match error {
        ScenarioError::Source(error) => ExperimentError::Source(error),
        ScenarioError::World(error) => ExperimentError::under(job.system)(error),
    };
    // The benchmark is the first program; its threads have the first cores.
    let threads = setup.threads.iter().filter(|thread| thread.process == 0).count();
    let others = 1..fills.len();
    let mut clock = 0;
    while clock < AHEAD && !others.is_empty() && !board.stop.load(Ordering::Relaxed) {
        let Some((thread, _)) = scenario.turn(&mut world, others.clone()).map_err(&failed)? else { break };
        clock = world.clock(CpuId(thread as u16));
    }
    (0..threads).for_each(|thread| world.idle_until(CpuId(thread as u16), clock));
    let begin = fills[0] + choice.warmup;
    let (mut mine, mut turns, mut kept, mut peak) = (0, 0u64, 0u64, 0);
    let mut start: Option<Vec<u64>> = None;
    while mine < begin + choice.accesses {
        let Some((thread, accesses)) = scenario.turn(&mut world, 0..fills.len()).map_err(&failed)? else {
            break;
        };
        if thread < threads {
            mine += accesses;
            board.done.fetch_add(accesses, Ordering::Relaxed);
        }
        if start.is_none() && mine >= begin {
            world.reset_counters();
            start = Some(world.cycles());
        }
        (turns, kept, peak) = (turns + 1, kept + world.reserved(), peak.max(world.reserved()));
        if board.stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
    }
    let start = start.unwrap_or_default();
    let cycles = world.cycles().iter().zip(&start).take(threads).map(|(now, then)| now - then).max();
    let mut counters = Counters::default();
    world.machine().cores().take(threads).for_each(|core| counters.add(core.counters));
    let from_memory = |host: bool| {
        let leaf =
            |cell: &paging::Cell| if host { cell.host == 1 } else { cell.host == 0 && cell.guest == 1 };
        let cells = counters.grid.cells().filter(|(cell, _)| leaf(cell));
        cells.map(|(_, by)| by[Served::Local as usize] + by[Served::Remote as usize]).sum()
    };
    Ok(Some(Measured {
        lines: world.host_lines_of(0).map_err(ExperimentError::under(job.system))?.unwrap_or_default().into(),
        cycles: cycles.unwrap_or(0),
        walk_cycles: world.machine().cores().take(threads).map(|core| core.timing.walk_active).sum::<u64>()
            / TICKS,
        host_cycles: counters.grid.dimension_ticks()[1] / TICKS,
        host_from_memory: from_memory(true),
        guest_from_memory: from_memory(false),
        walks: counters.walks,
        allocations: world.allocations(),
        reserved_peak: peak,
        reserved_mean: ratio(kept, turns),
        pages: fills.iter().sum(),
        system: job.system.to_string(),
    }))
}
