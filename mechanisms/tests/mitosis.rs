//! Replicated, migrating and lazily replicated tables against a map from page
//! to leaf: random sequences of what kernels do, with walkers of random nodes
//! setting bits in between, also in copies that are on their way out.

mod mitosis_common;
use mechanisms::mitosis::Place;
use mitosis_common::pair::*;
use mitosis_common::*;
use paging::NodeId;
use paging::frames::NodeSet;
use proptest::prelude::*;

fn start() -> impl Strategy<Value = (u8, [usize; NODES])> {
    let left = prop_oneof![3 => Just([100_000; NODES]), 1 => Just([100_000, 3, 100_000, 12])];
    (prop_oneof![2 => Just(0u8), 3 => 1u8..16], left)
}

fn eager() -> impl Strategy<Value = Kind> {
    let place = prop_oneof![
        4 => Just(Place::FirstTouch),
        1 => Just(Place::Fixed(NodeId(3))),
        1 => Just(Place::Interleave(NodeSet(0b1011))),
    ];
    (any::<bool>(), place).prop_map(|(follow, place)| Kind::Eager { follow, place })
}

fn run(kind: Kind, nodes: u8, left: [usize; NODES], actions: &[Action]) {
    let mut pair = Pair::new(nodes, kind, left);
    for action in actions {
        pair.apply(action);
        pair.check();
    }
    pair.destroy();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    #[test]
    fn replicas_refine_a_map(
        kind in eager(),
        (nodes, left) in start(),
        actions in prop::collection::vec(action(), 0..50),
    ) {
        run(kind, nodes, left, &actions);
    }

    #[test]
    fn lazy_replicas_refine_a_map(
        order in 0u32..10,
        (nodes, left) in start(),
        actions in prop::collection::vec(action(), 0..50),
    ) {
        run(Kind::Lazy { order }, nodes, left, &actions);
    }
}
