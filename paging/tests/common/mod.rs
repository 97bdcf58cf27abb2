//! What the tests of tables and walks share: frames from a counter, and ports
//! that write down what a walker does.
#![allow(dead_code, reason = "each test file uses its part")]

use paging::frames::{NoFrame, NodeId};
use paging::*;
use std::collections::HashMap;

/// Hands out frames in order, node by node, and takes them back.
#[derive(Debug)]
pub struct Counter<S> {
    next: Vec<u64>,
    per_node: u64,
    pub live: u64,
    space: std::marker::PhantomData<S>,
}

impl<S: PhysSpace> Counter<S> {
    pub fn new(nodes: usize, per_node: u64) -> Self {
        Counter {
            next: (0..nodes as u64).map(|n| n * per_node).collect(),
            per_node,
            live: 0,
            space: std::marker::PhantomData,
        }
    }
}

impl<S: PhysSpace> TableFrames<S> for Counter<S> {
    fn alloc_table(&mut self, node: NodeId, _strict: bool) -> Result<Frame<S>, NoFrame> {
        self.next[node.index()] += 1;
        self.live += 1;
        Ok(Frame::new(self.next[node.index()]))
    }
    fn free_table(&mut self, _frame: Frame<S>) {
        self.live -= 1;
    }
    fn node_of(&self, frame: Frame<S>) -> NodeId {
        NodeId((frame.number() / self.per_node) as u8)
    }
}

/// Memory, frames and an account for one physical space.
#[derive(Debug)]
pub struct World<S: PhysSpace> {
    pub mem: Arena<S>,
    pub frames: Counter<S>,
    pub work: Work,
}

pub const FRAMES: u64 = 1 << 30;

impl<S: PhysSpace> World<S> {
    pub fn new() -> Self {
        World { mem: Arena::new(1 << 24), frames: Counter::new(1, 1 << 24), work: Work::default() }
    }
    pub fn env(&mut self) -> TableEnv<'_, Arena<S>> {
        TableEnv { mem: &mut self.mem, frames: &mut self.frames, node: NodeId(0), work: &mut self.work }
    }
    pub fn table<I: Space>(&mut self, levels: u8) -> PageTable<I, Arena<S>> {
        PageTable::new(Box::new(OneCopy::default()), &mut self.env(), levels, NodeId(0)).unwrap()
    }
    pub fn map<I: Space>(
        &mut self,
        table: &mut PageTable<I, Arena<S>>,
        addr: u64,
        frame: u64,
        size: PageSize,
    ) {
        let flags = Flags::WRITABLE | Flags::USER;
        table
            .map(
                &mut self.env(),
                Addr::new(addr),
                Frame::new(frame),
                size,
                flags,
                NodeId(0),
                Visibility::Private,
            )
            .unwrap();
    }
}

/// A port without caches: every step is a step, all written down.
#[derive(Debug, Default)]
pub struct Recorder {
    pub refs: Vec<(Cell, Hpa)>,
    pub checks: usize,
}

impl Port for Recorder {
    fn reference(&mut self, cell: Cell, at: Hpa) {
        self.refs.push((cell, at));
    }
    fn check(&mut self, _check: Check) {
        self.checks += 1;
    }
    fn cached_table(&mut self, _dim: Dim, _addr: u64, _levels: u8, _row: u8) -> Option<CachedTable> {
        None
    }
    fn cache_table(&mut self, _dim: Dim, _addr: u64, _table: CachedTable) {}
    fn cached_host(&mut self, _gpa: Gpa, _write: bool, _row: u8, _levels: u8) -> Option<HostLeaf> {
        None
    }
    fn cache_host(&mut self, _gpa: Gpa, _leaf: HostLeaf) {}
}

/// A port whose caches never forget, each of which can be switched on.
#[derive(Debug, Default)]
pub struct Caching {
    pub refs: Vec<Cell>,
    pub guest_tables: bool,
    pub host_tables: bool,
    pub nested: bool,
    pub tables: HashMap<(u8, u8, u64), CachedTable>,
    pub hosts: HashMap<u64, HostLeaf>,
}

impl Port for Caching {
    fn reference(&mut self, cell: Cell, _at: Hpa) {
        self.refs.push(cell);
    }
    fn check(&mut self, _check: Check) {}
    fn cached_table(&mut self, dim: Dim, addr: u64, levels: u8, _row: u8) -> Option<CachedTable> {
        if !(if dim == Dim::Guest { self.guest_tables } else { self.host_tables }) {
            return None;
        }
        (1..levels).find_map(|level| self.tables.get(&(dim as u8, level, addr >> (12 + 9 * level))).copied())
    }
    fn cache_table(&mut self, dim: Dim, addr: u64, table: CachedTable) {
        self.tables.insert((dim as u8, table.level, addr >> (12 + 9 * table.level)), table);
    }
    fn cached_host(&mut self, gpa: Gpa, write: bool, _row: u8, _levels: u8) -> Option<HostLeaf> {
        if !self.nested {
            return None;
        }
        self.hosts.get(&gpa.page()).filter(|leaf| leaf.dirty || !write).copied()
    }
    fn cache_host(&mut self, gpa: Gpa, leaf: HostLeaf) {
        self.hosts.insert(gpa.page(), leaf);
    }
}
