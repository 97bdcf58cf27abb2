//! vMitosis's migration: a table page moves to the node that most of its
//! entries point to.
//!
//! Each page counts, by node, where its present entries point (a leaf table's:
//! data; another's: tables), kept up to date as entries are written. When more
//! than half point to one other node the page moves there. Leaf tables go
//! first; each one that moved changes its parent's counts, so that the decision
//! rises to the root. Replicated tables need none of that; there, a copy that
//! had to be allocated on another node than its own goes home when its node
//! has room again.

use super::convert::{children, copy_entries};
use super::replicated::Replicated;
use super::ring::{self, Role};
use alloc::vec::Vec;
use paging::frames::{MAX_NODES, NodeSet};
use paging::{
    Addr, ENTRIES, Entry, Flush, Frame, NodeId, PhysSpace, Slot, Space, TableAt, TableEnv, TableMemory,
};

/// What an entry counts for: its frame if it is present, or hides a page from
/// the walker for a hinting fault only.
fn target<S: PhysSpace>(entry: Entry) -> Option<Frame<S>> {
    (entry.is_present() || entry.is_prot_none()).then(|| entry.frame())
}

/// Where the entries of `table` point, counted anew.
pub(super) fn points_to<M: TableMemory>(
    env: &mut TableEnv<'_, M>,
    table: Frame<M::Space>,
) -> [u16; MAX_NODES] {
    let mut counts = [0; MAX_NODES];
    for index in 0..ENTRIES {
        if let Some(frame) = target(env.mem.load(Slot::new(table, index))) {
            counts[env.frames.node_of(frame).index()] += 1;
        }
    }
    env.passed(table, &(0..ENTRIES), 0);
    counts
}

/// The node that more than half of the entries point to.
fn majority(counts: &[u16; MAX_NODES]) -> Option<NodeId> {
    let total: u32 = counts.iter().map(|&c| u32::from(c)).sum();
    (0..MAX_NODES).find(|&n| 2 * u32::from(counts[n]) > total).map(|n| NodeId(n as u8))
}

impl<S: PhysSpace> Replicated<S> {
    /// Keeps the counters of `table` for an entry that was `old` and is `new`.
    pub(super) fn note<M: TableMemory<Space = S>>(
        &self,
        env: &mut TableEnv<'_, M>,
        table: Frame<S>,
        old: Entry,
        new: Entry,
    ) {
        let (from, to) = (target::<S>(old), target::<S>(new));
        if from == to {
            return;
        }
        let node = |frame| env.frames.node_of(frame).index();
        let (from, to) = (from.map(node), to.map(node));
        if let Some(descriptor) = env.mem.descriptor_mut(table) {
            if let Some(n) = from {
                descriptor.points_to[n] = descriptor.points_to[n].saturating_sub(1);
            }
            if let Some(n) = to {
                descriptor.points_to[n] += 1;
            }
        }
    }

    /// Moves what should lie elsewhere, from the leaves up.
    pub(super) fn settle<I: Space, M: TableMemory<Space = S>>(
        &mut self,
        env: &mut TableEnv<'_, M>,
        master: &mut Frame<S>,
        flush: &mut Flush<I, S>,
    ) -> u64 {
        if self.nodes.is_empty() && !self.follow {
            return 0;
        }
        let mut pass = Settle { counts: self.nodes.is_empty(), full: NodeSet::default(), moved: 0, flush };
        let at = TableAt { base: Addr::new(0), level: self.levels };
        pass.below(env, *master, at);
        let mut copy = *master;
        // Moving a copy puts the new one next in the ring: go by what is there now.
        let copies: Vec<_> = ring::copies(env.mem, copy).collect();
        for (frame, _) in copies {
            if let Some(new) = pass.move_copy(env, frame, at)
                && frame == *master
            {
                copy = new;
            }
        }
        *master = copy;
        if pass.moved > 0 {
            pass.flush.add_all();
            let moved = pass.moved;
            self.load_roots(env.mem, copy);
            return moved;
        }
        0
    }
}

/// One pass over a tree.
struct Settle<'a, I: Space, S: PhysSpace> {
    /// There is one copy, and it follows its entries.
    counts: bool,
    /// Nodes that had no frame left.
    full: NodeSet,
    moved: u64,
    flush: &'a mut Flush<I, S>,
}

impl<I: Space, S: PhysSpace> Settle<'_, I, S> {
    /// Settles the tables that `table` points to.
    fn below<M: TableMemory<Space = S>>(
        &mut self,
        env: &mut TableEnv<'_, M>,
        table: Frame<S>,
        at: TableAt<I>,
    ) {
        for (slot, child) in children(env, table, at.level) {
            let child_at = at.child(slot.index);
            if ring::is_shared(env.mem, child) {
                continue;
            }
            self.below(env, child, child_at);
            let copies: Vec<_> = ring::copies(env.mem, child).collect();
            for (frame, _) in copies {
                let Some(new) = self.move_copy(env, frame, child_at) else { continue };
                ring::each(env, table, |env, parent| {
                    let slot = Slot::new(parent, slot.index);
                    if env.mem.load(slot).frame::<S>() == frame {
                        ring::relink(env, slot, new);
                    }
                });
                if self.counts {
                    let (from, to) = (env.frames.node_of(frame).index(), env.frames.node_of(new).index());
                    if let Some(descriptor) = env.mem.descriptor_mut(table) {
                        descriptor.points_to[from] = descriptor.points_to[from].saturating_sub(1);
                        descriptor.points_to[to] += 1;
                    }
                }
            }
        }
    }

    /// The node that the copy in `frame` should be on, if that is another.
    fn wanted<M: TableMemory<Space = S>>(&self, env: &TableEnv<'_, M>, frame: Frame<S>) -> Option<NodeId> {
        let node = match ring::role(env.mem, frame) {
            Role::Node(node) => Some(node),
            Role::Everyone if self.counts => majority(&env.mem.descriptor(frame)?.points_to),
            _ => None,
        };
        node.filter(|&node| node != env.frames.node_of(frame) && !self.full.contains(node))
    }

    /// Moves a copy to where it should be; the page it left retires.
    fn move_copy<M: TableMemory<Space = S>>(
        &mut self,
        env: &mut TableEnv<'_, M>,
        frame: Frame<S>,
        at: TableAt<I>,
    ) -> Option<Frame<S>> {
        let node = self.wanted(env, frame)?;
        let Ok(new) = env.new_table(node, true) else {
            self.full = self.full.with(node);
            return None;
        };
        let role = ring::role(env.mem, frame);
        copy_entries(env, frame, new, at.level, role);
        let counts = env.mem.descriptor(frame)?.points_to;
        env.mem.descriptor_mut(new)?.points_to = counts;
        ring::join(env.mem, frame, new, role);
        ring::set_role(env.mem, frame, Role::Retired);
        self.flush.table_gone(NodeSet::ALL, frame, at);
        self.moved += 1;
        Some(new)
    }
}
