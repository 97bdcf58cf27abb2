//! Direct segments as a kernel has them: contiguous memory for a range of an
//! address space, and what happens to pages that may not be in it.
//!
//! For a process the range is its *primary region* (Direct segments, ISCA 2013): private
//! anonymous memory, all of it for loads and stores. For a VM it is guest-physical
//! memory, and the contiguous host memory is the VMM's reservation. Both are an
//! [`AddressSpace`], so this is one piece of code.
//!
//! A page of the range is *in place*: its content is in the frame that the
//! registers say, and the segment holds a reference to that frame. No entry maps it
//! unless hardware asked for one, because its filter says of a page that never
//! escaped that it did; then the entry maps that same frame. Or the page has
//! *escaped*: it is in the filter, and an ordinary page.
//!
//! Frames in place are [`Reserved`](paging::frames::FrameState::Reserved): they do not
//! move, are not swapped and not shared. What wants to do one of these to a
//! page has it leave first. A page leaves in the way that costs least
//! (see [`How`]), and [`Departures`] keeps why.

mod begin;
mod faulty;
mod leave;
mod promote;
mod reserve;

use crate::hardware::{Cost, SegmentLoad};
use crate::kernel::{Core, Cx};
use crate::space::AddressSpace;
use alloc::collections::BTreeMap;
use core::fmt;
use core::ops::Range;
use mechanisms::segments::Registers;
use paging::frames::CpuId;
use paging::{Addr, Frame, PageSize, PhysSpace, Space, TableMemory};

pub use begin::{Begun, Contiguity, NoSegment};
pub(crate) use leave::Content;
pub use promote::{Mode, Promote, Promoted};

/// Why a page may not be in a segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// Its frame is faulty.
    Faulty,
    /// It is mapped no more.
    Unmapped,
    /// Its rights are no longer loads and stores.
    Protected,
    /// It is shared until somebody stores to it.
    CopyOnWrite,
    /// It goes to swap, or is there.
    Swapped,
    /// The balloon has it.
    Ballooned,
    /// Stores to it are logged.
    Logged,
    /// It moves to another address.
    Moved,
    /// Somebody asked for the segment's end.
    Asked,
}

impl Reason {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Faulty => "faulty frame",
            Reason::Unmapped => "unmapped",
            Reason::Protected => "protected",
            Reason::CopyOnWrite => "copy-on-write",
            Reason::Swapped => "swapped",
            Reason::Ballooned => "ballooned",
            Reason::Logged => "stores are logged",
            Reason::Moved => "moved",
            Reason::Asked => "asked for",
        }
    }
}

/// How pages leave a segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum How {
    /// They go to the filter; so does, for every other page, the chance of being taken for one of them.
    Filter,
    /// The segment ends before them, or begins after them; the smaller side is given up.
    Trim,
    /// Nothing is left of the segment.
    End,
}

/// How often something happened, and to how many pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Departed {
    /// Times.
    pub times: u64,
    /// Pages that had to leave.
    pub pages: u64,
    /// Pages that were given up with them.
    pub others: u64,
}

/// What left the segments of an address space, why and how.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Departures(BTreeMap<(Reason, How), Departed>);

impl Departures {
    fn count(&mut self, reason: Reason, how: How, pages: u64, others: u64) {
        let it = self.0.entry((reason, how)).or_default();
        (it.times, it.pages, it.others) = (it.times + 1, it.pages + pages, it.others + others);
    }
    /// All, by reason.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, How, Departed)> {
        self.0.iter().map(|(&(reason, how), &it)| (reason, how, it))
    }
}

/// The segment of an address space.
#[derive(Clone, Debug)]
pub struct SpaceSegment<I: Space, S: PhysSpace> {
    registers: Registers<I, S>,
    /// Pages within the bounds that are not in place.
    escaped: BTreeMap<u64, Reason>,
}

