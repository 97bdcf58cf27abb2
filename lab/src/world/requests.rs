//! How long requests and start-ups take, by the clocks of the cores that serve them.

use super::*;
use crate::containers::{Leaves, RequestCounts, Shareable, SharingCounts};
use crate::outcome::ratio;

/// What a thread is at.
#[derive(Clone, Copy, Debug)]
enum Doing {
    /// Nothing that is measured.
    Else,
    /// It starts up.
    Start,
    /// A request that began when it had been busy for so long.
    Request(u64),
}

/// Threads and what they took.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Cycles that each thread was busy, and what it is at.
    threads: Vec<(u64, Option<Doing>)>,
    /// Cycles of `fork` and `exec` for processes that have no thread yet.
    before: HashMap<u16, u64>,
    latencies: Vec<u64>,
    starts: Vec<u64>,
    /// Starts of the warm-up: how many, and their cycles.
    earlier: (u64, u64),
}

impl Requests {
    fn thread(&mut self, thread: u16) -> &mut (u64, Option<Doing>) {
        let at = usize::from(thread);
        if self.threads.len() <= at {
            self.threads.resize(at + 1, (0, None));
        }
        &mut self.threads[at]
    }

    /// A thread ran.
    pub(super) fn ran(&mut self, thread: u16, cycles: u64) {
        self.thread(thread).0 += cycles;
    }

    /// The kernel worked for a process that begins.
    pub(super) fn began(&mut self, process: u16, cycles: u64) {
        *self.before.entry(process).or_default() += cycles;
    }

    /// A thread begins. The first one of a process that began while others ran starts it up.
    pub(super) fn spawn(&mut self, thread: u16, process: u16) {
        if let Some(busy) = self.before.remove(&process) {
            *self.thread(thread) = (busy, Some(Doing::Start));
        }
    }

    /// A request of a thread begins, and the one before ends.
    pub(super) fn request(&mut self, thread: u16) {
        self.end(thread);
        let (busy, doing) = self.thread(thread);
        *doing = Some(Doing::Request(*busy));
    }

    /// What a thread was at ends.
    pub(super) fn end(&mut self, thread: u16) {
        let (busy, doing) = self.thread(thread);
        let busy = *busy;
        match doing.replace(Doing::Else) {
            Some(Doing::Start) => self.starts.push(busy),
            Some(Doing::Request(began)) => self.latencies.push(busy - began),
            Some(Doing::Else) | None => {}
        }
    }

    /// The warm-up is over.
    pub(super) fn restart(&mut self) {
        self.latencies.clear();
        self.earlier.0 += self.starts.len() as u64;
        self.earlier.1 += self.starts.drain(..).sum::<u64>();
    }

    fn counts(&self) -> Option<RequestCounts> {
        let starts_in_all = self.starts.len() as u64 + self.earlier.0;
        if self.latencies.is_empty() && starts_in_all == 0 {
            return None;
        }
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        // The smallest that `part` of all do not exceed.
        let within =
            |part: usize| sorted.get((sorted.len() * part).div_ceil(100).max(1) - 1).copied().unwrap_or(0);
        let started: u64 = self.starts.iter().sum();
        Some(RequestCounts {
            requests: sorted.len() as u64,
            mean: ratio(sorted.iter().sum(), sorted.len() as u64),
            median: within(50),
            tail: within(95),
            p99: within(99),
            starts: self.starts.len() as u64,
            mean_start: ratio(started, self.starts.len() as u64),
            starts_in_all,
            mean_start_in_all: ratio(started + self.earlier.1, starts_in_all),
        })
    }
}

impl World {
    /// What requests and start-ups took; `None` if the input marks none.
    pub fn requests(&self) -> Option<RequestCounts> {
        self.requests.counts()
    }

    /// What groups shared; `None` without BabelFish.
    pub fn sharing(&self) -> Option<SharingCounts> {
        self.machine.members().map(|members| SharingCounts::of(&members.stats()))
    }

    /// What the members of groups have the same now; `None` if there are no groups.
    pub fn shareable(&self) -> Option<Shareable> {
        fn add<M: TableMemory>(leaves: &mut Leaves, kernel: &Kernel<M>) {
            let grouped = kernel.processes().filter(|process| process.spec().group != os::GroupId(0));
            for process in grouped {
                let table = process.space().table();
                leaves.add(process.spec().group.0, kernel.mem(), table.root(), table.levels());
            }
        }
        let mut leaves = Leaves::default();
        match &self.guest {
            None => add(&mut leaves, &self.host),
            Some(guest) => add(&mut leaves, &guest.kernel),
        }
        leaves.count()
    }
}
