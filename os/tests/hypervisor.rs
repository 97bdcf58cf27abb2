//! The hypervisor's features: VMs as address spaces of guest-physical memory.

mod common;

use common::{System, config};
use os::hypervisor::{GuestAndHost, GuestOnHost};
use os::{
    Cost, CpuMask, ExitKind, FaultKind, Kernel, KernelConfig, MmError, NoMachine, Policy, SingleTables, Slot,
    SpaceKind, ThpMode, VmId, VmSpec,
};
use paging::frames::{CpuId, FrameState, IO_GAP_START, Layout, NodeId, NodeSet, NodeSpec, PoolConfig};
use paging::{
    Arena, FramePool, FromBuddy, Gfn, Gpa, GuestPhys, HostDim, HostPhys, HostStage, Intent, PageSize,
};

const CPU: CpuId = CpuId(0);
const PAGE: u64 = 4096;

fn system(thp: ThpMode) -> System {
    System::new(32768, KernelConfig { thp, swap_slots: 10_000, ..config() })
}

fn vm(s: &mut System, slots: &[Slot]) -> VmId {
    let vm = s.kernel.create_vm(&mut s.machine, CPU, VmSpec::default(), slots).expect("a VM");
    s.kernel.enter_vm(&mut s.machine, CPU, vm).expect("a VM");
    vm
}

fn fault(s: &mut System, vm: VmId, page: u64, intent: Intent) -> os::FaultOutcome {
    s.kernel.vm_fault(&mut s.machine, CPU, vm, Gpa::new(page * PAGE), intent).expect("memory")
}

/// A store by the guest, as its walker makes it: D set in the VM's table, exits as needed.
fn store(s: &mut System, vm: VmId, page: u64) {
    for _ in 0..4 {
        let space = s.kernel.vm(vm).expect("a VM").space();
        let host = HostDim {
            mem: s.kernel.mem(),
            root: space.table().hardware_root(NodeId(0)),
            levels: space.table().levels(),
            frames: 1 << 30,
        };
        let gpa = Gpa::new(page * PAGE);
        if host.translate(&mut common::Bare::default(), gpa, 0, Intent::WRITE).is_ok() {
            return;
        }
        fault(s, vm, page, Intent::WRITE);
    }
    panic!("no progress at page {page:#x}");
}

#[test]
fn guest_memory_is_backed_as_it_is_used() {
    let mut s = system(ThpMode::Always);
    let slots = [Slot::new(Gfn::new(0), 300), Slot::new(Gfn::new(1024), 2048)];
    let id = vm(&mut s, &slots);
    assert_eq!(s.kernel.host_frame(id, Gfn::new(5)), Ok(None));
    let outcome = fault(&mut s, id, 5, Intent::WRITE);
    assert_eq!((outcome.kind, outcome.size), (FaultKind::Anonymous, PageSize::Size4K));
    assert_eq!(fault(&mut s, id, 1024 + 600, Intent::WRITE).size, PageSize::Size2M);
    let frame = |s: &mut System, gfn| s.kernel.host_frame(id, Gfn::new(gfn)).expect("a VM").expect("backed");
    let (a, b) = (frame(&mut s, 1536), frame(&mut s, 1537));
    assert_eq!(b, a.offset(1));
    let device = s.kernel.vm_fault(&mut s.machine, CPU, id, Gpa::new(400 * PAGE), Intent::READ);
    assert!(matches!(&device, Err(MmError::Segv(e)) if e.space == "gPA" && e.above.is_some()), "{device:?}");
    assert_eq!(s.kernel.vm(id).expect("a VM").space().stats().exits, 2);
    assert!(s.machine.costs.contains(&Cost::Exit(ExitKind::Nested)));
    // Slots do not overlap, and are found again.
    let twice = s.kernel.add_slot(&mut s.machine, CPU, id, Slot::new(Gfn::new(2000), 4));
    assert!(matches!(twice, Err(MmError::BadRange { .. })), "{twice:?}");
    let slot = s.kernel.vm(id).expect("a VM").slots().nth(1).expect("two slots").0;
    s.kernel.remove_slot(&mut s.machine, CPU, id, slot).expect("a slot");
    assert_eq!(s.kernel.host_frame(id, Gfn::new(1536)), Ok(None));
    assert!(s.kernel.remove_slot(&mut s.machine, CPU, id, slot).is_err());
    let wrong = [Slot { page: PageSize::Size2M, ..Slot::new(Gfn::new(0), 300) }];
    let got = s.kernel.create_vm(&mut s.machine, CPU, VmSpec::default(), &wrong);
    assert!(matches!(got, Err(MmError::BadRange { .. })), "{got:?}");
    s.shutdown();
}

