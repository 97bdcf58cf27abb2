//! Functions as a service: parse, hash, marshal.
//!
//! Source: the three functions of BabelFish (ISCA 2020) as it describes them: *parse* cuts its input into tokens, *hash*
//! computes djb2 over it (`h * 33 + c`), *marshal* turns values into strings. All three run in containers of one image
//! with a C++ runtime, on an input in the page cache. *dense*: all of a page, then the next; *sparse*: a tenth of a page,
//! then the next. As many bytes either way, so ten times the pages. A container serves one
//! request and ends; the next one is started. How much code a start-up runs is an estimate.
//!
//! Not in the paper: with `state`, the program keeps memory that it fills when it starts and requests only read (a model,
//! a warm runtime), as the zygotes of Catalyzer (Du et al., ASPLOS 2020) hand on to their forks. It is what lies in
//! huge pages, where the system has them: the rest of the image is too small. A load of it for each line of input.

use machine::input::{Kind, Source};

use super::image::{C, CPP, Image, Part};
use super::{Application, CONTAINERS, CORES, Containers, Piece, QUANTUM, START, Worker};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::Draw;
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "functions",
    summary: "containers that start, run one short function (parse, hash, marshal), and end",
    source: "BabelFish (ISCA 2020), its functions; djb2",
    parameters: &[
        Parameter { default: "24", ..CONTAINERS },
        CORES,
        QUANTUM,
        START,
        Parameter {
            name: "function",
            unit: Unit::Choice(&["all", "parse", "hash", "marshal"]),
            default: "all",
            meaning: "what they do; all: the three in turn",
        },
        Parameter {
            name: "pattern",
            unit: Unit::Choice(&["dense", "sparse"]),
            default: "dense",
            meaning: "all of a page of the input, or a tenth of it, before the next",
        },
        Parameter {
            name: "input",
            unit: Unit::Bytes { min: 4096, max: 1 << 34 },
            default: "2MiB",
            meaning: "bytes that a request reads",
        },
        Parameter {
            name: "invocations",
            unit: Unit::Count { min: 1, max: 1 << 40 },
            default: "1",
            meaning: "requests that a container serves before it ends",
        },
        Parameter {
            name: "state",
            unit: Unit::Bytes { min: 0, max: 1 << 38 },
            default: "0",
            meaning: "memory filled at the start, then only read; by the zygote for all with start=fork; of huge pages where the system has them, if it is a multiple of their size",
        },
    ],
    build,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Function {
    Parse,
    Hash,
    Marshal,
}

struct Functions {
    image: Image,
    which: Option<Function>,
    input: Part,
    /// Bytes read of each page, and the bytes of a request.
    of_page: u64,
    bytes: u64,
    output: Part,
    state: Part,
    /// Bytes that each container's request has read.
    read: Vec<u64>,
}

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    // Whole lines: 6 of 64 are a tenth.
    let of_page = if p.choice("pattern") == "sparse" { 384 } else { 4096 };
    let bytes = p.bytes("input").next_multiple_of(4096);
    let mut image = Image::new("fwatchdog", 4600, 360, 16 << 20);
    image.libraries(C);
    image.libraries(CPP);
    image.libraries(&[("libcurl.so", 620, 16), ("libz.so", 116, 8)]);
    let input = image.file("input", bytes.div_ceil(of_page) * 4096, false);
    let output = image.anonymous("output", bytes / 2);
    let state = match p.bytes("state") {
        0 => Part::default(),
        bytes => image.fixed("state", bytes),
    };
    let which = match p.choice("function") {
        "parse" => Some(Function::Parse),
        "hash" => Some(Function::Hash),
        "marshal" => Some(Function::Marshal),
        _ => None,
    };
    let life = Some(p.count("invocations"));
    let application = Functions { image, which, input, of_page, bytes, output, state, read: Vec::new() };
    Ok(Box::new(Containers::new(p, seed, life, application)))
}

/// Lines of a piece of work.
const PIECE: u64 = 64;

impl Application for Functions {
    fn image(&self) -> &Image {
        &self.image
    }

    fn boot(&mut self, w: &mut Worker<'_>) {
        // The watchdog starts, reads its environment, and waits for a request.
        w.calls(10, 1000);
    }

    fn prepare(&mut self, w: &mut Worker<'_>) {
        // A line stands for each page.
        (0..self.state.len).step_by(4096).for_each(|page| w.write(self.state.start + page));
    }

    fn serve(&mut self, member: usize, w: &mut Worker<'_>) -> Piece {
        if self.read.len() <= member {
            self.read.resize(member + 1, 0);
        }
        let function = self.which.unwrap_or(match member % 3 {
            0 => Function::Parse,
            1 => Function::Hash,
            _ => Function::Marshal,
        });
        let read = self.read[member];
        if read == 0 {
            w.calls(11, 100);
        }
        w.code.call_in(0, function as u64, w.thread, w.out);
        let end = (read + PIECE * 64).min(self.bytes);
        for at in (read..end).step_by(64) {
            let line = self.input.start + at / self.of_page * 4096 + at % self.of_page;
            // A line of 64 characters, a few instructions each.
            for _ in 0..4 {
                w.read(line);
                w.out.last_mut().into_iter().for_each(|access| access.insns = 40);
            }
            if self.state.len > 0 {
                let at = w.random.below(self.state.len / 64) * 64;
                w.read(self.state.start + at);
            }
            match function {
                Function::Hash => {}
                // A token for each 16 characters: a pointer and a length.
                Function::Parse => w.lines(Kind::Write, self.output.start + at / 2, 32),
                Function::Marshal => w.lines(Kind::Write, (self.output.start + at / 2) & !7, 24),
            }
        }
        if end < self.bytes {
            self.read[member] = end;
            return Piece::Part;
        }
        self.read[member] = 0;
        w.calls(12, 60);
        Piece::Request
    }
}
