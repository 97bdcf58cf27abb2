//! What is asked of the allocator, and why it may say no.

use super::{CpuId, FrameState, Mobility, NodeId, NodeSet, ZoneKind};
use crate::{Frame, PageSize, PhysSpace};

/// Which nodes may answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum NodePolicy {
    /// The node, else the others by distance (Linux `MPOL_PREFERRED`, and the
    /// default first touch).
    #[default]
    Prefer,
    /// The node only (`__GFP_THISNODE`).
    Strict,
    /// Of these nodes the one nearest to the node (`MPOL_BIND`).
    Within(NodeSet),
}

/// How deep into a zone's reserve an allocation may go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Watermark {
    /// Down to `min` after all zones are at `low`: ordinary faults.
    #[default]
    Normal,
    /// Down to `low` only: what is nice to have and must not cause reclaim
    /// (huge pages at fault, reservations, migration targets).
    Opportunistic,
    /// To the last frame: reclaim itself (`PF_MEMALLOC`).
    Emergency,
}

/// How the frames of a block are owned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Unit {
    /// Each frame by itself, with a count of its own: it may be freed alone.
    #[default]
    Singles,
    /// One unit with one count at its head (a huge page).
    Compound,
}

/// One allocation.
///
/// ```
/// use paging::frames::{AllocRequest, CpuId, FrameState, NodeId, Unit};
/// let fault = AllocRequest::new(NodeId(0), FrameState::Anon).on_cpu(CpuId(3));
/// let huge = fault.order(9).unit(Unit::Compound).opportunistic();
/// let table = AllocRequest::new(NodeId(1), FrameState::Table).strict(); // unmovable by default
/// # let _ = (huge, table);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AllocRequest {
    /// log2 of the frames wanted. Above 10 the block is sought as contiguous
    /// memory, see [`FramePool::alloc_contiguous`](super::FramePool::alloc_contiguous).
    pub order: u8,
    /// The node to serve from, or nearest to.
    pub node: NodeId,
    /// Which nodes may answer.
    pub policy: NodePolicy,
    /// Whether the content can be moved later.
    pub mobility: Mobility,
    /// What the frames will be.
    pub state: FrameState,
    /// How they will be owned.
    pub unit: Unit,
    /// The CPU whose list serves single frames; `None` goes to the zone.
    pub cpu: Option<CpuId>,
    /// The highest zone that will do.
    pub zone: ZoneKind,
    /// How deep it may dig.
    pub watermark: Watermark,
}

impl Default for AllocRequest {
    /// One anonymous frame, from node 0 if it has one.
    fn default() -> Self {
        Self::new(NodeId(0), FrameState::Anon)
    }
}

impl AllocRequest {
    /// One frame for `state`, on `node` or near it. Mobility follows from
    /// the state: anonymous and file pages can be moved, nothing else.
    pub const fn new(node: NodeId, state: FrameState) -> Self {
        AllocRequest {
            order: 0,
            node,
            policy: NodePolicy::Prefer,
            mobility: state.mobility(),
            state,
            unit: Unit::Singles,
            cpu: None,
            zone: ZoneKind::Normal,
            watermark: Watermark::Normal,
        }
    }
    /// 2^`order` frames, aligned to that.
    #[must_use]
    pub const fn order(mut self, order: u8) -> Self {
        self.order = order;
        self
    }
    /// One compound unit for a page of `size`.
    #[must_use]
    pub const fn page(mut self, size: PageSize) -> Self {
        self.order = size.order();
        self.unit = if self.order == 0 { Unit::Singles } else { Unit::Compound };
        self
    }
    /// With this ownership.
    #[must_use]
    pub const fn unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }
    /// From no other node.
    #[must_use]
    pub const fn strict(mut self) -> Self {
        self.policy = NodePolicy::Strict;
        self
    }
    /// From these nodes only.
    #[must_use]
    pub const fn within(mut self, nodes: NodeSet) -> Self {
        self.policy = NodePolicy::Within(nodes);
        self
    }
    /// Through this CPU's lists.
    #[must_use]
    pub const fn on_cpu(mut self, cpu: CpuId) -> Self {
        self.cpu = Some(cpu);
        self
    }
    /// With this mobility.
    #[must_use]
    pub const fn mobility(mut self, mobility: Mobility) -> Self {
        self.mobility = mobility;
        self
    }
    /// From this zone or a lower one.
    #[must_use]
    pub const fn zone(mut self, zone: ZoneKind) -> Self {
        self.zone = zone;
        self
    }
    /// Without touching any reserve.
    #[must_use]
    pub const fn opportunistic(mut self) -> Self {
        self.watermark = Watermark::Opportunistic;
        self
    }
    /// With all reserves.
    #[must_use]
    pub const fn emergency(mut self) -> Self {
        self.watermark = Watermark::Emergency;
        self
    }
}

/// No memory for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "no {frames} contiguous frames for node {node} ({policy:?}, {watermark:?}): \
     {free_on_node} of {free} free frames are there, {blocks_on_node} free blocks are large enough"
)]
pub struct NoFrame {
    /// Frames wanted.
    pub frames: u64,
    /// The node asked.
    pub node: u8,
    /// Which nodes might have answered.
    pub policy: NodePolicy,
    /// How deep it might dig.
    pub watermark: Watermark,
    /// Free frames of that node.
    pub free_on_node: u64,
    /// Free frames of all nodes.
    pub free: u64,
    /// Free blocks of at least that size on the node (buddy blocks; whole
    /// pageblocks for contiguous memory). More than 0: a watermark, a zone limit or alignment
    /// stood in the way.
    pub blocks_on_node: u64,
}

impl NoFrame {
    /// No page for a table on `node`, nor elsewhere if not `strict`: of a source that does not count what is free.
    pub const fn for_table(node: NodeId, strict: bool) -> NoFrame {
        let policy = if strict { NodePolicy::Strict } else { NodePolicy::Prefer };
        NoFrame {
            frames: 1,
            node: node.0,
            policy,
            watermark: Watermark::Normal,
            free_on_node: 0,
            free: 0,
            blocks_on_node: 0,
        }
    }
}

/// A frame that cannot be freed, taken or changed as asked. A bug of the
/// caller in nearly all cases.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadFrame<S: PhysSpace> {
    /// There is no memory at the frame.
    #[error("{0:?} is not memory (a hole, or unplugged)")]
    Absent(Frame<S>),
    /// It is free: a double free, or a use after free.
    #[error("{0:?} is free already")]
    Free(Frame<S>),
    /// It is not free.
    #[error("{0:?} is in use as {1:?}")]
    InUse(Frame<S>, FrameState),
    /// Others hold it too.
    #[error("{frame:?} is freed while {refs} references exist")]
    Shared {
        /// The frame.
        frame: Frame<S>,
        /// Its count.
        refs: u32,
    },
    /// It is a part of a compound unit and was taken for something else.
    #[error("{frame:?} belongs to the order-{order} unit at {head:?}: split it first, or name its head")]
    Compound {
        /// The frame.
        frame: Frame<S>,
        /// The head of its unit.
        head: Frame<S>,
        /// The unit's order.
        order: u8,
    },
    /// The frame is not aligned to the order or granularity given.
    #[error("{frame:?} is not aligned to {frames} frames")]
    Misaligned {
        /// The frame.
        frame: Frame<S>,
        /// The alignment it should have.
        frames: u64,
    },
}
