//! The shared memory through which a captured program hands its accesses to
//! Pagewalk, without loss.
//!
//! One file (a memfd of the consumer) holds
//! * a [`Header`]: is recording on, should it stop, is the consumer alive;
//! * one [`lane`](layout::Lane) per thread: a ring of 8-byte records with one
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

/// What lies in a lane, eight bytes: an access, or a gap of more instructions than an access can tell, before it.
///
/// Bits 0-10: instructions since the thread's previous access, this one's own included. 11-12: kind; 13-15: log2 of
/// the size. 16-63: the virtual address. A gap's size is `Record::GAP`, and its address its instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Record(u64);

impl Record {
    /// Most instructions that an access tells.
    pub const INSNS: u64 = (1 << 11) - 1;
    /// No access has this size: 64 bytes are the largest that there are.
    const GAP: u8 = 7;

    /// An access.
    #[inline(always)]
    pub fn new(va: u64, shape: Shape, insns: u64) -> Record {
        Record(va << 16 | u64::from(shape.0) | insns)
    }
    /// Instructions that come on top of the next access's.
    pub fn gap(insns: u16) -> Record {
        Record::new(insns.into(), Shape::new(0, Record::GAP), 0)
    }
    /// The address, sign-extended.
    #[inline(always)]
    pub fn va(self) -> u64 {
        (self.0 as i64 >> 16) as u64
    }
    /// 0 read, 1 write, 2 fetch, 3 modify.
    #[inline(always)]
    pub fn kind(self) -> u8 {
        (self.0 >> 11 & 3) as u8
    }
    /// log2 of the number of bytes.
    #[inline(always)]
    pub fn size_log2(self) -> u8 {
        (self.0 >> 13 & 7) as u8
    }
    /// Instructions since the previous access or gap.
    #[inline(always)]
    pub fn insns(self) -> u16 {
        (self.0 & Record::INSNS) as u16
    }
    /// Whether it is a gap: the size is in the uppermost of the sixteen bits below the address.
    #[inline(always)]
    fn is_gap(self) -> bool {
        self.0 as u16 >= u16::from(Record::GAP) << 13
    }
}

/// Kind and size of an access, as they lie in a [`Record`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape(u16);

impl Shape {
    const MASK: u16 = 31 << 11;

    /// Kind: 0 read, 1 write, 2 fetch, 3 modify. The size by its logarithm.
    #[inline(always)]
    pub fn new(kind: u8, size_log2: u8) -> Shape {
        Shape((u16::from(kind & 3) | u16::from(size_log2 & 7) << 2) << 11)
    }
    /// As a number.
    #[inline(always)]
    pub fn bits(self) -> u16 {
        self.0
    }
    /// The other way: of what [`Shape::bits`] gave, one or several of one size.
    #[inline(always)]
    pub fn from_bits(bits: u16) -> Shape {
        debug_assert!(bits & !Shape::MASK == 0, "{bits:#x} is no shape");
        Shape(bits)
    }
}
