//! Exact counts: how many references each kind of walk makes, and which ones
//! the caches beside the walker take away.

mod common;
use common::{Caching, FRAMES, Recorder, World};
use paging::*;

const VA: u64 = 0x7f12_3456_7000;

/// A guest with one page mapped and a VM's table behind all of its frames.
struct Vm {
    guest: World<GuestPhys>,
    host: World<HostPhys>,
    gpt: PageTable<Virt, Arena<GuestPhys>>,
    hpt: PageTable<GuestPhys, Arena<HostPhys>>,
}

impl Vm {
    fn new(levels: u8, guest_size: PageSize, host_size: PageSize) -> Vm {
        let (mut guest, mut host) = (World::new(), World::new());
        let mut gpt = guest.table(levels);
        let mut hpt = host.table(levels);
        let data = 1 << 20; // guest frame of the data page, aligned to 1 GiB
        guest.map(&mut gpt, VA & !(guest_size.bytes() - 1), data, guest_size);
        // Host frames from 2^22 on; the guest's table pages are its first frames.
        host.map(&mut hpt, data << 12, (1 << 22) + data, host_size);
        host.map(&mut hpt, 0, 1 << 22, host_size);
        if host_size == PageSize::Size4K {
            for gfn in 1..8 {
                host.map(&mut hpt, gfn << 12, (1 << 22) + gfn, host_size);
            }
        }
        if guest_size != PageSize::Size4K && host_size == PageSize::Size4K {
            let gfn = data + ((VA & (guest_size.bytes() - 1)) >> 12);
            if gfn != data {
                host.map(&mut hpt, gfn << 12, (1 << 22) + gfn, host_size);
            }
        }
        Vm { guest, host, gpt, hpt }
    }
    fn translation(&self) -> Nested<'_, Arena<GuestPhys>, HostDim<'_, Arena<HostPhys>>> {
        let levels = self.hpt.levels();
        let host = HostDim { mem: &self.host.mem, root: self.hpt.root(), levels, frames: FRAMES };
        Nested {
            guest: &self.guest.mem,
            root: self.gpt.root(),
            levels: self.gpt.levels(),
            frames: FRAMES,
            host,
        }
    }
    fn cold_references(&self) -> usize {
        let mut port = Recorder::default();
        self.translation().walk(&mut port, Va::new(VA), Intent::READ).unwrap();
        port.refs.len()
    }
}

fn native(levels: u8, size: PageSize) -> usize {
    let mut world = World::<HostPhys>::new();
    let mut table = world.table::<Virt>(levels);
    world.map(&mut table, VA & !(size.bytes() - 1), 1 << 20, size);
    let mut port = Recorder::default();
    let walk = Native { mem: &world.mem, root: table.root(), levels, frames: FRAMES };
    let leaf = walk.walk(&mut port, Va::new(VA), Intent::READ).unwrap();
    assert_eq!(leaf.frame.number(), (1 << 20) + ((VA & (size.bytes() - 1)) >> 12));
    assert_eq!(leaf.size, size);
    port.refs.len()
}

#[test]
fn a_cold_native_walk_makes_one_reference_a_level() {
    assert_eq!(native(4, PageSize::Size4K), 4);
    assert_eq!(native(5, PageSize::Size4K), 5);
    assert_eq!(native(4, PageSize::Size2M), 3);
    assert_eq!(native(5, PageSize::Size2M), 4);
    assert_eq!(native(4, PageSize::Size1G), 2);
}

#[test]
fn a_cold_shadow_walk_is_native() {
    // The shadow table is walked by the same hardware in the same way.
    let mut world = World::<HostPhys>::new();
    let mut table = world.table::<Virt>(4);
    world.map(&mut table, VA, 77, PageSize::Size4K);
    let mut port = Recorder::default();
    let shadow: Shadow<'_, _> = Native { mem: &world.mem, root: table.root(), levels: 4, frames: FRAMES };
    shadow.walk(&mut port, Va::new(VA), Intent::READ).unwrap();
    assert_eq!(port.refs.len(), 4);
}

#[test]
fn a_cold_nested_walk_makes_24_or_35_references() {
    assert_eq!(Vm::new(4, PageSize::Size4K, PageSize::Size4K).cold_references(), 24);
    assert_eq!(Vm::new(5, PageSize::Size4K, PageSize::Size4K).cold_references(), 35);
    // 2 MiB in both: three guest levels of (3 + 1), and 3 for the data page.
    assert_eq!(Vm::new(4, PageSize::Size2M, PageSize::Size2M).cold_references(), 15);
    // 2 MiB in the guest only: 3 × (4 + 1) + 4. In the host only: 4 × (3 + 1) + 3.
    assert_eq!(Vm::new(4, PageSize::Size2M, PageSize::Size4K).cold_references(), 19);
    assert_eq!(Vm::new(4, PageSize::Size4K, PageSize::Size2M).cold_references(), 19);
}

#[test]
fn the_grid_of_a_nested_walk_is_complete_and_in_order() {
    let vm = Vm::new(4, PageSize::Size4K, PageSize::Size4K);
    let mut port = Recorder::default();
    vm.translation().walk(&mut port, Va::new(VA), Intent::READ).unwrap();
    let cells: Vec<_> = port.refs.iter().map(|(c, _)| (c.guest, c.host)).collect();
    let mut expected = Vec::new();
    for guest in [4, 3, 2, 1, 0] {
        expected.extend([4, 3, 2, 1].map(|host| (guest, host)));
        if guest > 0 {
            expected.push((guest, 0));
        }
    }
    assert_eq!(cells, expected);
}

