//! CPUs: starting them, giving them work, and interrupting them.
//!
//! Each CPU has a mailbox that holds one request: whoever holds the kernel's
//! lock writes it, kicks the CPU by an interrupt, and waits until it is
//! done. A CPU looks into its mailbox whenever it waits, and when it is kicked out
//! of ring 3, a guest, or a halt.

use crate::acpi::Topology;
use crate::boot::{TRAMPOLINE, next_argument, next_stack, trampoline_end, trampoline_start};
use crate::physical::at;
use crate::traps::{Context, TRAP_STACK};
use crate::{apic, cpu, guest, tables};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use paging::frames::CpuId;

/// CPUs at most.
pub const MAX_CPUS: usize = 16;
/// Pages that a request names at most; for more, everything is forgotten (Linux:
/// `tlb_single_page_flush_ceiling`, 33).
pub const MAX_PAGES: usize = 33;
/// Ticks of the clock after which what was waited for will not come: half a minute on a busy host.
const PATIENCE: u64 = 64 << 30;
/// A kernel stack, in words of 16 bytes.
const STACK: usize = 16384;

/// What one CPU asks another to do.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// Load the table at this address.
    LoadRoot(u64),
    /// Forget these pages.
    Pages(&'a [u64]),
    /// Forget everything.
    All,
}

const NOTHING: u32 = 0;
const LOAD: u32 = 1;
const PAGES: u32 = 2;
const ALL: u32 = 3;

type Job = Box<dyn FnOnce(CpuId) + Send>;

/// One CPU.
struct Cpu {
    /// Its number on the interrupt bus.
    apic: AtomicU32,
    online: AtomicBool,
    request: AtomicU32,
    root: AtomicU64,
    count: AtomicU32,
    pages: [AtomicU64; MAX_PAGES],
    /// Set from when `job` was written until it is done.
    busy: AtomicBool,
    job: UnsafeCell<Option<Job>>,
    context: UnsafeCell<Context>,
}

// SAFETY: `job` is written by who sets `busy` and taken by the CPU itself after it has seen
// `busy`; `context` is the CPU's own; the rest is atomic.
unsafe impl Sync for Cpu {}

#[expect(clippy::declare_interior_mutable_const, reason = "an initial value for an array of statics")]
const OFFLINE: Cpu = Cpu {
    apic: AtomicU32::new(0),
    online: AtomicBool::new(false),
    request: AtomicU32::new(NOTHING),
    root: AtomicU64::new(0),
    count: AtomicU32::new(0),
    pages: [const { AtomicU64::new(0) }; MAX_PAGES],
    busy: AtomicBool::new(false),
    job: UnsafeCell::new(None),
    context: UnsafeCell::new(ZERO_CONTEXT),
};
// SAFETY: all of it is numbers.
const ZERO_CONTEXT: Context = unsafe { core::mem::zeroed() };

static CPUS: [Cpu; MAX_CPUS] = [OFFLINE; MAX_CPUS];

/// Where this CPU's traps push what ring 3 had in registers.
pub fn context(cpu: CpuId) -> *mut Context {
    CPUS[cpu.index()].context.get()
}

/// Loads the tables of the CPU that runs this.
fn set_up(cpu: CpuId) {
    tables::load(context(cpu) as u64 + TRAP_STACK as u64);
}

/// The boot CPU sets itself up.
pub fn begin() {
    CPUS[0].apic.store(cpu::apic_id(), Ordering::Relaxed);
    CPUS[0].online.store(true, Ordering::Release);
    set_up(CpuId(0));
}

