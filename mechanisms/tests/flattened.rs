//! Flattened page tables: exact references, and the same translations as ordinary tables after any sequence
//! of changes, with walk caches that forget no more than a flush says.

use mechanisms::flattened::{Flat, FlatTables, MERGED};
use paging::frames::{NoFrame, NodeId, Watermark};
use paging::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};

const GIB: u64 = 1 << 30;
const MIB2: u64 = 1 << 21;
const FRAMES: u64 = 1 << 30;
const NODE: NodeId = NodeId(0);

/// Frames for tables; as many blocks as are left. What comes back is given out again first.
#[derive(Debug)]
struct Pool {
    next: u64,
    next_block: u64,
    blocks: usize,
    free: Vec<u64>,
    out: BTreeSet<u64>,
}

impl Pool {
    fn new(blocks: usize) -> Pool {
        Pool { next: 1, next_block: 1 << 12, blocks, free: Vec::new(), out: BTreeSet::new() }
    }
}

impl<S: PhysSpace> TableFrames<S> for Pool {
    fn alloc_table(&mut self, _node: NodeId, _strict: bool) -> Result<Frame<S>, NoFrame> {
        let frame = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        assert!(self.out.insert(frame), "{frame:#x} given out twice");
        Ok(Frame::new(frame))
    }
    fn alloc_tables(&mut self, node: NodeId, order: u8) -> Result<Frame<S>, NoFrame> {
        let frames = 1 << order;
        if self.blocks == 0 {
            return Err(NoFrame {
                frames,
                watermark: Watermark::Opportunistic,
                ..NoFrame::for_table(node, true)
            });
        }
        self.blocks -= 1;
        let first = self.next_block;
        self.next_block += frames;
        (first..first + frames).for_each(|frame| assert!(self.out.insert(frame)));
        Ok(Frame::new(first))
    }
    fn free_table(&mut self, frame: Frame<S>) {
        assert!(self.out.remove(&frame.number()), "{frame:?} freed but not given out");
        self.free.push(frame.number());
    }
    fn node_of(&self, _frame: Frame<S>) -> NodeId {
        NODE
    }
}

/// A page-walk cache that never forgets by itself, or none.
#[derive(Debug, Default)]
struct Cache {
    on: bool,
    known: HashMap<(u8, u8, u64), CachedTable>,
    cells: Vec<(u8, u8)>,
}

impl Cache {
    fn forget<I: Space>(&mut self, extent: &Extent<I>, paths: bool) {
        if !paths {
            return;
        }
        match extent {
            Extent::Nothing => {}
            Extent::All => self.known.clear(),
            Extent::Ranges(ranges) => self.known.retain(|&(_, level, prefix), _| {
                let shift = 12 + 9 * u32::from(level);
                let (start, end) = (prefix << shift, (prefix + 1) << shift);
                !ranges.iter().any(|r| r.start.raw() < end && start < r.start.raw() + r.len)
            }),
        }
    }
}

impl Port for Cache {
    fn reference(&mut self, cell: Cell, _at: Hpa) {
        self.cells.push((cell.guest, cell.host));
    }
    fn check(&mut self, _check: Check) {}
    fn cached_table(&mut self, dim: Dim, addr: u64, levels: u8, _row: u8) -> Option<CachedTable> {
        let key = |level: u8| (dim as u8, level, addr >> (12 + 9 * u32::from(level)));
        (1..levels).find_map(|level| self.known.get(&key(level))).copied()
    }
    fn cache_table(&mut self, dim: Dim, addr: u64, table: CachedTable) {
        assert!(table.level > 0 && table.level < 5);
        if self.on {
            let key = (dim as u8, table.level, addr >> (12 + 9 * u32::from(table.level)));
            assert!(self.known.insert(key, table).is_none(), "cached twice");
        }
    }
    fn cached_host(&mut self, _gpa: Gpa, _write: bool, _row: u8, _levels: u8) -> Option<HostLeaf> {
        None
    }
    fn cache_host(&mut self, _gpa: Gpa, _leaf: HostLeaf) {}
}

