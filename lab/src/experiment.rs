//! Experiments: systems × an input × a machine, and what comes out.
//!
//! One decoded input feeds all systems: blocks are read once and every world
//! runs them, worlds on as many threads as the machine has cores. Each world is
//! alone with its state, so the outcome does not depend on the threads.

mod each;
mod fit;

use crate::hardware::Spent;
use crate::layout::RealLayout;
use crate::look::{Board, Counts, Look, Recording, Sample, Sight};
use crate::outcome::{
    ExitCounts, Outcome, SCHEMA, SoftwareCounts, TlbCounts, TranslationCost, WalkCounts, ratio,
};
use crate::system::System;
use crate::world::{Place, Plan, TableDump, World, WorldError};
use machine::input::{Block, More, Region, Setup, Source, SourceError};
use machine::metrics::{Counters, LatencyHistogram};
use machine::profile::Profile;
use machine::timing::TICKS;
use os::Stats;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc;

pub use each::{Member, run_each};
pub(crate) use fit::{Room, filled};
pub use fit::{plan, world};

/// Accesses of a generator that are counted, and at most that many that warm up, if nothing is said.
pub const GENERATED: (u64, u64) = (10_000_000, 5_000_000);

/// What to run, besides the input.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// Systems, run on the same accesses.
    pub systems: Vec<System>,
    /// The machine.
    pub profile: Profile,
    /// Accesses before counting begins.
    pub warmup: u64,
    /// Accesses to count at most; all that come if `None`.
    pub accesses: Option<u64>,
    /// Seed of everything random.
    pub seed: u64,
    /// Check every access.
    pub verify: bool,
    /// A real process's layout, from which the first process starts.
    pub layout: Option<Arc<RealLayout>>,
    /// Worker threads; 0 for one a core.
    pub threads: usize,
    /// Dump page tables at the end, and whenever so many accesses were made.
    pub dump_tables: Option<DumpTables>,
}

/// The seed if none is asked for.
pub const SEED: u64 = 1;

impl Experiment {
    /// Systems on a machine, with as many accesses as a generator's run has, seed 1, and nothing else asked for.
    pub fn new(profile: Profile, systems: impl IntoIterator<Item = System>) -> Experiment {
        let (accesses, warmup) = GENERATED;
        Experiment {
            systems: systems.into_iter().collect(),
            profile,
            warmup,
            accesses: Some(accesses),
            seed: SEED,
            verify: false,
            layout: None,
            threads: 0,
            dump_tables: None,
        }
    }
}

/// When page tables are dumped, besides at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DumpTables {
    /// Each time that so many accesses were made, warm-up included.
    pub every: Option<u64>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Accesses delivered to all systems.
    pub accesses: u64,
    /// How many there will be, if that is known.
    pub total: Option<u64>,
    /// Second-level TLB misses counted so far, under the system that has most.
    pub misses: u64,
}

/// What can end an experiment.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// The input.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A system at work.
    #[error("under {system}: {error}")]
    World {
        /// Which system.
        system: String,
        /// What happened.
        error: Box<WorldError>,
    },
    /// A system that makes no sense on this machine or for this input.
    #[error("{system} on {machine}: {reason}")]
    Refused {
        /// Which system.
        system: String,
        /// The machine.
        machine: String,
        /// Why.
        reason: String,
    },
    /// An error of ours.
    #[error("under {system}: the program failed, which is an error of its own: {message}")]
    Panicked {
        /// Which system.
        system: String,
        /// What it said.
        message: String,
    },
}

impl ExperimentError {
    /// An error of an input: of what, and why.
    pub(crate) fn input(what: &str, reason: impl ToString) -> ExperimentError {
        SourceError { what: what.to_string(), reason: reason.to_string(), hint: None }.into()
    }

    /// Makes errors of worlds those of `system` at work.
    pub(crate) fn under(system: impl ToString) -> impl Fn(WorldError) -> ExperimentError {
        move |error| ExperimentError::World { system: system.to_string(), error: Box::new(error) }
    }
}

/// Blocks handed from the decoder to the workers at once: large enough that the
/// hand-over costs nothing per access.
const BATCH: usize = 64;

