//! A machine with a host and two guests, small enough to look at all of it after each access.

use super::super::array::{HostArray, colour_of};
use super::super::tags::{FrameTags, Owner, TagPlaces};
use super::super::twin::{Twin, TwinPages, twin_of};
use super::super::walk::{Checks, Entered, FrameBits, PassThrough};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use paging::frames::{NoFrame, NodeId};
use paging::sync::{AtomicU64, Ordering};
use paging::{
    Addr, Arena, CachedTable, Cell, Check, Dim, Entry, Fault, Flags, Gfn, Gpa, GuestPhys, Hfn, HostLeaf,
    HostPhys, Hpa, Intent, PageSize, PageTable, Port, Slot, TableEnv, TableFrames, TableMemory, TableOps,
    Translation, Va, Virt, Visibility, Work,
};

/// Frames of host memory.
pub const FRAMES: u64 = 4096;
/// Frames of each guest.
pub const GUEST_FRAMES: u64 = 1024;
/// Guest frames from here on are backed by one 2 MiB page.
pub const GUEST_BLOCK: u64 = 512;
/// Levels of all tables.
const LEVELS: u8 = 4;
/// The first address that a guest's process maps, and how many pages.
pub const BASE: u64 = 0x7f00_0000_0000;
/// Small pages mapped from [`BASE`] on.
pub const PAGES: u64 = 64;

/// How an access broke out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Breach {
    /// It would have reached a frame that is not its guest's.
    Data(Hfn),
    /// The walker loaded an entry from a frame that is not its guest's.
    TableRead(Hfn),
    /// The walker set bits in a frame that is not its guest's.
    TableWrite(Hfn),
}

/// How an access ended.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// What it broke.
    pub breaches: Vec<Breach>,
    /// The fault, if it was one.
    pub fault: Option<Fault>,
    /// The frame that it reached.
    pub frame: Option<Hfn>,
}

#[derive(Debug)]
struct GuestPool(Vec<Gfn>);

impl TableFrames<GuestPhys> for GuestPool {
    fn alloc_table(&mut self, node: NodeId, _strict: bool) -> Result<Gfn, NoFrame> {
        self.0.pop().ok_or(NoFrame::for_table(node, false))
    }
    fn free_table(&mut self, frame: Gfn) {
        self.0.push(frame);
    }
    fn node_of(&self, _frame: Gfn) -> NodeId {
        NodeId(0)
    }
}

/// A guest: its memory, and the table of its one process.
#[derive(Debug)]
pub struct Guest {
    /// Who it is to the tags.
    pub owner: Owner,
    /// All words of its memory, by guest frame.
    pub memory: Arena<GuestPhys>,
    /// Where the host put it.
    pub array: Arc<HostArray>,
    /// Its process's table.
    pub table: PageTable<Virt, Arena<GuestPhys>>,
    pool: GuestPool,
}

/// A cached translation of the attacker.
#[derive(Clone, Copy, Debug)]
struct Cached {
    page: u64,
    size: PageSize,
    frame: Hfn,
}

/// The machine. Guest 0 is the attacker, guest 1 the victim.
pub struct Prison {
    /// The tags.
    pub tags: FrameTags,
    /// The guests.
    pub guests: [Guest; 2],
    /// The host's own memory.
    pub host: Arena<HostPhys>,
    checks: Checks,
    tlb: Vec<Cached>,
    tables: BTreeMap<(u64, u8), CachedTable>,
    /// The host forgets to flush: the bug that the order of revocation prevents.
    pub deaf: bool,
    free: Vec<Hfn>,
}

impl core::fmt::Debug for Prison {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Prison")
            .field("checks", &self.checks)
            .field("tlb", &self.tlb.len())
            .finish_non_exhaustive()
    }
}

/// All words of memory, as the attacker's walker reaches them; foreign ones are watched.
struct Watched<'a> {
    prison: &'a Prison,
    seen: RefCell<Vec<(Slot<HostPhys>, u64)>>,
}

