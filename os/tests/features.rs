//! Each feature of the kernel by itself.

mod common;

use common::{GARBAGE, System, config, file_content};
use os::{
    Advice, Cost, FaultKind, FaultOutcome, GroupId, Identity, KernelConfig, MapRequest, MmError, Policy,
    ProcessId, ProcessSpec, Prot, Syscall, ThpMode,
};
use paging::frames::{CpuId, FrameState, NodeId, NodeSet};
use paging::{Entry, Intent, Native, PageSize, TableMemory, Translation, Va};

const CPU: CpuId = CpuId(0);
/// A CPU of node 1.
const FAR: CpuId = CpuId(2);
const PAGE: u64 = 4096;
const HUGE: u64 = 2 << 20;

fn with(change: impl FnOnce(&mut KernelConfig)) -> System {
    let mut config = config();
    change(&mut config);
    System::new(32768, config)
}

fn process(s: &mut System, spec: ProcessSpec) -> ProcessId {
    s.kernel.create_process(&mut s.machine, CPU, spec).expect("a process")
}

fn map(s: &mut System, pid: ProcessId, request: &MapRequest) -> Va {
    s.kernel.mmap(&mut s.machine, CPU, pid, request).expect("room")
}

fn fault(s: &mut System, cpu: CpuId, pid: ProcessId, va: Va, intent: Intent) -> FaultOutcome {
    s.kernel.fault(&mut s.machine, cpu, pid, va, intent).expect("an answer")
}

/// The leaf at `va` and its size.
fn leaf(s: &System, pid: ProcessId, va: Va) -> Option<(Entry, PageSize)> {
    let table = s.kernel.process(pid).expect("alive").space().table();
    let (mut at, mut level) = (table.root(), table.levels());
    loop {
        let entry = s.kernel.mem().load(paging::Slot::new(at, va.index(level)));
        if !entry.is_table(level) {
            return PageSize::from_level(level).filter(|_| !entry.is_empty()).map(|size| (entry, size));
        }
        at = entry.frame();
        level -= 1;
    }
}

fn node_of(s: &System, pid: ProcessId, va: Va) -> NodeId {
    let root = s.kernel.process(pid).expect("alive").space().table().root();
    let walk = Native { mem: s.kernel.mem(), root, levels: s.kernel.config().levels, frames: 1 << 30 };
    s.kernel.pool().node_of(walk.peek(va).expect("mapped").frame())
}

#[test]
fn a_load_maps_zeroes_and_a_store_gives_a_page() {
    let mut s = with(|_| {});
    let pid = process(&mut s, ProcessSpec::default());
    let va = map(&mut s, pid, &MapRequest::anonymous(4 * PAGE));
    assert_eq!(fault(&mut s, CPU, pid, va, Intent::READ).kind, FaultKind::ZeroPage);
    assert_eq!(fault(&mut s, CPU, pid, va, Intent::WRITE).kind, FaultKind::CowCopy);
    assert_eq!(fault(&mut s, CPU, pid, va, Intent::WRITE).kind, FaultKind::Spurious);
    assert_eq!(fault(&mut s, CPU, pid, va.offset(PAGE), Intent::WRITE).kind, FaultKind::Anonymous);
    let stats = *s.kernel.process(pid).expect("alive").space().stats();
    assert_eq!((stats.minor_faults, stats.zero_page_faults, stats.cow_copies), (4, 1, 1));
    assert!(s.machine.costs.contains(&Cost::PageFault(FaultKind::CowCopy)));
    s.shutdown();
}

#[test]
fn an_access_outside_of_areas_names_its_neighbours() {
    let mut s = with(|_| {});
    let pid = process(&mut s, ProcessSpec::default());
    map(&mut s, pid, &MapRequest { prot: Prot::R, ..MapRequest::anonymous(PAGE) }.at(Va::new(0x10_0000)));
    map(&mut s, pid, &MapRequest::anonymous(PAGE).at(Va::new(0x30_0000)));
    let mut text = |va, intent| {
        let e = s.kernel.fault(&mut s.machine, CPU, pid, Va::new(va), intent).expect_err("a SEGV");
        assert!(matches!(e, MmError::Segv(_)));
        e.to_string()
    };
    assert_eq!(
        text(0x20_0008, Intent::READ),
        "load from VA 0x200008: nothing is mapped there; below it [0x100000-0x101000 r--p]; \
         above it [0x300000-0x301000 rw-p]"
    );
    assert_eq!(
        text(0x10_0004, Intent::WRITE),
        "store to VA 0x100004: not allowed in [0x100000-0x101000 r--p]"
    );
    assert!(text(0x30_0000, Intent::FETCH).starts_with("fetch from"));
    assert!(
        text(1 << 60, Intent::READ).contains("above it") || text(1 << 60, Intent::READ).contains("below it")
    );
    s.shutdown();
}

