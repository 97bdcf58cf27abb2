//! Injected fragmentation: which frames of never-used memory somebody holds.
//!
//! Gorman's unusable free space index of order j is the share of free memory
//! in blocks smaller than 2^j (M. Gorman and A. Whitcroft, "The what, the why
//! and the where to of anti-fragmentation", OLS 2006). A share `q` of the
//! pageblocks is chosen and `m` frames of each are held, which leaves
//! 512-m free frames there that are no use to an order-9 allocation:
//!
//! level = q(512-m) / (q(512-m) + 512(1-q)), so q = 512·level / (512·level + (512-m)(1-level)).
//!
//! Choices are functions of the seed and the pageblock's number, never stored:
//! they cost nothing until the pageblock is used.

use super::{LayoutError, Mobility, PAGEBLOCK};
use crate::random::{STEP, SplitMix64};

/// Fragmentation that memory starts with: the share of it that no order-9
/// allocation can use (Gorman's unusable free space index at order 9).
///
/// It is made of frames that somebody holds ([`FrameState::Filler`](super::FrameState::Filler)),
/// spread over chosen pageblocks, and appears when a pageblock is first used, so that it
/// costs nothing on memory that never is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Fragmentation {
    /// 0 (none) … 1 (no free huge page anywhere).
    pub level: f64,
    /// Which pageblocks and frames.
    pub seed: u64,
    /// Whether compaction can move the fillers away.
    pub pin: Mobility,
    /// Fillers in each chosen pageblock (1 … 256).
    pub pins_per_block: u16,
}

impl Fragmentation {
    /// One movable filler in each chosen pageblock.
    pub const fn new(level: f64, seed: u64) -> Self {
        Fragmentation { level, seed, pin: Mobility::Movable, pins_per_block: 1 }
    }

    /// The pins in `blocks` pageblocks from pageblock `origin` on.
    pub(super) fn pins(&self, origin: u64, blocks: u64) -> Result<Option<Pins>, LayoutError> {
        if !(0.0..=1.0).contains(&self.level) || !(1..=256).contains(&self.pins_per_block) {
            return Err(LayoutError::Fragmentation { level: self.level, pins: self.pins_per_block });
        }
        if self.level == 0.0 {
            return Ok(None);
        }
        let all = PAGEBLOCK as f64;
        let left = all - f64::from(self.pins_per_block);
        let share = all * self.level / (all * self.level + left * (1.0 - self.level));
        let chosen_of_2_32 = (share * ((1u64 << 32) as f64)) as u64;
        Ok(Some(Pins { seed: self.seed, origin, blocks, chosen_of_2_32, each: self.pins_per_block }))
    }
}

/// Pageblocks that are chosen together, as one word of bits.
const GROUP: u64 = 64;

/// The pins of one range of never-used pageblocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pins {
    seed: u64,
    origin: u64,
    blocks: u64,
    chosen_of_2_32: u64,
    /// Pins in each chosen pageblock.
    pub each: u16,
}

impl Pins {
    /// Chosen pageblocks among the first `blocks`. Exact at group boundaries: the
    /// stated level is met within a pageblock, however small the range.
    fn chosen_among(&self, blocks: u64) -> u64 {
        // To the nearest, so that a level of 1 chooses all.
        (blocks * self.chosen_of_2_32 + (1 << 31)) >> 32
    }

    /// Chosen pageblocks in all.
    pub fn chosen(&self) -> u64 {
        self.chosen_among(self.blocks)
    }

    /// The group of `block`: its first pageblock, and a bit for each chosen one.
    pub fn group(&self, block: u64) -> (u64, u64) {
        let first = (block - self.origin) / GROUP * GROUP;
        let len = GROUP.min(self.blocks - first);
        let count = self.chosen_among(first + len) - self.chosen_among(first);
        let mut random = SplitMix64(self.seed ^ (self.origin + first).wrapping_mul(STEP));
        // A partial Fisher-Yates shuffle: the first `count` of a random order.
        let mut order = [0u8; GROUP as usize];
        for (at, slot) in order.iter_mut().enumerate() {
            *slot = at as u8;
        }
        let mut mask = 0;
        for at in 0..count {
            order.swap(at as usize, (at + random.below(len - at)) as usize);
            mask |= 1 << order[at as usize];
        }
        (self.origin + first, mask)
    }

    /// Whether pageblock `block` is chosen.
    pub fn is_chosen(&self, block: u64) -> bool {
        let (first, mask) = self.group(block);
        mask >> (block - first) & 1 == 1
    }

    /// The held frames of the chosen pageblock `block`, ascending, as offsets: one in
    /// each of `each` equal parts.
    pub fn offsets(&self, block: u64) -> impl Iterator<Item = u64> + use<> {
        let mut random = SplitMix64(self.seed.rotate_left(32) ^ block.wrapping_mul(0xd1b5_4a32_d192_ed03));
        let each = u64::from(self.each);
        (0..each).map(move |part| {
            let (start, end) = (part * PAGEBLOCK / each, (part + 1) * PAGEBLOCK / each);
            start + random.below(end - start)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn pins(level: f64, each: u16, blocks: u64) -> Pins {
        Fragmentation { level, seed: 7, pin: Mobility::Movable, pins_per_block: each }
            .pins(1000, blocks)
            .unwrap()
            .unwrap()
    }

    #[test]
    fn the_level_is_met_within_a_pageblock() {
        for (level, each, blocks) in [(0.5, 1, 31), (0.9, 1, 512), (0.25, 16, 10_000), (1.0, 3, 77)] {
            let pins = pins(level, each, blocks);
            let chosen = (1000..1000 + blocks).filter(|&b| pins.is_chosen(b)).count() as f64;
            let unusable = chosen * (512.0 - f64::from(each));
            let free = unusable + (blocks as f64 - chosen) * 512.0;
            assert!((unusable / free - level).abs() <= 1.0 / blocks as f64, "level {level}, blocks {blocks}");
        }
    }

    #[test]
    fn the_choice_has_no_pattern_and_follows_the_seed() {
        let a = pins(0.5, 1, 4096);
        let b = Pins { seed: 8, ..a };
        let chosen = |p: &Pins| (1000..1000 + 4096).map(|b| p.is_chosen(b)).collect::<Vec<_>>();
        let (a, b) = (chosen(&a), chosen(&b));
        let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
        assert!((1800..2300).contains(&same), "{same} of 4096 agree between seeds");
        let runs = a.windows(2).filter(|w| w[0] != w[1]).count();
        assert!((1800..2300).contains(&runs), "{runs} changes in 4096");
    }

    #[test]
    fn offsets_are_distinct_and_ascending() {
        for each in [1, 3, 64, 256] {
            let pins = pins(1.0, each, 4);
            let offsets: Vec<u64> = pins.offsets(1002).collect();
            assert_eq!(offsets.len(), usize::from(each));
            assert!(offsets.windows(2).all(|w| w[0] < w[1]) && offsets[offsets.len() - 1] < 512);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (level, pins) in [(f64::NAN, 1), (-0.1, 1), (1.1, 1), (0.5, 0), (0.5, 257)] {
            let f = Fragmentation { level, seed: 0, pin: Mobility::Movable, pins_per_block: pins };
            assert!(matches!(f.pins(0, 1), Err(LayoutError::Fragmentation { .. })));
        }
    }
}
