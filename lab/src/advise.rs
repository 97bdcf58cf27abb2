//! What would help a program: remedies, alone and together, with what each costs and needs.
//!
//! A remedy is a system beside the one that the program runs on today. All of them run on the same
//! accesses, so what one gains is a ratio of the same work; runs with other seeds (other
//! places in memory, another order of random accesses where a generator makes them) say how sure that is.

use crate::numa::Replication;
use crate::outcome::Outcome;
use crate::system::{Placement, Side, System};
use serde::Serialize;

/// Who can apply a remedy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// An administrator or the program, with kernels as they are.
    Today,
    /// Who changes a kernel or a hypervisor.
    Kernel,
    /// Who builds processors.
    Hardware,
}

impl Reach {
    /// All, the nearest first.
    pub const ALL: [Reach; 3] = [Reach::Today, Reach::Kernel, Reach::Hardware];

    /// What it takes, in a few words.
    pub fn says(self) -> &'static str {
        match self {
            Reach::Today => "today, with kernels as they are",
            Reach::Kernel => "with a changed kernel or hypervisor",
            Reach::Hardware => "with changed hardware",
        }
    }
}

/// Something that may help.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Remedy {
    /// The system that has it.
    pub system: &'static str,
    /// Who can apply it.
    pub reach: Reach,
    /// What it needs, and of whom.
    pub needs: &'static str,
}

const fn remedy(system: &'static str, reach: Reach, needs: &'static str) -> Remedy {
    Remedy { system, reach, needs }
}

/// For a program without a VM; the first is what it runs on today.
pub fn native() -> Vec<Remedy> {
    NATIVE.iter().copied().chain(crate::named::remedies(false)).collect()
}

/// For a program in a VM.
pub fn in_vm() -> Vec<Remedy> {
    VIRTUAL.iter().copied().chain(crate::named::remedies(true)).collect()
}

/// NUMA balancing, and tables that follow it, are not among them: it works over minutes, of which a run has
/// milliseconds, and what a scan costs would be set against the work of far too short a time.
const NATIVE: &[Remedy] = &[
    remedy("native", Reach::Today, "as it is: 4 KiB pages"),
    remedy("native-thp", Reach::Today, "transparent_hugepage=always, or madvise in the program"),
    remedy("native-2m", Reach::Today, "hugetlbfs pages of 2 MiB, reserved before"),
    remedy("native-1g", Reach::Today, "hugetlbfs pages of 1 GiB, reserved at boot"),
    remedy("native+placement=interleave", Reach::Today, "numactl --interleave=all"),
    remedy("native+mitosis", Reach::Kernel, "kernel: page tables on every node (Mitosis)"),
    remedy("native-thp+mitosis", Reach::Kernel, "kernel: Mitosis; huge pages"),
    remedy(
        "native+babelfish",
        Reach::Hardware,
        "processor and kernel: TLB entries and tables shared by a group (BabelFish)",
    ),
    remedy("native+mitosis+babelfish", Reach::Hardware, "the same, with page tables on every node"),
    remedy("direct-segment", Reach::Hardware, "processor and kernel: a segment for the heap"),
    remedy("direct-segment-thp", Reach::Hardware, "the same, with huge pages outside of it"),
];

