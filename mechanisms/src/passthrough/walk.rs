//! The walk: one dimension, through tables in the guest's own frames, with a look
//! at a tag before anything is believed.

use super::array::colour_of;
use super::tags::{FrameTags, Owner};
use paging::sync::{AtomicU64, Ordering};
use paging::walk::{Step, judge, leaf_bits, mark};
use paging::{
    CachedTable, Cell, Check, Dim, Entry, Fault, Hfn, HostPhys, Hpa, Intent, Leaf, PageSize, Port, Rights,
    Slot, Translation, Va, Why,
};

/// The bits of host memory, whatever they mean there: tables of the host, tables of any
/// guest in the frames that it has.
pub trait FrameBits {
    /// The word of host memory that an entry would be; `None` where nothing
    /// like a table was ever written.
    fn cell(&self, slot: Slot<HostPhys>) -> Option<&AtomicU64>;
}

/// What the walker checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checks {
    /// The frame of each table that the walker goes into. (That of the data page
    /// is checked always.)
    pub tables: bool,
    /// Tags are looked up beside the walker's next step, not before it. What that step loads is not used
    /// before the tag was compared: no bits are set, nothing is cached, no data delivered.
    pub overlapped: bool,
}

/// The registers of a CPU that runs in pass-through mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entered {
    /// The root's frame and colour, as the host looked them up; none if the root
    /// has no frame at the moment.
    pub root: Option<(Hfn, u8)>,
    /// 4 or 5.
    pub levels: u8,
    /// Whose frames may be reached.
    pub owner: Owner,
}

/// Translation Pass-Through's walker.
///
/// Order at each step: the entry is loaded; it is judged; the tag of the frame that
/// it points to is loaded and compared; only then are accessed and dirty bits
/// set, the walk caches filled, and the frame used. (Overlapped, the tag's load and
/// the next step's go at once, and what the next step loaded waits for the tag.) What caches and TLBs hold was
/// checked, and is flushed when a tag changes.
#[derive(Debug)]
pub struct PassThrough<'a, B> {
    /// The bits of memory.
    pub bits: &'a B,
    /// The tags.
    pub tags: &'a FrameTags,
    /// The registers.
    pub entered: Entered,
    /// Frames at and beyond this one do not exist.
    pub frames: u64,
    /// What is checked.
    pub checks: Checks,
}

impl<B> Clone for PassThrough<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B> Copy for PassThrough<'_, B> {}

/// The place of the last leaf entry, and its level.
#[derive(Clone, Copy, Debug)]
pub struct LeafPlace(Slot<HostPhys>, u8);

impl<B: FrameBits> PassThrough<'_, B> {
    #[inline(always)]
    fn load(&self, slot: Slot<HostPhys>) -> Entry {
        self.bits.cell(slot).map_or(Entry::EMPTY, |cell| Entry(cell.load(Ordering::Relaxed)))
    }

    /// Compares the tag of `frame`, which the walk for `va` reached in a level-`level` table.
    #[inline(always)]
    fn check<P: Port>(
        &self,
        port: &mut P,
        va: Va,
        level: u8,
        frame: Hfn,
        colour: u8,
    ) -> Result<PageSize, Fault> {
        let (cell, at) = (Cell { guest: level, host: 0 }, self.tags.address(frame));
        if self.checks.overlapped {
            port.late_check(Check::FrameTag, cell, at);
        } else {
            port.side_reference(cell, at);
            port.check(Check::FrameTag);
        }
        self.tags.admits(self.entered.owner, frame, colour).ok_or(Fault::Tag { va, frame })
    }

    /// The leaf entry for `va`, with no step taken.
    #[inline(always)]
    fn descend(&self, va: Va, near: &mut impl FnMut(Slot<HostPhys>)) -> Option<LeafPlace> {
        let (mut table, mut level) = (self.entered.root?.0, self.entered.levels);
        loop {
            let slot = Slot::new(table, va.index(level));
            if level <= 2 {
                near(slot);
            }
            if level == 1 {
                return Some(LeafPlace(slot, level));
            }
            match judge::<HostPhys>(self.load(slot), level, self.frames) {
                Ok(Step::Table(next)) => {
                    table = next;
                    level -= 1;
                }
                Ok(Step::Leaf(_)) => return Some(LeafPlace(slot, level)),
                Err(_) => return None,
            }
        }
    }

    /// Where `va` lies by the entry at `place`, if that may be reached.
    #[inline(always)]
    fn resolve(&self, va: Va, LeafPlace(slot, level): LeafPlace) -> Option<Hpa> {
        let entry = self.load(slot);
        let Ok(Step::Leaf(size)) = judge::<HostPhys>(entry, level, self.frames) else { return None };
        let at = entry.leaf_frame::<HostPhys>(size).base().offset(va.page_offset(size));
        self.tags.admits(self.entered.owner, at.frame(), colour_of(entry)).map(|_| at)
    }
}