/// A world, and when its counting begins and ends.
struct Run {
    name: String,
    world: World,
    seen: u64,
    warmup: u64,
    end: Option<u64>,
    start: Start,
    dump: Option<DumpTables>,
    dumps: Vec<TableDump>,
    recording: Recording,
    /// Walks of each core to record.
    walks: usize,
    /// Its line on the board.
    line: usize,
}

/// State at the end of the warm-up.
#[derive(Clone, Default)]
struct Start {
    cycles: Vec<u64>,
    instructions: u64,
    spent: Spent,
    stats: Stats,
    host: Stats,
}

impl Run {
    /// Builds the world of a plan, of which `walks` walks of each core are recorded.
    fn begin(
        plan: Plan,
        experiment: &Experiment,
        setup: &Setup,
        walks: usize,
        line: usize,
    ) -> Result<Run, ExperimentError> {
        let name = plan.system.to_string();
        let world = World::new(plan, setup).map_err(ExperimentError::under(&name))?;
        let mut run = Run {
            name,
            world,
            seen: 0,
            warmup: experiment.warmup,
            end: experiment.accesses.map(|n| n.saturating_add(experiment.warmup)),
            start: Start::default(),
            dump: experiment.dump_tables,
            dumps: Vec::new(),
            recording: Recording::default(),
            walks,
            line,
        };
        if run.warmup == 0 {
            run.mark();
        }
        Ok(run)
    }

    fn mark(&mut self) {
        self.world.reset_counters();
        let (stats, host) = self.world.stats();
        self.start = Start {
            cycles: self.world.cycles(),
            instructions: self.instructions(),
            spent: self.world.spent(),
            stats,
            host: host.unwrap_or_default(),
        };
        self.recording = Recording::default();
        self.recording.take(self.sample());
        self.world.record_walks(self.walks);
    }

    fn instructions(&self) -> u64 {
        self.world.machine().cores().map(|c| c.timing.instructions()).sum()
    }

    /// Everything counted so far.
    fn sample(&self) -> Sample {
        let machine = self.world.machine();
        let (stats, host) = self.world.stats();
        let faults = |s: &Stats| s.minor_faults + s.major_faults;
        let mut counts = Counts {
            cycles: self.world.cycles().iter().sum::<u64>() - self.start.cycles.iter().sum::<u64>(),
            software: self.world.software_cycles() - self.start.spent.cycles,
            faults: faults(&stats) - faults(&self.start.stats),
            exits: host.map_or(0, |host| host.exits - self.start.host.exits),
            ..Counts::default()
        };
        let mut latency = LatencyHistogram::default();
        for core in machine.cores() {
            let c = core.counters;
            counts.accesses += c.accesses;
            counts.l1_misses += c.l1d_tlb_misses + c.l1i_tlb_misses;
            counts.stlb_misses += c.stlb_misses + c.stlb_fetch_misses;
            counts.walks += c.walks;
            counts.walk_active += core.timing.walk_active / TICKS;
            counts.walk_pending += core.timing.walk_pending / TICKS;
            latency.add(&c.walk_cycles);
        }
        Sample { counts, latency }
    }

    /// Tells the board.
    fn tell(&self, board: &Board) {
        board.tell(self.line, self.seen, self.seen < self.warmup, self.sample().counts);
    }

    /// Runs a block, split where the warm-up ends and cut where counting does.
    fn block(&mut self, block: &Block) -> Result<(), WorldError> {
        let before = self.seen;
        self.accesses(block)?;
        if let Some(every) = self.dump.and_then(|dump| dump.every)
            && before / every < self.seen / every
        {
            self.dumps.extend(self.world.dump_tables(self.seen));
        }
        if self.seen > self.warmup && self.recording.is_due(self.seen - self.warmup) {
            self.recording.take(self.sample());
        }
        Ok(())
    }