impl FrameBits for Watched<'_> {
    fn cell(&self, slot: Slot<HostPhys>) -> Option<&AtomicU64> {
        let cell = self.prison.word(slot)?;
        if self.prison.tags.get(slot.table).owner != Some(self.prison.guests[0].owner) {
            self.seen.borrow_mut().push((slot, cell.load(Ordering::Relaxed)));
        }
        Some(cell)
    }
}

/// Walk caches that remember everything they were told.
struct Walker<'a> {
    tables: &'a mut BTreeMap<(u64, u8), CachedTable>,
}

impl Port for Walker<'_> {
    fn reference(&mut self, _cell: Cell, _at: Hpa) {}
    fn side_reference(&mut self, _cell: Cell, _at: Hpa) {}
    fn check(&mut self, _check: Check) {}
    fn cached_table(&mut self, _dim: Dim, addr: u64, levels: u8, _row: u8) -> Option<CachedTable> {
        (1..levels).find_map(|level| self.tables.get(&(addr >> (12 + 9 * u32::from(level)), level)).copied())
    }
    fn cache_table(&mut self, _dim: Dim, addr: u64, table: CachedTable) {
        self.tables.insert((addr >> (12 + 9 * u32::from(table.level)), table.level), table);
    }
    fn cached_host(&mut self, _gpa: Gpa, _write: bool, _row: u8, _levels: u8) -> Option<HostLeaf> {
        None
    }
    fn cache_host(&mut self, _gpa: Gpa, _leaf: HostLeaf) {}
}

impl Prison {
    /// Both guests with a process that has [`PAGES`] small pages and a huge one; all
    /// memory of both holds words that look like entries.
    pub fn new(checks: Checks, random: &mut dyn FnMut() -> u64) -> Prison {
        let tags = FrameTags::new(FRAMES, TagPlaces::default());
        let mut host = Arena::new(FRAMES);
        // Small frames are dealt out in a random order; blocks 1 and 2 are the guests' huge pages.
        let mut free: Vec<Hfn> = (0..FRAMES).filter(|f| !(512..1536).contains(f)).map(Hfn::new).collect();
        for at in (1..free.len()).rev() {
            free.swap(at, (random() % (at as u64 + 1)) as usize);
        }
        let guests = [0, 1].map(|number| {
            let owner =
                Owner::vm(number).unwrap_or_else(|| unreachable!("tags tell more than two VMs apart"));
            let array = Arc::new(HostArray::new(GUEST_FRAMES));
            let mut memory = Arena::new(GUEST_FRAMES);
            for gfn in (0..GUEST_BLOCK).map(Gfn::new) {
                if let Some(frame) = free.pop() {
                    array.publish(gfn, tags.give(owner, gfn, frame, PageSize::Size4K));
                }
            }
            let (first, block) = (Gfn::new(GUEST_BLOCK), Hfn::new(512 * (u64::from(number) + 1)));
            let given = tags.give(owner, first, block, PageSize::Size2M);
            for n in 0..512 {
                let part = super::super::array::Given::new(block.offset(n), given.colour(), PageSize::Size2M);
                array.publish(first.offset(n), part);
            }
            // Page tables come from guest frames 256 on; the first ones are data.
            let mut pool = GuestPool((256..GUEST_BLOCK).rev().map(Gfn::new).collect());
            let ops = Twin::new(Arc::clone(&array), Arc::new(TwinPages::default()));
            let mut work = Work::default();
            let mut env = TableEnv { mem: &mut memory, frames: &mut pool, node: NodeId(0), work: &mut work };
            let ops: Box<dyn TableOps<Virt, Arena<GuestPhys>>> = Box::new(ops);
            let mut table = match PageTable::new(ops, &mut env, LEVELS, NodeId(0)) {
                Ok(table) => table,
                Err(_) => unreachable!("256 frames are enough for two pages"),
            };
            let flags = Flags::PRESENT | Flags::WRITABLE | Flags::USER;
            let mut map = |va: u64, gfn: Gfn, size: PageSize| {
                let entry = Entry::leaf(gfn, size, flags);
                let at = Va::new(va);
                let slot = table.ensure(&mut env, at, size.level(), NodeId(0), Visibility::Private);
                let Ok(slot) = slot else { unreachable!("256 frames are enough for these tables") };
                table.ops().write(&mut env, slot, size.level(), entry);
            };
            for page in 0..PAGES {
                map(BASE + page * 4096, Gfn::new(page), PageSize::Size4K);
            }
            map(BASE + (1 << 30), first, PageSize::Size2M);
            for gfn in (0..256).chain(GUEST_BLOCK..GUEST_BLOCK + 8).map(Gfn::new) {
                memory.create(gfn);
                for index in 0..512 {
                    memory.store(Slot::new(gfn, index), Self::word_like_an_entry(random));
                }
            }
            Guest { owner, memory, array, table, pool }
        });
        // Some of what is left is the host's: its words look like entries too.
        for &frame in free.iter().take(64) {
            host.create(frame);
            for index in 0..512 {
                host.store(Slot::new(frame, index), Self::word_like_an_entry(random));
            }
        }
        let (tlb, tables) = (Vec::new(), BTreeMap::new());
        Prison {
            tags,
            guests,
            host,
            checks,
            tlb,
            tables,
            deaf: false,
            free: free.split_off(64.min(free.len())),
        }
    }

