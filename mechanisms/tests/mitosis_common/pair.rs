//! A table with copies beside its model, and the actions of kernels and
//! hardware that both go through.

use super::*;
use mechanisms::mitosis::{Lazy, Place, Replicated, nodes};
use proptest::prelude::*;

#[derive(Clone, Debug)]
pub enum Action {
    Map {
        page: u64,
        size: PageSize,
        frame: u64,
        node: u8,
    },
    Populate {
        page: u64,
        pages: u64,
        node: u8,
    },
    Unmap {
        page: u64,
        pages: u64,
        node: u8,
    },
    Protect {
        page: u64,
        pages: u64,
        write: bool,
        node: u8,
    },
    Age {
        page: u64,
        pages: u64,
        node: u8,
    },
    Hide {
        page: u64,
        pages: u64,
        hide: bool,
    },
    Split {
        page: u64,
        node: u8,
    },
    Collapse {
        block: u64,
        frame: u64,
    },
    Replace {
        page: u64,
        frame: u64,
        node: u8,
    },
    Clean {
        page: u64,
    },
    /// CPUs of these nodes run the program, and no others.
    Run {
        nodes: u8,
    },
    Access {
        page: u64,
        write: bool,
        node: u8,
    },
    Fork {
        page: u64,
        pages: u64,
        nodes: u8,
    },
    Replicate {
        nodes: u8,
        stale: Vec<Stale>,
        fail_after: Option<usize>,
    },
    Rebalance {
        stale: Vec<Stale>,
    },
}

/// An access (page, store, node) of a walker that is still in the old tree when
/// the trees have changed and the flush is not paid for.
pub type Stale = (u64, bool, u8);

fn page() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0u64..48, 4 => 0u64..1200, 2 => 0u64..(1 << 19), 1 => (1u64 << 35) - 300..(1u64 << 35) + 300]
}

fn stale() -> impl Strategy<Value = Vec<Stale>> {
    prop::collection::vec((0u64..1200, any::<bool>(), 0u8..4), 0..6)
}

pub fn action() -> impl Strategy<Value = Action> {
    let node = 0u8..4;
    let size =
        prop_oneof![8 => Just(PageSize::Size4K), 3 => Just(PageSize::Size2M), 1 => Just(PageSize::Size1G)];
    let pages = || prop_oneof![Just(1u64), 1u64..600];
    prop_oneof![
        8 => (page(), size, 0u64..1 << 10, 0u64..4, node.clone()).prop_map(|(page, size, frame, on, node)| {
            let frame = on * PER_NODE + PER_NODE / 2 + (frame << 9 & (PER_NODE / 2 - 1));
            let frame = frame & !(size.frames() - 1) | if size == PageSize::Size4K { page & 511 } else { 0 };
            Action::Map { page: page & !(size.frames() - 1), size, frame, node }
        }),
        3 => (page(), 1u64..40, node.clone())
            .prop_map(|(page, pages, node)| Action::Populate { page, pages, node }),
        3 => (page(), pages(), node.clone()).prop_map(|(page, pages, node)| Action::Unmap { page, pages, node }),
        2 => (page(), pages(), any::<bool>(), node.clone()).prop_map(|(page, pages, write, node)| Action::Protect { page, pages, write, node }),
        1 => (page(), pages(), node.clone()).prop_map(|(page, pages, node)| Action::Age { page, pages, node }),
        1 => (page(), pages(), any::<bool>()).prop_map(|(page, pages, hide)| Action::Hide { page, pages, hide }),
        2 => (page(), node.clone()).prop_map(|(page, node)| Action::Split { page, node }),
        1 => (0u64..3, 0u64..FRAMES >> 9).prop_map(|(block, frame)| Action::Collapse { block, frame: frame << 9 }),
        2 => (page(), 0u64..FRAMES, node.clone()).prop_map(|(page, frame, node)| Action::Replace { page, frame, node }),
        1 => page().prop_map(|page| Action::Clean { page }),
        10 => (prop_oneof![0u64..64, page()], any::<bool>(), node).prop_map(|(page, write, node)| Action::Access { page, write, node }),
        1 => (1u8..16).prop_map(|nodes| Action::Run { nodes }),
        1 => (page(), pages(), 0u8..16).prop_map(|(page, pages, nodes)| Action::Fork { page, pages, nodes }),
        3 => (0u8..16, stale(), prop_oneof![4 => Just(None), 1 => (0usize..12).prop_map(Some)])
            .prop_map(|(nodes, stale, fail_after)| Action::Replicate { nodes, stale, fail_after }),
        2 => stale().prop_map(|stale| Action::Rebalance { stale }),
    ]
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Eager { follow: bool, place: Place },
    Lazy { order: u32 },
}

