//! The allocator in front of the buddy allocator.

use super::part::Part;
use super::reservation::mask;
use super::settings::{SHARE, Settings};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use paging::frames::{AllocRequest, FrameState, MAX_NODES, Mobility, NodeId, NodeSet};
use paging::{Frame, FramePool, FrameRequest, FrameSource, NoFrame, PhysSpace, Unmapped};

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Blocks reserved.
    pub reservations: u64,
    /// Faults answered from a reservation that was there.
    pub served: u64,
    /// Those of them that a child had from a parent's.
    pub inherited: u64,
    /// Faults answered with a single frame, as there was no block.
    pub no_block: u64,
    /// The same, as reservations keep as much as they may.
    pub at_threshold: u64,
    /// Frames that came back to their reservation when they were unmapped.
    pub taken_back: u64,
    /// Unused frames given back because memory was short, or the threshold was met.
    pub reclaimed: u64,
    /// The most frames that were kept unused at a time.
    pub peak: u64,
}

/// What is known of an address space.
#[derive(Debug, Default)]
struct Space {
    part: Part,
    /// Whose reservations may serve its faults too.
    parent: Option<u32>,
    /// It may not have reservations of its own.
    off: bool,
    /// Frames that its reservations keep unused.
    unused: u64,
    hand: usize,
}

/// The frame source of a kernel with `PTEMagnet`. See the [module](super).
#[derive(Debug, Default)]
pub struct PteMagnet {
    settings: Settings,
    /// By number.
    spaces: Vec<Option<Box<Space>>>,
    /// Frames kept unused, by node.
    unused: [u64; MAX_NODES],
    /// The threshold in frames, as last worked out.
    threshold: u64,
    stats: Stats,
}

impl PteMagnet {
    /// No reservations yet.
    pub fn new(settings: Settings) -> Self {
        PteMagnet { settings, ..PteMagnet::default() }
    }
    /// Its choices.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
    /// What happened so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
    /// Bytes that the tables of reservations take.
    pub fn bytes(&self) -> usize {
        self.spaces.iter().flatten().map(|space| space.part.bytes()).sum()
    }
    /// Frames that the reservations of `space` keep unused.
    pub fn reserved_by(&self, space: u32) -> u64 {
        self.space(space).map_or(0, |space| space.unused)
    }

    /// Frames that are kept unused on `node`.
    pub fn reserved_on(&self, node: NodeId) -> u64 {
        self.unused[node.index()]
    }

    fn region(&self, page: u64) -> (u64, u32) {
        (page >> self.settings.order(), (page & u64::from(self.settings.pages() - 1)) as u32)
    }

    fn keeps(&self) -> u64 {
        self.unused.iter().sum()
    }

    #[inline]
    fn space(&self, id: u32) -> Option<&Space> {
        self.spaces.get(id as usize)?.as_deref()
    }

    #[inline]
    fn space_mut(&mut self, id: u32) -> Option<&mut Space> {
        self.spaces.get_mut(id as usize)?.as_deref_mut()
    }

    /// The space of a number; it begins when it is first named.
    fn begin(&mut self, id: u32) -> &mut Space {
        let at = id as usize;
        if at >= self.spaces.len() {
            self.spaces.resize_with(at + 1, || None);
        }
        self.spaces[at].get_or_insert_default()
    }

    fn add(&mut self, space: u32, node: NodeId, frames: u64) {
        self.unused[node.index()] += frames;
        if let Some(space) = self.space_mut(space) {
            space.unused += frames;
        }
        self.stats.peak = self.stats.peak.max(self.keeps());
    }

    fn sub(&mut self, space: u32, node: NodeId, frames: u64) {
        self.unused[node.index()] -= frames;
        if let Some(space) = self.space_mut(space) {
            space.unused -= frames;
        }
    }

    /// A frame that is reserved for the page: by the space itself, or by those it was
    /// forked from. `Ok`: as wanted. `Err`: there is none, and whether a block may be reserved.
    fn reserved_frame<S: PhysSpace>(
        &mut self,
        pool: &mut FramePool<S>,
        request: &FrameRequest,
    ) -> Result<Frame<S>, bool> {
        let (region, index) = self.region(request.page);
        let mut next = Some(request.space);
        let mut own = true;
        while let Some(id) = next {
            let Some(space) = self.spaces.get_mut(id as usize).and_then(Option::as_deref_mut) else { break };
            next = space.parent;
            if let Some(entry) = space.part.find(region) {
                let mut entry = entry.lock();
                let home = entry.block().map(|first| pool.node_of(Frame::new(first)));
                // Placement goes before contiguity: a frame of another node will not do.
                if home == Some(request.node)
                    && let Some(frame) = entry.take(index, own)
                {
                    drop(entry);
                    space.unused -= 1;
                    self.unused[request.node.index()] -= 1;
                    self.stats.served += 1;
                    self.stats.inherited += u64::from(!own);
                    let frame = Frame::new(frame);
                    pool.set_state(frame, request.state);
                    return Ok(frame);
                }
                if own && home.is_some_and(|home| home != request.node) {
                    return Err(false);
                }
            }
            own = false;
        }
        Err(true)
    }

