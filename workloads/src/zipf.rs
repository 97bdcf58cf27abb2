//! Zipf-distributed reads of an array: the simplest skewed workload.
//!
//! Item of rank k is read with probability proportional to k^-theta. The items
//! are scattered over the array by a permutation, as YCSB scatters its keys by
//! a hash (Cooper et al., SoCC 2010; theta 0.99 is YCSB's constant), so popular
//! items share pages with unpopular ones.
//!
//! Footprint: the array of items. Each access is one load at an item's start, independent of the others;
//! 12 instructions for the index and the loop (an estimate: a draw from a ready-made list of keys).

use machine::input::{Access, Event, Populate, Source};

use crate::emit::{Algorithm, Interleaved, read};
use crate::layout::{ADVICE, Layout, POPULATE, THREADS};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Generator, Permutation, generator, hash};
use crate::registry::{Workload, WorkloadError};
use crate::skew::Zipf;

pub(crate) const WORKLOAD: Workload = Workload {
    name: "zipf",
    summary: "Zipf-distributed reads of an array",
    source: "YCSB's scrambled Zipfian request distribution (SoCC 2010), over a plain array",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 4096, max: 1 << 44 },
            default: "1GiB",
            meaning: "the array",
        },
        Parameter {
            name: "theta",
            unit: Unit::Real { min: 0.0, max: 10.0 },
            default: "0.99",
            meaning: "skew: 0 is uniform, 0.99 is YCSB's",
        },
        Parameter {
            name: "item",
            unit: Unit::Bytes { min: 8, max: 1 << 30 },
            default: "64B",
            meaning: "size of an item, at whose start each access is",
        },
        THREADS,
        POPULATE,
        ADVICE,
    ],
    build,
};

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let item = p.bytes("item");
    let items = p.bytes("footprint") / item;
    if items == 0 {
        return Err(p.impossible("the footprint is smaller than an item"));
    }
    let mut layout = Layout::new(p);
    let array = layout.map("items", items * item, Populate::By(0));
    let threads = p.count("threads");
    let zipf = ZipfReads {
        array,
        item,
        law: Zipf::new(items, p.real("theta")),
        places: Permutation::new(items, hash(seed, 0)),
        random: (0..threads).map(|t| generator(seed, t + 1)).collect(),
    };
    Ok(Box::new(Interleaved::new(p, layout.process("zipf"), threads, zipf)))
}

struct ZipfReads {
    array: u64,
    item: u64,
    law: Zipf,
    places: Permutation,
    random: Vec<Generator>,
}

impl Algorithm for ZipfReads {
    fn step(&mut self, thread: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        let random = &mut self.random[thread as usize];
        for _ in 0..64 {
            let place = self.places.at(self.law.draw(random));
            out.push(read(self.array + place * self.item, 3, thread, 12));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::take;
    use std::collections::HashMap;

    #[test]
    fn the_most_popular_item_has_its_share() {
        let a = take(crate::build("zipf:footprint=64MiB", 5).unwrap().as_mut(), 500_000);
        let mut seen: HashMap<u64, u32> = HashMap::new();
        for a in a {
            *seen.entry(a.va.raw()).or_default() += 1;
        }
        let total: f64 = (1..=1u64 << 20).map(|k| (k as f64).powf(-0.99)).sum();
        let top = f64::from(*seen.values().max().unwrap());
        assert!((top / (500_000.0 / total) - 1.0).abs() < 0.05, "{top}");
    }
}