    /// A word that a walker would take for an entry.
    pub fn word_like_an_entry(random: &mut dyn FnMut() -> u64) -> Entry {
        let frame = Hfn::new(random() % FRAMES);
        Entry(random() & !Flags::ACCESSED.0 | 1).with_frame(frame)
    }

    /// A word of host memory.
    pub fn word(&self, slot: Slot<HostPhys>) -> Option<&AtomicU64> {
        let tag = self.tags.get(slot.table);
        let guest = self.guests.iter().find(|guest| Some(guest.owner) == tag.owner);
        match guest {
            Some(guest) => guest.memory.cell(Slot::new(tag.gfn, slot.index)),
            None => self.host.cell(slot),
        }
    }

    /// The frame and colour behind a guest frame.
    pub fn given(&self, guest: usize, gfn: Gfn) -> Option<(Hfn, u8)> {
        self.guests[guest].array.get(gfn).map(|given| (given.frame(), given.colour()))
    }

    /// The attacker's tables for address `va`, twins, from the root down.
    pub fn tables(&self, va: Va) -> Vec<(u8, Gfn)> {
        let guest = &self.guests[0];
        let (mut table, mut level, mut all) = (guest.table.root(), LEVELS, Vec::new());
        while let Some(twin) = twin_of(&guest.memory, table) {
            all.push((level, twin));
            let entry = guest.memory.load(Slot::new(table, va.index(level)));
            if !entry.is_table(level) {
                break;
            }
            (table, level) = (entry.frame(), level - 1);
        }
        all
    }

    /// The attacker stores to a word of its own memory.
    pub fn store(&mut self, gfn: Gfn, index: usize, entry: Entry) {
        let guest = &mut self.guests[0];
        if guest.array.get(gfn).is_none() {
            return;
        }
        if !guest.memory.holds(gfn) {
            guest.memory.create(gfn);
        }
        guest.memory.store(Slot::new(gfn, index), entry);
    }

    /// The host takes a small page from a guest: tag, slot, flush, and only then is it free.
    pub fn revoke(&mut self, guest: usize, gfn: Gfn) -> Option<Hfn> {
        let given = self.guests[guest].array.get(gfn).filter(|given| given.size() == PageSize::Size4K)?;
        let frame = given.frame();
        self.tags.take(frame);
        self.guests[guest].array.withdraw(gfn);
        if !self.deaf {
            self.flush();
        }
        // The page's content went to a disk.
        if self.guests[guest].memory.holds(gfn) {
            self.guests[guest].memory.discard(gfn);
        }
        self.free.push(frame);
        Some(frame)
    }

