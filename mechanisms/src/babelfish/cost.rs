//! What it costs in silicon and in memory.
//!
//! The numbers are ISCA'20's as a published summary repeats them (trust: good,
//! not read in the paper itself), and what follows from the structures (exact).

use super::mask::WRITERS;

/// A second-level TLB in 22 nm, by CACTI.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TlbCost {
    /// mm².
    pub area_mm2: f64,
    /// Picoseconds for an access.
    pub access_ps: f64,
    /// Picojoules for an access.
    pub dynamic_pj: f64,
    /// Milliwatts.
    pub leakage_mw: f64,
}

/// The conventional one (1536 entries of 12 ways).
pub const CONVENTIONAL: TlbCost =
    TlbCost { area_mm2: 0.030, access_ps: 327.0, dynamic_pj: 10.22, leakage_mw: 4.16 };
/// BabelFish's.
pub const BABELFISH: TlbCost =
    TlbCost { area_mm2: 0.062, access_ps: 456.0, dynamic_pj: 21.97, leakage_mw: 6.22 };

/// What it adds to a core's area.
pub const CORE_AREA: f64 = 0.004;
/// The same for TLBs without the `PrivateCopy` mask.
pub const CORE_AREA_NO_MASK: f64 = 0.0007;

/// Bits that a TLB entry has more: CCID, O, ORPC and the mask.
pub const TAG_BITS: u32 = 12 + 1 + 1 + WRITERS as u32;
/// The same without the mask and its OR.
pub const TAG_BITS_NO_MASK: u32 = 12 + 1;

/// Entries that a conventional TLB of `entries` could have for the bits that
/// BabelFish adds, if its own entries have `entry_bits`.
pub const fn entries_for_the_bits(entries: u32, entry_bits: u32, tag_bits: u32) -> u32 {
    entries + (entries as u64 * tag_bits as u64 / entry_bits as u64) as u32
}

/// Bytes of the sharers' counter beside each shared table.
pub const COUNTER_BYTES: u64 = 2;

/// Memory that a group takes for itself, and what it saves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    /// Shared tables.
    pub tables: u64,
    /// Links to them: without sharing each would be a table.
    pub links: u64,
    /// MaskPages.
    pub mask_pages: u64,
}

impl Space {
    /// Bytes that only BabelFish needs.
    pub const fn bytes(&self) -> u64 {
        self.mask_pages * 4096 + self.tables * COUNTER_BYTES
    }
    /// These, of the bytes of the shared tables. The paper says 0.238 %: a
    /// MaskPage for 512 tables (0.19 %), and the counter (0.048 %), which alone
    /// is left without masks. A set that is not full has more.
    pub fn overhead(&self) -> f64 {
        if self.tables == 0 { 0.0 } else { self.bytes() as f64 / (self.tables * 4096) as f64 }
    }
    /// Bytes of tables that need not exist.
    pub const fn saved(&self) -> u64 {
        (self.links - self.tables) * 4096
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_set_costs_what_the_paper_says() {
        let full = Space { tables: 512, links: 1024, mask_pages: 1 };
        assert!((full.overhead() - 0.00238).abs() < 0.0001, "{}", full.overhead());
        let bare = Space { mask_pages: 0, ..full };
        assert!((bare.overhead() - 0.00048).abs() < 0.00001);
        assert_eq!(full.saved(), 512 * 4096);
        assert_eq!(Space::default().overhead(), 0.0);
    }

    #[test]
    fn the_bits_would_buy_a_third_more_entries_or_more() {
        assert_eq!(TAG_BITS, 46);
        assert_eq!(entries_for_the_bits(1536, 92, TAG_BITS), 2304);
        assert!(entries_for_the_bits(1536, 92, TAG_BITS_NO_MASK) < 1800);
    }
}
