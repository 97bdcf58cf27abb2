//! Turmoil: random programs that do everything that can be done to memory, to test systems with.
//!
//! Not a benchmark: nothing is measured with it. Processes with some threads each map, unmap,
//! protect, discard, fork, execute, exit and start threads, over anonymous, shared and file
//! memory, whole mappings and parts; the machine moves their threads and their pages between
//! nodes, takes memory by ballooning and gives it back, and reclaims. Between two such events threads read, write and
//! fetch what is theirs, mostly where they were before, so that what is cached stays in use.
//!
//! Everything follows from the seed. An access is always allowed: the model of each process's mappings here is
//! a map from page ranges to permissions, and no more.

use machine::input::{
    Access, BLOCK, Backing, Block, Event, HugeAdvice, Kind, More, Permissions, Populate, ProcessSetup,
    Region, Setup, Source, SourceError, ThreadSetup,
};
use paging::Va;
use std::collections::BTreeMap;

use crate::emit::once;
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Draw, Generator, generator};
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "turmoil",
    summary: "random programs that do everything to memory, for tests of systems (with --verify)",
    source: "none: it is no program's pattern",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 1 << 20, max: 1 << 36 },
            default: "32MiB",
            meaning: "addresses that a process's mappings may lie in",
        },
        Parameter {
            name: "processes",
            unit: Unit::Count { min: 1, max: 64 },
            default: "3",
            meaning: "processes at the start, and about as many later",
        },
        Parameter {
            name: "threads",
            unit: Unit::Count { min: 1, max: 64 },
            default: "2",
            meaning: "threads of each process at the start",
        },
        Parameter {
            name: "period",
            unit: Unit::Count { min: 1, max: 1 << 30 },
            default: "500",
            meaning: "accesses between two events, on average",
        },
        Parameter {
            name: "granule",
            unit: Unit::Bytes { min: PAGE, max: 1 << 30 },
            default: "4KiB",
            meaning: "mappings and parts of them are multiples of this: a reserved huge page cannot be cut",
        },
    ],
    build,
};

const PAGE: u64 = 4096;
/// Where mappings lie: a multiple of 1 GiB.
const BASE: u64 = 0x10_0000_0000;
/// Process and thread numbers are never reused.
const MOST: usize = 60_000;
/// Files, and bytes of each.
const FILES: u64 = 3;
const FILE_BYTES: u64 = 4 << 20;
/// Nodes that pages and threads are sent to; a machine with fewer takes the number modulo its own.
const NODES: u64 = 4;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let granule = p.bytes("granule");
    if !granule.is_power_of_two() || p.bytes("footprint") < 2 * granule {
        return Err(p.impossible("`granule` is a power of two, and the footprint two of it or more"));
    }
    let mut turmoil = Turmoil {
        name: p.spec(),
        granule: granule / PAGE,
        bytes: p.bytes("footprint") & !(granule - 1),
        live: p.count("processes") as usize,
        threads_each: p.count("threads"),
        period: p.count("period"),
        random: generator(seed, 0),
        processes: Vec::new(),
        threads: Vec::new(),
        ballooned: 0,
        setup: None,
    };
    let mut setup = Setup { name: turmoil.name.clone(), ..Setup::default() };
    for number in 0..turmoil.live {
        let mut regions: Vec<Region> = Vec::new();
        for region in (0..3).map(|_| turmoil.region()) {
            let overlaps = |other: &Region| {
                region.start.raw() < other.start.raw() + other.len
                    && other.start.raw() < region.start.raw() + region.len
            };
            if !regions.iter().any(overlaps) {
                regions.push(region);
            }
        }
        turmoil.processes.push(Some(Process::of(&regions)));
        setup.processes.push(ProcessSetup {
            // One program: those of a group are.
            name: "turmoil".to_string(),
            regions,
            // Pairs are containers of one image.
            group: Some(number as u16 / 2),
            implicit_regions: false,
        });
        for _ in 0..turmoil.threads_each {
            setup.threads.push(ThreadSetup { process: number as u16 });
            turmoil.threads.push(number as u16);
        }
    }
    turmoil.setup = Some(setup);
    Ok(Box::new(turmoil))
}

