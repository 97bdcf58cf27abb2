//! The seam for TLB tags: when a cached entry may serve an access.

use crate::addr::{PageSize, Va};
use crate::flush::Reach;
use crate::walk::Leaf;
use core::fmt::Debug;

/// What a TLB keeps beside a translation, and the rule by which it hits.
///
/// A TLB compares one key a way (the page number with [`TlbTag::key`] folded
/// in) and then asks [`TlbTag::admits`] of the ways whose key is equal. For the
/// baseline the answer is always yes and costs nothing.
pub trait TlbTag: Copy + Default + PartialEq + Debug + Send + 'static {
    /// The registers of the core that take part: loaded at a context switch.
    type Context: Copy + Default + Debug + Send;

    /// Whether `admits` can say no. `false` lets the TLB skip the question.
    const CONDITIONAL: bool;

    /// What identifies the address space in the compared key, at most 16 bits.
    fn key(context: &Self::Context) -> u16;

    /// Whether an entry with equal key may serve an access in `context`.
    fn admits(&self, context: &Self::Context) -> bool;

    /// The tag of a new entry.
    fn of(context: &Self::Context, va: Va, leaf: &Leaf) -> Self;

    /// The tag of the entry that the same access puts into a first-level TLB:
    /// BabelFish's first level may share nothing.
    #[inline(always)]
    fn first_level(self, _context: &Self::Context) -> Self {
        self
    }

    /// Whether an invalidation by the space of `context` that reaches as far as
    /// `reach` removes an entry with equal key.
    fn invalidated(&self, _context: &Self::Context, _reach: Reach) -> bool {
        true
    }

    /// Whether a hit was on an entry that another address space brought in.
    fn shared_hit(&self, _context: &Self::Context) -> bool {
        false
    }

    /// Cycles that a hit costs on top of the TLB's own latency.
    fn extra_cycles(&self) -> u16 {
        0
    }

    /// Cycles on every miss of the first level before the second is asked.
    #[inline(always)]
    fn miss_cycles(_context: &Self::Context) -> u16 {
        0
    }

    /// The address under which the second-level TLB and the walker know `va`
    /// (BabelFish's hardware ASLR shifts it by segment).
    #[inline(always)]
    fn group_va(_context: &Self::Context, va: Va) -> Va {
        va
    }

    /// Where the `len` bytes from `start`, addresses as [`TlbTag::group_va`] returns them, lie
    /// for the process itself: runs of (first address, bytes) that cover at least these.
    fn own_ranges(_context: &Self::Context, start: u64, len: u64, visit: &mut dyn FnMut(u64, u64)) {
        visit(start, len);
    }
}

/// The key that a TLB compares: page number, size and address space.
///
/// 45 bits of page number (57-bit addresses), 2 of size, 16 of space; never 0
/// for a valid entry.
#[inline(always)]
pub fn tlb_key(va: Va, size: PageSize, space: u16) -> u64 {
    let page = (va.raw() << 7 >> 7) >> size.shift();
    page << 18 | (space as u64) << 2 | size as u64
}

/// The baseline: an address-space identifier (PCID) and a VM identifier,
/// together in 16 bits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AsidVmid;

impl TlbTag for AsidVmid {
    /// The space's number: one for each (VMID, ASID) pair in use.
    type Context = u16;
    const CONDITIONAL: bool = false;

    #[inline(always)]
    fn key(context: &u16) -> u16 {
        *context
    }
    #[inline(always)]
    fn admits(&self, _context: &u16) -> bool {
        true
    }
    #[inline(always)]
    fn of(_context: &u16, _va: Va, _leaf: &Leaf) -> Self {
        AsidVmid
    }
}
