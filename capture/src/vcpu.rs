//! What happens at each access: the hot path.
//!
//! Every vCPU has its own state, reached by its index; QEMU calls for one vCPU
//! from that vCPU's thread only.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, Ordering};

use capture_ring::{LaneWriter, Record, Room, Shape};

use crate::ffi::{self, Counter, Scoreboard};
use crate::process;

/// Threads that a process may have at once, as QEMU numbers them.
pub const VCPUS: usize = 16 * 1024;

/// `machine::input::Kind::Read`.
const READ: u8 = 0;
/// `machine::input::Kind::Write`.
const WRITE: u8 = 1;
/// `machine::input::Kind::Fetch`.
const FETCH: u8 = 2;
/// `machine::input::Kind::Modify`.
const MODIFIED: u8 = 3;

/// State of one vCPU.
#[repr(align(128))]
pub struct Vcpu {
    /// Instructions begun: whole blocks are added when they start. (QEMU before version 2.)
    pub icount: u64,
    /// The count at the last access.
    last: u64,
    /// Where in the lane the next record goes: its head, at hand.
    at: u64,
    /// Up to where in the lane records may go without asking; 0 without a lane.
    limit: u64,
    /// Accesses, when only they are counted.
    counted: u64,
    /// Accesses that may still be passed over before the header is asked again, and whether recording
    /// begins after them.
    quota: (u64, bool),
    pub writer: Option<LaneWriter<'static>>,
    /// The repeated instruction that ended the last block with one, and the count then.
    repeat: (u64, u64),
    /// The system call that is under way.
    pub call: [u64; 6],
    /// The log reserved for the child of the fork that is under way.
    pub child: Option<u32>,
}

struct Table([UnsafeCell<Vcpu>; VCPUS]);
// SAFETY: an element is used by its vCPU's thread only, or while no other thread exists (after a fork).
unsafe impl Sync for Table {}

static TABLE: Table = Table([const { UnsafeCell::new(Vcpu::NEW) }; VCPUS]);

/// The counters of QEMU from version 2 on; null before.
static COUNTERS: AtomicPtr<Scoreboard> = AtomicPtr::new(std::ptr::null_mut());
/// More than one vCPU has been seen: QEMU's inline counters (version 1) are no longer exact.
static MANY: AtomicBool = AtomicBool::new(false);
static STARTED: AtomicU32 = AtomicU32::new(0);

impl Vcpu {
    const NEW: Vcpu = Vcpu {
        icount: 0,
        last: 0,
        at: 0,
        limit: 0,
        counted: 0,
        quota: (0, false),
        writer: None,
        repeat: (0, 0),
        call: [0; 6],
        child: None,
    };

    /// Forgets the lane: the vCPU's next access takes a new one, and counts its instructions from here.
    fn detach(&mut self, count: u64) {
        *self = Vcpu { icount: self.icount, last: count, call: self.call, child: self.child, ..Vcpu::NEW };
    }

    /// Records an access, if there is room and it is not long since the last one.
    #[inline(always)]
    fn try_record(&mut self, va: u64, shape: Shape, insn: u64) -> bool {
        let insns = insn.wrapping_sub(self.last);
        if insns > Record::INSNS {
            std::hint::cold_path();
            return false;
        }
        let at = self.at;
        if at >= self.limit {
            std::hint::cold_path();
            return false;
        }
        // SAFETY: a limit above 0 is one that the writer gave. By reference: what is copied is loaded before it is needed.
        let writer = unsafe { self.writer.as_ref().unwrap_unchecked() };
        self.last = insn;
        self.at = at + 1;
        writer.put(at, Record::new(va, shape, insns));
        true
    }

