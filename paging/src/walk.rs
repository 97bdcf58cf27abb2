//! The seam for translation: the way from a virtual address to host memory,
//! step by step.
//!
//! A [`Translation`] is what the hardware walker does on a TLB miss. It reads
//! the tables' real bits, and takes each step through a [`Port`]: a reference
//! to memory, a check against a register, a look into a page-walk cache. On a
//! modelled machine the port charges for the step; a port that only writes the
//! steps down explains a walk; one that counts tests it.
//!
//! Every reference has its place in the grid of the two-dimensional walk
//! ([`Cell`]): row = the guest level that it serves, column = the host level,
//! with column 0 for the guest's own entry and row 0 for the data page.

use crate::addr::{Addr, Frame, Gfn, Gpa, GuestPhys, Hfn, HostPhys, Hpa, PageSize, PhysSpace, Va};
use crate::entry::{Entry, Flags};
use crate::memory::{Slot, TableMemory};
use crate::sync::Ordering;

/// What the access that misses wants to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Intent {
    /// It stores: needs W, sets D.
    pub write: bool,
    /// It fetches: needs not-NX.
    pub fetch: bool,
}

impl Intent {
    /// A load.
    pub const READ: Intent = Intent { write: false, fetch: false };
    /// A store.
    pub const WRITE: Intent = Intent { write: true, fetch: false };
    /// An instruction fetch.
    pub const FETCH: Intent = Intent { write: false, fetch: true };
}

/// What a chain of entries allows: the AND over all levels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights(u8);

impl Rights {
    /// Everything.
    pub const ALL: Rights = Rights(0b111);
    /// Loads and stores of user mode, no fetches.
    pub const DATA: Rights = Rights(0b011);

    /// As bits, of which only the low three are used.
    #[inline(always)]
    pub const fn bits(self) -> u8 {
        self.0
    }
    /// From what [`Rights::bits`] returned; other bits mean nothing.
    #[inline(always)]
    pub const fn from_bits(bits: u8) -> Rights {
        Rights(bits & Self::ALL.0)
    }
    /// These rights under one more entry.
    #[inline(always)]
    pub const fn under(self, entry: Entry) -> Rights {
        let bits = (entry.0 >> 1 & 0b11) as u8 | ((!entry.0 >> 63) as u8) << 2;
        Rights(self.0 & bits)
    }
    /// The rights that both allow.
    #[inline(always)]
    pub const fn and(self, other: Rights) -> Rights {
        Rights(self.0 & other.0)
    }
    /// Stores are allowed.
    #[inline(always)]
    pub const fn write(self) -> bool {
        self.0 & 1 != 0
    }
    /// User-mode accesses are allowed.
    #[inline(always)]
    pub const fn user(self) -> bool {
        self.0 & 2 != 0
    }
    /// Fetches are allowed.
    #[inline(always)]
    pub const fn execute(self) -> bool {
        self.0 & 4 != 0
    }
    /// Whether a user-mode access with `intent` is allowed.
    #[inline(always)]
    pub const fn allow(self, intent: Intent) -> bool {
        let needed = 0b010 | intent.write as u8 | (intent.fetch as u8) << 2;
        self.0 & needed == needed
    }
    /// Whether a supervisor-mode access with `intent` is allowed, with CR0.WP and EFER.NXE set and
    /// neither SMEP nor SMAP.
    #[inline(always)]
    pub const fn allow_kernel(self, intent: Intent) -> bool {
        (!intent.write || self.write()) && (!intent.fetch || self.execute())
    }
}

/// The place of a reference in the grid of a walk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cell {
    /// The guest (or native) level that is being resolved, 1-5; 0 for the
    /// final translation of the data page's gPA.
    pub guest: u8,
    /// The host level, 1-5; 0 for the guest's (or native table's) own entry.
    pub host: u8,
}

/// Which table a page-walk cache entry belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Dim {
    /// The table that the process's addresses index: native, guest, shadow.
    Guest = 0,
    /// The VM's table, gPA to hPA.
    Host = 1,
}

/// A table that a page-walk cache remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CachedTable {
    /// The table's level: the walk goes on with a reference into it.
    pub level: u8,
    /// Its frame number in the space that it was addressed in.
    pub frame: u64,
    /// Its host frame (the same natively).
    pub host: Hfn,
    /// Rights so far.
    pub rights: Rights,
    /// Software bits (9-11) of the entry that points to it, shifted down.
    pub link: u8,
}

/// Where a guest-physical page is, as the nested TLB caches it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostLeaf {
    /// The host frame of the 4 KiB page asked for.
    pub frame: Hfn,
    /// The page size of the VM's table there.
    pub size: PageSize,
    /// What the VM's table allows.
    pub rights: Rights,
    /// D is set in the VM's table, so that a store needs no walk for it.
    pub dirty: bool,
}

