//! The story of `metal/src/scenario/script.rs`, told over the model memory: the same
//! kernel, the same frames, and the walker and TLB of `common`.

use crate::common::{Machine, System, config, file_content};
use crate::script::{self, Model, Step, Word};
use mechanisms::mitosis::Replicated;
use os::{
    Advice, FileId, Kernel, KernelConfig, MapRequest, MmError, ProcessId, ProcessSpec, Prot, SpaceInfo,
    Tables,
};
use paging::frames::{CpuId, Layout, NodeSet, PoolConfig};
use paging::{
    Arena, FramePool, FromBuddy, GuestPhys, Hfn, HostPhys, NodeId, Slot, TableMemory, TableOps, Va, Virt,
};
use std::collections::BTreeMap;

/// An entry of a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Entry {
    /// Which comparison of the story.
    pub nth: u64,
    /// The story's process.
    pub process: u64,
    /// The node whose CPUs walk the table.
    pub node: u64,
    /// The first address below it.
    pub va: u64,
    /// From the root's down.
    pub level: u64,
    /// The frame of its table.
    pub table: u64,
    /// All of it.
    pub bits: u64,
}

/// The entries that the machine printed.
pub fn parse(said: &str) -> Vec<Entry> {
    let hex = |word: Option<&str>| u64::from_str_radix(word.expect("a word"), 16).expect("a number");
    let number = |word: Option<&str>| word.expect("a word").parse::<u64>().expect("a number");
    let mut entries: Vec<Entry> = said
        .lines()
        .filter_map(|line| line.strip_prefix("entry "))
        .map(|line| {
            let mut words = line.split_whitespace();
            let [nth, process, node, level] = core::array::from_fn(|_| number(words.next()));
            let [va, table, bits] = core::array::from_fn(|_| hex(words.next()));
            Entry { nth, process, node, va, level, table, bits }
        })
        .collect();
    entries.sort_unstable();
    entries
}

/// What was said without the tables.
pub fn without_entries(said: &str) -> String {
    said.lines().filter(|line| !line.starts_with("entry ")).collect::<Vec<_>>().join("\n")
}

/// The first difference between the tables here and those of the machine, with both walks.
pub fn difference(here: &[Entry], machine: &[Entry]) -> Option<String> {
    // Both are sorted; the first place where they part is in one of them only, or in both with other bits.
    let at = here.iter().zip(machine).position(|(a, b)| a != b);
    let at = at.or_else(|| (here.len() != machine.len()).then_some(here.len().min(machine.len())))?;
    let odd = match (here.get(at), machine.get(at)) {
        (Some(a), Some(b)) => *a.min(b),
        (a, b) => *a.or(b)?,
    };
    let walk = |of: &[Entry]| {
        let on_the_way = |e: &&Entry| {
            let span = 1u64 << (12 + 9 * (e.level - 1));
            (e.nth, e.process, e.node) == (odd.nth, odd.process, odd.node)
                && (e.va..e.va + span).contains(&odd.va)
        };
        let mut way: Vec<&Entry> = of.iter().filter(on_the_way).collect();
        way.sort_by_key(|e| core::cmp::Reverse(e.level));
        way.iter().map(|e| format!(" {}@{:#x}={:#x}", e.level, e.table, e.bits)).collect::<String>()
    };
    let Entry { nth, process, node, va, .. } = odd;
    Some(format!(
        "comparison {nth}, process {process}, node {node}'s table: {va:#x} differs\n  here:   {}\n  machine:{}",
        walk(here),
        walk(machine)
    ))
}

/// Mitosis, with one copy to begin with.
#[derive(Debug)]
struct Replicas;

impl Tables<Arena<HostPhys>> for Replicas {
    fn process(&mut self, _info: &SpaceInfo) -> Box<dyn TableOps<Virt, Arena<HostPhys>>> {
        Box::new(Replicated::new(NodeSet::default()))
    }
    fn vm(&mut self, _info: &SpaceInfo) -> Box<dyn TableOps<GuestPhys, Arena<HostPhys>>> {
        Box::new(Replicated::new(NodeSet::default()))
    }
}

/// As `metal/run.sh` lays it out: two nodes of 256 MiB, the first without its first MiB.
fn system() -> System {
    let layout = Layout::of_ranges(&[0x100..0x10000, 0x10000..0x20000]);
    let pool = FramePool::new(&layout, PoolConfig::default()).expect("a layout");
    let config = KernelConfig { pcids: 1, ..config() };
    let mut machine = Machine::new(config.cpus.len());
    let mem = Arena::new(layout.end());
    let kernel = Kernel::new(config, pool, mem, Box::new(FromBuddy), Box::new(Replicas), &mut machine);
    System { kernel: kernel.expect("a kernel"), machine, frames: layout.frames() }
}

/// Tells the story. Returns every entry of every table at each comparison, sorted.
pub fn tell(seed: u64, length: usize) -> Vec<Entry> {
    let mut system = system();
    // The machine's kernel has its programs in a file, before the story's.
    let text = system.kernel.create_file(1).expect("a file");
    let file = system.kernel.create_file(script::FILE_PAGES).expect("a file");
    let (pids, model, entries) = (BTreeMap::new(), Model::default(), Vec::new());
    let mut teller = Teller { system, text, file, pids, model, entries, compared: 0 };
    for step in script::story(seed, length, 4, 2) {
        teller.take(&step);
    }
    let Teller { mut system, mut entries, .. } = teller;
    system.kernel.deflate_balloon(u64::MAX);
    system.shutdown();
    entries.sort_unstable();
    entries
}

