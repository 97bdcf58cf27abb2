//! A machine that keeps what the kernel must not get wrong: the content of
//! every frame, and TLBs that forget only what a shootdown or a root load names.
#![allow(dead_code, reason = "each test uses a part")]

use mechanisms::segments::{DirectSegment, Image, Registers};
use os::{
    Cost, FileId, Hardware, Invalidate, Kernel, KernelConfig, MmError, ProcessId, RootLoad, SegmentLoad,
    Shootdown, SingleTables, SpaceId, SpaceKind, Tables,
};
use paging::frames::{CpuId, FrameState, Layout, NodeId, PoolConfig};
use paging::{
    Arena, CachedTable, Cell, Check, Dim, Entry, Fault, Frame, FramePool, FrameSource, FromBuddy, Gpa,
    GuestPhys, Hfn, HostLeaf, HostPhys, Hpa, Intent, Native, PageSize, Port, Space, Translation, Va, Virt,
    Work,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The content of memory that nobody wrote: reading it is a leak.
pub const GARBAGE: u64 = 0xdead_dead;

pub type HostKernel = Kernel<Arena<HostPhys>>;

#[derive(Clone, Copy, Debug)]
pub struct TlbEntry {
    pub space: SpaceId,
    pub kind: SpaceKind,
    pub page: u64,
    pub size: PageSize,
    pub frame: Hfn,
    pub write: bool,
    pub fetch: bool,
    pub dirty: bool,
}

#[derive(Default, Debug)]
pub struct Machine {
    pub content: HashMap<u64, u64>,
    pub disk: HashMap<(FileId, u64), u64>,
    pub swap: HashMap<u64, u64>,
    pub tlb: Vec<Vec<TlbEntry>>,
    pub roots: HashMap<(CpuId, SpaceKind), RootLoad<HostPhys>>,
    pub segments: HashMap<CpuId, Registers<Virt, HostPhys>>,
    pub vm_segments: HashMap<CpuId, Registers<GuestPhys, HostPhys>>,
    /// Frames that a file was read into: others may store to them while they are copied.
    cached: HashSet<u64>,
    pub costs: Vec<Cost>,
    pub work: Work,
    pub shootdowns: u64,
    /// Frames of each node that a mechanism keeps unused: none may be left when a page is swapped out.
    pub kept: Option<Arc<[AtomicU64; 2]>>,
    /// Drop the next shootdowns: a bug that the harness must notice.
    pub deaf: bool,
}

/// What the device has in a page that was never written.
pub fn file_content(file: FileId, page: u64) -> u64 {
    0xf11e_0000_0000 | u64::from(file.0) << 24 | page
}

impl Machine {
    pub fn new(cpus: usize) -> Self {
        Machine { tlb: vec![Vec::new(); cpus], ..Machine::default() }
    }
    pub fn read(&self, frame: Hfn) -> u64 {
        self.content.get(&frame.number()).copied().unwrap_or(GARBAGE)
    }
    fn hit(&mut self, cpu: CpuId, space: SpaceId, kind: SpaceKind, addr: u64, intent: Intent) -> Option<Hfn> {
        let entry = self.tlb[cpu.index()]
            .iter()
            .find(|e| e.space == space && e.kind == kind && e.page == addr >> e.size.shift())?;
        let allowed = (!intent.write || (entry.write && entry.dirty)) && (!intent.fetch || entry.fetch);
        allowed.then(|| entry.frame.offset((addr & (entry.size.bytes() - 1)) >> 12))
    }
    /// While content moves, no CPU may be able to store to where it was.
    fn assert_still(&self, from: Hfn, order: u8) {
        let (start, end) = (from.number(), from.number() + (1 << order));
        for entry in self.tlb.iter().flatten().filter(|entry| entry.write) {
            let first = entry.frame.number();
            assert!(first >= end || first + entry.size.frames() <= start, "{from:?} moves under {entry:?}");
        }
    }
    fn fill(&mut self, cpu: CpuId, entry: TlbEntry) {
        let tlb = &mut self.tlb[cpu.index()];
        tlb.retain(|e| {
            !(e.space == entry.space && e.kind == entry.kind && e.page == entry.page && e.size == entry.size)
        });
        tlb.push(entry);
    }
}

impl Hardware<HostPhys> for Machine {
    fn load_root(&mut self, cpu: CpuId, load: &RootLoad<HostPhys>) {
        if let Some(evicted) = load.evicted {
            self.flush_space(cpu, evicted);
        }
        self.roots.insert((cpu, load.kind), *load);
    }
    fn load_segment(&mut self, cpu: CpuId, load: &SegmentLoad<'_>) {
        fn set<I: Space>(registers: &mut Registers<I, HostPhys>, image: Option<&Image>) {
            match image {
                Some(image) => registers.load(image),
                None => registers.switch_off(),
            }
        }
        match load.kind {
            SpaceKind::Process => set(self.segments.entry(cpu).or_default(), load.image),
            SpaceKind::Vm => set(self.vm_segments.entry(cpu).or_default(), load.image),
        }
    }
    fn shootdown(&mut self, _from: CpuId, what: &Shootdown<'_>) {
        self.shootdowns += 1;
        if self.deaf {
            return;
        }
        for cpu in what.cpus.iter() {
            self.tlb[cpu.index()].retain(|e| {
                let (start, end) = (e.page << e.size.shift(), (e.page + 1) << e.size.shift());
                let hit = match what.what {
                    Invalidate::All => true,
                    Invalidate::Ranges(ranges) => {
                        ranges.iter().any(|r| r.start < end && start < r.start + r.len)
                    }
                };
                !(hit && e.space == what.space && e.kind == what.kind)
            });
        }
    }
    fn flush_space(&mut self, cpu: CpuId, space: SpaceId) {
        self.tlb[cpu.index()].retain(|e| e.space != space);
    }
    fn zero(&mut self, _cpu: CpuId, frame: Hfn, order: u8) {
        (0..1 << order).for_each(|at| {
            self.cached.remove(&(frame.number() + at));
            self.content.insert(frame.number() + at, 0);
        });
    }
    fn copy(&mut self, _cpu: CpuId, from: Hfn, to: Hfn, order: u8) {
        if !self.cached.contains(&from.number()) {
            self.assert_still(from, order);
        }
        (0..1 << order).for_each(|at| {
            self.cached.remove(&(to.number() + at));
        });
        for at in 0..1 << order {
            let value = self.read(from.offset(at));
            self.content.insert(to.number() + at, value);
        }
    }
    fn file_read(&mut self, _cpu: CpuId, file: FileId, page: u64, frame: Hfn) {
        self.cached.insert(frame.number());
        let value = self.disk.get(&(file, page)).copied().unwrap_or(file_content(file, page));
        self.content.insert(frame.number(), value);
    }
    fn file_write(&mut self, _cpu: CpuId, file: FileId, page: u64, frame: Hfn) {
        self.assert_still(frame, 0);
        let value = self.read(frame);
        self.disk.insert((file, page), value);
    }
    fn swap_out(&mut self, _cpu: CpuId, frame: Hfn, slot: u64) {
        if let Some(kept) = &self.kept {
            // Nodes begin as in `layout`.
            let node = usize::from(frame.number() >= 0x10000);
            assert_eq!(kept[node].load(Ordering::Relaxed), 0, "{frame:?} is swapped out before what is kept");
        }
        self.assert_still(frame, 0);
        let value = self.read(frame);
        self.swap.insert(slot, value);
    }
    fn swap_in(&mut self, _cpu: CpuId, slot: u64, frame: Hfn) {
        self.cached.remove(&frame.number());
        let value = self.swap.get(&slot).copied().unwrap_or(GARBAGE);
        self.content.insert(frame.number(), value);
    }
    fn charge(&mut self, _cpu: CpuId, cost: Cost, work: &Work) {
        self.costs.push(cost);
        self.work.add(work);
    }
}

/// A port that walks without caches.
#[derive(Default, Debug)]
pub struct Bare {
    pub references: u64,
}

impl Port for Bare {
    fn reference(&mut self, _cell: Cell, _at: Hpa) {
        self.references += 1;
    }
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

/// Two nodes of `frames` frames each.
pub fn layout(frames: u64) -> Layout {
    let second = (0x8000 + frames).next_multiple_of(0x10000);
    Layout::of_ranges(&[0x8000..0x8000 + frames, second..second + frames])
}

/// Four CPUs on two nodes.
pub fn config() -> KernelConfig {
    KernelConfig::new(vec![NodeId(0), NodeId(0), NodeId(1), NodeId(1)])
}

/// Every leaf of a process that maps a frame.
pub fn leaves(kernel: &HostKernel, pid: ProcessId, mut visit: impl FnMut(u64, Entry, PageSize)) {
    let table = kernel.process(pid).expect("alive").space().table();
    let mut todo = vec![(table.root(), table.levels(), 0u64)];
    while let Some((at, level, base)) = todo.pop() {
        for (index, entry) in paging::ops::entries(kernel.mem(), at) {
            let va = base | (index as u64) << (3 + 9 * u32::from(level));
            if entry.is_table(level) {
                todo.push((entry.frame(), level - 1, va));
            } else if entry.is_leaf(level) || entry.is_prot_none() {
                visit(va, entry, PageSize::from_level(level).expect("a level of leaves"));
            }
        }
    }
}

pub struct System {
    pub kernel: HostKernel,
    pub machine: Machine,
    pub frames: u64,
}

impl System {
    pub fn new(frames_per_node: u64, config: KernelConfig) -> Self {
        Self::of(frames_per_node, config, Box::new(FromBuddy), Box::new(SingleTables::default()))
    }

    /// With mechanisms in the place of the baselines.
    pub fn of(
        frames_per_node: u64,
        config: KernelConfig,
        source: Box<dyn FrameSource<HostPhys>>,
        tables: Box<dyn Tables<Arena<HostPhys>>>,
    ) -> Self {
        let layout = layout(frames_per_node);
        let pool = FramePool::new(&layout, PoolConfig::default()).expect("a layout");
        let mut machine = Machine::new(config.cpus.len());
        let mem = Arena::new(layout.end());
        let kernel = Kernel::new(config, pool, mem, source, tables, &mut machine).expect("a kernel");
        System { kernel, machine, frames: layout.frames() }
    }

    /// A load (`None`) or store by `pid` on `cpu`, as hardware does it: TLB, walk, fault, again.
    pub fn access(&mut self, cpu: CpuId, pid: ProcessId, va: Va, store: Option<u64>) -> Result<u64, MmError> {
        self.kernel.switch_to(&mut self.machine, cpu, pid)?;
        let intent = if store.is_some() { Intent::WRITE } else { Intent::READ };
        let root = self.machine.roots[&(cpu, SpaceKind::Process)];
        for _ in 0..8 {
            if let Some(frame) = self.machine.hit(cpu, root.space, root.kind, va.raw(), intent) {
                if let Some(value) = store {
                    self.machine.content.insert(frame.number(), value);
                }
                return Ok(self.machine.read(frame));
            }
            let root = self.machine.roots[&(cpu, SpaceKind::Process)];
            let walk =
                Native { mem: self.kernel.mem(), root: root.root, levels: root.levels, frames: 1 << 30 };
            let segment = self.machine.segments.entry(cpu).or_default();
            let walk = DirectSegment { segment, walk };
            match walk.walk(&mut Bare::default(), va, intent) {
                Ok(leaf) => {
                    let size = leaf.size;
                    let frame = Frame::new(leaf.frame.number() & !(size.frames() - 1));
                    let (write, fetch) = (leaf.rights.write(), leaf.rights.execute());
                    let page = va.raw() >> size.shift();
                    let (space, kind, dirty) = (root.space, root.kind, leaf.dirty);
                    self.machine.fill(cpu, TlbEntry { space, kind, page, size, frame, write, fetch, dirty });
                }
                Err(Fault::Page { va, .. }) => {
                    // Hardware drops what it had for a faulting address.
                    self.machine.tlb[cpu.index()]
                        .retain(|e| !(e.space == root.space && e.page == va.raw() >> e.size.shift()));
                    self.kernel.fault(&mut self.machine, cpu, pid, va, intent)?;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        panic!("{pid:?} makes no progress at {va:?}");
    }

    /// Ends everything; every frame must be back.
    pub fn shutdown(mut self) {
        let (pool, mem) = self.kernel.shutdown(&mut self.machine).expect("a shutdown");
        assert_eq!(mem.tables(), 0, "table pages are left");
        let totals = pool.audit().expect("a sound pool");
        let used: BTreeMap<_, _> = FrameState::ALL
            .into_iter()
            .filter(|state| state.is_owned() && totals.of(*state) > 0)
            .map(|state| (state, totals.of(state)))
            .collect();
        assert!(used.is_empty(), "frames are left: {used:?}");
        assert_eq!(totals.all(), self.frames);
    }
}
