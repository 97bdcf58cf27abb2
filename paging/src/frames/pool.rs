//! The pool: all nodes' zones, the per-CPU lists, and the frames' descriptors.
//!
//! # Locks
//!
//! A pool has one owner (`&mut`). On a machine that shares it between CPUs,
//! * a CPU's lists need interrupts off and no lock;
//! * each zone (its lists, its fresh ranges, the words of its free frames) needs one lock; no call holds two,
//!   but for hot-plug, which holds all;
//! * the count in an owned frame's word is changed atomically by whoever holds a reference, and
//!   the one that takes it to 0 owns the frame alone;
//! * sections, zone lists and marks are read without a lock and replaced by hot-plug.

use super::buddy::Zone;
use super::descriptors::{Descriptors, Word};
use super::fresh::{Fresh, whole_blocks};
use super::layout::NO_NODE;
use super::watermark::set_marks;
use super::{
    AllocRequest, BadFrame, CpuId, FrameState, Layout, LayoutError, MAX_ORDER, Mobility, NoFrame, NodeId,
    NodePolicy, NodeSet, ORDERS, PAGEBLOCK, PAGEBLOCK_ORDER, PcpConfig, PoolConfig, SECTION_FRAMES,
    Watermark, ZoneKind,
};
use crate::{Frame, PhysSpace};
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;

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

/// The physical memory of one kernel. See the [module](super).
#[derive(Clone)]
pub struct FramePool<S: PhysSpace> {
    pub(super) d: Descriptors,
    /// Three for each node, lowest first; those without memory stay empty.
    pub(super) zones: Vec<Zone>,
    /// The node of each section.
    pub(super) sections: Vec<u8>,
    /// By node and highest zone: the zones to try, in order.
    pub(super) zonelists: Vec<[Vec<u8>; 3]>,
    /// By node: the nodes to try, in order.
    fallback: Vec<Vec<NodeId>>,
    pub(super) pcp: PcpConfig,
    min_free_kib: Option<u64>,
    /// Whether compaction may move fillers.
    pub(super) fillers_move: bool,
    pub(super) stats: Stats,
    space: PhantomData<S>,
}

impl<S: PhysSpace> fmt::Debug for FramePool<S> {
    /// Free and all frames by node, and what was done.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.nodes().iter().map(|node| (self.free_frames(node), self.frames(node)));
        let nodes: Vec<(u64, u64)> = nodes.collect();
        f.debug_struct("FramePool").field("nodes", &nodes).field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// How deep one pass over the zones may go.
#[derive(Clone, Copy)]
pub(super) enum Depth {
    Low,
    Min,
    Bottom,
}

impl<S: PhysSpace> FramePool<S> {
    /// The memory of `layout`, all free (but for fragmentation).
    pub fn new(layout: &Layout, config: PoolConfig) -> Result<Self, LayoutError> {
        layout.check()?;
        let nodes = layout.nodes.len();
        let mut pool = FramePool {
            d: Descriptors::new(layout.end()),
            zones: (0..nodes as u8)
                .flat_map(|node| ZoneKind::ALL.map(|kind| Zone::new(NodeId(node), kind)))
                .collect(),
            sections: layout.section_owners()?,
            zonelists: Vec::new(),
            fallback: (0..nodes as u8).map(|node| layout.fallback_order(NodeId(node))).collect(),
            pcp: config.pcp,
            min_free_kib: config.min_free_kib,
            fillers_move: config.fragmentation.is_some_and(|f| f.pin == Mobility::Movable),
            stats: Stats::default(),
            space: PhantomData,
        };
        for (node, spec) in layout.nodes.iter().enumerate() {
            for range in &spec.frames {
                for part in zone_parts(range.clone()) {
                    let blocks = whole_blocks(&part);
                    let pins = match config.fragmentation {
                        Some(f) => f.pins(blocks.start, blocks.end - blocks.start)?,
                        None => None,
                    };
                    let zone = node * 3 + ZoneKind::of(part.start) as usize;
                    pool.zones[zone].add(Fresh::new(part, pins), &mut pool.d);
                }
            }
        }
        pool.refresh();
        Ok(pool)
    }

