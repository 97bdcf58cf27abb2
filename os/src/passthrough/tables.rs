//! Which processes of a guest are enlightened.

use crate::hardware::SpaceId;
use crate::space::{Owner, SpaceInfo, Tables};
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use core::fmt;
use mechanisms::passthrough::{Direct, HostArray, Twin, TwinPages};
use paging::frames::NodeId;
use paging::{GuestPhys, TableMemory, TableOps, Virt};

/// Who opted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Enlightened {
    /// Every process.
    #[default]
    All,
    /// Processes with a number below this, and their children.
    Below(u32),
}

/// The page tables of a guest: twins for processes that opted in, `inner`'s for all others. Without twins, `inner`'s
/// for all, in memory that translates.
pub struct TwinTables<M: TableMemory> {
    inner: Box<dyn Tables<M>>,
    array: Arc<HostArray>,
    pages: Arc<TwinPages>,
    fixed: Option<NodeId>,
    who: Enlightened,
    twins: bool,
    spaces: BTreeSet<SpaceId>,
}

impl<M: TableMemory> fmt::Debug for TwinTables<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TwinTables")
            .field("who", &self.who)
            .field("twins", &self.twins)
            .finish_non_exhaustive()
    }
}

impl<M: TableMemory> TwinTables<M> {
    /// For the guest that `array` is for; pages are counted in `pages`.
    pub fn new(
        inner: Box<dyn Tables<M>>,
        array: Arc<HostArray>,
        pages: Arc<TwinPages>,
        who: Enlightened,
    ) -> Self {
        TwinTables { inner, array, pages, fixed: None, who, twins: true, spaces: BTreeSet::new() }
    }

    /// All table pages on this node.
    #[must_use]
    pub fn fixed(mut self, node: Option<NodeId>) -> Self {
        self.fixed = node;
        self
    }

    /// The whole guest is enlightened, and its only tables name host frames: they must be in
    /// [`GuestTables`](mechanisms::passthrough::GuestTables) that translate.
    #[must_use]
    pub fn without_twins(mut self) -> Self {
        self.twins = false;
        self
    }

    fn opted(&mut self, info: &SpaceInfo) -> bool {
        let opted = match (self.who, info.parent, info.owner) {
            (Enlightened::All, ..) => true,
            (_, Some(parent), _) => self.spaces.contains(&parent),
            (Enlightened::Below(n), None, Owner::Process(pid)) => pid.0 < n,
            _ => false,
        };
        // Numbers are used again.
        if opted {
            self.spaces.insert(info.space);
        } else {
            self.spaces.remove(&info.space);
        }
        opted
    }
}

impl<M: TableMemory<Space = GuestPhys> + Send> Tables<M> for TwinTables<M> {
    fn process(&mut self, info: &SpaceInfo) -> Box<dyn TableOps<Virt, M>> {
        if !self.twins {
            return Box::new(Direct::new(Arc::clone(&self.array), self.inner.process(info)));
        }
        if !self.opted(info) {
            return self.inner.process(info);
        }
        Box::new(Twin::new(Arc::clone(&self.array), Arc::clone(&self.pages)).fixed(self.fixed))
    }
    fn vm(&mut self, info: &SpaceInfo) -> Box<dyn TableOps<GuestPhys, M>> {
        self.inner.vm(info)
    }
}
