//! Tables against a model that is a map from page to frame: random sequences
//! of operations, answers and errors compared; and the walker against a naive
//! walker on random tables of all sizes and levels.

mod common;
use common::{FRAMES, Recorder, World};
use paging::frames::NodeId;
use paging::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Action {
    Map { page: u64, size: PageSize, frame: u64 },
    Unmap { page: u64, pages: u64 },
    Protect { page: u64, pages: u64, write: bool },
    Split { page: u64 },
    Collapse { block: u64, frame: u64 },
    Replace { page: u64, frame: u64 },
}

/// Pages of interest: the first 4 GiB, and a few far away.
fn page() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0u64..2048, 2 => 0u64..(1 << 20), 1 => (1u64 << 35) - 600..(1u64 << 35) + 600]
}

fn action() -> impl Strategy<Value = Action> {
    let size =
        prop_oneof![6 => Just(PageSize::Size4K), 3 => Just(PageSize::Size2M), 1 => Just(PageSize::Size1G)];
    prop_oneof![
        5 => (page(), size, 0u64..1 << 12).prop_map(|(page, size, frame)| Action::Map {
            page: page & !(size.frames() - 1),
            size,
            frame: (frame << 18) & !(size.frames() - 1) | if size == PageSize::Size4K { page & 511 } else { 0 },
        }),
        3 => (page(), prop_oneof![Just(1u64), 1u64..600, 500u64..300_000]).prop_map(|(page, pages)| Action::Unmap { page, pages }),
        2 => (page(), 1u64..1500, any::<bool>()).prop_map(|(page, pages, write)| Action::Protect { page, pages, write }),
        2 => page().prop_map(|page| Action::Split { page }),
        2 => (0u64..6, 0u64..1 << 12).prop_map(|(block, frame)| Action::Collapse { block, frame: frame << 9 }),
        2 => (page(), 0u64..1 << 30).prop_map(|(page, frame)| Action::Replace { page, frame }),
    ]
}

/// What is mapped: first page of each leaf → size, frame, writable.
type Model = BTreeMap<u64, (PageSize, u64, bool)>;

fn covering(model: &Model, page: u64) -> Option<(u64, (PageSize, u64, bool))> {
    model
        .range(..=page)
        .next_back()
        .filter(|(start, leaf)| page < *start + leaf.0.frames())
        .map(|(s, l)| (*s, *l))
}

fn overlapping(model: &Model, start: u64, end: u64) -> Vec<u64> {
    let mut found: Vec<u64> = model.range(start..end).map(|(s, _)| *s).collect();
    if let Some((s, _)) = covering(model, start)
        && s < start
    {
        found.insert(0, s);
    }
    found
}

struct Pair {
    world: World<HostPhys>,
    table: PageTable<Virt, Arena<HostPhys>>,
    model: Model,
}

impl Pair {
    fn new(levels: u8) -> Pair {
        let mut world = World::new();
        let table = world.table(levels);
        Pair { world, table, model: Model::new() }
    }

    /// Huge leaves that stick out of the range are split first, as kernels do.
    fn split_edges(&mut self, start: u64, end: u64) {
        for edge in [start, end] {
            while let Some((s, (size, ..))) = covering(&self.model, edge) {
                if s == edge || size == PageSize::Size4K {
                    break;
                }
                self.split(edge);
            }
        }
    }

    fn split(&mut self, page: u64) {
        let flush = self.table.split(&mut self.world.env(), Va::new(page << 12), NodeId(0)).unwrap();
        match covering(&self.model, page) {
            Some((start, (size, frame, write))) if size != PageSize::Size4K => {
                assert!(flush.is_some_and(|f| !f.is_empty()), "a split owes a flush");
                let lower = PageSize::from_level(size.level() - 1).unwrap();
                for i in 0..512 {
                    let step = i * lower.frames();
                    self.model.insert(start + step, (lower, frame + step, write));
                }
            }
            _ => assert!(flush.is_none(), "nothing to split at {page:#x}"),
        }
    }

