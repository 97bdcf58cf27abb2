//! The `pagewalk` command.

mod cli;
mod explain;
mod figures;
mod inputs;
mod live;
mod progress;
mod report;
mod reproduce;
mod segments;
mod traces;
mod tracetext;

use anyhow::{Context, Result};
use clap::Parser;
use cli::{Cli, Command, Listed, Output, Reproduced};
use lab::Outcome;
use lab::experiment;
use std::io::{self, Write};
use std::process::ExitCode;

/// The systems of the main job.
const MAIN_JOB: [&str; 6] = ["native", "native-thp", "nested", "nested-thp-4k", "nested-thp-thp", "shadow"];

#[global_allocator]
static ALLOC: lab::huge::HugePages = lab::huge::HugePages;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            // A reader that has seen enough (`pagewalk … | head`) is no failure.
            if error
                .root_cause()
                .downcast_ref::<io::Error>()
                .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
            {
                return ExitCode::SUCCESS;
            }
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what was asked for; the exit status is 0, or that of a program that ran under us.
fn run(cli: Cli) -> Result<u8> {
    let output = cli.output;
    let done = |result: Result<()>| result.map(|()| 0);
    match cli.command {
        None => done(main_job(output)),
        Some(Command::Run { system, experiment }) => simulate(&[system], &experiment, output),
        Some(Command::Compare { systems, experiment }) => simulate(&systems, &experiment, output),
        Some(Command::Explain { system, address, experiment }) => {
            let (experiment, input) = inputs::experiment(&[system], &experiment)?;
            done(explain::explain(&experiment, &input, &address, output))
        }
        Some(Command::Record(args)) => live::record(&args, output),
        Some(Command::Trace { command }) => done(traces::trace(&command, output)),
        Some(Command::Snapshot { pid, output: file }) => done(traces::snapshot(pid, file.as_deref(), output)),
        Some(Command::Reproduce { what: Reproduced::Gups }) => done(reproduce::gups(output)),
        Some(Command::Reproduce { what: Reproduced::Mitosis(figures) }) => {
            done(figures::print(&lab::figures::MITOSIS_FIGURES, &figures, output))
        }
        Some(Command::Reproduce { what: Reproduced::Vmitosis(figures) }) => {
            done(figures::print(&lab::figures::VMITOSIS_FIGURES, &figures, output))
        }
        Some(Command::Reproduce { what: Reproduced::DirectSegments { classes, footprint } }) => {
            done(segments::direct_segments(&classes, &footprint, output))
        }
        Some(Command::Reproduce { what: Reproduced::TlbCurve { columns } }) => {
            done(reproduce::curve(&columns, output))
        }
        Some(Command::Reproduce { what: Reproduced::Ptemagnet(args) }) => {
            done(reproduce::ptemagnet(&args, output))
        }
        Some(Command::List { what }) => done(list(what, output)),
    }
}

/// What `pagewalk` does when it is told nothing.
fn main_job(output: Output) -> Result<()> {
    let args = cli::Experiment::default_for("cascade-lake");
    let (experiment, input) = inputs::experiment(&MAIN_JOB.map(String::from), &args)?;
    let outcomes = outcomes(&experiment, &input, output)?;
    print_outcomes(&outcomes, output)
}

/// Runs systems on an input and prints what came out; with a live program, its exit status is ours.
fn simulate(systems: &[String], args: &cli::Experiment, output: Output) -> Result<u8> {
    let (experiment, input) = inputs::experiment(systems, args)?;
    if let Some(layout) = experiment.layout.as_ref().filter(|_| !output.quiet) {
        eprintln!("{}", layout.says());
    }
    let (outcomes, status) = match &input {
        inputs::Input::Live(program) => live::simulate(&experiment, program, output)?,
        input => (outcomes(&experiment, input, output)?, 0),
    };
    print_outcomes(&outcomes, output)?;
    Ok(status)
}

fn outcomes(
    experiment: &experiment::Experiment,
    input: &inputs::Input,
    output: Output,
) -> Result<Vec<Outcome>> {
    let mut source = input.open(experiment.seed)?;
    let progress = progress::Bar::new(output.quiet);
    let outcomes = experiment::run(experiment, &mut *source, &mut |p| progress.show(p))?;
    progress.end();
    Ok(outcomes)
}

fn print_outcomes(outcomes: &[Outcome], output: Output) -> Result<()> {
    if output.json {
        return print(&(serde_json::to_string_pretty(outcomes)? + "\n"));
    }
    let mut text = String::new();
    if let Some(first) = outcomes.first() {
        text += &format!(
            "{}\non {}: {} accesses after {} of warm-up, {} cycles under {}\n\n",
            first.workload,
            first.machine,
            report::thousands(first.accesses),
            report::thousands(first.warmup),
            report::thousands(first.cycles),
            first.system,
        );
    }
    text += &report::table_dumps(outcomes);
    text += &report::comparison(outcomes);
    text.push('\n');
    if let Some(sentence) = report::meaning(outcomes) {
        text += &format!("\n{sentence}\n");
    }
    if let Some(checked) = outcomes.first().and_then(|o| o.verified) {
        text += &format!(
            "\nThe oracle checked {} accesses under each system and found no mismatch.\n",
            report::thousands(checked)
        );
    }
    print(&text)
}

/// Writes to standard output, noticing a full disk.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write the result")
}

fn list(what: Listed, output: Output) -> Result<()> {
    let rows: Vec<(String, String)> = match what {
        Listed::Systems => lab::system::PRESETS.iter().map(|(n, d)| (n.to_string(), d.to_string())).collect(),
        Listed::Machines => machine::profile::Profile::list()
            .map(|(name, _)| Ok((name.to_string(), machine::profile::Profile::builtin(name)?.title)))
            .collect::<Result<_>>()?,
        Listed::Workloads => {
            workloads::list().iter().map(|w| (w.name.to_string(), w.summary.to_string())).collect()
        }
    };
    if output.json {
        let rows: Vec<_> =
            rows.iter().map(|(name, what)| serde_json::json!({ "name": name, "what": what })).collect();
        return print(&(serde_json::to_string_pretty(&rows)? + "\n"));
    }
    let width = rows.iter().map(|(n, _)| n.len()).max().unwrap_or(0);
    let mut text: String = rows.iter().map(|(n, d)| format!("{n:width$}  {d}\n")).collect();
    match what {
        Listed::Systems => {
            text += "\nFeatures, added with `+` (nested+frag=0.5+host-pt-node=1):\n";
            let width = lab::System::features().iter().map(|(n, _)| n.len()).max().unwrap_or(0);
            text.extend(lab::System::features().iter().map(|(n, d)| format!("  {n:width$}  {d}\n")));
        }
        Listed::Machines => text += "\nA profile of your own: `-m my.toml`.\n",
        Listed::Workloads => {
            text += "\nParameters (`gups:footprint=64GiB,threads=4`):\n";
            for w in workloads::list() {
                text += &format!("  {} (from {})\n", w.name, w.source);
                text.extend(
                    w.parameters
                        .iter()
                        .map(|p| format!("      {}={}  {} ({})\n", p.name, p.default, p.meaning, p.unit)),
                );
            }
        }
    }
    print(&text)
}
