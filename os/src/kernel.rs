//! A kernel: physical memory, processes, VMs. Guest and host are two of them.

use crate::error::{MmError, Stop};
use crate::frames::{HugePool, PoolFrames, TableCache};
use crate::hardware::{Hardware, MAX_CPUS, SpaceId};
use crate::hypervisor::{Vm, VmId};
use crate::numa::NumaBalancing;
use crate::pagecache::Files;
use crate::process::{Group, GroupId, Process, ProcessId};
use crate::sched::CpuState;
use crate::segment::Departures;
use crate::space::{AddressSpace, Owner, SpaceInfo, Tables};
use crate::stats::Stats;
use crate::swap::Swap;
use crate::thp::ThpMode;
use crate::vma::{Policy, VmaSet};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use mechanisms::segments::FilterGeometry;
use paging::frames::{AllocRequest, CpuId, FrameState, MAX_NODES, NodeId, NodeSet};
use paging::{
    Frame, FramePool, FrameSource, PageSize, PageTable, PhysSpace, Space, SparseFrames, TableEnv,
    TableFrames, TableMemory, TableOps, Work,
};

/// The choices of a kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelConfig {
    /// Levels of its page tables: 4 or 5.
    pub levels: u8,
    /// The node of each CPU.
    pub cpus: Vec<NodeId>,
    /// The node of each CPU as far as page tables go, where that is another: a guest that
    /// is shown one node, but knows which CPUs are near each other (vMitosis NO-P and NO-F).
    /// Its [`TableCache`](crate::TableCache) then says which frames are near whom.
    pub table_nodes: Vec<NodeId>,
    /// Transparent huge pages, for processes and VMs that do not choose.
    pub thp: ThpMode,
    /// Empty entries that a block may have to be collapsed (Linux `max_ptes_none`, 511).
    pub max_ptes_none: u16,
    /// Loads of untouched anonymous memory map one shared frame of zeroes, as Linux does for small
    /// pages. (A huge page is always a frame of its own: Linux with `use_zero_page` off.)
    pub zero_page: bool,
    /// Cached file pages mapped around a faulting one, a power of two (Linux: 64 KiB, 16).
    pub fault_around: u64,
    /// File pages read around one that is not cached, a power of two (Linux: 128 KiB, 32).
    pub read_around: u64,
    /// Pages of swap.
    pub swap_slots: u64,
    /// Address spaces that keep their translations on a CPU at once (Linux: 6; 1 is a machine without PCIDs).
    pub pcids: u8,
    /// The lowest address at which a process may ask for memory (Linux `vm.mmap_min_addr`: [`LOWEST`](crate::LOWEST)).
    pub mmap_min_addr: u64,
    /// NUMA balancing.
    pub numa_balancing: NumaBalancing,
    /// The escape filters of the machine's direct segments.
    pub filter: FilterGeometry,
    /// The largest pages that may be cached whole inside a segment: escaped pages are in the
    /// filter under all sizes up to this one.
    pub filter_pages: PageSize,
}

impl KernelConfig {
    /// Linux's defaults on CPUs of these nodes: huge pages for who asks, no NUMA balancing, no swap.
    pub fn new(cpus: Vec<NodeId>) -> Self {
        KernelConfig {
            levels: 4,
            cpus,
            table_nodes: Vec::new(),
            thp: ThpMode::Madvise,
            max_ptes_none: 511,
            zero_page: true,
            fault_around: 16,
            read_around: 32,
            swap_slots: 0,
            pcids: 6,
            mmap_min_addr: crate::LOWEST,
            numa_balancing: NumaBalancing::default(),
            filter: FilterGeometry::default(),
            filter_pages: PageSize::Size4K,
        }
    }
}

