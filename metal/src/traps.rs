//! Into ring 3 and back.
//!
//! A program in ring 3 runs until something happens; then [`enter`] returns. So
//! the kernel never runs on top of itself: what interrupts it is either the wake-up of a
//! CPU that waits, or a bug, which is reported and ends the machine.

use crate::apic::END_ADDRESS;
use crate::say;
use crate::serial::exit;
use crate::tables::{USER_CODE, USER_DATA};
use core::arch::global_asm;
use paging::Intent;

/// IF: a program can be interrupted.
const INTERRUPTS: u64 = 1 << 9;

/// Everything that a program in ring 3 has in registers. Traps push into it.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// `rax`.
    pub rax: u64,
    /// `rbx`.
    pub rbx: u64,
    /// `rcx`.
    pub rcx: u64,
    /// `rdx`.
    pub rdx: u64,
    /// `rsi`.
    pub rsi: u64,
    /// `rdi`.
    pub rdi: u64,
    /// `rbp`.
    pub rbp: u64,
    /// `r8` to `r15`.
    pub r8_to_r15: [u64; 8],
    /// What happened: the vector.
    pub vector: u64,
    /// Its error code.
    pub error: u64,
    /// The next instruction.
    pub rip: u64,
    code: u64,
    flags: u64,
    /// The program's stack.
    pub rsp: u64,
    stack: u64,
    kernel_stack: u64,
}

/// Where a trap from ring 3 begins to push.
pub const TRAP_STACK: usize = core::mem::offset_of!(Context, kernel_stack);

/// What the access that faulted with this error code wants.
pub fn intent_of(error: u64) -> Intent {
    Intent { write: error & 2 != 0, fetch: error & 16 != 0 }
}

impl Context {
    /// A program that begins at `rip`.
    pub fn new(rip: u64) -> Context {
        Context {
            rip,
            code: u64::from(USER_CODE),
            stack: u64::from(USER_DATA),
            flags: INTERRUPTS | 2,
            ..Context::default()
        }
    }
}

unsafe extern "C" {
    fn enter_user(context: *mut Context);
}

/// Runs the program in `context` until it traps.
///
/// # Safety
/// `context` must be the one that this CPU's task state pushes into, and the loaded table must map the kernel.
pub unsafe fn enter(context: *mut Context) {
    // SAFETY: the caller's promise.
    unsafe { enter_user(context) };
}

/// What is on the stack when the kernel itself traps.
#[repr(C)]
#[derive(Debug)]
struct KernelTrap {
    vector: u64,
    error: u64,
    rip: u64,
    code: u64,
    flags: u64,
    rsp: u64,
}

/// A bug of the kernel: it says what and where, and ends.
#[unsafe(no_mangle)]
extern "C" fn kernel_trap(trap: &KernelTrap) -> ! {
    let name = match trap.vector {
        0 => "division by zero",
        6 => "invalid instruction",
        8 => "double fault (the stack is used up, or the tables are broken)",
        13 => "general protection fault",
        14 => "page fault",
        _ => "unexpected exception",
    };
    let KernelTrap { vector, error, rip, rsp, .. } = trap;
    let cr2 = crate::cpu::cr2();
    let cr3 = crate::cpu::cr3();
    say!(
        "FAILED: {name} in the kernel: vector {vector}, error {error:#x}, at {rip:#x}, stack {rsp:#x}, \
         address {cr2:#x}, table {cr3:#x}, CPU {}",
        crate::cpu::apic_id()
    );
    exit(false)
}

global_asm!(
    r#"
    .pushsection .text.traps, "ax"
    .global trap_stubs, enter_user
    .align 16
trap_stubs:
    .set vector, 0
    .rept 256
    .align 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    pushq $0
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

trap_common:
    testb $3, 24(%rsp)
    jz 1f
    # From ring 3: the stack is the context.
    pushq %r15
    pushq %r14
    pushq %r13
    pushq %r12
    pushq %r11
    pushq %r10
    pushq %r9
    pushq %r8
    pushq %rbp
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %rbx
    pushq %rax
    cld
    movq 176(%rsp), %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
1:  cmpq $32, (%rsp)
    jb 2f
    # A wake-up: `wait_for_interrupt` is all that can be interrupted.
    pushq %rax
    cmpb $0, {present}(%rip)
    je 3f
    movabsq ${end}, %rax
    movl $0, (%rax)
3:  popq %rax
    addq $16, %rsp
    iretq
2:  movq %rsp, %rdi
    andq $-16, %rsp
    cld
    call kernel_trap

enter_user:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, 176(%rdi)
    movq %rdi, %rsp
    popq %rax
    popq %rbx
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    popq %rbp
    popq %r8
    popq %r9
    popq %r10
    popq %r11
    popq %r12
    popq %r13
    popq %r14
    popq %r15
    addq $16, %rsp
    iretq
    .popsection
    "#,
    present = sym crate::apic::PRESENT,
    end = const END_ADDRESS as i64,
    options(att_syntax)
);

const _: () = assert!(TRAP_STACK == 176, "the code above knows the context's layout");
