//! Single cases: what the papers say of placement and cost, and the faults that
//! a later re-implementation of Mitosis recorded.

mod mitosis_common;
use mechanisms::mitosis::{DataKind, Dump, Lazy, Place, Replicated, Role, TablePages, nodes, role, serving};
use mitosis_common::pair::*;
use mitosis_common::*;
use paging::*;

const RW: Flags = Flags::WRITABLE.with(Flags::USER);
const PLENTY: [usize; NODES] = [100_000; NODES];

fn eager(nodes: &[u8]) -> Pair {
    let kind = Kind::Eager { follow: false, place: Place::FirstTouch };
    Pair::new(set(nodes).0, kind, PLENTY)
}

/// Frame of the table of `level` on the way to `page`, as walked from `node`.
fn table_at(pair: &Pair, node: u8, page: u64, level: u8) -> Hfn {
    let (tables, _) = path(&pair.world.mem, pair.table.hardware_root(NodeId(node)), 4, page);
    tables[usize::from(4 - level)]
}

#[test]
fn the_mask_is_honoured_and_the_master_is_one_of_the_copies() {
    let mut pair = eager(&[0, 2]);
    pair.apply(&Action::Populate { page: 0, pages: 40, node: 3 });
    pair.check();
    // Four levels, two copies of each, no third one for a master.
    assert_eq!(pair.world.pool.out.len(), 8);
    for level in 1..=4 {
        assert_eq!(pair.world.pool.node_of(table_at(&pair, 2, 7, level)), NodeId(2));
        assert_eq!(
            table_at(&pair, 3, 7, level),
            table_at(&pair, 0, 7, level),
            "nodes without a copy share one"
        );
    }
}

#[test]
fn a_leaf_is_written_once_for_each_copy() {
    for (nodes, copies) in [(&[][..], 1), (&[0, 1, 2, 3][..], 4)] {
        let mut pair = eager(nodes);
        pair.apply(&Action::Populate { page: 0, pages: 1, node: 1 });
        pair.world.work = Work::default();
        pair.apply(&Action::Populate { page: 1, pages: 100, node: 1 });
        let work = pair.world.work;
        assert_eq!(work.table_writes.iter().sum::<u32>(), 100 * copies);
        assert_eq!(work.table_writes[1], 100, "the CPU's own node has one copy");
        // Protecting 96 pages is one pass of 12 lines over each copy (pages 8-103).
        pair.apply(&Action::Populate { page: 101, pages: 20, node: 1 });
        pair.world.work = Work::default();
        pair.apply(&Action::Protect { page: 8, pages: 96, write: false, node: 1 });
        let work = pair.world.work;
        assert_eq!(work.pass_lines.iter().sum::<u32>(), 12 * copies);
        assert_eq!(work.pass_writes.iter().sum::<u32>(), 96 * copies);
        assert_eq!(work.table_writes.iter().sum::<u32>(), 0);
        assert_eq!(work.table_reads, [0, 3, 0, 0, 0, 0, 0, 0], "software goes down its own node's tree");
    }
}

#[test]
fn reading_an_inner_entry_does_not_mix_frames() {
    let mut pair = eager(&[0, 1, 2, 3]);
    pair.apply(&Action::Populate { page: 5, pages: 1, node: 0 });
    pair.apply(&Action::Access { page: 5, write: true, node: 3 });
    for node in 0..4 {
        let slot = Slot::new(table_at(&pair, node, 5, 2), 0);
        let child = table_at(&pair, node, 5, 1);
        let entry = pair.table.ops().read(&mut pair.world.env(NodeId(node)), slot, 2);
        assert_eq!(entry.frame::<HostPhys>(), child);
        assert!(entry.has(Flags::ACCESSED) && !entry.has(Flags::DIRTY));
    }
}

