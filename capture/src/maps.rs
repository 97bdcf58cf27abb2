//! The guest program's mappings among all of QEMU's.
//!
//! In user mode guest memory is host memory, at a constant distance. A file that was mapped before the program was
//! loaded is QEMU's own (its C library, which may be the program's, too, elsewhere). What else is not the program's,
//! the consumer tells by what a program consists of.

use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

use crate::memory;

/// Where QEMU's own files are mapped.
static OWN: OnceLock<Vec<u64>> = OnceLock::new();

fn start(line: &str) -> Option<(u64, u64, &str)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?, rest))
}

/// Remembers what is QEMU's.
pub fn remember_own() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let files = maps.lines().filter_map(start).filter(|(.., rest)| rest.contains('/'));
    let _ = OWN.set(files.map(|(start, ..)| start).collect());
}

/// The lines of `/proc/self/maps` but those of QEMU's own files, at guest addresses.
pub fn guest(base: u64) -> Vec<u8> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let own = OWN.get().map_or(&[][..], |own| own);
    let mut out = Vec::new();
    for (start, end, rest) in maps.lines().filter_map(start) {
        if start >= base && !(rest.contains('/') && own.contains(&start)) {
            let _ = writeln!(out, "{:x}-{:x} {rest}", start - base, end - base);
        }
    }
    out
}

/// Where a file's first mapping is, by [`guest`]'s lines.
pub fn start_of(maps: &[u8], file: &Path) -> Option<u64> {
    let maps = String::from_utf8_lossy(maps);
    let mut lines = maps.lines().filter_map(start);
    lines
        .find(|(.., rest)| rest.split_once('/').is_some_and(|(_, p)| Path::new("/").join(p) == file))
        .map(|(s, ..)| s)
}

/// The program's stack: right above its guard page, and the loader has put the program's path (or what links
/// in it lead to) at its very top. Its end need not be the end of a mapping: the kernel joins it with memory of
/// QEMU's that happens to follow.
pub fn stack(maps: &[u8], paths: [&[u8]; 2]) -> Option<(u64, u64)> {
    let maps = String::from_utf8_lossy(maps);
    let lines: Vec<_> = maps.lines().filter_map(start).collect();
    lines.windows(2).find_map(|pair| {
        let [(_, guard, no), (start, end, yes)] = pair else { return None };
        if guard != start || !no.starts_with("---") || !yes.starts_with("rw") {
            return None;
        }
        stack_sizes()
            .into_iter()
            .map(|size| start + size)
            .find(|&top| {
                let mut last = [0; 4096 + 64];
                let n = if top <= *end { memory::read(top - last.len() as u64, &mut last) } else { 0 };
                let ends_with = |path: &[u8]| {
                    let part = &last[..n][n.saturating_sub(path.len() + 64)..];
                    !path.is_empty() && part.windows(path.len()).any(|part| part == path)
                };
                paths.into_iter().any(ends_with)
            })
            .map(|top| (*start, top))
    })
}

/// The sizes that QEMU gives a stack: its default, or the limit if that is larger.
fn stack_sizes() -> [u64; 2] {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a place for the answer.
    unsafe { libc::getrlimit(libc::RLIMIT_STACK, &mut limit) };
    [8 << 20, (limit.rlim_cur & !4095).clamp(4096, 1 << 40)]
}
