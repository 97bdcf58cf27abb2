//! Direct segments for VMs (Gandhi, Basu, Hill, Swift; MICRO 2014): the same
//! questions, asked of the model.

use super::sheet::{Row, Unit};
use super::{built, builtin, fresh_world, modelled, parse};
use crate::experiment::{ExperimentError, Progress};
use crate::outcome::{Outcome, ratio};
use crate::segments::SegmentOutcome;
use machine::profile::Profile;
use serde::Serialize;
use std::ops::ControlFlow;

/// The paper's checks in cycles: five in VMM Direct, one in Guest Direct.
const DELTA: [f64; 2] = [5.0, 1.0];

/// A class of the paper's workloads, and the generator that stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Class {
    /// The paper's name.
    pub name: &'static str,
    /// Ours; `{}` is the footprint.
    pub workload: &'static str,
    /// Big memory: as much as is asked for. The others have their own footprint.
    pub big: bool,
}

/// The classes, as the paper has them. `malloc=heap`: a program that asks for a primary region
/// allocates all of its data in it (Basu et al., ISCA 2013).
pub const CLASSES: [Class; 9] = [
    Class { name: "graph500", workload: "bfs:flavour=graph500,sample=64,footprint={}", big: true },
    Class { name: "memcached", workload: "kv:flavour=memcached,footprint={}", big: true },
    Class { name: "npb-cg", workload: "pagerank:footprint={}", big: true },
    Class { name: "gups", workload: "gups:footprint={}", big: true },
    Class { name: "mcf", workload: "mcf:footprint=1700MiB", big: false },
    Class { name: "omnetpp", workload: "omnetpp:malloc=heap,footprint=170MiB", big: false },
    Class { name: "canneal", workload: "canneal:malloc=heap,footprint=940MiB", big: false },
    Class { name: "streamcluster", workload: "stream:footprint=110MiB", big: false },
    Class { name: "cactusADM, GemsFDTD", workload: "stream:footprint=850MiB", big: false },
];

/// How the paper calls a system, and how we do.
const SYSTEMS: [(&str, &str); 17] = [
    ("4K", "native"),
    ("2M", "native-2m"),
    ("1G", "native-1g"),
    ("THP", "native-thp"),
    ("4K+4K", "nested"),
    ("4K+2M", "nested-4k-2m"),
    ("4K+1G", "nested-4k-1g"),
    ("2M+2M", "nested-2m-2m"),
    ("2M+1G", "nested-2m-1g"),
    ("THP+2M", "nested-thp-2m"),
    ("DS", "direct-segment"),
    ("DD", "dual-direct"),
    ("4K+VD", "vmm-direct"),
    ("4K+GD", "guest-direct"),
    ("THP+VD", "vmm-direct-thp-4k"),
    ("THP+GD", "guest-direct-thp-thp"),
    ("THP+DD", "dual-direct-thp-4k"),
];

/// What the paper says of a class and a system: share of ideal time, and how far to trust it.
const PAPER: [(&str, &str, f64, &str); 4] = [
    ("graph500", "4K", 0.28, "[M-m]"),
    ("graph500", "4K+4K", 1.13, "[M-m]"),
    ("graph500", "4K+2M", 0.53, "[M-m]"),
    ("graph500", "4K+1G", 0.46, "[M-m]"),
];

/// Translation's overhead in one system.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overhead {
    /// The paper's name of the system.
    pub label: &'static str,
    /// Ours.
    pub system: String,
    /// Cycles more than without translation, as a share of those.
    pub overhead: f64,
    /// What the paper's linear model makes of our counts.
    pub linear: Option<f64>,
    /// The paper's number, and how far to trust it.
    pub paper: Option<(f64, &'static str)>,
    /// Second-level TLB misses, and misses that segments answered, per thousand accesses.
    pub misses: f64,
    /// Cycles of a walk.
    pub walk: f64,
    /// References of a walk.
    pub references: f64,
    /// First-level misses that were answered without a walk, as a share.
    pub direct: f64,
}

