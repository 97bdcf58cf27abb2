//! Real programs: captured to a file, or simulated while they run.

use crate::cli::{self, Output, RecordArgs, Route, StartSignal};
use crate::progress::{Line, View};
use crate::report::thousands;
use crate::traces::Written;
use anyhow::{Result, bail, ensure};
use lab::Outcome;
use lab::experiment::Experiment;
use lab::look::{Look, Sight};
use machine::input::{Block, More, Setup, Source, SourceError};
use rustix::process::Signal;
use serde::Serialize;
use std::ffi::OsString;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trace::capture::{
    self, Afterwards, CaptureOptions, Fetches, Layout, LiveSource, Snapshot, Start, Summary,
};

/// What is printed of a recording.
#[derive(Serialize)]
struct Recording {
    #[serde(flatten)]
    trace: Written,
    /// Different 4 KiB pages that were accessed.
    pages: u64,
    /// Accesses before the start that was asked for.
    skipped: u64,
    /// Accesses after the end: after a limit or an interruption.
    dropped: u64,
    /// It was cut short by SIGINT or SIGTERM.
    interrupted: bool,
    /// Programs that were started but could not be captured, and why.
    escapes: Vec<String>,
    /// How addresses differ from native ones, in a sentence.
    layout: String,
    /// The program's exit status, as its own shell would see it.
    status: u8,
}

/// A program to run, and how to capture it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its name and arguments.
    pub command: Vec<OsString>,
    /// How.
    pub capture: cli::Capture,
    /// How many accesses are wanted; all if `None`.
    pub limit: Option<u64>,
    /// The addresses that it is to have.
    pub layout: Option<Arc<Snapshot>>,
    /// What it prints goes to standard error: standard output has JSON.
    pub aside: bool,
}

impl Program {
    /// Starts it.
    pub fn start(&self) -> Result<LiveSource> {
        let [program, args @ ..] = self.command.as_slice() else { bail!("no program was named after `--`") };
        let stdout = self.aside.then(|| std::io::stderr().as_fd().try_clone_to_owned()).transpose()?;
        let options = CaptureOptions { stdout: stdout.map(File::from), ..self.options() };
        Ok(capture::start(program, args, options)?)
    }

    fn options(&self) -> CaptureOptions {
        let capture = &self.capture;
        let start = match (capture.start_after, &capture.start_symbol, capture.start_signal) {
            (Some(accesses), ..) => Start::After(accesses),
            (None, Some(symbol), _) => Start::Symbol(symbol.clone()),
            (None, None, Some(signal)) => Start::Signal(number(signal)),
            (None, None, None) => Start::AtOnce,
        };
        CaptureOptions {
            start,
            limit: self.limit,
            afterwards: if capture.terminate { Afterwards::Terminate } else { Afterwards::RunOn },
            fetches: if capture.fetches { Fetches::Lines } else { Fetches::None },
            route: match capture.route.unwrap_or_default() {
                Route::Qemu => capture::Route::Qemu,
                Route::Lackey => capture::Route::Lackey,
            },
            layout: match &self.layout {
                Some(snapshot) => Layout::Snapshot(Arc::clone(snapshot)),
                None => Layout::Native,
            },
            ..CaptureOptions::default()
        }
    }

    /// Says what a user who waits must do, if it is they who begin.
    fn say_when(&self, output: Output) {
        if let Some(signal) = self.capture.start_signal.filter(|_| !output.quiet) {
            let name = format!("{signal:?}").to_uppercase();
            eprintln!("waiting for SIG{name}: kill -{name} {}", std::process::id());
        }
    }
}

fn number(signal: StartSignal) -> i32 {
    match signal {
        StartSignal::Usr1 => Signal::USR1,
        StartSignal::Usr2 => Signal::USR2,
    }
    .as_raw()
}

