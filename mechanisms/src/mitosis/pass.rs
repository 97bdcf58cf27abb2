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
use paging::ops::exchange;
use paging::{ENTRIES, Entry, Flags, Frame, Slot, TableEnv, TableMemory};

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

/// [`paging::TableOps::update`] over all copies of `table`. With `lazy`, an
/// entry that a copy other than `table` does not hold stays out of it.
pub(super) fn update<M: TableMemory>(
    env: &mut TableEnv<'_, M>,
    table: Frame<M::Space>,
    range: Range<usize>,
    lazy: bool,
    scratch: &mut Scratch,
    f: &mut dyn FnMut(usize, Entry) -> Entry,
    done: &mut dyn FnMut(usize, Entry, Entry),
) {
    let Scratch { seen, new, late } = scratch;
    for index in range.clone() {
        seen[index] = env.mem.load(Slot::new(table, index));
    }
    let mut at = ring::next(env.mem, table);
    while at != table {
        for index in range.clone() {
            let bits = env.mem.load(Slot::new(at, index)).flags().0 & HARDWARE.0;
            seen[index] = seen[index].with(Flags(bits));
        }
        at = ring::next(env.mem, at);
    }
    let mut changed = 0;
    for index in range.clone() {
        new[index] = f(index, seen[index]);
        late[index] = 0;
        changed += usize::from(new[index] != seen[index]);
    }
    ring::each(env, table, |env, copy| {
        let mut writes = 0;
        if changed > 0 {
            for index in range.clone() {
                let slot = Slot::new(copy, index);
                if new[index] == seen[index] || lazy && copy != table && env.mem.load(slot).is_empty() {
                    continue;
                }
                // What was set after the first look: `done` must be told.
                late[index] |= exchange(env.mem, slot, seen[index], new[index]).bits() & HARDWARE.0;
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
