//! The processor's own tables: segments, the task state with its stacks, and
//! the interrupt gates. (Intel SDM vol. 3A §3.4.5, §6.14, §7.7.)

use alloc::boxed::Box;
use core::arch::asm;

/// Ring 0's code segment.
pub const KERNEL_CODE: u16 = 0x08;
/// Ring 3's data segment, with its privilege level.
pub const USER_DATA: u16 = 0x18 | 3;
/// Ring 3's code segment, with its privilege level.
pub const USER_CODE: u16 = 0x20 | 3;
const TASK: u16 = 0x28;
/// The gate of this vector may be called from ring 3.
pub const CALL: u8 = 0x80;
/// The vector of a double fault, which gets a stack of its own: the other may be what is broken.
const DOUBLE_FAULT: usize = 8;

unsafe extern "C" {
    /// 256 entries of 16 bytes of code, see `traps.rs`.
    static trap_stubs: u8;
}

#[repr(C, packed(4))]
struct TaskState {
    reserved: u32,
    stacks: [u64; 3],
    reserved2: u64,
    interrupt_stacks: [u64; 7],
    reserved3: [u32; 3],
}

#[repr(C, align(16))]
struct Gate {
    low: u64,
    high: u64,
}

/// What LGDT and LIDT take.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

fn gate(vector: usize) -> Gate {
    let at = (&raw const trap_stubs) as u64 + 16 * vector as u64;
    let stack = u64::from(vector == DOUBLE_FAULT);
    let level = if vector == usize::from(CALL) { 3 } else { 0 };
    // A present 64-bit interrupt gate: interrupts are off in all handlers.
    let kind = 0x8e | level << 5;
    let low =
        at & 0xffff | u64::from(KERNEL_CODE) << 16 | stack << 32 | kind << 40 | (at >> 16 & 0xffff) << 48;
    Gate { low, high: at >> 32 }
}

/// Loads this CPU's tables. What comes from ring 3 is pushed below `user_stack`.
pub fn load(user_stack: u64) {
    let task = Box::leak(Box::new(TaskState {
        reserved: 0,
        stacks: [user_stack, 0, 0],
        reserved2: 0,
        interrupt_stacks: [0; 7],
        reserved3: [0, 0, 104],
    }));
    let fault_stack = Box::leak(Box::new([0u128; 1024]));
    task.interrupt_stacks[0] = fault_stack.as_ptr_range().end as u64;
    let base = (&raw const *task) as u64;
    let task_low = 103 | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    let segments: &[u64; 7] = Box::leak(Box::new([
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        task_low,
        base >> 32,
    ]));
    let gates: &[Gate; 256] = Box::leak(Box::new(core::array::from_fn(gate)));
    let gdt = Pointer { limit: size_of_val(segments) as u16 - 1, base: segments.as_ptr() as u64 };
    let idt = Pointer { limit: size_of_val(gates) as u16 - 1, base: gates.as_ptr() as u64 };
    // SAFETY: the tables live forever; the segments that are in use mean the same
    // in the new table; no interrupt is on.
    unsafe {
        asm!("lgdt [{}]", in(reg) &raw const gdt, options(nostack, readonly));
        asm!("lidt [{}]", in(reg) &raw const idt, options(nostack, readonly));
        asm!("ltr {0:x}", in(reg) TASK, options(nostack));
    }
}