const VIRTUAL: &[Remedy] = &[
    remedy("nested", Reach::Today, "as it is: 4 KiB pages in guest and host"),
    remedy("nested-4k-thp", Reach::Today, "host: transparent huge pages"),
    remedy("nested-thp-4k", Reach::Today, "guest: transparent huge pages"),
    remedy("nested-thp-thp", Reach::Today, "guest and host: transparent huge pages"),
    remedy("nested-1g-1g", Reach::Today, "guest and host: hugetlbfs pages of 1 GiB"),
    remedy("shadow", Reach::Today, "host: shadow paging (kvm ept=0, npt=0)"),
    remedy("nested+vnuma", Reach::Today, "host: a guest that sees the machine's nodes, bound to them"),
    remedy("nested+host-placement=interleave", Reach::Today, "host: VM memory interleaved over nodes"),
    remedy("nested+ptemagnet", Reach::Kernel, "guest: frame reservations (PTEMagnet)"),
    remedy("nested+host-mitosis", Reach::Kernel, "host: the VM's tables on every node (vMitosis)"),
    remedy(
        "nested+vnuma+mitosis+host-mitosis",
        Reach::Kernel,
        "guest and host: both tables on every node (vMitosis)",
    ),
    remedy("nested+mitosis=no-p+host-mitosis", Reach::Kernel, "the same, for a guest that sees one node"),
    remedy("nested-thp-thp+vnuma+mitosis+host-mitosis", Reach::Kernel, "the same, with huge pages"),
    remedy(
        "nested+vnuma+mitosis+host-mitosis+ptemagnet",
        Reach::Kernel,
        "both tables on every node, and reservations",
    ),
    remedy(
        "agile",
        Reach::Hardware,
        "processor, host: shadow tables at the top, nested below (agile paging)",
    ),
    remedy(
        "passthrough",
        Reach::Hardware,
        "guest, host, frame tags in the processor: the guest maps host frames (Translation Pass-Through)",
    ),
    remedy("passthrough-thp-thp", Reach::Hardware, "the same, with huge pages in guest and host"),
    remedy(
        "passthrough+vnuma+mitosis+twin-free",
        Reach::Hardware,
        "the same, the whole guest enlightened and its tables on every node (Mitosis)",
    ),
    remedy(
        "nested+babelfish",
        Reach::Hardware,
        "processor, guest: translations shared by a group (BabelFish)",
    ),
    remedy(
        "vmm-direct",
        Reach::Hardware,
        "processor, host: the VM's memory, reserved whole, behind a segment (VMM Direct)",
    ),
    remedy("vmm-direct-thp-4k", Reach::Hardware, "the same, with huge pages in the guest"),
    remedy("vmm-direct+ptemagnet", Reach::Hardware, "the same, with reservations in the guest"),
    remedy("guest-direct", Reach::Hardware, "processor, guest: a segment for the heap (Guest Direct)"),
    remedy("dual-direct", Reach::Hardware, "processor, guest, host: both segments (Dual Direct)"),
];

/// What a program is like, as far as it decides what makes sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Situation {
    /// Nodes of the machine.
    pub nodes: usize,
    /// Processes of the input.
    pub processes: usize,
    /// Its processes start from a real layout, which segments contradict.
    pub real_layout: bool,
}

impl Situation {
    /// The systems of `remedies` that make sense, the one of today first.
    pub fn systems(&self, remedies: &[Remedy]) -> Vec<(Remedy, System)> {
        let known = remedies.iter().filter_map(|r| System::parse(r.system).ok().map(|system| (*r, system)));
        known.filter(|(_, system)| self.admits(system)).collect()
    }

    fn admits(&self, system: &System) -> bool {
        let placed =
            |side: &Side| side.replication != Replication::Off || side.placement != Placement::FirstTouch;
        let of_nodes = system.vnuma || placed(&system.kernel) || placed(&system.host);
        system.check_on(self.nodes).is_ok()
            && (self.nodes > 1 || !of_nodes)
            && (self.processes > 1 || system.babelfish.is_none())
            && !(self.real_layout && system.translation.is_segmented())
    }
}

