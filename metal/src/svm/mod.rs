//! AMD's virtual machines: entering a guest and coming back. (APM vol. 2, chapter 15.)

pub mod vmcb;

use crate::cpu;
use crate::physical;
use crate::traps::Context;
use core::arch::x86_64::__cpuid;
use core::arch::{asm, global_asm};
use paging::Hfn;
use vmcb::{Start, Vmcb};

const EFER: u32 = 0xc000_0080;
const EFER_SVME: u64 = 1 << 12;
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// Registers of a guest that are not in its control block, and where the host's are kept.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    vector: [u8; 512],
    /// `rbx`, `rcx`, `rdx`.
    pub rbx_rcx_rdx: [u64; 3],
    /// `rsi`.
    pub rsi: u64,
    /// `rdi`.
    pub rdi: u64,
    /// `rbp`.
    pub rbp: u64,
    /// `r8` to `r15`.
    pub r8_to_r15: [u64; 8],
    guest: u64,
    host: u64,
}

unsafe extern "C" {
    fn enter_guest(registers: *mut Registers);
}

// VMRUN and #VMEXIT switch what the control block's state area names; VMLOAD and
// VMSAVE the rest of the segment state, the task register among it; other registers are software's.
// Real interrupts are held off by GIF; IF = 1 lets them end the guest.
global_asm!(
    r#"
    .pushsection .text.svm, "ax"
    .global enter_guest
enter_guest:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rdi
    clgi
    movq 632(%rdi), %rax
    vmsave
    movq 624(%rdi), %rax
    vmload
    fxrstor64 (%rdi)
    movq 512(%rdi), %rbx
    movq 520(%rdi), %rcx
    movq 528(%rdi), %rdx
    movq 536(%rdi), %rsi
    movq 552(%rdi), %rbp
    movq 560(%rdi), %r8
    movq 568(%rdi), %r9
    movq 576(%rdi), %r10
    movq 584(%rdi), %r11
    movq 592(%rdi), %r12
    movq 600(%rdi), %r13
    movq 608(%rdi), %r14
    movq 616(%rdi), %r15
    movq 544(%rdi), %rdi
    sti
    vmrun
    cli
    pushq %rdi
    movq 8(%rsp), %rdi
    popq 544(%rdi)
    movq %rbx, 512(%rdi)
    movq %rcx, 520(%rdi)
    movq %rdx, 528(%rdi)
    movq %rsi, 536(%rdi)
    movq %rbp, 552(%rdi)
    movq %r8, 560(%rdi)
    movq %r9, 568(%rdi)
    movq %r10, 576(%rdi)
    movq %r11, 584(%rdi)
    movq %r12, 592(%rdi)
    movq %r13, 600(%rdi)
    movq %r14, 608(%rdi)
    movq %r15, 616(%rdi)
    fxsave64 (%rdi)
    vmsave
    movq 632(%rdi), %rax
    vmload
    stgi
    popq %rdi
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
    .popsection
    "#,
    options(att_syntax)
);

const _: () = assert!(core::mem::offset_of!(Registers, host) == 632, "the code above knows the layout");

/// Switches SVM on for the CPU that runs this, whose state is kept in the frame `save`
/// while it runs a guest.
///
/// # Panics
/// If the CPU has no SVM, or no nested paging.
pub fn enable(save: Hfn) {
    let has = __cpuid(0x8000_0001).ecx >> 2 & 1 == 1 && __cpuid(0x8000_000a).edx & 1 == 1;
    assert!(has, "CPU {} has no SVM with nested paging", cpu::apic_id());
    let address = save.base().raw();
    // SAFETY: the CPU has these registers; the frame is ours and nobody else's.
    unsafe {
        let (low, high): (u32, u32);
        asm!("rdmsr", in("ecx") EFER, out("eax") low, out("edx") high, options(nomem, nostack));
        let efer = u64::from(high) << 32 | u64::from(low) | EFER_SVME;
        write_msr(EFER, efer);
        write_msr(VM_HSAVE_PA, address);
    }
}

/// The frame that [`enable`] was given on the CPU that runs this: it runs no guest any more.
pub fn disable() -> Hfn {
    // SAFETY: SVM is on, so the register is there, and the frame in it is not used while no guest runs.
    unsafe {
        let (low, high): (u32, u32);
        asm!("rdmsr", in("ecx") VM_HSAVE_PA, out("eax") low, out("edx") high, options(nomem, nostack));
        write_msr(VM_HSAVE_PA, 0);
        Hfn::new((u64::from(high) << 32 | u64::from(low)) >> 12)
    }
}

/// # Safety
/// This CPU must have the register, and what it changes must be as the rest of the program expects.
unsafe fn write_msr(msr: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
    }
}

/// A virtual CPU.
#[derive(Debug)]
pub struct Vcpu {
    /// Its control block.
    pub vmcb: Vmcb,
    /// Its other registers.
    pub registers: Registers,
}

impl Vcpu {
    /// A virtual CPU whose block, and the host's, are in these frames; `argument` is in its `rdi`.
    pub fn new(block: Hfn, host: Hfn, start: &Start, argument: u64) -> Vcpu {
        physical::zero(block, 1);
        let vmcb = Vmcb::new(block.base().raw(), start);
        let mut registers = Registers {
            vector: [0; 512],
            rbx_rcx_rdx: [0; 3],
            rsi: 0,
            rdi: argument,
            rbp: 0,
            r8_to_r15: [0; 8],
            guest: block.base().raw(),
            host: host.base().raw(),
        };
        // The control words of a CPU that was reset: FCW 0x37f, MXCSR 0x1f80.
        registers.vector[..2].copy_from_slice(&0x37fu16.to_le_bytes());
        registers.vector[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        Vcpu { vmcb, registers }
    }

    /// The frames of its block, and of the host's.
    pub fn frames(&self) -> [Hfn; 2] {
        [self.registers.guest, self.registers.host].map(|address| Hfn::new(address >> 12))
    }

    /// Begins a program in ring 3.
    pub fn begin(&mut self, program: &Context) {
        let it = &mut self.registers;
        self.vmcb.set_rax(program.rax);
        self.vmcb.set_rip(program.rip);
        it.rbx_rcx_rdx = [program.rbx, program.rcx, program.rdx];
        (it.rsi, it.rdi, it.rbp) = (program.rsi, program.rdi, program.rbp);
        it.r8_to_r15 = program.r8_to_r15;
    }

    /// Runs the guest until it leaves, and lets an interrupt that ended it be taken. Returns why it left.
    pub fn run(&mut self) -> u64 {
        self.vmcb.flush();
        // SAFETY: SVM is on; the block is sound (VMRUN itself checks it), and everything
        // that the guest reaches is what its tables and the nested table allow.
        unsafe { enter_guest(&raw mut self.registers) };
        let code = self.vmcb.exit_code();
        if code == vmcb::exit::INTERRUPT {
            // SAFETY: all vectors have handlers that return.
            unsafe { asm!("sti", "nop", "cli", options(nomem, nostack)) };
        }
        code
    }
}
