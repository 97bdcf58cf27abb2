//! The format: what a profile says, as it stands in the file.

use paging::PageSize;
use serde::Deserialize;

/// How far a number is to be trusted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// Measured by us on the machine itself, or read from its identification registers.
    Measured,
    /// Read in the code, the data or the description of who had or made the machine.
    Documented,
    /// Read in a measurement or a summary by others.
    Reported,
    /// Follows from others by arithmetic.
    Derived,
    /// Known from the named document, which was not opened again.
    Recalled,
    /// Nobody says; the source gives our reasoning.
    Estimate,
}

/// A machine.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its short name.
    pub name: String,
    /// What it is, in a line.
    pub title: String,
    /// Clock of the cores.
    pub clock: Clock,
    /// Sockets, cores and memory.
    pub topology: Topology,
    /// How much a core overlaps.
    pub pipeline: Pipeline,
    /// The page-table walker.
    pub walker: Walker,
    /// TLBs.
    pub tlb: Tlbs,
    /// Page-walk caches.
    #[serde(default)]
    pub walk_cache: Vec<WalkCacheSpec>,
    /// The nested TLB, if there is one.
    pub nested_tlb: Option<NestedTlb>,
    /// Data and instruction caches.
    pub cache: Caches,
    /// Memory.
    pub memory: MemorySection,
    /// What software's work costs.
    pub cost: Costs,
}

/// Clock of the cores.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// Megahertz.
    pub mhz: u64,
    /// Where it is from.
    pub source: String,
    /// How far to trust it.
    pub trust: Trust,
}

/// Sockets, cores and memory. Each socket is one NUMA node.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Sockets: 1 to 8.
    pub sockets: u32,
    /// Cores of each.
    pub cores_per_socket: u32,
    /// GiB of memory of each.
    pub gib_per_socket: u64,
    /// Where it is from.
    pub source: String,
    /// How far to trust it.
    pub trust: Trust,
}

/// How much a core overlaps.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Instructions a cycle while no access is slow.
    pub ipc: f64,
    /// Instructions that may be under way.
    pub rob: u32,
    /// Misses of the L1 data cache that may be under way.
    pub mshr: u32,
    /// Where it is from.
    pub source: String,
    /// How far to trust it.
    pub trust: Trust,
}

/// Where the walker's loads enter the caches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalkerEntry {
    /// Through the L1 data cache.
    L1,
    /// At the L2.
    L2,
}

/// The page-table walker.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Walker {
    /// Walks that may be under way.
    pub walkers: u32,
    /// Where its loads enter the caches.
    pub enters: WalkerEntry,
    /// Cycles of a look into the page-walk caches or the nested TLB.
    pub walk_cache_cycles: u32,
    /// Cycles of a base-limit check of a segment, or of a tag.
    pub check_cycles: u32,
    /// Where it is from.
    pub source: String,
    /// How far to trust it.
    pub trust: Trust,
}

/// A number of ways.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(from = "WaysText")]
pub enum Ways {
    /// So many.
    Number(u64),
    /// One set of all entries.
    Full,
    /// Text that means nothing; the check refuses it.
    Unknown,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WaysText {
    Number(u64),
    Word(String),
}

impl From<WaysText> for Ways {
    fn from(text: WaysText) -> Ways {
        match text {
            WaysText::Number(number) => Ways::Number(number),
            WaysText::Word(word) if word == "full" => Ways::Full,
            WaysText::Word(_) => Ways::Unknown,
        }
    }
}

/// Which way a new entry takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// True LRU.
    #[default]
    Lru,
    /// Tree pseudo-LRU.
    TreePlru,
    /// Random, seeded.
    Random,
}

/// TLBs.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tlbs {
    /// First level for data.
    pub l1d: Vec<TlbSpec>,
    /// First level for instructions.
    pub l1i: Vec<TlbSpec>,
    /// Second level, for both.
    pub stlb: StlbSection,
}

/// A second level of TLBs.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StlbSection {
    /// Cycles that a hit here adds to an access.
    pub cycles: u32,
    /// A page of a size that no array takes is cached in pieces of a smaller one.
    #[serde(default)]
    pub fracture: bool,
    /// Where it is from.
    pub source: String,
    /// How far to trust it.
    pub trust: Trust,
    /// Its arrays.
    pub array: Vec<TlbSpec>,
}

/// One array of a TLB.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlbSpec {
    /// Page sizes that it caches.
    #[serde(deserialize_with = "sizes")]
    pub sizes: Vec<PageSize>,
    /// Entries.
    pub entries: u64,
    /// Ways.
    pub ways: Ways,
    /// Which way a new entry takes.
    #[serde(default)]
    pub replacement: Policy,
    /// Where it is from.
    pub source: String,
    /// How far to trust it.
    pub trust: Trust,
}