#[test]
fn new_copies_are_old_for_their_own_node() {
    let mut pair = eager(&[]);
    pair.apply(&Action::Populate { page: 0, pages: 1, node: 1 });
    pair.apply(&Action::Access { page: 0, write: true, node: 1 });
    pair.apply(&Action::Replicate { nodes: 0b1111, stale: vec![], fail_after: None });
    pair.check();
    let bits = |pair: &Pair, node| pair.world.mem.load(Slot::new(table_at(pair, node, 0, 1), 0)).flags();
    assert!(bits(&pair, 1).contains(Flags::ACCESSED | Flags::DIRTY));
    assert!(!bits(&pair, 2).contains(Flags::ACCESSED));
}

#[test]
fn copies_of_a_collapsed_table_stay_until_the_flush() {
    let mut pair = eager(&[0, 1, 2, 3]);
    pair.apply(&Action::Populate { page: 0, pages: 512, node: 0 });
    let leaves: Vec<u64> = (0..4).map(|n| table_at(&pair, n, 0, 1).number()).collect();
    let env = &mut pair.world.env(NodeId(0));
    let flush =
        pair.table.collapse(env, Va::new(0), Hfn::new(512), PageSize::Size2M, Flags::USER).unwrap().unwrap();
    assert!(leaves.iter().all(|f| pair.world.pool.out.contains(f)));
    let released = pair.pay(flush);
    assert_eq!(released.gone.len(), 512);
    assert!(leaves.iter().all(|f| !pair.world.pool.out.contains(f)));
}

#[test]
fn a_freed_page_forgets_its_ring() {
    let mut pair = eager(&[0, 1, 2, 3]);
    pair.apply(&Action::Populate { page: 0, pages: 1, node: 0 });
    let frame = table_at(&pair, 0, 0, 1);
    pair.apply(&Action::Unmap { page: 0, pages: 1, node: 0 });
    assert_eq!(pair.world.mem.descriptor(frame), None);
    pair.world.mem.create(frame);
    assert_eq!(pair.world.mem.descriptor(frame), Some(&Descriptor::default()));
}

#[test]
fn a_table_may_go_before_its_retired_copies_are_paid_for() {
    let mut pair = eager(&[0, 1, 2, 3]);
    pair.apply(&Action::Populate { page: 0, pages: 4, node: 0 });
    let mut late = Flush::none();
    pair.table.replicate(&mut pair.world.env(NodeId(0)), set(&[1]), &mut late).unwrap();
    pair.nodes = set(&[1]);
    pair.apply(&Action::Unmap { page: 0, pages: 4, node: 0 });
    // New tables must not get the frames that walkers may still be in.
    pair.apply(&Action::Populate { page: 0, pages: 4, node: 0 });
    let released = pair.pay(late);
    assert_eq!(released.tables.len(), 12, "three copies on each of four levels");
    pair.check();
    pair.destroy();
}

#[test]
fn a_lack_of_frames_leaves_the_trees_as_they_were() {
    let mut pair = eager(&[]);
    pair.apply(&Action::Populate { page: 0, pages: 4, node: 2 });
    let (root, used) = (pair.table.hardware_root(NodeId(0)), pair.world.pool.out.clone());
    for pages in 0..12 {
        pair.apply(&Action::Replicate { nodes: 0b1111, stale: vec![(1, true, 3)], fail_after: Some(pages) });
        assert!(pair.nodes.is_empty());
        pair.check();
    }
    assert_eq!((pair.table.hardware_root(NodeId(0)), &pair.world.pool.out), (root, &used));
    pair.destroy();
}

#[test]
fn a_full_node_gets_its_copies_elsewhere_and_takes_them_home_later() {
    let kind = Kind::Eager { follow: false, place: Place::FirstTouch };
    let mut pair = Pair::new(0b1111, kind, [1000, 1000, 1, 1000]);
    pair.apply(&Action::Populate { page: 0, pages: 4, node: 0 });
    assert_eq!(pair.world.work.tables_misplaced, 3, "the root had the last page of node 2");
    pair.check();
    pair.world.pool.left[2] = 1000;
    pair.apply(&Action::Rebalance { stale: vec![(2, true, 2), (3, false, 1)] });
    pair.tight = false;
    pair.check();
    pair.destroy();
}

