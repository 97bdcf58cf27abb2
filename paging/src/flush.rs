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
/// Only spaces in a group that shares translations (BabelFish) owe more than [`Reach::Space`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Reach {
    /// The space's own entries.
    #[default]
    Space,
    /// And those that its group shares, as they must not serve this space any more: on every CPU that ever ran it.
    /// Others may keep them until it arrives there ([`crate::TableOps::is_parted`]).
    Shared,
    /// And the own entries and walk caches of every member of the group: on every CPU that ran one.
    Group,
}

impl Reach {
    /// All, from the least on.
    pub const ALL: [Reach; 3] = [Reach::Space, Reach::Shared, Reach::Group];
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

impl<I: Space> Extent<I> {
    fn is_nothing(&self) -> bool {
        matches!(self, Extent::Nothing)
    }
    /// Whether all of the `len` bytes from `start` are in one of its ranges.
    fn covers(&self, start: u64, len: u64) -> bool {
        match self {
            Extent::Nothing => false,
            Extent::All => true,
            Extent::Ranges(ranges) => ranges.iter().any(|r| {
                let within = start.wrapping_sub(r.start.raw());
                within < r.len && len <= r.len - within
            }),
        }
    }
    /// Whether a byte of `range` is in it.
    fn overlaps(&self, range: &core::ops::Range<u64>) -> bool {
        match self {
            Extent::Nothing => false,
            Extent::All => true,
            Extent::Ranges(ranges) => {
                ranges.iter().any(|r| r.start.raw() < range.end && r.start.raw() + r.len > range.start)
            }
        }
    }
    fn add(&mut self, start: Addr<I>, len: u64) {
        match self {
            Extent::All => {}
            Extent::Nothing => *self = Extent::Ranges(alloc::vec![FlushRange { start, len }]),
            Extent::Ranges(ranges) => {
                if let Some(last) = ranges.last_mut()
                    && last.start.raw().wrapping_add(last.len) == start.raw()
                {
                    last.len += len;
                } else if ranges.len() < MAX_RANGES {
                    ranges.push(FlushRange { start, len });
                } else {
                    *self = Extent::All;
                }
            }
        }
    }
}

/// What must be invalidated at one [`Reach`].
struct Part<I: Space> {
    extent: Extent<I>,
    /// Tables left the tree there, or were replaced in it.
    paths: bool,
}

/// An obligation to invalidate, and what may be freed after it.
#[must_use = "frames and tables stay allocated, and TLBs stale, until the flush is discharged"]
pub struct Flush<I: Space, S: PhysSpace> {
    /// By reach.
    parts: [Part<I>; 3],
    nodes: NodeSet,
    /// From the first address to the last of what must be invalidated.
    hull: (u64, u64),
    gone: Vec<Gone<I, S>>,
    tables: Vec<(Frame<S>, TableAt<I>)>,
}

impl<I: Space, S: PhysSpace> Default for Flush<I, S> {
    fn default() -> Self {
        Flush {
            parts: [const { Part { extent: Extent::Nothing, paths: false } }; Reach::ALL.len()],
            nodes: NodeSet::default(),
            hull: (u64::MAX, 0),
            gone: Vec::new(),
            tables: Vec::new(),
        }
    }
}

impl<I: Space, S: PhysSpace> fmt::Debug for Flush<I, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Flush");
        for (reach, part) in Reach::ALL.iter().zip(&self.parts).filter(|(_, p)| !p.extent.is_nothing()) {
            debug.field("reach", reach).field("extent", &part.extent).field("paths", &part.paths);
        }
        debug
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
        self.parts.iter().all(|part| part.extent.is_nothing()) && self.gone.is_empty()
    }
    /// Whether tables left the tree or were replaced in it, so that walk caches must go too.
    pub fn frees_tables(&self) -> bool {
        self.parts.iter().any(|part| part.paths)
    }
    /// The widest reach of what must be invalidated.
    pub fn reach(&self) -> Reach {
        let wide = Reach::ALL.into_iter().zip(&self.parts).rev().find(|(_, part)| !part.extent.is_nothing());
        wide.map_or(Reach::Space, |(reach, _)| reach)
    }
    /// The nodes whose CPUs could have cached something of it: no other needs
    /// an interrupt. All, unless the tables know their sharers
    /// ([`crate::TableOps::sharers`]).
    pub fn nodes(&self) -> NodeSet {
        self.nodes
    }
    /// From the first address to the last of all that must be invalidated, also where there are
    /// more ranges than are named one by one. Empty if nothing must be.
    pub fn hull(&self) -> core::ops::Range<u64> {
        let (start, end) = self.hull;
        start.min(end)..end
    }
    /// Adds `len` bytes from `start` to what must be invalidated, everywhere.
    pub fn add(&mut self, start: Addr<I>, len: u64) {
        self.add_on(NodeSet::ALL, start, len);
    }
    /// Adds `len` bytes from `start` to what must be invalidated on the CPUs of `nodes`.
    pub fn add_on(&mut self, nodes: NodeSet, start: Addr<I>, len: u64) {
        self.add_reaching(nodes, Reach::Space, start, len);
    }
    /// The same, of others too.
    pub fn add_reaching(&mut self, nodes: NodeSet, reach: Reach, start: Addr<I>, len: u64) {
        self.nodes = self.nodes.union(nodes);
        self.hull = (self.hull.0.min(start.raw()), self.hull.1.max(start.raw().saturating_add(len)));
        let wider = &mut self.parts[reach as usize..];
        if !wider.iter().any(|part| part.extent.covers(start.raw(), len)) {
            wider[0].extent.add(start, len);
        }
    }
    /// Everything of the address space must be invalidated.
    pub fn add_all(&mut self) {
        self.add_all_reaching(Reach::Space);
    }
    /// Everything within `reach` must be invalidated.
    pub fn add_all_reaching(&mut self, reach: Reach) {
        self.nodes = NodeSet::ALL;
        self.hull = (0, u64::MAX);
        self.parts[reach as usize].extent = Extent::All;
    }
    /// A leaf is no longer in the table: it is handed out after the flush.
    pub fn leaf_gone(&mut self, nodes: NodeSet, reach: Reach, addr: Addr<I>, size: PageSize, entry: Entry) {
        if entry.is_present() {
            self.add_reaching(nodes, reach, addr, size.bytes());
        }
        self.gone.push(Gone { addr, size, entry, space: core::marker::PhantomData });
    }
    /// A table page, or a copy of one, is linked no more; walkers of `nodes`
    /// may still be in it. [`crate::TableOps::free`] gets it after the flush.
    pub fn table_gone(&mut self, nodes: NodeSet, table: Frame<S>, at: TableAt<I>) {
        self.path_gone(nodes, Reach::Space, at);
        self.tables.push((table, at));
    }
    /// Another table or none is linked for `at` now, or it is linked with other
    /// bits: walk caches of `nodes` must
    /// forget the path. If no page of it is invalidated anyway, its first
    /// stands for it, as `INVLPG` of any page drops the path to it (SDM 3A §4.10.4.1).
    pub fn path_gone(&mut self, nodes: NodeSet, reach: Reach, at: TableAt<I>) {
        self.nodes = self.nodes.union(nodes);
        let wider = &mut self.parts[reach as usize..];
        match wider.iter_mut().find(|part| part.extent.overlaps(&at.range())) {
            Some(part) => part.paths = true,
            None => {
                wider[0].extent.add(at.base, 1 << 12);
                wider[0].paths = true;
            }
        }
    }
    /// Takes over another obligation.
    pub fn merge(&mut self, other: Flush<I, S>) {
        for (reach, part) in Reach::ALL.into_iter().zip(other.parts) {
            match part.extent {
                Extent::Nothing => {}
                Extent::All => self.add_all_reaching(reach),
                Extent::Ranges(ranges) => {
                    for r in ranges {
                        // Not left out for a wider range: its paths may be owed.
                        self.parts[reach as usize].extent.add(r.start, r.len);
                    }
                }
            }
            self.parts[reach as usize].paths |= part.paths;
        }
        self.nodes = self.nodes.union(other.nodes);
        self.hull = (self.hull.0.min(other.hull.0), self.hull.1.max(other.hull.1));
        self.gone.extend(other.gone);
        self.tables.extend(other.tables);
    }
    /// Pays: `shootdown` invalidates on every CPU that could have cached
    /// something (it is not called when nothing could have been), and then
    /// what was unmapped may be freed. It is given what, and whether walk caches
    /// must forget the paths there too.
    ///
    /// For spaces that share no translations with others; those that do pay with [`Flush::discharge_reaching`].
    pub fn discharge(self, shootdown: impl FnOnce(&Extent<I>, bool)) -> Released<I, S> {
        debug_assert_eq!(self.reach(), Reach::Space, "a flush that reaches further is paid reach by reach");
        let mut shootdown = Some(shootdown);
        self.discharge_reaching(|_, extent, paths| {
            if let Some(shootdown) = shootdown.take() {
                shootdown(extent, paths);
            }
        })
    }
    /// Pays for each reach in turn, the widest first.
    pub fn discharge_reaching(self, mut shootdown: impl FnMut(Reach, &Extent<I>, bool)) -> Released<I, S> {
        for (reach, part) in Reach::ALL.into_iter().zip(&self.parts).rev() {
            if !part.extent.is_nothing() {
                shootdown(reach, &part.extent, part.paths);
            }
        }
        Released { gone: self.gone, tables: self.tables }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{HostPhys, Virt};

    type Ranges = alloc::vec::Vec<(Reach, u64, u64, bool)>;

    fn paid(flush: Flush<Virt, HostPhys>) -> Ranges {
        let mut what = Ranges::new();
        let _ = flush.discharge_reaching(|reach, extent, paths| {
            if let Extent::Ranges(ranges) = extent {
                what.extend(ranges.iter().map(|r| (reach, r.start.raw(), r.len, paths)));
            }
        });
        what
    }

    #[test]
    fn a_path_is_forgotten_with_a_page_of_its_own_or_another_of_the_table() {
        let at = TableAt::covering(Addr::new(0x40_0000), 1);
        let mut alone = Flush::none();
        alone.path_gone(NodeSet::ALL, Reach::Space, at);
        assert!(alone.frees_tables() && !alone.is_empty());
        assert_eq!(paid(alone), [(Reach::Space, 0x40_0000, 0x1000, true)]);
        let mut with_page = Flush::none();
        with_page.add(Addr::new(0x5f_f000), 0x1000);
        with_page.path_gone(NodeSet::ALL, Reach::Space, at);
        assert_eq!(paid(with_page), [(Reach::Space, 0x5f_f000, 0x1000, true)]);
        let mut further = Flush::none();
        further.add(Addr::new(0x5f_f000), 0x1000);
        further.path_gone(NodeSet::ALL, Reach::Group, at);
        assert_eq!(
            paid(further),
            [(Reach::Group, 0x40_0000, 0x1000, true), (Reach::Space, 0x5f_f000, 0x1000, false)]
        );
    }

    #[test]
    fn what_reaches_further_covers_what_does_not() {
        let mut flush = Flush::<Virt, HostPhys>::none();
        flush.add_reaching(NodeSet::ALL, Reach::Shared, Addr::new(0x1000), 0x3000);
        flush.add(Addr::new(0x2000), 0x1000);
        flush.add(Addr::new(0x2000), 0x1000);
        flush.add_reaching(NodeSet::ALL, Reach::Group, Addr::new(0x2000), 0x1000);
        assert_eq!(flush.reach(), Reach::Group);
        let mut other = Flush::none();
        other.add(Addr::new(0x8000), 0x1000);
        flush.merge(other);
        assert_eq!(
            paid(flush),
            [
                (Reach::Group, 0x2000, 0x1000, false),
                (Reach::Shared, 0x1000, 0x3000, false),
                (Reach::Space, 0x8000, 0x1000, false)
            ]
        );
    }
}
