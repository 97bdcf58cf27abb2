//! Anything that a hostile guest may do, as a string of bytes: for a fuzzer.

use super::prison::{BASE, Breach, FRAMES, GUEST_BLOCK, GUEST_FRAMES, PAGES, Prison};
use alloc::vec::Vec;
use paging::{Entry, Flags, Gfn, Hfn, Intent, Va};

/// Bytes as decisions; zeroes when they are used up.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take(&mut self) -> u64 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        u64::from(*first)
    }
    fn wide(&mut self) -> u64 {
        self.take() << 8 | self.take()
    }
    fn word(&mut self) -> u64 {
        (0..4).fold(0, |word, _| word << 16 | self.wide())
    }
}

/// Addresses around what is mapped, and others.
fn address(bytes: &mut Bytes<'_>) -> Va {
    let at = bytes.wide();
    Va::new(match at >> 14 {
        0 => BASE + at % (PAGES + 2) * 4096,
        1 => BASE + (1 << 30) + at % 514 * 4096,
        2 => (at & 511) << 39,
        _ => bytes.word() & ((1 << 47) - 1),
    })
}

/// An entry: for a frame with some flags under some colour, or any word at all.
fn entry(prison: &Prison, bytes: &mut Bytes<'_>) -> Entry {
    let kind = bytes.take();
    let flags = [Flags::NONE, Flags::PAGE_SIZE, Flags::NO_EXECUTE, Flags::PROTECTION_KEY][kind as usize >> 6];
    let (frame, colour) = match kind & 7 {
        // Frames of the machine under a guessed colour.
        0 | 1 => (Hfn::new(bytes.wide() % (FRAMES + 8)), bytes.take() as u8),
        // The victim's, by their real names.
        2 | 3 => prison.given(1, Gfn::new(bytes.wide() % GUEST_FRAMES)).unwrap_or_default(),
        // Its own: tables, data, the huge page.
        4 | 5 => prison.given(0, Gfn::new(bytes.wide() % GUEST_FRAMES)).unwrap_or_default(),
        6 => {
            let (tables, which) = (prison.tables(Va::new(BASE)), bytes.take() as usize);
            let table = tables.get(which % tables.len().max(1));
            table.and_then(|table| prison.given(0, table.1)).unwrap_or_default()
        }
        _ => return Entry(bytes.word()),
    };
    Prison::forged(frame, colour, flags)
}

/// Plays `bytes` on a machine: stores of the guest to its own memory, accesses,
/// entries with any root, and what a host does meanwhile. Returns what broke, and how
/// many accesses were made.
pub fn play(prison: &mut Prison, bytes: &[u8]) -> (Vec<Breach>, u64) {
    let mut bytes = Bytes(bytes);
    let (mut breaches, mut accesses) = (Vec::new(), 0);
    let mut root = prison.root();
    while !bytes.0.is_empty() {
        match bytes.take() % 16 {
            // A store to a table on the way to an address.
            0..=4 => {
                let va = address(&mut bytes);
                let tables = prison.tables(va);
                // Its root may have been taken from it.
                let which = bytes.take() as usize % tables.len().max(1);
                let Some(&(level, table)) = tables.get(which) else { continue };
                let index = if bytes.take() & 1 == 0 { va.index(level) } else { bytes.wide() as usize % 512 };
                let entry = entry(prison, &mut bytes);
                prison.store(table, index, entry);
            }
            // A store anywhere in its memory.
            5 => {
                let (gfn, index) = (Gfn::new(bytes.wide() % GUEST_FRAMES), bytes.wide() as usize % 512);
                let entry = entry(prison, &mut bytes);
                prison.store(gfn, index, entry);
            }
            6 => root = Gfn::new(bytes.wide() % (GUEST_FRAMES + 8)),
            7 => root = prison.root(),
            // The host goes on with its work.
            8 => {
                prison.revoke(bytes.take() as usize & 1, Gfn::new(bytes.wide() % GUEST_BLOCK));
            }
            9 => {
                prison.give(bytes.take() as usize & 1, Gfn::new(bytes.wide() % GUEST_BLOCK));
            }
            10 => {
                let va = address(&mut bytes);
                prison.mend(va);
            }
            _ => {
                let va = address(&mut bytes);
                let intent = [Intent::READ, Intent::WRITE, Intent::FETCH][bytes.take() as usize % 3];
                accesses += 1;
                breaches.extend(prison.access(root, va, intent).breaches);
            }
        }
    }
    (breaches, accesses)
}