/// The end of a successful walk: what a TLB entry is made from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The host frame of the 4 KiB page that holds the address.
    pub frame: Hfn,
    /// The size that the TLB may cache: the smallest over the dimensions.
    pub size: PageSize,
    /// What all dimensions allow.
    pub rights: Rights,
    /// D is set in all dimensions, so that a store needs no walk for it.
    pub dirty: bool,
    /// Software bits (9-11), shifted down, of the entry that points to the leaf table.
    pub link: u8,
    /// For a mechanism's own tag (see [`crate::TlbTag`]); 0 otherwise.
    pub tag: u64,
}

/// A check against registers or a small structure beside the walker.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Check {
    /// Base and limit of the guest's direct segment.
    GuestSegment,
    /// Base and limit of the VMM's direct segment.
    VmmSegment,
    /// An escape filter, which said that an address within the bounds is not in the segment.
    EscapeFilter,
    /// A frame's tag against the running VM.
    FrameTag,
    /// Direct segments beside the second-level TLB, all at once.
    Direct,
}

/// What registers beside the second-level TLB say of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direct {
    /// They are switched off: nothing was compared.
    Off,
    /// It is not theirs.
    Miss,
    /// Where it lies.
    Hit(Leaf),
}

/// Why an entry stopped a walk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Why {
    /// P is clear.
    NotPresent,
    /// Present, but does not allow the access.
    Protection,
    /// A reserved bit is set: PS where no leaf can be, or a frame beyond physical memory.
    Reserved,
}

/// A walk that did not end in a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// In the table that the process's addresses index: for its kernel (#PF).
    Page {
        /// The address.
        va: Va,
        /// The level of the entry that stopped the walk.
        level: u8,
        /// Why.
        why: Why,
    },
    /// In the VM's table: for the hypervisor (an EPT violation, #NPF).
    Nested {
        /// The guest-physical address.
        gpa: Gpa,
        /// The access to it is a store (or the walker's to a guest table).
        write: bool,
        /// Why.
        why: Why,
    },
    /// The frame is not tagged for this VM: for the hypervisor.
    Tag {
        /// The address whose walk reached it.
        va: Va,
        /// The frame.
        frame: Hfn,
    },
}

/// How a walker takes its steps.
pub trait Port {
    /// A load of the entry at `at`.
    fn reference(&mut self, cell: Cell, at: Hpa);

    /// A reference to a structure that is not a page table (a mask page, a tag
    /// table), made for guest level `cell.guest`.
    fn side_reference(&mut self, cell: Cell, at: Hpa) {
        self.reference(cell, at);
    }

    /// A check beside the walker.
    fn check(&mut self, check: Check);

    /// A check against the word at `at`, which is loaded while the walker takes its next step (while the core loads
    /// the data, after its last one): nothing of that step is used before the answer is here.
    fn late_check(&mut self, check: Check, cell: Cell, at: Hpa) {
        self.side_reference(cell, at);
        self.check(check);
    }

    /// The deepest cached table on the way to `addr` in a table of `levels`
    /// levels; in the host dimension, for row `row` of the grid.
    fn cached_table(&mut self, dim: Dim, addr: u64, levels: u8, row: u8) -> Option<CachedTable>;

    /// Offers a table (never the root) to the page-walk cache: one on a level
    /// below what [`Port::cached_table`] answered for `addr` in this walk.
    fn cache_table(&mut self, dim: Dim, addr: u64, table: CachedTable);

    /// The nested TLB's answer for `gpa`, wanted for row `row` of the grid by a
    /// walk of `levels` host levels; none if a store needs D set first.
    fn cached_host(&mut self, gpa: Gpa, write: bool, row: u8, levels: u8) -> Option<HostLeaf>;

    /// Offers a translation to the nested TLB.
    fn cache_host(&mut self, gpa: Gpa, leaf: HostLeaf);
}

/// The seam.
pub trait Translation {
    /// Walks for `va`: every step through `port`, accessed and dirty bits set
    /// in the entries.
    ///
    /// # Errors
    /// With the fault that software must resolve; nothing was cached for it.
    fn walk<P: Port>(&self, port: &mut P, va: Va, intent: Intent) -> Result<Leaf, Fault>;

    /// Where `va` lies now, with no step taken and no bit set; for prefetching
    /// and for the oracle.
    fn peek(&self, va: Va) -> Option<Hpa>;

    /// Whether [`Port::late_check`] is ever called; a core does not wait for one otherwise.
    const LATE_CHECKS: bool = false;

    /// Whether [`direct`](Self::direct) ever answers; a core does not ask otherwise.
    const DIRECT: bool = false;

