//! An address space: its areas, its page table, and who has it loaded.
//!
//! A process is an `AddressSpace<Virt, M>`. A VM is, for its host, an
//! `AddressSpace<GuestPhys, M>` whose areas are the memory slots: both take
//! the same faults, huge pages, policies and reclaim.

use crate::hardware::{CpuMask, Hardware, Invalidate, SpaceId, SpaceKind};
use crate::hypervisor::{DirtyLog, VmId};
use crate::process::{GroupId, ProcessId};
use crate::segment::{Departures, SpaceSegment};
use crate::stats::Stats;
use crate::thp::ThpMode;
use crate::vma::{Policy, VmaSet};
use alloc::boxed::Box;
use core::any::Any;
use core::fmt;
use core::ops::Range;
use paging::frames::{CpuId, NodeId};
use paging::{
    Addr, Entry, GuestPhys, LeafAt, OneCopy, PageSize, PageTable, Space, TableEnv, TableMemory, TableOps,
    Virt,
};

/// Whom an address space belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Owner {
    /// A process.
    Process(ProcessId),
    /// A VM.
    Vm(VmId),
    /// The shadow of a guest's page table, in a VM.
    Shadow(VmId),
}

impl Owner {
    /// What its addresses are.
    pub const fn kind(self) -> SpaceKind {
        match self {
            Owner::Process(_) | Owner::Shadow(_) => SpaceKind::Process,
            Owner::Vm(_) => SpaceKind::Vm,
        }
    }
}

/// What a [`Tables`] is told about an address space that begins.
#[derive(Clone, Copy, Debug)]
pub struct SpaceInfo {
    /// Its number.
    pub space: SpaceId,
    /// Whom it belongs to.
    pub owner: Owner,
    /// The group of the process.
    pub group: GroupId,
    /// The group's memory limit in frames.
    pub limit: Option<u64>,
    /// The space that it is forked from.
    pub parent: Option<SpaceId>,
}

/// Chooses the mechanism for each new page table.
pub trait Tables<M: TableMemory>: fmt::Debug + Send {
    /// For a process.
    fn process(&mut self, info: &SpaceInfo) -> Box<dyn TableOps<Virt, M>>;
    /// For a VM.
    fn vm(&mut self, info: &SpaceInfo) -> Box<dyn TableOps<GuestPhys, M>>;
    /// For a shadow table of a VM.
    fn shadow(&mut self, _info: &SpaceInfo) -> Box<dyn TableOps<Virt, M>> {
        Box::new(OneCopy::default())
    }
}

/// One copy of every table, where the fault is or all on one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct SingleTables {
    /// All table pages on this node.
    pub fixed: Option<NodeId>,
}

impl<M: TableMemory> Tables<M> for SingleTables {
    fn process(&mut self, _info: &SpaceInfo) -> Box<dyn TableOps<Virt, M>> {
        Box::new(OneCopy { fixed: self.fixed })
    }
    fn vm(&mut self, _info: &SpaceInfo) -> Box<dyn TableOps<GuestPhys, M>> {
        Box::new(OneCopy { fixed: self.fixed })
    }
    fn shadow(&mut self, _info: &SpaceInfo) -> Box<dyn TableOps<Virt, M>> {
        Box::new(OneCopy { fixed: self.fixed })
    }
}

/// What an [`MmuNotifier`] works with.
pub struct NotifyCx<'a, M: TableMemory> {
    /// Tables and frames.
    pub env: TableEnv<'a, M>,
    /// The machine.
    pub hw: &'a mut dyn Hardware<M::Space>,
    /// The CPU that runs this.
    pub cpu: CpuId,
}

impl<M: TableMemory> fmt::Debug for NotifyCx<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotifyCx").field("cpu", &self.cpu).finish_non_exhaustive()
    }
}

/// Somebody who keeps translations derived from an address space: a shadow
/// table, a guest's array of host frames (Linux: MMU notifiers).
pub trait MmuNotifier<I: Space, M: TableMemory>: Any + fmt::Debug + Send {
    /// These addresses no longer translate as they did. Called before TLBs are
    /// invalidated; the frames are released after it returns.
    fn invalidate(&mut self, cx: &mut NotifyCx<'_, M>, what: Invalidate<'_>);

