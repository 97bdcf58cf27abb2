//! The guest's side of Translation Pass-Through against a model that knows no tables: what is mapped
//! is a map, where the guest's frames are is another.

use mechanisms::mitosis::Replicated;
use mechanisms::passthrough::{
    Checks, Direct, Enlightenment, Entered, FrameBits, FrameTags, Given, GuestTables, HostArray, Owner,
    PassThrough, TagPlaces, Twin, TwinPages, twin_of,
};
use paging::frames::{NodeId, NodeSet};
use paging::sync::AtomicU64;
use paging::{
    Addr, Arena, CachedTable, Cell, Check, Dim, Entry, Fault, Flags, Flush, Gfn, Gpa, GuestPhys, Hfn,
    HostLeaf, HostPhys, Hpa, Intent, NoFrame, PageSize, PageTable, Port, Slot, TableEnv, TableFrames,
    TableMemory, TableOps, Translation, Va, Virt, Visibility, Work,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Guest frames: data from 0 on, table pages from `TABLES` on.
const FRAMES: u64 = 4096;
const TABLES: u64 = 3072;
const BASE: u64 = 0x4000_0000;
/// Blocks of 2 MiB that the process may map.
const BLOCKS: u64 = 4;

struct Pool(Vec<Gfn>);

impl TableFrames<GuestPhys> for Pool {
    fn alloc_table(&mut self, node: NodeId, strict: bool) -> Result<Gfn, NoFrame> {
        if let Some(at) = self.0.iter().rposition(|frame| node_of(*frame) == node) {
            return Ok(self.0.remove(at));
        }
        self.0.pop().filter(|_| !strict).ok_or(NoFrame::for_table(node, strict))
    }
    fn free_table(&mut self, frame: Gfn) {
        assert!(!self.0.contains(&frame), "{frame:?} is freed twice");
        self.0.push(frame);
    }
    fn node_of(&self, frame: Gfn) -> NodeId {
        node_of(frame)
    }
}

/// Table pages are on two nodes by turns.
fn node_of(frame: Gfn) -> NodeId {
    NodeId((frame.number() & 1) as u8)
}

/// What a walk without caches referred to.
#[derive(Default)]
struct Full(Vec<Hpa>);

impl Port for Full {
    fn reference(&mut self, _cell: Cell, at: Hpa) {
        self.0.push(at);
    }
    fn check(&mut self, _check: Check) {}
    fn cached_table(&mut self, _: Dim, _: u64, _: u8, _: u8) -> Option<CachedTable> {
        None
    }
    fn cache_table(&mut self, _: Dim, _: u64, _: CachedTable) {}
    fn cached_host(&mut self, _: Gpa, _: bool, _: u8, _: u8) -> Option<HostLeaf> {
        None
    }
    fn cache_host(&mut self, _: Gpa, _: HostLeaf) {}
}

struct Bits<'a>(&'a FrameTags, &'a Arena<GuestPhys>);

impl FrameBits for Bits<'_> {
    fn cell(&self, slot: Slot<HostPhys>) -> Option<&AtomicU64> {
        let tag = self.0.get(slot.table);
        tag.owner.and_then(|_| self.1.cell(Slot::new(tag.gfn, slot.index)))
    }
}

/// What the process has mapped: by page of a block, or a whole block.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Mapped {
    gfn: u64,
    write: bool,
    huge: bool,
    accessed: bool,
    dirty: bool,
}

struct World {
    /// Whether tables have twins, or name host frames themselves.
    twins: bool,
    mem: GuestTables<Arena<GuestPhys>>,
    pool: Pool,
    array: Arc<HostArray>,
    tags: Arc<FrameTags>,
    pages: Arc<TwinPages>,
    table: PageTable<Virt, GuestTables<Arena<GuestPhys>>>,
    /// By first page.
    mapped: BTreeMap<u64, Mapped>,
    /// Where each guest frame is.
    host: BTreeMap<u64, (u64, PageSize)>,
    next_small: u64,
    next_block: u64,
}

const OWNER: Owner = match Owner::vm(3) {
    Some(owner) => owner,
    None => panic!("a VM number"),
};