/// A class under all systems.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassReport {
    /// The class.
    pub class: Class,
    /// The workload, with its footprint.
    pub workload: String,
    /// Cycles per access of the fastest system: next to none of it is translation.
    pub ideal: f64,
    /// Under each system.
    pub rows: Vec<Overhead>,
    /// Systems that cannot have the workload, and why.
    pub refused: Vec<(String, String)>,
}

/// Dual and VMM Direct with some frames faulty.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BadFrames {
    /// The system without faulty frames.
    pub system: &'static str,
    /// Faulty frames.
    pub bad: u32,
    /// Bits of the filter.
    pub filter: u32,
    /// Slow-down against none, without the exits below.
    pub slowdown: f64,
    /// Exits that map false positives when they are first touched, each once: their cycles as a share of the run without
    /// faulty frames. The longer a run, the less.
    pub mapping: f64,
    /// Pages that the filter lets escape besides, as a share.
    pub false_positives: f64,
    /// Escapes per thousand accesses.
    pub escapes: f64,
    /// Pages that left otherwise than to the filter, and why.
    pub departures: String,
}

/// Self-ballooning.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ballooning {
    /// Share of the guest's free memory that no huge page can be made of.
    pub fragmentation: f64,
    /// The mode that was reached.
    pub mode: String,
    /// Frames that were ballooned out and came back contiguous.
    pub ballooned: u64,
    /// Milliseconds for the guest's segment, zeroing included.
    pub guest_ms: f64,
    /// Milliseconds for the VMM's segment.
    pub vmm_ms: f64,
    /// Why there is no segment, if there is none.
    pub refused: Option<String>,
}

/// The paper's machine.
///
/// # Errors
/// If the profile is damaged.
pub fn profile() -> Result<Profile, ExperimentError> {
    builtin("sandy-bridge-en")
}

/// References and skips of the walks at one place of the grid: how many walks came there.
fn visits(o: &Outcome, guest: u8, host: u8) -> u64 {
    o.walks
        .grid
        .iter()
        .filter(|cell| (cell.guest, cell.host) == (guest, host))
        .map(|cell| cell.served.references() + cell.served.ntlb)
        .sum()
}

/// The inputs of the paper's linear model, counted in our runs.
struct Linear<'a> {
    native: &'a Outcome,
    nested: &'a Outcome,
    ideal: f64,
}

impl Linear<'_> {
    /// Cycles per miss.
    fn per_miss(o: &Outcome) -> f64 {
        ratio(o.translation.walk_pending, o.walks.completed + o.walks.faulted)
    }

    /// The overhead that the model gives the system of `o`.
    fn overhead(&self, label: &str, o: &Outcome) -> Option<f64> {
        let misses = self.native.tlb.stlb_misses as f64;
        let (c_n, c_v) = (Self::per_miss(self.native), Self::per_miss(self.nested));
        let walks = o.walks.completed.max(1) as f64;
        // Walks whose data page, or whose guest dimension, the tables answered.
        let (by_host, by_guest) = (visits(o, 0, 1) as f64 / walks, visits(o, 1, 0) as f64 / walks);
        let left = if misses > 0.0 { (o.tlb.stlb_misses as f64 / misses).min(1.0) } else { 0.0 };
        let cycles = match label {
            "DS" => c_n * left,
            "4K+VD" => (c_n + DELTA[0]) * (1.0 - by_host) + c_v * by_host,
            "4K+GD" => (c_n + DELTA[1]) * (1.0 - by_guest) + c_v * by_guest,
            "DD" => {
                let vmm = left * (1.0 - by_host) * by_guest;
                let guest = left * by_host * (1.0 - by_guest);
                let outside = left * by_host * by_guest;
                (c_n + DELTA[0]) * vmm + (c_n + DELTA[1]) * guest + c_v * outside
            }
            _ => return None,
        };
        Some(cycles * misses / (self.ideal * o.accesses as f64))
    }
}