    /// What is known beside the second-level TLB, without a walk: registers
    /// that are compared while that TLB is looked up. For the first-level TLB only.
    #[inline(always)]
    fn direct(&self, _va: Va) -> Direct {
        Direct::Off
    }

    /// How far a look-ahead has come: the entry that it will read next.
    type Located: Copy;

    /// How many dependent entries a look-ahead waits for: 2 native, those of levels 2 and 1. It is made for many
    /// addresses at once, one entry after the other for all of them, so that the real CPU waits for none of them.
    const STAGES: u8;

    /// Goes down to the first entry for `va` that is worth waiting for and brings it near the real
    /// CPU. `near` is told where the walker will load from on its way, if that is one of so many places that the real CPU's
    /// caches do not have its tags: entries above level 1 are not (telling it of them took 3 to 5 % longer).
    fn locate(&self, va: Va, near: &mut impl FnMut(Hpa)) -> Option<Self::Located>;

    /// Goes on from an entry that has arrived to the next one; stays at the last.
    fn relocate(&self, va: Va, located: Self::Located, near: &mut impl FnMut(Hpa)) -> Option<Self::Located>;

    /// Reads the last entry: where `va` lies.
    fn arrive(&self, va: Va, located: Self::Located) -> Option<Hpa>;
}

/// Tables as a walker reads them: where the entry for an address is.
///
/// All [`TableMemory`] is walked page by page, a level each. A mechanism whose tables have
/// another shape wraps the memory, and the walks of this module find their way in it.
pub trait Walked {
    /// The physical space whose frames hold the tables.
    type Space: PhysSpace;

    /// Whether software bits of entries that point to tables (9-11, shifted down: a *link*) say what
    /// shape a table has. A walker of ordinary tables is compiled without them.
    const LINKS: bool = false;

    /// The bits of an entry; `None` where there is no table.
    fn word(&self, slot: Slot<Self::Space>) -> Option<&crate::sync::AtomicU64>;

    /// The link of the root: the register that holds it has software bits, too.
    #[inline(always)]
    fn root_link(&self) -> u8 {
        0
    }

    /// The entry for `addr` in the table at `table`, which has entries of `level` if it is an ordinary one
    /// and which is linked with `link`; and the level of that entry.
    #[inline(always)]
    fn entry_of(
        &self,
        table: Frame<Self::Space>,
        level: u8,
        _link: u8,
        addr: u64,
    ) -> (Slot<Self::Space>, u8) {
        (Slot::new(table, Addr::<Self::Space>::new(addr).index(level)), level)
    }

    /// Whether a table linked with `link` is more than a page, so that where its first page lies does
    /// not tell where the others do.
    #[inline(always)]
    fn has_pages(_link: u8) -> bool {
        false
    }
}

impl<M: TableMemory> Walked for M {
    type Space = M::Space;

    #[inline(always)]
    fn word(&self, slot: Slot<M::Space>) -> Option<&crate::sync::AtomicU64> {
        self.cell(slot)
    }
}

/// The link of the table that an entry points to.
#[inline(always)]
pub const fn link_of(entry: Entry) -> u8 {
    (entry.0 >> 9 & 7) as u8
}

/// A leaf entry that was found: its bits, and its level.
#[derive(Debug)]
pub struct LeafCell<'a> {
    cell: &'a crate::sync::AtomicU64,
    level: u8,
}
impl Clone for LeafCell<'_> {
    fn clone(&self) -> Self {
        *self
    }
}
impl Copy for LeafCell<'_> {}

impl LeafCell<'_> {
    /// Where `addr`, of the space that the table translates from, lies.
    #[inline(always)]
    fn resolve<S: PhysSpace>(self, addr: u64) -> Option<Addr<S>> {
        let entry = Entry(self.cell.load(Ordering::Relaxed));
        let place = |size: PageSize| entry.leaf_frame::<S>(size).base().offset(addr & (size.bytes() - 1));
        // With a size that is known here, all that depends on it is.
        if self.level == 1 {
            return entry.is_leaf(1).then(|| place(PageSize::Size4K));
        }
        let size = PageSize::from_level(self.level)?;
        entry.is_leaf(self.level).then(|| place(size))
    }
}

/// Walks a table natively: `Dim::Guest` in one dimension. Also the walk of
/// shadow tables.
#[derive(Debug)]
pub struct Native<'a, M> {
    /// Where the bits are.
    pub mem: &'a M,
    /// The root.
    pub root: Hfn,
    /// 4 or 5.
    pub levels: u8,
    /// Frames at and beyond this one do not exist.
    pub frames: u64,
}

/// Shadow paging: the hypervisor's own table gVA→hPA, walked natively.
pub type Shadow<'a, M> = Native<'a, M>;

impl<M> Clone for Native<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M> Copy for Native<'_, M> {}