    /// Sets what follows from the zones' sizes.
    pub(super) fn refresh(&mut self) {
        set_marks(&mut self.zones, self.min_free_kib);
        self.zonelists = self
            .fallback
            .iter()
            .map(|nodes| {
                ZoneKind::ALL.map(|highest| {
                    let of_node = |node: &NodeId| {
                        let first = node.index() * 3;
                        (first..=first + highest as usize).rev()
                    };
                    nodes
                        .iter()
                        .flat_map(of_node)
                        .filter(|&zone| self.zones[zone].frames > 0)
                        .map(|zone| zone as u8)
                        .collect()
                })
            })
            .collect();
    }

    // Allocation.

    /// A block of 2^order frames, aligned to its size, with a count of 1.
    ///
    /// Zones are tried down to their low mark first and, unless the request is
    /// opportunistic, down to their min mark after that; then all per-CPU lists are
    /// drained and it is tried once more.
    ///
    /// # Errors
    /// If no block is left where it may come from.
    #[inline]
    pub fn alloc(&mut self, request: AllocRequest) -> Result<Frame<S>, NoFrame> {
        debug_assert!(request.state.is_owned(), "nobody can own a frame as {:?}", request.state);
        match self.alloc_listed(&request) {
            Some(frame) => Ok(Frame::new(frame)),
            None => self.alloc_slowly(&request),
        }
    }

    /// The common case: a single frame from the CPU's list of the first zone.
    #[inline]
    fn alloc_listed(&mut self, request: &AllocRequest) -> Option<u64> {
        let cpu = request.cpu.filter(|_| request.order == 0)?;
        let at = *self.zonelists.get(request.node.index())?[request.zone as usize].first()?;
        let zone = &mut self.zones[at as usize];
        if !allows(request, zone.node) || !zone.can_spare(1, zone.marks.low, request.zone) {
            return None;
        }
        let frame = zone.pcp.pop(cpu, request.mobility)?;
        self.d.set_head(frame, 0, Word::owned(request.state, 0, 1));
        self.stats.allocs[0] += 1;
        if zone.node != request.node {
            self.stats.node_fallbacks += 1;
        }
        Some(frame)
    }

    fn alloc_slowly(&mut self, request: &AllocRequest) -> Result<Frame<S>, NoFrame> {
        if request.order > MAX_ORDER {
            let frames = 1 << request.order.min(40);
            return self.alloc_contiguous(frames, frames, *request);
        }
        match self.alloc_block(request) {
            Some(frame) => Ok(Frame::new(frame)),
            None => Err(self.refuse(request, 1 << request.order)),
        }
    }

    /// A block from the zones, as deep as the request may dig.
    pub(super) fn alloc_block(&mut self, request: &AllocRequest) -> Option<u64> {
        let depths: &[Depth] = match request.watermark {
            Watermark::Opportunistic => &[Depth::Low],
            Watermark::Normal => &[Depth::Low, Depth::Min],
            Watermark::Emergency => &[Depth::Bottom],
        };
        for &depth in depths {
            if let Some(frame) = self.try_zones(request, depth) {
                return Some(frame);
            }
        }
        // As direct reclaim does before it gives up. What is only nice to have must not upset the
        // CPUs' lists.
        if request.watermark != Watermark::Opportunistic && self.zones.iter().any(|zone| zone.pcp.frames > 0)
        {
            self.drain(None);
            return self.try_zones(request, depths[depths.len() - 1]);
        }
        None
    }

