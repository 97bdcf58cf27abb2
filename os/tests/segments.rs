//! Direct segments as software sees them: whatever happens to a segment, a
//! program sees what it stored; memory is conserved; nothing reads a faulty frame.

mod common;

use common::{System, config};
use mechanisms::segments::FilterGeometry;
use os::hypervisor::{GuestAndHost, GuestOnHost, KEPT_BELOW_GAP};
use os::segment::{Contiguity, How, Mode, NoSegment, Promote, Reason};
use os::{
    Advice, Kernel, KernelConfig, MapRequest, MmError, NoMachine, ProcessId, ProcessSpec, Prot, SingleTables,
    Slot, ThpMode, VmId, VmSpec,
};
use paging::frames::{CpuId, DMA32_END, Fragmentation, FrameState, Layout, NodeId, NodeSpec, PoolConfig};
use paging::{Arena, Frame, FramePool, FromBuddy, Gfn, Gpa, GuestPhys, Intent, Va};
use proptest::prelude::*;
use std::collections::BTreeMap;

const CPU: CpuId = CpuId(0);
const PAGE: u64 = 4096;
const BASE: u64 = 0x4000_0000;
const PAGES: u64 = 1200;

fn at(page: u64) -> Va {
    Va::new(BASE + page * PAGE)
}

fn range(pages: std::ops::Range<u64>) -> std::ops::Range<u64> {
    BASE + pages.start * PAGE..BASE + pages.end * PAGE
}

fn system() -> (System, ProcessId) {
    let mut s = System::new(8192, KernelConfig { thp: ThpMode::Always, swap_slots: 4096, ..config() });
    let pid = s.kernel.create_process(&mut s.machine, CPU, ProcessSpec::default()).expect("a process");
    let request = MapRequest::anonymous(PAGES * PAGE).at(Va::new(BASE));
    s.kernel.mmap(&mut s.machine, CPU, pid, &request).expect("room");
    (s, pid)
}

fn begin(s: &mut System, pid: ProcessId, pages: std::ops::Range<u64>) -> Result<os::segment::Begun, MmError> {
    s.kernel.begin_segment(&mut s.machine, CPU, pid, range(pages), Contiguity::Compacted)
}

fn departed(s: &System, pid: ProcessId) -> Vec<(Reason, How, u64, u64)> {
    let process = s.kernel.process(pid).expect("alive");
    process.space().departures().iter().map(|(r, h, d)| (r, h, d.pages, d.others)).collect()
}

fn in_segment(s: &System, pid: ProcessId) -> u64 {
    s.kernel.process(pid).expect("alive").space().segment().map_or(0, os::segment::SpaceSegment::pages)
}

#[test]
fn a_primary_region_takes_what_is_there_and_faults_no_more() {
    let (mut s, pid) = system();
    s.access(CPU, pid, at(3), Some(33)).expect("memory");
    s.access(CPU, pid, at(700), Some(77)).expect("memory");
    assert_eq!(s.kernel.primary_region(pid), Ok(range(0..PAGES)));
    let begun = begin(&mut s, pid, 0..PAGES).expect("contiguous memory");
    assert_eq!((begun.pages, begun.escaped), (PAGES, 0));
    assert_eq!(begun.copied + begun.zeroed, PAGES);
    let faults = s.kernel.stats().minor_faults;
    assert_eq!(s.access(CPU, pid, at(3), None), Ok(33));
    assert_eq!(s.access(CPU, pid, at(700), None), Ok(77));
    assert_eq!(s.access(CPU, pid, at(1100), None), Ok(0));
    s.access(CPU, pid, at(1100), Some(5)).expect("memory");
    assert_eq!(s.kernel.stats().minor_faults, faults, "the segment needs no entries");
    assert_eq!(begin(&mut s, pid, 0..4), Err(MmError::NoSegment(NoSegment::Taken)));
    s.kernel.end_segment(&mut s.machine, CPU, pid).expect("tables");
    assert_eq!(departed(&s, pid), [(Reason::Asked, How::End, PAGES, 0)]);
    assert_eq!(s.access(CPU, pid, at(1100), None), Ok(5));
    assert_eq!(s.kernel.stats().minor_faults, faults, "entries map what was in place");
    s.shutdown();
}

