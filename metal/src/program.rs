//! What runs in ring 3: a few small routines, in a file that processes map.
//!
//! Each works on registers only, so that the only memory it touches besides its
//! own code is the memory under test, and ends with a call into the kernel.

use crate::tables::CALL;
use crate::traps::Context;
use core::arch::global_asm;

/// Where every process maps the file.
pub const TEXT: u64 = crate::scenario::script::TEXT;

unsafe extern "C" {
    static program_start: u8;
    static program_end: u8;
    static program_load: u8;
    static program_store: u8;
    static program_fill: u8;
    static program_check: u8;
    static program_watch: u8;
    static program_add: u8;
}

global_asm!(
    r#"
    .pushsection .rodata.program, "a"
    .global program_start, program_end, program_load, program_store, program_fill
    .global program_check, program_watch, program_add
    .align 4096
program_start:
program_load:                    # rax = [rsi]
    movq (%rsi), %rax
    int ${call}
program_store:                   # [rsi] = rdx
    movq %rdx, (%rsi)
    int ${call}
program_fill:                    # rcx times: [rsi] = rdx; rsi += r8; rdx += r9
    xorl %eax, %eax
1:  cmpq %rcx, %rax
    jae 2f
    movq %rdx, (%rsi)
    addq %r8, %rsi
    addq %r9, %rdx
    incq %rax
    jmp 1b
2:  int ${call}
program_check:                   # as long as [rsi] == rdx, rcx times; rax = how often; rbx = what was found
    xorl %eax, %eax
1:  cmpq %rcx, %rax
    jae 2f
    movq (%rsi), %rbx
    cmpq %rdx, %rbx
    jne 2f
    addq %r8, %rsi
    addq %r9, %rdx
    incq %rax
    jmp 1b
2:  int ${call}
program_watch:                   # loads [rsi] until it is not rdx; tells so first in [rdi]
    movq (%rsi), %rax
    movq $1, (%rdi)
1:  movq (%rsi), %rax
    cmpq %rdx, %rax
    je 1b
    int ${call}
program_add:                     # rcx times: lock [rsi] += rdx; rsi += r8
    xorl %eax, %eax
1:  cmpq %rcx, %rax
    jae 2f
    lock addq %rdx, (%rsi)
    addq %r8, %rsi
    incq %rax
    jmp 1b
2:  int ${call}
program_end:
    .popsection
    "#,
    call = const CALL,
    options(att_syntax)
);

/// A routine and its arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// Loads a word.
    Load(u64),
    /// Stores a word.
    Store(u64, u64),
    /// Stores a series of words.
    Fill(Series),
    /// Loads a series of words and compares them; ends at the first that differs.
    Check(Series),
    /// Loads a word until it is not `.1`; stores 1 at `.2` when it begins.
    Watch(u64, u64, u64),
    /// Adds `first` to each word, in one locked instruction.
    Add(Series),
}

/// Words `first`, `first + step`, … at addresses `start`, `start + stride`, ….
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Series {
    /// The first address.
    pub start: u64,
    /// Words.
    pub count: u64,
    /// From one address to the next.
    pub stride: u64,
    /// The first word.
    pub first: u64,
    /// From one word to the next.
    pub step: u64,
}

impl Series {
    /// A word in each of `pages` pages.
    pub const fn pages(start: u64, pages: u64, first: u64) -> Series {
        Series { start, count: pages, stride: 4096, first, step: 1 }
    }
}

/// The file's bytes.
pub fn text() -> &'static [u8] {
    let (start, end) = (&raw const program_start, &raw const program_end);
    // SAFETY: both are labels in one read-only section, in this order.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}

impl Program {
    /// The registers that it begins with.
    pub fn context(&self) -> Context {
        let entry = match self {
            Program::Load(_) => &raw const program_load,
            Program::Store(..) => &raw const program_store,
            Program::Fill(_) => &raw const program_fill,
            Program::Check(_) => &raw const program_check,
            Program::Watch(..) => &raw const program_watch,
            Program::Add(_) => &raw const program_add,
        };
        let mut context = Context::new(TEXT + (entry as u64 - (&raw const program_start) as u64));
        match *self {
            Program::Load(at) => context.rsi = at,
            Program::Store(at, word) => (context.rsi, context.rdx) = (at, word),
            Program::Watch(at, word, begun) => {
                (context.rsi, context.rdx, context.rdi) = (at, word, begun);
            }
            Program::Fill(s) | Program::Check(s) | Program::Add(s) => {
                (context.rsi, context.rcx, context.rdx) = (s.start, s.count, s.first);
                context.r8_to_r15[0] = s.stride;
                context.r8_to_r15[1] = s.step;
            }
        }
        context
    }
}
