//! Single cases: counts, the limits, huge pages, what is refused, and no memory.

mod babelfish_common;

use babelfish_common::*;
use mechanisms::babelfish::*;
use paging::frames::NodeId;
use paging::*;

const BASE: u64 = 0x4_0000;

fn library() -> Area {
    Area { start: BASE, end: BASE + 64, file: Some((1, 0)), shared: false, write: false }
}
fn data() -> Area {
    Area { start: BASE + 512, end: BASE + 1024, file: Some((1, 64)), shared: false, write: true }
}

fn next_data() -> Area {
    Area { start: BASE + 1024, end: BASE + 1100, file: Some((2, 0)), shared: false, write: true }
}

/// `count` members that map the library and the data.
fn container_group(sharing: Sharing, count: usize) -> World<HostPhys> {
    let mut world = World::new(sharing, false, one_copy);
    for _ in 0..count {
        let p = world.spawn();
        world.map(p, library());
        world.map(p, data());
    }
    world
}

fn read_all(world: &mut World<HostPhys>, area: Area) {
    for p in world.live() {
        for page in area.start..area.end {
            world.access(p, 0, page, false, true);
        }
    }
}

#[test]
fn what_one_faulted_in_no_other_does() {
    let faults = |sharing, evict: bool| {
        let mut world = container_group(sharing, 4);
        for p in world.live() {
            for page in library().start..library().end {
                world.access(p, 0, page, false, true);
            }
            if evict {
                (0..64).for_each(|seed| world.machine.evict(0, seed));
            }
        }
        let stats = world.group().stats();
        let result = (world.faults, stats.leaves_given, stats.tables_linked);
        world.check();
        world.end();
        result
    };
    assert_eq!(faults(Sharing::NONE, true), (4 * 64, 0, 0));
    // The first fault of each other member links the table with all 64 pages.
    assert_eq!(faults(Sharing::TABLES, true), (64 + 3, 3 * 64, 3));
    // A member that is served by the TLB does not fault even once.
    assert_eq!(faults(Sharing::FULL, false).0, 64);
    assert_eq!(faults(Sharing::TLB, false).0, 64);
    assert_eq!(faults(Sharing::TLB, true).0, 4 * 64);
}

#[test]
fn the_mask_is_fetched_and_paid_for_only_where_somebody_has_a_copy() {
    let mut world = container_group(Sharing::FULL, 3);
    read_all(&mut world, library());
    read_all(&mut world, data());
    let cpu = &world.machine.cpus[0];
    assert!(cpu.shared_hits >= 2 * (64 + 512), "{}", cpu.shared_hits);
    assert_eq!((cpu.mask_fetches, cpu.extra_cycles), (0, 0));
    // Touched on the other CPU too, where tables are linked by faults.
    for p in world.live() {
        world.access(p, 1, BASE, false, true);
        (0..64).for_each(|seed| world.machine.evict(1, seed));
        world.access(p, 1, BASE + 512, false, true);
        (0..64).for_each(|seed| world.machine.evict(1, seed));
    }
    assert!(world.access(1, 0, BASE + 520, true, true));
    assert_eq!(world.context(1).pc_index, Some(0));
    assert_eq!(world.group().stats().tables_copied, 1);
    (0..64).for_each(|seed| world.machine.evict(0, seed));
    world.access(0, 0, BASE, false, true);
    assert_eq!(world.machine.cpus[0].mask_fetches, 0, "nobody has a copy in the library's block");
    world.access(0, 0, BASE + 700, false, true);
    assert_eq!(world.machine.cpus[0].mask_fetches, 1);
    world.access(2, 0, BASE + 700, false, true);
    assert_eq!(world.machine.cpus[0].extra_cycles, 2, "a hit that read the mask");
    world.access(1, 0, BASE + 700, false, true);
    assert_eq!(world.machine.cpus[0].mask_fetches, 1, "its own table has no mask");
    world.check();
    world.end();
}