#[test]
fn pages_leave_in_the_cheapest_way_and_the_reason_is_kept() {
    let (mut s, pid) = system();
    begin(&mut s, pid, 0..PAGES).expect("contiguous memory");
    s.access(CPU, pid, at(600), Some(6)).expect("memory");
    // One in the middle: the filter. Many at the end: a shorter segment.
    s.kernel.mprotect(&mut s.machine, CPU, pid, at(600), PAGE, Prot::R).expect("mapped");
    assert!(matches!(s.access(CPU, pid, at(600), Some(1)), Err(MmError::Segv(_))));
    assert_eq!(s.access(CPU, pid, at(600), None), Ok(6));
    s.kernel.munmap(&mut s.machine, CPU, pid, at(1000), 200 * PAGE).expect("mapped");
    assert!(matches!(s.access(CPU, pid, at(1100), None), Err(MmError::Segv(_))));
    assert_eq!(
        departed(&s, pid),
        [(Reason::Unmapped, How::Trim, 200, 0), (Reason::Protected, How::Filter, 1, 0),]
    );
    assert_eq!(in_segment(&s, pid), 999);
    // What is thrown away is zeroed where it is.
    s.access(CPU, pid, at(10), Some(1)).expect("memory");
    s.kernel.madvise(&mut s.machine, CPU, pid, at(0), 20 * PAGE, Advice::DontNeed).expect("mapped");
    assert_eq!(s.access(CPU, pid, at(10), None), Ok(0));
    assert_eq!(in_segment(&s, pid), 999);
    // A fork shares everything: the segment ends.
    s.access(CPU, pid, at(11), Some(11)).expect("memory");
    let child = s.kernel.fork(&mut s.machine, CPU, pid).expect("tables");
    assert_eq!(departed(&s, pid).last().map(|d| (d.0, d.1)), Some((Reason::CopyOnWrite, How::End)));
    s.access(CPU, pid, at(11), Some(12)).expect("memory");
    assert_eq!(s.access(CPU, child, at(11), None), Ok(11));
    // And cannot begin again while the child has the pages.
    let refused = begin(&mut s, pid, 601..1000);
    let many = |r: &Result<_, MmError>| {
        matches!(r, Err(MmError::NoSegment(NoSegment::TooManyEscapes { reason: Reason::CopyOnWrite, .. })))
    };
    assert!(many(&refused), "{refused:?}");
    s.shutdown();
}

#[test]
fn faulty_frames_escape_and_a_reservation_goes_around_them() {
    let (mut s, pid) = system();
    s.kernel.config_mut().filter = FilterGeometry::new(64, 4).expect("whole banks");
    begin(&mut s, pid, 0..PAGES).expect("contiguous memory");
    s.access(CPU, pid, at(512), Some(5)).expect("memory");
    let frame = |s: &System, page: u64| {
        let process = s.kernel.process(pid).expect("alive");
        process.space().segment().expect("a segment").registers().frame_of(at(page))
    };
    let bad = frame(&s, 512);
    s.kernel.mark_faulty(&mut s.machine, CPU, bad).expect("room");
    s.machine.content.insert(bad.number(), 0xbad);
    assert_eq!(s.kernel.pool().state(bad), FrameState::Faulty);
    assert_eq!(s.access(CPU, pid, at(512), None), Ok(5));
    assert_eq!(departed(&s, pid), [(Reason::Faulty, How::Filter, 1, 0)]);
    s.kernel.exit(&mut s.machine, CPU, pid).expect("alive");
    assert_eq!(s.kernel.pool().state(bad), FrameState::Faulty, "never again");
    // Bad frames all over the node: only a range with some of them is long enough.
    for frame in (0x8000 + 256..0xa000).step_by(1024) {
        s.kernel.mark_faulty(&mut s.machine, CPU, Frame::new(frame)).expect("free");
    }
    for frame in (0x10000 + 256..0x12000).step_by(1024) {
        s.kernel.mark_faulty(&mut s.machine, CPU, Frame::new(frame)).expect("free");
    }
    let pid = s.kernel.create_process(&mut s.machine, CPU, ProcessSpec::default()).expect("a process");
    let request = MapRequest::anonymous(4000 * PAGE).at(Va::new(BASE));
    s.kernel.mmap(&mut s.machine, CPU, pid, &request).expect("room");
    let begun = begin(&mut s, pid, 0..4000).expect("faulty frames escape");
    assert!(begun.escaped >= 3 && begun.escaped <= 8 && begun.pages + begun.escaped == 4000, "{begun:?}");
    for page in 0..4000 {
        s.access(CPU, pid, at(page), Some(page)).expect("memory");
    }
    for page in 0..4000 {
        assert_eq!(s.access(CPU, pid, at(page), None), Ok(page));
    }
    assert!(s.kernel.stats().segment_faults > 0, "the filter took some pages for escaped ones");
}

