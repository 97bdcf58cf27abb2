//! Which step of a breadth-first search visits a vertex: computed from the
//! vertex's degree and a hash, without a table of vertices.
//!
//! In a random graph with given degrees, each edge end of an unvisited vertex leads
//! to the frontier with the same probability p, independently: so of the vertices of
//! degree d that are left, a share 1 - (1 - p)^d is reached in the next step. Unvisited
//! vertices have no neighbours before the frontier, so p is the frontier's part of the edge ends of
//! frontier and unvisited vertices together. Shares are kept per class of degree
//! (powers of two); a vertex's hash against its class's shares gives its step.

use crate::random::{hash, unit};

const CLASSES: usize = 33;

#[inline(always)]
fn class(degree: u32) -> usize {
    (32 - degree.leading_zeros()) as usize
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Levels {
    seed: u64,
    /// Share of all vertices, share of all edge ends and mean degree of each class.
    vertices: Vec<f64>,
    ends: Vec<f64>,
    degree: Vec<f64>,
    /// The level that the first row of `below` stands for.
    first: usize,
    /// Row i, class c: share that is visited at level `first + i` or before.
    visited: Vec<[f64; CLASSES]>,
    /// The same among those that are not yet visited at the level where this begins, in parts
    /// of 2^32: hashes below it are visited.
    below: Vec<[u64; CLASSES]>,
}

impl Levels {
    /// Nothing is visited yet.
    pub(crate) fn new(degrees: impl Iterator<Item = u32>, seed: u64) -> Levels {
        let (mut count, mut sum) = (vec![0f64; CLASSES], vec![0f64; CLASSES]);
        for d in degrees {
            count[class(d)] += 1.0;
            sum[class(d)] += f64::from(d);
        }
        let (all, ends): (f64, f64) = (count.iter().sum(), sum.iter().sum());
        Levels {
            seed,
            degree: sum.iter().zip(&count).map(|(s, c)| if *c > 0.0 { s / c } else { 0.0 }).collect(),
            vertices: count.iter().map(|c| c / all).collect(),
            ends: sum.iter().map(|s| s / ends).collect(),
            first: 0,
            below: Vec::new(),
            visited: Vec::new(),
        }
    }

    /// Whether levels are computed (and not yet remembered one by one).
    pub(crate) fn begun(&self) -> bool {
        !self.below.is_empty()
    }

    /// The first level that is computed vertex by vertex.
    #[inline(always)]
    pub(crate) fn first_computed(&self) -> usize {
        self.first + 2
    }

    /// The last level for which there are shares.
    pub(crate) fn last(&self) -> usize {
        self.first + self.below.len() - 1
    }

    fn push(&mut self, visited: [f64; CLASSES]) {
        let begin = self.visited.get(1).copied().unwrap_or(visited);
        self.below.push(std::array::from_fn(|c| {
            let left = 1.0 - begin[c];
            let of_left = if left > 0.0 { 1.0 - (1.0 - visited[c]) / left } else { 1.0 };
            (of_left.clamp(0.0, 1.0) * (1u64 << 32) as f64) as u64
        }));
        self.visited.push(visited);
    }

    /// Level `level` is the frontier, and its vertices have `share` of all edge ends.
    pub(crate) fn begin(&mut self, level: usize, share: f64) {
        // That many ends were hit, at random: find the chance per end that hits this share.
        let reached = |p: f64| -> f64 {
            (0..CLASSES).map(|c| self.ends[c] * (1.0 - libm::pow(1.0 - p, self.degree[c]))).sum()
        };
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if reached(middle) < share { low = middle } else { high = middle }
        }
        self.first = level - 1;
        // Level 0 to level - 1 are too few to matter.
        self.push([0.0; CLASSES]);
        let visited = std::array::from_fn(|c| 1.0 - libm::pow(1.0 - low, self.degree[c]));
        self.push(visited);
    }

    /// One more level.
    pub(crate) fn step(&mut self) {
        let [.., before, now] = self.visited.as_slice() else { unreachable!("begun with two rows") };
        let frontier: f64 = (0..CLASSES).map(|c| self.ends[c] * (now[c] - before[c])).sum();
        let left: f64 = (0..CLASSES).map(|c| self.ends[c] * (1.0 - before[c])).sum();
        let p = if left > 0.0 { (frontier / left).clamp(0.0, 1.0) } else { 0.0 };
        let next = std::array::from_fn(|c| 1.0 - (1.0 - now[c]) * libm::pow(1.0 - p, self.degree[c]));
        self.push(next);
    }

    /// Share of all vertices that are found at `level`.
    pub(crate) fn found(&self, level: usize) -> f64 {
        let row = level - self.first;
        let share =
            |row: usize| -> f64 { (0..CLASSES).map(|c| self.vertices[c] * self.visited[row][c]).sum() };
        share(row) - if row > 0 { share(row - 1) } else { 0.0 }
    }

    #[inline(always)]
    fn mark(&self, vertex: u64) -> u64 {
        hash(self.seed, vertex) >> 32
    }

    /// Whether the vertex is in the frontier with which the computed levels begin, as
    /// far as one can tell without the search's own set.
    #[inline(always)]
    pub(crate) fn is_at_begin(&self, vertex: u64, degree: u32) -> bool {
        unit(hash(!self.seed, vertex)) < self.visited[1][class(degree)]
    }

    /// Whether the vertex, not visited when this began, is found at `level`.
    #[inline(always)]
    pub(crate) fn is_at(&self, vertex: u64, degree: u32, level: usize) -> bool {
        let (row, class, mark) = (level - self.first, class(degree), self.mark(vertex));
        mark < self.below[row][class] && (row == 0 || mark >= self.below[row - 1][class])
    }

    /// Whether the vertex, not visited when this began, is found before `level`.
    #[inline(always)]
    pub(crate) fn is_before(&self, vertex: u64, degree: u32, level: usize) -> bool {
        let row = level - self.first;
        row > 0 && self.mark(vertex) < self.below[row - 1][class(degree)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;
    use crate::random::{Draw, generator};

    /// A real search of a real random graph of the same degrees (ends paired at random).
    #[test]
    fn sizes_of_steps_are_those_of_a_search() {
        let graph = Graph::new(1 << 16, 32, 5);
        let degrees: Vec<u32> = graph.profile().collect();
        let mut ends: Vec<u32> =
            degrees.iter().enumerate().flat_map(|(v, d)| vec![v as u32; *d as usize]).collect();
        let mut random = generator(9, 0);
        for i in (1..ends.len()).rev() {
            ends.swap(i, random.below(i as u64 + 1) as usize);
        }
        let mut rows = vec![Vec::new(); degrees.len()];
        for pair in ends.chunks_exact(2) {
            rows[pair[0] as usize].push(pair[1]);
            rows[pair[1] as usize].push(pair[0]);
        }
        let source = degrees.iter().position(|d| (8..20).contains(d)).unwrap();
        let mut level = vec![usize::MAX; degrees.len()];
        level[source] = 0;
        let mut frontier = vec![source];
        let mut sizes = vec![1.0];
        let mut shares = vec![0.0];
        for at in 1.. {
            let mut found = Vec::new();
            for v in frontier {
                for &n in &rows[v] {
                    if level[n as usize] == usize::MAX {
                        level[n as usize] = at;
                        found.push(n as usize);
                    }
                }
            }
            if found.is_empty() {
                break;
            }
            sizes.push(found.len() as f64);
            shares.push(found.iter().map(|v| f64::from(degrees[*v])).sum::<f64>() / ends.len() as f64);
            frontier = found;
        }

        let mut levels = Levels::new(degrees.iter().copied(), 1);
        // As the search does it: levels are computed from the first large one on.
        let begin = shares.iter().position(|s| *s > 1.0 / 15.0).unwrap();
        levels.begin(begin, shares[begin]);
        let early: std::collections::HashSet<usize> =
            (0..level.len()).filter(|v| level[*v] <= begin).collect();
        let mut counts = vec![0.0; sizes.len()];
        for (level, count) in counts.iter_mut().enumerate().skip(begin + 1) {
            levels.step();
            for (v, d) in degrees.iter().enumerate().filter(|(v, _)| !early.contains(v)) {
                *count += f64::from(u8::from(levels.is_at(v as u64, *d, level)));
            }
            let expect = levels.found(level) * degrees.len() as f64;
            assert!((*count - expect).abs() < 0.1 * expect + 5.0 * expect.sqrt() + 5.0, "{level}");
        }
        // Steps with many vertices agree within a tenth.
        for (level, (count, size)) in counts.iter().zip(&sizes).enumerate().skip(begin + 1) {
            if *size > 3000.0 {
                let ratio = count / size;
                assert!((0.9..1.1).contains(&ratio), "level {level}: {count} instead of {size}");
            }
        }
        assert!(sizes.iter().filter(|s| **s > 3000.0).count() >= 2, "{sizes:?}");
    }
}