    /// The host gives a guest a frame for `gfn`: the one freed last.
    pub fn give(&mut self, guest: usize, gfn: Gfn) -> Option<Hfn> {
        let to = &self.guests[guest];
        if gfn.number() >= GUEST_BLOCK || to.array.get(gfn).is_some() {
            return None;
        }
        let frame = self.free.pop()?;
        to.array.publish(gfn, self.tags.give(to.owner, gfn, frame, PageSize::Size4K));
        Some(frame)
    }

    /// Invalidates all that the attacker's CPU has cached.
    pub fn flush(&mut self) {
        self.tlb.clear();
        self.tables.clear();
    }

    /// The attacker's process accesses `va` in pass-through mode; `root` is the
    /// guest frame that it asked the hypervisor to enter with.
    pub fn access(&mut self, root: Gfn, va: Va, intent: Intent) -> Ended {
        let mut ended = Ended::default();
        let owner = self.guests[0].owner;
        if let Some(hit) = self.tlb.iter().find(|c| c.page == va.raw() >> c.size.shift()) {
            let frame = hit.frame.offset((va.raw() & (hit.size.bytes() - 1)) >> 12);
            self.judge(&mut ended, frame);
            return ended;
        }
        let entered = Entered { root: self.given(0, root), levels: LEVELS, owner };
        let mut tables = core::mem::take(&mut self.tables);
        let watched = Watched { prison: self, seen: RefCell::new(Vec::new()) };
        let walk =
            PassThrough { bits: &watched, tags: &self.tags, entered, frames: FRAMES, checks: self.checks };
        let end = walk.walk(&mut Walker { tables: &mut tables }, va, intent);
        for (slot, before) in watched.seen.into_inner() {
            ended.breaches.push(Breach::TableRead(slot.table));
            if self.word(slot).is_some_and(|cell| cell.load(Ordering::Relaxed) != before) {
                ended.breaches.push(Breach::TableWrite(slot.table));
            }
        }
        self.tables = tables;
        match end {
            Ok(leaf) => {
                let within = (va.raw() & (leaf.size.bytes() - 1)) >> 12;
                let first = Hfn::new(leaf.frame.number().wrapping_sub(within));
                // All that the TLB now answers for.
                for n in 0..leaf.size.frames() {
                    self.judge(&mut ended, Hfn::new(first.number().wrapping_add(n)));
                }
                ended.frame = Some(leaf.frame);
                self.tlb.push(Cached { page: va.raw() >> leaf.size.shift(), size: leaf.size, frame: first });
            }
            Err(fault) => ended.fault = Some(fault),
        }
        ended
    }

    fn judge(&self, ended: &mut Ended, frame: Hfn) {
        if self.tags.get(frame).owner != Some(self.guests[0].owner) {
            ended.breaches.push(Breach::Data(frame));
        }
        ended.frame = Some(frame);
    }

    /// An entry as the attacker forges it: present, writable, for a frame under a colour.
    pub fn forged(frame: Hfn, colour: u8, flags: Flags) -> Entry {
        let entry = Entry::new(frame, flags.with(Flags(0b111)));
        let named = Entry(entry.0 & !(0x7f << 52) | u64::from(colour & 0x7f) << 52);
        debug_assert_eq!(colour_of(named), colour & 0x7f);
        named
    }

    /// An honest guest's answer to a fault: the twins of the path are mended.
    pub fn mend(&mut self, va: Va) -> bool {
        let guest = &mut self.guests[0];
        let mut work = Work::default();
        let Guest { memory, table, pool, .. } = guest;
        let mut env = TableEnv { mem: memory, frames: pool, node: NodeId(0), work: &mut work };
        table.fault_in(&mut env, Addr::new(va.raw()), NodeId(0)).unwrap_or(false)
    }

    /// The attacker's root, as an honest guest would enter with it.
    pub fn root(&self) -> Gfn {
        let guest = &self.guests[0];
        twin_of(&guest.memory, guest.table.root()).unwrap_or(guest.table.root())
    }
}