#[test]
fn memory_pressure_shortens_a_segment() {
    let (mut s, pid) = system();
    begin(&mut s, pid, 0..PAGES).expect("contiguous memory");
    for page in 0..PAGES {
        s.access(CPU, pid, at(page), Some(page + 1)).expect("memory");
    }
    let got = s.kernel.reclaim(&mut s.machine, CPU, 64).expect("a CPU");
    assert!(got >= 64, "{got}");
    assert_eq!(departed(&s, pid), [(Reason::Swapped, How::Trim, 512, 0)]);
    for page in 0..PAGES {
        assert_eq!(s.access(CPU, pid, at(page), None), Ok(page + 1));
    }
    assert!(s.kernel.stats().swap_ins >= 64);
    s.shutdown();
}

#[derive(Clone, Debug)]
enum Action {
    Store(u64),
    Load(u64),
    Begin(u64, u64),
    End,
    Leave(u64, u64),
    Discard(u64, u64),
    Unmap(u64, u64),
    Map(u64, u64),
    Protect(u64, u64, bool),
    Fork,
    Exit,
    Fault(u64),
    Khugepaged,
    Reclaim,
    Compact,
}

fn action() -> impl Strategy<Value = Action> {
    let page = || 0..PAGES;
    let span = || (0..PAGES, 1..PAGES / 2);
    let few = || (0..PAGES, 1u64..24);
    prop_oneof![
        12 => page().prop_map(Action::Store),
        12 => page().prop_map(Action::Load),
        3 => span().prop_map(|(s, n)| Action::Begin(s, n)),
        1 => Just(Action::Begin(0, PAGES)),
        1 => Just(Action::End),
        1 => few().prop_map(|(s, n)| Action::Leave(s, n)),
        2 => few().prop_map(|(s, n)| Action::Discard(s, n)),
        1 => few().prop_map(|(s, n)| Action::Unmap(s, n)),
        1 => span().prop_map(|(s, n)| Action::Unmap(s, n)),
        2 => span().prop_map(|(s, n)| Action::Map(s, n)),
        2 => (few(), any::<bool>()).prop_map(|((s, n), w)| Action::Protect(s, n, w)),
        1 => Just(Action::Fork),
        1 => Just(Action::Exit),
        3 => page().prop_map(Action::Fault),
        1 => Just(Action::Khugepaged),
        1 => Just(Action::Reclaim),
        1 => Just(Action::Compact),
    ]
}

/// What a page must be: mapped, and stores allowed; its content.
#[derive(Clone, Copy, Debug)]
struct Page {
    writable: bool,
    value: u64,
}

