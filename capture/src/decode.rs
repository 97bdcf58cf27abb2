//! As much of x86-64 decoding as is needed to tell two kinds of instruction.
//!
//! * Those that load and store the same bytes (`add [m], r`, `lock xadd`):
//!   QEMU reports a load and a store, or for an atomic one a store alone. They are one
//!   access of kind modify, so only their store is asked for.
//! * String instructions with a repeat prefix: QEMU runs each iteration as a
//!   block of its own, but the processor retires one instruction.
//!
//! Opcodes: Intel SDM volume 2, appendix A.

/// What is special about an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traits {
    /// It loads and stores one memory operand.
    pub modifies: bool,
    /// It is `cmpxchg8b` or `cmpxchg16b`, which QEMU may do in a helper function.
    pub wide: bool,
    /// It is a repeated string instruction.
    pub repeats: bool,
}

/// Looks at an instruction's bytes.
pub fn decode(bytes: &[u8]) -> Traits {
    let mut repeat = false;
    let mut at = 0;
    // Legacy prefixes, then REX.
    while let Some(&b) = bytes.get(at) {
        match b {
            0xf2 | 0xf3 => repeat = true,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0x40..=0x4f => {}
            _ => break,
        }
        at += 1;
    }
    if at == bytes.len() {
        return Traits::default();
    }
    let byte = |i: usize| bytes.get(at + i).copied().unwrap_or(0);
    let string = matches!(byte(0), 0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf);
    let modifies = modifies(byte(0), byte(1), byte(2));
    Traits { modifies, wide: modifies && byte(0) == 0x0f && byte(1) == 0xc7, repeats: repeat && string }
}

/// Opcode and what follows it (an opcode's second byte, or `ModRM`).
fn modifies(op: u8, second: u8, third: u8) -> bool {
    // ModRM's register field extends the opcode; mod 3 is a register operand.
    let memory = |modrm: u8| modrm < 0xc0;
    let reg = |modrm: u8| modrm >> 3 & 7;
    match op {
        // add or adc sbb and sub xor, memory destination; 38/39 is cmp.
        0x00 | 0x01 | 0x08 | 0x09 | 0x10 | 0x11 | 0x18 | 0x19 | 0x20 | 0x21 | 0x28 | 0x29 | 0x30 | 0x31 => {
            memory(second)
        }
        // The same with an immediate; /7 is cmp.
        0x80 | 0x81 | 0x83 => memory(second) && reg(second) != 7,
        // xchg.
        0x86 | 0x87 => memory(second),
        // Rotates and shifts.
        0xc0 | 0xc1 | 0xd0..=0xd3 => memory(second),
        // not, neg; the others read only.
        0xf6 | 0xf7 => memory(second) && matches!(reg(second), 2 | 3),
        // inc, dec.
        0xfe | 0xff => memory(second) && reg(second) < 2,
        0x0f => {
            memory(third)
                && match second {
                    // shld, shrd; bts, btr, btc; cmpxchg; xadd.
                    0xa4 | 0xa5 | 0xac | 0xad | 0xab | 0xb3 | 0xbb | 0xb0 | 0xb1 | 0xc0 | 0xc1 => true,
                    // bts, btr, btc with an immediate; /4 is bt.
                    0xba => reg(third) > 4,
                    // cmpxchg8b, cmpxchg16b.
                    0xc7 => reg(third) == 1,
                    _ => false,
                }
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modifies(bytes: &[u8]) -> bool {
        decode(bytes).modifies
    }

    // Bytes from GNU as 2.40.
    #[test]
    fn arithmetic_to_memory_modifies() {
        assert!(modifies(&[0x48, 0x01, 0x07]), "add [rdi], rax");
        assert!(modifies(&[0x48, 0x83, 0x04, 0x24, 0x01]), "add qword [rsp], 1");
        assert!(modifies(&[0xf0, 0x48, 0x0f, 0xc1, 0x07]), "lock xadd [rdi], rax");
        assert!(modifies(&[0xf0, 0x48, 0x0f, 0xb1, 0x0f]), "lock cmpxchg [rdi], rcx");
        assert!(modifies(&[0xf0, 0x48, 0x0f, 0xc7, 0x0f]), "lock cmpxchg16b [rdi]");
        assert!(modifies(&[0x66, 0xff, 0x07]), "inc word [rdi]");
        assert!(modifies(&[0x48, 0x87, 0x07]), "xchg [rdi], rax");
        assert!(modifies(&[0x48, 0x0f, 0xba, 0x2f, 0x03]), "bts qword [rdi], 3");
        assert!(modifies(&[0x64, 0x48, 0x31, 0x04, 0x25, 0x28, 0, 0, 0]), "xor fs:[0x28], rax");
    }

    #[test]
    fn loads_stores_and_registers_do_not() {
        assert!(!modifies(&[0x48, 0x01, 0xc7]), "add rdi, rax");
        assert!(!modifies(&[0x48, 0x03, 0x07]), "add rax, [rdi]");
        assert!(!modifies(&[0x48, 0x39, 0x07]), "cmp [rdi], rax");
        assert!(!modifies(&[0x48, 0x83, 0x3f, 0x00]), "cmp qword [rdi], 0");
        assert!(!modifies(&[0x48, 0x89, 0x07]), "mov [rdi], rax");
        assert!(!modifies(&[0xff, 0x37]), "push [rdi]");
        assert!(!modifies(&[0xff, 0x17]), "call [rdi]");
        assert!(!modifies(&[0x48, 0x0f, 0xba, 0x27, 0x03]), "bt qword [rdi], 3");
        assert!(!modifies(&[0x48, 0xf7, 0x27]), "mul qword [rdi]");
        assert!(!modifies(&[0xc5, 0xfd, 0x6f, 0x07]), "vmovdqa ymm0, [rdi]");
    }

    #[test]
    fn repeated_strings_repeat() {
        assert!(decode(&[0xf3, 0xa4]).repeats, "rep movsb");
        assert!(decode(&[0xf3, 0x48, 0xab]).repeats, "rep stosq");
        assert!(decode(&[0xf2, 0xae]).repeats, "repne scasb");
        assert!(!decode(&[0xa4]).repeats, "movsb");
        assert!(!decode(&[0xf3, 0x0f, 0x6f, 0x07]).repeats, "movdqu xmm0, [rdi]");
        assert!(!decode(&[0xf3, 0xc3]).repeats, "rep ret");
    }

    #[test]
    fn cut_off_bytes_are_nothing() {
        assert_eq!(decode(&[]), Traits::default());
        assert_eq!(decode(&[0xf0, 0x48]), Traits::default());
    }
}
