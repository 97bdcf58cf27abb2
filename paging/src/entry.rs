//! Page-table entries, bit by bit.
//!
//! Layout: Intel SDM vol. 3A §4.5 (tables 4-15 … 4-20) and AMD APM vol. 2
//! §5.3. Nested tables use the same format, as AMD's NPT does (APM §15.25.5);
//! EPT's different layout carries the same information.

use crate::addr::{Frame, PageSize, PhysSpace};
use core::fmt;

/// One entry of a table of any level.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Entry(pub u64);

/// Bits of an entry other than the frame; combine with `|`.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Flags(pub u64);

impl Flags {
    /// No bit.
    pub const NONE: Flags = Flags(0);
    /// P: the entry is used for translation.
    pub const PRESENT: Flags = Flags(1);
    /// R/W: stores are allowed.
    pub const WRITABLE: Flags = Flags(1 << 1);
    /// U/S: user-mode accesses are allowed (in nested tables: always set, as
    /// every guest access is a user access to them, APM vol. 2 §15.25.6).
    pub const USER: Flags = Flags(1 << 2);
    /// PWT: write-through.
    pub const WRITE_THROUGH: Flags = Flags(1 << 3);
    /// PCD: cache disable.
    pub const CACHE_DISABLE: Flags = Flags(1 << 4);
    /// A: the walker used the entry since software last cleared the bit.
    pub const ACCESSED: Flags = Flags(1 << 5);
    /// D: a store went through the leaf since software last cleared the bit.
    pub const DIRTY: Flags = Flags(1 << 6);
    /// PS: a leaf at level 2 or 3 (a 2 MiB or 1 GiB page).
    pub const PAGE_SIZE: Flags = Flags(1 << 7);
    /// PAT of a level-1 entry (bit 7).
    pub const PAT_4K: Flags = Flags(1 << 7);
    /// G: survives a load of CR3.
    pub const GLOBAL: Flags = Flags(1 << 8);
    /// First software bit (bit 9). Here: BabelFish's ORPC in an entry that points to a leaf table.
    pub const SOFT_9: Flags = Flags(1 << 9);
    /// Second software bit (bit 10). Here: BabelFish's O (ownership).
    pub const SOFT_10: Flags = Flags(1 << 10);
    /// Third software bit (bit 11). Here: copy-on-write, the page is shared after `fork`.
    pub const SOFT_11: Flags = Flags(1 << 11);
    /// PAT of a huge leaf (bit 12).
    pub const PAT_HUGE: Flags = Flags(1 << 12);
    /// Software bits 52-58.
    pub const SOFT_HIGH: Flags = Flags(0x7f << 52);
    /// Protection key, bits 59-62.
    pub const PROTECTION_KEY: Flags = Flags(0xf << 59);
    /// XD/NX: fetches are not allowed.
    pub const NO_EXECUTE: Flags = Flags(1 << 63);

    /// The page is shared copy-on-write: software's mark, in `SOFT_11`.
    pub const COW: Flags = Flags::SOFT_11;
    /// Everything that an inner entry of a user mapping allows: the leaf decides.
    pub const TABLE: Flags = Flags(1 | 1 << 1 | 1 << 2);

    /// Whether all bits of `other` are set.
    #[inline(always)]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
    /// These bits and those of `other`.
    #[inline(always)]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
    /// These bits without those of `other`.
    #[inline(always)]
    pub const fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }
}

impl core::ops::BitOr for Flags {
    type Output = Flags;
    #[inline(always)]
    fn bitor(self, other: Flags) -> Flags {
        self.with(other)
    }
}

/// Bits 12-51: where the frame number stands.
const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// A not-present entry with this bit set holds a swap slot (software's format).
const SWAP: u64 = 1 << 1;
/// A not-present leaf with this bit set keeps its frame but faults on every
/// access: Linux's `PROT_NONE`, used by NUMA balancing (bit 8, as in Linux,
/// where G has no meaning in a not-present entry).
const PROT_NONE: u64 = 1 << 8;

impl Entry {
    /// The empty entry: nothing is mapped.
    pub const EMPTY: Entry = Entry(0);

    /// A leaf or inner entry for `frame` with `flags` (PRESENT is the caller's to set).
    #[inline(always)]
    pub const fn new<S: PhysSpace>(frame: Frame<S>, flags: Flags) -> Entry {
        Entry((frame.number() << 12) & FRAME | flags.0)
    }
    /// An entry that points to the table in `frame`.
    #[inline(always)]
    pub const fn table<S: PhysSpace>(frame: Frame<S>) -> Entry {
        Entry::new(frame, Flags::TABLE)
    }
    /// A leaf of `size` for `frame`: sets PRESENT, and PS above 4 KiB.
    #[inline(always)]
    pub const fn leaf<S: PhysSpace>(frame: Frame<S>, size: PageSize, flags: Flags) -> Entry {
        let ps = if matches!(size, PageSize::Size4K) { 0 } else { Flags::PAGE_SIZE.0 };
        Entry((frame.number() << 12) & FRAME | flags.0 | ps | 1)
    }
    /// A not-present entry that holds swap slot `slot` (up to 2^46) and remembers `flags`.
    #[inline(always)]
    pub const fn swapped(slot: u64) -> Entry {
        Entry(slot << 12 | SWAP)
    }

