//! What each block is instrumented with when QEMU translates it.

use std::ffi::{c_int, c_uint, c_void};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use capture_ring::Note;

use crate::decode::{Traits, decode};
use crate::ffi::{self, Block, Id};
use crate::vcpu::{self, Counting, Special};
use crate::{maps, process};

/// What was asked for on the command line.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Count only.
    pub count: bool,
    /// log2 of the granule of which fetches are recorded.
    pub fetch: Option<u8>,
    /// The executable: QEMU could be asked for it, but 10.0 forgot to export the function.
    pub program: String,
    /// Begin at this distance from where the executable is loaded.
    pub start: Option<u64>,
    /// QEMU's current interface version.
    pub version: c_int,
}

pub static WANTED: OnceLock<Wanted> = OnceLock::new();
/// Where the executable begins.
static LOADED_AT: AtomicU64 = AtomicU64::new(0);
static IMAGE_TOLD: AtomicBool = AtomicBool::new(false);
/// Host address minus guest address.
static GUEST_BASE: AtomicU64 = AtomicU64::new(0);

/// Where the guest's address 0 is for the host.
pub fn guest_base() -> u64 {
    GUEST_BASE.load(Ordering::Relaxed)
}

/// QEMU has translated a block.
pub extern "C" fn on_translate(_: Id, tb: *mut Block) {
    let Some(wanted) = WANTED.get() else { return };
    // SAFETY: tb is of this translation; so are its instructions below.
    let count = unsafe { ffi::qemu_plugin_tb_n_insns(tb) };
    // SAFETY: index below count.
    let insns = (0..count).map(|i| unsafe { ffi::qemu_plugin_tb_get_insn(tb, i) });
    if wanted.count {
        for insn in insns {
            // SAFETY: insn is of this translation.
            unsafe { watch(insn, vcpu::on_access_count, ffi::MEM_RW, 0) };
        }
        return;
    }
    let mut first: Option<(u64, Traits)> = None;
    let mut last = (0, Traits::default(), 0);
    for (i, insn) in insns.enumerate() {
        // SAFETY: insn is of this translation.
        let (va, (bytes, len)) =
            unsafe { (ffi::qemu_plugin_insn_vaddr(insn), ffi::insn_bytes(insn, wanted.version)) };
        let traits = decode(&bytes[..len]);
        if i == 0 && !IMAGE_TOLD.swap(true, Ordering::Relaxed) {
            // SAFETY: as above.
            tell_image(unsafe { ffi::qemu_plugin_insn_haddr(insn) } as u64, va);
        }
        let after = (count - 1 - i) as u64;
        let (cb, rw): (ffi::MemCb, _) = match (traits.modifies, vcpu::has_scoreboard()) {
            (false, false) => (vcpu::on_access, ffi::MEM_RW),
            (false, true) => (vcpu::on_access_per_vcpu, ffi::MEM_RW),
            (true, false) if traits.wide => (vcpu::on_modify, ffi::MEM_W),
            (true, false) => (vcpu::on_modify, vcpu::stores()),
            (true, true) => (vcpu::on_modify_per_vcpu, ffi::MEM_W),
        };
        // SAFETY: as above.
        unsafe { watch(insn, cb, rw, after) };
        if starts_here(wanted, va) {
            // SAFETY: as above.
            unsafe {
                ffi::qemu_plugin_register_vcpu_insn_exec_cb(
                    insn,
                    on_start,
                    ffi::NO_REGS,
                    std::ptr::null_mut(),
                );
            }
        }
        first.get_or_insert((va, traits));
        last = (va, traits, len as u64);
    }
    let Some(first) = first else { return };
    let special = Special {
        insns: count as u64,
        fetch: wanted.fetch.map(|granule| (first.0, last.0 + last.2 - first.0, granule)),
        begins: first.1.repeats.then_some(first.0),
        ends: last.1.repeats.then_some(last.0),
    };
    if special.fetch.is_some() || special.begins.is_some() || special.ends.is_some() {
        // QEMU keeps the pointer as long as the block, and does not say when it drops it.
        let special: *mut Special = Box::leak(Box::new(special));
        // SAFETY: tb is of this translation; the data lives for ever.
        unsafe {
            ffi::qemu_plugin_register_vcpu_tb_exec_cb(
                tb,
                vcpu::on_special_block,
                ffi::NO_REGS,
                special.cast(),
            );
        }
        return;
    }
    let count = count as u64;
    // SAFETY: tb is of this translation; Only's counter is static and written by the one vCPU.
    unsafe {
        match vcpu::counting() {
            Counting::PerVcpu(counter) => ffi::add_per_vcpu(tb, counter, count),
            Counting::Only(counter) => ffi::add_inline(tb, counter, count),
            Counting::Callback => ffi::qemu_plugin_register_vcpu_tb_exec_cb(
                tb,
                vcpu::on_block,
                ffi::NO_REGS,
                count as *mut c_void,
            ),
        }
    }
}

/// # Safety
/// `insn` is of the current translation.
unsafe fn watch(insn: *mut ffi::Insn, cb: ffi::MemCb, rw: c_int, user: u64) {
    // SAFETY: by the caller.
    unsafe { ffi::qemu_plugin_register_vcpu_mem_cb(insn, cb, ffi::NO_REGS, rw, user as *mut c_void) };
}

fn starts_here(wanted: &Wanted, va: u64) -> bool {
    wanted.start.is_some_and(|distance| va == LOADED_AT.load(Ordering::Relaxed).wrapping_add(distance))
}

extern "C" fn on_start(_: c_uint, _: *mut c_void) {
    process::begin();
}

/// The program is loaded: tells the consumer what it looks like.
fn tell_image(host: u64, guest: u64) {
    let base = host.wrapping_sub(guest);
    GUEST_BASE.store(base, Ordering::Relaxed);
    let maps = maps::guest(base);
    let path = program().into_os_string().into_vec();
    let real = std::fs::canonicalize(program()).unwrap_or_else(|_| program());
    let stack = maps::stack(&maps, [&path, real.as_os_str().as_bytes()]).unwrap_or((0, 0));
    if let Some(start) = maps::start_of(&maps, &real) {
        LOADED_AT.store(start, Ordering::Relaxed);
    }
    process::say(Note::Image { stack, path, maps });
}

/// The guest's executable.
pub fn program() -> PathBuf {
    WANTED.get().map(|wanted| PathBuf::from(&wanted.program)).unwrap_or_default()
}