#[test]
fn ranges_that_cannot_be_are_refused() {
    let mut s = with(|_| {});
    let pid = process(&mut s, ProcessSpec::default());
    let bad = |got: Result<Va, MmError>| assert!(matches!(got, Err(MmError::BadRange { .. })), "{got:?}");
    let hw = &mut s.machine;
    bad(s.kernel.mmap(hw, CPU, pid, &MapRequest::anonymous(0)));
    bad(s.kernel.mmap(hw, CPU, pid, &MapRequest::anonymous(u64::MAX)));
    bad(s.kernel.mmap(hw, CPU, pid, &MapRequest::anonymous(PAGE).at(Va::new(0x10_0001))));
    bad(s.kernel.mmap(hw, CPU, pid, &MapRequest::anonymous(PAGE).at(Va::new(0))));
    bad(s.kernel.mmap(hw, CPU, pid, &MapRequest::anonymous(1 << 30).at(Va::new((1 << 47) - PAGE))));
    let got = s.kernel.mmap(hw, CPU, pid, &MapRequest::anonymous(1 << 47));
    assert_eq!(got, Err(MmError::NoRoom { len: 1 << 47 }));
    let got = s.kernel.munmap(hw, CPU, pid, Va::new(0x1000), u64::MAX);
    assert!(matches!(got, Err(MmError::BadRange { .. })));
    let got = s.kernel.mprotect(hw, CPU, pid, Va::new(0x10_0000), PAGE, Prot::R);
    assert!(matches!(got, Err(MmError::BadRange { .. })));
    assert_eq!(s.kernel.switch_to(hw, CpuId(9), pid), Err(MmError::NoCpu { cpu: 9, cpus: 4 }));
    assert_eq!(s.kernel.exit(hw, CPU, ProcessId(77)), Err(MmError::NoProcess(ProcessId(77))));
    assert!(matches!(s.kernel.create_file(u64::MAX), Err(MmError::FileTooLarge { .. })));
    s.shutdown();
}

#[test]
fn a_skipped_shootdown_is_caught() {
    let mut s = with(|_| {});
    let pid = process(&mut s, ProcessSpec::default());
    let va = map(&mut s, pid, &MapRequest::anonymous(PAGE));
    assert_eq!(s.access(CPU, pid, va, Some(7)), Ok(7));
    s.machine.deaf = true;
    s.kernel.madvise(&mut s.machine, CPU, pid, va, PAGE, Advice::DontNeed).expect("a range");
    // The stale entry still leads to the old frame: not what a fresh page shows.
    assert_eq!(s.access(CPU, pid, va, None), Ok(7));
    s.machine.deaf = false;
    s.kernel.madvise(&mut s.machine, CPU, pid, va, PAGE, Advice::DontNeed).expect("a range");
}

#[test]
fn populate_leaves_what_single_faults_leave() {
    for (thp, zero_page, policy, write) in [
        (ThpMode::Never, true, Policy::FirstTouch, true),
        (ThpMode::Never, true, Policy::FirstTouch, false),
        (ThpMode::Always, false, Policy::Interleave(NodeSet::first(2)), true),
        (ThpMode::Madvise, false, Policy::Bind(NodeSet::default().with(NodeId(1))), false),
    ] {
        let intent = if write { Intent::WRITE } else { Intent::READ };
        let run = |at_once: bool| {
            let mut s = System::new(3000, KernelConfig { thp, zero_page, swap_slots: 20_000, ..config() });
            let pid = process(&mut s, ProcessSpec { policy, ..ProcessSpec::default() });
            let other = process(&mut s, ProcessSpec::default());
            // Something to swap out when memory gets short, and holes in the range.
            let ballast = map(&mut s, other, &MapRequest::anonymous(1500 * PAGE));
            s.kernel
                .populate(&mut s.machine, CPU, other, ballast, 1500 * PAGE, Intent::WRITE)
                .expect("pages");
            let len = 2200 * PAGE;
            let va = map(&mut s, pid, &MapRequest::anonymous(len));
            for page in (0..2200).step_by(97) {
                fault(&mut s, CPU, pid, va.offset(page * PAGE), Intent::READ);
            }
            s.kernel.switch_to(&mut s.machine, CPU, pid).expect("alive");
            if at_once {
                s.kernel.populate(&mut s.machine, FAR, pid, va, len, intent).expect("pages");
            } else {
                for page in 0..2200 {
                    let va = va.offset(page * PAGE);
                    let allowed = leaf(&s, pid, va).is_some_and(|(entry, _)| {
                        entry.is_present() && (!write || entry.has(paging::Flags::WRITABLE))
                    });
                    if !allowed {
                        fault(&mut s, FAR, pid, va, intent);
                    }
                }
            }
            let leaves: Vec<_> = (0..2200).map(|page| leaf(&s, pid, va.offset(page * PAGE))).collect();
            let space = s.kernel.process(pid).expect("alive").space();
            let state = (leaves, *space.stats(), *space.table().table_pages(), s.kernel.swap_used());
            s.shutdown();
            state
        };
        let (once, single) = (run(true), run(false));
        assert!(once == single, "{thp:?} {policy:?}: {:?}\n{:?}", once.1, single.1);
        assert!(once.0.iter().all(Option::is_some));
    }
}

