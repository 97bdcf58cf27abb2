//! Hash join: probe a chained hash table with every tuple of a large relation.
//!
//! Source: `mitosis-workload-hashjoin`, `src/hashjoin.c` (Mitosis artifact):
//! the inner relation's keys 4, 8, 12 … are inserted at the head of chains; the
//! outer relation (128-byte tuples, key = index) is read in order, hashed with
//! MurmurHash3-128, and both halves of the hash probe the table: two random bucket
//! loads and two chain walks a tuple. A quarter of the outer keys, as long as
//! they are in the inner range, match in the first chain.
//!
//! Footprint: 8 S (buckets) + 16 inner (chain elements) + 128 outer. S is a
//! power of two here and as large as the inner relation or up to twice; `build` is the part of the
//! footprint that buckets and elements take. The papers: 17 GB with one thread, 480 GB with all.
//! The hash is a permutation instead of Murmur (see `chained.rs`); the second
//! half's bucket is an independent hash. Built by one thread. With several
//! threads each probes its own contiguous part of the outer relation.

use machine::input::{Access, Event, Populate, Source};

use crate::chained::Chained;
use crate::emit::{Algorithm, Interleaved, read};
use crate::layout::{ADVICE, Layout, POPULATE, THREADS};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{hash, scale};
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "hashjoin",
    summary: "hash join: a sequential relation probes two random chains a tuple",
    source: "mitosis-workload-hashjoin (Mitosis artifact), hashjoin.c",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 64 << 10, max: 1 << 44 },
            default: "1GiB",
            meaning: "buckets, elements and outer relation; the papers use 17GB and 480GB",
        },
        Parameter {
            name: "build",
            unit: Unit::Real { min: 0.05, max: 0.95 },
            default: "0.5",
            meaning: "part of the footprint that the hash table takes",
        },
        THREADS,
        POPULATE,
        ADVICE,
    ],
    build,
};

const TUPLE: u64 = 128;
const ELEMENT: u64 = 16;
const HUGE: u64 = 2 << 20;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let footprint = p.bytes("footprint");
    let table = (footprint as f64 * p.real("build")) as u64;
    // Buckets take at least a third (8 of 24 bytes a key) and less than two thirds.
    let buckets = (table / 24).next_power_of_two();
    let buckets = if buckets * 8 > table * 3 / 5 { buckets / 2 } else { buckets };
    let inner = (table - buckets * 8) / ELEMENT;
    let outer = (footprint - table) / TUPLE;
    let threads = p.count("threads");
    if outer < threads {
        return Err(p.impossible("the outer relation has fewer tuples than there are threads"));
    }
    let mut layout = Layout::new(p);
    let by = Populate::By(0);
    let bucket_array = layout.malloc("buckets", buckets * 8, by);
    let elements = layout.map_aligned("elements", inner * ELEMENT, HUGE, by);
    let tuples = layout.map_aligned("outer relation", outer * TUPLE, HUGE, by);
    let parts = (0..threads)
        .map(|t| {
            let part = |t| (u128::from(outer) * u128::from(t) / u128::from(threads)) as u64;
            Part { next: part(t), begin: part(t), end: part(t + 1) }
        })
        .collect();
    let join = HashJoin {
        bucket_array,
        elements,
        tuples,
        inner,
        table: Chained::new(inner, buckets, seed),
        seed: hash(seed, 1),
        parts,
    };
    Ok(Box::new(Interleaved::new(p, layout.process("hashjoin"), threads, join)))
}

struct Part {
    next: u64,
    begin: u64,
    end: u64,
}

struct HashJoin {
    bucket_array: u64,
    elements: u64,
    tuples: u64,
    inner: u64,
    table: Chained,
    seed: u64,
    parts: Vec<Part>,
}

impl HashJoin {
    #[inline(always)]
    fn probe(&self, bucket: u64, key: Option<u64>, thread: u16, insns: u16, out: &mut Vec<Access>) {
        out.push(read(self.bucket_array + 8 * bucket, 3, thread, insns).dependent());
        let chain = self.table.chain(bucket);
        let walked = match key {
            Some(key) => chain.search(key),
            None => chain.keys(),
        };
        for &element in walked {
            // test, jump, compare of the key, load of next
            out.push(read(self.elements + ELEMENT * element, 3, thread, 4).dependent());
        }
    }
}

impl Algorithm for HashJoin {
    fn step(&mut self, thread: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        let part = &mut self.parts[thread as usize];
        let tuple = part.next;
        part.next = if tuple + 1 == part.end { part.begin } else { tuple + 1 };

        out.push(read(self.tuples + TUPLE * tuple, 3, thread, 5));
        // Outer key t is inner key number t/4 - 1, if it is one.
        let key = (tuple.is_multiple_of(4) && tuple > 0 && tuple / 4 <= self.inner).then(|| tuple / 4 - 1);
        let first = match key {
            Some(key) => self.table.bucket(key),
            None => scale(hash(self.seed, tuple), self.table.buckets()),
        };
        // MurmurHash3_x64_128 of 8 bytes is about 45 instructions, the remainder one division.
        self.probe(first, key, thread, 50, out);
        let second = scale(hash(!self.seed, tuple), self.table.buckets());
        self.probe(second, key, thread, 5, out);
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::take;

    #[test]
    fn a_tuple_is_sequential_and_two_probes() {
        let mut source = crate::build("hashjoin:footprint=64MiB", 1).unwrap();
        let setup = source.setup().unwrap();
        let regions = &setup.processes[0].regions;
        let of = |va: u64| regions.iter().position(|r| va.wrapping_sub(r.start.raw()) < r.len).unwrap();
        let a = take(source.as_mut(), 300_000);
        let mut counts = [0usize; 3];
        let mut last = None;
        for a in &a {
            let region = of(a.va.raw());
            counts[region] += 1;
            if region == 2 {
                if let Some(last) = last {
                    assert_eq!(a.va.raw(), last + 128);
                }
                last = Some(a.va.raw());
                assert_eq!(a.flags, 0);
            } else {
                assert_ne!(a.flags, 0);
            }
        }
        // Two buckets a tuple; chains hold as many elements as the load says, those that match fewer.
        assert!(counts[0].abs_diff(2 * counts[2]) <= 2);
        let load = regions[1].len as f64 / 16.0 / (regions[0].len as f64 / 8.0);
        let per_tuple = counts[1] as f64 / counts[2] as f64;
        assert!(per_tuple > 1.7 * load && per_tuple < 2.0 * load + 0.3, "{per_tuple} {load}");
    }
}
