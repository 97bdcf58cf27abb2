//! Lazy replication, after Hydra (numaPTE): replicas filled on a fault.
//!
//! One tree is authoritative: the *master*, the one that software goes through.
//! Each of its pages lies on the node that first touched what it maps (the
//! owner). A node's own tree begins as an empty root and is filled when a
//! walker of the node faults: [`TableOps::fault_in`] makes what is missing on
//! the way and copies the entry with its neighbourhood. Updates go to the master
//! and to those copies that hold the entry, so a table that only one node uses
//! costs what it costs without replication; and since a node can have cached
//! only what a copy of its own held, only the sharers of a table need a shootdown.
//!
//! The owner's tree links the master's leaf tables themselves, so an owner
//! never faults for its own pages and a leaf table that nobody shares has one
//! copy. Inner tables of the master are software's alone (an entry of one leads
//! to leaf tables of all owners): one page more for 512 leaf tables.

use super::convert::children;
use super::pass::{self, Pass, Scratch};
use super::ring::{self, HARDWARE, Role};
use alloc::boxed::Box;
use core::ops::Range;
use paging::frames::{MAX_NODES, NoFrame, NodeSet};
use paging::ops::update_copy;
use paging::{
    Addr, ENTRIES, Entry, Flags, Flush, Frame, NewTable, NodeId, PhysSpace, Slot, Space, TableAt, TableEnv,
    TableMemory, TableOps, Visibility,
};

/// The tables of one address space with replicas that fill themselves.
#[derive(Debug)]
pub struct Lazy<S: PhysSpace> {
    nodes: NodeSet,
    /// log2 of the entries that a fault fills.
    order: u32,
    roots: [Frame<S>; MAX_NODES],
    levels: u8,
    scratch: Option<Box<Scratch>>,
}

impl<S: PhysSpace> Lazy<S> {
    /// For replicas on `nodes`, of which a fault fills the aligned block of
    /// 2^`order` entries (at most a whole table) around the one that it is for
    /// (numaPTE's `repl_order`).
    pub fn new(nodes: NodeSet, order: u32) -> Self {
        let order = order.min(ENTRIES.ilog2());
        Lazy { nodes, order, roots: [Frame::new(0); MAX_NODES], levels: 0, scratch: None }
    }

    /// The nodes whose CPUs walk trees of their own.
    pub fn nodes(&self) -> NodeSet {
        self.nodes
    }

    /// Who walks the master's page in `frame`, new at `level`.
    fn master_role<M: TableMemory<Space = S>>(
        &self,
        env: &TableEnv<'_, M>,
        frame: Frame<S>,
        level: u8,
    ) -> Role {
        let owner = env.frames.node_of(frame);
        if level == 1 && self.nodes.contains(owner) { Role::Node(owner) } else { Role::Master }
    }

    /// The copy of the table `master` for `node`; made if it is missing.
    fn copy_for<M: TableMemory<Space = S>>(
        env: &mut TableEnv<'_, M>,
        master: Frame<S>,
        node: NodeId,
    ) -> Result<Frame<S>, NoFrame> {
        if let Some(copy) = ring::serving(env.mem, master, node) {
            return Ok(copy);
        }
        let copy = env.new_table(node, false)?;
        ring::join(env.mem, master, copy, Role::Node(node));
        Ok(copy)
    }

    /// Copies the leaves around `index` that `copy` lacks.
    fn fill<M: TableMemory<Space = S>>(
        &self,
        env: &mut TableEnv<'_, M>,
        master: Frame<S>,
        copy: Frame<S>,
        index: usize,
        level: u8,
    ) {
        let first = index >> self.order << self.order;
        let block = first..first + (1 << self.order);
        let mut writes = 0;
        for index in block.clone() {
            let entry = env.mem.load(Slot::new(master, index));
            let slot = Slot::new(copy, index);
            if entry.is_leaf(level) && env.mem.load(slot).is_empty() {
                env.mem.store(slot, entry.without(HARDWARE));
                writes += 1;
            }
        }
        env.passed(master, &block, 0);
        env.passed(copy, &block, writes);
    }

