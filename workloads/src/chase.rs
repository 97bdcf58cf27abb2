//! A pointer chase: each load's address is what the one before it loaded.
//!
//! Source: the micro-benchmark behind the measured Zen 4 TLB curves: a ring of
//! pointers through a buffer, followed for ever. `granule=page` places one pointer in each 4 KiB page, at a random
//! line, so that translation is all that grows with the footprint;
//! `granule=line` places one in each 64-byte line. The order of the ring is the pattern:
//!
//! | pattern | order |
//! |---|---|
//! | `rand` | all places at random |
//! | `grp8` | groups of 8 pages (the pages of one cache line of leaf entries) at random, in order within |
//! | `grp512` | groups of 512 pages (of one leaf table) at random, at random within |
//! | `seq` | pages in address order |
//!
//! `granule=line` takes the same orders with 64 places a page (in a group of 8, lines at random).
//!
//! Footprint: the buffer. The ring is a permutation computed on the fly, so a
//! lap visits each place exactly once and every lap is the same. Loop overhead
//! is unrolled away: 1 instruction an access, as the measured 4 cycles a step in L1 say.
//! Threads follow the same ring from equally spaced starts.

use machine::input::{Access, Event, Populate, Source};

use crate::emit::{Algorithm, Interleaved, read};
use crate::layout::{ADVICE, Layout, POPULATE, THREADS};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Permutation, hash};
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "chase",
    summary: "pointer chase: every load waits for the one before",
    source: "dependent-load micro-benchmark of the measured Zen 4 TLB curves",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 4096, max: 1 << 44 },
            default: "1GiB",
            meaning: "the buffer; whole pages, for grp8 and grp512 whole groups",
        },
        Parameter {
            name: "granule",
            unit: Unit::Choice(&["page", "line"]),
            default: "page",
            meaning: "one pointer in each 4 KiB page (at a random line), or in each 64-byte line",
        },
        Parameter {
            name: "pattern",
            unit: Unit::Choice(&["rand", "grp8", "grp512", "seq"]),
            default: "rand",
            meaning: "order of the ring: random, random groups of 8 or 512 pages, sequential pages",
        },
        THREADS,
        POPULATE,
        ADVICE,
    ],
    build,
};

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let lines = p.choice("granule") == "line";
    let (group_pages, inside) = match p.choice("pattern") {
        "grp8" => (8, lines),
        "grp512" => (512, true),
        "seq" => (1, false),
        _ => (1, true),
    };
    let per_page = if lines { 64 } else { 1 };
    let pages = p.bytes("footprint") / 4096 / group_pages * group_pages;
    if pages == 0 {
        return Err(p.impossible(format!(
            "pattern={} needs a footprint of at least {group_pages} pages",
            p.choice("pattern")
        )));
    }
    let mut layout = Layout::new(p);
    let buffer = layout.map("ring", pages * 4096, Populate::By(0));
    let places = pages * per_page;
    let order = match p.choice("pattern") {
        "rand" => Order::Random(Permutation::new(places, seed)),
        "seq" => Order::Sequential,
        _ => {
            let size = group_pages * per_page;
            Order::Groups {
                groups: Permutation::new(pages / group_pages, seed),
                within: inside.then(|| Permutation::new(size, hash(seed, 1))),
                shift: size.trailing_zeros(),
            }
        }
    };
    let threads = p.count("threads");
    let positions = (0..threads).map(|t| places / threads * t).collect();
    let chase = Chase { buffer, places, order, lines, seed: hash(seed, 2), positions };
    Ok(Box::new(Interleaved::new(p, layout.process("chase"), threads, chase)))
}

enum Order {
    Sequential,
    Random(Permutation),
    Groups { groups: Permutation, within: Option<Permutation>, shift: u32 },
}

struct Chase {
    buffer: u64,
    places: u64,
    order: Order,
    lines: bool,
    seed: u64,
    /// Where in the ring each thread is.
    positions: Vec<u64>,
}

