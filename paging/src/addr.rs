//! Addresses of the three spaces, frames, and page sizes.
//!
//! An address carries its space in its type, so that a guest-physical address
//! cannot be used where a host-physical one is meant:
//!
//! ```compile_fail
//! use paging::{Gpa, Hpa};
//! let g = Gpa::new(0x1000);
//! let h: Hpa = g; // different spaces do not mix
//! ```

use core::fmt;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;

mod sealed {
    pub trait Sealed {}
}

/// An address space: one of [`Virt`], [`GuestPhys`] and [`HostPhys`].
pub trait Space: sealed::Sealed + Copy + Ord + Default + Send + Sync + fmt::Debug + 'static {
    /// The field's short name for addresses of this space (`VA`, `gPA`, `hPA`).
    const NAME: &'static str;
}

/// A space that has frames: [`GuestPhys`] or [`HostPhys`].
pub trait PhysSpace: Space {}

macro_rules! spaces {
    ($($(#[$doc:meta])* $name:ident = $short:literal),*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
        pub struct $name;
        impl sealed::Sealed for $name {}
        impl Space for $name { const NAME: &'static str = $short; }
    )*};
}
spaces! {
    /// Virtual addresses of a process (gVA in a guest, VA natively).
    Virt = "VA",
    /// Guest-physical addresses (gPA).
    GuestPhys = "gPA",
    /// Host-physical addresses (hPA; natively PA).
    HostPhys = "hPA"
}
impl PhysSpace for GuestPhys {}
impl PhysSpace for HostPhys {}

/// A byte address in space `S`.
#[repr(transparent)]
pub struct Addr<S>(u64, PhantomData<S>);

/// A virtual address (gVA in a guest).
pub type Va = Addr<Virt>;
/// A guest-physical address.
pub type Gpa = Addr<GuestPhys>;
/// A host-physical address.
pub type Hpa = Addr<HostPhys>;

impl<S: Space> Addr<S> {
    /// The address `raw`, in bytes. Any value is accepted; whether a virtual
    /// address is canonical is asked with [`Va::is_canonical`].
    #[inline(always)]
    pub const fn new(raw: u64) -> Self {
        Addr(raw, PhantomData)
    }
    /// The address in bytes.
    #[inline(always)]
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// `self + bytes`, wrapping at 2^64.
    #[inline(always)]
    pub const fn offset(self, bytes: u64) -> Self {
        Addr(self.0.wrapping_add(bytes), PhantomData)
    }
    /// The largest multiple of `size` that is not above the address.
    #[inline(always)]
    pub const fn align_down(self, size: PageSize) -> Self {
        Addr(self.0 & !(size.bytes() - 1), PhantomData)
    }
    /// The smallest multiple of `size` that is not below the address (wrapping).
    #[inline(always)]
    pub const fn align_up(self, size: PageSize) -> Self {
        Addr(self.0.wrapping_add(size.bytes() - 1) & !(size.bytes() - 1), PhantomData)
    }
    /// Whether the address is a multiple of `size`.
    #[inline(always)]
    pub const fn is_aligned(self, size: PageSize) -> bool {
        self.0 & (size.bytes() - 1) == 0
    }
    /// The number of the 4 KiB page that holds the address.
    #[inline(always)]
    pub const fn page(self) -> u64 {
        self.0 >> 12
    }
    /// The byte within its page of `size`.
    #[inline(always)]
    pub const fn page_offset(self, size: PageSize) -> u64 {
        self.0 & (size.bytes() - 1)
    }
    /// The 9-bit index into the table of `level` (1 = leaf table … 5).
    #[inline(always)]
    pub const fn index(self, level: u8) -> usize {
        ((self.0 >> (12 + 9 * (level as u32 - 1))) & 511) as usize
    }
}

impl Va {
    /// Whether bits above the implemented ones equal the top implemented bit
    /// (Intel SDM vol. 1 §3.3.7.1): 48 bits with 4 levels, 57 with 5.
    #[inline(always)]
    pub const fn is_canonical(self, levels: u8) -> bool {
        let shift = 64 - (12 + 9 * levels as u32);
        ((self.0 << shift) as i64 >> shift) as u64 == self.0
    }
}

impl<S: PhysSpace> Addr<S> {
    /// The frame that holds the address.
    #[inline(always)]
    pub const fn frame(self) -> Frame<S> {
        Frame::new(self.0 >> 12)
    }
}

/// A 4 KiB frame of physical space `S`, by number.
#[repr(transparent)]
pub struct Frame<S>(u64, PhantomData<S>);

/// A guest frame number.
pub type Gfn = Frame<GuestPhys>;
/// A host frame number.
pub type Hfn = Frame<HostPhys>;

impl<S: PhysSpace> Frame<S> {
    /// Frame number `number`.
    #[inline(always)]
    pub const fn new(number: u64) -> Self {
        Frame(number, PhantomData)
    }
    /// The frame's number (physical address / 4096).
    #[inline(always)]
    pub const fn number(self) -> u64 {
        self.0
    }
    /// The address of its first byte.
    #[inline(always)]
    pub const fn base(self) -> Addr<S> {
        Addr::new(self.0 << 12)
    }
    /// The frame `frames` further on.
    #[inline(always)]
    pub const fn offset(self, frames: u64) -> Self {
        Frame(self.0.wrapping_add(frames), PhantomData)
    }
    /// Whether it could begin a page of `size`.
    #[inline(always)]
    pub const fn is_aligned(self, size: PageSize) -> bool {
        self.0 & (size.frames() - 1) == 0
    }
}

// Derives would ask for `S: Trait` on the marker; these do not.
macro_rules! plain_number {
    ($ty:ident, $fmt:literal) => {
        impl<S> Clone for $ty<S> {
            #[inline(always)]
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<S> Copy for $ty<S> {}
        impl<S> PartialEq for $ty<S> {
            #[inline(always)]
            fn eq(&self, other: &Self) -> bool {
                self.0 == other.0
            }
        }
        impl<S> Eq for $ty<S> {}
        impl<S> PartialOrd for $ty<S> {
            #[inline(always)]
            fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }
        impl<S> Ord for $ty<S> {
            #[inline(always)]
            fn cmp(&self, other: &Self) -> core::cmp::Ordering {
                self.0.cmp(&other.0)
            }
        }
        impl<S> Hash for $ty<S> {
            fn hash<H: Hasher>(&self, h: &mut H) {
                self.0.hash(h)
            }
        }
        impl<S> Default for $ty<S> {
            fn default() -> Self {
                $ty(0, PhantomData)
            }
        }
        impl<S: Space> fmt::Debug for $ty<S> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $fmt, S::NAME, self.0)
            }
        }
        impl<S: Space> fmt::Display for $ty<S> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}
plain_number!(Addr, "{}({:#x})");
plain_number!(Frame, "{} frame({:#x})");

/// The page sizes of x86-64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum PageSize {
    /// 4 KiB, mapped by a level-1 entry.
    #[default]
    Size4K = 1,
    /// 2 MiB, mapped by a level-2 entry.
    Size2M = 2,
    /// 1 GiB, mapped by a level-3 entry.
    Size1G = 3,
}

