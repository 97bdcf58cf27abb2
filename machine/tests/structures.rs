//! Misses of every structure equal those of a simple reference.

mod reference;

use machine::cache::Cache;
use machine::profile::Profile;
use machine::set::{Assoc, Avx2, Geometry, Replacement, SetIndex, Tags};
use proptest::prelude::*;
use reference::{Policy, Reference};

fn policies(ways: usize) -> Vec<(Replacement, Policy)> {
    let mut all = vec![
        (Replacement::Lru, Policy::Lru),
        (Replacement::Random { seed: 7 }, Policy::Random(7)),
        (Replacement::Random { seed: 0 }, Policy::Random(0x9e37_79b9_7f4a_7c15)),
    ];
    if ways.is_power_of_two() && ways <= 64 {
        all.push((Replacement::TreePlru, Policy::TreePlru));
    }
    all
}

/// A stream with reuse at all distances: hot, warm and cold keys, and runs.
fn stream(seed: u64, entries: usize, length: usize) -> impl Iterator<Item = u64> {
    let mut state = seed | 1;
    let mut run = 0;
    let span = entries as u64;
    (0..length).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let r = state >> 33;
        match r & 7 {
            0..=2 => run = r >> 3 & 15,
            3 => run += 1,
            4 | 5 => run = (r >> 3) % span,
            6 => run = (r >> 3) % (span + span / 2 + 1),
            _ => run = (r >> 3) % (span * 8),
        }
        run
    })
}

const GEOMETRIES: [(usize, usize); 24] = [
    (16, 4),
    (8, 4),
    (1, 4),
    (128, 12),
    (256, 6),
    (128, 24),
    (1, 72),
    (1, 64),
    (1, 2048),
    (3, 5),
    (7, 1),
    (1, 1),
    (28, 20),
    (53, 11),
    (64, 8),
    (32, 16),
    (5, 2),
    (12, 33),
    (2, 64),
    (1, 16),
    (20, 3),
    (40, 32),
    (1, 40),
    (2, 1024),
];

#[test]
fn hits_and_evictions_equal_the_reference_for_each_geometry_and_policy() {
    for (sets, ways) in GEOMETRIES {
        for (replacement, policy) in policies(ways) {
            let index = SetIndex::new(sets);
            let mut assoc = Assoc::<u64, u32>::new(Geometry { sets, ways }, replacement);
            // Tags of 24 bits may be kept in less room than those of 32.
            let mut tags = LARGEST.map(|largest| Tags::new(Geometry { sets, ways }, replacement, largest));
            let mut wide = tags.clone();
            let mut reference = Reference::new(sets, ways, policy);
            for (time, number) in stream(sets as u64 * 31 + ways as u64, sets * ways, 20_000).enumerate() {
                let (set, rest) = index.split(number);
                let key = number + 1;
                let hit = assoc.get(set, key, |_| true).is_some();
                let left = if hit {
                    None
                } else {
                    assoc.put(set, key, time as u32, |_| true).map(|(key, _)| key - 1)
                };
                let expected = reference.access(number);
                assert_eq!((hit, left), expected, "{sets}x{ways} {replacement:?}, access {time} of {number}");
                for tags in &mut tags {
                    assert_eq!(tags.touch(set, rest as u32 + 1), hit, "{sets}x{ways} {replacement:?} tags");
                }
                if let Some(avx2) = Avx2::detect() {
                    for tags in &mut wide {
                        let found = tags.touch_with(avx2, set, rest as u32 + 1);
                        assert_eq!(found, hit, "{sets}x{ways} {replacement:?} tags, AVX2");
                    }
                }
            }
        }
    }
}

/// The largest tag: of 24 bits, of 32.
const LARGEST: [u32; 2] = [(1 << 24) - 1, u32::MAX];