impl<B: FrameBits> Translation for PassThrough<'_, B> {
    type Located = LeafPlace;
    const LATE_CHECKS: bool = true;
    const STAGES: u8 = 1;

    #[inline(always)]
    fn walk<P: Port>(&self, port: &mut P, va: Va, intent: Intent) -> Result<Leaf, Fault> {
        let levels = self.entered.levels;
        let (mut table, mut level, mut rights) = match port.cached_table(Dim::Guest, va.raw(), levels, 0) {
            Some(c) => (c.host, c.level, c.rights),
            None => {
                let Some((root, colour)) = self.entered.root else {
                    return Err(Fault::Tag { va, frame: Hfn::default() });
                };
                if self.checks.tables {
                    self.check(port, va, levels, root, colour)?;
                }
                (root, levels, Rights::ALL)
            }
        };
        loop {
            let slot = Slot::new(table, va.index(level));
            port.reference(Cell { guest: level, host: 0 }, slot.addr());
            let cell = self.bits.cell(slot);
            let entry = cell.map_or(Entry::EMPTY, |c| Entry(c.load(Ordering::Relaxed)));
            let step =
                judge::<HostPhys>(entry, level, self.frames).map_err(|why| Fault::Page { va, level, why })?;
            rights = rights.under(entry);
            match step {
                Step::Table(next) => {
                    if self.checks.tables {
                        self.check(port, va, level - 1, next, colour_of(entry))?;
                    }
                    mark(cell, entry, paging::Flags::ACCESSED);
                    level -= 1;
                    table = next;
                    let cached = CachedTable { level, frame: next.number(), host: next, rights, link: 0 };
                    port.cache_table(Dim::Guest, va.raw(), cached);
                }
                Step::Leaf(size) => {
                    if !rights.allow(intent) {
                        return Err(Fault::Page { va, level, why: Why::Protection });
                    }
                    let frame = entry.leaf_frame::<HostPhys>(size).offset(va.page_offset(size) >> 12);
                    if frame.number() >= self.frames {
                        // A huge leaf that sticks out beyond memory.
                        return Err(Fault::Page { va, level, why: Why::Reserved });
                    }
                    let page = self.check(port, va, 0, frame, colour_of(entry))?;
                    mark(cell, entry, leaf_bits(intent.write));
                    let dirty = intent.write || entry.has(paging::Flags::DIRTY);
                    // No more than what the tag speaks for is cached: a huge leaf over
                    // small or foreign host pages reaches what is the guest's, piece by piece.
                    return Ok(Leaf { frame, size: size.min(page), rights, dirty, link: 0, tag: 0 });
                }
            }
        }
    }

    #[inline(always)]
    fn peek(&self, va: Va) -> Option<Hpa> {
        self.resolve(va, self.descend(va, &mut |_| {})?)
    }

    #[inline(always)]
    fn locate(&self, va: Va, near: &mut impl FnMut(Hpa)) -> Option<LeafPlace> {
        let place = self.descend(va, &mut |slot| near(slot.addr()))?;
        if let Some(cell) = self.bits.cell(place.0) {
            paging::prefetch::prefetch(cell);
        }
        Some(place)
    }

    #[inline(always)]
    fn relocate(&self, _va: Va, _located: LeafPlace, _near: &mut impl FnMut(Hpa)) -> Option<LeafPlace> {
        None
    }

    #[inline(always)]
    fn arrive(&self, va: Va, located: LeafPlace) -> Option<Hpa> {
        self.resolve(va, located)
    }
}