    fn accesses(&mut self, block: &Block) -> Result<(), WorldError> {
        let n = block.accesses.len() as u64;
        let limit = self.end.map_or(n, |end| n.min(end.saturating_sub(self.seen)));
        let before = self.seen;
        self.seen += limit;
        if limit == n && !(before < self.warmup && self.seen > self.warmup) {
            self.world.run(block)?;
            if before < self.warmup && self.seen == self.warmup {
                self.mark();
            }
            return Ok(());
        }
        let cut = self.warmup.saturating_sub(before).min(limit) as usize;
        let mut part = Block { accesses: block.accesses[..cut].to_vec(), events: Vec::new() };
        self.world.run(&part)?;
        if before < self.warmup && self.seen >= self.warmup {
            self.mark();
        }
        part.accesses = block.accesses[cut..limit as usize].to_vec();
        if limit == n {
            part.events.clone_from(&block.events);
        }
        self.world.run(&part)
    }

    /// What was seen of it, with the walks of `places` if there are any.
    fn sight(&mut self, experiment: &Experiment, setup: &Setup, places: Option<&[Place]>) -> Sight {
        let (end, recording) = (self.sample(), std::mem::take(&mut self.recording));
        let mut view = places.map(|places| self.world.view(places, self.seen));
        for region in view.iter_mut().flat_map(|view| &mut view.regions) {
            let of = setup.processes.get(usize::from(region.process));
            let named = |r: &&Region| r.start.raw() < region.end && region.start < r.start.raw() + r.len;
            region.name =
                of.and_then(|p| p.regions.iter().find(named)).map_or(String::new(), |r| r.name.clone());
        }
        let walks = self.world.recorded_walks();
        Sight { series: recording.finish(end), view, walks, mhz: experiment.profile.clock.mhz }
    }

    fn outcome(&mut self, experiment: &Experiment, workload: &str) -> Outcome {
        if self.dump.is_some() && self.dumps.last().is_none_or(|dump| dump.after < self.seen) {
            self.dumps.extend(self.world.dump_tables(self.seen));
        }
        let table_dumps = std::mem::take(&mut self.dumps);
        let world = &self.world;
        let counters = world.machine().counters();
        let cycles: Vec<u64> = world
            .cycles()
            .iter()
            .zip(self.start.cycles.iter().chain(std::iter::repeat(&0)))
            .map(|(a, b)| a - b)
            .collect();
        let total: u64 = cycles.iter().sum();
        let (stats, host) = world.stats();
        Outcome {
            schema: SCHEMA,
            system: self.name.clone(),
            machine: experiment.profile.name.clone(),
            workload: workload.to_string(),
            seed: experiment.seed,
            warmup: self.warmup.min(self.seen),
            accesses: counters.accesses,
            instructions: self.instructions() - self.start.instructions,
            cycles: total,
            elapsed_cycles: cycles.iter().copied().max().unwrap_or(0),
            translation: translation(world, &counters, total),
            tlb: TlbCounts::of(&counters),
            walks: WalkCounts::of(&counters),
            data: counters.data.into(),
            software: software(&stats, host.as_ref(), &self.start, world),
            tables: world.table_bytes(),
            layout: world.placed(),
            host_lines: world.host_lines().map(Into::into),
            segments: world.segments(),
            passthrough: world.passthrough(),
            requests: world.requests(),
            shareable: world.shareable(),
            sharing: world.sharing(),
            verified: world.verified(),
            table_dumps,
        }
    }
}

pub(crate) fn translation(world: &World, counters: &Counters, cycles: u64) -> TranslationCost {
    let sum = |f: &dyn Fn(&machine::timing::Timing) -> u64| {
        world.machine().cores().map(|c| f(c.timing)).sum::<u64>() / TICKS
    };
    let walk_active = sum(&|t| t.walk_active);
    let walk_pending = sum(&|t| t.walk_pending);
    TranslationCost {
        walk_active,
        walk_pending,
        guest_references: counters.grid.dimension_ticks()[0] / TICKS,
        host_references: counters.grid.dimension_ticks()[1] / TICKS,
        stlb_hits: counters.stlb_hit_cycles,
        share: ratio(walk_active, cycles),
        mean_walk: ratio(walk_pending, counters.walks + counters.faulting_walks),
    }
}