#[test]
fn a_store_flushes_the_shared_entry_of_its_page_alone() {
    let mut world = container_group(Sharing::FULL, 3);
    for p in world.live() {
        // Everybody links the table; one copy is there already, so that paths know of the mask.
        world.access(p, 0, BASE + 512, false, true);
        (0..64).for_each(|seed| world.machine.evict(0, seed));
    }
    world.access(2, 0, BASE + 512, true, true);
    for page in data().start..data().end {
        world.access(0, 0, page, false, true);
    }
    let before = world.machine.cpus[0].second.len();
    world.access(1, 1, BASE + 600, true, true);
    let cpu = &world.machine.cpus[0];
    assert_eq!(cpu.second.len(), before - 1);
    assert!(!cpu.second.iter().any(|e| e.page == BASE + 600));
    world.check();
    world.end();
}

#[test]
fn a_first_store_in_an_untouched_block_copies_what_the_group_has() {
    let mut world = container_group(Sharing::FULL, 2);
    for page in data().start..data().start + 100 {
        world.access(0, 0, page, false, true);
    }
    let faults = world.faults;
    world.access(1, 1, data().start + 3, true, true);
    for page in data().start..data().start + 100 {
        world.access(1, 1, page, false, true);
    }
    assert!(world.faults - faults <= 2, "{}", world.faults - faults);
    assert_eq!(world.group().stats().tables_copied, 1);
    world.check();
    world.end();
}

#[test]
fn with_entries_alone_shared_a_first_store_hides_what_was_served_before() {
    let mut world = container_group(Sharing::TLB, 2);
    // One has a table with its first page; the second it knows from the TLB alone.
    world.access(1, 0, data().start, false, true);
    world.access(0, 0, data().start, false, true);
    world.access(0, 0, data().start + 1, false, true);
    (0..64).for_each(|seed| world.machine.evict(1, seed));
    world.access(1, 0, data().start + 1, false, true);
    world.access(1, 0, data().start, true, true);
    world.access(1, 0, data().start + 1, true, true);
    world.check();
    world.access(1, 0, data().start + 1, false, false);
    world.check();
    world.end();
}

#[test]
fn who_maps_something_else_is_never_served_what_the_group_has() {
    for sharing in [Sharing::FULL, Sharing::NO_MASK, Sharing::TLB] {
        let mut world = container_group(sharing, 1);
        let half = Area { end: BASE + 700, ..data() };
        let heap = Area { start: BASE + 800, end: BASE + 900, file: None, shared: false, write: true };
        let mapped =
            Area { start: BASE + 800, end: BASE + 900, file: Some((5, 0)), shared: false, write: true };
        // A group with a half of the block, a member that has that and a heap behind it,
        let (a, b) = (world.spawn(), world.spawn());
        for (p, areas) in [(a, vec![half]), (b, vec![half, heap])] {
            areas.into_iter().for_each(|area| world.map(p, area));
        }
        world.access(a, 0, half.start, false, true);
        world.access(a, 0, half.start + 1, false, true);
        world.check();
        // and one with a file where the other has its heap.
        let c = world.spawn();
        world.map(c, half);
        world.map(c, mapped);
        world.access(c, 1, mapped.start, false, true);
        world.check();
        world.access(b, 1, heap.start, false, true);
        world.access(b, 1, half.start, true, true);
        world.check();
        world.access(b, 1, half.start + 1, true, true);
        world.check();
        // A sharer maps more of it later.
        let file =
            Area { start: BASE + 720, end: BASE + 740, file: Some((6, 0)), shared: false, write: true };
        let d = world.spawn();
        world.map(d, half);
        world.map(d, Area { file: None, ..file });
        world.access(a, 0, half.start + 2, false, true);
        world.map(a, file);
        world.access(a, 0, file.start, false, true);
        world.check();
        world.access(d, 1, half.start + 2, true, true);
        world.access(d, 1, file.start, true, true);
        world.check();
        // One that was parted fills a hole where the group has pages.
        let e = world.spawn();
        world.map(e, half);
        world.access(e, 1, half.start, true, true);
        world.map(e, Area { file: None, ..file });
        world.check();
        world.access(e, 0, file.start, false, true);
        world.check();
        world.end();
    }
}