    /// Reserves a block for the region of the page, and takes the page's frame of it.
    fn reserve<S: PhysSpace>(&mut self, pool: &mut FramePool<S>, request: &FrameRequest) -> Option<Frame<S>> {
        let (region, index) = self.region(request.page);
        let pages = self.settings.pages();
        let first_page = region << self.settings.order();
        let inside = (request.area_end.min(first_page + u64::from(pages)))
            .saturating_sub(request.area_start.max(first_page));
        let off = self.space(request.space).is_none_or(|space| space.off);
        if off || inside < 2 {
            return None;
        }
        if !self.make_room(pool, u64::from(pages) - 1) {
            self.stats.at_threshold += 1;
            return None;
        }
        // Only if it costs nobody anything: no reserves, no reclaim, no other node.
        let block = AllocRequest::new(request.node, FrameState::Reserved)
            .order(self.settings.order())
            .mobility(Mobility::Movable)
            .strict()
            .opportunistic();
        let Ok(first) = pool.alloc(block) else {
            self.stats.no_block += 1;
            return None;
        };
        // What the region had before has given this page's frame away.
        self.dissolve(pool, request.space, region);
        let part = &mut self.space_mut(request.space)?.part;
        part.make(region).lock().begin(first.number(), pages, index);
        part.began(region);
        self.add(request.space, request.node, u64::from(pages) - 1);
        self.stats.reservations += 1;
        let frame = first.offset(u64::from(index));
        pool.set_state(frame, request.state);
        Some(frame)
    }

    /// Whether `frames` more may be kept unused, after giving back what others keep:
    /// the space that keeps most goes first, so whoever wastes pays.
    fn make_room<S: PhysSpace>(&mut self, pool: &mut FramePool<S>, frames: u64) -> bool {
        if self.keeps() + frames <= self.threshold {
            return true;
        }
        self.threshold = match self.settings.threshold {
            Some(frames) => frames,
            None => pool.nodes().iter().map(|node| pool.frames(node)).sum::<u64>() / SHARE,
        };
        if self.keeps() + frames > self.threshold && frames <= self.threshold {
            // Some at a time, so that the walk over the table is not made for each.
            let surplus = self.keeps() + frames - self.threshold;
            self.give_back(pool, NodeSet::ALL, surplus.max(self.threshold / 16));
        }
        self.keeps() + frames <= self.threshold
    }

    /// Returns up to `want` unused frames of `nodes` (more by what the last block has).
    fn give_back<S: PhysSpace>(&mut self, pool: &mut FramePool<S>, nodes: NodeSet, want: u64) -> u64 {
        let on_nodes = |unused: &[u64; MAX_NODES]| nodes.iter().map(|n| unused[n.index()]).sum::<u64>();
        let mut given = 0;
        let all = (0..self.spaces.len() as u32).map(|id| (self.reserved_by(id), id));
        let mut spaces: Vec<(u64, u32)> = all.filter(|space| space.0 > 0).collect();
        spaces.sort_unstable_by_key(|&(unused, id)| (core::cmp::Reverse(unused), id));
        for (_, id) in spaces {
            let (mut hand, mut ends) = (self.space(id).map_or(0, |space| space.hand), 0);
            // To the end from where it was left, and once around.
            while given < want && ends < 2 && on_nodes(&self.unused) > 0 {
                let Some(space) = self.space(id).filter(|space| space.unused > 0) else { break };
                let regions = space.part.pass(&mut hand);
                ends += u32::from(regions.is_empty());
                for region in regions {
                    given += self.dissolve_if(pool, id, region, nodes);
                    if given >= want {
                        break;
                    }
                }
            }
            if let Some(space) = self.space_mut(id) {
                space.hand = hand;
            }
        }
        self.stats.reclaimed += given;
        given
    }

    /// Ends the reservation of a region if its block is on `nodes` and some of it is
    /// unused; those frames go back. How many.
    fn dissolve_if<S: PhysSpace>(
        &mut self,
        pool: &mut FramePool<S>,
        id: u32,
        region: u64,
        nodes: NodeSet,
    ) -> u64 {
        let Some(space) = self.space_mut(id) else { return 0 };
        let Some(entry) = space.part.find(region) else { return 0 };
        let mut entry = entry.lock();
        let Some(first) = entry.block() else { return 0 };
        if entry.unused() == 0 || !nodes.contains(pool.node_of(Frame::new(first))) {
            return 0;
        }
        let unused = entry.end();
        drop(entry);
        space.part.ended(region);
        self.free(pool, id, first, unused)
    }

    /// Ends the reservation of a region, if there is one. Mapped pages live on.
    fn dissolve<S: PhysSpace>(&mut self, pool: &mut FramePool<S>, id: u32, region: u64) {
        let Some(space) = self.space_mut(id) else { return };
        let Some(entry) = space.part.find(region) else { return };
        let mut entry = entry.lock();
        let Some(first) = entry.block() else { return };
        let unused = entry.end();
        drop(entry);
        space.part.ended(region);
        self.free(pool, id, first, unused);
    }