    /// Applies `change` to the entry in the master and in the copies that hold
    /// it; the master's old entry with the hardware's bits of all.
    fn change<M: TableMemory<Space = S>>(
        env: &mut TableEnv<'_, M>,
        slot: Slot<S>,
        change: impl Fn(&mut TableEnv<'_, M>, Slot<S>) -> Entry,
    ) -> Entry {
        let mut bits = Flags::NONE;
        let mut named = Entry::EMPTY;
        ring::each(env, slot.table, |env, copy| {
            let here = Slot::new(copy, slot.index);
            if copy == slot.table {
                named = change(env, here);
            } else if !env.load(here).is_empty() {
                bits = bits.with(Flags(change(env, here).flags().0 & HARDWARE.0));
            }
        });
        named.with(bits)
    }

    /// Lets the copies go that are for no node of `self.nodes`.
    fn drop_copies<I: Space, M: TableMemory<Space = S>>(
        &self,
        env: &mut TableEnv<'_, M>,
        table: Frame<S>,
        at: TableAt<I>,
        flush: &mut Flush<I, S>,
    ) {
        if ring::is_shared(env.mem, table) {
            return;
        }
        for (slot, child) in children(env, table, at.level) {
            self.drop_copies(env, child, at.child(slot.index), flush);
        }
        ring::each(env, table, |env, copy| {
            if copy != table
                && matches!(ring::role(env.mem, copy), Role::Node(node) if !self.nodes.contains(node))
            {
                ring::set_role(env.mem, copy, Role::Retired);
                flush.table_gone(NodeSet::ALL, copy, at);
            }
        });
        // Its owner may have left the nodes, or joined them and not have a copy yet.
        let role = match self.master_role(env, table, at.level) {
            Role::Node(owner) if ring::serving(env.mem, table, owner).is_some_and(|f| f != table) => {
                Role::Master
            }
            role => role,
        };
        ring::set_role(env.mem, table, role);
    }
}

impl<I: Space, M: TableMemory> TableOps<I, M> for Lazy<M::Space> {
    fn create_root(
        &mut self,
        env: &mut TableEnv<'_, M>,
        level: u8,
        node: NodeId,
    ) -> Result<Frame<M::Space>, NoFrame> {
        let master = env.new_table(node, false)?;
        ring::set_role(env.mem, master, Role::Master);
        for node in self.nodes.iter() {
            if let Err(e) = Self::copy_for(env, master, node) {
                ring::free(env, master);
                return Err(e);
            }
        }
        self.levels = level;
        self.roots = ring::by_node(env.mem, master, master);
        Ok(master)
    }

    fn hardware_root(&self, _master: Frame<M::Space>, node: NodeId) -> Frame<M::Space> {
        self.roots[node.index()]
    }

    fn alloc(
        &mut self,
        env: &mut TableEnv<'_, M>,
        at: TableAt<I>,
        node: NodeId,
        _visibility: Visibility,
    ) -> Result<NewTable<M::Space>, NoFrame> {
        let frame = env.new_table(node, false)?;
        let role = self.master_role(env, frame, at.level);
        ring::set_role(env.mem, frame, role);
        // The CPU that needs the table will go through it at once: a copy now
        // saves it a second fault. If there is no frame it will fault.
        if at.level > 1 && self.nodes.contains(env.node) {
            let _ = Self::copy_for(env, frame, env.node);
        }
        Ok(NewTable { frame, fresh: true, link: Flags::NONE })
    }

    fn free(&mut self, env: &mut TableEnv<'_, M>, table: Frame<M::Space>, _at: TableAt<I>) {
        ring::free(env, table);
    }

    fn read(&self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, _level: u8) -> Entry {
        ring::read(env, slot)
    }

