//! Which format of text some lines are of.

use super::number::{decimal, either, fields, hex};
use super::{dinero, lackey, perf};
use crate::options::Format;

/// The whole lines of a text's beginning; `None` if it is no text.
pub(crate) fn text_lines(head: &[u8]) -> Option<Vec<&[u8]>> {
    let printable = |b: &u8| matches!(b, b'\t' | b'\n' | b'\r' | b' '..=b'~' | 0x80..);
    if !head.iter().all(printable) || std::str::from_utf8(&head[..head.len().min(64)]).is_err() {
        return None;
    }
    let mut lines: Vec<&[u8]> = head.split(|b| *b == b'\n').map(<[u8]>::trim_ascii_end).collect();
    // The last one may go on behind what is looked at.
    if lines.len() > 1 {
        lines.pop();
    }
    lines.retain(|line| !line.is_empty());
    Some(lines)
}

/// The formats that all lines can be of.
pub(crate) fn looks_like(lines: &[&[u8]]) -> Vec<Format> {
    let is_comment = |line: &&[u8]| line.starts_with(b"#");
    let is = |test: &dyn Fn(&[u8]) -> bool| !lines.is_empty() && lines.iter().all(|line| test(line));
    let mut found = Vec::new();
    if lines.iter().any(|line| lackey::parse(line).is_some())
        && is(&|line| lackey::is_talk(line) || lackey::parse(line).is_some())
    {
        found.push(Format::Lackey);
    }
    if is(&|line| is_dinero(line)) {
        found.push(Format::Dinero);
    }
    if is(&|line| is_ramulator(line)) {
        found.push(Format::Ramulator);
    }
    if lines.iter().any(|line| perf::page_fault(line).is_some())
        && is(&|line| line.starts_with(b"#") || perf::page_fault(line).is_some())
    {
        found.push(Format::PerfScript);
    }
    let named = |line: &&&[u8]| {
        memchr::memmem::find(line, b"PID").is_some() && memchr::memmem::find(line, b"ADDR").is_some()
    };
    if lines.iter().take_while(|line| is_comment(line)).any(|line| named(&line)) {
        found.push(Format::PerfMem);
    }
    found
}

fn is_dinero(line: &[u8]) -> bool {
    let mut fields = fields(line);
    match (fields.next().and_then(dinero::kind), fields.next().and_then(hex), fields.next()) {
        (Some(_), Some(_), size) => !line[0].is_ascii_alphabetic() || size.and_then(decimal).is_some(),
        _ => false,
    }
}

fn is_ramulator(line: &[u8]) -> bool {
    let fields: Vec<_> = fields(line).collect();
    match fields[..] {
        [b"LD" | b"ST", address] => either(address).is_some(),
        [address, b"R" | b"W"] => address.starts_with(b"0x") && hex(address).is_some(),
        [insns, read] => decimal(insns).is_some() && decimal(read).is_some(),
        [insns, read, writeback] => [insns, read, writeback].iter().all(|field| decimal(field).is_some()),
        _ => false,
    }
}