/// A host that has every guest frame where it is, for one reference.
#[derive(Clone, Copy)]
struct Identity;

impl HostStage for Identity {
    type Located = ();
    const STAGES: u8 = 1;
    fn translate<P: Port>(&self, port: &mut P, gpa: Gpa, row: u8, _: Intent) -> Result<HostLeaf, Fault> {
        port.reference(Cell { guest: row, host: 1 }, Hpa::new(gpa.raw()));
        let frame = Hfn::new(gpa.frame().number());
        Ok(HostLeaf { frame, size: PageSize::Size1G, rights: Rights::ALL, dirty: true })
    }
    fn peek(&self, gpa: Gpa) -> Option<Hpa> {
        Some(Hpa::new(gpa.raw()))
    }
    fn locate(&self, _gpa: Gpa, _near: &mut impl FnMut(Hpa)) -> Option<()> {
        Some(())
    }
    fn relocate(&self, _gpa: Gpa, (): (), _near: &mut impl FnMut(Hpa)) -> Option<()> {
        Some(())
    }
    fn arrive(&self, gpa: Gpa, (): ()) -> Option<Hpa> {
        self.peek(gpa)
    }
}

/// The walk of tables in a physical space: natively, or as a guest's.
trait Walks: PhysSpace {
    fn walk<W: Walked<Space = Self>>(
        mem: &W,
        root: Frame<Self>,
        levels: u8,
        port: &mut Cache,
        va: Va,
        intent: Intent,
    ) -> Result<Leaf, Fault>;
    /// Where `va` lies, found as a prefetch finds it and silently.
    fn silently<W: Walked<Space = Self>>(mem: &W, root: Frame<Self>, levels: u8, va: Va) -> [Option<Hpa>; 2];
}

fn both<X: Translation>(walk: &X, va: Va) -> [Option<Hpa>; 2] {
    let near = &mut |_| ();
    let mut located = walk.locate(va, near);
    for _ in 1..X::STAGES {
        located = located.and_then(|at| walk.relocate(va, at, near));
    }
    [walk.peek(va), located.and_then(|at| walk.arrive(va, at))]
}

impl Walks for HostPhys {
    fn walk<W: Walked<Space = HostPhys>>(
        mem: &W,
        root: Hfn,
        levels: u8,
        port: &mut Cache,
        va: Va,
        intent: Intent,
    ) -> Result<Leaf, Fault> {
        Native { mem, root, levels, frames: FRAMES }.walk(port, va, intent)
    }
    fn silently<W: Walked<Space = HostPhys>>(mem: &W, root: Hfn, levels: u8, va: Va) -> [Option<Hpa>; 2] {
        both(&Native { mem, root, levels, frames: FRAMES }, va)
    }
}

impl Walks for GuestPhys {
    fn walk<W: Walked<Space = GuestPhys>>(
        guest: &W,
        root: Gfn,
        levels: u8,
        port: &mut Cache,
        va: Va,
        intent: Intent,
    ) -> Result<Leaf, Fault> {
        Nested { guest, root, levels, frames: FRAMES, host: Identity }.walk(port, va, intent)
    }
    fn silently<W: Walked<Space = GuestPhys>>(guest: &W, root: Gfn, levels: u8, va: Va) -> [Option<Hpa>; 2] {
        both(&Nested { guest, root, levels, frames: FRAMES, host: Identity }, va)
    }
}

/// The table of a world, what it works with, and the walker's cache.
type Parts<'a, I, S> = (Option<&'a mut PageTable<I, Arena<S>>>, TableEnv<'a, Arena<S>>, &'a mut Cache);

/// An address space: its memory, frames and table, and what walks of it left in a cache.
#[derive(Debug)]
struct World<I: Space, S: PhysSpace> {
    mem: Arena<S>,
    pool: Pool,
    work: Work,
    table: Option<PageTable<I, Arena<S>>>,
    flat: bool,
    cache: Cache,
}

