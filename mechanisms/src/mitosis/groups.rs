//! Nodes that nobody tells of: CPUs grouped by how long a cache line takes
//! from one to the other, and pages that are known to be near a group
//! (vMitosis, NO-P and NO-F).
//!
//! A guest that is shown one node has CPUs on several all the same. Told by the
//! hypervisor (NO-P) or found by measuring (NO-F), it knows groups of them; for
//! each it keeps table pages that are near: pinned there by the hypervisor, or
//! first touched by a CPU of the group, where the host's first-touch policy puts them.

use super::cache::TablePages;
use alloc::vec::Vec;
use core::ops::Range;
use paging::frames::{MAX_NODES, NoFrame, NodeSet};
use paging::{Entry, Frame, NodeId, PhysSpace, TableFrames};

/// The group of each CPU, from 0, by order of its first CPU.
///
/// `latency(a, b)` is how long a cache line takes from CPU a to b, `far` how long a
/// load of near memory takes, in the same unit: a line that comes from a cache of the same
/// socket is here sooner than one from memory, one from another socket later
/// (50-60 and 100-126 ns on four sockets, 192 CPUs `[F:KW]`; the artifact's
/// threshold is 100). Pairs that contradict (noise) are settled by joining: a CPU
/// near any of a group is in it. At most [`MAX_NODES`] groups.
pub fn group_cpus(cpus: usize, far: u32, latency: &mut dyn FnMut(usize, usize) -> u32) -> Vec<NodeId> {
    let mut of: Vec<usize> = (0..cpus).collect();
    for a in 0..cpus {
        for b in a + 1..cpus {
            let (keep, drop) = (of[a].min(of[b]), of[a].max(of[b]));
            if keep != drop && latency(a, b) < far {
                of.iter_mut().filter(|group| **group == drop).for_each(|group| *group = keep);
            }
        }
    }
    let mut first: Vec<usize> = Vec::new();
    of.iter()
        .map(|group| {
            let at = first.iter().position(|f| f == group).unwrap_or_else(|| {
                first.push(*group);
                first.len() - 1
            });
            NodeId(at.min(MAX_NODES - 1) as u8)
        })
        .collect()
}

/// Pages for tables that are near groups of CPUs, though their kernel's nodes do not tell.
#[derive(Debug)]
pub struct GroupPages<S: PhysSpace> {
    pages: TablePages<S>,
    /// Runs of frames and the group that each is near, in order.
    runs: Vec<(Range<u64>, NodeId)>,
}

impl<S: PhysSpace> GroupPages<S> {
    /// `runs` of frames, all of them free for tables, and whom each is near.
    pub fn new(mut runs: Vec<(Range<u64>, NodeId)>) -> Self {
        runs.sort_by_key(|(run, _)| run.start);
        let mut each = [0; MAX_NODES];
        for (run, group) in &runs {
            each[group.index()] += (run.end - run.start) as usize;
        }
        let mut pages = TablePages::new(each.into_iter().max().unwrap_or(0));
        // From the end, so that the first frames are the first to go.
        for (run, group) in runs.iter().rev() {
            run.clone().rev().for_each(|frame| pages.keep(*group, Frame::new(frame)));
        }
        GroupPages { pages, runs }
    }

    /// The group that `frame` is near, if it is one of ours.
    pub fn group_of(&self, frame: Frame<S>) -> Option<NodeId> {
        find(&self.runs, frame)
    }

    /// Pages held for `group`.
    pub fn held(&self, group: NodeId) -> usize {
        self.pages.held(group)
    }

    /// A page near `group`; if there is none, another, from `pool` in the end.
    ///
    /// # Errors
    /// If there is none left (near the group, when strict).
    pub fn alloc(
        &mut self,
        pool: &mut dyn TableFrames<S>,
        group: NodeId,
        strict: bool,
    ) -> Result<Frame<S>, NoFrame> {
        let mut pool = Grouped { runs: &self.runs, pool };
        self.pages.over(&mut pool).alloc_table(group, strict)
    }

    /// Takes a page back.
    pub fn free(&mut self, pool: &mut dyn TableFrames<S>, frame: Frame<S>) {
        if self.group_of(frame).is_none() {
            return pool.free_table(frame);
        }
        let mut pool = Grouped { runs: &self.runs, pool };
        self.pages.over(&mut pool).free_table(frame);
    }

    /// Gives all pages back to `pool`; returns how many.
    pub fn drain(&mut self, pool: &mut dyn TableFrames<S>) -> u64 {
        let held = NodeSet::ALL.iter().map(|group| self.pages.held(group) as u64).sum();
        self.pages.drain(pool);
        held
    }
}

fn find<S: PhysSpace>(runs: &[(Range<u64>, NodeId)], frame: Frame<S>) -> Option<NodeId> {
    let after = runs.partition_point(|(run, _)| run.start <= frame.number());
    let (run, group) = runs.get(after.checked_sub(1)?)?;
    run.contains(&frame.number()).then_some(*group)
}

