//! Connected components by Afforest.
//!
//! Source: GAP Benchmark Suite `src/cc.cc` (Sutton, Ben-Nun, Barak, IPDPS
//! 2018): two rounds link every vertex with its first and second neighbour and
//! compress the trees; the most frequent component is sampled; a last pass goes over all
//! vertices and links only those outside of it, with all their neighbours.
//!
//! What decides addresses: the vertex order is sequential, a row's first
//! entries are one random line for most vertices, `comp[v]` of a neighbour is random, and trees
//! soon have depth one or two, so a root is one more random load at an early vertex (the smaller label
//! wins; most end at the giant component's). Here a vertex is in the giant component unless it has no neighbours,
//! and roots are vertices of the first 1024.
//!
//! Footprint: 8 a vertex (row start), 4 (component), 4 for each of twice `degree` neighbours.

use machine::input::{Access, Event, Populate, Source};

use crate::emit::{Algorithm, Interleaved, modify, read, write};
use crate::graph::Graph;
use crate::layout::{ADVICE, Layout, POPULATE, THREADS};
use crate::pagerank::DEGREE;
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Draw, Generator, generator, hash};
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "cc",
    summary: "connected components (Afforest): one or two edges a vertex, random labels",
    source: "GAP Benchmark Suite, cc.cc; Kronecker graph",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 1 << 20, max: 1 << 44 },
            default: "1GiB",
            meaning: "graph and labels; PTEMagnet's graphs are of the 16GB class",
        },
        DEGREE,
        THREADS,
        POPULATE,
        ADVICE,
    ],
    build,
};

/// Vertices that a thread takes at a time (`schedule(dynamic, 16384)`).
const CHUNK: u64 = 16384;
const ROOTS: u64 = 1024;
const SAMPLES: u64 = 1024;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let degree = 2 * p.count("degree");
    let graph = Graph::new(p.bytes("footprint") / (8 + 4 + 4 * degree), degree, seed);
    let vertices = graph.vertices();
    let threads = p.count("threads");
    let mut layout = Layout::new(p);
    let all = Populate::Partitioned;
    let offsets = layout.malloc("row starts", 8 * (vertices + 1), all);
    let edges = layout.malloc("neighbours", 4 * graph.edges(), all);
    let labels = layout.malloc("components", 4 * vertices, all);
    let cc = Cc {
        graph,
        offsets,
        edges,
        labels,
        chunk: CHUNK.min((vertices / threads).max(1)),
        phase: 0,
        next: 0,
        seed: hash(seed, 1),
        random: generator(seed, 2),
        tasks: vec![(0, 0, 0); threads as usize],
    };
    Ok(Box::new(Interleaved::new(p, layout.process("cc"), threads, cc)))
}

/// Link with neighbour 0, compress, link with neighbour 1, compress, sample, last pass, compress.
const PHASES: u32 = 7;
const SAMPLE: u32 = 4;

struct Cc {
    graph: Graph,
    offsets: u64,
    edges: u64,
    labels: u64,
    chunk: u64,
    phase: u32,
    /// The first vertex of the phase that no thread has taken.
    next: u64,
    seed: u64,
    random: Generator,
    /// Per thread: phase, next vertex, end.
    tasks: Vec<(u32, u64, u64)>,
}

impl Cc {
    #[inline(always)]
    fn label(&self, v: u64) -> u64 {
        self.labels + 4 * v
    }

    #[inline(always)]
    fn root(&self, v: u64) -> u64 {
        hash(self.seed, v) % ROOTS % self.graph.vertices()
    }

    /// `Link(u, v)`: both labels; if they differ, the higher one's root is set to the lower.
    fn link(&self, u: u64, v: u64, differ: bool, thread: u16, out: &mut Vec<Access>) {
        out.push(read(self.label(v), 2, thread, 1).dependent());
        out.push(read(self.label(u), 2, thread, 1));
        if differ {
            let high = self.label(self.root(u.max(v)));
            out.push(read(high, 2, thread, 6).dependent());
            out.push(modify(high, 2, thread, 4).locked());
        }
    }

    fn vertex(&self, phase: u32, v: u64, thread: u16, out: &mut Vec<Access>) {
        match phase {
            0 | 2 => {
                out.push(read(self.offsets + 8 * (v + 1), 3, thread, 5));
                let row = self.graph.row(v);
                let k = phase / 2;
                if row.degree > k {
                    out.push(read(self.edges + 4 * (row.start + u64::from(k)), 2, thread, 4));
                    let n = self.graph.neighbour(&row, k);
                    // After the first round nearly all ends are in one tree already.
                    self.link(v, n.vertex, phase == 0, thread, out);
                }
            }
            // comp[n] != comp[comp[n]]
            1 | 3 | 6 => {
                out.push(read(self.label(v), 2, thread, 3));
                out.push(read(self.label(self.root(v)), 2, thread, 1).dependent());
                if phase == 1 {
                    out.push(write(self.label(v), 2, thread, 2));
                }
            }
            _ => out.push(read(self.label(v), 2, thread, 3)),
        }
    }
}

impl Algorithm for Cc {
    fn step(&mut self, thread: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        let (mut phase, mut at, mut end) = self.tasks[thread as usize];
        if at == end {
            if self.next == self.graph.vertices() {
                self.phase = (self.phase + 1) % PHASES;
                self.next = 0;
            }
            if self.phase == SAMPLE {
                // SampleFrequentElement: random labels, counted in a small map.
                for _ in 0..SAMPLES {
                    let v = self.random.below(self.graph.vertices());
                    out.push(read(self.label(v), 2, thread, 40));
                }
                self.phase += 1;
            }
            (phase, at) = (self.phase, self.next);
            end = (at + self.chunk).min(self.graph.vertices());
            self.next = end;
        }
        let stop = (at + 64).min(end);
        for v in at..stop {
            self.vertex(phase, v, thread, out);
        }
        self.tasks[thread as usize] = (phase, stop, end);
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::take;

    #[test]
    fn a_run_has_two_edges_a_vertex_at_most() {
        let mut source = crate::build("cc:footprint=8MiB", 1).unwrap();
        let regions = source.setup().unwrap().processes[0].regions.clone();
        let a = take(source.as_mut(), 4_000_000);
        let count = |i: usize| {
            a.iter().filter(|a| a.va.raw().wrapping_sub(regions[i].start.raw()) < regions[i].len).count()
                as u64
        };
        // Two rounds read each row's start, and its first and second edge where there are such.
        assert!(count(1) <= count(0) && count(1) * 2 > count(0), "{} {}", count(1), count(0));
        assert!(count(2) > 3 * count(1));
    }
}