/// One step down a table: what the walker learns from an entry.
#[derive(Clone, Copy, Debug)]
pub enum Step<S: crate::Space> {
    /// It points to a table.
    Table(crate::Frame<S>),
    /// It is a leaf of this size.
    Leaf(PageSize),
}

/// What the walker makes of an entry of a `level` table on a machine with `frames` frames.
///
/// # Errors
/// With the reason for a fault.
#[inline(always)]
pub fn judge<S: PhysSpace>(entry: Entry, level: u8, frames: u64) -> Result<Step<S>, Why> {
    if !entry.is_present() {
        return Err(Why::NotPresent);
    }
    if entry.frame::<S>().number() >= frames {
        return Err(Why::Reserved);
    }
    if level == 1 {
        return Ok(Step::Leaf(PageSize::Size4K));
    }
    if entry.has(Flags::PAGE_SIZE) {
        return match PageSize::from_level(level) {
            Some(size) => Ok(Step::Leaf(size)),
            None => Err(Why::Reserved),
        };
    }
    Ok(Step::Table(entry.frame()))
}

/// The bits in `cell`: an empty entry where there is no table.
#[inline(always)]
fn read(cell: Option<&crate::sync::AtomicU64>) -> Entry {
    cell.map_or(Entry::EMPTY, |c| Entry(c.load(Ordering::Relaxed)))
}

/// Sets A (and D) in a walked entry if they are not set.
#[inline(always)]
pub fn mark(cell: Option<&crate::sync::AtomicU64>, entry: Entry, bits: Flags) {
    if !entry.has(bits)
        && let Some(cell) = cell
    {
        // Only while the entry is the one that was walked: an entry that
        // software replaced meanwhile must not get bits (SDM 3A §4.8).
        let _ = cell.compare_exchange(entry.0, entry.0 | bits.0, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// The bits that the walker sets in a leaf.
#[inline(always)]
pub fn leaf_bits(write: bool) -> Flags {
    if write { Flags::ACCESSED.with(Flags::DIRTY) } else { Flags::ACCESSED }
}

/// How far a walk has come.
#[derive(Clone, Copy, Debug)]
struct Going<S: PhysSpace> {
    table: Frame<S>,
    level: u8,
    rights: Rights,
    link: u8,
}

impl<S: PhysSpace> Going<S> {
    #[inline(always)]
    fn from(root: Frame<S>, levels: u8, link: u8) -> Self {
        Going { table: root, level: levels, rights: Rights::ALL, link }
    }

    /// At `table`, of which a page-walk cache knew the rest.
    #[inline(always)]
    fn at(table: Frame<S>, cached: &CachedTable) -> Self {
        Going { table, level: cached.level, rights: cached.rights, link: cached.link }
    }
}

/// Takes `turn` for the level where a walk is until it returns something. The levels that walks go through most have a
/// place each in the code, where the level is known: fewer instructions, and branches that the real CPU predicts each
/// by its own past.
macro_rules! descend_by_turns {
    ($at:ident, |$level:ident| $turn:expr) => {{
        while $at.level > 3 {
            let $level = $at.level;
            if let Some(result) = $turn {
                return result;
            }
        }
        if $at.level == 3 {
            let $level = 3;
            if let Some(result) = $turn {
                return result;
            }
        }
        if $at.level == 2 {
            let $level = 2;
            if let Some(result) = $turn {
                return result;
            }
        }
        loop {
            let $level = 1;
            if let Some(result) = $turn {
                return result;
            }
        }
    }};
}

impl<M: Walked<Space = HostPhys>> Native<'_, M> {
    /// One step down, from a table of `level`: how the walk ended, if it did.
    #[inline(always)]
    fn turn<P: Port>(
        &self,
        port: &mut P,
        va: Va,
        intent: Intent,
        going: &mut Going<HostPhys>,
        level: u8,
    ) -> Option<Result<Leaf, Fault>> {
        let (slot, level) = self.mem.entry_of(going.table, level, going.link, va.raw());
        port.reference(Cell { guest: level, host: 0 }, slot.addr());
        let cell = self.mem.word(slot);
        let entry = read(cell);
        let rights = going.rights.under(entry);
        match judge::<HostPhys>(entry, level, self.frames) {
            Ok(Step::Table(next)) => {
                mark(cell, entry, Flags::ACCESSED);
                let (level, link) = (level - 1, link_of(entry));
                *going = Going { table: next, level, rights, link };
                let cached = CachedTable { level, frame: next.number(), host: next, rights, link };
                port.cache_table(Dim::Guest, va.raw(), cached);
                None
            }
            Ok(Step::Leaf(size)) => {
                if !rights.allow(intent) {
                    return Some(Err(Fault::Page { va, level, why: Why::Protection }));
                }
                mark(cell, entry, leaf_bits(intent.write));
                let frame = entry.leaf_frame::<HostPhys>(size).offset(va.page_offset(size) >> 12);
                let dirty = intent.write || entry.has(Flags::DIRTY);
                Some(Ok(Leaf { frame, size, rights, dirty, link: going.link, tag: 0 }))
            }
            Err(why) => Some(Err(Fault::Page { va, level, why })),
        }
    }

    /// Walks without steps; `(slot, entry, size)` of the leaf.
    #[inline(always)]
    fn descend(&self, addr: u64) -> Option<(Slot<HostPhys>, Entry, PageSize)> {
        descend(self.mem, self.root, self.levels, addr)
    }
}

/// Goes down a table silently, to the leaf.
#[inline(always)]
fn descend<M: Walked>(
    mem: &M,
    root: Frame<M::Space>,
    levels: u8,
    addr: u64,
) -> Option<(Slot<M::Space>, Entry, PageSize)> {
    let (mut table, mut level, mut link) = (root, levels, mem.root_link());
    // Unrolled, with the level known in each turn: half the instructions of a loop that counts its levels.
    let mut turn = 5;
    while turn > 0 {
        if level == turn {
            let (slot, at) = mem.entry_of(table, turn, link, addr);
            let entry = read(mem.word(slot));
            match judge::<M::Space>(entry, at, u64::MAX) {
                Ok(Step::Table(next)) => {
                    table = next;
                    level = at - 1;
                    link = link_of(entry);
                }
                Ok(Step::Leaf(size)) => return Some((slot, entry, size)),
                Err(_) => return None,
            }
        }
        turn -= 1;
    }
    None
}

/// Goes down a table silently to the entry of level 2 (or to a huge leaf above it) and
/// prefetches it without reading it: the tables of level 2 of a large program are larger
/// than the real CPU's caches, those above are not. `near` is told its place.
#[inline(always)]
fn locate<'a, M: Walked>(mem: &'a M, root: Frame<M::Space>, levels: u8, addr: u64) -> Option<LeafCell<'a>> {
    let (mut table, mut level, mut link) = (root, levels, mem.root_link());
    // Unrolled as in [`descend`].
    let mut turn = 5;
    while turn > 2 {
        if level == turn {
            let (slot, at) = mem.entry_of(table, turn, link, addr);
            if at <= 2 {
                return arrived(mem, slot, at);
            }
            let cell = mem.word(slot)?;
            let entry = Entry(cell.load(Ordering::Relaxed));
            match judge::<M::Space>(entry, at, u64::MAX) {
                Ok(Step::Table(next)) => {
                    table = next;
                    level = at - 1;
                    link = link_of(entry);
                }
                Ok(Step::Leaf(_)) => return Some(LeafCell { cell, level: at }),
                Err(_) => return None,
            }
        }
        turn -= 1;
    }
    let (slot, at) = mem.entry_of(table, level, link, addr);
    arrived(mem, slot, at)
}