impl World {
    /// With twins; or without, and a copy of the tables on both nodes.
    fn new(twins: bool) -> World {
        let array = Arc::new(HostArray::new(FRAMES));
        let tags = Arc::new(FrameTags::new(1 << 22, TagPlaces::default()));
        let pages = Arc::new(TwinPages::default());
        let enlightened = (!twins).then(|| {
            array.keep_stale();
            Enlightenment { array: Arc::clone(&array), tags: Arc::clone(&tags), owner: OWNER }
        });
        let mut mem = GuestTables::new(Arena::new(FRAMES), enlightened);
        let mut pool = Pool((TABLES..FRAMES).map(Gfn::new).collect());
        let mut work = Work::default();
        let mut env = TableEnv { mem: &mut mem, frames: &mut pool, node: NodeId(0), work: &mut work };
        let ops: Box<dyn TableOps<Virt, GuestTables<Arena<GuestPhys>>>> = if twins {
            Box::new(Twin::new(Arc::clone(&array), Arc::clone(&pages)))
        } else {
            Box::new(Direct::new(Arc::clone(&array), Box::new(Replicated::new(NodeSet::first(2)))))
        };
        let table = PageTable::new(ops, &mut env, 4, NodeId(0)).expect("a frame");
        let (mapped, host) = Default::default();
        World {
            twins,
            mem,
            pool,
            array,
            tags,
            pages,
            table,
            mapped,
            host,
            next_small: 1,
            next_block: 1 << 20,
        }
    }

    /// Software works on the table.
    fn on<R>(
        &mut self,
        f: impl FnOnce(
            &mut PageTable<Virt, GuestTables<Arena<GuestPhys>>>,
            &mut TableEnv<'_, GuestTables<Arena<GuestPhys>>>,
        ) -> R,
    ) -> R {
        let mut work = Work::default();
        let World { mem, pool, table, .. } = self;
        f(table, &mut TableEnv { mem, frames: pool, node: NodeId(0), work: &mut work })
    }

    /// The host backs a guest frame, if it is not: with a page of its own, or with a huge one.
    fn back(&mut self, gfn: u64, huge: bool) {
        if self.host.contains_key(&gfn) {
            return;
        }
        let first = gfn & !511;
        let whole = huge && (first..first + 512).all(|gfn| !self.host.contains_key(&gfn));
        let (first, count, size) =
            if whole { (first, 512, PageSize::Size2M) } else { (gfn, 1, PageSize::Size4K) };
        let frame = if whole { self.next_block } else { self.next_small };
        *(if whole { &mut self.next_block } else { &mut self.next_small }) += count;
        let given = self.tags.give(OWNER, Gfn::new(first), Hfn::new(frame), size);
        for n in 0..count {
            self.array.publish(Gfn::new(first + n), Given::new(Hfn::new(frame + n), given.colour(), size));
            self.host.insert(first + n, (frame + n, size));
        }
    }

    /// The host takes a guest frame; what was huge around it is small from then on.
    fn revoke(&mut self, gfn: u64) {
        let Some((frame, size)) = self.host.remove(&gfn) else { return };
        self.tags.take(Hfn::new(frame));
        let given = self.array.withdraw(Gfn::new(gfn)).expect("it was published");
        assert_eq!(given.frame().number(), frame);
        for other in gfn & !511..(gfn & !511) + 512 {
            if size == PageSize::Size2M
                && let Some((frame, size)) = self.host.get_mut(&other)
            {
                *size = PageSize::Size4K;
                self.tags.resize(Hfn::new(*frame), PageSize::Size4K);
                let given = self.array.get(Gfn::new(other)).expect("published");
                self.array.publish(Gfn::new(other), given.resized(PageSize::Size4K));
            }
        }
    }

    fn settle(&mut self, huge: bool) {
        let mut wanted = Vec::new();
        for _ in 0..8 {
            self.on(|table, env| table.settle(env, &mut |gfn| wanted.push(gfn)));
            if wanted.is_empty() {
                return;
            }
            for gfn in core::mem::take(&mut wanted) {
                self.back(gfn.number(), huge && gfn.number() < TABLES);
            }
            // The host's answer comes before the guest goes on; the entry is completed at the access.
        }
    }

    fn pay(&mut self, flush: Flush<Virt, GuestPhys>) {
        let released = flush.discharge(|_, _| {});
        self.on(|table, env| table.free_tables(env, &released));
    }

    /// The page that covers `page`, and its first page.
    fn at(&self, page: u64) -> Option<(u64, Mapped)> {
        let block = page & !511;
        [page, block].into_iter().find_map(|first| {
            let it = self.mapped.get(&first)?;
            (first == page || it.huge).then_some((first, *it))
        })
    }

