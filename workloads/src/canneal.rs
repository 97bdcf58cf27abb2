//! Canneal: simulated annealing of a netlist's placement.
//!
//! Source: PARSEC 3.0 canneal (`annealer_thread.cpp`, `netlist_elem.cpp`):
//! element b is drawn at random, a is the b before; the change of routing cost
//! reads, for both, every fan-in and fan-out: the pointer in the vector, that
//! element's location pointer, the location. If accepted, the two location pointers are exchanged.
//! Location pointers are only ever read by `atomic_load_acq_ptr` (`AtomicPtr.h`, recalled with high confidence) of FreeBSD's
//! `atomic.h`, which on x86 outside a kernel is a `lock cmpxchg` (read): each neighbour waits for the one before it.
//!
//! An element is 88 bytes (name 32, two vectors of 24, location pointer 8); a
//! vector's pointers are a block of 64 to 80 bytes; a location is 8 bytes; the
//! reader's map from names to elements (a node of 80 bytes each) stays
//! allocated and is never touched again. 336 bytes an element together.
//! The papers: 100 M elements, 32 GB; 1200 M, 382 GB. Read and built by one thread.
//!
//! Fan-ins are 5 random elements; fan-outs are as many as others chose this one: Poisson with mean 5, also random elements
//! (not the inverse of the fan-ins). Locations are a random permutation of the elements; exchanges keep it
//! one and are not remembered. Accepted: `accept` of the moves (an estimate; it
//! falls with the temperature). About 12 instructions a neighbour.

use machine::input::{Access, Event, Populate, Source};

use crate::emit::{Algorithm, Interleaved, modify, read};
use crate::layout::{ADVICE, Layout, MALLOC, POPULATE, THREADS};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Draw, Generator, Permutation, generator, hash, scale};
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "canneal",
    summary: "annealing of a netlist: random elements and three hops to each neighbour",
    source: "PARSEC 3.0 canneal",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 64 << 10, max: 1 << 44 },
            default: "1GiB",
            meaning: "the netlist; the papers use 32GB and 382GB",
        },
        Parameter {
            name: "accept",
            unit: Unit::Real { min: 0.0, max: 1.0 },
            default: "0.4",
            meaning: "part of the moves that are accepted",
        },
        THREADS,
        POPULATE,
        MALLOC,
        ADVICE,
    ],
    build,
};

const ELEMENT: u64 = 88;
/// Offsets of the two vectors (their first words, the data pointers) and of the location pointer.
const FANIN: u64 = 32;
const FANOUT: u64 = 56;
const LOCATION: u64 = 80;
/// Both vectors' blocks, with malloc's headers, and the map's node: what one element adds to the heap.
const BLOCK: u64 = 80 + 80;
const NODE: u64 = 80;
const FANINS: u64 = 5;
/// A vector's block has room for 8 pointers, but for one vertex in 15 (Poisson 5).
const MOST: u64 = 8;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let elements = p.bytes("footprint") / (ELEMENT + 8 + BLOCK + NODE);
    let threads = p.count("threads");
    let mut layout = Layout::new(p);
    let by = Populate::By(0);
    let array = layout.malloc("elements", elements * ELEMENT, by);
    let locations = layout.malloc("locations", elements * 8, by);
    let heap = layout.heap("vectors and names", elements * (BLOCK + NODE), by);
    let mut random: Vec<Generator> = (0..threads).map(|t| generator(seed, t)).collect();
    let last = random.iter_mut().map(|r| r.below(elements)).collect();
    let canneal = Canneal {
        elements,
        array,
        locations,
        heap,
        places: Permutation::new(elements, hash(seed, 1)),
        seed: hash(seed, 2),
        accept: (p.real("accept") * u64::MAX as f64) as u64,
        fanouts: poisson(5.0),
        random,
        last,
    };
    Ok(Box::new(Interleaved::new(p, layout.process("canneal"), threads, canneal)))
}

/// A count for each of 256 equally likely cases, distributed as Poisson with this mean, at most [`MOST`].
fn poisson(mean: f64) -> [u8; 256] {
    let (mut count, mut p) = (0u8, libm::exp(-mean));
    let mut sum = p;
    std::array::from_fn(|i| {
        while (i as f64 + 0.5) / 256.0 > sum && u64::from(count) < MOST {
            count += 1;
            p *= mean / f64::from(count);
            sum += p;
        }
        count
    })
}

