//! Several programs on one machine: the processes of several sources in one.
//!
//! `a + b + c` runs the three at the same time, each on cores of its own while there
//! are enough. A scheduler model takes turns: each program runs for `quantum` accesses of
//! each of its threads, then the next. With a core for each thread that is how far clocks of cores that run
//! side by side drift apart; where threads share a core it is their time slice.
//!
//! What a program alone fills before it starts (`populate`) is filled here while
//! the others run: its pages are touched, in its order, by accesses among the others'. So faults
//! of all programs interleave, and physical memory is handed out as it is under co-location.

use machine::input::{
    Access, BLOCK, Block, Event, Kind, More, Populate, Region, Setup, Source, SourceError, ThreadSetup,
};

use crate::registry::{WorkloadError, build};

/// Accesses of a thread's turn. Faults interleave at a finer grain than a batch of the per-CPU lists.
pub const QUANTUM: usize = 32;
/// Pages that a thread fills before the next of its program does.
const RUN: u64 = 16;
/// Instructions for a page that is filled: 512 stores of 8 bytes, by vectors of 32.
const FILL_INSNS: u16 = 300;

/// Programs that run at the same time.
pub struct Together {
    members: Vec<Member>,
    turn: usize,
    /// Processes and threads of all members so far.
    processes: u16,
    threads: u16,
    /// Instructions for a page that is filled.
    fill_insns: u16,
}

impl std::fmt::Debug for Together {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Together").field("members", &self.members.len()).finish_non_exhaustive()
    }
}

struct Member {
    source: Box<dyn Source + Send>,
    /// The numbers of its processes and threads here, by its own.
    processes: Vec<u16>,
    threads: Vec<u16>,
    /// Pages that it fills first, the last first.
    fill: Vec<Access>,
    /// What its source delivered and has not run yet.
    block: Block,
    taken: usize,
    more: More,
    /// Accesses of its turn: as many for each of its threads.
    quantum: usize,
}

impl Member {
    fn ended(&self) -> bool {
        self.fill.is_empty() && self.more == More::No && self.taken == self.block.accesses.len()
    }
}

impl Together {
    /// The programs of `a + b + c`, each with a seed of its own.
    ///
    /// # Errors
    /// If one of them is no workload.
    pub fn parse(spec: &str, seed: u64) -> Result<Together, WorkloadError> {
        let programs = spec.split('+').zip(seed..);
        let sources = programs.map(|(one, seed)| build(one.trim(), seed)).collect::<Result<Vec<_>, _>>()?;
        Ok(Together::new(sources, QUANTUM))
    }

    /// These programs, `quantum` accesses of each thread in turn. The first threads are those of the first.
    pub fn new(sources: Vec<Box<dyn Source + Send>>, quantum: usize) -> Together {
        let member = |source| Member {
            source,
            processes: Vec::new(),
            threads: Vec::new(),
            fill: Vec::new(),
            block: Block::new(),
            taken: 0,
            more: More::Yes,
            quantum,
        };
        let members = sources.into_iter().map(member).collect();
        Together { members, turn: 0, processes: 0, threads: 0, fill_insns: FILL_INSNS }
    }

    /// Programs that take `insns` instructions to fill a page before they begin: those that compute or parse their data.
    pub fn filling_in(self, insns: u16) -> Together {
        Together { fill_insns: insns, ..self }
    }

    /// How many programs there are.
    pub fn programs(&self) -> usize {
        self.members.len()
    }

    /// The program of a thread, once they are set up.
    pub fn program_of(&self, thread: u16) -> usize {
        self.members.iter().position(|member| member.threads.contains(&thread)).unwrap_or(0)
    }

