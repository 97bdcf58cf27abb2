//! What software owes the TLBs after it changed a table.
//!
//! A frame that left a table may still be reached through a TLB. So unmapping
//! does not hand the frames out: it returns a [`Flush`], and only
//! [`Flush::discharge`], which is given the shootdown to make, lets go of them.

use crate::addr::{Addr, Frame, PageSize, PhysSpace, Space};
use crate::entry::Entry;
use crate::frames::NodeSet;
use crate::ops::TableAt;
use alloc::vec::Vec;
use core::fmt;

/// A leaf that is no longer in the table.
pub struct Gone<I, S> {
    /// The input address that it mapped.
    pub addr: Addr<I>,
    /// Its size.
    pub size: PageSize,
    /// What it was, with the accessed and dirty bits that hardware had set.
    pub entry: Entry,
    space: core::marker::PhantomData<S>,
}

impl<I: Space, S: PhysSpace> Gone<I, S> {
    /// The first frame it mapped (also of a NUMA-hinting leaf); not of a swapped one.
    pub fn frame(&self) -> Option<Frame<S>> {
        (self.entry.is_present() || self.entry.is_prot_none()).then(|| self.entry.leaf_frame(self.size))
    }
}
impl<I: Space, S: PhysSpace> fmt::Debug for Gone<I, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:?}: {:?}", self.size, self.addr, self.entry)
    }
}

/// A run of pages to invalidate.
pub struct FlushRange<I> {
    /// First address.
    pub start: Addr<I>,
    /// Bytes.
    pub len: u64,
}
impl<I> Clone for FlushRange<I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<I> Copy for FlushRange<I> {}
impl<I: Space> fmt::Debug for FlushRange<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}+{:#x}", self.start, self.len)
    }
}

/// Whose cached translations an invalidation concerns, each more than the one before.
///
/// Only spaces in a group that shares translations (BabelFish) owe more than
/// [`Reach::Space`]; what they owe goes to every CPU that ran a member of the
/// group, not only to those that ran this space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Reach {
    /// The space's own entries.
    #[default]
    Space,
    /// And those that its group shares.
    Shared,
    /// And the own entries and walk caches of every member of the group.
    Group,
}

/// How much must be invalidated.
#[derive(Debug)]
pub enum Extent<I: Space> {
    /// Nothing could have been cached.
    Nothing,
    /// These pages, and walk-cache entries for them if tables went.
    Ranges(Vec<FlushRange<I>>),
    /// Everything of the address space: too many ranges to name.
    All,
}

/// Ranges beyond which a whole flush is cheaper (Linux's
/// `tlb_single_page_flush_ceiling` is of this size).
const MAX_RANGES: usize = 32;

/// An obligation to invalidate, and what may be freed after it.
#[must_use = "frames and tables stay allocated, and TLBs stale, until the flush is discharged"]
pub struct Flush<I: Space, S: PhysSpace> {
    extent: Extent<I>,
    nodes: NodeSet,
    reach: Reach,
    paths: bool,
    gone: Vec<Gone<I, S>>,
    tables: Vec<(Frame<S>, TableAt<I>)>,
}

impl<I: Space, S: PhysSpace> Default for Flush<I, S> {
    fn default() -> Self {
        Flush {
            extent: Extent::Nothing,
            nodes: NodeSet::default(),
            reach: Reach::Space,
            paths: false,
            gone: Vec::new(),
            tables: Vec::new(),
        }
    }
}

impl<I: Space, S: PhysSpace> fmt::Debug for Flush<I, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flush")
            .field("extent", &self.extent)
            .field("nodes", &self.nodes)
            .field("reach", &self.reach)
            .field("gone", &self.gone.len())
            .field("tables", &self.tables.len())
            .finish()
    }
}

/// What a discharged flush lets go of.
#[derive(Debug)]
pub struct Released<I: Space, S: PhysSpace> {
    /// Leaves that are gone: their references can be put.
    pub gone: Vec<Gone<I, S>>,
    /// Table pages that are gone: to [`crate::PageTable::free_tables`].
    pub tables: Vec<(Frame<S>, TableAt<I>)>,
}

