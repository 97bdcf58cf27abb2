//! A segment's registers: base, limit, offset, and the escape filter beside them.

use super::filter::{EscapeFilter, FilterGeometry};
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::Range;
use paging::{Addr, Frame, PageSize, PhysSpace, Space};

/// What registers say of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer<O: PhysSpace> {
    /// It is outside of the bounds.
    Outside,
    /// It is within the bounds, and the filter says that it is not the segment's.
    Escaped,
    /// It is at this frame, as is the whole page of this size around it.
    Inside(Frame<O>, PageSize),
}

/// The registers of one segment from space `I` to space `O`: the guest's (gVA to gPA), the VMM's
/// (gPA to hPA), or a native one (VA to PA). Base = limit switches it off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registers<I, O> {
    base: u64,
    limit: u64,
    offset: u64,
    filter: EscapeFilter,
    spaces: PhantomData<(I, O)>,
}

/// Registers as software saves them when another process or VM runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// First address.
    pub base: u64,
    /// First address after the last.
    pub limit: u64,
    /// What is added to an address.
    pub offset: u64,
    /// The filter's size.
    pub geometry: FilterGeometry,
    /// The page sizes that the filter knows pages under.
    pub keyed: PageSize,
    /// The filter's bits.
    pub filter: Vec<u64>,
}

impl Image {
    /// 64-bit words that are saved and loaded.
    pub const fn words(&self) -> u32 {
        3 + self.geometry.words() as u32
    }
}

impl<I, O> Default for Registers<I, O> {
    /// Switched off.
    fn default() -> Self {
        Registers { base: 0, limit: 0, offset: 0, filter: EscapeFilter::default(), spaces: PhantomData }
    }
}

impl<I: Space, O: PhysSpace> Registers<I, O> {
    /// A segment from `range` on to the frames from `first` on.
    ///
    /// # Panics
    /// If `range` is not whole 4 KiB pages.
    pub fn new(range: Range<Addr<I>>, first: Frame<O>, filter: EscapeFilter) -> Self {
        let (base, limit) = (range.start.raw(), range.end.raw());
        assert!((base | limit) & 4095 == 0 && base <= limit, "{base:#x}..{limit:#x} is not whole pages");
        let offset = first.base().raw().wrapping_sub(base);
        Registers { base, limit, offset, filter, spaces: PhantomData }
    }

    /// Whether it is switched on.
    #[inline(always)]
    pub const fn is_on(&self) -> bool {
        self.base != self.limit
    }
    /// Its bounds.
    pub const fn range(&self) -> Range<Addr<I>> {
        Addr::new(self.base)..Addr::new(self.limit)
    }
    /// 4 KiB pages within the bounds.
    pub const fn pages(&self) -> u64 {
        (self.limit - self.base) >> 12
    }
    /// Its filter.
    pub const fn filter(&self) -> &EscapeFilter {
        &self.filter
    }
    /// Its filter, for whoever lets pages escape.
    pub fn filter_mut(&mut self) -> &mut EscapeFilter {
        &mut self.filter
    }

    /// Moves the bounds; what is within both keeps its frame.
    ///
    /// # Panics
    /// If `range` is not whole 4 KiB pages.
    pub fn set_bounds(&mut self, range: Range<Addr<I>>) {
        let filter = core::mem::take(&mut self.filter);
        let first = self.frame_of(range.start);
        *self = Registers::new(range, first, filter);
    }

    /// Base and limit.
    #[inline(always)]
    pub const fn bounds(&self, addr: Addr<I>) -> bool {
        self.base <= addr.raw() && addr.raw() < self.limit
    }

    /// The frame that the segment has for `addr`, whether it escaped or not.
    #[inline(always)]
    pub const fn frame_of(&self, addr: Addr<I>) -> Frame<O> {
        Frame::new(addr.raw().wrapping_add(self.offset) >> 12)
    }

    /// Where `addr` is, if it is the segment's.
    #[inline(always)]
    pub fn translate(&self, addr: Addr<I>) -> Option<Addr<O>> {
        (self.bounds(addr) && !self.filter.hits(addr.page(), PageSize::Size4K))
            .then(|| Addr::new(addr.raw().wrapping_add(self.offset)))
    }

    /// All that hardware finds out about `addr`.
    #[inline(always)]
    pub fn answer(&self, addr: Addr<I>) -> Answer<O> {
        if !self.bounds(addr) {
            Answer::Outside
        } else if self.filter.hits(addr.page(), PageSize::Size4K) {
            Answer::Escaped
        } else {
            Answer::Inside(self.frame_of(addr), self.size_at(addr))
        }
    }

    /// The largest page around `addr` that is wholly the segment's, and aligned in both spaces.
    #[inline(always)]
    fn size_at(&self, addr: Addr<I>) -> PageSize {
        let whole = |size: PageSize| {
            let start = addr.align_down(size).raw();
            self.offset & (size.bytes() - 1) == 0
                && start >= self.base
                && self.limit - start >= size.bytes()
                && !self.filter.hits(addr.page(), size)
        };
        [PageSize::Size1G, PageSize::Size2M].into_iter().find(|&size| whole(size)).unwrap_or_default()
    }

    /// What software saves.
    pub fn save(&self) -> Image {
        let (geometry, keyed) = (self.filter.geometry(), self.filter.keyed());
        let filter = self.filter.words().to_vec();
        Image { base: self.base, limit: self.limit, offset: self.offset, geometry, keyed, filter }
    }

    /// Loads what was saved.
    pub fn load(&mut self, image: &Image) {
        (self.base, self.limit, self.offset) = (image.base, image.limit, image.offset);
        if (self.filter.geometry(), self.filter.keyed()) != (image.geometry, image.keyed) {
            self.filter = EscapeFilter::new(image.geometry, image.keyed);
        }
        self.filter.load(&image.filter);
    }

    /// Switches it off: base = limit.
    pub fn switch_off(&mut self) {
        self.limit = self.base;
        self.filter.clear();
    }
}