/// Prefetches the entry of `level` in `slot`, where a look-ahead has come to.
#[inline(always)]
fn arrived<'a, M: Walked>(mem: &'a M, slot: Slot<M::Space>, level: u8) -> Option<LeafCell<'a>> {
    let cell = mem.word(slot)?;
    crate::prefetch::prefetch(cell);
    Some(LeafCell { cell, level })
}

/// Goes on from `located`, which has arrived: to the entry of the table that it points to, which is
/// prefetched and told to `near`; a leaf stays where it is.
#[inline(always)]
fn relocate<'a, M: Walked>(
    mem: &'a M,
    located: LeafCell<'a>,
    addr: u64,
    near: &mut impl FnMut(Slot<M::Space>),
) -> Option<LeafCell<'a>> {
    // Above level 2 it is a leaf.
    if located.level != 2 {
        return Some(located);
    }
    let entry = Entry(located.cell.load(Ordering::Relaxed));
    match judge::<M::Space>(entry, 2, u64::MAX) {
        Ok(Step::Table(next)) => {
            let (slot, level) = mem.entry_of(next, 1, link_of(entry), addr);
            near(slot);
            arrived(mem, slot, level)
        }
        Ok(Step::Leaf(_)) => Some(located),
        Err(_) => None,
    }
}

impl<'a, M: Walked<Space = HostPhys>> Translation for Native<'a, M> {
    type Located = LeafCell<'a>;
    const STAGES: u8 = 2;

    #[inline(always)]
    fn walk<P: Port>(&self, port: &mut P, va: Va, intent: Intent) -> Result<Leaf, Fault> {
        let mut at = match port.cached_table(Dim::Guest, va.raw(), self.levels, 0) {
            Some(c) => Going::at(c.host, &c),
            None => Going::from(self.root, self.levels, self.mem.root_link()),
        };
        descend_by_turns!(at, |level| self.turn(port, va, intent, &mut at, level))
    }

