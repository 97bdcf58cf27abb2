//! A running program as a source of accesses.

use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use machine::input::{Block, Event, More, Setup, Source, SourceError};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::merge::Counts;
use super::{Afterwards, CaptureError};
use crate::parquet::rows::Rows;

/// One way to get a program's accesses.
pub(super) trait Engine: std::fmt::Debug + Send {
    /// Waits for the region of interest; the world when it begins.
    fn setup(&mut self, interrupted: &AtomicBool) -> Result<Setup, Trouble>;
    /// As [`Source::fill`]. When interrupted, what is there and no more.
    fn fill(&mut self, block: &mut Block, interrupted: bool) -> Result<More, Trouble>;
    /// As [`Engine::fill`], into the rows of a page and what happens after the last of them; `None` if it cannot.
    fn fill_rows(
        &mut self,
        _: &mut Rows,
        _: &mut Vec<Event>,
        _interrupted: bool,
    ) -> Option<Result<More, Trouble>> {
        None
    }
    /// From now on the program must not wait for us.
    fn stop(&mut self);
    /// Whether the limit has been reached.
    fn is_enough(&self) -> bool;
    /// What has been counted.
    fn counts(&self) -> Counts;
    /// Programs that were started but not captured, and why.
    fn escapes(&self) -> Vec<String>;
    /// How addresses differ from native ones, in a sentence.
    fn layout(&self) -> String;
    /// From now on different pages are counted; before the first [`Engine::fill`].
    fn count_pages(&mut self);
    /// What [`Engine::count_pages`] has counted.
    fn pages(&self) -> u64;
}

/// Why a capture cannot go on, and what to do about it.
#[derive(Debug)]
pub(super) struct Trouble {
    pub reason: String,
    pub hint: Option<String>,
}

impl Trouble {
    pub fn new(reason: impl Into<String>) -> Trouble {
        Trouble { reason: reason.into(), hint: None }
    }
    pub fn hint(self, hint: &str) -> Trouble {
        Trouble { hint: Some(hint.to_owned()), ..self }
    }
}

/// A program that runs and is captured meanwhile. Its accesses wait in memory until they
/// are taken, and when that is full the program waits: none is lost.
///
/// SIGINT and SIGTERM end the stream, with what had been seen; [`LiveSource::finish`] then ends the program.
#[derive(Debug)]
pub struct LiveSource {
    names: Names,
    child: Child,
    engine: Box<dyn Engine>,
    afterwards: Afterwards,
    signals: Signals,
    finished: bool,
}

/// What is captured, in words.
#[derive(Debug)]
pub(super) struct Names {
    pub program: String,
    pub command: String,
    pub emulator: String,
}

/// How a capture went.
#[derive(Clone, Debug)]
pub struct Summary {
    /// How the program ended.
    pub status: ExitStatus,
    /// Accesses that were counted where they happen.
    pub seen: u64,
    /// Of these, delivered in the stream.
    pub delivered: u64,
    /// Of these, before the region of interest.
    pub skipped: u64,
    /// Of these, after its end: after a limit or an interruption.
    pub dropped: u64,
    /// Of these, not the program's but the emulator's own (the processor's descriptor tables).
    pub emulators: u64,
    /// The stream was cut short by SIGINT or SIGTERM.
    pub interrupted: bool,
    /// Programs that were started but could not be captured, and why.
    pub escapes: Vec<String>,
    /// How addresses differ from native ones, in a sentence.
    pub layout: String,
}

impl Summary {
    /// Accesses that were seen and are nowhere: never any.
    pub fn lost(&self) -> u64 {
        self.seen - self.delivered - self.skipped - self.dropped - self.emulators
    }
}

/// Signals that are listened to, for as long as this lives.
#[derive(Debug)]
pub(super) struct Signals {
    pub interrupted: Arc<AtomicBool>,
    handlers: Vec<SigId>,
}

