//! Many runs of one input on one thread, each for itself: what fails does not stop the others.

use super::{BATCH, Experiment, ExperimentError, Progress, Run, plan};
use crate::outcome::Outcome;
use crate::system::System;
use machine::input::{Block, More, Setup, Source, SourceError};
use machine::profile::Profile;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// One run: a system, on a machine of its own, for as long as it wants.
#[derive(Clone, Debug)]
pub struct Member {
    /// The system.
    pub system: System,
    /// The machine.
    pub profile: Profile,
    /// Accesses before counting begins.
    pub warmup: u64,
    /// Accesses to count at most.
    pub accesses: Option<u64>,
    /// Seed of everything random but the input.
    pub seed: u64,
    /// Check every access.
    pub verify: bool,
}

impl From<Member> for Experiment {
    fn from(member: Member) -> Experiment {
        let Member { system, profile, warmup, accesses, seed, verify } = member;
        Experiment { warmup, accesses, seed, verify, threads: 1, ..Experiment::new(profile, [system]) }
    }
}

/// A member at work, or what became of it.
type State = Result<(Experiment, Run), ExperimentError>;

/// Runs all members on the accesses of `source`, on the calling thread, and tells what became of each.
/// `None` if `progress` broke it off.
///
/// # Errors
/// Of the input, which is everyone's.
pub fn run_each(
    members: Vec<Member>,
    source: &mut dyn Source,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Option<Vec<Result<Outcome, ExperimentError>>>, SourceError> {
    let setup = source.setup()?;
    let mut runs: Vec<State> = members.into_iter().map(|member| begin(member, &setup)).collect();
    let end = |runs: &[State]| {
        let ends = runs.iter().flatten().map(|(_, run)| run.end);
        ends.max_by_key(|end| end.unwrap_or(u64::MAX)).unwrap_or(Some(0))
    };
    let mut until = end(&runs);
    let total = match (until, setup.accesses) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let (mut blocks, mut more, mut seen) = (Vec::new(), More::Yes, 0);
    while more == More::Yes && until.is_none_or(|end| seen < end) {
        let mut filled = 0;
        while filled < BATCH && more == More::Yes && until.is_none_or(|end| seen < end) {
            if filled == blocks.len() {
                blocks.push(Block::new());
            }
            more = source.fill(&mut blocks[filled])?;
            seen += blocks[filled].accesses.len() as u64;
            filled += 1;
        }
        for state in &mut runs {
            let Ok((_, run)) = state else { continue };
            if let Err(error) = feed(run, &blocks[..filled]) {
                *state = Err(error);
            }
        }
        until = end(&runs);
        let misses = runs.iter().flatten().map(|(_, run)| run.sample().counts.stlb_misses).max().unwrap_or(0);
        if progress(Progress { accesses: seen, total, misses }).is_break() {
            return Ok(None);
        }
    }
    let finish = |state: State| {
        let (experiment, mut run) = state?;
        let system = run.name.clone();
        guarded(&system, || Ok(run.outcome(&experiment, &setup.name)))
    };
    Ok(Some(runs.into_iter().map(finish).collect()))
}

fn begin(member: Member, setup: &Setup) -> State {
    let system = member.system;
    let experiment = Experiment::from(member);
    guarded(&system.to_string(), || {
        let plan = plan(&experiment, system, setup)?;
        Run::begin(plan, &experiment, setup, 0, 0)
    })
    .map(|run| (experiment, run))
}

fn feed(run: &mut Run, blocks: &[Block]) -> Result<(), ExperimentError> {
    if run.end.is_some_and(|end| run.seen >= end) {
        return Ok(());
    }
    let system = run.name.clone();
    guarded(&system, || {
        blocks.iter().try_for_each(|block| run.block(block)).map_err(ExperimentError::under(&system))
    })
}

/// Makes a panic an error. What was touched is dropped, and shared with nobody.
fn guarded<T>(system: &str, work: impl FnOnce() -> Result<T, ExperimentError>) -> Result<T, ExperimentError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said =
            panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let message = said.unwrap_or("it gave no reason").to_string();
        Err(ExperimentError::Panicked { system: system.to_string(), message })
    })
}
