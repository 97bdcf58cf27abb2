//! What a trace is: by its content where it can be told, else by its name.

use crate::champsim::{CLOUDSUITE, Layout, PLAIN};
use crate::drmemtrace::record;
use crate::error::{Hint, error};
use crate::input::{Input, is_canonical};
use crate::options::Format;
use crate::text::{looks_like, text_lines};
use crate::{gem5, qemu16};
use machine::input::SourceError;
use std::path::Path;

/// How much of a trace is looked at: a multiple of all record sizes.
const HEAD: usize = 64 * 96 * 3;

/// The format of a decompressed input.
pub(crate) fn format(input: &mut Input) -> Result<Format, SourceError> {
    let name = input.name().to_owned();
    let head = input.window(HEAD)?;
    let head = &head[..head.len().min(HEAD)];
    if head.is_empty() {
        return Err(error(&name, "is empty"));
    }
    let mut found = by_content(head);
    if let [only] = found[..] {
        return Ok(only);
    }
    if let Some(named) = by_name(&name)
        && (found.is_empty() || found.contains(&named))
    {
        return Ok(named);
    }
    let could_be = if found.is_empty() {
        found = Format::ALL.to_vec();
        "the content is of no known format".to_owned()
    } else {
        let names: Vec<_> = found.iter().map(|f| f.name()).collect();
        format!("the content could be {}", names.join(" or "))
    };
    let names: Vec<_> = found.iter().map(|f| f.name()).collect();
    Err(error(&name, could_be).hint(format_args!("say which it is: --format {}", names.join("|"))))
}

/// The formats that the first bytes can be of.
fn by_content(head: &[u8]) -> Vec<Format> {
    if head.starts_with(b"PAR1") {
        return vec![Format::Parquet];
    }
    if head.starts_with(gem5::MAGIC) {
        return vec![Format::Gem5];
    }
    if record::is_header(head) {
        return vec![Format::DrMemtrace];
    }
    if let Some(lines) = text_lines(head) {
        return looks_like(&lines);
    }
    if qemu16::plausible(head) {
        return vec![Format::Qemu16];
    }
    [PLAIN, CLOUDSUITE].iter().filter(|layout| plausible(head, layout)).map(|layout| layout.format).collect()
}

/// Whether the whole records of `head` can be instructions of this layout.
fn plausible(head: &[u8], layout: &Layout) -> bool {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    let mut records = head.chunks_exact(layout.bytes).peekable();
    records.peek().is_some()
        && records.all(|record| {
            let (branch, taken) = (record[8], record[9]);
            let operands = record[layout.stores.start..layout.loads.end].chunks_exact(8).map(word);
            let ip = word(&record[..8]);
            ip != 0
                && is_canonical(ip)
                && branch <= 1
                && taken <= branch
                && operands.into_iter().all(is_canonical)
        })
}

/// The format that a file's name tells.
pub(crate) fn by_name(name: &str) -> Option<Format> {
    let file = Path::new(name).file_name()?.to_str()?.to_ascii_lowercase();
    file.split(['.', '_', '-']).find_map(|part| match part {
        "qemu16" => Some(Format::Qemu16),
        "champsim" | "champsimtrace" => Some(Format::ChampSim),
        "cloudsuite" => Some(Format::CloudSuite),
        "memtrace" | "drmemtrace" => Some(Format::DrMemtrace),
        "din" | "xdin" | "dinero" => Some(Format::Dinero),
        "ramulator" => Some(Format::Ramulator),
        "lackey" => Some(Format::Lackey),
        _ => None,
    })
}