#[test]
fn huge_pages_come_at_the_fault_and_split_where_a_part_is_treated_apart() {
    let mut s = with(|c| c.thp = ThpMode::Always);
    let pid = process(&mut s, ProcessSpec::default());
    let va = map(&mut s, pid, &MapRequest::anonymous(3 * HUGE));
    assert!(va.is_aligned(PageSize::Size2M));
    let outcome = fault(&mut s, CPU, pid, va.offset(HUGE + 5), Intent::WRITE);
    assert_eq!((outcome.kind, outcome.size), (FaultKind::Anonymous, PageSize::Size2M));
    let free = |s: &System| s.kernel.pool().free_frames(NodeId(0)) + s.kernel.pool().pcp_frames(NodeId(0));
    let before = free(&s);
    s.kernel.munmap(&mut s.machine, CPU, pid, va.offset(HUGE), 100 * PAGE).expect("a range");
    // 100 frames came back, less one for the table.
    assert_eq!(free(&s) - before, 99);
    assert_eq!(leaf(&s, pid, va.offset(HUGE)), None);
    assert_eq!(leaf(&s, pid, va.offset(HUGE + 100 * PAGE)).map(|l| l.1), Some(PageSize::Size4K));
    assert_eq!(s.kernel.stats().splits, 1);
    // Not where the block sticks out of the area.
    let small = map(&mut s, pid, &MapRequest::anonymous(HUGE / 2));
    assert_eq!(fault(&mut s, CPU, pid, small, Intent::WRITE).size, PageSize::Size4K);
    // Not when memory is in pieces: counted.
    s.shutdown();
    let mut s = with(|c| c.thp = ThpMode::Madvise);
    let pid = process(&mut s, ProcessSpec::default());
    let va = map(&mut s, pid, &MapRequest::anonymous(2 * HUGE));
    assert_eq!(fault(&mut s, CPU, pid, va, Intent::WRITE).size, PageSize::Size4K);
    s.kernel.madvise(&mut s.machine, CPU, pid, va, 2 * HUGE, Advice::HugePage).expect("a range");
    assert_eq!(fault(&mut s, CPU, pid, va.offset(HUGE), Intent::WRITE).size, PageSize::Size2M);
    s.shutdown();
}

#[test]
fn a_fork_shares_huge_pages_and_a_store_splits_them() {
    let mut s = with(|c| c.thp = ThpMode::Always);
    let pid = process(&mut s, ProcessSpec::default());
    let va = map(&mut s, pid, &MapRequest::anonymous(HUGE));
    s.access(CPU, pid, va, Some(1)).expect("a page");
    s.access(CPU, pid, va.offset(PAGE), Some(2)).expect("a page");
    let child = s.kernel.fork(&mut s.machine, CPU, pid).expect("a child");
    assert_eq!(s.access(FAR, child, va, Some(3)), Ok(3));
    assert_eq!(leaf(&s, child, va).map(|l| l.1), Some(PageSize::Size4K));
    assert_eq!(leaf(&s, pid, va).map(|l| l.1), Some(PageSize::Size2M));
    assert_eq!(s.access(CPU, pid, va, None), Ok(1));
    assert_eq!(s.access(FAR, child, va.offset(PAGE), None), Ok(2));
    s.kernel.exit(&mut s.machine, CPU, pid).expect("an exit");
    assert_eq!(s.access(FAR, child, va.offset(PAGE), Some(4)), Ok(4));
    s.shutdown();
}

