//! The `pagewalk` command.

mod advise;
mod cli;
mod explain;
mod figures;
mod html;
mod inputs;
mod list;
mod live;
mod passthrough;
mod perfetto;
mod progress;
mod report;
mod reproduce;
mod segments;
mod shareable;
mod shells;
mod soak;
mod sweep;
mod terminal;
mod traces;
mod tracetext;
mod watch;

use anyhow::{Context, Result};
use clap::Parser;
use cli::{Attacked, Cli, Command, Output, Reproduced};
use lab::Outcome;
use lab::look::Board;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

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
        Some(Command::Run { system, look, experiment }) => simulate(&[system], &experiment, &look, output),
        Some(Command::Compare { systems, look, experiment }) => {
            simulate(&systems, &experiment, &look, output)
        }
        Some(Command::Explain { system, address, process, html, experiment }) => {
            let systems: Vec<String> = system.split(',').map(String::from).collect();
            let (experiment, input) = inputs::experiment(&systems, &experiment, output)?;
            done(explain::explain(&experiment, &input, (process, &address), html.as_deref(), output))
        }
        Some(Command::Record(args)) => live::record(&args, output),
        Some(Command::Trace { command }) => done(traces::trace(&command, output)),
        Some(Command::Snapshot { pid, output: file }) => done(traces::snapshot(pid, file.as_deref(), output)),
        Some(Command::Shareable { pids }) => done(shareable::shareable(&pids, output)),
        Some(Command::Reproduce { what, html }) => done(reproduce(what, html.as_deref(), output)),
        Some(Command::Advise(args)) => done(advise::advise(&args, output)),
        Some(Command::Matrix(args)) => done(soak::matrix(&args, output)),
        Some(Command::Soak(args)) => done(soak::soak(&args, output)),
        Some(Command::Sweep { command }) => sweep::sweep(command, output),
        Some(Command::Attack { what: Attacked::Passthrough(args) }) => {
            done(passthrough::attack(&args, output))
        }
        Some(Command::List { what }) => done(list::list(what, output)),
        Some(Command::Completions { shell }) => done(shells::completions(shell)),
        Some(Command::Man { directory }) => done(shells::man(&directory, output)),
    }
}

fn reproduce(what: Reproduced, html: Option<&Path>, output: Output) -> Result<()> {
    match what {
        Reproduced::Gups => reproduce::gups(html, output),
        Reproduced::Mitosis(args) => figures::print(&lab::figures::MITOSIS_FIGURES, &args, html, output),
        Reproduced::Vmitosis(args) => figures::print(&lab::figures::VMITOSIS_FIGURES, &args, html, output),
        Reproduced::DirectSegments { classes, footprint } => {
            segments::direct_segments(&classes, &footprint, html, output)
        }
        Reproduced::Together { pairs, footprint, accesses } => {
            reproduce::together(&pairs, &footprint, accesses, html, output)
        }
        Reproduced::All(args) => reproduce::all(&args, html, output),
        Reproduced::TlbCurve { columns } => reproduce::curve(&columns, html, output),
        Reproduced::Ptemagnet(args) => reproduce::ptemagnet(&args, html, output),
        Reproduced::Passthrough(args) => passthrough::reproduce(&args, html, output),
        Reproduced::Babelfish(args) => reproduce::babelfish(&args, html, output),
    }
}

/// What `pagewalk` does when it is told nothing.
fn main_job(output: Output) -> Result<()> {
    let args = cli::Experiment::default_for("cascade-lake");
    simulate(&MAIN_JOB.map(String::from), &args, &cli::Look::default(), output).map(|_| ())
}

/// Pages whose walks a report has, over all systems: each takes up to 2 KB.
const PAGES: usize = 1800;