/// Starts the other CPUs of the machine. Returns how many there are with the boot
/// CPU, which is number 0; the others follow in the order of the firmware's tables.
pub fn start_others(topology: &Topology) -> usize {
    let (start, end) = (&raw const trampoline_start as u64, &raw const trampoline_end as u64);
    // SAFETY: the page below 1 MiB is nobody's, and the code's own addresses are physical.
    unsafe {
        at::<u8>(TRAMPOLINE).copy_from_nonoverlapping(at::<u8>(start), (end - start) as usize);
    }
    if guest::is_guest() {
        return start_virtual(topology.cpus.len());
    }
    let own = cpu::apic_id();
    let others = topology.cpus.iter().map(|&(apic, _)| apic).filter(|&apic| apic != own);
    let mut count = 1;
    for (apic, number) in others.zip(1..MAX_CPUS) {
        CPUS[number].apic.store(apic, Ordering::Relaxed);
        let stack: &[u128; STACK] = Box::leak(Box::new([0; STACK]));
        // SAFETY: one CPU starts at a time, and it reads them before it is online. (Their own
        // addresses are physical.)
        unsafe {
            at::<u64>(&raw const next_stack as u64).write_volatile(stack.as_ptr_range().end as u64);
            at::<u64>(&raw const next_argument as u64).write_volatile(number as u64);
        }
        apic::start(apic, TRAMPOLINE);
        until(CpuId(0), "a CPU that was started", || CPUS[number].online.load(Ordering::Acquire));
        count += 1;
    }
    count
}

/// The same for a guest, which asks its host.
fn start_virtual(cpus: usize) -> usize {
    for (number, it) in CPUS.iter().enumerate().take(cpus).skip(1) {
        let stack: &[u128; STACK] = Box::leak(Box::new([0; STACK]));
        // As a call would leave it: 8 above a multiple of 16.
        let top = stack.as_ptr_range().end as u64 - 8;
        guest::call(guest::Call::Start, number as u64, top);
        until(CpuId(0), "a CPU that was started", || it.online.load(Ordering::Acquire));
    }
    cpus.clamp(1, MAX_CPUS)
}

/// Interrupts a CPU, so that it looks around.
pub fn kick(cpu: CpuId) {
    if guest::is_guest() {
        guest::call(guest::Call::Kick, u64::from(cpu.0), 0);
    } else {
        apic::interrupt(CPUS[cpu.index()].apic.load(Ordering::Relaxed));
    }
}

/// What a CPU that was started does: it waits for work, forever.
#[unsafe(no_mangle)]
pub extern "C" fn metal_other(number: u64) -> ! {
    let cpu = CpuId(number as u16);
    set_up(cpu);
    if !guest::is_guest() {
        apic::enable();
    }
    CPUS[cpu.index()].apic.store(cpu::apic_id(), Ordering::Relaxed);
    CPUS[cpu.index()].online.store(true, Ordering::Release);
    loop {
        work(cpu);
        cpu::wait_for_interrupt();
    }
}

/// Does the work that was given to this CPU, if there is some.
fn work(cpu: CpuId) {
    serve(cpu);
    let own = &CPUS[cpu.index()];
    if own.busy.load(Ordering::Acquire) {
        // SAFETY: who set `busy` has written the job, and leaves it alone until it is done.
        let job = unsafe { (*own.job.get()).take() };
        if let Some(job) = job {
            job(cpu);
        }
        own.busy.store(false, Ordering::Release);
    }
}

/// Does what is in this CPU's mailbox.
pub fn serve(cpu: CpuId) {
    let own = &CPUS[cpu.index()];
    match own.request.load(Ordering::Acquire) {
        LOAD => load_root(own.root.load(Ordering::Relaxed)),
        PAGES => {
            let count = own.count.load(Ordering::Relaxed) as usize;
            own.pages[..count].iter().for_each(|page| cpu::invlpg(page.load(Ordering::Relaxed)));
        }
        ALL => load_root(cpu::cr3()),
        _ => return,
    }
    own.request.store(NOTHING, Ordering::Release);
}

fn load_root(root: u64) {
    // SAFETY: whoever sends a root has linked the kernel's half into it.
    unsafe { cpu::load_cr3(root) };
}

