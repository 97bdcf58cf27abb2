//! From a number (of a page, of a line) to its set.

/// Divides by a number of sets that is known when the structure is built.
///
/// One multiplication by ⌈2^63 / sets⌉, without a branch: the quotient is exact for
/// numbers below 2^63 / sets (Granlund and Montgomery 1994), and for any below 2^63 if
/// the sets are a power of two. That is 2^45 at [`SetIndex::MAX_SETS`], and the largest
/// page number has 45 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetIndex {
    sets: u64,
    reciprocal: u64,
}

impl SetIndex {
    /// Sets at most, if they are not a power of two.
    pub const MAX_SETS: usize = 1 << 18;

    /// For `sets` sets.
    ///
    /// # Panics
    /// For no sets, or more than [`Self::MAX_SETS`] that are not a power of two.
    pub fn new(sets: usize) -> SetIndex {
        assert!(sets > 0 && (sets.is_power_of_two() || sets <= Self::MAX_SETS), "{sets} sets");
        let sets = sets as u64;
        SetIndex { sets, reciprocal: (1u64 << 63).div_ceil(sets) }
    }

    /// How many sets.
    pub fn sets(&self) -> usize {
        self.sets as usize
    }

    /// `(number mod sets, number / sets)`: the set, and what is left for a tag.
    #[inline(always)]
    pub fn split(&self, number: u64) -> (usize, u64) {
        debug_assert!(
            number < (1 << 63) / if self.sets.is_power_of_two() { 1 } else { self.sets },
            "{number:#x} is too large to divide"
        );
        let quotient = ((u128::from(number << 1) * u128::from(self.reciprocal)) >> 64) as u64;
        ((number - quotient * self.sets) as usize, quotient)
    }

    /// `number mod sets`.
    #[inline(always)]
    pub fn set(&self, number: u64) -> usize {
        self.split(number).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn splits_as_division_does(sets in 1usize..=SetIndex::MAX_SETS, number in 0u64..1 << 45) {
            let index = SetIndex::new(sets);
            prop_assert_eq!(index.split(number), ((number % sets as u64) as usize, number / sets as u64));
        }

        #[test]
        fn splits_at_the_multiples(sets in 1usize..=SetIndex::MAX_SETS, times in 1u64..1 << 27) {
            let index = SetIndex::new(sets);
            let sets = sets as u64;
            prop_assert_eq!(index.split(times * sets), (0, times));
            prop_assert_eq!(index.split(times * sets - 1), (sets as usize - 1, times - 1));
        }
    }
}
