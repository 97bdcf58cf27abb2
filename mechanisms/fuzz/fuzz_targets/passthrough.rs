//! Any bytes, as what a hostile guest does under pass-through: it reaches nothing that is not its own.
//!
//! The first byte seeds the machine; the rest are acts (`mechanisms::passthrough::attack::play`): stores of
//! any entry to any word of its own memory, entries with any root, accesses, and a host that takes frames
//! away and gives them to others meanwhile.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mechanisms::passthrough::Checks;
use mechanisms::passthrough::attack::{Prison, play};

fuzz_target!(|data: &[u8]| {
    let Some((seed, acts)) = data.split_first() else { return };
    let mut state = u64::from(*seed);
    let mut random = || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut prison = Prison::new(Checks { tables: true, overlapped: false }, &mut random);
    let (breaches, _) = play(&mut prison, acts);
    assert!(breaches.is_empty(), "isolation is broken: {breaches:?}");
});