    /// Records an access, or waits, or passes it over.
    #[cold]
    #[inline(never)]
    fn record_slowly(&mut self, va: u64, shape: Shape, insn: u64) {
        if self.writer.is_none() {
            self.writer = process::start_thread();
        }
        let Some(writer) = self.writer else { return };
        let (lane, mut at) = (writer.lane(), writer.at());
        // Two records: the access, and the gap before it.
        let room = if at + 2 <= self.limit { Room::UpTo(self.limit) } else { writer.room(at) };
        match room {
            Room::UpTo(limit) => {
                self.limit = limit;
                let mut insns = insn.wrapping_sub(self.last);
                if insns > Record::INSNS {
                    // As an access of a trace has it.
                    writer.put(at, Record::gap(insns.min(u16::MAX.into()) as u16));
                    (at, insns) = (at + 1, 0);
                }
                writer.put(at, Record::new(va, shape, insns));
                self.at = at + 1;
            }
            Room::NotYet => {
                if self.quota.0 == 0 {
                    self.quota = process::skip_quota();
                }
                self.quota.0 -= 1;
                add_one(&lane.skipped);
                if self.quota == (0, true) {
                    process::begin();
                }
            }
            Room::Over => add_one(&lane.dropped),
        }
        self.last = insn;
    }
}

/// Adds 1 to a counter that only this thread writes.
fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// The state of a vCPU.
///
/// # Safety
/// Only from the vCPU's own thread, and not while another reference to it is held.
#[inline(always)]
#[allow(clippy::mut_from_ref)]
pub unsafe fn vcpu(index: c_uint) -> &'static mut Vcpu {
    // SAFETY: by the caller; see Table.
    unsafe { &mut *TABLE.0[index as usize % VCPUS].get() }
}

/// After a fork, in the child: no vCPU has a lane.
pub fn detach_all() {
    for index in 0..STARTED.load(Ordering::Relaxed).min(VCPUS as c_uint) {
        // SAFETY: the child of a fork has one thread, which is in a system-call callback.
        let vcpu = unsafe { vcpu(index) };
        let count = *instructions(index, vcpu);
        vcpu.detach(count);
    }
}

/// Whether QEMU has per-vCPU counters.
pub fn has_scoreboard() -> bool {
    !COUNTERS.load(Ordering::Relaxed).is_null()
}

/// QEMU has per-vCPU counters: use them.
pub fn use_scoreboard() {
    COUNTERS.store(ffi::scoreboard_new(8), Ordering::Relaxed);
}

/// A vCPU is made, by the thread that makes it.
pub extern "C" fn started(_: ffi::Id, index: c_uint) {
    if STARTED.fetch_max(index + 1, Ordering::Relaxed) != 0 || index != 0 {
        MANY.store(true, Ordering::Relaxed);
    }
    if index as usize >= VCPUS {
        process::fail(&format!("a process has more than {VCPUS} threads at once"));
    }
}

/// A thread ends.
pub extern "C" fn ended(_: ffi::Id, index: c_uint) {
    // SAFETY: QEMU calls this from the ending thread, which runs no guest code any more.
    let vcpu = unsafe { vcpu(index) };
    if let Some(writer) = vcpu.writer {
        process::end_thread(&writer);
    }
    let count = *instructions(index, vcpu);
    vcpu.detach(count);
}

#[inline(always)]
fn instructions(index: c_uint, vcpu: &mut Vcpu) -> &mut u64 {
    let score = COUNTERS.load(Ordering::Relaxed);
    if score.is_null() {
        &mut vcpu.icount
    } else {
        // SAFETY: the element is 8 bytes, aligned, and of the running vCPU; it is used before QEMU could move it.
        unsafe { &mut *ffi::scoreboard_find(score, index).cast::<u64>() }
    }
}

/// Before version 2: a load or store by an instruction. The user data: how many instructions of the block come
/// after it.
pub extern "C" fn on_access(index: c_uint, info: u32, va: u64, user: *mut c_void) {
    access::<false, false>(index, info, va, user);
}

/// Before version 2: half of a modify.
pub extern "C" fn on_modify(index: c_uint, info: u32, va: u64, user: *mut c_void) {
    access::<false, true>(index, info, va, user);
}

/// From version 2 on: a load or store.
pub extern "C" fn on_access_per_vcpu(index: c_uint, info: u32, va: u64, user: *mut c_void) {
    access::<true, false>(index, info, va, user);
}

/// From version 2 on: half of a modify.
pub extern "C" fn on_modify_per_vcpu(index: c_uint, info: u32, va: u64, user: *mut c_void) {
    access::<true, true>(index, info, va, user);
}