#[test]
fn khugepaged_collapses_what_is_full_enough() {
    let mut s = with(|c| (c.thp, c.max_ptes_none) = (ThpMode::Never, 256));
    let pid = process(&mut s, ProcessSpec { thp: Some(ThpMode::Always), ..ProcessSpec::default() });
    let va = map(&mut s, pid, &MapRequest::anonymous(3 * HUGE));
    // Small pages first: the mode is switched on later, as for a program that started before.
    s.kernel.madvise(&mut s.machine, CPU, pid, va, 3 * HUGE, Advice::NoHugePage).expect("a range");
    for (block, pages) in [(0, 300), (1, 200)] {
        for page in 0..pages {
            s.access(CPU, pid, va.offset(block * HUGE + page * PAGE), Some(page + 1)).expect("a page");
        }
    }
    assert_eq!(s.kernel.khugepaged(&mut s.machine, FAR, pid, 9), Ok(0));
    s.kernel.madvise(&mut s.machine, CPU, pid, va, 3 * HUGE, Advice::HugePage).expect("a range");
    assert_eq!(s.kernel.khugepaged(&mut s.machine, FAR, pid, 9), Ok(1));
    assert_eq!(leaf(&s, pid, va).map(|l| l.1), Some(PageSize::Size2M));
    assert_eq!(leaf(&s, pid, va.offset(HUGE)).map(|l| l.1), Some(PageSize::Size4K));
    assert_eq!(s.access(CPU, pid, va.offset(299 * PAGE), None), Ok(300));
    assert_eq!(s.access(CPU, pid, va.offset(300 * PAGE), None), Ok(0));
    s.shutdown();
}

#[test]
fn reserved_huge_pages_serve_areas_made_of_them_and_come_back() {
    let mut s = with(|_| {});
    let taken = s.kernel.reserve_huge(&mut s.machine, CPU, NodeId(1), PageSize::Size2M, 3);
    assert_eq!((taken, s.kernel.reserved_huge(PageSize::Size2M)), (Ok(3), 3));
    let policy = Policy::Bind(NodeSet::default().with(NodeId(1)));
    let pid = process(&mut s, ProcessSpec { policy, ..ProcessSpec::default() });
    let va = map(&mut s, pid, &MapRequest::anonymous(2 * HUGE).of(PageSize::Size2M));
    assert_eq!(s.access(CPU, pid, va.offset(HUGE), Some(5)), Ok(5));
    assert_eq!(s.kernel.reserved_huge(PageSize::Size2M), 2);
    assert_eq!(node_of(&s, pid, va.offset(HUGE)), NodeId(1));
    let cut = s.kernel.munmap(&mut s.machine, CPU, pid, va, PAGE);
    assert!(matches!(cut, Err(MmError::BadRange { .. })), "{cut:?}");
    // Copy-on-write of one.
    let child = s.kernel.fork(&mut s.machine, CPU, pid).expect("a child");
    assert_eq!(s.access(CPU, child, va.offset(HUGE), Some(6)), Ok(6));
    assert_eq!(s.access(CPU, pid, va.offset(HUGE), None), Ok(5));
    s.kernel.exit(&mut s.machine, CPU, child).expect("an exit");
    s.kernel.munmap(&mut s.machine, CPU, pid, va, 2 * HUGE).expect("a range");
    assert_eq!(s.kernel.reserved_huge(PageSize::Size2M), 3);
    // None of 1 GiB is to be had on a machine of 256 MiB.
    let va = map(&mut s, pid, &MapRequest::anonymous(1 << 30).of(PageSize::Size1G));
    let got = s.kernel.fault(&mut s.machine, CPU, pid, va, Intent::WRITE);
    assert_eq!(got, Err(MmError::NoHugePage { addr: va.raw(), size: PageSize::Size1G }));
    s.shutdown();
}

#[test]
fn pages_go_where_the_policy_says_and_tables_with_the_process() {
    let mut s = with(|_| {});
    let pid = process(&mut s, ProcessSpec::default());
    let va = map(&mut s, pid, &MapRequest::anonymous(8 * PAGE));
    fault(&mut s, FAR, pid, va, Intent::WRITE);
    assert_eq!(node_of(&s, pid, va), NodeId(1));
    let policy = Some(Policy::Interleave(NodeSet::first(2)));
    s.kernel.mbind(&mut s.machine, CPU, pid, va.offset(PAGE), 7 * PAGE, policy).expect("a range");
    for page in 1..8 {
        fault(&mut s, CPU, pid, va.offset(page * PAGE), Intent::WRITE);
    }
    let nodes: Vec<_> = (1..8).map(|page| node_of(&s, pid, va.offset(page * PAGE)).0).collect();
    assert!(nodes.windows(2).all(|pair| pair[0] != pair[1]), "{nodes:?}");
    let preferred = map(&mut s, pid, &MapRequest::anonymous(PAGE).policy(Policy::Preferred(NodeId(1))));
    fault(&mut s, CPU, pid, preferred, Intent::WRITE);
    assert_eq!(node_of(&s, pid, preferred), NodeId(1));
    s.shutdown();
    // A bound process gets no page from elsewhere: it runs out while the other node is free.
    let mut s = System::new(2048, config());
    let policy = Policy::Bind(NodeSet::default().with(NodeId(1)));
    let pid = process(&mut s, ProcessSpec { policy, ..ProcessSpec::default() });
    let va = map(&mut s, pid, &MapRequest::anonymous(4096 * PAGE));
    let got = s.kernel.populate(&mut s.machine, CPU, pid, va, 4096 * PAGE, Intent::WRITE);
    assert!(matches!(got, Err(MmError::OutOfMemory(_))), "{got:?}");
    assert!(s.kernel.pool().free_frames(NodeId(0)) > 1900);
    s.shutdown();
}