    #[inline(always)]
    fn peek(&self, va: Va) -> Option<Hpa> {
        let (_, entry, size) = self.descend(va.raw())?;
        Some(entry.leaf_frame::<HostPhys>(size).base().offset(va.page_offset(size)))
    }

    #[inline(always)]
    fn locate(&self, va: Va, _near: &mut impl FnMut(Hpa)) -> Option<LeafCell<'a>> {
        locate(self.mem, self.root, self.levels, va.raw())
    }

    #[inline(always)]
    fn relocate(&self, va: Va, located: LeafCell<'a>, near: &mut impl FnMut(Hpa)) -> Option<LeafCell<'a>> {
        relocate(self.mem, located, va.raw(), &mut |slot| near(slot.addr()))
    }

    #[inline(always)]
    fn arrive(&self, va: Va, located: LeafCell<'a>) -> Option<Hpa> {
        located.resolve(va.raw())
    }
}

/// The host dimension: a VM's table gPA→hPA.
#[derive(Debug)]
pub struct HostDim<'a, M> {
    /// Where the bits are.
    pub mem: &'a M,
    /// The root.
    pub root: Hfn,
    /// 4 or 5.
    pub levels: u8,
    /// Frames at and beyond this one do not exist.
    pub frames: u64,
}

impl<M> Clone for HostDim<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M> Copy for HostDim<'_, M> {}

impl<M: Walked<Space = HostPhys>> HostDim<'_, M> {
    /// As [`Native::turn`].
    #[inline(always)]
    fn turn<P: Port>(
        &self,
        port: &mut P,
        gpa: Gpa,
        row: u8,
        intent: Intent,
        going: &mut Going<HostPhys>,
        level: u8,
    ) -> Option<Result<HostLeaf, Fault>> {
        let write = intent.write;
        let (slot, level) = self.mem.entry_of(going.table, level, going.link, gpa.raw());
        port.reference(Cell { guest: row, host: level }, slot.addr());
        let cell = self.mem.word(slot);
        let entry = read(cell);
        let rights = going.rights.under(entry);
        match judge::<HostPhys>(entry, level, self.frames) {
            Ok(Step::Table(next)) => {
                mark(cell, entry, Flags::ACCESSED);
                let (level, link) = (level - 1, if M::LINKS { link_of(entry) } else { 0 });
                *going = Going { table: next, level, rights, link };
                let cached = CachedTable { level, frame: next.number(), host: next, rights, link };
                port.cache_table(Dim::Host, gpa.raw(), cached);
                None
            }
            Ok(Step::Leaf(size)) => {
                if !rights.allow(intent) {
                    return Some(Err(Fault::Nested { gpa, write, why: Why::Protection }));
                }
                mark(cell, entry, leaf_bits(write));
                let frame = entry.leaf_frame::<HostPhys>(size).offset(gpa.page_offset(size) >> 12);
                let dirty = write || entry.has(Flags::DIRTY);
                let leaf = HostLeaf { frame, size, rights, dirty };
                port.cache_host(gpa, leaf);
                Some(Ok(leaf))
            }
            Err(why) => Some(Err(Fault::Nested { gpa, write, why })),
        }
    }
}

/// The host dimension as a guest's walk uses it: a VM's table, or what stands in front of one.
pub trait HostStage {
    /// Translates `gpa` for row `row` of the grid.
    ///
    /// # Errors
    /// With [`Fault::Nested`].
    fn translate<P: Port>(&self, port: &mut P, gpa: Gpa, row: u8, intent: Intent) -> Result<HostLeaf, Fault>;

    /// Where `gpa` lies now, with no step taken.
    fn peek(&self, gpa: Gpa) -> Option<Hpa>;

    /// As [`Translation::Located`].
    type Located: Copy;

    /// As [`Translation::STAGES`].
    const STAGES: u8;

    /// As [`Translation::locate`].
    fn locate(&self, gpa: Gpa, near: &mut impl FnMut(Hpa)) -> Option<Self::Located>;

    /// As [`Translation::relocate`].
    fn relocate(&self, gpa: Gpa, located: Self::Located, near: &mut impl FnMut(Hpa))
    -> Option<Self::Located>;

    /// Reads the last entry: where `gpa` lies.
    fn arrive(&self, gpa: Gpa, located: Self::Located) -> Option<Hpa>;
}

impl<'a, M: Walked<Space = HostPhys>> HostStage for HostDim<'a, M> {
    type Located = LeafCell<'a>;
    const STAGES: u8 = 2;