fn run(actions: Vec<Action>) -> Result<(), TestCaseError> {
    let (mut s, pid) = system();
    let start = Page { writable: true, value: 0 };
    let mut model: BTreeMap<u64, Page> = (0..PAGES).map(|page| (page, start)).collect();
    let mut children: Vec<(ProcessId, BTreeMap<u64, Page>)> = Vec::new();
    let mut stored = 0;
    for action in &actions {
        let span = |start: u64, len: u64| start..(start + len).min(PAGES);
        match *action {
            Action::Store(page) => {
                stored += 1;
                let done = s.access(CpuId((page % 4) as u16), pid, at(page), Some(stored));
                match model.get_mut(&page).filter(|page| page.writable) {
                    Some(it) => {
                        prop_assert_eq!(done, Ok(stored));
                        it.value = stored;
                    }
                    None => prop_assert!(matches!(done, Err(MmError::Segv(_))), "{:?}", done),
                }
            }
            Action::Load(page) => {
                let done = s.access(CpuId((page % 3) as u16), pid, at(page), None);
                match model.get(&page) {
                    Some(it) => prop_assert_eq!(done, Ok(it.value), "page {}", page),
                    None => prop_assert!(matches!(done, Err(MmError::Segv(_))), "{:?}", done),
                }
                if let Some((child, theirs)) = children.last()
                    && let Some(it) = theirs.get(&page)
                {
                    prop_assert_eq!(s.access(CPU, *child, at(page), None), Ok(it.value));
                }
            }
            Action::Begin(first, len) => {
                let pages = span(first, len);
                let eligible = pages.clone().all(|page| model.get(&page).is_some_and(|page| page.writable));
                let had = in_segment(&s, pid) > 0;
                match begin(&mut s, pid, pages) {
                    Ok(_) => prop_assert!(eligible && !had),
                    Err(MmError::NoSegment(NoSegment::NotPrimary(_))) => prop_assert!(!eligible),
                    Err(MmError::NoSegment(NoSegment::Taken)) => prop_assert!(had),
                    Err(MmError::NoSegment(_) | MmError::OutOfMemory(_)) => {}
                    Err(other) => return Err(TestCaseError::fail(other.to_string())),
                }
            }
            Action::End => s.kernel.end_segment(&mut s.machine, CPU, pid).expect("tables"),
            Action::Leave(first, len) => s
                .kernel
                .leave_segment(&mut s.machine, CPU, pid, range(span(first, len)), Reason::Swapped)
                .expect("tables"),
            Action::Discard(first, len) => {
                let pages = span(first, len);
                let bytes = (pages.end - pages.start) * PAGE;
                if pages.clone().all(|page| model.contains_key(&page)) {
                    s.kernel
                        .madvise(&mut s.machine, CPU, pid, at(pages.start), bytes, Advice::DontNeed)
                        .expect("mapped");
                    model.range_mut(pages).for_each(|(_, page)| page.value = 0);
                }
            }
            Action::Unmap(first, len) => {
                let pages = span(first, len);
                let bytes = (pages.end - pages.start) * PAGE;
                s.kernel.munmap(&mut s.machine, CPU, pid, at(pages.start), bytes).expect("a range");
                model.retain(|page, _| !pages.contains(page));
            }
            Action::Map(first, len) => {
                let pages = span(first, len);
                let request = MapRequest::anonymous((pages.end - pages.start) * PAGE).at(at(pages.start));
                s.kernel.mmap(&mut s.machine, CPU, pid, &request).expect("room");
                model.extend(pages.map(|page| (page, start)));
            }
            Action::Protect(first, len, writable) => {
                let pages = span(first, len);
                let bytes = (pages.end - pages.start) * PAGE;
                if pages.clone().all(|page| model.contains_key(&page)) {
                    let prot = if writable { Prot::RW } else { Prot::R };
                    s.kernel
                        .mprotect(&mut s.machine, CPU, pid, at(pages.start), bytes, prot)
                        .expect("mapped");
                    model.range_mut(pages).for_each(|(_, page)| page.writable = writable);
                }
            }
            Action::Fork if children.len() < 2 => {
                let child = s.kernel.fork(&mut s.machine, CPU, pid).expect("tables");
                children.push((child, model.clone()));
            }
            Action::Exit => {
                if let Some((child, theirs)) = children.pop() {
                    for (&page, it) in theirs.iter().step_by(37) {
                        prop_assert_eq!(s.access(CPU, child, at(page), None), Ok(it.value));
                    }
                    s.kernel.exit(&mut s.machine, CPU, child).expect("alive");
                }
            }
            Action::Fault(page) => {
                // A page's frame breaks.
                let process = s.kernel.process(pid).expect("alive");
                let Some(segment) = process.space().segment() else { continue };
                if segment.registers().bounds(at(page)) && s.kernel.stats().migrated_pages < 24 {
                    let frame = segment.registers().frame_of(at(page));
                    // Also one whose page escaped before: free again, somebody else's, or faulty already.
                    if s.kernel.mark_faulty(&mut s.machine, CPU, frame).is_ok() {
                        s.machine.content.insert(frame.number(), common::GARBAGE);
                    }
                }
            }
            Action::Khugepaged => {
                s.kernel.khugepaged(&mut s.machine, CPU, pid, 4).expect("frames");
            }
            Action::Reclaim => {
                s.kernel.reclaim(&mut s.machine, CPU, 64).expect("a CPU");
            }
            Action::Compact => {
                s.kernel.compact(&mut s.machine, CPU, NodeId(0), 10).expect("frames");
            }
            Action::Fork => {}
        }
        // What hardware has is what software knows; no entry and no segment leads to a faulty frame.
        let process = s.kernel.process(pid).expect("alive");
        let space = process.space();
        for page in (0..PAGES).step_by(7) {
            let Some(segment) = space.segment() else { break };
            let inside = segment.registers().translate(at(page));
            if let Some(frame) = inside.map(paging::Addr::frame) {
                prop_assert_eq!(s.kernel.pool().state(frame), FrameState::Reserved);
                prop_assert!(model.contains_key(&page), "page {} is not mapped", page);
            }
        }
    }
    for (&page, it) in &model {
        prop_assert_eq!(s.access(CPU, pid, at(page), None), Ok(it.value), "page {}", page);
    }
    s.kernel.pool().audit().map_err(|error| TestCaseError::fail(error.to_string()))?;
    let (pool, mem) = s.kernel.shutdown(&mut s.machine).expect("a shutdown");
    prop_assert_eq!(mem.tables(), 0);
    let totals = pool.audit().map_err(|error| TestCaseError::fail(error.to_string()))?;
    // Only faulty frames are not free.
    prop_assert_eq!(totals.owned(), totals.of(FrameState::Faulty));
    prop_assert_eq!(totals.all(), 2 * 8192);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_program_sees_what_it_stored_whatever_happens_to_its_segment(
        actions in proptest::collection::vec(action(), 1..80),
    ) {
        run(actions)?;
    }
}

