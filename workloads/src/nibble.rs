//! Nibble: a local random walk from a seed, pushed along the edges of the
//! vertices that have enough probability.
//!
//! Source: the truncated random walk of Spielman and Teng (STOC 2004) as parallel frameworks
//! run it (Shun, Roosta-Khorasani, Fountoulakis, Mahoney, PVLDB 2016; the GPOP framework, PPOPP 2019): in
//! each iteration every vertex of the frontier reads its probability and row start, keeps half, and adds
//! a share of the other half to each neighbour; a filter over what was reached makes the
//! next frontier. The frontier is a list; its vertices are anywhere in the graph.
//!
//! Which vertices pass the threshold depends on values that are not kept: after the first iterations
//! a share of all vertices (`active`, an estimate), drawn anew by a hash for each iteration. Edges of
//! an active vertex are read in sequence, and for each the neighbour's 4-byte sum is modified (the random
//! access, which waits for the edge) and its mark is looked at.
//!
//! Footprint: a vertex has 8 (row start), 4 (probability), 4 (sum), 1 (mark) and 4 for each of
//! twice `degree` neighbours; the frontier has 4 for each active vertex.

use machine::input::{Access, Event, Populate, Source};

use crate::emit::{Algorithm, Interleaved, modify, read, write};
use crate::graph::{Graph, Row};
use crate::layout::{ADVICE, Layout, POPULATE, THREADS};
use crate::pagerank::DEGREE;
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{hash, unit};
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "nibble",
    summary: "local random walk: scattered rows, a random sum for each edge",
    source: "Nibble (Spielman, Teng 2004) by a frontier, as in Ligra and GPOP; Kronecker graph",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 1 << 20, max: 1 << 44 },
            default: "1GiB",
            meaning: "graph, probabilities and frontier; PTEMagnet's graphs are of the 16GB class",
        },
        DEGREE,
        Parameter {
            name: "active",
            unit: Unit::Real { min: 0.0001, max: 1.0 },
            default: "0.1",
            meaning: "share of the vertices that is in the frontier",
        },
        THREADS,
        POPULATE,
        ADVICE,
    ],
    build,
};

/// Vertices that a thread takes at a time.
const CHUNK: u64 = 16384;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let degree = 2 * p.count("degree");
    let active = p.real("active");
    let vertex = 8 + 4 + 4 + 1 + 4 * degree + (4.0 * active) as u64;
    let graph = Graph::new(p.bytes("footprint") / vertex, degree, seed);
    let vertices = graph.vertices();
    let threads = p.count("threads");
    let mut layout = Layout::new(p);
    let all = Populate::Partitioned;
    let offsets = layout.malloc("row starts", 8 * (vertices + 1), all);
    let edges = layout.malloc("neighbours", 4 * graph.edges(), all);
    let probabilities = layout.malloc("probabilities", 4 * vertices, all);
    let sums = layout.malloc("sums", 4 * vertices, all);
    let marks = layout.malloc("marks", vertices, all);
    // Both frontiers; a hash may draw a few more than the share.
    let room = (vertices as f64 * active * 1.1) as u64 + 1024;
    let frontiers = layout.malloc("frontiers", 8 * room, all);
    let first = Place { vertex: 0, end: 0, iteration: 0, row: graph.row(0), edge: 0, listed: 0 };
    let nibble = Nibble {
        graph,
        offsets,
        edges,
        probabilities,
        sums,
        marks,
        frontiers,
        room,
        active,
        chunk: CHUNK.min((vertices / threads).max(1)),
        seed: hash(seed, 3),
        iteration: 0,
        next: 0,
        listed: 0,
        places: vec![first; threads as usize],
    };
    Ok(Box::new(Interleaved::new(p, layout.process("nibble"), threads, nibble)))
}

#[derive(Clone)]
struct Place {
    vertex: u64,
    end: u64,
    iteration: u64,
    row: Row,
    /// The next edge of the active vertex; 0: look for one.
    edge: u32,
    /// Where the thread's part of the frontier goes on.
    listed: u64,
}

struct Nibble {
    graph: Graph,
    offsets: u64,
    edges: u64,
    probabilities: u64,
    sums: u64,
    marks: u64,
    frontiers: u64,
    /// Vertices that a frontier has room for.
    room: u64,
    active: f64,
    chunk: u64,
    seed: u64,
    iteration: u64,
    /// The first vertex of the iteration that no thread has taken.
    next: u64,
    listed: u64,
    places: Vec<Place>,
}