fn sizes<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<PageSize>, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    names
        .iter()
        .map(|name| {
            PageSize::ALL.into_iter().find(|size| size.to_string() == *name).ok_or_else(|| {
                serde::de::Error::custom(format!("no page size is called {name:?}: write 4K, 2M or 1G"))
            })
        })
        .collect()
}

/// A dimension of a walk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dimension {
    /// The process's own table: native, guest, shadow.
    Guest,
    /// The VM's table.
    Host,
}

/// A page-walk cache.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalkCacheSpec {
    /// The dimensions that have one such cache each.
    pub dimensions: Vec<Dimension>,
    /// The levels of the tables whose entries it holds: 2 for PDEs, 3, 4, 5.
    pub levels: Vec<u8>,
    /// Entries.
    pub entries: u64,
    /// Ways.
    pub ways: Ways,
    /// Which way a new entry takes.
    #[serde(default)]
    pub replacement: Policy,
    /// Where it is from.
    pub source: String,
    /// How far to trust it.
    pub trust: Trust,
}

/// The nested TLB: gPA→hPA.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NestedTlb {
    /// Entries.
    pub entries: u64,
    /// Ways.
    pub ways: Ways,
    /// Which way a new entry takes.
    #[serde(default)]
    pub replacement: Policy,
    /// Where it is from.
    pub source: String,
    /// How far to trust it.
    pub trust: Trust,
}

/// Data and instruction caches.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caches {
    /// First level, data, of a core.
    pub l1d: CacheSpec,
    /// First level, instructions, of a core.
    pub l1i: CacheSpec,
    /// Second level of a core.
    pub l2: CacheSpec,
    /// Last level of a socket.
    pub llc: CacheSpec,
}

/// A cache of 64-byte lines.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSpec {
    /// KiB.
    pub kib: u64,
    /// Ways.
    pub ways: Ways,
    /// Cycles from the address to the data of a load that hits here.
    pub cycles: u32,
    /// Which way a new line takes.
    #[serde(default)]
    pub replacement: Policy,
    /// Where it is from.
    pub source: String,
    /// How far to trust it.
    pub trust: Trust,
}

/// Memory.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemorySection {
    /// With nobody else about.
    pub latency: Latency,
    /// How much there is of it.
    pub bandwidth: Bandwidth,
    /// What others do to it.
    pub loaded: Loaded,
}

/// Latency of a load that missed all caches, nobody else about. Remote memory
/// is equally far, or `matrix_ns` says for each pair.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Nanoseconds to memory of the core's own socket.
    pub local_ns: f64,
    /// Nanoseconds to any other socket's.
    pub remote_ns: Option<f64>,
    /// Nanoseconds, a row for each socket of the core, a column for each of the memory.
    pub matrix_ns: Option<Vec<Vec<f64>>>,
    /// Where it is from.
    pub source: String,
    /// How far to trust it.
    pub trust: Trust,
}

/// Bandwidth.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bandwidth {
    /// Gigabytes (10^9) a second of one socket's memory.
    pub node_gb_s: f64,
    /// Gigabytes a second from one socket to another.
    pub link_gb_s: Option<f64>,
    /// Where it is from.
    pub source: String,
    /// How far to trust it.
    pub trust: Trust,
}

/// How latency rises under load, see [`crate::numa`].
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loaded {
    /// Nanoseconds for which a bank is busy with one row (tRC).
    pub bank_ns: f64,
    /// Lines that one core can have under way beyond its L1: its L2's queue.
    pub lines_per_core: u64,
    /// Where it is from.
    pub source: String,
    /// How far to trust it.
    pub trust: Trust,
}

/// What software's work costs, besides the memory references that it makes.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// Into the kernel and back by a system call.
    pub syscall: Cost,
    /// A page fault: exception, the handler's own instructions, return; without
    /// zeroing or copying.
    pub page_fault: Cost,
    /// Out of a guest and back.
    pub vm_exit: Cost,
    /// A hypercall that does nothing, exit and entry included.
    pub hypercall: Cost,
    /// From one process to another.
    pub context_switch: Cost,
    /// A TLB shootdown, for the core that asks: interrupts sent, answers awaited.
    pub shootdown: Cost,
    /// The same, for each further core that must answer.
    pub shootdown_core: Cost,
    /// For a core that is interrupted by one.
    pub shootdown_target: Cost,
    /// Invalidating one page in the core's own TLBs.
    pub invalidate_page: Cost,
    /// Zeroing 4 KiB.
    pub zero_page: Cost,
    /// Copying 4 KiB.
    pub copy_page: Cost,
}

/// A constant charge.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Cycles.
    pub cycles: u32,
    /// Where it is from.
    pub source: String,
    /// How far to trust it.
    pub trust: Trust,
}
