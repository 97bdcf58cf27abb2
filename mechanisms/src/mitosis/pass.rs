//! One pass over a range of entries of a table with copies.
//!
//! Published Mitosis propagates each `set_pte` around the ring, and reads the
//! ring again for each entry: `mprotect` of a large range takes 4.3 times as
//! long with four replicas (reference data of the artifact, table 5). Here each
//! copy is gone through once to gather the hardware's bits and once to change
//! the entries, in order, so that the ring is followed once a table, a line is
//! fetched once for eight entries, and the prefetcher sees the next one coming.

use super::ring::{self, HARDWARE};
use alloc::boxed::Box;
use core::ops::Range;
use paging::frames::NodeSet;
use paging::ops::{exchange, same_page};
use paging::sync::{AtomicU64, Ordering};
use paging::{ENTRIES, Entry, Flags, Frame, TableEnv, TableMemory};

/// What a pass remembers of each entry between its steps; on the heap, as a
/// kernel's stack is small.
pub(super) struct Scratch {
    seen: [Entry; ENTRIES],
    new: [Entry; ENTRIES],
    late: [u64; ENTRIES],
}

impl core::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Scratch")
    }
}

impl Scratch {
    pub(super) fn new() -> Box<Scratch> {
        Box::new(Scratch { seen: [Entry::EMPTY; ENTRIES], new: [Entry::EMPTY; ENTRIES], late: [0; ENTRIES] })
    }

    /// The entries of the last pass, over `range`, that changed: before and after.
    pub(super) fn changes(&self, range: Range<usize>) -> impl Iterator<Item = (Entry, Entry)> + '_ {
        range.map(|index| (self.seen[index], self.new[index])).filter(|(old, new)| old != new)
    }
}

/// What a pass goes over.
pub(super) struct Pass<S> {
    /// The copy that software named.
    pub(super) table: Frame<S>,
    /// The entries.
    pub(super) range: Range<usize>,
    /// An entry that another copy does not hold stays out of it.
    pub(super) lazy: bool,
    /// Copies for other nodes than these are nobody's but ours now.
    pub(super) walkers: NodeSet,
}

/// [`paging::TableOps::update`] over all copies of a table.
pub(super) fn update<M: TableMemory>(
    env: &mut TableEnv<'_, M>,
    pass: Pass<M::Space>,
    scratch: &mut Scratch,
    f: &mut dyn FnMut(usize, Entry) -> Entry,
    done: &mut dyn FnMut(usize, Entry, Entry),
) {
    let Pass { table, range, lazy, walkers } = pass;
    let Scratch { seen, new, late } = scratch;
    let Some(cells) = env.mem.cells(table) else { return };
    for index in range.clone() {
        seen[index] = Entry(cells[index].load(Ordering::Relaxed));
    }
    for (copy, _) in ring::copies(env.mem, table).skip(1) {
        let Some(cells) = env.mem.cells(copy) else { continue };
        for index in range.clone() {
            seen[index].0 |= cells[index].load(Ordering::Relaxed) & HARDWARE.0;
        }
    }
    let mut changed = 0;
    for index in range.clone() {
        new[index] = f(index, seen[index]);
        late[index] = 0;
        changed += usize::from(new[index] != seen[index]);
    }
    ring::each(env, table, |env, copy| {
        let mut writes = 0;
        let walked = ring::is_walked(env.mem, copy, walkers);
        if changed > 0
            && let Some(cells) = env.mem.cells(copy)
        {
            for index in range.clone() {
                let held = !lazy || copy == table || cells[index].load(Ordering::Relaxed) != 0;
                if new[index] == seen[index] || !held {
                    continue;
                }
                if walked {
                    // What was set after the first look: `done` must be told.
                    late[index] |= exchange(&cells[index], seen[index], new[index]).bits() & HARDWARE.0;
                } else {
                    replace(&cells[index], seen[index], new[index]);
                }
                writes += 1;
            }
        }
        env.passed(copy, &range, writes);
    });
    if changed > 0 {
        for index in range {
            if new[index] != seen[index] {
                done(index, seen[index].with(Flags(late[index])), new[index]);
            }
        }
    }
}

/// [`exchange`] in a copy that no CPU walks: an atomic step takes about as long
/// as all else that a pass does to an entry.
#[inline(always)]
fn replace(cell: &AtomicU64, seen: Entry, new: Entry) {
    let own = if same_page(seen, new) {
        cell.load(Ordering::Relaxed) & !(seen.bits() & !new.bits()) | new.bits() & !seen.bits()
    } else {
        new.bits()
    };
    cell.store(own, Ordering::Release);
}