fn software(stats: &Stats, host: Option<&Stats>, start: &Start, world: &World) -> SoftwareCounts {
    let faults = |s: &Stats| s.minor_faults + s.major_faults;
    let host_or = |f: &dyn Fn(&Stats) -> u64| host.map_or(0, |h| f(h) - f(&start.host));
    SoftwareCounts {
        page_faults: faults(stats) - faults(&start.stats),
        page_faults_in_all: faults(stats),
        exits: host_or(&|h| h.exits),
        exits_in_all: host.map_or(0, |h| h.exits),
        exits_by: ExitCounts {
            vm_table: host_or(&|h| h.exits_nested),
            shadow_faults: host_or(&|h| h.exits_shadow_fault),
            table_stores: host_or(&|h| h.exits_table_write),
            root_loads: host_or(&|h| h.exits_root_load),
            invalidations: host_or(&|h| h.exits_invalidate),
            mode_changes: host_or(&|h| h.exits_hypercall),
            tag_faults: host_or(&|h| h.exits_frame_tag),
        },
        shootdowns: stats.shootdowns - start.stats.shootdowns + host_or(&|h| h.shootdowns),
        cow_copies: stats.cow_copies - start.stats.cow_copies,
        cycles: world.software_cycles() - start.spent.cycles,
        cycles_by: {
            let mut by = world.spent().by;
            by.iter_mut().zip(start.spent.by).for_each(|(now, then)| *now -= then);
            by.into()
        },
        frames: world.frames_used(),
        allocations: world.allocations(),
        reserved: world.reserved(),
    }
}