#[test]
fn a_page_that_was_never_declared_is_its_owners_too() {
    let mut world = container_group(Sharing::FULL, 1);
    world.access(0, 0, data().start, false, true);
    let p = world.spawn();
    let va = Va::new(data().start << 12);
    world.pool.refs.insert(77, 1);
    let mapped = world.on(p, 0, |table, env| {
        let flags = Flags::USER | Flags::WRITABLE;
        table.map(env, va, Hfn::new(77), PageSize::Size4K, flags, NodeId(0), Visibility::Private)
    });
    mapped.unwrap();
    let flush = world.on(p, 0, |table, _| table.owed());
    world.discharge(p, flush);
    let context = world.context(p);
    assert!(world.machine.cpus[0].second.iter().all(|e| !e.tag.admits(&context)));
    world.access(0, 0, data().start, false, true);
    assert!(world.machine.cpus[0].second.iter().all(|e| !e.tag.admits(&context)));
}

#[test]
fn who_ends_leaves_to_the_group_what_is_its() {
    let mut world = container_group(Sharing::FULL, 3);
    for p in world.live() {
        for page in [library().start, data().start, data().start + 1] {
            world.access(p, 0, page, false, true);
            (0..64).for_each(|seed| world.machine.evict(0, seed));
        }
    }
    world.access(2, 0, data().start, true, true);
    for page in [library().start, data().start, data().start + 1] {
        world.access(0, 0, page, false, true);
    }
    let before = world.machine.cpus[0].second.len();
    world.exit(1);
    assert_eq!(world.machine.cpus[0].second.len(), before);
    world.exit(2);
    assert_eq!(world.machine.cpus[0].second.len(), before - 1, "but what it wrote");
    world.exit(0);
    assert!(world.machine.cpus[0].second.is_empty());
    world.check();
    world.end();
}

#[test]
fn the_thirty_third_writer_makes_its_set_private() {
    let mut world = container_group(Sharing::FULL, 40);
    let other_set = Area { start: 0x8_0000, end: 0x8_0010, file: Some((9, 0)), shared: false, write: true };
    for p in world.live() {
        world.map(p, other_set);
    }
    for p in world.live() {
        for page in [library().start, data().start, other_set.start] {
            world.access(p, 0, page, false, true);
            (0..64).for_each(|seed| world.machine.evict(0, seed));
        }
    }
    assert_eq!(world.group().space().links, 3 * 40);
    for p in 0..32 {
        world.access(p, 0, data().start + p as u64, true, false);
        world.check();
    }
    let stats = world.group().stats();
    assert_eq!((stats.bits_set, stats.sets_unshared, stats.tables_copied), (32, 0, 32));
    world.access(32, 1, data().start + 7, true, false);
    world.check();
    let stats = world.group().stats();
    // The library's block is of the same set; the third is not.
    assert_eq!((stats.sets_unshared, stats.blocks_unshared), (1, 2));
    assert_eq!(world.context(32).pc_index, None);
    let shared = |world: &World<HostPhys>, page| {
        world.machine.cpus[0].second.iter().any(|e| e.page == page && !e.tag.is_owned())
    };
    for p in world.live() {
        for page in [library().start, data().start, other_set.start] {
            world.access(p, 0, page, false, true);
        }
    }
    assert!(shared(&world, other_set.start));
    assert!(!shared(&world, library().start) && !shared(&world, data().start));
    // Tables stay shared where nobody wrote.
    assert_eq!(world.group().space().links, 40 + 7 + 40);
    world.check();
    // When all is gone, the set begins anew.
    for p in world.live() {
        world.exit(p);
    }
    for _ in 0..2 {
        let p = world.spawn();
        world.map(p, library());
        world.access(p, 0, library().start, false, true);
    }
    assert!(shared(&world, library().start));
    world.check();
    world.end();
}

