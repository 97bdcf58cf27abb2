//! Switching replication on, off, or to other nodes for a table in use.
//!
//! First every table gets the copies that it lacks, children before parents,
//! so that an entry of a new copy has something to point to; only then do
//! copies that are not wanted retire. So a lack of memory is found while the
//! old trees are whole, and the walkers, which are in the old trees until their
//! CPU loads another root, see correct entries all the time.
//!
//! A page that lies on a node of the set becomes that node's copy as it is:
//! N nodes cost N copies, not N and a master.

use super::migrate::points_to;
use super::replicated::Replicated;
use super::ring::{self, HARDWARE, Role};
use alloc::vec::Vec;
use paging::frames::{NoFrame, NodeSet};
use paging::{
    Addr, ENTRIES, Entry, Flush, Frame, NodeId, PhysSpace, Slot, Space, TableAt, TableEnv, TableMemory,
};

impl<S: PhysSpace> Replicated<S> {
    pub(super) fn convert<I: Space, M: TableMemory<Space = S>>(
        &mut self,
        env: &mut TableEnv<'_, M>,
        master: &mut Frame<S>,
        nodes: NodeSet,
        flush: &mut Flush<I, S>,
    ) -> Result<(), NoFrame> {
        if nodes == self.nodes {
            return Ok(());
        }
        let root = TableAt { base: Addr::new(0), level: self.levels };
        let grown = if nodes.is_empty() { Ok(()) } else { grow(env, *master, root.level, nodes) };
        let keep = if grown.is_ok() { nodes } else { self.nodes };
        if !keep.is_empty() {
            claim(env, *master, root.level, keep);
        }
        let home = env.frames.node_of(*master);
        let mut retire = Retire { keep, home, flush };
        let kept = retire.tables(env, *master, root);
        self.nodes = keep;
        *master = ring::serving(env.mem, kept, home).unwrap_or(kept);
        self.load_roots(env.mem, *master);
        flush.add_all();
        grown
    }
}

/// Gives every table from `table` down a copy for each of `nodes`, but not for
/// the node that its only copy lies on.
fn grow<M: TableMemory>(
    env: &mut TableEnv<'_, M>,
    table: Frame<M::Space>,
    level: u8,
    nodes: NodeSet,
) -> Result<(), NoFrame> {
    for (_, child) in children(env, table, level) {
        grow(env, child, level - 1, nodes)?;
    }
    let mut there = ring::nodes(env.mem, table);
    if ring::role(env.mem, table) == Role::Everyone {
        there = there.with(env.frames.node_of(table));
    }
    for node in nodes.minus(there).iter() {
        let copy = env.new_table(node, false)?;
        copy_entries(env, table, copy, level, Role::Node(node));
        ring::join(env.mem, table, copy, Role::Node(node));
    }
    Ok(())
}

/// Makes the copies that were everyone's their own node's, if it is one of
/// `nodes`: their entries then lead to that node's copies.
fn claim<M: TableMemory>(env: &mut TableEnv<'_, M>, table: Frame<M::Space>, level: u8, nodes: NodeSet) {
    let below: Vec<_> = children(env, table, level).collect();
    for &(_, child) in &below {
        claim(env, child, level - 1, nodes);
    }
    let home = env.frames.node_of(table);
    if ring::role(env.mem, table) == Role::Everyone && nodes.contains(home) {
        ring::set_role(env.mem, table, Role::Node(home));
        for (slot, child) in below {
            let own = ring::link(env.mem, child, Role::Node(home));
            ring::relink(env, slot, own);
        }
    }
}

/// Fills the new copy `to` of `from` for those who walk it. Hardware's bits
/// stay where they are: the ring is read as one, and the new walkers' own
/// accesses show in their copy.
pub(super) fn copy_entries<M: TableMemory>(
    env: &mut TableEnv<'_, M>,
    from: Frame<M::Space>,
    to: Frame<M::Space>,
    level: u8,
    role: Role,
) {
    let mut writes = 0;
    for index in 0..ENTRIES {
        let entry = env.mem.load(Slot::new(from, index)).without(HARDWARE);
        if entry.is_empty() {
            continue;
        }
        let entry = if entry.is_table(level) {
            entry.with_frame(ring::link(env.mem, entry.frame(), role))
        } else {
            entry
        };
        env.mem.store(Slot::new(to, index), entry);
        writes += 1;
    }
    env.passed(from, &(0..ENTRIES), 0);
    env.passed(to, &(0..ENTRIES), writes);
}