/// Has `target` do something, from `from`, which holds the kernel's lock; returns when it is done.
pub fn ask(from: CpuId, target: CpuId, request: Request<'_>) {
    let it = &CPUS[target.index()];
    let code = match request {
        Request::LoadRoot(root) => {
            it.root.store(root, Ordering::Relaxed);
            LOAD
        }
        Request::Pages(pages) => {
            assert!(pages.len() <= MAX_PAGES, "{} pages in one request: {MAX_PAGES} at most", pages.len());
            pages.iter().zip(&it.pages).for_each(|(&page, cell)| cell.store(page, Ordering::Relaxed));
            it.count.store(pages.len() as u32, Ordering::Relaxed);
            PAGES
        }
        Request::All => ALL,
    };
    it.request.store(code, Ordering::Release);
    if target == from {
        serve(from);
        return;
    }
    kick(target);
    until(from, "an answer to an interrupt", || it.request.load(Ordering::Acquire) == NOTHING);
}

/// Waits on `cpu` until `done`, answering what others ask meanwhile.
///
/// # Panics
/// If that takes seconds: then it will never be.
pub fn until(cpu: CpuId, what: &str, mut done: impl FnMut() -> bool) {
    let began = cpu::ticks();
    while !done() {
        serve(cpu);
        core::hint::spin_loop();
        assert!(cpu::ticks().wrapping_sub(began) < PATIENCE, "CPU {} waits for {what} in vain", cpu.0);
    }
}

/// Work on another CPU whose result is waited for.
#[derive(Debug)]
pub struct Task<T> {
    cpu: CpuId,
    result: Arc<Place<T>>,
}

#[derive(Debug)]
struct Place<T>(UnsafeCell<Option<T>>, AtomicBool);

// SAFETY: written once, before the flag is set, and read after that.
unsafe impl<T: Send> Sync for Place<T> {}

/// Gives `cpu`, which is not the one that runs this, something to do.
///
/// # Panics
/// If it has something to do.
pub fn spawn<T: Send + 'static>(cpu: CpuId, job: impl FnOnce(CpuId) -> T + Send + 'static) -> Task<T> {
    let it = &CPUS[cpu.index()];
    assert!(it.online.load(Ordering::Acquire), "CPU {} is not there", cpu.0);
    assert!(!it.busy.load(Ordering::Acquire), "CPU {} is busy", cpu.0);
    let result = Arc::new(Place(UnsafeCell::new(None), AtomicBool::new(false)));
    let theirs = Arc::clone(&result);
    let job: Job = Box::new(move |cpu| {
        let done = job(cpu);
        // SAFETY: nobody reads it before the flag is set.
        unsafe { *theirs.0.get() = Some(done) };
        theirs.1.store(true, Ordering::Release);
    });
    // SAFETY: the CPU takes a job only when `busy` is set, which it is not.
    unsafe { *it.job.get() = Some(job) };
    it.busy.store(true, Ordering::Release);
    kick(cpu);
    Task { cpu, result }
}

impl<T> Task<T> {
    /// Whether there is a result.
    pub fn is_done(&self) -> bool {
        self.result.1.load(Ordering::Acquire)
    }
    /// Waits on CPU `own` for the result.
    pub fn join(self, own: CpuId) -> T {
        until(own, "another CPU's work", || self.result.1.load(Ordering::Acquire));
        until(own, "another CPU", || !CPUS[self.cpu.index()].busy.load(Ordering::Acquire));
        // SAFETY: the flag is set, so it was written and nobody writes it again.
        unsafe { (*self.result.0.get()).take() }.expect("the result was written before the flag was set")
    }
}

/// The CPU that runs this.
pub fn here() -> CpuId {
    let apic = cpu::apic_id();
    let is_it = |it: &Cpu| it.online.load(Ordering::Acquire) && it.apic.load(Ordering::Relaxed) == apic;
    CpuId(CPUS.iter().position(is_it).expect("a CPU that runs this is online") as u16)
}