    fn apply(&mut self, action: &Action) {
        match *action {
            Action::Map { page, size, frame } => {
                let got = self.table.map(
                    &mut self.world.env(),
                    Va::new(page << 12),
                    Frame::new(frame),
                    size,
                    Flags::WRITABLE | Flags::USER,
                    NodeId(0),
                    Visibility::Private,
                );
                let there = overlapping(&self.model, page, page + size.frames());
                match got {
                    Ok(()) => {
                        assert!(there.is_empty(), "mapped over {there:x?}");
                        self.model.insert(page, (size, frame, true));
                    }
                    Err(MapError::HugeInTheWay(in_way)) => {
                        assert!(
                            covering(&self.model, page).is_some_and(|(_, l)| l.0 == in_way && l.0 > size)
                        );
                    }
                    Err(MapError::Occupied(_)) => assert_eq!(self.model[&page].0, size),
                    // An empty table may be left where smaller pages once were.
                    Err(MapError::TableInTheWay) => assert!(size != PageSize::Size4K),
                    Err(other) => panic!("{other}"),
                }
            }
            Action::Unmap { page, pages } => {
                let end = page + pages;
                self.split_edges(page, end);
                let mut flush = Flush::none();
                self.table.unmap_range(&mut self.world.env(), page << 12..end << 12, &mut flush).unwrap();
                let gone = overlapping(&self.model, page, end);
                let mut called = false;
                let released = flush.discharge(|_, _| called = true);
                assert_eq!(called, !gone.is_empty() || !released.tables.is_empty());
                assert_eq!(released.gone.iter().map(|g| g.addr.page()).collect::<Vec<_>>(), gone);
                for leaf in &released.gone {
                    let (size, frame, _) = self.model.remove(&leaf.addr.page()).unwrap();
                    assert_eq!((leaf.size, leaf.frame().unwrap().number()), (size, frame));
                }
                self.table.free_tables(&mut self.world.env(), &released);
            }
            Action::Protect { page, pages, write } => {
                let end = page + pages;
                self.split_edges(page, end);
                let mut flush = Flush::none();
                let mut seen = Vec::new();
                let mut lost = false;
                self.table
                    .update_range(
                        &mut self.world.env(),
                        page << 12..end << 12,
                        Visibility::Private,
                        &mut flush,
                        &mut |leaf| {
                            seen.push(leaf.addr.page());
                            lost |= leaf.entry.has(Flags::WRITABLE) && !write;
                            if write {
                                leaf.entry.with(Flags::WRITABLE)
                            } else {
                                leaf.entry.without(Flags::WRITABLE)
                            }
                        },
                    )
                    .unwrap();
                assert_eq!(seen, overlapping(&self.model, page, end));
                assert_eq!(flush.is_empty(), !lost, "a flush is owed exactly when rights were lost");
                let _ = flush.discharge(|_, _| {});
                for start in seen {
                    self.model.get_mut(&start).unwrap().2 = write;
                }
            }
            Action::Split { page } => self.split(page),
            Action::Collapse { block, frame } => {
                let start = block * 512;
                let got = self.table.collapse(
                    &mut self.world.env(),
                    Va::new(start << 12),
                    Frame::new(frame),
                    PageSize::Size2M,
                    Flags::WRITABLE | Flags::USER,
                );
                if let Some(flush) = got.unwrap() {
                    let released = flush.discharge(|_, tables| assert!(tables));
                    assert_eq!(
                        released.gone.iter().map(|g| g.addr.page()).collect::<Vec<_>>(),
                        overlapping(&self.model, start, start + 512)
                    );
                    for gone in &released.gone {
                        self.model.remove(&gone.addr.page());
                    }
                    self.table.free_tables(&mut self.world.env(), &released);
                    self.model.insert(start, (PageSize::Size2M, frame, true));
                }
            }
            Action::Replace { page, frame } => {
                let entry = Entry::leaf(Hfn::new(frame), PageSize::Size4K, Flags::WRITABLE | Flags::USER);
                let got = self.table.replace(
                    &mut self.world.env(),
                    Va::new(page << 12),
                    PageSize::Size4K,
                    entry,
                    NodeId(0),
                    Visibility::Private,
                );
                match (got, covering(&self.model, page)) {
                    (Err(MapError::HugeInTheWay(size)), Some((_, leaf))) => assert_eq!(size, leaf.0),
                    (Ok(flush), old) => {
                        let released = flush.discharge(|_, _| {});
                        assert_eq!(
                            released.gone.first().map(|g| g.frame().unwrap().number()),
                            old.map(|(_, leaf)| leaf.1)
                        );
                        self.model.insert(page, (PageSize::Size4K, frame, true));
                    }
                    (got, old) => panic!("{got:?} over {old:?}"),
                }
            }
        }
    }

