//! Sets as vectors: prints that are compared, and tags in the order of their
//! last use.
//!
//! The compiler makes a scalar compare or select for each way out of the plain
//! loops; with vectors written out, a look-up of tags was measured to take a
//! third of the time (8, 16 and 20 ways). SSE2 is part of every x86-64, so
//! nothing is detected at run time; AVX2 was measured to gain less than 5 %.

/// Prints of one vector.
pub(super) const PRINTS: usize = 8;

/// Ways, as bits.
pub(super) trait Mask {
    /// Takes out the first way.
    fn take(&mut self) -> Option<usize>;
}
macro_rules! mask {
    ($($bits:ty),*) => {$(
        impl Mask for $bits {
            #[inline(always)]
            fn take(&mut self) -> Option<usize> {
                let way = self.trailing_zeros() as usize;
                (*self != 0).then(|| {
                    *self &= *self - 1;
                    way
                })
            }
        }
    )*};
}
mask!(u32, u128);

/// Which of the prints of up to 16 vectors equal `print`, as bits: all compared
/// before the first is looked at.
#[inline(always)]
pub(super) fn matches_wide<const VECTORS: usize>(row: &[[u16; PRINTS]; VECTORS], print: u16) -> u128 {
    let (parts, rest) = row.as_chunks::<4>();
    let whole =
        parts.iter().enumerate().map(|(number, part)| u128::from(matches(part, print)) << (number * 32));
    let start = parts.len() * 32;
    let rest = rest.iter().enumerate().map(|(number, vector)| {
        u128::from(matches(std::array::from_ref(vector), print)) << (start + number * PRINTS)
    });
    whole.chain(rest).fold(0, |found, part| found | part)
}

/// Which of the prints equal `print`, as bits. At most four vectors.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn matches<const VECTORS: usize>(row: &[[u16; PRINTS]; VECTORS], print: u16) -> u32 {
    // SAFETY: every x86-64 has SSE2.
    unsafe { matches_sse2(row, print) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn matches_sse2<const VECTORS: usize>(row: &[[u16; PRINTS]; VECTORS], print: u16) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16, _mm_setzero_si128,
    };
    let wanted = _mm_set1_epi16(print as i16);
    let (pairs, rest) = row.as_chunks::<2>();
    let mut found = 0;
    for (number, [low, high]) in pairs.iter().enumerate() {
        let equal = _mm_packs_epi16(_mm_cmpeq_epi16(load(low), wanted), _mm_cmpeq_epi16(load(high), wanted));
        found |= (_mm_movemask_epi8(equal) as u32) << (number * 2 * PRINTS);
    }
    if let [last] = rest {
        let equal = _mm_packs_epi16(_mm_cmpeq_epi16(load(last), wanted), _mm_setzero_si128());
        found |= (_mm_movemask_epi8(equal) as u32) << (pairs.len() * 2 * PRINTS);
    }
    found
}

/// The same on other machines.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(super) fn matches<const VECTORS: usize>(row: &[[u16; PRINTS]; VECTORS], print: u16) -> u32 {
    let lanes = row.as_flattened().iter().enumerate();
    lanes.fold(0, |bits, (way, lane)| bits | u32::from(*lane == print) << way)
}

/// Tags of one vector.
pub(super) const LANES: usize = 8;
/// Vectors of the widest set.
pub(super) const MAX_VECTORS: usize = 4;

/// Whether `tag` is among the first `ways` of `row`; in either case it is
/// now at the front, and those that were before it, or all, have moved one back.
/// Lanes from `ways` on mean nothing.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn touch<const VECTORS: usize>(row: &mut [[u32; LANES]; VECTORS], ways: usize, tag: u32) -> bool {
    // SAFETY: every x86-64 has SSE2.
    unsafe { touch_sse2(row, ways, tag) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn touch_sse2<const VECTORS: usize>(row: &mut [[u32; LANES]; VECTORS], ways: usize, tag: u32) -> bool {
    use std::arch::x86_64::{
        _mm_and_si128, _mm_andnot_si128, _mm_castsi128_ps, _mm_cmpeq_epi32, _mm_cmpgt_epi32,
        _mm_cvtsi32_si128, _mm_movemask_ps, _mm_or_si128, _mm_set1_epi32, _mm_setr_epi32, _mm_slli_si128,
    };
    const HALF: usize = LANES / 2;

    let row = row.as_flattened_mut();
    let wanted = _mm_set1_epi32(tag as i32);
    let mut found = 0u32;
    for (number, lanes) in row.as_chunks::<HALF>().0.iter().enumerate() {
        let equal = _mm_castsi128_ps(_mm_cmpeq_epi32(load(lanes), wanted));
        found |= (_mm_movemask_ps(equal) as u32) << (number * HALF);
    }
    found &= u32::MAX >> (u32::BITS - ways as u32);
    let way = (found | 1 << (ways - 1)).trailing_zeros();
    let behind = _mm_set1_epi32(way as i32);
    // From the last to the first: each takes in the lane before it.
    for number in (0..VECTORS * 2).rev() {
        let at = number * HALF;
        let (Some(old), before) = (row[at..].first_chunk(), row[..at + HALF - 1].last_chunk()) else {
            continue;
        };
        let old = load::<u32, HALF>(old);
        let moved = match before {
            Some(lanes) if number > 0 => load::<u32, HALF>(lanes),
            _ => _mm_or_si128(_mm_slli_si128::<4>(old), _mm_cvtsi32_si128(tag as i32)),
        };
        let first = at as i32;
        let stays = _mm_cmpgt_epi32(_mm_setr_epi32(first, first + 1, first + 2, first + 3), behind);
        let new = _mm_or_si128(_mm_and_si128(stays, old), _mm_andnot_si128(stays, moved));
        if let Some(lanes) = row[at..].first_chunk_mut() {
            store(lanes, new);
        }
    }
    found != 0
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn load<T: Copy, const N: usize>(lanes: &[T; N]) -> std::arch::x86_64::__m128i {
    const { assert!(size_of::<[T; N]>() == 16) };
    // SAFETY: reads 16 bytes, of plain numbers, from a reference to 16 bytes, at any alignment.
    unsafe { std::arch::x86_64::_mm_loadu_si128(lanes.as_ptr().cast()) }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn store(lanes: &mut [u32; LANES / 2], vector: std::arch::x86_64::__m128i) {
    // SAFETY: writes 16 bytes through an exclusive reference to 16 bytes, at any alignment.
    unsafe { std::arch::x86_64::_mm_storeu_si128(lanes.as_mut_ptr().cast(), vector) }
}

/// The same on other machines.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(super) fn touch<const VECTORS: usize>(row: &mut [[u32; LANES]; VECTORS], ways: usize, tag: u32) -> bool {
    let row = &mut row.as_flattened_mut()[..ways];
    let found = row.iter().position(|lane| *lane == tag);
    row.copy_within(..found.unwrap_or(ways - 1), 1);
    row[0] = tag;
    found.is_some()
}
