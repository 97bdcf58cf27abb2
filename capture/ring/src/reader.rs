//! Pagewalk's side. It trusts nothing that it reads: the memory is mapped in
//! the captured program, too.

use std::sync::atomic::Ordering;

use crate::Record;
use crate::layout::{LANE_RECORDS, LOG_WORDS, Slot};
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
    /// Takes `n` records, at most [`LaneReader::ready`]: folds the accesses among them, each with the instructions
    /// since the one before. How many accesses they were, and what was made of them.
    ///
    /// A fold, so that what is made of them stays in registers.
    #[inline(always)]
    pub fn fold<T>(
        &mut self,
        shared: &Shared,
        n: usize,
        mut made: T,
        mut each: impl FnMut(T, Record, u16) -> T,
    ) -> (usize, T) {
        let n = n.min(self.ready() as usize);
        let slots = shared.slots(self.index);
        let at = self.tail as usize % LANE_RECORDS;
        let first = n.min(LANE_RECORDS - at);
        let gaps = self.gaps;
        for part in [&slots[at..at + first], &slots[..n - first]] {
            made = self.fold_part(part, made, &mut each);
        }
        self.tail += n as u64;
        shared.lane(self.index).tail.store(self.tail, Ordering::Release);
        (n - (self.gaps - gaps) as usize, made)
    }

    #[inline(always)]
    fn fold_part<T>(
        &mut self,
        mut part: &[Slot],
        mut made: T,
        each: &mut impl FnMut(T, Record, u16) -> T,
    ) -> T {
        loop {
            // Gaps are rare: between them there is nothing to add up.
            if self.gap == 0 {
                let mut taken = 0;
                for slot in part {
                    let record = Record(slot.load(Ordering::Relaxed));
                    if record.is_gap() {
                        break;
                    }
                    made = each(made, record, record.insns());
                    taken += 1;
                }
                part = &part[taken..];
            }
            let Some((slot, rest)) = part.split_first() else { return made };
            part = rest;
            let record = Record(slot.load(Ordering::Relaxed));
            if record.is_gap() {
                self.gap = self.gap.saturating_add(u32::from(record.va() as u16));
                self.gaps += 1;
            } else {
                let insns = u32::from(record.insns()).saturating_add(self.gap).min(u16::MAX.into());
                self.gap = 0;
                made = each(made, record, insns as u16);
            }
        }
    }

    /// Accesses ever written to the lane, and how many of them have not been read.
    pub fn accesses(&self, shared: &Shared) -> (u64, u64) {
        let head = shared.lane(self.index).head.load(Ordering::Acquire);
        let unread = head.saturating_sub(self.tail).min(LANE_RECORDS as u64);
        let slots = shared.slots(self.index);
        let is_access =
            |at: &u64| !Record(slots[*at as usize % LANE_RECORDS].load(Ordering::Relaxed)).is_gap();
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