impl KernelConfig {
    /// The node of the first CPU, if the configuration can be.
    fn check(&self) -> Result<NodeId, MmError> {
        let bad = |why| Err(MmError::BadConfig(why));
        if !(4..=5).contains(&self.levels) {
            return bad("page tables have 4 or 5 levels");
        }
        if self.cpus.len() > MAX_CPUS {
            return bad("more than 256 CPUs");
        }
        if self.cpus.iter().chain(&self.table_nodes).any(|node| node.index() >= MAX_NODES) {
            return bad("a CPU is on a node that cannot be");
        }
        if !self.table_nodes.is_empty() && self.table_nodes.len() != self.cpus.len() {
            return bad("either each CPU has a node for its page tables, or none has");
        }
        if !self.fault_around.is_power_of_two() || !self.read_around.is_power_of_two() {
            return bad("fault-around and read-around are powers of two (1: off)");
        }
        match self.cpus.first() {
            Some(&node) => Ok(node),
            None => bad("there is no CPU"),
        }
    }
}

/// The machine and the CPU that a call runs on.
pub(crate) struct Cx<'a, S: PhysSpace> {
    pub hw: &'a mut dyn Hardware<S>,
    pub cpu: CpuId,
}

/// All of a kernel but its address spaces, so that one of them can be changed
/// with it.
#[derive(Debug)]
pub(crate) struct Core<M: TableMemory> {
    pub config: KernelConfig,
    pub pool: FramePool<M::Space>,
    pub mem: M,
    pub source: Box<dyn FrameSource<M::Space>>,
    pub tables: Box<dyn Tables<M>>,
    pub work: Work,
    /// The shared frame of zeroes.
    pub zero: Frame<M::Space>,
    /// The table that idle CPUs load.
    pub kernel_root: Frame<M::Space>,
    pub files: Files,
    pub swap: Swap<M::Space>,
    pub huge: HugePool<M::Space>,
    pub table_cache: Option<Box<dyn TableCache<M::Space>>>,
    /// Frames that the balloon of this kernel, a guest's, has.
    pub balloon: Vec<Frame<M::Space>>,
    pub groups: BTreeMap<GroupId, Group>,
    pub ids: SpaceIds,
    pub cpus: Vec<CpuState>,
    /// The node that took the last hinting fault of a frame, plus one.
    pub hinted: SparseFrames<u8>,
    /// Counters of spaces that are gone.
    pub retired: Stats,
    /// The address space that reclaim's clock is in: processes, then VMs.
    pub hand: u32,
    /// Faults until the watermarks are looked at again.
    pub until_check: u32,
}

/// How an address space begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewSpace {
    pub owner: Owner,
    pub group: GroupId,
    pub policy: Policy,
    pub thp: Option<ThpMode>,
    pub parent: Option<SpaceId>,
    pub levels: u8,
}

/// Numbers for address spaces.
#[derive(Debug)]
pub(crate) struct SpaceIds {
    next: u16,
    free: Vec<SpaceId>,
}

impl SpaceIds {
    pub(crate) fn take(&mut self) -> Result<SpaceId, MmError> {
        if let Some(id) = self.free.pop() {
            return Ok(id);
        }
        self.next = self.next.checked_add(1).ok_or(MmError::NoSpaceId)?;
        Ok(SpaceId(self.next))
    }
    pub(crate) fn put(&mut self, id: SpaceId) {
        self.free.push(id);
    }
}

/// A kernel over the table memory `M`. See the [crate documentation](crate).
pub struct Kernel<M: TableMemory> {
    pub(crate) core: Core<M>,
    pub(crate) processes: Slab<Process<M>>,
    pub(crate) vms: Slab<Vm<M>>,
}

impl<M: TableMemory> fmt::Debug for Kernel<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("processes", &self.processes.iter().count())
            .field("vms", &self.vms.iter().count())
            .field("config", &self.core.config)
            .finish_non_exhaustive()
    }
}

/// Things by a number that is never used again.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    items: Vec<Option<Box<T>>>,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Slab { items: Vec::new() }
    }
    pub(crate) fn next(&self) -> u32 {
        self.items.len() as u32
    }
    pub(crate) fn push(&mut self, item: T) {
        self.items.push(Some(Box::new(item)));
    }
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        self.items.get(number as usize)?.as_deref()
    }
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.items.get_mut(number as usize)?.as_deref_mut()
    }
    pub(crate) fn remove(&mut self, number: u32) -> Option<Box<T>> {
        self.items.get_mut(number as usize)?.take()
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().filter_map(|item| item.as_deref())
    }
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.items.iter_mut().filter_map(|item| item.as_deref_mut())
    }
}

