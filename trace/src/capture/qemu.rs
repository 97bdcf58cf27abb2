//! The fast route: QEMU with the plugin, through shared memory.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use capture_ring::{LANE_RECORDS, Shared};
use machine::input::{Block, Event, More, Setup, ThreadSetup};

use super::live::{Engine, Trouble};
use super::merge::{Counts, Merge, Sink};
use super::page::PageSink;
use super::pages::Pages;
use super::{CaptureOptions, Layout, Start};
use crate::parquet::rows::Rows;

/// How long to sleep when the program has produced nothing, at least and at most. In the longest, the fastest programs
/// fill a lane; waking up often is what a slow one costs.
const NAPS: (Duration, Duration) = (Duration::from_micros(50), Duration::from_micros(400));
/// Who has drained all lanes and got no more than this sleeps: else the two would take the cache lines in which they meet
/// from each other at every few records.
const FEW: u64 = LANE_RECORDS as u64 / 8;
/// After how many naps to see who is still alive.
const CHECK: u32 = 20;

/// A program in QEMU.
#[derive(Debug)]
pub(super) struct Qemu {
    shared: Shared,
    /// The shared memory's only name: programs that the first one starts open it, too.
    _memory: OwnedFd,
    merge: Merge,
    start: Start,
    layout: Layout,
    /// The signal to begin at has come.
    begin: Arc<AtomicBool>,
    naps: u32,
    nap: Duration,
    /// Accesses that had been taken at the last nap.
    taken: u64,
    over: bool,
}

impl Qemu {
    /// Before the program is started.
    pub fn new(shared: Shared, memory: OwnedFd, options: &CaptureOptions, begin: Arc<AtomicBool>) -> Qemu {
        let header = shared.header();
        match options.start {
            Start::AtOnce | Start::After(0) => header.active.store(1, Ordering::Relaxed),
            Start::After(n) => header.skip.store(i64::try_from(n).unwrap_or(i64::MAX), Ordering::Relaxed),
            Start::Symbol(_) | Start::Signal(_) => {}
        }
        let mut merge = Merge::new(&shared, options.layout.clone());
        merge.wanted = options.limit.unwrap_or(u64::MAX);
        let (start, layout) = (options.start.clone(), options.layout.clone());
        Qemu {
            shared,
            _memory: memory,
            merge,
            start,
            layout,
            begin,
            naps: 0,
            nap: NAPS.0,
            taken: 0,
            over: false,
        }
    }

    /// The program runs, as this process.
    pub fn started(&self, pid: u32) {
        self.shared.log(0).pid.store(pid, Ordering::Release);
    }

    fn nap(&mut self) -> Result<(), Trouble> {
        self.naps += 1;
        if self.naps.is_multiple_of(CHECK) {
            if let Some(error) = self.shared.error() {
                return Err(Trouble::new(error).hint("what was captured before is complete"));
            }
            self.merge.check();
        }
        let delivered = self.merge.counts.delivered;
        let taken = (delivered - std::mem::replace(&mut self.taken, delivered)) as usize;
        if taken < LANE_RECORDS / 8 {
            self.nap = (2 * self.nap).min(NAPS.1);
        } else if taken > LANE_RECORDS / 4 {
            self.nap = (self.nap / 2).max(NAPS.0);
        }
        std::thread::sleep(self.nap);
        Ok(())
    }

    fn ended_early(&self) -> Trouble {
        let skipped = self.merge.counts.skipped;
        if skipped == 0 && self.start == Start::AtOnce {
            Trouble::new("ended before its first access").hint("QEMU may have said why")
        } else {
            Trouble::new(format!("ended before capture began, after {skipped} accesses"))
                .hint("choose an earlier start")
        }
    }

    fn wait_for_start(&mut self, interrupted: &AtomicBool) -> Result<(), Trouble> {
        loop {
            let active = self.shared.header().active.load(Ordering::Acquire) != 0;
            while self.merge.settle(&self.shared)? {}
            if self.merge.is_over() {
                return Err(self.ended_early());
            }
            if active && self.merge.has_begun() {
                return Ok(());
            }
            if self.begin.load(Ordering::Relaxed) {
                self.shared.header().active.store(1, Ordering::Release);
            }
            if interrupted.load(Ordering::Relaxed) {
                return Err(Trouble::new("interrupted before capture began"));
            }
            self.nap()?;
        }
    }
}

impl Qemu {
    fn take(&mut self, sink: &mut impl Sink, interrupted: bool) -> Result<More, Trouble> {
        if interrupted {
            self.stop();
        }
        while !self.over {
            let before = self.merge.counts.delivered;
            let moved = self.merge.fill(&self.shared, sink)?;
            if self.is_enough() || self.merge.is_over() || (interrupted && !moved) {
                self.stop();
                self.over = true;
            } else if sink.room() == 0 || !sink.events().is_empty() {
                return Ok(More::Yes);
            } else if !moved {
                if !sink.is_empty() {
                    return Ok(More::Yes);
                }
                self.nap()?;
            } else if self.merge.counts.delivered - before < FEW && self.merge.is_drained() {
                self.nap()?;
            }
        }
        Ok(More::No)
    }
}

impl Engine for Qemu {
    fn setup(&mut self, interrupted: &AtomicBool) -> Result<Setup, Trouble> {
        self.wait_for_start(interrupted)?;
        let fresh = self.start == Start::AtOnce;
        let populated = |pid, start, len| !fresh && mostly_present(pid, start, len);
        let (processes, threads) = self.merge.begin(&self.shared, populated);
        let threads = threads.into_iter().map(|process| ThreadSetup { process }).collect();
        Ok(Setup { processes, threads, more_threads: true, ..Setup::default() })
    }

    fn fill(&mut self, block: &mut Block, interrupted: bool) -> Result<More, Trouble> {
        self.take(block, interrupted)
    }

    fn fill_rows(
        &mut self,
        rows: &mut Rows,
        events: &mut Vec<Event>,
        interrupted: bool,
    ) -> Option<Result<More, Trouble>> {
        Some(self.take(&mut PageSink::new(rows, events), interrupted))
    }

    fn stop(&mut self) {
        self.shared.header().stop.store(1, Ordering::Release);
    }

    fn is_enough(&self) -> bool {
        self.merge.wanted == 0
    }

    fn counts(&self) -> Counts {
        self.merge.totals(&self.shared)
    }

    fn escapes(&self) -> Vec<String> {
        self.merge.escapes.clone()
    }

    fn layout(&self) -> String {
        match &self.layout {
            Layout::Native => {
                "addresses moved from QEMU's layout to that of Linux without randomisation".into()
            }
            Layout::Emulator => "addresses as in QEMU".into(),
            Layout::Snapshot(snapshot) => format!(
                "addresses moved from QEMU's layout to that of process {} when it was looked at",
                snapshot.pid
            ),
        }
    }

    fn count_pages(&mut self) {
        self.merge.pages = Some(Pages::new());
    }

    fn pages(&self) -> u64 {
        self.merge.pages.as_ref().map_or(0, Pages::count)
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