/// Accesses to warm up with (several times the lines of the last-level cache), and to count.
pub const ACCESSES: (u64, u64) = (1_500_000, 1_500_000);

/// One class under the systems of `labels`, all if there are none. `footprint` is that of big-memory classes,
/// `accesses` are those to warm up with and to count.
///
/// # Errors
/// [`ExperimentError`].
pub fn class(
    class: Class,
    footprint: &str,
    labels: &[&str],
    accesses: (u64, u64),
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<ClassReport, ExperimentError> {
    let profile = profile()?;
    let workload = class.workload.replace("{}", footprint);
    // Programs that run on reserved huge pages ask for them, and lay their memory out for them.
    let mut outcomes: Vec<(&str, Outcome)> = Vec::new();
    let mut refused = Vec::new();
    for (advice, spec) in
        [("", workload.clone()), ("2m", with_advice(&workload, "2m")), ("1g", with_advice(&workload, "1g"))]
    {
        let wanted = |label: &str| labels.is_empty() || labels.contains(&label);
        let of_group = SYSTEMS.iter().filter(|(label, _)| advice_of(label) == advice && wanted(label));
        if of_group.clone().next().is_none() {
            continue;
        }
        let systems = of_group.clone().map(|(_, name)| parse(name)).collect::<Result<Vec<_>, _>>()?;
        match modelled(&profile, &systems, &spec, accesses.0, accesses.1, progress) {
            Ok(done) => outcomes.extend(of_group.map(|(label, _)| *label).zip(done)),
            // Workloads of small mappings take no reserved pages.
            Err(error @ (ExperimentError::Source(_) | ExperimentError::World { .. }))
                if !advice.is_empty() =>
            {
                refused.extend(of_group.map(|(label, _)| (label.to_string(), error.to_string())));
            }
            Err(error) => return Err(error),
        }
    }
    let find = |wanted: &str| {
        let found = outcomes.iter().find(|(label, _)| *label == wanted).map(|(_, outcome)| outcome);
        found.ok_or_else(|| ExperimentError::input(wanted, "the run has no such system"))
    };
    let ideal = outcomes.iter().map(|(_, o)| o.cycles_per_access()).fold(f64::INFINITY, f64::min);
    let linear = Linear { native: find("4K")?, nested: find("4K+4K")?, ideal };
    let order = |label: &str| SYSTEMS.iter().position(|(name, _)| *name == label);
    let mut rows: Vec<Overhead> = outcomes
        .iter()
        .map(|(label, o)| Overhead {
            label,
            system: o.system.clone(),
            overhead: o.cycles_per_access() / ideal - 1.0,
            linear: linear.overhead(label, o),
            paper: PAPER
                .iter()
                .find(|(name, system, ..)| *name == class.name && system == label)
                .map(|(_, _, value, tag)| (*value, *tag)),
            misses: 1000.0 * ratio(o.tlb.stlb_misses, o.accesses),
            walk: o.translation.mean_walk,
            references: o.walks.references_per_walk,
            direct: ratio(o.walks.direct_hits, o.tlb.l1_misses),
        })
        .collect();
    rows.sort_by_key(|row| order(row.label));
    Ok(ClassReport { class, workload, ideal, rows, refused })
}

/// Which reserved pages the program under a system asks for.
fn advice_of(label: &str) -> &'static str {
    match label {
        "2M" | "2M+2M" | "2M+1G" => "2m",
        "1G" => "1g",
        _ => "",
    }
}

fn with_advice(workload: &str, advice: &str) -> String {
    format!("{workload},advice={advice}")
}

