//! BabelFish's set-up: two containers a core of each server and each compute program, three a core of functions,
//! on the paper's simulated machine: without sharing, with it, with each of its parts, and with an STLB made larger by
//! as many bits as BabelFish adds.

use super::sheet::{Row as Published, Unit, change};
use super::{builtin, parse};
use crate::containers::{RequestCounts, Shareable};
use crate::experiment::{self, Experiment, ExperimentError, Progress};
use crate::outcome::{Outcome, ratio};
use crate::system::System;
use machine::input::Source;
use machine::profile::{Profile, Ways};
pub use mechanisms::babelfish::cost;
use serde::Serialize;
use std::ops::ControlFlow;

/// What a workload's result is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Mean and tail latency of requests.
    Serving,
    /// Execution time.
    Compute,
    /// Bring-up, and execution time of a request.
    Functions,
}

/// Workloads: name, class, what is built (`{}`: parameters of all), and (warm-up, counted) accesses at full
/// length, in millions.
pub const WORKLOADS: [(&str, Class, &str); 7] = [
    ("mongodb", Class::Serving, "mongodb:{}"),
    ("arangodb", Class::Serving, "arangodb:{}"),
    ("httpd", Class::Serving, "httpd:{}"),
    ("graphchi", Class::Compute, "graphchi:{}"),
    ("fio", Class::Compute, "fio:{}"),
    ("functions-dense", Class::Functions, "functions:pattern=dense,{}"),
    ("functions-sparse", Class::Functions, "functions:pattern=sparse,{}"),
];

/// The machine.
pub const MACHINE: &str = "babelfish-sim";
/// The baseline, BabelFish, and its parts.
pub const SYSTEMS: [&str; 5] = [
    "native",
    "native+babelfish",
    "native+babelfish=tlb",
    "native+babelfish=tables",
    "native+babelfish=no-mask",
];
/// Beyond the paper: one layout a group with shared first-level TLBs, huge pages, and VMs.
pub const BEYOND: [&str; 7] = [
    "native+babelfish+aslr=software",
    "native+babelfish+aslr=software+share-l1",
    "native-thp",
    "native-thp+babelfish",
    "nested",
    "nested+babelfish",
    "nested-thp-thp+babelfish",
];
/// Bits of a conventional STLB entry: page number 36, frame 36, PCID 12, rights and size 8.
pub const ENTRY_BITS: u32 = 92;

/// What is run.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Only these workloads; all if empty.
    pub workloads: Vec<String>,
    /// Cores; two containers on each, or three of functions.
    pub cores: u64,
    /// Instructions of a turn.
    pub quantum: u64,
    /// Accesses counted, for each workload.
    pub accesses: u64,
    /// Accesses before.
    pub warmup: u64,
    /// Seed of everything random.
    pub seed: u64,
    /// Check every access.
    pub verify: bool,
    /// Also [`BEYOND`].
    pub beyond: bool,
}

/// A workload's results.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub workload: String,
    /// What its result is.
    pub class: Class,
    /// By system: [`SYSTEMS`], then [`BEYOND`] if they were asked for.
    pub outcomes: Vec<Outcome>,
    /// The baseline with the larger STLB.
    pub larger: Outcome,
}

impl Row {
    /// The result of a system.
    pub fn of(&self, system: &str) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| outcome.system == system)
    }
    /// What a result's time is: the mean request, or all cycles.
    pub fn time(&self, outcome: &Outcome) -> f64 {
        match (self.class, &outcome.requests) {
            (Class::Serving | Class::Functions, Some(requests)) => requests.mean,
            _ => outcome.cycles as f64,
        }
    }
    /// The change of the time from the baseline, as a share.
    pub fn change(&self, outcome: &Outcome) -> f64 {
        self.of(SYSTEMS[0]).map_or(0.0, |base| change(self.time(base), self.time(outcome)))
    }
}

/// Second-level TLB misses per thousand instructions: of data, and of instructions.
pub fn mpki(outcome: &Outcome) -> [f64; 2] {
    let fetches = outcome.tlb.stlb_fetch_misses;
    [outcome.tlb.stlb_misses - fetches, fetches].map(|misses| 1000.0 * ratio(misses, outcome.instructions))
}

/// Of the hits of the second-level TLB, those on an entry that another process brought in.
pub fn shared_hits(outcome: &Outcome) -> f64 {
    ratio(outcome.tlb.shared_hits, outcome.tlb.l1_misses - outcome.tlb.stlb_misses)
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The machine's title.
    pub machine: String,
    /// Entries of the STLB, and of the one made larger by as many bits.
    pub stlb: [u64; 2],
    /// A row for each workload.
    pub rows: Vec<Row>,
}