/// What a process may do where.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Piece {
    end: u64,
    permissions: Permissions,
}

/// A process's mappings by their first byte.
#[derive(Clone, Debug, Default)]
struct Process {
    pieces: BTreeMap<u64, Piece>,
    /// Where it was last.
    near: u64,
}

impl Process {
    fn of(regions: &[Region]) -> Process {
        let mut process = Process::default();
        regions.iter().for_each(|region| process.map(region));
        process
    }

    fn map(&mut self, region: &Region) {
        let start = region.start.raw();
        self.unmap(start, start + region.len);
        self.pieces.insert(start, Piece { end: start + region.len, permissions: region.permissions });
    }

    /// What of the mappings is in `start..end`, taken out.
    fn unmap(&mut self, start: u64, end: u64) -> Vec<(u64, Piece)> {
        let touched: Vec<u64> =
            self.pieces.range(..end).filter(|(_, piece)| piece.end > start).map(|(at, _)| *at).collect();
        let mut out = Vec::new();
        for at in touched {
            let Some(piece) = self.pieces.remove(&at) else { continue };
            if at < start {
                self.pieces.insert(at, Piece { end: start, ..piece });
            }
            if piece.end > end {
                self.pieces.insert(end, piece);
            }
            out.push((at.max(start), Piece { end: piece.end.min(end), ..piece }));
        }
        out
    }

    fn protect(&mut self, start: u64, end: u64, permissions: Permissions) {
        for (at, piece) in self.unmap(start, end) {
            self.pieces.insert(at, Piece { permissions, ..piece });
        }
    }

    /// A mapping at random.
    fn any(&self, random: &mut Generator) -> Option<(u64, Piece)> {
        let nth = random.below(self.pieces.len().max(1) as u64) as usize;
        self.pieces.iter().nth(nth).map(|(at, piece)| (*at, *piece))
    }
}

struct Turmoil {
    name: String,
    /// Pages.
    granule: u64,
    bytes: u64,
    live: usize,
    threads_each: u64,
    period: u64,
    random: Generator,
    /// `None`: ended.
    processes: Vec<Option<Process>>,
    /// The process of each thread.
    threads: Vec<u16>,
    /// Pages that the balloon may hold.
    ballooned: u64,
    setup: Option<Setup>,
}

impl Turmoil {
    /// A mapping at random: small or larger than a huge page, aligned to one or not.
    fn region(&mut self) -> Region {
        let random = &mut self.random;
        let most = (self.bytes / 2 / PAGE).max(1);
        let pages = match random.below(4) {
            0 => 1 + random.below(16),
            1 => 1 + random.below(512),
            2 => 512 * (1 + random.below(3)),
            _ => 1 + random.below(1500),
        };
        let pages = pages.min(most).next_multiple_of(self.granule);
        let granule = if random.below(2) == 0 { 512 } else { 1 }.max(self.granule);
        let places = (self.bytes / PAGE).saturating_sub(pages) / granule + 1;
        let start = BASE + random.below(places) * granule * PAGE;
        let file = format!("file {}", random.below(FILES));
        let offset = random.below(FILE_BYTES / PAGE) * PAGE;
        let (backing, permissions) = match random.below(8) {
            0..4 => (Backing::Anonymous, Permissions::READ_WRITE),
            4 => (Backing::SharedAnonymous, Permissions::READ_WRITE),
            5 => (Backing::SharedFile { file, offset }, Permissions::READ_WRITE),
            6 => (Backing::PrivateFile { file, offset }, Permissions::READ_WRITE),
            _ => (Backing::PrivateFile { file, offset }, Permissions::READ_EXECUTE),
        };
        let advice = match random.below(4) {
            0 => HugeAdvice::Huge,
            1 => HugeAdvice::NoHuge,
            _ => HugeAdvice::None,
        };
        let populate = Populate::OnDemand;
        Region {
            name: "turmoil".to_string(),
            start: Va::new(start),
            len: pages * PAGE,
            backing,
            permissions,
            advice,
            populate,
        }
    }

