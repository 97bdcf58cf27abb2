//! `pagewalk matrix` and `pagewalk soak`: all combinations, and random ones, under the oracle.

use crate::cli::{MatrixArgs, Output, SoakArgs};
use crate::{progress, report, show};
use anyhow::{Result, bail};
use lab::System;
use lab::experiment::Progress;
use lab::matrix::{self, Combination};
use lab::soak::{self, Case, Done};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What `matrix` prints.
#[derive(Serialize)]
struct Matrix {
    /// Combinations that make sense.
    valid: Vec<String>,
    /// Why others are refused, and which those are.
    refused: BTreeMap<String, Vec<String>>,
    /// What came of running them, if they were run.
    run: Option<Ran>,
}

/// Combinations under the oracle.
#[derive(Serialize)]
struct Ran {
    /// How many ran.
    combinations: u64,
    /// Accesses that the oracle checked, without a mismatch.
    verified: u64,
}

/// What `soak` prints.
#[derive(Serialize)]
struct Soaked {
    /// Cases that ran.
    cases: u64,
    /// Accesses that the oracle checked, without a mismatch.
    verified: u64,
    /// The seed that they were drawn from.
    seed: u64,
}

/// Runs cases with a line of progress; a failure becomes an error that says how to see it again.
fn watched(
    draw: &(dyn Fn(u64) -> Option<Case> + Sync),
    threads: usize,
    deadline: Option<Instant>,
    output: Output,
) -> Result<Done> {
    let bar = progress::Bar::new(output.quiet);
    // A panic is told with its case; not as it happens, by each try to make it smaller.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let result = soak::run(draw, lab::workers(threads), deadline, &|done| {
        let _ = bar.show(Progress { accesses: done.accesses, total: None, misses: 0 });
    });
    let result = result.map_err(|failed| {
        let (done, case, failure) = *failed;
        let small = case.clone().shrink(&failure);
        let failure = small.run().err().unwrap_or(failure);
        anyhow::anyhow!("after {} cases: {failure}\n  as drawn: {case}\n  made small: {small}", done.cases)
    });
    std::panic::set_hook(hook);
    bar.end();
    result
}

/// Lists the combinations, and runs them if asked to.
pub fn matrix(args: &MatrixArgs, output: Output) -> Result<()> {
    let all: Vec<Combination> = matrix::combinations().collect();
    let mut valid: Vec<(String, System)> = Vec::new();
    let mut refused: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for combination in all {
        match combination.system {
            Ok(system) => valid.push((combination.name, system)),
            Err(reason) => refused.entry(reason).or_default().push(combination.name),
        }
    }
    let chosen: Vec<&(String, System)> = valid.iter().step_by(args.every as usize).collect();
    let done = match args.run {
        None => None,
        Some(accesses) => {
            let case = |number: u64| {
                chosen.get(number as usize).map(|(name, system)| Case {
                    system: format!("{name}+swap=64"),
                    machine: args.machine.clone(),
                    workload: soak::turmoil(system, 16, ",period=40"),
                    accesses,
                    seed: args.seed + number,
                })
            };
            Some(watched(&case, args.threads, None, output)?)
        }
    };
    if output.json {
        let valid = valid.into_iter().map(|(name, _)| name).collect();
        let run = done.map(|done| Ran { combinations: done.cases, verified: done.accesses });
        return crate::print_json("matrix", &Matrix { valid, refused, run });
    }
    let mut text = String::new();
    if args.run.is_none() {
        text.extend(valid.iter().map(|(name, _)| format!("{name}\n")));
        text.push('\n');
    }
    text += &format!("{} combinations make sense.", report::thousands(valid.len() as u64));
    text += " Refused:\n";
    for (reason, names) in &refused {
        text += &format!("  {:>7}  {reason}; as {}\n", report::thousands(names.len() as u64), names[0]);
    }
    if let Some(done) = done {
        text += &format!(
            "\nThe oracle checked {} accesses under {} of them and found no mismatch.\n",
            report::thousands(done.accesses),
            report::thousands(done.cases)
        );
    }
    show(&text)
}

/// Draws and runs until time is up.
pub fn soak(args: &SoakArgs, output: Output) -> Result<()> {
    if !(args.minutes > 0.0 && args.minutes <= 1e6) {
        bail!("--minutes {}: more than 0, at most a million", args.minutes);
    }
    let deadline = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    let most = args.cases.unwrap_or(u64::MAX);
    let draw = |number: u64| (number < most).then(|| Case::draw(args.seed, number));
    let done = watched(&draw, args.threads, Some(deadline), output)?;
    if output.json {
        let soaked = Soaked { cases: done.cases, verified: done.accesses, seed: args.seed };
        return crate::print_json("soak", &soaked);
    }
    show(&format!(
        "{} cases drawn from seed {}: the oracle checked {} accesses and found no mismatch.\n",
        report::thousands(done.cases),
        args.seed,
        report::thousands(done.accesses)
    ))
}
