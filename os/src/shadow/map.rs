//! The shadow tables of a VM.

use super::agile::AgileState;
use super::trap::{Trap, TrapLog, Trapping};
use crate::hardware::{Invalidate, PageRange, Shootdown, SpaceKind};
use crate::space::{AddressSpace, MmuNotifier, NotifyCx};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use paging::frames::NodeId;
use paging::{
    Addr, Extent, Fault, Flush, Frame, Gfn, GuestPhys, PageSize, Reach, SparseFrames, TableAt, TableMemory,
    Virt,
};

/// How a shadow fault was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShadowOutcome {
    /// The shadow table has a leaf of this size now.
    Mapped(PageSize),
    /// The guest's table does not allow the access: a page fault for its kernel.
    Guest(Fault),
    /// A store to a guest page table through the guest's own mapping of it: the hypervisor
    /// makes the store and reports it, see [`TrapLog`].
    Emulate(Gfn),
}

/// Where a guest table page is used: in which root's tree, and for which addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Use {
    pub root: Gfn,
    pub level: u8,
    pub base: u64,
}

/// A place in a shadow table: a root, and the page there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    root: u16,
    page: u64,
}

impl Place {
    /// 45 bits of page number, 16 of root, and a bit that is always set.
    const fn pack(self) -> u64 {
        1 << 63 | (self.root as u64) << 45 | self.page
    }
    const fn unpack(raw: u64) -> Option<Place> {
        if raw == 0 { None } else { Some(Place { root: (raw >> 45) as u16, page: raw & ((1 << 45) - 1) }) }
    }
}

pub(super) struct Root<M: TableMemory> {
    pub guest: Gfn,
    pub space: AddressSpace<Virt, M>,
    pub used: u64,
}

/// The shadow tables of a VM. See the [module](super).
pub struct ShadowMmu<M: TableMemory> {
    pub(super) log: Arc<TrapLog>,
    roots: Vec<Option<Root<M>>>,
    /// Guest table pages that shadow tables were made from.
    pub(super) tables: BTreeMap<Gfn, Vec<Use>>,
    /// With agile paging: what is not shadowed.
    pub(super) agile: Option<AgileState>,
    /// Where each guest frame (of a huge leaf: the first) is mapped: the place, …
    place: SparseFrames<u64>,
    /// … and further places.
    more: BTreeMap<u64, Vec<Place>>,
    clock: u64,
}

impl<M: TableMemory> fmt::Debug for ShadowMmu<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShadowMmu")
            .field("roots", &self.roots())
            .field("protected", &self.protected())
            .field("table_pages", &self.table_pages())
            .finish_non_exhaustive()
    }
}

impl<M: TableMemory> ShadowMmu<M> {
    pub(super) fn new(log: Arc<TrapLog>) -> Self {
        ShadowMmu {
            agile: (log.trapping() == Trapping::Agile).then(AgileState::default),
            log,
            roots: Vec::new(),
            tables: BTreeMap::new(),
            place: SparseFrames::default(),
            more: BTreeMap::new(),
            clock: 0,
        }
    }
    pub(super) fn index(&self, guest: Gfn) -> Option<usize> {
        self.roots.iter().position(|root| root.as_ref().is_some_and(|root| root.guest == guest))
    }
    /// Shadow tables that are kept.
    pub fn roots(&self) -> usize {
        self.roots.iter().flatten().count()
    }
    /// Guest table pages that are write-protected.
    pub fn protected(&self) -> usize {
        self.tables.len()
    }
    /// Pages of all shadow tables.
    pub fn table_pages(&self) -> u64 {
        self.roots.iter().flatten().map(|root| root.space.table.table_pages().iter().sum::<u64>()).sum()
    }
    /// The shadow table of a guest root.
    pub fn table(&self, guest: Gfn) -> Option<&AddressSpace<Virt, M>> {
        self.roots[self.index(guest)?].as_ref().map(|root| &root.space)
    }
    /// The spaces of all shadow tables.
    pub(super) fn spaces_mut(&mut self) -> impl Iterator<Item = &mut AddressSpace<Virt, M>> {
        self.roots.iter_mut().flatten().map(|root| &mut root.space)
    }
    /// The root that a CPU of `node` loads for the guest's root.
    pub fn root(&self, guest: Gfn, node: NodeId) -> Option<Frame<M::Space>> {
        Some(self.table(guest)?.table.hardware_root(node))
    }

