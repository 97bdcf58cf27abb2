//! BabelFish: the processes of a group share leaf tables; a store to a private page gives
//! the writer its own table, and nobody sees another's store.
//!
//! The MMU has no BabelFish TLB, so entries are not shared, tables are.

use super::bits;
use crate::hardware::pattern;
use crate::machine::{BOOT, Machine, create, expect, fill, finish, map_memory, with};
use crate::physical::DirectMap;
use crate::program::Series;
use crate::say;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use mechanisms::babelfish::{Groups, Identity, Process, SharedTables, Sharing};
use os::{FileId, MapRequest, ProcessId, ProcessSpec, Prot, SpaceId, SpaceInfo, Tables};
use paging::frames::CpuId;
use paging::{GuestPhys, Hfn, HostPhys, OneCopy, TableOps, Va, Virt};

/// A block of its own for the shared file.
const LIBRARY: u64 = 0x6000_0000_0000;
const HEAP: u64 = 0x7000_0000_0000;
const PAGES: u64 = 512;
const ONE_GROUP: Identity = Identity { user: 1, application: 1 };

/// All processes in one group.
#[derive(Debug)]
struct Grouped {
    groups: Groups<HostPhys>,
    members: BTreeMap<SpaceId, Process<HostPhys>>,
}

impl Tables<DirectMap> for Grouped {
    fn process(&mut self, info: &SpaceInfo) -> Box<dyn TableOps<Virt, DirectMap>> {
        let parent = info.parent.and_then(|parent| self.members.get(&parent));
        let member = match parent {
            Some(parent) => parent.fork(),
            None => {
                let group = self.groups.of(ONE_GROUP).expect("room for a group").ccid();
                self.groups.join(group, ONE_GROUP).expect("it is ours")
            }
        };
        self.members.insert(info.space, member.process().clone());
        Box::new(SharedTables::new(OneCopy::default(), member))
    }
    fn vm(&mut self, _info: &SpaceInfo) -> Box<dyn TableOps<GuestPhys, DirectMap>> {
        Box::new(OneCopy::default())
    }
}

/// Runs it.
pub fn run(machine: &Machine) {
    let tables = Grouped { groups: Groups::new(Sharing::TABLES), members: BTreeMap::new() };
    machine.start_with(machine.config(), Box::new(paging::FromBuddy), Box::new(tables));
    let cpus = machine.all_cpus();
    let at = |i: usize| cpus[i % cpus.len()];
    let file = with(BOOT, |kernel, _| kernel.create_file(PAGES)).expect("a file");

    // Three containers map the same library; two of them are there before anything is touched.
    let members: Vec<ProcessId> = (0..3).map(|_| create(ProcessSpec::default())).collect();
    members.iter().for_each(|&pid| map_library(pid, file));
    for page in 0..PAGES {
        check_page(at(page as usize), members[page as usize % 2], file, page);
    }
    let before = with(BOOT, |_, hw| hw.counts.faults);
    for (i, &pid) in members.iter().enumerate() {
        (0..PAGES).step_by(37).for_each(|page| check_page(at(i), pid, file, page));
    }
    let after = with(BOOT, |_, hw| hw.counts.faults);
    let shared = leaf_table(members[0], LIBRARY);
    for &pid in &members[1..] {
        assert_eq!(leaf_table(pid, LIBRARY), shared, "process {} links the group's table", pid.0);
    }
    // The third member's table may have to be linked by a fault; no page is faulted again.
    assert!(after - before <= 2, "{} faults for pages that the group has", after - before);
    say!("three processes share the leaf table {:#x} for {PAGES} pages of a file", shared.number());

    // The second writes a page: its own table, its own frame.
    fill(at(1), members[1], Series { count: 1, ..Series::pages(LIBRARY + 5 * 4096, 1, 555) });
    assert_ne!(leaf_table(members[1], LIBRARY), shared, "a writer has its own table");
    assert_eq!(leaf_table(members[0], LIBRARY), shared, "the others keep the group's");
    expect(at(1), members[1], Series::pages(LIBRARY + 5 * 4096, 1, 555));
    for pid in [members[0], members[2]] {
        cpus.iter().for_each(|&cpu| check_page(cpu, pid, file, 5));
    }
    (6..PAGES).step_by(41).for_each(|page| check_page(at(1), members[1], file, page));

    // After a fork, private pages are shared until they are written.
    map_memory(members[0], HEAP, PAGES);
    fill(at(0), members[0], Series::pages(HEAP, PAGES, 1));
    let child = with(BOOT, |kernel, hw| kernel.fork(hw, BOOT, members[0])).expect("a child");
    expect(at(2), child, Series::pages(HEAP, PAGES, 1));
    assert_eq!(
        leaf_table(child, HEAP),
        leaf_table(members[0], HEAP),
        "parent and child share the heap's table"
    );
    fill(at(3), child, Series::pages(HEAP, 10, 100));
    fill(at(0), members[0], Series::pages(HEAP + 10 * 4096, 10, 200));
    assert_ne!(leaf_table(child, HEAP), leaf_table(members[0], HEAP), "both wrote");
    expect(at(1), child, Series::pages(HEAP, 10, 100));
    expect(at(1), child, Series::pages(HEAP + 10 * 4096, PAGES - 10, 11));
    expect(at(2), members[0], Series::pages(HEAP, 10, 1));
    expect(at(2), members[0], Series::pages(HEAP + 10 * 4096, 10, 200));
    expect(at(2), members[0], Series::pages(HEAP + 20 * 4096, PAGES - 20, 21));

    // Who leaves takes nothing along.
    with(BOOT, |kernel, hw| {
        kernel.exit(hw, BOOT, members[0]).expect("an exit");
        kernel.munmap(hw, BOOT, members[1], Va::new(LIBRARY), PAGES * 2048).expect("munmap");
    });
    (0..PAGES).step_by(7).for_each(|page| check_page(at(3), members[2], file, page));
    expect(at(2), child, Series::pages(HEAP, 10, 100));
    expect(at(2), child, Series::pages(HEAP + 10 * 4096, PAGES - 10, 11));
    let hw = finish();
    say!("{} faults, {} shootdowns; nobody saw another's store", hw.counts.faults, hw.counts.shootdowns);
}

fn map_library(pid: ProcessId, file: FileId) {
    let request = MapRequest::private_file(file, PAGES * 4096, Prot::RW).at(Va::new(LIBRARY));
    with(BOOT, |kernel, hw| kernel.mmap(hw, BOOT, pid, &request)).expect("a mapping");
}

/// A page holds what is on the device.
fn check_page(cpu: CpuId, pid: ProcessId, file: FileId, page: u64) {
    expect(cpu, pid, Series::pages(LIBRARY + page * 4096, 1, pattern(file, page, 0)));
}

/// The leaf table that a process has for an address.
fn leaf_table(pid: ProcessId, va: u64) -> Hfn {
    with(BOOT, |kernel, _| {
        let table = kernel.process(pid).expect("alive").space().table();
        let at = bits::leaf(kernel.mem(), table.root(), table.levels(), va);
        at.expect("it was touched").slot.table
    })
}
