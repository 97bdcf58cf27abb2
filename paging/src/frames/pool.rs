//! The pool: all nodes' zones, the per-CPU lists, and the frames' descriptors.
//!
//! # Locks
//!
//! A pool has one owner (`&mut`). On a machine that shares it between CPUs the
//! lists of a CPU need interrupts off and no lock, each zone's lists one lock
//! (zones are independent; nothing holds two), and a count in a frame's
//! word is changed by its owners without a zone's lock.

use super::{
    AllocRequest, BadFrame, CpuId, FrameState, Layout, LayoutError, Mobility, NoFrame, NodeId, NodeSet,
    ORDERS, PoolConfig, Unit, ZoneKind,
};
use crate::{Frame, PhysSpace};
use core::marker::PhantomData;

/// The watermarks of a zone, in frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ZoneMarks {
    /// Only emergencies go below.
    pub min: u64,
    /// Reclaim in the background starts below.
    pub low: u64,
    /// … and stops above.
    pub high: u64,
}

/// What the pool did, in calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Blocks handed out, by order.
    pub allocs: [u64; ORDERS],
    /// Blocks taken back, by order.
    pub frees: [u64; ORDERS],
    /// Contiguous ranges handed out.
    pub contiguous: u64,
    /// Batches that moved from a zone to a CPU's list.
    pub pcp_refills: u64,
    /// Batches that moved back.
    pub pcp_drains: u64,
    /// Blocks taken from the other mobility's lists.
    pub mobility_fallbacks: u64,
    /// Allocations served by a lower zone of the node than the first.
    pub zone_fallbacks: u64,
    /// Allocations served by another node than the one asked.
    pub node_fallbacks: u64,
    /// Requests refused.
    pub refused: u64,
}

/// All frames by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Frames in each state, indexed by [`FrameState`]; `Absent` stays 0.
    pub by_state: [u64; FrameState::COUNT],
}

impl Totals {
    /// Frames in `state`.
    pub fn of(&self, state: FrameState) -> u64 {
        self.by_state[state as usize]
    }
    /// All frames that exist.
    pub fn all(&self) -> u64 {
        self.by_state.iter().sum()
    }
}

/// An inconsistency that [`FramePool::audit`] found: a bug.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("frame {frame:#x}: {what}")]
pub struct AuditError {
    /// The frame, or the first one.
    pub frame: u64,
    /// What is wrong with it.
    pub what: &'static str,
}

/// Why memory could not be added or removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HotplugError {
    /// Not whole pageblocks.
    #[error("frames {start:#x}..{end:#x} are not whole 2 MiB pageblocks")]
    Misaligned {
        /// First frame.
        start: u64,
        /// First frame after.
        end: u64,
    },
    /// Memory is there already.
    #[error("frame {0:#x} is memory already")]
    Present(u64),
    /// No memory there to remove.
    #[error("frame {0:#x} is not memory")]
    Absent(u64),
    /// A frame in use.
    #[error("frame {frame:#x} is in use as {state:?}")]
    InUse {
        /// The frame.
        frame: u64,
        /// What it is used for.
        state: FrameState,
    },
    /// The section belongs to another node.
    #[error("the section of frame {frame:#x} belongs to node {owner}")]
    OtherNode {
        /// The frame.
        frame: u64,
        /// The node that has the section.
        owner: u8,
    },
    /// Beyond the supported addresses, or no such node.
    #[error("frame {0:#x} or its node is beyond what the pool supports")]
    OutOfRange(u64),
}

/// What a compaction did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CompactReport {
    /// Whether a free block of the wanted order exists now.
    pub success: bool,
    /// Frames moved.
    pub moved: u64,
    /// Moves that the owner refused.
    pub refused: u64,
    /// Pageblocks looked at.
    pub scanned: u64,
}

/// The physical memory of one kernel. See the [module](super).
#[derive(Debug)]
pub struct FramePool<S: PhysSpace> {
    space: PhantomData<S>,
}

impl<S: PhysSpace> FramePool<S> {
    /// The memory of `layout`, all free (but for fragmentation).
    pub fn new(layout: &Layout, config: PoolConfig) -> Result<Self, LayoutError> {
        let _ = config;
        layout.check()?;
        todo!()
    }

    /// A block of 2^order frames, aligned to its size, with a count of 1.
    pub fn alloc(&mut self, request: AllocRequest) -> Result<Frame<S>, NoFrame> {
        let _ = request;
        todo!()
    }