    /// A part of a mapping of `process`, at random; whole ones now and then.
    fn part(&mut self, process: u16) -> Option<(u64, u64)> {
        let (at, piece) = self.processes[usize::from(process)].as_ref()?.any(&mut self.random)?;
        let granule = self.granule * PAGE;
        let parts = (piece.end - at) / granule;
        if self.random.below(3) == 0 {
            return Some((at, piece.end));
        }
        let first = self.random.below(parts);
        let count = 1 + self.random.below((parts - first).min(64));
        Some((at + first * granule, at + (first + count) * granule))
    }

    fn alive(&mut self) -> Option<u16> {
        let alive: Vec<u16> =
            (0..self.processes.len() as u16).filter(|p| self.processes[usize::from(*p)].is_some()).collect();
        alive.get(self.random.below(alive.len().max(1) as u64) as usize).copied()
    }

    fn spawn(&mut self, process: u16, events: &mut Vec<Event>) {
        if self.threads.len() < MOST {
            events.push(Event::Spawn { thread: self.threads.len() as u16, process });
            self.threads.push(process);
        }
    }

    /// Something that happens to `process`, or to the machine.
    fn event(&mut self, process: u16, events: &mut Vec<Event>) {
        let who = usize::from(process);
        let alive = self.processes.iter().flatten().count();
        match self.random.below(32) {
            0..6 => {
                let region = self.region();
                if let Some(p) = &mut self.processes[who] {
                    p.map(&region);
                }
                // `mmap` at a fixed address replaces what is there.
                events.push(Event::Map { process, region });
            }
            6..9 => self.over_part(process, events, |p, start, end| {
                p.unmap(start, end);
                Event::Unmap { process, start: Va::new(start), len: end - start }
            }),
            9..13 => {
                let permissions =
                    if self.random.below(2) == 0 { Permissions::READ } else { Permissions::READ_WRITE };
                self.over_part(process, events, |p, start, end| {
                    p.protect(start, end, permissions);
                    Event::Protect { process, start: Va::new(start), len: end - start, permissions }
                });
            }
            13..16 => self.over_part(process, events, |_, start, end| Event::Discard {
                process,
                start: Va::new(start),
                len: end - start,
            }),
            16..19 if self.processes.len() < MOST && alive <= self.live + 2 => {
                let child = self.processes.len() as u16;
                events.push(Event::Fork { parent: process, child });
                let copy = self.processes[who].clone();
                self.processes.push(copy);
                self.spawn(child, events);
            }
            19..22 if alive > self.live => {
                self.processes[who] = None;
                events.push(Event::Exit { process });
            }
            22 => {
                let regions = vec![self.region()];
                self.processes[who] = Some(Process::of(&regions));
                let image = ProcessSetup { name: "turmoil".to_string(), regions, ..ProcessSetup::default() };
                events.push(Event::Exec { process, image });
            }
            23 => self.spawn(process, events),
            24 => {
                let thread = self.random.below(self.threads.len() as u64) as u16;
                events.push(Event::MoveThread { thread, node: self.random.below(NODES) as u8 });
            }
            25 | 26 => {
                let node = self.random.below(NODES) as u8;
                self.over_part(process, events, |_, start, end| Event::Migrate {
                    process,
                    start: Va::new(start),
                    len: end - start,
                    node,
                });
            }
            27 => {
                let (node, pages) = (self.random.below(NODES) as u8, 1 + self.random.below(600));
                events.push(Event::MigrateVm { node, pages });
            }
            28 => {
                let pages = 1 + self.random.below(1000);
                self.ballooned += pages;
                events.push(Event::Inflate { pages });
            }
            29 => events.push(Event::Deflate { pages: std::mem::take(&mut self.ballooned) }),
            30 => events.push(Event::Reclaim { pages: 1 + self.random.below(200), of_host: false }),
            _ => events.push(Event::Reclaim { pages: 1 + self.random.below(200), of_host: true }),
        }
    }

    fn over_part(
        &mut self,
        process: u16,
        events: &mut Vec<Event>,
        what: impl FnOnce(&mut Process, u64, u64) -> Event,
    ) {
        if let Some((start, end)) = self.part(process)
            && let Some(p) = &mut self.processes[usize::from(process)]
        {
            events.push(what(p, start, end));
        }
    }