#[test]
fn numa_balancing_moves_a_page_at_the_second_touch_from_the_same_node() {
    let mut s = with(|_| {});
    let pid = process(&mut s, ProcessSpec::default());
    let va = map(&mut s, pid, &MapRequest::anonymous(4 * PAGE));
    s.access(CPU, pid, va, Some(9)).expect("a page");
    for (round, moved) in [(1, NodeId(0)), (2, NodeId(1))] {
        assert_eq!(s.kernel.numa_scan(&mut s.machine, CPU, pid), Ok(1));
        assert_eq!(s.access(FAR, pid, va, None), Ok(9), "round {round}");
        assert_eq!(node_of(&s, pid, va), moved, "round {round}");
    }
    // A page that a child shares stays.
    let child = s.kernel.fork(&mut s.machine, CPU, pid).expect("a child");
    for _ in 0..3 {
        s.kernel.numa_scan(&mut s.machine, CPU, pid).expect("a scan");
        assert_eq!(s.access(CPU, pid, va, None), Ok(9));
        assert_eq!(node_of(&s, pid, va), NodeId(1));
    }
    s.kernel.exit(&mut s.machine, CPU, child).expect("an exit");
    let stats = s.kernel.stats();
    assert_eq!((stats.numa_hints, stats.migrated_pages), (5, 1));
    assert_eq!(s.kernel.migrate(&mut s.machine, CPU, pid, va, PAGE, NodeId(0)), Ok(1));
    assert_eq!((s.access(CPU, pid, va, None), node_of(&s, pid, va)), (Ok(9), NodeId(0)));
    s.shutdown();
}

#[test]
fn the_page_cache_is_shared_and_read_around() {
    let mut s = with(|_| {});
    let file = s.kernel.create_file(100).expect("a file");
    let (a, b) = (process(&mut s, ProcessSpec::default()), process(&mut s, ProcessSpec::default()));
    let request = MapRequest::private_file(file, 128 * PAGE, Prot::RW).at(Va::new(1 << 30));
    let (va, vb) = (map(&mut s, a, &request), map(&mut s, b, &request));
    assert_eq!(fault(&mut s, CPU, a, va, Intent::READ).kind, FaultKind::FileMajor);
    assert_eq!(s.kernel.cached_pages(file), Ok(32));
    // 15 around the first; the other process finds all of them cached.
    assert_eq!(s.kernel.stats().faults_around, 15);
    assert_eq!(fault(&mut s, CPU, b, vb, Intent::READ).kind, FaultKind::FileMinor);
    assert_eq!(
        leaf(&s, a, va).map(|l| l.0.frame()),
        Some(s.kernel.cached_frame(file, 0).expect("a file").expect("cached"))
    );
    assert_eq!(s.access(CPU, b, vb.offset(PAGE), Some(4)), Ok(4));
    assert_eq!(s.access(CPU, a, va.offset(PAGE), None), Ok(file_content(file, 1)));
    assert_eq!(fault(&mut s, CPU, a, va.offset(20 * PAGE), Intent::WRITE).kind, FaultKind::FileCopy);
    let end = s.kernel.fault(&mut s.machine, CPU, a, va.offset(100 * PAGE), Intent::READ);
    assert_eq!(end, Err(MmError::Bus { addr: va.raw() + 100 * PAGE, file, page: 100, pages: 100 }));
    // A file without a name goes with its last mapping.
    s.kernel.unlink(file).expect("a file");
    s.kernel.exit(&mut s.machine, CPU, a).expect("an exit");
    assert!(s.kernel.cached_pages(file).is_ok());
    s.kernel.exit(&mut s.machine, CPU, b).expect("an exit");
    assert_eq!(s.kernel.cached_pages(file), Err(MmError::NoFile(file)));
    s.shutdown();
}

