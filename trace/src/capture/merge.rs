//! Puts the lanes and logs of all captured processes into one stream.
//!
//! See [`capture_ring`] for what decides the order. Lanes that are ready take
//! turns of a few accesses, as threads that run at once would.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::Ordering;

use capture_ring::{LANE_RECORDS, LaneReader, LogReader, Message, Note, PROCESSES, Record, Shared};
use machine::input::{Access, BLOCK, Block, Event, Kind, ProcessSetup};
use paging::Va;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::known::Known;
use super::live::Trouble;
use super::pages::Pages;
use super::rebase::{Lookup, Rebase};
use super::space::{Layout, Space};

/// Shortest turn of a lane, when many are ready.
const TURN: usize = 16;
/// Longest turn of a lane, when it is the only one: the program has three quarters of it to go on with.
const LONG_TURN: usize = LANE_RECORDS / 4;

/// What accesses are taken into.
pub(super) trait Sink {
    /// How many there is room for.
    fn room(&self) -> usize;
    /// Nothing has been taken since it was begun.
    fn is_empty(&self) -> bool;
    /// What happens after the last of them.
    fn events(&mut self) -> &mut Vec<Event>;
    /// Takes so many records, for which there is room: how many accesses they were, and how many of these the program's.
    fn take(&mut self, lane: Lane<'_>, records: usize) -> (usize, usize);
}

/// A thread's lane, of which records are taken, and what is needed for that.
pub(super) struct Lane<'a> {
    pub shared: &'a Shared,
    pub reader: &'a mut LaneReader,
    pub thread: u16,
    pub known: &'a mut Known,
    pub lookup: &'a mut Lookup,
    pub natives: Natives<'a>,
    /// Accesses on their way into a block: each push into one would look whether there is room.
    row: &'a mut [Access; BLOCK],
}

/// The way from a process's addresses to native ones.
pub(super) struct Natives<'a> {
    rebase: &'a Rebase,
    pages: &'a mut Option<Pages>,
    process: u16,
}

impl Natives<'_> {
    /// The native address in a page that is not one of the last ([`Lookup::recent`]; those have been counted); `None` if the
    /// access is not the program's.
    #[inline(never)]
    pub fn look_up(&mut self, lookup: &mut Lookup, guest: u64) -> Option<u64> {
        let va = lookup.look_up(self.rebase, guest)?;
        if let Some(pages) = self.pages {
            pages.add(self.process, va);
        }
        Some(va)
    }
}

impl Sink for Block {
    fn room(&self) -> usize {
        Block::room(self)
    }
    fn is_empty(&self) -> bool {
        self.accesses.is_empty()
    }
    fn events(&mut self) -> &mut Vec<Event> {
        &mut self.events
    }
    fn take(&mut self, lane: Lane<'_>, records: usize) -> (usize, usize) {
        let Lane { shared, reader, thread, lookup, mut natives, row, .. } = lane;
        let (accesses, taken) = reader.fold(shared, records, 0, |taken, record: Record, insns| {
            let va = match lookup.recent(record.va()) {
                Some(va) => va,
                None => match natives.look_up(lookup, record.va()) {
                    Some(va) => va,
                    None => return taken,
                },
            };
            row[taken % BLOCK] = Access {
                va: Va::new(va),
                insns,
                thread,
                kind: kind_of(record.kind()),
                size_log2: record.size_log2(),
                flags: 0,
                reserved: 0,
            };
            taken + 1
        });
        self.accesses.extend_from_slice(&row[..taken]);
        (accesses, taken)
    }
}

/// A thread.
#[derive(Debug)]
struct Thread {
    reader: LaneReader,
    /// As in the stream; `None` before the stream has begun.
    index: Option<u16>,
}

/// A process.
#[derive(Debug)]
struct Process {
    log: LogReader,
    /// The next message, once read: it waits for its cuts.
    next: Option<Message>,
    index: u16,
    space: Space,
    lookup: Lookup,
    threads: Vec<Thread>,
    known: Known,
    row: Box<[Access; BLOCK]>,
    /// To see when it ends.
    handle: Option<OwnedFd>,
    dead: bool,
}

/// What has been counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Accesses that the plugin saw.
    pub seen: u64,
    /// Of these, handed on in the stream.
    pub delivered: u64,
    /// Of these, before the region of interest.
    pub skipped: u64,
    /// Of these, after it.
    pub dropped: u64,
    /// Of these, the emulator's own.
    pub emulators: u64,
    /// Of these, still in the shared memory.
    pub unread: u64,
}