    /// One pass over the zones that may serve the request.
    fn try_zones(&mut self, request: &AllocRequest, depth: Depth) -> Option<u64> {
        let list = &self.zonelists.get(request.node.index())?[request.zone as usize];
        for (nth, &at) in list.iter().enumerate() {
            let zone = &mut self.zones[at as usize];
            if !allows(request, zone.node) || !has_depth(zone, request, depth, 1 << request.order) {
                continue;
            }
            let stolen = &mut self.stats.mobility_fallbacks;
            let taken = match request.cpu {
                Some(cpu) if request.order == 0 => {
                    let batch = self.pcp.batch;
                    let refills = &mut self.stats.pcp_refills;
                    zone.take_single(&mut self.d, cpu, request.mobility, batch, stolen, refills)
                }
                _ => zone.take(&mut self.d, request.order, request.mobility, stolen),
            };
            let Some(frame) = taken else { continue };
            self.d.own(frame, request.order, request.state, request.unit, 1);
            self.stats.allocs[request.order as usize] += 1;
            if zone.node != request.node {
                self.stats.node_fallbacks += 1;
            } else if nth > 0 {
                self.stats.zone_fallbacks += 1;
            }
            return Some(frame);
        }
        None
    }

    #[cold]
    pub(super) fn refuse(&mut self, request: &AllocRequest, frames: u64) -> NoFrame {
        self.stats.refused += 1;
        NoFrame {
            frames,
            node: request.node.0,
            policy: request.policy,
            watermark: request.watermark,
            free_on_node: self.free_frames(request.node),
            free: self.zones.iter().map(|zone| zone.free).sum(),
            blocks_on_node: self.free_blocks_for(request.node, frames),
        }
    }

    // Freeing.

    /// Gives back 2^order frames that are owned once: a whole block, or any
    /// aligned part of one that is owned as singles. Single frames go to
    /// `cpu`'s list if one is given.
    ///
    /// # Panics
    /// On a double free and everything else that [`try_free`](Self::try_free) refuses.
    #[inline]
    pub fn free(&mut self, frame: Frame<S>, order: u8, cpu: Option<CpuId>) {
        if let Err(bad) = self.try_free(frame, order, cpu) {
            panic!("free of order {order}: {bad}");
        }
    }

    /// As [`free`](Self::free), with the misuse as an error and nothing changed.
    ///
    /// # Errors
    /// If the frames are not owned once, as singles or as a unit of `order`.
    #[inline]
    pub fn try_free(&mut self, frame: Frame<S>, order: u8, cpu: Option<CpuId>) -> Result<(), BadFrame<S>> {
        let number = frame.number();
        match cpu {
            Some(cpu) if order == 0 => {
                if let Some(word) = self.d.split_word(number).filter(|word| word.is_plain_single()) {
                    *word = Word::PER_CPU;
                    self.push_listed(number, cpu);
                    return Ok(());
                }
            }
            _ if order < PAGEBLOCK_ORDER && self.d.are_plain_singles(number, order) => {
                self.give(number, order);
                return Ok(());
            }
            _ => {}
        }
        self.free_slowly(frame, order, cpu)
    }

    fn free_slowly(&mut self, frame: Frame<S>, order: u8, cpu: Option<CpuId>) -> Result<(), BadFrame<S>> {
        let (start, frames) = (frame.number(), 1u64.checked_shl(order.into()).unwrap_or(0));
        if frames == 0 || start & (frames - 1) != 0 {
            return Err(BadFrame::Misaligned { frame, frames });
        }
        let (head, word) = self.unit(frame)?;
        if word.unit_order() > 0 {
            if head != start || word.unit_order() != order {
                return Err(BadFrame::Compound { frame, head: Frame::new(head), order: word.unit_order() });
            }
            if word.refs() != 1 {
                return Err(BadFrame::Shared { frame, refs: word.refs() });
            }
            self.release_unit(head, word, None);
            return Ok(());
        }
        let mut faulty = false;
        self.each_unit(start, frames, |frame, _, word| {
            if word.unit_order() > 0 {
                let head = Frame::new(frame);
                return Err(BadFrame::Compound { frame: head, head, order: word.unit_order() });
            }
            if word.refs() != 1 {
                return Err(BadFrame::Shared { frame: Frame::new(frame), refs: word.refs() });
            }
            faulty |= word.state() == FrameState::Faulty;
            Ok(())
        })?;
        if faulty {
            for frame in start..start + frames {
                self.release_unit(frame, self.d.of(frame), None);
            }
        } else if order == 0 {
            self.release_single(start, cpu);
        } else {
            self.give(start, order);
        }
        Ok(())
    }

