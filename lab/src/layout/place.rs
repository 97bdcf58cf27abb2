//! Where a real machine's frames are in the modelled one.
//!
//! What matters to translation is which frames are neighbours: within 32 KiB (one cache line of a table that is
//! indexed by frame), within 2 MiB and 1 GiB (one table, one huge page). So whole blocks of 2 MiB of the real machine
//! become blocks of the model, a frame keeps its place in its block, and blocks that followed each other still do.
//! Blocks in which the process has nothing are left out. A stretch with a page of 1 GiB keeps its alignment to that.

use super::{RealLayout, Run};
use paging::frames::{FrameState, NodeId, Unit};
use paging::{Frame, FramePool, PageSize, PhysSpace};
use std::collections::BTreeMap;

const BLOCK: u64 = 512;

/// Frames in use that follow each other, by real numbers.
#[derive(Clone, Debug)]
struct Extent {
    start: u64,
    end: u64,
}

/// Blocks that follow each other.
#[derive(Debug)]
struct Stretch {
    first: u64,
    blocks: u64,
    align: u64,
    extents: Vec<Extent>,
}

/// Takes the layout's frames out of the pool, in state `Reserved`; the first frame of each run, if it has
/// frames.
///
/// # Errors
/// With a sentence, if the machine has no room for them.
pub fn take<S: PhysSpace>(
    layout: &RealLayout,
    pool: &mut FramePool<S>,
) -> Result<Vec<Option<Frame<S>>>, String> {
    let nodes: Vec<NodeId> = pool.nodes().iter().collect();
    let node_of = |run: &Run| nodes[usize::from(run.node.unwrap_or(0)) % nodes.len()];
    let mut by_node: BTreeMap<NodeId, Vec<&Run>> = BTreeMap::new();
    for run in layout.runs.iter().filter(|run| run.frame.is_some()) {
        by_node.entry(node_of(run)).or_default().push(run);
    }
    // First real block of each stretch: how far it moved.
    let mut moved: BTreeMap<(NodeId, u64), u64> = BTreeMap::new();
    for (node, runs) in by_node {
        let stretches = stretches(&runs);
        let blocks: u64 = stretches.iter().map(|s| s.blocks).sum();
        let mut room = Room::of(pool, node);
        for stretch in stretches.iter().rev() {
            let first = room.take(pool, stretch).ok_or_else(|| {
                format!(
                    "the layout of process {} has frames in {blocks} blocks of 2 MiB on one node, and {node:?} of the \
                     machine has no room for them; take a larger machine, or one that is not fragmented",
                    layout.pid
                )
            })?;
            moved.insert((node, stretch.first), first);
        }
    }
    let place = |run: &Run| {
        let real = run.frame?;
        let (&(_, from), &to) = moved.range(..=(node_of(run), real / BLOCK)).next_back()?;
        Some(Frame::new(real - from * BLOCK + to * BLOCK))
    };
    Ok(layout.runs.iter().map(place).collect())
}

fn stretches(runs: &[&Run]) -> Vec<Stretch> {
    let mut extents: Vec<(Extent, u64)> = runs
        .iter()
        .filter_map(|run| {
            let start = run.frame?;
            let align = if run.size == PageSize::Size1G { BLOCK } else { 1 };
            Some((Extent { start, end: start + run.pages }, align))
        })
        .collect();
    extents.sort_by_key(|(e, _)| e.start);
    let mut stretches: Vec<Stretch> = Vec::new();
    for (extent, align) in extents {
        let (first, end) = (extent.start / BLOCK, extent.end.div_ceil(BLOCK));
        match stretches.last_mut() {
            Some(last) if first <= last.first + last.blocks => {
                last.blocks = last.blocks.max(end - last.first);
                last.align = last.align.max(align);
                match last.extents.last_mut() {
                    // One frame may be mapped twice.
                    Some(before) if extent.start <= before.end => before.end = before.end.max(extent.end),
                    _ => last.extents.push(extent),
                }
            }
            _ => stretches.push(Stretch { first, blocks: end - first, align, extents: vec![extent] }),
        }
    }
    stretches
}

/// A node's memory from the top down: what is below still has room.
struct Room {
    ranges: Vec<(u64, u64)>,
}

impl Room {
    fn of<S: PhysSpace>(pool: &FramePool<S>, node: NodeId) -> Room {
        let whole = |r: std::ops::Range<Frame<S>>| (r.start.number().div_ceil(BLOCK), r.end.number() / BLOCK);
        Room { ranges: pool.ranges(node).into_iter().map(whole).filter(|(from, to)| from < to).collect() }
    }

    /// Takes a stretch's frames at the highest place where all are free; its first block.
    fn take<S: PhysSpace>(&mut self, pool: &mut FramePool<S>, stretch: &Stretch) -> Option<u64> {
        for range in self.ranges.iter_mut().rev() {
            let mut top = range.1;
            while let Some(first) = top
                .checked_sub(stretch.blocks)
                .and_then(|first| first.checked_sub(first.wrapping_sub(stretch.first) % stretch.align))
                .filter(|&first| first >= range.0)
            {
                match reserve(pool, stretch, first) {
                    Ok(()) => {
                        range.1 = first;
                        return Some(first);
                    }
                    Err(taken) => top = taken.min(top - 1),
                }
            }
        }
        None
    }
}

