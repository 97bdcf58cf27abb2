//! Frames as a real process had them.

use super::{RealLayout, Shared, place};
use paging::frames::{FrameState, NodeId, NodeSet, Unit};
use paging::{Frame, FramePool, FrameRequest, FrameSource, NoFrame, PhysSpace, Unmapped};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Gives each page of one process the frame that the layout has for it. The frames are
/// kept in state [`FrameState::Reserved`] until then, and again when their page is unmapped. All other
/// requests go to another source.
#[derive(Debug)]
pub struct LayoutFrames<S: PhysSpace> {
    layout: Arc<RealLayout>,
    shared: Arc<Shared>,
    inner: Box<dyn FrameSource<S>>,
    /// The first frame of each run of the layout.
    frames: Vec<Option<Frame<S>>>,
    nodes: Vec<NodeId>,
    /// Frames whose pages were unmapped; they are free as soon as nobody else maps them.
    returned: Vec<(Frame<S>, u64)>,
}

impl<S: PhysSpace> LayoutFrames<S> {
    /// Takes the layout's frames out of the pool; what it has no frame for is asked of `inner`.
    ///
    /// # Errors
    /// With a sentence, if the pool has no room for them.
    pub fn new(
        layout: Arc<RealLayout>,
        shared: Arc<Shared>,
        pool: &mut FramePool<S>,
        inner: Box<dyn FrameSource<S>>,
    ) -> Result<LayoutFrames<S>, String> {
        let frames = place::take(&layout, pool)?;
        let nodes = pool.nodes().iter().collect();
        Ok(LayoutFrames { layout, shared, inner, frames, nodes, returned: Vec::new() })
    }

    fn is_ours(&self, space: u32) -> bool {
        space != 0 && self.shared.space.load(Ordering::Relaxed) == space
    }

    /// Keeps frames that came back for their pages again.
    fn take_back(&mut self, pool: &mut FramePool<S>) {
        for (first, count) in std::mem::take(&mut self.returned) {
            for frame in (0..count).map(|i| first.offset(i)) {
                if matches!(pool.state(frame), FrameState::Free | FrameState::PerCpuFree) {
                    let _ = pool.isolate(frame, FrameState::Reserved);
                }
            }
        }
    }

    /// The frame that is kept for the page asked for.
    fn claim(&self, pool: &mut FramePool<S>, request: &FrameRequest) -> Option<Frame<S>> {
        let (run, into) = self.layout.find(request.page)?;
        let count = 1_u64 << request.order;
        let known = &self.layout.runs[run];
        // A private copy of a page that may be written to has a frame of its own, unlike the file's page.
        if into + count > known.pages || (request.state == FrameState::File && !known.file) {
            return None;
        }
        let frame = self.frames[run]?.offset(into);
        if !(0..count).all(|i| pool.state(frame.offset(i)) == FrameState::Reserved) {
            return None;
        }
        if count == 1 {
            pool.set_state(frame, request.state);
            return Some(frame);
        }
        if frame.number() & (count - 1) != 0 {
            return None;
        }
        pool.free_contiguous(frame, count);
        pool.alloc_at(frame, count, request.state, Unit::Compound).ok().map(|()| frame)
    }

    /// The node of a page whose frame is not known.
    fn node(&self, page: u64) -> Option<NodeId> {
        let (run, _) = self.layout.find(page)?;
        let node = self.layout.runs[run].node?;
        Some(self.nodes[usize::from(node) % self.nodes.len()])
    }
}

impl<S: PhysSpace> FrameSource<S> for LayoutFrames<S> {
    fn frame(&mut self, pool: &mut FramePool<S>, request: &FrameRequest) -> Result<Frame<S>, NoFrame> {
        self.take_back(pool);
        if !self.is_ours(request.space) {
            return self.inner.frame(pool, request);
        }
        if let Some(frame) = self.claim(pool, request) {
            self.shared.placed.fetch_add(1 << request.order, Ordering::Relaxed);
            return Ok(frame);
        }
        self.shared.elsewhere.fetch_add(1 << request.order, Ordering::Relaxed);
        match self.node(request.page) {
            Some(node) if !request.strict => self.inner.frame(pool, &FrameRequest { node, ..*request }),
            _ => self.inner.frame(pool, request),
        }
    }

    fn kept(&mut self, pool: &mut FramePool<S>, request: &FrameRequest) -> Option<Frame<S>> {
        if !self.is_ours(request.space) {
            return self.inner.kept(pool, request);
        }
        self.take_back(pool);
        let frame = self.claim(pool, request)?;
        self.shared.placed.fetch_add(1, Ordering::Relaxed);
        Some(frame)
    }

    fn limited(&mut self, space: u32, frames: Option<u64>) {
        self.inner.limited(space, frames);
    }

    fn unmapped(&mut self, pool: &mut FramePool<S>, gone: &Unmapped<S>) -> bool {
        let taken = self.inner.unmapped(pool, gone);
        if taken || !self.is_ours(gone.space) {
            return taken;
        }
        let (mut at, end) = (gone.page, gone.page + gone.pages);
        while let Some((run, into)) = (at < end).then(|| self.layout.find(at)).flatten() {
            let count = (self.layout.runs[run].pages - into).min(end - at);
            if let Some(first) = self.frames[run] {
                self.returned.push((first.offset(into), count));
            }
            at += count;
        }
        false
    }

    fn removed(&mut self, pool: &mut FramePool<S>, space: u32, page: u64, pages: u64) {
        self.inner.removed(pool, space, page, pages);
    }

    fn forked(&mut self, pool: &mut FramePool<S>, parent: u32, child: u32) {
        self.inner.forked(pool, parent, child);
    }

    fn exited(&mut self, pool: &mut FramePool<S>, space: u32) {
        self.inner.exited(pool, space);
    }

    fn reclaim(&mut self, pool: &mut FramePool<S>, nodes: NodeSet, want: u64) -> u64 {
        let mut back = self.inner.reclaim(pool, nodes, want);
        self.returned.clear();
        for (run, first) in self.layout.runs.iter().zip(&self.frames) {
            let Some(first) = first else { continue };
            for frame in (0..run.pages).map(|i| first.offset(i)) {
                if back >= want {
                    return back;
                }
                if nodes.contains(pool.node_of(frame)) && pool.state(frame) == FrameState::Reserved {
                    pool.free(frame, 0, None);
                    back += 1;
                }
            }
        }
        back
    }

    fn reserved(&self) -> u64 {
        self.inner.reserved()
    }
}