#[test]
fn bits_of_ended_processes_are_given_out_again() {
    let mut world = container_group(Sharing::FULL, 1);
    world.access(0, 0, data().start, false, true);
    world.map(0, next_data());
    world.access(0, 0, next_data().start, false, true);
    for round in 0..100u64 {
        let child = world.fork(0);
        world.access(child, 0, data().start + round, true, false);
        assert!(world.context(child).pc_index.is_some());
        // In another block some write, so that there are entries with their bits, and others read.
        world.access(child, 1, next_data().start + 1, round % 3 == 0, true);
        world.access(0, 1, next_data().start + 1, false, true);
        world.access(0, 1, data().start + round, false, false);
        world.check();
        world.exit(child);
        world.check();
    }
    let stats = world.group().stats();
    assert_eq!(stats.sets_unshared, 0);
    assert!((2..=4).contains(&stats.bits_recycled), "{stats:?}");
    world.end();
}

#[test]
fn without_a_mask_the_first_copy_ends_sharing_of_entries_but_not_of_tables() {
    let mut world = container_group(Sharing::NO_MASK, 4);
    for p in world.live() {
        world.access(p, 0, data().start, false, true);
        (0..64).for_each(|seed| world.machine.evict(0, seed));
    }
    world.access(3, 0, data().start, true, true);
    world.check();
    let stats = world.group().stats();
    assert_eq!((stats.blocks_unshared, stats.bits_set), (1, 0));
    assert_eq!(world.group().space(), cost::Space { tables: 1, links: 3, mask_pages: 0 });
    world.end();
}

#[test]
fn a_process_of_another_user_or_application_is_refused() {
    let mut groups: Groups<HostPhys> = Groups::new(Sharing::FULL);
    let group = groups.of(ME).unwrap();
    let ccid = group.ccid();
    for other in [Identity { user: 1, ..ME }, Identity { application: 1, ..ME }] {
        let refused = groups.join(ccid, other).unwrap_err();
        assert_eq!(refused, GroupError::NotYours { ccid, group: ME, process: other });
        assert!(refused.to_string().contains("must not share"));
        assert_ne!(groups.of(other).unwrap().ccid(), ccid);
    }
    assert_eq!(groups.join(Ccid(77), ME).unwrap_err(), GroupError::NoGroup(Ccid(77)));
    assert_eq!(groups.join(Ccid::NONE, ME).unwrap_err(), GroupError::NoGroup(Ccid::NONE));
    assert_eq!(groups.join(ccid, ME).unwrap().process().group().members(), 1);
    assert_eq!(group.members(), 0, "it ended with its membership");
    for user in 10.. {
        match groups.of(Identity { user, application: 5 }) {
            Ok(group) => assert!(group.ccid() <= Ccid::MAX),
            Err(e) => {
                assert_eq!(e, GroupError::TooManyGroups);
                assert_eq!(user, 10 + 4095 - 3);
                break;
            }
        }
    }
}

#[test]
fn no_memory_changes_nothing_or_ends_sharing() {
    let mut world = container_group(Sharing::FULL, 3);
    for p in world.live() {
        world.access(p, 0, data().start, false, true);
        (0..64).for_each(|seed| world.machine.evict(0, seed));
    }
    // No frame for the private table: the store fails, and all is as it was.
    world.pool.budget = Some(0);
    let va = Va::new(data().start << 12);
    let refused = world.on(1, 0, |table, env| table.ensure(env, va, 1, NodeId(0), Visibility::Private));
    assert!(matches!(refused, Err(MapError::NoFrame(_))));
    world.check();
    assert_eq!(world.group().space().links, 3);
    // One for the table, none for the MaskPage: entries are private from now on.
    world.pool.budget = Some(1);
    world.access(1, 0, data().start, true, true);
    world.check();
    assert_eq!(world.group().stats().blocks_unshared, 1);
    world.pool.budget = None;
    world.access(2, 0, data().start, true, true);
    world.check();
    world.end();
}

