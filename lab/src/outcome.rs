//! What an experiment found, as data: the same for people and for programs.

use crate::containers::{RequestCounts, Shareable, SharingCounts};
use crate::passthrough::PassThroughOutcome;
use crate::segments::SegmentOutcome;
use crate::world::TableDump;
use machine::metrics::{Counters, Served};
use machine::timing::TICKS;
use paging::lines::HostLines;
use serde::Serialize;

/// Version of the shape of [`Outcome`] in JSON. Raised when a field changes
/// its meaning or goes away, not when one is added.
pub const SCHEMA: u32 = 1;

/// One system under one workload on one machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The system's name.
    pub system: String,
    /// The machine profile's name.
    pub machine: String,
    /// The workload or trace.
    pub workload: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Accesses before counting began.
    pub warmup: u64,
    /// Accesses counted.
    pub accesses: u64,
    /// Instructions of the accesses counted.
    pub instructions: u64,
    /// Cycles, summed over the cores that ran.
    pub cycles: u64,
    /// Cycles of the core that took longest.
    pub elapsed_cycles: u64,
    /// Where translation took its time.
    pub translation: TranslationCost,
    /// Misses.
    pub tlb: TlbCounts,
    /// Walks.
    pub walks: WalkCounts,
    /// Data accesses by where their line was found.
    pub data: ServedCounts,
    /// What software did.
    pub software: SoftwareCounts,
    /// Bytes of page tables at the end; of processes that ended, before they did.
    pub tables: TableBytes,
    /// Where the frames of a process with a real layout are; `None` without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<LayoutCounts>,
    /// In a VM: how the processes' tables lie in the VM's, at the end.
    pub host_lines: Option<LineCounts>,
    /// Direct segments; `None` for systems without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segments: Option<SegmentOutcome>,
    /// Pass-through; `None` for systems without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passthrough: Option<PassThroughOutcome>,
    /// Requests and start-ups; `None` if the input marks none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestCounts>,
    /// What containers of one image have the same at the end; `None` without groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shareable: Option<Shareable>,
    /// What BabelFish shared; `None` without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharing: Option<SharingCounts>,
    /// Accesses checked by the oracle; `None` without `--verify`.
    pub verified: Option<u64>,
    /// Dumps of page tables, if they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub table_dumps: Vec<TableDump>,
}

/// Frames of 4 KiB of a process that has a real layout, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LayoutCounts {
    /// Where the layout says.
    pub placed: u64,
    /// Elsewhere: of pages that the layout does not have, or has no frame for.
    pub elsewhere: u64,
}

/// Cycles of translation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TranslationCost {
    /// Cycles with at least one walk in progress (`walk_active`).
    pub walk_active: u64,
    /// Cycles of all walks added up (`walk_pending`); may exceed all cycles.
    pub walk_pending: u64,
    /// Cycles of the walker's references to the processes' tables.
    pub guest_references: u64,
    /// Cycles of its references to the VM's table.
    pub host_references: u64,
    /// Cycles that second-level TLB hits added, hidden or not.
    pub stlb_hits: u64,
    /// `walk_active` as a share of all cycles, 0 to 1.
    pub share: f64,
    /// Mean cycles of a walk that ended in a leaf.
    pub mean_walk: f64,
}

/// Cache lines of host entries behind the cache lines of guest entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LineCounts {
    /// Mean over groups of 8 neighbouring pages of which at least 2 are mapped: 1 to 8.
    pub mean: f64,
    /// The same over groups that are mapped as a whole.
    pub mean_whole: f64,
    /// Whole groups by their host lines: 1 to 8.
    pub whole: [u64; 8],
    /// Groups of 2 to 7 mapped pages by their host lines.
    pub partial: [u64; 8],
    /// Groups of a single page.
    pub single: u64,
    /// Huge pages, which have no entry in a line of small ones.
    pub huge: u64,
}

impl From<HostLines> for LineCounts {
    fn from(lines: HostLines) -> Self {
        LineCounts {
            mean: lines.mean(),
            mean_whole: lines.mean_whole(),
            whole: lines.whole,
            partial: lines.partial,
            single: lines.single,
            huge: lines.huge,
        }
    }
}

