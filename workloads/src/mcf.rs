//! mcf: network simplex for single-depot vehicle scheduling.
//!
//! Source: SPEC CPU 2006 429.mcf and 2017 505.mcf (Löbel's MCF, `pbeampp.c`,
//! `pbla.c`, `mcfutil.c`, `psimplex.c`), from their published descriptions and forms. An iteration:
//! * pricing (`primal_bea_mpp`): groups of 300 arcs, each `arcs / 300` arcs
//!   apart, so each arc is on a page of its own; for each arc the potentials of its two end nodes;
//!   groups until 50 candidates are found;
//! * the pivot (`primal_iminus`, `update_tree`): from both ends of the entering
//!   arc up the spanning tree to their common ancestor, a pointer chase over nodes, and the same
//!   nodes again to turn the path;
//! * now and then `refresh_potential`: a walk over the whole tree in its
//!   order, each node waiting for the pointer before it.
//!
//! Footprint: arcs of 72 bytes (2017; 64 in 2006) and a node of 104 bytes for each 64
//! arcs. The suites' inputs: 0.5 to 4 GB; PTEMagnet runs 505-class ones.
//!
//! Estimates, with no better source than profiles: groups an iteration (`groups`), the depth
//! of the tree (`depth`), and that a refresh makes about an eighth of the accesses (profiles of 429.mcf give
//! pricing 73 % and refreshing 13 % of the L1 misses). Ends of arcs are random nodes.

use machine::input::{Access, Event, Populate, Source};

use crate::emit::{Algorithm, Interleaved, read, write};
use crate::layout::{ADVICE, Layout, POPULATE};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Draw, Generator, Permutation, generator, hash, scale};
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "mcf",
    summary: "network simplex: strided pricing of arcs, pointer chases over the tree",
    source: "SPEC CPU 429.mcf and 505.mcf (Löbel's network simplex), by description",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 1 << 20, max: 1 << 40 },
            default: "1GiB",
            meaning: "arcs and nodes; SPEC's inputs take 0.5 to 4GiB",
        },
        Parameter {
            name: "groups",
            unit: Unit::Count { min: 1, max: 1000 },
            default: "3",
            meaning: "groups of 300 arcs that one pricing scans, on average",
        },
        Parameter {
            name: "depth",
            unit: Unit::Count { min: 1, max: 10000 },
            default: "60",
            meaning: "nodes from an end of the entering arc to the common ancestor, on average",
        },
        POPULATE,
        ADVICE,
    ],
    build,
};

const ARC: u64 = 72;
const NODE: u64 = 104;
const ARCS_PER_NODE: u64 = 64;
/// `K` of pbeampp.c: arcs of a group.
const GROUP: u64 = 300;
/// Offsets in a node: potential, orientation, child, pred, sibling, …
const POTENTIAL: u64 = 0;
const PRED: u64 = 24;
const FLOW: u64 = 72;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let nodes = p.bytes("footprint") / (ARC * ARCS_PER_NODE + NODE);
    let arcs = nodes * ARCS_PER_NODE;
    let mut layout = Layout::new(p);
    let by = Populate::By(0);
    let nodes_at = layout.malloc("nodes", nodes * NODE, by);
    let arcs_at = layout.malloc("arcs", arcs * ARC, by);
    let (groups, depth) = (p.count("groups"), p.count("depth"));
    // Accesses of an iteration: 3 an arc, 2 visits to each node of two paths.
    let iteration = groups * GROUP * 3 + 4 * depth;
    let mcf = Mcf {
        nodes,
        arcs,
        nodes_at,
        arcs_at,
        stride: arcs / GROUP + 1,
        group: 0,
        groups,
        depth,
        order: Permutation::new(nodes, hash(seed, 0)),
        seed: hash(seed, 1),
        // A refresh is 3 accesses a node and shall be an eighth of all.
        refresh_every: (3 * nodes * 7 / iteration).max(1),
        phase: Phase::Price,
        left: 1,
        until_refresh: 1,
        random: generator(seed, 2),
    };
    Ok(Box::new(Interleaved::new(p, layout.process("mcf"), 1, mcf)))
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Groups of arcs left to scan.
    Price,
    /// Two paths up the tree.
    Pivot,
    /// Nodes left of a refresh.
    Refresh,
}

struct Mcf {
    nodes: u64,
    arcs: u64,
    nodes_at: u64,
    arcs_at: u64,
    /// Arcs between two of a group, and how many groups there are (`nr_group`).
    stride: u64,
    group: u64,
    groups: u64,
    depth: u64,
    order: Permutation,
    seed: u64,
    refresh_every: u64,
    phase: Phase,
    left: u64,
    until_refresh: u64,
    random: Generator,
}

