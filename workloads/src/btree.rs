//! B+ tree index lookups.
//!
//! Source: the BTree workload of Mitosis and vMitosis (`btree1.c`, from Aviram's
//! bpt), order 16 as vMitosis runs it: keys are inserted from both ends towards
//! the middle (0, N-1, 1, N-2, …), then looked up: `find(r % N)` and
//! `find(((r + 1) << 2) % N)` with `r = lrand48()`, for ever.
//!
//! A node is three blocks of malloc: the node (pointers to its two arrays, its
//! count, its kind), 15 keys, 16 pointers. On each level `find_leaf` loads the
//! node, scans the keys up to the child, and loads one pointer: three lines a
//! level (four where a scan crosses a line); in the leaf it ends at the key's 16-byte element.
//!
//! That order of insertion leaves every leaf with 8 keys (a full leaf of 15
//! splits 8 and 8, and the half away from the middle is never touched again; a
//! test builds a real tree and looks), and inner nodes with 8 children (or 9);
//! here 8 everywhere but at the right edge. Nodes lie in the heap in the order
//! of their creation, which alternates between the two ends.
//!
//! Footprint: 64 N bytes for N keys: 16 for the element, and 336 (64 + 128 +
//! 144 with malloc's headers) for each of N/8 leaves and N/56 inner nodes. The
//! papers: 35 GB (one thread), 145 GB (all). Built by one thread.

use machine::input::{Access, Event, Populate, Source};

use crate::emit::{Algorithm, Interleaved, lines, read};
use crate::layout::{ADVICE, Layout, MALLOC, POPULATE, THREADS};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "btree",
    summary: "B+ tree lookups: three dependent lines a level",
    source: "BTree of the Mitosis and vMitosis artifacts (bpt), order 16",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 64 << 10, max: 1 << 44 },
            default: "1GiB",
            meaning: "nodes and elements; the papers use 35GB and 145GB",
        },
        THREADS,
        POPULATE,
        MALLOC,
        ADVICE,
    ],
    build,
};

/// Keys of a leaf and children of an inner node.
const FANOUT: u64 = 8;
/// A node with malloc's headers: 48 bytes in 64, 15 keys in 128, 16 pointers in 144.
const NODE: u64 = 64 + 128 + 144;
const KEYS_AT: u64 = 64;
const POINTERS_AT: u64 = 64 + 128;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    // An even number of whole leaves, so that both ends meet in the middle.
    let keys = p.bytes("footprint") / 64 / (2 * FANOUT) * (2 * FANOUT);
    let mut counts = vec![keys / FANOUT];
    while *counts.last().expect("never empty") > 1 {
        counts.push(counts[counts.len() - 1].div_ceil(FANOUT));
    }
    let nodes: u64 = counts.iter().sum();
    let mut layout = Layout::new(p);
    let by = Populate::By(0);
    // The two arrays of elements are large blocks, the nodes small ones.
    let low = layout.malloc("elements from the low end", keys / 2 * 16, by);
    let high = layout.malloc("elements from the high end", keys / 2 * 16, by);
    let heap = layout.heap("nodes", nodes * NODE, by);
    let threads = p.count("threads");
    // srand48: the low 16 bits of the state are 0x330E.
    let states = (0..threads).map(|t| (seed.wrapping_add(t) & 0xffff_ffff) << 16 | 0x330e).collect();
    let tree = BTree { keys, counts, heap, elements: [low, high], states };
    Ok(Box::new(Interleaved::new(p, layout.process("btree"), threads, tree)))
}

struct BTree {
    keys: u64,
    /// Nodes of each level, leaves first.
    counts: Vec<u64>,
    heap: u64,
    elements: [u64; 2],
    states: Vec<u64>,
}

/// `lrand48` (POSIX): 31 bits of a 48-bit linear congruential generator.
#[inline(always)]
fn lrand48(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(0x5_deec_e66d).wrapping_add(0xb) & ((1 << 48) - 1);
    *state >> 17
}