    /// How many pages each program fills before it begins.
    pub fn filling(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.fill.len() as u64).collect()
    }

    /// The next turn of one program, instead of whose turn it is. Says whether the program has more.
    ///
    /// # Errors
    /// As [`Source::fill`].
    pub fn fill_from(&mut self, at: usize, block: &mut Block) -> Result<More, SourceError> {
        block.clear();
        let member = &mut self.members[at];
        if !member.fill.is_empty() {
            let rest = member.fill.len().saturating_sub(member.quantum);
            block.accesses.extend(member.fill.drain(rest..).rev());
            return Ok(More::Yes);
        }
        if member.taken == member.block.accesses.len() && member.more == More::Yes {
            member.more = member.source.fill(&mut member.block)?;
            member.taken = 0;
            for access in &mut member.block.accesses {
                access.thread = member.threads.get(usize::from(access.thread)).copied().unwrap_or(u16::MAX);
            }
        }
        let end = (member.taken + member.quantum).min(member.block.accesses.len());
        block.accesses.extend_from_slice(&member.block.accesses[member.taken..end]);
        member.taken = end;
        if end == member.block.accesses.len() {
            for event in std::mem::take(&mut self.members[at].block.events) {
                let event = self.renumber(at, event)?;
                block.events.push(event);
            }
        }
        Ok(if self.members[at].ended() { More::No } else { More::Yes })
    }

    /// The event in this world's numbers; new processes and threads get the next.
    fn renumber(&mut self, at: usize, event: Event) -> Result<Event, SourceError> {
        let wrong = |what: &str, number: u16| SourceError {
            what: "programs that run together".to_string(),
            reason: format!("an event names {what} {number}, which does not exist"),
            hint: None,
        };
        let member = &mut self.members[at];
        let (processes, threads) = (&mut member.processes, &mut member.threads);
        let of = |process: u16| {
            processes.get(usize::from(process)).copied().ok_or_else(|| wrong("process", process))
        };
        let thread_of =
            |thread: u16| threads.get(usize::from(thread)).copied().ok_or_else(|| wrong("thread", thread));
        Ok(match event {
            Event::Map { process, region } => Event::Map { process: of(process)?, region },
            Event::Unmap { process, start, len } => Event::Unmap { process: of(process)?, start, len },
            Event::Protect { process, start, len, permissions } => {
                Event::Protect { process: of(process)?, start, len, permissions }
            }
            Event::Discard { process, start, len } => Event::Discard { process: of(process)?, start, len },
            Event::Exec { process, image } => Event::Exec { process: of(process)?, image },
            Event::Exit { process } => Event::Exit { process: of(process)? },
            Event::MoveThread { thread, node } => Event::MoveThread { thread: thread_of(thread)?, node },
            Event::Request { thread } => Event::Request { thread: thread_of(thread)? },
            Event::Fork { parent, .. } => {
                let (parent, child) = (of(parent)?, self.processes);
                processes.push(child);
                self.processes += 1;
                Event::Fork { parent, child }
            }
            Event::Spawn { process, .. } => {
                let (process, thread) = (of(process)?, self.threads);
                threads.push(thread);
                self.threads += 1;
                Event::Spawn { thread, process }
            }
            // An event of a kind that names nobody.
            other => other,
        })
    }
}

/// The accesses that fill a region, in the order that `populate` says, and the region without it.
fn filling(region: &mut Region, threads: &[u16], insns: u16) -> Vec<Access> {
    let kind = if region.permissions.write { Kind::Write } else { Kind::Read };
    let pages = region.len >> 12;
    let start = region.start.raw();
    let touch = |page: u64, thread: u16| Access::new(start + (page << 12), kind, thread, insns);
    let of = |at: u64| threads[(at % threads.len() as u64) as usize];
    match std::mem::take(&mut region.populate) {
        _ if threads.is_empty() => Vec::new(),
        Populate::OnDemand => Vec::new(),
        Populate::By(thread) => {
            let by = threads.get(usize::from(thread)).copied().unwrap_or(threads[0]);
            (0..pages).map(|page| touch(page, by)).collect()
        }
        Populate::RoundRobin => (0..pages).map(|page| touch(page, of(page))).collect(),
        Populate::Partitioned => {
            let share = pages.div_ceil(threads.len() as u64).max(1);
            let mut all = Vec::with_capacity(pages as usize);
            for step in (0..share).step_by(RUN as usize) {
                for at in 0..threads.len() as u64 {
                    let first = at * share + step;
                    let end = (first + RUN).min((at + 1) * share).min(pages);
                    all.extend((first..end).map(|page| touch(page, of(at))));
                }
            }
            all
        }
    }
}