/// All of the stretch's frames, or none and the block that is in the way.
fn reserve<S: PhysSpace>(pool: &mut FramePool<S>, stretch: &Stretch, first: u64) -> Result<(), u64> {
    let place = |real: u64| Frame::new(real - stretch.first * BLOCK + first * BLOCK);
    for (i, extent) in stretch.extents.iter().enumerate().rev() {
        let frames = extent.end - extent.start;
        if pool.alloc_at(place(extent.start), frames, FrameState::Reserved, Unit::Singles).is_err() {
            for done in &stretch.extents[i + 1..] {
                pool.free_contiguous(place(done.start), done.end - done.start);
            }
            return Err(place(extent.end - 1).number() / BLOCK);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use paging::HostPhys;
    use paging::frames::{Fragmentation, Layout, PoolConfig};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    type Pool = FramePool<HostPhys>;

    fn layout(runs: Vec<Run>) -> RealLayout {
        RealLayout { program: "p".into(), pid: 1, regions: Vec::new(), runs }
    }

    fn run() -> impl Strategy<Value = (u64, u64, bool, u16)> {
        // Close together, so that blocks touch; or of 2 MiB.
        (0..40_000_u64, 1..700_u64, prop::bool::weighted(0.2), 0..3_u16)
    }

    proptest! {
        /// Against the definition: frames keep their place in their block, blocks that followed each other do, no
        /// two frames become one, and all are taken from the pool on the run's node.
        #[test]
        fn neighbours_stay_neighbours(
            runs in prop::collection::vec(run(), 1..40),
            level in prop_oneof![Just(0.0), Just(0.1)],
        ) {
            // On the real machine each node has numbers of its own.
            let runs: Vec<Run> = runs.into_iter().enumerate().map(|(i, (frame, pages, huge, node))| {
                let at = frame + u64::from(node) * 1_000_000;
                let (at, pages) = if huge { (at & !511, 512) } else { (at, pages) };
                let size = if huge { PageSize::Size2M } else { PageSize::Size4K };
                let page = i as u64 * 1024;
                Run { page, pages, size, reserved: false, frame: Some(at), node: Some(node), file: false }
            }).collect();
            let layout = layout(runs);
            let memory = Layout::pc(&[4 << 30, 4 << 30]);
            let fragmentation = (level > 0.0).then(|| Fragmentation::new(level, 7));
            let mut pool = Pool::new(&memory, PoolConfig { fragmentation, ..PoolConfig::default() }).unwrap();
            let free: Vec<u64> = pool.nodes().iter().map(|n| pool.free_frames(n)).collect();
            let Ok(frames) = take(&layout, &mut pool) else {
                // Long stretches do not fit between what fragments the memory.
                prop_assert!(level > 0.0);
                let now: Vec<u64> = pool.nodes().iter().map(|n| pool.free_frames(n)).collect();
                prop_assert!(now.iter().zip(&free).all(|(a, b)| a <= b));
                return Ok(());
            };
            let mut moved: BTreeMap<u64, u64> = BTreeMap::new();
            for (run, first) in layout.runs.iter().zip(&frames) {
                let (real, first) = (run.frame.unwrap(), first.unwrap());
                for i in 0..run.pages {
                    let now = first.number() + i;
                    prop_assert_eq!((real + i) % 512, now % 512);
                    prop_assert_eq!(*moved.entry(real + i).or_insert(now), now);
                    prop_assert_eq!(pool.state(first.offset(i)), FrameState::Reserved);
                    prop_assert_eq!(pool.node_of(first.offset(i)).index(), usize::from(run.node.unwrap()) % 2);
                }
            }
            for (real, now) in &moved {
                if let Some(next) = moved.get(&(real + 1)) {
                    prop_assert_eq!(*next, now + 1);
                }
            }
            let places: BTreeSet<u64> = moved.values().copied().collect();
            prop_assert_eq!(places.len(), moved.len());
            let taken: u64 = pool.nodes().iter().zip(&free).map(|(n, before)| before - pool.free_frames(n)).sum();
            prop_assert_eq!(taken, moved.len() as u64);
            pool.audit().unwrap();
        }
    }

    #[test]
    fn a_page_of_1_gib_keeps_its_alignment() {
        let run = |page, pages, size, frame| Run {
            page,
            pages,
            size,
            reserved: true,
            frame: Some(frame),
            node: Some(0),
            file: false,
        };
        let gib = 1 << 18;
        let runs = vec![run(0, 3, PageSize::Size4K, 5 * gib - 3), run(gib, gib, PageSize::Size1G, 5 * gib)];
        let mut pool = Pool::new(&Layout::pc(&[8 << 30]), PoolConfig::default()).unwrap();
        let frames = take(&layout(runs), &mut pool).unwrap();
        assert_eq!(frames[1].unwrap().number() % gib, 0);
        assert_eq!(frames[0].unwrap().number() + 3, frames[1].unwrap().number());
    }
}
