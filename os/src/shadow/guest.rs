//! What the hypervisor reads of a guest's page table.

use super::ShadowFault;
use paging::{Entry, Fault, Flags, Gfn, GuestPhys, PageSize, Rights, Slot, TableMemory, Why};

/// An entry on the way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub slot: Slot<GuestPhys>,
    pub level: u8,
    pub entry: Entry,
}

/// Where a guest's table leads.
#[derive(Debug)]
pub(crate) struct GuestWalk {
    steps: [Option<Step>; 5],
    /// Of the leaf.
    pub size: PageSize,
    pub rights: Rights,
    /// What the entries above the leaf allow.
    above: Rights,
    /// The frame of the 4 KiB page asked for.
    pub frame: Gfn,
    /// D is set in the leaf.
    pub dirty: bool,
}

impl GuestWalk {
    /// Walks as hardware would, with no bit set.
    ///
    /// # Errors
    /// With the guest's own page fault.
    pub(crate) fn new<G>(guest: &G, fault: &ShadowFault) -> Result<Self, Fault>
    where
        G: TableMemory<Space = GuestPhys>,
    {
        let &ShadowFault { root, levels, va, intent, user } = fault;
        let mut steps = [None; 5];
        let (mut table, mut level, mut above) = (root, levels, Rights::ALL);
        loop {
            let slot = Slot::new(table, va.index(level));
            let entry = guest.load(slot);
            let fault = |why| Fault::Page { va, level, why };
            if !entry.is_present() {
                return Err(fault(Why::NotPresent));
            }
            let rights = above.under(entry);
            steps[usize::from(level) - 1] = Some(Step { slot, level, entry });
            if entry.is_table(level) {
                (table, level, above) = (entry.frame(), level - 1, rights);
                continue;
            }
            let size = PageSize::from_level(level).ok_or(fault(Why::Reserved))?;
            if !(if user { rights.allow(intent) } else { rights.allow_kernel(intent) }) {
                return Err(fault(Why::Protection));
            }
            let frame = entry.leaf_frame::<GuestPhys>(size).offset(va.page_offset(size) >> 12);
            return Ok(GuestWalk { steps, size, rights, above, frame, dirty: entry.has(Flags::DIRTY) });
        }
    }

    /// The walk to another 4 KiB page of the same leaf table, entry `index` of it; none if nobody has used that page.
    pub(crate) fn neighbour<G>(&self, guest: &G, index: usize) -> Option<GuestWalk>
    where
        G: TableMemory<Space = GuestPhys>,
    {
        let slot = Slot::new(self.steps[0]?.slot.table, index);
        let entry = guest.load(slot);
        if !entry.is_leaf(1) || !entry.has(Flags::ACCESSED) {
            return None;
        }
        let mut steps = self.steps;
        steps[0] = Some(Step { slot, level: 1, entry });
        let frame = entry.leaf_frame::<GuestPhys>(PageSize::Size4K);
        let rights = self.above.under(entry);
        Some(GuestWalk { steps, rights, frame, dirty: entry.has(Flags::DIRTY), ..*self })
    }

    /// The entries on the way, the root's first.
    pub(crate) fn steps(&self) -> impl Iterator<Item = Step> + '_ {
        self.steps.iter().rev().flatten().copied()
    }

    /// Sets A on the way, and D in the leaf for a store, as hardware would.
    pub(crate) fn mark<G>(&mut self, guest: &G, write: bool)
    where
        G: TableMemory<Space = GuestPhys>,
    {
        for step in self.steps() {
            let leaf = !step.entry.is_table(step.level);
            let dirty = if leaf && write { Flags::DIRTY } else { Flags::NONE };
            guest.mark(step.slot, step.entry, Flags::ACCESSED | dirty);
        }
        self.dirty |= write;
    }
}
