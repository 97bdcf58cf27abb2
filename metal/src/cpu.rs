//! Single instructions that Rust has no words for.

use core::arch::asm;
use core::arch::x86_64::__cpuid;

/// Loads CR3: the walker uses the table at physical address `root` from now on, and
/// what the TLB holds of others goes (no page of ours is global, and no PCID is used).
///
/// # Safety
/// The table must map the running code and its stack as they are now.
pub unsafe fn load_cr3(root: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack)) };
}

/// The physical address in CR3.
pub fn cr3() -> u64 {
    let value: u64;
    // SAFETY: reading CR3 has no effect.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack)) };
    value
}

/// The address of the last page fault.
pub fn cr2() -> u64 {
    let value: u64;
    // SAFETY: reading CR2 has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack)) };
    value
}

/// Drops what this CPU's TLB and walk caches hold for the page of `va`.
pub fn invlpg(va: u64) {
    // SAFETY: forgetting a translation makes the next access walk.
    unsafe { asm!("invlpg [{}]", in(reg) va, options(nostack)) };
}

/// Writes to a port.
///
/// # Safety
/// The device there must do nothing to memory that the program does not expect.
pub unsafe fn out_byte(port: u16, value: u8) {
    // SAFETY: the caller's promise.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// Time in ticks of the CPU's clock; only to give up on something that never comes.
pub fn ticks() -> u64 {
    // SAFETY: the counter is readable in ring 0.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Waits for an interrupt with interrupts on, and leaves them off again.
pub fn wait_for_interrupt() {
    // SAFETY: all vectors have handlers that return; `sti` takes effect after
    // `hlt` has begun, so that no interrupt is lost between them.
    unsafe { asm!("sti", "hlt", "cli", options(nomem, nostack)) };
}

/// Halts for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: halting with interrupts off stops this CPU.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// This CPU's number on the interrupt bus.
pub fn apic_id() -> u32 {
    __cpuid(1).ebx >> 24
}