    /// Nested TLB, then page-walk cache, then references.
    #[inline(always)]
    fn translate<P: Port>(&self, port: &mut P, gpa: Gpa, row: u8, intent: Intent) -> Result<HostLeaf, Fault> {
        if let Some(leaf) = port.cached_host(gpa, intent.write, row, self.levels)
            && leaf.rights.allow(intent)
        {
            return Ok(leaf);
        }
        let mut at = match port.cached_table(Dim::Host, gpa.raw(), self.levels, row) {
            Some(c) => Going::at(c.host, &c),
            None => Going::from(self.root, self.levels, self.mem.root_link()),
        };
        descend_by_turns!(at, |level| self.turn(port, gpa, row, intent, &mut at, level))
    }

    #[inline(always)]
    fn peek(&self, gpa: Gpa) -> Option<Hpa> {
        let (_, entry, size) = descend(self.mem, self.root, self.levels, gpa.raw())?;
        Some(entry.leaf_frame::<HostPhys>(size).base().offset(gpa.page_offset(size)))
    }

    #[inline(always)]
    fn locate(&self, gpa: Gpa, _near: &mut impl FnMut(Hpa)) -> Option<LeafCell<'a>> {
        locate(self.mem, self.root, self.levels, gpa.raw())
    }

    #[inline(always)]
    fn relocate(&self, gpa: Gpa, located: LeafCell<'a>, near: &mut impl FnMut(Hpa)) -> Option<LeafCell<'a>> {
        relocate(self.mem, located, gpa.raw(), &mut |slot| near(slot.addr()))
    }

    #[inline(always)]
    fn arrive(&self, gpa: Gpa, located: LeafCell<'a>) -> Option<Hpa> {
        located.resolve(gpa.raw())
    }
}

/// Nested paging: guest tables gVA→gPA whose every pointer goes through the
/// VM's table. 24 references for 4×4 levels, 35 for 5×5.
#[derive(Debug)]
pub struct Nested<'a, G, D> {
    /// Where the guest's table bits are, by guest frame.
    pub guest: &'a G,
    /// The guest's root.
    pub root: Gfn,
    /// Levels of the guest's table, 4 or 5.
    pub levels: u8,
    /// Guest frames at and beyond this one do not exist.
    pub frames: u64,
    /// The VM's table.
    pub host: D,
}

impl<G, D: Clone> Clone for Nested<'_, G, D> {
    fn clone(&self) -> Self {
        Nested { host: self.host.clone(), ..*self }
    }
}
impl<G, D: Copy> Copy for Nested<'_, G, D> {}

/// How far a look-ahead in two dimensions has come.
#[derive(Clone, Copy, Debug)]
pub enum NestedPlace<'a, L> {
    /// At the guest's entry of level 2, or a leaf above it.
    Guest(LeafCell<'a>),
    /// At the guest's entry of level 1, and at the host's last one on the way to it.
    Leaf {
        /// The entry.
        leaf: LeafCell<'a>,
        /// Where it is.
        at: Gpa,
        /// The host's entry for that.
        host: L,
    },
    /// In the host's table on the way to the data page at this address.
    Data(L, Gpa),
}

impl<G: Walked<Space = GuestPhys>, D: HostStage> Nested<'_, G, D> {
    /// As [`Native::turn`]; `host`: where the table is in the host, if that is known.
    #[inline(always)]
    fn turn<P: Port>(
        &self,
        port: &mut P,
        va: Va,
        intent: Intent,
        going: &mut Going<GuestPhys>,
        host: Option<Hfn>,
        level: u8,
    ) -> Option<Result<Leaf, Fault>> {
        let link = going.link;
        let (slot, level) = self.guest.entry_of(going.table, level, link, va.raw());
        // The one of the table's pages that was walked, to be remembered as a table of its own.
        let mut page = None;
        let at = match host {
            Some(frame) => frame.base().offset(slot.index as u64 * 8),
            None => {
                // The walker may have to set A, so its access to a guest
                // table is a store for the VM's table (SDM 3C §29.3.5; APM
                // vol. 2 §15.25.6).
                let leaf = match self.host.translate(port, slot.addr(), level, Intent::WRITE) {
                    Ok(leaf) => leaf,
                    Err(fault) => return Some(Err(fault)),
                };
                if level < self.levels {
                    let (frame, rights) = (slot.table.number(), going.rights);
                    let cached = CachedTable { level, frame, host: leaf.frame, rights, link };
                    if G::has_pages(link) {
                        page = Some(CachedTable { link: 0, ..cached });
                    } else {
                        port.cache_table(Dim::Guest, va.raw(), cached);
                    }
                }
                leaf.frame.base().offset(slot.index as u64 * 8)
            }
        };
        port.reference(Cell { guest: level, host: 0 }, at);
        let cell = self.guest.word(slot);
        let entry = read(cell);
        let step = judge::<GuestPhys>(entry, level, self.frames);
        if let Some(cached) = page
            && step.is_ok()
        {
            // Only one that is in use: whoever empties it owes a flush for what it mapped.
            port.cache_table(Dim::Guest, va.raw(), cached);
        }
        let rights = going.rights.under(entry);
        match step {
            Ok(Step::Table(next)) => {
                mark(cell, entry, Flags::ACCESSED);
                let (level, link) = (level - 1, link_of(entry));
                *going = Going { table: next, level, rights, link };
                if G::has_pages(link) {
                    // Which of its pages is not known here, so without a place in the host.
                    let (frame, host) = (next.number(), Hfn::default());
                    let cached = CachedTable { level, frame, host, rights, link };
                    port.cache_table(Dim::Guest, va.raw(), cached);
                }
                None
            }
            Ok(Step::Leaf(size)) => {
                if !rights.allow(intent) {
                    return Some(Err(Fault::Page { va, level, why: Why::Protection }));
                }
                let gpa = entry.leaf_frame::<GuestPhys>(size).base().offset(va.page_offset(size));
                let data = match self.host.translate(port, gpa, 0, intent) {
                    Ok(data) => data,
                    Err(fault) => return Some(Err(fault)),
                };
                // Only now: a walk that ends in an EPT violation is taken
                // again, and a store that never happened is not dirty.
                mark(cell, entry, leaf_bits(intent.write));
                Some(Ok(Leaf {
                    frame: data.frame,
                    size: size.min(data.size),
                    rights: rights.and(data.rights),
                    dirty: (intent.write || entry.has(Flags::DIRTY)) && data.dirty,
                    link,
                    tag: 0,
                }))
            }
            Err(why) => Some(Err(Fault::Page { va, level, why })),
        }
    }
}