#[test]
fn dirty_pages_are_written_back_before_they_go() {
    let mut s = with(|_| {});
    let file = s.kernel.create_file(64).expect("a file");
    let pid = process(&mut s, ProcessSpec::default());
    let va = map(&mut s, pid, &MapRequest::shared_file(file, 64 * PAGE, Prot::RW));
    assert_eq!(s.access(CPU, pid, va, None), Ok(file_content(file, 0)));
    assert_eq!(s.access(CPU, pid, va, Some(1)), Ok(1));
    assert_eq!(s.kernel.stats().write_notifies, 1);
    // Once around clears the accessed bits, once more takes the pages.
    s.kernel.reclaim(&mut s.machine, CPU, 1000).expect("a CPU");
    s.kernel.reclaim(&mut s.machine, CPU, 1000).expect("a CPU");
    assert_eq!((s.kernel.cached_pages(file), s.kernel.written_back()), (Ok(0), 1));
    assert_eq!(s.machine.disk.get(&(file, 0)), Some(&1));
    assert_eq!(s.access(FAR, pid, va, None), Ok(1));
    s.shutdown();
}

#[test]
fn a_forked_page_goes_to_one_swap_slot_and_comes_back_shared() {
    let mut s = with(|c| c.swap_slots = 100);
    let pid = process(&mut s, ProcessSpec::default());
    let va = map(&mut s, pid, &MapRequest::anonymous(PAGE));
    s.access(CPU, pid, va, Some(8)).expect("a page");
    let child = s.kernel.fork(&mut s.machine, CPU, pid).expect("a child");
    for _ in 0..3 {
        s.kernel.reclaim(&mut s.machine, CPU, 100).expect("a CPU");
    }
    assert_eq!((s.kernel.swap_used(), s.kernel.stats().swap_outs), (1, 1));
    assert_eq!(fault(&mut s, CPU, pid, va, Intent::READ).kind, FaultKind::SwapIn);
    assert_eq!(fault(&mut s, CPU, child, va, Intent::READ).kind, FaultKind::SwapCached);
    assert_eq!(s.kernel.swap_used(), 0);
    assert_eq!(s.access(CPU, child, va, Some(9)), Ok(9));
    assert_eq!((s.access(CPU, pid, va, None), s.kernel.stats().cow_copies), (Ok(8), 1));
    s.shutdown();
}

#[test]
fn memory_that_cannot_be_had_is_one_clear_error() {
    let mut s = System::new(1024, config());
    let pid = process(&mut s, ProcessSpec::default());
    let va = map(&mut s, pid, &MapRequest::anonymous(4096 * PAGE));
    let got = s.kernel.populate(&mut s.machine, CPU, pid, va, 4096 * PAGE, Intent::WRITE);
    let Err(e @ MmError::OutOfMemory(_)) = got else { panic!("{got:?}") };
    assert!(e.to_string().starts_with("out of memory: no 1 contiguous frames for node 0"), "{e}");
    // The kernel is as good as before.
    s.kernel.munmap(&mut s.machine, CPU, pid, va, 4096 * PAGE).expect("a range");
    let va = map(&mut s, pid, &MapRequest::anonymous(PAGE));
    assert_eq!(s.access(CPU, pid, va, Some(1)), Ok(1));
    s.shutdown();
}

#[test]
fn a_group_stays_under_its_limit_by_swapping_its_own_memory() {
    let group = GroupId(4);
    for swap in [0, 1000] {
        let mut s = with(|c| c.swap_slots = swap);
        s.kernel.set_limit(group, Some(100));
        let pid = process(&mut s, ProcessSpec { group, ..ProcessSpec::default() });
        let other = process(&mut s, ProcessSpec::default());
        let theirs = map(&mut s, other, &MapRequest::anonymous(50 * PAGE));
        s.kernel.populate(&mut s.machine, CPU, other, theirs, 50 * PAGE, Intent::WRITE).expect("pages");
        let va = map(&mut s, pid, &MapRequest::anonymous(300 * PAGE));
        let got = s.kernel.populate(&mut s.machine, CPU, pid, va, 300 * PAGE, Intent::WRITE);
        assert!(s.kernel.group(group).charged <= 100);
        if swap == 0 {
            assert_eq!(got, Err(MmError::GroupLimit { group, limit: 100 }));
        } else {
            assert_eq!(got, Ok(300));
            assert!(s.kernel.swap_used() >= 200);
        }
        // Nobody else's memory went.
        assert!(
            (0..50).all(|page| leaf(&s, other, theirs.offset(page * PAGE)).is_some_and(|l| l.0.is_present()))
        );
        s.shutdown();
    }
}

