//! Where physical memory lies: nodes, their ranges, zones, distances.

use super::{MAX_NODES, NodeId, SECTION_FRAMES};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Frames of the largest physical address space: 4 TiB. A free-list link is a
/// 30-bit frame number.
pub const MAX_FRAMES: u64 = 1 << 30;

/// First frame above the ISA DMA zone (16 MiB).
pub const DMA_END: u64 = (16 << 20) >> 12;
/// First frame above what 32-bit devices reach (4 GiB).
pub const DMA32_END: u64 = (4 << 30) >> 12;
/// First frame of the x86 I/O gap as PC firmware leaves it (3 GiB … 4 GiB).
pub const IO_GAP_START: u64 = (3 << 30) >> 12;
/// First frame above the legacy area (1 MiB), which firmware and real-mode
/// code keep and Linux never hands out.
pub const LEGACY_END: u64 = (1 << 20) >> 12;

/// A zone of a node: the memory below a limit that some devices have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum ZoneKind {
    /// Below 16 MiB.
    Dma = 0,
    /// Below 4 GiB.
    Dma32 = 1,
    /// The rest.
    #[default]
    Normal = 2,
}

impl ZoneKind {
    /// All zones, lowest first.
    pub const ALL: [ZoneKind; 3] = [ZoneKind::Dma, ZoneKind::Dma32, ZoneKind::Normal];

    /// The zone that frame `number` belongs to.
    #[inline(always)]
    pub const fn of(number: u64) -> ZoneKind {
        if number >= DMA32_END {
            ZoneKind::Normal
        } else if number >= DMA_END {
            ZoneKind::Dma32
        } else {
            ZoneKind::Dma
        }
    }

    /// The frames that can belong to the zone.
    pub const fn frames(self) -> Range<u64> {
        match self {
            ZoneKind::Dma => 0..DMA_END,
            ZoneKind::Dma32 => DMA_END..DMA32_END,
            ZoneKind::Normal => DMA32_END..MAX_FRAMES,
        }
    }
}

/// One NUMA node's memory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeSpec {
    /// Ranges of frame numbers, ascending. What lies between them is a hole.
    pub frames: Vec<Range<u64>>,
}

/// The physical memory of a machine: what a firmware's memory map, SRAT and
/// SLIT say. The same type describes a host and a guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The nodes; [`NodeId`] is the index.
    pub nodes: Vec<NodeSpec>,
    /// `distances[from][to]`, 10 for local, as in ACPI's SLIT.
    pub distances: Vec<Vec<u8>>,
}

/// A layout that cannot be.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// No node, or more than [`MAX_NODES`].
    #[error("{0} nodes: a machine has 1 to {MAX_NODES}")]
    NodeCount(usize),
    /// No node has a frame.
    #[error("no node has any memory")]
    NoMemory,
    /// A range that is empty, or not above the one before it.
    #[error("node {node}: frames {start:#x}..{end:#x} are empty or not above the range before them")]
    BadRange {
        /// The node.
        node: u8,
        /// First frame.
        start: u64,
        /// First frame after.
        end: u64,
    },
    /// Memory above 4 TiB.
    #[error("node {node}: frames up to {end:#x} are beyond the supported 4 TiB ({MAX_FRAMES:#x} frames)")]
    TooHigh {
        /// The node.
        node: u8,
        /// First frame after the range.
        end: u64,
    },
    /// Two nodes within one section.
    #[error(
        "nodes {first} and {second} share the 128 MiB section at frame {section:#x}: start each node in its own"
    )]
    SharedSection {
        /// The node that came first.
        first: u8,
        /// The other one.
        second: u8,
        /// The section's first frame.
        section: u64,
    },
    /// A fragmentation that cannot be.
    #[error("fragmentation of level {level} with {pins} pins a block: level is 0 to 1, pins 1 to 256")]
    Fragmentation {
        /// The level asked for.
        level: f64,
        /// The pins asked for.
        pins: u16,
    },
    /// The distance matrix has another size than the node list, or a remote
    /// node that is not farther than 10.
    #[error("distances must be {nodes} rows of {nodes}, 10 on the diagonal and more elsewhere")]
    Distances {
        /// Number of nodes.
        nodes: usize,
    },
}

impl Layout {
    /// A PC: `bytes[n]` of memory on node `n`, in ascending addresses from
    /// 1 MiB, interrupted by the I/O gap at 3-4 GiB. Each node starts on a
    /// section boundary. Remote nodes are at distance 20.
    pub fn pc(bytes: &[u64]) -> Layout {
        let mut next = 0;
        let mut nodes = Vec::new();
        for (n, &size) in bytes.iter().enumerate() {
            let mut left = size >> 12;
            let mut frames = Vec::new();
            if n == 0 {
                next = LEGACY_END;
                left = left.saturating_sub(LEGACY_END);
            }
            if next < IO_GAP_START && left > 0 {
                let low = left.min(IO_GAP_START - next);
                frames.push(next..next + low);
                next += low;
                left -= low;
            }
            if left > 0 {
                next = next.max(DMA32_END);
                frames.push(next..next + left);
                next += left;
            }
            next = next.next_multiple_of(SECTION_FRAMES);
            if (IO_GAP_START..DMA32_END).contains(&next) {
                next = DMA32_END;
            }
            nodes.push(NodeSpec { frames });
        }
        Layout { distances: Self::uniform_distances(nodes.len()), nodes }
    }

