//! QEMU's plugin interface, as far as it is used. No Debian package has its
//! header; it is stable and small.
//!
//! Between the releases three things differ: version 2 (QEMU 9.0) replaced the
//! inline counters by ones with a copy per vCPU, version 3 made
//! `qemu_plugin_insn_data` copy, and each release accepts only a range of
//! versions, read from the symbol `qemu_plugin_version`. QEMU 7.2 takes 0 to 1,
//! 10.x takes 2 to 5. That symbol is set by a constructor, which runs while QEMU
//! opens the library and before it reads the symbol.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// Handle of the plugin.
pub type Id = u64;

/// What QEMU says about itself (`qemu_info_t`).
#[repr(C)]
pub struct Info {
    pub target_name: *const c_char,
    pub version_min: c_int,
    pub version_cur: c_int,
    pub system_emulation: bool,
}

/// A translation block.
#[repr(C)]
pub struct Block {
    opaque: [u8; 0],
}
/// An instruction of a block.
#[repr(C)]
pub struct Insn {
    opaque: [u8; 0],
}
/// Memory with one element per vCPU (version 2).
#[repr(C)]
pub struct Scoreboard {
    opaque: [u8; 0],
}
/// A `u64` of a scoreboard's elements (`qemu_plugin_u64`).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Counter {
    pub score: *mut Scoreboard,
    pub offset: usize,
}

pub type VcpuCb = extern "C" fn(Id, c_uint);
pub type UserCb = extern "C" fn(c_uint, *mut c_void);
pub type MemCb = extern "C" fn(c_uint, u32, u64, *mut c_void);
pub type SyscallCb = extern "C" fn(Id, c_uint, i64, u64, u64, u64, u64, u64, u64, u64, u64);
pub type SyscallRetCb = extern "C" fn(Id, c_uint, i64, i64);

/// `QEMU_PLUGIN_CB_NO_REGS`.
pub const NO_REGS: c_int = 0;
/// `QEMU_PLUGIN_INLINE_ADD_U64`.
pub const ADD_U64: c_int = 0;
/// `QEMU_PLUGIN_MEM_R`.
pub const MEM_R: c_int = 1;
/// `QEMU_PLUGIN_MEM_W`.
pub const MEM_W: c_int = 2;
/// `QEMU_PLUGIN_MEM_RW`.
pub const MEM_RW: c_int = 3;