#[test]
fn a_cpu_keeps_as_many_spaces_as_it_has_pcids() {
    let mut s = with(|c| c.pcids = 2);
    let pids: Vec<_> = (0..3).map(|_| process(&mut s, ProcessSpec::default())).collect();
    let vas: Vec<_> = pids.iter().map(|&pid| map(&mut s, pid, &MapRequest::anonymous(PAGE))).collect();
    for round in 0..2 {
        for (&pid, &va) in pids.iter().zip(&vas) {
            s.access(CPU, pid, va, Some(round)).expect("a page");
        }
    }
    // Round robin over two slots: from the third on every switch evicts.
    let stats = s.kernel.stats();
    assert_eq!((stats.switches, stats.pcid_evictions), (6, 4));
    // A shootdown goes only to CPUs that may have something.
    let before = s.machine.shootdowns;
    s.kernel.munmap(&mut s.machine, FAR, pids[0], vas[0], PAGE).expect("a range");
    assert_eq!(s.machine.shootdowns, before, "evicted from the only CPU that ran it");
    s.kernel.munmap(&mut s.machine, FAR, pids[2], vas[2], PAGE).expect("a range");
    assert_eq!(s.machine.shootdowns, before + 1);
    assert!(s.machine.costs.contains(&Cost::Ipi { targets: 1 }));
    s.shutdown();
}

#[test]
fn exec_gives_a_new_address_space() {
    let mut s = with(|_| {});
    let pid = process(&mut s, ProcessSpec::default());
    let va = map(&mut s, pid, &MapRequest::anonymous(PAGE));
    s.access(CPU, pid, va, Some(1)).expect("a page");
    s.kernel.exec(&mut s.machine, CPU, pid).expect("an exec");
    assert!(matches!(s.access(CPU, pid, va, None), Err(MmError::Segv(_))));
    map(&mut s, pid, &MapRequest::anonymous(PAGE).at(va));
    assert_eq!(s.access(CPU, pid, va, None), Ok(0));
    assert!(s.machine.costs.contains(&Cost::Syscall(Syscall::Exec)));
    s.shutdown();
}

#[test]
fn a_group_is_one_user_and_one_application() {
    let mut s = with(|_| {});
    let spec = |group, user, application| ProcessSpec {
        group: GroupId(group),
        identity: Identity { user, application },
        ..ProcessSpec::default()
    };
    let first = process(&mut s, spec(1, 1000, 7));
    process(&mut s, spec(1, 1000, 7));
    for other in [spec(1, 1001, 7), spec(1, 1000, 8)] {
        let refused = s.kernel.create_process(&mut s.machine, CPU, other).expect_err("not its group");
        let owner = Identity { user: 1000, application: 7 };
        assert_eq!(refused, MmError::NotYourGroup { group: GroupId(1), owner, process: other.identity });
        assert!(refused.to_string().contains("give it a group of its own"), "{refused}");
    }
    process(&mut s, spec(2, 1001, 7));
    // A program that execs itself stays; another leaves the group.
    let group = |s: &System, pid| s.kernel.process(pid).expect("alive").spec().group;
    for (application, after) in [(7, GroupId(1)), (9, GroupId(0))] {
        let who = Identity { user: 1000, application };
        s.kernel.exec_as(&mut s.machine, CPU, first, None, who).expect("an exec");
        assert_eq!(group(&s, first), after);
    }
    let who = Identity { user: 1001, application: 7 };
    let wrong = s.kernel.exec_as(&mut s.machine, CPU, first, Some(GroupId(1)), who);
    assert!(matches!(wrong, Err(MmError::NotYourGroup { .. })));
    s.kernel.exec_as(&mut s.machine, CPU, first, Some(GroupId(2)), who).expect("an exec");
    assert_eq!(group(&s, first), GroupId(2));
    s.shutdown();
}

#[test]
fn an_area_grows_in_place_shrinks_and_moves() {
    let mut s = with(|_| {});
    let pid = process(&mut s, ProcessSpec::default());
    let at = Va::new(1 << 30);
    map(&mut s, pid, &MapRequest::anonymous(4 * PAGE).at(at));
    s.access(CPU, pid, at.offset(3 * PAGE), Some(3)).expect("a page");
    let remap =
        |s: &mut System, old, len, new| s.kernel.mremap(&mut s.machine, CPU, pid, old, len, new, None);
    assert_eq!(remap(&mut s, at, 4 * PAGE, 8 * PAGE), Ok(at));
    // In the way of growing: it moves.
    map(&mut s, pid, &MapRequest::anonymous(PAGE).at(at.offset(8 * PAGE)));
    let new = remap(&mut s, at, 8 * PAGE, 9 * PAGE).expect("room");
    assert_ne!(new, at);
    assert_eq!(s.access(CPU, pid, new.offset(3 * PAGE), None), Ok(3));
    assert!(matches!(s.access(CPU, pid, at.offset(3 * PAGE), None), Err(MmError::Segv(_))));
    assert_eq!(remap(&mut s, new, 9 * PAGE, 2 * PAGE), Ok(new));
    assert!(matches!(s.access(CPU, pid, new.offset(3 * PAGE), None), Err(MmError::Segv(_))));
    s.shutdown();
}