/// All captured processes.
#[derive(Debug)]
pub struct Merge {
    layout: Layout,
    processes: Vec<Process>,
    /// The stream has begun: what happens becomes events.
    begun: bool,
    next_process: u32,
    next_thread: u32,
    turn: usize,
    /// How many accesses are still wanted.
    pub wanted: u64,
    pub counts: Counts,
    /// Different pages, if they are to be counted.
    pub pages: Option<Pages>,
    /// Programs that ran natively, and why.
    pub escapes: Vec<String>,
}

#[inline(always)]
fn kind_of(code: u8) -> Kind {
    match code & 3 {
        0 => Kind::Read,
        1 => Kind::Write,
        2 => Kind::Fetch,
        _ => Kind::Modify,
    }
}

impl Merge {
    /// Follows one process, whose log is 0.
    pub fn new(shared: &Shared, layout: Layout) -> Merge {
        let log = shared.claim_log();
        assert_eq!(log, Some(0), "a fresh memory");
        let mut merge = Merge {
            layout,
            processes: Vec::new(),
            begun: false,
            next_process: 0,
            next_thread: 0,
            turn: 0,
            wanted: u64::MAX,
            counts: Counts::default(),
            pages: None,
            escapes: Vec::new(),
        };
        merge.add_process(0, Space::default());
        merge
    }

    fn add_process(&mut self, log: usize, space: Space) {
        self.processes.push(Process {
            log: LogReader::new(log),
            next: None,
            index: self.next_process as u16,
            space,
            lookup: Lookup::default(),
            threads: Vec::new(),
            known: Known::default(),
            row: Box::new([Access::default(); BLOCK]),
            handle: None,
            dead: false,
        });
        self.next_process += 1;
    }

    /// Whether a program has been loaded and has begun to run.
    pub fn has_begun(&self) -> bool {
        self.processes.iter().any(|p| !p.threads.is_empty())
    }
    /// Whether all processes have ended and everything of theirs has been taken.
    pub fn is_over(&self) -> bool {
        self.processes.is_empty()
    }
    /// The world as it is now, and from now on everything is an event. `populated` says for a process
    /// (by its operating-system number) whether a range of its own addresses is in memory.
    pub fn begin(
        &mut self,
        shared: &Shared,
        populated: impl Fn(u32, u64, u64) -> bool,
    ) -> (Vec<ProcessSetup>, Vec<u16>) {
        self.begun = true;
        let mut threads = Vec::new();
        let mut setups = Vec::new();
        // Processes that came and went are not part of the world.
        for (i, process) in self.processes.iter_mut().enumerate() {
            process.index = i as u16;
            let pid = shared.log(process.log.index()).pid.load(Ordering::Acquire);
            setups.push(process.space.setup(|start, len| populated(pid, start, len)));
            for thread in &mut process.threads {
                thread.index = Some(threads.len() as u16);
                threads.push(i as u16);
            }
        }
        self.next_process = self.processes.len() as u32;
        self.next_thread = threads.len() as u32;
        (setups, threads)
    }

    /// Asks the kernel which processes live. Takes system calls, so only when there is nothing else to do.
    pub fn check(&mut self) {
        for process in &mut self.processes {
            process.check();
        }
    }

    /// Whether all that was in the lanes when they were looked at has been taken, and no message waits.
    pub fn is_drained(&self) -> bool {
        self.processes.iter().all(|p| p.next.is_none() && p.threads.iter().all(|t| t.reader.ready() == 0))
    }

    /// Takes what is ready: `false` if nothing was.
    pub fn fill(&mut self, shared: &Shared, sink: &mut impl Sink) -> Result<bool, Trouble> {
        let mut moved = false;
        for _ in 0..self.processes.len() {
            self.turn = (self.turn + 1) % self.processes.len().max(1);
            let at = self.turn;
            moved |= self.advance(shared, at, sink)?;
            if sink.room() == 0 || !sink.events().is_empty() {
                return Ok(true);
            }
            if self.processes.is_empty() {
                break;
            }
        }
        Ok(moved)
    }

