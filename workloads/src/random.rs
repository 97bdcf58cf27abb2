//! Random numbers that stay the same for ever: a named generator, a hash, a
//! permutation that is computed and not stored.

use paging::random::{STEP, mix};
pub(crate) use rand_xoshiro::Xoshiro256PlusPlus as Generator;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// The generator of one stream (a thread) of one seed.
pub(crate) fn generator(seed: u64, stream: u64) -> Generator {
    Generator::seed_from_u64(hash(seed, stream))
}

/// What the workloads draw.
pub(crate) trait Draw {
    /// 64 random bits.
    fn bits(&mut self) -> u64;
    /// Uniform below `n`; the bias is below n/2^64.
    #[inline(always)]
    fn below(&mut self, n: u64) -> u64 {
        scale(self.bits(), n)
    }
}

impl Draw for Generator {
    #[inline(always)]
    fn bits(&mut self) -> u64 {
        self.next_u64()
    }
}

/// 64 random bits as a number below `n`.
#[inline(always)]
pub(crate) const fn scale(bits: u64, n: u64) -> u64 {
    ((bits as u128 * n as u128) >> 64) as u64
}

/// 64 random bits as a number in [0, 1).
#[inline(always)]
pub(crate) const fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// A hash of `x` under `seed`: `SplitMix64` on the `x`-th state of the sequence that starts at `seed`.
#[inline(always)]
pub(crate) const fn hash(seed: u64, x: u64) -> u64 {
    mix(seed.wrapping_add(x.wrapping_mul(STEP)).wrapping_add(STEP))
}

/// A permutation of `0..len`, in both directions, without a table.
///
/// Rounds of odd multiplication modulo a power of two and `x ^= x >> half the
/// bits`, each of which can be undone, are a permutation of the next power of
/// two. What falls outside is permuted again until it falls inside (cycle
/// walking: Black and Rogaway, CT-RSA 2002): fewer than two rounds on average.
#[derive(Clone, Debug)]
pub(crate) struct Permutation {
    len: u64,
    mask: u64,
    shift: u32,
    offset: u64,
    multiplier: [u64; 3],
    inverse: [u64; 3],
}

impl Permutation {
    /// One of `0..len`, chosen by `seed`.
    pub(crate) fn new(len: u64, seed: u64) -> Permutation {
        assert!(len > 0, "a permutation of nothing");
        let bits = (64 - (len - 1).leading_zeros()).max(2);
        let multiplier: [u64; 3] = std::array::from_fn(|i| hash(seed, i as u64) | 1);
        Permutation {
            len,
            mask: u64::MAX >> (64 - bits),
            // At least half of the bits: then the shift is its own inverse.
            shift: bits.div_ceil(2),
            offset: hash(seed, 3),
            multiplier,
            inverse: multiplier.map(inverse_of_odd),
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// One round over the next power of two.
    #[inline(always)]
    pub(crate) fn scramble(&self, x: u64) -> u64 {
        let [a, b, c] = self.multiplier;
        let mut x = x.wrapping_add(self.offset).wrapping_mul(a) & self.mask;
        x ^= x >> self.shift;
        x = x.wrapping_mul(b) & self.mask;
        x ^= x >> self.shift;
        x.wrapping_mul(c) & self.mask
    }

    /// Undoes [`Permutation::scramble`].
    #[inline(always)]
    pub(crate) fn unscramble(&self, x: u64) -> u64 {
        let [a, b, c] = self.inverse;
        let mut x = x.wrapping_mul(c) & self.mask;
        x ^= x >> self.shift;
        x = x.wrapping_mul(b) & self.mask;
        x ^= x >> self.shift;
        x.wrapping_mul(a).wrapping_sub(self.offset) & self.mask
    }

    /// Where `x` (below the length) goes.
    #[inline(always)]
    pub(crate) fn at(&self, x: u64) -> u64 {
        let mut y = self.scramble(x);
        while y >= self.len {
            y = self.scramble(y);
        }
        y
    }
}

/// The inverse of an odd number modulo 2^64, by Newton's iteration.
fn inverse_of_odd(a: u64) -> u64 {
    let mut x = a; // right modulo 2^3, and each step doubles the bits
    for _ in 0..5 {
        x = x.wrapping_mul(2u64.wrapping_sub(a.wrapping_mul(x)));
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_permutation_reaches_everything_once(len in 1u64..5000, seed: u64) {
            let p = Permutation::new(len, seed);
            let mut seen = vec![false; p.len() as usize];
            for x in 0..len {
                let y = p.at(x) as usize;
                prop_assert!(!seen[y]);
                seen[y] = true;
            }
        }

        #[test]
        fn a_scramble_can_be_undone(bits in 2u32..50, seed: u64, x: u64) {
            let p = Permutation::new(1 << bits, seed);
            let x = x & ((1 << bits) - 1);
            prop_assert_eq!(p.unscramble(p.scramble(x)), x);
        }
    }

    #[test]
    fn a_permutation_leaves_no_pattern_in_the_low_bits() {
        // Consecutive positions share their low three bits in 1 of 8 cases, and differ by one hardly ever.
        let n = 1 << 20;
        let p = Permutation::new(n, 7);
        let (mut same, mut next) = (0, 0);
        for x in 0..n - 1 {
            let (a, b) = (p.at(x), p.at(x + 1));
            same += u64::from((a ^ b) & 7 == 0);
            next += u64::from(a.abs_diff(b) == 1);
        }
        assert!((same as f64 / n as f64 - 0.125).abs() < 0.02, "{same}");
        assert!(next < 1000, "{next}");
    }

    #[test]
    fn a_hash_is_splitmix64() {
        // First outputs of the reference implementation (Vigna, splitmix64.c) for the seed 1234567.
        assert_eq!(hash(1234567, 0), 6457827717110365317);
        assert_eq!(hash(1234567, 1), 3203168211198807973);
    }
}
