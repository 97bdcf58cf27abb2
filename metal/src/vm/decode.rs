//! The instructions that a guest on shadow tables leaves by and whose operands
//! the control block does not give (TCG has no decode assists). Intel SDM vol. 2, chapter 2.

/// A register operand, and how long the instruction is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// The register's number: 0 RAX, 1 RCX, 2 RDX, 3 RBX, 4 RSP, 5 RBP, 6 RSI, 7 RDI, 8-15.
    pub register: u8,
    /// Added to it, for an address.
    pub displacement: i64,
    /// Bytes.
    pub length: u64,
}

/// `mov cr3, reg`, `mov reg, cr3`, or `invlpg [reg + displacement]`; `None` for all else.
pub fn decode(bytes: &[u8; 8]) -> Option<Decoded> {
    let (rex, rest) = match bytes[0] {
        prefix @ 0x40..=0x4f => (prefix, &bytes[1..]),
        _ => (0, &bytes[..]),
    };
    let prefix = (8 - rest.len()) as u64;
    let high = (rex & 1) << 3;
    let (mode, middle, low) = (rest[2] >> 6, rest[2] >> 3 & 7, rest[2] & 7);
    match rest[..2] {
        [0x0f, 0x20 | 0x22] if middle == 3 && rex & 4 == 0 => {
            Some(Decoded { register: low | high, displacement: 0, length: prefix + 3 })
        }
        [0x0f, 0x01] if middle == 7 && mode < 2 && !(mode == 0 && low == 5) => {
            // RSP and R12 as a base take another byte, without an index.
            let base = usize::from(low == 4);
            if base == 1 && rest[3] & 0x3f != 0x24 {
                return None;
            }
            let displacement = if mode == 1 { i64::from(rest[3 + base] as i8) } else { 0 };
            let length = prefix + 3 + base as u64 + u64::from(mode == 1);
            Some(Decoded { register: low | high, displacement, length })
        }
        _ => None,
    }
}
