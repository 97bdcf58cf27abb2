//! A hostile guest: with data and table check it reaches nothing that is not its own;
//! without the table check it does, and that is seen.

use mechanisms::passthrough::Checks;
use mechanisms::passthrough::attack::{ATTACKS, Attack, BASE, Prison, play};
use paging::random::SplitMix64;
use paging::{Fault, Gfn, Intent, Va};
use proptest::prelude::*;

fn splitmix(seed: u64) -> impl FnMut() -> u64 {
    let mut random = SplitMix64(seed);
    move || random.next()
}

#[test]
fn no_attack_gets_out_of_both_checks() {
    for attack in ATTACKS {
        for seed in 0..2 {
            let tally = attack.run(Checks { tables: true, overlapped: false }, 40, &mut splitmix(seed));
            assert!(tally.is_clean(), "{}: {tally:?}", attack.name);
            assert!(tally.accesses > 20, "{} tried something: {tally:?}", attack.name);
        }
    }
}

#[test]
fn without_the_table_check_those_get_out_that_go_through_tables() {
    for attack in ATTACKS {
        let tally = attack.run(Checks { tables: false, overlapped: false }, 40, &mut splitmix(7));
        assert_eq!(
            tally.foreign_data, 0,
            "{}: the data check alone keeps data apart: {tally:?}",
            attack.name
        );
        let out = tally.foreign_entries > 0;
        assert_eq!(out, attack.works_without_table_check, "{}: {tally:?}", attack.name);
    }
    // And the walker changes memory that is not the guest's.
    let changed = |attack: &Attack| {
        attack.run(Checks { tables: false, overlapped: false }, 300, &mut splitmix(7)).foreign_changed
    };
    assert!(ATTACKS.iter().map(changed).sum::<u64>() > 0);
}

#[test]
fn a_host_that_forgets_the_flush_is_found_out() {
    let mut prison = Prison::new(Checks { tables: true, overlapped: false }, &mut splitmix(1));
    prison.deaf = true;
    let (root, va) = (prison.root(), Va::new(BASE));
    assert!(prison.access(root, va, Intent::READ).breaches.is_empty());
    prison.revoke(0, Gfn::new(0)).expect("a small page");
    assert!(!prison.access(root, va, Intent::READ).breaches.is_empty());
}

#[test]
fn a_stale_entry_does_not_reach_the_frame_under_another_name_of_the_same_guest() {
    let mut prison = Prison::new(Checks { tables: true, overlapped: false }, &mut splitmix(3));
    let (root, va) = (prison.root(), Va::new(BASE));
    let was = prison.access(root, va, Intent::READ).frame.expect("mapped");
    // What was page 0 becomes page 100.
    prison.revoke(0, Gfn::new(100)).expect("a small page");
    prison.revoke(0, Gfn::new(0)).expect("a small page");
    assert_eq!(prison.give(0, Gfn::new(100)), Some(was));
    let ended = prison.access(root, va, Intent::READ);
    assert!(matches!(ended.fault, Some(Fault::Tag { frame, .. }) if frame == was), "{ended:?}");
    prison.give(0, Gfn::new(0));
    assert!(prison.mend(va));
    assert_eq!(
        prison.access(root, va, Intent::READ).frame,
        prison.given(0, Gfn::new(0)).map(|given| given.0)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_guest_writes_it_reaches_nothing_foreign(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000), seed in any::<u64>()
    ) {
        let mut prison = Prison::new(Checks { tables: true, overlapped: false }, &mut splitmix(seed));
        let (breaches, _) = play(&mut prison, &bytes);
        prop_assert!(breaches.is_empty(), "{breaches:?}");
    }
}