#[test]
fn slots_have_their_own_page_size_and_nodes() {
    let mut s = system(ThpMode::Never);
    let far = Some(Policy::Bind(NodeSet::default().with(NodeId(1))));
    let slots = [
        Slot { page: PageSize::Size2M, ..Slot::new(Gfn::new(0), 1024) },
        Slot { policy: far, ..Slot::new(Gfn::new(1024), 1024) },
    ];
    let id = vm(&mut s, &slots);
    assert_eq!(fault(&mut s, id, 700, Intent::READ).size, PageSize::Size2M);
    assert_eq!(fault(&mut s, id, 1100, Intent::WRITE).size, PageSize::Size4K);
    let frame = s.kernel.host_frame(id, Gfn::new(1100)).expect("a VM").expect("backed");
    assert_eq!(s.kernel.pool().node_of(frame), NodeId(1));
    let faults = s.kernel.populate_vm(&mut s.machine, CPU, id, Gpa::new(0), 2048 * PAGE, Intent::WRITE);
    assert_eq!(faults, Ok(1 + 1023));
    s.shutdown();
}

#[test]
fn the_dirty_log_and_the_dirty_bits_see_the_same_stores() {
    for thp in [ThpMode::Never, ThpMode::Always] {
        let mut s = system(thp);
        let id = vm(&mut s, &[Slot::new(Gfn::new(0), 2048)]);
        s.kernel
            .populate_vm(&mut s.machine, CPU, id, Gpa::new(0), 1024 * PAGE, Intent::WRITE)
            .expect("memory");
        s.kernel.take_dirty_bits(&mut s.machine, CPU, id).expect("a VM");
        s.kernel.start_dirty_log(&mut s.machine, CPU, id).expect("a VM");
        // Mapped pages, and one that is mapped only now.
        let stored = [3, 4, 5, 600, 1500];
        stored.iter().for_each(|&page| store(&mut s, id, page));
        fault(&mut s, id, 1600, Intent::READ);
        let log = s.kernel.take_dirty_log(&mut s.machine, CPU, id).expect("a VM");
        let got: Vec<_> = log.iter().collect();
        assert!(stored.iter().all(|page| got.contains(page)), "{got:?}");
        if thp == ThpMode::Never {
            assert_eq!(got, stored);
            let bits = s.kernel.take_dirty_bits(&mut s.machine, CPU, id).expect("a VM");
            assert_eq!(bits.iter().collect::<Vec<_>>(), stored);
        }
        // Again only what is stored to from now on.
        store(&mut s, id, 4);
        let log = s.kernel.take_dirty_log(&mut s.machine, CPU, id).expect("a VM");
        assert_eq!(log.iter().collect::<Vec<_>>(), [4]);
        s.kernel.stop_dirty_log(&mut s.machine, CPU, id).expect("a VM");
        let exits = s.kernel.stats().exits;
        store(&mut s, id, 5);
        assert_eq!(s.kernel.stats().exits, exits, "no store is noticed after the log");
        assert!(s.kernel.take_dirty_log(&mut s.machine, CPU, id).expect("a VM").is_empty());
        s.shutdown();
    }
}