    fn write(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, level: u8, entry: Entry) {
        let child = entry.is_table(level).then(|| entry.frame::<M::Space>());
        let toucher = Role::Node(env.node);
        ring::each(env, slot.table, |env, copy| {
            if copy == slot.table {
                return env.store(slot, entry);
            }
            let here = Slot::new(copy, slot.index);
            let held = !env.load(here).is_empty();
            let role = ring::role(env.mem, copy);
            match (child, role) {
                (Some(child), Role::Node(node)) => match ring::serving(env.mem, child, node) {
                    Some(own) => env.store(here, entry.with_frame(own)),
                    None if held => env.store(here, Entry::EMPTY),
                    None => {}
                },
                // The retired are not led into new tables: a walker there faults and loads its root.
                (Some(_), _) if held => env.store(here, Entry::EMPTY),
                (None, _) if held || role == toucher && entry.is_present() => env.store(here, entry),
                _ => {}
            }
        });
    }

    fn take(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, _level: u8) -> Entry {
        Self::change(env, slot, |env, here| env.swap(here, Entry::EMPTY))
    }

    fn modify(
        &mut self,
        env: &mut TableEnv<'_, M>,
        slot: Slot<M::Space>,
        _level: u8,
        set: Flags,
        clear: Flags,
    ) -> Entry {
        Self::change(env, slot, |env, here| env.modify(here, set, clear))
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
        if ring::next(env.mem, table) == table {
            return update_copy(env, table, range, f, done);
        }
        let scratch = self.scratch.get_or_insert_with(Scratch::new);
        let pass = Pass { table, range, lazy: true, walkers: NodeSet::ALL };
        pass::update(env, pass, scratch, f, done);
    }

    fn fault_in(
        &mut self,
        env: &mut TableEnv<'_, M>,
        master: Frame<M::Space>,
        addr: Addr<I>,
        node: NodeId,
    ) -> Result<bool, NoFrame> {
        if !self.nodes.contains(node) {
            return Ok(false);
        }
        // Nothing is made for an address that is not mapped.
        let (mut table, mut level) = (master, self.levels);
        loop {
            let entry = env.load(Slot::new(table, addr.index(level)));
            if entry.is_leaf(level) {
                break;
            }
            if !entry.is_table(level) {
                return Ok(false);
            }
            table = entry.frame();
            level -= 1;
        }
        let (leaf_table, leaf_level) = (table, level);
        let mut repaired = false;
        let (mut table, mut copy) = (master, self.roots[node.index()]);
        for level in (leaf_level + 1..=self.levels).rev() {
            let index = addr.index(level);
            let entry = env.mem.load(Slot::new(table, index));
            let own = Self::copy_for(env, entry.frame(), node)?;
            let slot = Slot::new(copy, index);
            if env.load(slot).is_empty() {
                env.store(slot, entry.with_frame(own).without(HARDWARE));
                repaired = true;
            }
            (table, copy) = (entry.frame(), own);
        }
        let index = addr.index(leaf_level);
        if env.load(Slot::new(copy, index)).is_empty() {
            self.fill(env, leaf_table, copy, index, leaf_level);
            repaired = true;
        }
        Ok(repaired)
    }

    fn replicate(
        &mut self,
        env: &mut TableEnv<'_, M>,
        master: &mut Frame<M::Space>,
        nodes: NodeSet,
        flush: &mut Flush<I, M::Space>,
    ) -> Result<NodeSet, NoFrame> {
        if nodes == self.nodes {
            return Ok(nodes);
        }
        for node in nodes.iter() {
            if let Err(e) = Self::copy_for(env, *master, node) {
                let made = nodes.minus(self.nodes);
                ring::free_serving(env, *master, made);
                return Err(e);
            }
        }
        self.nodes = nodes;
        self.drop_copies(env, *master, TableAt { base: Addr::new(0), level: self.levels }, flush);
        self.roots = ring::by_node(env.mem, *master, *master);
        flush.add_all();
        Ok(nodes)
    }

    fn sharers(&self, mem: &M, table: Frame<M::Space>) -> NodeSet {
        if ring::copies(mem, table).any(|(_, role)| role == Role::Retired) {
            return NodeSet::ALL;
        }
        ring::nodes(mem, table).union(NodeSet::ALL.minus(self.nodes))
    }

    fn copies(&self, mem: &M, table: Frame<M::Space>, visit: &mut dyn FnMut(Frame<M::Space>)) {
        ring::copies(mem, table).for_each(|(frame, _)| visit(frame));
    }
}
