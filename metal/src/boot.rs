//! From the PVH entry (32-bit protected mode, no paging) to 64-bit code on
//! identity-mapped memory.

use core::arch::global_asm;

// Xen's PVH boot ABI: an ELF note of type 18 names the 32-bit entry, which is
// called with %ebx pointing to hvm_start_info. The code below maps the first
// 4 GiB with 2 MiB pages, switches on SSE (the prebuilt core library of this
// target uses it) and long mode, and calls `metal_main`.
global_asm!(
    r#"
    .pushsection .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_start
    .popsection

    .pushsection .text.boot, "ax"
    .code32
    .global pvh_start
pvh_start:
    cld
    movl $boot_stack_end, %esp
    # Four page directories of 2 MiB pages.
    movl $boot_pd, %edi
    movl $0x83, %eax
    xorl %edx, %edx
    movl $2048, %ecx
1:  movl %eax, (%edi)
    movl %edx, 4(%edi)
    addl $0x200000, %eax
    adcl $0, %edx
    addl $8, %edi
    decl %ecx
    jnz 1b
    movl $boot_pd + 3, %eax
    movl $boot_pdpt, %edi
    movl $4, %ecx
2:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    decl %ecx
    jnz 2b
    movl $boot_pdpt + 3, %eax
    movl %eax, boot_pml4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    # CR4: PAE, OSFXSR, OSXMMEXCPT.
    movl %cr4, %eax
    orl $0x620, %eax
    movl %eax, %cr4
    # EFER: LME, NXE.
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x900, %eax
    wrmsr
    # CR0: PG, WP, MP, PE; not EM.
    movl %cr0, %eax
    andl $0xfffffffb, %eax
    orl $0x80010003, %eax
    movl %eax, %cr0
    lgdt boot_gdtr
    .byte 0xea
    .long long_mode
    .word 8
    .code64
long_mode:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movq $boot_stack_end, %rsp
    movl %ebx, %edi
    call metal_main
3:  hlt
    jmp 3b
    .popsection

    .pushsection .rodata.boot, "a"
    .align 8
boot_gdt:
    .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
boot_gdtr:
    .word 23
    .long boot_gdt
    .popsection

    .pushsection .bss.boot, "aw", @nobits
    .align 4096
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4 * 4096
boot_stack: .skip 256 * 1024
boot_stack_end:
    .popsection
    "#,
    options(att_syntax)
);