impl<I: Space, S: Walks> World<I, S> {
    fn new(flat: bool, levels: u8, blocks: usize) -> Self {
        let (mem, pool) = (Arena::new(1 << 24), Pool::new(blocks));
        let cache = Cache { on: true, ..Cache::default() };
        let mut world = World { mem, pool, work: Work::default(), table: None, flat, cache };
        world.table = Some(world.fresh(levels));
        world
    }
    fn fresh(&mut self, levels: u8) -> PageTable<I, Arena<S>> {
        let ops: Box<dyn TableOps<I, Arena<S>>> =
            if self.flat { Box::new(Flat::<S>::new(None)) } else { Box::new(OneCopy::default()) };
        PageTable::new(ops, &mut self.split().1, levels, NODE).unwrap()
    }
    fn split(&mut self) -> Parts<'_, I, S> {
        let env = TableEnv { mem: &mut self.mem, frames: &mut self.pool, node: NODE, work: &mut self.work };
        (self.table.as_mut(), env, &mut self.cache)
    }
    /// Does something to the table, and pays what is owed for it.
    fn with<R>(
        &mut self,
        f: impl FnOnce(&mut PageTable<I, Arena<S>>, &mut TableEnv<'_, Arena<S>>, &mut Flush<I, S>) -> R,
    ) -> R {
        let (table, mut env, cache) = self.split();
        let table = table.unwrap();
        let mut flush = Flush::none();
        let done = f(table, &mut env, &mut flush);
        flush.merge(table.owed());
        let released = flush.discharge(|extent, paths| cache.forget(extent, paths));
        table.free_tables(&mut env, &released);
        done
    }
    fn map(&mut self, addr: u64, frame: u64, size: PageSize) -> Result<(), MapError> {
        let (addr, frame) = (Addr::new(addr), Frame::new(frame));
        let flags = Flags::WRITABLE | Flags::USER;
        self.with(|table, env, _| table.map(env, addr, frame, size, flags, NODE, Visibility::Private))
    }
    fn unmap(&mut self, range: core::ops::Range<u64>) {
        self.with(|table, env, flush| table.unmap_range(env, range, flush)).unwrap();
    }
    /// Splits what is larger than 4 KiB at `addr`.
    fn shatter(&mut self, addr: u64) {
        for _ in 0..2 {
            self.with(|table, env, flush| {
                if let Some(owed) = table.split(env, Addr::new(addr), NODE).unwrap() {
                    flush.merge(owed);
                }
            });
        }
    }
    fn lookup(&mut self, addr: u64) -> (u8, Entry) {
        let (table, mut env, _) = self.split();
        let found = table.unwrap().lookup(&mut env, Addr::new(addr));
        (found.level, found.entry)
    }
    fn walk(&mut self, addr: u64, intent: Intent) -> Result<Leaf, Fault> {
        let table = self.table.as_ref().unwrap();
        let (root, link, levels) = (table.hardware_root(NODE), table.root_link(NODE), table.levels());
        let (port, va) = (&mut self.cache, Va::new(addr));
        port.cells.clear();
        match self.flat {
            true => S::walk(&FlatTables::new(&self.mem, link), root, levels, port, va, intent),
            false => S::walk(&self.mem, root, levels, port, va, intent),
        }
    }
    fn silently(&self, addr: u64) -> [Option<Hpa>; 2] {
        let table = self.table.as_ref().unwrap();
        let (root, link, levels) = (table.hardware_root(NODE), table.root_link(NODE), table.levels());
        match self.flat {
            true => S::silently(&FlatTables::new(&self.mem, link), root, levels, Va::new(addr)),
            false => S::silently(&self.mem, root, levels, Va::new(addr)),
        }
    }
    /// Levels of the guest's or native entries that a cold walk loads.
    fn cold(&mut self, addr: u64) -> Vec<u8> {
        self.cache.known.clear();
        self.walk(addr, Intent::READ).unwrap();
        self.cache.cells.iter().filter(|(_, host)| *host == 0).map(|(guest, _)| *guest).collect()
    }
    fn end(mut self) {
        let table = self.table.take().unwrap();
        let (_, mut env, _) = self.split();
        table.destroy(&mut env, || (), &mut |_| ()).unwrap();
        assert!(self.pool.out.is_empty(), "{} frames were not given back", self.pool.out.len());
        assert_eq!(self.mem.tables(), 0);
    }
}