struct Vm {
    host: System,
    guest: Kernel<Arena<GuestPhys>>,
    id: VmId,
    pid: ProcessId,
    guest_machine: NoMachine,
}

impl Vm {
    /// A guest with memory below and above the I/O gap, fragmented to `level`, and a
    /// process with a region of `pages` pages.
    fn new(level: f64, pages: u64) -> Vm {
        let mut host = System::new(32768, config());
        let ranges = [0..KEPT_BELOW_GAP, KEPT_BELOW_GAP..KEPT_BELOW_GAP + 4096, DMA32_END..DMA32_END + 16384];
        // The host of these tests has fewer frames than a guest keeps below the gap.
        let ranges: Vec<_> = ranges.into_iter().map(|r| if r.start == 0 { 512..1024 } else { r }).collect();
        let slots: Vec<Slot> = ranges.iter().map(|r| Slot::new(Gfn::new(r.start), r.end - r.start)).collect();
        let id = host.kernel.create_vm(&mut host.machine, CPU, VmSpec::default(), &slots).expect("a VM");
        host.kernel.enter_vm(&mut host.machine, CPU, id).expect("a VM");
        let layout = Layout { nodes: vec![NodeSpec { frames: ranges }], distances: vec![vec![10]] };
        let fragmentation = (level > 0.0).then(|| Fragmentation::new(level, 7));
        let pool =
            FramePool::new(&layout, PoolConfig { fragmentation, ..PoolConfig::default() }).expect("a layout");
        let mem = Arena::new(2 * layout.end());
        let (source, tables) = (Box::new(FromBuddy), Box::new(SingleTables::default()));
        let config = KernelConfig::new(vec![NodeId(0); 4]);
        let mut guest = Kernel::new(config, pool, mem, source, tables, &mut NoMachine).expect("a guest");
        let pid = guest.create_process(&mut NoMachine, CPU, ProcessSpec::default()).expect("a process");
        let request = MapRequest::anonymous(pages * PAGE).at(Va::new(BASE));
        guest.mmap(&mut NoMachine, CPU, pid, &request).expect("room");
        Vm { host, guest, id, pid, guest_machine: NoMachine }
    }
    fn both(&mut self) -> GuestAndHost<'_, Arena<GuestPhys>, Arena<paging::HostPhys>> {
        GuestAndHost {
            guest: &mut self.guest,
            guest_hw: &mut self.guest_machine,
            host: &mut self.host.kernel,
            host_hw: &mut self.host.machine,
            vm: self.id,
            cpu: CPU,
        }
    }
    fn vm_frames(&self) -> u64 {
        self.host.kernel.vm(self.id).expect("a VM").slots().map(|(_, slot)| slot.frames).sum()
    }
}

fn mode(vm: &mut Vm) -> Result<Mode, MmError> {
    let pid = vm.pid;
    vm.both().mode(pid)
}

