//! Apache's httpd, static documents.
//!
//! Source: httpd 2.4, prefork; a process serves one connection at a time; documents are mapped before the
//! first request (`mod_file_cache`, `MMapFile`) and read from there; modules are shared objects, each with data that the
//! loader relocates. A request is parsed, goes through the hooks of the modules, is mapped to a document, sent and
//! logged; memory is from a pool that is cleared after it (`apr_pools.c`, 8 KiB at least). Documents: sizes as in
//! SPECweb99's classes 0 and 1 (0.1 to 9 KiB), popularity Zipf 0.99. Calls are an estimate.

use machine::input::{Kind, Source};

use super::image::{C, Image, Part, TLS};
use super::{Application, CONTAINERS, CORES, Containers, DATASET, Piece, QUANTUM, START, Worker};
use crate::parameters::Parameters;
use crate::random::{Permutation, hash};
use crate::registry::{Workload, WorkloadError};
use crate::skew::Zipf;

pub(crate) const WORKLOAD: Workload = Workload {
    name: "httpd",
    summary: "containers of a web server: modules' hooks, mapped documents, pools",
    source: "Apache httpd 2.4, prefork; SPECweb99's document sizes",
    parameters: &[CONTAINERS, CORES, QUANTUM, START, DATASET],
    build,
};

const LARGEST: u64 = 9 << 10;
const POOL: u64 = 256 << 10;

struct Httpd {
    image: Image,
    documents: Part,
    pool: Part,
    law: Zipf,
    places: Permutation,
    seed: u64,
    log: Vec<u64>,
}

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let mut image = Image::new("httpd", 660, 32, 8 << 20);
    image.libraries(C);
    image.libraries(TLS);
    image.libraries(&[
        ("libapr.so", 230, 12),
        ("libaprutil.so", 180, 12),
        ("libpcre2.so", 600, 8),
        ("libexpat.so", 170, 12),
        ("libnghttp2.so", 170, 24),
        ("libcrypt.so", 200, 8),
    ]);
    for module in [
        "mpm_prefork",
        "authn_core",
        "authz_core",
        "authz_host",
        "dir",
        "mime",
        "log_config",
        "env",
        "headers",
        "setenvif",
        "alias",
        "rewrite",
        "filter",
        "deflate",
        "status",
        "negotiation",
        "autoindex",
        "reqtimeout",
        "file_cache",
        "unixd",
    ] {
        image.library(&format!("mod_{module}.so"), 40, 8);
    }
    let documents = image.file("htdocs", p.bytes("dataset").max(2 * LARGEST), false);
    let pool = image.anonymous("pools", POOL);
    let count = (documents.len / LARGEST).max(1);
    let application = Httpd {
        image,
        documents,
        pool,
        law: Zipf::new(count, 0.99),
        places: Permutation::new(count, hash(seed, 1)),
        seed,
        log: Vec::new(),
    };
    Ok(Box::new(Containers::new(p, seed, None, application)))
}

impl Application for Httpd {
    fn image(&self) -> &Image {
        &self.image
    }

    fn boot(&mut self, w: &mut Worker<'_>) {
        // The configuration, twice, and the modules' hooks.
        w.calls(10, 800);
        w.fill_heap(3 << 20);
        w.lines(Kind::Write, self.pool.start, 64 << 10);
    }

    fn serve(&mut self, member: usize, w: &mut Worker<'_>) -> Piece {
        if self.log.len() <= member {
            self.log.resize(member + 1, 0);
        }
        let document = self.places.at(self.law.draw(w.random));
        let bytes = 100 + hash(self.seed, document) % (LARGEST - 100);
        // The request's pool begins anew each time.
        w.lines(Kind::Write, self.pool.start + 4096, 512);
        w.calls(11, 250);
        w.lines(Kind::Write, self.pool.start + 8192, 2048);
        w.lines(Kind::Read, (self.documents.start + document * LARGEST) & !7, bytes);
        w.calls(12, 150);
        let log = &mut self.log[member];
        w.lines(Kind::Write, self.pool.start + POOL / 2 + *log % 4096, 120);
        *log += 120;
        Piece::Request
    }
}