impl Mcf {
    /// One group: every `stride`-th arc, and the potentials of both ends.
    fn price(&mut self, out: &mut Vec<Access>) {
        let mut arc = self.group;
        while arc < self.arcs {
            // ident, cost, tail and head are in the arc's first 64 bytes
            out.push(read(self.arcs_at + ARC * arc, 3, 0, 6));
            let ends = hash(self.seed, arc);
            let tail = scale(ends, self.nodes);
            let head = scale(ends.wrapping_mul(0x9e37_79b9_7f4a_7c15), self.nodes);
            out.push(read(self.nodes_at + NODE * tail + POTENTIAL, 3, 0, 3).dependent());
            out.push(read(self.nodes_at + NODE * head + POTENTIAL, 3, 0, 3));
            arc += self.stride;
        }
        self.group = if self.group + 1 >= self.stride { 0 } else { self.group + 1 };
    }

    /// Up the tree from one end, then down the same path with its changes.
    fn pivot(&mut self, out: &mut Vec<Access>) {
        // The length varies between a half and one and a half of the average.
        let length = self.depth / 2 + self.random.below(self.depth) + 1;
        let first = self.random.below(self.nodes);
        let length = length.min(1000);
        for up in [true, false] {
            let mut node = first;
            for _ in 0..length {
                let at = self.nodes_at + NODE * node;
                out.push(read(at + PRED, 3, 0, if up { 9 } else { 12 }).dependent());
                out.push(if up { read(at + FLOW, 3, 0, 4) } else { write(at + FLOW, 3, 0, 6) });
                // The tree's order is a permutation; a parent comes earlier in it.
                node = self.order.at(node);
            }
        }
    }

    /// `refresh_potential`: potential = that of the predecessor plus the cost of the basic arc.
    fn refresh(&mut self, out: &mut Vec<Access>) {
        for _ in 0..self.left.min(64) {
            let node = self.order.at(self.left - 1);
            let at = self.nodes_at + NODE * node;
            out.push(read(at + PRED, 3, 0, 5).dependent());
            let basic = scale(hash(!self.seed, node), self.arcs);
            out.push(read(self.arcs_at + ARC * basic, 3, 0, 3).dependent());
            out.push(write(at + POTENTIAL, 3, 0, 4));
            self.left -= 1;
        }
    }
}

impl Algorithm for Mcf {
    fn step(&mut self, _: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        match self.phase {
            Phase::Price => {
                self.price(out);
                self.left -= 1;
                if self.left == 0 {
                    (self.phase, self.left) = (Phase::Pivot, 2);
                }
            }
            Phase::Pivot => {
                self.pivot(out);
                self.left -= 1;
                if self.left == 0 {
                    self.until_refresh -= 1;
                    if self.until_refresh == 0 {
                        self.until_refresh = self.refresh_every;
                        (self.phase, self.left) = (Phase::Refresh, self.nodes);
                    } else {
                        self.again();
                    }
                }
            }
            Phase::Refresh => {
                self.refresh(out);
                if self.left == 0 {
                    self.again();
                }
            }
        }
    }
}

impl Mcf {
    fn again(&mut self) {
        // One to twice the average less one, uniformly.
        (self.phase, self.left) = (Phase::Price, 1 + self.random.below(2 * self.groups - 1));
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::take;
    use machine::input::Access;

    #[test]
    fn pricing_strides_over_pages() {
        let mut source = crate::build("mcf:footprint=256MiB", 1).unwrap();
        let regions = source.setup().unwrap().processes[0].regions.clone();
        let inside = |i: usize, a: &Access| a.va.raw().wrapping_sub(regions[i].start.raw()) < regions[i].len;
        let a = take(source.as_mut(), 4_000_000);
        let (nodes, arcs) =
            (a.iter().filter(|a| inside(0, a)).count(), a.iter().filter(|a| inside(1, a)).count());
        assert_eq!(nodes + arcs, a.len());
        // Every arc of pricing is followed by two nodes.
        let priced: Vec<u64> =
            a.windows(3).filter(|w| inside(1, &w[0]) && w[0].flags == 0).map(|w| w[0].va.raw()).collect();
        let far = priced.windows(2).filter(|w| w[1].abs_diff(w[0]) > 4096).count();
        assert!(far as f64 / priced.len() as f64 > 0.99);
        // The share of refreshing, by its writes to potentials; of all accesses a refresh makes an eighth.
        let refreshed =
            a.windows(2).filter(|w| inside(1, &w[0]) && w[0].flags != 0 && inside(0, &w[1])).count();
        let share = 3.0 * refreshed as f64 / a.len() as f64;
        assert!((0.08..0.18).contains(&share), "{share}");
    }
}
