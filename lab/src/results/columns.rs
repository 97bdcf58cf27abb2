//! The columns of a result, in their order, with their units and meanings.

use crate::outcome::{Outcome, ServedCounts};
use std::sync::Arc;
use trace::table::{Kind, Value};

/// A column of the flat record.
#[derive(Clone, Copy)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// What they count.
    pub unit: &'static str,
    /// What it is.
    pub meaning: &'static str,
    pub(super) get: fn(&Outcome) -> Value,
}

impl std::fmt::Debug for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Column").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

const fn whole(
    name: &'static str,
    unit: &'static str,
    meaning: &'static str,
    get: fn(&Outcome) -> Value,
) -> Column {
    Column { name, kind: Kind::Whole, unit, meaning, get }
}

const fn real(
    name: &'static str,
    unit: &'static str,
    meaning: &'static str,
    get: fn(&Outcome) -> Value,
) -> Column {
    Column { name, kind: Kind::Real, unit, meaning, get }
}

const fn text(
    name: &'static str,
    unit: &'static str,
    meaning: &'static str,
    get: fn(&Outcome) -> Value,
) -> Column {
    Column { name, kind: Kind::Text, unit, meaning, get }
}

fn n(count: u64) -> Value {
    Value::Whole(count)
}

fn r(number: f64) -> Value {
    Value::Real(number)
}

fn t(text: &str) -> Value {
    Value::Text(Arc::from(text))
}

fn maybe<T>(value: Option<T>, get: impl Fn(T) -> Value) -> Value {
    value.map_or(Value::Null, get)
}

/// References made at a level of a dimension, and of these those that memory served.
/// In a two-dimensional walk a guest level's own entries are guest references; the
/// walks of the VM's table for them and for the data are host references.
fn at_level(o: &Outcome, host: bool, level: u8) -> (u64, u64) {
    let here = |cell: &&crate::outcome::CellCounts| {
        if host { cell.host == level } else { cell.host == 0 && cell.guest == level }
    };
    let sum =
        |f: fn(&ServedCounts) -> u64| o.walks.grid.iter().filter(here).map(|cell| f(&cell.served)).sum();
    (sum(ServedCounts::references), sum(|served| served.local + served.remote))
}

macro_rules! level {
    ($host:expr, $level:expr, $name:literal, $memory:literal, $side:literal) => {
        [
            whole($name, "references", concat!("by the walker to level ", $level, " of ", $side), |o| {
                n(at_level(o, $host, $level).0)
            }),
            whole($memory, "references", "of these, served by memory, of any node", |o| {
                n(at_level(o, $host, $level).1)
            }),
        ]
    };
}

/// Columns of the walker's references by level, two for each.
const LEVELS: [[Column; 2]; 10] = [
    level!(
        false,
        1,
        "guest_l1_references",
        "guest_l1_from_memory",
        "the processes' table (native: the only one)"
    ),
    level!(false, 2, "guest_l2_references", "guest_l2_from_memory", "the processes' table"),
    level!(false, 3, "guest_l3_references", "guest_l3_from_memory", "the processes' table"),
    level!(false, 4, "guest_l4_references", "guest_l4_from_memory", "the processes' table"),
    level!(false, 5, "guest_l5_references", "guest_l5_from_memory", "the processes' table"),
    level!(true, 1, "host_l1_references", "host_l1_from_memory", "the VM's table"),
    level!(true, 2, "host_l2_references", "host_l2_from_memory", "the VM's table"),
    level!(true, 3, "host_l3_references", "host_l3_from_memory", "the VM's table"),
    level!(true, 4, "host_l4_references", "host_l4_from_memory", "the VM's table"),
    level!(true, 5, "host_l5_references", "host_l5_from_memory", "the VM's table"),
];

