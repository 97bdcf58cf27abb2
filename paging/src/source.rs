//! The seam for frames: which frame answers a fault.

use crate::addr::{Frame, PhysSpace};
use crate::frames::{
    AllocRequest, CpuId, FramePool, FrameState, Mobility, NoFrame, NodeId, NodePolicy, NodeSet, Unit,
};
use core::fmt::Debug;

/// A fault that needs a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRequest {
    /// The address space that faults (a process, or a VM for its host).
    pub space: u32,
    /// The page that faults: input address / 4096. For a huge page, its first.
    pub page: u64,
    /// First page of the mapping that the fault is in.
    pub area_start: u64,
    /// Page after the mapping's last.
    pub area_end: u64,
    /// 0 for 4 KiB, 9 for 2 MiB, 18 for 1 GiB.
    pub order: u8,
    /// Where it is wanted.
    pub node: NodeId,
    /// From no other node.
    pub strict: bool,
    /// The CPU that faults.
    pub cpu: CpuId,
    /// What the frame will hold: [`FrameState::Anon`] or [`FrameState::File`].
    pub state: FrameState,
}

impl FrameRequest {
    /// The same, as a request to the pool.
    pub fn to_pool(&self) -> AllocRequest {
        AllocRequest {
            order: self.order,
            node: self.node,
            policy: if self.strict { NodePolicy::Strict } else { NodePolicy::Prefer },
            mobility: Mobility::Movable,
            cpu: Some(self.cpu),
            state: self.state,
            unit: if self.order == 0 { Unit::Singles } else { Unit::Compound },
            ..AllocRequest::default()
        }
    }
}

/// A leaf that no longer maps what it did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unmapped<S: PhysSpace> {
    /// The address space that mapped it.
    pub space: u32,
    /// The page: input address / 4096. For a huge page, its first.
    pub page: u64,
    /// 4 KiB pages.
    pub pages: u64,
    /// The first frame that was mapped.
    pub frame: Frame<S>,
    /// The leaf's reference to the frame is about to be put, it is the last one,
    /// and the frame is a single anonymous one: the source may have it instead of the pool.
    pub last: bool,
}

/// The seam. One per kernel; it knows all address spaces by number.
pub trait FrameSource<S: PhysSpace>: Debug + Send {
    /// The frame (the first of 2^order) for a fault, with one reference, in
    /// the state asked for.
    ///
    /// # Errors
    /// If no frame is left where it may come from.
    fn frame(&mut self, pool: &mut FramePool<S>, request: &FrameRequest) -> Result<Frame<S>, NoFrame>;

    /// The frame that is kept for this very page; `None` if any frame would do. For pages that
    /// nobody waits for (files read ahead).
    fn kept(&mut self, _pool: &mut FramePool<S>, _request: &FrameRequest) -> Option<Frame<S>> {
        None
    }

    /// The group of `space` may have `frames` frames of anonymous memory (`None`: no
    /// limit). Told when the space begins, and when the limit changes.
    fn limited(&mut self, _space: u32, _frames: Option<u64>) {}

    /// A leaf went, by an unmap, a discard, a copy on a write, swap or migration.
    /// Returns whether the source took the last reference over (only if
    /// [`Unmapped::last`]); the pool does not get the frame then. The content is
    /// no longer anybody's.
    fn unmapped(&mut self, _pool: &mut FramePool<S>, _gone: &Unmapped<S>) -> bool {
        false
    }

    /// `pages` pages from `page` on of `space` are in no area any more: they will
    /// not fault until something else is mapped there.
    fn removed(&mut self, _pool: &mut FramePool<S>, _space: u32, _page: u64, _pages: u64) {}

    /// `child` was forked from `parent`.
    fn forked(&mut self, _pool: &mut FramePool<S>, _parent: u32, _child: u32) {}

    /// `space` is gone; what was kept for it goes back.
    fn exited(&mut self, _pool: &mut FramePool<S>, _space: u32) {}

    /// Memory of `nodes` is short: gives back `want` frames of them that it keeps
    /// but that nobody uses, or all if it has fewer. Returns how many came back.
    fn reclaim(&mut self, _pool: &mut FramePool<S>, _nodes: NodeSet, _want: u64) -> u64 {
        0
    }

    /// Frames kept for later faults and not used now.
    fn reserved(&self) -> u64 {
        0
    }
}

/// The baseline: the buddy allocator of the node, through the per-CPU lists.
#[derive(Clone, Copy, Debug, Default)]
pub struct FromBuddy;

impl<S: PhysSpace> FrameSource<S> for FromBuddy {
    fn frame(&mut self, pool: &mut FramePool<S>, request: &FrameRequest) -> Result<Frame<S>, NoFrame> {
        pool.alloc(request.to_pool())
    }
}
