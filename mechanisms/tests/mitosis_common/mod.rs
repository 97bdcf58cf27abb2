//! A machine of four nodes for the tests of Mitosis: frames by node, walkers
//! on each node that set bits in the copy that they walk, and a model of the
//! table that is a map from page to leaf.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod pair;

use mechanisms::mitosis::{Role, copies, role};
use paging::frames::{NoFrame, NodeSet};
use paging::*;
use std::collections::{BTreeMap, BTreeSet};

pub const NODES: usize = 4;
/// Frames of a node: tables come from the lower half, data from the upper.
pub const PER_NODE: u64 = 1 << 24;
pub const FRAMES: u64 = PER_NODE * NODES as u64;

/// Frames for tables, by node, each given out once until it comes back.
#[derive(Debug)]
pub struct Pool {
    next: [u64; NODES],
    free: [Vec<u64>; NODES],
    /// Pages each node has left.
    pub left: [usize; NODES],
    pub out: BTreeSet<u64>,
}

impl Pool {
    pub fn new(left: [usize; NODES]) -> Pool {
        let next = core::array::from_fn(|n| n as u64 * PER_NODE + 1);
        Pool { next, free: Default::default(), left, out: BTreeSet::new() }
    }
}

impl TableFrames<HostPhys> for Pool {
    fn alloc_table(&mut self, node: NodeId, strict: bool) -> Result<Hfn, NoFrame> {
        let order = (0..NODES).map(|i| (node.index() + i) % NODES).take(if strict { 1 } else { NODES });
        for n in order {
            if self.left[n] > 0 {
                self.left[n] -= 1;
                let frame = self.free[n].pop().unwrap_or_else(|| {
                    self.next[n] += 1;
                    self.next[n] - 1
                });
                assert!(self.out.insert(frame), "frame {frame:#x} given out twice");
                return Ok(Hfn::new(frame));
            }
        }
        Err(NoFrame::for_table(node, false))
    }
    fn free_table(&mut self, frame: Hfn) {
        assert!(self.out.remove(&frame.number()), "{frame:?} freed but not given out");
        let n = self.node_of(frame).index();
        self.left[n] += 1;
        self.free[n].push(frame.number());
    }
    fn node_of(&self, frame: Hfn) -> NodeId {
        NodeId((frame.number() / PER_NODE).min(NODES as u64 - 1) as u8)
    }
}

/// Bits, frames and account.
#[derive(Debug)]
pub struct World {
    pub mem: Arena<HostPhys>,
    pub pool: Pool,
    pub work: Work,
}

impl World {
    pub fn new(left: [usize; NODES]) -> World {
        World { mem: Arena::new(FRAMES), pool: Pool::new(left), work: Work::default() }
    }
    pub fn env(&mut self, node: NodeId) -> TableEnv<'_, Arena<HostPhys>> {
        TableEnv { mem: &mut self.mem, frames: &mut self.pool, node, work: &mut self.work }
    }
}

pub type Table = PageTable<Virt, Arena<HostPhys>>;

/// Frames for a guest's tables: those of virtual node n follow frame 512·n.
#[derive(Debug)]
pub struct GuestFrames(pub [u64; NODES]);

impl TableFrames<GuestPhys> for GuestFrames {
    fn alloc_table(&mut self, node: NodeId, _strict: bool) -> Result<Gfn, NoFrame> {
        let next = &mut self.0[node.index()];
        *next += 1;
        Ok(Gfn::new(node.index() as u64 * 512 + *next))
    }
    fn free_table(&mut self, _frame: Gfn) {}
    fn node_of(&self, frame: Gfn) -> NodeId {
        NodeId((frame.number() / 512) as u8)
    }
}

/// A port without caches, that writes down where the references went.
#[derive(Debug, Default)]
pub struct References(pub Vec<Hpa>);

impl Port for References {
    fn reference(&mut self, _cell: Cell, at: Hpa) {
        self.0.push(at);
    }
    fn check(&mut self, _check: Check) {}
    fn cached_table(&mut self, _dim: Dim, _addr: u64, _levels: u8, _row: u8) -> Option<CachedTable> {
        None
    }
    fn cache_table(&mut self, _dim: Dim, _addr: u64, _table: CachedTable) {}
    fn cached_host(&mut self, _gpa: Gpa, _write: bool, _row: u8, _levels: u8) -> Option<HostLeaf> {
        None
    }
    fn cache_host(&mut self, _gpa: Gpa, _leaf: HostLeaf) {}
}

/// A leaf of the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped {
    pub size: PageSize,
    pub frame: u64,
    pub write: bool,
    /// Hidden for a hinting fault.
    pub hidden: bool,
    pub accessed: bool,
    pub dirty: bool,
}

