//! Groups of containers: which space is whose member, for the cores that load it; and
//! the factory of their tables.

use crate::hardware::tlb_space;
use crate::sharing::{Aslr, Babelfish};
use crate::system::Side;
use mechanisms::babelfish::{
    self, BabelContext, Ccid, GroupStats, Groups, Identity, Masks, Membership, Process, SEGMENTS, Segment,
    SharedTables, cost::Space as Memory,
};
use mechanisms::mitosis::{Place, Replicated};
use os::{SpaceId, SpaceInfo, Tables};
use paging::frames::NodeSet;
use paging::{GuestPhys, NodeId, OneCopy, PhysSpace, Reach, TableMemory, TableOps, Virt};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whose a process of the input is: all are one user's, and an application is what its name says.
pub(crate) fn identity(name: &str) -> Identity {
    // FNV-1a.
    let application = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    Identity { user: 0, application }
}

/// A group of the input, as its kernel knows it.
pub(crate) fn group(number: u16) -> os::GroupId {
    os::GroupId(u32::from(number) + 1)
}

/// A member, whatever space its tables are in.
trait Member: std::fmt::Debug + Send {
    fn context(&self, pcid: u16) -> BabelContext;
    fn masks(&self) -> Arc<Masks>;
    fn stats(&self) -> (Ccid, GroupStats, Memory);
}

impl<S: PhysSpace> Member for Process<S> {
    fn context(&self, pcid: u16) -> BabelContext {
        self.context(pcid)
    }
    fn masks(&self) -> Arc<Masks> {
        self.group().masks()
    }
    fn stats(&self) -> (Ccid, GroupStats, Memory) {
        (self.group().ccid(), self.group().stats(), self.group().space())
    }
}

/// The members of all groups of a kernel, by space. The factory of tables writes it, cores read it.
#[derive(Clone, Debug)]
pub struct Members {
    how: Babelfish,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    by_space: HashMap<SpaceId, Box<dyn Member>>,
    /// The first member of each group.
    by_group: BTreeMap<Ccid, Box<dyn Member>>,
    /// Where spaces lie, if hardware makes layouts one.
    layouts: HashMap<SpaceId, babelfish::Aslr>,
}

impl Members {
    /// None yet.
    pub fn new(how: Babelfish) -> Members {
        Members { how, inner: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing is left half done by a thread that panicked with it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a core that runs `space` of kernel `vm` loads; anew after everything that the kernel did.
    pub fn context(&self, vm: u16, space: SpaceId) -> BabelContext {
        let pcid = space.0 & 0xfff;
        let members = self.lock();
        let context = members
            .by_space
            .get(&space)
            .map_or(BabelContext::new(Ccid::NONE, pcid, None), |m| m.context(pcid));
        let context = context.in_vm(vm as u8);
        match self.how.aslr {
            Aslr::Hardware => {
                let moved = members.layouts.get(&space).copied();
                context.randomised(moved.unwrap_or(babelfish::Aslr::hardware([Segment::default(); SEGMENTS])))
            }
            // A choice that cannot be was refused with the system.
            Aslr::Software if self.how.first_level => context.sharing_first_level().unwrap_or(context),
            Aslr::Software => context,
        }
    }

    /// A space begins: where its parent lies, or nothing is known yet.
    fn begin(&self, info: &SpaceInfo) {
        let layouts = &mut self.lock().layouts;
        match info.parent.and_then(|parent| layouts.get(&parent).copied()) {
            Some(layout) => layouts.insert(info.space, layout),
            None => layouts.remove(&info.space),
        };
    }

    /// The MaskPages of the group of `space`.
    pub fn masks(&self, space: SpaceId) -> Arc<Masks> {
        self.lock().by_space.get(&space).map_or_else(Arc::default, |member| member.masks())
    }

    /// The spaces that an invalidation by `space` concerns: what walk caches call them, and what cores load for them.
    pub fn concerned(&self, vm: u16, space: SpaceId, reach: Reach) -> (Vec<u16>, Vec<BabelContext>) {
        let mut spaces = vec![space];
        if reach == Reach::Group {
            let members = &self.lock().by_space;
            if let Some(ccid) = members.get(&space).map(|member| member.context(0).ccid) {
                let of_group = members.iter().filter(|(_, member)| member.context(0).ccid == ccid);
                spaces.extend(of_group.map(|(mate, _)| *mate).filter(|mate| *mate != space));
            }
        }
        let names = spaces.iter().map(|space| tlb_space(vm, *space)).collect();
        (names, spaces.into_iter().map(|space| self.context(vm, space)).collect())
    }

    /// Whether each process has a layout of its own.
    pub fn randomises(&self) -> bool {
        self.how.aslr == Aslr::Hardware
    }

    /// From now on `space`, which nobody ran yet, lies so.
    pub fn lay_out(&self, space: SpaceId, layout: babelfish::Aslr) {
        self.lock().layouts.insert(space, layout);
    }

    /// Where `space` lies, if it was told.
    pub fn layout(&self, space: SpaceId) -> Option<babelfish::Aslr> {
        self.lock().layouts.get(&space).copied()
    }

    /// What each group did, and the memory that it takes and saves now.
    pub fn stats(&self) -> Vec<(Ccid, GroupStats, Memory)> {
        self.lock().by_group.values().map(|member| member.stats()).collect()
    }
}

/// The tables of a kernel whose processes share some. `inner` makes a VM's.
pub(crate) struct Fused<M: TableMemory> {
    side: Side,
    nodes: NodeSet,
    groups: Groups<M::Space>,
    processes: HashMap<SpaceId, Process<M::Space>>,
    members: Members,
    /// Processes that were alone.
    alone: u64,
    inner: Box<dyn Tables<M>>,
}

impl<M: TableMemory> std::fmt::Debug for Fused<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fused").field("members", &self.members).finish_non_exhaustive()
    }
}

