//! Every table and figure that we hold, beside ours, on one page.
//!
//! The page is made of jobs that know nothing of each other, and workers that take the next one, so that the
//! page is the same on any number of threads. Sizes are chosen so that all of it takes minutes
//! on two cores; each table says its own, and names the command that runs it at the paper's.

mod copies;
mod counts;
mod figures;
mod tables;

use super::passthrough::{self, Case, Setting};
use super::sheet::{Row, Verdict, judge};
use super::{CurvePoint, babelfish, ptemagnet, segments};
use crate::experiment::{ExperimentError, Progress};
use crate::figures::{Cell, Figure, Load, MITOSIS_FIGURES, Options, VMITOSIS_FIGURES};
use serde::Serialize;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A table or figure of a paper.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    /// The paper, as `--paper` takes it.
    pub paper: &'static str,
    /// Which figure or table.
    pub figure: String,
    /// What it shows.
    pub title: String,
    /// What was run for it here.
    pub sizes: String,
    /// The command that runs more of it, or all at the paper's sizes.
    pub command: String,
    /// The page of the documentation that says where we differ, and why.
    pub page: &'static str,
    /// Its numbers.
    pub rows: Vec<Row>,
}

impl Table {
    /// Rows with a verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.rows.iter().filter(|row| row.verdict == verdict).count()
    }
}

/// The page.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Page {
    /// Its tables.
    pub tables: Vec<Table>,
    /// What is held and not on the page: what, and why.
    pub left_out: Vec<(&'static str, &'static str)>,
}

/// Papers: the name here, and the title.
pub const PAPERS: [(&str, &str); 8] = [
    ("mitosis", "Mitosis (ASPLOS 2020)"),
    ("vmitosis", "vMitosis (ASPLOS 2021)"),
    ("ptemagnet", "PTEMagnet (ASPLOS 2021)"),
    ("babelfish", "BabelFish (ISCA 2020)"),
    ("segments", "Direct segments for VMs (MICRO 2014)"),
    ("passthrough", "Translation Pass-Through (ATC 2023)"),
    ("agile", "Agile Paging (ISCA 2016)"),
    ("hardware", "A Zen 4, measured"),
];

/// What is held and not run here.
const LEFT_OUT: [(&str, &str); 5] = [
    (
        "PTEMagnet: time of a fault, -0.5 % [F:KW]",
        "it is our own code by the clock of the machine at hand, so it is another number each time: `pagewalk reproduce ptemagnet`",
    ),
    (
        "Mitosis: what replication costs a program that has nothing of it, 0.41 to 0.46 % [M-m]",
        "it includes the program's initialisation, whose accesses are not simulated one by one",
    ),
    (
        "BabelFish: area, access time, energy [F:KW]",
        "they are CACTI's; nothing here computes them. `pagewalk reproduce babelfish` repeats them",
    ),
    (
        "vMitosis: BTree, Memcached; Mitosis: Memcached, HashJoin, PageRank, LibLinear",
        "of these we hold no numbers, or parts of them: there is nothing to compare a run with",
    ),
    (
        "Follow-ups without a system here",
        "an abstract's headline (RMM, DVMT, hashed tables, Victima, Utopia, DMT …) says nothing of a system that we do not have",
    ),
];

const PTEMAGNET: [&str; 8] = ["pagerank", "bfs", "cc", "nibble", "mcf", "gcc", "xz", "omnetpp"];
/// Systems that the published numbers of direct segments are of.
const SEGMENTS: [&str; 6] = ["4K", "4K+4K", "4K+2M", "4K+1G", "4K+VD", "DD"];

/// By what footprints, memory of nodes and last-level caches of a figure are divided, and its accesses: as little as
/// minutes allow, as a TLB's reach does not shrink with a footprint.
fn scale(figure: &Figure) -> (u64, u64) {
    match figure.names[0] {
        "sockets" => (16, 8),
        "wide" | "oblivious" => (32, 8),
        "thin" | "thin-thp" | "shadow" => (4, 4),
        _ => (1, 4),
    }
}

/// First touch decides where entries are, whatever the size.
const DIVIDE_PLACES: u64 = 64;
/// Footprint and accesses (before, counted) of classes of direct segments.
const OF_SEGMENTS: (&str, (u64, u64)) = ("8GiB", (1_000_000, 500_000));
/// The same of pass-through's programs, but of the one whose every access walks, and of the artifact's: as published.
const OF_PASSTHROUGH: passthrough::Size<'_> =
    passthrough::Size { footprint: "1GiB", warmup: 400_000, accesses: 200_000 };
const OF_PASSTHROUGH_STRESS: passthrough::Size<'_> =
    passthrough::Size { footprint: "64GiB", warmup: 1_000_000, accesses: 200_000 };
const OF_PASSTHROUGH_RANDOM: passthrough::Size<'_> =
    passthrough::Size { footprint: "4GiB", warmup: 2_000_000, accesses: 500_000 };