#[test]
fn the_io_gap_closes_and_one_segment_holds_nearly_all_memory() {
    let mut vm = Vm::new(0.0, 1000);
    let frames = vm.guest.pool().frames(NodeId(0));
    assert_eq!(vm.both().close_io_gap(NodeId(0)), Ok(4096));
    assert_eq!(vm.guest.pool().frames(NodeId(0)), frames, "as much memory as before");
    let begun = vm.both().promote_vmm().expect("contiguous host memory");
    assert_eq!(begun.pages, 16384 + 4096);
    assert_eq!(mode(&mut vm), Ok(Mode::VmmDirect));
    let segment = vm.host.kernel.vm(vm.id).expect("a VM").space().segment().expect("a segment");
    let (start, end) = (Gpa::new(DMA32_END * PAGE), Gpa::new((DMA32_END + 20480) * PAGE));
    assert_eq!(segment.registers().range(), start..end);
    let loaded = &vm.host.machine.vm_segments[&CPU];
    assert_eq!(loaded.range(), start..end, "the CPU in the VM has the registers");
    vm.host.kernel.end_vm_segment(&mut vm.host.machine, CPU, vm.id).expect("tables");
    assert!(!vm.host.machine.vm_segments[&CPU].is_on());
    vm.host.shutdown();
}

#[test]
fn a_fragmented_guest_balloons_itself_and_is_promoted_step_by_step() {
    let mut vm = Vm::new(1.0, 6000);
    let (frames, backed) = (vm.guest.pool().frames(NodeId(0)), vm.vm_frames());
    assert_eq!(mode(&mut vm), Ok(Mode::BaseVirtualised));
    let pid = vm.pid;
    let promoted = vm.both().promote_guest(pid).expect("scattered memory is enough");
    assert_eq!(promoted.ballooned, 6144, "whole pageblocks");
    assert_eq!(promoted.begun.pages, 6000);
    assert_eq!(mode(&mut vm), Ok(Mode::GuestDirect));
    // Ballooned out and hot-added: the guest has as many frames as before that are not in the balloon.
    assert_eq!(vm.guest.pool().frames(NodeId(0)), frames + 6144);
    assert_eq!(vm.guest.balloon().len(), 6144);
    assert_eq!(vm.vm_frames(), backed + 6144);
    // The VMM's segment has the new range and nothing that is ballooned.
    let begun = vm.both().promote_vmm().expect("contiguous host memory");
    assert_eq!(begun.pages, 6144);
    assert_eq!(mode(&mut vm), Ok(Mode::DualDirect));
    // Ballooning from inside the VMM's segment lets pages escape.
    let segment = vm.host.kernel.vm(vm.id).expect("a VM").space().segment().expect("a segment");
    let first = segment.registers().range().start.frame();
    let taken = vm.host.kernel.take_ballooned(&mut vm.host.machine, CPU, vm.id, &[first.offset(3000)]);
    assert_eq!(taken, Ok(1));
    let space = vm.host.kernel.vm(vm.id).expect("a VM").space();
    let (reason, how, departed) = space.departures().iter().next().expect("a departure");
    assert_eq!((reason, how, departed.pages), (Reason::Ballooned, How::Filter, 1));
    // It is backed again when it is used, by the table.
    let gpa = first.offset(3000).base();
    vm.host.kernel.vm_fault(&mut vm.host.machine, CPU, vm.id, gpa, Intent::WRITE).expect("memory");
    assert!(vm.host.kernel.host_frame(vm.id, first.offset(3000)).expect("a VM").is_some());
    let segment = vm.host.kernel.vm(vm.id).expect("a VM").space().segment().expect("a segment");
    assert_eq!((segment.pages(), segment.registers().translate(gpa)), (6143, None));
    vm.host.shutdown();
}

#[test]
fn a_crowded_host_is_compacted_for_a_vm() {
    let mut vm = Vm::new(0.0, 1000);
    // Somebody else's pages all over both nodes.
    let host = &mut vm.host;
    let other =
        host.kernel.create_process(&mut host.machine, CPU, ProcessSpec::default()).expect("a process");
    let request = MapRequest::anonymous(60000 * PAGE).at(Va::new(BASE));
    host.kernel.mmap(&mut host.machine, CPU, other, &request).expect("room");
    host.kernel.populate(&mut host.machine, CPU, other, at(0), 60000 * PAGE, Intent::WRITE).expect("memory");
    for page in (0..60000).step_by(101) {
        host.access(CPU, other, at(page), Some(page)).expect("memory");
    }
    for page in (0..60000).filter(|page| page % 101 != 0) {
        host.kernel.madvise(&mut host.machine, CPU, other, at(page), PAGE, Advice::DontNeed).expect("mapped");
    }
    let begun = vm.both().promote_vmm().expect("compaction makes room");
    assert!(begun.compacted > 100, "{begun:?}");
    assert_eq!(begun.pages, 16384);
    for page in (0..60000).step_by(101) {
        assert_eq!(vm.host.access(CPU, other, at(page), None), Ok(page));
    }
    vm.host.shutdown();
}