/// TLB misses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TlbCounts {
    /// First-level misses, data and fetches.
    pub l1_misses: u64,
    /// Second-level misses, data and fetches.
    pub stlb_misses: u64,
    /// First-level misses per thousand accesses.
    pub l1_per_thousand: f64,
    /// Second-level misses per thousand accesses.
    pub stlb_per_thousand: f64,
    /// Second-level hits on an entry of another address space.
    pub shared_hits: u64,
    /// Of `stlb_misses`, those of fetches.
    pub stlb_fetch_misses: u64,
}

/// Counts by where something was served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ServedCounts {
    /// Not made, thanks to a page-walk cache.
    pub pwc: u64,
    /// Not made, thanks to the nested TLB.
    pub ntlb: u64,
    /// L1 cache.
    pub l1: u64,
    /// L2 cache.
    pub l2: u64,
    /// Last-level cache.
    pub llc: u64,
    /// Memory of the own node.
    pub local: u64,
    /// Memory of another node.
    pub remote: u64,
}

impl From<[u64; 7]> for ServedCounts {
    fn from(by: [u64; 7]) -> Self {
        let get = |s: Served| by[s as usize];
        ServedCounts {
            pwc: get(Served::WalkCache),
            ntlb: get(Served::NestedTlb),
            l1: get(Served::L1),
            l2: get(Served::L2),
            llc: get(Served::Llc),
            local: get(Served::Local),
            remote: get(Served::Remote),
        }
    }
}

impl ServedCounts {
    /// The references that were made.
    pub fn references(&self) -> u64 {
        self.l1 + self.l2 + self.llc + self.local + self.remote
    }
}

/// The references at one place of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CellCounts {
    /// Guest (or native) level, 0 for the data page's host walk.
    pub guest: u8,
    /// Host level, 0 for the guest's own entry.
    pub host: u8,
    /// By where they were served.
    #[serde(flatten)]
    pub served: ServedCounts,
    /// Cycles of those that were made, by where they were served.
    pub cycles: ServedCounts,
}

/// Walks by how long they took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LatencyBucket {
    /// Cycles, at least.
    pub from: u64,
    /// Fewer cycles than this.
    pub below: u64,
    /// Walks.
    pub walks: u64,
}

/// Walks and their references.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WalkCounts {
    /// Walks that ended in a leaf.
    pub completed: u64,
    /// Walks that ended in a fault.
    pub faulted: u64,
    /// Walks made only to set D.
    pub for_dirty: u64,
    /// References made per completed walk.
    pub references_per_walk: f64,
    /// All references by where they were served.
    pub total: ServedCounts,
    /// The grid: one row a place.
    pub grid: Vec<CellCounts>,
    /// Checks: guest segment and VMM segment by the walker, escapes that a filter found,
    /// frame tags, segments beside the second-level TLB.
    pub checks: [u64; 5],
    /// First-level TLB misses that segments answered without a walk.
    pub direct_hits: u64,
    /// Walk latency: cycles that half, 90 % and 99 % of the walks do not exceed, to a quarter of them.
    pub latency_p50: u64,
    /// See `latency_p50`.
    pub latency_p90: u64,
    /// See `latency_p50`.
    pub latency_p99: u64,
    /// Walk latency, finer: walks of `from` to `below`-1 cycles.
    pub latency: Vec<LatencyBucket>,
    /// Walk latency: bucket `i` counts walks of `2^i` to `2^(i+1)-1` cycles.
    pub latency_log2: Vec<u64>,
}

/// What kernel and hypervisor did while accesses were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SoftwareCounts {
    /// Page faults taken by the processes' kernel.
    pub page_faults: u64,
    /// The same since the start, warm-up and initialisation included.
    pub page_faults_in_all: u64,
    /// Exits to the hypervisor.
    pub exits: u64,
    /// The same since the start, warm-up and initialisation included.
    pub exits_in_all: u64,
    /// Exits by what for, while accesses were counted.
    pub exits_by: ExitCounts,
    /// TLB shootdowns.
    pub shootdowns: u64,
    /// Pages copied on a write.
    pub cow_copies: u64,
    /// Cycles of faults, exits and system calls.
    pub cycles: u64,
    /// The same by what for.
    pub cycles_by: SoftwareCycles,
    /// Frames in use at the end, of 4 KiB, by the host.
    pub frames: u64,
    /// Blocks that the buddy allocator of the processes' kernel handed out since the start.
    pub allocations: u64,
    /// Frames that this kernel keeps for later faults at the end, and nobody uses.
    pub reserved: u64,
}