impl Mapped {
    pub fn of(leaf: &LeafAt<Virt>) -> Mapped {
        Mapped::from(leaf.size, leaf.entry)
    }
    pub fn from(size: PageSize, entry: Entry) -> Mapped {
        let hidden = entry.is_prot_none();
        let shown = if hidden { entry.from_prot_none() } else { entry };
        Mapped {
            size,
            frame: shown.leaf_frame::<HostPhys>(size).number(),
            write: shown.has(Flags::WRITABLE),
            hidden,
            accessed: entry.has(Flags::ACCESSED),
            dirty: entry.has(Flags::DIRTY),
        }
    }
}

pub type Model = BTreeMap<u64, Mapped>;

pub fn covering(model: &Model, page: u64) -> Option<(u64, Mapped)> {
    let (start, leaf) = model.range(..=page).next_back()?;
    (page < start + leaf.size.frames()).then_some((*start, *leaf))
}

pub fn overlapping(model: &Model, start: u64, end: u64) -> Vec<u64> {
    let before = covering(model, start).map(|(s, _)| s).filter(|&s| s < start);
    before.into_iter().chain(model.range(start..end).map(|(s, _)| *s)).collect()
}

/// An access by the hardware of a node through `root`; the fault if there is one.
pub fn walk(
    mem: &Arena<HostPhys>,
    root: Hfn,
    levels: u8,
    page: u64,
    write: bool,
) -> Result<paging::Leaf, Fault> {
    let intent = if write { Intent::WRITE } else { Intent::READ };
    let walker = Native { mem, root, levels, frames: FRAMES };
    walker.walk(&mut References::default(), Va::new(page << 12), intent)
}

/// The table pages on the way to `page`, top down, and the leaf entry there if any.
pub fn path(mem: &Arena<HostPhys>, root: Hfn, levels: u8, page: u64) -> (Vec<Hfn>, Option<(u8, Entry)>) {
    let mut tables = vec![root];
    for level in (1..=levels).rev() {
        let table = tables[tables.len() - 1];
        let index = (page >> (9 * (u32::from(level) - 1))) as usize & 511;
        let entry = mem.load(Slot::new(table, index));
        if entry.is_table(level) {
            tables.push(entry.frame());
        } else {
            return (tables, (!entry.is_empty()).then_some((level, entry)));
        }
    }
    unreachable!("level 1 entries point to no table")
}

const HARDWARE: Flags = Flags::ACCESSED.with(Flags::DIRTY);

/// What a check of all copies found.
#[derive(Debug, Default)]
pub struct Audit {
    pub frames: BTreeSet<u64>,
    pub tables: u64,
}

/// Compares the copies of all tables from `table` down, entry by entry. With
/// `lazy`, copies for nodes may lack what the first copy holds.
pub fn audit(world: &World, table: Hfn, level: u8, lazy: bool, audit: &mut Audit) {
    let mem = &world.mem;
    audit.tables += 1;
    let all: Vec<(Hfn, Role)> = copies(mem, table).collect();
    for (frame, copy_role) in &all {
        assert!(audit.frames.insert(frame.number()), "{frame:?} is in two rings");
        assert_ne!(*copy_role, Role::Retired, "{frame:?} is retired, though every flush was paid");
    }
    for index in 0..ENTRIES {
        let named = mem.load(Slot::new(table, index));
        for &(copy, copy_role) in &all {
            let here = mem.load(Slot::new(copy, index));
            if lazy && here.is_empty() && copy != table {
                continue;
            }
            if named.is_table(level) {
                assert!(here.is_table(level), "{copy:?}[{index}] is {here:?}, not a table");
                let child = here.frame();
                assert!(
                    copies(mem, named.frame()).any(|(f, _)| f == child),
                    "{copy:?}[{index}] leads elsewhere"
                );
                if let Role::Node(_) = copy_role
                    && !(lazy && copy == table)
                {
                    assert_eq!(role(mem, child), copy_role, "{copy:?}[{index}] leads to another node's tree");
                }
                let (a, b) = (here.with_frame(Hfn::new(0)), named.with_frame(Hfn::new(0)));
                assert_eq!(a.without(HARDWARE), b.without(HARDWARE));
            } else {
                assert_eq!(here.without(HARDWARE), named.without(HARDWARE), "{copy:?}[{index}] disagrees");
            }
        }
        if named.is_table(level) {
            self::audit(world, named.frame(), level - 1, lazy, audit);
        }
    }
}

pub fn set(nodes: &[u8]) -> NodeSet {
    nodes.iter().map(|&n| NodeId(n)).collect()
}