    /// Applies what happened before the stream begins: `false` if there was nothing to apply.
    pub fn settle(&mut self, shared: &Shared) -> Result<bool, Trouble> {
        let mut ignored = Vec::new();
        for at in 0..self.processes.len() {
            self.processes[at].look(shared)?;
            if self.finish_turn(shared, at, &mut ignored)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn advance(&mut self, shared: &Shared, at: usize, sink: &mut impl Sink) -> Result<bool, Trouble> {
        let longest = if self.processes.len() == 1 { LONG_TURN } else { BLOCK };
        let process = &mut self.processes[at];
        process.look(shared)?;
        let moved = process.take(shared, sink, longest, &mut self.counts, &mut self.wanted, &mut self.pages);
        Ok(self.finish_turn(shared, at, sink.events())? || moved)
    }

    /// Applies the process's next message if it is due, or ends the process if that is.
    fn finish_turn(&mut self, shared: &Shared, at: usize, events: &mut Vec<Event>) -> Result<bool, Trouble> {
        let process = &mut self.processes[at];
        if process.is_due() {
            let message = process.next.take().expect("due");
            self.apply(shared, at, message, events)?;
        } else if process.is_over() {
            self.bury(shared, at, events);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn apply(
        &mut self,
        shared: &Shared,
        at: usize,
        message: Message,
        events: &mut Vec<Event>,
    ) -> Result<(), Trouble> {
        let process = &mut self.processes[at];
        let index = process.index;
        match &message.note {
            Note::Image { stack, path, maps } => {
                let path = String::from_utf8_lossy(path).into_owned();
                let first = process.space.path.as_os_str().is_empty();
                for thread in process.threads.drain(..) {
                    retire(shared, &thread, &mut self.counts);
                }
                let maps = String::from_utf8_lossy(maps);
                process.space = Space::load(Path::new(&path), &maps, *stack, &self.layout);
                if self.begun && !first {
                    events.push(Event::Exec { process: index, image: process.space.setup(|_, _| false) });
                }
            }
            Note::ThreadStart { lane } => {
                let lane = *lane as usize;
                if lane >= capture_ring::LANES {
                    return Err(Trouble::new(format!("the program names a lane {lane}")));
                }
                let number = self.next_thread;
                let thread = u16::try_from(number)
                    .map_err(|_| Trouble::new("more than 65536 threads over the program's life"))?;
                if self.begun {
                    self.next_thread += 1;
                    events.push(Event::Spawn { thread, process: index });
                }
                let reader = LaneReader::new(shared, lane);
                process.threads.push(Thread { reader, index: self.begun.then_some(thread) });
            }
            Note::ThreadEnd { lane } => {
                if let Some(i) = process.threads.iter().position(|t| t.reader.index() == *lane as usize) {
                    retire(shared, &process.threads.swap_remove(i), &mut self.counts);
                }
            }
            Note::Fork { log } => {
                let log = *log as usize;
                if log >= PROCESSES || self.next_process > u16::MAX as u32 {
                    return Err(Trouble::new(format!("the program forks into log {log}")));
                }
                let child = self.next_process as u16;
                let space = process.space.clone();
                self.add_process(log, space);
                if self.begun {
                    events.push(Event::Fork { parent: index, child });
                }
            }
            Note::ForkFailed { log } => {
                if let Some(i) = self.processes.iter().position(|p| p.log.index() == *log as usize) {
                    self.bury(shared, i, events);
                }
            }
            Note::Escape { what } => self.escapes.push(String::from_utf8_lossy(what).into_owned()),
            note => {
                let mut happened = Vec::new();
                process.space.apply(index, note, &mut happened);
                if self.begun {
                    events.append(&mut happened);
                }
            }
        }
        if let Some(process) = self.processes.get_mut(at) {
            process.lookup.clear();
            process.known.clear();
        }
        Ok(())
    }

    /// A process is gone and everything of it is taken.
    fn bury(&mut self, shared: &Shared, at: usize, events: &mut Vec<Event>) {
        let process = self.processes.remove(at);
        for thread in &process.threads {
            retire(shared, thread, &mut self.counts);
        }
        shared.free_log(process.log.index());
        if self.begun {
            events.push(Event::Exit { process: process.index });
        }
    }

    /// Adds up what the lanes that are still open have seen, into a copy of the counts.
    pub fn totals(&self, shared: &Shared) -> Counts {
        let mut counts = self.counts;
        for thread in self.processes.iter().flat_map(|p| &p.threads) {
            add(shared, thread, &mut counts);
            counts.unread += thread.reader.accesses(shared).1;
        }
        counts
    }
}

fn add(shared: &Shared, thread: &Thread, counts: &mut Counts) {
    let lane = shared.lane(thread.reader.index());
    let (skipped, dropped) = (lane.skipped.load(Ordering::Relaxed), lane.dropped.load(Ordering::Relaxed));
    counts.seen += thread.reader.accesses(shared).0 + skipped + dropped;
    counts.skipped += skipped;
    counts.dropped += dropped;
}

/// A thread is gone: its lane is another's from now on.
fn retire(shared: &Shared, thread: &Thread, counts: &mut Counts) {
    add(shared, thread, counts);
    shared.free_lane(thread.reader.index());
}

impl Process {
    /// Sees what there is: first whether the process lives, then how far its lanes are, then what its log
    /// says. So whatever is seen happened before anything that is not.
    fn look(&mut self, shared: &Shared) -> Result<(), Trouble> {
        self.find(shared);
        for thread in &mut self.threads {
            thread.reader.look(shared);
        }
        if self.next.is_some() {
            return Ok(());
        }
        self.next = self
            .log
            .next(shared)
            .map_err(|_| Trouble::new("the program has overwritten the memory that it shares with us"))?;
        if let Some(Message { note: Note::Image { .. }, cuts }) = &mut self.next {
            // The threads of the program that was there are gone, and what they wrote is complete.
            *cuts = self.threads.iter_mut().map(|t| t.reader.end(shared)).collect();
        }
        Ok(())
    }

    /// Gets hold of the process, once it is known who it is.
    fn find(&mut self, shared: &Shared) {
        if self.dead || self.handle.is_some() {
            return;
        }
        let pid = shared.log(self.log.index()).pid.load(Ordering::Acquire);
        let Some(pid) = Pid::from_raw(pid as i32) else { return };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => self.handle = Some(handle),
            // Gone already.
            Err(_) => self.dead = true,
        }
    }

    /// Whether it is gone, and all that it left is taken.
    fn is_over(&self) -> bool {
        self.dead && self.next.is_none() && self.threads.iter().all(|t| t.reader.ready() == 0)
    }

    /// Asks the kernel whether it lives.
    fn check(&mut self) {
        use rustix::event::{PollFd, PollFlags, poll};
        let Some(handle) = self.handle.as_ref().filter(|_| !self.dead) else { return };
        let mut fds = [PollFd::new(handle, PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        self.dead = poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0);
    }

    /// How many accesses of the thread may be taken before the next message.
    fn allowed(&self, thread: &Thread) -> u64 {
        let Some(message) = &self.next else { return u64::MAX };
        let lane = thread.reader.index() as u32;
        let cut = message.cuts.iter().find(|(l, _)| *l == lane).map_or(u64::MAX, |(_, at)| *at);
        cut.saturating_sub(thread.reader.tail())
    }

    /// Whether everything that comes before the next message has been taken.
    fn is_due(&self) -> bool {
        self.next.as_ref().is_some_and(|message| {
            message.cuts.iter().all(|&(lane, at)| {
                self.threads.iter().all(|t| t.reader.index() as u32 != lane || t.reader.tail() >= at)
            })
        })
    }

    fn take(
        &mut self,
        shared: &Shared,
        sink: &mut impl Sink,
        longest: usize,
        counts: &mut Counts,
        wanted: &mut u64,
        pages: &mut Option<Pages>,
    ) -> bool {
        let ready = self.threads.iter().filter(|t| t.reader.ready() > 0).count();
        let turn = if ready > 1 { (BLOCK / ready).max(TURN) } else { longest };
        let mut moved = false;
        for i in 0..self.threads.len() {
            let allowed = self.allowed(&self.threads[i]);
            let thread = &mut self.threads[i];
            // Up to a message's cut one may look again; without one, what is new may depend on a message
            // that has not been seen.
            let ready = if allowed == u64::MAX { thread.reader.ready() } else { thread.reader.look(shared) };
            let n = (ready.min(allowed).min(*wanted) as usize).min(sink.room()).min(turn);
            if n == 0 {
                continue;
            }
            moved = true;
            let lane = Lane {
                shared,
                reader: &mut thread.reader,
                thread: thread.index.unwrap_or(0),
                known: &mut self.known,
                lookup: &mut self.lookup,
                natives: Natives { rebase: &self.space.rebase, pages, process: self.index },
                row: &mut self.row,
            };
            let (accesses, taken) = sink.take(lane, n);
            let (delivered, emulators) = (taken as u64, (accesses - taken) as u64);
            counts.delivered += delivered;
            counts.emulators += emulators;
            *wanted -= delivered;
        }
        moved
    }
}
