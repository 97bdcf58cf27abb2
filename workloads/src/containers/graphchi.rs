//! GraphChi: PageRank by parallel sliding windows.
//!
//! Source: Kyrola et al., "GraphChi", OSDI 2012, and its `pagerank.cpp`: edges in shards by destination, sorted by source; an interval's
//! shard is read as a whole, and of every other shard the window with the interval's sources. Each edge has a value
//! of 4 bytes, in blocks that are read into memory of the process and written back. A vertex reads the
//! values of its edges in, computes, and writes those of its edges out, which lie one after the other. 500 000 vertices as in the paper;
//! edges a vertex (14) as in LiveJournal, estimated. Shards are mapped.

use machine::input::{Kind, Source};

use super::image::{C, CPP, Image, Part};
use super::{Application, CONTAINERS, CORES, Containers, Piece, QUANTUM, START, Worker};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Draw, hash};
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "graphchi",
    summary: "containers of PageRank by sliding windows over mapped shards",
    source: "GraphChi (OSDI 2012), pagerank.cpp",
    parameters: &[
        CONTAINERS,
        CORES,
        QUANTUM,
        START,
        Parameter {
            name: "vertices",
            unit: Unit::Count { min: 1000, max: 1 << 30 },
            default: "500000",
            meaning: "vertices of the graph; the paper: 500000",
        },
    ],
    build,
};

/// Edges of a vertex, each way.
const DEGREE: u64 = 14;
/// Vertices of a piece of work.
const PIECE: u64 = 8;
const INTERVALS: u64 = 4;

struct GraphChi {
    image: Image,
    vertices: u64,
    /// Adjacency: a byte or four for each edge; here four.
    shards: Part,
    degrees: Part,
    /// Of each process: edges' values, and vertices.
    values: Part,
    own: Part,
    seed: u64,
    /// The next vertex of each container.
    next: Vec<u64>,
}

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let vertices = p.count("vertices");
    let mut image = Image::new("pagerank", 900, 24, 16 << 20);
    image.libraries(C);
    image.libraries(CPP);
    image.libraries(&[("libgomp.so", 260, 8), ("libz.so", 116, 8)]);
    let shards = image.file("graph.shards", vertices * DEGREE * 4, false);
    let degrees = image.file("graph.degrees", vertices * 8, false);
    let values = image.anonymous("edge values", vertices * DEGREE * 4);
    let own = image.anonymous("vertices", vertices * 8);
    let application = GraphChi { image, vertices, shards, degrees, values, own, seed, next: Vec::new() };
    Ok(Box::new(Containers::new(p, seed, None, application)))
}

impl Application for GraphChi {
    fn image(&self) -> &Image {
        &self.image
    }

    fn boot(&mut self, w: &mut Worker<'_>) {
        w.calls(10, 300);
    }

    fn serve(&mut self, member: usize, w: &mut Worker<'_>) -> Piece {
        if self.next.len() <= member {
            // Containers are at different places of an iteration.
            let vertices = self.vertices;
            self.next.resize_with(member + 1, || 0);
            self.next[member] = member as u64 * 7919 * PIECE % vertices;
        }
        let first = self.next[member];
        for vertex in first..(first + PIECE).min(self.vertices) {
            w.code.call_in(0, vertex / 4096, w.thread, w.out);
            w.read(self.degrees.start + vertex * 8);
            w.lines(Kind::Read, (self.shards.start + vertex * DEGREE * 4) & !7, DEGREE * 4);
            // Values in come from the windows of the interval, those out follow each other.
            let interval = self.values.len / INTERVALS;
            for edge in 0..DEGREE {
                let window = hash(self.seed, vertex * DEGREE + edge);
                let at = (vertex * DEGREE * 4 + (window % INTERVALS) * interval + window / 64 % 0x4000)
                    % self.values.len;
                w.read((self.values.start + at) & !7);
            }
            w.write(self.own.start + vertex * 8);
            w.lines(Kind::Write, (self.values.start + vertex * DEGREE * 4) & !7, DEGREE * 4);
        }
        if w.random.below(32) == 0 {
            w.calls(11, 8);
        }
        let end = first + PIECE;
        self.next[member] = if end >= self.vertices { 0 } else { end };
        // An iteration is a request.
        if end >= self.vertices { Piece::Request } else { Piece::Part }
    }
}
