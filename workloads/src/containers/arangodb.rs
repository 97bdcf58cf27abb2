//! ArangoDB under YCSB, datafiles mapped.
//!
//! Source: ArangoDB 3.2 with its MMFiles engine (`arangod/MMFiles`): collections are datafiles of 32 MiB that are mapped;
//! every process builds the primary index in its own memory when it opens a collection (`MMFilesPrimaryIndex`: an
//! associative array of 16 bytes a slot, half full); documents are VelocyPack; updates append to a journal. A request
//! is HTTP and JSON and runs on V8, so that it calls more code than MongoDB's and
//! makes short-lived objects. Calls are an estimate. YCSB as for `mongodb`.

use machine::input::{Kind, Source};

use super::image::{C, CPP, Image, Part, TLS};
use super::{Application, CONTAINERS, CORES, Containers, DATASET, Piece, QUANTUM, START, Worker};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Draw, Permutation, hash};
use crate::registry::{Workload, WorkloadError};
use crate::skew::Zipf;

pub(crate) const WORKLOAD: Workload = Workload {
    name: "arangodb",
    summary: "containers of a document store with an index of its own in each, V8, and mapped datafiles",
    source: "ArangoDB 3.2, MMFiles; YCSB request distribution",
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
            meaning: "part of the requests that read; the others append an update",
        },
    ],
    build,
};

const DOCUMENT: u64 = 1200;
const SLOT: u64 = 16;
/// V8's young generation: two semi-spaces of 1 MiB at first.
const YOUNG: u64 = 2 << 20;
const JOURNAL: u64 = 32 << 20;

struct ArangoDb {
    image: Image,
    documents: u64,
    data: Part,
    index: Part,
    journal: Part,
    young: Part,
    law: Zipf,
    places: Permutation,
    gets: u64,
    seed: u64,
    /// Bytes allocated in the young generation, and appended to the journal, by container.
    grown: Vec<(u64, u64)>,
}

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let documents = (p.bytes("dataset") / DOCUMENT).max(1);
    let mut image = Image::new("arangod", 46 << 10, 2200, 64 << 20);
    image.libraries(C);
    image.libraries(CPP);
    image.libraries(TLS);
    image.libraries(&[("libunwind.so", 64, 8)]);
    image.file("icudtl.dat", 10 << 20, false);
    let data = image.file("datafile", documents * DOCUMENT, false);
    let journal = image.file("journal", JOURNAL, true);
    let index = image.anonymous("primary index", 2 * documents * SLOT);
    let young = image.anonymous("young generation", YOUNG);
    let application = ArangoDb {
        image,
        documents,
        data,
        index,
        journal,
        young,
        law: Zipf::new(documents, 0.99),
        places: Permutation::new(documents, hash(seed, 1)),
        gets: (p.real("get") * 1024.0) as u64,
        seed,
        grown: Vec::new(),
    };
    Ok(Box::new(Containers::new(p, seed, None, application)))
}

impl ArangoDb {
    fn slot(&self, document: u64) -> u64 {
        let slots = self.index.len / SLOT;
        self.index.start + hash(self.seed, document) % slots * SLOT
    }
}

impl Application for ArangoDb {
    fn image(&self) -> &Image {
        &self.image
    }

    fn boot(&mut self, w: &mut Worker<'_>) {
        w.calls(10, 2000);
        w.fill_heap(48 << 20);
        // The index: a part of it, one document in 64; the rest of the time of a long start is not
        // translation's.
        for document in (0..self.documents).step_by(64) {
            w.read((self.data.start + document * DOCUMENT) & !7);
            w.write(self.slot(document));
        }
    }

    fn serve(&mut self, member: usize, w: &mut Worker<'_>) -> Piece {
        if self.grown.len() <= member {
            self.grown.resize(member + 1, (0, 0));
        }
        // HTTP, JSON and the handler in V8: objects one after the other in the young generation.
        w.calls(11, 500);
        let (young, appended) = &mut self.grown[member];
        let objects = 2048;
        w.lines(Kind::Write, self.young.start + *young % self.young.len, objects);
        *young += objects;
        let document = self.places.at(self.law.draw(w.random));
        let get = w.random.below(1024) < self.gets;
        let at = self.data.start + document * DOCUMENT;
        let journal =
            self.journal.start + (*appended + member as u64 * (1 << 20)) % (self.journal.len - 4096);
        if !get {
            *appended += DOCUMENT;
        }
        let slot = self.slot(document);
        w.read(slot);
        w.follow(at & !7);
        w.lines(Kind::Read, at, DOCUMENT);
        if !get {
            w.lines(Kind::Write, journal & !7, DOCUMENT);
            w.write(slot);
        }
        w.calls(12, 400);
        Piece::Request
    }
}