/// How much more often 4 KiB nested walks cost than native ones, and how far VMM Direct is from
/// native, over classes: the paper's two averages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Averages {
    /// Geometric mean of the overhead of 4K+4K over that of 4K; the paper: 3.6 `[M-m]`.
    pub virtualisation: f64,
    /// Mean slow-down of VMM Direct against native 4 KiB, less one; the paper: 2 % `[F:abs]`.
    pub vmm_direct: f64,
    /// Mean overhead of Dual Direct in big-memory classes; the paper: near zero `[F:abs]`.
    pub dual_direct: f64,
}

/// Over some classes.
pub fn averages(classes: &[ClassReport]) -> Averages {
    let of = |class: &ClassReport, label: &str| {
        class.rows.iter().find(|row| row.label == label).map_or(0.0, |row| row.overhead)
    };
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
    // A class whose translation costs nothing natively says nothing about how much more it costs.
    let ratios = classes.iter().filter(|c| of(c, "4K") > 0.005).map(|c| (of(c, "4K+4K") / of(c, "4K")).ln());
    Averages {
        virtualisation: mean(ratios.collect()).exp(),
        vmm_direct: mean(
            classes.iter().map(|c| (1.0 + of(c, "4K+VD")) / (1.0 + of(c, "4K")) - 1.0).collect(),
        ),
        dual_direct: mean(classes.iter().filter(|c| c.class.big).map(|c| of(c, "DD")).collect()),
    }
}

/// The paper's numbers beside ours, as far as what was run can tell.
pub fn published(classes: &[ClassReport], bad: &[BadFrames]) -> Vec<Row> {
    let of = |class: &ClassReport| -> Vec<Row> {
        let name = class.class.name;
        let row = |o: &Overhead| {
            let (paper, tag) = o.paper?;
            let paper = (paper, tag.trim_matches(['[', ']']));
            Some(Row::new(name, format!("{name}, {}: overhead", o.label), Unit::Share, paper, o.overhead))
        };
        class.rows.iter().filter_map(row).collect()
    };
    let mut rows: Vec<Row> = classes.iter().flat_map(of).collect();
    if !classes.is_empty() {
        let a = averages(classes);
        let overhead = "overhead of 4K+4K over that of 4K, geometric mean";
        rows.push(Row::new("mean", overhead, Unit::Mean, (3.6, "M-m"), a.virtualisation));
        rows.push(Row::new(
            "mean",
            "VMM Direct against native, mean time",
            Unit::Change,
            (0.02, "F:abs"),
            a.vmm_direct,
        ));
        rows.push(Row::new(
            "mean",
            "Dual Direct, big memory, mean overhead",
            Unit::Share,
            (0.0, "F:abs"),
            a.dual_direct,
        ));
    }
    if let Some(row) = bad.iter().find(|row| (row.system, row.bad, row.filter) == ("vmm-direct", 16, 256)) {
        let what = "16 faulty frames, VMM Direct, GUPS: time";
        rows.push(Row::new("bad", what, Unit::Change, (0.005, "M-m"), row.slowdown).at_most());
    }
    rows
}

/// Faulty frames tried: the paper's, and beyond.
pub const BAD: [u32; 8] = [0, 1, 2, 4, 8, 16, 32, 64];

/// Systems and bits of their filters.
pub const FILTERS: [(&str, u32); 3] = [("vmm-direct", 256), ("dual-direct", 256), ("dual-direct", 1024)];

