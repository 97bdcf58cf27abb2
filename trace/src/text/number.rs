//! Numbers and fields in lines of bytes.

/// The fields of a line, apart by blanks.
pub(crate) fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty())
}

/// A field as it is shown in an error.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let short = &bytes[..bytes.len().min(60)];
    format!("'{}{}'", short.escape_ascii(), if short.len() < bytes.len() { "…" } else { "" })
}

/// A decimal number.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |n, d| {
        let digit = d.wrapping_sub(b'0');
        (digit < 10).then_some(())?;
        n.checked_mul(10)?.checked_add(digit.into())
    })
}

/// A hexadecimal number, with or without `0x`.
pub(crate) fn hex(digits: &[u8]) -> Option<u64> {
    let digits = digits.strip_prefix(b"0x").unwrap_or(digits);
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0u64, |n, d| Some(n << 4 | u64::from(char::from(*d).to_digit(16)?)))
}

/// A number that is hexadecimal with `0x` and decimal without.
pub(crate) fn either(digits: &[u8]) -> Option<u64> {
    if digits.starts_with(b"0x") { hex(digits) } else { decimal(digits) }
}
