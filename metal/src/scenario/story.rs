//! The story on the machine. The tables that it leaves are printed, entry by entry, for the
//! test that tells the same story in the lab.

use super::bits;
use super::mitosis::Replicas;
use super::script::{self, Model, Step, Word};
use crate::hardware::pattern;
use crate::machine::{
    BOOT, Killed, Machine, create, expect, fill, finish, map_programs, run as run_program, walk_of, with,
};
use crate::program::{Program, Series};
use crate::say;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use core::fmt::Write;
use os::{Advice, FileId, MapRequest, MmError, ProcessId, ProcessSpec, Prot};
use paging::frames::{CpuId, NodeSet};
use paging::{Flags, NodeId, TableMemory, Va};

/// Runs it; `seed=` and `steps=` choose the story. With `differ` one bit of one entry is changed before
/// the first comparison, which must then find it.
pub fn run(machine: &Machine) {
    let number = |name: &str| {
        let words = machine.command_line.split_whitespace();
        words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok()).next()
    };
    let (seed, length) = (number("seed").unwrap_or(1), number("steps").unwrap_or(200) as usize);
    let follow = Replicas { nodes: NodeSet::default(), follow: true };
    machine.start_with(machine.config(), Box::new(paging::FromBuddy), Box::new(follow));
    let file = with(BOOT, |kernel, _| kernel.create_file(os::MAX_FILE_PAGES)).expect("a file");
    let mut teller = Teller {
        file,
        pids: BTreeMap::new(),
        model: Model::default(),
        compared: 0,
        nodes: machine.layout.nodes.len() as u8,
        differ: machine.command_line.split_whitespace().any(|word| word == "differ"),
    };
    let steps = script::story(seed, length, machine.cpus.len() as u16, teller.nodes);
    for step in &steps {
        teller.take(step);
    }
    finish();
    say!("a story of {} steps (seed {seed})", steps.len());
}

struct Teller {
    file: FileId,
    pids: BTreeMap<u32, ProcessId>,
    model: Model,
    compared: u32,
    nodes: u8,
    differ: bool,
}

impl Teller {
    fn pid(&self, process: u32) -> ProcessId {
        self.pids[&process]
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Create { process } => {
                self.pids.insert(process, create(ProcessSpec::default()));
            }
            Step::Fork { parent, child } => {
                let pid = self.pid(parent);
                let born = with(BOOT, |kernel, hw| kernel.fork(hw, BOOT, pid)).expect("a fork");
                self.pids.insert(child, born);
            }
            Step::Exec { process } => {
                let pid = self.pid(process);
                with(BOOT, |kernel, hw| kernel.exec(hw, BOOT, pid)).expect("an exec");
                map_programs(pid);
            }
            Step::Exit { process } => {
                let pid = self.pid(process);
                with(BOOT, |kernel, hw| kernel.exit(hw, BOOT, pid)).expect("an exit");
            }
            Step::Map { process, at, pages, file } => {
                let request = MapRequest {
                    file: file.map(|page| (self.file, page)),
                    ..MapRequest::anonymous(pages * 4096).at(Va::new(at))
                };
                let pid = self.pid(process);
                with(BOOT, |kernel, hw| kernel.mmap(hw, BOOT, pid, &request)).expect("mmap");
            }
            Step::Unmap { process, at, pages } => {
                let pid = self.pid(process);
                with(BOOT, |kernel, hw| kernel.munmap(hw, BOOT, pid, Va::new(at), pages * 4096))
                    .expect("munmap");
            }
            Step::Protect { process, at, pages, write } => {
                let (pid, prot) = (self.pid(process), if write { Prot::RW } else { Prot::R });
                with(BOOT, |kernel, hw| kernel.mprotect(hw, BOOT, pid, Va::new(at), pages * 4096, prot))
                    .expect("mprotect");
            }
            Step::Discard { process, at, pages } => {
                let pid = self.pid(process);
                let advice = Advice::DontNeed;
                with(BOOT, |kernel, hw| kernel.madvise(hw, BOOT, pid, Va::new(at), pages * 4096, advice))
                    .expect("madvise");
            }
            Step::Store { process, cpu, at, pages, first } => {
                fill(CpuId(cpu), self.pid(process), Series::pages(at, pages, first));
            }
            Step::Check { process, cpu, at, pages } => self.check(process, CpuId(cpu), at, pages),
            Step::Refused { process, cpu, at } => {
                let done = run_program(CpuId(cpu), self.pid(process), Program::Store(at, 1));
                let refused = matches!(done, Err(Killed::Refused(MmError::Segv(_))));
                assert!(
                    refused,
                    "a store to {at:#x} is refused: {done:?}; {}",
                    walk_of(self.pid(process), at)
                );
            }
            Step::Migrate { process, at, pages, node } => {
                let pid = self.pid(process);
                with(BOOT, |kernel, hw| {
                    kernel.migrate(hw, BOOT, pid, Va::new(at), pages * 4096, NodeId(node))
                })
                .expect("a migration");
            }
            Step::Replicate { process, on } => {
                let pid = self.pid(process);
                with(BOOT, |kernel, hw| {
                    let nodes = if on { kernel.pool().nodes() } else { NodeSet::default() };
                    kernel.replicate_tables(hw, BOOT, pid, nodes)
                })
                .expect("replicas");
            }
            Step::Inflate { node, frames } => {
                with(BOOT, |kernel, _| kernel.inflate_balloon(NodeId(node), frames));
            }
            Step::Deflate { frames } => {
                with(BOOT, |kernel, _| kernel.deflate_balloon(frames));
            }
            Step::Compare => {
                if core::mem::take(&mut self.differ) {
                    self.damage();
                }
                self.print();
            }
        }
        self.model.apply(step);
    }

    /// All pages in one program, as far as words follow each other.
    fn check(&self, process: u32, cpu: CpuId, at: u64, pages: u64) {
        let pid = self.pid(process);
        for va in (at..).step_by(4096).take(pages as usize) {
            let word = match self.model.word(process, va) {
                Word::Is(word) => word,
                Word::OfFile(page) => pattern(self.file, page, 0),
            };
            expect(cpu, pid, Series::pages(va, 1, word));
        }
    }

    /// A leaf loses its accessed bit behind everybody's back.
    fn damage(&self) {
        let first = self.model.alive()[0];
        with(BOOT, |kernel, _| {
            let table = kernel.process(self.pid(first)).expect("alive").space().table();
            let all = bits::entries(kernel.mem(), table.root(), 4);
            let used = |at: &&bits::At| at.entry.is_leaf(at.level) && at.entry.has(Flags::ACCESSED);
            let at = all.iter().filter(used).nth(3).expect("a page that was used");
            kernel.mem().modify(at.slot, Flags::NONE, Flags::ACCESSED);
            say!("process {first}: the entry for {:#x} is changed", at.va);
        });
    }

    /// Prints all tables: process, node, level, address, the table's frame, the entry.
    fn print(&mut self) {
        for &process in self.model.alive() {
            for node in 0..self.nodes {
                let mut lines = String::new();
                with(BOOT, |kernel, _| {
                    let space = kernel.process(self.pid(process)).expect("alive").space();
                    let root = space.table().hardware_root(NodeId(node));
                    for at in bits::entries(kernel.mem(), root, 4) {
                        let (table, bits) = (at.slot.table.number(), at.entry.bits());
                        let _ = writeln!(
                            lines,
                            "entry {} {process} {node} {} {:x} {table:x} {bits:x}",
                            self.compared, at.level, at.va
                        );
                    }
                });
                say!("tables\n{lines}");
            }
        }
        self.compared += 1;
    }
}