impl<M: TableMemory + 'static> Fused<M> {
    pub(crate) fn new(side: &Side, nodes: NodeSet, members: Members, inner: Box<dyn Tables<M>>) -> Self {
        let groups = Groups::new(members.how.sharing());
        Fused { side: *side, nodes, groups, processes: HashMap::new(), members, alone: 0, inner }
    }

    /// The place of a new process: beside its parent, or in its group, or in one of its own.
    fn place(&mut self, info: &SpaceInfo) -> Option<Membership<M::Space>> {
        if let Some(parent) = info.parent.and_then(|parent| self.processes.get(&parent)) {
            return Some(parent.fork());
        }
        let who = match info.group {
            os::GroupId(0) => {
                self.alone += 1;
                Identity { user: u32::MAX, application: self.alone }
            }
            group => Identity { user: 0, application: u64::from(group.0) },
        };
        // When all numbers are in use, whoever comes shares nothing.
        let ccid = self.groups.of(who).ok()?.ccid();
        self.groups.join(ccid, who).ok()
    }
}

impl<M: TableMemory + 'static> Tables<M> for Fused<M> {
    fn process(&mut self, info: &SpaceInfo) -> Box<dyn TableOps<Virt, M>> {
        self.members.begin(info);
        let Some(membership) = self.place(info) else {
            self.processes.remove(&info.space);
            self.members.lock().by_space.remove(&info.space);
            return self.inner.process(info);
        };
        let process = membership.process().clone();
        let mut members = self.members.lock();
        members.by_group.entry(process.group().ccid()).or_insert_with(|| Box::new(process.clone()));
        members.by_space.insert(info.space, Box::new(process.clone()));
        drop(members);
        self.processes.insert(info.space, process);
        let copies = self.side.replication.policy().nodes(self.nodes, false);
        if copies.is_empty() {
            let fixed = self.side.tables_on.map(NodeId);
            return Box::new(SharedTables::new(OneCopy { fixed }, membership));
        }
        let place = self.side.tables_on.map_or(Place::FirstTouch, |node| Place::Fixed(NodeId(node)));
        Box::new(SharedTables::new(Replicated::new(copies).placed(place), membership))
    }
    fn vm(&mut self, info: &SpaceInfo) -> Box<dyn TableOps<GuestPhys, M>> {
        self.inner.vm(info)
    }
    fn shadow(&mut self, info: &SpaceInfo) -> Box<dyn TableOps<Virt, M>> {
        self.inner.shadow(info)
    }
}
