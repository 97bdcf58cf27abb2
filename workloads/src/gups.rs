//! GUPS: random updates of a large table.
//!
//! Source: HPCC 1.5 RandomAccess (`core_single_cpu.c`), and the variant that
//! Mitosis and vMitosis ship: 128 independent shift-register streams, stream j
//! starting at step `NUPDATE/128*j` of the one sequence `ran = (ran << 1) ^ (ran
//! < 0 ? 7 : 0)`. HPCC updates `T[ran & (N-1)] ^= ran`; the variant updates
//! `T[ran % N]` and `T[N - ran % N]` (whose one index N, past the table, is 0
//! here).
//!
//! Footprint: the table, 8 N bytes. The papers: 64 GiB, 2^30 iterations of two updates.
//!
//! The table is mapped and initialised (`T[i] = i`) by one thread. No address
//! depends on a load; the 128 stream states (1 KiB, always hot) are not emitted.
//! With several threads each has 128 streams of its own, at equal distances.

use machine::input::{Access, Event, Populate, Source};

use crate::emit::{Algorithm, Interleaved, modify};
use crate::layout::{ADVICE, Layout, POPULATE, THREADS};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::hash;
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "gups",
    summary: "random updates of a table: no locality, all misses overlap",
    source: "HPCC 1.5 RandomAccess; the two-update variant of the Mitosis and vMitosis artifacts",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 4096, max: 1 << 44 },
            default: "1GiB",
            meaning: "the table; the papers use 64GiB",
        },
        Parameter {
            name: "updates",
            unit: Unit::Count { min: 1, max: 2 },
            default: "2",
            meaning: "updates per iteration: 1 as in HPCC, 2 as in Mitosis and vMitosis",
        },
        THREADS,
        POPULATE,
        ADVICE,
    ],
    build,
};

const STREAMS: usize = 128;
/// What a 64-bit division takes of the window and the issue slots: it is 36
/// micro-operations on Intel's cores before Ice Lake (Agner Fog, instruction tables:
/// Haswell 32-96 cycles, Skylake 35-88). The variant's `ran % N` is one, as N is known at run time only.
const DIVISION: u16 = 36;
/// Length of the sequence (HPCC `RandomAccess.h`, `PERIOD`).
const PERIOD: u64 = 1_317_624_576_693_539_401;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let mut layout = Layout::new(p);
    let footprint = p.bytes("footprint") & !7;
    let table = layout.map("table", footprint, Populate::By(0));
    let elements = footprint / 8;
    let threads = p.count("threads");
    let distance = 4 * elements / STREAMS as u64; // NUPDATE = 4 N
    // Seed 0 starts where HPCC starts.
    let origin = if seed == 0 { 0 } else { hash(seed, 0) };
    let streams = (0..threads)
        .map(|t| {
            std::array::from_fn(|j| {
                let step = (t * STREAMS as u64 + j as u64).wrapping_mul(distance);
                start(step.wrapping_add(origin) % PERIOD)
            })
        })
        .collect();
    let gups = Gups { table, elements, both: p.count("updates") == 2, streams };
    Ok(Box::new(Interleaved::new(p, layout.process("gups"), threads, gups)))
}

struct Gups {
    table: u64,
    elements: u64,
    both: bool,
    streams: Vec<[u64; STREAMS]>,
}

/// The next number of the sequence: one step of a shift register over x^64 + x^2 + x + 1.
#[inline(always)]
const fn next(ran: u64) -> u64 {
    (ran << 1) ^ (((ran as i64 >> 63) as u64) & 7)
}

/// The `step`-th number of the sequence (HPCC `HPCC_starts`): x^step modulo the
/// register's polynomial, by squaring.
fn start(step: u64) -> u64 {
    let multiply = |a: u64, b: u64| {
        let (mut product, mut a) = (0, a);
        for bit in 0..64 {
            if b >> bit & 1 == 1 {
                product ^= a;
            }
            a = next(a);
        }
        product
    };
    let (mut result, mut power, mut step) = (1, 2, step);
    while step > 0 {
        if step & 1 == 1 {
            result = multiply(result, power);
        }
        power = multiply(power, power);
        step >>= 1;
    }
    result
}

impl Gups {
    #[inline(always)]
    fn round(streams: &mut [u64; STREAMS], mut update: impl FnMut(u64)) {
        for ran in streams {
            *ran = next(*ran);
            update(*ran);
        }
    }
}

impl Algorithm for Gups {
    fn step(&mut self, thread: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        let streams = &mut self.streams[thread as usize];
        let (table, n) = (self.table, self.elements);
        let element = |i: u64, insns| modify(table + 8 * i, 3, thread, insns);
        // One update: load, shift, sign, and, xor, store of the stream's state, mask, xor
        // to memory, and three of the loop. The second one: index and xor to memory. The
        // variant divides for each, as the first store might have changed the stream's state.
        match (self.both, n.is_power_of_two()) {
            (true, true) => {
                out.reserve(2 * STREAMS);
                Self::round(streams, |ran| {
                    let i = ran & (n - 1);
                    out.push(element(i, 11 + DIVISION));
                    out.push(element((n - i) & (n - 1), 3 + DIVISION));
                });
            }
            (true, false) => Self::round(streams, |ran| {
                let i = ran % n;
                out.push(element(i, 11 + DIVISION));
                out.push(element(if i == 0 { 0 } else { n - i }, 3 + DIVISION));
            }),
            (false, true) => Self::round(streams, |ran| out.push(element(ran & (n - 1), 11))),
            (false, false) => Self::round(streams, |ran| out.push(element(ran % n, 12))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_start_where_stepping_arrives() {
        let mut ran = 1;
        for step in 0..1000 {
            assert_eq!(start(step), ran);
            ran = next(ran);
        }
    }

    #[test]
    fn the_second_update_mirrors_the_first() {
        let mut g = build_for_test("gups:footprint=8MiB");
        let a = crate::tests::take(g.as_mut(), 20_000);
        let table = a.iter().map(|a| a.va.raw()).min().unwrap() & !4095;
        for pair in a.chunks(2) {
            let i = (pair[0].va.raw() - table) / 8;
            let j = (pair[1].va.raw() - table) / 8;
            assert_eq!((i + j) % (1 << 20), 0);
        }
    }

    #[test]
    fn uniform_over_the_table() {
        // From a random origin: HPCC's own (seed 0) gives sparse first states, whose index 0 is hot. Over 4 M
        // updates (of a table whose size is no power of two) 64 bins agree within 2 %.
        let spec = "gups:footprint=24MiB,updates=1";
        let start = crate::tests::start_of(spec);
        let mut bins = [0f64; 64];
        let n = 1 << 22;
        for a in crate::tests::take(crate::build(spec, 5).unwrap().as_mut(), n) {
            bins[((a.va.raw() - start) / (24 << 20 >> 6)) as usize] += 1.0;
        }
        let expect = n as f64 / 64.0;
        assert!(bins.iter().all(|b| (b / expect - 1.0).abs() < 0.02), "{bins:?}");
    }

    fn build_for_test(spec: &str) -> Box<dyn Source + Send> {
        crate::build(spec, 0).unwrap()
    }
}