/// The tables that `table` points to, read in one pass.
pub(super) fn children<M: TableMemory>(
    env: &mut TableEnv<'_, M>,
    table: Frame<M::Space>,
    level: u8,
) -> impl Iterator<Item = (Slot<M::Space>, Frame<M::Space>)> + use<M> {
    let mut found = Vec::new();
    if level > 1 {
        for index in 0..ENTRIES {
            let slot = Slot::new(table, index);
            let entry: Entry = env.mem.load(slot);
            if entry.is_table(level) {
                found.push((slot, entry.frame()));
            }
        }
        env.passed(table, &(0..ENTRIES), 0);
    }
    found.into_iter()
}

/// Lets the copies go that are not for the nodes `keep`; if that is no node, all but one.
struct Retire<'a, I: Space, S: PhysSpace> {
    keep: NodeSet,
    /// The node to keep a copy on when nothing speaks for another.
    home: NodeId,
    flush: &'a mut Flush<I, S>,
}

impl<I: Space, S: PhysSpace> Retire<'_, I, S> {
    /// Returns a copy of `table` that stays.
    fn tables<M: TableMemory<Space = S>>(
        &mut self,
        env: &mut TableEnv<'_, M>,
        table: Frame<S>,
        at: TableAt<I>,
    ) -> Frame<S> {
        if ring::is_shared(env.mem, table) {
            return table;
        }
        for (slot, child) in children(env, table, at.level) {
            let kept = self.tables(env, child, at.child(slot.index));
            if self.keep.is_empty() {
                // Every copy, as it is not known yet which one stays.
                ring::each(env, table, |env, copy| ring::relink(env, Slot::new(copy, slot.index), kept));
            }
        }
        if self.keep.is_empty() { self.all_but_one(env, table, at) } else { self.others(env, table, at) }
    }

    fn others<M: TableMemory<Space = S>>(
        &mut self,
        env: &mut TableEnv<'_, M>,
        table: Frame<S>,
        at: TableAt<I>,
    ) -> Frame<S> {
        let Some(stays) = ring::copies(env.mem, table).find(|&(_, role)| self.stays(role)) else {
            return table;
        };
        ring::each(env, table, |env, copy| {
            if !self.stays(ring::role(env.mem, copy)) {
                self.retire(env.mem, copy, at);
            }
        });
        stays.0
    }

    fn stays(&self, role: Role) -> bool {
        matches!(role, Role::Node(node) if self.keep.contains(node))
    }

    /// The copy stays that lies where most of its entries point: a table that
    /// was replicated for a program of one node ends up on that node.
    fn all_but_one<M: TableMemory<Space = S>>(
        &mut self,
        env: &mut TableEnv<'_, M>,
        table: Frame<S>,
        at: TableAt<I>,
    ) -> Frame<S> {
        let counts = points_to(env, table);
        let rank = |&(_, role): &(Frame<S>, Role)| match role {
            Role::Retired => (0, 0, false),
            Role::Node(node) => (1, counts[node.index()], node == self.home),
            // Was never given up: the copies around it are what a lack of frames left.
            Role::Everyone | Role::Master => (2, 0, false),
        };
        let (stays, _) = ring::copies(env.mem, table).max_by_key(rank).unwrap_or((table, Role::Everyone));
        ring::each(env, table, |env, copy| {
            if copy != stays {
                self.retire(env.mem, copy, at);
            }
        });
        ring::set_role(env.mem, stays, Role::Everyone);
        if let Some(descriptor) = env.mem.descriptor_mut(stays) {
            descriptor.points_to = counts;
        }
        stays
    }

    fn retire<M: TableMemory<Space = S>>(&mut self, mem: &mut M, copy: Frame<S>, at: TableAt<I>) {
        if ring::role(mem, copy) != Role::Retired {
            ring::set_role(mem, copy, Role::Retired);
            self.flush.table_gone(NodeSet::ALL, copy, at);
        }
    }
}