    /// Whether it wants to know what is left ([`MmuNotifier::now`]) in the place of what went.
    fn wants_what_is_left(&self) -> bool {
        false
    }

    /// In `range` leaves went, or lost rights or bits; `leaves` are those that are there now, ascending.
    /// Called as `invalidate` is.
    fn now(&mut self, _cx: &mut NotifyCx<'_, M>, _range: Range<u64>, _leaves: &[LeafAt<I>]) {}

    /// `addr` is mapped by the leaf `entry` of `size` from now on. (Where a leaf only lost
    /// rights or bits, `invalidate` alone is called; what is still there is asked for.)
    fn mapped(&mut self, _cx: &mut NotifyCx<'_, M>, _addr: Addr<I>, _entry: Entry, _size: PageSize) {}

    /// The space ends: everything kept for it goes back.
    fn exited(&mut self, cx: &mut NotifyCx<'_, M>);
}

/// An address space.
pub struct AddressSpace<I: Space, M: TableMemory> {
    pub(crate) id: SpaceId,
    pub(crate) owner: Owner,
    pub(crate) group: GroupId,
    pub(crate) vmas: VmaSet,
    pub(crate) table: PageTable<I, M>,
    /// CPUs that may have cached translations.
    pub(crate) cpus: CpuMask,
    /// CPUs that ever ran it: what its group shares and it must not see any more is gone from them.
    pub(crate) visited: CpuMask,
    pub(crate) policy: Policy,
    pub(crate) thp: ThpMode,
    /// No area is placed above this address by itself.
    pub(crate) mmap_top: u64,
    pub(crate) stats: Stats,
    pub(crate) notifier: Option<Box<dyn MmuNotifier<I, M>>>,
    pub(crate) log: Option<DirtyLog>,
    pub(crate) segment: Option<Box<SpaceSegment<I, M::Space>>>,
    pub(crate) departures: Departures,
    pub(crate) clocks: Clocks,
}

/// Where the passes over an address space that go on in the background stand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clocks {
    pub reclaim: u64,
    pub numa: u64,
    pub collapse: u64,
}

impl<I: Space, M: TableMemory> fmt::Debug for AddressSpace<I, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace")
            .field("id", &self.id)
            .field("owner", &self.owner)
            .field("group", &self.group)
            .field("areas", &self.vmas.len())
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl<I: Space, M: TableMemory> AddressSpace<I, M> {
    /// Its number.
    pub fn id(&self) -> SpaceId {
        self.id
    }
    /// Whom it belongs to.
    pub fn owner(&self) -> Owner {
        self.owner
    }
    /// Its group.
    pub fn group(&self) -> GroupId {
        self.group
    }
    /// Its areas.
    pub fn vmas(&self) -> &VmaSet {
        &self.vmas
    }
    /// Its page table.
    pub fn table(&self) -> &PageTable<I, M> {
        &self.table
    }
    /// Its page table, for whoever switches a mechanism on and off.
    pub fn table_mut(&mut self) -> &mut PageTable<I, M> {
        &mut self.table
    }
    /// CPUs that may have cached translations of it.
    pub fn cpus(&self) -> &CpuMask {
        &self.cpus
    }
    /// Its own NUMA policy.
    pub fn policy(&self) -> Policy {
        self.policy
    }
    /// What happened in it.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
    /// The node for the tables that map `addr`: the process's policy counts, an
    /// area's own does not (Linux allocates tables under the task's policy).
    pub(crate) fn table_node(&self, local: NodeId, addr: u64) -> NodeId {
        self.policy.node(local, addr >> PageSize::Size2M.shift())
    }
    /// Whether the area of `addr` allows any access: no leaf may be present otherwise.
    pub(crate) fn accessible(&self, addr: Addr<I>) -> bool {
        self.vmas.get(addr.raw()).is_some_and(|area| area.prot.any())
    }
    /// The notifier, if it is a `T`.
    pub fn notifier_mut<T: MmuNotifier<I, M>>(&mut self) -> Option<&mut T> {
        let notifier: &mut dyn Any = &mut **self.notifier.as_mut()?;
        notifier.downcast_mut()
    }
}