    /// Gives back `frames` frames from `start` on that are owned once, as singles or as
    /// whole compound units.
    ///
    /// # Errors
    /// If they are not; nothing is changed then.
    pub fn try_free_contiguous(&mut self, start: Frame<S>, frames: u64) -> Result<(), BadFrame<S>> {
        let first = start.number();
        let mut pieces = Vec::new();
        self.each_unit(first, frames, |frame, len, word| {
            if word.refs() != 1 {
                return Err(BadFrame::Shared { frame: Frame::new(frame), refs: word.refs() });
            }
            if frame < first || frame + len > first + frames {
                let (head, order) = (Frame::new(frame), word.unit_order());
                return Err(BadFrame::Compound { frame: start, head, order });
            }
            pieces.push((frame, len));
            Ok(())
        })?;
        for (frame, len) in pieces {
            let word = self.d.of(frame);
            // A pageblock of like singles comes as one piece.
            if word.unit_order() == 0 && len == PAGEBLOCK && word.state() != FrameState::Faulty {
                self.give(frame, PAGEBLOCK_ORDER);
                continue;
            }
            let step = 1 << word.unit_order();
            for head in (frame..frame + len).step_by(step) {
                self.release_unit(head, word, None);
            }
        }
        Ok(())
    }

    /// As [`try_free_contiguous`](Self::try_free_contiguous).
    ///
    /// # Panics
    /// Where that has an error.
    pub fn free_contiguous(&mut self, start: Frame<S>, frames: u64) {
        if let Err(bad) = self.try_free_contiguous(start, frames) {
            panic!("free of {frames} frames from {start:?} on: {bad}");
        }
    }

    /// Calls `visit` with the first frame, length and word of each owned unit, or run of singles
    /// with one word, in a range.
    fn each_unit(
        &mut self,
        start: u64,
        frames: u64,
        mut visit: impl FnMut(u64, u64, Word) -> Result<(), BadFrame<S>>,
    ) -> Result<(), BadFrame<S>> {
        let mut at = start;
        while at < start + frames {
            let (head, word) = self.unit(Frame::new(at))?;
            let whole = at & (PAGEBLOCK - 1) == 0 && start + frames - at >= PAGEBLOCK;
            let len = match word.unit_order() {
                0 if whole && !self.d.whole(at >> PAGEBLOCK_ORDER).is_split() => PAGEBLOCK,
                order => 1 << order,
            };
            visit(head, len, word)?;
            at = head + len;
        }
        Ok(())
    }

    /// Puts a frame that is marked so on its CPU's list, and a batch of the longer list back if that is enough.
    #[inline]
    fn push_listed(&mut self, frame: u64, cpu: CpuId) {
        let at = self.zone_at(frame);
        let zone = &mut self.zones[at];
        self.stats.frees[0] += 1;
        let listed = zone.pcp.push(cpu, self.d.mobility(frame), frame);
        if listed > self.pcp.high.into() {
            let mobility = zone.pcp.longer(cpu);
            zone.drain(&mut self.d, cpu, mobility, self.pcp.batch.into());
            self.stats.pcp_drains += 1;
        }
    }

    /// Frees an owned single frame.
    fn release_single(&mut self, frame: u64, cpu: Option<CpuId>) {
        let Some(cpu) = cpu else { return self.give(frame, 0) };
        self.d.ensure_split(frame >> PAGEBLOCK_ORDER);
        self.d.set_head(frame, 0, Word::PER_CPU);
        self.push_listed(frame, cpu);
    }

