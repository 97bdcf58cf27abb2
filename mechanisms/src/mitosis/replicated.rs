//! Eager replication: every node of a set has a complete tree of its own.

use super::pass::{self, Pass, Scratch};
use super::place::Place;
use super::ring::{self, HARDWARE, Role};
use alloc::boxed::Box;
use core::ops::Range;
use paging::frames::{MAX_NODES, NoFrame, NodeSet};
use paging::ops::update_copy;
use paging::{
    Entry, Flags, Flush, Frame, NewTable, NodeId, PhysSpace, Slot, Space, TableAt, TableEnv, TableMemory,
    TableOps, Visibility,
};

/// Mitosis and vMitosis: the tables of one address space, with a copy on each
/// of a set of nodes, or with one copy that follows the data.
#[derive(Debug)]
pub struct Replicated<S: PhysSpace> {
    /// The nodes with a tree of their own; none: there is one tree.
    pub(super) nodes: NodeSet,
    /// Where single copies go.
    pub(super) place: Place,
    /// Whether single copies are counted and moved (vMitosis).
    pub(super) follow: bool,
    /// The root for each node's CPUs.
    pub(super) roots: [Frame<S>; MAX_NODES],
    pub(super) levels: u8,
    /// The nodes whose CPUs may walk the tables now.
    walkers: NodeSet,
    /// The node that the last interleaved page went to.
    turn: NodeId,
    scratch: Option<Box<Scratch>>,
}

impl<S: PhysSpace> Replicated<S> {
    /// For a table replicated on `nodes` from the start; on none, with one copy
    /// of each page on the node that first touches it.
    pub fn new(nodes: NodeSet) -> Self {
        Replicated {
            nodes,
            place: Place::FirstTouch,
            follow: false,
            roots: [Frame::new(0); MAX_NODES],
            levels: 0,
            walkers: NodeSet::ALL,
            turn: NodeId(0),
            scratch: None,
        }
    }

    /// With single copies, while there is no replication, at `place`.
    #[must_use]
    pub fn placed(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// With single copies that [`TableOps::rebalance`] moves to where their entries
    /// point; their [place](Replicated::placed) is then where they begin.
    #[must_use]
    pub fn following(mut self) -> Self {
        self.follow = true;
        self
    }

    /// The nodes that have a tree of their own.
    pub fn nodes(&self) -> NodeSet {
        self.nodes
    }

    /// Whether a table's counters are kept now.
    fn counts(&self) -> bool {
        self.follow && self.nodes.is_empty()
    }

    /// New copies of an empty table; the one to know it by.
    fn new_copies<M: TableMemory<Space = S>>(
        &mut self,
        env: &mut TableEnv<'_, M>,
        wanted: NodeId,
    ) -> Result<Frame<S>, NoFrame> {
        let mut first = None;
        for node in self.nodes.iter() {
            match (env.new_table(node, false), first) {
                (Ok(frame), None) => {
                    ring::set_role(env.mem, frame, Role::Node(node));
                    first = Some(frame);
                }
                (Ok(frame), Some(of)) => ring::join(env.mem, of, frame, Role::Node(node)),
                (Err(e), made) => {
                    if let Some(made) = made {
                        ring::free(env, made);
                    }
                    return Err(e);
                }
            }
        }
        if let Some(first) = first {
            return Ok(ring::serving(env.mem, first, env.node).unwrap_or(first));
        }
        let (node, turn) = self.place.choose(wanted, self.turn);
        self.turn = turn;
        env.new_table(node, false)
    }

    /// Takes the roots from the ring of `master`.
    pub(super) fn load_roots<M: TableMemory<Space = S>>(&mut self, mem: &M, master: Frame<S>) {
        self.roots = ring::by_node(mem, master, master);
    }
}

impl<I: Space, M: TableMemory> TableOps<I, M> for Replicated<M::Space> {
    fn create_root(
        &mut self,
        env: &mut TableEnv<'_, M>,
        level: u8,
        node: NodeId,
    ) -> Result<Frame<M::Space>, NoFrame> {
        let any = self.new_copies(env, node)?;
        let master = ring::serving(env.mem, any, node).unwrap_or(any);
        self.levels = level;
        self.load_roots(env.mem, master);
        Ok(master)
    }

    fn hardware_root(&self, _master: Frame<M::Space>, node: NodeId) -> Frame<M::Space> {
        self.roots[node.index()]
    }