type Plain = World<Virt, HostPhys>;

#[test]
fn two_references_for_four_levels_and_three_for_five() {
    for (levels, expected) in [(4, vec![3, 1]), (5, vec![5, 3, 1])] {
        let mut world = Plain::new(true, levels, 2);
        world.map(5 * GIB + 7 * MIB2 + 0x3000, 77, PageSize::Size4K).unwrap();
        assert_eq!(world.cold(5 * GIB + 7 * MIB2 + 0x3000), expected);
        // Another page of the GiB, with the caches as they are: the leaf entry alone.
        world.map(5 * GIB + 9 * MIB2, 78, PageSize::Size4K).unwrap();
        assert_eq!(world.walk(5 * GIB + 9 * MIB2, Intent::READ).unwrap().frame, Hfn::new(78));
        assert_eq!(world.cache.cells, [(1, 0)]);
        assert_eq!(world.table.as_ref().unwrap().root_link(NODE) == MERGED, levels == 4);
        world.end();
    }
}

#[test]
fn without_blocks_levels_stay_as_they_are() {
    for (blocks, expected) in [(0, vec![4, 3, 2, 1]), (1, vec![3, 2, 1]), (2, vec![3, 1])] {
        let mut world = Plain::new(true, 4, blocks);
        world.map(0x3000, 77, PageSize::Size4K).unwrap();
        assert_eq!(world.cold(0x3000), expected);
        world.end();
    }
}

#[test]
fn huge_pages_are_where_they_always_were() {
    let mut world = Plain::new(true, 4, 4);
    world.map(GIB, 1 << 18, PageSize::Size1G).unwrap();
    world.map(2 * GIB, 512, PageSize::Size2M).unwrap();
    assert_eq!(world.cold(GIB + 5), [3]);
    assert_eq!(world.cold(2 * GIB + 5), [3, 2]);
    // What the walker set in its copy of the entry is what software reads.
    world.walk(GIB + 5, Intent::WRITE).unwrap();
    assert!(world.lookup(GIB).1.has(Flags::ACCESSED | Flags::DIRTY));
    world.end();
}

#[test]
fn a_gib_goes_back_to_ordinary_levels_for_its_first_huge_page() {
    let mut world = Plain::new(true, 4, 2);
    world.map(0, 77, PageSize::Size4K).unwrap();
    assert_eq!(world.cold(0), [3, 1]);
    let merged = world.pool.out.len();
    // The walker knows the merged table now.
    world.map(MIB2, 512, PageSize::Size2M).unwrap();
    assert_eq!(world.walk(MIB2, Intent::READ).unwrap().frame, Hfn::new(512));
    assert_eq!((world.cold(MIB2), world.cold(0)), (vec![3, 2], vec![3, 2, 1]));
    // Of 512 pages one is in use.
    assert_eq!(world.pool.out.len(), merged - 511);
    // And it stays so, also without the page.
    world.unmap(MIB2..2 * MIB2);
    assert_eq!(world.cold(0), [3, 2, 1]);
    world.end();
}

