//! Mechanisms alone and together: whether what each saves adds up.
//!
//! No paper has these numbers: each measured its own mechanism. Both walk lengths and where walks go may be
//! attacked at once, so what two mechanisms save is compared with the product of what each leaves.

use super::{builtin, modelled, parse};
use crate::experiment::{ExperimentError, Progress};
use crate::outcome::Outcome;
use serde::Serialize;
use std::ops::ControlFlow;

/// Two mechanisms, and where they meet.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pair {
    /// Its name here.
    pub name: &'static str,
    /// What it is about.
    pub title: &'static str,
    /// As `pagewalk -w` takes it; `{}` is the footprint.
    pub workload: &'static str,
    /// Accesses for each page of the footprint until what is done once is done: programs that fill it within the stream,
    /// and first walks of a guest's copies of tables, which the host backs then.
    pub filling: u64,
    /// Neither, the first alone, the second alone, both.
    pub systems: [&'static str; 4],
}

/// All of them. Threads are on all four sockets of the machine where tables on every node are about.
///
/// `chase:pattern=grp8` visits eight neighbouring pages, and then eight others at random, as a program does whose records
/// have 32 KiB: PTEMagnet is for such, and random single pages gain nothing by it.
pub const PAIRS: [Pair; 5] = [
    Pair {
        name: "ptemagnet-mitosis",
        title: "PTEMagnet, and both tables of a VM on every node, beside a program that fills its memory at the same time",
        workload: "chase:footprint={},pattern=grp8,threads=4 + xz:footprint=256MiB",
        filling: 2,
        systems: [
            "nested+vnuma+spread",
            "nested+vnuma+spread+ptemagnet",
            "nested+vnuma+spread+mitosis+host-mitosis",
            "nested+vnuma+spread+mitosis+host-mitosis+ptemagnet",
        ],
    },
    Pair {
        name: "babelfish-mitosis",
        title: "BabelFish, and tables on every node, for containers of one image on all sockets",
        workload: "fio:cores=4,containers=8,block=64B,write=0,dataset={},pre_read=yes",
        filling: 12,
        systems: [
            "native+spread",
            "native+spread+babelfish",
            "native+spread+mitosis",
            "native+spread+mitosis+babelfish",
        ],
    },
    Pair {
        name: "passthrough-mitosis",
        title: "pass-through, and tables on every node: a guest whose tables name host frames can copy them to where its CPUs are",
        workload: "canneal:footprint={},threads=4",
        filling: 4,
        systems: [
            "nested+vnuma+spread",
            "passthrough+vnuma+spread+overlapped-check+twin-free",
            "nested+vnuma+spread+mitosis+host-mitosis",
            "passthrough+vnuma+spread+mitosis+overlapped-check+twin-free",
        ],
    },
    Pair {
        name: "vmm-direct-ptemagnet",
        title: "VMM Direct on a machine with 64 faulty frames, and PTEMagnet: what the escape filter takes for faulty is paged, and \
                its host entries lie together",
        workload: "chase:footprint={},pattern=grp8 + xz:footprint=256MiB",
        filling: 3,
        systems: ["nested", "vmm-direct+bad=64", "nested+ptemagnet", "vmm-direct+ptemagnet+bad=64"],
    },
    Pair {
        name: "thp",
        title: "huge pages in guest and host under fragmentation, and all that serves the 4 KiB pages that are left",
        workload: "chase:footprint={},pattern=grp8,threads=4 + xz:footprint=256MiB",
        filling: 2,
        systems: [
            "nested+vnuma+spread",
            "nested-thp-thp+frag=0.999+host-frag=0.999+vnuma+spread",
            "nested+vnuma+spread+mitosis+host-mitosis+ptemagnet",
            "nested-thp-thp+frag=0.999+host-frag=0.999+vnuma+spread+mitosis+host-mitosis+ptemagnet",
        ],
    },
];

/// What a pair does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Met {
    /// Cycles per access under each of [`Pair::systems`].
    pub cycles: [f64; 4],
    /// Share of the cycles with a walk in progress.
    pub walks: [f64; 4],
    /// Share of the cycles that the first, the second, and both save.
    pub saves: [f64; 3],
    /// What both would save if each left the same share of the cycles with and without the other.
    pub expected: f64,
}

impl Met {
    fn of(outcomes: &[Outcome; 4]) -> Met {
        let cycles = outcomes.each_ref().map(Outcome::cycles_per_access);
        let left = |at: usize| cycles[at] / cycles[0];
        Met {
            cycles,
            walks: outcomes.each_ref().map(|o| o.translation.share),
            saves: [1, 2, 3].map(|at| 1.0 - left(at)),
            expected: 1.0 - left(1) * left(2),
        }
    }

    /// Both together save more than either alone, by more than half a percent of the cycles.
    pub fn pays(&self) -> bool {
        self.saves[2] > self.saves[0].max(self.saves[1]) + crate::advise::WORTH
    }
}

/// Runs a pair on four sockets.
///
/// # Errors
/// [`ExperimentError`].
pub fn meet(
    pair: &Pair,
    footprint: &str,
    accesses: u64,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Met, ExperimentError> {
    let profile = builtin("cascade-lake")?;
    let systems = pair.systems.into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let workload = pair.workload.replace("{}", footprint);
    let bytes = workloads::size(footprint)
        .ok_or_else(|| ExperimentError::input(footprint, "not a footprint such as 4GiB"))?;
    let warmup = accesses / 2 + pair.filling * (bytes >> 12);
    let outcomes = modelled(&profile, &systems, &workload, warmup, accesses, progress)?;
    let ended = |_| ExperimentError::input(pair.name, "the run ended before all systems were done");
    let outcomes: [Outcome; 4] = outcomes.try_into().map_err(ended)?;
    Ok(Met::of(&outcomes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::System;

    #[test]
    fn every_pair_is_of_systems() {
        for pair in &PAIRS {
            for name in pair.systems {
                assert!(System::parse(name).is_ok(), "{name}: {:?}", System::parse(name));
            }
            assert!(workloads::build(&pair.workload.replace("{}", "64MiB"), 1).is_ok(), "{}", pair.workload);
        }
    }

    #[test]
    fn together_is_compared_with_the_product() {
        let outcome = |cycles| Outcome { accesses: 100, cycles, ..Outcome::default() };
        let met = Met::of(&[1000, 900, 800, 720].map(outcome));
        assert!((met.expected - 0.28).abs() < 1e-9 && (met.saves[2] - 0.28).abs() < 1e-9 && met.pays());
        assert!(!Met::of(&[1000, 900, 800, 799].map(outcome)).pays());
    }
}
