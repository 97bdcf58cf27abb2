//! Shadow paging: the shadow table says at every moment what guest and host
//! tables say together, through random changes of both.

mod common;

use common::{Bare, Machine, System, config};
use mechanisms::agile::Agile;
use os::hypervisor::VmId;
use os::shadow::{ShadowFault, ShadowOutcome, TrapLog, TrappedTables, Trapping};
use os::{
    Advice, Cost, ExitKind, FileId, Hardware, Invalidate, Kernel, KernelConfig, MapRequest, ProcessId,
    ProcessSpec, Prot, RootLoad, Shootdown, SingleTables, Slot, SpaceId, SpaceKind, ThpMode, VmSpec,
};
use paging::frames::{CpuId, Layout, NodeId, PoolConfig};
use paging::{
    Arena, Entry, Fault, Flags, FramePool, FromBuddy, Gfn, Gpa, GuestPhys, Intent, Native, Nested, PageSize,
    TableMemory, Translation, Va, Work,
};
use proptest::prelude::*;
use std::sync::Arc;

const CPU: CpuId = CpuId(0);
const GUEST_FRAMES: u64 = 0x8000 + 16384;
type Guest = Kernel<Arena<GuestPhys>>;

/// The guest's machine: its hypervisor. Frames' contents are not looked at here.
struct Virtual<'a> {
    host: &'a mut System,
    vm: VmId,
    /// The roots that its processes have loaded, to know which tree a flush is of.
    loaded: &'a mut Vec<(SpaceId, Gfn)>,
    levels: u8,
}

impl Virtual<'_> {
    /// The guest's store to a frame: the host must have memory behind it.
    fn touch(&mut self, frame: Gfn, order: u8) {
        for at in 0..1u64 << order {
            let gpa: Gpa = frame.offset(at).base();
            let s = &mut *self.host;
            s.kernel.vm_fault(&mut s.machine, CPU, self.vm, gpa, Intent::WRITE).expect("memory");
        }
    }
}

impl Hardware<GuestPhys> for Virtual<'_> {
    fn load_root(&mut self, cpu: CpuId, load: &RootLoad<GuestPhys>) {
        if load.space == SpaceId::KERNEL {
            return;
        }
        self.loaded.retain(|it| it.0 != load.space);
        self.loaded.push((load.space, load.root));
        let s = &mut *self.host;
        s.kernel.shadow_load(&mut s.machine, cpu, self.vm, load.root, self.levels).expect("a shadow root");
    }
    fn shootdown(&mut self, from: CpuId, what: &Shootdown<'_>) {
        assert_eq!(what.kind, SpaceKind::Process);
        let s = &mut *self.host;
        for &(_, root) in self.loaded.iter().filter(|it| it.0 == what.space) {
            s.kernel.shadow_invalidate(&mut s.machine, from, self.vm, root, what.what).expect("a VM");
        }
    }
    fn flush_space(&mut self, from: CpuId, space: SpaceId) {
        for (_, root) in self.loaded.iter().filter(|it| it.0 == space) {
            let s = &mut *self.host;
            s.kernel.shadow_invalidate(&mut s.machine, from, self.vm, *root, Invalidate::All).expect("a VM");
        }
    }
    fn zero(&mut self, _: CpuId, frame: Gfn, order: u8) {
        self.touch(frame, order);
    }
    fn copy(&mut self, _: CpuId, _: Gfn, to: Gfn, order: u8) {
        self.touch(to, order);
    }
    fn file_read(&mut self, _: CpuId, _: FileId, _: u64, frame: Gfn) {
        self.touch(frame, 0);
    }
    fn file_write(&mut self, _: CpuId, _: FileId, _: u64, _: Gfn) {}
    fn swap_out(&mut self, _: CpuId, _: Gfn, _: u64) {}
    fn swap_in(&mut self, _: CpuId, _: u64, frame: Gfn) {
        self.touch(frame, 0);
    }
    fn charge(&mut self, _: CpuId, _: Cost, _: &Work) {}
}

