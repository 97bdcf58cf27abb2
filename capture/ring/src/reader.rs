//! Pagewalk's side. It trusts nothing that it reads: the memory is mapped in
//! the captured program, too.

use std::sync::atomic::Ordering;

use crate::Record;
use crate::layout::{LANE_RECORDS, LOG_WORDS};
use crate::memory::Shared;
use crate::message::Message;

/// Reads one lane.
#[derive(Debug)]
pub struct LaneReader {
    index: usize,
    tail: u64,
    head: u64,
    /// Instructions of gaps since the last access.
    gap: u32,
    /// Gaps among the records read.
    gaps: u64,
}

impl LaneReader {
    /// Reads a lane from where it stands.
    pub fn new(shared: &Shared, index: usize) -> LaneReader {
        let tail = shared.lane(index).tail.load(Ordering::Relaxed);
        LaneReader { index, tail, head: tail, gap: 0, gaps: 0 }
    }
    /// Which lane it is.
    pub fn index(&self) -> usize {
        self.index
    }
    /// Records read so far.
    pub fn tail(&self) -> u64 {
        self.tail
    }
    /// Records that are there to be read, as of the last [`LaneReader::look`].
    pub fn ready(&self) -> u64 {
        self.head - self.tail
    }
    /// Asks the writer how far it is, if all that it had is read: asking takes
    /// the writer's cache line away from it.
    pub fn look(&mut self, shared: &Shared) -> u64 {
        if self.head == self.tail {
            let head = shared.lane(self.index).head.load(Ordering::Acquire);
            self.head = head.clamp(self.tail, self.tail + LANE_RECORDS as u64);
        }
        self.ready()
    }
    /// The position at which a lane ends whose writer is gone, as a cut.
    pub fn end(&mut self, shared: &Shared) -> (u32, u64) {
        let head = shared.lane(self.index).head.load(Ordering::Acquire);
        self.head = head.clamp(self.head, self.tail + LANE_RECORDS as u64);
        (self.index as u32, self.head)
    }
    /// Takes `n` records, at most [`LaneReader::ready`]: the accesses among them, with the instructions since
    /// the one before.
    pub fn take(&mut self, shared: &Shared, n: usize, mut each: impl FnMut(Record, u16)) {
        let n = n.min(self.ready() as usize);
        let slots = shared.slots(self.index);
        let at = self.tail as usize % LANE_RECORDS;
        let first = n.min(LANE_RECORDS - at);
        let mut gap = self.gap;
        for part in [&slots[at..at + first], &slots[..n - first]] {
            for slot in part {
                let record = Record(slot.load(Ordering::Relaxed));
                if let Some(insns) = record.as_gap() {
                    gap = gap.saturating_add(insns.into());
                    self.gaps += 1;
                    continue;
                }
                let insns = (u32::from(record.insns()).saturating_add(gap)).min(u16::MAX.into());
                gap = 0;
                each(record, insns as u16);
            }
        }
        self.gap = gap;
        self.tail += n as u64;
        shared.lane(self.index).tail.store(self.tail, Ordering::Release);
    }
    /// Accesses ever written to the lane, and how many of them have not been read.
    pub fn accesses(&self, shared: &Shared) -> (u64, u64) {
        let head = shared.lane(self.index).head.load(Ordering::Acquire);
        let unread = head.saturating_sub(self.tail).min(LANE_RECORDS as u64);
        let slots = shared.slots(self.index);
        let is_access =
            |at: &u64| Record(slots[*at as usize % LANE_RECORDS].load(Ordering::Relaxed)).as_gap().is_none();
        let unread = (self.tail..self.tail + unread).filter(is_access).count() as u64;
        (self.tail - self.gaps + unread, unread)
    }
}

/// Reads one process's log.
#[derive(Debug)]
pub struct LogReader {
    index: usize,
}

impl LogReader {
    /// Reads a log from where it stands.
    pub fn new(index: usize) -> LogReader {
        LogReader { index }
    }
    /// Which log it is.
    pub fn index(&self) -> usize {
        self.index
    }
    /// The next message, taken off the log.
    ///
    /// # Errors
    /// If the words are not a message: the captured program overwrote them.
    pub fn next(&mut self, shared: &Shared) -> Result<Option<Message>, Corrupt> {
        let log = shared.log(self.index);
        let tail = log.tail.load(Ordering::Relaxed);
        let head = log.head.load(Ordering::Acquire);
        if head == tail {
            return Ok(None);
        }
        let ring = shared.words(self.index);
        let word = |i: usize| ring[(tail as usize + i) % LOG_WORDS].load(Ordering::Relaxed);
        let len = Message::len_words(word(0));
        if len > LOG_WORDS || head.wrapping_sub(tail) < len as u64 {
            return Err(Corrupt);
        }
        let words: Vec<u64> = (0..len).map(word).collect();
        let message = Message::decode(&words).ok_or(Corrupt)?;
        log.tail.store(tail + len as u64, Ordering::Release);
        Ok(Some(message))
    }
}

/// The log does not hold what a plugin writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Corrupt;
