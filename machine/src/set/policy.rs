//! Which way was used when, or what stands for it.

/// The order of use of the ways of a set, in one word: field `i` holds the way
/// that was the `i`-th most recently used. All ways are always in it; empty ones
/// are behind the others; fields without a way are 0.
pub(super) trait Recency: Copy + std::fmt::Debug {
    /// Ways at most.
    const FIELDS: usize;
    /// Ways 0 to `ways` - 1, way 0 first.
    fn start(ways: usize) -> Self;
    /// `way` is the most recently used.
    fn use_way(self, way: usize) -> Self;
    /// The least recently used of `ways`.
    fn oldest(self, ways: usize) -> usize;
    /// Where the least recently used of `ways` is, and a word with all bits of `ways`: for [`Recency::renew`].
    fn ends(ways: usize) -> (u32, Self);
    /// The least recently used way, and the word once it was used.
    fn renew(self, ends: (u32, Self)) -> (usize, Self);
    /// `way` is the least recently used of `ways`.
    fn retire(self, way: usize, ways: usize) -> Self;
}

macro_rules! recency {
    ($word:ty, $bits:literal, $fields:literal) => {
        impl Recency for $word {
            const FIELDS: usize = $fields;
            fn start(ways: usize) -> Self {
                (0..ways).fold(0, |word, way| word | (way as $word) << (way * $bits))
            }

            #[inline(always)]
            fn use_way(self, way: usize) -> Self {
                const LOW: $word = {
                    let (mut word, mut field) = (0, 0);
                    while field < $fields {
                        word |= 1 << (field * $bits);
                        field += 1;
                    }
                    word
                };
                const HIGH: $word = LOW << ($bits - 1);
                // The lowest field that is 0 after the xor is the way's (Mycroft's
                // test; only fields above the first 0 can be mistaken).
                let differs = self ^ LOW.wrapping_mul(way as $word);
                let zeros = differs.wrapping_sub(LOW) & !differs & HIGH;
                // All bits through the end of that field.
                let through = zeros ^ zeros.wrapping_sub(1);
                self & !through | (self << $bits | way as $word) & through
            }

            #[inline(always)]
            fn oldest(self, ways: usize) -> usize {
                (self >> ((ways - 1) * $bits)) as usize
            }

            fn ends(ways: usize) -> (u32, Self) {
                let last = (ways as u32 - 1) * $bits;
                (last, ((1 as $word) << last << $bits).wrapping_sub(1))
            }

            #[inline(always)]
            fn renew(self, (last, all): (u32, Self)) -> (usize, Self) {
                let way = self >> last;
                (way as usize, self << $bits & all | way)
            }

            fn retire(self, way: usize, ways: usize) -> Self {
                // To the front, then that field to the end.
                let front = self.use_way(way);
                front >> $bits | (way as $word) << ((ways - 1) * $bits)
            }
        }
    };
}
recency!(u64, 4, 16);
recency!(u128, 5, 25);

/// A circular list of ways for each set, the most recently used first.
#[derive(Clone, Debug)]
pub(super) struct Lists {
    /// `(previous, next)` way of each way.
    links: Box<[(u16, u16)]>,
    first: Box<[u16]>,
    ways: usize,
}

impl Lists {
    pub fn new(sets: usize, ways: usize) -> Lists {
        assert!(ways < usize::from(u16::MAX), "{ways} ways");
        let last = ways as u16 - 1;
        let link = |way: u16| (if way == 0 { last } else { way - 1 }, if way == last { 0 } else { way + 1 });
        let links = (0..sets).flat_map(|_| (0..=last).map(link)).collect();
        Lists { links, first: vec![0; sets].into(), ways }
    }

    #[inline(always)]
    pub fn oldest(&self, set: usize) -> usize {
        usize::from(self.links[set * self.ways + usize::from(self.first[set])].0)
    }

    #[inline(always)]
    pub fn use_way(&mut self, set: usize, way: usize) {
        let first = self.first[set];
        if usize::from(first) == way {
            return;
        }
        let links = &mut self.links[set * self.ways..][..self.ways];
        let last = links[usize::from(first)].0;
        if usize::from(last) != way {
            let (previous, next) = links[way];
            links[usize::from(previous)].1 = next;
            links[usize::from(next)].0 = previous;
            links[way] = (last, first);
            links[usize::from(last)].1 = way as u16;
            links[usize::from(first)].0 = way as u16;
        }
        // The last one of a circle becomes the first by a turn of it.
        self.first[set] = way as u16;
    }

    pub fn retire(&mut self, set: usize, way: usize) {
        self.use_way(set, way);
        self.first[set] = self.links[set * self.ways + way].1;
    }
}

/// A tree of bits for each set: node `i` has the children `2i` and `2i + 1`,
/// and its bit says in which half the next victim is.
#[derive(Clone, Debug)]
pub(super) struct Trees {
    state: Box<[u64]>,
    /// For each way: the bits on the way to it, and those of them that are 1
    /// when all point away from it.
    away: Box<[(u64, u64)]>,
    levels: u32,
}

impl Trees {
    pub fn new(sets: usize, ways: usize) -> Trees {
        assert!(ways.is_power_of_two() && ways <= 64, "tree pseudo-LRU of {ways} ways");
        let levels = ways.trailing_zeros();
        let away = (0..ways)
            .map(|way| {
                (0..levels).fold((0, 0), |(path, away), level| {
                    let node = (ways + way) >> (levels - level);
                    let right = way >> (levels - level - 1) & 1;
                    (path | 1 << node, away | u64::from(right == 0) << node)
                })
            })
            .collect();
        Trees { state: vec![0; sets].into(), away, levels }
    }

    #[inline(always)]
    pub fn use_way(&mut self, set: usize, way: usize) {
        let (path, away) = self.away[way];
        self.state[set] = self.state[set] & !path | away;
    }

    #[inline(always)]
    pub fn victim(&self, set: usize) -> usize {
        let state = self.state[set];
        let leaf = (0..self.levels).fold(1, |node, _| node * 2 + (state >> node & 1) as usize);
        leaf - (1 << self.levels)
    }
}

/// Marsaglia's xorshift64: fixed here, so that a seed means the same for ever.
#[derive(Clone, Debug)]
pub(super) struct Xorshift(u64);

impl Xorshift {
    pub fn new(seed: u64) -> Xorshift {
        Xorshift(if seed == 0 { 0x9e37_79b9_7f4a_7c15 } else { seed })
    }

    #[inline(always)]
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * bound as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode<W: Recency>(mut word: W, ways: usize) -> Vec<usize> {
        let mut list: Vec<usize> = (0..ways)
            .map(|_| {
                let oldest = word.oldest(ways);
                word = word.use_way(oldest);
                oldest
            })
            .collect();
        list.reverse();
        list
    }

    fn follows_a_list<W: Recency>(ways: usize, steps: &[(bool, usize)]) {
        let mut word = W::start(ways);
        let mut list: Vec<usize> = (0..ways).collect();
        for (retire, way) in steps {
            let way = way % ways;
            list.retain(|w| *w != way);
            if *retire {
                list.push(way);
                word = word.retire(way, ways);
            } else {
                list.insert(0, way);
                word = word.use_way(way);
            }
            assert_eq!(decode(word, ways), list);
        }
    }

    proptest! {
        #[test]
        fn words_order_ways_as_a_list_does(
            ways in 1usize..=25,
            steps in prop::collection::vec((any::<bool>(), 0usize..25), 1..80),
        ) {
            follows_a_list::<u128>(ways, &steps);
            if ways <= u64::FIELDS {
                follows_a_list::<u64>(ways, &steps);
            }
        }
    }
}