#[test]
fn tables_follow_a_program_that_moved() {
    // RP-LD: the program and its data went from node 0 to node 1, the tables did not.
    let kind = Kind::Eager { follow: true, place: Place::FirstTouch };
    let mut pair = Pair::new(0, kind, PLENTY);
    for page in 0..1100 {
        pair.apply(&Action::Map { page, size: PageSize::Size4K, frame: 1000 + page, node: 0 });
    }
    let moves = |pair: &mut Pair, pages: core::ops::Range<u64>| {
        for page in pages {
            pair.apply(&Action::Replace { page, frame: PER_NODE + 5000 + page, node: 1 });
        }
    };
    // The root was made on node 1, and has one entry.
    pair.apply(&Action::Rebalance { stale: vec![] });
    // 256 of 512 is no majority; with one more the leaf table goes, and its parents stay.
    moves(&mut pair, 0..256);
    assert_eq!(pair.table.rebalance(&mut pair.world.env(NodeId(0)), &mut Flush::none()), 0);
    moves(&mut pair, 256..257);
    let mut flush = Flush::none();
    assert_eq!(pair.table.rebalance(&mut pair.world.env(NodeId(0)), &mut flush), 1);
    pair.pay(flush);
    pair.check();
    moves(&mut pair, 257..1100);
    pair.apply(&Action::Rebalance { stale: vec![(3, true, 1), (600, true, 0)] });
    pair.check();
    let walked = (1..=4).map(|level| pair.world.pool.node_of(table_at(&pair, 1, 700, level)));
    assert!(walked.into_iter().all(|node| node == NodeId(1)), "from the leaves up to the root");
    // Two of three children were a majority for their parent.
    assert!(pair.world.pool.out.iter().all(|&f| pair.world.pool.node_of(Hfn::new(f)) == NodeId(1)));
    pair.destroy();
}

#[test]
fn switching_off_leaves_the_copy_that_the_data_is_near_to() {
    let mut pair = eager(&[0, 1, 2, 3]);
    pair.apply(&Action::Populate { page: 0, pages: 300, node: 2 });
    pair.apply(&Action::Populate { page: 1 << 20, pages: 300, node: 3 });
    pair.apply(&Action::Replicate { nodes: 0, stale: vec![(5, true, 1), (5, false, 2)], fail_after: None });
    pair.check();
    assert_eq!(pair.world.pool.node_of(table_at(&pair, 0, 5, 1)), NodeId(2));
    assert_eq!(pair.world.pool.node_of(table_at(&pair, 0, 1 << 20, 1)), NodeId(3));
    pair.destroy();
}

#[test]
fn shared_tables_keep_their_copies() {
    let mut pair = eager(&[0, 1, 2, 3]);
    pair.apply(&Action::Populate { page: 0, pages: 4, node: 0 });
    let leaf = table_at(&pair, 0, 0, 1);
    pair.world.mem.descriptor_mut(leaf).unwrap().users = 1;
    let mut flush = Flush::none();
    pair.table.replicate(&mut pair.world.env(NodeId(0)), set(&[]), &mut flush).unwrap();
    assert_eq!(pair.pay(flush).tables.len(), 9, "three of four on the three levels above");
    assert_eq!(nodes(&pair.world.mem, leaf), set(&[0, 1, 2, 3]));
}