/// Exits to the hypervisor by what they were for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExitCounts {
    /// The VM's table does not map something, or not as needed.
    pub vm_table: u64,
    /// Faults that the shadow table must answer.
    pub shadow_faults: u64,
    /// Stores to tables that are write-protected for shadowing.
    pub table_stores: u64,
    /// Loads of CR3 under shadow paging.
    pub root_loads: u64,
    /// The guest's invalidations under shadow paging.
    pub invalidations: u64,
    /// Hypercalls into pass-through and out.
    pub mode_changes: u64,
    /// Frames whose tag is not the VM's.
    pub tag_faults: u64,
}

impl ExitCounts {
    /// Each with its name.
    pub fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("VM's table", self.vm_table),
            ("shadow table", self.shadow_faults),
            ("stores to shadowed tables", self.table_stores),
            ("loads of CR3", self.root_loads),
            ("invalidations", self.invalidations),
            ("pass-through, in and out", self.mode_changes),
            ("tags", self.tag_faults),
        ]
    }
}

/// Cycles of software by what they were for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SoftwareCycles {
    /// Page faults of the processes' kernel.
    pub faults: u64,
    /// The hypervisor's work for VMs: exits, faults of the VM's table, shadow tables.
    pub exits: u64,
    /// System calls.
    pub calls: u64,
    /// TLB shootdowns, by who sends and who gets them.
    pub shootdowns: u64,
    /// Context switches, segments, migration.
    pub other: u64,
}

impl From<[u64; 5]> for SoftwareCycles {
    fn from([faults, exits, calls, shootdowns, other]: [u64; 5]) -> Self {
        SoftwareCycles { faults, exits, calls, shootdowns, other }
    }
}

/// Bytes of page tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TableBytes {
    /// Of the processes.
    pub processes: u64,
    /// Of the VMs.
    pub vms: u64,
    /// Shadow tables.
    pub shadow: u64,
}

impl TableBytes {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.processes + self.vms + self.shadow
    }
}

/// `part / whole`, 0 for nothing of nothing.
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl TlbCounts {
    pub(crate) fn of(c: &Counters) -> TlbCounts {
        let l1 = c.l1d_tlb_misses + c.l1i_tlb_misses;
        let stlb = c.stlb_misses + c.stlb_fetch_misses;
        TlbCounts {
            l1_misses: l1,
            stlb_misses: stlb,
            l1_per_thousand: 1000.0 * ratio(l1, c.accesses),
            stlb_per_thousand: 1000.0 * ratio(stlb, c.accesses),
            shared_hits: c.shared_hits,
            stlb_fetch_misses: c.stlb_fetch_misses,
        }
    }
}

impl WalkCounts {
    pub(crate) fn of(c: &Counters) -> WalkCounts {
        let mut total = c.grid.by_served();
        total.iter_mut().zip(&c.side).for_each(|(t, s)| *t += s);
        let total = ServedCounts::from(total);
        WalkCounts {
            completed: c.walks,
            faulted: c.faulting_walks,
            for_dirty: c.dirty_walks,
            references_per_walk: ratio(total.references(), c.walks),
            total,
            grid: c
                .grid
                .cells()
                .map(|(cell, by)| CellCounts {
                    guest: cell.guest,
                    host: cell.host,
                    served: by.into(),
                    cycles: c.grid.ticks(cell).map(|ticks| ticks / TICKS).into(),
                })
                .collect(),
            checks: c.checks,
            direct_hits: c.direct_hits,
            latency_p50: c.walk_cycles.quantile(0.5),
            latency_p90: c.walk_cycles.quantile(0.9),
            latency_p99: c.walk_cycles.quantile(0.99),
            latency: c
                .walk_cycles
                .buckets()
                .map(|(from, below, walks)| LatencyBucket { from, below, walks })
                .collect(),
            latency_log2: c.walk_cycles.by_powers().to_vec(),
        }
    }
}

impl Outcome {
    /// Cycles per access.
    pub fn cycles_per_access(&self) -> f64 {
        ratio(self.cycles, self.accesses)
    }
    /// How much slower than `base` the same accesses were: 1.0 is equal.
    pub fn slowdown(&self, base: &Outcome) -> f64 {
        self.cycles_per_access() / base.cycles_per_access()
    }
}
