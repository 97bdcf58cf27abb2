//! A Kronecker graph in compressed rows, without its edges.
//!
//! The Graph500 and GAPBS generators draw each bit of an edge's ends with
//! probabilities 0.57, 0.19, 0.19, 0.05 and then shuffle the labels. So a vertex with o ones
//! among the s bits of its unshuffled label has an expected share of the edges
//! of 0.76^(s-o) 0.24^o, and after the shuffle neighbouring labels have unrelated degrees.
//!
//! Here vertices come in blocks of 65536 with one profile of degrees: the s-bit
//! distribution cut into 65536 quantiles, shuffled once, and rotated by a hash of the block's number. All
//! blocks have the same number of edges, so the start of any row is a
//! multiplication and one look-up in a table of 256 KiB, and the owner of any edge slot
//! is found in the same way. A row's neighbours are the owners of a stratified random sample of all
//! slots: drawn by degree, sorted by label, the same at each visit.
//!
//! What is lost: the few vertices above the 1/65536 quantile share their edges
//! evenly among themselves (4 % of the edges at scale 29), edges are not mirrored one by one, and
//! degrees are the expected ones instead of Poisson around them. Rows may repeat a hub.

use crate::random::{Permutation, hash, unit};

const BLOCK_BITS: u32 = 16;
/// Share of the edges that an end's bit is 0: 0.57 + 0.19.
const ZERO: f64 = 0.76;

#[derive(Clone, Debug)]
pub(crate) struct Graph {
    blocks: u64,
    bits: u32,
    /// Edge slots of a block.
    slots: u64,
    /// Slots before each place of the profile, and all.
    before: Vec<u32>,
    /// For each `2^guide_shift` slots, the place that owns the first of them.
    guide: Vec<u32>,
    guide_shift: u32,
    seed: u64,
}

/// A neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Neighbour {
    pub(crate) vertex: u64,
    pub(crate) degree: u32,
}

/// A row: where its edges are, and what is needed to name them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Slots before the row.
    pub(crate) start: u64,
    pub(crate) degree: u32,
    /// Blocks per neighbour.
    stride: f64,
    key: u64,
}

impl Graph {
    /// About `vertices` with `degree` edge slots each on average; vertices are rounded down to whole blocks.
    pub(crate) fn new(vertices: u64, degree: u64, seed: u64) -> Graph {
        let bits = BLOCK_BITS.min(vertices.max(16).ilog2());
        let blocks = (vertices >> bits).max(1);
        let places = 1u64 << bits;
        let slots = places * degree;
        let scale = (64 - (blocks * places - 1).leading_zeros()).max(1);

        let order = Permutation::new(places, hash(seed, 1));
        let mut degrees = vec![0u32; places as usize];
        let mut assigned = 0;
        for (i, share) in quantiles(scale, places).into_iter().enumerate() {
            let upto = (share * slots as f64) as u64;
            degrees[order.at(i as u64) as usize] = (upto - assigned) as u32;
            assigned = upto;
        }
        // What rounding left over goes to the largest.
        degrees[order.at(0) as usize] += (slots - assigned) as u32;

        let mut before = Vec::with_capacity(degrees.len() + 1);
        let mut sum = 0u32;
        for d in &degrees {
            before.push(sum);
            sum += d;
        }
        before.push(sum);
        let guide_shift = degree.next_power_of_two().trailing_zeros();
        let mut owner = 0;
        let guide = (0..=slots >> guide_shift)
            .map(|i| {
                let slot = (i << guide_shift).min(slots - 1) as u32;
                while before[owner + 1] <= slot {
                    owner += 1;
                }
                owner as u32
            })
            .collect();
        Graph { blocks, bits, slots, before, guide, guide_shift, seed }
    }

    pub(crate) fn vertices(&self) -> u64 {
        self.blocks << self.bits
    }

    /// Directed edges: an edge of the generator is two.
    pub(crate) fn edges(&self) -> u64 {
        self.blocks * self.slots
    }

    /// How far a block's profile is rotated.
    #[inline(always)]
    fn rotation(&self, block: u64) -> u64 {
        hash(self.seed, block) & ((1 << self.bits) - 1)
    }

    #[inline(always)]
    pub(crate) fn row(&self, vertex: u64) -> Row {
        let (block, mask) = (vertex >> self.bits, (1u64 << self.bits) - 1);
        let rotation = self.rotation(block);
        let place = (vertex + rotation) & mask;
        let first = u64::from(self.before[place as usize]);
        let base = u64::from(self.before[rotation as usize]);
        // Places below the rotation come after the end of the profile.
        let inside = if place < rotation { first + self.slots - base } else { first - base };
        let degree = self.before[place as usize + 1] - self.before[place as usize];
        Row {
            start: block * self.slots + inside,
            degree,
            stride: self.blocks as f64 / f64::from(degree),
            key: hash(!self.seed, vertex),
        }
    }