    fn unmap(&mut self, page: u64, count: u64) {
        let huge = self.at(page).filter(|(_, it)| it.huge);
        let range = huge.map_or(page..page + count, |(first, _)| first..first + 512);
        let range = match self.at(range.end - 1).filter(|(first, it)| it.huge && *first >= range.start) {
            Some((first, _)) => range.start..first + 512,
            None => range,
        };
        let mut flush = Flush::none();
        let bytes = BASE + range.start * 4096..BASE + range.end * 4096;
        self.on(|table, env| table.unmap_range(env, bytes, &mut flush)).expect("nothing is shared");
        self.pay(flush);
        self.mapped.retain(|first, _| !range.contains(first));
    }

    fn map(&mut self, page: u64, gfn: u64, write: bool, huge: bool) {
        let size = if huge { PageSize::Size2M } else { PageSize::Size4K };
        let flags =
            if write { Flags::PRESENT | Flags::USER | Flags::WRITABLE } else { Flags::PRESENT | Flags::USER };
        let entry = Entry::leaf(Gfn::new(gfn), size, flags);
        let va = Va::new(BASE + page * 4096);
        self.on(|table, env| {
            let slot = table.ensure(env, va, size.level(), NodeId(0), Visibility::Private).expect("room");
            table.ops().write(env, slot, size.level(), entry);
        });
        self.mapped.insert(page, Mapped { gfn, write, huge, accessed: false, dirty: false });
    }

