//! The kernel against a model that knows no page table: for each process, what
//! each page is and which content it must show. Random actions run on both.

mod common;

use common::{GARBAGE, System, config, file_content};
use mechanisms::mitosis::{Lazy, Replicated};
use mechanisms::ptemagnet::{PteMagnet, Settings};
use os::{
    Advice, FileId, KernelConfig, MapRequest, MmError, NumaBalancing, Policy, ProcessId, ProcessSpec, Prot,
    SingleTables, SpaceInfo, Tables, ThpMode,
};
use paging::frames::{CpuId, FrameState, NodeId, NodeSet};
use paging::{
    Arena, Frame, FrameSource, FromBuddy, GuestPhys, HostPhys, PageSize, Space, TableMemory, TableOps, Va,
    Virt,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// Where the actions happen: three blocks of 2 MiB.
const BASE: u64 = 1 << 30;
const PAGES: u64 = 3 * 512;
const FILE_PAGES: u64 = 200;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Anonymous,
    PrivateFile,
    SharedFile,
    SharedMemory,
}

#[derive(Clone, Debug)]
enum Action {
    Map { who: usize, page: u64, len: u64, prot: Prot, kind: Kind },
    MapAnywhere { who: usize, len: u64 },
    Unmap { who: usize, page: u64, len: u64 },
    Protect { who: usize, page: u64, len: u64, prot: Prot },
    Advise { who: usize, page: u64, len: u64, advice: Advice },
    Bind { who: usize, page: u64, len: u64, node: u8 },
    Move { who: usize, page: u64, len: u64, to: u64 },
    Populate { who: usize, page: u64, len: u64, write: bool },
    Touch { who: usize, cpu: u16, page: u64, len: u64, write: bool },
    Fork { who: usize },
    Exec { who: usize },
    Exit { who: usize },
    Collapse { who: usize },
    NumaScan { who: usize, cpu: u16 },
    Migrate { who: usize, node: u8 },
    Reclaim { frames: u64 },
    Compact { node: u8 },
    Idle { cpu: u16 },
    Replicate { who: usize, nodes: u8 },
    Rebalance { who: usize },
}

fn action() -> impl Strategy<Value = Action> {
    let who = 0..4usize;
    let page = 0..PAGES;
    // Few and many pages, and whole blocks.
    let len = prop_oneof![3 => 1..20u64, 2 => 20..600u64, 1 => Just(512u64), 1 => Just(PAGES)];
    let place = prop_oneof![3 => page, 3 => (0..30u64).prop_map(|few| few * 50), 2 => (0..3u64).prop_map(|block| block * 512)];
    let prot = prop_oneof![
        4 => Just(Prot::RW), 1 => Just(Prot::R), 1 => Just(Prot::NONE), 1 => Just(Prot::RX), 1 => Just(Prot::RWX)
    ];
    let kind = prop_oneof![
        4 => Just(Kind::Anonymous), 2 => Just(Kind::PrivateFile), 2 => Just(Kind::SharedFile),
        1 => Just(Kind::SharedMemory)
    ];
    let advice = prop_oneof![
        2 => Just(Advice::DontNeed), 2 => Just(Advice::HugePage), 1 => Just(Advice::NoHugePage)
    ];
    let at = (who.clone(), place, len).prop_map(|(who, page, len)| (who, page, len.min(PAGES - page)));
    prop_oneof![
        3 => (at.clone(), prot.clone(), kind)
            .prop_map(|((who, page, len), prot, kind)| Action::Map { who, page, len, prot, kind }),
        1 => (who.clone(), 1..700u64).prop_map(|(who, len)| Action::MapAnywhere { who, len }),
        3 => at.clone().prop_map(|(who, page, len)| Action::Unmap { who, page, len }),
        3 => (at.clone(), prot).prop_map(|((who, page, len), prot)| Action::Protect { who, page, len, prot }),
        3 => (at.clone(), advice).prop_map(|((who, page, len), advice)| Action::Advise { who, page, len, advice }),
        1 => (at.clone(), 0..2u8).prop_map(|((who, page, len), node)| Action::Bind { who, page, len, node }),
        2 => (at.clone(), 0..PAGES).prop_map(|((who, page, len), to)| Action::Move { who, page, len, to }),
        2 => (at.clone(), any::<bool>()).prop_map(|((who, page, len), write)| Action::Populate { who, page, len, write }),
        16 => (at, 0..4u16, any::<bool>())
            .prop_map(|((who, page, len), cpu, write)| Action::Touch { who, cpu, page, len: len.min(24), write }),
        4 => who.clone().prop_map(|who| Action::Fork { who }),
        1 => who.clone().prop_map(|who| Action::Exec { who }),
        1 => who.clone().prop_map(|who| Action::Exit { who }),
        2 => who.clone().prop_map(|who| Action::Collapse { who }),
        2 => (who.clone(), 0..4u16).prop_map(|(who, cpu)| Action::NumaScan { who, cpu }),
        1 => (who, 0..2u8).prop_map(|(who, node)| Action::Migrate { who, node }),
        2 => (1..2000u64).prop_map(|frames| Action::Reclaim { frames }),
        1 => (0..2u8).prop_map(|node| Action::Compact { node }),
        1 => (0..4u16).prop_map(|cpu| Action::Idle { cpu }),
        1 => (0..4usize, 0..4u8).prop_map(|(who, nodes)| Action::Replicate { who, nodes }),
        1 => (0..4usize).prop_map(|who| Action::Rebalance { who }),
    ]
}