impl PageSize {
    /// All sizes, smallest first.
    pub const ALL: [PageSize; 3] = [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G];

    /// The level of the table whose entry maps a page of this size.
    #[inline(always)]
    pub const fn level(self) -> u8 {
        self as u8
    }
    /// The size that a leaf entry of a `level` table maps; `None` above level 3.
    #[inline(always)]
    pub const fn from_level(level: u8) -> Option<PageSize> {
        match level {
            1 => Some(PageSize::Size4K),
            2 => Some(PageSize::Size2M),
            3 => Some(PageSize::Size1G),
            _ => None,
        }
    }
    /// log2 of the size in bytes: 12, 21, 30.
    #[inline(always)]
    pub const fn shift(self) -> u32 {
        12 + 9 * (self as u32 - 1)
    }
    /// The size in bytes.
    #[inline(always)]
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }
    /// The size in 4 KiB frames: 1, 512, 262144.
    #[inline(always)]
    pub const fn frames(self) -> u64 {
        1 << (9 * (self as u32 - 1))
    }
    /// The buddy order of a block of this size: 0, 9, 18.
    #[inline(always)]
    pub const fn order(self) -> u8 {
        9 * (self as u8 - 1)
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PageSize::Size4K => "4K",
            PageSize::Size2M => "2M",
            PageSize::Size1G => "1G",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_addresses_follow_the_number_of_levels() {
        assert!(Va::new(0x7fff_ffff_ffff).is_canonical(4));
        assert!(!Va::new(0x8000_0000_0000).is_canonical(4));
        assert!(Va::new(0xffff_8000_0000_0000).is_canonical(4));
        assert!(Va::new(0x8000_0000_0000).is_canonical(5));
        assert!(!Va::new(0x0100_0000_0000_0000).is_canonical(5));
    }

    #[test]
    fn indices_split_the_address_in_nines() {
        let va = Va::new((1 << 48) | (2 << 39) | (3 << 30) | (4 << 21) | (5 << 12) | 6);
        assert_eq!([5, 4, 3, 2, 1].map(|l| va.index(l)), [1, 2, 3, 4, 5]);
        assert_eq!(va.page_offset(PageSize::Size4K), 6);
        assert_eq!(va.align_up(PageSize::Size2M).raw() & 0x1f_ffff, 0);
    }
}