#[test]
fn the_cache_is_bounded_and_never_panics() {
    let mut pool = Pool::new([20, 0, 5, 20]);
    let mut cache = TablePages::new(8);
    let taken = cache.populate(&mut pool, set(&[0, 1, 2]), 100);
    assert_eq!((taken, cache.held(NodeId(0)), cache.held(NodeId(1)), cache.held(NodeId(2))), (13, 8, 0, 5));
    pool.left[3] = 0;
    pool.left[0] = 0;
    let mut cached = cache.over(&mut pool);
    assert!(cached.alloc_table(NodeId(1), true).is_err(), "strict means strict");
    let frames: Vec<Hfn> = (0..13).map(|_| cached.alloc_table(NodeId(1), false).unwrap()).collect();
    assert!(cached.alloc_table(NodeId(1), false).is_err(), "and then nothing is left");
    assert_eq!(frames.iter().filter(|&&f| cached.node_of(f) == NodeId(0)).count(), 8);
    frames.into_iter().for_each(|f| cached.free_table(f));
    pool.left[0] = 2;
    let mut cached = cache.over(&mut pool);
    let more: Vec<Hfn> = (0..10).map(|_| cached.alloc_table(NodeId(0), true).unwrap()).collect();
    more.into_iter().for_each(|f| cached.free_table(f));
    let stats = cache.stats(NodeId(0));
    assert_eq!((stats.high_water, stats.hits, stats.misses, stats.overflows), (8, 8, 2, 2));
    cache.drain(&mut pool);
    assert!(pool.out.is_empty());
}

#[test]
fn an_owner_walks_the_masters_leaves_and_others_fill_theirs() {
    let mut pair = Pair::new(0b1111, Kind::Lazy { order: 3 }, PLENTY);
    pair.apply(&Action::Populate { page: 0, pages: 32, node: 2 });
    pair.apply(&Action::Access { page: 0, write: true, node: 2 });
    let master = table_at(&pair, 2, 0, 1);
    assert_eq!(role(&pair.world.mem, master), Role::Node(NodeId(2)));
    let sharers = |pair: &Pair| pair.table.ops_ref().sharers(&pair.world.mem, master);
    assert_eq!(sharers(&pair).iter().filter(|n| n.0 < 4).collect::<Vec<_>>(), [NodeId(2)]);
    pair.apply(&Action::Access { page: 9, write: false, node: 0 });
    let copy = serving(&pair.world.mem, master, NodeId(0)).unwrap();
    let held = |pair: &Pair| {
        (0..512).filter(|&i| !pair.world.mem.load(Slot::new(copy, i)).is_empty()).collect::<Vec<_>>()
    };
    assert_eq!(held(&pair), [8, 9, 10, 11, 12, 13, 14, 15], "the aligned block around the fault");
    assert_eq!(sharers(&pair).iter().filter(|n| n.0 < 4).count(), 2);
    pair.check();
    // Only the two sharers are interrupted.
    let mut flush = Flush::none();
    pair.table.unmap_range(&mut pair.world.env(NodeId(2)), 0..1 << 12, &mut flush).unwrap();
    assert_eq!(flush.nodes().iter().filter(|n| n.0 < 4).count(), 2);
    pair.model.remove(&0);
    pair.pay(flush);
    pair.check();
}

#[test]
fn filling_a_block_again_keeps_what_walkers_set_in_it() {
    let mut pair = Pair::new(0b11, Kind::Lazy { order: 9 }, PLENTY);
    pair.apply(&Action::Populate { page: 0, pages: 8, node: 0 });
    pair.apply(&Action::Access { page: 3, write: true, node: 1 });
    pair.apply(&Action::Populate { page: 8, pages: 8, node: 0 });
    pair.apply(&Action::Access { page: 9, write: false, node: 1 });
    pair.check();
}

