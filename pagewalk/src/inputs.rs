//! From what was typed to an input, a machine and systems.

use crate::cli;
use crate::live::Program;
use anyhow::{Context, Result, bail};
use lab::contained::Contained;
use lab::experiment::{DumpTables, Experiment, ExperimentError, GENERATED, Progress, run_and_look};
use lab::layout::RealLayout;
use lab::look::{Look, Sight};
use lab::{Outcome, System};
use machine::input::Source;
use machine::profile::Profile;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use trace::capture::{Relaid, Snapshot};

/// The built-in trace: a real program's accesses, see `data/README.md`.
static BUILTIN: &[u8] = include_bytes!("../../data/redis-mget.parquet");

/// Where accesses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The trace in the program.
    Builtin,
    /// A trace file.
    Trace(String),
    /// A generator and its parameters.
    Workload(String),
    /// A program that runs now.
    Live(Program),
    /// Another, with the addresses of a real process.
    Relaid(Box<Input>, Arc<Snapshot>),
}

impl Input {
    /// What `-w` means: a file that exists, or looks like one; else a workload.
    pub fn parse(text: Option<&str>) -> Input {
        match text {
            None => Input::Builtin,
            Some(text) if Path::new(text).exists() || text.contains('/') || looks_like_file(text) => {
                Input::Trace(text.to_string())
            }
            Some(text) => Input::Workload(text.to_string()),
        }
    }

    /// Opens it.
    pub fn open(&self, seed: u64) -> Result<Box<dyn Source>> {
        Ok(match self {
            Input::Builtin => trace::from_bytes(
                "redis-server answering MGETs (the built-in trace)",
                BUILTIN,
                &trace::OpenOptions::default(),
            )?,
            Input::Trace(file) => trace::open(Path::new(file), &trace::OpenOptions::default())?,
            Input::Workload(spec) => workloads::build(spec, seed)?,
            Input::Live(program) => Box::new(program.start()?),
            Input::Relaid(input, snapshot) => Box::new(Relaid::new(input.open(seed)?, snapshot.clone())),
        })
    }
}

/// A workload's name has no dot before its parameters; a file's usually has.
fn looks_like_file(text: &str) -> bool {
    text.split(':').next().is_some_and(|name| name.contains('.'))
}

/// The profile of a name or a file.
pub fn machine(name: &str) -> Result<Profile> {
    if name.ends_with(".toml") || name.contains('/') {
        let text =
            std::fs::read_to_string(name).with_context(|| format!("cannot read machine profile `{name}`"))?;
        return Ok(Profile::from_toml(&text, name)?);
    }
    Ok(Profile::builtin(name)?)
}

/// All of an experiment but its accesses.
pub fn experiment(
    systems: &[String],
    args: &cli::Experiment,
    output: cli::Output,
) -> Result<(Experiment, Input)> {
    let systems = systems.iter().map(|s| System::parse(s)).collect::<Result<Vec<_>, _>>()?;
    if systems.is_empty() {
        bail!("no system was named; `pagewalk list systems` lists them");
    }
    let profile = machine(&args.machine)?;
    let snapshot = args.layout.as_deref().map(Snapshot::load).transpose()?.map(Arc::new);
    let input = if args.command.is_empty() {
        Input::parse(args.workload.as_deref())
    } else {
        if args.workload.is_some() {
            bail!("accesses come from one place: `-w`, or a program after `--`");
        }
        // No more than is simulated: the program need not wait for the rest.
        let limit = args.accesses.map(|n| n.saturating_add(args.warmup.unwrap_or(0)));
        let (command, capture) = (args.command.clone(), args.capture.clone());
        Input::Live(Program { command, capture, limit, layout: snapshot.clone(), aside: output.json })
    };
    let (warmup, accesses) = match &input {
        Input::Workload(_) => {
            let accesses = args.accesses.unwrap_or(GENERATED.0);
            (args.warmup.unwrap_or(GENERATED.1.min(accesses)), Some(accesses))
        }
        // How long a program runs nobody knows; its start is part of it.
        Input::Live(_) => (args.warmup.unwrap_or(0), args.accesses),
        Input::Builtin | Input::Trace(_) | Input::Relaid(..) => {
            // Half of a trace warms the caches, so that a short one is not all cold misses.
            let all = input.open(args.seed)?.setup()?.accesses;
            let warmup = args.warmup.unwrap_or_else(|| all.unwrap_or(0) / 2);
            (warmup, args.accesses)
        }
    };
    let layout = snapshot.as_ref().map(|snapshot| Arc::new(RealLayout::new(snapshot)));
    let input = match (input, snapshot) {
        // A captured program has got them already.
        (input @ Input::Live(_), _) | (input, None) => input,
        (input, Some(snapshot)) => Input::Relaid(Box::new(input), snapshot),
    };
    let experiment = Experiment {
        warmup,
        accesses,
        seed: args.seed,
        verify: args.verify,
        layout,
        dump_tables: args.dump_tables.map(|every| DumpTables { every }),
        ..Experiment::new(profile, systems)
    };
    Ok((experiment, input))
}

/// Runs an experiment on an input, whose processes are perhaps containers.
pub fn run(
    experiment: &Experiment,
    look: &Look,
    source: &mut dyn Source,
    containers: bool,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<(Outcome, Sight)>, ExperimentError> {
    match containers {
        true => run_and_look(experiment, look, &mut Contained::new(source), progress),
        false => run_and_look(experiment, look, source, progress),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_workloads_are_told_apart() {
        assert_eq!(Input::parse(None), Input::Builtin);
        assert_eq!(Input::parse(Some("gups:footprint=1GiB")), Input::Workload("gups:footprint=1GiB".into()));
        assert_eq!(Input::parse(Some("gusp")), Input::Workload("gusp".into()));
        assert_eq!(Input::parse(Some("zipf:theta=0.5")), Input::Workload("zipf:theta=0.5".into()));
        assert_eq!(Input::parse(Some("missing.parquet")), Input::Trace("missing.parquet".into()));
    }
}
