//! Which vector instructions of the host look tags up.
//!
//! SSE2 is part of every x86-64. With AVX2, of every one since 2013 but the smallest, a set of 8 tags is one vector. A
//! function that looks up with [`Avx2`] must be compiled for it, else the look-up is a call.

use super::lanes::{self, Four};
use super::packed::Row;

/// Vector instructions.
pub trait Vectors: Copy {
    /// Whether `tag` is in one of the lanes of `row` that `among` has as bits, the first ones; in either case it is
    /// now at the front, and those that were before it, or all, have moved one back.
    /// The other lanes mean nothing.
    fn touch<const VECTORS: usize>(self, row: &mut [Four; VECTORS], among: u32, tag: u32) -> bool;
    /// The same for a packed row.
    fn touch_packed(self, row: &mut Row, among: u32, tag: u32) -> bool;
}

/// What every host has.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Vectors for Plain {
    #[inline(always)]
    fn touch<const VECTORS: usize>(self, row: &mut [Four; VECTORS], among: u32, tag: u32) -> bool {
        // What was used last before stays in front. This is asked for a program's own accesses, most of which go there; for
        // the walker's it would be one more branch that nobody can predict.
        row[0].0[0] == tag || lanes::touch(row, among, tag)
    }
    #[inline(always)]
    fn touch_packed(self, row: &mut Row, among: u32, tag: u32) -> bool {
        row.touch(among, tag)
    }
}

/// AVX2: there is one only where the host has it.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// One, if the host has AVX2 and the bit manipulation that came with it.
    pub fn detect() -> Option<Avx2> {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("bmi1")
            && std::arch::is_x86_feature_detected!("bmi2")
        {
            return Some(Avx2(()));
        }
        None
    }
}

impl Vectors for Avx2 {
    #[inline(always)]
    fn touch<const VECTORS: usize>(self, row: &mut [Four; VECTORS], among: u32, tag: u32) -> bool {
        #[cfg(target_arch = "x86_64")]
        if VECTORS.is_multiple_of(2) {
            // SAFETY: there is an `Avx2`, so the host has it.
            return unsafe { lanes::touch_avx2(row, among, tag) };
        }
        lanes::touch(row, among, tag)
    }
    #[inline(always)]
    fn touch_packed(self, row: &mut Row, among: u32, tag: u32) -> bool {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: there is an `Avx2`, so the host has it.
        return unsafe { row.touch_avx2(among, tag) };
        #[cfg(not(target_arch = "x86_64"))]
        row.touch(among, tag)
    }
}