    /// The guest's table page `table` is used for `at`. Returns whether it was used for nothing before.
    pub(super) fn uses(&mut self, table: Gfn, at: Use) -> bool {
        let uses = self.tables.entry(table).or_default();
        let first = uses.is_empty();
        if first {
            self.log.protect(table, true);
        }
        if !uses.contains(&at) {
            uses.push(at);
            self.log.set_leaf(table, uses.iter().all(|at| at.level == 1));
        }
        first
    }

    /// The guest frame `gfn` has become a table: it may be mapped, in its kernel's own part of the
    /// address space, by leaves that allow stores. They go. (KVM: `rmap_write_protect`.)
    pub(super) fn write_protect(&mut self, cx: &mut NotifyCx<'_, M>, gfn: Gfn) {
        for size in [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G] {
            let first = gfn.number() & !(size.frames() - 1);
            for place in self.forget(first) {
                let start = place.page << 12;
                self.drop_range(cx, usize::from(place.root), start..start + 4096);
            }
        }
    }

    /// Whether a guest frame is a table that is shadowed.
    pub(super) fn is_table(&self, gfn: Gfn) -> bool {
        self.tables.contains_key(&gfn)
    }
    /// Whether one of `frames` guest frames from `gfn` on is.
    pub(super) fn has_table(&self, gfn: Gfn, frames: u64) -> bool {
        self.tables.range(gfn..gfn.offset(frames)).next().is_some()
    }
    pub(super) fn add_root(&mut self, root: Root<M>) {
        match self.roots.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(root),
            None => self.roots.push(Some(root)),
        }
    }
    /// The shadow table of a guest root, which counts as used now.
    pub(super) fn use_root(&mut self, guest: Gfn) -> Option<&mut AddressSpace<Virt, M>> {
        self.clock += 1;
        let (now, index) = (self.clock, self.index(guest)?);
        let root = self.roots[index].as_mut()?;
        root.used = now;
        Some(&mut root.space)
    }
    /// Takes the root out that was not used for the longest time.
    pub(super) fn take_oldest(&mut self) -> Option<Root<M>> {
        let oldest = self.roots.iter_mut().filter(|root| root.is_some());
        let root = oldest.min_by_key(|root| root.as_ref().map(|root| root.used))?.take()?;
        self.release_uses(root.guest);
        self.release_switches(root.guest);
        Some(root)
    }

    /// Remembers that `gfn` is mapped at page `page` of a root's tree.
    pub(super) fn remember(&mut self, root: Gfn, gfn: u64, page: u64) {
        let Some(root) = self.index(root) else { return };
        let place = Place { root: root as u16, page };
        let first = self.place.get_or_default(gfn);
        match Place::unpack(*first) {
            None => *first = place.pack(),
            Some(old) if old == place => {}
            Some(_) => {
                let more = self.more.entry(gfn).or_default();
                if !more.contains(&place) {
                    more.push(place);
                }
            }
        }
    }
    /// Forgets and returns where `gfn` may be mapped.
    fn forget(&mut self, gfn: u64) -> Vec<Place> {
        let first = self.place.get_mut(gfn).and_then(|raw| Place::unpack(core::mem::take(raw)));
        let mut places = self.more.remove(&gfn).unwrap_or_default();
        places.extend(first);
        places
    }

    /// A root ends: its uses of guest tables do.
    fn release_uses(&mut self, guest: Gfn) {
        let log = &self.log;
        self.tables.retain(|&table, uses| {
            uses.retain(|at| at.root != guest);
            if uses.is_empty() {
                log.protect(table, false);
            }
            !uses.is_empty()
        });
    }

    /// Pays for what left a shadow table. Its leaves hold no references.
    fn pay(cx: &mut NotifyCx<'_, M>, root: &mut Root<M>, flush: Flush<Virt, M::Space>) {
        let released = flush.discharge(|extent, tables_freed| {
            let ranges: Vec<PageRange>;
            let what = match extent {
                Extent::Nothing => Invalidate::Ranges(&[]),
                Extent::All => Invalidate::All,
                Extent::Ranges(all) => {
                    ranges = all.iter().map(|r| PageRange { start: r.start.raw(), len: r.len }).collect();
                    Invalidate::Ranges(&ranges)
                }
            };
            let (space, group, cpus) = (root.space.id, root.space.group, root.space.cpus);
            if !cpus.is_empty() {
                let (kind, reach) = (SpaceKind::Process, Reach::Space);
                root.space.stats.shootdowns += 1;
                root.space.stats.ipis += u64::from(cpus.count() - u32::from(cpus.contains(cx.cpu)));
                let shootdown = Shootdown { space, kind, group, reach, what, tables_freed, cpus };
                cx.hw.shootdown(cx.cpu, &shootdown);
            }
        });
        root.space.table.free_tables(&mut cx.env, &released);
    }

    /// Drops all that a shadow table has.
    fn drop_all(&mut self, cx: &mut NotifyCx<'_, M>, index: usize) {
        if let Some(Some(root)) = self.roots.get_mut(index) {
            let (end, mut flush) = (root.space.table.end(), Flush::none());
            let done = root.space.table.unmap_range(&mut cx.env, 0..end, &mut flush);
            debug_assert!(done.is_ok(), "shadow tables are nobody else's: {done:?}");
            flush.add_all();
            Self::pay(cx, root, flush);
        }
    }

    /// Drops what a shadow table has for `range`.
    pub(super) fn drop_range(&mut self, cx: &mut NotifyCx<'_, M>, index: usize, range: Range<u64>) {
        let Some(Some(root)) = self.roots.get_mut(index) else { return };
        // A huge leaf that sticks out goes whole: it is filled again on a fault.
        let mut wide = range;
        for edge in [wide.start, wide.end.saturating_sub(1)] {
            let found = root.space.table.lookup(&mut cx.env, Addr::new(edge));
            if let (Some(size), Some(_)) = (found.size(), found.frame()) {
                let start = edge & !(size.bytes() - 1);
                wide = wide.start.min(start)..wide.end.max(start + size.bytes());
            }
        }
        let mut flush = Flush::none();
        let done = root.space.table.unmap_range(&mut cx.env, wide, &mut flush);
        debug_assert!(done.is_ok(), "shadow tables are nobody else's: {done:?}");
        Self::pay(cx, root, flush);
    }

    /// What the guest stored to its tables is undone in the shadow tables.
    /// Returns the stores.
    pub(super) fn sync(&mut self, cx: &mut NotifyCx<'_, M>) -> u64 {
        let mut traps = Vec::new();
        let log = Arc::clone(&self.log);
        let stores = log.drain(&mut |trap| traps.push(trap));
        for trap in traps {
            match trap {
                Trap::Lost => {
                    (0..self.roots.len()).for_each(|root| self.drop_all(cx, root));
                }
                Trap::Store(table, index) => {
                    self.count_store(cx, table);
                    for at in self.tables.get(&table).cloned().unwrap_or_default() {
                        let Some(root) = self.index(at.root) else { continue };
                        let span = TableAt::<Virt> { base: Addr::new(0), level: at.level }.bytes() / 512;
                        let start = at.base + index as u64 * span;
                        self.drop_range(cx, root, start..start + span);
                    }
                }
                Trap::Freed(table) => {
                    self.end_nested(cx, table);
                    for at in self.tables.remove(&table).unwrap_or_default() {
                        let Some(root) = self.index(at.root) else { continue };
                        let bytes = TableAt::<Virt> { base: Addr::new(0), level: at.level }.bytes();
                        self.drop_range(cx, root, at.base..at.base + bytes);
                    }
                    self.log.protect(table, false);
                }
            }
        }
        stores
    }
}

impl<M: TableMemory> MmuNotifier<GuestPhys, M> for ShadowMmu<M> {
    fn invalidate(&mut self, cx: &mut NotifyCx<'_, M>, what: Invalidate<'_>) {
        let ranges = match what {
            Invalidate::All => {
                (0..self.roots.len()).for_each(|root| self.drop_all(cx, root));
                self.place = SparseFrames::default();
                self.more.clear();
                return;
            }
            Invalidate::Ranges(ranges) => ranges,
        };
        for range in ranges {
            let (start, end) = (range.start >> 12, (range.start + range.len) >> 12);
            // The range is of whole host leaves, and no shadow leaf is larger than the host's
            // that it comes from: its first frame is in the range.
            for gfn in start..end {
                for place in self.forget(gfn) {
                    let page = place.page << 12;
                    self.drop_range(cx, usize::from(place.root), page..page + 4096);
                }
            }
        }
    }

    fn exited(&mut self, _cx: &mut NotifyCx<'_, M>) {
        debug_assert!(self.roots.is_empty(), "shadow tables end before their VM");
    }
}
