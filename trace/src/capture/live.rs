//! A running program as a source of accesses.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use capture_ring::Shared;
use machine::input::{Block, More, Setup, Source, SourceError, ThreadSetup};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::merge::{Counts, Merge};
use super::{Afterwards, CaptureError, CaptureOptions, Layout, Start};

/// How long to sleep when the program has produced nothing.
const NAP: Duration = Duration::from_micros(50);
/// After how many naps to see who is still alive.
const CHECK: u32 = 20;

/// A program that runs and is captured meanwhile. Its accesses wait in memory until they
/// are taken, and when that is full the program waits: none is lost.
#[derive(Debug)]
pub struct LiveSource {
    names: Names,
    child: Child,
    shared: Shared,
    /// The shared memory's only name: programs that the first one starts open it, too.
    _memory: OwnedFd,
    merge: Merge,
    options: CaptureOptions,
    interrupted: Arc<AtomicBool>,
    begin: Arc<AtomicBool>,
    handlers: Vec<SigId>,
    naps: u32,
    over: bool,
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
    /// Accesses that the plugin counted in the program.
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
    /// How the addresses were changed, in a sentence.
    pub layout: String,
}

impl Summary {
    /// Accesses that were seen and are nowhere: never any.
    pub fn lost(&self) -> u64 {
        self.seen - self.delivered - self.skipped - self.dropped - self.emulators
    }
}

impl LiveSource {
    pub(super) fn spawn(
        mut command: Command,
        shared: Shared,
        memory: OwnedFd,
        names: Names,
        options: CaptureOptions,
    ) -> Result<LiveSource, CaptureError> {
        let header = shared.header();
        match options.start {
            Start::AtOnce => header.active.store(1, Ordering::Relaxed),
            Start::After(0) => header.active.store(1, Ordering::Relaxed),
            Start::After(n) => header.skip.store(i64::try_from(n).unwrap_or(i64::MAX), Ordering::Relaxed),
            Start::Symbol(_) | Start::Signal(_) => {}
        }
        let mut merge = Merge::new(&shared, options.layout.clone());
        merge.wanted = options.limit.unwrap_or(u64::MAX);
        let (interrupted, begin) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut handlers = Vec::new();
        let mut handle = |signal, flag: &Arc<AtomicBool>| -> std::io::Result<()> {
            handlers.push(signal_hook::flag::register(signal, flag.clone())?);
            Ok(())
        };
        let mut install = || {
            handle(SIGINT, &interrupted)?;
            handle(SIGTERM, &interrupted)?;
            if let Start::Signal(signal) = options.start { handle(signal, &begin) } else { Ok(()) }
        };
        install().map_err(|error| CaptureError::System { what: "signal handlers", error })?;
        let child =
            command.spawn().map_err(|error| CaptureError::System { what: "starting the emulator", error })?;
        shared.log(0).pid.store(child.id(), Ordering::Release);
        Ok(LiveSource {
            names,
            child,
            shared,
            _memory: memory,
            merge,
            options,
            interrupted,
            begin,
            handlers,
            naps: 0,
            over: false,
            finished: false,
        })
    }

    /// The command, as a shell takes it.
    pub fn command(&self) -> &str {
        &self.names.command
    }

    /// The emulator, with its version.
    pub fn emulator(&self) -> &str {
        &self.names.emulator
    }

    /// How the addresses of the stream differ from those in the emulator, in a sentence.
    pub fn layout(&self) -> String {
        match &self.options.layout {
            Layout::Native => {
                "addresses moved from QEMU's layout to that of Linux without randomisation".into()
            }
            Layout::Emulator => "addresses as in QEMU: a program and its libraries within 512 GiB".into(),
            Layout::Snapshot(snapshot) => format!(
                "addresses moved from QEMU's layout to that of process {} when it was looked at",
                snapshot.pid
            ),
        }
    }

    /// Accesses so far.
    pub fn counts(&self) -> Counts {
        self.merge.totals(&self.shared)
    }

    /// Ends the capture, waits for the program, and says how it went. After an interruption, or at the limit if the
    /// options say so, the program is asked to end.
    ///
    /// # Errors
    /// If the program cannot be waited for.
    pub fn finish(mut self) -> Result<Summary, CaptureError> {
        self.shared.header().stop.store(1, Ordering::Release);
        let interrupted = self.interrupted.swap(false, Ordering::Relaxed);
        if interrupted || (self.merge.wanted == 0 && self.options.afterwards == Afterwards::Terminate) {
            self.signal(Signal::TERM);
        }
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {}
                Err(error) => return Err(CaptureError::System { what: "waiting for the program", error }),
            }
            if self.interrupted.swap(false, Ordering::Relaxed) {
                self.signal(if interrupted { Signal::KILL } else { Signal::TERM });
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        self.finished = true;
        let counts = self.merge.totals(&self.shared);
        Ok(Summary {
            status,
            seen: counts.seen,
            delivered: counts.delivered,
            skipped: counts.skipped,
            dropped: counts.dropped + counts.unread,
            emulators: counts.emulators,
            interrupted,
            escapes: std::mem::take(&mut self.merge.escapes),
            layout: self.layout(),
        })
    }

