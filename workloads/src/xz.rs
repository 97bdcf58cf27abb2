//! xz: the match finder of an LZMA compressor.
//!
//! Source: liblzma's `lz_encoder_mf.c` (`bt4`: hashes of 2, 3 and 4 bytes, and
//! a binary tree of earlier positions in two words each), and SPEC CPU 2017
//! 557.xz. For each byte of the input: the three hash heads are read and
//! replaced, then the tree of the 4-byte hash is descended: at each node its
//! two words, and the bytes at that position of the window, compared with the current ones; one
//! word is rewritten a level. The input moves on sequentially.
//!
//! Footprint, as liblzma allocates it for a dictionary of D bytes: the tree 8 D,
//! the window 1.5 D, hash heads of 4 bytes for a half to a quarter as many as the next power of two:
//! about 10.5 D. `xz -9` has D = 64 MiB, 674 MiB in all.
//!
//! Tree depth is geometric with mean `depth` (an estimate: it is 1 or 2 in random data,
//! and up to 48 in text, where `-9` cuts it); positions are the nearer the more likely (uniform in
//! their logarithm). Matches are 12 bytes on average before the first difference.

use machine::input::{Access, Event, Populate, Source};

use crate::emit::{Algorithm, Interleaved, lines, read, write};
use crate::layout::{ADVICE, Layout, POPULATE};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Draw, Generator, generator, hash, scale, unit};
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "xz",
    summary: "LZMA match finder: hash heads and a binary tree over a window",
    source: "liblzma lz_encoder_mf.c (bt4); SPEC CPU 2017 557.xz",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 8 << 20, max: 1 << 36 },
            default: "674MiB",
            meaning: "window, tree and hash heads, about 10.5 times the dictionary; 674MiB is xz -9",
        },
        Parameter {
            name: "depth",
            unit: Unit::Real { min: 1.0, max: 500.0 },
            default: "12",
            meaning: "nodes of the tree that one byte visits, on average",
        },
        POPULATE,
        ADVICE,
    ],
    build,
};

/// Hash heads of 2 and 3 bytes (`HASH_2_SIZE`, `HASH_3_SIZE`).
const HASH2: u64 = 1 << 10;
const HASH3: u64 = 1 << 16;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let hash4 = hash_heads(p.bytes("footprint") * 2 / 21);
    let dictionary = (p.bytes("footprint") - 4 * (HASH2 + HASH3 + hash4)) * 2 / 19;
    let window = dictionary + dictionary / 2;
    let mut layout = Layout::new(p);
    let by = Populate::By(0);
    let window_at = layout.malloc("window", window, by);
    let heads = layout.malloc("hash heads", 4 * (HASH2 + HASH3 + hash4), by);
    let tree = layout.malloc("tree", 8 * (dictionary + 1), by);
    let xz = Xz {
        dictionary,
        window,
        hash4,
        window_at,
        heads,
        tree,
        continues: 1.0 - 1.0 / p.real("depth"),
        position: dictionary,
        seed,
        random: generator(seed, 0),
    };
    Ok(Box::new(Interleaved::new(p, layout.process("xz"), 1, xz)))
}

/// `lz_encoder_prepare`: the next power of two, halved; at least 64 Ki; halved again above 16 Mi.
fn hash_heads(dictionary: u64) -> u64 {
    let heads = (dictionary.next_power_of_two() / 2).max(1 << 16);
    if heads > 1 << 24 { heads / 2 } else { heads }
}

struct Xz {
    dictionary: u64,
    window: u64,
    hash4: u64,
    window_at: u64,
    heads: u64,
    tree: u64,
    /// Chance that a descent goes one node further.
    continues: f64,
    /// Bytes of input so far.
    position: u64,
    seed: u64,
    random: Generator,
}

impl Xz {
    /// Where a byte of the input is in the window, whose content is moved down when it is full.
    #[inline(always)]
    fn byte(&self, position: u64) -> u64 {
        // The last dictionary's worth is always there: keep one modulus for all.
        self.window_at + position % (self.window - 64)
    }
}

impl Algorithm for Xz {
    fn step(&mut self, _: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        let here = self.position;
        self.position += 1;
        let bytes = hash(self.seed, here);
        out.push(read(self.byte(here), 3, 0, 20));
        // CRC tables of the hash function are always hot.
        for (head, insns) in [
            (scale(bytes, HASH2), 10),
            (HASH2 + scale(hash(bytes, 1), HASH3), 2),
            (HASH2 + HASH3 + scale(hash(bytes, 2), self.hash4), 2),
        ] {
            out.push(read(self.heads + 4 * head, 2, 0, insns));
            out.push(write(self.heads + 4 * head, 2, 0, 1));
        }
        let node = |position: u64| self.tree + 8 * (position % (self.dictionary + 1));
        let mut pointer = node(here);
        for level in 0..48 {
            let bits = self.random.bits();
            if level > 0 && unit(bits) > self.continues {
                break;
            }
            // Distance uniform in its logarithm, growing down the tree.
            let exponent = self.dictionary.ilog2() as u64 - 2;
            let log = 2 + scale(hash(bits, 0), exponent);
            let distance = ((1 << log) + scale(hash(bits, 1), 1 << log)).min(self.dictionary);
            let candidate = here - distance;
            // pb[len] against cur[len], then the rest of the match.
            let compare = read(self.byte(candidate), 3, 0, 9);
            lines(out, compare.dependent(), 1 + (bits & 15), 8);
            let pair = node(candidate);
            // Half of the time the left word goes on, half of the time the right one.
            let side = (bits >> 8 & 1) * 4;
            out.push(write(pointer, 2, 0, 4));
            out.push(read(pair + side, 2, 0, 3));
            pointer = pair + side;
        }
        // Both ends of the new node's subtrees are cut.
        out.push(write(pointer, 2, 0, 4));
        out.push(write(node(here), 2, 0, 1));
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::take;

    #[test]
    fn three_heads_and_some_nodes_a_byte() {
        let mut source = crate::build("xz:footprint=64MiB", 1).unwrap();
        let regions = source.setup().unwrap().processes[0].regions.clone();
        let a = take(source.as_mut(), 400_000);
        let count = |i: usize| {
            a.iter().filter(|a| a.va.raw().wrapping_sub(regions[i].start.raw()) < regions[i].len).count()
                as f64
        };
        let bytes = count(1) / 6.0;
        // Two accesses of the tree a node, two to cut; geometric depth with mean 12, cut at 48.
        let nodes = (count(2) / bytes - 2.0) / 2.0;
        assert!((11.0..12.5).contains(&nodes), "{nodes}");
    }
}