/// The machine with an STLB that has the bits which BabelFish adds as entries, in as many sets.
fn larger(mut profile: Profile) -> Profile {
    for array in &mut profile.tlb.stlb.array {
        let entries = cost::entries_for_the_bits(array.entries as u32, ENTRY_BITS, cost::TAG_BITS);
        if let Ways::Number(ways) = array.ways {
            let sets = array.entries / ways;
            let wider = u64::from(entries) / sets;
            (array.entries, array.ways) = (wider * sets, Ways::Number(wider));
        }
    }
    profile
}

/// Runs it. `progress` counts accesses of all runs.
///
/// # Errors
/// If a workload is not known or a run fails.
pub fn run(
    choice: &Choice,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report, ExperimentError> {
    let known = WORKLOADS.map(|(name, ..)| name);
    if let Some(name) = choice.workloads.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(ExperimentError::input(
            name,
            format!("not one of the paper's workloads: {}", known.join(", ")),
        ));
    }
    let chosen: Vec<_> = WORKLOADS
        .iter()
        .filter(|(name, ..)| choice.workloads.is_empty() || choice.workloads.iter().any(|n| n == name))
        .collect();
    let profile = builtin(MACHINE)?;
    let wide = larger(profile.clone());
    let stlb = [&profile, &wide].map(|p| p.tlb.stlb.array.first().map_or(0, |array| array.entries));
    let machine = profile.title.clone();
    let mut names = SYSTEMS.to_vec();
    if choice.beyond {
        names.extend(BEYOND);
    }
    let systems = names.into_iter().map(parse).collect::<Result<Vec<System>, _>>()?;
    let each = choice.warmup + choice.accesses;
    let total = 2 * each * chosen.len() as u64;
    let mut rows = Vec::new();
    for (at, (name, class, spec)) in chosen.into_iter().enumerate() {
        let containers = if *class == Class::Functions { 3 } else { 2 } * choice.cores;
        let parameters = format!("containers={containers},cores={},quantum={}", choice.cores, choice.quantum);
        let spec = spec.replace("{}", &parameters);
        let mut part = 2 * at as u64;
        let mut measure = |systems: &[System], profile: &Profile| {
            let mut source: Box<dyn Source + Send> =
                workloads::build(&spec, choice.seed).map_err(|error| ExperimentError::input(&spec, error))?;
            let experiment = Experiment {
                warmup: choice.warmup,
                accesses: Some(choice.accesses),
                seed: choice.seed,
                verify: choice.verify,
                ..Experiment::new(profile.clone(), systems.iter().copied())
            };
            let before = part * each;
            part += 1;
            experiment::run(&experiment, &mut *source, &mut |p| {
                progress(Progress { accesses: before + p.accesses, total: Some(total), ..p })
            })
        };
        let outcomes = measure(&systems, &profile)?;
        let base = measure(&systems[..1], &wide)?;
        let nothing = || ExperimentError::input(name, "nothing came out");
        let larger = base.into_iter().next().ok_or_else(nothing)?;
        rows.push(Row { workload: (*name).to_string(), class: *class, outcomes, larger });
    }
    Ok(Report { machine, stlb, rows })
}

/// The mean bring-up: of those counted, or if none began then, of all.
pub fn bring_up(requests: &RequestCounts) -> f64 {
    if requests.starts > 0 { requests.mean_start } else { requests.mean_start_in_all }
}

fn requests(outcome: &Outcome) -> RequestCounts {
    outcome.requests.unwrap_or_default()
}

impl Report {
    /// The mean of what `get` says of the workloads of some classes, without BabelFish and with it.
    fn mean(&self, classes: &[Class], get: &dyn Fn(&Row, &Outcome, &Outcome) -> Option<f64>) -> Option<f64> {
        let rows = self.rows.iter().filter(|row| classes.contains(&row.class));
        let values: Vec<f64> =
            rows.filter_map(|row| get(row, row.of(SYSTEMS[0])?, row.of(SYSTEMS[1])?)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    fn shareable(&self, classes: &[Class], get: fn(&Shareable) -> f64) -> Option<f64> {
        self.mean(classes, &|_, base, _| base.shareable.as_ref().map(get))
    }

    fn time(&self, classes: &[Class]) -> Option<f64> {
        self.mean(classes, &|row, _, with| Some(row.change(with)))
    }

    /// What of the gain the TLB entries alone have.
    fn of_tlb(&self, classes: &[Class]) -> Option<f64> {
        let alone = self.mean(classes, &|row, _, _| Some(row.change(row.of(SYSTEMS[2])?)))?;
        Some(alone / self.time(classes)?)
    }

    /// The same of one workload alone.
    fn one(&self, name: &str, get: &dyn Fn(&Row, &Outcome, &Outcome) -> f64) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.workload == name)?;
        Some(get(row, row.of(SYSTEMS[0])?, row.of(SYSTEMS[1])?))
    }

