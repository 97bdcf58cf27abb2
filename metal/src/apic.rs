//! The local interrupt controller: starts CPUs and interrupts them.
//! (Intel SDM vol. 3A chapter 11; its registers are memory.)

use crate::cpu::{out_byte, ticks};
use crate::physical::{DIRECT, at};
use core::sync::atomic::{AtomicBool, Ordering};

/// Where the registers are after a reset.
const BASE: u64 = 0xfee0_0000;
/// The register that ends an interrupt.
pub const END: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const COMMAND: u64 = 0x300;
const COMMAND_TARGET: u64 = 0x310;
/// Set while a command is on its way.
const BUSY: u32 = 1 << 12;
const INIT: u32 = 0x4500;
const STARTUP: u32 = 0x4600;

/// The vector that a CPU is sent so that it looks into its mailbox.
pub const KICK: u8 = 0x40;
/// The address that handlers end an interrupt at.
pub const END_ADDRESS: u64 = DIRECT + BASE + END;

/// Whether there is one: a guest of this kernel has none, its interrupts are injected.
pub static PRESENT: AtomicBool = AtomicBool::new(false);

fn write(register: u64, value: u32) {
    // SAFETY: the registers of this CPU's controller, which nothing else is mapped over.
    unsafe { at::<u32>(BASE + register).write_volatile(value) };
}

fn read(register: u64) -> u32 {
    // SAFETY: as for `write`.
    unsafe { at::<u32>(BASE + register).read_volatile() }
}

/// Masks the two legacy controllers, whose timer would interrupt with vectors of exceptions.
pub fn mask_legacy() {
    for port in [0x21, 0xa1] {
        // SAFETY: all lines off; nothing waits for one.
        unsafe { out_byte(port, 0xff) };
    }
}

/// Switches this CPU's controller on.
pub fn enable() {
    write(SPURIOUS, 0x1ff);
    PRESENT.store(true, Ordering::Release);
}

/// Ends the interrupt that is being handled.
pub fn end_of_interrupt() {
    if PRESENT.load(Ordering::Relaxed) {
        write(END, 0);
    }
}

fn command(target: u32, what: u32) {
    let began = ticks();
    while read(COMMAND) & BUSY != 0 {
        assert!(
            ticks() - began < 1 << 34,
            "the interrupt controller does not take a command for CPU {target}"
        );
        core::hint::spin_loop();
    }
    write(COMMAND_TARGET, target << 24);
    write(COMMAND, what);
}

/// Interrupts the CPU of this number on the bus.
pub fn interrupt(target: u32) {
    command(target, u32::from(KICK));
}

/// Starts the CPU of this number at a page below 1 MiB.
pub fn start(target: u32, page: u64) {
    command(target, INIT);
    let began = ticks();
    while ticks() - began < 1 << 20 {
        core::hint::spin_loop();
    }
    for _ in 0..2 {
        command(target, STARTUP | (page >> 12) as u32);
    }
}
