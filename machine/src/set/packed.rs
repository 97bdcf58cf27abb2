//! Sets of 17 to 20 tags of 24 bits, each in one line of the host.
//!
//! With 32 bits such a set lies in two lines, and the tags of a last-level cache are
//! larger than the host's own second level: nearly every look-up waits for them, or was
//! prefetched. One line instead of two was measured to save 3 % of the time of random updates
//! and 6 % of Zipf's (native; 3 % of Zipf's nested).

use super::lanes::load;

/// Ways at most.
pub(super) const WAYS: usize = 20;
/// Tags are below this.
pub(super) const TAGS: u32 = 1 << 24;

/// Where the high bytes begin.
const HIGH: usize = 2 * WAYS;

/// A set in the order of use: the low 16 bits of each tag, then the high 8 bits of each.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Row([u8; 64]);

impl Default for Row {
    fn default() -> Self {
        Row([0; 64])
    }
}

impl Row {
    /// The tag of a way.
    pub fn get(&self, way: usize) -> u32 {
        u32::from_le_bytes([self.0[2 * way], self.0[2 * way + 1], self.0[HIGH + way], 0])
    }

    /// Gives a way a tag.
    pub fn set(&mut self, way: usize, tag: u32) {
        [self.0[2 * way], self.0[2 * way + 1], self.0[HIGH + way], _] = tag.to_le_bytes();
    }

    /// As [`super::lanes::touch`].
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn touch(&mut self, among: u32, tag: u32) -> bool {
        // SAFETY: every x86-64 has SSE2.
        unsafe { touch_sse2(self, among, tag) }
    }

    /// The same on other machines.
    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    pub fn touch(&mut self, among: u32, tag: u32) -> bool {
        let ways = among.count_ones() as usize;
        let found = (0..ways).position(|way| self.get(way) == tag);
        for way in (1..=found.unwrap_or(ways - 1)).rev() {
            self.set(way, self.get(way - 1));
        }
        self.set(0, tag);
        found.is_some()
    }

    /// The same with AVX2.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    #[inline]
    pub(super) fn touch_avx2(&mut self, among: u32, tag: u32) -> bool {
        use std::arch::x86_64::{
            _mm256_alignr_epi8, _mm256_blend_epi32, _mm256_blendv_epi8, _mm256_cmpeq_epi16,
            _mm256_cmpgt_epi8, _mm256_cmpgt_epi16, _mm256_movemask_epi8, _mm256_permute2x128_si256,
            _mm256_set1_epi8, _mm256_set1_epi16, _mm256_setr_epi8, _mm256_setr_epi16,
        };

        let high = (tag >> 16) as u8;
        let low = _mm256_set1_epi16(tag as i16);
        // The low parts of ways 0-15; then those of 16-19, the high ones of all, and 4 bytes that mean nothing.
        let (first, second) = (self.load32::<0>(), self.load32::<32>());
        // Two bits a way.
        let equal = [first, second].map(|part| _mm256_movemask_epi8(_mm256_cmpeq_epi16(part, low)) as u32);
        let mut found = u64::from(equal[0]) | u64::from(equal[1] & 0xff) << 32;
        // All one way back. What goes from one part to another is loaded from where it is before.
        let before = _mm256_permute2x128_si256::<0x02>(first, low);
        let moved_first = _mm256_alignr_epi8::<14>(first, before);
        let moved_second = _mm256_blend_epi32::<0b1111_1100>(self.load32::<30>(), self.load32::<31>());
        // The low parts alone say of nearly every tag that is not there that it is not.
        while found != 0 {
            let at = found.trailing_zeros() as usize / 2;
            if self.0[HIGH + at % WAYS] == high && among >> at & 1 == 1 {
                // Behind the way where it was nothing moves.
                let (low_ways, ways) = (
                    _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                    _mm256_setr_epi8(
                        16, 16, 17, 17, 18, 18, 19, 19, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
                        16, 17, 18, 19, 20, 20, 20, 20,
                    ),
                );
                let stays_first = _mm256_cmpgt_epi16(low_ways, _mm256_set1_epi16(at as i16));
                let stays_second = _mm256_cmpgt_epi8(ways, _mm256_set1_epi8(at as i8));
                self.store32::<0>(_mm256_blendv_epi8(moved_first, first, stays_first));
                self.store32::<32>(_mm256_blendv_epi8(moved_second, second, stays_second));
                self.0[HIGH] = high;
                return true;
            }
            found &= found - 1;
        }
        self.store32::<0>(moved_first);
        self.store32::<32>(moved_second);
        self.0[HIGH] = high;
        false
    }

    /// 32 bytes from `FROM`.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    #[inline]
    fn load32<const FROM: usize>(&self) -> std::arch::x86_64::__m256i {
        const { assert!(FROM + 32 <= 64) };
        // SAFETY: within the line.
        unsafe { std::arch::x86_64::_mm256_loadu_si256(self.0.as_ptr().add(FROM).cast()) }
    }