impl Signals {
    /// Listens to SIGINT and SIGTERM, and sets `flag` at `other`.
    pub fn listen(other: Option<i32>, flag: &Arc<AtomicBool>) -> std::io::Result<Signals> {
        let mut signals = Signals { interrupted: Arc::default(), handlers: Vec::new() };
        let interrupted = signals.interrupted.clone();
        for (signal, flag) in
            [(SIGINT, &interrupted), (SIGTERM, &interrupted)].into_iter().chain(other.map(|s| (s, flag)))
        {
            signals.handlers.push(signal_hook::flag::register(signal, flag.clone())?);
        }
        Ok(signals)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            signal_hook::low_level::unregister(handler);
        }
    }
}

impl LiveSource {
    pub(super) fn new(
        names: Names,
        child: Child,
        engine: Box<dyn Engine>,
        afterwards: Afterwards,
        signals: Signals,
    ) -> LiveSource {
        LiveSource { names, child, engine, afterwards, signals, finished: false }
    }

    /// The command, as a shell takes it.
    pub fn command(&self) -> &str {
        &self.names.command
    }

    /// The emulator, with its version.
    pub fn emulator(&self) -> &str {
        &self.names.emulator
    }

    /// How addresses of the stream differ from native ones, in a sentence.
    pub fn layout(&self) -> String {
        self.engine.layout()
    }

    /// Different 4 KiB pages are to be counted; to be called before the first access is taken.
    pub fn count_pages(&mut self) {
        self.engine.count_pages();
    }

    /// Different 4 KiB pages that were accessed, if they are counted; the same address in two processes is two.
    pub fn pages(&self) -> u64 {
        self.engine.pages()
    }

    /// Ends the capture, waits for the program, and says how it went. After an interruption, or at the limit if the
    /// options say so, the program is asked to end.
    ///
    /// # Errors
    /// If the program cannot be waited for.
    pub fn finish(mut self) -> Result<Summary, CaptureError> {
        let interrupted = self.signals.interrupted.swap(false, Ordering::Relaxed);
        if interrupted || (self.engine.is_enough() && self.afterwards == Afterwards::Terminate) {
            self.signal(Signal::TERM);
        }
        self.engine.stop();
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {}
                Err(error) => return Err(CaptureError::System { what: "waiting for the program", error }),
            }
            if self.signals.interrupted.swap(false, Ordering::Relaxed) {
                self.signal(if interrupted { Signal::KILL } else { Signal::TERM });
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        self.finished = true;
        let counts = self.engine.counts();
        Ok(Summary {
            status,
            seen: counts.seen,
            delivered: counts.delivered,
            skipped: counts.skipped,
            dropped: counts.dropped + counts.unread,
            emulators: counts.emulators,
            interrupted,
            escapes: self.engine.escapes(),
            layout: self.layout(),
        })
    }

    /// As [`Source::fill`], into the rows of a page that has room and an empty list of what happens after the last of them;
    /// `None` if the program is captured by a means that has not this way.
    pub(super) fn fill_rows(
        &mut self,
        rows: &mut Rows,
        events: &mut Vec<Event>,
    ) -> Option<Result<More, SourceError>> {
        let interrupted = self.signals.interrupted.load(Ordering::Relaxed);
        let filled = self.engine.fill_rows(rows, events, interrupted)?;
        Some(filled.map_err(|t| self.error(t)))
    }

    fn signal(&self, signal: Signal) {
        // The child has not been waited for, so the number is still its own.
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, signal);
        }
    }

    fn error(&self, trouble: Trouble) -> SourceError {
        SourceError { what: self.names.program.clone(), reason: trouble.reason, hint: trouble.hint }
    }
}

impl Source for LiveSource {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        let setup = self.engine.setup(&self.signals.interrupted).map_err(|t| self.error(t))?;
        Ok(Setup { name: self.names.program.clone(), ..setup })
    }

    fn is_live(&self) -> bool {
        true
    }

    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        block.clear();
        let interrupted = self.signals.interrupted.load(Ordering::Relaxed);
        self.engine.fill(block, interrupted).map_err(|t| self.error(t))
    }
}

impl Drop for LiveSource {
    fn drop(&mut self) {
        if !self.finished {
            self.signal(Signal::TERM);
            self.engine.stop();
            let _ = self.child.wait();
        }
    }
}