    /// Frees an owned unit or single. A faulty one stays out, unowned.
    pub(super) fn release_unit(&mut self, head: u64, word: Word, cpu: Option<CpuId>) {
        if word.state() == FrameState::Faulty {
            self.d.set_unit(head, word.with_refs(0));
        } else if word.unit_order() == 0 {
            self.release_single(head, cpu);
        } else {
            self.give(head, word.unit_order());
        }
    }

    /// Gives a block of any order back to its zone.
    pub(super) fn give(&mut self, frame: u64, order: u8) {
        let zone = self.zone_at(frame);
        let piece = order.min(MAX_ORDER);
        self.stats.frees[piece as usize] += 1;
        for start in (frame..frame + (1 << order)).step_by(1 << piece) {
            self.zones[zone].give(&mut self.d, start, piece);
        }
    }

    /// Gives all frames on `cpu`'s lists (all CPUs' for `None`) back to their zones.
    pub fn drain(&mut self, cpu: Option<CpuId>) {
        for zone in &mut self.zones {
            for of in zone.pcp.cpus().filter(|&of| cpu.is_none_or(|cpu| cpu == of)) {
                for mobility in Mobility::ALL {
                    let drained = zone.drain(&mut self.d, of, mobility, usize::MAX);
                    self.stats.pcp_drains += u64::from(drained > 0);
                }
            }
        }
    }

    // Where.

    /// The node of `frame`; node 0 for a hole.
    #[inline(always)]
    pub fn node_of(&self, frame: Frame<S>) -> NodeId {
        match self.sections.get((frame.number() / SECTION_FRAMES) as usize) {
            Some(&node) if node != NO_NODE => NodeId(node),
            _ => NodeId(0),
        }
    }

    /// The zone of a frame that is memory.
    #[inline(always)]
    pub(super) fn zone_at(&self, frame: u64) -> usize {
        usize::from(self.sections[(frame / SECTION_FRAMES) as usize]) * 3 + ZoneKind::of(frame) as usize
    }

    /// The zones of a node.
    pub(super) fn zones_of(&self, node: NodeId) -> &[Zone] {
        self.zones.get(node.index() * 3..node.index() * 3 + 3).unwrap_or(&[])
    }

    /// The nodes, with or without memory.
    pub fn nodes(&self) -> NodeSet {
        NodeSet::first(self.fallback.len())
    }

    /// The nodes in the order in which an allocation for `node` tries them.
    pub fn fallback_order(&self, node: NodeId) -> &[NodeId] {
        &self.fallback[node.index()]
    }

    /// The mobility that the pageblock of `frame` is grouped under.
    pub fn mobility(&self, frame: Frame<S>) -> Mobility {
        self.d.mobility(frame.number())
    }

    /// What the pool did so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

/// Whether the request may be served by `node`.
#[inline(always)]
pub(super) fn allows(request: &AllocRequest, node: NodeId) -> bool {
    match request.policy {
        NodePolicy::Prefer => true,
        NodePolicy::Strict => node == request.node,
        NodePolicy::Within(set) => set.contains(node),
    }
}

/// Whether the zone has `frames` frames to spare for the request.
pub(super) fn has_depth(zone: &Zone, request: &AllocRequest, depth: Depth, frames: u64) -> bool {
    match depth {
        Depth::Low => zone.can_spare(frames, zone.marks.low, request.zone),
        Depth::Min => zone.can_spare(frames, zone.marks.min, request.zone),
        Depth::Bottom => zone.free >= frames,
    }
}

/// A range of frames cut at the zones' borders.
pub(super) fn zone_parts(range: core::ops::Range<u64>) -> impl Iterator<Item = core::ops::Range<u64>> {
    ZoneKind::ALL
        .map(|kind| kind.frames())
        .into_iter()
        .map(move |zone| range.start.max(zone.start)..range.end.min(zone.end))
        .filter(|part| part.start < part.end)
}
