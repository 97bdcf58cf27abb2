//! CPUs fault in one region while a reclaimer dissolves its reservation: no frame may be
//! handed out twice, and none may be lost.
//!
//! With `RUSTFLAGS="--cfg loom"` every schedule is explored; otherwise real
//! threads are let loose on it many times.

use mechanisms::ptemagnet::Reservation;
use std::sync::Arc;

#[cfg(loom)]
use loom::{model, thread};
#[cfg(not(loom))]
use std::thread;

#[cfg(not(loom))]
fn model(run: impl Fn()) {
    (0..2000).for_each(|_| run());
}

/// Blocks of 4 frames; the reclaimer's and the faulting CPUs' frames come from here.
const FIRST: u64 = 64;

fn begun(index: u32) -> Arc<Reservation> {
    let entry = Arc::new(Reservation::default());
    entry.lock().begin(FIRST, 4, index);
    entry
}

#[test]
fn one_of_two_that_fault_for_a_page_gets_its_frame() {
    model(|| {
        let entry = begun(0);
        let take = |own| {
            let entry = Arc::clone(&entry);
            thread::spawn(move || entry.lock().take(1, own))
        };
        // The parent's thread and a child's.
        let got = [take(true), take(false)].map(|thread| thread.join().expect("no panic"));
        assert_eq!(got.iter().flatten().collect::<Vec<_>>(), [&(FIRST + 1)]);
        let entry = entry.lock();
        assert_eq!(entry.unused(), 0b1100);
        assert_eq!(entry.mapped(), if got[0].is_some() { 0b11 } else { 0b01 });
    });
}

/// Pages that CPUs fault for. With a lock that spins, the schedules of three threads have no end that can be waited for.
const FAULTS: &[u32] = if cfg!(loom) { &[1] } else { &[1, 2] };

#[test]
fn a_reclaimer_gets_what_no_fault_got() {
    model(|| {
        let entry = begun(0);
        let faults: Vec<_> = FAULTS
            .iter()
            .map(|&index| {
                let entry = Arc::clone(&entry);
                thread::spawn(move || {
                    let mut entry = entry.lock();
                    let got = entry.take(index, true);
                    if got.is_none() && entry.block().is_none() {
                        // It was dissolved: a block of the fault's own.
                        entry.begin(2 * FIRST, 4, index);
                    }
                    // Of the first block, as a mask.
                    got.filter(|frame| *frame < FIRST + 4).map_or(0, |frame| 1u64 << (frame - FIRST))
                })
            })
            .collect();
        // Only what is of the first block goes.
        let reclaimed = {
            let mut entry = entry.lock();
            if entry.block() == Some(FIRST) { entry.end() } else { 0 }
        };
        let taken: Vec<u64> = faults.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        let all = taken.iter().fold(reclaimed, |all, mine| {
            assert_eq!(all & mine, 0, "handed out twice");
            all | mine
        });
        assert_eq!(all, 0b1110, "all of the block but page 0's are somebody's");
    });
}

#[test]
fn a_page_that_is_unmapped_meets_a_fault_for_it() {
    model(|| {
        let entry = begun(1);
        let unmap = {
            let entry = Arc::clone(&entry);
            thread::spawn(move || entry.lock().unmap(1, FIRST + 1, true))
        };
        let got = entry.lock().take(1, false);
        assert!(unmap.join().expect("no panic"), "it was mapped");
        let entry = entry.lock();
        let kept = entry.unused() >> 1 & 1 == 1;
        assert_eq!(got, (!kept).then_some(FIRST + 1), "the frame is the reservation's or the fault's");
        assert_eq!(entry.mapped(), 0);
    });
}