/// The path of an access: no call and few stores, because it competes with the program's own cache misses for
/// the processor's buffers. Whatever is not ordinary starts again in [`access_slowly`], with the same arguments.
#[inline(always)]
fn access<const PER_VCPU: bool, const MODIFY: bool>(index: c_uint, info: u32, va: u64, user: *mut c_void) {
    if index != 0 {
        return access_of_another::<PER_VCPU, MODIFY>(index, info, va, user);
    }
    // Its address is a constant.
    access_of::<PER_VCPU, MODIFY>(0, info, va, user);
}

/// The same, of a thread that is not the program's first.
#[inline(never)]
extern "C" fn access_of_another<const PER_VCPU: bool, const MODIFY: bool>(
    index: c_uint,
    info: u32,
    va: u64,
    user: *mut c_void,
) {
    access_of::<PER_VCPU, MODIFY>(index, info, va, user);
}

#[inline(always)]
fn access_of<const PER_VCPU: bool, const MODIFY: bool>(index: c_uint, info: u32, va: u64, user: *mut c_void) {
    // SAFETY: QEMU calls from the vCPU's thread; no other reference is alive.
    let vcpu = unsafe { vcpu(index) };
    let at = memo(info);
    if MEMO.infos[at].load(Ordering::Acquire) != info {
        return access_slowly::<MODIFY>(index, info, va, user);
    }
    let known = Shape::from_bits(MEMO.shapes[at].load(Ordering::Relaxed));
    let Some(shape) = shape::<MODIFY>(known) else { return load_half() };
    let count = if PER_VCPU { *instructions(index, vcpu) } else { vcpu.icount };
    if !vcpu.try_record(va, shape, count.wrapping_sub(user as u64)) {
        access_slowly::<MODIFY>(index, info, va, user);
    }
}

/// With C's way of calling: it does not unwind, so that the callbacks can end by jumping here.
#[cold]
#[inline(never)]
extern "C" fn access_slowly<const MODIFY: bool>(index: c_uint, info: u32, va: u64, user: *mut c_void) {
    // SAFETY: as in access, whose reference is not used any more.
    let vcpu = unsafe { vcpu(index) };
    let Some(shape) = shape::<MODIFY>(describe(info)) else { return load_half() };
    let insn = instructions(index, vcpu).wrapping_sub(user as u64);
    vcpu.record_slowly(va, shape, insn);
}

/// Of an access that is known to be such a read or write. `None` for the load of a modify, whose store is taken for
/// both.
#[inline(always)]
fn shape<const MODIFY: bool>(known: Shape) -> Option<Shape> {
    let kind = if MODIFY { MODIFIED } else { READ };
    let is_load = known.bits() & Shape::new(WRITE, 0).bits() == 0;
    (!MODIFY || !is_load).then_some(Shape::from_bits(known.bits() | Shape::new(kind, 0).bits()))
}

/// Stores were asked for and a load came: QEMU 7.2 compares the two off by one where it translates accesses (not
/// where helpers make them), and calls for stores alone if loads are asked for.
static OFF_BY_ONE: AtomicBool = AtomicBool::new(false);

#[cold]
fn load_half() {
    OFF_BY_ONE.store(true, Ordering::Relaxed);
}

/// What to ask QEMU for, to be called for the stores of an instruction that loads, too.
pub fn stores() -> c_int {
    if OFF_BY_ONE.load(Ordering::Relaxed) { ffi::MEM_R } else { ffi::MEM_W }
}

/// For measuring: counts, and nothing else.
pub extern "C" fn on_access_count(index: c_uint, _: u32, _: u64, _: *mut c_void) {
    // SAFETY: as in on_access.
    let vcpu = unsafe { vcpu(index) };
    vcpu.counted += 1;
}

/// For measuring: what [`on_access_count`] counted.
pub fn counted() -> u64 {
    let started = (STARTED.load(Ordering::Relaxed) as usize).min(VCPUS);
    // SAFETY: called when the process exits; a count that is just being stored may be one behind.
    TABLE.0[..started].iter().map(|cell| unsafe { (*cell.get()).counted }).sum()
}

/// What is known of the few values of `info` that occur: QEMU's encoding differs between releases, so it is asked. Each
/// has a place of its own for ever; one whose place is another's is asked about each time.
struct Memo {
    infos: [AtomicU32; 1 << MEMO_BITS],
    /// As reads or writes.
    shapes: [AtomicU16; 1 << MEMO_BITS],
}

