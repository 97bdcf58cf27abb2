//! Direct segments: registers in the place of one or both dimensions of a walk.
//!
//! A big-memory program keeps most of its data in one range of addresses. If
//! that range lies in contiguous memory, adding an offset translates it, and no
//! table need be asked: direct segments (Basu, Gandhi, Chang, Hill, Swift; ISCA
//! 2013). In a VM there are two translations to replace (Gandhi, Basu, Hill, Swift:
//! Efficient Memory Virtualization; MICRO 2014):
//!
//! | mode | gVA→gPA | gPA→hPA | references | checks |
//! |---|---|---|---|---|
//! | base virtualised | paging | paging | 24 | 0 |
//! | VMM Direct | paging | segment | 4 | 5 |
//! | Guest Direct | segment | paging | 4 | 1 |
//! | Dual Direct | segment | segment | 0 | 1 |
//!
//! [`Registers`] are one segment: base, limit, offset, and an [`EscapeFilter`]
//! for pages within the bounds that are not the segment's. Base = limit
//! switches a segment off, and that alone chooses the mode. [`Segmented`] is
//! the walk of a VM, [`DirectSegment`] the native one. What software does with
//! them (primary regions, contiguous reservations, promotion, what to do about
//! a page that may not be in a segment) is the kernel's, in `os::segment`.
//!
//! # What must hold
//!
//! For every address the answer is the one that tables alone would give, with
//! any set of escaped pages and in every mode. So software maps, in the tables,
//! every escaped page to where it is, and every false positive of the filter to the frame that the
//! segment would have given. `tests/segments.rs` holds the hardware to it, `os/tests/segments.rs`
//! the software.
//!
//! # Where we had to decide
//!
//! * **Huge pages and the filter.** The paper keys the filter by page number. A
//!   2 MiB leaf that a guest maps inside the VMM's segment may be cached whole only if no part of it
//!   escaped, which 4 KiB keys do not tell. Here such a leaf is looked up under its own number,
//!   and software inserts escaped pages under both where leaves of that size are in use.
//! * **Time.** A check takes a cycle in the walker (the paper's Δ: 5 cycles for
//!   VMM Direct, 1 for Guest Direct); filters are looked up in the shadow of it. Beside the
//!   second-level TLB a hit takes a cycle and a miss none.
//! * **Fetches** are not the segment's: its memory may be loaded and stored to.

mod filter;
mod registers;
mod walk;

pub use filter::{BadGeometry, EscapeFilter, FilterGeometry};
pub use registers::{Answer, Image, Registers};
pub use walk::{DirectSegment, Place, Segmented, VmPlace, VmmStage};
