//! What is counted of a system at work.

use serde::Serialize;

/// Counts of a run since it counts, or of a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Accesses.
    pub accesses: u64,
    /// Cycles, summed over cores.
    pub cycles: u64,
    /// First-level TLB misses.
    pub l1_misses: u64,
    /// Second-level TLB misses.
    pub stlb_misses: u64,
    /// Walks that ended in a leaf.
    pub walks: u64,
    /// Cycles with at least one walk in progress.
    pub walk_active: u64,
    /// Cycles of all walks added up.
    pub walk_pending: u64,
    /// Cycles of kernel and hypervisor.
    pub software: u64,
    /// Page faults.
    pub faults: u64,
    /// Exits to the hypervisor.
    pub exits: u64,
}

impl Counts {
    /// What came after `from`.
    pub(crate) fn since(&self, from: &Counts) -> Counts {
        Counts {
            accesses: self.accesses - from.accesses,
            cycles: self.cycles - from.cycles,
            l1_misses: self.l1_misses - from.l1_misses,
            stlb_misses: self.stlb_misses - from.stlb_misses,
            walks: self.walks - from.walks,
            // Walks that began before count there as a whole, also what was left of them.
            walk_active: self.walk_active.saturating_sub(from.walk_active),
            walk_pending: self.walk_pending.saturating_sub(from.walk_pending),
            software: self.software - from.software,
            faults: self.faults - from.faults,
            exits: self.exits - from.exits,
        }
    }
}