impl<M: TableMemory> Core<M> {
    /// The node of a CPU.
    #[inline]
    pub(crate) fn node(&self, cpu: CpuId) -> NodeId {
        self.config.cpus[cpu.index()]
    }

    /// The node of a CPU as far as page tables go.
    #[inline]
    pub(crate) fn table_node(&self, cpu: CpuId) -> NodeId {
        self.config.table_nodes.get(cpu.index()).copied().unwrap_or_else(|| self.node(cpu))
    }

    /// Works on page tables.
    #[inline]
    pub(crate) fn env<R>(&mut self, cpu: CpuId, f: impl FnOnce(&mut TableEnv<'_, M>) -> R) -> R {
        let node = self.table_node(cpu);
        let mut frames = PoolFrames {
            pool: &mut self.pool,
            swap: &mut self.swap,
            zero: self.zero,
            cpu: Some(cpu),
            cache: self.table_cache.as_deref_mut(),
        };
        f(&mut TableEnv { mem: &mut self.mem, frames: &mut frames, node, work: &mut self.work })
    }

    /// Gives the pages of the table cache back. Returns how many.
    pub(crate) fn drain_table_cache(&mut self) -> u64 {
        self.with_table_cache(|cache, pool| cache.drain(pool))
    }

    /// Lets the table cache, if there is one, work with the frames behind it.
    fn with_table_cache(
        &mut self,
        f: impl FnOnce(&mut dyn TableCache<M::Space>, &mut dyn TableFrames<M::Space>) -> u64,
    ) -> u64 {
        let Some(mut cache) = self.table_cache.take() else { return 0 };
        let mut frames = PoolFrames {
            pool: &mut self.pool,
            swap: &mut self.swap,
            zero: self.zero,
            cpu: None,
            cache: None,
        };
        let pages = f(&mut *cache, &mut frames);
        self.table_cache = Some(cache);
        pages
    }

    /// An empty address space; `ops` makes its table's mechanism.
    pub(crate) fn new_space<I: Space>(
        &mut self,
        cpu: CpuId,
        begin: &NewSpace,
        ops: impl FnOnce(&mut dyn Tables<M>, &SpaceInfo) -> Box<dyn TableOps<I, M>>,
    ) -> Result<AddressSpace<I, M>, Stop> {
        let &NewSpace { owner, group, policy, thp, parent, levels } = begin;
        let id = self.ids.take()?;
        let limit = self.groups.entry(group).or_default().limit;
        let ops = ops(&mut *self.tables, &SpaceInfo { space: id, owner, group, limit, parent });
        let node = policy.node(self.table_node(cpu), 0);
        let table = match self.env(cpu, |env| PageTable::new(ops, env, levels, node)) {
            Ok(table) => table,
            Err(e) => {
                self.ids.put(id);
                return Err(e.into());
            }
        };
        self.source.limited(u32::from(id.0), limit);
        // The user half of a canonical address space; all of a VM's.
        let mmap_top = match owner {
            Owner::Process(_) | Owner::Shadow(_) => (1 << (11 + 9 * u32::from(levels))) - 4096,
            Owner::Vm(_) => table.end(),
        };
        Ok(AddressSpace {
            id,
            owner,
            group,
            vmas: VmaSet::default(),
            table,
            cpus: Default::default(),
            visited: Default::default(),
            policy,
            thp: thp.unwrap_or(self.config.thp),
            mmap_top,
            stats: Stats::default(),
            notifier: None,
            log: None,
            segment: None,
            departures: Departures::default(),
            clocks: Default::default(),
        })
    }
}

impl<M: TableMemory> Kernel<M> {
    /// A kernel on `pool`, whose page tables are in `mem`. `source` answers its
    /// faults with frames, `tables` chooses the mechanism of each page table.
    ///
    /// # Errors
    /// [`MmError::BadConfig`]; [`MmError::OutOfMemory`] if there is no frame for the kernel's own two pages.
    pub fn new(
        config: KernelConfig,
        mut pool: FramePool<M::Space>,
        mut mem: M,
        source: Box<dyn FrameSource<M::Space>>,
        tables: Box<dyn Tables<M>>,
        hw: &mut dyn Hardware<M::Space>,
    ) -> Result<Self, MmError> {
        let boot = CpuId(0);
        let node = config.check()?;
        let own = AllocRequest::new(node, FrameState::Kernel);
        let zero = pool.alloc(own).map_err(MmError::OutOfMemory)?;
        hw.zero(boot, zero, 0);
        let table = AllocRequest::new(node, FrameState::Table);
        let kernel_root = pool.alloc(table).map_err(MmError::OutOfMemory)?;
        mem.create(kernel_root);
        let core = Core {
            cpus: config.cpus.iter().map(|_| CpuState::new(config.pcids)).collect(),
            swap: Swap::new(config.swap_slots),
            config,
            pool,
            mem,
            source,
            tables,
            work: Work::default(),
            zero,
            kernel_root,
            files: Files::default(),
            huge: HugePool::default(),
            table_cache: None,
            balloon: Vec::new(),
            groups: BTreeMap::new(),
            ids: SpaceIds { next: 0, free: Vec::new() },
            hinted: SparseFrames::default(),
            retired: Stats::default(),
            hand: 0,
            until_check: 0,
        };
        Ok(Kernel { core, processes: Slab::new(), vms: Slab::new() })
    }

