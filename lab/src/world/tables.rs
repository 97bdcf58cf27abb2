//! The axis of table placement: which mechanism keeps each page table.

use crate::groups::{Fused, Members};
use crate::numa::Replication;
use crate::system::Side;
use mechanisms::Named;
use mechanisms::mitosis::{Lazy, Place, Replicated, TablePages};
use os::{SingleTables, SpaceId, SpaceInfo, TableCache, Tables};
use paging::frames::NodeSet;
use paging::{Frame, GuestPhys, NoFrame, NodeId, PhysSpace, Space, TableFrames, TableMemory, TableOps, Virt};
use std::collections::HashSet;

/// log2 of the entries that a fault on a lazy copy fills: two cache lines.
const LAZY_ORDER: u32 = 4;

/// The tables of a kernel on `nodes` nodes, some of them shared in the groups of `members`.
pub(super) fn tables<M: TableMemory + Send + 'static>(
    side: &Side,
    nodes: NodeSet,
    members: Option<Members>,
) -> Box<dyn Tables<M>> {
    let own: Box<dyn Tables<M>> = match side.mechanism {
        Some(named) => Box::new(NamedTables { named, fixed: side.tables_on.map(NodeId) }),
        None if side.replication == Replication::Off && !side.tables_follow => Box::new(single(side)),
        None => Box::new(OnNodes { side: *side, nodes, chosen: HashSet::new(), roots: 0 }),
    };
    match members {
        None => own,
        Some(members) => Box::new(Fused::new(side, nodes, members, own)),
    }
}

/// One copy of each table.
pub(super) fn single(side: &Side) -> SingleTables {
    SingleTables { fixed: side.tables_on.map(NodeId) }
}

/// A mechanism of the list for every table of a kernel.
#[derive(Clone, Copy, Debug)]
struct NamedTables {
    named: Named,
    fixed: Option<NodeId>,
}

impl<M: TableMemory> Tables<M> for NamedTables {
    fn process(&mut self, _info: &SpaceInfo) -> Box<dyn TableOps<Virt, M>> {
        self.named.tables(self.fixed)
    }
    fn vm(&mut self, _info: &SpaceInfo) -> Box<dyn TableOps<GuestPhys, M>> {
        self.named.tables(self.fixed)
    }
    fn shadow(&mut self, _info: &SpaceInfo) -> Box<dyn TableOps<Virt, M>> {
        self.named.tables(self.fixed)
    }
}

/// Mitosis, vMitosis or Hydra for every table of a kernel.
#[derive(Debug)]
struct OnNodes {
    side: Side,
    nodes: NodeSet,
    /// Spaces that have copies, where not all have.
    chosen: HashSet<SpaceId>,
    /// Processes so far that no other forked.
    roots: u32,
}

impl OnNodes {
    /// Whether a new process is among those that have copies.
    fn chooses(&mut self, info: &SpaceInfo) -> bool {
        let these = self.side.replicated_processes;
        let is = match info.parent {
            _ if these == 0 => return true,
            Some(parent) => self.chosen.contains(&parent),
            None => {
                self.roots += 1;
                these.checked_shr(self.roots - 1).is_some_and(|bits| bits & 1 == 1)
            }
        };
        if is {
            self.chosen.insert(info.space);
        }
        is
    }

    fn ops<I: Space, M: TableMemory + 'static>(&self) -> Box<dyn TableOps<I, M>> {
        // `auto` begins with one copy.
        let nodes = self.side.replication.policy().nodes(self.nodes, false);
        if self.side.replication == Replication::Lazy {
            return Box::new(Lazy::new(nodes, LAZY_ORDER));
        }
        let place = self.side.tables_on.map_or(Place::FirstTouch, |node| Place::Fixed(NodeId(node)));
        let ops = Replicated::new(nodes).placed(place);
        Box::new(if self.side.tables_follow { ops.following() } else { ops })
    }
}

impl<M: TableMemory + 'static> Tables<M> for OnNodes {
    fn process(&mut self, info: &SpaceInfo) -> Box<dyn TableOps<Virt, M>> {
        if !self.chooses(info) {
            return single(&self.side).process(info);
        }
        self.ops()
    }
    fn vm(&mut self, _info: &SpaceInfo) -> Box<dyn TableOps<GuestPhys, M>> {
        self.ops()
    }
    fn shadow(&mut self, _info: &SpaceInfo) -> Box<dyn TableOps<Virt, M>> {
        // Filled on faults anyway, and by software that knows no lazy copies.
        let replication = match self.side.replication {
            Replication::Lazy => Replication::All,
            other => other,
        };
        let side = Side { replication, ..self.side };
        OnNodes { side, nodes: self.nodes, chosen: HashSet::new(), roots: 0 }.ops()
    }
}

/// Mitosis's page-table page cache, in front of a kernel's frame pool.
#[derive(Debug)]
pub(super) struct NodePages<S: PhysSpace> {
    pages: TablePages<S>,
    nodes: NodeSet,
    each: usize,
}

impl<S: PhysSpace> NodePages<S> {
    /// `each` pages on each of `nodes`.
    pub(super) fn new(nodes: NodeSet, each: u32) -> Self {
        NodePages { pages: TablePages::new(each as usize), nodes, each: each as usize }
    }
}

impl<S: PhysSpace> TableCache<S> for NodePages<S> {
    fn fill(&mut self, pool: &mut dyn TableFrames<S>) -> u64 {
        self.pages.populate(pool, self.nodes, self.each) as u64
    }
    fn alloc_table(
        &mut self,
        pool: &mut dyn TableFrames<S>,
        node: NodeId,
        strict: bool,
    ) -> Result<Frame<S>, NoFrame> {
        self.pages.over(pool).alloc_table(node, strict)
    }
    fn free_table(&mut self, pool: &mut dyn TableFrames<S>, frame: Frame<S>) {
        self.pages.over(pool).free_table(frame);
    }
    fn drain(&mut self, pool: &mut dyn TableFrames<S>) -> u64 {
        let held = self.nodes.iter().map(|node| self.pages.held(node) as u64).sum();
        self.pages.drain(pool);
        held
    }
}
