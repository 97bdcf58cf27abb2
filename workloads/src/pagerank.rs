//! PageRank, pulling: each vertex sums the contributions of its neighbours.
//!
//! Source: GAP Benchmark Suite (Beamer, Asanović, Patterson 2015), `src/pr.cc`,
//! `PageRankPullGS`: for every vertex in order, its row of 4-byte neighbours in
//! sequence and for each the 4-byte `outgoing_contrib` of that neighbour (the
//! random gather); then score and contribution are written. Threads take chunks of 16384 vertices.
//!
//! Footprint: per vertex 8 (row starts), 4 (score), 4 (contribution), and 4 for
//! each of twice `degree` neighbours (the graph is symmetric). The papers: 69 GB. The graph is in `graph.rs`;
//! its arrays are filled by all threads, each its own part.
//!
//! A gather waits for the edge that names its vertex, the next edge does not
//! wait for the gather. Three instructions an edge and one (convert and add folded
//! with the load would be two) a gather.

use machine::input::{Access, Event, Populate, Source};

use crate::emit::{Algorithm, Interleaved, read, write};
use crate::graph::{Graph, Row};
use crate::layout::{ADVICE, Layout, POPULATE, THREADS};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::registry::{Workload, WorkloadError};

/// `degree=`, for the workloads on graphs.
pub(crate) const DEGREE: Parameter = Parameter {
    name: "degree",
    unit: Unit::Count { min: 1, max: 256 },
    default: "16",
    meaning: "edges per vertex (the generator's edge factor); each is stored at both ends",
};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "pagerank",
    summary: "PageRank pull: sequential edges, a random gather for each",
    source: "GAP Benchmark Suite, pr.cc; Kronecker graph",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 1 << 20, max: 1 << 44 },
            default: "1GiB",
            meaning: "graph, scores and contributions; the papers use 69GB",
        },
        DEGREE,
        THREADS,
        POPULATE,
        ADVICE,
    ],
    build,
};

const CHUNK: u64 = 16384;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let degree = 2 * p.count("degree");
    let graph = Graph::new(p.bytes("footprint") / (8 + 4 + 4 + 4 * degree), degree, seed);
    let vertices = graph.vertices();
    let threads = p.count("threads");
    let mut layout = Layout::new(p);
    let all = Populate::Partitioned;
    let offsets = layout.malloc("row starts", 8 * (vertices + 1), all);
    let edges = layout.malloc("neighbours", 4 * graph.edges(), all);
    let scores = layout.malloc("scores", 4 * vertices, all);
    let contributions = layout.malloc("contributions", 4 * vertices, all);
    let chunk = CHUNK.min((vertices / threads).max(1));
    let mut rank =
        PageRank { graph, offsets, edges, scores, contributions, chunk, next: 0, places: Vec::new() };
    for _ in 0..threads {
        let place = rank.take();
        rank.places.push(place);
    }
    Ok(Box::new(Interleaved::new(p, layout.process("pr"), threads, rank)))
}

struct Place {
    vertex: u64,
    end: u64,
    row: Row,
    edge: u32,
}

struct PageRank {
    graph: Graph,
    offsets: u64,
    edges: u64,
    scores: u64,
    contributions: u64,
    chunk: u64,
    /// The first vertex that no thread has taken yet.
    next: u64,
    places: Vec<Place>,
}

impl PageRank {
    /// A thread takes the next chunk; after the last vertex a new iteration begins.
    fn take(&mut self) -> Place {
        let vertex = self.next;
        let end = (vertex + self.chunk).min(self.graph.vertices());
        self.next = if end == self.graph.vertices() { 0 } else { end };
        Place { vertex, end, row: self.graph.row(vertex), edge: 0 }
    }
}

impl Algorithm for PageRank {
    fn step(&mut self, thread: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        let place = &mut self.places[thread as usize];
        let vertex = place.vertex;
        if place.edge == 0 {
            // The row's end; its start is the end of the row before.
            out.push(read(self.offsets + 8 * (vertex + 1), 3, thread, 5));
        }
        let end = place.row.degree.min(place.edge + 64);
        for k in place.edge..end {
            out.push(read(self.edges + 4 * (place.row.start + u64::from(k)), 2, thread, 3));
            let neighbour = self.graph.neighbour(&place.row, k);
            out.push(read(self.contributions + 4 * neighbour.vertex, 2, thread, 1).dependent());
        }
        place.edge = end;
        if end == place.row.degree {
            // Two multiply-adds, a difference, and a division by the degree.
            out.push(read(self.scores + 4 * vertex, 2, thread, 3));
            out.push(write(self.scores + 4 * vertex, 2, thread, 4));
            out.push(write(self.contributions + 4 * vertex, 2, thread, 10));
            place.vertex += 1;
            place.edge = 0;
            if place.vertex == place.end {
                let next = self.take();
                self.places[thread as usize] = next;
            } else {
                place.row = self.graph.row(place.vertex);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::take;
    use machine::input::{Kind, Region, Source};

    fn regions(source: &mut dyn Source) -> Vec<Region> {
        source.setup().unwrap().processes[0].regions.clone()
    }

    #[test]
    fn an_iteration_reads_each_edge_once_and_in_order() {
        let mut source = crate::build("pagerank:footprint=1MiB,degree=8", 1).unwrap();
        let regions = regions(source.as_mut());
        let vertices = 1u64 << (1u64 << 20).div_euclid(8 + 4 + 4 + 64).ilog2();
        let (edges, reads_a_vertex) = (vertices * 16, 3 + 1);
        let iteration = (2 * edges + reads_a_vertex * vertices) as usize;
        let a = take(source.as_mut(), 2 * iteration);
        let (one, two) = a.split_at(iteration);
        assert_eq!(one, two);
        let of = |i: usize| -> Vec<u64> {
            let inside = |va: &u64| va.wrapping_sub(regions[i].start.raw()) < regions[i].len;
            one.iter().map(|a| a.va.raw()).filter(inside).collect()
        };
        let start = regions[1].start.raw() + 16;
        assert_eq!(of(1), (0..edges).map(|e| start + 4 * e).collect::<Vec<_>>());
        assert_eq!(of(3).len() as u64, edges + vertices);
        assert_eq!(one.iter().filter(|a| a.kind == Kind::Write).count() as u64, 2 * vertices);
    }

    #[test]
    fn threads_share_the_vertices() {
        let mut source = crate::build("pagerank:footprint=4MiB,threads=3", 1).unwrap();
        let regions = regions(source.as_mut());
        let a = take(source.as_mut(), 4_000_000);
        let scores = regions[2].start.raw();
        let mut written = std::collections::HashMap::new();
        for a in
            a.iter().filter(|a| a.kind == Kind::Write && a.va.raw().wrapping_sub(scores) < regions[2].len)
        {
            *written.entry(a.va.raw()).or_insert(0u32) += 1;
        }
        let (least, most) = (written.values().min().unwrap(), written.values().max().unwrap());
        assert!(most - least <= 2, "{least} {most}");
    }
}