/// A page of a file, or of shared memory (by the mapping that made it).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Object {
    File(FileId, u64),
    Memory(u32, u64),
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// Content of its own.
    Own(u64),
    /// A private mapping that nothing was stored to.
    Private(Object),
    Shared(Object),
}

#[derive(Clone, Copy, Debug)]
struct Page {
    prot: Prot,
    what: What,
    /// What `MADV_DONTNEED` brings back.
    behind: Option<Object>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Bad {
    Segv,
    Bus,
    Range,
    Memory(MmError),
}

impl From<MmError> for Bad {
    fn from(e: MmError) -> Self {
        match e {
            MmError::Segv(_) => Bad::Segv,
            MmError::Bus { .. } => Bad::Bus,
            MmError::BadRange { .. } | MmError::NoRoom { .. } => Bad::Range,
            other => Bad::Memory(other),
        }
    }
}

#[derive(Default)]
struct Model {
    objects: HashMap<Object, u64>,
    processes: BTreeMap<ProcessId, BTreeMap<u64, Page>>,
    memories: u32,
}

impl Model {
    fn object(&self, object: Object) -> Result<u64, Bad> {
        if let Object::File(_, page) = object
            && page >= FILE_PAGES
        {
            return Err(Bad::Bus);
        }
        Ok(self.objects.get(&object).copied().unwrap_or(match object {
            Object::File(file, page) => file_content(file, page),
            Object::Memory(..) => 0,
        }))
    }
    fn access(&mut self, pid: ProcessId, page: u64, store: Option<u64>) -> Result<u64, Bad> {
        let it = self.processes[&pid].get(&page).copied().ok_or(Bad::Segv)?;
        if !it.prot.any() || (store.is_some() && !it.prot.write) {
            return Err(Bad::Segv);
        }
        match (it.what, store) {
            (What::Own(value), None) => Ok(value),
            (What::Private(object) | What::Shared(object), None) => self.object(object),
            (What::Shared(object), Some(value)) => {
                self.object(object)?;
                self.objects.insert(object, value);
                Ok(value)
            }
            (What::Own(_) | What::Private(_), Some(value)) => {
                if let What::Private(object) = it.what {
                    self.object(object)?;
                }
                let pages = self.processes.get_mut(&pid).expect("alive");
                pages.get_mut(&page).expect("mapped").what = What::Own(value);
                Ok(value)
            }
        }
    }
    fn covered(&self, pid: ProcessId, page: u64, len: u64) -> bool {
        (page..page + len).all(|p| self.processes[&pid].contains_key(&p))
    }
}

struct Test {
    system: System,
    model: Model,
    file: FileId,
    next: u64,
}

fn va(page: u64) -> Va {
    Va::new(page << 12)
}

impl Test {
    fn new(frames: u64, config: KernelConfig, tables: Box<dyn Tables<Arena<HostPhys>>>) -> Self {
        Self::of(frames, config, Box::new(FromBuddy), tables)
    }