fn of_passthrough_size(case: Case) -> passthrough::Size<'static> {
    match case.name {
        "gups" => OF_PASSTHROUGH_STRESS,
        name if name == passthrough::SYSBENCH.name => OF_PASSTHROUGH_RANDOM,
        _ => OF_PASSTHROUGH,
    }
}
/// Footprints of the TLB curve, in KiB, and accesses at most.
const CURVE: ([u64; 6], u64) = ([1 << 10, 8 << 10, 64 << 10, 512 << 10, 2 << 20, 8 << 20], 800_000);
/// Footprint of PTEMagnet's benchmarks, and accesses of them (before, counted).
const OF_PTEMAGNET: (&str, u64, u64) = ("256MiB", 100_000, 200_000);
/// Accesses of BabelFish: before, counted; its cores and the instructions of a turn.
const OF_BABELFISH: (u64, u64, u64, u64) = (4_000_000, 4_000_000, 8, 2_000_000);

/// Something to run.
#[derive(Clone, Copy, Debug)]
enum Job {
    Figure(&'static Figure, &'static Load),
    Remote,
    Costs,
    CostsInVm,
    Memory,
    MemoryOfVm,
    PteMagnet(&'static str),
    Babelfish(&'static str),
    Counts,
    TagCounts,
    Class(segments::Class),
    BadFrames,
    PassThrough(Setting, Case),
    Gups,
    Curve(&'static str),
}

/// What came of it.
#[derive(Debug)]
enum Part {
    Cells(Vec<Cell>),
    Rows(Vec<Row>),
    Pairs(Vec<ptemagnet::Pair>),
    Containers(babelfish::Report),
    Class(segments::ClassReport),
    Bad(Vec<segments::BadFrames>),
    PassThrough(Box<passthrough::Measured>),
    Curve(Vec<CurvePoint>),
}

impl Job {
    /// All jobs, and the paper of each.
    fn all() -> Vec<(&'static str, Job)> {
        let mut jobs = Vec::new();
        for (paper, figures) in [("mitosis", &MITOSIS_FIGURES[..]), ("vmitosis", &VMITOSIS_FIGURES[..])] {
            for figure in figures {
                jobs.extend(figure.loads.iter().map(|load| (paper, Job::Figure(figure, load))));
            }
        }
        jobs.extend([("mitosis", Job::Remote), ("mitosis", Job::Costs), ("mitosis", Job::Memory)]);
        jobs.extend([("vmitosis", Job::CostsInVm), ("vmitosis", Job::MemoryOfVm)]);
        jobs.extend(PTEMAGNET.map(|name| ("ptemagnet", Job::PteMagnet(name))));
        jobs.extend(babelfish::WORKLOADS.map(|(name, ..)| ("babelfish", Job::Babelfish(name))));
        jobs.extend([("segments", Job::Counts), ("segments", Job::BadFrames)]);
        jobs.extend(segments::CLASSES.map(|class| ("segments", Job::Class(class))));
        jobs.push(("passthrough", Job::TagCounts));
        // Programs, not system calls one after another, which no abstract speaks of.
        for case in passthrough::CASES.into_iter().filter(|case| !case.workload.starts_with("churn")) {
            jobs.push(("passthrough", Job::PassThrough(Setting::Small, case)));
            if case.kind == passthrough::Kind::DataCentre {
                jobs.push(("passthrough", Job::PassThrough(Setting::Thp, case)));
            }
        }
        jobs.push(("passthrough", Job::PassThrough(Setting::Small, passthrough::SYSBENCH)));
        jobs.push(("mitosis", Job::Gups));
        jobs.extend(super::curve_columns().into_iter().map(|column| ("hardware", Job::Curve(column))));
        jobs
    }

    /// What progress says.
    fn says(self) -> String {
        match self {
            Job::Figure(figure, load) => format!("{} {}", figure.names[0], load.name),
            Job::Remote => "placement of entries".to_string(),
            Job::Costs | Job::CostsInVm => "operations on areas".to_string(),
            Job::Memory | Job::MemoryOfVm => "memory of copies".to_string(),
            Job::PteMagnet(name) => format!("ptemagnet {name}"),
            Job::Babelfish(name) => format!("babelfish {name}"),
            Job::Counts | Job::TagCounts => "references".to_string(),
            Job::Class(class) => format!("segments {}", class.name),
            Job::BadFrames => "faulty frames".to_string(),
            Job::PassThrough(setting, case) => format!("pass-through {} {}", setting.name(), case.name),
            Job::Gups => "gups".to_string(),
            Job::Curve(column) => format!("curve {column}"),
        }
    }

    fn run(self) -> Result<Part, ExperimentError> {
        let quiet = &mut |_: Progress| ControlFlow::Continue(());
        Ok(match self {
            Job::Figure(figure, load) => {
                let (divide, fewer) = scale(figure);
                let options = Options {
                    workloads: &[load.name.to_string()],
                    // Some are divided already.
                    divide: (divide / load.divided).max(1),
                    caches: true,
                    fewer,
                    threads: 1,
                    ..Options::default()
                };
                Part::Cells(crate::figures::run(figure, &options, &|_, _, _| {})?)
            }
            Job::Remote => Part::Rows(copies::remote(MITOSIS_FIGURES[2].loads, DIVIDE_PLACES)?),
            Job::Costs => Part::Rows(copies::costs()?),
            Job::CostsInVm => Part::Rows(copies::costs_in_a_vm()?),
            Job::Memory => Part::Rows(copies::memory()?),
            Job::MemoryOfVm => Part::Rows(copies::memory_of_a_vm()?),
            Job::PteMagnet(name) => {
                let (footprint, warmup, accesses) = OF_PTEMAGNET;
                let choice = ptemagnet::Choice {
                    benchmarks: vec![name.to_string()],
                    footprint: footprint.to_string(),
                    others: Some(footprint.to_string()),
                    accesses,
                    warmup,
                    ..ptemagnet::Choice::default()
                };
                Part::Pairs(ptemagnet::pairs(&choice, &[], quiet)?.0)
            }
            Job::Babelfish(name) => {
                let (warmup, accesses, cores, quantum) = OF_BABELFISH;
                let workloads = vec![name.to_string()];
                let choice = babelfish::Choice {
                    workloads,
                    cores,
                    quantum,
                    accesses,
                    warmup,
                    seed: crate::experiment::SEED,
                    verify: false,
                    beyond: false,
                };
                Part::Containers(babelfish::run(&choice, quiet)?)
            }
            Job::Counts => Part::Rows(counts::rows(&counts::SEGMENTS)?),
            Job::TagCounts => Part::Rows(counts::rows(&counts::TAGS)?),
            Job::Class(class) => {
                let (footprint, accesses) = OF_SEGMENTS;
                Part::Class(segments::class(class, footprint, &SEGMENTS, accesses, quiet)?)
            }
            Job::BadFrames => {
                let (footprint, accesses) = OF_SEGMENTS;
                let cases = [("vmm-direct", 256)];
                Part::Bad(segments::bad_frames(footprint, &cases, &[0, 16], accesses, quiet)?)
            }
            Job::PassThrough(setting, case) => Part::PassThrough(Box::new(passthrough::measure(
                case,
                setting,
                of_passthrough_size(case),
                quiet,
            )?)),
            Job::Gups => Part::Rows(super::gups(quiet)?.iter().map(Into::into).collect()),
            Job::Curve(column) => {
                let (footprints, most) = CURVE;
                Part::Curve(super::curve(&[column.to_string()], &footprints, most, quiet)?)
            }
        })
    }
}

/// How far the page is.
#[derive(Clone, Debug)]
pub struct Step {
    /// Jobs that are done.
    pub done: usize,
    /// Jobs that there are.
    pub of: usize,
    /// The last one that was begun.
    pub what: String,
}

/// Runs everything of some papers (of all, if none are named) on so many threads, 0 for one a core.
///
/// # Errors
/// [`ExperimentError`]; also if there is no such paper.
pub fn run(
    papers: &[String],
    threads: usize,
    progress: &(dyn Fn(Step) + Sync),
) -> Result<Page, ExperimentError> {
    let known = PAPERS.map(|(name, _)| name);
    if let Some(name) = papers.iter().find(|name| !known.contains(&name.as_str())) {
        let reason = format!("it is no paper here; there are {}", known.join(", "));
        return Err(ExperimentError::input(name, reason));
    }
    let wanted = |paper: &str| papers.is_empty() || papers.iter().any(|name| name == paper);
    // Agile paging is beside pass-through in the same runs.
    let runs = |paper: &str| wanted(paper) || paper == "passthrough" && wanted("agile");
    let jobs: Vec<Job> =
        Job::all().into_iter().filter(|(paper, _)| runs(paper)).map(|(_, job)| job).collect();
    let parts = work(&jobs, threads, progress)?;
    let mut tables = tables::all(&jobs.into_iter().zip(parts).collect::<Vec<_>>());
    tables.retain(|table| wanted(table.paper) && !table.rows.is_empty());
    tables.iter_mut().for_each(|table| judge(&mut table.rows));
    Ok(Page { tables, left_out: LEFT_OUT.to_vec() })
}

/// Runs jobs on threads; what came of them is in the jobs' order.
fn work(
    jobs: &[Job],
    threads: usize,
    progress: &(dyn Fn(Step) + Sync),
) -> Result<Vec<Part>, ExperimentError> {
    let next = AtomicUsize::new(0);
    let finished = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<Part, ExperimentError>>>> =
        Mutex::new(jobs.iter().map(|_| None).collect());
    let tell = |what: String| {
        progress(Step { done: finished.load(Ordering::Relaxed), of: jobs.len(), what });
    };
    let workers = crate::workers(threads).min(jobs.len());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((at, job)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    jobs.get(at).map(|job| (at, job))
                } {
                    tell(job.says());
                    let result = job.run();
                    if result.is_err() {
                        // Nobody begins another.
                        next.store(jobs.len(), Ordering::Relaxed);
                    }
                    results.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(result);
                    finished.fetch_add(1, Ordering::Relaxed);
                    tell(job.says());
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    // What was not begun has no result, but then something failed before it.
    results.into_iter().flatten().collect()
}