/// Runs all systems of an experiment on the accesses of `source`.
///
/// `progress` is called now and then, on the calling thread; when it breaks,
/// the run ends there and what was seen so far is the outcome.
///
/// # Errors
/// [`ExperimentError`]; nothing of the other systems is kept then.
pub fn run(
    experiment: &Experiment,
    source: &mut dyn Source,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Outcome>, ExperimentError> {
    let seen = run_and_look(experiment, &Look::default(), source, progress)?;
    Ok(seen.into_iter().map(|(outcome, _)| outcome).collect())
}

/// The same, and looks closer.
///
/// # Errors
/// As [`run`].
pub fn run_and_look(
    experiment: &Experiment,
    look: &Look,
    source: &mut dyn Source,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<(Outcome, Sight)>, ExperimentError> {
    let board = look.board.clone().unwrap_or_default();
    board.begin(experiment.systems.iter().map(ToString::to_string));
    let mut setup = source.setup()?;
    let placing = experiment.layout.as_ref().map(|layout| layout.give(&mut setup));
    let mut runs = Vec::new();
    for system in &experiment.systems {
        if placing.is_some() && system.translation.is_segmented() {
            return Err(ExperimentError::Refused {
                system: system.to_string(),
                machine: experiment.profile.name.clone(),
                reason: "a real layout says which frames a process has, and a segment says otherwise"
                    .to_string(),
            });
        }
        let plan = Plan { placing: placing.clone(), ..plan(experiment, *system, &setup)? };
        runs.push(Run::begin(plan, experiment, &setup, look.walks, runs.len())?);
    }
    let end = experiment.accesses.map(|n| n.saturating_add(experiment.warmup));
    let total = match (end, setup.accesses) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let cores = crate::workers(0);
    let workers = crate::workers(experiment.threads).min(runs.len().max(1));
    let runs = match runs.as_mut_slice() {
        // A core for the program, a core for the model: a third thread would only be in the way.
        [run] if source.is_live() && workers == 1 && cores < 3 => {
            alone(run, source, (end, total), &board, progress)?;
            runs
        }
        _ => drive(runs, workers, source, (end, total), &board, progress)?,
    };
    // The same pages under all systems.
    let places = look.pages.and_then(|n| Some(runs.first()?.world.places(n)));
    let done = runs.into_iter().map(|mut run| {
        // What is counted is read first: looking makes walks, and can take faults.
        let counted = run.outcome(experiment, &setup.name);
        let sight = run.sight(experiment, &setup, places.as_deref());
        (counted, sight)
    });
    Ok(done.collect())
}

/// Decodes and runs on one thread, so that a block stays in the cache.
fn alone(
    run: &mut Run,
    source: &mut dyn Source,
    (end, total): (Option<u64>, Option<u64>),
    board: &Board,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), ExperimentError> {
    let (mut block, mut more, mut seen) = (Block::new(), More::Yes, 0);
    while more == More::Yes && end.is_none_or(|end| seen < end) {
        for _ in 0..BATCH {
            more = source.fill(&mut block)?;
            seen += block.accesses.len() as u64;
            run.block(&block).map_err(ExperimentError::under(&run.name))?;
            if more == More::No || end.is_some_and(|end| seen >= end) {
                break;
            }
        }
        run.tell(board);
        if progress(Progress { accesses: seen, total, misses: board.misses() }).is_break() {
            break;
        }
    }
    Ok(())
}

/// One batch of blocks, for all workers.
type Batch = Arc<Vec<Block>>;

fn drive(
    runs: Vec<Run>,
    workers: usize,
    source: &mut dyn Source,
    (end, total): (Option<u64>, Option<u64>),
    board: &Board,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Run>, ExperimentError> {
    // Round robin, so that neighbours, which are often alike, share the load.
    let mut shares: Vec<Vec<(usize, Run)>> = (0..workers).map(|_| Vec::new()).collect();
    for (index, run) in runs.into_iter().enumerate() {
        shares[index % workers].push((index, run));
    }
    std::thread::scope(|scope| {
        let mut senders = Vec::new();
        let mut handles = Vec::new();
        for share in shares {
            let (sender, receiver) = mpsc::sync_channel::<Batch>(4);
            senders.push(sender);
            handles.push(scope.spawn(move || work(share, &receiver, board)));
        }
        let fed = feed(source, (end, total), &senders, board, progress);
        drop(senders);
        let mut done = Vec::new();
        let mut failed = None;
        for handle in handles {
            match handle.join() {
                Ok(Ok(share)) => done.extend(share),
                Ok(Err(error)) => failed = failed.or(Some(error)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        fed?;
        done.sort_by_key(|(index, _)| *index);
        Ok(done.into_iter().map(|(_, run)| run).collect())
    })
}

/// Runs batches on a worker's worlds until there are no more.
fn work(
    mut share: Vec<(usize, Run)>,
    batches: &mpsc::Receiver<Batch>,
    board: &Board,
) -> Result<Vec<(usize, Run)>, ExperimentError> {
    while let Ok(batch) = batches.recv() {
        for (_, run) in &mut share {
            for block in batch.iter() {
                run.block(block).map_err(ExperimentError::under(&run.name))?;
            }
            run.tell(board);
        }
    }
    Ok(share)
}

/// Decodes the source and hands it to all workers.
fn feed(
    source: &mut dyn Source,
    (end, total): (Option<u64>, Option<u64>),
    senders: &[mpsc::SyncSender<Batch>],
    board: &Board,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), SourceError> {
    let mut seen = 0;
    let mut more = More::Yes;
    // Batches that were sent, to be used again: fresh memory for each would cost more than decoding.
    let mut sent: VecDeque<Batch> = VecDeque::new();
    while more == More::Yes && end.is_none_or(|end| seen < end) {
        let done = sent.front().is_some_and(|batch| Arc::strong_count(batch) == 1);
        let old = if done { sent.pop_front().and_then(Arc::into_inner) } else { None };
        let mut old = old.unwrap_or_default().into_iter();
        let mut batch = Vec::with_capacity(BATCH);
        while batch.len() < BATCH && more == More::Yes && end.is_none_or(|end| seen < end) {
            let mut block = old.next().unwrap_or_else(Block::new);
            more = source.fill(&mut block)?;
            seen += block.accesses.len() as u64;
            batch.push(block);
        }
        let batch = Arc::new(batch);
        for sender in senders {
            // A worker that is gone has an error, which its join returns.
            if sender.send(Arc::clone(&batch)).is_err() {
                return Ok(());
            }
        }
        sent.push_back(batch);
        if progress(Progress { accesses: seen, total, misses: board.misses() }).is_break() {
            break;
        }
    }
    Ok(())
}