    fn of(
        frames: u64,
        config: KernelConfig,
        source: Box<dyn FrameSource<HostPhys>>,
        tables: Box<dyn Tables<Arena<HostPhys>>>,
    ) -> Self {
        let mut system = System::of(frames, config, source, tables);
        let file = system.kernel.create_file(FILE_PAGES).expect("a file");
        let mut test = Test { system, model: Model::default(), file, next: 1 };
        (0..2).for_each(|_| test.begin());
        test
    }
    fn begin(&mut self) {
        let s = &mut self.system;
        let pid =
            s.kernel.create_process(&mut s.machine, CpuId(0), ProcessSpec::default()).expect("a process");
        self.model.processes.insert(pid, BTreeMap::new());
        // Something of each kind to begin with.
        let who = self.model.processes.len() - 1;
        let kinds = [
            (0, 700, Kind::Anonymous),
            (700, 100, Kind::PrivateFile),
            (800, 100, Kind::SharedFile),
            (900, 60, Kind::SharedMemory),
            (1024, 512, Kind::Anonymous),
        ];
        for (page, len, kind) in kinds {
            self.run(&Action::Map { who, page, len, prot: Prot::RW, kind });
        }
    }
    fn pid(&self, who: usize) -> ProcessId {
        *self.model.processes.keys().nth(who % self.model.processes.len()).expect("a process")
    }
    fn check(&mut self, cpu: CpuId, pid: ProcessId, page: u64, store: bool) {
        self.next += 1;
        let store = store.then_some(self.next);
        let want = self.model.access(pid, page, store);
        let got = self.system.access(cpu, pid, va(page), store).map_err(Bad::from);
        assert_eq!(got, want, "{pid:?} page {page:#x} on {cpu:?}, store {store:?}");
        assert_ne!(got, Ok(GARBAGE), "{pid:?} page {page:#x}: content of nobody");
    }
    fn map(&mut self, pid: ProcessId, start: u64, len: u64, prot: Prot, kind: Kind) {
        self.model.memories += 1;
        let memory = self.model.memories;
        let pages = self.model.processes.get_mut(&pid).expect("alive");
        for at in 0..len {
            let file = Object::File(self.file, at);
            let (what, behind) = match kind {
                Kind::Anonymous => (What::Own(0), None),
                Kind::PrivateFile => (What::Private(file), Some(file)),
                Kind::SharedFile => (What::Shared(file), None),
                Kind::SharedMemory => (What::Shared(Object::Memory(memory, at)), None),
            };
            pages.insert(start + at, Page { prot, what, behind });
        }
    }