/// A VM with tables of both sides flattened or not.
fn nested(guest_flat: bool, host_flat: bool) -> usize {
    let mut guest = World::<Virt, GuestPhys>::new(guest_flat, 4, 2);
    let mut host = World::<GuestPhys, HostPhys>::new(host_flat, 4, 2);
    guest.map(0x7f00_1234_5000, 1 << 16, PageSize::Size4K).unwrap();
    for gfn in guest.pool.out.clone().into_iter().chain([1 << 16]) {
        host.map(gfn << 12, gfn + (1 << 20), PageSize::Size4K).unwrap();
    }
    let (of_guest, of_host) = (guest.table.as_ref().unwrap(), host.table.as_ref().unwrap());
    let stage = (of_host.hardware_root(NODE), of_host.root_link(NODE));
    let root = (of_guest.hardware_root(NODE), of_guest.root_link(NODE));
    let mut port = Cache::default();
    let levels = 4;
    // The walkers of flattened tables walk ordinary ones, too: nothing beside the root says merged.
    let host = HostDim { mem: &FlatTables::new(&host.mem, stage.1), root: stage.0, levels, frames: FRAMES };
    let guest_tables = FlatTables::new(&guest.mem, root.1);
    let walk = Nested { guest: &guest_tables, root: root.0, levels, frames: FRAMES, host };
    let leaf = walk.walk(&mut port, Va::new(0x7f00_1234_5678), Intent::READ).unwrap();
    assert_eq!(leaf.frame, Hfn::new((1 << 20) + (1 << 16)));
    port.cells.len()
}

#[test]
fn eight_references_in_a_vm_flattened_twice() {
    assert_eq!(nested(false, false), 24);
    assert_eq!(nested(true, false), 14);
    assert_eq!(nested(false, true), 14);
    assert_eq!(nested(true, true), 8);
}

/// What is done to a table.
#[derive(Clone, Copy, Debug)]
enum Step {
    Map(u64, PageSize),
    Unmap(u64, PageSize),
    Collapse(u64),
    Protect(u64, bool),
    /// Unmapped and mapped again before the flush for it is paid, as `mremap` does.
    Move(u64),
    Fork,
    Blocks(usize),
    Store(u64),
}

/// Addresses of a few places in three stretches of 1 GiB, two of them below one level-3 table.
fn place() -> impl Strategy<Value = u64> {
    (0usize..3, 0u64..4, 0u64..3)
        .prop_map(|(gib, block, page)| [0, GIB, 600 * GIB][gib] + block * MIB2 + (page << 12))
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![
        6 => Just(PageSize::Size4K), 3 => Just(PageSize::Size2M), 1 => Just(PageSize::Size1G)
    ];
    prop_oneof![
        8 => (place(), size.clone()).prop_map(|(at, size)| Step::Map(at, size)),
        4 => (place(), size).prop_map(|(at, size)| Step::Unmap(at, size)),
        2 => place().prop_map(Step::Collapse),
        2 => (place(), any::<bool>()).prop_map(|(at, on)| Step::Protect(at, on)),
        2 => place().prop_map(Step::Move),
        1 => Just(Step::Fork),
        1 => (0usize..3).prop_map(Step::Blocks),
        4 => place().prop_map(Step::Store),
    ]
}

