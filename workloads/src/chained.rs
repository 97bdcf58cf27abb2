//! A hash table with chains, without its contents.
//!
//! The hash of key i is a permutation of a power-of-two range, of which the
//! low bits choose the bucket. A permutation can be undone, so the keys of a
//! bucket are found from the bucket's number: the members of every chain are exact and agree
//! with each other, and nothing is stored. Chain lengths are binomial with 8
//! trials instead of (nearly) Poisson: a little less spread at the same mean.

use crate::random::Permutation;

/// Hash values for each bucket: the range is 8 times the buckets.
const FOLD: u64 = 8;

#[derive(Clone, Debug)]
pub(crate) struct Chained {
    keys: u64,
    buckets: u64,
    hash: Permutation,
}

/// The keys of one bucket, the last inserted first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    keys: [u64; FOLD as usize],
    len: usize,
}

impl Chained {
    /// A table of `buckets` (a power of two) that holds keys `0..keys`, at most 8 a bucket on average.
    pub(crate) fn new(keys: u64, buckets: u64, seed: u64) -> Chained {
        assert!(buckets.is_power_of_two() && keys <= buckets * FOLD);
        Chained { keys, buckets, hash: Permutation::new(buckets * FOLD, seed) }
    }

    /// How many buckets.
    #[inline(always)]
    pub(crate) fn buckets(&self) -> u64 {
        self.buckets
    }

    /// The bucket of a key, which may also be one that is not in the table.
    #[inline(always)]
    pub(crate) fn bucket(&self, key: u64) -> u64 {
        self.hash.scramble(key) & (self.buckets - 1)
    }

    /// Who is in a bucket when the table holds keys below `keys`.
    #[inline(always)]
    pub(crate) fn chain_of(&self, bucket: u64, keys: u64) -> Chain {
        let mut chain = Chain { keys: [0; FOLD as usize], len: 0 };
        for high in 0..FOLD {
            let key = self.hash.unscramble(bucket | (high * self.buckets));
            chain.keys[chain.len] = key;
            chain.len += usize::from(key < keys);
            if chain.len == FOLD as usize {
                break;
            }
        }
        // New keys are put at the head of the chain, so the highest comes first.
        let keys = &mut chain.keys[..chain.len];
        if keys.len() > 1 {
            keys.sort_unstable_by(|a, b| b.cmp(a));
        }
        chain
    }

    /// Who is in a bucket.
    #[inline(always)]
    pub(crate) fn chain(&self, bucket: u64) -> Chain {
        self.chain_of(bucket, self.keys)
    }
}

impl Chain {
    #[inline(always)]
    pub(crate) fn keys(&self) -> &[u64] {
        &self.keys[..self.len]
    }
    /// Those that a search for `key` looks at: up to and with it, or all if it is not there.
    #[inline(always)]
    pub(crate) fn search(&self, key: u64) -> &[u64] {
        let keys = self.keys();
        match keys.iter().position(|&k| k == key) {
            Some(at) => &keys[..=at],
            None => keys,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chains_are_the_buckets_of_the_keys(log2 in 2u32..12, load in 0.0f64..8.0, seed: u64) {
            let buckets = 1u64 << log2;
            let keys = (buckets as f64 * load) as u64;
            let table = Chained::new(keys, buckets, seed);
            let mut model = vec![Vec::new(); buckets as usize];
            for key in 0..keys {
                model[table.bucket(key) as usize].insert(0, key);
            }
            for bucket in 0..buckets {
                let chain = table.chain(bucket);
                prop_assert_eq!(chain.keys(), model[bucket as usize].as_slice());
            }
        }
    }

    #[test]
    fn chain_lengths_are_binomial() {
        let buckets = 1 << 16;
        let table = Chained::new(buckets, buckets, 1);
        let mut empty = 0;
        for bucket in 0..buckets {
            empty += u64::from(table.chain(bucket).keys().is_empty());
        }
        let expect = (7.0f64 / 8.0).powi(8); // Poisson would say 0.368
        assert!((empty as f64 / buckets as f64 - expect).abs() < 0.01);
    }
}