    pub(crate) fn cx<'a>(
        &self,
        hw: &'a mut dyn Hardware<M::Space>,
        cpu: CpuId,
    ) -> Result<Cx<'a, M::Space>, MmError> {
        let cpus = self.core.config.cpus.len();
        if cpu.index() >= cpus {
            return Err(MmError::NoCpu { cpu: cpu.0, cpus });
        }
        Ok(Cx { hw, cpu })
    }

    /// Its choices.
    pub fn config(&self) -> &KernelConfig {
        &self.core.config
    }
    /// Its choices, to be changed while it runs (huge pages, NUMA balancing; the CPUs' number must stay).
    pub fn config_mut(&mut self) -> &mut KernelConfig {
        &mut self.core.config
    }
    /// The node whose page tables a CPU walks.
    ///
    /// # Panics
    /// If there is no such CPU.
    pub fn table_node(&self, cpu: CpuId) -> NodeId {
        self.core.table_node(cpu)
    }
    /// Where its page tables are: what the walker reads.
    pub fn mem(&self) -> &M {
        &self.core.mem
    }
    /// Where its page tables are, for change.
    pub fn mem_mut(&mut self) -> &mut M {
        &mut self.core.mem
    }
    /// Its frames.
    pub fn pool(&self) -> &FramePool<M::Space> {
        &self.core.pool
    }
    /// Its frames, for whoever injects fragmentation or takes frames of its own.
    pub fn pool_mut(&mut self) -> &mut FramePool<M::Space> {
        &mut self.core.pool
    }
    /// What answers its faults with frames.
    pub fn source(&self) -> &dyn FrameSource<M::Space> {
        &*self.core.source
    }
    /// The shared frame of zeroes.
    pub fn zero_frame(&self) -> Frame<M::Space> {
        self.core.zero
    }
    /// The processes alive, by number.
    pub fn processes(&self) -> impl Iterator<Item = &Process<M>> {
        self.processes.iter()
    }
    /// A process.
    ///
    /// # Errors
    /// [`MmError::NoProcess`].
    pub fn process(&self, pid: ProcessId) -> Result<&Process<M>, MmError> {
        self.processes.get(pid.0).ok_or(MmError::NoProcess(pid))
    }
    /// A process, for whoever switches a mechanism on and off.
    ///
    /// # Errors
    /// [`MmError::NoProcess`].
    pub fn process_mut(&mut self, pid: ProcessId) -> Result<&mut Process<M>, MmError> {
        self.processes.get_mut(pid.0).ok_or(MmError::NoProcess(pid))
    }
    /// Puts a cache of table pages in front of the frame pool and fills it; what an earlier
    /// one held goes back. Returns how many pages it took.
    pub fn set_table_cache(&mut self, cache: Option<Box<dyn TableCache<M::Space>>>) -> u64 {
        self.core.drain_table_cache();
        self.core.table_cache = cache;
        self.core.with_table_cache(|cache, pool| cache.fill(pool))
    }
    /// A group; it begins when it is first named.
    pub fn group(&self, group: GroupId) -> Group {
        self.core.groups.get(&group).copied().unwrap_or_default()
    }
    /// Limits the frames of anonymous memory that a group may have.
    pub fn set_limit(&mut self, group: GroupId, frames: Option<u64>) {
        self.core.groups.entry(group).or_default().limit = frames;
        let processes = self.processes.iter().map(|p| (p.space.id, p.space.group));
        let vms = self.vms.iter().map(|vm| (vm.space.id, vm.space.group));
        for (id, _) in processes.chain(vms).filter(|space| space.1 == group) {
            self.core.source.limited(u32::from(id.0), frames);
        }
    }
    /// Counters of all address spaces, also of those that are gone.
    pub fn stats(&self) -> Stats {
        let mut total = self.core.retired;
        self.processes.iter().for_each(|p| total += &p.space.stats);
        self.vms.iter().for_each(|vm| total += &vm.space.stats);
        total
    }

    /// Runs `op` on a process; when frames are missing, reclaims and runs it again.
    pub(crate) fn on_process<R>(
        &mut self,
        cx: &mut Cx<'_, M::Space>,
        pid: ProcessId,
        mut op: impl FnMut(&mut Core<M>, &mut Process<M>, &mut Cx<'_, M::Space>) -> Result<R, Stop>,
    ) -> Result<R, MmError> {
        let mut attempts = 0;
        loop {
            let process = self.processes.get_mut(pid.0).ok_or(MmError::NoProcess(pid))?;
            match op(&mut self.core, process, cx) {
                Ok(done) => return Ok(done),
                Err(stop) => self.relieve(cx, stop, &mut attempts)?,
            }
        }
    }

    /// As [`on_process`](Self::on_process), on a VM.
    pub(crate) fn on_vm<R>(
        &mut self,
        cx: &mut Cx<'_, M::Space>,
        id: VmId,
        mut op: impl FnMut(&mut Core<M>, &mut Vm<M>, &mut Cx<'_, M::Space>) -> Result<R, Stop>,
    ) -> Result<R, MmError> {
        let mut attempts = 0;
        loop {
            let vm = self.vms.get_mut(id.0).ok_or(MmError::NoVm(id))?;
            match op(&mut self.core, vm, cx) {
                Ok(done) => return Ok(done),
                Err(stop) => self.relieve(cx, stop, &mut attempts)?,
            }
        }
    }

    /// Ends everything: VMs, processes, files, the kernel's own pages. What is
    /// left is the pool, all of whose frames should be free.
    ///
    /// # Errors
    /// If a process could not be torn down for want of frames.
    pub fn shutdown(mut self, hw: &mut dyn Hardware<M::Space>) -> Result<(FramePool<M::Space>, M), MmError> {
        for pid in (0..self.processes.next()).filter(|&n| self.processes.get(n).is_some()).collect::<Vec<_>>()
        {
            self.exit(hw, CpuId(0), ProcessId(pid))?;
        }
        for vm in (0..self.vms.next()).filter(|&n| self.vms.get(n).is_some()).collect::<Vec<_>>() {
            self.destroy_vm(hw, CpuId(0), VmId(vm))?;
        }
        self.deflate_balloon(u64::MAX);
        let core = &mut self.core;
        core.free_all_files();
        core.huge.drain(&mut core.pool);
        core.drain_table_cache();
        core.source.reclaim(&mut core.pool, NodeSet::ALL, u64::MAX);
        core.pool.free(core.zero, 0, None);
        core.mem.discard(core.kernel_root);
        core.pool.free(core.kernel_root, 0, None);
        core.pool.drain(None);
        Ok((self.core.pool, self.core.mem))
    }
}
