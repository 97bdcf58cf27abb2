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
    gone: Vec<Gone<I, S>>,
    tables: Vec<(Frame<S>, TableAt<I>)>,
}

impl<I: Space, S: PhysSpace> Default for Flush<I, S> {
    fn default() -> Self {
        Flush { extent: Extent::Nothing, nodes: NodeSet::default(), gone: Vec::new(), tables: Vec::new() }
    }
}

impl<I: Space, S: PhysSpace> fmt::Debug for Flush<I, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flush")
            .field("extent", &self.extent)
            .field("nodes", &self.nodes)
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
        matches!(self.extent, Extent::Nothing) && self.gone.is_empty() && self.tables.is_empty()
    }
    /// Whether table pages left the tree, so that walk caches must go too.
    pub fn frees_tables(&self) -> bool {
        !self.tables.is_empty()
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
    pub(crate) fn leaf_gone(&mut self, nodes: NodeSet, addr: Addr<I>, size: PageSize, entry: Entry) {
        if entry.is_present() {
            self.add_on(nodes, addr, size.bytes());
        }
        self.gone.push(Gone { addr, size, entry, space: core::marker::PhantomData });
    }
    /// A table page, or a copy of one, is linked no more; walkers of `nodes`
    /// may still be in it. [`crate::TableOps::free`] gets it after the flush.
    pub fn table_gone(&mut self, nodes: NodeSet, table: Frame<S>, at: TableAt<I>) {
        self.nodes = self.nodes.union(nodes);
        self.tables.push((table, at));
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
        self.gone.extend(other.gone);
        self.tables.extend(other.tables);
    }
    /// Pays: `shootdown` invalidates on every CPU that could have cached
    /// something (it is not called when nothing could have been), and then
    /// what was unmapped may be freed.
    pub fn discharge(self, shootdown: impl FnOnce(&Extent<I>, bool)) -> Released<I, S> {
        let tables = !self.tables.is_empty();
        if tables || !matches!(self.extent, Extent::Nothing) {
            shootdown(&self.extent, tables);
        }
        Released { gone: self.gone, tables: self.tables }
    }
}
