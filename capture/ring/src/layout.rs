//! What lies where in the shared memory. Only atomics, so that both sides may
//! hold plain references to it.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64};

/// The first word of the memory: refuses a plugin of another build.
pub const MAGIC: u64 = u64::from_le_bytes(*b"pgwlk\0\0\x02");
/// Threads that may be alive at once, over all processes.
pub const LANES: usize = 2048;
/// Processes that may be alive at once.
pub const PROCESSES: usize = 512;
/// Records in a lane: 512 KiB, half of the L2 cache of recent cores, so that
/// producer and consumer meet in a cache.
pub const LANE_RECORDS: usize = 64 * 1024;
/// 8-byte words in a process's log.
pub const LOG_WORDS: usize = 16 * 1024;

/// State of a lane or log that nobody owns.
pub const FREE: u32 = 0;
/// State of a lane or log in use.
pub const USED: u32 = 1;

/// Start of the memory.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Header {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// Process id of the consumer: a producer that waits checks that it lives.
    pub consumer: AtomicU32,
    /// 1 once accesses are wanted.
    pub active: AtomicU32,
    /// 1 once no more accesses are wanted: producers drop them and never wait.
    pub stop: AtomicU32,
    /// Accesses still to be passed over before [`Header::active`] turns 1 by
    /// itself; negative: it does not.
    pub skip: AtomicI64,
    /// Length of [`Header::error`].
    pub error_len: AtomicU32,
    /// What a producer could not do.
    pub error: [AtomicU8; 1024],
}

/// Control words of a lane. The writer's and the reader's are on cache lines
/// of their own.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Lane {
    /// Records ever written. Only the writer stores it.
    pub head: AtomicU64,
    /// Accesses passed over because recording had not begun.
    pub skipped: AtomicU64,
    /// Accesses dropped because recording had stopped.
    pub dropped: AtomicU64,
    pad: [u64; 5],
    /// Records ever read. Only the reader stores it.
    pub tail: AtomicU64,
    pad2: [u64; 7],
    /// [`FREE`] or [`USED`].
    pub state: AtomicU32,
}

/// Control words of a process's log.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Log {
    /// Words ever written.
    pub head: AtomicU64,
    pad: [u64; 7],
    /// Words ever read.
    pub tail: AtomicU64,
    /// [`FREE`] or [`USED`].
    pub state: AtomicU32,
    /// Its process's id; 0 until the process has attached.
    pub pid: AtomicU32,
}

/// One slot of a lane: a [`Record`](crate::Record).
pub type Slot = AtomicU64;

/// Where the parts begin.
pub(crate) const LANE_TABLE: usize = size_of::<Header>();
pub(crate) const LOG_TABLE: usize = LANE_TABLE + LANES * size_of::<Lane>();
pub(crate) const LOG_DATA: usize = (LOG_TABLE + PROCESSES * size_of::<Log>()).next_multiple_of(4096);
pub(crate) const LANE_DATA: usize = LOG_DATA + PROCESSES * LOG_WORDS * 8;
/// Size of the whole memory. It is sparse: what no thread used costs nothing.
pub const TOTAL: usize = LANE_DATA + LANES * LANE_RECORDS * size_of::<Slot>();

const _: () = assert!(LANE_RECORDS.is_power_of_two() && LOG_WORDS.is_power_of_two());
const _: () = assert!(LOG_TABLE.is_multiple_of(64) && LANE_DATA.is_multiple_of(4096));
