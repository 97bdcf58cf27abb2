//! Random lives of a group's processes: whatever TLBs and walk caches hold, each
//! process reaches what it must see, at most one way matches, every table is
//! freed when its last sharer leaves, and every reference is counted.

mod babelfish_common;

use babelfish_common::*;
use mechanisms::babelfish::*;
use mechanisms::mitosis::Replicated;
use paging::frames::{NodeId, NodeSet};
use paging::*;
use proptest::prelude::*;

/// Blocks that processes use: three of one GiB, one of another.
const BLOCKS: [u64; 4] = [0x4_0000, 0x4_0200, 0x4_0400, 0x8_0000];

/// Where all members that map a file map it, unless they do otherwise.
const PLACES: [Area; 7] = [
    place(BLOCKS[0], 12, Some((1, 0)), false, false),
    place(BLOCKS[0] + 12, 6, Some((1, 12)), false, true),
    place(BLOCKS[0] + 500, 24, Some((2, 3)), false, true),
    place(BLOCKS[1] + 20, 12, Some((3, 0)), true, true),
    place(BLOCKS[1] + 40, 10, None, false, true),
    place(BLOCKS[2] + 100, 16, None, false, true),
    place(BLOCKS[3], 16, Some((4, 0)), false, true),
];

const fn place(start: u64, pages: u64, file: Option<(u64, u64)>, shared: bool, write: bool) -> Area {
    Area { start, end: start + pages, file, shared, write }
}

#[derive(Clone, Debug)]
enum Action {
    Spawn,
    Fork { of: usize },
    Exit { of: usize },
    Map { of: usize, place: usize },
    Remap { of: usize, place: usize, file: Option<u64>, shared: bool },
    Unmap { of: usize, place: usize, from: u64, pages: u64 },
    Protect { of: usize, place: usize, from: u64, pages: u64, write: bool },
    Hide { of: usize, place: usize },
    Reclaim { of: usize, place: usize, page: u64 },
    Access { of: usize, cpu: usize, place: usize, page: u64, write: bool, skip: bool },
    Evict { cpu: usize, seed: u64 },
}

fn action() -> impl Strategy<Value = Action> {
    let of = 0usize..64;
    let at = 0..PLACES.len();
    prop_oneof![
        2 => Just(Action::Spawn),
        4 => of.clone().prop_map(|of| Action::Fork { of }),
        3 => of.clone().prop_map(|of| Action::Exit { of }),
        6 => (of.clone(), at.clone()).prop_map(|(of, place)| Action::Map { of, place }),
        2 => (of.clone(), at.clone(), prop::option::of(1u64..4), any::<bool>())
            .prop_map(|(of, place, file, shared)| Action::Remap { of, place, file, shared }),
        3 => (of.clone(), at.clone(), 0u64..20, 1u64..24)
            .prop_map(|(of, place, from, pages)| Action::Unmap { of, place, from, pages }),
        2 => (of.clone(), at.clone(), 0u64..20, 1u64..24, any::<bool>())
            .prop_map(|(of, place, from, pages, write)| Action::Protect { of, place, from, pages, write }),
        1 => (of.clone(), at.clone()).prop_map(|(of, place)| Action::Hide { of, place }),
        2 => (of.clone(), at.clone(), 0u64..6)
            .prop_map(|(of, place, page)| Action::Reclaim { of, place, page }),
        40 => (of, 0usize..NODES, at, 0u64..6, prop::bool::weighted(0.3), any::<bool>())
            .prop_map(|(of, cpu, place, page, write, skip)| Action::Access { of, cpu, place, page, write, skip }),
        3 => (0usize..NODES, any::<u64>()).prop_map(|(cpu, seed)| Action::Evict { cpu, seed }),
    ]
}

/// Pages of a place that accesses go to: the first and the last few.
fn page_of(area: &Area, page: u64) -> u64 {
    if page < 3 { area.start + page } else { area.end - 1 - (page - 3) }
}

fn apply<S: Walk>(world: &mut World<S>, action: &Action) {
    let live = world.live();
    let pick = |of: usize| live[of % live.len()];
    match *action {
        Action::Spawn if live.len() < 9 => {
            world.spawn();
        }
        Action::Spawn => {}
        _ if live.is_empty() => {}
        Action::Fork { of } if live.len() < 9 => {
            world.fork(pick(of));
        }
        Action::Fork { .. } => {}
        Action::Exit { of } => world.exit(pick(of)),
        Action::Map { of, place } => world.map(pick(of), PLACES[place]),
        Action::Remap { of, place, file, shared } => {
            let there = PLACES[place];
            let shared = shared && file.is_some();
            world.map(pick(of), Area { file: file.map(|f| (f, 50)), shared, write: true, ..there });
        }
        Action::Unmap { of, place, from, pages } => {
            let start = PLACES[place].start + from;
            world.unmap(pick(of), start, start + pages);
        }
        Action::Protect { of, place, from, pages, write } => {
            let start = PLACES[place].start + from;
            world.protect(pick(of), start, start + pages, write);
        }
        Action::Hide { of, place } => world.hide(pick(of), PLACES[place].start, PLACES[place].end),
        Action::Reclaim { of, place, page } => world.reclaim(pick(of), page_of(&PLACES[place], page)),
        Action::Access { of, cpu, place, page, write, skip } => {
            world.access(pick(of), cpu, page_of(&PLACES[place], page), write, skip);
        }
        Action::Evict { cpu, seed } => world.machine.evict(cpu, seed),
    }
}

fn live_on<S: Walk>(mut world: World<S>, actions: &[Action]) {
    // A group that has begun: most sequences should find something to share.
    for first in [0, 0, 1] {
        let p = world.spawn();
        for place in PLACES.into_iter().skip(first) {
            world.map(p, place);
            world.access(p, 0, place.start, false, false);
        }
    }
    for action in actions {
        apply(&mut world, action);
        world.check();
    }
    world.end();
}

fn replicated<S: PhysSpace>(member: Membership<S>) -> Ops<S> {
    let nodes: NodeSet = [NodeId(0), NodeId(1)].into_iter().collect();
    Box::new(SharedTables::new(Replicated::new(nodes), member))
}

fn sharing() -> impl Strategy<Value = Sharing> {
    prop_oneof![
        4 => Just(Sharing::FULL),
        1 => Just(Sharing::TABLES),
        2 => Just(Sharing::TLB),
        2 => Just(Sharing::NO_MASK),
        1 => Just(Sharing { tables: false, ..Sharing::NO_MASK }),
        1 => Just(Sharing::NONE),
    ]
}

fn life() -> impl Strategy<Value = Vec<Action>> {
    prop::collection::vec(action(), 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nobody_sees_what_is_not_his(sharing in sharing(), first in any::<bool>(), actions in life()) {
        live_on(World::<HostPhys>::new(sharing, first, one_copy), &actions);
    }

    #[test]
    fn nor_in_a_virtual_machine(sharing in sharing(), actions in life()) {
        live_on(World::<GuestPhys>::new(sharing, false, one_copy), &actions);
    }

    #[test]
    fn nor_with_tables_replicated_on_every_node(sharing in sharing(), actions in life()) {
        live_on(World::<HostPhys>::new(sharing, false, replicated), &actions);
    }
}