/// Two members and a 2 MiB page (or 1 GiB) of a shared file.
fn huge(size: PageSize) {
    let mut world = World::<HostPhys>::new(Sharing::FULL, false, one_copy);
    let start = 1u64 << 39;
    let (va, frame) = (Va::new(start), Hfn::new(0));
    let content = Content { object: Some(7), page: 0, rights: Flags::WRITABLE, shared: false };
    let range = start..start + size.bytes() * 4;
    let members: Vec<usize> = (0..3).map(|_| world.spawn()).collect();
    for &p in &members {
        let flush = world.on(p, 0, |table, env| table.area(env, range.clone(), Some(content))).unwrap();
        assert!(flush.is_empty());
    }
    let map = |world: &mut World<HostPhys>, p: usize| {
        world.on(p, 0, |table, env| {
            let flags = Flags::USER | Flags::COW;
            table.map(env, va, frame, size, flags, NodeId(0), Visibility::Shared)
        })
    };
    map(&mut world, members[0]).unwrap();
    for &p in &members[1..] {
        assert!(matches!(map(&mut world, p), Err(MapError::Occupied(e)) if e.has(Flags::PAGE_SIZE)));
    }
    assert_eq!(world.group().space(), cost::Space { tables: 1, links: 3, mask_pages: 0 });
    let link = |world: &World<HostPhys>, p: usize| {
        let masks = world.proc(p).process.group().masks();
        let root = world.proc(p).table.root();
        let walk =
            Babel { walk: Native { mem: &world.mem, root, levels: 4, frames: 1 << 30 }, masks: &masks };
        let leaf = walk.walk(&mut NoCaches, va, Intent::READ).unwrap();
        assert_eq!(leaf.size, size);
        BabelTag::of(&world.context(p), va, &leaf)
    };
    assert!(members.iter().all(|&p| !link(&world, p).is_owned()));
    // One writes: its own table of that level, and a bit in the mask one level up.
    let copy = Entry::leaf(Hfn::new(1 << 18), size, Flags::USER | Flags::WRITABLE);
    world.pool.refs.insert(0, 1);
    let flush = world
        .on(members[1], 0, |table, env| table.replace(env, va, size, copy, NodeId(0), Visibility::Private))
        .unwrap();
    assert_eq!((flush.reach(), flush.frees_tables()), (Reach::Group, true));
    let released = flush.discharge_reaching(|_, _, _| {});
    assert_eq!(released.gone.len(), 1);
    assert_eq!(world.pool.refs[&0], 2, "the copied leaf took a reference");
    let (mine, others) = (link(&world, members[1]), link(&world, members[2]));
    assert!(mine.is_owned());
    assert_eq!(others.mask(), Some(1));
    assert!(!others.admits(&world.context(members[1])) && others.admits(&world.context(members[0])));
    assert_eq!(world.group().space(), cost::Space { tables: 1, links: 2, mask_pages: 1 });
}

#[test]
fn tables_of_2_mib_pages_are_shared_one_level_up() {
    huge(PageSize::Size2M);
}

#[test]
fn tables_of_1_gib_pages_are_shared_two_levels_up() {
    huge(PageSize::Size1G);
}

/// A port without caches.
struct NoCaches;

impl Port for NoCaches {
    fn reference(&mut self, _cell: Cell, _at: Hpa) {}
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

#[test]
fn layouts_of_their_own_meet_in_the_second_level() {
    let member = |shift: u64, pcid| {
        let mut segments = [Segment::default(); SEGMENTS];
        segments[0] = Segment::new((BASE + shift) << 12, 64 << 12, BASE << 12);
        BabelContext::new(Ccid(1), pcid, None).randomised(Aslr::hardware(segments))
    };
    let (one, two) = (member(100, 1), member(9000, 2));
    let group = Va::new((BASE + 3) << 12);
    assert_eq!(BabelTag::group_va(&one, Va::new((BASE + 103) << 12)), group);
    assert_eq!(BabelTag::group_va(&two, Va::new((BASE + 9003) << 12)), group);
    assert_eq!(BabelTag::miss_cycles(&one), 2);
    assert_eq!(one.sharing_first_level().unwrap_err(), FirstLevelNeedsOneLayout);
    assert_eq!(BabelTag::miss_cycles(&BabelContext::new(Ccid(1), 1, None)), 0);
}