struct Canneal {
    elements: u64,
    array: u64,
    locations: u64,
    heap: u64,
    places: Permutation,
    seed: u64,
    accept: u64,
    fanouts: [u8; 256],
    random: Vec<Generator>,
    /// The element b of each thread's last move.
    last: Vec<u64>,
}

impl Canneal {
    #[inline(always)]
    fn element(&self, e: u64) -> u64 {
        self.array + ELEMENT * e
    }

    /// `swap_cost`: every neighbour's location.
    #[inline(always)]
    fn swap_cost(&self, e: u64, thread: u16, out: &mut Vec<Access>) {
        let block = self.heap + (BLOCK + NODE) * e;
        let key = hash(self.seed, e);
        let fanouts = u64::from(self.fanouts[(key & 255) as usize]);
        for (vector, pointers, count, salt) in
            [(FANIN, block, FANINS, 0), (FANOUT, block + 80, fanouts, FANINS)]
        {
            // Data pointer and end of the vector.
            out.push(read(self.element(e) + vector, 3, thread, 5));
            for i in 0..count {
                let neighbour = scale(hash(key, salt + i), self.elements);
                let pointer = read(pointers + 8 * i, 3, thread, 2);
                out.push(if i == 0 { pointer.dependent() } else { pointer });
                out.push(modify(self.element(neighbour) + LOCATION, 3, thread, 3).dependent().locked());
                // Two coordinates, four absolute differences.
                out.push(read(self.locations + 8 * self.places.at(neighbour), 3, thread, 8).dependent());
            }
        }
    }
}

impl Algorithm for Canneal {
    fn step(&mut self, thread: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        let random = &mut self.random[thread as usize];
        let b = random.below(self.elements);
        let accepted = random.bits() <= self.accept;
        let a = std::mem::replace(&mut self.last[thread as usize], b);
        for (e, insns) in [(a, 12), (b, 30)] {
            // The Mersenne twister and the remainder come before b.
            out.push(modify(self.element(e) + LOCATION, 3, thread, insns).locked());
            out.push(read(self.locations + 8 * self.places.at(e), 3, thread, 2).dependent());
        }
        self.swap_cost(a, thread, out);
        self.swap_cost(b, thread, out);
        if accepted {
            // AtomicPtr::Swap marks a's pointer, exchanges b's, and stores a's; exp() decided.
            out.push(modify(self.element(a) + LOCATION, 3, thread, 60).locked());
            out.push(modify(self.element(b) + LOCATION, 3, thread, 10).locked());
            out.push(modify(self.element(a) + LOCATION, 3, thread, 5).locked());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::take;

    #[test]
    fn fanouts_are_poisson() {
        let counts = poisson(5.0);
        let mean = counts.iter().map(|c| f64::from(*c)).sum::<f64>() / 256.0;
        // 4.87 of 5: what is above 8 is cut to 8.
        assert!((4.8..4.95).contains(&mean), "{mean}");
        assert_eq!(counts.iter().filter(|&&c| c == 0).count(), 2); // 256 e^-5 = 1.7
    }

    #[test]
    fn a_neighbour_is_three_hops() {
        let mut source = crate::build("canneal:footprint=32MiB,accept=0", 1).unwrap();
        let regions = source.setup().unwrap().processes[0].regions.clone();
        let inside = |i: usize, a: &Access| a.va.raw().wrapping_sub(regions[i].start.raw()) < regions[i].len;
        let a = take(source.as_mut(), 100_000);
        for w in a.windows(3).filter(|w| inside(2, &w[0])) {
            assert!(inside(0, &w[1]) && inside(1, &w[2]), "pointer, element, location");
            assert!(w[1].flags & w[2].flags & Access::DEPENDENT != 0);
            assert!(w[1].flags & Access::LOCKED != 0 && w[1].kind.writes());
        }
        // Per move two elements with 5 fan-ins and about 4.9 fan-outs each.
        let pointers = a.iter().filter(|a| inside(2, a)).count() as f64;
        let moves = a.iter().filter(|a| a.insns == 30).count() as f64;
        assert!((pointers / moves - 19.74).abs() < 0.3, "{}", pointers / moves);
    }

    #[test]
    fn accepted_moves_write() {
        let a = take(crate::build("canneal:footprint=32MiB,accept=0.25", 1).unwrap().as_mut(), 300_000);
        let moves = a.iter().filter(|a| a.insns == 30).count() as f64;
        let swaps = a.iter().filter(|a| a.insns == 60).count() as f64;
        assert!((swaps / moves - 0.25).abs() < 0.02, "{}", swaps / moves);
    }
}