/// Runs systems on an input and prints what came out; with a live program, its exit status is ours.
fn simulate(systems: &[String], args: &cli::Experiment, look: &cli::Look, output: Output) -> Result<u8> {
    let (experiment, input) = inputs::experiment(systems, args, output)?;
    if let Some(layout) = experiment.layout.as_ref().filter(|_| !output.quiet) {
        eprintln!("{}", layout.says());
    }
    for file in [&look.html, &look.perfetto, &look.parquet].into_iter().flatten() {
        writable(file)?;
    }
    let board = Arc::new(Board::default());
    let lab_look = lab::look::Look {
        board: Some(Arc::clone(&board)),
        pages: look.html.as_ref().map(|_| (PAGES / experiment.systems.len().max(1)).clamp(16, 512)),
        walks: look.perfetto.as_ref().map_or(0, |_| look.perfetto_walks as usize),
    };
    let mut view = match look.watch {
        true => progress::View::Watch(watch::Watch::new(board)),
        false => progress::View::Bar(progress::Bar::new(output.quiet)),
    };
    let (seen, status) = match &input {
        inputs::Input::Live(program) => {
            live::simulate(&experiment, &lab_look, program, args.containers, &mut view, output)?
        }
        input => {
            let mut source = input.open(experiment.seed)?;
            let seen =
                inputs::run(&experiment, &lab_look, &mut *source, args.containers, &mut |p| view.show(p))?;
            (seen, 0)
        }
    };
    view.end();
    if let Some(file) = &look.html {
        let lead = report::meaning(seen.iter().map(|(outcome, _)| outcome));
        html::compare(&experiment, &seen, lead).write(file)?;
        said(file, output);
    }
    if let Some(file) = &look.perfetto {
        perfetto::write(&seen, file)?;
        said(file, output);
    }
    let outcomes: Vec<Outcome> = seen.into_iter().map(|(outcome, _)| outcome).collect();
    if let Some(file) = &look.parquet {
        let records: Vec<lab::results::Record> = outcomes.iter().map(Into::into).collect();
        lab::results::write_parquet(file, &records)?;
        said(file, output);
    }
    print_outcomes(&outcomes, output)?;
    Ok(status)
}

/// Fails before a long run, not after it, if a file cannot be written.
pub(crate) fn writable(file: &Path) -> Result<()> {
    let there = file.exists();
    let open = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(file);
    open.with_context(|| format!("cannot write `{}`", file.display()))?;
    if !there {
        // A run that fails leaves nothing behind.
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

/// Writes a file as a whole: beside, then renamed; what is no file, such as a pipe, directly.
pub(crate) fn write_whole(file: &Path, content: &[u8]) -> io::Result<()> {
    match std::fs::metadata(file) {
        Ok(there) if !there.is_file() => std::fs::write(file, content),
        _ => lab::sweep::store::replace(file, content),
    }
}

/// Tells where something was written.
pub(crate) fn said(file: &Path, output: Output) {
    if !output.quiet {
        eprintln!("wrote {}", file.display());
    }
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
    text += &report::comparison(outcomes, terminal::width(&io::stdout()), terminal::colors());
    text.push('\n');
    if let Some(sentence) = report::meaning(outcomes.iter()) {
        text += &format!("\n{sentence}\n");
    }
    if let Some(checked) = outcomes.first().and_then(|o| o.verified) {
        text += &format!(
            "\nThe oracle checked {} accesses under each system and found no mismatch.\n",
            report::thousands(checked)
        );
    }
    show(&text)
}

/// Version of the shape of what is printed as JSON but for outcomes and walks, which have versions of their own.
const SCHEMA: u32 = 1;

/// A value as JSON, with its version and what it is.
pub(crate) fn json_text<T: serde::Serialize>(kind: &str, value: &T) -> Result<String> {
    #[derive(serde::Serialize)]
    struct Versioned<'a, T> {
        schema: u32,
        kind: &'a str,
        #[serde(flatten)]
        value: &'a T,
    }
    Ok(serde_json::to_string_pretty(&Versioned { schema: SCHEMA, kind, value })? + "\n")
}

/// Prints that.
pub(crate) fn print_json<T: serde::Serialize>(kind: &str, value: &T) -> Result<()> {
    print(&json_text(kind, value)?)
}

/// The same of a list.
pub(crate) fn print_json_rows<T: serde::Serialize>(kind: &str, rows: &T) -> Result<()> {
    #[derive(serde::Serialize)]
    struct Rows<'a, T> {
        rows: &'a T,
    }
    print_json(kind, &Rows { rows })
}

/// Writes what people read to standard output: on a terminal, lines are as long as it is wide.
fn show(text: &str) -> Result<()> {
    match terminal::width(&io::stdout()) {
        Some(width) => print(&terminal::fitted(text, width.max(40))),
        None => print(text),
    }
}

/// Writes to standard output, noticing a full disk.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write the result")
}