    /// An access in pass-through mode by a CPU of `node`, with the guest's fault handler behind it. Where it went.
    fn access(&mut self, page: u64, intent: Intent, node: NodeId, huge_backing: bool) -> Option<u64> {
        let va = Va::new(BASE + page * 4096);
        for _ in 0..12 {
            let root = match self.twins {
                true => twin_of(&self.mem, self.table.root()).expect("a twin"),
                false => self.table.hardware_root(node),
            };
            self.back(root.number(), false);
            let root = self.array.get(root).map(|given| (given.frame(), given.colour()));
            let bits = Bits(&self.tags, self.mem.inner());
            let entered = Entered { root, levels: 4, owner: OWNER };
            let checks = Checks { tables: true, overlapped: false };
            let walk = PassThrough { bits: &bits, tags: &self.tags, entered, frames: 1 << 22, checks };
            let mut port = Full::default();
            match walk.walk(&mut port, va, intent) {
                Ok(leaf) => {
                    // With copies on both nodes a walk stays on its own.
                    let tags =
                        port.0.iter().map(|at| self.tags.get(at.frame())).filter(|tag| tag.owner.is_some());
                    for tag in tags.filter(|tag| !self.twins && tag.gfn.number() >= TABLES) {
                        assert_eq!(node_of(tag.gfn), node, "a walk of {node:?} came to {:?}", tag.gfn);
                    }
                    assert_eq!(walk.peek(va).map(|at| at.frame()), Some(leaf.frame));
                    assert!(!intent.write || leaf.rights.write());
                    let (first, _) = self.at(page).expect("it is mapped");
                    let it = self.mapped.get_mut(&first).expect("it is mapped");
                    (it.accessed, it.dirty) = (true, it.dirty || intent.write);
                    return Some(leaf.frame.number());
                }
                Err(Fault::Page { .. } | Fault::Tag { .. }) => {
                    let allowed = self.at(page).is_some_and(|(_, it)| !intent.write || it.write);
                    if !allowed {
                        return None;
                    }
                    self.on(|table, env| table.fault_in(env, Addr::new(va.raw()), node)).expect("room");
                    let flush = self.table.owed();
                    self.pay(flush);
                    self.settle(huge_backing);
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        panic!("no progress at page {page}: {:?}", self.at(page));
    }

    /// Software sees the bits that hardware set, for all that is mapped.
    fn check_bits(&mut self) {
        let mapped: Vec<_> = self.mapped.iter().map(|(&page, &it)| (page, it)).collect();
        for (page, it) in mapped {
            let found = self.on(|table, env| table.lookup(env, Va::new(BASE + page * 4096)));
            assert_eq!(found.entry.frame::<GuestPhys>().number(), it.gfn);
            assert_eq!(found.entry.has(Flags::ACCESSED), it.accessed, "A of page {page}: {it:?}");
            assert_eq!(found.entry.has(Flags::DIRTY), it.dirty, "D of page {page}: {it:?}");
            assert_eq!(found.entry.has(Flags::WRITABLE), it.write);
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Map { page: u64, gfn: u64, write: bool },
    MapHuge { block: u64, gfn: u64, write: bool },
    Unmap { page: u64, count: u64 },
    Protect { page: u64, count: u64, write: bool },
    ClearBits { page: u64 },
    Access { page: u64, write: bool, node: u8 },
    Revoke { gfn: u64 },
    RevokeTable { table: u64 },
    ComeRound,
}

fn act() -> impl Strategy<Value = Act> {
    let page = 0..BLOCKS * 512;
    prop_oneof![
        4 => (page.clone(), 0..TABLES, any::<bool>()).prop_map(|(page, gfn, write)| Act::Map { page, gfn, write }),
        2 => (0..BLOCKS, 0..TABLES / 512, any::<bool>())
            .prop_map(|(block, gfn, write)| Act::MapHuge { block, gfn: gfn * 512, write }),
        2 => (page.clone(), 1..700u64).prop_map(|(page, count)| Act::Unmap { page, count }),
        2 => (page.clone(), 1..64u64, any::<bool>())
            .prop_map(|(page, count, write)| Act::Protect { page, count, write }),
        1 => page.clone().prop_map(|page| Act::ClearBits { page }),
        8 => (page, any::<bool>(), 0..2u8).prop_map(|(page, write, node)| Act::Access { page, write, node }),
        3 => (0..TABLES).prop_map(|gfn| Act::Revoke { gfn }),
        2 => (0..64u64).prop_map(|table| Act::RevokeTable { table }),
        1 => Just(Act::ComeRound),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_guest_sees_what_it_mapped_wherever_the_host_puts_it(
        twins in any::<bool>(),
        huge_backing in any::<bool>(),
        acts in proptest::collection::vec(act(), 1..80),
    ) {
        let mut w = World::new(twins);
        for act in &acts {
            match *act {
                Act::Map { page, gfn, write } => {
                    if w.at(page).is_none() {
                        w.map(page, gfn, write, false);
                    }
                }
                // Without twins there is no place for the smaller entries of a huge page.
                Act::MapHuge { .. } if !twins => {}
                Act::MapHuge { block, gfn, write } => {
                    w.unmap(block * 512, 512);
                    w.map(block * 512, gfn, write, true);
                }
                Act::Unmap { page, count } => w.unmap(page, count.min(BLOCKS * 512 - page)),
                Act::Protect { page, count, write } => {
                    let (first, end) = match w.at(page) {
                        Some((first, it)) if it.huge => (first, first + 512),
                        _ => (page, (page + count).min((page & !511) + 512)),
                    };
                    let mut flush = Flush::none();
                    let bytes = BASE + first * 4096..BASE + end * 4096;
                    w.on(|table, env| table.update_range(env, bytes, Visibility::Private, &mut flush, &mut |leaf| {
                        if write { leaf.entry.with(Flags::WRITABLE) } else { leaf.entry.without(Flags::WRITABLE) }
                    })).expect("nothing is shared");
                    w.pay(flush);
                    w.mapped.range_mut(first..end).for_each(|(_, it)| it.write = write);
                }
                Act::ClearBits { page } => {
                    if let Some((first, _)) = w.at(page) {
                        let va = Va::new(BASE + first * 4096);
                        let clear = Flags::ACCESSED | Flags::DIRTY;
                        let old = w.on(|table, env| {
                            table.set_flags(env, va, Flags::NONE, clear, Visibility::Private)
                        }).expect("nothing is shared").expect("mapped");
                        let it = w.mapped.get_mut(&first).expect("mapped");
                        prop_assert_eq!((old.has(Flags::ACCESSED), old.has(Flags::DIRTY)), (it.accessed, it.dirty));
                        (it.accessed, it.dirty) = (false, false);
                    }
                }
                Act::Access { page, write, node } => {
                    let intent = if write { Intent::WRITE } else { Intent::READ };
                    let got = w.access(page, intent, NodeId(node), huge_backing);
                    let expected = w.at(page).filter(|(_, it)| !write || it.write).map(|(first, it)| {
                        w.host[&(it.gfn + page - first)].0
                    });
                    prop_assert_eq!(got, expected);
                }
                Act::Revoke { gfn } => w.revoke(gfn),
                Act::RevokeTable { table } => w.revoke(FRAMES - 1 - table),
                Act::ComeRound => w.array.set_epoch(w.array.epoch() + 1),
            }
            w.check_bits();
        }
        (0..BLOCKS).for_each(|block| w.unmap(block * 512, 512));
        let left = w.mem.inner().tables();
        w.on(|table, env| table.settle(env, &mut |_| {}));
        prop_assert!(left <= 2 && w.pages.twins() == u64::from(twins) && w.pages.splinters() == 0,
            "{left} pages are left, {} twins, {} splinters", w.pages.twins(), w.pages.splinters());
    }
}
