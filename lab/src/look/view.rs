//! The tables of a system and the walks through them at one time, as data.

use crate::world::TableDump;
use serde::Serialize;
use serde::ser::Serializer;

/// What was to be seen at the end of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct View {
    /// What is mapped.
    pub regions: Vec<RegionView>,
    /// Pages, and the walks for them.
    pub pages: Vec<PageView>,
    /// In a VM: cache lines of guest entries, and where the host entries behind them are.
    pub lines: Vec<GuestLine>,
    /// Segments that are on.
    pub segments: Vec<SegmentView>,
    /// With several processes: level-1 tables by the 2 MiB that they map, and who uses them.
    pub leaf_tables: LeafTables,
    /// Table pages by level and node.
    pub tables: Vec<TableDump>,
}

/// Level-1 tables of several processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeafTables {
    /// The processes that were looked at.
    pub processes: Vec<u16>,
    /// First address, and the table's frame in each process's table, if there is one. At most a few hundred, evenly.
    pub tables: Vec<(u64, Vec<Option<u64>>)>,
    /// Tables that the processes point to, each counted once a process.
    pub uses: u64,
    /// Different tables among them.
    pub frames: u64,
}

/// A mapped area of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegionView {
    /// The process.
    pub process: u16,
    /// First address.
    #[serde(serialize_with = "hex")]
    pub start: u64,
    /// First address after it.
    #[serde(serialize_with = "hex")]
    pub end: u64,
    /// The input's name for it, if it has one.
    pub name: String,
}

/// A page.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PageView {
    /// The process.
    pub process: u16,
    /// Its first address.
    #[serde(serialize_with = "hex")]
    pub va: u64,
    /// Bytes that one TLB entry for it covers.
    pub bytes: u64,
    /// The host frame that it is in.
    #[serde(serialize_with = "hex")]
    pub frame: u64,
    /// That frame's node.
    pub node: u8,
    /// It can be written without a fault.
    pub writable: bool,
    /// The level of TLBs that holds it: then a program would not walk.
    pub in_tlb: Option<u8>,
    /// The walk with page-walk caches as the run left them.
    pub warm: WalkView,
    /// The walk with empty page-walk caches.
    pub cold: WalkView,
}

/// A walk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WalkView {
    /// Cycles of all steps.
    pub cycles: u64,
    /// References that were made.
    pub references: usize,
    /// Its steps, in order.
    pub steps: Vec<StepView>,
}

/// A step of a walk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum StepView {
    /// The walker loaded an entry.
    Reference {
        /// Guest (or native) level; 0 for the data page's host walk.
        guest: u8,
        /// Host level; 0 for the guest's own entry.
        host: u8,
        /// Where the entry is.
        #[serde(serialize_with = "hex")]
        hpa: u64,
        /// The entry's, or of what the host's walk translates.
        #[serde(serialize_with = "hex_option", skip_serializing_if = "Option::is_none")]
        gpa: Option<u64>,
        /// The node of its memory.
        node: u8,
        /// Where it was served.
        served: &'static str,
        /// Its bits, after the walk.
        entry: Entry,
        /// Cycles.
        cycles: u64,
    },
    /// The walker loaded from what is no page table: a frame's tag.
    Side {
        /// Guest (or native) level of the table whose frame it is; 0 for the data page's.
        guest: u8,
        /// Where it is.
        #[serde(serialize_with = "hex")]
        hpa: u64,
        /// The node of its memory.
        node: u8,
        /// Where it was served.
        served: &'static str,
        /// Cycles.
        cycles: u64,
    },
    /// A page-walk cache knew a table.
    WalkCache {
        /// The table is of the host dimension.
        host_dimension: bool,
        /// The row of the grid, in the host dimension.
        row: u8,
        /// Levels that were skipped, from the root.
        skipped_from: u8,
        /// To this one.
        skipped_to: u8,
        /// Cycles.
        cycles: u64,
    },
    /// The nested TLB knew a page.
    NestedTlb {
        /// The row of the grid that was skipped.
        row: u8,
        /// The page.
        #[serde(serialize_with = "hex")]
        gpa: u64,
        /// Cycles.
        cycles: u64,
    },
    /// A check against registers or a small structure.
    Check {
        /// Of what.
        check: String,
        /// Cycles.
        cycles: u64,
    },
}

/// The bits of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub u64);

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        hex(&self.0, serializer)
    }
}

/// A cache line of a guest's entries: of 8 neighbouring pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GuestLine {
    /// The process.
    pub process: u16,
    /// First address of the 8 pages.
    #[serde(serialize_with = "hex")]
    pub va: u64,
    /// For each page that is mapped and backed.
    pub entries: [Option<HostEntry>; 8],
}

/// Where the host's entry of a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HostEntry {
    /// The guest frame.
    #[serde(serialize_with = "hex")]
    pub gfn: u64,
    /// The host frame.
    #[serde(serialize_with = "hex")]
    pub hfn: u64,
    /// The address of the host's entry.
    #[serde(serialize_with = "hex")]
    pub at: u64,
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SegmentView {
    /// Whose: a process's, or the VM's.
    pub of: String,
    /// First address.
    #[serde(serialize_with = "hex")]
    pub base: u64,
    /// First address after it.
    #[serde(serialize_with = "hex")]
    pub limit: u64,
    /// What is added to an address.
    #[serde(serialize_with = "hex")]
    pub offset: u64,
    /// Pages that escaped, and why: the first few hundred.
    pub escaped: Vec<(u64, String)>,
    /// How many there are.
    pub escapes: u64,
}

/// Addresses as text: JSON's numbers are exact to 2^53 only.
fn hex<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:#x}"))
}

fn hex_option<S: Serializer>(value: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => hex(value, serializer),
        None => serializer.serialize_none(),
    }
}