    /// An access of `thread` that is allowed; `None` if its process has no memory.
    fn access(&mut self, thread: u16, process: u16) -> Option<Access> {
        let random = &mut self.random;
        let p = self.processes[usize::from(process)].as_mut()?;
        // Mostly near the last one, also across its mapping's end.
        let near = (p.near & !(PAGE - 1)).wrapping_add(random.below(8) * PAGE);
        let here = p.pieces.range(..=near).next_back().filter(|(_, piece)| piece.end > near);
        let (va, piece) = match here {
            Some((_, piece)) if random.below(8) > 0 => (near, *piece),
            _ => {
                let (at, piece) = p.any(random)?;
                (at + random.below((piece.end - at) / PAGE) * PAGE, piece)
            }
        };
        p.near = va;
        let va = va + random.below(PAGE / 8) * 8;
        let kind = match random.below(8) {
            0..3 if piece.permissions.write => Kind::Write,
            3 if piece.permissions.write => Kind::Modify,
            4 if piece.permissions.execute => Kind::Fetch,
            _ => Kind::Read,
        };
        Some(Access::new(va, kind, thread, 1 + random.below(8) as u16))
    }
}

impl Source for Turmoil {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        once(&mut self.setup, &self.name)
    }

    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        block.clear();
        let Some(process) = self.alive() else { return Ok(More::No) };
        while block.accesses.len() < BLOCK && block.events.is_empty() {
            let of: Vec<u16> =
                (0..self.threads.len() as u16).filter(|t| self.threads[usize::from(*t)] == process).collect();
            let thread = of.get(self.random.below(of.len().max(1) as u64) as usize).copied();
            let run = 1 + self.random.below(64).min((BLOCK - block.accesses.len()) as u64 - 1);
            for _ in 0..run {
                if let Some(access) = thread.and_then(|thread| self.access(thread, process)) {
                    block.accesses.push(access);
                }
            }
            // A process without memory does nothing else.
            if self.random.below(self.period) < run || block.accesses.is_empty() {
                self.event(process, &mut block.events);
            }
        }
        Ok(More::Yes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn everything_happens_and_every_access_is_allowed() {
        let mut source = crate::build("turmoil:period=50", 5).unwrap();
        let setup = source.setup().unwrap();
        let mut maps: Vec<Process> = setup.processes.iter().map(|p| Process::of(&p.regions)).collect();
        let mut threads: Vec<u16> = setup.threads.iter().map(|t| t.process).collect();
        let (mut block, mut kinds) = (Block::new(), BTreeSet::new());
        for _ in 0..20_000 {
            source.fill(&mut block).unwrap();
            for access in &block.accesses {
                let map = &maps[usize::from(threads[usize::from(access.thread)])];
                let (_, piece) = map.pieces.range(..=access.va.raw()).next_back().unwrap();
                assert!(access.va.raw() < piece.end);
                assert!(!access.kind.writes() || piece.permissions.write);
                assert!(access.kind != Kind::Fetch || piece.permissions.execute);
            }
            for event in &block.events {
                kinds.insert(format!("{event:?}").split([' ', '{']).next().unwrap().to_string());
                match event {
                    Event::Map { process, region } => maps[usize::from(*process)].map(region),
                    Event::Unmap { process, start, len } => {
                        maps[usize::from(*process)].unmap(start.raw(), start.raw() + len);
                    }
                    Event::Protect { process, start, len, permissions } => {
                        maps[usize::from(*process)].protect(start.raw(), start.raw() + len, *permissions);
                    }
                    Event::Fork { parent, child } => {
                        assert_eq!(usize::from(*child), maps.len());
                        maps.push(maps[usize::from(*parent)].clone());
                    }
                    Event::Exec { process, image } => {
                        maps[usize::from(*process)] = Process::of(&image.regions);
                    }
                    Event::Exit { process } => maps[usize::from(*process)] = Process::default(),
                    Event::Spawn { thread, process } => {
                        assert_eq!(usize::from(*thread), threads.len());
                        threads.push(*process);
                    }
                    _ => {}
                }
            }
        }
        assert_eq!(kinds.len(), 14, "{kinds:?}");
    }
}