const POLICIES: [(Replacement, Policy); 3] = [
    (Replacement::Lru, Policy::Lru),
    (Replacement::TreePlru, Policy::TreePlru),
    (Replacement::Random { seed: 3 }, Policy::Random(3)),
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn tags_equal_the_reference_after_any_sequence(
        sets in 1usize..4,
        ways in 1usize..36,
        policy in 0usize..3,
        largest in prop::sample::select(LARGEST.as_slice()),
        // The first tag that is used: all bits of tags count.
        base in prop::sample::select(vec![1u32, 250, 0xff80, 0xff_ff00]),
        steps in prop::collection::vec((0u8..16, 0u64..120), 1..400),
    ) {
        let (replacement, policy) = POLICIES[policy];
        prop_assume!(replacement != Replacement::TreePlru || ways.is_power_of_two());
        let index = SetIndex::new(sets);
        let mut tags = Tags::new(Geometry { sets, ways }, replacement, largest);
        // Looked up with AVX2 where the machine has it, and in turns without.
        let mut wide = tags.clone();
        let mut turns = 0;
        let mut reference = Reference::new(sets, ways, policy);
        for (what, number) in steps {
            let (set, rest) = index.split(number);
            let tag = rest as u32 + base;
            match what {
                0..=3 => {
                    let removed = reference.remove(|held| held == number) > 0;
                    prop_assert_eq!((tags.remove(set, tag), wide.remove(set, tag)), (removed, removed));
                }
                4 => {
                    let held = reference.contains(number);
                    prop_assert_eq!((tags.contains(set, tag), wide.contains(set, tag)), (held, held));
                }
                5 if number < 4 => {
                    tags.clear();
                    wide.clear();
                    reference.remove(|_| true);
                }
                _ => {
                    let hit = reference.access(number).0;
                    turns += 1;
                    let found = match Avx2::detect() {
                        Some(avx2) if turns % 4 > 0 => wide.touch_with(avx2, set, tag),
                        _ => wide.touch(set, tag),
                    };
                    prop_assert_eq!((tags.touch(set, tag), found), (hit, hit));
                }
            }
        }
    }

    #[test]
    fn any_sequence_of_operations_equals_the_reference(
        sets in 1usize..6,
        ways in prop::sample::select(vec![1usize, 2, 3, 4, 6, 8, 11, 12, 16, 20, 24, 32, 33, 64, 72]),
        policy in 0usize..3,
        steps in prop::collection::vec((0u8..32, 0u64..400), 1..600),
    ) {
        let (replacement, policy) = POLICIES[policy];
        prop_assume!(replacement != Replacement::TreePlru || ways.is_power_of_two());
        let index = SetIndex::new(sets);
        let mut assoc = Assoc::<u64, u64>::new(Geometry { sets, ways }, replacement);
        let mut reference = Reference::new(sets, ways, policy);
        for (what, number) in steps {
            let set = index.set(number);
            let key = number + 1;
            match what {
                0 => prop_assert_eq!(assoc.remove(set, key, |_| true) > 0, reference.remove(|n| n == number) > 0),
                1 => {
                    let removed = assoc.retain(|key, value| { assert_eq!(key, value + 1); key % 5 != number % 5 });
                    prop_assert_eq!(removed, reference.remove(|n| (n + 1) % 5 == number % 5));
                }
                2 if number < 8 => {
                    assoc.clear();
                    reference.remove(|_| true);
                }
                _ => {
                    let found = assoc.get(set, key, |_| true);
                    prop_assert_eq!(found.unwrap_or(number), number);
                    let left = if found.is_none() { assoc.put(set, key, number, |_| true) } else { None };
                    prop_assert_eq!((found.is_some(), left.map(|(key, _)| key - 1)), reference.access(number));
                }
            }
            prop_assert_eq!(assoc.iter().count(), reference.len());
        }
    }
}

#[test]
fn caches_of_every_machine_hit_as_the_reference_does() {
    for (name, _) in Profile::list() {
        let profile = Profile::builtin(name).unwrap();
        for spec in [&profile.cache.l1d, &profile.cache.l2, &profile.cache.llc] {
            let geometry = spec.geometry();
            let mut cache = Cache::new(geometry, Replacement::Lru);
            let mut reference = Reference::new(geometry.sets, geometry.ways, Policy::Lru);
            // A few sets are hit often, at the lower and at the upper end of 4 TiB.
            for number in stream(geometry.sets as u64, geometry.ways * 3, 8_000) {
                let line = (number % 3) + number / 3 * geometry.sets as u64;
                let line = if number % 2 == 0 { line } else { (1 << 36) - 1 - line };
                assert_eq!(cache.contains(line), reference.contains(line));
                assert_eq!(cache.access(line), reference.access(line).0, "{name} {line:#x}");
                if number % 11 == 0 {
                    assert_eq!(cache.invalidate(line + 1), reference.remove(|held| held == line + 1) > 0);
                }
            }
            assert_eq!(cache.geometry(), geometry);
            cache.clear();
            assert!(!cache.contains(0));
        }
    }
}

#[test]
fn a_key_has_several_entries_when_their_values_are_told_apart() {
    for ways in [4, 12, 24, 72] {
        let mut assoc = Assoc::<u64, u32>::new(Geometry { sets: 1, ways }, Replacement::Lru);
        for value in 0..3 {
            assert_eq!(assoc.put(0, 9, value, |held| *held == value), None);
            assert_eq!(assoc.put(0, 9, value, |held| *held == value), None);
        }
        assert_eq!(assoc.iter().count(), 3);
        for value in 0..3 {
            assert_eq!(assoc.get(0, 9, |held| *held == value), Some(value));
        }
        assert_eq!(assoc.get(0, 9, |held| *held == 3), None);
        assert_eq!(assoc.remove(0, 9, |held| *held == 1), 1);
        assert_eq!(assoc.iter().map(|(_, value)| *value).sum::<u32>(), 2);
    }
}
