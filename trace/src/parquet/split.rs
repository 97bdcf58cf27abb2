//! Words of eight bytes as eight streams of single bytes: how `BYTE_STREAM_SPLIT` wants addresses, and what the small
//! columns are packed from.
//!
//! In registers, less than a nanosecond a word; with a pass for each byte it was two.

/// Words that are split at once.
const LANES: usize = 16;
/// Words whose bytes are gathered before they go to their streams, a cache line to each: the streams
/// lie a power of two apart, and compete for the same few places of the first-level cache.
const TILE: usize = 64;

/// The streams of some words.
#[derive(Debug, Default)]
pub(super) struct Streams {
    bytes: Vec<u8>,
    words: usize,
}

impl Streams {
    /// Takes these words apart.
    pub(super) fn fill(&mut self, words: &[u64]) {
        self.words = words.len();
        self.bytes.resize(8 * self.words, 0);
        let mut tile = [[0; TILE]; 8];
        for (t, part) in words.chunks(TILE).enumerate() {
            let (full, rest) = part.as_chunks();
            for (at, words) in full.iter().enumerate() {
                split(words, &mut tile, LANES * at);
            }
            if !rest.is_empty() {
                let last = std::array::from_fn(|i| rest.get(i).copied().unwrap_or(0));
                split(&last, &mut tile, LANES * full.len());
            }
            for (i, line) in tile.iter().enumerate() {
                let stream = &mut self.bytes[i * self.words + t * TILE..];
                match stream.first_chunk_mut() {
                    Some(place) if part.len() == TILE => *place = *line,
                    _ => stream[..part.len()].copy_from_slice(&line[..part.len()]),
                }
            }
        }
    }

    /// One after the other, the lowest byte's first.
    pub(super) fn all(&self) -> &[u8] {
        &self.bytes
    }

    /// One of them.
    pub(super) fn byte(&self, at: usize) -> &[u8] {
        &self.bytes[at * self.words..][..self.words]
    }
}

/// Puts sixteen words into the streams of a tile, from place `at` on.
#[cfg(target_arch = "x86_64")]
fn split(words: &[u64; LANES], tile: &mut [[u8; TILE]; 8], at: usize) {
    // SAFETY: every x86-64 processor has SSE2 (AMD64 Architecture Programmer's Manual, volume 1, 1.1.5).
    unsafe { shuffled::split(words, tile, at) }
}

/// As above, where there are no shuffles known to us.
#[cfg(not(target_arch = "x86_64"))]
fn split(words: &[u64; LANES], tile: &mut [[u8; TILE]; 8], at: usize) {
    for (i, word) in words.iter().enumerate() {
        tile.iter_mut().zip(word.to_le_bytes()).for_each(|(line, byte)| line[at + i] = byte);
    }
}

/// With instructions that interleave the bytes of two registers: compilers find them in some forms of such
/// loops only.
#[cfg(target_arch = "x86_64")]
mod shuffled {
    use super::{LANES, TILE};
    use std::arch::x86_64::{
        __m128i, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_setzero_si128, _mm_unpackhi_epi8, _mm_unpackhi_epi64,
        _mm_unpacklo_epi8,
    };

    type Rows = [__m128i; 8];

    /// A byte's place among the 128 of sixteen words has seven bits, four for the word and three for the byte in it.
    /// Interleaving the first half of the rows with the second turns them by one bit; after four times, the byte
    /// comes first.
    #[target_feature(enable = "sse2")]
    pub(super) fn split(words: &[u64; LANES], tile: &mut [[u8; TILE]; 8], at: usize) {
        let mut rows = [_mm_setzero_si128(); 8];
        for i in 0..8 {
            rows[i] = _mm_set_epi64x(words[2 * i + 1] as i64, words[2 * i] as i64);
        }
        let rows = interleave(interleave(interleave(interleave(rows))));
        for i in 0..8 {
            let low = _mm_cvtsi128_si64(rows[i]) as u64;
            let high = _mm_cvtsi128_si64(_mm_unpackhi_epi64(rows[i], rows[i])) as u64;
            let both = u128::from(low) | u128::from(high) << 64;
            tile[i][at..at + LANES].copy_from_slice(&both.to_le_bytes());
        }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn interleave(from: Rows) -> Rows {
        let mut to = from;
        for i in 0..4 {
            to[2 * i] = _mm_unpacklo_epi8(from[i], from[i + 4]);
            to[2 * i + 1] = _mm_unpackhi_epi8(from[i], from[i + 4]);
        }
        to
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_byte_is_in_its_stream(words in prop::collection::vec(any::<u64>(), 0..300)) {
            let mut streams = Streams::default();
            streams.fill(&words.iter().chain(&words).map(|word| !word).collect::<Vec<_>>());
            streams.fill(&words);
            prop_assert_eq!(streams.all().len(), 8 * words.len());
            for (i, word) in words.iter().enumerate() {
                let bytes: [u8; 8] = std::array::from_fn(|b| streams.byte(b)[i]);
                prop_assert_eq!(u64::from_le_bytes(bytes), *word);
                prop_assert_eq!(streams.all()[3 * words.len() + i], word.to_le_bytes()[3]);
            }
        }
    }
}