/// Faulty frames (`levels`, none first) in random places, under GUPS, which reaches all of its memory alike.
///
/// # Errors
/// [`ExperimentError`].
pub fn bad_frames(
    footprint: &str,
    cases: &[(&'static str, u32)],
    levels: &[u32],
    accesses: (u64, u64),
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<BadFrames>, ExperimentError> {
    let profile = profile()?;
    let workload = format!("gups:footprint={footprint}");
    let mut rows = Vec::new();
    for &(base, filter) in cases {
        let name = |bad: &u32| match (*bad, filter) {
            (0, 256) => base.to_string(),
            (0, _) => format!("{base}+filter={filter}"),
            (bad, 256) => format!("{base}+bad={bad}"),
            (bad, _) => format!("{base}+bad={bad}+filter={filter}"),
        };
        let systems = levels.iter().map(|bad| parse(&name(bad))).collect::<Result<Vec<_>, _>>()?;
        let outcomes = modelled(&profile, &systems, &workload, accesses.0, accesses.1, progress)?;
        let whole = outcomes[0].cycles;
        rows.extend(levels.iter().zip(&outcomes).map(|(&bad, o)| {
            let segments = o.segments.clone().unwrap_or_default();
            BadFrames {
                system: base,
                bad,
                filter,
                slowdown: ratio(o.cycles - o.software.cycles, whole - outcomes[0].software.cycles) - 1.0,
                mapping: ratio(o.software.cycles, whole),
                false_positives: segments.false_positives,
                escapes: 1000.0 * ratio(o.walks.checks[2], o.accesses),
                departures: segments.departures,
            }
        }));
    }
    Ok(rows)
}

/// Self-ballooning and the VMM's segment from a guest memory at several levels of fragmentation.
///
/// # Errors
/// [`ExperimentError`].
pub fn ballooning(footprint: &str) -> Result<Vec<Ballooning>, ExperimentError> {
    let profile = profile()?;
    let workload = format!("gups:footprint={footprint},populate=demand");
    let mut rows = Vec::new();
    for fragmentation in [0.0, 0.25, 0.5, 0.75, 0.9, 1.0] {
        let name = match fragmentation {
            0.0 => "dual-direct".to_string(),
            level => format!("dual-direct+frag={level}"),
        };
        let world = fresh_world(&profile, &name, &built(&workload)?.setup()?)?;
        rows.push(row(fragmentation, &world.segments().unwrap_or_default(), &profile));
    }
    Ok(rows)
}

fn row(fragmentation: f64, segments: &SegmentOutcome, profile: &Profile) -> Ballooning {
    let ms = |what: &dyn Fn(&str) -> bool| {
        let cycles: u64 = segments.steps.iter().filter(|s| what(&s.what)).map(|s| s.cycles).sum();
        cycles as f64 / (profile.clock.mhz as f64 * 1000.0)
    };
    Ballooning {
        fragmentation,
        mode: segments.mode.clone(),
        ballooned: segments.steps.iter().map(|s| s.ballooned).sum(),
        guest_ms: ms(&|what| what.contains("process")),
        vmm_ms: ms(&|what| what.contains("VMM")),
        refused: segments.steps.iter().find_map(|s| s.refused.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_system_and_workload_of_the_report_exists() {
        for (_, name) in SYSTEMS {
            parse(name).expect(name);
        }
        for class in CLASSES {
            workloads::build(&class.workload.replace("{}", "1GiB"), 1).expect(class.name);
        }
        assert!(PAPER.iter().all(|(class, label, ..)| {
            CLASSES.iter().any(|c| c.name == *class) && SYSTEMS.iter().any(|(l, _)| l == label)
        }));
    }

    #[test]
    fn averages_are_what_they_say() {
        let row = |label, overhead| Overhead {
            label,
            system: String::new(),
            overhead,
            linear: None,
            paper: None,
            misses: 0.0,
            walk: 0.0,
            references: 0.0,
            direct: 0.0,
        };
        let class = |native, nested, vmm| ClassReport {
            class: CLASSES[0],
            workload: String::new(),
            ideal: 1.0,
            rows: vec![row("4K", native), row("4K+4K", nested), row("4K+VD", vmm), row("DD", 0.01)],
            refused: Vec::new(),
        };
        let a = averages(&[class(0.1, 0.2, 0.12), class(0.1, 0.8, 0.12), class(0.0, 0.0, 0.0)]);
        assert!((a.virtualisation - 4.0).abs() < 1e-9);
        assert!((a.vmm_direct - 2.0 / 3.0 * (1.12 / 1.1 - 1.0)).abs() < 1e-9);
        assert!((a.dual_direct - 0.01).abs() < 1e-9);
    }
}