/// A pool of one node whose frames are near groups.
struct Grouped<'a, S: PhysSpace> {
    runs: &'a [(Range<u64>, NodeId)],
    pool: &'a mut dyn TableFrames<S>,
}

impl<S: PhysSpace> TableFrames<S> for Grouped<'_, S> {
    fn alloc_table(&mut self, group: NodeId, strict: bool) -> Result<Frame<S>, NoFrame> {
        if strict {
            // Nobody knows whom a page of the pool is near.
            return Err(NoFrame::for_table(group, true));
        }
        self.pool.alloc_table(NodeId(0), false)
    }
    fn free_table(&mut self, frame: Frame<S>) {
        self.pool.free_table(frame);
    }
    fn node_of(&self, frame: Frame<S>) -> NodeId {
        find(self.runs, frame).unwrap_or_else(|| self.pool.node_of(frame))
    }
    fn leaf_copied(&mut self, entry: Entry) {
        self.pool.leaf_copied(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use paging::GuestPhys;

    /// 4 sockets of 6 CPUs dealt out in turn, latencies as measured, with noise.
    fn measured(a: usize, b: usize) -> u32 {
        let noise = (a * 7 + b * 13) as u32 % 10;
        if a % 4 == b % 4 { 50 + noise } else { 100 + 2 * noise }
    }

    #[test]
    fn sockets_are_found() {
        let groups = group_cpus(24, 85, &mut |a, b| measured(a, b));
        assert!((0..24).all(|cpu| groups[cpu] == NodeId(cpu as u8 % 4)), "{groups:?}");
    }

    #[test]
    fn one_socket_is_one_group() {
        let groups = group_cpus(8, 85, &mut |a, b| measured(4 * a, 4 * b));
        assert!(groups.iter().all(|group| *group == NodeId(0)));
        assert_eq!(group_cpus(1, 85, &mut |_, _| 1), [NodeId(0)]);
        assert!(group_cpus(0, 85, &mut |_, _| 1).is_empty());
    }

    #[test]
    fn a_cpu_on_each_socket_is_a_group_of_its_own() {
        let groups = group_cpus(4, 85, &mut |a, b| measured(a, b));
        assert_eq!(groups, [NodeId(0), NodeId(1), NodeId(2), NodeId(3)]);
        // More sockets than there can be nodes: the last ones share.
        assert_eq!(group_cpus(20, 85, &mut |_, _| 110)[19], NodeId(MAX_NODES as u8 - 1));
    }

    #[test]
    fn a_cpu_that_is_near_one_of_a_group_is_in_it() {
        // A line from CPU 1 to 2 was slow, as interrupts make it.
        let slow = |a: usize, b: usize| if (a, b) == (1, 2) { 115 } else { measured(4 * a, 4 * b) };
        assert_eq!(group_cpus(3, 85, &mut |a, b| slow(a, b)), [NodeId(0); 3]);
    }

    /// A pool with nothing near anybody.
    #[derive(Default)]
    struct Pool(Vec<u64>);

    impl TableFrames<GuestPhys> for Pool {
        fn alloc_table(&mut self, _node: NodeId, _strict: bool) -> Result<Frame<GuestPhys>, NoFrame> {
            Ok(Frame::new(9000))
        }
        fn free_table(&mut self, frame: Frame<GuestPhys>) {
            self.0.push(frame.number());
        }
        fn node_of(&self, _frame: Frame<GuestPhys>) -> NodeId {
            NodeId(0)
        }
    }

    #[test]
    fn pages_stay_with_their_group_and_a_stranger_is_the_last_resort() {
        let mut pages = GroupPages::new(vec![(512..514, NodeId(1)), (0..1, NodeId(0))]);
        let mut pool = Pool::default();
        let got: Vec<u64> =
            (0..2).map(|_| pages.alloc(&mut pool, NodeId(1), false).unwrap().number()).collect();
        assert_eq!(got, [512, 513]);
        assert!(pages.alloc(&mut pool, NodeId(1), true).is_err());
        assert_eq!(pages.alloc(&mut pool, NodeId(0), true).unwrap().number(), 0);
        assert_eq!(pages.alloc(&mut pool, NodeId(1), false).unwrap().number(), 9000);
        assert_eq!(pages.group_of(Frame::new(9000)), None);
        for frame in [9000, 512, 0] {
            pages.free(&mut pool, Frame::new(frame));
        }
        assert_eq!((pool.0.clone(), pages.held(NodeId(1)), pages.held(NodeId(0))), (vec![9000], 1, 1));
        assert_eq!(pages.drain(&mut pool), 2);
        assert_eq!(pool.0, [9000, 0, 512]);
    }
}