impl Source for Together {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        let mut all = Setup { accesses: Some(0), ..Setup::default() };
        let mut names = Vec::new();
        for member in &mut self.members {
            let mut setup = member.source.setup()?;
            let first = all.processes.len() as u16;
            member.processes = (0..setup.processes.len() as u16).map(|at| first + at).collect();
            for thread in &setup.threads {
                member.threads.push(all.threads.len() as u16);
                all.threads.push(ThreadSetup { process: first + thread.process });
            }
            member.quantum = (member.quantum * setup.threads.len()).clamp(1, BLOCK);
            for (at, process) in setup.processes.iter_mut().enumerate() {
                let its: Vec<u16> = (setup.threads.iter().zip(&member.threads))
                    .filter(|(thread, _)| usize::from(thread.process) == at)
                    .map(|(_, number)| *number)
                    .collect();
                for region in &mut process.regions {
                    member.fill.extend(filling(region, &its, self.fill_insns));
                }
            }
            member.fill.reverse();
            all.more_threads |= setup.more_threads;
            all.accesses = all.accesses.zip(setup.accesses).map(|(a, b)| a + b + member.fill.len() as u64);
            names.push(setup.name);
            all.processes.append(&mut setup.processes);
        }
        all.name = names.join(" + ");
        (self.processes, self.threads) = (all.processes.len() as u16, all.threads.len() as u16);
        Ok(all)
    }

    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        block.clear();
        let Some(at) = (0..self.members.len())
            .map(|ahead| (self.turn + ahead) % self.members.len())
            .find(|at| !self.members[*at].ended())
        else {
            return Ok(More::No);
        };
        self.turn = (at + 1) % self.members.len();
        self.fill_from(at, block)?;
        Ok(if self.members.iter().all(Member::ended) { More::No } else { More::Yes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(source: &mut dyn Source, most: usize) -> (Vec<Access>, Vec<Event>) {
        let (mut accesses, mut events, mut block) = (Vec::new(), Vec::new(), Block::new());
        while accesses.len() < most && source.fill(&mut block).unwrap() == More::Yes {
            assert!(block.accesses.len() <= 2 * QUANTUM);
            accesses.extend_from_slice(&block.accesses);
            events.append(&mut block.events);
        }
        (accesses, events)
    }

    #[test]
    fn each_program_does_what_it_does_alone_after_filling_its_pages() {
        let specs = ["gups:footprint=1MiB,threads=2", "zipf:footprint=2MiB"];
        let mut both = crate::build(&specs.join(" + "), 7).unwrap();
        let setup = both.setup().unwrap();
        assert_eq!((setup.processes.len(), setup.threads.len()), (2, 3));
        let (accesses, _) = drain(both.as_mut(), 200_000);
        for (at, spec) in specs.iter().enumerate() {
            let mut alone = crate::build(spec, 7 + at as u64).unwrap();
            let its = alone.setup().unwrap();
            let first = if at == 0 { 0 } else { 2 };
            let mine: Vec<Access> = accesses
                .iter()
                .filter(|a| setup.threads[usize::from(a.thread)].process == at as u16)
                .map(|a| Access { thread: a.thread - first, ..*a })
                .collect();
            let regions = &its.processes[0].regions;
            let filled: u64 =
                regions.iter().filter(|r| r.populate != Populate::OnDemand).map(|r| r.len >> 12).sum();
            let (fill, rest) = mine.split_at(filled as usize);
            let mut pages: Vec<u64> = fill.iter().map(|a| a.va.page()).collect();
            pages.sort_unstable();
            pages.dedup();
            assert_eq!(pages.len() as u64, filled, "each page once");
            assert_eq!(rest, crate::tests::take(alone.as_mut(), rest.len()), "{spec}");
        }
        let regions = setup.processes.iter().flat_map(|p| &p.regions);
        assert!(regions.into_iter().all(|r| r.populate == Populate::OnDemand), "nothing is filled before");
        // Both fill their first pages before either has filled all.
        let fills: Vec<bool> = accesses[..128].iter().map(|a| a.thread == 2).collect();
        assert!(fills.contains(&true) && fills.contains(&false));
    }

    #[test]
    fn children_get_numbers_that_nobody_else_has() {
        let spec = "churn:footprint=1MiB,mapping=64KiB,operation=fork,period=50";
        let mut both = crate::build(&format!("{spec} + {spec}"), 1).unwrap();
        both.setup().unwrap();
        let (_, events) = drain(both.as_mut(), 20_000);
        let (mut processes, mut threads) = (2, 2);
        for event in events {
            match event {
                Event::Fork { parent, child } => {
                    assert!(parent < 2 && child == processes);
                    processes += 1;
                }
                Event::Spawn { thread, process } => {
                    assert!(thread == threads && process == processes - 1);
                    threads += 1;
                }
                Event::Exit { process } => assert!(process >= 2 && process < processes),
                _ => {}
            }
        }
        assert!(processes > 10);
    }

    #[test]
    fn a_program_that_is_none_is_named() {
        assert!(crate::build("gups + gusp", 1).err().unwrap().to_string().contains("`gusp`"));
    }
}
