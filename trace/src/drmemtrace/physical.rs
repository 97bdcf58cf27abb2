//! Physical addresses that come with a trace: markers of `-use_physical`, or
//! the `v2p.textproto` beside it.

use super::DrMemtrace;
use crate::error::error;
use crate::open;
use machine::input::{Block, More, Source, SourceError};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// More pages than any trace maps (2^26 pages of 4 KiB are 256 GiB): what a
/// hostile file may make us keep.
const PAGES_MAX: usize = 1 << 26;
/// `v2p.textproto` of 2 MiB pages: a few megabytes.
const TEXT_MAX: u64 = 1 << 30;

/// Which physical page each virtual page lay on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PhysicalMap {
    /// Size of the pages, where the map tells.
    pub page_size: Option<u64>,
    /// Physical by virtual address, as told. A later one replaces an earlier.
    pub pages: BTreeMap<u64, u64>,
}

impl PhysicalMap {
    pub(super) fn insert(&mut self, virt: u64, physical: u64) -> Result<(), String> {
        if self.pages.len() >= PAGES_MAX && !self.pages.contains_key(&virt) {
            return Err(format!("more than {PAGES_MAX} pages have physical addresses"));
        }
        self.pages.insert(virt, physical);
        Ok(())
    }
}

/// The physical addresses that the markers of a trace tell. Reads it to its end.
///
/// # Errors
/// As reading the trace.
pub fn physical_map(path: &Path) -> Result<PhysicalMap, SourceError> {
    let inputs = match path.is_dir() {
        true => super::directory_inputs(path, None)?,
        false => vec![open::file_input(path, None)?],
    };
    let mut trace = DrMemtrace::new(path.display().to_string(), inputs, false);
    trace.collect_physical();
    trace.setup()?;
    let mut block = Block::new();
    while trace.fill(&mut block)? == More::Yes {}
    Ok(trace.shared.physical.unwrap_or_default())
}

/// Reads a `v2p.textproto`.
///
/// # Errors
/// If the file cannot be read or is no such map; the error names the line.
pub fn read_v2p(path: &Path) -> Result<PhysicalMap, SourceError> {
    let name = path.display().to_string();
    let cannot = |e: std::io::Error| error(&name, format_args!("cannot be read: {e}"));
    let mut text = String::new();
    std::fs::File::open(path).map_err(cannot)?.take(TEXT_MAX).read_to_string(&mut text).map_err(cannot)?;
    parse_v2p(&text).map_err(|(line, reason)| error(&name, format_args!("line {line}: {reason}")))
}

/// Words and the three signs, with their lines; `#` begins a comment.
fn tokens(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().flat_map(|(i, line)| {
        let line = line.split('#').next().unwrap_or_default();
        let words = line.split_inclusive(['{', '}', ':', ',', ';']).flat_map(|part| {
            let at = part.len() - usize::from(part.ends_with(['{', '}', ':', ',', ';']));
            let (words, sign) = part.split_at(at);
            words.split_whitespace().chain((!sign.is_empty()).then_some(sign))
        });
        words.filter(|word| !matches!(*word, "," | ";")).map(move |word| (i + 1, word))
    })
}

fn parse_v2p(text: &str) -> Result<PhysicalMap, (usize, String)> {
    let mut map = PhysicalMap::default();
    let mut path: Vec<&str> = Vec::new();
    let mut field = None;
    // A field that is left out is 0.
    let (mut virt, mut physical) = (0, 0);
    for (line, token) in tokens(text) {
        let fail = |reason: String| (line, reason);
        match token {
            ":" if field.is_some() => {}
            "{" => {
                let name = field.take().ok_or_else(|| fail("a '{' without a name before it".into()))?;
                if name == "address_mapping" {
                    (virt, physical) = (0, 0);
                }
                path.push(name);
            }
            "}" => {
                let name = path.pop().ok_or_else(|| fail("a '}' without its '{'".into()))?;
                if name == "address_mapping" {
                    map.insert(virt, physical).map_err(fail)?;
                }
            }
            word => match (field.take(), path.last()) {
                (None, _) => field = Some(word),
                (Some(name), within) => {
                    let number = match word.strip_prefix("0x") {
                        Some(digits) => u64::from_str_radix(digits, 16),
                        None => word.parse(),
                    };
                    let number = number.map_err(|e| fail(format!("'{name}: {word}': {e}")))?;
                    match (within, name) {
                        (Some(&"address_mapping"), "virtual_address") => virt = number,
                        (Some(&"address_mapping"), "physical_address") => physical = number,
                        (Some(&"address_mapping_group"), "page_size") => map.page_size = Some(number),
                        _ => {}
                    }
                }
            },
        }
    }
    match path.last() {
        Some(open) => Err((text.lines().count(), format!("the file ends inside '{open} {{'"))),
        None => Ok(map),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_addresses_are_zero_and_comments_are_skipped() {
        let map = parse_v2p(
            "# c\naddress_mapping_group { page_size: 4096\n address_mapping { virtual_address: 0x1000 # x\n\
             physical_address: 8192 } address_mapping{physical_address:0x6000}\n information { page_count: 2 } }",
        )
        .unwrap();
        assert_eq!(map.page_size, Some(4096));
        assert_eq!(map.pages, BTreeMap::from([(0x1000, 8192), (0, 0x6000)]));
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line) in [("a {\n b: x\n}", 2), ("}\n", 1), ("a {\n b: 1\n", 2), ("{", 1)] {
            assert_eq!(parse_v2p(text).unwrap_err().0, line, "{text}");
        }
    }
}