/// When a place, counted from the low end of `count`, was filled: the two ends took turns.
#[inline(always)]
fn time(place: u64, count: u64) -> u64 {
    let from_high = count - 1 - place;
    if place <= from_high { 2 * place } else { 2 * from_high + 1 }
}

/// How many nodes had been created before the one of `level` (0 = leaf) at `place`.
///
/// An inner node follows the 8 nodes below it, as in a post-order walk.
#[inline(always)]
fn age(counts: &[u64], level: usize, place: u64) -> u64 {
    let mut own = time(place, counts[level]);
    let mut sum = own;
    for above in &counts[level + 1..] {
        own /= FANOUT;
        sum += own.min(*above);
    }
    let mut below = time(place, counts[level]) + 1;
    for lower in counts[..level].iter().rev() {
        below *= FANOUT;
        sum += below.min(*lower);
    }
    sum
}

impl BTree {
    #[inline(always)]
    fn find(&self, key: u64, thread: u16, mut insns: u16, out: &mut Vec<Access>) {
        for level in (0..self.counts.len()).rev() {
            let under = 3 * level as u32; // 8^level leaves below a node of this level
            let place = (key / FANOUT) >> under;
            let child = if level == 0 { key % FANOUT } else { ((key / FANOUT) >> (under - 3)) % FANOUT };
            let node = self.heap + NODE * age(&self.counts, level, place);
            // is_leaf, num_keys, keys and pointers are in the node's one line
            out.push(read(node, 3, thread, insns).dependent());
            // The scan ends at the first larger key (of 7), in a leaf at the key itself;
            // three or four instructions a key.
            let scanned = if level == 0 { child + 1 } else { (child + 1).min(FANOUT - 1) };
            lines(out, read(node + KEYS_AT, 3, thread, 4).dependent(), 8 * scanned, 12);
            out.push(read(node + POINTERS_AT + 8 * child, 3, thread, 4 * scanned as u16).dependent());
            insns = 4;
        }
        let element = if key < self.keys / 2 {
            self.elements[0] + 16 * key
        } else {
            self.elements[1] + 16 * (self.keys - 1 - key)
        };
        out.push(read(element, 3, thread, 6).dependent());
    }
}

