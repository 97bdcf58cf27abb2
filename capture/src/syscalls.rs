//! System calls that change the address space, the threads or the processes.
//!
//! What takes memory away is told before it happens, what gives memory is told
//! after: then no access falls outside of what the consumer knows to be mapped.

use std::ffi::c_uint;
use std::os::unix::ffi::OsStrExt;

use capture_ring::Note;

use crate::exec;
use crate::ffi::Id;
use crate::process::{self, Held};
use crate::vcpu::vcpu;

/// `MADV_DONTNEED`, which takes memory away.
const DONTNEED: u64 = 4;
/// `MAP_ANONYMOUS`.
const ANONYMOUS: u64 = 0x20;
/// `CLONE_VM`, `CLONE_VFORK`.
const VM: u64 = 0x100;
const VFORK: u64 = 0x4000;

/// A system call begins.
#[allow(clippy::too_many_arguments)]
pub extern "C" fn on_call(
    _: Id,
    index: c_uint,
    number: i64,
    a1: u64,
    a2: u64,
    a3: u64,
    a4: u64,
    a5: u64,
    a6: u64,
    _: u64,
    _: u64,
) {
    // SAFETY: QEMU calls from the vCPU's thread; no other reference is alive.
    let vcpu = unsafe { vcpu(index) };
    vcpu.call = [a1, a2, a3, a4, a5, a6];
    match number {
        // With no length the call fails.
        libc::SYS_munmap if a2 != 0 => process::say(Note::Unmap { start: a1, len: a2 }),
        libc::SYS_shmdt => process::say(Note::Unmap { start: a1, len: 0 }),
        libc::SYS_madvise if a3 == DONTNEED => {
            process::say(Note::Advise { start: a1, len: a2, advice: a3 as u32 });
        }
        // The old range is free before the call returns, and another thread may be given it: nobody may
        // speak in between.
        libc::SYS_mremap => process::hold().keep(),
        libc::SYS_fork | libc::SYS_vfork => vcpu.child = fork_begins(),
        libc::SYS_clone if a1 & VM == 0 || a1 & VFORK != 0 => vcpu.child = fork_begins(),
        libc::SYS_execve => exec::execve(a1, a2, a3),
        libc::SYS_execveat => exec::execveat(a1 as i32, a2, a3, a4, a5),
        _ => {}
    }
}

fn fork_begins() -> Option<u32> {
    let child = process::claim_child()?;
    process::say(Note::Fork { log: child });
    Some(child)
}

/// A system call returns.
pub extern "C" fn on_return(_: Id, index: c_uint, number: i64, ret: i64) {
    // SAFETY: as in on_call.
    let vcpu = unsafe { vcpu(index) };
    let [a1, a2, a3, a4, a5, a6] = vcpu.call;
    let failed = (-4095..0).contains(&ret);
    match number {
        libc::SYS_mmap if !failed => {
            let path = if a4 & ANONYMOUS != 0 { Vec::new() } else { file_of(a5 as i32) };
            process::say(Note::Map {
                start: ret as u64,
                hint: a1,
                len: a2,
                prot: a3 as u32,
                flags: a4 as u32,
                offset: a6,
                path,
            });
        }
        libc::SYS_shmat if !failed => {
            let prot = if a3 & libc::SHM_RDONLY as u64 != 0 { libc::PROT_READ } else { READ_WRITE };
            process::say(Note::Map {
                start: ret as u64,
                hint: a2,
                len: segment_len(a1 as i32),
                prot: prot as u32,
                flags: (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u32,
                offset: 0,
                path: Vec::new(),
            });
        }
        libc::SYS_mprotect | libc::SYS_pkey_mprotect if !failed => {
            process::say(Note::Protect { start: a1, len: a2, prot: a3 as u32 });
        }
        libc::SYS_madvise if !failed && a3 != DONTNEED => {
            process::say(Note::Advise { start: a1, len: a2, advice: a3 as u32 });
        }
        libc::SYS_brk => process::say(Note::Brk { end: ret as u64 }),
        libc::SYS_mremap => {
            let held = Held::again();
            if !failed {
                held.say(Note::Remap {
                    old: a1,
                    old_len: a2,
                    new: ret as u64,
                    new_len: a3,
                    flags: a4 as u32,
                });
            }
        }
        libc::SYS_fork | libc::SYS_vfork | libc::SYS_clone => {
            if let Some(child) = vcpu.child.take() {
                match ret {
                    0 => process::become_child(child),
                    pid if !failed => process::set_pid(child, pid as u32),
                    _ => process::say(Note::ForkFailed { log: child }),
                }
            }
        }
        _ => {}
    }
}

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// How long a System V shared segment is.
fn segment_len(id: i32) -> u64 {
    // SAFETY: all zero is a valid value of the structure.
    let mut segment: libc::shmid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: a place for the answer.
    unsafe { libc::shmctl(id, libc::IPC_STAT, &mut segment) };
    segment.shm_segsz as u64
}

/// The name of an open file; empty if it has none.
fn file_of(fd: i32) -> Vec<u8> {
    std::fs::read_link(format!("/proc/self/fd/{fd}"))
        .map(|path| path.as_os_str().as_bytes().to_vec())
        .unwrap_or_default()
}