#[test]
fn a_vms_memory_moves_between_nodes() {
    let mut s = system(ThpMode::Always);
    let id = vm(&mut s, &[Slot::new(Gfn::new(0), 2048)]);
    s.kernel.populate_vm(&mut s.machine, CPU, id, Gpa::new(0), 2048 * PAGE, Intent::WRITE).expect("memory");
    let node = |s: &mut System, gfn| {
        let frame = s.kernel.host_frame(id, Gfn::new(gfn)).expect("a VM").expect("backed");
        s.kernel.pool().node_of(frame)
    };
    let value = 77;
    let frame = s.kernel.host_frame(id, Gfn::new(9)).expect("a VM").expect("backed");
    s.machine.content.insert(frame.number(), value);
    assert_eq!(s.kernel.migrate_vm(&mut s.machine, CPU, id, 0..u64::MAX, NodeId(1), 600), Ok(1024));
    assert_eq!((node(&mut s, 9), node(&mut s, 2000)), (NodeId(1), NodeId(0)));
    let frame = s.kernel.host_frame(id, Gfn::new(9)).expect("a VM").expect("backed");
    assert_eq!(s.machine.read(frame), value);
    s.shutdown();
}

fn guest(ranges: &[(u64, u64)]) -> Kernel<Arena<GuestPhys>> {
    let frames = ranges.iter().map(|&(start, end)| start..end).collect();
    let layout = Layout { nodes: vec![NodeSpec { frames }], distances: vec![vec![10]] };
    let pool = FramePool::new(&layout, PoolConfig::default()).expect("a layout");
    let config = KernelConfig::new(vec![NodeId(0)]);
    let tables = Box::new(SingleTables::default());
    Kernel::new(config, pool, Arena::new(1 << 21), Box::new(FromBuddy), tables, &mut NoMachine)
        .expect("a guest")
}

fn both<'a>(
    guest: &'a mut Kernel<Arena<GuestPhys>>,
    s: &'a mut System,
    vm: VmId,
) -> GuestAndHost<'a, Arena<GuestPhys>, Arena<HostPhys>> {
    // A box of nothing takes no memory, so nothing leaks.
    let guest_hw = Box::leak(Box::new(NoMachine));
    GuestAndHost { guest, guest_hw, host: &mut s.kernel, host_hw: &mut s.machine, vm, cpu: CPU }
}

#[test]
fn a_balloon_takes_memory_from_the_guest_and_gives_it_back() {
    let mut s = system(ThpMode::Never);
    let id = vm(&mut s, &[Slot::new(Gfn::new(0x8000), 4096)]);
    s.kernel
        .populate_vm(&mut s.machine, CPU, id, Gpa::new(0x8000 * PAGE), 4096 * PAGE, Intent::WRITE)
        .expect("memory");
    let mut guest = guest(&[(0x8000, 0x8000 + 4096)]);
    let free = guest.pool().free_frames(NodeId(0));
    let taken = guest.inflate_balloon(NodeId(0), 1000);
    assert_eq!((taken.len(), guest.balloon().len()), (1000, 1000));
    assert!(taken.iter().all(|&gfn| guest.pool().state(gfn) == FrameState::Ballooned));
    assert_eq!(s.kernel.take_ballooned(&mut s.machine, CPU, id, &taken), Ok(1000));
    assert!(taken.iter().all(|&gfn| s.kernel.host_frame(id, gfn) == Ok(None)));
    assert_eq!(guest.deflate_balloon(300), 300);
    // No more than leaves the guest its reserve.
    let rest = guest.inflate_balloon(NodeId(0), 100_000);
    assert!((rest.len() as u64) < free - 700, "{} of {free}", rest.len());
    let (pool, _) = guest.shutdown(&mut NoMachine).expect("a shutdown");
    pool.audit().expect("a sound pool");
    s.shutdown();
}