impl Nibble {
    fn is_active(&self, iteration: u64, vertex: u64) -> bool {
        unit(hash(self.seed ^ iteration, vertex)) < self.active
    }

    /// A place in one of the two frontiers.
    fn frontier(&self, iteration: u64, at: u64) -> u64 {
        self.frontiers + 4 * (iteration % 2 * self.room + at % self.room)
    }

    /// A thread takes the next part of the frontier.
    fn take(&mut self, thread: usize) {
        if self.next == self.graph.vertices() {
            self.iteration += 1;
            (self.next, self.listed) = (0, 0);
        }
        let (vertex, end) = (self.next, (self.next + self.chunk).min(self.graph.vertices()));
        let (iteration, listed) = (self.iteration, self.listed);
        self.next = end;
        self.listed += (vertex..end).filter(|v| self.is_active(iteration, *v)).count() as u64;
        let row = self.graph.row(vertex);
        self.places[thread] = Place { vertex, end, iteration, row, edge: 0, listed };
    }
}

impl Algorithm for Nibble {
    fn step(&mut self, thread: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        let at = thread as usize;
        if self.places[at].edge == 0 {
            // The next of the frontier. (Those that are not in it cost nothing: it is a list.)
            loop {
                let place = &self.places[at];
                if place.vertex == place.end {
                    self.take(at);
                } else if self.is_active(place.iteration, place.vertex)
                    && self.graph.row(place.vertex).degree > 0
                {
                    break;
                } else {
                    self.places[at].vertex += 1;
                }
            }
            let (vertex, iteration) = (self.places[at].vertex, self.places[at].iteration);
            self.places[at].row = self.graph.row(vertex);
            let listed = self.places[at].listed;
            self.places[at].listed += 1;
            out.push(read(self.frontier(iteration, listed), 2, thread, 4));
            out.push(read(self.probabilities + 4 * vertex, 2, thread, 1).dependent());
            out.push(read(self.offsets + 8 * vertex, 3, thread, 2));
            // Half stays, and the vertex may stay in the frontier.
            out.push(write(self.sums + 4 * vertex, 2, thread, 6));
            out.push(write(self.frontier(iteration + 1, listed), 2, thread, 4));
        }
        let place = &self.places[at];
        let end = place.row.degree.min(place.edge + 64);
        for k in place.edge..end {
            out.push(read(self.edges + 4 * (place.row.start + u64::from(k)), 2, thread, 3));
            let neighbour = self.graph.neighbour(&place.row, k).vertex;
            out.push(modify(self.sums + 4 * neighbour, 2, thread, 2).dependent());
            out.push(read(self.marks + neighbour, 0, thread, 2));
        }
        let done = end == place.row.degree;
        let place = &mut self.places[at];
        place.edge = if done { 0 } else { end };
        place.vertex += u64::from(done);
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::take;
    use machine::input::Kind;

    #[test]
    fn a_share_of_the_vertices_pushes_along_each_of_its_edges() {
        let mut source = crate::build("nibble:footprint=8MiB,active=0.2", 1).unwrap();
        let regions = source.setup().unwrap().processes[0].regions.clone();
        let a = take(source.as_mut(), 2_000_000);
        let of = |i: usize, kind: Kind| {
            a.iter()
                .filter(|a| {
                    a.kind == kind && a.va.raw().wrapping_sub(regions[i].start.raw()) < regions[i].len
                })
                .map(|a| a.va.raw())
                .collect::<Vec<u64>>()
        };
        let (edges, sums) = (of(1, Kind::Read), of(3, Kind::Modify));
        assert!(edges.len().abs_diff(sums.len()) <= 1, "{} edges, {} sums", edges.len(), sums.len());
        // The vertices of an iteration come in order, about one in five.
        let vertices = regions[2].len / 4;
        let mut pushed: Vec<u64> = of(2, Kind::Read);
        let whole = pushed.windows(2).position(|w| w[1] < w[0]).unwrap() + 1;
        pushed.truncate(whole);
        let share = whole as f64 / vertices as f64;
        assert!((share - 0.2).abs() < 0.05, "{share}");
    }
}
