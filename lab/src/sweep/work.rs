//! Running units on all cores, within a memory limit.

use super::key::Key;
use super::lock::UnderWay;
use super::plan::Plan;
use super::store::{Fate, Store};
use super::unit::Unit;
use crate::experiment::run_each;
use crate::results::Record;
use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How units are run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Units at the same time.
    pub workers: usize,
    /// Bytes of memory that all of them take at most, as far as estimates go.
    pub memory: u64,
}

/// What became of the points of units.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Points that have a result now.
    pub done: u64,
    /// Points that failed.
    pub failed: u64,
}

/// What happens while units run.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A unit made so many accesses more, over all its points.
    Accesses(u64),
    /// A unit ended.
    Ended(Tally),
}

/// Why work had to stop.
#[derive(Debug, thiserror::Error)]
#[error("results cannot be written: {0}; what was written before is whole: make room and run again")]
pub struct WorkError(#[from] io::Error);

struct State {
    waiting: VecDeque<Unit>,
    running: usize,
    /// Bytes that running units will take.
    taken: u64,
    tally: Tally,
    error: Option<io::Error>,
    under_way: UnderWay,
}

struct Shared<'a> {
    plan: &'a Plan,
    store: &'a Store,
    options: Options,
    state: Mutex<State>,
    changed: Condvar,
    observe: &'a (dyn Fn(Event) + Sync),
}

/// Runs units and writes what each gives as soon as it has ended.
///
/// # Errors
/// If results cannot be written; the others' results are, as far as they can be.
pub fn work(
    plan: &Plan,
    units: Vec<Unit>,
    directory: &Path,
    options: Options,
    observe: &(dyn Fn(Event) + Sync),
) -> Result<Tally, WorkError> {
    let store = Store::new(directory);
    let workers = options.workers.clamp(1, units.len().max(1));
    let state = State {
        waiting: units.into(),
        running: 0,
        taken: 0,
        tally: Tally::default(),
        error: None,
        under_way: UnderWay::new(directory, workers)?,
    };
    let shared =
        Shared { plan, store: &store, options, state: Mutex::new(state), changed: Condvar::new(), observe };
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let shared = &shared;
            scope.spawn(move || shared.work(worker));
        }
    });
    let state = shared.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    match state.error {
        Some(error) => Err(error.into()),
        None => Ok(state.tally),
    }
}

impl Shared<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Panics of worlds are caught before they come here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, worker: usize) {
        while let Some(unit) = self.take(worker) {
            let fates = self.run(&unit);
            let written = match &fates {
                Some(fates) => self.store.write(fates),
                None => Ok(()),
            };
            let failed = |fate: &&(Key, Fate)| matches!(fate.1, Fate::Failed(_));
            let failed = fates.iter().flatten().filter(failed).count() as u64;
            let tally = Tally { done: unit.points.len() as u64 - failed, failed };
            let mut state = self.lock();
            state.running -= 1;
            state.taken -= unit.cost.bytes;
            match written {
                Ok(()) if fates.is_some() => {
                    state.tally.done += tally.done;
                    state.tally.failed += tally.failed;
                    (self.observe)(Event::Ended(tally));
                }
                Ok(()) => {}
                Err(error) => state.error = state.error.take().or(Some(error)),
            }
            self.changed.notify_all();
        }
    }

    /// The next unit that there is memory for; `None` if there are no more, or work has to stop.
    fn take(&self, worker: usize) -> Option<Unit> {
        let mut state = self.lock();
        loop {
            let under_way = |state: &mut State, keys| {
                if let Err(error) = state.under_way.set(worker, keys) {
                    state.error = state.error.take().or(Some(error));
                }
            };
            if state.error.is_some() || state.waiting.is_empty() {
                under_way(&mut state, Vec::new());
                return None;
            }
            // What is really taken may be more than what was estimated.
            let taken = state.taken.max(resident());
            let fits = |unit: &Unit| taken.saturating_add(unit.cost.bytes) <= self.options.memory;
            let next = match state.running {
                0 => Some(0),
                _ => state.waiting.iter().position(fits),
            };
            if let Some(unit) = next.and_then(|at| state.waiting.remove(at)) {
                state.running += 1;
                state.taken += unit.cost.bytes;
                let keys = unit.points.iter().map(|at| self.plan.points[*at].key).collect();
                under_way(&mut state, keys);
                return Some(unit);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What the points of a unit gave; `None` if work stopped.
    fn run(&self, unit: &Unit) -> Option<Vec<(Key, Fate)>> {
        let points: Vec<_> = unit.points.iter().map(|at| &self.plan.points[*at]).collect();
        let members: Vec<_> = points.iter().map(|point| self.plan.member(point)).collect();
        let input = &self.plan.inputs[points[0].input as usize];
        let mut before = 0;
        let mut progress = |now: crate::experiment::Progress| {
            (self.observe)(Event::Accesses((now.accesses - before) * points.len() as u64));
            before = now.accesses;
            if self.lock().error.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let outcomes =
            input.open(points[0].seed).and_then(|mut source| run_each(members, &mut *source, &mut progress));
        let fates: Vec<Fate> = match outcomes {
            Ok(outcomes) => outcomes?
                .into_iter()
                .map(|outcome| match outcome {
                    Ok(mut outcome) => {
                        if input.trace.is_some() {
                            // As written in the sweep: where the file lies differs from machine to machine.
                            outcome.workload.clone_from(&input.name);
                        }
                        Fate::Done(Record::from(&outcome))
                    }
                    Err(error) => Fate::Failed(error.to_string()),
                })
                .collect(),
            Err(error) => points.iter().map(|_| Fate::Failed(error.to_string())).collect(),
        };
        Some(points.iter().map(|point| point.key).zip(fates).collect())
    }
}

/// Bytes of memory that this process has; 0 if the system does not say.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) << 10
}
