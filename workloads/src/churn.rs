//! Address-space churn: a program that changes its page tables all the time.
//!
//! Source: the operations of will-it-scale (`page_fault1`: map 128 MiB, write
//! to each page, unmap; `fork1`) and of lmbench (`lat_mmap`, `lat_proc fork`),
//! and of what does them in earnest: allocators that give memory back
//! (`MADV_DONTNEED`), collectors that protect and unprotect heaps, servers that fork.
//!
//! Memory is a number of equal mappings. Every `period` accesses a thread takes
//! one of its own at random and
//! * `remap`: unmaps it, maps it again and writes to each page;
//! * `protect`: makes it read-only, reads each page, makes it writable again;
//! * `discard`: gives its pages back and writes to each again;
//! * `fork`: forks; the child writes to a quarter of the mapping's pages
//!   (copying them) and reads the others, then ends, while the parent waits;
//! * `mixed`: each of these in turn.
//!
//! In between it reads and writes (one in four) random words of its mappings, 8 instructions each.
//!
//! Footprint: all mappings together, at most 65530 of them. Threads have mappings of their own. Process and thread numbers
//! are never reused, so after 60000 forks no more happen.

use machine::input::{Access, Event, Permissions, Populate, Region, Source};
use paging::Va;

use crate::emit::{Algorithm, Interleaved, read, write};
use crate::layout::{ADVICE, Layout, POPULATE, THREADS};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Draw, Generator, generator};
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "churn",
    summary: "mmap, munmap, mprotect, madvise and fork, mixed with accesses",
    source: "operations of will-it-scale and lmbench",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 64 << 10, max: 1 << 40 },
            default: "256MiB",
            meaning: "all mappings together",
        },
        Parameter {
            name: "mapping",
            unit: Unit::Bytes { min: 4096, max: 1 << 32 },
            default: "2MiB",
            meaning: "size of one mapping, whole pages",
        },
        Parameter {
            name: "operation",
            unit: Unit::Choice(&["mixed", "remap", "protect", "discard", "fork"]),
            default: "mixed",
            meaning: "what is done to mappings",
        },
        Parameter {
            name: "period",
            unit: Unit::Count { min: 1, max: 1 << 30 },
            default: "10K",
            meaning: "ordinary accesses of a thread between two operations",
        },
        THREADS,
        POPULATE,
        ADVICE,
    ],
    build,
};

const MOST_FORKS: u32 = 60_000;
/// `vm.max_map_count` of Linux, by default.
const MOST_MAPPINGS: u64 = 65_530;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Remap,
    Protect,
    Discard,
    Fork,
}

const ALL: &[Operation] = &[Operation::Remap, Operation::Protect, Operation::Discard, Operation::Fork];

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let threads = p.count("threads");
    let size = p.bytes("mapping") & !4095;
    let each = p.bytes("footprint") / size / threads;
    if each == 0 {
        return Err(p.impossible("the footprint has less than a mapping for each thread"));
    }
    if each * threads > MOST_MAPPINGS {
        return Err(p.impossible(format!(
            "{} mappings are more than Linux allows a process ({MOST_MAPPINGS}, vm.max_map_count); set a larger `mapping`",
            each * threads
        )));
    }
    let mut layout = Layout::new(p);
    let mappings = (0..threads)
        .map(|t| {
            (0..each).map(|i| layout.map(&format!("mapping {t}.{i}"), size, Populate::By(t as u16))).collect()
        })
        .collect::<Vec<Vec<u64>>>();
    let process = layout.process("churn");
    let operations = match p.choice("operation") {
        "remap" => &ALL[..1],
        "protect" => &ALL[1..2],
        "discard" => &ALL[2..3],
        "fork" => &ALL[3..],
        _ => ALL,
    };
    let template = process.regions[0].clone();
    let states = mappings
        .into_iter()
        .enumerate()
        .map(|(t, mappings)| State {
            mappings,
            left: p.count("period"),
            turn: t,
            doing: None,
            random: generator(seed, t as u64),
        })
        .collect();
    let churn = Churn {
        size: template.len,
        template,
        period: p.count("period"),
        operations,
        processes: 1,
        threads: threads as u16,
        forks: 0,
        states,
    };
    Ok(Box::new(Interleaved::new(p, process, threads, churn)))
}

/// An operation under way.
#[derive(Clone, Copy, Debug)]
struct Doing {
    operation: Operation,
    mapping: u64,
    /// The next page to touch.
    page: u64,
    /// Process and thread of the child.
    child: (u16, u16),
}

struct State {
    mappings: Vec<u64>,
    /// Accesses until the next operation.
    left: u64,
    turn: usize,
    doing: Option<Doing>,
    random: Generator,
}

struct Churn {
    size: u64,
    template: Region,
    period: u64,
    operations: &'static [Operation],
    /// The next free numbers.
    processes: u16,
    threads: u16,
    forks: u32,
    states: Vec<State>,
}