impl<I: Space, S: PhysSpace> Flush<I, S> {
    /// Nothing to do.
    pub fn none() -> Self {
        Self::default()
    }
    /// Whether nothing must be invalidated and nothing freed.
    pub fn is_empty(&self) -> bool {
        matches!(self.extent, Extent::Nothing) && self.gone.is_empty() && !self.paths
    }
    /// Whether tables left the tree or were replaced in it, so that walk caches must go too.
    pub fn frees_tables(&self) -> bool {
        self.paths
    }
    /// Whose cached translations it concerns.
    pub fn reach(&self) -> Reach {
        self.reach
    }
    /// It concerns at least `reach`.
    pub fn reaches(&mut self, reach: Reach) {
        self.reach = self.reach.max(reach);
    }
    /// The nodes whose CPUs could have cached something of it: no other needs
    /// an interrupt. All, unless the tables know their sharers
    /// ([`crate::TableOps::sharers`]).
    pub fn nodes(&self) -> NodeSet {
        self.nodes
    }
    /// Adds `len` bytes from `start` to what must be invalidated, everywhere.
    pub fn add(&mut self, start: Addr<I>, len: u64) {
        self.add_on(NodeSet::ALL, start, len);
    }
    /// Adds `len` bytes from `start` to what must be invalidated on the CPUs of `nodes`.
    pub fn add_on(&mut self, nodes: NodeSet, start: Addr<I>, len: u64) {
        self.nodes = self.nodes.union(nodes);
        match &mut self.extent {
            Extent::All => {}
            Extent::Nothing => self.extent = Extent::Ranges(alloc::vec![FlushRange { start, len }]),
            Extent::Ranges(ranges) => {
                if ranges.iter().any(|r| {
                    start.raw().wrapping_sub(r.start.raw()) < r.len
                        && len <= r.len - (start.raw() - r.start.raw())
                }) {
                    return;
                }
                if let Some(last) = ranges.last_mut()
                    && last.start.raw().wrapping_add(last.len) == start.raw()
                {
                    last.len += len;
                } else if ranges.len() < MAX_RANGES {
                    ranges.push(FlushRange { start, len });
                } else {
                    self.extent = Extent::All;
                }
            }
        }
    }
    /// Everything of the address space must be invalidated.
    pub fn add_all(&mut self) {
        self.nodes = NodeSet::ALL;
        self.extent = Extent::All;
    }
    /// A leaf is no longer in the table: it is handed out after the flush.
    pub fn leaf_gone(&mut self, nodes: NodeSet, addr: Addr<I>, size: PageSize, entry: Entry) {
        if entry.is_present() {
            self.add_on(nodes, addr, size.bytes());
        }
        self.gone.push(Gone { addr, size, entry, space: core::marker::PhantomData });
    }
    /// A table page, or a copy of one, is linked no more; walkers of `nodes`
    /// may still be in it. [`crate::TableOps::free`] gets it after the flush.
    pub fn table_gone(&mut self, nodes: NodeSet, table: Frame<S>, at: TableAt<I>) {
        self.path_gone(nodes, at);
        self.tables.push((table, at));
    }
    /// Another table or none is linked for `at` now: walk caches of `nodes` must
    /// forget the path. If no page of it is invalidated anyway, its first
    /// stands for it, as `INVLPG` of any page drops the path to it (SDM 3A §4.10.4.1).
    pub fn path_gone(&mut self, nodes: NodeSet, at: TableAt<I>) {
        self.nodes = self.nodes.union(nodes);
        self.paths = true;
        let (start, end) = (at.base.raw(), at.base.raw() + at.bytes());
        let covered = match &self.extent {
            Extent::Nothing => false,
            Extent::All => true,
            Extent::Ranges(ranges) => {
                ranges.iter().any(|r| r.start.raw() < end && r.start.raw() + r.len > start)
            }
        };
        if !covered {
            self.add_on(nodes, at.base, 1 << 12);
        }
    }
    /// Takes over another obligation.
    pub fn merge(&mut self, other: Flush<I, S>) {
        match other.extent {
            Extent::Nothing => {}
            Extent::All => self.add_all(),
            Extent::Ranges(ranges) => {
                ranges.into_iter().for_each(|r| self.add_on(other.nodes, r.start, r.len))
            }
        }
        self.nodes = self.nodes.union(other.nodes);
        self.reaches(other.reach);
        self.paths |= other.paths;
        self.gone.extend(other.gone);
        self.tables.extend(other.tables);
    }
    /// Pays: `shootdown` invalidates on every CPU that could have cached
    /// something (it is not called when nothing could have been), and then
    /// what was unmapped may be freed. It is given what, and whether walk caches
    /// must forget the paths there too; [`Flush::reach`] says of whom.
    pub fn discharge(self, shootdown: impl FnOnce(&Extent<I>, bool)) -> Released<I, S> {
        if self.paths || !matches!(self.extent, Extent::Nothing) {
            shootdown(&self.extent, self.paths);
        }
        Released { gone: self.gone, tables: self.tables }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{HostPhys, Virt};

    fn paid(flush: Flush<Virt, HostPhys>) -> (alloc::vec::Vec<(u64, u64)>, bool) {
        let mut what = (alloc::vec::Vec::new(), false);
        let _ = flush.discharge(|extent, paths| {
            if let Extent::Ranges(ranges) = extent {
                what.0 = ranges.iter().map(|r| (r.start.raw(), r.len)).collect();
            }
            what.1 = paths;
        });
        what
    }

    #[test]
    fn a_path_is_forgotten_with_a_page_of_its_own_or_another_of_the_table() {
        let at = TableAt::covering(Addr::new(0x40_0000), 1);
        let mut alone = Flush::none();
        alone.path_gone(NodeSet::ALL, at);
        assert!(alone.frees_tables() && !alone.is_empty());
        assert_eq!(paid(alone), (alloc::vec![(0x40_0000, 0x1000)], true));
        let mut with_page = Flush::none();
        with_page.add(Addr::new(0x5f_f000), 0x1000);
        with_page.path_gone(NodeSet::ALL, at);
        assert_eq!(paid(with_page), (alloc::vec![(0x5f_f000, 0x1000)], true));
    }

    #[test]
    fn merging_keeps_the_widest_reach_and_no_page_twice() {
        let (mut one, mut two) = (Flush::<Virt, HostPhys>::none(), Flush::none());
        one.add(Addr::new(0x1000), 0x3000);
        one.reaches(Reach::Shared);
        two.add(Addr::new(0x2000), 0x1000);
        two.add(Addr::new(0x3000), 0x2000);
        one.merge(two);
        assert_eq!(one.reach(), Reach::Shared);
        assert_eq!(paid(one), (alloc::vec![(0x1000, 0x3000), (0x2000, 0x3000)], false));
    }
}
