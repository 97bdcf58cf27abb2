//! Numbers of `trace_entry.h`.

/// Bytes of a record: `u16 type, u16 size, u64 addr`.
pub(crate) const BYTES: usize = 12;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
/// Software prefetches.
pub(crate) const PREFETCH: u16 = 2;
pub(crate) const PREFETCH_LAST: u16 = 9;
pub(crate) const INSTR: u16 = 10;
pub(crate) const INSTR_RETURN: u16 = 16;
pub(crate) const INSTR_BUNDLE: u16 = 17;
/// Flushes of the instruction and data caches.
pub(crate) const FLUSH: u16 = 18;
pub(crate) const FLUSH_LAST: u16 = 21;
pub(crate) const THREAD: u16 = 22;
pub(crate) const THREAD_EXIT: u16 = 23;
pub(crate) const PID: u16 = 24;
pub(crate) const HEADER: u16 = 25;
pub(crate) const FOOTER: u16 = 26;
pub(crate) const HW_PREFETCH: u16 = 27;
pub(crate) const MARKER: u16 = 28;
pub(crate) const INSTR_NO_FETCH: u16 = 29;
pub(crate) const INSTR_MAYBE_FETCH: u16 = 30;
pub(crate) const INSTR_SYSENTER: u16 = 31;
/// Software prefetches by kind.
pub(crate) const PREFETCH_KINDS: u16 = 32;
pub(crate) const ENCODING: u16 = 47;
pub(crate) const INSTR_TAKEN_JUMP: u16 = 48;
pub(crate) const INSTR_UNTAKEN_JUMP: u16 = 49;
/// The first number without a meaning.
pub(crate) const INVALID: u16 = 50;

pub(crate) const MARKER_TIMESTAMP: u16 = 2;
pub(crate) const MARKER_CPU_ID: u16 = 3;
pub(crate) const MARKER_FILETYPE: u16 = 9;
pub(crate) const MARKER_CACHE_LINE_SIZE: u16 = 10;
pub(crate) const MARKER_VERSION: u16 = 12;
pub(crate) const MARKER_PHYSICAL_ADDRESS: u16 = 15;
pub(crate) const MARKER_VIRTUAL_ADDRESS: u16 = 17;
pub(crate) const MARKER_PAGE_SIZE: u16 = 18;
pub(crate) const MARKER_CHUNK_INSTR_COUNT: u16 = 20;
pub(crate) const MARKER_CHUNK_FOOTER: u16 = 21;
pub(crate) const MARKER_RECORD_ORDINAL: u16 = 22;

pub(crate) const FILETYPE_FILTERED: u64 = 0x1;
pub(crate) const FILETYPE_INSTR_ONLY: u64 = 0x4;
pub(crate) const FILETYPE_ARM32: u64 = 0x10;
pub(crate) const FILETYPE_X86_32: u64 = 0x20;
pub(crate) const FILETYPE_X86_64: u64 = 0x40;
pub(crate) const FILETYPE_IFILTERED: u64 = 0x80;
pub(crate) const FILETYPE_DFILTERED: u64 = 0x100;
pub(crate) const FILETYPE_KERNEL_INSTR_ONLY: u64 = 0x8000;

/// The newest version that was looked at: 7, `RETIRED_INSTRUCTIONS_ONLY`.
pub(crate) const VERSION_MAX: u64 = 100;

/// A record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) kind: u16,
    pub(crate) size: u16,
    pub(crate) addr: u64,
}

impl Record {
    #[inline(always)]
    pub(crate) fn parse(bytes: &[u8]) -> Record {
        let low = u32::from_le_bytes(bytes[..4].try_into().expect("4 bytes"));
        let addr = u64::from_le_bytes(bytes[4..12].try_into().expect("8 bytes"));
        Record { kind: low as u16, size: (low >> 16) as u16, addr }
    }

    pub(crate) fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..2].copy_from_slice(&self.kind.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.size.to_le_bytes());
        bytes[4..].copy_from_slice(&self.addr.to_le_bytes());
        bytes
    }
}

/// Whether a stream begins as a trace does.
pub(crate) fn is_header(head: &[u8]) -> bool {
    head.len() >= BYTES && {
        let record = Record::parse(head);
        record.kind == HEADER && (1..=VERSION_MAX).contains(&record.addr)
    }
}