#[test]
fn compaction_makes_room_for_a_huge_page() {
    let mut s = System::new(2048, config());
    let pid = process(
        &mut s,
        ProcessSpec { policy: Policy::Bind(NodeSet::default().with(NodeId(1))), ..ProcessSpec::default() },
    );
    let va = map(&mut s, pid, &MapRequest::anonymous(1900 * PAGE));
    let mut had = 0;
    while had < 1900 && s.access(CPU, pid, va.offset(had * PAGE), Some(had)).is_ok() {
        had += 1;
    }
    // Every second page goes: plenty is free, and none of it in one piece.
    for page in (0..had).step_by(2) {
        s.kernel.munmap(&mut s.machine, CPU, pid, va.offset(page * PAGE), PAGE).expect("a range");
    }
    s.kernel.pool_mut().drain(None);
    assert_eq!(s.kernel.pool().free_blocks(NodeId(1), 9) + s.kernel.pool().free_blocks(NodeId(1), 10), 0);
    let report = s.kernel.compact(&mut s.machine, CPU, NodeId(1), 9).expect("a pass");
    assert!(report.success, "{report:?}");
    for page in (1..had).step_by(2) {
        assert_eq!(s.access(FAR, pid, va.offset(page * PAGE), None), Ok(page));
    }
    s.shutdown();
}

#[test]
fn a_page_is_zeroed_before_anybody_sees_it() {
    let mut s = with(|c| (c.zero_page, c.thp) = (false, ThpMode::Always));
    let first = process(&mut s, ProcessSpec::default());
    let va = map(&mut s, first, &MapRequest::anonymous(HUGE));
    for page in 0..512 {
        s.access(CPU, first, va.offset(page * PAGE), Some(GARBAGE)).expect("a page");
    }
    s.kernel.exit(&mut s.machine, CPU, first).expect("an exit");
    let second = process(&mut s, ProcessSpec::default());
    let va = map(&mut s, second, &MapRequest::anonymous(HUGE));
    assert!((0..512).all(|page| s.access(CPU, second, va.offset(page * PAGE), None) == Ok(0)));
    assert_eq!(s.kernel.pool().state(leaf(&s, second, va).expect("mapped").0.frame()), FrameState::Anon);
    s.shutdown();
}

#[test]
fn what_is_in_memory_is_counted_by_size_and_node() {
    let mut s = with(|c| (c.thp, c.swap_slots) = (ThpMode::Always, 100));
    let pid = process(&mut s, ProcessSpec::default());
    let va = map(&mut s, pid, &MapRequest::anonymous(HUGE + 4 * PAGE));
    fault(&mut s, CPU, pid, va, Intent::WRITE);
    fault(&mut s, FAR, pid, va.offset(HUGE), Intent::WRITE);
    fault(&mut s, FAR, pid, va.offset(HUGE + PAGE), Intent::READ);
    let resident = s.kernel.resident(pid).expect("alive");
    assert_eq!((resident.leaves, resident.zero, resident.swapped), ([1, 1, 0], 1, 0));
    assert_eq!((resident.on_node(NodeId(0)), resident.on_node(NodeId(1))), (512, 1));
    assert_eq!((resident.of_size(PageSize::Size2M), resident.bytes()), (1, HUGE + PAGE));
    s.shutdown();
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let changes: [fn(&mut KernelConfig); 4] =
        [|c| c.levels = 3, |c| c.cpus.clear(), |c| c.read_around = 0, |c| c.cpus = vec![NodeId(9)]];
    for change in changes {
        let mut config = config();
        change(&mut config);
        let layout = common::layout(4096);
        let pool = paging::FramePool::new(&layout, Default::default()).expect("a layout");
        let got = os::Kernel::new(
            config,
            pool,
            paging::Arena::new(layout.end()),
            Box::new(paging::FromBuddy),
            Box::new(os::SingleTables::default()),
            &mut common::Machine::new(1),
        );
        assert!(matches!(got, Err(MmError::BadConfig(_))), "{:?}", got.err());
    }
}
