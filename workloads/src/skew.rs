//! Zipf's law: rank k is drawn with probability proportional to k^-theta.
//!
//! Drawn by rejection from a step function. Ranks are cut into cells, one rank
//! each at the head and sixteenths of their start further out; a cell is drawn
//! with an alias table (Walker 1977; Vose 1991), a rank within it uniformly,
//! and accepted with the ratio of its probability to that of the cell's first
//! rank. The result is exact, costs no logarithm in 19 of 20 draws, and needs a few hundred
//! cells for any number of ranks. Powers come from `libm`, so that every platform draws the same.

use crate::random::{Draw, Generator, scale, unit};

#[derive(Clone, Copy, Debug)]
struct Cell {
    /// The first rank, counted from 1.
    first: u64,
    ranks: u64,
    /// Below this, any rank of the cell is accepted.
    surely: f64,
}

/// A choice among few weighted things in constant time.
#[derive(Clone, Debug)]
pub(crate) struct Alias {
    /// (below: keep the slot; else take the other), padded to a power of two.
    slots: Vec<(u32, u32)>,
    shift: u32,
}

impl Alias {
    pub(crate) fn new(weights: &[f64]) -> Alias {
        let len = weights.len().next_power_of_two().max(2);
        let total: f64 = weights.iter().sum();
        let mut share: Vec<f64> =
            (0..len).map(|i| weights.get(i).copied().unwrap_or(0.0) * len as f64 / total).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..len).partition(|&i| share[i] < 1.0);
        let mut slots: Vec<(u32, u32)> = (0..len).map(|i| (u32::MAX, i as u32)).collect();
        while let (Some(s), Some(&l)) = (small.pop(), large.last()) {
            slots[s] = ((share[s] * u32::MAX as f64) as u32, l as u32);
            share[l] -= 1.0 - share[s];
            if share[l] < 1.0 {
                large.pop();
                small.push(l);
            }
        }
        Alias { slots, shift: 64 - len.trailing_zeros() }
    }

    /// A thing, chosen by 64 random bits, of which those below the first 32 + log2(things) are not used.
    #[inline(always)]
    pub(crate) fn pick(&self, bits: u64) -> usize {
        let slot = (bits >> self.shift) as usize;
        let (below, other) = self.slots[slot];
        let draw = (bits >> (self.shift - 32)) as u32;
        // Without a branch, which would be mispredicted half of the time.
        let take_other = usize::from(draw > below).wrapping_neg();
        slot ^ ((slot ^ other as usize) & take_other)
    }
}

/// Zipf's law over ranks `0..n`, most frequent first.
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    cells: Vec<Cell>,
    alias: Alias,
    theta: f64,
}

impl Zipf {
    pub(crate) fn new(n: u64, theta: f64) -> Zipf {
        assert!(n > 0 && theta >= 0.0);
        let mut cells = Vec::new();
        let mut weights = Vec::new();
        let mut first = 1;
        while first <= n {
            let ranks = (first / 16).max(1).min(n + 1 - first);
            let last = (first + ranks - 1) as f64;
            let surely = if ranks == 1 { 1.0 } else { libm::pow(last / first as f64, -theta) };
            cells.push(Cell { first, ranks, surely });
            weights.push(ranks as f64 * libm::pow(first as f64, -theta));
            first += ranks;
        }
        Zipf { alias: Alias::new(&weights), cells, theta }
    }

    /// A rank, 0 being the most frequent.
    #[inline(always)]
    pub(crate) fn draw(&self, random: &mut Generator) -> u64 {
        loop {
            let cell = &self.cells[self.alias.pick(random.bits())];
            // One rank: nothing is left to chance, but a branch on it would be mispredicted.
            let bits = random.bits();
            let rank = cell.first + scale(bits, cell.ranks);
            // A second number from the same bits: their order is the first's low part.
            let accept = unit(bits.wrapping_mul(cell.ranks));
            if accept < cell.surely || self.accepts(cell, rank, accept) {
                return rank - 1;
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn accepts(&self, cell: &Cell, rank: u64, accept: f64) -> bool {
        accept < libm::pow(rank as f64 / cell.first as f64, -self.theta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::generator;

    #[test]
    fn frequencies_follow_the_formula() {
        for (n, theta) in [(1000u64, 0.99), (1000, 1.0), (50, 2.5), (100_000, 0.5), (1000, 0.0)] {
            let zipf = Zipf::new(n, theta);
            let mut random = generator(1, 0);
            let draws = 1_000_000;
            let mut seen = vec![0f64; n as usize];
            for _ in 0..draws {
                seen[zipf.draw(&mut random) as usize] += 1.0;
            }
            let total: f64 = (1..=n).map(|k| (k as f64).powf(-theta)).sum();
            // Ranks in octaves, so that every bin has enough draws for a comparison within 5 deviations.
            let mut from = 1;
            while from <= n {
                let to = (2 * from).min(n + 1);
                let p: f64 = (from..to).map(|k| (k as f64).powf(-theta)).sum::<f64>() / total;
                let got: f64 = seen[from as usize - 1..to as usize - 1].iter().sum();
                let deviation = (draws as f64 * p * (1.0 - p)).sqrt().max(1.0);
                assert!(
                    (got - draws as f64 * p).abs() < 5.0 * deviation,
                    "n {n} theta {theta} ranks {from}..{to}: {got} instead of {}",
                    draws as f64 * p
                );
                from = to;
            }
        }
    }

    #[test]
    fn within_a_wide_cell() {
        // Ranks 512..543 are one cell: its ends must still differ as the law says.
        let zipf = Zipf::new(1000, 3.0);
        let mut random = generator(2, 0);
        let cell = zipf.cells.iter().find(|c| c.ranks >= 32).copied().unwrap();
        let mut seen = vec![0f64; 1001];
        // Only draws of that cell are of interest; take it directly.
        for _ in 0..2_000_000 {
            let bits = random.bits();
            let rank = cell.first + scale(bits, cell.ranks);
            let accept = unit(bits.wrapping_mul(cell.ranks));
            if accept < cell.surely || zipf.accepts(&cell, rank, accept) {
                seen[rank as usize] += 1.0;
            }
        }
        let (first, last) = (cell.first, cell.first + cell.ranks - 1);
        let ratio = seen[last as usize] / seen[first as usize];
        let expect = (last as f64 / first as f64).powf(-3.0);
        assert!((ratio / expect - 1.0).abs() < 0.03, "{ratio} {expect}");
    }

    #[test]
    fn large_and_extreme() {
        let zipf = Zipf::new(1 << 40, 0.99);
        assert!(zipf.cells.len() < 1000);
        let mut random = generator(3, 0);
        assert!((0..1000).all(|_| zipf.draw(&mut random) < 1 << 40));
        assert_eq!(Zipf::new(1, 0.99).draw(&mut random), 0);
    }
}