    /// One range of frames for each node, at distance 20 from each other.
    pub fn of_ranges(ranges: &[Range<u64>]) -> Layout {
        Layout {
            nodes: ranges.iter().map(|range| NodeSpec { frames: vec![range.clone()] }).collect(),
            distances: Self::uniform_distances(ranges.len()),
        }
    }

    /// The distances of `nodes` nodes that are all equally far: 10 and 20.
    pub fn uniform_distances(nodes: usize) -> Vec<Vec<u8>> {
        (0..nodes).map(|from| (0..nodes).map(|to| if from == to { 10 } else { 20 }).collect()).collect()
    }

    /// Frames of all nodes.
    pub fn frames(&self) -> u64 {
        self.nodes.iter().flat_map(|node| &node.frames).map(|range| range.end - range.start).sum()
    }

    /// The first frame above all memory.
    pub fn end(&self) -> u64 {
        self.nodes.iter().flat_map(|node| &node.frames).map(|range| range.end).max().unwrap_or(0)
    }

    /// The nodes in the order in which an allocation for `node` tries them:
    /// by distance, equal ones starting behind `node` so that not all nodes
    /// spill to node 0 (Linux `find_next_best_node`).
    pub fn fallback_order(&self, node: NodeId) -> Vec<NodeId> {
        let count = self.nodes.len();
        let me = node.index();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|&n| (self.distances[me][n], (n + count - me) % count));
        order.into_iter().map(|n| NodeId(n as u8)).collect()
    }

    /// Whether the layout can be; [`FramePool::new`](super::FramePool::new) asks it.
    pub fn check(&self) -> Result<(), LayoutError> {
        let count = self.nodes.len();
        if count == 0 || count > MAX_NODES {
            return Err(LayoutError::NodeCount(count));
        }
        for (n, node) in self.nodes.iter().enumerate() {
            let mut above = 0;
            for range in &node.frames {
                if range.start < above || range.end <= range.start {
                    return Err(LayoutError::BadRange { node: n as u8, start: range.start, end: range.end });
                }
                if range.end > MAX_FRAMES {
                    return Err(LayoutError::TooHigh { node: n as u8, end: range.end });
                }
                above = range.end;
            }
        }
        if self.frames() == 0 {
            return Err(LayoutError::NoMemory);
        }
        let good_distance = |(from, row): (usize, &Vec<u8>)| {
            row.len() == count
                && row.iter().enumerate().all(|(to, &d)| if from == to { d == 10 } else { d > 10 })
        };
        if self.distances.len() != count || !self.distances.iter().enumerate().all(good_distance) {
            return Err(LayoutError::Distances { nodes: count });
        }
        self.section_owners().map(|_| ())
    }

    /// The node of each section, [`NO_NODE`] for holes.
    pub(super) fn section_owners(&self) -> Result<Vec<u8>, LayoutError> {
        let mut owners = vec![NO_NODE; self.end().div_ceil(SECTION_FRAMES) as usize];
        for (n, node) in self.nodes.iter().enumerate() {
            for range in &node.frames {
                for section in range.start / SECTION_FRAMES..range.end.div_ceil(SECTION_FRAMES) {
                    let owner = &mut owners[section as usize];
                    if *owner != NO_NODE && *owner != n as u8 {
                        return Err(LayoutError::SharedSection {
                            first: *owner,
                            second: n as u8,
                            section: section * SECTION_FRAMES,
                        });
                    }
                    *owner = n as u8;
                }
            }
        }
        Ok(owners)
    }
}

/// The mark of a section without memory.
pub(super) const NO_NODE: u8 = u8::MAX;

/// Parameters of the per-CPU lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PcpConfig {
    /// Frames moved at once between a list and the zone. `PTEMagnet`'s effect
    /// depends on it: it is how far a process runs before a neighbour's
    /// faults interleave.
    pub batch: u16,
    /// A list longer than this gives a batch back.
    pub high: u16,
}

impl Default for PcpConfig {
    /// Linux for zones above 1 GiB: batch 63 (`zone_batchsize`), high 6 × batch.
    fn default() -> Self {
        PcpConfig { batch: 63, high: 6 * 63 }
    }
}

/// How a pool is set up besides its layout.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct PoolConfig {
    /// The per-CPU lists.
    pub pcp: PcpConfig,
    /// Fragmentation that all memory starts with.
    pub fragmentation: Option<super::Fragmentation>,
    /// Overrides Linux's formula for `vm.min_free_kbytes`.
    pub min_free_kib: Option<u64>,
}