    fn signal(&self, signal: Signal) {
        // The child has not been waited for, so the number is still its own.
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, signal);
        }
    }

    fn error(&self, reason: impl Into<String>, hint: &str) -> SourceError {
        SourceError {
            what: self.names.program.clone(),
            reason: reason.into(),
            hint: (!hint.is_empty()).then(|| hint.to_owned()),
        }
    }

    fn nap(&mut self) -> Result<(), SourceError> {
        self.naps += 1;
        if self.naps.is_multiple_of(CHECK) {
            if let Some(error) = self.shared.error() {
                return Err(self.error(error, "what was captured before is complete"));
            }
            self.merge.check();
        }
        std::thread::sleep(NAP);
        Ok(())
    }

    /// Waits for the region of interest.
    fn wait_for_start(&mut self) -> Result<(), SourceError> {
        loop {
            let active = self.shared.header().active.load(Ordering::Acquire) != 0;
            while self.merge.settle(&self.shared).map_err(|broken| self.error(broken.0, ""))? {}
            if self.merge.is_over() {
                let skipped = self.merge.counts.skipped;
                return Err(if skipped == 0 && self.options.start == Start::AtOnce {
                    self.error("ended before its first access", "QEMU may have said why")
                } else {
                    self.error(
                        format!("ended before capture began, after {skipped} accesses"),
                        "choose an earlier start",
                    )
                });
            }
            if active && self.merge.has_begun() {
                return Ok(());
            }
            if self.begin.load(Ordering::Relaxed) {
                self.shared.header().active.store(1, Ordering::Release);
                continue;
            }
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(self.error("interrupted before capture began", ""));
            }
            self.nap()?;
        }
    }
}

impl Source for LiveSource {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        self.wait_for_start()?;
        let fresh = self.options.start == Start::AtOnce;
        let populated = |pid, start, len| !fresh && mostly_present(pid, start, len);
        let (processes, threads) = self.merge.begin(&self.shared, populated);
        Ok(Setup {
            name: self.names.program.clone(),
            processes,
            threads: threads.into_iter().map(|process| ThreadSetup { process }).collect(),
            accesses: None,
        })
    }

    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        block.clear();
        while !self.over {
            let interrupted = self.interrupted.load(Ordering::Relaxed);
            if interrupted {
                self.shared.header().stop.store(1, Ordering::Release);
            }
            let moved = self.merge.fill(&self.shared, block).map_err(|broken| self.error(broken.0, ""))?;
            if self.merge.wanted == 0 || self.merge.is_over() || (interrupted && !moved) {
                self.shared.header().stop.store(1, Ordering::Release);
                self.over = true;
            } else if block.room() == 0 || !block.events.is_empty() {
                return Ok(More::Yes);
            } else if !moved {
                if !block.accesses.is_empty() {
                    return Ok(More::Yes);
                }
                self.nap()?;
            }
        }
        Ok(More::No)
    }
}

impl Drop for LiveSource {
    fn drop(&mut self) {
        self.shared.header().stop.store(1, Ordering::Release);
        if !self.finished {
            self.signal(Signal::TERM);
            let _ = self.child.wait();
        }
        for handler in self.handlers.drain(..) {
            signal_hook::low_level::unregister(handler);
        }
    }
}

/// Whether at least half of a process's pages in a range are in memory: a region that was filled
/// before capture began.
fn mostly_present(pid: u32, start: u64, len: u64) -> bool {
    // Bit 63 of each page's word; no privilege is needed for it (Documentation/admin-guide/mm/pagemap.rst).
    let Ok(file) = std::fs::File::open(format!("/proc/{pid}/pagemap")) else { return false };
    let mut words = vec![0; 8192];
    let (mut at, end, mut present) = (start / 4096 * 8, (start + len) / 4096 * 8, 0);
    while at < end {
        let want = words.len().min((end - at) as usize);
        match file.read_at(&mut words[..want], at) {
            Ok(n) if n >= 8 => {
                present += words[..n].chunks_exact(8).filter(|word| word[7] & 0x80 != 0).count() as u64;
                at += n as u64;
            }
            _ => break,
        }
    }
    present * 2 * 4096 >= len
}
