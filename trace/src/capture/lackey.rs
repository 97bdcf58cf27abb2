//! The slow route: Valgrind's lackey, through a pipe.
//!
//! About a million accesses a second, no threads, no mappings, and Valgrind's own addresses; but it is in every
//! distribution, and a second opinion.

use std::fs::File;
use std::io::{PipeReader, Read, pipe};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use machine::input::{Block, More, Setup};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

use super::live::{Engine, Trouble};
use super::merge::Counts;
use super::pages::Pages;
use super::{CaptureOptions, Fetches, Start};
use crate::{Format, OpenOptions, TraceSource};

/// A program in Valgrind.
pub(super) struct Lackey {
    source: Box<dyn TraceSource>,
    /// The same pipe: read on when the stream is no longer wanted, so that the program can.
    rest: Option<File>,
    start: Start,
    begin: Arc<AtomicBool>,
    interrupted: Arc<AtomicBool>,
    wanted: u64,
    counts: Counts,
    /// Accesses that were read with the last one that was passed over.
    ahead: Block,
    over: bool,
    pages: Option<Pages>,
}

impl std::fmt::Debug for Lackey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lackey").field("counts", &self.counts).finish_non_exhaustive()
    }
}

/// The pipe; at its end once interrupted and empty, for a program that waits for something writes nothing.
struct Patient {
    pipe: PipeReader,
    interrupted: Arc<AtomicBool>,
}

/// How long an interruption may take to be noticed.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

impl Read for Patient {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let mut fds = [PollFd::new(&self.pipe, PollFlags::IN)];
            match poll(&mut fds, Some(&PATIENCE)) {
                Ok(0) if self.interrupted.load(Ordering::Relaxed) => return Ok(0),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return self.pipe.read(out),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// One at a time: between making the pipe inheritable and closing it here, another child must not get it.
static SPAWNING: Mutex<()> = Mutex::new(());

impl Lackey {
    /// Starts the command, which is Valgrind up to its own options.
    pub fn spawn(
        mut command: Command,
        program: impl FnOnce(&mut Command),
        name: &str,
        options: &CaptureOptions,
        begin: Arc<AtomicBool>,
        interrupted: Arc<AtomicBool>,
    ) -> std::io::Result<(Lackey, Child)> {
        let (reader, writer) = pipe()?;
        let child = {
            let _one = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
            command.args(["--tool=lackey", "--basic-counts=no", "--trace-mem=yes"]);
            command.arg(format!("--log-fd={}", writer.as_raw_fd()));
            program(&mut command);
            let flags = fcntl_getfd(&writer)?;
            fcntl_setfd(&writer, flags - FdFlags::CLOEXEC)?;
            let child = command.spawn();
            drop(writer);
            child?
        };
        let rest = File::from(reader.as_fd().try_clone_to_owned()?);
        let open = OpenOptions {
            fetches: options.fetches != Fetches::None,
            ..OpenOptions::with_format(Format::Lackey)
        };
        let reader = Box::new(Patient { pipe: reader, interrupted: interrupted.clone() });
        let source = crate::from_reader(name, reader, &open).map_err(std::io::Error::other)?;
        let lackey = Lackey {
            source,
            rest: Some(rest),
            start: options.start.clone(),
            begin,
            interrupted,
            wanted: options.limit.unwrap_or(u64::MAX),
            counts: Counts::default(),
            ahead: Block::new(),
            over: false,
            pages: None,
        };
        Ok((lackey, child))
    }

    /// Whether the next access is to be passed over.
    fn passes_over(&self) -> bool {
        match self.start {
            Start::After(n) => self.counts.skipped < n,
            Start::Signal(_) => !self.begin.load(Ordering::Relaxed),
            Start::AtOnce | Start::Symbol(_) => false,
        }
    }
}

fn trouble(error: machine::input::SourceError) -> Trouble {
    Trouble { reason: error.reason, hint: error.hint }
}

impl Engine for Lackey {
    fn setup(&mut self, interrupted: &AtomicBool) -> Result<Setup, Trouble> {
        let setup = self.source.setup().map_err(trouble)?;
        while self.passes_over() {
            if interrupted.load(Ordering::Relaxed) {
                return Err(Trouble::new("interrupted before capture began"));
            }
            let more = self.source.fill(&mut self.ahead).map_err(trouble)?;
            let here = self.ahead.accesses.len() as u64;
            let over =
                if let Start::After(n) = self.start { here.min(n - self.counts.skipped) } else { here };
            self.counts.skipped += over;
            self.counts.seen += over;
            self.ahead.accesses.drain(..over as usize);
            if more == More::No {
                let reason = format!("ended before capture began, after {} accesses", self.counts.skipped);
                return Err(Trouble::new(reason).hint("choose an earlier start"));
            }
        }
        Ok(setup)
    }

    fn fill(&mut self, block: &mut Block, interrupted: bool) -> Result<More, Trouble> {
        if self.over || interrupted || self.is_enough() {
            return Ok(More::No);
        }
        let more = if self.ahead.accesses.is_empty() {
            match self.source.fill(block) {
                // The interruption came in the middle of a line.
                Err(_) if self.interrupted.load(Ordering::Relaxed) => More::No,
                filled => filled.map_err(trouble)?,
            }
        } else {
            std::mem::swap(block, &mut self.ahead);
            self.ahead.clear();
            More::Yes
        };
        let here = block.accesses.len() as u64;
        self.counts.seen += here;
        block.accesses.truncate(self.wanted.min(here) as usize);
        let taken = block.accesses.len() as u64;
        self.wanted -= taken;
        self.counts.delivered += taken;
        if let Some(pages) = &mut self.pages {
            block.accesses.iter().for_each(|access| pages.add(0, access.va.raw()));
        }
        self.counts.dropped += here - taken;
        self.over = more == More::No || self.is_enough();
        Ok(if self.over { More::No } else { More::Yes })
    }

    fn stop(&mut self) {
        // Valgrind would have the program die of a closed pipe.
        if let Some(mut rest) = self.rest.take() {
            std::thread::spawn(move || {
                let mut sink = vec![0; 1 << 16];
                while matches!(rest.read(&mut sink), Ok(n) if n > 0) {}
            });
        }
    }

    fn is_enough(&self) -> bool {
        self.wanted == 0
    }

    fn counts(&self) -> Counts {
        self.counts
    }

    fn escapes(&self) -> Vec<String> {
        Vec::new()
    }

    fn layout(&self) -> String {
        "addresses as in Valgrind, threads not told apart".into()
    }

    fn count_pages(&mut self) {
        self.pages = Some(Pages::new());
    }

    fn pages(&self) -> u64 {
        self.pages.as_ref().map_or(0, Pages::count)
    }
}
