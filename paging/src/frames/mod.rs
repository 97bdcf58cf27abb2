//! Physical memory: which frames there are, who has them, and which one
//! answers a request.
//!
//! A [`FramePool`] is the physical memory of one kernel: a guest's
//! (`FramePool<GuestPhys>`) or a host's (`FramePool<HostPhys>`). It is a binary
//! buddy allocator for each zone of each NUMA node with orders 0 … 10, mobility
//! grouping by pageblock, and per-CPU lists of single frames, built after
//! Linux's `mm/page_alloc.c` where that decides which frames a program gets:
//! what the mechanisms measure is the layout that results.
//!
//! Memory of the allocator follows what is used, not the machine: a range
//! starts as never used and is carved into blocks when needed; a pageblock
//! (2 MiB) that is free, or owned as a whole, costs 16 bytes; a frame in any
//! other costs 8.

mod audit;
mod buddy;
mod compact;
mod contiguous;
mod count;
mod descriptors;
mod fragment;
mod fresh;
mod hotplug;
mod layout;
mod lists;
mod pcp;
mod pool;
mod request;
mod state;
#[cfg(test)]
mod tests;
mod units;
mod watermark;

pub use audit::{AuditError, Totals};
pub use compact::{CompactReport, MoveFrame};
pub use fragment::Fragmentation;
pub use hotplug::HotplugError;

pub use layout::{
    DMA_END, DMA32_END, IO_GAP_START, LEGACY_END, Layout, LayoutError, MAX_FRAMES, NodeSpec, PcpConfig,
    PoolConfig, ZoneKind,
};
pub use pool::{FramePool, Stats};
pub use request::{AllocRequest, BadFrame, NoFrame, NodePolicy, Unit, Watermark};
pub use state::{FrameState, Mobility};
pub use watermark::ZoneMarks;

/// The largest order of the buddy allocator: 4 MiB blocks.
pub const MAX_ORDER: u8 = 10;
/// Number of orders.
pub const ORDERS: usize = MAX_ORDER as usize + 1;
/// The order of a pageblock: a 2 MiB page.
pub const PAGEBLOCK_ORDER: u8 = 9;
/// Frames in a pageblock.
pub const PAGEBLOCK: u64 = 1 << PAGEBLOCK_ORDER;
/// Frames in a section (128 MiB, as in Linux's sparsemem on x86-64). A section
/// belongs to one node.
pub const SECTION_FRAMES: u64 = 1 << 15;
/// Nodes at most.
pub const MAX_NODES: usize = 8;

/// A NUMA node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NodeId(pub u8);

impl NodeId {
    /// As an index.
    #[inline(always)]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl core::fmt::Display for NodeId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A CPU (hardware thread) of the kernel that owns the pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CpuId(pub u16);

impl CpuId {
    /// As an index.
    #[inline(always)]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A set of nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct NodeSet(pub u8);

impl NodeSet {
    /// The nodes 0 … `count`-1.
    pub const fn first(count: usize) -> NodeSet {
        NodeSet(((1u32 << count) - 1) as u8)
    }
    /// All nodes that there can be.
    pub const ALL: NodeSet = NodeSet::first(MAX_NODES);
    /// With `node` added.
    #[must_use]
    pub const fn with(self, node: NodeId) -> NodeSet {
        NodeSet(self.0 | 1 << node.0)
    }
    /// Whether `node` is a member.
    #[inline(always)]
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 >> node.0 & 1 == 1
    }
    /// The members of either.
    #[must_use]
    pub const fn union(self, other: NodeSet) -> NodeSet {
        NodeSet(self.0 | other.0)
    }
    /// The members that are not in `other`.
    #[must_use]
    pub const fn minus(self, other: NodeSet) -> NodeSet {
        NodeSet(self.0 & !other.0)
    }
    /// Whether it has no member.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// How many members it has.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }
    /// The members, ascending.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        (0..MAX_NODES as u8).map(NodeId).filter(move |&node| self.contains(node))
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        nodes.into_iter().fold(NodeSet::default(), NodeSet::with)
    }
}