impl Kind {
    fn ops(self, nodes: NodeSet) -> Box<dyn TableOps<Virt, Arena<HostPhys>>> {
        match self {
            Kind::Eager { follow: false, place } => Box::new(Replicated::new(nodes).placed(place)),
            Kind::Eager { follow: true, place } => Box::new(Replicated::new(nodes).placed(place).following()),
            Kind::Lazy { order } => Box::new(Lazy::new(nodes, order)),
        }
    }
}

pub struct Pair {
    pub kind: Kind,
    /// What each node's CPUs have cached: frame, and whether stores are allowed.
    pub tlb: BTreeMap<(u8, u64), (u64, bool)>,
    pub world: World,
    pub table: Table,
    pub model: Model,
    pub nodes: NodeSet,
    pub running: NodeSet,
    /// Whether some node may have run out of pages, so that a copy may lie elsewhere.
    pub tight: bool,
}

const RW: Flags = Flags::WRITABLE.with(Flags::USER);

impl Pair {
    pub fn new(start: u8, kind: Kind, left: [usize; NODES]) -> Pair {
        let mut world = World::new(left);
        let nodes = NodeSet(start);
        let table = Table::new(kind.ops(nodes), &mut world.env(NodeId(1)), 4, NodeId(1)).unwrap();
        let tight = left.iter().any(|&pages| pages < 1000);
        Pair {
            kind,
            tlb: BTreeMap::new(),
            world,
            table,
            model: Model::new(),
            nodes,
            running: NodeSet::ALL,
            tight,
        }
    }

    fn is_lazy(&self) -> bool {
        matches!(self.kind, Kind::Lazy { .. })
    }

    fn split_edges(&mut self, start: u64, end: u64) {
        for edge in [start, end] {
            while let Some((s, leaf)) = covering(&self.model, edge) {
                if s == edge || leaf.size == PageSize::Size4K {
                    break;
                }
                self.split(edge, 0);
            }
        }
    }

    fn split(&mut self, page: u64, node: u8) {
        let node = NodeId(node);
        let flush = self.table.split(&mut self.world.env(node), Va::new(page << 12), node).unwrap();
        match covering(&self.model, page) {
            Some((start, leaf)) if leaf.size != PageSize::Size4K => {
                let _ = self.pay(flush.expect("a split owes a flush"));
                let size = PageSize::from_level(leaf.size.level() - 1).unwrap();
                for i in 0..512 {
                    let step = i * size.frames();
                    self.model.insert(start + step, Mapped { size, frame: leaf.frame + step, ..leaf });
                }
            }
            _ => assert!(flush.is_none(), "nothing to split at {page:#x}"),
        }
    }

    /// A walk of `node`'s CPU, which has `root` loaded; after a fault its own root.
    pub fn access(&mut self, root: Hfn, page: u64, write: bool, node: u8) {
        if !self.running.contains(NodeId(node)) {
            return;
        }
        let levels = self.table.levels();
        let mut got = walk(&self.world.mem, root, levels, page, write);
        if got.is_err() && self.is_lazy() {
            let node = NodeId(node);
            self.table.fault_in(&mut self.world.env(node), Va::new(page << 12), node).unwrap();
            let repaired = walk(&self.world.mem, self.table.hardware_root(node), levels, page, write);
            if repaired.is_ok() {
                let again =
                    self.table.fault_in(&mut self.world.env(node), Va::new(page << 12), node).unwrap();
                assert!(!again, "a complete replica needs no repair");
            }
            got = repaired;
        }
        match covering(&self.model, page) {
            Some((start, leaf)) if !leaf.hidden && (leaf.write || !write) => {
                let got = got.unwrap_or_else(|fault| panic!("{fault:?} at {page:#x}, which maps {leaf:x?}"));
                assert_eq!((got.frame.number(), got.size), (leaf.frame + page - start, leaf.size));
                self.tlb.insert((node, page), (got.frame.number(), got.rights.write()));
                let leaf = self.model.get_mut(&start).unwrap();
                leaf.accessed = true;
                leaf.dirty |= write;
            }
            other => assert!(got.is_err(), "{page:#x} translates to {got:x?}, but the model has {other:x?}"),
        }
    }

    /// Walkers that cached the tables on the way before `flush` was owed.
    fn stale_accesses(&mut self, roots: [Hfn; NODES], accesses: &[Stale]) {
        for &(page, write, node) in accesses {
            self.access(roots[usize::from(node)], page, write, node);
        }
    }

