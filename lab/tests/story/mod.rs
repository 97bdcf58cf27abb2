//! The story of `metal/src/scenario/script.rs`, told in the lab: the same kernel and the same frames,
//! under the modelled MMU of a machine profile, with its TLBs and page-walk caches. The oracle checks
//! what each access reaches.

use crate::script::{self, Step};
use lab::system::System;
use lab::world::{Plan, World, WorldError};
use machine::input::{
    Access, Backing, Block, Event, Kind, Permissions, Populate, ProcessSetup, Region, Setup, ThreadSetup,
};
use machine::profile::Profile;
use os::MmError;
use paging::frames::{CpuId, Layout, NodeSet};
use paging::{Hfn, NodeId, Slot, TableMemory, Va};
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

/// The first difference between the lab's tables and those of the machine, with both walks.
pub fn difference(lab: &[Entry], machine: &[Entry]) -> Option<String> {
    // Both are sorted; the first place where they part is in one of them only, or in both with other bits.
    let at = lab.iter().zip(machine).position(|(a, b)| a != b);
    let at = at.or_else(|| (lab.len() != machine.len()).then_some(lab.len().min(machine.len())))?;
    let odd = match (lab.get(at), machine.get(at)) {
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
        "comparison {nth}, process {process}, node {node}'s table: {va:#x} differs\n  lab:    {}\n  machine:{}",
        walk(lab),
        walk(machine)
    ))
}

/// Two nodes with two CPUs each.
const CPUS: [NodeId; 4] = [NodeId(0), NodeId(0), NodeId(1), NodeId(1)];

/// The page that all processes map first.
fn text() -> Region {
    Region {
        backing: Backing::PrivateFile { file: "text".into(), offset: 0 },
        permissions: Permissions::READ_EXECUTE,
        ..Region::anonymous("text", script::TEXT, 4096, Populate::OnDemand)
    }
}

fn image() -> ProcessSetup {
    ProcessSetup { name: "p".into(), regions: vec![text()], ..ProcessSetup::default() }
}

/// One process, on each CPU a thread of it.
fn setup() -> Setup {
    Setup {
        more_threads: false,
        name: "story".into(),
        processes: vec![image()],
        threads: vec![ThreadSetup { process: 0 }; CPUS.len()],
        accesses: None,
    }
}

/// The lab's half, on memory as `metal/run.sh` lays it out: two nodes of 256 MiB, the first without its
/// first MiB.
fn world(profile: &str, lose_shootdowns: bool) -> World {
    let plan = Plan {
        system: System::parse("native+vmitosis").expect("a system"),
        profile: Profile::builtin(profile).expect("a profile"),
        cores: CPUS.to_vec(),
        seed: 1,
        verify: true,
        placing: None,
        lose_shootdowns,
    };
    let layout = Layout::of_ranges(&[0x100..0x10000, 0x10000..0x20000]);
    World::on(&layout, plan, &setup()).expect("a world")
}

/// Tells the story. Returns every entry of every table at each comparison, sorted.
pub fn tell(profile: &str, seed: u64, length: usize) -> Result<Vec<Entry>, WorldError> {
    told(world(profile, false), seed, length)
}

/// The same where shootdowns are lost: a bug that the oracle must find.
pub fn tell_deaf(profile: &str, seed: u64, length: usize) -> Result<Vec<Entry>, WorldError> {
    told(world(profile, true), seed, length)
}

fn told(world: World, seed: u64, length: usize) -> Result<Vec<Entry>, WorldError> {
    let mut teller =
        Teller { world, first: BTreeMap::new(), index: BTreeMap::new(), entries: Vec::new(), compared: 0 };
    for step in script::story(seed, length, CPUS.len() as u16, 2) {
        teller.take(&step)?;
    }
    teller.entries.sort_unstable();
    Ok(teller.entries)
}

struct Teller {
    world: World,
    /// The first of each process's threads, which are on the CPUs in order.
    first: BTreeMap<u32, u16>,
    /// The input's index of each process that is alive: in the order of birth.
    index: BTreeMap<u32, u16>,
    entries: Vec<Entry>,
    compared: u64,
}

impl Teller {
    fn event(&mut self, event: Event) -> Result<(), WorldError> {
        self.world.run(&Block { accesses: Vec::new(), events: vec![event] })
    }

