//! Sets as vectors: prints that are compared, and tags in the order of their
//! last use.
//!
//! The compiler makes a scalar compare or select for each way out of the plain
//! loops; with vectors written out, a look-up of tags was measured to take a
//! third of the time (8, 16 and 20 ways). SSE2 is part of every x86-64; who
//! looks tags up with AVX2 is in [`super::vectors`].

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

/// Tags of one vector, aligned as loads in operands ask.
#[derive(Clone, Copy, Default, Debug)]
#[repr(align(16))]
pub struct Four(pub(super) [u32; LANES]);
/// Tags of one vector.
pub(super) const LANES: usize = 4;
/// Vectors of the widest set.
pub(super) const MAX_VECTORS: usize = 8;

/// Whether `tag` is in one of the lanes of `row` that `among` has as bits, the first ones; in either case it is
/// now at the front, and those that were before it, or all, have moved one back.
/// The other lanes mean nothing.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn touch<const VECTORS: usize>(row: &mut [Four; VECTORS], among: u32, tag: u32) -> bool {
    // SAFETY: every x86-64 has SSE2.
    unsafe { touch_sse2(row, among, tag) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn touch_sse2<const VECTORS: usize>(row: &mut [Four; VECTORS], among: u32, tag: u32) -> bool {
    use std::arch::x86_64::{
        _mm_and_si128, _mm_andnot_si128, _mm_castsi128_ps, _mm_cmpeq_epi32, _mm_cmpgt_epi32,
        _mm_cvtsi32_si128, _mm_movemask_ps, _mm_or_si128, _mm_set1_epi32, _mm_setr_epi32, _mm_slli_si128,
    };

    let wanted = _mm_set1_epi32(tag as i32);
    let mut found = 0u32;
    for (number, four) in row.iter().enumerate() {
        let equal = _mm_castsi128_ps(_mm_cmpeq_epi32(load(&four.0), wanted));
        found |= (_mm_movemask_ps(equal) as u32) << (number * LANES);
    }
    found &= among;
    // Who asks goes another way after a miss than after a hit: the branch here is
    // one with that, and a miss, which moves all, needs no selection.
    if found == 0 {
        for number in (1..VECTORS).rev() {
            let moved = load_before(row, number);
            store(&mut row[number], moved);
        }
        let front = load(&row[0].0);
        store(&mut row[0], _mm_or_si128(_mm_slli_si128::<4>(front), _mm_cvtsi32_si128(tag as i32)));
        return false;
    }
    let behind = _mm_set1_epi32(found.trailing_zeros() as i32);
    // From the last to the first: each takes in the lane before it.
    for number in (0..VECTORS).rev() {
        let old = load(&row[number].0);
        let moved = if number > 0 {
            load_before(row, number)
        } else {
            _mm_or_si128(_mm_slli_si128::<4>(old), _mm_cvtsi32_si128(tag as i32))
        };
        let first = (number * LANES) as i32;
        let stays = _mm_cmpgt_epi32(_mm_setr_epi32(first, first + 1, first + 2, first + 3), behind);
        store(&mut row[number], _mm_or_si128(_mm_and_si128(stays, old), _mm_andnot_si128(stays, moved)));
    }
    true
}

/// Vector `number` as it is with all tags moved one back: the last tag before it, and its first three.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn load_before<const VECTORS: usize>(row: &[Four; VECTORS], number: usize) -> std::arch::x86_64::__m128i {
    assert!(0 < number && number < VECTORS);
    // SAFETY: 16 bytes from 4 before the start of a vector that is not the first: all within `row`.
    unsafe { std::arch::x86_64::_mm_loadu_si128(row.as_ptr().cast::<u32>().add(number * LANES - 1).cast()) }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn load<T: Copy, const N: usize>(lanes: &[T; N]) -> std::arch::x86_64::__m128i {
    const { assert!(size_of::<[T; N]>() == 16) };
    // SAFETY: reads 16 bytes, of plain numbers, from a reference to 16 bytes, at any alignment.
    unsafe { std::arch::x86_64::_mm_loadu_si128(lanes.as_ptr().cast()) }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn store(four: &mut Four, vector: std::arch::x86_64::__m128i) {
    // SAFETY: writes 16 bytes through an exclusive reference to 16 bytes, aligned as its type is.
    unsafe { std::arch::x86_64::_mm_store_si128(four.0.as_mut_ptr().cast(), vector) }
}

/// The same with vectors of two, for an even number of them.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2")]
#[inline]
pub(super) fn touch_avx2<const VECTORS: usize>(row: &mut [Four; VECTORS], among: u32, tag: u32) -> bool {
    use std::arch::x86_64::{
        _mm256_blend_epi32, _mm256_blendv_epi8, _mm256_castsi256_ps, _mm256_cmpeq_epi32, _mm256_cmpgt_epi32,
        _mm256_movemask_ps, _mm256_permutevar8x32_epi32, _mm256_set1_epi32, _mm256_setr_epi32,
    };

    assert!(VECTORS.is_multiple_of(2));
    let pairs = VECTORS / 2;
    let wanted = _mm256_set1_epi32(tag as i32);
    let mut found = 0u32;
    for number in 0..pairs {
        let equal = _mm256_cmpeq_epi32(load_eight(row, number * EIGHT), wanted);
        found |= (_mm256_movemask_ps(_mm256_castsi256_ps(equal)) as u32) << (number * EIGHT);
    }
    found &= among;
    let one_back = _mm256_setr_epi32(7, 0, 1, 2, 3, 4, 5, 6);
    let front = _mm256_permutevar8x32_epi32(load_eight(row, 0), one_back);
    let front = _mm256_blend_epi32::<1>(front, wanted);
    if found == 0 {
        for number in (1..pairs).rev() {
            let moved = load_eight(row, number * EIGHT - 1);
            store_eight(row, number, moved);
        }
        store_eight(row, 0, front);
        return false;
    }
    let behind = _mm256_set1_epi32(found.trailing_zeros() as i32);
    for number in (0..pairs).rev() {
        let moved = if number > 0 { load_eight(row, number * EIGHT - 1) } else { front };
        let at = (number * EIGHT) as i32;
        let ways = _mm256_setr_epi32(at, at + 1, at + 2, at + 3, at + 4, at + 5, at + 6, at + 7);
        let stays = _mm256_cmpgt_epi32(ways, behind);
        let old = load_eight(row, number * EIGHT);
        store_eight(row, number, _mm256_blendv_epi8(moved, old, stays));
    }
    true
}

/// Tags of one vector of AVX2.
#[cfg(target_arch = "x86_64")]
const EIGHT: usize = 2 * LANES;

/// Eight tags from the one at `first`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn load_eight<const VECTORS: usize>(row: &[Four; VECTORS], first: usize) -> std::arch::x86_64::__m256i {
    assert!(first + EIGHT <= VECTORS * LANES);
    // SAFETY: 32 bytes within `row`.
    unsafe { std::arch::x86_64::_mm256_loadu_si256(row.as_ptr().cast::<u32>().add(first).cast()) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn store_eight<const VECTORS: usize>(
    row: &mut [Four; VECTORS],
    pair: usize,
    new: std::arch::x86_64::__m256i,
) {
    assert!((pair + 1) * EIGHT <= VECTORS * LANES);
    // SAFETY: 32 bytes within `row`, which nobody else has.
    unsafe {
        std::arch::x86_64::_mm256_storeu_si256(row.as_mut_ptr().cast::<u32>().add(pair * EIGHT).cast(), new);
    }
}

/// The same on other machines.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(super) fn touch<const VECTORS: usize>(row: &mut [Four; VECTORS], among: u32, tag: u32) -> bool {
    let at = |way: usize| (way / LANES, way % LANES);
    let ways = among.count_ones() as usize;
    let found = (0..ways).position(|way| row[at(way).0].0[at(way).1] == tag);
    for way in (1..=found.unwrap_or(ways - 1)).rev() {
        row[at(way).0].0[at(way).1] = row[at(way - 1).0].0[at(way - 1).1];
    }
    row[0].0[0] = tag;
    found.is_some()
}