impl<'a, G, D> Translation for Nested<'a, G, D>
where
    G: Walked<Space = GuestPhys>,
    D: HostStage,
{
    type Located = NestedPlace<'a, D::Located>;
    /// The guest's of level 2, the host's last one for the one of level 1, and the host's for the data.
    const STAGES: u8 = 2 + D::STAGES;

    #[inline(always)]
    fn walk<P: Port>(&self, port: &mut P, va: Va, intent: Intent) -> Result<Leaf, Fault> {
        // A page-walk cache entry of the guest dimension holds the table's host
        // frame too, so a hit skips the host walk for that table.
        let cached = port.cached_table(Dim::Guest, va.raw(), self.levels, 0);
        let (mut at, mut host) = match cached {
            Some(c) => {
                let host = (!G::has_pages(c.link)).then_some(c.host);
                (Going::at(Gfn::new(c.frame), &c), host)
            }
            None => (Going::from(self.root, self.levels, self.guest.root_link()), None),
        };
        descend_by_turns!(at, |level| self.turn(port, va, intent, &mut at, host.take(), level))
    }

    #[inline(always)]
    fn peek(&self, va: Va) -> Option<Hpa> {
        let (_, entry, size) = descend(self.guest, self.root, self.levels, va.raw())?;
        self.host.peek(entry.leaf_frame::<GuestPhys>(size).base().offset(va.page_offset(size)))
    }

    #[inline(always)]
    fn locate(&self, va: Va, _near: &mut impl FnMut(Hpa)) -> Option<Self::Located> {
        locate(self.guest, self.root, self.levels, va.raw()).map(NestedPlace::Guest)
    }

    #[inline(always)]
    fn relocate(&self, va: Va, located: Self::Located, near: &mut impl FnMut(Hpa)) -> Option<Self::Located> {
        let leaf = match located {
            NestedPlace::Guest(upper) => {
                let mut at = None;
                let leaf = relocate(self.guest, upper, va.raw(), &mut |slot| at = Some(slot.addr()))?;
                if let Some(at) = at {
                    // The guest's tables are a part in 512 of its data, so the host's entries for them above the last
                    // are near.
                    let mut host = self.host.locate(at, near)?;
                    for _ in 1..D::STAGES {
                        host = self.host.relocate(at, host, near)?;
                    }
                    return Some(NestedPlace::Leaf { leaf, at, host });
                }
                leaf
            }
            NestedPlace::Leaf { leaf, at, host } => {
                near(self.host.arrive(at, host)?);
                leaf
            }
            NestedPlace::Data(host, gpa) => {
                return Some(NestedPlace::Data(self.host.relocate(gpa, host, near)?, gpa));
            }
        };
        let gpa: Gpa = leaf.resolve(va.raw())?;
        Some(NestedPlace::Data(self.host.locate(gpa, near)?, gpa))
    }

    #[inline(always)]
    fn arrive(&self, _va: Va, located: Self::Located) -> Option<Hpa> {
        match located {
            NestedPlace::Data(host, gpa) => self.host.arrive(gpa, host),
            NestedPlace::Guest(_) | NestedPlace::Leaf { .. } => None,
        }
    }
}