const BOOT: CpuId = CpuId(0);

struct Teller {
    system: System,
    text: FileId,
    file: FileId,
    pids: BTreeMap<u32, ProcessId>,
    model: Model,
    entries: Vec<Entry>,
    compared: u64,
}

impl Teller {
    fn pid(&self, process: u32) -> ProcessId {
        self.pids[&process]
    }

    /// A program's first instruction is fetched from the page that all processes map.
    fn begin_program(&mut self, cpu: u16, process: u32) {
        let pid = self.pid(process);
        self.system.access(CpuId(cpu), pid, Va::new(script::TEXT), None).expect("the programs are mapped");
    }

    fn take(&mut self, step: &Step) {
        let System { kernel, machine, .. } = &mut self.system;
        let pid = |process: u32| self.pids[&process];
        match *step {
            Step::Create { process } => {
                let born = kernel.create_process(machine, BOOT, ProcessSpec::default()).expect("a process");
                let request = MapRequest::private_file(self.text, 4096, Prot::RX).at(Va::new(script::TEXT));
                kernel.mmap(machine, BOOT, born, &request).expect("the programs");
                self.pids.insert(process, born);
            }
            Step::Fork { parent, child } => {
                let born = kernel.fork(machine, BOOT, pid(parent)).expect("a fork");
                self.pids.insert(child, born);
            }
            Step::Exit { process } => kernel.exit(machine, BOOT, pid(process)).expect("an exit"),
            Step::Map { process, at, pages, file } => {
                let file = file.map(|page| (self.file, page));
                let request = MapRequest { file, ..MapRequest::anonymous(pages * 4096).at(Va::new(at)) };
                kernel.mmap(machine, BOOT, pid(process), &request).expect("mmap");
            }
            Step::Unmap { process, at, pages } => {
                kernel.munmap(machine, BOOT, pid(process), Va::new(at), pages * 4096).expect("munmap");
            }
            Step::Protect { process, at, pages, write } => {
                let prot = if write { Prot::RW } else { Prot::R };
                kernel
                    .mprotect(machine, BOOT, pid(process), Va::new(at), pages * 4096, prot)
                    .expect("mprotect");
            }
            Step::Discard { process, at, pages } => {
                let (pid, len) = (pid(process), pages * 4096);
                kernel.madvise(machine, BOOT, pid, Va::new(at), len, Advice::DontNeed).expect("madvise");
            }
            Step::Store { process, cpu, at, pages, first } => {
                let pid = pid(process);
                self.begin_program(cpu, process);
                for page in 0..pages {
                    let va = Va::new(at + page * 4096);
                    self.system.access(CpuId(cpu), pid, va, Some(first + page)).expect("a store");
                }
            }
            Step::Check { process, cpu, at, pages } => self.check(process, cpu, at, pages),
            Step::Refused { process, cpu, at } => {
                let pid = pid(process);
                self.begin_program(cpu, process);
                let done = self.system.access(CpuId(cpu), pid, Va::new(at), Some(1));
                assert!(matches!(done, Err(MmError::Segv(_))), "a store to {at:#x} is refused: {done:?}");
            }
            Step::Migrate { process, at, pages, node } => {
                let (pid, len) = (pid(process), pages * 4096);
                kernel.migrate(machine, BOOT, pid, Va::new(at), len, NodeId(node)).expect("a migration");
            }
            Step::Replicate { process, on } => {
                let nodes = if on { kernel.pool().nodes() } else { NodeSet::default() };
                kernel.replicate_tables(machine, BOOT, pid(process), nodes).expect("replicas");
            }
            Step::Inflate { node, frames } => {
                kernel.inflate_balloon(NodeId(node), frames);
            }
            Step::Deflate { frames } => {
                kernel.deflate_balloon(frames);
            }
            Step::Compare => self.compare(),
        }
        self.model.apply(step);
    }

    fn check(&mut self, process: u32, cpu: u16, at: u64, pages: u64) {
        let pid = self.pid(process);
        for va in (at..).step_by(4096).take(pages as usize) {
            self.begin_program(cpu, process);
            let found = self.system.access(CpuId(cpu), pid, Va::new(va), None).expect("a load");
            let word = match self.model.word(process, va) {
                Word::Is(word) => word,
                Word::OfFile(page) => file_content(self.file, page),
            };
            assert_eq!(found, word, "process {process} on CPU {cpu} at {va:#x}");
        }
    }

    fn compare(&mut self) {
        for &process in self.model.alive() {
            for node in 0..2u8 {
                let table = self.system.kernel.process(self.pid(process)).expect("alive").space().table();
                let mut todo: Vec<(Hfn, u8, u64)> = vec![(table.hardware_root(NodeId(node)), 4, 0)];
                while let Some((at, level, base)) = todo.pop() {
                    for index in 0..512 {
                        let entry = self.system.kernel.mem().load(Slot::new(at, index));
                        if entry.is_empty() {
                            continue;
                        }
                        let va = base | (index as u64) << (3 + 9 * u32::from(level));
                        if entry.is_table(level) {
                            todo.push((entry.frame(), level - 1, va));
                        }
                        self.entries.push(Entry {
                            nth: self.compared,
                            process: u64::from(process),
                            node: u64::from(node),
                            va,
                            level: u64::from(level),
                            table: at.number(),
                            bits: entry.bits(),
                        });
                    }
                }
            }
        }
        self.compared += 1;
    }
}
