//! Where systems that are at work tell how far they are, for whoever watches.

use super::Sample;
use std::sync::Mutex;

/// A board: one line for each system.
#[derive(Debug, Default)]
pub struct Board(Mutex<Vec<Standing>>);

/// How far a system is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The system.
    pub system: String,
    /// It still warms up, and nothing is counted.
    pub warming: bool,
    /// Accesses so far, warm-up included.
    pub seen: u64,
    /// Of what was counted: accesses.
    pub accesses: u64,
    /// Cycles.
    pub cycles: u64,
    /// First-level TLB misses.
    pub l1_misses: u64,
    /// Second-level TLB misses.
    pub stlb_misses: u64,
    /// Walks.
    pub walks: u64,
    /// Cycles with a walk in progress.
    pub walk_active: u64,
    /// Cycles of all walks.
    pub walk_pending: u64,
    /// Cycles of kernel and hypervisor.
    pub software: u64,
    /// Page faults.
    pub faults: u64,
    /// Exits to the hypervisor.
    pub exits: u64,
}

impl Board {
    /// All lines, as they are now.
    pub fn standings(&self) -> Vec<Standing> {
        self.0.lock().map(|lines| lines.clone()).unwrap_or_default()
    }

    /// Second-level misses so far of the system that has most.
    pub fn misses(&self) -> u64 {
        self.0.lock().map_or(0, |lines| lines.iter().map(|line| line.stlb_misses).max().unwrap_or(0))
    }

    pub(crate) fn begin(&self, systems: impl Iterator<Item = String>) {
        if let Ok(mut lines) = self.0.lock() {
            *lines =
                systems.map(|system| Standing { system, warming: true, ..Standing::default() }).collect();
        }
    }

    pub(crate) fn tell(&self, line: usize, seen: u64, warming: bool, sample: &Sample) {
        let Ok(mut lines) = self.0.lock() else { return };
        if let Some(line) = lines.get_mut(line) {
            *line = Standing {
                system: std::mem::take(&mut line.system),
                warming,
                seen,
                accesses: sample.accesses,
                cycles: sample.cycles,
                l1_misses: sample.l1_misses,
                stlb_misses: sample.stlb_misses,
                walks: sample.walks,
                walk_active: sample.walk_active,
                walk_pending: sample.walk_pending,
                software: sample.software,
                faults: sample.faults,
                exits: sample.exits,
            };
        }
    }
}