/// A number over several seeds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Spread {
    /// Their mean.
    pub mean: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Spread {
        let values: Vec<f64> = values.collect();
        let count = values.len().max(1) as f64;
        Spread {
            mean: values.iter().sum::<f64>() / count,
            low: values.iter().copied().fold(f64::INFINITY, f64::min),
            high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// What a remedy does for a program.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Verdict {
    /// Which.
    pub remedy: Remedy,
    /// Share of the cycles that it saves; negative if it costs some.
    pub saves: Spread,
    /// Share of cycles with a walk in progress that is left.
    pub walks: f64,
    /// 4 KiB frames more than today, page tables included.
    pub frames: i64,
    /// Bytes of page tables more than today.
    pub table_bytes: i64,
    /// Cycles of kernel and hypervisor, for each access, more than today.
    pub software: f64,
    /// It helps under every seed.
    pub sure: bool,
}

/// Below this share of the cycles nobody would call it a help.
pub const WORTH: f64 = 0.005;

/// What each remedy does: `runs` has the outcomes under each seed, in the order of `remedies`, today's first.
pub fn verdicts(remedies: &[Remedy], runs: &[Vec<Outcome>]) -> Vec<Verdict> {
    let of = |at: usize, f: &dyn Fn(&Outcome, &Outcome) -> f64| {
        Spread::of(runs.iter().filter_map(|outcomes| Some(f(outcomes.get(at)?, outcomes.first()?))))
    };
    let verdict = |(at, remedy): (usize, &Remedy)| {
        let saves = of(at, &|o, today| 1.0 - o.slowdown(today));
        let software = |o: &Outcome| o.software.cycles as f64 / o.accesses.max(1) as f64;
        Verdict {
            remedy: *remedy,
            saves,
            walks: of(at, &|o, _| o.translation.share).mean,
            frames: of(at, &|o, today| o.software.frames as f64 - today.software.frames as f64).mean as i64,
            table_bytes: of(at, &|o, today| o.tables.total() as f64 - today.tables.total() as f64).mean
                as i64,
            software: of(at, &|o, today| software(o) - software(today)).mean,
            sure: saves.low > WORTH,
        }
    };
    remedies.iter().enumerate().map(verdict).collect()
}

/// The verdict that saves most among those that need no more than `reach`, if any is worth it.
pub fn best(verdicts: &[Verdict], reach: Reach) -> Option<&Verdict> {
    verdicts
        .iter()
        .filter(|v| v.remedy.reach <= reach && v.sure)
        .max_by(|a, b| a.saves.mean.total_cmp(&b.saves.mean))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_remedy_is_a_system_and_today_comes_first() {
        for remedies in [native(), in_vm()] {
            for remedy in &remedies {
                assert_eq!(System::parse(remedy.system).unwrap().to_string(), remedy.system);
            }
            assert_eq!(remedies[0].reach, Reach::Today);
            let reaches: Vec<Reach> = remedies.iter().map(|r| r.reach).collect();
            assert!(reaches.is_sorted());
        }
    }

    #[test]
    fn what_makes_no_sense_is_not_tried() {
        let one = Situation { nodes: 1, processes: 1, real_layout: true };
        let names: Vec<&str> = one.systems(&native()).iter().map(|(r, _)| r.system).collect();
        assert!(names.starts_with(&["native", "native-thp", "native-2m", "native-1g"]), "{names:?}");
        assert!(
            !names.iter().any(|name| ["mitosis", "babelfish", "segment"].iter().any(|no| name.contains(no)))
        );
        let many = Situation { nodes: 4, processes: 2, real_layout: false };
        assert_eq!(many.systems(&native()).len(), native().len());
        assert_eq!(many.systems(&in_vm()).len(), in_vm().len());
    }

    #[test]
    fn a_gain_that_one_seed_denies_is_not_sure() {
        let outcome = |cycles| Outcome { accesses: 100, cycles, ..Outcome::default() };
        let remedies = &NATIVE[..2];
        let runs = [vec![outcome(1000), outcome(900)], vec![outcome(1000), outcome(1010)]];
        let verdicts = verdicts(remedies, &runs);
        assert!((verdicts[1].saves.mean - 0.045).abs() < 1e-9 && !verdicts[1].sure);
        assert_eq!(best(&verdicts, Reach::Hardware), None);
        let runs = [vec![outcome(1000), outcome(900)], vec![outcome(1000), outcome(950)]];
        let verdicts = super::verdicts(remedies, &runs);
        assert_eq!(best(&verdicts, Reach::Today).unwrap().remedy.system, "native-thp");
    }
}