impl Churn {
    /// The events with which an operation begins.
    fn begin(&mut self, operation: Operation, mapping: u64, events: &mut Vec<Event>) -> Doing {
        let (start, len) = (Va::new(mapping), self.size);
        let mut child = (0, 0);
        match operation {
            Operation::Remap => {
                let mut region = self.template.clone();
                (region.start, region.populate) = (start, Populate::OnDemand);
                region.name = "remapped".to_string();
                events.push(Event::Unmap { process: 0, start, len });
                events.push(Event::Map { process: 0, region });
            }
            Operation::Protect => {
                events.push(Event::Protect { process: 0, start, len, permissions: Permissions::READ });
            }
            Operation::Discard => events.push(Event::Discard { process: 0, start, len }),
            Operation::Fork => {
                child = (self.processes, self.threads);
                events.push(Event::Fork { parent: 0, child: child.0 });
                events.push(Event::Spawn { thread: child.1, process: child.0 });
                self.processes += 1;
                self.threads += 1;
                self.forks += 1;
            }
        }
        Doing { operation, mapping, page: 0, child }
    }
}

impl Algorithm for Churn {
    fn step(&mut self, thread: u16, out: &mut Vec<Access>, events: &mut Vec<Event>) {
        let (size, period) = (self.size, self.period);
        let state = &mut self.states[thread as usize];
        if let Some(doing) = &mut state.doing {
            let pages = size / 4096;
            let (who, writes) = match doing.operation {
                Operation::Remap | Operation::Discard => (thread, 1),
                Operation::Protect => (thread, 0),
                Operation::Fork => (doing.child.1, 4),
            };
            for page in doing.page..(doing.page + 64).min(pages) {
                let va = doing.mapping + page * 4096;
                // Four instructions of the loop.
                let writes = writes > 0 && page % writes == 0;
                out.push(if writes { write(va, 3, who, 4) } else { read(va, 3, who, 4) });
            }
            doing.page += 64;
            if doing.page >= pages {
                match doing.operation {
                    Operation::Protect => events.push(Event::Protect {
                        process: 0,
                        start: Va::new(doing.mapping),
                        len: size,
                        permissions: Permissions::READ_WRITE,
                    }),
                    Operation::Fork => events.push(Event::Exit { process: doing.child.0 }),
                    Operation::Remap | Operation::Discard => {}
                }
                state.doing = None;
                state.left = period;
            }
        } else if state.left > 0 {
            let run = state.left.min(64);
            for _ in 0..run {
                let mapping = state.mappings[state.random.below(state.mappings.len() as u64) as usize];
                let bits = state.random.bits();
                let va = mapping + (((bits >> 8) % size) & !7);
                out.push(if bits & 3 == 0 { write(va, 3, thread, 8) } else { read(va, 3, thread, 8) });
            }
            state.left -= run;
        } else {
            let mapping = state.mappings[state.random.below(state.mappings.len() as u64) as usize];
            let mut operation = self.operations[state.turn % self.operations.len()];
            state.turn += 1;
            if operation == Operation::Fork && self.forks == MOST_FORKS {
                operation = Operation::Discard;
            }
            let doing = self.begin(operation, mapping, events);
            self.states[thread as usize].doing = Some(doing);
        }
    }
}

#[cfg(test)]
mod tests {
    use machine::input::{Block, Event};

    #[test]
    fn each_operation_happens() {
        for (operation, want) in
            [("remap", "Unmap"), ("protect", "Protect"), ("discard", "Discard"), ("fork", "Fork")]
        {
            let spec = format!("churn:operation={operation},footprint=16MiB,period=100");
            let mut source = crate::build(&spec, 1).unwrap();
            let mut block = Block::new();
            let (mut accesses, mut seen, mut ended) = (0, 0, 0);
            while accesses < 100_000 {
                source.fill(&mut block).unwrap();
                accesses += block.accesses.len();
                seen += block.events.iter().filter(|e| format!("{e:?}").starts_with(want)).count();
                ended += block.events.iter().filter(|e| matches!(e, Event::Exit { .. })).count();
            }
            // 100 ordinary accesses and 512 pages each time.
            let times = accesses / 612;
            let per = if operation == "protect" { 2 } else { 1 };
            assert!(seen.abs_diff(times * per) <= 2, "{operation}: {seen} of {times}");
            assert_eq!(ended > 0, operation == "fork");
        }
    }

    #[test]
    fn forks_end_before_numbers_do() {
        let mut source =
            crate::build("churn:operation=fork,footprint=64KiB,mapping=4KiB,period=1", 1).unwrap();
        let mut block = Block::new();
        let (mut forks, mut discards) = (0, 0);
        for _ in 0..400_000 {
            source.fill(&mut block).unwrap();
            forks += block.events.iter().filter(|e| matches!(e, Event::Fork { .. })).count();
            discards += block.events.iter().filter(|e| matches!(e, Event::Discard { .. })).count();
        }
        assert_eq!(forks, 60_000);
        assert!(discards > 0);
    }
}
