//! The captured program's side: one writer per thread, one log per process.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::Record;
use crate::layout::{LANE_RECORDS, LOG_WORDS, Lane, Slot};
use crate::memory::Shared;
use crate::message::Message;

/// Whether a lane may be written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// Up to this position.
    UpTo(u64),
    /// Recording has not begun.
    NotYet,
    /// Recording is over.
    Over,
}

/// The one writer of a lane.
///
/// Few stores: a program that misses the caches has its stores queue up behind
/// each other, and ours with them.
#[derive(Clone, Copy, Debug)]
pub struct LaneWriter<'a> {
    shared: &'a Shared,
    lane: &'a Lane,
    slots: &'a [Slot; LANE_RECORDS],
    index: u32,
}

impl<'a> LaneWriter<'a> {
    /// Writes to a lane that [`Shared::claim_lane`] gave.
    pub fn new(shared: &'a Shared, index: usize) -> LaneWriter<'a> {
        LaneWriter { shared, lane: shared.lane(index), slots: shared.slots(index), index: index as u32 }
    }
    /// Which lane it is.
    pub fn index(&self) -> u32 {
        self.index
    }
    /// The control words.
    pub fn lane(&self) -> &'a Lane {
        self.lane
    }

    /// Where the next record goes.
    #[inline(always)]
    pub fn at(&self) -> u64 {
        self.lane.head.load(Ordering::Relaxed)
    }

    /// Stores the record at position `at`, which is [`LaneWriter::at`] and below what [`LaneWriter::room`]
    /// gave, and publishes it.
    #[inline(always)]
    pub fn put(&self, at: u64, record: Record) {
        self.slots[at as usize % LANE_RECORDS].store(record.0, Ordering::Relaxed);
        self.lane.head.store(at + 1, Ordering::Release);
    }

    /// Waits until records may be written at `at`, many of them.
    pub fn room(&self, at: u64) -> Room {
        let header = self.shared.header();
        let mut waited = 0_u32;
        loop {
            if header.stop.load(Ordering::Relaxed) != 0 {
                return Room::Over;
            }
            if header.active.load(Ordering::Relaxed) == 0 {
                return Room::NotYet;
            }
            let free = self.lane.tail.load(Ordering::Acquire) + LANE_RECORDS as u64 - at;
            // A quarter at least: else the two would meet at every few records once the lane is full.
            if free >= LANE_RECORDS as u64 / 4 {
                return Room::UpTo(at + free);
            }
            waited += 1;
            if !wait(self.shared, waited) {
                return Room::Over;
            }
        }
    }
}

/// Waits a little for the consumer; `false` if it is gone, or wants nothing more.
fn wait(shared: &Shared, turn: u32) -> bool {
    if shared.header().stop.load(Ordering::Relaxed) != 0 {
        return false;
    }
    if turn < 64 {
        std::hint::spin_loop();
        return true;
    }
    std::thread::sleep(Duration::from_micros(50));
    if turn.is_multiple_of(1024) && !consumer_lives(shared) {
        shared.header().stop.store(1, Ordering::Relaxed);
        return false;
    }
    true
}

fn consumer_lives(shared: &Shared) -> bool {
    let pid = shared.header().consumer.load(Ordering::Relaxed) as i32;
    match rustix::process::Pid::from_raw(pid) {
        Some(pid) => rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH),
        None => false,
    }
}

/// Appends to a process's log. The caller holds the process's lock.
#[derive(Clone, Copy, Debug)]
pub struct LogWriter<'a> {
    shared: &'a Shared,
    index: usize,
}

impl<'a> LogWriter<'a> {
    /// Writes to a log that [`Shared::claim_log`] gave.
    pub fn new(shared: &'a Shared, index: usize) -> LogWriter<'a> {
        LogWriter { shared, index }
    }

    /// Appends a message, waiting for room. Gives up if the consumer is gone or wants nothing more.
    pub fn append(&self, message: &Message) {
        let words = message.encode();
        assert!(words.len() <= LOG_WORDS, "a message larger than the log");
        let log = self.shared.log(self.index);
        let head = log.head.load(Ordering::Relaxed);
        let mut waited = 0;
        while head + words.len() as u64 - log.tail.load(Ordering::Acquire) > LOG_WORDS as u64 {
            waited += 1;
            if !wait(self.shared, waited) {
                return;
            }
        }
        let ring = self.shared.words(self.index);
        for (i, &word) in words.iter().enumerate() {
            ring[(head as usize + i) % LOG_WORDS].store(word, Ordering::Relaxed);
        }
        log.head.store(head + words.len() as u64, Ordering::Release);
    }
}