impl Chase {
    /// Emits the places of 128 steps, `place` saying which is at a position of the ring.
    #[inline(always)]
    fn run(&mut self, thread: u16, out: &mut Vec<Access>, place: impl Fn(&Order, u64) -> u64) {
        let mut position = self.positions[thread as usize];
        out.reserve(128);
        for _ in 0..128 {
            let place = place(&self.order, position);
            let va = if self.lines {
                self.buffer + place * 64
            } else {
                self.buffer + place * 4096 + (hash(self.seed, place) & 63) * 64
            };
            out.push(read(va, 3, thread, 1).dependent());
            position = if position + 1 == self.places { 0 } else { position + 1 };
        }
        self.positions[thread as usize] = position;
    }
}

impl Algorithm for Chase {
    fn step(&mut self, thread: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        match self.order {
            Order::Sequential => self.run(thread, out, |_, i| i),
            Order::Random(_) => self.run(thread, out, |order, i| match order {
                Order::Random(p) => p.at(i),
                _ => i,
            }),
            Order::Groups { .. } => self.run(thread, out, |order, i| match order {
                Order::Groups { groups, within, shift } => {
                    let (group, inside) = (i >> shift, i & ((1 << shift) - 1));
                    // Each group in an order of its own.
                    let inside = match within {
                        Some(p) => p.scramble((inside ^ hash(group, 0)) & ((1 << shift) - 1)),
                        None => inside,
                    };
                    groups.at(group) << shift | inside
                }
                _ => i,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::{start_of, take};
    use proptest::prelude::*;

    fn visits(spec: &str, laps: usize, places: usize, size: u64) -> Vec<usize> {
        let start = start_of(spec);
        let mut seen = vec![0; places];
        for a in take(crate::build(spec, 3).unwrap().as_mut(), laps * places) {
            seen[((a.va.raw() - start) / size) as usize] += 1;
        }
        seen
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn each_place_once_a_lap(pages in 512u64..2000, pattern in 0usize..4, line: bool) {
            let pattern = ["rand", "grp8", "grp512", "seq"][pattern];
            let group = match pattern { "grp8" => 8, "grp512" => 512, _ => 1 };
            let granule = if line { "line" } else { "page" };
            let spec = format!("chase:footprint={}B,pattern={pattern},granule={granule}", pages * 4096);
            let pages = (pages / group * group) as usize;
            let (places, size) = if line { (pages * 64, 64) } else { (pages, 4096) };
            prop_assert!(visits(&spec, 2, places, size).iter().all(|&n| n == 2));
        }
    }

    #[test]
    fn groups_stay_together() {
        for (pattern, group) in [("grp8", 8u64), ("grp512", 512)] {
            let spec = format!("chase:footprint=64MiB,pattern={pattern}");
            let start = start_of(&spec);
            let a = take(crate::build(&spec, 3).unwrap().as_mut(), 16384);
            let pages: Vec<u64> = a.iter().map(|a| (a.va.raw() - start) / 4096).collect();
            for chunk in pages.chunks(group as usize) {
                assert!(chunk.iter().all(|p| p / group == chunk[0] / group), "{pattern}");
                if group == 8 {
                    assert!(chunk.windows(2).all(|w| w[1] == w[0] + 1));
                }
            }
            let order: Vec<u64> = pages.iter().step_by(group as usize).map(|p| p / group).collect();
            assert!(order.windows(2).filter(|w| w[1] == w[0] + 1).count() < order.len() / 4);
        }
    }

    #[test]
    fn lines_in_pages_are_spread() {
        let a = take(crate::build("chase:footprint=64MiB", 3).unwrap().as_mut(), 16384);
        let mut bins = [0; 64];
        for a in &a {
            bins[(a.va.raw() >> 6 & 63) as usize] += 1;
        }
        assert!(bins.iter().all(|&b| (180..340).contains(&b)), "{bins:?}");
    }
}
