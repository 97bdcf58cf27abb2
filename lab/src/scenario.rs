//! Programs side by side in time: the thread whose core's clock is furthest behind goes next.
//!
//! An experiment feeds the same accesses in the same order to all systems. Here the order
//! follows from time: each thread has a core of its own, and what it does next happens when that
//! core has come there. So a program that faults slowly interleaves with faster ones as it
//! does on a machine, and all of them press on the last-level cache and the memory at their own pace.
//!
//! The threads of a program begin their work together when all of them have filled their pages.

use crate::world::{World, WorldError};
use machine::input::{Access, Block, Event, More, Setup, Source, SourceError};
use paging::frames::CpuId;
use std::collections::VecDeque;
use workloads::Together;

/// Accesses of a thread's turn: with a fault each, less than the time that memory
/// controllers look back.
const QUANTUM: usize = 8;

/// What a thread does.
enum Item {
    /// An access that fills a page before the program begins.
    Fill(Access),
    Access(Access),
    Event(Event),
}

/// Programs that run together, thread by thread.
pub struct Scenario {
    programs: Together,
    /// The program of each thread.
    of: Vec<usize>,
    queues: Vec<VecDeque<Item>>,
    ended: Vec<bool>,
    /// Pages that each program has still to fill.
    left: Vec<u64>,
    block: Block,
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scenario").field("threads", &self.of.len()).finish_non_exhaustive()
    }
}

/// What ended a scenario.
#[derive(Debug)]
pub enum ScenarioError {
    /// A program.
    Source(SourceError),
    /// The system.
    World(WorldError),
}

impl From<SourceError> for ScenarioError {
    fn from(error: SourceError) -> Self {
        ScenarioError::Source(error)
    }
}

impl From<WorldError> for ScenarioError {
    fn from(error: WorldError) -> Self {
        ScenarioError::World(error)
    }
}

impl Scenario {
    /// These programs, and the world that they begin in.
    ///
    /// # Errors
    /// If one of them cannot begin.
    pub fn new(mut programs: Together) -> Result<(Scenario, Setup), SourceError> {
        let setup = programs.setup()?;
        let of: Vec<usize> = (0..setup.threads.len()).map(|at| programs.program_of(at as u16)).collect();
        let queues = of.iter().map(|_| VecDeque::new()).collect();
        let ended = vec![false; programs.programs()];
        let left = programs.filling();
        Ok((Scenario { programs, of, queues, ended, left, block: Block::new() }, setup))
    }

    /// How many pages each program fills before it begins.
    pub fn filling(&self) -> Vec<u64> {
        self.programs.filling()
    }

    /// Lets the threads of `who` run on `world`, each on its own core, the one that is furthest behind
    /// first. Returns which thread it was and how many accesses it made; `None` when all have ended.
    ///
    /// # Errors
    /// [`ScenarioError`]; also if a program forks: its children would have no core.
    pub fn turn(
        &mut self,
        world: &mut World,
        who: std::ops::Range<usize>,
    ) -> Result<Option<(usize, u64)>, ScenarioError> {
        let mut threads: Vec<usize> = (0..self.of.len()).filter(|t| who.contains(&self.of[*t])).collect();
        threads.sort_by_key(|t| (world.clock(CpuId(*t as u16)), *t));
        for thread in threads {
            while self.queues[thread].is_empty() && !self.ended[self.of[thread]] {
                self.pull(self.of[thread])?;
            }
            let program = self.of[thread];
            let queue = &mut self.queues[thread];
            let filling = matches!(queue.front(), Some(Item::Fill(_)));
            if queue.is_empty() || (self.left[program] > 0 && !filling) {
                continue;
            }
            let mut block = Block::new();
            while let Some(item) = queue.pop_front() {
                match item {
                    Item::Fill(access) | Item::Access(access) => block.accesses.push(access),
                    Item::Event(event) => block.events.push(event),
                }
                let full = block.accesses.len() == QUANTUM || !block.events.is_empty();
                let ends = filling && !matches!(queue.front(), Some(Item::Fill(_)));
                if ends || (full && !matches!(queue.front(), Some(Item::Event(_)))) {
                    break;
                }
            }
            world.run(&block)?;
            if filling {
                self.left[program] -= block.accesses.len() as u64;
                if self.left[program] == 0 {
                    self.meet(world, program);
                }
            }
            return Ok(Some((thread, block.accesses.len() as u64)));
        }
        Ok(None)
    }

    /// All threads of a program wait for the last.
    fn meet(&self, world: &mut World, program: usize) {
        let threads = || (0..self.of.len()).filter(|at| self.of[*at] == program).map(|at| CpuId(at as u16));
        let last = threads().map(|cpu| world.clock(cpu)).max().unwrap_or(0);
        threads().for_each(|cpu| world.idle_until(cpu, last));
    }

    /// Gets more of a program.
    fn pull(&mut self, program: usize) -> Result<(), SourceError> {
        let filling = self.programs.filling()[program] > 0;
        if self.programs.fill_from(program, &mut self.block)? == More::No {
            self.ended[program] = true;
        }
        let mut last = None;
        for access in &self.block.accesses {
            let thread = usize::from(access.thread);
            self.queues[thread].push_back(if filling { Item::Fill(*access) } else { Item::Access(*access) });
            last = Some(thread);
        }
        // Without accesses before it, an event is the first thread's.
        let first = self.of.iter().position(|of| *of == program).unwrap_or(0);
        for event in self.block.events.drain(..) {
            if let Event::Fork { .. } | Event::Spawn { .. } = event {
                return Err(SourceError {
                    what: "a scenario".to_string(),
                    reason: "a program forks or starts threads, and each thread needs a core of its own"
                        .to_string(),
                    hint: Some("take programs whose threads are there from the start".to_string()),
                });
            }
            self.queues[last.unwrap_or(first)].push_back(Item::Event(event));
        }
        Ok(())
    }
}
