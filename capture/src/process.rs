//! This process's part of the shared memory: its log, its lanes, and the lock
//! that orders its messages.

use std::cell::UnsafeCell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use capture_ring::{LaneWriter, LogWriter, Message, Note, Shared};

use crate::vcpu;

static SHARED: OnceLock<Shared> = OnceLock::new();
static LOG: AtomicU32 = AtomicU32::new(0);

/// Guards the log and the list of lanes. A plain flag, because the child of a
/// fork must be able to open it, whoever held it in the parent.
static LOCKED: AtomicBool = AtomicBool::new(false);

struct Lanes(UnsafeCell<Vec<u32>>);
// SAFETY: only the holder of LOCKED touches it.
unsafe impl Sync for Lanes {}
static LANES: Lanes = Lanes(UnsafeCell::new(Vec::new()));

/// Attaches to the consumer's memory.
pub fn attach(path: &str, log: u32) -> Result<(), String> {
    let shared = Shared::open(path).map_err(|e| format!("{path}: {e}"))?;
    shared.log(log as usize).pid.store(std::process::id(), Ordering::Release);
    LOG.store(log, Ordering::Relaxed);
    SHARED.set(shared).map_err(|_| "loaded twice".to_owned())
}

/// The shared memory; `None` when only counting.
pub fn shared() -> Option<&'static Shared> {
    SHARED.get()
}

/// Which log is this process's.
pub fn log_index() -> u32 {
    LOG.load(Ordering::Relaxed)
}

/// Holds the process's log: what others want to say comes after.
pub struct Held(());

/// Waits for the log.
pub fn hold() -> Held {
    while LOCKED.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
        std::thread::yield_now();
    }
    Held(())
}

impl Held {
    /// Keeps holding it beyond this scope, until [`Held::again`].
    pub fn keep(self) {
        std::mem::forget(self);
    }
    /// Takes up what [`Held::keep`] kept, on the same thread.
    pub fn again() -> Held {
        Held(())
    }
    #[allow(clippy::mut_from_ref)]
    fn lanes(&self) -> &mut Vec<u32> {
        // SAFETY: LOCKED is held; each use is one expression.
        unsafe { &mut *LANES.0.get() }
    }
    /// Says what happened, with how far every lane is.
    pub fn say(&self, note: Note) {
        let Some(shared) = shared() else { return };
        let cuts = self
            .lanes()
            .iter()
            .map(|&lane| (lane, shared.lane(lane as usize).head.load(Ordering::Acquire)))
            .collect();
        LogWriter::new(shared, log_index() as usize).append(&Message { note, cuts });
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        LOCKED.store(false, Ordering::Release);
    }
}

/// Says what happened.
pub fn say(note: Note) {
    hold().say(note);
}

/// Waits for something that the consumer gives back when it has read it.
fn claim(what: &str, mut f: impl FnMut() -> Option<usize>) -> Option<usize> {
    for _ in 0..5_000 {
        if let Some(index) = f() {
            return Some(index);
        }
        if stopped() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    fail(&format!("no free {what} after 5 s of waiting"));
    None
}

/// A thread's first access: it gets a lane.
pub fn start_thread() -> Option<LaneWriter<'static>> {
    let shared = shared()?;
    if stopped() {
        return None;
    }
    let lane = claim(&format!("lane for a thread ({} may run at once)", capture_ring::LANES), || {
        shared.claim_lane()
    })?;
    let held = hold();
    held.say(Note::ThreadStart { lane: lane as u32 });
    held.lanes().push(lane as u32);
    Some(LaneWriter::new(shared, lane))
}

/// A thread is gone.
pub fn end_thread(writer: &LaneWriter) {
    let lane = writer.index();
    let held = hold();
    held.say(Note::ThreadEnd { lane });
    held.lanes().retain(|&l| l != lane);
}

/// A log for a child that is about to be forked.
pub fn claim_child() -> Option<u32> {
    let shared = shared()?;
    let log = claim(&format!("log for a process ({} may run at once)", capture_ring::PROCESSES), || {
        shared.claim_log()
    })?;
    Some(log as u32)
}

/// In the child of a fork: from now on this process is `log`'s.
pub fn become_child(log: u32) {
    LOG.store(log, Ordering::Relaxed);
    // The thread that held it, if any, does not exist here.
    LOCKED.store(false, Ordering::Relaxed);
    hold().lanes().clear();
    vcpu::detach_all();
    set_pid(log, std::process::id());
}

/// Tells the consumer whose log it is; parent and child both do, whoever comes first.
pub fn set_pid(log: u32, pid: u32) {
    if let Some(shared) = shared() {
        let _ = shared.log(log as usize).pid.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// How many accesses a thread may pass over before it asks again, and whether
/// recording begins after them.
pub fn skip_quota() -> (u64, bool) {
    const CHUNK: i64 = 4096;
    let Some(shared) = shared() else { return (1, false) };
    let skip = &shared.header().skip;
    let left = skip.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        (left > 0).then(|| left - left.min(CHUNK))
    });
    match left {
        Ok(left) => (left.min(CHUNK) as u64, left <= CHUNK),
        // Something else begins it, or another thread is passing over the last ones.
        Err(_) => (CHUNK as u64, false),
    }
}

/// Recording begins now.
pub fn begin() {
    if let Some(shared) = shared() {
        shared.header().active.store(1, Ordering::Release);
    }
}

/// Whether recording is over.
pub fn stopped() -> bool {
    shared().is_none_or(|s| s.header().stop.load(Ordering::Relaxed) != 0)
}

/// Tells the consumer what could not be done, and ends recording; the program goes on.
pub fn fail(what: &str) {
    if let Some(shared) = shared() {
        shared.set_error(what);
        shared.header().stop.store(1, Ordering::Release);
    }
}