    fn run(&mut self, action: &Action) {
        let first = BASE >> 12;
        let cpu0 = CpuId(0);
        match *action {
            Action::Map { who, page, len, prot, kind } => {
                let pid = self.pid(who);
                let (start, bytes) = (first + page, len << 12);
                let request = match kind {
                    Kind::Anonymous => MapRequest { prot, ..MapRequest::anonymous(bytes) },
                    Kind::PrivateFile => MapRequest::private_file(self.file, bytes, prot),
                    Kind::SharedFile => MapRequest::shared_file(self.file, bytes, prot),
                    Kind::SharedMemory => MapRequest { prot, shared: true, ..MapRequest::anonymous(bytes) },
                };
                let s = &mut self.system;
                let got = s.kernel.mmap(&mut s.machine, cpu0, pid, &request.at(va(start)));
                assert_eq!(got, Ok(va(start)));
                self.map(pid, start, len, prot, kind);
            }
            Action::MapAnywhere { who, len } => {
                let pid = self.pid(who);
                let s = &mut self.system;
                let request = MapRequest::anonymous(len << 12);
                let got = s.kernel.mmap(&mut s.machine, cpu0, pid, &request).expect("room").page();
                let free = (got..got + len).all(|p| !self.model.processes[&pid].contains_key(&p));
                assert!(free, "{got:#x}+{len:#x} is not free");
                self.map(pid, got, len, Prot::RW, Kind::Anonymous);
                self.check(CpuId(1), pid, got + len - 1, true);
            }
            Action::Unmap { who, page, len } => {
                let pid = self.pid(who);
                let s = &mut self.system;
                let got = s.kernel.munmap(&mut s.machine, cpu0, pid, va(first + page), len << 12);
                assert_eq!(got, Ok(()));
                let pages = self.model.processes.get_mut(&pid).expect("alive");
                (0..len).for_each(|at| {
                    pages.remove(&(first + page + at));
                });
            }
            Action::Protect { who, page, len, prot } => {
                let pid = self.pid(who);
                let s = &mut self.system;
                let got = s.kernel.mprotect(&mut s.machine, cpu0, pid, va(first + page), len << 12, prot);
                let want = if self.model.covered(pid, first + page, len) { Ok(()) } else { Err(Bad::Range) };
                assert_eq!(got.map_err(Bad::from), want);
                if want.is_ok() {
                    let pages = self.model.processes.get_mut(&pid).expect("alive");
                    pages.range_mut(first + page..first + page + len).for_each(|(_, p)| p.prot = prot);
                }
            }
            Action::Advise { who, page, len, advice } => {
                let pid = self.pid(who);
                let s = &mut self.system;
                let got = s.kernel.madvise(&mut s.machine, cpu0, pid, va(first + page), len << 12, advice);
                let want = if self.model.covered(pid, first + page, len) { Ok(()) } else { Err(Bad::Range) };
                assert_eq!(got.map_err(Bad::from), want);
                if want.is_ok() && advice == Advice::DontNeed {
                    let pages = self.model.processes.get_mut(&pid).expect("alive");
                    for (_, p) in pages.range_mut(first + page..first + page + len) {
                        p.what = match (p.what, p.behind) {
                            (What::Shared(object), _) => What::Shared(object),
                            (_, Some(object)) => What::Private(object),
                            (_, None) => What::Own(0),
                        };
                    }
                }
            }
            Action::Bind { who, page, len, node } => {
                let pid = self.pid(who);
                let s = &mut self.system;
                let policy = match node {
                    0 => Policy::Bind(NodeSet::default().with(NodeId(1))),
                    _ => Policy::Interleave(NodeSet::first(2)),
                };
                let got =
                    s.kernel.mbind(&mut s.machine, cpu0, pid, va(first + page), len << 12, Some(policy));
                let want = if self.model.covered(pid, first + page, len) { Ok(()) } else { Err(Bad::Range) };
                assert_eq!(got.map_err(Bad::from), want);
            }
            Action::Move { who, page, len, to } => {
                let pid = self.pid(who);
                let to = to.min(PAGES - len);
                let s = &mut self.system;
                let (old, new) = (va(first + page), va(first + to));
                let got = s.kernel.mremap(&mut s.machine, cpu0, pid, old, len << 12, len << 12, Some(new));
                let overlap = page < to + len && to < page + len;
                match got.map_err(Bad::from) {
                    Ok(at) => {
                        assert!(at == new && !overlap && self.model.covered(pid, first + page, len));
                        let pages = self.model.processes.get_mut(&pid).expect("alive");
                        for at in 0..len {
                            let it = pages.remove(&(first + page + at)).expect("covered");
                            pages.insert(first + to + at, it);
                        }
                    }
                    Err(e) => assert_eq!(e, Bad::Range),
                }
            }
            Action::Populate { who, page, len, write } => {
                let pid = self.pid(who);
                let s = &mut self.system;
                let intent = if write { paging::Intent::WRITE } else { paging::Intent::READ };
                let got =
                    s.kernel.populate(&mut s.machine, CpuId(2), pid, va(first + page), len << 12, intent);
                // A store that stores nothing: only whether it is allowed counts.
                let pages = &self.model.processes[&pid];
                let want = (0..len).try_for_each(|at| {
                    let it = pages.get(&(first + page + at)).ok_or(Bad::Segv)?;
                    if !it.prot.any() || (write && !it.prot.write) {
                        return Err(Bad::Segv);
                    }
                    match it.what {
                        What::Private(object) | What::Shared(object) => self.model.object(object).map(|_| ()),
                        What::Own(_) => Ok(()),
                    }
                });
                assert_eq!(got.map(|_| ()).map_err(Bad::from), want);
                if write {
                    // Copies were made of the private pages up to the first error.
                    for at in 0..len {
                        let Some(it) = self.model.processes[&pid].get(&(first + page + at)).copied() else {
                            break;
                        };
                        if !it.prot.write {
                            break;
                        }
                        if let What::Private(object) = it.what {
                            let Ok(value) = self.model.object(object) else { break };
                            let pages = self.model.processes.get_mut(&pid).expect("alive");
                            pages.get_mut(&(first + page + at)).expect("mapped").what = What::Own(value);
                        } else if let What::Shared(object) = it.what
                            && self.model.object(object).is_err()
                        {
                            break;
                        }
                    }
                }
            }
            Action::Touch { who, cpu, page, len, write } => {
                let pid = self.pid(who);
                for at in 0..len {
                    self.check(CpuId(cpu), pid, first + page + at, write);
                }
            }
            Action::Fork { who } => {
                if self.model.processes.len() < 4 {
                    let parent = self.pid(who);
                    let s = &mut self.system;
                    let child = s.kernel.fork(&mut s.machine, CpuId(1), parent).expect("a child");
                    let pages = self.model.processes[&parent].clone();
                    self.model.processes.insert(child, pages);
                }
            }
            Action::Exec { who } => {
                let pid = self.pid(who);
                let s = &mut self.system;
                s.kernel.exec(&mut s.machine, cpu0, pid).expect("an exec");
                self.model.processes.insert(pid, BTreeMap::new());
            }
            Action::Exit { who } => {
                let pid = self.pid(who);
                let s = &mut self.system;
                s.kernel.exit(&mut s.machine, cpu0, pid).expect("an exit");
                self.model.processes.remove(&pid);
                if self.model.processes.is_empty() {
                    self.begin();
                }
            }
            Action::Collapse { who } => {
                let pid = self.pid(who);
                let s = &mut self.system;
                s.kernel.khugepaged(&mut s.machine, CpuId(3), pid, 4).expect("a pass");
            }
            Action::NumaScan { who, cpu } => {
                let pid = self.pid(who);
                let s = &mut self.system;
                s.kernel.numa_scan(&mut s.machine, CpuId(cpu), pid).expect("a scan");
            }
            Action::Migrate { who, node } => {
                let pid = self.pid(who);
                let s = &mut self.system;
                let all = PAGES << 12;
                s.kernel
                    .migrate(&mut s.machine, cpu0, pid, Va::new(BASE), all, NodeId(node))
                    .expect("a move");
            }
            Action::Reclaim { frames } => {
                let s = &mut self.system;
                s.kernel.reclaim(&mut s.machine, cpu0, frames).expect("a CPU");
            }
            Action::Compact { node } => {
                let s = &mut self.system;
                s.kernel
                    .compact(&mut s.machine, cpu0, NodeId(node), PageSize::Size2M.order())
                    .expect("a pass");
            }
            Action::Replicate { who, nodes } => {
                let pid = self.pid(who);
                let s = &mut self.system;
                s.kernel.replicate_tables(&mut s.machine, cpu0, pid, NodeSet(nodes)).expect("frames");
            }
            Action::Rebalance { who } => {
                let pid = self.pid(who);
                let s = &mut self.system;
                s.kernel.rebalance_tables(&mut s.machine, cpu0, pid).expect("alive");
            }
            Action::Idle { cpu } => {
                let s = &mut self.system;
                s.kernel.idle(&mut s.machine, CpuId(cpu)).expect("a CPU");
            }
        }
    }