struct World {
    host: System,
    guest: Guest,
    vm: VmId,
    log: Arc<TrapLog>,
    loaded: Vec<(SpaceId, Gfn)>,
    pids: Vec<ProcessId>,
    va: Va,
}

const PAGES: u64 = 1024;

impl World {
    fn new(host: KernelConfig, guest: KernelConfig, trapping: Trapping) -> Self {
        let mut host = System::new(32768, host);
        let slots = [Slot::new(Gfn::new(0), GUEST_FRAMES)];
        let vm = host.kernel.create_vm(&mut host.machine, CPU, VmSpec::default(), &slots).expect("a VM");
        let log = TrapLog::new(GUEST_FRAMES, trapping);
        host.kernel.enable_shadow(vm, Arc::clone(&log)).expect("a VM");
        let layout = Layout::of_ranges(std::slice::from_ref(&(0x8000..GUEST_FRAMES)));
        let pool = FramePool::new(&layout, PoolConfig::default()).expect("a layout");
        let mem = Arena::new(layout.end());
        let tables = Box::new(TrappedTables::new(SingleTables::default(), Arc::clone(&log)));
        let mut loaded = Vec::new();
        let levels = guest.levels;
        let mut hw = Virtual { host: &mut host, vm, loaded: &mut loaded, levels };
        let guest = Kernel::new(guest, pool, mem, Box::new(FromBuddy), tables, &mut hw).expect("a guest");
        let mut world = World { host, guest, vm, log, loaded, pids: Vec::new(), va: Va::new(1 << 30) };
        world.begin();
        world
    }
    fn guest<R>(&mut self, f: impl FnOnce(&mut Guest, &mut Virtual<'_>) -> R) -> R {
        let levels = self.guest.config().levels;
        let mut hw = Virtual { host: &mut self.host, vm: self.vm, loaded: &mut self.loaded, levels };
        f(&mut self.guest, &mut hw)
    }
    fn begin(&mut self) {
        let va = self.va;
        let pid = self.guest(|guest, hw| {
            let pid = guest.create_process(hw, CPU, ProcessSpec::default()).expect("a process");
            let request = MapRequest::anonymous(PAGES << 12).at(va);
            guest.mmap(hw, CPU, pid, &request).expect("room");
            pid
        });
        self.pids.push(pid);
    }

    /// An access as hardware takes it: on the shadow table, with both kernels' faults.
    fn access(&mut self, pid: ProcessId, va: Va, intent: Intent) -> Option<u64> {
        self.guest(|guest, hw| guest.switch_to(hw, CPU, pid)).expect("a process");
        let root = self.guest.process(pid).expect("alive").space().table().hardware_root(NodeId(0));
        let levels = self.guest.config().levels;
        for _ in 0..12 {
            let load = self.host.machine.roots[&(CPU, SpaceKind::Process)];
            let mem = self.host.kernel.mem();
            let walk = Native { mem, root: load.root, levels: load.levels, frames: 1 << 30 };
            let vm = self.host.kernel.vm(self.vm).expect("a VM");
            let host = paging::HostDim {
                mem,
                root: vm.root(NodeId(0)),
                levels: vm.space().table().levels(),
                frames: 1 << 30,
            };
            let none = Default::default();
            let shadow = self.host.kernel.shadow(self.vm).expect("shadow tables");
            let (switches, guest) = (shadow.switches().unwrap_or(&none), self.guest.mem());
            let walk = Agile { shadow: walk, switches, guest, guest_frames: GUEST_FRAMES, host };
            match walk.walk(&mut Bare::default(), va, intent) {
                Ok(leaf) => {
                    // What guest and host say together.
                    let nested = Nested { guest: self.guest.mem(), root, levels, frames: GUEST_FRAMES, host };
                    assert_eq!(nested.peek(va).map(|at| at.frame()), Some(leaf.frame));
                    // (A dirty log protects the guest's tables too, which a nested walk would store to.)
                    if let Ok(both) = nested.walk(&mut Bare::default(), va, intent) {
                        assert_eq!((leaf.frame, leaf.rights.user()), (both.frame, both.rights.user()));
                        assert!(!leaf.rights.write() || both.rights.write(), "the shadow allows more");
                    }
                    return Some(leaf.frame.number());
                }
                Err(Fault::Nested { gpa, write, .. }) => {
                    let s = &mut self.host;
                    let intent = Intent { write, fetch: false };
                    s.kernel.vm_fault(&mut s.machine, CPU, self.vm, gpa, intent).expect("memory");
                }
                Err(Fault::Page { .. }) if self.host.kernel.shadow_switches(self.vm, root, va) => {
                    let done = self.guest(|guest, hw| guest.fault(hw, CPU, pid, va, intent));
                    if done.is_err() {
                        return None;
                    }
                }
                Err(Fault::Page { .. }) => {
                    let fault = ShadowFault { root, levels, va, intent, user: true };
                    let s = &mut self.host;
                    let (vm, mem) = (self.vm, self.guest.mem());
                    match s.kernel.shadow_fault(&mut s.machine, CPU, vm, mem, &fault).expect("an answer") {
                        ShadowOutcome::Mapped(_) => {}
                        ShadowOutcome::Guest(_) => {
                            let done = self.guest(|guest, hw| guest.fault(hw, CPU, pid, va, intent));
                            if done.is_err() {
                                return None;
                            }
                        }
                        ShadowOutcome::Emulate(gfn) => panic!("{va:?} is no table, yet {gfn:?}"),
                    }
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        panic!("no progress at {va:?}");
    }

    /// Every leaf of every shadow table agrees with guest and host.
    fn agree(&mut self) {
        let s = &mut self.host;
        s.kernel.shadow_sync(&mut s.machine, CPU, self.vm).expect("a VM");
        for &pid in &self.pids {
            let root = self.guest.process(pid).expect("alive").space().table().hardware_root(NodeId(0));
            let shadow = s.kernel.shadow(self.vm).expect("shadow tables");
            let Some(root_frame) = shadow.root(root, NodeId(0)) else { continue };
            let mem = s.kernel.mem();
            let levels = self.guest.config().levels;
            let walk = Native { mem, root: root_frame, levels, frames: 1 << 30 };
            let vm = s.kernel.vm(self.vm).expect("a VM");
            let host = paging::HostDim {
                mem,
                root: vm.root(NodeId(0)),
                levels: vm.space().table().levels(),
                frames: 1 << 30,
            };
            let none = Default::default();
            let (switches, guest) = (shadow.switches().unwrap_or(&none), self.guest.mem());
            let walk = Agile { shadow: walk, switches, guest, guest_frames: GUEST_FRAMES, host };
            let nested = Nested { guest: self.guest.mem(), root, levels, frames: GUEST_FRAMES, host };
            for page in 0..PAGES {
                let va = self.va.offset(page << 12);
                if let Some(at) = walk.peek(va) {
                    assert_eq!(nested.peek(va), Some(at), "{pid:?} {va:?}");
                }
            }
        }
    }

    fn finish(mut self) {
        self.agree();
        let levels = self.guest.config().levels;
        let mut hw = Virtual { host: &mut self.host, vm: self.vm, loaded: &mut self.loaded, levels };
        let (pool, _) = self.guest.shutdown(&mut hw).expect("a shutdown");
        pool.audit().expect("a sound pool");
        let s = &mut self.host;
        s.kernel.shadow_sync(&mut s.machine, CPU, self.vm).expect("a VM");
        assert_eq!(
            s.kernel.shadow(self.vm).expect("shadow tables").protected(),
            0,
            "protected pages are left"
        );
        self.host.shutdown();
    }
}

#[derive(Clone, Debug)]
enum Action {
    Touch { who: usize, page: u64, len: u64, write: bool },
    Unmap { who: usize, page: u64, len: u64 },
    Map { who: usize, page: u64, len: u64 },
    Protect { who: usize, page: u64, len: u64, write: bool },
    DontNeed { who: usize, page: u64, len: u64 },
    Fork { who: usize },
    Exit { who: usize },
    GuestCollapse { who: usize },
    HostReclaim { frames: u64 },
    HostMigrate { node: u8 },
    HostLog,
    HostCompact,
    IntervalEnds,
}

fn action() -> impl Strategy<Value = Action> {
    let place =
        (0..3usize, 0..PAGES, 1..64u64).prop_map(|(who, page, len)| (who, page, len.min(PAGES - page)));
    prop_oneof![
        8 => (place.clone(), any::<bool>())
            .prop_map(|((who, page, len), write)| Action::Touch { who, page, len: len.min(16), write }),
        2 => place.clone().prop_map(|(who, page, len)| Action::Unmap { who, page, len }),
        2 => place.clone().prop_map(|(who, page, len)| Action::Map { who, page, len }),
        2 => (place.clone(), any::<bool>())
            .prop_map(|((who, page, len), write)| Action::Protect { who, page, len, write }),
        1 => place.prop_map(|(who, page, len)| Action::DontNeed { who, page, len }),
        2 => (0..3usize).prop_map(|who| Action::Fork { who }),
        1 => (0..3usize).prop_map(|who| Action::Exit { who }),
        1 => (0..3usize).prop_map(|who| Action::GuestCollapse { who }),
        1 => (1..600u64).prop_map(|frames| Action::HostReclaim { frames }),
        1 => (0..2u8).prop_map(|node| Action::HostMigrate { node }),
        1 => Just(Action::HostLog),
        1 => Just(Action::HostCompact),
        1 => Just(Action::IntervalEnds),
    ]
}

impl World {
    fn run(&mut self, action: &Action) {
        let pid = |world: &World, who: usize| world.pids[who % world.pids.len()];
        let va = |world: &World, page: u64| world.va.offset(page << 12);
        match *action {
            Action::Touch { who, page, len, write } => {
                let intent = if write { Intent::WRITE } else { Intent::READ };
                for page in page..page + len {
                    let _ = self.access(pid(self, who), va(self, page), intent);
                }
            }
            Action::Unmap { who, page, len } => {
                let (pid, va) = (pid(self, who), va(self, page));
                self.guest(|guest, hw| guest.munmap(hw, CPU, pid, va, len << 12)).expect("a range");
            }
            Action::Map { who, page, len } => {
                let (pid, va) = (pid(self, who), va(self, page));
                let request = MapRequest::anonymous(len << 12).at(va);
                self.guest(|guest, hw| guest.mmap(hw, CPU, pid, &request)).expect("a range");
            }
            Action::Protect { who, page, len, write } => {
                let (pid, va) = (pid(self, who), va(self, page));
                let prot = if write { Prot::RW } else { Prot::R };
                let _ = self.guest(|guest, hw| guest.mprotect(hw, CPU, pid, va, len << 12, prot));
            }
            Action::DontNeed { who, page, len } => {
                let (pid, va) = (pid(self, who), va(self, page));
                let _ = self.guest(|guest, hw| guest.madvise(hw, CPU, pid, va, len << 12, Advice::DontNeed));
            }
            Action::Fork { who } if self.pids.len() < 3 => {
                let parent = pid(self, who);
                let child = self.guest(|guest, hw| guest.fork(hw, CPU, parent)).expect("a child");
                self.pids.push(child);
            }
            Action::Fork { .. } => {}
            Action::Exit { who } => {
                let it = pid(self, who);
                self.guest(|guest, hw| guest.exit(hw, CPU, it)).expect("an exit");
                self.pids.retain(|&other| other != it);
                if self.pids.is_empty() {
                    self.begin();
                }
            }
            Action::GuestCollapse { who } => {
                let pid = pid(self, who);
                self.guest(|guest, hw| guest.khugepaged(hw, CPU, pid, 4)).expect("a pass");
            }
            Action::HostReclaim { frames } => {
                let s = &mut self.host;
                s.kernel.reclaim(&mut s.machine, CPU, frames).expect("a CPU");
            }
            Action::HostMigrate { node } => {
                let s = &mut self.host;
                s.kernel
                    .migrate_vm(&mut s.machine, CPU, self.vm, 0..u64::MAX, NodeId(node), 500)
                    .expect("a VM");
            }
            Action::HostLog => {
                let s = &mut self.host;
                s.kernel.start_dirty_log(&mut s.machine, CPU, self.vm).expect("a VM");
            }
            Action::IntervalEnds => {
                let s = &mut self.host;
                s.kernel.end_agile_interval(&mut s.machine, CPU, self.vm).expect("a VM");
            }
            Action::HostCompact => {
                let s = &mut self.host;
                s.kernel.compact(&mut s.machine, CPU, NodeId(0), 9).expect("a pass");
            }
        }
    }
}

fn thp() -> impl Strategy<Value = ThpMode> {
    prop_oneof![Just(ThpMode::Never), Just(ThpMode::Always)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shadow_tables_follow_guest_and_host(
        host_thp in thp(),
        guest_thp in thp(),
        zero_page in any::<bool>(),
        trapping in prop_oneof![Just(Trapping::Each), Just(Trapping::Unsync), Just(Trapping::Agile)],
        actions in proptest::collection::vec(action(), 1..40),
    ) {
        let host = KernelConfig { thp: host_thp, zero_page, swap_slots: 100_000, ..config() };
        let guest = KernelConfig { thp: guest_thp, zero_page, ..KernelConfig::new(vec![NodeId(0)]) };
        let mut world = World::new(host, guest, trapping);
        for action in &actions {
            world.run(action);
            world.agree();
        }
        world.finish();
    }
}

#[test]
fn each_store_to_a_shadowed_table_is_an_exit() {
    let mut world = World::new(config(), KernelConfig::new(vec![NodeId(0)]), Trapping::Each);
    let pid = world.pids[0];
    let va = world.va;
    world.access(pid, va, Intent::WRITE);
    let count =
        |machine: &Machine| machine.costs.iter().filter(|&&c| c == Cost::Exit(ExitKind::TableWrite)).count();
    let before = (count(&world.host.machine), world.log.stores());
    for page in 1..33 {
        world.access(pid, va.offset(page << 12), Intent::WRITE);
    }
    // The leaf table is protected since the first page: one store a page.
    assert_eq!(world.log.stores() - before.1, 32);
    assert_eq!(count(&world.host.machine) - before.0, 32);
    world.finish();
}

#[test]
fn a_guest_that_maps_its_own_table_cannot_store_to_it_unseen() {
    let mut world = World::new(config(), KernelConfig::new(vec![NodeId(0)]), Trapping::Unsync);
    let (pid, va) = (world.pids[0], world.va);
    world.access(pid, va, Intent::WRITE);
    // A hostile guest: the entry after that page's maps the leaf table itself, writable.
    let root = world.guest.process(pid).expect("alive").space().table().hardware_root(NodeId(0));
    let mut table = root;
    for level in [4, 3, 2] {
        table = world.guest.mem().load(paging::Slot::new(table, va.index(level))).frame();
    }
    let evil = va.offset(4096);
    let flags = Flags::WRITABLE | Flags::USER;
    let entry = Entry::leaf(table, PageSize::Size4K, flags);
    world.guest.mem().store(paging::Slot::new(table, evil.index(1)), entry);
    let fault = |intent| ShadowFault { root, levels: 4, va: evil, intent, user: true };
    let s = &mut world.host;
    let mem = world.guest.mem();
    let outcome = s.kernel.shadow_fault(&mut s.machine, CPU, world.vm, mem, &fault(Intent::WRITE));
    assert_eq!(outcome, Ok(ShadowOutcome::Emulate(table)));
    let outcome = s.kernel.shadow_fault(&mut s.machine, CPU, world.vm, mem, &fault(Intent::READ));
    assert_eq!(outcome, Ok(ShadowOutcome::Mapped(PageSize::Size4K)));
    let load = s.machine.roots[&(CPU, SpaceKind::Process)];
    let walk = Native { mem: s.kernel.mem(), root: load.root, levels: 4, frames: 1 << 30 };
    let leaf = walk.walk(&mut Bare::default(), evil, Intent::READ).expect("it is mapped");
    assert!(!leaf.rights.write());
    // The entry goes again, so that the guest's own teardown is about its own pages.
    mem.store(paging::Slot::new(table, evil.index(1)), Entry::EMPTY);
    s.kernel.shadow_invalidate(&mut s.machine, CPU, world.vm, root, Invalidate::All).expect("a VM");
}

#[test]
fn an_unsynced_leaf_table_exits_once_until_the_guest_flushes() {
    let mut world = World::new(config(), KernelConfig::new(vec![NodeId(0)]), Trapping::Unsync);
    let (pid, va) = (world.pids[0], world.va);
    world.access(pid, va, Intent::WRITE);
    let before = world.log.stores();
    for page in 1..33 {
        world.access(pid, va.offset(page << 12), Intent::WRITE);
    }
    assert_eq!(world.log.stores() - before, 1);
    // A flush of everything ends that: the next store exits again.
    let root = world.guest.process(pid).expect("alive").space().table().hardware_root(NodeId(0));
    let s = &mut world.host;
    s.kernel.shadow_invalidate(&mut s.machine, CPU, world.vm, root, Invalidate::All).expect("a VM");
    world.access(pid, va.offset(40 << 12), Intent::WRITE);
    assert_eq!(world.log.stores() - before, 2);
    world.finish();
}

#[test]
fn agile_paging_switches_where_the_guest_stores_and_back_where_it_does_not() {
    let mut world = World::new(config(), KernelConfig::new(vec![NodeId(0)]), Trapping::Agile);
    let (pid, va) = (world.pids[0], world.va);
    for page in 0..64 {
        world.access(pid, va.offset(page << 12), Intent::WRITE);
    }
    let nested = |world: &World| world.host.kernel.shadow(world.vm).expect("shadow tables").nested_tables();
    assert_eq!(nested(&world), 1, "the leaf table");
    let (stores, before) = (world.log.stores(), world.host.kernel.stats().exits);
    for page in 64..128 {
        world.access(pid, va.offset(page << 12), Intent::WRITE);
    }
    assert_eq!(world.log.stores(), stores, "its stores exit no more");
    let exits = world.host.kernel.stats().exits - before;
    assert!(exits <= 2 * 64, "no more than what backs the pages (and zeroes them): {exits}");
    for rounds in [1, 0] {
        let s = &mut world.host;
        s.kernel.end_agile_interval(&mut s.machine, CPU, world.vm).expect("a VM");
        assert_eq!(nested(&world), rounds);
    }
    // All of it is shadowed again by one exit.
    world.access(pid, va, Intent::READ);
    let before = world.host.kernel.stats().exits;
    for page in 0..128 {
        world.access(pid, va.offset(page << 12), Intent::WRITE);
    }
    assert_eq!(world.host.kernel.stats().exits, before);
    world.finish();
}

#[test]
fn an_exit_fills_what_shares_a_line_with_the_entry_that_is_missing() {
    let mut world = World::new(config(), KernelConfig::new(vec![NodeId(0)]), Trapping::Unsync);
    let (pid, va) = (world.pids[0], world.va);
    let used = |page: u64| page % 16 != 15;
    for page in (0..64).filter(|&page| used(page)) {
        world.access(pid, va.offset(page << 12), Intent::WRITE);
    }
    // The VM's table changes under all of them, as by a migration: the shadow table has none of them any more.
    let s = &mut world.host;
    s.kernel.disable_shadow(&mut s.machine, CPU, world.vm).expect("it has shadow tables");
    s.kernel.enable_shadow(world.vm, Arc::clone(&world.log)).expect("a VM");
    world.loaded.clear();
    let other =
        world.guest(|guest, hw| guest.create_process(hw, CPU, ProcessSpec::default())).expect("a process");
    world.guest(|guest, hw| guest.switch_to(hw, CPU, other)).expect("a process");
    world.access(pid, va, Intent::READ);
    let before = world.host.kernel.stats().exits;
    for page in (0..64).filter(|&page| used(page)) {
        world.access(pid, va.offset(page << 12), Intent::WRITE);
    }
    assert_eq!(world.host.kernel.stats().exits - before, 7, "one for each of the other lines");
    world.guest(|guest, hw| guest.exit(hw, CPU, other)).expect("a process");
    world.finish();
}