    fn check(&mut self) {
        let mut leaves = Vec::new();
        let end = self.table.end();
        self.table.scan(&mut self.world.env(), 0..end, &mut |leaf| {
            let frame = leaf.entry.leaf_frame::<HostPhys>(leaf.size).number();
            leaves.push((leaf.addr.page(), (leaf.size, frame, leaf.entry.has(Flags::WRITABLE))));
        });
        assert_eq!(leaves, self.model.iter().map(|(p, l)| (*p, *l)).collect::<Vec<_>>());
        // The walker agrees, at the first, a middle and the last byte of each leaf, and just beyond.
        let walk = Native {
            mem: &self.world.mem,
            root: self.table.root(),
            levels: self.table.levels(),
            frames: FRAMES,
        };
        for (page, (size, frame, write)) in &self.model {
            for offset in [0, size.bytes() / 2 + 8, size.bytes() - 1] {
                let va = Va::new((page << 12) + offset);
                let leaf = walk.walk(&mut Recorder::default(), va, Intent::READ).unwrap();
                assert_eq!((leaf.size, leaf.rights.write()), (*size, *write));
                assert_eq!(leaf.frame.number(), frame + (offset >> 12));
                assert_eq!(walk.peek(va), Some(leaf.frame.base().offset(offset & 4095)));
                assert_eq!(naive(&self.world.mem, self.table.root(), self.table.levels(), va), walk.peek(va));
            }
            let beyond = Va::new((page + size.frames()) << 12);
            let mapped = covering(&self.model, beyond.page()).is_some();
            assert_eq!(walk.walk(&mut Recorder::default(), beyond, Intent::READ).is_ok(), mapped);
        }
        // Every table page that is alive is linked and counted.
        assert_eq!(self.table.table_pages().iter().sum::<u64>(), self.world.frames.live);
        assert_eq!(self.world.mem.tables(), self.world.frames.live);
    }
}

/// A walker written from the manual with plain shifts, knowing none of the crate's own.
fn naive(mem: &Arena<HostPhys>, root: Hfn, levels: u8, va: Va) -> Option<Hpa> {
    let mut table = root.number() << 12;
    for level in (1..=u32::from(levels)).rev() {
        let index = va.raw() >> (12 + (level - 1) * 9) & 0x1ff;
        let raw = mem.load(Slot::new(Frame::new(table >> 12), index as usize)).bits();
        if raw & 1 == 0 {
            return None;
        }
        if level == 1 || raw & 0x80 != 0 {
            let low = (1u64 << (12 + (level - 1) * 9)) - 1;
            return Some(Hpa::new(raw & 0x000f_ffff_ffff_f000 & !low | va.raw() & low));
        }
        table = raw & 0x000f_ffff_ffff_f000;
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn tables_refine_a_map(five in any::<bool>(), actions in prop::collection::vec(action(), 0..60)) {
        let mut pair = Pair::new(if five { 5 } else { 4 });
        for action in &actions {
            pair.apply(action);
        }
        pair.check();
        let Pair { mut world, table, model } = pair;
        let mut left = 0;
        table.destroy(&mut world.env(), || {}, &mut |_| left += 1).unwrap();
        prop_assert_eq!(left, model.len());
        prop_assert_eq!(world.frames.live, 0);
        prop_assert_eq!(world.mem.tables(), 0);
    }
}

#[test]
fn fork_copies_what_the_closure_says() {
    let mut world = World::<HostPhys>::new();
    let mut parent: PageTable<Virt, _> = world.table(4);
    let mut child: PageTable<Virt, _> = world.table(4);
    for page in 0..700 {
        world.map(&mut parent, page << 12, 1000 + page, PageSize::Size4K);
    }
    let mut flush = Flush::none();
    let read_only = Flags::WRITABLE;
    parent
        .fork_range(
            &mut world.env(),
            &mut child,
            0..600 << 12,
            Visibility::Private,
            &mut flush,
            &mut |leaf| {
                let shared = leaf.entry.without(read_only).with(Flags::COW);
                Forked { parent: shared, child: shared }
            },
        )
        .unwrap();
    assert!(!flush.is_empty(), "the parent lost its right to write");
    let _ = flush.discharge(|extent, _| assert!(matches!(extent, Extent::Ranges(r) if r.len() == 1)));
    for page in [0, 599, 600] {
        let forked = page < 600;
        let (p, c) = (
            parent.lookup(&mut world.env(), Va::new(page << 12)),
            child.lookup(&mut world.env(), Va::new(page << 12)),
        );
        assert_eq!(p.entry.has(Flags::COW), forked);
        assert_eq!(c.frame().is_some(), forked);
        if forked {
            assert_eq!(p.frame(), c.frame());
        }
    }
}
