//! gcc: a compiler's passes over one function after the other.
//!
//! Source: SPEC CPU 2006 403 and 2017 502/602.gcc, by description of GCC's
//! memory: trees and RTL are small objects (40 to 160 bytes) in the garbage
//! collector's pages (`ggc-page.c`: a page holds objects of one size) and in
//! obstacks; each pass walks the instruction chain of the current function and
//! looks at operands near it and at declarations and types far away; identifiers
//! are in a hash table; now and then the collector marks everything that is reachable.
//!
//! A function takes `function` bytes, is built sequentially, and is walked by 60
//! passes: each instruction is found from the one before (a chase, mostly to the next object), with one operand
//! close by and, one time in 8, a declaration drawn by Zipf's law over the whole heap.
//! Functions go round the heap; after every 50 the collector walks all objects:
//! a chase in allocation order with jumps, and a mark bit each (in a page's own table).
//!
//! Footprint: the heap. The suites' inputs: 0.5 to 8 GB. All shares are estimates;
//! trace the real `gcc` where the numbers matter.

use machine::input::{Access, Event, Populate, Source};

use crate::emit::{Algorithm, Interleaved, lines, modify, read, write};
use crate::layout::{ADVICE, Layout, POPULATE};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Draw, Generator, Permutation, generator, hash, scale};
use crate::registry::{Workload, WorkloadError};
use crate::skew::Zipf;

pub(crate) const WORKLOAD: Workload = Workload {
    name: "gcc",
    summary: "compiler passes: small objects, near chases, far declarations, collections",
    source: "SPEC CPU 403 and 502.gcc, by description of GCC's memory",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 4 << 20, max: 1 << 40 },
            default: "1GiB",
            meaning: "heap of the collector",
        },
        Parameter {
            name: "function",
            unit: Unit::Bytes { min: 4096, max: 1 << 30 },
            default: "512KiB",
            meaning: "what one function's code takes in all forms",
        },
        POPULATE,
        ADVICE,
    ],
    build,
};

const OBJECT: u64 = 80;
const PASSES: u64 = 60;
const FUNCTIONS_PER_COLLECTION: u64 = 50;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let objects = p.bytes("footprint") / (OBJECT + 1);
    let function = (p.bytes("function") / OBJECT).min(objects / 2).max(1);
    let mut layout = Layout::new(p);
    let by = Populate::By(0);
    let heap = layout.map("collected heap", objects * OBJECT, by);
    // A bit an object, and the page table entries of ggc-page.c: a byte together.
    let marks = layout.map("mark bits", objects, by);
    let gcc = Gcc {
        heap,
        marks,
        objects,
        function,
        start: 0,
        pass: 0,
        at: 0,
        functions: 0,
        marked: 0,
        law: Zipf::new(objects, 0.99),
        places: Permutation::new(objects, hash(seed, 0)),
        seed: hash(seed, 1),
        random: generator(seed, 2),
    };
    Ok(Box::new(Interleaved::new(p, layout.process("cc1"), 1, gcc)))
}

struct Gcc {
    heap: u64,
    marks: u64,
    objects: u64,
    /// Objects of a function.
    function: u64,
    /// The current function's first object, pass and place in it.
    start: u64,
    pass: u64,
    at: u64,
    functions: u64,
    /// Objects that the current collection has still to mark.
    marked: u64,
    law: Zipf,
    places: Permutation,
    seed: u64,
    random: Generator,
}

impl Gcc {
    #[inline(always)]
    fn object(&self, index: u64) -> u64 {
        self.heap + OBJECT * index
    }

    /// A run of the collector's mark phase.
    fn mark(&mut self, out: &mut Vec<Access>) {
        for _ in 0..self.marked.min(64) {
            self.marked -= 1;
            let step = hash(self.seed, self.marked);
            // Seven of eight pointers lead to a neighbour, the others anywhere.
            let object =
                if step & 7 == 0 { self.places.at(self.marked) } else { self.objects - 1 - self.marked };
            out.push(read(self.object(object), 3, 0, 12).dependent());
            out.push(modify(self.marks + object, 0, 0, 15));
        }
    }
}

impl Algorithm for Gcc {
    fn step(&mut self, _: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        if self.marked > 0 {
            return self.mark(out);
        }
        for _ in 0..(self.function - self.at).min(32) {
            let index = self.start + self.at;
            let here = self.object(index);
            if self.pass == 0 {
                lines(out, write(here, 3, 0, 60), OBJECT, 10);
            } else {
                let bits = self.random.bits();
                // The next instruction, its code, an operand within 64 objects.
                out.push(read(here, 3, 0, 15).dependent());
                out.push(read(here + 16, 3, 0, 3));
                let near = self.start + (self.at ^ (hash(self.seed, index) & 63)).min(self.function - 1);
                out.push(read(self.object(near) + 8, 3, 0, 8).dependent());
                if bits & 7 == 0 {
                    let far = self.places.at(self.law.draw(&mut self.random));
                    out.push(read(self.object(far), 3, 0, 20));
                    out.push(
                        read(self.object(scale(hash(self.seed, far), self.objects)), 3, 0, 6).dependent(),
                    );
                }
                if bits & 0xf0 == 0 {
                    out.push(write(here + 24, 3, 0, 10));
                }
            }
            self.at += 1;
        }
        if self.at == self.function {
            self.at = 0;
            self.pass += 1;
        }
        if self.pass > PASSES {
            self.pass = 0;
            self.start += self.function;
            if self.start + self.function > self.objects {
                self.start = 0;
            }
            self.functions += 1;
            if self.functions.is_multiple_of(FUNCTIONS_PER_COLLECTION) {
                self.marked = self.objects;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::take;

    #[test]
    fn most_accesses_are_near_and_collections_happen() {
        let spec = "gcc:footprint=8MiB,function=16KiB";
        let mut source = crate::build(spec, 1).unwrap();
        let regions = source.setup().unwrap().processes[0].regions.clone();
        let a = take(source.as_mut(), 4_000_000);
        let marks =
            a.iter().filter(|a| a.va.raw().wrapping_sub(regions[1].start.raw()) < regions[1].len).count();
        // 50 functions of 204 objects, 60 passes of 3.3 accesses; then 103000 objects to mark.
        let share = marks as f64 / a.len() as f64;
        assert!((0.02..0.06).contains(&share), "{share}");
        let near = a.windows(2).filter(|w| w[0].va.raw().abs_diff(w[1].va.raw()) < 8192).count();
        assert!(near as f64 / a.len() as f64 > 0.6);
    }
}