#[test]
fn self_ballooning_trades_scattered_memory_for_a_contiguous_range() {
    let mut s = system(ThpMode::Never);
    let id = vm(&mut s, &[Slot::new(Gfn::new(0x8000), 4096)]);
    let mut guest = guest(&[(0x8000, 0x8000 + 4096)]);
    let total = |guest: &Kernel<Arena<GuestPhys>>| guest.pool().frames(NodeId(0));
    let (before, at) = (total(&guest), Gfn::new(0x40000));
    let mut pair = both(&mut guest, &mut s, id);
    assert_eq!(pair.self_balloon(NodeId(0), 2000, at), Ok(1536));
    assert!(pair.self_balloon(NodeId(0), 1024, at).is_err(), "the place is taken");
    assert_eq!((total(&guest), guest.balloon().len()), (before + 1536, 1536));
    // The new range serves as one piece.
    let request = paging::frames::AllocRequest::new(NodeId(0), FrameState::Reserved);
    let got = guest.pool_mut().alloc_contiguous(1536, 512, request).expect("contiguous memory");
    assert_eq!(got, at);
    fault(&mut s, id, at.number() + 1535, Intent::WRITE);
    s.shutdown();
}

#[test]
fn the_io_gap_is_closed_by_unplugging_below_it() {
    let mut s = system(ThpMode::Never);
    // 2 MiB of kernel memory, then memory up to the gap, then memory above it.
    let (low, high) = (IO_GAP_START - 0x8000, 1 << 20);
    let slots = [Slot::new(Gfn::new(low), 0x8000), Slot::new(Gfn::new(high), 4096)];
    let id = vm(&mut s, &slots);
    let mut guest = guest(&[(low, IO_GAP_START), (high, high + 4096)]);
    let pid = guest.create_process(&mut NoMachine, CPU, Default::default()).expect("a process");
    let va = guest.mmap(&mut NoMachine, CPU, pid, &os::MapRequest::anonymous(1 << 20)).expect("room");
    guest.populate(&mut NoMachine, CPU, pid, va, 1 << 20, Intent::WRITE).expect("pages");
    let frames = guest.pool().frames(NodeId(0));
    let slot = s.kernel.vm(id).expect("a VM").slots().next().expect("a slot").0;
    let to = Gfn::new(high + 4096);
    let mut pair = both(&mut guest, &mut s, id);
    // The kernel's pages lie in the upper zone, so the lower one can be emptied.
    let slot = pair.replug(slot, NodeId(0), to).expect("nothing of the kernel's is there");
    assert_eq!(guest.pool().frames(NodeId(0)), frames);
    assert_eq!(guest.pool().state(Gfn::new(low)), FrameState::Absent);
    assert_eq!(s.kernel.vm(id).expect("a VM").slots().map(|(_, slot)| slot.start).max(), Some(to));
    fault(&mut s, id, to.number(), Intent::WRITE);
    // Page tables cannot move: a slot with some in it stays, and so does the guest's memory.
    let upper =
        s.kernel.vm(id).expect("a VM").slots().find(|&(other, _)| other != slot).expect("two slots").0;
    let mut pair = both(&mut guest, &mut s, id);
    let stuck = pair.replug(upper, NodeId(0), Gfn::new(low));
    assert!(matches!(stuck, Err(MmError::Hotplug(_))), "{stuck:?}");
    assert_eq!(guest.pool().frames(NodeId(0)), frames);
    s.shutdown();
}

#[test]
fn cpu_masks_are_sets() {
    let mask: CpuMask = [3, 64, 255, 3].into_iter().map(CpuId).collect();
    assert_eq!(mask.iter().map(|cpu| cpu.0).collect::<Vec<_>>(), [3, 64, 255]);
    assert_eq!(mask.count(), 3);
    let mut other = mask;
    other.remove(CpuId(64));
    assert!(!other.contains(CpuId(64)) && other.union(&mask) == mask && !other.is_empty());
    assert_eq!(os::Owner::Vm(VmId(1)).kind(), SpaceKind::Vm);
}
