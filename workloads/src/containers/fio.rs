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
            name: "write",
            unit: Unit::Real { min: 0.0, max: 1.0 },
            default: "0.3",
            meaning: "part of the I/Os that write",
        },
        Parameter {
            name: "pre_read",
            unit: Unit::Choice(&["no", "yes"]),
            default: "no",
            meaning: "fio's pre_read: each container reads the file once before its first I/O, a line of each page here",
        },
    ],
    build,
};

struct Fio {
    image: Image,
    file: Part,
    buffer: Part,
    block: u64,
    /// I/Os of a hundred that read.
    reads: u64,
    pre_read: bool,
}

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let block = p.bytes("block").next_multiple_of(64);
    let mut image = Image::new("fio", 760, 60, 4 << 20);
    image.libraries(C);
    image.libraries(&[("libaio.so", 16, 8), ("libnuma.so", 48, 8), ("libz.so", 116, 8)]);
    let file = image.file("fio.dat", p.bytes("dataset").max(block), true);
    let buffer = image.anonymous("io_u buffers", 16 * block);
    let reads = 100 - (p.real("write") * 100.0).round() as u64;
    let pre_read = p.choice("pre_read") == "yes";
    Ok(Box::new(Containers::new(p, seed, None, Fio { image, file, buffer, block, reads, pre_read })))
}

impl Application for Fio {
    fn image(&self) -> &Image {
        &self.image
    }

    fn boot(&mut self, w: &mut Worker<'_>) {
        w.calls(10, 400);
        w.lines(Kind::Write, self.buffer.start, self.buffer.len.min(64 << 10));
        if self.pre_read {
            (0..self.file.len).step_by(4096).for_each(|page| w.read(self.file.start + page));
        }
    }

    fn serve(&mut self, _member: usize, w: &mut Worker<'_>) -> Piece {
        w.calls(11, 10);
        let at = self.file.start + w.random.below(self.file.len / self.block) * self.block;
        let buffer = self.buffer.start + w.random.below(16) * self.block;
        let (from, to) = if w.random.below(100) < self.reads { (at, buffer) } else { (buffer, at) };
        for line in (0..self.block).step_by(64) {
            w.read(from + line);
            w.write(to + line);
        }
        w.calls(12, 6);
        Piece::Request
    }
}
