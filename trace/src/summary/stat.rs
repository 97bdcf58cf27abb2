//! A pass over a whole trace.

use super::reuse::{Reuse, Touch};
use super::{Counted, Extent, Info, info};
use crate::open::open;
use crate::options::OpenOptions;
use machine::input::{Block, Event, Kind, More, Setup, SourceError};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

/// Points of the footprint over time.
const POINTS: usize = 64;

/// What is in a trace.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Stat {
    /// What it is.
    pub info: Info,
    /// Accesses in all.
    pub accesses: u64,
    /// Instructions that they stand for.
    pub instructions: u64,
    /// Accesses by kind.
    pub kinds: Kinds,
    /// Bytes of the file an access.
    pub bytes_per_access: f64,
    /// Processes, also those that started later.
    pub processes: usize,
    /// What happened between accesses.
    pub events: u64,
    /// By thread.
    pub threads: Vec<ThreadStat>,
    /// Distinct pages of 4 KiB, 2 MiB and 1 GiB that hold an address of the trace.
    pub pages: [usize; 3],
    /// Whether there were too many pages to tell all apart.
    pub pages_are_capped: bool,
    /// Distinct 4 KiB pages after so many accesses.
    pub footprint: Vec<FootprintPoint>,
    /// Pages that were touched [2^i, 2^(i+1)) times, by i.
    pub touches: Vec<u64>,
    /// Accesses whose page was last touched so many other pages ago: 0 by the
    /// first number, [2^(i-1), 2^i) by number i. First touches are in none.
    pub reuse_distance: Vec<u64>,
}

/// Accesses by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Kinds {
    /// Loads.
    pub reads: u64,
    /// Stores.
    pub writes: u64,
    /// Instruction fetches.
    pub fetches: u64,
    /// Loads and stores of the same bytes.
    pub modifies: u64,
}

/// A thread's share.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ThreadStat {
    /// Its process.
    pub process: u16,
    /// Its accesses.
    pub accesses: u64,
    /// Its instructions.
    pub instructions: u64,
}

/// The footprint at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct FootprintPoint {
    /// Accesses so far.
    pub accesses: u64,
    /// Distinct 4 KiB pages so far.
    pub pages: usize,
}

/// Reads a trace to its end and counts.
///
/// # Errors
/// If it cannot be opened or read.
pub fn stat(path: &Path, options: &OpenOptions) -> Result<Stat, SourceError> {
    let mut info = info(path, options, Extent::Beginning)?;
    let mut source = open(path, options)?;
    let setup = source.setup()?;
    let mut counting = Counting::new(&setup);
    let mut block = Block::new();
    loop {
        let more = source.fill(&mut block)?;
        counting.block(&block);
        if more == More::No {
            info.facts = source.facts();
            return Ok(counting.finish(info));
        }
    }
}

struct Counting {
    threads: Vec<ThreadStat>,
    processes: usize,
    kinds: [u64; 4],
    accesses: u64,
    events: u64,
    reuse: Reuse,
    capped: bool,
    footprint: Vec<FootprintPoint>,
    /// Accesses between two points; doubled when there are too many points.
    step: u64,
    reuse_distance: Vec<u64>,
}

/// The number of a histogram's bin: 0 for 0, then one a power of two.
fn bin(value: u64) -> usize {
    (u64::BITS - value.leading_zeros()) as usize
}

fn count(histogram: &mut Vec<u64>, bin: usize) {
    if histogram.len() <= bin {
        histogram.resize(bin + 1, 0);
    }
    histogram[bin] += 1;
}

/// Bits of a page's number that canonical addresses differ in: 57 - 12 and the sign.
const PAGE_BITS: u32 = 46;

impl Counting {
    fn new(setup: &Setup) -> Counting {
        let thread = |process| ThreadStat { process, ..ThreadStat::default() };
        Counting {
            threads: setup.threads.iter().map(|t| thread(t.process)).collect(),
            processes: setup.processes.len(),
            kinds: [0; 4],
            accesses: 0,
            events: 0,
            reuse: Reuse::new(),
            capped: false,
            footprint: Vec::new(),
            step: 1024,
            reuse_distance: Vec::new(),
        }
    }

    fn block(&mut self, block: &Block) {
        for access in &block.accesses {
            self.kinds[access.kind as usize] += 1;
            let thread = &mut self.threads[usize::from(access.thread)];
            thread.accesses += 1;
            thread.instructions += u64::from(access.insns);
            let page = access.va.page() & ((1 << PAGE_BITS) - 1);
            match self.reuse.touch(u64::from(thread.process) << PAGE_BITS | page) {
                Touch::First => {}
                Touch::After(distance) => count(&mut self.reuse_distance, bin(distance.into())),
                Touch::Unknown => self.capped = true,
            }
            self.accesses += 1;
            if self.accesses.is_multiple_of(self.step) {
                self.point();
            }
        }
        self.events += block.events.len() as u64;
        for event in &block.events {
            match event {
                Event::Spawn { process, .. } => {
                    self.threads.push(ThreadStat { process: *process, ..ThreadStat::default() });
                }
                Event::Fork { .. } => self.processes += 1,
                _ => {}
            }
        }
    }

    fn point(&mut self) {
        self.footprint.push(FootprintPoint { accesses: self.accesses, pages: self.reuse.pages() });
        if self.footprint.len() == POINTS {
            self.step *= 2;
            let step = self.step;
            self.footprint.retain(|point| point.accesses.is_multiple_of(step));
        }
    }

    fn finish(mut self, mut info: Info) -> Stat {
        info.counted = Some(Counted {
            accesses: self.accesses,
            processes: self.processes,
            threads: self.threads.len(),
            pages: self.reuse.pages() as u64,
        });
        if self.footprint.last().is_none_or(|point| point.accesses != self.accesses) {
            self.footprint.push(FootprintPoint { accesses: self.accesses, pages: self.reuse.pages() });
        }
        let mut touches = Vec::new();
        self.reuse.touches().for_each(|n| count(&mut touches, bin(n) - 1));
        let larger = |bits: u32| self.reuse.keys().map(|page| page >> bits).collect::<BTreeSet<_>>().len();
        let kind = |kind: Kind| self.kinds[kind as usize];
        Stat {
            accesses: self.accesses,
            instructions: self.threads.iter().map(|t| t.instructions).sum(),
            kinds: Kinds {
                reads: kind(Kind::Read),
                writes: kind(Kind::Write),
                fetches: kind(Kind::Fetch),
                modifies: kind(Kind::Modify),
            },
            bytes_per_access: info.bytes as f64 / self.accesses.max(1) as f64,
            processes: self.processes,
            events: self.events,
            pages: [self.reuse.pages(), larger(9), larger(18)],
            pages_are_capped: self.capped,
            touches,
            footprint: self.footprint,
            reuse_distance: self.reuse_distance,
            threads: self.threads,
            info,
        }
    }
}
