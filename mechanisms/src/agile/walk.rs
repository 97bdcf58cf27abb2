//! The walker of agile paging.

use alloc::collections::BTreeMap;
use paging::sync::Ordering;
use paging::walk::{Step, judge, leaf_bits, mark};
use paging::{
    CachedTable, Cell, Dim, Entry, Fault, Flags, Gfn, GuestPhys, Hfn, HostPhys, HostStage, Hpa, Intent, Leaf,
    Native, Port, Rights, Slot, TableMemory, Translation, Va, Why,
};

const SWITCH: Flags = Flags::PAGE_SIZE.with(Flags::SOFT_9);
/// In the place of software bits, for a cached table of the guest's.
const NESTED: u8 = 7;

/// A shadow's entry that switches to the guest's table page in `frame`.
pub const fn switch_entry(frame: Hfn) -> Entry {
    Entry::new(frame, Flags::TABLE.with(Flags::ACCESSED).with(SWITCH))
}

/// Whether an entry of a shadow's `level` table switches.
#[inline(always)]
pub const fn is_switch(entry: Entry, level: u8) -> bool {
    entry.is_present() && entry.has(SWITCH) && (level == 2 || level == 3)
}

/// Which guest table page is in a host frame that a shadow switches to. A real walker needs none of
/// it: it reads memory. A modelled one finds a guest's bits by guest frame.
#[derive(Clone, Debug, Default)]
pub struct Switches(BTreeMap<u64, Gfn>);

impl Switches {
    /// Guest table page `table` is in `frame`.
    pub fn insert(&mut self, frame: Hfn, table: Gfn) {
        self.0.insert(frame.number(), table);
    }
    /// The guest table page in `frame`.
    pub fn get(&self, frame: Hfn) -> Option<Gfn> {
        self.0.get(&frame.number()).copied()
    }
}

/// A shadow table at the top, the guest's tables and the VM's below.
#[derive(Debug)]
pub struct Agile<'a, M, G, D> {
    /// The shadow.
    pub shadow: Native<'a, M>,
    /// Where it switches to.
    pub switches: &'a Switches,
    /// Where the guest's table bits are, by guest frame.
    pub guest: &'a G,
    /// Guest frames at and beyond this one do not exist.
    pub guest_frames: u64,
    /// The VM's table.
    pub host: D,
}

impl<M, G, D: Clone> Clone for Agile<'_, M, G, D> {
    fn clone(&self) -> Self {
        Agile { host: self.host.clone(), ..*self }
    }
}
impl<M, G, D: Copy> Copy for Agile<'_, M, G, D> {}

/// A table of the guest's to go on in.
#[derive(Clone, Copy)]
struct Below {
    table: Gfn,
    host: Option<Hfn>,
    level: u8,
    rights: Rights,
}

impl<M, G, D> Agile<'_, M, G, D>
where
    M: TableMemory<Space = HostPhys>,
    G: TableMemory<Space = GuestPhys>,
    D: HostStage,
{
    /// The nested part.
    #[inline(always)]
    fn below<P: Port>(&self, port: &mut P, va: Va, intent: Intent, from: Below) -> Result<Leaf, Fault> {
        let Below { mut table, mut host, mut level, mut rights } = from;
        loop {
            let slot = Slot::new(table, va.index(level));
            let frame = match host {
                Some(frame) => frame,
                None => {
                    let leaf = self.host.translate(port, slot.addr(), level, Intent::WRITE)?;
                    let cached =
                        CachedTable { level, frame: table.number(), host: leaf.frame, rights, link: NESTED };
                    port.cache_table(Dim::Guest, va.raw(), cached);
                    leaf.frame
                }
            };
            port.reference(Cell { guest: level, host: 0 }, frame.base().offset(slot.index as u64 * 8));
            let cell = self.guest.cell(slot);
            let entry = cell.map_or(Entry::EMPTY, |c| Entry(c.load(Ordering::Relaxed)));
            let step = judge::<GuestPhys>(entry, level, self.guest_frames).map_err(|why| Fault::Page {
                va,
                level,
                why,
            })?;
            rights = rights.under(entry);
            match step {
                Step::Table(next) => {
                    mark(cell, entry, Flags::ACCESSED);
                    (table, host, level) = (next, None, level - 1);
                }
                Step::Leaf(size) => {
                    if !rights.allow(intent) {
                        return Err(Fault::Page { va, level, why: Why::Protection });
                    }
                    let gpa = entry.leaf_frame::<GuestPhys>(size).base().offset(va.page_offset(size));
                    let data = self.host.translate(port, gpa, 0, intent)?;
                    mark(cell, entry, leaf_bits(intent.write));
                    return Ok(Leaf {
                        frame: data.frame,
                        size: size.min(data.size),
                        rights: rights.and(data.rights),
                        dirty: (intent.write || entry.has(Flags::DIRTY)) && data.dirty,
                        link: 0,
                        tag: 0,
                    });
                }
            }
        }
    }
}