    /// The raw 64 bits.
    #[inline(always)]
    pub const fn bits(self) -> u64 {
        self.0
    }
    /// All bits but the frame.
    #[inline(always)]
    pub const fn flags(self) -> Flags {
        Flags(self.0 & !FRAME)
    }
    /// Whether all bits of `flags` are set.
    #[inline(always)]
    pub const fn has(self, flags: Flags) -> bool {
        self.0 & flags.0 == flags.0
    }
    /// Whether the walker may use it.
    #[inline(always)]
    pub const fn is_present(self) -> bool {
        self.0 & 1 != 0
    }
    /// Whether it is zero.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Whether it is a present leaf when found in a table of `level`.
    #[inline(always)]
    pub const fn is_leaf(self, level: u8) -> bool {
        self.is_present() && (level == 1 || self.has(Flags::PAGE_SIZE))
    }
    /// Whether it is present and points to a table when found at `level`.
    #[inline(always)]
    pub const fn is_table(self, level: u8) -> bool {
        self.is_present() && level > 1 && !self.has(Flags::PAGE_SIZE)
    }
    /// The frame it points to (of a huge leaf: the first).
    #[inline(always)]
    pub const fn frame<S: PhysSpace>(self) -> Frame<S> {
        Frame::new((self.0 & FRAME) >> 12)
    }
    /// The first frame of a leaf of `size`, low bits (PAT) masked off.
    #[inline(always)]
    pub const fn leaf_frame<S: PhysSpace>(self, size: PageSize) -> Frame<S> {
        Frame::new(((self.0 & FRAME) >> 12) & !(size.frames() - 1))
    }
    /// The swap slot of a not-present entry made by [`Entry::swapped`].
    #[inline(always)]
    pub const fn swap_slot(self) -> Option<u64> {
        if self.0 & 1 == 0 && self.0 & SWAP != 0 { Some((self.0 & FRAME) >> 12) } else { None }
    }
    /// A present leaf made to fault on every access, keeping its frame and flags.
    #[inline(always)]
    pub const fn to_prot_none(self) -> Entry {
        Entry(self.0 & !1 & !SWAP | PROT_NONE | (self.0 & SWAP) << (52 - 1))
    }
    /// Whether it is a leaf made by [`Entry::to_prot_none`].
    #[inline(always)]
    pub const fn is_prot_none(self) -> bool {
        self.0 & (1 | PROT_NONE | SWAP) == PROT_NONE
    }
    /// Undoes [`Entry::to_prot_none`].
    #[inline(always)]
    pub const fn from_prot_none(self) -> Entry {
        Entry(self.0 & !PROT_NONE & !(1 << 52) | 1 | (self.0 >> (52 - 1)) & SWAP)
    }
    /// The same entry with `flags` set too.
    #[inline(always)]
    pub const fn with(self, flags: Flags) -> Entry {
        Entry(self.0 | flags.0)
    }
    /// The same entry with `flags` cleared.
    #[inline(always)]
    pub const fn without(self, flags: Flags) -> Entry {
        Entry(self.0 & !flags.0)
    }
    /// The same flags on another frame.
    #[inline(always)]
    pub const fn with_frame<S: PhysSpace>(self, frame: Frame<S>) -> Entry {
        Entry(self.0 & !FRAME | (frame.number() << 12) & FRAME)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(u64, &str); 11] = [
            (0, "P"),
            (1, "W"),
            (2, "U"),
            (5, "A"),
            (6, "D"),
            (7, "PS"),
            (8, "G"),
            (9, "s9"),
            (10, "s10"),
            (11, "s11"),
            (63, "NX"),
        ];
        let mut first = true;
        for (bit, name) in NAMES {
            if self.0 >> bit & 1 == 1 {
                if !first {
                    f.write_str("|")?;
                }
                f.write_str(name)?;
                first = false;
            }
        }
        if first { f.write_str("-") } else { Ok(()) }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(slot) = self.swap_slot() {
            return write!(f, "swap {slot:#x}");
        }
        write!(f, "{:#x} {:?}", (self.0 & FRAME) >> 12, self.flags())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Hfn;

    #[test]
    fn software_formats_do_not_collide() {
        let leaf = Entry::leaf(Hfn::new(0x1234), PageSize::Size4K, Flags::WRITABLE | Flags::USER);
        let hidden = leaf.to_prot_none();
        assert!(hidden.is_prot_none() && !hidden.is_present() && hidden.swap_slot().is_none());
        assert_eq!(hidden.frame::<crate::HostPhys>(), Hfn::new(0x1234));
        assert_eq!(hidden.from_prot_none(), leaf);
        let read_only = leaf.without(Flags::WRITABLE);
        assert_eq!(read_only.to_prot_none().from_prot_none(), read_only);
        let swapped = Entry::swapped(77);
        assert_eq!(swapped.swap_slot(), Some(77));
        assert!(!swapped.is_prot_none() && !swapped.is_empty());
    }

    #[test]
    fn a_huge_leaf_ignores_its_pat_bit() {
        let e = Entry::leaf(Hfn::new(512 * 3), PageSize::Size2M, Flags::PAT_HUGE);
        assert_eq!(e.leaf_frame::<crate::HostPhys>(PageSize::Size2M), Hfn::new(512 * 3));
    }
}
