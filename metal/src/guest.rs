//! What this kernel does otherwise when it is a guest of itself: it asks its host.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// A call to the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Call {
    /// The scenario has passed.
    Done = 1,
    /// Interrupt CPU `a`.
    Kick = 2,
    /// Start CPU `a` on the stack at `b`.
    Start = 3,
    /// The scenario's own: something to look at, or to do.
    Tell = 4,
}

impl Call {
    /// From its number.
    pub fn of(number: u64) -> Option<Call> {
        [Call::Done, Call::Kick, Call::Start, Call::Tell].into_iter().find(|call| *call as u64 == number)
    }
}

static GUEST: AtomicBool = AtomicBool::new(false);

/// From now on this is a guest.
pub fn begin() {
    GUEST.store(true, Ordering::Release);
}

/// Whether it is.
pub fn is_guest() -> bool {
    GUEST.load(Ordering::Acquire)
}

/// How it calls itself on the serial line.
pub fn name() -> &'static str {
    if is_guest() { "guest" } else { "metal" }
}

/// Calls the host. Returns its answer.
pub fn call(call: Call, a: u64, b: u64) -> u64 {
    let answer;
    // SAFETY: the host changes RAX, and memory only as the call says.
    unsafe {
        asm!("vmmcall", inout("rax") call as u64 => answer, in("rdi") a, in("rsi") b, options(nostack))
    };
    answer
}
