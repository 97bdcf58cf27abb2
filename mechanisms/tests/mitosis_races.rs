//! Walkers of two nodes set accessed and dirty bits in their copies while
//! software changes the entry in all copies: no store's dirty bit may be lost.
//!
//! With `RUSTFLAGS="--cfg loom"` every schedule is explored; otherwise real
//! threads are let loose on it many times.

use mechanisms::mitosis::Replicated;
use paging::frames::{NoFrame, NodeSet};
use paging::sync::{AtomicU64, Ordering};
use paging::*;
use std::sync::Arc;

#[cfg(loom)]
use loom::{model, thread};
#[cfg(not(loom))]
use std::thread;

#[cfg(not(loom))]
fn model(run: impl Fn()) {
    (0..500).for_each(|_| run());
}

/// Frame n + 1 of node n.
#[derive(Debug)]
struct Pool;

impl TableFrames<HostPhys> for Pool {
    fn alloc_table(&mut self, node: NodeId, _strict: bool) -> Result<Hfn, NoFrame> {
        Ok(Hfn::new(u64::from(node.0) + 1))
    }
    fn free_table(&mut self, _frame: Hfn) {}
    fn node_of(&self, frame: Hfn) -> NodeId {
        NodeId(frame.number() as u8 - 1)
    }
}

type Cells = [AtomicU64; ENTRIES];

/// The cells of frames 1 and 2, which walkers reach too, and descriptors, which
/// are software's alone. (An arena keeps whole blocks: too much for loom.)
struct Shared {
    cells: Arc<[Box<Cells>; 2]>,
    descriptors: [Descriptor; 2],
}

fn at(frame: Hfn) -> usize {
    frame.number() as usize - 1
}

impl Shared {
    fn new() -> Shared {
        let cells = || -> Box<Cells> {
            let cells: Vec<AtomicU64> = (0..ENTRIES).map(|_| AtomicU64::new(0)).collect();
            cells.into_boxed_slice().try_into().expect("as many as a table has")
        };
        Shared { cells: Arc::new([cells(), cells()]), descriptors: Default::default() }
    }
}

impl TableMemory for Shared {
    type Space = HostPhys;
    fn cell(&self, slot: Slot<HostPhys>) -> Option<&AtomicU64> {
        Some(&self.cells[at(slot.table)][slot.index])
    }
    fn cells(&self, frame: Hfn) -> Option<&Cells> {
        Some(&self.cells[at(frame)])
    }
    fn create(&mut self, _frame: Hfn) {}
    fn discard(&mut self, _frame: Hfn) {
        unreachable!("no table goes");
    }
    fn descriptor(&self, frame: Hfn) -> Option<&Descriptor> {
        Some(&self.descriptors[at(frame)])
    }
    fn descriptor_mut(&mut self, frame: Hfn) -> Option<&mut Descriptor> {
        Some(&mut self.descriptors[at(frame)])
    }
}

const PAGE: Entry = Entry(0x5000 | 7);

/// A store through `cell`, as a walker does it; whether it was allowed.
fn store(cell: &AtomicU64) -> bool {
    loop {
        let seen = Entry(cell.load(Ordering::Acquire));
        if !seen.has(Flags::PRESENT | Flags::WRITABLE) {
            return false;
        }
        let used = seen.with(Flags::ACCESSED | Flags::DIRTY).bits();
        if cell.compare_exchange(seen.bits(), used, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return true;
        }
    }
}

/// Runs `change` against a store from each of two nodes. It returns the old
/// entry as it learned it; what it did not learn of must still be in the table.
fn race(
    change: fn(&mut Replicated<HostPhys>, &mut TableEnv<'_, Shared>, Slot<HostPhys>) -> Entry,
    after: fn(Entry),
) {
    model(move || {
        let (mut shared, mut pool, mut work) = (Shared::new(), Pool, Work::default());
        let cells = shared.cells.clone();
        let mut ops = Replicated::new(NodeSet::first(2));
        let mut env = TableEnv { mem: &mut shared, frames: &mut pool, node: NodeId(0), work: &mut work };
        let table = TableOps::<Virt, _>::create_root(&mut ops, &mut env, 1, NodeId(0)).expect("room");
        let slot = Slot::new(table, 0);
        TableOps::<Virt, _>::write(&mut ops, &mut env, slot, 1, PAGE);
        let walkers = [0, 1].map(|copy| {
            let cells = cells.clone();
            thread::spawn(move || store(&cells[copy][0]))
        });
        let old = change(&mut ops, &mut env, slot);
        let stored = walkers.map(|walker| walker.join().expect("no walker fails"));
        let left = TableOps::<Virt, _>::read(&ops, &mut env, slot, 1);
        let known = old.has(Flags::DIRTY) || left.has(Flags::DIRTY);
        assert_eq!(known, stored.contains(&true), "old {old:?}, left {left:?}, stored {stored:?}");
        assert_eq!(old.frame::<HostPhys>(), PAGE.frame());
        after(left);
    });
}

/// The old entry as `update`'s `done` learns it.
fn update(
    ops: &mut Replicated<HostPhys>,
    env: &mut TableEnv<'_, Shared>,
    slot: Slot<HostPhys>,
    change: fn(Entry) -> Entry,
) -> Entry {
    let mut old = Entry::EMPTY;
    let range = slot.index..slot.index + 1;
    TableOps::<Virt, _>::update(ops, env, slot.table, 1, range, &mut |_, e| change(e), &mut |_, e, _| {
        old = e
    });
    old
}

#[test]
fn take() {
    race(|ops, env, slot| TableOps::<Virt, _>::take(ops, env, slot, 1), |left| assert!(left.is_empty()));
}

#[test]
fn write_protect() {
    race(
        |ops, env, slot| TableOps::<Virt, _>::modify(ops, env, slot, 1, Flags::NONE, Flags::WRITABLE),
        |left| assert!(left.is_present() && !left.has(Flags::WRITABLE)),
    );
}

#[test]
fn clean() {
    race(
        |ops, env, slot| {
            TableOps::<Virt, _>::modify(ops, env, slot, 1, Flags::NONE, Flags::DIRTY | Flags::ACCESSED)
        },
        |left| assert!(left.has(Flags::WRITABLE)),
    );
}

#[test]
fn unmap_a_range() {
    race(|ops, env, slot| update(ops, env, slot, |_| Entry::EMPTY), |left| assert!(left.is_empty()));
}

#[test]
fn protect_a_range() {
    race(
        |ops, env, slot| update(ops, env, slot, |e| e.without(Flags::WRITABLE)),
        |left| assert!(left.is_present() && !left.has(Flags::WRITABLE)),
    );
}

#[test]
fn age_and_clean_a_range() {
    race(
        |ops, env, slot| update(ops, env, slot, |e| e.without(Flags::DIRTY).with(Flags::SOFT_9)),
        |left| assert!(left.has(Flags::SOFT_9)),
    );
}