    /// Frames that are kept for later are so marked, no leaf maps one, and every frame
    /// of anonymous memory has as many references as leaves.
    fn audit(&mut self) {
        let kernel = &self.system.kernel;
        let totals = kernel.pool().audit().expect("a sound pool");
        assert_eq!(totals.of(FrameState::Reserved), kernel.source().reserved());
        let mut leaves: BTreeMap<Frame<HostPhys>, u32> = BTreeMap::new();
        for process in kernel.processes() {
            common::leaves(kernel, process.id(), |_, entry, size| {
                let frame = entry.leaf_frame(size);
                if kernel.pool().state(frame) == FrameState::Anon && kernel.pool().compound(frame).is_none() {
                    *leaves.entry(frame).or_default() += 1;
                }
                assert_ne!(kernel.pool().state(frame), FrameState::Reserved, "{frame:?} is kept for later");
            });
        }
        for (frame, count) in leaves {
            assert_eq!(kernel.pool().refs(frame), count, "{frame:?}");
        }
    }

    fn finish(mut self) {
        let pids: Vec<_> = self.model.processes.keys().copied().collect();
        for (at, pid) in pids.into_iter().enumerate() {
            let pages: Vec<_> = self.model.processes[&pid].keys().copied().collect();
            for page in pages {
                self.check(CpuId((at % 4) as u16), pid, page, false);
            }
        }
        self.system.shutdown();
    }
}

fn some_config() -> impl Strategy<Value = KernelConfig> {
    let thp = prop_oneof![Just(ThpMode::Never), Just(ThpMode::Madvise), Just(ThpMode::Always)];
    (thp, any::<bool>(), 0..5u32, 1..4u8, any::<bool>(), 4..6u8).prop_map(
        |(thp, zero_page, around, pcids, eager, levels)| KernelConfig {
            thp,
            zero_page,
            fault_around: 1 << around,
            read_around: 1 << around,
            pcids,
            levels,
            swap_slots: 100_000,
            numa_balancing: NumaBalancing { scan_bytes: 3 << 20, eager },
            ..config()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// With room for everything.
    #[test]
    fn the_kernel_shows_every_process_its_own_memory(
        config in some_config(),
        actions in proptest::collection::vec(action(), 1..80),
    ) {
        let mut test = Test::new(16384, config, Box::new(SingleTables::default()));
        actions.iter().for_each(|action| test.run(action));
        test.finish();
    }

    /// With far less memory than the processes want.
    #[test]
    fn it_does_so_under_memory_pressure(
        config in some_config(),
        actions in proptest::collection::vec(action(), 1..80),
    ) {
        let mut test = Test::new(700, config, Box::new(SingleTables::default()));
        actions.iter().for_each(|action| test.run(action));
        test.finish();
    }

    /// With frames from reservations, in every size, with room for them or hardly any.
    #[test]
    fn it_does_so_on_reservations(
        config in some_config(),
        pages in (1..7u32).prop_map(|order| 1 << order),
        threshold in prop_oneof![Just(None), (0..200u64).prop_map(Some)],
        frames in prop_oneof![Just(16384u64), Just(700)],
        actions in proptest::collection::vec(action(), 1..80),
    ) {
        let mut settings = Settings::of(pages).expect("a power of two");
        settings.threshold = threshold;
        let source = Box::new(PteMagnet::new(settings));
        let mut test = Test::of(frames, config, source, Box::new(SingleTables::default()));
        for action in &actions {
            test.run(action);
            test.audit();
            let kept = test.system.kernel.source().reserved();
            let most = threshold.unwrap_or(2 * frames / 64);
            prop_assert!(kept <= most, "{} of {}", kept, most);
        }
        test.finish();
    }

    /// With page tables on every node, or that follow the data.
    #[test]
    fn it_does_so_on_replicated_tables(
        config in some_config(),
        mitosis in mitosis(),
        frames in prop_oneof![Just(16384u64), Just(1000)],
        actions in proptest::collection::vec(action(), 1..80),
    ) {
        let mut test = Test::new(frames, config, Box::new(mitosis));
        actions.iter().for_each(|action| test.run(action));
        test.finish();
    }
}

/// Mitosis in one of its forms.
#[derive(Clone, Copy, Debug)]
enum Mitosis {
    Eager(NodeSet),
    Following,
    Lazy(u32),
}

fn mitosis() -> impl Strategy<Value = Mitosis> {
    prop_oneof![
        (0..4u8).prop_map(|nodes| Mitosis::Eager(NodeSet(nodes))),
        Just(Mitosis::Following),
        (0..9u32).prop_map(Mitosis::Lazy),
    ]
}

impl Mitosis {
    fn ops<I: Space, M: TableMemory>(self) -> Box<dyn TableOps<I, M>> {
        match self {
            Mitosis::Eager(nodes) => Box::new(Replicated::<M::Space>::new(nodes)),
            Mitosis::Following => Box::new(Replicated::<M::Space>::new(NodeSet::default()).following()),
            Mitosis::Lazy(order) => Box::new(Lazy::<M::Space>::new(NodeSet::first(2), order)),
        }
    }
}

impl<M: TableMemory> Tables<M> for Mitosis {
    fn process(&mut self, _: &SpaceInfo) -> Box<dyn TableOps<Virt, M>> {
        self.ops()
    }
    fn vm(&mut self, _: &SpaceInfo) -> Box<dyn TableOps<GuestPhys, M>> {
        self.ops()
    }
}
