//! The shared memory through which a captured program hands its accesses to
//! Pagewalk, without loss.
//!
//! One file (a memfd of the consumer) holds
//! * a [`Header`]: is recording on, should it stop, is the consumer alive;
//! * one [`lane`](layout::Lane) per thread: a ring of 16-byte records with one
//!   writer and one reader, and the position of each;
//! * one [`log`](layout::Log) per process: what happened besides accesses
//!   (`mmap`, a thread starts, a fork), in the order in which it happened.
//!
//! # Order without stamps
//!
//! An access must reach the consumer after the `mmap` that made its page and
//! before the `munmap` that takes it away, also when different threads do
//! them. A message therefore carries a *cut*: the position of every lane of
//! its process at the moment it was logged. Whatever a lane holds below its cut
//! comes before the message, the rest after. That is exact for every program
//! without a race on the mapping itself: if an access happens before the `munmap`
//! (by the program's own locks), its record was stored before the cut was read; if
//! it happens after the `mmap`, it was stored after. Nobody has to wait for
//! anybody, and the path of an access knows nothing of it.
//!
//! The consumer reads a lane's position first and the log's head second, so
//! that it cannot see an access whose `mmap` it does not see.
//!
//! # Nothing is lost
//!
//! A full lane makes its thread wait. Positions and counters live in the shared
//! memory, so that what a program wrote before it was killed is still there.

pub mod layout;
mod memory;
pub mod message;
mod producer;
pub mod program;
mod reader;

pub use layout::{Header, LANE_RECORDS, LANES, LOG_WORDS, PROCESSES};
pub use memory::Shared;
pub use message::{Message, Note};
pub use producer::{LaneWriter, LogWriter, Room};
pub use reader::{LaneReader, LogReader};

/// One access as it lies in a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// The virtual address.
    pub va: u64,
    /// The thread's count of instructions, this access's own included: bits 0-31; kind: 32-39; log2 of the
    /// size: 40-47.
    pub rest: u64,
}

impl Record {
    /// A record.
    #[inline(always)]
    pub fn new(va: u64, insn: u64, kind: u8, size_log2: u8) -> Record {
        Record { va, rest: insn & 0xffff_ffff | (kind as u64) << 32 | (size_log2 as u64) << 40 }
    }
    /// The thread's count of instructions, modulo 2^32: the reader takes differences, so that the writer
    /// need not remember the last one.
    #[inline(always)]
    pub fn insn(self) -> u32 {
        self.rest as u32
    }
    /// 0 read, 1 write, 2 fetch, 3 modify.
    #[inline(always)]
    pub fn kind(self) -> u8 {
        (self.rest >> 32) as u8
    }
    /// log2 of the number of bytes.
    #[inline(always)]
    pub fn size_log2(self) -> u8 {
        (self.rest >> 40) as u8
    }
}