    /// `frames` contiguous frames aligned to `align` (a power of two), for
    /// 1 GiB pages, segments and hot-plug: never-used memory if there is
    /// some, else the lowest free range. `request.order` is not looked at. A `Compound` unit must
    /// be a power of two of frames; otherwise each frame is owned by itself.
    pub fn alloc_contiguous(
        &mut self,
        frames: u64,
        align: u64,
        request: AllocRequest,
    ) -> Result<Frame<S>, NoFrame> {
        let _ = (frames, align, request);
        todo!()
    }

    /// Takes these free frames, and no others, out of the allocator (also from
    /// never-used memory and the per-CPU lists).
    pub fn alloc_at(
        &mut self,
        start: Frame<S>,
        frames: u64,
        state: FrameState,
        unit: Unit,
    ) -> Result<(), BadFrame<S>> {
        let _ = (start, frames, state, unit);
        todo!()
    }

    /// Takes one free frame out of the allocator: a faulty one, a balloon's, the
    /// target of a compaction.
    pub fn isolate(&mut self, frame: Frame<S>, state: FrameState) -> Result<(), BadFrame<S>> {
        self.alloc_at(frame, 1, state, Unit::Singles)
    }

    /// Gives back 2^order frames that are owned once: a whole block, or any
    /// aligned part of one that is owned as singles. Single frames go to
    /// `cpu`'s list if one is given.
    ///
    /// # Panics
    /// On a double free and everything else that [`try_free`](Self::try_free) refuses.
    pub fn free(&mut self, frame: Frame<S>, order: u8, cpu: Option<CpuId>) {
        if let Err(bad) = self.try_free(frame, order, cpu) {
            panic!("free of order {order}: {bad}");
        }
    }

    /// As [`free`](Self::free), with the misuse as an error and nothing changed.
    pub fn try_free(&mut self, frame: Frame<S>, order: u8, cpu: Option<CpuId>) -> Result<(), BadFrame<S>> {
        let _ = (frame, order, cpu);
        todo!()
    }

    /// Gives back `frames` frames from `start` on that are owned as singles or as
    /// whole compound units.
    ///
    /// # Panics
    /// As [`free`](Self::free).
    pub fn free_contiguous(&mut self, start: Frame<S>, frames: u64) {
        let _ = (start, frames);
        todo!()
    }

    /// One more reference to the unit that `frame` belongs to. Returns the new count.
    ///
    /// # Panics
    /// If nobody owns the frame.
    pub fn get(&mut self, frame: Frame<S>) -> u32 {
        let _ = frame;
        todo!()
    }

    /// One reference less to the unit that `frame` belongs to; at 0 the unit is freed.
    /// Returns whether it was.
    ///
    /// # Panics
    /// If nobody owns the frame.
    pub fn put(&mut self, frame: Frame<S>, cpu: Option<CpuId>) -> bool {
        let _ = (frame, cpu);
        todo!()
    }

    /// The references to the unit that `frame` belongs to; 0 if nobody owns it.
    pub fn refs(&self, frame: Frame<S>) -> u32 {
        let _ = frame;
        todo!()
    }

    /// Makes units of 2^`order` frames (0: singles) of the compound unit at `head`. Each
    /// starts with the head's count; adjust it where the mappings differ.
    pub fn split_compound(&mut self, head: Frame<S>, order: u8) -> Result<(), BadFrame<S>> {
        let _ = (head, order);
        todo!()
    }

    /// The head and order of the compound unit that `frame` belongs to.
    pub fn compound(&self, frame: Frame<S>) -> Option<(Frame<S>, u8)> {
        let _ = frame;
        todo!()
    }

    /// What `frame` is used for.
    pub fn state(&self, frame: Frame<S>) -> FrameState {
        let _ = frame;
        todo!()
    }

    /// Changes what an owned frame (or the unit it belongs to) is used for. A
    /// frame that becomes `Faulty` stays so when its last owner frees it.
    ///
    /// # Panics
    /// If nobody owns the frame, or `state` is not one of an owned frame.
    pub fn set_state(&mut self, frame: Frame<S>, state: FrameState) {
        let _ = (frame, state);
        todo!()
    }

    /// The node of `frame`; node 0 for a hole.
    #[inline]
    pub fn node_of(&self, frame: Frame<S>) -> NodeId {
        let _ = frame;
        todo!()
    }