/// Columns before those of [`LEVELS`].
const HEAD: [Column; 53] = [
    text("system", "", "the system's name, as `-s` takes it", |o| t(&o.system)),
    text("machine", "", "the machine profile's name", |o| t(&o.machine)),
    text("workload", "", "the workload or trace", |o| t(&o.workload)),
    whole("seed", "", "seed of everything random", |o| n(o.seed)),
    text("version", "", "version of the program and its model", |_| t(&super::version())),
    whole("warmup", "accesses", "before counting began", |o| n(o.warmup)),
    whole("accesses", "accesses", "counted", |o| n(o.accesses)),
    whole("instructions", "instructions", "of the accesses counted", |o| n(o.instructions)),
    whole("cycles", "cycles", "of the accesses counted, summed over cores", |o| n(o.cycles)),
    whole("elapsed_cycles", "cycles", "of the core that took longest", |o| n(o.elapsed_cycles)),
    real("cycles_per_access", "cycles/access", "`cycles / accesses`", |o| r(o.cycles_per_access())),
    real("walk_share", "0 to 1", "share of cycles with at least one walk in progress", |o| {
        r(o.translation.share)
    }),
    whole("walk_active_cycles", "cycles", "with at least one walk in progress", |o| {
        n(o.translation.walk_active)
    }),
    whole("walk_pending_cycles", "cycles", "of all walks added up", |o| n(o.translation.walk_pending)),
    whole("guest_reference_cycles", "cycles", "of references to the processes' tables", |o| {
        n(o.translation.guest_references)
    }),
    whole("host_reference_cycles", "cycles", "of references to the VM's table", |o| {
        n(o.translation.host_references)
    }),
    whole("stlb_hit_cycles", "cycles", "that second-level TLB hits added, hidden or not", |o| {
        n(o.translation.stlb_hits)
    }),
    real("mean_walk_cycles", "cycles", "of a walk", |o| r(o.translation.mean_walk)),
    whole("l1_tlb_misses", "misses", "of the first-level TLBs, data and fetches", |o| n(o.tlb.l1_misses)),
    whole("stlb_misses", "misses", "of the second-level TLB, data and fetches", |o| n(o.tlb.stlb_misses)),
    real("l1_tlb_misses_per_thousand", "misses/1000 accesses", "of the first-level TLBs", |o| {
        r(o.tlb.l1_per_thousand)
    }),
    real("stlb_misses_per_thousand", "misses/1000 accesses", "of the second-level TLB", |o| {
        r(o.tlb.stlb_per_thousand)
    }),
    whole("stlb_shared_hits", "hits", "of the second-level TLB on an entry of another address space", |o| {
        n(o.tlb.shared_hits)
    }),
    whole("walks", "walks", "that ended in a leaf", |o| n(o.walks.completed)),
    whole("faulting_walks", "walks", "that ended in a fault", |o| n(o.walks.faulted)),
    whole("dirty_walks", "walks", "made only to set the dirty bit", |o| n(o.walks.for_dirty)),
    real("references_per_walk", "references/walk", "made for a walk that ended in a leaf", |o| {
        r(o.walks.references_per_walk)
    }),
    whole("references_skipped_pwc", "references", "not made, thanks to a page-walk cache", |o| {
        n(o.walks.total.pwc)
    }),
    whole("references_skipped_ntlb", "references", "not made, thanks to the nested TLB", |o| {
        n(o.walks.total.ntlb)
    }),
    whole("references_l1", "references", "by the walker, served by the L1 cache", |o| n(o.walks.total.l1)),
    whole("references_l2", "references", "by the walker, served by the L2 cache", |o| n(o.walks.total.l2)),
    whole("references_llc", "references", "by the walker, served by the last-level cache", |o| {
        n(o.walks.total.llc)
    }),
    whole("references_local", "references", "by the walker, served by memory of the own node", |o| {
        n(o.walks.total.local)
    }),
    whole("references_remote", "references", "by the walker, served by memory of another node", |o| {
        n(o.walks.total.remote)
    }),
    whole("direct_hits", "misses", "of the first-level TLB that segments answered without a walk", |o| {
        n(o.walks.direct_hits)
    }),
    whole("data_l1", "accesses", "whose line the L1 cache had", |o| n(o.data.l1)),
    whole("data_l2", "accesses", "whose line the L2 cache had", |o| n(o.data.l2)),
    whole("data_llc", "accesses", "whose line the last-level cache had", |o| n(o.data.llc)),
    whole("data_local", "accesses", "served by memory of the own node", |o| n(o.data.local)),
    whole("data_remote", "accesses", "served by memory of another node", |o| n(o.data.remote)),
    whole("page_faults", "faults", "taken by the processes' kernel while counting", |o| {
        n(o.software.page_faults)
    }),
    whole("page_faults_in_all", "faults", "the same since the start", |o| n(o.software.page_faults_in_all)),
    whole("exits", "exits", "to the hypervisor while counting", |o| n(o.software.exits)),
    whole("exits_in_all", "exits", "the same since the start", |o| n(o.software.exits_in_all)),
    whole("shootdowns", "shootdowns", "of TLB entries while counting", |o| n(o.software.shootdowns)),
    whole("cow_copies", "pages", "copied on a write while counting", |o| n(o.software.cow_copies)),
    whole("software_cycles", "cycles", "of faults, exits and system calls while counting", |o| {
        n(o.software.cycles)
    }),
    whole("frames", "4 KiB frames", "in use by the host at the end", |o| n(o.software.frames)),
    whole(
        "allocations",
        "blocks",
        "handed out by the buddy allocator of the processes' kernel since the start",
        |o| n(o.software.allocations),
    ),
    whole("reserved_frames", "4 KiB frames", "kept for later faults at the end", |o| n(o.software.reserved)),
    whole("process_table_bytes", "bytes", "of the processes' page tables", |o| n(o.tables.processes)),
    whole("vm_table_bytes", "bytes", "of VMs' page tables", |o| n(o.tables.vms)),
    whole("shadow_table_bytes", "bytes", "of shadow tables", |o| n(o.tables.shadow)),
];