#[test]
fn lazy_tables_of_one_node_cost_no_more_writes_than_single_ones() {
    let writes = |ops: Box<dyn TableOps<Virt, Arena<HostPhys>>>| {
        let mut world = World::new(PLENTY);
        let mut table = Table::new(ops, &mut world.env(NodeId(0)), 4, NodeId(0)).unwrap();
        for page in 0..512 {
            let env = &mut world.env(NodeId(0));
            let frame = Hfn::new(4096 + page);
            let size = PageSize::Size4K;
            table
                .map(env, Va::new(page << 12), frame, size, Flags::USER, NodeId(0), Visibility::Private)
                .unwrap();
        }
        world.work = Work::default();
        let mut flush = Flush::none();
        let all = 0..512 << 12;
        let env = &mut world.env(NodeId(0));
        table
            .update_range(env, all, Visibility::Private, &mut flush, &mut |l| l.entry.with(Flags::WRITABLE))
            .unwrap();
        world.work.pass_writes.iter().sum::<u32>()
    };
    assert_eq!(writes(Box::new(Lazy::new(set(&[0, 1, 2, 3]), 4))), 512);
    assert_eq!(writes(Box::new(Replicated::new(set(&[0, 1, 2, 3])))), 4 * 512);
}

#[test]
fn a_dump_shows_where_tables_and_data_are() {
    let mut pair = eager(&[]);
    pair.apply(&Action::Populate { page: 0, pages: 300, node: 2 });
    for page in 300..400 {
        pair.apply(&Action::Map { page, size: PageSize::Size4K, frame: PER_NODE + 9000 + page, node: 0 });
    }
    pair.apply(&Action::Map { page: 1024, size: PageSize::Size2M, frame: 3 * PER_NODE, node: 0 });
    let dump = |pair: &Pair, before: Option<&Dump>| {
        let node_of = |frame| pair.world.pool.node_of(frame);
        Dump::take(&pair.table, &pair.world.mem, &node_of, NODES, 7, before)
    };
    let first = dump(&pair, None);
    let leaf = first.tables(1, NodeId(2));
    assert_eq!((leaf.pages, &leaf.to[..4]), (1, &[0, 100, 300, 0][..]));
    let data = DataKind { size: PageSize::Size4K, code: true, hinting: false };
    assert_eq!((first.data(data, NodeId(1)).pages, first.data(data, NodeId(2)).pages), (100, 300));
    let huge = DataKind { size: PageSize::Size2M, ..data };
    assert_eq!(first.data(huge, NodeId(3)).pages, 1);
    // The leaf table and the level-2 table, which holds the huge leaf, are on node 2.
    let seen = first.seen(NodeId(1));
    assert_eq!(
        (seen.local_local, seen.local_remote, seen.remote_local, seen.remote_remote),
        (0, 0, 100, 301)
    );
    assert_eq!(first.seen(NodeId(2)).remote_share(), 0.0);
    assert_eq!(first.local_share(NodeId(2)), 0.75);

    pair.apply(&Action::Replicate { nodes: 0b1111, stale: vec![], fail_after: None });
    pair.apply(&Action::Hide { page: 0, pages: 10, hide: true });
    let second = dump(&pair, Some(&first));
    assert!((0..4).all(|n| second.seen(NodeId(n)).remote_share() == 0.0));
    assert_eq!((second.tables(1, NodeId(2)).added, second.tables(1, NodeId(3)).added), (0, 1));
    assert_eq!(second.data(data, NodeId(2)).change, -10, "data is counted once, not once a copy");
    let want = "\
PTablesLevel1    1 [0 100 300 0] (+1, -0) | 1 [0 100 300 0] (+1, -0) | 1 [0 100 300 0] (+0, -0) | 1 [0 100 300 0] (+1, -0) | 4
PTablesLevel2    1 [1 0 0 1] (+1, -0) | 1 [0 1 0 1] (+1, -0) | 1 [0 0 1 1] (+0, -0) | 1 [0 0 0 2] (+1, -0) | 4
PTablesLevel3    1 [1 0 0 0] (+1, -0) | 1 [0 1 0 0] (+1, -0) | 1 [0 0 1 0] (+0, -0) | 1 [0 0 0 1] (+1, -0) | 4
PTablesLevel4    1 [1 0 0 0] (+1, -0) | 1 [0 1 0 0] (+0, -0) | 1 [0 0 1 0] (+1, -0) | 1 [0 0 0 1] (+1, -0) | 4
Code2M           0 (+0) | 0 (+0) | 0 (+0) | 1 (+0) | 1
Code4k           0 (+0) | 100 (+0) | 290 (-10) | 0 (+0) | 390
NUMACode4k       0 (+0) | 0 (+0) | 10 (+10) | 0 (+0) | 10
Migrations       7
Socket0: LL: 0 LR: 401 RL: 0 RR: 0 (0 % of leaf entries remote, 0 % of its own point home)
Socket1: LL: 100 LR: 301 RL: 0 RR: 0 (0 % of leaf entries remote, 25 % of its own point home)
Socket2: LL: 300 LR: 101 RL: 0 RR: 0 (0 % of leaf entries remote, 75 % of its own point home)
Socket3: LL: 1 LR: 400 RL: 0 RR: 0 (0 % of leaf entries remote, 0 % of its own point home)
";
    assert_eq!(second.to_string(), want);
}