impl<M, G, D> Translation for Agile<'_, M, G, D>
where
    M: TableMemory<Space = HostPhys>,
    G: TableMemory<Space = GuestPhys>,
    D: HostStage,
{
    type Located = Hpa;
    const STAGES: u8 = 1;

    #[inline(always)]
    fn walk<P: Port>(&self, port: &mut P, va: Va, intent: Intent) -> Result<Leaf, Fault> {
        let Native { mem, root, levels, frames } = self.shadow;
        let (mut table, mut level, mut rights) = match port.cached_table(Dim::Guest, va.raw(), levels, 0) {
            Some(c) if c.link == NESTED => {
                let (table, host) = (Gfn::new(c.frame), Some(c.host));
                return self.below(port, va, intent, Below { table, host, level: c.level, rights: c.rights });
            }
            Some(c) => (c.host, c.level, c.rights),
            None => (root, levels, Rights::ALL),
        };
        loop {
            let slot = Slot::new(table, va.index(level));
            port.reference(Cell { guest: level, host: 0 }, slot.addr());
            let cell = mem.cell(slot);
            let entry = cell.map_or(Entry::EMPTY, |c| Entry(c.load(Ordering::Relaxed)));
            if is_switch(entry, level) {
                let host: Hfn = entry.frame();
                let why = Why::NotPresent;
                let table = self.switches.get(host).ok_or(Fault::Page { va, level, why })?;
                level -= 1;
                let cached = CachedTable { level, frame: table.number(), host, rights, link: NESTED };
                port.cache_table(Dim::Guest, va.raw(), cached);
                return self.below(port, va, intent, Below { table, host: Some(host), level, rights });
            }
            let step =
                judge::<HostPhys>(entry, level, frames).map_err(|why| Fault::Page { va, level, why })?;
            rights = rights.under(entry);
            match step {
                Step::Table(next) => {
                    mark(cell, entry, Flags::ACCESSED);
                    level -= 1;
                    table = next;
                    let cached = CachedTable { level, frame: next.number(), host: next, rights, link: 0 };
                    port.cache_table(Dim::Guest, va.raw(), cached);
                }
                Step::Leaf(size) => {
                    if !rights.allow(intent) {
                        return Err(Fault::Page { va, level, why: Why::Protection });
                    }
                    mark(cell, entry, leaf_bits(intent.write));
                    let frame = entry.leaf_frame::<HostPhys>(size).offset(va.page_offset(size) >> 12);
                    let dirty = intent.write || entry.has(Flags::DIRTY);
                    return Ok(Leaf { frame, size, rights, dirty, link: 0, tag: 0 });
                }
            }
        }
    }

    #[inline(always)]
    fn peek(&self, va: Va) -> Option<Hpa> {
        let Native { mem, root, levels, frames } = self.shadow;
        let (mut table, mut level) = (root, levels);
        let mut guest = loop {
            let entry = mem.load(Slot::new(table, va.index(level)));
            if is_switch(entry, level) {
                break self.switches.get(entry.frame())?;
            }
            match judge::<HostPhys>(entry, level, frames).ok()? {
                Step::Table(next) => (table, level) = (next, level - 1),
                Step::Leaf(size) => {
                    return Some(entry.leaf_frame::<HostPhys>(size).base().offset(va.page_offset(size)));
                }
            }
        };
        level -= 1;
        loop {
            let entry = self.guest.load(Slot::new(guest, va.index(level)));
            match judge::<GuestPhys>(entry, level, self.guest_frames).ok()? {
                Step::Table(next) => (guest, level) = (next, level - 1),
                Step::Leaf(size) => {
                    let gpa = entry.leaf_frame::<GuestPhys>(size).base().offset(va.page_offset(size));
                    return self.host.peek(gpa);
                }
            }
        }
    }

    #[inline(always)]
    fn locate(&self, va: Va, _near: &mut impl FnMut(Hpa)) -> Option<Hpa> {
        self.peek(va)
    }

    #[inline(always)]
    fn relocate(&self, _va: Va, _located: Hpa, _near: &mut impl FnMut(Hpa)) -> Option<Hpa> {
        None
    }

    #[inline(always)]
    fn arrive(&self, _va: Va, located: Hpa) -> Option<Hpa> {
        Some(located)
    }
}