    fn software_root(&self, _master: Frame<M::Space>, node: NodeId) -> Frame<M::Space> {
        self.roots[node.index()]
    }

    fn alloc(
        &mut self,
        env: &mut TableEnv<'_, M>,
        _at: TableAt<I>,
        node: NodeId,
        _visibility: Visibility,
    ) -> Result<NewTable<M::Space>, NoFrame> {
        let frame = self.new_copies(env, node)?;
        Ok(NewTable { frame, fresh: true, link: Flags::NONE })
    }

    fn free(&mut self, env: &mut TableEnv<'_, M>, table: Frame<M::Space>, _at: TableAt<I>) {
        ring::free(env, table);
    }

    fn read(&self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, _level: u8) -> Entry {
        ring::read(env, slot)
    }

    fn write(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, level: u8, entry: Entry) {
        if self.counts() {
            let old = env.mem.load(slot);
            self.note(env, slot.table, old, entry);
        }
        let child = entry.is_table(level).then(|| entry.frame::<M::Space>());
        ring::each(env, slot.table, |env, copy| {
            let entry = match child {
                Some(child) => entry.with_frame(ring::link(env.mem, child, ring::role(env.mem, copy))),
                None => entry,
            };
            env.store(Slot::new(copy, slot.index), entry);
        });
    }

    fn take(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, _level: u8) -> Entry {
        let mut bits = Flags::NONE;
        let mut named = Entry::EMPTY;
        ring::each(env, slot.table, |env, copy| {
            let old = env.swap(Slot::new(copy, slot.index), Entry::EMPTY);
            bits = bits.with(Flags(old.flags().0 & HARDWARE.0));
            if copy == slot.table {
                named = old;
            }
        });
        if self.counts() {
            self.note(env, slot.table, named, Entry::EMPTY);
        }
        named.with(bits)
    }

    fn modify(
        &mut self,
        env: &mut TableEnv<'_, M>,
        slot: Slot<M::Space>,
        _level: u8,
        set: Flags,
        clear: Flags,
    ) -> Entry {
        let mut bits = Flags::NONE;
        let mut named = Entry::EMPTY;
        ring::each(env, slot.table, |env, copy| {
            let old = env.modify(Slot::new(copy, slot.index), set, clear);
            bits = bits.with(Flags(old.flags().0 & HARDWARE.0));
            if copy == slot.table {
                named = old;
            }
        });
        if self.counts() {
            self.note(env, slot.table, named, named.without(clear).with(set));
        }
        named.with(bits)
    }

    fn update(
        &mut self,
        env: &mut TableEnv<'_, M>,
        table: Frame<M::Space>,
        _level: u8,
        range: Range<usize>,
        f: &mut dyn FnMut(usize, Entry) -> Entry,
        done: &mut dyn FnMut(usize, Entry, Entry),
    ) {
        let counts = self.counts();
        if !counts && ring::next(env.mem, table) == table {
            return update_copy(env, table, range, f, done);
        }
        // CPUs of nodes without a tree are in another node's.
        let strangers = !self.walkers.minus(self.nodes).is_empty();
        let walkers = if strangers { NodeSet::ALL } else { self.walkers };
        let mut scratch = self.scratch.take().unwrap_or_else(Scratch::new);
        let pass = Pass { table, range: range.clone(), lazy: false, walkers };
        pass::update(env, pass, &mut scratch, f, done);
        if counts {
            for (old, new) in scratch.changes(range) {
                self.note(env, table, old, new);
            }
        }
        self.scratch = Some(scratch);
    }

    fn rebalance(
        &mut self,
        env: &mut TableEnv<'_, M>,
        master: &mut Frame<M::Space>,
        flush: &mut Flush<I, M::Space>,
    ) -> u64 {
        self.settle(env, master, flush)
    }

    fn replicate(
        &mut self,
        env: &mut TableEnv<'_, M>,
        master: &mut Frame<M::Space>,
        nodes: NodeSet,
        flush: &mut Flush<I, M::Space>,
    ) -> Result<NodeSet, NoFrame> {
        self.convert(env, master, nodes, flush)?;
        Ok(self.nodes)
    }

    fn walked_by(&mut self, nodes: NodeSet) {
        self.walkers = nodes;
    }

    fn copies(&self, mem: &M, table: Frame<M::Space>, visit: &mut dyn FnMut(Frame<M::Space>)) {
        ring::copies(mem, table).for_each(|(frame, _)| visit(frame));
    }
}