unsafe extern "C" {
    pub fn qemu_plugin_register_vcpu_init_cb(id: Id, cb: VcpuCb);
    pub fn qemu_plugin_register_vcpu_exit_cb(id: Id, cb: VcpuCb);
    pub fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, cb: extern "C" fn(Id, *mut Block));
    pub fn qemu_plugin_register_vcpu_tb_exec_cb(tb: *mut Block, cb: UserCb, flags: c_int, user: *mut c_void);
    pub fn qemu_plugin_register_vcpu_insn_exec_cb(
        insn: *mut Insn,
        cb: UserCb,
        flags: c_int,
        user: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_mem_cb(
        insn: *mut Insn,
        cb: MemCb,
        flags: c_int,
        rw: c_int,
        user: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_syscall_cb(id: Id, cb: SyscallCb);
    pub fn qemu_plugin_register_vcpu_syscall_ret_cb(id: Id, cb: SyscallRetCb);
    pub fn qemu_plugin_register_atexit_cb(id: Id, cb: extern "C" fn(Id, *mut c_void), user: *mut c_void);
    pub fn qemu_plugin_tb_n_insns(tb: *const Block) -> usize;
    pub fn qemu_plugin_tb_get_insn(tb: *const Block, index: usize) -> *mut Insn;
    pub fn qemu_plugin_insn_vaddr(insn: *const Insn) -> u64;
    pub fn qemu_plugin_insn_size(insn: *const Insn) -> usize;
    pub fn qemu_plugin_insn_haddr(insn: *const Insn) -> *mut c_void;
    pub fn qemu_plugin_mem_size_shift(info: u32) -> c_uint;
    pub fn qemu_plugin_mem_is_store(info: u32) -> bool;
}

/// The version that this library claims to be built for; QEMU reads it.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static mut qemu_plugin_version: c_int = 1;

#[used]
#[unsafe(link_section = ".init_array")]
static CHOOSE_VERSION: extern "C" fn() = choose_version;

extern "C" fn choose_version() {
    // Each version is told by a function that came with it.
    let version = [
        (c"qemu_plugin_write_memory_vaddr", 5),
        (c"qemu_plugin_read_memory_vaddr", 4),
        (c"qemu_plugin_scoreboard_new", 2),
    ]
    .into_iter()
    .find(|(name, _)| !find(name).is_null())
    .map_or(1, |(_, version)| version);
    // SAFETY: constructors run on one thread, before QEMU reads the symbol, and nobody else writes it.
    unsafe { qemu_plugin_version = version };
}

/// A function of QEMU's by name; null if this QEMU does not have it.
fn find(name: &CStr) -> *mut c_void {
    // SAFETY: RTLD_DEFAULT searches what is loaded; the name is a C string.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// A function of QEMU's that only some releases have, looked up once.
struct Late {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Late {
    const fn new(name: &'static CStr) -> Late {
        Late { name, address: AtomicPtr::new(std::ptr::null_mut()) }
    }
    fn get(&self) -> *mut c_void {
        let mut address = self.address.load(Ordering::Relaxed);
        if address.is_null() {
            address = find(self.name);
            assert!(!address.is_null(), "QEMU has no {:?}", self.name);
            self.address.store(address, Ordering::Relaxed);
        }
        address
    }
}

static TB_INLINE: Late = Late::new(c"qemu_plugin_register_vcpu_tb_exec_inline");
static TB_INLINE_PER_VCPU: Late = Late::new(c"qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu");
static SCOREBOARD_NEW: Late = Late::new(c"qemu_plugin_scoreboard_new");
static SCOREBOARD_FIND: Late = Late::new(c"qemu_plugin_scoreboard_find");
static INSN_DATA: Late = Late::new(c"qemu_plugin_insn_data");

/// Version 1: QEMU adds `add` to `*counter` each time the block runs.
///
/// # Safety
/// `tb` is of the current translation; `counter` lives for ever and is written by one vCPU only.
pub unsafe fn add_inline(tb: *mut Block, counter: *mut u64, add: u64) {
    type F = unsafe extern "C" fn(*mut Block, c_int, *mut c_void, u64);
    // SAFETY: this is its type in versions 0 and 1.
    let f = unsafe { std::mem::transmute::<*mut c_void, F>(TB_INLINE.get()) };
    // SAFETY: by the caller.
    unsafe { f(tb, ADD_U64, counter.cast(), add) };
}

/// Version 2: QEMU adds `add` to the running vCPU's counter each time the block runs.
///
/// # Safety
/// `tb` is of the current translation.
pub unsafe fn add_per_vcpu(tb: *mut Block, counter: Counter, add: u64) {
    type F = unsafe extern "C" fn(*mut Block, c_int, Counter, u64);
    // SAFETY: this is its type since version 2.
    let f = unsafe { std::mem::transmute::<*mut c_void, F>(TB_INLINE_PER_VCPU.get()) };
    // SAFETY: by the caller.
    unsafe { f(tb, ADD_U64, counter, add) };
}

/// Version 2: memory of `size` bytes per vCPU.
pub fn scoreboard_new(size: usize) -> *mut Scoreboard {
    type F = unsafe extern "C" fn(usize) -> *mut Scoreboard;
    // SAFETY: this is its type since version 2.
    unsafe { std::mem::transmute::<*mut c_void, F>(SCOREBOARD_NEW.get())(size) }
}

/// Version 2: the vCPU's element. It moves when vCPUs are added, so it is asked for each time.
///
/// # Safety
/// `score` is of [`scoreboard_new`], `vcpu` is running.
#[inline(always)]
pub unsafe fn scoreboard_find(score: *mut Scoreboard, vcpu: c_uint) -> *mut c_void {
    type F = unsafe extern "C" fn(*mut Scoreboard, c_uint) -> *mut c_void;
    // SAFETY: this is its type since version 2; the rest by the caller.
    unsafe { std::mem::transmute::<*mut c_void, F>(SCOREBOARD_FIND.get())(score, vcpu) }
}

/// The instruction's bytes.
///
/// # Safety
/// `insn` is of the current translation; `version` is QEMU's current one.
pub unsafe fn insn_bytes(insn: *const Insn, version: c_int) -> ([u8; 16], usize) {
    let mut bytes = [0; 16];
    // SAFETY: by the caller.
    let len = unsafe { qemu_plugin_insn_size(insn) }.min(16);
    if version >= 3 {
        type F = unsafe extern "C" fn(*const Insn, *mut c_void, usize) -> usize;
        // SAFETY: this is its type since version 3.
        let f = unsafe { std::mem::transmute::<*mut c_void, F>(INSN_DATA.get()) };
        // SAFETY: the buffer holds len bytes.
        unsafe { f(insn, bytes.as_mut_ptr().cast(), len) };
    } else {
        type F = unsafe extern "C" fn(*const Insn) -> *const u8;
        // SAFETY: this is its type before version 3.
        let f = unsafe { std::mem::transmute::<*mut c_void, F>(INSN_DATA.get()) };
        // SAFETY: QEMU gives len readable bytes for the time of this call.
        unsafe { std::ptr::copy_nonoverlapping(f(insn), bytes.as_mut_ptr(), len) };
    }
    (bytes, len)
}