    /// Makes the shootdown on the nodes that the flush names, and on no other.
    pub fn pay(&mut self, flush: Flush<Virt, HostPhys>) -> Released<Virt, HostPhys> {
        let nodes = flush.nodes();
        let tlb = &mut self.tlb;
        let released = flush.discharge(|extent, _| {
            tlb.retain(|&(node, page), _| {
                let hit = match extent {
                    Extent::Nothing => false,
                    Extent::All => true,
                    Extent::Ranges(ranges) => {
                        ranges.iter().any(|r| (r.start.raw()..r.start.raw() + r.len).contains(&(page << 12)))
                    }
                };
                !(hit && nodes.contains(NodeId(node)))
            });
        });
        self.table.free_tables(&mut self.world.env(NodeId(0)), &released);
        released
    }

    fn roots(&self) -> [Hfn; NODES] {
        core::array::from_fn(|n| self.table.hardware_root(NodeId(n as u8)))
    }

    fn update(
        &mut self,
        page: u64,
        pages: u64,
        node: u8,
        change: impl Fn(Mapped) -> Mapped,
        bits: impl Fn(Entry) -> Entry,
    ) {
        let end = page + pages;
        self.split_edges(page, end);
        let mut flush = Flush::none();
        let mut seen = Vec::new();
        self.table
            .update_range(
                &mut self.world.env(NodeId(node)),
                page << 12..end << 12,
                Visibility::Private,
                &mut flush,
                &mut |leaf| {
                    seen.push((leaf.addr.page(), Mapped::of(&leaf)));
                    bits(leaf.entry)
                },
            )
            .unwrap();
        let want = overlapping(&self.model, page, end);
        assert_eq!(seen, want.iter().map(|p| (*p, self.model[p])).collect::<Vec<_>>());
        for start in want {
            let leaf = self.model.get_mut(&start).unwrap();
            *leaf = change(*leaf);
        }
        let _ = self.pay(flush);
    }

