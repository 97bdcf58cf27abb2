//! The TLB entry's tag and the rule by which it hits.
//!
//! Every way of a set whose page number and CCID are equal is asked at once:
//!
//! ```text
//! hit := O == 1 ? PCID is mine
//!               : ORPC == 0 || I have no bit || my bit of the mask is clear
//! ```
//!
//! The set is chosen by the page number alone, so that a shared and an owned
//! entry of one page stand in the same set; the CCID comes from the core's
//! register, never from a table (both left open by the paper).

use super::aslr::Aslr;
use paging::flush::Reach;
use paging::{Leaf, TlbTag, Va};

/// Cycles that reading the `PrivateCopy` mask adds to a hit of the second-level
/// TLB: 12 instead of 10 (ISCA'20 table 1; from memory, medium trust).
pub const MASK_CYCLES: u16 = 2;

/// The container context identifier: one group of processes, 12 bits. 0 is no
/// group: everything such a process caches is its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Ccid(pub u16);

impl Ccid {
    /// No group.
    pub const NONE: Ccid = Ccid(0);
    /// The largest.
    pub const MAX: Ccid = Ccid(0xfff);
}

/// ORPC in [`Leaf::link`]: software bit 9 of the entry that points to the leaf table.
pub(super) const LINK_ORPC: u8 = 1;
/// O in [`Leaf::link`]: software bit 10.
pub(super) const LINK_OWNED: u8 = 1 << 1;

/// The registers of a core that take part in a lookup.
#[derive(Clone, Copy, Debug, Default)]
pub struct BabelContext {
    /// The group.
    pub ccid: Ccid,
    /// The VM whose group it is (4 bits); groups of different VMs have nothing to do with each other.
    pub vmid: u8,
    /// The process.
    pub pcid: u16,
    /// The process's bit in every mask; none until its first private copy.
    pub pc_index: Option<u8>,
    share_first_level: bool,
    aslr: Aslr,
}

/// A first-level TLB is indexed with the process's own addresses, so that
/// processes whose layouts differ cannot share it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FirstLevelNeedsOneLayout;

impl core::fmt::Display for FirstLevelNeedsOneLayout {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(
            "the first-level TLBs cannot be shared with ASLR in hardware, which shifts addresses behind them: \
             use ASLR in software or leave them private",
        )
    }
}
impl core::error::Error for FirstLevelNeedsOneLayout {}

impl BabelContext {
    /// A process of a group.
    pub fn new(ccid: Ccid, pcid: u16, pc_index: Option<u8>) -> Self {
        BabelContext { ccid, pcid, pc_index, ..Self::default() }
    }
    /// In a VM.
    #[must_use]
    pub fn in_vm(mut self, vmid: u8) -> Self {
        self.vmid = vmid & 0xf;
        self
    }
    /// With a layout of its own, made the group's between the TLB levels.
    #[must_use]
    pub fn randomised(mut self, aslr: Aslr) -> Self {
        self.aslr = aslr;
        self
    }
    /// With first-level TLBs that share entries as the second level does (the
    /// published ones are conventional).
    ///
    /// # Errors
    /// With hardware ASLR.
    pub fn sharing_first_level(mut self) -> Result<Self, FirstLevelNeedsOneLayout> {
        if self.aslr.is_used() {
            return Err(FirstLevelNeedsOneLayout);
        }
        self.share_first_level = true;
        Ok(self)
    }
    /// The layout's offsets.
    pub fn aslr(&self) -> &Aslr {
        &self.aslr
    }
}

/// What BabelFish keeps beside a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BabelTag {
    /// Processes that have a private copy somewhere in the range of the entry's leaf table.
    mask: u32,
    /// Who brought it in; of an owned entry, whose it is.
    pcid: u16,
    owned: bool,
    orpc: bool,
}

impl BabelTag {
    /// O: only the process with its PCID may use it.
    pub fn is_owned(&self) -> bool {
        self.owned
    }
    /// The `PrivateCopy` mask, if there is a process with a copy.
    pub fn mask(&self) -> Option<u32> {
        (!self.owned && self.orpc).then_some(self.mask)
    }
}

impl TlbTag for BabelTag {
    type Context = BabelContext;
    const CONDITIONAL: bool = true;

    #[inline(always)]
    fn key(context: &BabelContext) -> u16 {
        u16::from(context.vmid) << 12 | context.ccid.0
    }

    #[inline(always)]
    fn admits(&self, context: &BabelContext) -> bool {
        if self.owned {
            return self.pcid == context.pcid;
        }
        !self.orpc || context.pc_index.is_none_or(|index| self.mask >> index & 1 == 0)
    }

    #[inline(always)]
    fn of(context: &BabelContext, _va: Va, leaf: &Leaf) -> Self {
        let owned = leaf.link & LINK_OWNED != 0 || context.ccid == Ccid::NONE;
        let orpc = !owned && leaf.link & LINK_ORPC != 0;
        BabelTag { mask: if orpc { leaf.tag as u32 } else { 0 }, pcid: context.pcid, owned, orpc }
    }