    /// Accesses to the first word of each page, by a program that is fetched first.
    fn access(
        &mut self,
        (process, cpu): (u32, u16),
        kind: Kind,
        at: u64,
        pages: u64,
    ) -> Result<(), WorldError> {
        let thread = self.first[&process] + cpu;
        let fetch = Access::new(script::TEXT, Kind::Fetch, thread, 1);
        let page = |page| Access::new(at + page * 4096, kind, thread, 1);
        let accesses = std::iter::once(fetch).chain((0..pages).map(page)).collect();
        self.world.run(&Block { accesses, events: Vec::new() })
    }

    fn take(&mut self, step: &Step) -> Result<(), WorldError> {
        let index = |process: u32| self.index[&process];
        match *step {
            Step::Create { process } => {
                // It is there already.
                self.index.insert(process, 0);
                self.first.insert(process, 0);
            }
            Step::Fork { parent, child } => {
                let next = self.first.len() as u16;
                self.event(Event::Fork { parent: self.index[&parent], child: next })?;
                let threads = next * CPUS.len() as u16;
                for thread in threads..threads + CPUS.len() as u16 {
                    self.event(Event::Spawn { thread, process: next })?;
                }
                self.index.insert(child, next);
                self.first.insert(child, threads);
            }
            Step::Exec { process } => self.event(Event::Exec { process: index(process), image: image() })?,
            Step::Exit { process } => {
                self.event(Event::Exit { process: index(process) })?;
                self.index.remove(&process);
            }
            Step::Map { process, at, pages, file } => {
                let backing = match file {
                    Some(page) => Backing::PrivateFile { file: "story".into(), offset: page << 12 },
                    None => Backing::Anonymous,
                };
                let region =
                    Region { backing, ..Region::anonymous("m", at, pages << 12, Populate::OnDemand) };
                self.event(Event::Map { process: index(process), region })?;
            }
            Step::Unmap { process, at, pages } => {
                self.event(Event::Unmap { process: index(process), start: Va::new(at), len: pages << 12 })?;
            }
            Step::Protect { process, at, pages, write } => {
                let permissions = if write { Permissions::READ_WRITE } else { Permissions::READ };
                let (process, start, len) = (index(process), Va::new(at), pages << 12);
                self.event(Event::Protect { process, start, len, permissions })?;
            }
            Step::Discard { process, at, pages } => {
                self.event(Event::Discard { process: index(process), start: Va::new(at), len: pages << 12 })?;
            }
            Step::Store { process, cpu, at, pages, .. } => {
                self.access((process, cpu), Kind::Write, at, pages)?
            }
            Step::Check { process, cpu, at, pages } => self.access((process, cpu), Kind::Read, at, pages)?,
            Step::Refused { process, cpu, at } => {
                let done = self.access((process, cpu), Kind::Write, at, 1);
                let refused = matches!(&done, Err(WorldError::Kernel { error: MmError::Segv(_), .. }));
                assert!(refused, "a store to {at:#x} is refused: {done:?}");
            }
            Step::Migrate { process, at, pages, node } => {
                let (process, start, len) = (index(process), Va::new(at), pages << 12);
                self.event(Event::Migrate { process, start, len, node })?;
            }
            Step::Replicate { process, on } => {
                let pid = self.world.pid(index(process))?;
                self.world.on_host(|kernel, hw| {
                    let nodes = if on { kernel.pool().nodes() } else { NodeSet::default() };
                    kernel.replicate_tables(hw, CpuId(0), pid, nodes).expect("replicas");
                });
            }
            Step::Inflate { node, frames } => {
                self.world.on_host(|kernel, _| kernel.inflate_balloon(NodeId(node), frames));
            }
            Step::Deflate { frames } => {
                self.world.on_host(|kernel, _| kernel.deflate_balloon(frames));
            }
            Step::Compare => self.compare()?,
        }
        Ok(())
    }

    fn compare(&mut self) -> Result<(), WorldError> {
        for (&process, &index) in &self.index {
            let pid = self.world.pid(index)?;
            let (entries, nth) = (&mut self.entries, self.compared);
            self.world.on_host(|kernel, _| {
                for node in 0..2u8 {
                    let table = kernel.process(pid).expect("alive").space().table();
                    let mut todo: Vec<(Hfn, u8, u64)> = vec![(table.hardware_root(NodeId(node)), 4, 0)];
                    while let Some((at, level, base)) = todo.pop() {
                        for index in 0..512 {
                            let entry = kernel.mem().load(Slot::new(at, index));
                            if entry.is_empty() {
                                continue;
                            }
                            let va = base | (index as u64) << (3 + 9 * u32::from(level));
                            if entry.is_table(level) {
                                todo.push((entry.frame(), level - 1, va));
                            }
                            entries.push(Entry {
                                nth,
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
            });
        }
        self.compared += 1;
        Ok(())
    }
}