    /// The same for change.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    #[inline]
    fn store32<const FROM: usize>(&mut self, new: std::arch::x86_64::__m256i) {
        const { assert!(FROM + 32 <= 64) };
        // SAFETY: within the line, which nobody else has.
        unsafe { std::arch::x86_64::_mm256_storeu_si256(self.0.as_mut_ptr().add(FROM).cast(), new) }
    }

    /// 16 bytes from `from`.
    #[inline(always)]
    fn part(&self, from: usize) -> &[u8; 16] {
        self.0[from..].first_chunk().expect("within the line")
    }

    /// The same for change.
    #[inline(always)]
    fn part_mut(&mut self, from: usize) -> &mut [u8; 16] {
        self.0[from..].first_chunk_mut().expect("within the line")
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn touch_sse2(row: &mut Row, among: u32, tag: u32) -> bool {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi8, _mm_add_epi16, _mm_and_si128, _mm_andnot_si128, _mm_cmpeq_epi8,
        _mm_cmpeq_epi16, _mm_cmpgt_epi8, _mm_cmpgt_epi16, _mm_cvtsi32_si128, _mm_movemask_epi8, _mm_or_si128,
        _mm_packs_epi16, _mm_set1_epi8, _mm_set1_epi16, _mm_setr_epi8, _mm_setr_epi16, _mm_setzero_si128,
        _mm_slli_si128,
    };
    let either = |mask: __m128i, yes: __m128i, no: __m128i| {
        _mm_or_si128(_mm_and_si128(mask, yes), _mm_andnot_si128(mask, no))
    };

    // Ways 0-7, 8-15 and 16-19 of the low parts, 0-15 and 8-19 of the high ones; what follows means nothing.
    let lows = [load(row.part(0)), load(row.part(16)), load(row.part(32))];
    let highs = [load(row.part(HIGH)), load(row.part(HIGH + 8))];
    let low = _mm_set1_epi16(tag as i16);
    let equal = lows.map(|part| _mm_cmpeq_epi16(part, low));
    let found_low = _mm_movemask_epi8(_mm_packs_epi16(equal[0], equal[1])) as u32
        | (_mm_movemask_epi8(_mm_packs_epi16(equal[2], _mm_setzero_si128())) as u32) << 16;
    let found_high = || {
        let high = _mm_set1_epi8((tag >> 16) as i8);
        _mm_movemask_epi8(_mm_cmpeq_epi8(highs[0], high)) as u32
            | (_mm_movemask_epi8(_mm_cmpeq_epi8(highs[1], high)) as u32) << 8
    };
    // The low parts alone say of nearly every tag that is not there that it is not.
    let found = found_low & among;
    let found = if found == 0 { 0 } else { found & found_high() };

    let moved_lows = [
        _mm_or_si128(_mm_slli_si128::<2>(lows[0]), _mm_cvtsi32_si128((tag & 0xffff) as i32)),
        load(row.part(14)),
        load(row.part(30)),
    ];
    let moved_highs = [
        _mm_or_si128(_mm_slli_si128::<1>(highs[0]), _mm_cvtsi32_si128((tag >> 16) as i32)),
        load(row.part(HIGH + 7)),
    ];
    // The last parts first: what comes after the low ones is high ones, which are written after them. As with
    // wider tags, a miss moves all and needs no selection.
    if found == 0 {
        for part in [0, 1, 2] {
            store(row.part_mut(part * 16), moved_lows[part]);
        }
        for part in [1, 0] {
            store(row.part_mut(HIGH + part * 8), moved_highs[part]);
        }
        return false;
    }
    // Behind the way where it was nothing moves.
    let at = found.trailing_zeros();
    let (behind_low, behind_high) = (_mm_set1_epi16(at as i16), _mm_set1_epi8(at as i8));
    let (ways_low, ways_high) = (
        _mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7),
        _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    );
    for part in [0, 1, 2] {
        let ways = _mm_add_epi16(ways_low, _mm_set1_epi16(part as i16 * 8));
        let new = either(_mm_cmpgt_epi16(ways, behind_low), lows[part], moved_lows[part]);
        store(row.part_mut(part * 16), new);
    }
    for part in [1, 0] {
        let ways = _mm_add_epi8(ways_high, _mm_set1_epi8(part as i8 * 8));
        let new = either(_mm_cmpgt_epi8(ways, behind_high), highs[part], moved_highs[part]);
        store(row.part_mut(HIGH + part * 8), new);
    }
    true
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn store(part: &mut [u8; 16], vector: std::arch::x86_64::__m128i) {
    // SAFETY: writes 16 bytes through an exclusive reference to 16 bytes, at any alignment.
    unsafe { std::arch::x86_64::_mm_storeu_si128(part.as_mut_ptr().cast(), vector) }
}