    #[inline(always)]
    fn first_level(self, context: &BabelContext) -> Self {
        if context.share_first_level {
            return self;
        }
        BabelTag { mask: 0, pcid: context.pcid, owned: true, orpc: false }
    }

    fn invalidated(&self, context: &BabelContext, reach: Reach) -> bool {
        match reach {
            Reach::Space => self.owned && self.pcid == context.pcid,
            Reach::Shared => !self.owned || self.pcid == context.pcid,
            Reach::Group => true,
        }
    }

    #[inline(always)]
    fn shared_hit(&self, context: &BabelContext) -> bool {
        !self.owned && self.pcid != context.pcid
    }

    #[inline(always)]
    fn extra_cycles(&self) -> u16 {
        if self.orpc { MASK_CYCLES } else { 0 }
    }

    #[inline(always)]
    fn miss_cycles(context: &BabelContext) -> u16 {
        context.aslr.cycles()
    }

    #[inline(always)]
    fn group_va(context: &BabelContext, va: Va) -> Va {
        context.aslr.group(va)
    }

    fn own_ranges(context: &BabelContext, start: u64, len: u64, visit: &mut dyn FnMut(u64, u64)) {
        context.aslr.own_ranges(start, len, visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paging::{Hfn, PageSize, Rights};

    fn leaf(link: u8, mask: u32) -> Leaf {
        Leaf {
            frame: Hfn::new(7),
            size: PageSize::Size4K,
            rights: Rights::ALL,
            dirty: false,
            link,
            tag: u64::from(mask),
        }
    }
    const VA: Va = Va::new(0x1000);

    /// The rule as a table: O, ORPC, the mask's bit, whether the process has an
    /// index, whether it is the one that brought the entry in → hit.
    #[test]
    fn the_rule() {
        for case in 0..32u32 {
            let [owned, orpc, bit, index, same] = core::array::from_fn(|i| case >> i & 1 == 1);
            let filler = BabelContext::new(Ccid(3), 1, None);
            let link = if owned { LINK_OWNED } else { 0 } | if orpc { LINK_ORPC } else { 0 };
            let tag = BabelTag::of(&filler, VA, &leaf(link, if bit { 1 << 9 } else { !(1 << 9) }));
            let asks = BabelContext::new(Ccid(3), if same { 1 } else { 2 }, index.then_some(9));
            let expected = match (owned, orpc) {
                (true, _) => same,
                (false, false) => true,
                (false, true) => !(index && bit),
            };
            assert_eq!(tag.admits(&asks), expected, "{case:05b}");
            assert_eq!(tag.shared_hit(&asks), !owned && !same);
            assert_eq!(tag.extra_cycles(), if orpc && !owned { 2 } else { 0 });
            assert_eq!(tag.mask().is_some(), orpc && !owned);
        }
    }

    #[test]
    fn without_a_group_everything_is_owned() {
        let alone = BabelContext::new(Ccid::NONE, 5, None);
        let tag = BabelTag::of(&alone, VA, &leaf(LINK_ORPC, u32::MAX));
        assert!(tag.is_owned() && tag.admits(&alone));
        assert!(!tag.admits(&BabelContext::new(Ccid::NONE, 6, None)));
    }

    #[test]
    fn the_first_level_is_private_unless_switched() {
        let one = BabelContext::new(Ccid(1), 1, None);
        let two = BabelContext::new(Ccid(1), 2, None);
        let shared = BabelTag::of(&one, VA, &leaf(0, 0));
        assert!(shared.admits(&two));
        // Two hits the second level; its first level gets an entry of its own.
        let first = shared.first_level(&two);
        assert!(first.admits(&two) && !first.admits(&one));
        let sharing = two.sharing_first_level().unwrap();
        assert_eq!(shared.first_level(&sharing), shared);
    }

    #[test]
    fn the_key_is_the_group_in_its_vm() {
        let one = BabelContext::new(Ccid(1), 1, None);
        assert_eq!(BabelTag::key(&one), BabelTag::key(&BabelContext::new(Ccid(1), 2, Some(3))));
        assert_ne!(BabelTag::key(&one), BabelTag::key(&BabelContext::new(Ccid(2), 1, None)));
        assert_ne!(BabelTag::key(&one), BabelTag::key(&one.in_vm(1)));
    }

    #[test]
    fn invalidations_remove_what_they_reach() {
        let one = BabelContext::new(Ccid(1), 1, None);
        let two = BabelContext::new(Ccid(1), 2, None);
        let shared = BabelTag::of(&one, VA, &leaf(0, 0));
        let ones = BabelTag::of(&one, VA, &leaf(LINK_OWNED, 0));
        let removed = |tag: BabelTag, reach| [tag.invalidated(&one, reach), tag.invalidated(&two, reach)];
        assert_eq!(removed(ones, Reach::Space), [true, false]);
        assert_eq!(removed(shared, Reach::Space), [false, false]);
        assert_eq!(removed(ones, Reach::Shared), [true, false]);
        assert_eq!(removed(shared, Reach::Shared), [true, true]);
        assert_eq!(removed(ones, Reach::Group), [true, true]);
    }
}