    pub fn apply(&mut self, action: &Action) {
        match *action {
            Action::Map { page, size, frame, node } => {
                let node = NodeId(node);
                let env = &mut self.world.env(node);
                let va = Va::new(page << 12);
                let got = self.table.map(env, va, Frame::new(frame), size, RW, node, Visibility::Private);
                let there = overlapping(&self.model, page, page + size.frames());
                match got {
                    Ok(()) => {
                        assert!(there.is_empty(), "mapped over {there:x?}");
                        let fresh =
                            Mapped { size, frame, write: true, hidden: false, accessed: false, dirty: false };
                        self.model.insert(page, fresh);
                    }
                    Err(MapError::TableInTheWay) => assert!(size != PageSize::Size4K),
                    Err(MapError::HugeInTheWay(_) | MapError::Occupied(_)) => assert!(!there.is_empty()),
                    Err(other) => panic!("{other}"),
                }
            }
            Action::Populate { page, pages, node } => {
                for page in page..page + pages {
                    let frame = u64::from(node) * PER_NODE + PER_NODE / 2 + (page & 0xffff);
                    self.apply(&Action::Map { page, size: PageSize::Size4K, frame, node });
                }
            }
            Action::Unmap { page, pages, node } => {
                let end = page + pages;
                self.split_edges(page, end);
                let mut flush = Flush::none();
                self.table
                    .unmap_range(&mut self.world.env(NodeId(node)), page << 12..end << 12, &mut flush)
                    .unwrap();
                let released = self.pay(flush);
                let gone: Vec<_> =
                    released.gone.iter().map(|g| (g.addr.page(), Mapped::from(g.size, g.entry))).collect();
                let want = overlapping(&self.model, page, end);
                assert_eq!(gone, want.iter().map(|p| (*p, self.model[p])).collect::<Vec<_>>());
                for start in want {
                    self.model.remove(&start);
                }
            }
            Action::Protect { page, pages, write, node } => self.update(
                page,
                pages,
                node,
                |leaf| Mapped { write: if leaf.hidden { leaf.write } else { write }, ..leaf },
                |entry| match (entry.is_prot_none(), write) {
                    (true, _) => entry,
                    (false, true) => entry.with(Flags::WRITABLE),
                    (false, false) => entry.without(Flags::WRITABLE),
                },
            ),
            Action::Age { page, pages, node } => self.update(
                page,
                pages,
                node,
                |leaf| Mapped { accessed: false, ..leaf },
                |entry| entry.without(Flags::ACCESSED),
            ),
            Action::Hide { page, pages, hide } => self.update(
                page,
                pages,
                0,
                |leaf| Mapped { hidden: hide, ..leaf },
                |entry| match (entry.is_prot_none(), hide) {
                    (false, true) => entry.to_prot_none(),
                    (true, false) => entry.from_prot_none(),
                    _ => entry,
                },
            ),
            Action::Split { page, node } => self.split(page, node),
            Action::Collapse { block, frame } => {
                let start = block * 512;
                let va = Va::new(start << 12);
                let env = &mut self.world.env(NodeId(2));
                let got = self.table.collapse(env, va, Frame::new(frame), PageSize::Size2M, RW);
                if let Some(flush) = got.unwrap() {
                    let released = self.pay(flush);
                    let gone: Vec<_> = released
                        .gone
                        .iter()
                        .map(|g| (g.addr.page(), Mapped::from(g.size, g.entry)))
                        .collect();
                    let want = overlapping(&self.model, start, start + 512);
                    assert_eq!(gone, want.iter().map(|p| (*p, self.model[p])).collect::<Vec<_>>());
                    for start in want {
                        self.model.remove(&start);
                    }
                    let size = PageSize::Size2M;
                    let leaf =
                        Mapped { size, frame, write: true, hidden: false, accessed: false, dirty: false };
                    self.model.insert(start, leaf);
                }
            }
            Action::Replace { page, frame, node } => {
                let entry = Entry::leaf(Hfn::new(frame), PageSize::Size4K, RW);
                let env = &mut self.world.env(NodeId(node));
                let va = Va::new(page << 12);
                let got =
                    self.table.replace(env, va, PageSize::Size4K, entry, NodeId(node), Visibility::Private);
                let old = covering(&self.model, page);
                match got {
                    Ok(flush) => {
                        let released = self.pay(flush);
                        let gone = released.gone.first().map(|g| Mapped::from(g.size, g.entry));
                        assert_eq!(gone, old.map(|(_, leaf)| leaf));
                        self.model.insert(page, Mapped::from(PageSize::Size4K, entry));
                    }
                    Err(MapError::HugeInTheWay(_)) => assert!(old.is_some()),
                    Err(other) => panic!("{other}"),
                }
            }
            Action::Clean { page } => {
                let env = &mut self.world.env(NodeId(3));
                let va = Va::new(page << 12);
                let got =
                    self.table.set_flags(env, va, Flags::NONE, Flags::DIRTY, Visibility::Private).unwrap();
                let old = covering(&self.model, page).filter(|(_, leaf)| !leaf.hidden);
                assert_eq!(got.map(|e| e.has(Flags::DIRTY)), old.map(|(_, leaf)| leaf.dirty));
                if let Some((start, _)) = old {
                    self.model.get_mut(&start).unwrap().dirty = false;
                }
            }
            Action::Run { nodes } => {
                self.running = NodeSet(nodes);
                self.table.walked_by(self.running);
            }
            Action::Access { page, write, node } => {
                let root = self.table.hardware_root(NodeId(node));
                self.access(root, page, write, node);
            }
            Action::Fork { page, pages, nodes } => self.fork(page, page + pages, NodeSet(nodes)),
            Action::Replicate { nodes, ref stale, fail_after } => {
                let old = self.roots();
                let left = self.world.pool.left;
                if let Some(pages) = fail_after {
                    self.world.pool.left = [pages, 0, 0, 0];
                }
                let mut flush = Flush::none();
                let got = self.table.replicate(&mut self.world.env(NodeId(0)), NodeSet(nodes), &mut flush);
                if let Some(pages) = fail_after {
                    let taken = pages - self.world.pool.left[0];
                    self.world.pool.left = left;
                    self.world.pool.left[0] -= taken;
                    self.tight = true;
                }
                match got {
                    Ok(now) => {
                        assert_eq!(now, NodeSet(nodes));
                        self.nodes = now;
                    }
                    Err(_) => assert!(fail_after.is_some()),
                }
                self.stale_accesses(old, stale);
                assert!(self.pay(flush).gone.is_empty());
            }
            Action::Rebalance { ref stale } => {
                let old = self.roots();
                let mut flush = Flush::none();
                let moved = self.table.rebalance(&mut self.world.env(NodeId(0)), &mut flush);
                assert_eq!(moved == 0, flush.is_empty());
                self.stale_accesses(old, stale);
                assert!(self.pay(flush).gone.is_empty());
            }
        }
    }