impl<S: Walks> World<Virt, S> {
    /// Does `step`; what it says of success. `fresh` is a frame number for whatever is mapped.
    fn step(&mut self, step: Step, fresh: u64) -> String {
        let down = |at: u64, size: PageSize| at & !(size.bytes() - 1);
        match step {
            Step::Map(at, size) => format!("{:?}", self.map(down(at, size), fresh << 18, size)),
            Step::Unmap(at, size) => {
                if size < PageSize::Size1G {
                    // What sticks out is split first, as a kernel does.
                    self.shatter(at);
                }
                self.unmap(down(at, size)..down(at, size) + size.bytes());
                String::new()
            }
            Step::Collapse(at) => {
                let (addr, frame) = (Addr::new(down(at, PageSize::Size2M)), Frame::new(fresh << 18));
                let flags = Flags::WRITABLE | Flags::USER;
                let done = self.with(|table, env, flush| {
                    let owed = table.collapse(env, addr, frame, PageSize::Size2M, flags);
                    owed.map(|owed| owed.map(|owed| flush.merge(owed)).is_some())
                });
                format!("{done:?}")
            }
            Step::Protect(at, on) => {
                let range = down(at, PageSize::Size1G)..down(at, PageSize::Size1G) + GIB;
                self.with(|table, env, flush| {
                    let f = &mut |leaf: LeafAt<Virt>| match on {
                        true => leaf.entry.with(Flags::WRITABLE),
                        false => leaf.entry.without(Flags::WRITABLE),
                    };
                    table.update_range(env, range, Visibility::Private, flush, f)
                })
                .unwrap();
                String::new()
            }
            Step::Move(at) => {
                let range = down(at, PageSize::Size1G)..down(at, PageSize::Size1G) + GIB;
                let (addr, frame) = (Addr::new(at), Frame::new(fresh << 18));
                let flags = Flags::WRITABLE | Flags::USER;
                let done = self.with(|table, env, flush| {
                    table.unmap_range(env, range, flush).unwrap();
                    table.map(env, addr, frame, PageSize::Size4K, flags, NODE, Visibility::Private)
                });
                format!("{done:?}")
            }
            Step::Fork => {
                let mut child = self.fresh(self.table.as_ref().unwrap().levels());
                self.with(|table, env, flush| {
                    let f = &mut |leaf: LeafAt<Virt>| {
                        let entry = leaf.entry.without(Flags::WRITABLE);
                        Forked { parent: entry, child: entry }
                    };
                    table.fork_range(env, &mut child, 0..1 << 47, Visibility::Private, flush, f)
                })
                .unwrap();
                // The child goes on.
                let parent = self.table.replace(child).unwrap();
                let (_, mut env, cache) = self.split();
                parent.destroy(&mut env, || (), &mut |_| ()).unwrap();
                cache.known.clear();
                String::new()
            }
            Step::Blocks(blocks) => {
                self.pool.blocks = blocks;
                String::new()
            }
            Step::Store(at) => format!("{:?}", self.walk(at, Intent::WRITE).map(|leaf| leaf.frame).ok()),
        }
    }
}

fn the_same_as_ordinary_tables<S: Walks>(levels: u8, blocks: usize, steps: &[Step]) {
    let mut flat = World::<Virt, S>::new(true, levels, blocks);
    let mut plain = World::<Virt, S>::new(false, levels, 0);
    // What translates what, whatever the levels between: the page, its size and rights, and used bits.
    let seen = |world: &mut World<Virt, S>, at: u64| {
        let leaf = world.walk(at, Intent::READ).ok();
        let leaf = leaf.map(|leaf| (leaf.frame, leaf.size, leaf.rights, leaf.dirty));
        (leaf, world.silently(at), world.lookup(at))
    };
    for (fresh, step) in steps.iter().enumerate() {
        let fresh = 2 + fresh as u64;
        assert_eq!(flat.step(*step, fresh), plain.step(*step, fresh), "{step:?}");
        for gib in [0, GIB, 600 * GIB] {
            for place in 0..12 {
                let at = gib + place / 3 * MIB2 + ((place % 3) << 12);
                let (ours, theirs) = (seen(&mut flat, at), seen(&mut plain, at));
                assert_eq!((ours.0, ours.1), (theirs.0, theirs.1), "{at:#x} after {step:?}");
                let (ours, theirs) = (ours.2, theirs.2);
                assert_eq!((ours.0, ours.1.bits() >> 5 & 3), (theirs.0, theirs.1.bits() >> 5 & 3), "{at:#x}");
            }
        }
    }
    flat.end();
    plain.end();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn natively_as_ordinary_tables(
        levels in 4u8..6, blocks in 0usize..5, steps in prop::collection::vec(step(), 1..40)
    ) {
        the_same_as_ordinary_tables::<HostPhys>(levels, blocks, &steps);
    }

    #[test]
    fn in_a_guest_as_ordinary_tables(
        levels in 4u8..6, blocks in 0usize..5, steps in prop::collection::vec(step(), 1..40)
    ) {
        the_same_as_ordinary_tables::<GuestPhys>(levels, blocks, &steps);
    }
}