impl Algorithm for BTree {
    fn step(&mut self, thread: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        let r = lrand48(&mut self.states[thread as usize]);
        // The generator and a division by N.
        self.find(r % self.keys, thread, 25, out);
        self.find(((r + 1) << 2) % self.keys, thread, 10, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::take;

    /// The published tree: order 16, splits at `cut(15)` and `cut(16)`.
    enum Node {
        Leaf(Vec<u64>),
        Inner(Vec<u64>, Vec<Node>),
    }

    impl Node {
        fn insert(&mut self, key: u64) -> Option<(u64, Node)> {
            match self {
                Node::Leaf(keys) => {
                    keys.insert(keys.partition_point(|k| *k < key), key);
                    if keys.len() < 16 {
                        return None;
                    }
                    let right = keys.split_off(8);
                    Some((right[0], Node::Leaf(right)))
                }
                Node::Inner(keys, children) => {
                    let at = keys.partition_point(|k| *k <= key);
                    let (separator, right) = children[at].insert(key)?;
                    keys.insert(at, separator);
                    children.insert(at + 1, right);
                    if keys.len() < 16 {
                        return None;
                    }
                    let right_keys = keys.split_off(8);
                    let up = keys.pop().unwrap();
                    Some((up, Node::Inner(right_keys, children.split_off(8))))
                }
            }
        }
        fn depth(&self) -> usize {
            match self {
                Node::Leaf(_) => 1,
                Node::Inner(_, children) => 1 + children[0].depth(),
            }
        }
        fn sizes(&self, leaves: &mut Vec<usize>, inner: &mut Vec<usize>) {
            match self {
                Node::Leaf(keys) => leaves.push(keys.len()),
                Node::Inner(_, children) => {
                    inner.push(children.len());
                    children.iter().for_each(|c| c.sizes(leaves, inner));
                }
            }
        }
    }

    #[test]
    fn the_published_insertion_order_leaves_half_full_nodes() {
        let n = 1 << 17;
        let mut root = Node::Leaf(Vec::new());
        for i in 0..n / 2 {
            for key in [i, n - 1 - i] {
                if let Some((separator, right)) = root.insert(key) {
                    let left = std::mem::replace(&mut root, Node::Leaf(Vec::new()));
                    root = Node::Inner(vec![separator], vec![left, right]);
                }
            }
        }
        let (mut leaves, mut inner) = (Vec::new(), Vec::new());
        root.sizes(&mut leaves, &mut inner);
        let eights = leaves.iter().filter(|&&l| l == 8).count();
        assert!(eights as f64 / leaves.len() as f64 > 0.999);
        let children: f64 = inner.iter().sum::<usize>() as f64 / inner.len() as f64;
        assert!((8.0..9.1).contains(&children), "{children}");
        // Depth: here 8 children everywhere, there between 8 and 9.
        let counts = counts_of("btree:footprint=8MiB");
        assert_eq!(counts, [1 << 14, 1 << 11, 1 << 8, 1 << 5, 1 << 2, 1]);
        assert!(root.depth().abs_diff(counts.len()) <= 1, "{} {counts:?}", root.depth());
    }

    fn counts_of(spec: &str) -> Vec<u64> {
        let keys = crate::parse(spec).unwrap().bytes("footprint") / 64;
        let mut counts = vec![keys / 8];
        while *counts.last().unwrap() > 1 {
            counts.push(counts.last().unwrap().div_ceil(8));
        }
        counts
    }

    #[test]
    fn every_node_has_an_address_of_its_own() {
        for leaves in [2u64, 6, 8, 10, 64, 66, 100, 512, 1000, 4096, 5000] {
            let mut counts = vec![leaves];
            while *counts.last().unwrap() > 1 {
                counts.push(counts.last().unwrap().div_ceil(8));
            }
            let mut ages = Vec::new();
            for (level, &count) in counts.iter().enumerate() {
                ages.extend((0..count).map(|place| age(&counts, level, place)));
            }
            let nodes = ages.len() as u64;
            ages.sort();
            assert_eq!(ages, (0..nodes).collect::<Vec<_>>(), "{leaves} leaves: {counts:?}");
        }
    }

    #[test]
    fn a_lookup_is_three_or_four_lines_a_level() {
        let spec = "btree:footprint=64MiB";
        let setup = crate::build(spec, 0).unwrap().setup().unwrap();
        let a = take(crate::build(spec, 0).unwrap().as_mut(), 100_000);
        let elements: Vec<_> = setup.processes[0].regions[..2].iter().map(|r| r.start.raw()).collect();
        let len = setup.processes[0].regions[0].len;
        let is_element = |a: &Access| elements.iter().any(|s| a.va.raw().wrapping_sub(*s) < len);
        let ends: Vec<usize> = (0..a.len()).filter(|&i| is_element(&a[i])).collect();
        let depth = counts_of(spec).len();
        for w in ends.windows(2) {
            let in_nodes = w[1] - w[0] - 1;
            assert!((3 * depth..=4 * depth).contains(&in_nodes), "{in_nodes}");
        }
        // The scan's second line is no chase, all else is.
        assert!(a.iter().filter(|a| a.flags == 0).count() < a.len() / 6);
    }

    #[test]
    fn lrand48_is_the_c_library_s() {
        // srand48(0) and three draws, glibc.
        let mut state = 0x330e;
        let draws = [0; 3].map(|_: u64| lrand48(&mut state));
        assert_eq!(draws, [366850414, 1610402240, 206956554]);
    }
}