    /// The paper's numbers beside ours, as far as what was run can tell.
    pub fn published(&self) -> Vec<Published> {
        use Class::{Compute, Functions, Serving};
        const ABSTRACT: &str = "F:abs";
        const CITING: &str = "F:KW";
        const LOW: &str = "M-l";
        let containers = [Serving, Compute];
        let latency = |get: fn(&RequestCounts) -> f64| {
            self.mean(&[Serving], &move |_, base, with| {
                Some(change(get(&requests(base)), get(&requests(with))))
            })
        };
        let misses =
            |of: usize| self.one("mongodb", &move |_, base, with| change(mpki(base)[of], mpki(with)[of]));
        let of_tlb = |name: &str| {
            self.one(name, &|row, _, with| {
                row.of(SYSTEMS[2]).map_or(0.0, |tlb| row.change(tlb) / row.change(with))
            })
        };
        let time_of = |name: &str| self.one(name, &|row, _, with| row.change(with));
        let start = self.mean(&[Functions], &|_, base, with| {
            Some(change(bring_up(&requests(base)), bring_up(&requests(with))))
        });
        let sharing = self.rows.iter().filter_map(|row| row.of(SYSTEMS[1])?.sharing);
        let space =
            sharing.fold((0, 0), |(bytes, tables), s| (bytes + s.bytes, tables + 4096 * s.shared_tables));
        let space = (space.1 > 0).then(|| ratio(space.0, space.1));
        let full = cost::Space { tables: 512, links: 512, mask_pages: 1 };
        let bare = cost::Space { mask_pages: 0, ..full };
        let larger = self.mean(&[Serving], &|row, _, _| Some(row.change(&row.larger)));
        /// Group, what, unit, the paper's number and its trust, ours.
        type Line = (&'static str, &'static str, Unit, f64, &'static str, Option<f64>);
        let rows: [Line; 20] = [
            (
                "translations",
                "shareable, containers",
                Unit::Share,
                0.53,
                ABSTRACT,
                self.shareable(&containers, Shareable::share),
            ),
            (
                "translations",
                "shareable, functions",
                Unit::Share,
                0.93,
                ABSTRACT,
                self.shareable(&[Functions], Shareable::share),
            ),
            (
                "translations",
                "active ones saved, containers",
                Unit::Share,
                0.30,
                "M-m",
                self.shareable(&containers, Shareable::active_saved),
            ),
            (
                "translations",
                "active ones saved, functions",
                Unit::Share,
                0.57,
                "M-m",
                self.shareable(&[Functions], Shareable::active_saved),
            ),
            ("time", "data serving, mean latency", Unit::Change, -0.11, ABSTRACT, latency(|r| r.mean)),
            ("time", "data serving, tail latency", Unit::Change, -0.18, ABSTRACT, latency(|r| r.tail as f64)),
            ("time", "compute, execution", Unit::Change, -0.11, ABSTRACT, self.time(&[Compute])),
            ("time", "functions, bring-up", Unit::Change, -0.08, ABSTRACT, start),
            (
                "time",
                "functions, execution, dense",
                Unit::Change,
                -0.10,
                ABSTRACT,
                time_of("functions-dense"),
            ),
            (
                "time",
                "functions, execution, sparse",
                Unit::Change,
                -0.55,
                ABSTRACT,
                time_of("functions-sparse"),
            ),
            ("misses", "MongoDB, STLB misses of data", Unit::Change, -0.66, LOW, misses(0)),
            ("misses", "MongoDB, STLB misses of instructions", Unit::Change, -0.96, LOW, misses(1)),
            ("parts", "serving, gain by TLB entries alone", Unit::Share, 0.6, LOW, self.of_tlb(&[Serving])),
            ("parts", "compute, gain by TLB entries alone", Unit::Share, 0.2, LOW, self.of_tlb(&[Compute])),
            (
                "parts",
                "dense functions, gain by TLB entries alone",
                Unit::Share,
                0.2,
                LOW,
                of_tlb("functions-dense"),
            ),
            (
                "parts",
                "sparse functions, gain by TLB entries alone",
                Unit::Share,
                0.01,
                LOW,
                of_tlb("functions-sparse"),
            ),
            ("larger", "serving, a larger STLB instead", Unit::Change, -0.02, LOW, larger),
            ("space", "MaskPages and counters, of shared tables", Unit::Memory, 0.00238, CITING, space),
            ("space", "the same, a full MaskPage", Unit::Memory, 0.00238, CITING, Some(full.overhead())),
            ("space", "the same, without masks", Unit::Memory, 0.00048, CITING, Some(bare.overhead())),
        ];
        let row = |(group, what, unit, paper, trust, ours): Line| {
            // Changes are of different programs, and have no order among them.
            let group = if unit == Unit::Change { what } else { group };
            Some(Published::new(group, what, unit, (paper, trust), ours?))
        };
        rows.into_iter().filter_map(row).collect()
    }
}