    /// The nodes, with or without memory.
    pub fn nodes(&self) -> NodeSet {
        todo!()
    }

    /// The nodes in the order in which an allocation for `node` tries them.
    pub fn fallback_order(&self, node: NodeId) -> &[NodeId] {
        let _ = node;
        todo!()
    }

    /// Frames of `node`.
    pub fn frames(&self, node: NodeId) -> u64 {
        let _ = node;
        todo!()
    }

    /// Free frames of `node`, without those on per-CPU lists.
    pub fn free_frames(&self, node: NodeId) -> u64 {
        let _ = node;
        todo!()
    }

    /// Frames of `node` on per-CPU lists.
    pub fn pcp_frames(&self, node: NodeId) -> u64 {
        let _ = node;
        todo!()
    }

    /// Free blocks of `order` on `node`, as in `/proc/buddyinfo`.
    pub fn free_blocks(&self, node: NodeId, order: u8) -> u64 {
        let _ = (node, order);
        todo!()
    }

    /// The share of `node`'s free frames that no allocation of `order` can
    /// use: 0 (all) … 1 (none).
    pub fn unusable_index(&self, node: NodeId, order: u8) -> f64 {
        let _ = (node, order);
        todo!()
    }

    /// The longest run of free pageblocks of `node`, in frames.
    pub fn contiguous_free_max(&self, node: NodeId) -> u64 {
        let _ = node;
        todo!()
    }

    /// The watermarks of a zone; zero if it has no memory.
    pub fn marks(&self, node: NodeId, zone: ZoneKind) -> ZoneMarks {
        let _ = (node, zone);
        todo!()
    }

    /// Whether some zone of `node` is below its low watermark: reclaim should start.
    pub fn below_low(&self, node: NodeId) -> bool {
        let _ = node;
        todo!()
    }

    /// Whether all zones of `node` are above their high watermark: reclaim may stop.
    pub fn above_high(&self, node: NodeId) -> bool {
        let _ = node;
        todo!()
    }

    /// Gives all frames on `cpu`'s lists (all CPUs' for `None`) back to their zones.
    pub fn drain(&mut self, cpu: Option<CpuId>) {
        let _ = cpu;
        todo!()
    }

    /// Adds never-used memory to `node`: whole pageblocks.
    pub fn add_range(&mut self, node: NodeId, start: Frame<S>, frames: u64) -> Result<(), HotplugError> {
        let _ = (node, start, frames);
        todo!()
    }

    /// Removes memory that is wholly free: whole pageblocks.
    pub fn remove_range(&mut self, start: Frame<S>, frames: u64) -> Result<(), HotplugError> {
        let _ = (start, frames);
        todo!()
    }

    /// Moves movable units until `node` has a free block of `order`, as Linux's
    /// compaction does: sources from the bottom, targets from the top. `move_frame(from, to,
    /// order)` asks the owner to move a unit; if it returns true, `to` has taken over the state and count
    /// of `from`, and `from` is free when the call returns.
    pub fn compact(
        &mut self,
        node: NodeId,
        order: u8,
        move_frame: &mut dyn FnMut(Frame<S>, Frame<S>, u8) -> bool,
    ) -> CompactReport {
        let _ = (node, order, move_frame);
        todo!()
    }

    /// Moves movable units out of these frames (whole pageblocks) until all are
    /// free, for [`alloc_at`](Self::alloc_at) and [`remove_range`](Self::remove_range).
    pub fn evacuate(
        &mut self,
        start: Frame<S>,
        frames: u64,
        move_frame: &mut dyn FnMut(Frame<S>, Frame<S>, u8) -> bool,
    ) -> CompactReport {
        let _ = (start, frames, move_frame);
        todo!()
    }

    /// The pageblock's mobility that `frame` is grouped under.
    pub fn mobility(&self, frame: Frame<S>) -> Mobility {
        let _ = frame;
        todo!()
    }

    /// What the pool did so far.
    pub fn stats(&self) -> &Stats {
        todo!()
    }

    /// The memory that the pool itself holds, in bytes.
    pub fn bytes(&self) -> usize {
        todo!()
    }

    /// Checks that every frame is free, on a CPU's list, or owned exactly once, and that all lists
    /// and counts agree. Takes time in proportion to the memory used.
    pub fn audit(&self) -> Result<Totals, AuditError> {
        todo!()
    }
}