/// Columns behind those of [`LEVELS`].
const TAIL: [Column; 12] = [
    real(
        "host_lines_mean",
        "lines",
        "of host entries behind a line of guest entries; null without a VM",
        |o| maybe(o.host_lines, |lines| r(lines.mean)),
    ),
    real("host_lines_mean_whole", "lines", "the same over lines whose eight pages are mapped", |o| {
        maybe(o.host_lines, |lines| r(lines.mean_whole))
    }),
    whole("layout_placed", "4 KiB frames", "where the real layout says; null without one", |o| {
        maybe(o.layout, |layout| n(layout.placed))
    }),
    whole("layout_elsewhere", "4 KiB frames", "elsewhere than the real layout says", |o| {
        maybe(o.layout, |layout| n(layout.elsewhere))
    }),
    text("segment_mode", "", "mode of the first process's segments at the end; null without segments", |o| {
        maybe(o.segments.as_ref(), |s| t(&s.mode))
    }),
    whole("segment_process_pages", "4 KiB pages", "in place in processes' segments", |o| {
        maybe(o.segments.as_ref(), |s| n(s.process_pages))
    }),
    whole("segment_vm_pages", "4 KiB pages", "in place in the VM's segment", |o| {
        maybe(o.segments.as_ref(), |s| n(s.vm_pages))
    }),
    whole("segment_escaped", "4 KiB pages", "within bounds that escaped", |o| {
        maybe(o.segments.as_ref(), |s| n(s.escaped))
    }),
    whole("verified", "accesses", "checked by the oracle; null without `--verify`", |o| maybe(o.verified, n)),
    text(
        "walk_cycles_log2",
        "JSON",
        "list: walks by latency, entry i counts walks of 2^i to 2^(i+1)-1 cycles",
        |o| json(&o.walks.latency_log2),
    ),
    text(
        "walk_grid",
        "JSON",
        "list: references at each place of the grid by where they were served, as in `--json`",
        |o| json(&o.walks.grid),
    ),
    text(
        "host_lines",
        "JSON",
        "histograms of host lines behind guest lines, as in `--json`; null without a VM",
        |o| maybe(o.host_lines.as_ref(), json),
    ),
];

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Value {
    t(&serde_json::to_string(value).expect("counts have no maps with odd keys"))
}

/// All columns, in their order.
pub fn columns() -> impl Iterator<Item = &'static Column> + Clone {
    HEAD.iter().chain(LEVELS.as_flattened()).chain(&TAIL)
}