    /// The `k`-th neighbour of a row, `k` below its degree.
    #[inline(always)]
    pub(crate) fn neighbour(&self, row: &Row, k: u32) -> Neighbour {
        let at = (f64::from(k) + unit(hash(row.key, u64::from(k)))) * row.stride;
        let block = (at as u64).min(self.blocks - 1);
        let slot = (((at - block as f64) * self.slots as f64) as u64).min(self.slots - 1);
        let rotation = self.rotation(block);
        let turned = slot + u64::from(self.before[rotation as usize]);
        let turned = if turned >= self.slots { turned - self.slots } else { turned };
        let mut place = self.guide[(turned >> self.guide_shift) as usize] as usize;
        while u64::from(self.before[place + 1]) <= turned {
            place += 1;
        }
        let mask = (1u64 << self.bits) - 1;
        Neighbour {
            vertex: block << self.bits | ((place as u64).wrapping_sub(rotation) & mask),
            degree: self.before[place + 1] - self.before[place],
        }
    }

    /// Degrees of a block, in no particular order.
    pub(crate) fn profile(&self) -> impl Iterator<Item = u32> + '_ {
        self.before.windows(2).map(|w| w[1] - w[0])
    }
}

/// The share of the edges that the first 1, 2, … of `places` equal parts of the vertices have, largest degree first.
fn quantiles(scale: u32, places: u64) -> Vec<f64> {
    // Vertices with o ones: C(s, o) / 2^s of all, with C(s, o) 0.76^(s-o) 0.24^o of the edges.
    let mut vertices = libm::pow(0.5, f64::from(scale));
    let mut edges = libm::pow(ZERO, f64::from(scale));
    let (mut vertices_before, mut edges_before) = (0.0, 0.0);
    let mut ones = 0;
    let mut out = Vec::with_capacity(places as usize);
    for i in 1..=places {
        let at = i as f64 / places as f64;
        while vertices_before + vertices < at && ones < scale {
            vertices_before += vertices;
            edges_before += edges;
            let next = f64::from(scale - ones) / f64::from(ones + 1);
            vertices *= next;
            edges *= next * ((1.0 - ZERO) / ZERO);
            ones += 1;
        }
        let part = ((at - vertices_before) / vertices).clamp(0.0, 1.0);
        out.push((edges_before + part * edges).min(1.0));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn rows_tile_the_edges(vertices in 16u64..300_000, degree in 2u64..64, seed: u64) {
            let g = Graph::new(vertices, degree, seed);
            prop_assert!(g.vertices() <= vertices && g.vertices() > vertices / 2);
            let mut at = 0;
            for v in 0..g.vertices() {
                let row = g.row(v);
                prop_assert_eq!(row.start, at);
                at += u64::from(row.degree);
            }
            prop_assert_eq!(at, g.edges());
            prop_assert_eq!(at, g.vertices() * degree);
        }

        #[test]
        fn neighbours_are_sorted_and_have_their_degree(vertices in 16u64..300_000, v: u64, seed: u64) {
            let g = Graph::new(vertices, 32, seed);
            let row = g.row(v % g.vertices());
            let mut last = 0;
            for k in 0..row.degree.min(3000) {
                let n = g.neighbour(&row, k);
                prop_assert!(n.vertex >= last && n.vertex < g.vertices());
                prop_assert_eq!(n.degree, g.row(n.vertex).degree);
                prop_assert!(n.degree > 0);
                last = n.vertex;
            }
        }
    }

    #[test]
    fn a_vertex_is_a_neighbour_as_often_as_its_degree_says() {
        let g = Graph::new(1 << 12, 16, 3);
        let mut seen = vec![0u32; 1 << 12];
        for v in 0..g.vertices() {
            let row = g.row(v);
            (0..row.degree).for_each(|k| seen[g.neighbour(&row, k).vertex as usize] += 1);
        }
        // In bins of similar degree, since single vertices vary.
        let mut bins = [(0f64, 0f64); 20];
        for v in 0..g.vertices() {
            let degree = g.row(v).degree;
            let bin = &mut bins[(degree + 1).ilog2() as usize];
            bin.0 += f64::from(degree);
            bin.1 += f64::from(seen[v as usize]);
        }
        for (degrees, seen) in bins {
            assert!((degrees - seen).abs() <= 5.0 * degrees.sqrt() + 3.0, "{degrees} {seen}");
        }
    }

    #[test]
    fn degrees_are_kronecker() {
        // Scale 20 by brute force over all labels, against the profile's 65536 quantiles.
        let g = Graph::new(1 << 20, 32, 1);
        let mut exact: Vec<f64> = (0..1u32 << 20)
            .map(|label| {
                let ones = label.count_ones() as i32;
                32.0 * (1 << 20) as f64 * 0.76f64.powi(20 - ones) * 0.24f64.powi(ones)
            })
            .collect();
        exact.sort_by(|a, b| b.total_cmp(a));
        let mut got: Vec<u32> = g.profile().collect();
        got.sort_by(|a, b| b.cmp(a));
        for i in [0, 1, 5, 50, 500, 5000, 20_000, 50_000] {
            let mean = exact[i * 16..(i + 1) * 16].iter().sum::<f64>() / 16.0;
            assert!((f64::from(got[i]) - mean).abs() <= 1.0 + mean * 1e-3, "{i}: {} {mean}", got[i]);
        }
    }
}
