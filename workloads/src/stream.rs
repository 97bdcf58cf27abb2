//! STREAM: copy, scale, add and triad over three arrays.
//!
//! Source: `stream.c` 5.10 (McCalpin): `c = a`, `b = q c`, `c = a + b`,
//! `a = b + q c`, one after the other, for ever. The arrays are static, one
//! behind the other in `.bss`, and initialised by the loop that the threads
//! share; every thread has an equal, contiguous part (OpenMP static schedule).
//!
//! Footprint: 24 bytes an element, elements a multiple of 512 so that each
//! array is whole pages. Instructions: per element the loads and stores, the
//! arithmetic, and three of the loop; `width` bytes an access shows vector code.

use machine::input::{Access, Event, Populate, Source};

use crate::emit::{Algorithm, Interleaved, read, write};
use crate::layout::{ADVICE, Layout, POPULATE, THREADS};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "stream",
    summary: "copy, scale, add, triad: sequential bandwidth",
    source: "STREAM 5.10 (McCalpin), stream.c",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 3 * 4096, max: 1 << 44 },
            default: "1GiB",
            meaning: "the three arrays together",
        },
        Parameter {
            name: "kernel",
            unit: Unit::Choice(&["all", "copy", "scale", "add", "triad"]),
            default: "all",
            meaning: "one kernel, or the four in turn",
        },
        Parameter {
            name: "width",
            unit: Unit::Choice(&["8", "16", "32", "64"]),
            default: "8",
            meaning: "bytes an access: 8 for scalar code, 16, 32 or 64 for SSE2, AVX or AVX-512",
        },
        THREADS,
        POPULATE,
        ADVICE,
    ],
    build,
};

/// Which arrays (0, 1, 2 = a, b, c) a kernel reads and writes.
const KERNELS: [(&[usize], usize); 4] = [(&[0], 2), (&[2], 1), (&[0, 1], 2), (&[1, 2], 0)];

fn build(p: &Parameters, _seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let array = (p.bytes("footprint") / 3) & !4095;
    let threads = p.count("threads");
    let log2 = match p.choice("width") {
        "16" => 4,
        "32" => 5,
        "64" => 6,
        _ => 3,
    };
    let accesses = array >> log2;
    if accesses < threads {
        return Err(p.impossible("the arrays have fewer elements than there are threads"));
    }
    let mut layout = Layout::new(p);
    let arrays = ["a", "b", "c"].map(|name| layout.bss(name, array, Populate::Partitioned));
    let (first, last) = match p.choice("kernel") {
        "copy" => (0, 0),
        "scale" => (1, 1),
        "add" => (2, 2),
        "triad" => (3, 3),
        _ => (0, 3),
    };
    let places = (0..threads)
        .map(|t| {
            let (begin, end) = (accesses * t / threads, accesses * (t + 1) / threads);
            Place { kernel: first, next: begin, begin, end }
        })
        .collect();
    let stream = Stream { arrays, log2, first, last, places };
    Ok(Box::new(Interleaved::new(p, layout.process("stream"), threads, stream)))
}

struct Stream {
    arrays: [u64; 3],
    log2: u8,
    first: usize,
    last: usize,
    places: Vec<Place>,
}

struct Place {
    kernel: usize,
    next: u64,
    begin: u64,
    end: u64,
}

impl Algorithm for Stream {
    fn step(&mut self, thread: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        let place = &mut self.places[thread as usize];
        let (reads, to) = KERNELS[place.kernel];
        let log2 = self.log2;
        let run = (place.end - place.next).min(64);
        let to = self.arrays[to];
        if let [from] = *reads {
            let from = self.arrays[from];
            // Copy needs no arithmetic, scale a multiplication.
            let store = if place.kernel == 0 { 1 } else { 2 };
            for i in place.next..place.next + run {
                out.push(read(from + (i << log2), log2, thread, 4));
                out.push(write(to + (i << log2), log2, thread, store));
            }
        } else {
            let (x, y) = (self.arrays[reads[0]], self.arrays[reads[1]]);
            // Add folds its second load; triad multiplies that one first.
            let (second, store) = if place.kernel == 2 { (1, 1) } else { (1, 3) };
            for i in place.next..place.next + run {
                out.push(read(x + (i << log2), log2, thread, 4));
                out.push(read(y + (i << log2), log2, thread, second));
                out.push(write(to + (i << log2), log2, thread, store));
            }
        }
        place.next += run;
        if place.next == place.end {
            place.next = place.begin;
            place.kernel = if place.kernel == self.last { self.first } else { place.kernel + 1 };
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::take;
    use machine::input::Kind;

    #[test]
    fn order_of_a_round() {
        // 512 elements an array: the four kernels are 2 + 2 + 3 + 3 accesses an element.
        let spec = "stream:footprint=12KiB";
        let a = take(crate::build(spec, 0).unwrap().as_mut(), 512 * 10 * 2);
        let (round, again) = a.split_at(5120);
        assert_eq!(round, again);
        let base = round[0].va.raw();
        let mut expect = Vec::new();
        for (reads, to) in [(vec![0], 2), (vec![2], 1), (vec![0, 1], 2), (vec![1, 2], 0)] {
            for i in 0..512u64 {
                expect.extend(reads.iter().map(|r| (base + r * 4096 + i * 8, Kind::Read)));
                expect.push((base + to * 4096 + i * 8, Kind::Write));
            }
        }
        assert_eq!(round.iter().map(|a| (a.va.raw(), a.kind)).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn threads_have_parts_of_their_own() {
        let mut s = crate::build("stream:footprint=12MiB,threads=3,kernel=copy,width=64", 0).unwrap();
        let setup = s.setup().unwrap();
        let a = take(s.as_mut(), 3 * 131_072);
        for (i, region) in setup.processes[0].regions.iter().enumerate() {
            let touched = |t: u16| {
                let mut of: Vec<u64> = a
                    .iter()
                    .filter(|a| a.thread == t && a.va.raw().wrapping_sub(region.start.raw()) < region.len)
                    .map(|a| a.va.raw())
                    .collect();
                of.sort();
                of.dedup();
                of
            };
            if i == 1 {
                continue; // copy leaves b alone
            }
            let parts = [touched(0), touched(1), touched(2)];
            assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 65536);
            assert!(parts[0].last() < parts[1].first() && parts[1].last() < parts[2].first());
        }
    }
}