/// Both dimensions of a VM's walk: the guest's table in guest-physical memory,
/// and the VM's table, each with copies for the nodes.
#[test]
fn a_nested_walk_stays_on_its_node() {
    let mut host = World::new(PLENTY);
    let all = set(&[0, 1, 2, 3]);
    let mut hpt: PageTable<GuestPhys, Arena<HostPhys>> =
        PageTable::new(Box::new(Replicated::new(all)), &mut host.env(NodeId(0)), 4, NodeId(0)).unwrap();
    // Guest-physical memory of virtual node n lies on node n: 512 frames each.
    for gfn in 0..2048u64 {
        let frame = Hfn::new((gfn / 512) * PER_NODE + PER_NODE / 2 + gfn % 512);
        let (gpa, size) = (Gpa::new(gfn << 12), PageSize::Size4K);
        let env = &mut host.env(NodeId(0));
        hpt.map(env, gpa, frame, size, RW, NodeId(0), Visibility::Private).unwrap();
    }
    let mut gmem: Arena<GuestPhys> = Arena::new(2048);
    let mut gframes = GuestFrames([1; NODES]);
    let mut gwork = Work::default();
    let mut genv = TableEnv { mem: &mut gmem, frames: &mut gframes, node: NodeId(0), work: &mut gwork };
    let mut gpt: PageTable<Virt, Arena<GuestPhys>> =
        PageTable::new(Box::new(Replicated::new(all)), &mut genv, 4, NodeId(0)).unwrap();
    for page in 0..40u64 {
        let frame = Gfn::new((page % 4) * 512 + 100 + page);
        let va = Va::new(page << 12);
        gpt.map(&mut genv, va, frame, PageSize::Size4K, RW, NodeId(0), Visibility::Private).unwrap();
    }
    for node in (0..NODES as u8).map(NodeId) {
        let walk = Nested {
            guest: &gmem,
            root: gpt.hardware_root(node),
            levels: 4,
            frames: 2048,
            host: HostDim { mem: &host.mem, root: hpt.hardware_root(node), levels: 4, frames: FRAMES },
        };
        let mut refs = References::default();
        let leaf = walk.walk(&mut refs, Va::new(7 << 12), Intent::WRITE).unwrap();
        assert_eq!(host.pool.node_of(leaf.frame), NodeId(3));
        assert_eq!(refs.0.len(), 24);
        for at in refs.0 {
            assert_eq!(host.pool.node_of(at.frame()), node, "a reference of node {node}'s walk");
        }
    }
    // Each node's store is known to both kernels, once.
    let guest = gpt.lookup(
        &mut TableEnv { mem: &mut gmem, frames: &mut gframes, node: NodeId(2), work: &mut gwork },
        Va::new(7 << 12),
    );
    assert!(guest.entry.has(Flags::DIRTY));
    let gpa = guest.frame().unwrap().base();
    assert!(hpt.lookup(&mut host.env(NodeId(1)), gpa).entry.has(Flags::DIRTY));
}
