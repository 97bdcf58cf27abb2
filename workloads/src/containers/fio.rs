//! FIO: random reads and writes of a mapped file in memory.
//!
//! Source: fio 3 (`engines/mmap.c`, `io_u.c`): each I/O picks a block (uniform), copies it between the mapping and a
//! buffer of its own, and accounts for its latency. `rw=randrw` with 70 % reads (`rwmixread` default is 50; 70 is the mix
//! of fio's examples), blocks of 4 KiB. Calls are an estimate.

use machine::input::{Kind, Source};

use super::image::{C, Image, Part};
use super::{Application, CONTAINERS, CORES, Containers, DATASET, Piece, QUANTUM, START, Worker};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::Draw;
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "fio",
    summary: "containers that read and write random blocks of a mapped file",
    source: "fio 3, engines/mmap.c",
    parameters: &[
        CONTAINERS,
        CORES,
        QUANTUM,
        START,
        DATASET,
        Parameter {
            name: "block",
            unit: Unit::Bytes { min: 64, max: 1 << 20 },
            default: "4KiB",
            meaning: "bytes of an I/O",
        },
        Parameter {
            name: "populate",
            unit: Unit::Choice(&["demand", "init"]),
            default: "demand",
            meaning: "demand: pages of the file appear as they are touched; init: it is mapped with MAP_POPULATE",
        },
    ],
    build,
};

struct Fio {
    image: Image,
    file: Part,
    buffer: Part,
    block: u64,
}

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let block = p.bytes("block").next_multiple_of(64);
    let mut image = Image::new("fio", 760, 60, 4 << 20);
    image.libraries(C);
    image.libraries(&[("libaio.so", 16, 8), ("libnuma.so", 48, 8), ("libz.so", 116, 8)]);
    let file = image.file("fio.dat", p.bytes("dataset").max(block), true);
    if p.choice("populate") == "init" {
        image.populated();
    }
    let buffer = image.anonymous("io_u buffers", 16 * block);
    Ok(Box::new(Containers::new(p, seed, None, Fio { image, file, buffer, block })))
}

impl Application for Fio {
    fn image(&self) -> &Image {
        &self.image
    }

    fn boot(&mut self, w: &mut Worker<'_>) {
        w.calls(10, 400);
        w.lines(Kind::Write, self.buffer.start, self.buffer.len.min(64 << 10));
    }

    fn serve(&mut self, _member: usize, w: &mut Worker<'_>) -> Piece {
        w.calls(11, 10);
        let at = self.file.start + w.random.below(self.file.len / self.block) * self.block;
        let buffer = self.buffer.start + w.random.below(16) * self.block;
        let (from, to) = if w.random.below(100) < 70 { (at, buffer) } else { (buffer, at) };
        for line in (0..self.block).step_by(64) {
            w.read(from + line);
            w.write(to + line);
        }
        w.calls(12, 6);
        Piece::Request
    }
}