/// The status that the program's own shell would see.
pub fn status(summary: &Summary) -> u8 {
    let code = summary.status.code().or_else(|| summary.status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// What became of a capture, for standard error.
fn account(summary: &Summary, output: Output) -> Result<()> {
    for escape in &summary.escapes {
        eprintln!("warning: not captured: {escape}");
    }
    ensure!(
        summary.lost() == 0,
        "{} of {} accesses were lost between the program and its reader; this is a bug",
        summary.lost(),
        summary.seen
    );
    if !output.quiet {
        if summary.interrupted {
            eprintln!("interrupted: this is what had been seen");
        }
        eprintln!("{}; {}", counts(summary), summary.layout);
    }
    Ok(())
}

/// Where the program's accesses went: they add up.
fn counts(summary: &Summary) -> String {
    let mut text = format!("{} accesses taken", thousands(summary.delivered));
    for (n, what) in [(summary.skipped, "before the start"), (summary.dropped, "after the end")] {
        if n > 0 {
            text += &format!(", {} {what}", thousands(n));
        }
    }
    text + ", none lost"
}

/// `pagewalk record`.
pub fn record(args: &RecordArgs, output: Output) -> Result<u8> {
    let layout = args.layout.as_deref().map(Snapshot::load).transpose()?.map(Arc::new);
    let (command, capture) = (args.command.clone(), args.capture.clone());
    let program = Program { command, capture, limit: args.limit, layout, aside: output.json };
    let source = program.start()?;
    program.say_when(output);
    let mut line = Line::new(output.quiet);
    let recorded = capture::record(source, &args.output, |p| {
        line.show(|| progress(p.accesses, p.pages, p.rate));
    })?;
    line.end();
    account(&recorded.summary, output)?;
    if !output.quiet {
        eprintln!(
            "{}: {} accesses on {} pages, {:.2} bytes each",
            args.output.display(),
            thousands(recorded.written.accesses),
            thousands(recorded.pages),
            recorded.written.bytes as f64 / recorded.written.accesses.max(1) as f64
        );
    }
    let status = status(&recorded.summary);
    if output.json {
        let summary = &recorded.summary;
        let recording = Recording {
            trace: Written::from(&recorded.written),
            pages: recorded.pages,
            skipped: summary.skipped,
            dropped: summary.dropped,
            interrupted: summary.interrupted,
            escapes: summary.escapes.clone(),
            layout: summary.layout.clone(),
            status,
        };
        crate::print_json("record", &recording)?;
    }
    Ok(status)
}

fn progress(accesses: u64, pages: u64, rate: f64) -> String {
    format!("{} accesses, {} pages, {:.1} M/s", thousands(accesses), thousands(pages), rate / 1e6)
}

/// Runs an experiment on a program while the program runs; what was seen, and the status that is to be ours.
pub fn simulate(
    experiment: &Experiment,
    look: &Look,
    program: &Program,
    containers: bool,
    view: &mut View,
    output: Output,
) -> Result<(Vec<(Outcome, Sight)>, u8)> {
    let mut source = program.start()?;
    program.say_when(output);
    // The program is on the same terminal: its line gives way to it, which a bar does not.
    let mut watched = Watched::new(&mut source, Line::new(output.quiet || view.is_watch()));
    let seen = crate::inputs::run(experiment, look, &mut watched, containers, &mut |p| match view {
        View::Watch(_) => view.show(p),
        View::Bar(_) => ControlFlow::Continue(()),
    });
    watched.line.end();
    let seen = seen?;
    let summary = source.finish()?;
    account(&summary, output)?;
    Ok((seen, status(&summary)))
}

/// How often the line is renewed.
const RENEW: Duration = Duration::from_millis(200);

/// A live program with a line about it.
#[derive(Debug)]
struct Watched<'a> {
    source: &'a mut LiveSource,
    line: Line,
    accesses: u64,
    /// When the line was renewed, and how many accesses there had been.
    renewed: (Instant, u64),
}

impl<'a> Watched<'a> {
    fn new(source: &'a mut LiveSource, line: Line) -> Watched<'a> {
        Watched { source, line, accesses: 0, renewed: (Instant::now(), 0) }
    }

    fn look(&mut self, block: &Block) {
        if !self.line.is_visible() {
            return;
        }
        self.accesses += block.accesses.len() as u64;
        let since = self.renewed.0.elapsed();
        if since >= RENEW {
            let rate = (self.accesses - self.renewed.1) as f64 / since.as_secs_f64();
            self.line.show(|| progress(self.accesses, self.source.pages(), rate));
            self.renewed = (Instant::now(), self.accesses);
        }
    }
}

impl Source for Watched<'_> {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        // Nobody sees a hidden line, and counting pages costs time.
        if self.line.is_visible() {
            self.source.count_pages();
        }
        self.source.setup()
    }

    fn is_live(&self) -> bool {
        true
    }

    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        let more = self.source.fill(block)?;
        self.look(block);
        Ok(more)
    }
}