const MEMO_BITS: u32 = 10;
/// No `info`: their upper bits are 0.
const NOBODYS: u32 = u32::MAX;
const BEING_MADE: u32 = NOBODYS - 1;

static MEMO: Memo = Memo {
    infos: [const { AtomicU32::new(NOBODYS) }; 1 << MEMO_BITS],
    shapes: [const { AtomicU16::new(0) }; 1 << MEMO_BITS],
};

#[inline(always)]
fn memo(info: u32) -> usize {
    // The upper half of 2^32 divided by the golden ratio: values that differ in a few bits fall apart.
    (info.wrapping_mul(0x9e37_79b9) >> (32 - MEMO_BITS)) as usize
}

fn describe(info: u32) -> Shape {
    // SAFETY: plain questions about a value that QEMU has just given.
    let (store, size_log2) =
        unsafe { (ffi::qemu_plugin_mem_is_store(info), ffi::qemu_plugin_mem_size_shift(info) as u8) };
    let known = Shape::new(if store { WRITE } else { READ }, size_log2);
    let place = &MEMO.infos[memo(info)];
    // The shape before the value that stands for it.
    if place.compare_exchange(NOBODYS, BEING_MADE, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        MEMO.shapes[memo(info)].store(known.bits(), Ordering::Relaxed);
        place.store(info, Ordering::Release);
    }
    known
}

/// A block that needs more than its instructions counted.
#[derive(Debug)]
pub struct Special {
    /// Its instructions.
    pub insns: u64,
    /// Its first address, its bytes, and log2 of the granule of which each is fetched once; if fetches are wanted.
    pub fetch: Option<(u64, u64, u8)>,
    /// Address of a repeated string instruction that it begins with.
    pub begins: Option<u64>,
    /// Address of a repeated string instruction that it ends with.
    pub ends: Option<u64>,
}

/// A plain block begins (more than one vCPU). The user data: its instructions.
pub extern "C" fn on_block(index: c_uint, user: *mut c_void) {
    // SAFETY: as in on_access.
    let vcpu = unsafe { vcpu(index) };
    *instructions(index, vcpu) += user as u64;
}

/// A special block begins. The user data: a leaked [`Special`].
pub extern "C" fn on_special_block(index: c_uint, user: *mut c_void) {
    // SAFETY: translate::on_translate leaks a Special for each such block.
    let block = unsafe { &*user.cast::<Special>() };
    // SAFETY: as in on_access.
    let vcpu = unsafe { vcpu(index) };
    let before = *instructions(index, vcpu);
    // The next iteration of the instruction that is under way is not another instruction.
    let again = block.begins.is_some_and(|pc| vcpu.repeat == (pc, before));
    let count = before + block.insns - again as u64;
    *instructions(index, vcpu) = count;
    if let Some(pc) = block.ends {
        vcpu.repeat = (pc, count);
    }
    if let Some((va, len, granule)) = block.fetch.filter(|_| !again) {
        let first = count.wrapping_sub(block.insns - 1);
        let mut at = va;
        while at < va + len {
            let shape = Shape::new(FETCH, granule.min(6));
            if !vcpu.try_record(at, shape, first) {
                vcpu.record_slowly(at, shape, first);
            }
            at = ((at >> granule) + 1) << granule;
        }
    }
}

/// Whether blocks may be counted inline.
pub enum Counting {
    /// By QEMU, in each vCPU's own counter.
    PerVcpu(Counter),
    /// By QEMU, in the only vCPU's counter.
    Only(*mut u64),
    /// By a callback.
    Callback,
}

/// How to count the instructions of the block that is being translated.
pub fn counting() -> Counting {
    let score = COUNTERS.load(Ordering::Relaxed);
    if !score.is_null() {
        Counting::PerVcpu(Counter { score, offset: 0 })
    } else if MANY.load(Ordering::Relaxed) {
        Counting::Callback
    } else {
        // SAFETY: only the address is taken.
        Counting::Only(unsafe { &raw mut (*TABLE.0[0].get()).icount })
    }
}