    fn fork(&mut self, start: u64, end: u64, nodes: NodeSet) {
        self.split_edges(start, end);
        let ops = self.kind.ops(nodes);
        let mut child = Table::new(ops, &mut self.world.env(NodeId(2)), 4, NodeId(2)).unwrap();
        let mut flush = Flush::none();
        self.table
            .fork_range(
                &mut self.world.env(NodeId(2)),
                &mut child,
                start << 12..end << 12,
                Visibility::Private,
                &mut flush,
                &mut |leaf| {
                    let shared = if leaf.entry.is_prot_none() {
                        leaf.entry
                    } else {
                        leaf.entry.without(Flags::WRITABLE)
                    };
                    Forked { parent: shared, child: shared }
                },
            )
            .unwrap();
        let _ = self.pay(flush);
        let mut want = Model::new();
        for page in overlapping(&self.model, start, end) {
            let leaf = self.model.get_mut(&page).unwrap();
            leaf.write &= leaf.hidden;
            want.insert(page, *leaf);
        }
        let mut got = Model::new();
        child.scan(&mut self.world.env(NodeId(0)), 0..child.end(), &mut |leaf| {
            got.insert(leaf.addr.page(), Mapped::of(&leaf));
        });
        assert_eq!(got, want);
        audit(&self.world, child.root(), 4, self.is_lazy(), &mut Audit::default());
        let mut gone = 0;
        child.destroy(&mut self.world.env(NodeId(1)), || {}, &mut |_| gone += 1).unwrap();
        assert_eq!(gone, want.len());
    }

    pub fn check(&mut self) {
        for node in 0..NODES as u8 {
            let mut leaves = Model::new();
            self.table.scan(&mut self.world.env(NodeId(node)), 0..self.table.end(), &mut |leaf| {
                leaves.insert(leaf.addr.page(), Mapped::of(&leaf));
            });
            assert_eq!(leaves, self.model, "as software on node {node} reads it");
        }
        // Every copy agrees, and is owned exactly once.
        let mut found = Audit::default();
        audit(&self.world, self.table.root(), 4, self.is_lazy(), &mut found);
        assert_eq!(found.frames, self.world.pool.out);
        assert_eq!(found.tables, self.table.table_pages().iter().sum::<u64>());
        for &frame in &found.frames {
            let frame = Hfn::new(frame);
            let have = nodes(&self.world.mem, frame);
            match self.kind {
                Kind::Eager { .. } => assert_eq!(have, self.nodes),
                Kind::Lazy { .. } => assert!(have.minus(self.nodes).is_empty()),
            }
            if self.nodes.is_empty() && matches!(self.kind, Kind::Eager { follow: true, .. }) {
                self.check_counters(frame);
            }
        }
        if !self.is_lazy() {
            assert_eq!(found.frames.len() as u64, found.tables * self.nodes.len().max(1) as u64);
        }
        // Nobody has cached what is not so any more.
        for (&(node, page), &(frame, write)) in &self.tlb {
            let now = covering(&self.model, page).filter(|(_, leaf)| !leaf.hidden);
            let Some((start, leaf)) = now else { panic!("node {node} still has {page:#x} -> {frame:#x}") };
            assert_eq!(leaf.frame + page - start, frame, "node {node} has an old frame for {page:#x}");
            assert!(leaf.write || !write, "node {node} may still write {page:#x}");
        }
        // The walk on a node touches only tables of the node.
        for (&page, leaf) in &self.model {
            for node in (0..NODES as u8).map(NodeId) {
                let root = self.table.hardware_root(node);
                let (tables, last) =
                    path(&self.world.mem, root, self.table.levels(), page + leaf.size.frames() - 1);
                match last {
                    Some((_, entry)) => assert_eq!(Mapped::from(leaf.size, entry).frame, leaf.frame),
                    None => assert!(self.is_lazy() && self.nodes.contains(node)),
                }
                if self.nodes.contains(node) {
                    for table in tables {
                        assert_eq!(role(&self.world.mem, table), Role::Node(node));
                        assert!(self.tight || self.world.pool.node_of(table) == node);
                    }
                }
            }
        }
    }

    fn check_counters(&self, table: Hfn) {
        let mut want = [0u16; 8];
        for index in 0..ENTRIES {
            let entry = self.world.mem.load(Slot::new(table, index));
            if entry.is_present() || entry.is_prot_none() {
                want[self.world.pool.node_of(entry.frame()).index()] += 1;
            }
        }
        assert_eq!(self.world.mem.descriptor(table).unwrap().points_to, want);
    }

    pub fn destroy(self) {
        let Pair { mut world, table, model, .. } = self;
        let mut left = Model::new();
        table
            .destroy(&mut world.env(NodeId(3)), || {}, &mut |g| {
                left.insert(g.addr.page(), Mapped::from(g.size, g.entry));
            })
            .unwrap();
        assert_eq!(left, model);
        assert!(world.pool.out.is_empty(), "table pages left: {:x?}", world.pool.out);
        assert_eq!(world.mem.tables(), 0);
    }
}
