//! Pages that need no look into the first-level TLB.
//!
//! An access to the page that was used last in its set of the TLB finds it, and changes nothing there,
//! under any policy. So the core may know these pages itself, one for each set.

use crate::tlb::Hit;
use paging::{PageSize, Va};

/// Sets at most: as many as the first level of 64 entries in 4 ways of Intel's cores has.
const SETS: usize = 16;

/// No page has this number.
const NONE: u64 = u64::MAX;

/// A page, or none.
#[derive(Clone, Copy)]
struct Page {
    /// Its number if it may be read without a walk, and if it may be written: one comparison
    /// answers both.
    number: [u64; 2],
    /// Host-physical address of its first byte.
    base: u64,
}

const NO_PAGE: Page = Page { number: [NONE; 2], base: 0 };

/// The newest page of each set of a first-level TLB.
pub(crate) struct Recent {
    pages: [Page; SETS],
    /// From a page's number to its set. 0 where sets are not so simple: then only the page
    /// of the access before is known.
    mask: u64,
}

impl Recent {
    /// Nothing known yet, of a TLB with the sets of `mask` ([`crate::tlb::Tlb::sets_of_small`]).
    #[inline(always)]
    pub fn new(mask: u64) -> Recent {
        Recent { pages: [NO_PAGE; SETS], mask }
    }

    #[inline(always)]
    fn set(&self, page: u64) -> usize {
        (page & self.mask) as usize & (SETS - 1)
    }

    /// Where the page of `va` begins, if it is known and lets an access that writes or does not pass.
    #[inline(always)]
    pub fn base(&self, va: Va, write: bool) -> Option<u64> {
        let page = &self.pages[self.set(va.page())];
        (page.number[usize::from(write)] == va.page()).then_some(page.base)
    }

    /// The TLB, now with the sets of `mask`, was asked for `va`, and this is what it says.
    #[inline(always)]
    pub fn remember(&mut self, va: Va, hit: &Hit, mask: u64) {
        // A page that the first level breaks up, or does not take.
        self.mask &= if hit.size == PageSize::Size4K { mask } else { 0 };
        let set = self.set(va.page());
        let writable = if hit.may_store() { va.page() } else { NONE };
        self.pages[set] = Page { number: [va.page(), writable], base: hit.page_base(va) };
    }

    /// Something else than data was accessed.
    #[inline(always)]
    pub fn interrupted(&mut self) {
        if self.mask == 0 {
            self.pages[0] = NO_PAGE;
        }
    }
}

/// From a page's number to its set among `sets`; 0 if that is not so simple.
pub(crate) fn mask(sets: usize) -> u64 {
    if sets.is_power_of_two() && sets <= SETS { sets as u64 - 1 } else { 0 }
}