    /// Gives frames of a block back, straight to the zone, where they merge. How many.
    fn free<S: PhysSpace>(&mut self, pool: &mut FramePool<S>, id: u32, first: u64, unused: u64) -> u64 {
        let frames = u64::from(unused.count_ones());
        if frames == 0 {
            return 0;
        }
        let block: Frame<S> = Frame::new(first);
        self.sub(id, pool.node_of(block), frames);
        if unused == mask(self.settings.pages()) {
            pool.free(block, self.settings.order(), None);
        } else {
            let mut left = unused;
            while left != 0 {
                pool.free(block.offset(u64::from(left.trailing_zeros())), 0, None);
                left &= left - 1;
            }
        }
        frames
    }

    /// The frames for pages of `which` of a region will not be asked for.
    fn release<S: PhysSpace>(&mut self, pool: &mut FramePool<S>, id: u32, region: u64, which: u64) {
        let Some(entry) = self.space_mut(id).and_then(|space| space.part.find(region)) else { return };
        let mut entry = entry.lock();
        let Some(first) = entry.block() else { return };
        let (unused, mapped) = (entry.release(which), entry.mapped());
        drop(entry);
        self.free(pool, id, first, unused);
        if mapped == 0 {
            self.dissolve(pool, id, region);
        }
    }
}

impl<S: PhysSpace> FrameSource<S> for PteMagnet {
    fn frame(&mut self, pool: &mut FramePool<S>, request: &FrameRequest) -> Result<Frame<S>, NoFrame> {
        // Huge pages and the page cache have no use for it.
        if request.order == 0 && request.state == FrameState::Anon {
            match self.reserved_frame(pool, request) {
                Ok(frame) => return Ok(frame),
                Err(true) => {
                    if let Some(frame) = self.reserve(pool, request) {
                        return Ok(frame);
                    }
                }
                Err(false) => {}
            }
        }
        pool.alloc(request.to_pool())
    }

    fn limited(&mut self, space: u32, frames: Option<u64>) {
        let off = frames.is_some_and(|frames| frames < self.settings.min_limit);
        self.begin(space).off = off;
    }

    fn unmapped(&mut self, pool: &mut FramePool<S>, gone: &Unmapped<S>) -> bool {
        if gone.pages > 1 {
            return false;
        }
        let (region, index) = self.region(gone.page);
        let room = self.keeps() < self.threshold;
        let Some(space) = self.space_mut(gone.space) else { return false };
        let Some(entry) = space.part.find(region) else { return false };
        let mut entry = entry.lock();
        let keep = gone.last && !space.off && room;
        if !entry.unmap(index, gone.frame.number(), keep) {
            return false;
        }
        let rest = entry.mapped();
        drop(entry);
        if keep {
            pool.set_state(gone.frame, FrameState::Reserved);
            self.add(gone.space, pool.node_of(gone.frame), 1);
            self.stats.taken_back += 1;
        }
        if rest == 0 {
            // The last page of the block went: it goes back whole.
            self.dissolve(pool, gone.space, region);
        }
        keep
    }

    fn removed(&mut self, pool: &mut FramePool<S>, space: u32, page: u64, pages: u64) {
        let order = self.settings.order();
        let (start, end) = (page, page + pages);
        let regions: Range<u64> = start >> order..(end + u64::from(self.settings.pages() - 1)) >> order;
        let Some(of) = self.space_mut(space).filter(|space| space.unused > 0) else { return };
        for region in of.part.within(regions) {
            let first = region << order;
            let all = mask(self.settings.pages());
            let from = start.saturating_sub(first).min(64) as u32;
            let upto = (end - first).min(u64::from(self.settings.pages())) as u32;
            let which = all.checked_shl(from).unwrap_or(0) & mask(upto);
            self.release(pool, space, region, which);
        }
    }

    fn forked(&mut self, _pool: &mut FramePool<S>, parent: u32, child: u32) {
        self.begin(child).parent = Some(parent);
    }

    fn exited(&mut self, pool: &mut FramePool<S>, space: u32) {
        let regions = self.space_mut(space).map(|gone| gone.part.within(0..u64::MAX));
        for region in regions.unwrap_or_default() {
            self.dissolve(pool, space, region);
        }
        let Some(gone) = self.spaces.get_mut(space as usize).and_then(Option::take) else { return };
        debug_assert_eq!(gone.unused, 0, "an ended space keeps nothing");
        // Its children are its parent's: what that one reserved is still for the pages they share.
        for child in self.spaces.iter_mut().flatten().filter(|other| other.parent == Some(space)) {
            child.parent = gone.parent;
        }
    }

    fn reclaim(&mut self, pool: &mut FramePool<S>, nodes: NodeSet, want: u64) -> u64 {
        self.give_back(pool, nodes, want)
    }

    fn reserved(&self) -> u64 {
        self.keeps()
    }
}