impl<I: Space, S: PhysSpace> SpaceSegment<I, S> {
    /// What hardware has loaded while the space runs.
    pub fn registers(&self) -> &Registers<I, S> {
        &self.registers
    }
    /// Pages within its bounds that are not in place, and why.
    pub fn escaped(&self) -> impl Iterator<Item = (u64, Reason)> {
        self.escaped.iter().map(|(&page, &reason)| (page, reason))
    }
    /// Pages in place.
    pub fn pages(&self) -> u64 {
        self.registers.pages() - self.escaped.len() as u64
    }
    /// Its pages, escaped ones too.
    fn bounds(&self) -> Range<u64> {
        let range = self.registers.range();
        range.start.page()..range.end.page()
    }
    fn frame(&self, page: u64) -> Frame<S> {
        self.registers.frame_of(Addr::new(page << 12))
    }
    /// The pages of `range` that are in place, as runs.
    fn in_place(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let bounds = self.bounds();
        let range = range.start.max(bounds.start)..range.end.min(bounds.end);
        let range = if range.is_empty() { 0..0 } else { range };
        let end = range.end;
        let mut next = range.start;
        let mut escaped = self.escaped.range(range).map(|(&page, _)| page);
        core::iter::from_fn(move || {
            while next < end {
                let stop = escaped.next().unwrap_or(end);
                let run = next..stop;
                next = stop + 1;
                if !run.is_empty() {
                    return Some(run);
                }
            }
            None
        })
    }
}

impl<I: Space, M: TableMemory> AddressSpace<I, M> {
    /// Its segment.
    pub fn segment(&self) -> Option<&SpaceSegment<I, M::Space>> {
        self.segment.as_deref()
    }
    /// What left its segments.
    pub fn departures(&self) -> &Departures {
        &self.departures
    }
    /// The frame of a page that is in place.
    #[inline]
    pub(crate) fn in_place(&self, addr: Addr<I>) -> Option<Frame<M::Space>> {
        let segment = self.segment.as_deref()?;
        (segment.registers.bounds(addr) && !segment.escaped.contains_key(&addr.page()))
            .then(|| segment.registers.frame_of(addr))
    }
    /// The first address from `addr` on whose page is not in place.
    pub(crate) fn after_in_place(&self, addr: Addr<I>) -> u64 {
        let Some(segment) = self.segment.as_deref() else { return addr.raw() };
        segment.in_place(addr.page()..u64::MAX).next().map_or(addr.raw(), |run| run.end << 12)
    }
    /// Whether the segment has a part of the block of `size` around `addr`: its
    /// empty entries are no empty pages then.
    pub(crate) fn segment_touches(&self, addr: u64, size: PageSize) -> bool {
        let base = addr & !(size.bytes() - 1);
        self.segment.as_deref().is_some_and(|segment| {
            let range = segment.registers.range();
            base < range.end.raw() && range.start.raw() < base + size.bytes()
        })
    }
}

impl<M: TableMemory> Core<M> {
    /// A CPU gets the registers of the space that it runs from now on; those of the space
    /// before were saved when they were last changed.
    pub(crate) fn load_segment<I: Space>(
        &mut self,
        space: &AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        cpu: CpuId,
    ) {
        let kind = space.owner.kind();
        let image = space.segment.as_deref().map(|segment| segment.registers.save());
        let on = &mut self.cpus[cpu.index()].segments[kind as usize];
        if !core::mem::replace(on, image.is_some()) && image.is_none() {
            return;
        }
        let words = image.as_ref().map_or(2, |image| image.words());
        cx.hw.load_segment(cpu, &SegmentLoad { space: space.id, kind, image: image.as_ref() });
        cx.hw.charge(cpu, Cost::Segment { words }, &Default::default());
    }

    /// The registers changed: all CPUs that run the space load them.
    pub(crate) fn reload_segment<I: Space>(&mut self, space: &AddressSpace<I, M>, cx: &mut Cx<'_, M::Space>) {
        let mut targets = 0;
        for at in 0..self.cpus.len() {
            let cpu = CpuId(at as u16);
            if self.cpus[at].runs(space) {
                self.load_segment(space, cx, cpu);
                targets += u32::from(cpu != cx.cpu);
            }
        }
        if targets > 0 {
            cx.hw.charge(cx.cpu, Cost::Ipi { targets }, &Default::default());
        }
    }

    /// Zeroes a run of frames.
    pub(crate) fn zero_run(&mut self, cx: &mut Cx<'_, M::Space>, first: Frame<M::Space>, count: u64) {
        let mut done = 0;
        while done < count {
            let order = (count - done).ilog2().min(10) as u8;
            let frame = first.offset(done);
            self.work.zeroed[self.pool.node_of(frame).index()] += 1 << order;
            cx.hw.zero(cx.cpu, frame, order);
            done += 1 << order;
        }
    }
}

impl fmt::Display for Departures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (reason, how, it)) in self.iter().enumerate() {
            let how = match how {
                How::Filter => "to the filter",
                How::Trim => "by a shorter segment",
                How::End => "by its end",
            };
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{} pages ({}) {how}", it.pages, reason.name())?;
            if it.others > 0 {
                write!(f, " with {} others", it.others)?;
            }
        }
        Ok(())
    }
}
