//! The mapping itself: the one place where raw memory turns into references.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

use crate::layout::*;

/// The shared memory, mapped. Stays mapped until it is dropped.
#[derive(Debug)]
pub struct Shared {
    base: NonNull<u8>,
}

// SAFETY: all of the memory is reached through atomics only.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Makes a new one, of this process. The file is its only name: a producer
    /// opens it as `/proc/PID/fd/N`.
    ///
    /// # Errors
    /// If the kernel refuses the file or the mapping.
    pub fn create() -> io::Result<(Shared, OwnedFd)> {
        let fd = rustix::fs::memfd_create("pagewalk-capture", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, TOTAL as u64)?;
        let shared = Shared::map(&fd)?;
        let header = shared.header();
        header.consumer.store(std::process::id(), Ordering::Relaxed);
        header.skip.store(-1, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Release);
        Ok((shared, fd))
    }

    /// Attaches to one that a consumer made.
    ///
    /// # Errors
    /// If it cannot be opened, or is of another build.
    pub fn open(path: &str) -> io::Result<Shared> {
        let file = File::options().read(true).write(true).open(path)?;
        if file.metadata()?.len() != TOTAL as u64 {
            return Err(io::Error::other("the shared memory is of another build of pagewalk"));
        }
        let shared = Shared::map(&file)?;
        if shared.header().magic.load(Ordering::Acquire) != MAGIC {
            return Err(io::Error::other("the shared memory is of another build of pagewalk"));
        }
        Ok(shared)
    }

    fn map(fd: impl AsFd) -> io::Result<Shared> {
        // SAFETY: a fresh shared mapping of a file that has this length; nothing else is at the address
        // that the kernel chooses.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                TOTAL,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                fd,
                0,
            )?
        };
        Ok(Shared { base: NonNull::new(base.cast()).expect("mmap returned null") })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        // SAFETY: the mapping is TOTAL bytes, page-aligned, lives as long as self; Header is at 0 and all atomics,
        // valid for any bit pattern.
        unsafe { self.base.cast::<Header>().as_ref() }
    }

    /// A lane's control words.
    pub fn lane(&self, index: usize) -> &Lane {
        assert!(index < LANES);
        // SAFETY: as in header(); the table holds LANES aligned entries.
        unsafe { self.base.add(LANE_TABLE).cast::<Lane>().add(index).as_ref() }
    }

    /// A lane's records.
    pub fn slots(&self, index: usize) -> &[Slot; LANE_RECORDS] {
        assert!(index < LANES);
        // SAFETY: as in header(); LANES rings of LANE_RECORDS slots begin at LANE_DATA, page-aligned.
        unsafe { self.base.add(LANE_DATA).cast::<[Slot; LANE_RECORDS]>().add(index).as_ref() }
    }

    /// A log's control words.
    pub fn log(&self, index: usize) -> &Log {
        assert!(index < PROCESSES);
        // SAFETY: as in header(); the table holds PROCESSES aligned entries.
        unsafe { self.base.add(LOG_TABLE).cast::<Log>().add(index).as_ref() }
    }

    /// A log's words.
    pub fn words(&self, index: usize) -> &[AtomicU64; LOG_WORDS] {
        assert!(index < PROCESSES);
        // SAFETY: as in header(); PROCESSES arrays of LOG_WORDS words begin at LOG_DATA, page-aligned.
        unsafe { self.base.add(LOG_DATA).cast::<[AtomicU64; LOG_WORDS]>().add(index).as_ref() }
    }

    /// Claims a free lane.
    pub fn claim_lane(&self) -> Option<usize> {
        (0..LANES).find(|&i| {
            let state = &self.lane(i).state;
            state.load(Ordering::Relaxed) == FREE
                && state.compare_exchange(FREE, USED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// Claims a free log.
    pub fn claim_log(&self) -> Option<usize> {
        (0..PROCESSES).find(|&i| {
            let state = &self.log(i).state;
            state.load(Ordering::Relaxed) == FREE
                && state.compare_exchange(FREE, USED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// Gives a lane back, empty. Only the consumer does, once its thread is gone and its records are read.
    pub fn free_lane(&self, index: usize) {
        let lane = self.lane(index);
        for word in [&lane.head, &lane.tail, &lane.skipped, &lane.dropped] {
            word.store(0, Ordering::Relaxed);
        }
        lane.state.store(FREE, Ordering::Release);
    }

    /// Gives a log back, empty. Only the consumer does, once its process is gone and its messages are read.
    pub fn free_log(&self, index: usize) {
        let log = self.log(index);
        log.head.store(0, Ordering::Relaxed);
        log.tail.store(0, Ordering::Relaxed);
        log.pid.store(0, Ordering::Relaxed);
        log.state.store(FREE, Ordering::Release);
    }

    /// Leaves word of what went wrong for the consumer; the first word stays.
    pub fn set_error(&self, text: &str) {
        let header = self.header();
        let len = text.len().min(header.error.len()) as u32;
        if header.error_len.compare_exchange(0, u32::MAX, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            for (slot, byte) in header.error.iter().zip(text.bytes()) {
                slot.store(byte, Ordering::Relaxed);
            }
            header.error_len.store(len, Ordering::Release);
        }
    }

    /// What a producer left with [`Shared::set_error`].
    pub fn error(&self) -> Option<String> {
        let header = self.header();
        let len = header.error_len.load(Ordering::Acquire);
        if len == 0 || len == u32::MAX {
            return None;
        }
        let bytes: Vec<u8> =
            header.error[..(len as usize).min(1024)].iter().map(|b| b.load(Ordering::Relaxed)).collect();
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: this mapping was made by map() with this length; no reference outlives self.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), TOTAL) };
    }
}
