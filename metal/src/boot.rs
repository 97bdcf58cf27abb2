//! From where a CPU begins to the first instruction in Rust.
//!
//! The boot CPU is entered by PVH (32-bit protected mode, no paging), the
//! others in real mode at [`TRAMPOLINE`] (INIT-SIPI-SIPI). All load the same static tables: the first 512 GiB one to one (left as soon
//! as possible), the same again at [`DIRECT`](crate::physical::DIRECT), and the kernel's image.

use core::arch::global_asm;

/// The page below 1 MiB where the other CPUs begin.
pub const TRAMPOLINE: u64 = 0x8000;

unsafe extern "C" {
    /// The first byte of the code to be copied to [`TRAMPOLINE`] (a physical address).
    pub static trampoline_start: u8;
    /// The byte after its last.
    pub static trampoline_end: u8;
    /// The top-level table that all CPUs begin with (a physical address).
    pub static boot_pml4: u8;
    /// The page-directory-pointer table of the kernel's half (a physical address).
    pub static boot_pdpt_high: u8;
    /// The end of the boot CPU's stack.
    pub static boot_stack_end: u8;
    /// The stack of the next CPU that starts, and its entry's argument.
    pub static mut next_stack: u64;
    /// See [`next_stack`].
    pub static mut next_argument: u64;
}

// Xen's PVH boot ABI: an ELF note of type 18 names the 32-bit entry, which is
// called with %ebx pointing to hvm_start_info.
//
// CR4: PAE, OSFXSR, OSXMMEXCPT (the prebuilt core library of this target uses SSE).
// EFER: LME, NXE. CR0: PG, WP, ET, MP, PE; not EM.
global_asm!(
    r#"
    .pushsection .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_start
    .popsection

    .pushsection .boot, "awx"
    .global pvh_start, boot_pml4, boot_pdpt_high
    .global trampoline_start, trampoline_end, next_stack, next_argument
    .code32
pvh_start:
    cld
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x620, %eax
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl %cr0, %eax
    andl $0xfffffffb, %eax
    orl $0x80010013, %eax
    movl %eax, %cr0
    lgdt boot_gdtr
    .byte 0xea
    .long boot_long
    .word 8

    .code64
boot_long:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movabsq $boot_stack_end, %rsp
    movl %ebx, %edi
    movabsq $metal_main, %rax
    xorl %ebp, %ebp
    pushq $0
    jmp *%rax

    .code16
    .align 16
trampoline_start:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl 0x8000 + trampoline_gdtr - trampoline_start
    movl $0x620, %eax
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl $0x80010013, %eax
    movl %eax, %cr0
    .byte 0x66, 0xea
    .long other_long
    .word 8
    .align 8
trampoline_gdtr:
    .word 23
    .long boot_gdt
trampoline_end:

    .code64
other_long:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movq next_stack, %rsp
    movq next_argument, %rdi
    movabsq $metal_other, %rax
    xorl %ebp, %ebp
    pushq $0
    jmp *%rax

    .align 8
boot_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
boot_gdtr:
    .word 23
    .long boot_gdt
    .align 8
next_stack: .quad 0
next_argument: .quad 0

    .align 4096
boot_pml4:
    .quad boot_pdpt_low + 0x3
    .fill 510, 8, 0
    .quad boot_pdpt_high + 0x3
    # 1 GiB pages, one to one.
boot_pdpt_low:
    .set gib, 0
    .rept 512
    .quad (gib << 30) + 0x83
    .set gib, gib + 1
    .endr
    # The same for 510 GiB, and the first GiB again where the image is linked.
boot_pdpt_high:
    .set gib, 0
    .rept 510
    .quad (gib << 30) + 0x83
    .set gib, gib + 1
    .endr
    .quad 0x83
    .quad 0
    .popsection

    .pushsection .bss.boot_stack, "aw", @nobits
    .global boot_stack_end
    .align 4096
    .skip 256 * 1024
boot_stack_end:
    .popsection
    "#,
    options(att_syntax)
);