#[test]
fn splintered_pages_are_cached_at_the_smaller_size() {
    for (guest, host) in [(PageSize::Size2M, PageSize::Size4K), (PageSize::Size4K, PageSize::Size2M)] {
        let vm = Vm::new(4, guest, host);
        let leaf = vm.translation().walk(&mut Recorder::default(), Va::new(VA), Intent::READ).unwrap();
        assert_eq!(leaf.size, PageSize::Size4K);
    }
}

#[test]
fn a_walk_cache_hit_takes_away_the_levels_above_it() {
    let mut world = World::<HostPhys>::new();
    let mut table = world.table::<Virt>(4);
    for page in 0..1024 {
        world.map(&mut table, VA + page * 4096, page, PageSize::Size4K);
    }
    let walk = Native { mem: &world.mem, root: table.root(), levels: 4, frames: FRAMES };
    let mut port = Caching { guest_tables: true, ..Caching::default() };
    let mut count = |va: u64| {
        port.refs.clear();
        walk.walk(&mut port, Va::new(va), Intent::READ).unwrap();
        port.refs.clone()
    };
    assert_eq!(count(VA).len(), 4);
    // Same 2 MiB: only the leaf. Next 2 MiB: the level-2 entry and the leaf.
    assert_eq!(count(VA + 4096), [Cell { guest: 1, host: 0 }]);
    assert_eq!(count(VA + (2 << 20)), [Cell { guest: 2, host: 0 }, Cell { guest: 1, host: 0 }]);
}

#[test]
fn nested_caches_take_away_exactly_their_part() {
    let vm = Vm::new(4, PageSize::Size4K, PageSize::Size4K);
    let second = |guest_tables, host_tables, nested| {
        let mut port = Caching { guest_tables, host_tables, nested, ..Caching::default() };
        vm.translation().walk(&mut port, Va::new(VA), Intent::READ).unwrap();
        port.refs.clear();
        vm.translation().walk(&mut port, Va::new(VA), Intent::READ).unwrap();
        port.refs.iter().map(|c| (c.guest, c.host)).collect::<Vec<_>>()
    };
    // The guest's walk cache skips three levels with their host walks, and the
    // host walk of the leaf table: its entry and the data page's walk remain.
    assert_eq!(second(true, false, false), [(1, 0), (0, 4), (0, 3), (0, 2), (0, 1)]);
    // The nested TLB answers every host walk: four guest entries remain.
    assert_eq!(second(false, false, true), [(4, 0), (3, 0), (2, 0), (1, 0)]);
    // The host's walk cache leaves one host reference a row.
    let rows = second(false, true, false);
    assert_eq!(rows, [(4, 1), (4, 0), (3, 1), (3, 0), (2, 1), (2, 0), (1, 1), (1, 0), (0, 1)]);
    // All of them: the leaf of each dimension at most; the nested TLB knows the data page.
    assert_eq!(second(true, true, true), [(1, 0)]);
}

#[test]
fn the_walker_sets_accessed_and_dirty_in_the_entries() {
    let vm = Vm::new(4, PageSize::Size4K, PageSize::Size4K);
    let bits = |write| {
        let intent = if write { Intent::WRITE } else { Intent::READ };
        let leaf = vm.translation().walk(&mut Recorder::default(), Va::new(VA), intent).unwrap();
        assert_eq!(leaf.dirty, write);
        let mut table = vm.gpt.root();
        let mut flags = Vec::new();
        for level in (1..=4).rev() {
            let entry = vm.guest.mem.load(Slot::new(table, Va::new(VA).index(level)));
            flags.push((entry.has(Flags::ACCESSED), entry.has(Flags::DIRTY)));
            table = entry.frame();
        }
        flags
    };
    assert_eq!(bits(false), [(true, false), (true, false), (true, false), (true, false)]);
    assert_eq!(bits(true), [(true, false), (true, false), (true, false), (true, true)]);
}

#[test]
fn faults_say_which_dimension_and_why() {
    let mut vm = Vm::new(4, PageSize::Size4K, PageSize::Size4K);
    let walk =
        |vm: &Vm, va: u64, intent| vm.translation().walk(&mut Recorder::default(), Va::new(va), intent);
    let missing = walk(&vm, VA + 4096, Intent::READ);
    assert_eq!(missing, Err(Fault::Page { va: Va::new(VA + 4096), level: 1, why: Why::NotPresent }));

    vm.guest.map(&mut vm.gpt, VA + 4096, 0x500, PageSize::Size4K);
    let unbacked = walk(&vm, VA + 4096, Intent::WRITE);
    assert_eq!(unbacked, Err(Fault::Nested { gpa: Gpa::new(0x50_0000), write: true, why: Why::NotPresent }));

    let mut env = vm.guest.env();
    vm.gpt.set_flags(&mut env, Va::new(VA), Flags::NONE, Flags::WRITABLE, Visibility::Private).unwrap();
    assert!(walk(&vm, VA, Intent::READ).is_ok());
    let protected = walk(&vm, VA, Intent::WRITE);
    assert_eq!(protected, Err(Fault::Page { va: Va::new(VA), level: 1, why: Why::Protection }));

    let beyond = Entry::leaf(Gfn::new(FRAMES), PageSize::Size4K, Flags::USER);
    let mut env = vm.guest.env();
    let _owed = vm
        .gpt
        .replace(&mut env, Va::new(VA), PageSize::Size4K, beyond, paging::NodeId(0), Visibility::Private)
        .unwrap();
    let reserved = walk(&vm, VA, Intent::READ);
    assert_eq!(reserved, Err(Fault::Page { va: Va::new(VA), level: 1, why: Why::Reserved }));
}
