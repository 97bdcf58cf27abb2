//! MongoDB under YCSB, data files mapped.
//!
//! Source: MongoDB 3.2 with its MMAPv1 engine (`src/mongo/db/storage/mmap_v1`): data files are mapped; an index is a B-tree
//! of 8 KiB buckets (`btree/btree_ondisk.h`: 8 KiB bucket, 16 bytes a key node and the key itself, two thirds full);
//! a record is a header of 16 bytes and the document. YCSB (SoCC 2010): 1000-byte documents, keys by Zipf 0.99
//! scattered over the records, 95 % reads. A request goes through receiving, parsing and planning, the index, the
//! record, and the reply. How many functions each calls is an estimate.

use machine::input::{Kind, Source};

use super::image::{C, CPP, Image, Part, TLS};
use super::{Application, CONTAINERS, CORES, Containers, DATASET, Piece, QUANTUM, START, Worker};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Draw, Permutation, hash};
use crate::registry::{Workload, WorkloadError};
use crate::skew::Zipf;

pub(crate) const WORKLOAD: Workload = Workload {
    name: "mongodb",
    summary: "containers of a document store: planner, B-tree index, records in mapped files",
    source: "MongoDB 3.2, MMAPv1; YCSB request distribution",
    parameters: &[
        CONTAINERS,
        CORES,
        QUANTUM,
        START,
        DATASET,
        Parameter {
            name: "get",
            unit: Unit::Real { min: 0.0, max: 1.0 },
            default: "0.95",
            meaning: "part of the requests that read; the others update",
        },
    ],
    build,
};

const BUCKET: u64 = 8192;
/// A key of 24 bytes with its node, in buckets that are two thirds full.
const FANOUT: u64 = BUCKET * 2 / 3 / (24 + 16);
const RECORD: u64 = 1024 + 16;
/// Connections, each with a buffer.
const CLIENTS: u64 = 32;
const BUFFER: u64 = 16 << 10;

struct MongoDb {
    image: Image,
    data: Part,
    /// First byte and buckets of each level of the index, the root first.
    levels: Vec<(u64, u64)>,
    buffers: Part,
    law: Zipf,
    places: Permutation,
    gets: u64,
}

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let records = (p.bytes("dataset") / RECORD).max(1);
    let mut image = Image::new("mongod", 40 << 10, 1600, 96 << 20);
    image.libraries(C);
    image.libraries(CPP);
    image.libraries(TLS);
    image.libraries(&[("libboost.so", 400, 24), ("libstemmer.so", 560, 16), ("libpcre.so", 480, 8)]);
    let mut sizes = vec![records.div_ceil(FANOUT)];
    while let Some(&below) = sizes.last()
        && below > 1
    {
        sizes.push(below.div_ceil(FANOUT));
    }
    let index = image.file("ycsb.ns", sizes.iter().sum::<u64>() * BUCKET, true);
    let data = image.file("ycsb.0", records * RECORD, true);
    let buffers = image.anonymous("buffers", CLIENTS * 2 * BUFFER);
    let mut next = index.start;
    let levels = sizes
        .into_iter()
        .rev()
        .map(|buckets| {
            let start = next;
            next += buckets * BUCKET;
            (start, buckets)
        })
        .collect();
    let application = MongoDb {
        image,
        data,
        levels,
        buffers,
        law: Zipf::new(records, 0.99),
        places: Permutation::new(records, hash(seed, 1)),
        gets: (p.real("get") * 1024.0) as u64,
    };
    Ok(Box::new(Containers::new(p, seed, None, application)))
}

impl Application for MongoDb {
    fn image(&self) -> &Image {
        &self.image
    }

    fn boot(&mut self, w: &mut Worker<'_>) {
        // Options, storage engine, listening; the root of the index. Its own memory when it is idle, less files.
        w.calls(10, 1500);
        w.fill_heap(24 << 20);
        w.lines(Kind::Read, self.levels[0].0, BUCKET);
        w.lines(Kind::Write, self.buffers.start, BUFFER);
    }

    fn serve(&mut self, _member: usize, w: &mut Worker<'_>) -> Piece {
        let buffer = self.buffers.start + w.random.below(CLIENTS) * 2 * BUFFER;
        w.calls(11, 90);
        w.lines(Kind::Write, buffer, 128);
        w.calls(12, 300);
        let record = self.places.at(self.law.draw(w.random));
        for (level, &(start, buckets)) in self.levels.iter().enumerate() {
            let below = FANOUT.pow((self.levels.len() - 1 - level) as u32);
            let bucket = start + (record / FANOUT / below).min(buckets - 1) * BUCKET;
            // A binary search: the header, nodes ever nearer, and the key at the end.
            w.follow(bucket);
            let mut step = FANOUT / 2;
            let wanted = record / below % FANOUT;
            let mut at = step;
            while step > 4 {
                w.follow(bucket + 32 + at * 16);
                step /= 2;
                at = if wanted > at { at + step } else { at - step };
            }
            w.follow(bucket + BUCKET - 32 - wanted * 24);
        }
        w.calls(13, 60);
        let at = self.data.start + record * RECORD;
        if w.random.below(1024) < self.gets {
            w.lines(Kind::Read, at, RECORD);
            w.lines(Kind::Write, buffer + BUFFER, RECORD);
        } else {
            w.lines(Kind::Read, at, 64);
            let field = w.random.below(10);
            w.lines(Kind::Write, at + 16 + 100 * field, 100);
        }
        w.calls(14, 150);
        Piece::Request
    }
}
