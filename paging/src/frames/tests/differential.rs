//! Against an allocator by others: `buddy_system_allocator` keeps sets of free
//! blocks. It follows the pool's choice of frames and must find each of them free, and has nothing
//! left where the pool refuses; and the other way round.

use super::*;
use buddy_system_allocator::FrameAllocator;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Action {
    /// The pool chooses.
    Ours { order: u8, cpu: Option<CpuId>, state: FrameState },
    /// The other one chooses.
    Theirs { order: u8 },
    /// A held block goes, or each part of it of a smaller order.
    Free { which: usize, parts: u8, cpu: Option<CpuId> },
}

fn action() -> impl Strategy<Value = Action> {
    let order = prop_oneof![4 => 0..4u8, 1 => 4..=10u8];
    let cpu = proptest::option::of((0..2u16).prop_map(CpuId));
    let state = prop_oneof![Just(FrameState::Anon), Just(FrameState::Kernel)];
    prop_oneof![
        4 => (order.clone(), cpu.clone(), state).prop_map(|(order, cpu, state)| Action::Ours { order, cpu, state }),
        2 => order.clone().prop_map(|order| Action::Theirs { order }),
        5 => (any::<usize>(), order, cpu).prop_map(|(which, parts, cpu)| Action::Free { which, parts, cpu }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_allocators_agree(actions in proptest::collection::vec(action(), 1..300)) {
        let frames = 10 * PAGEBLOCK + 300;
        let mut ours = flat_pool(frames, PoolConfig::default());
        let mut theirs = FrameAllocator::<ORDERS>::new();
        theirs.add_frame(DMA32_END as usize, (DMA32_END + frames) as usize);
        let mut held: Vec<(Hfn, u8)> = Vec::new();
        for action in actions {
            match action {
                Action::Ours { order, cpu, state } => {
                    let request = AllocRequest { cpu, ..AllocRequest::new(NodeId(0), state) };
                    match ours.alloc(request.order(order).emergency()) {
                        Ok(frame) => {
                            let start = frame.number() as usize;
                            prop_assert_eq!(theirs.alloc_at(start, 1 << order), Some(start));
                            held.push((frame, order));
                        }
                        Err(_) => prop_assert_eq!(theirs.alloc(1 << order), None),
                    }
                }
                Action::Theirs { order } => match theirs.alloc(1 << order) {
                    Some(start) => {
                        let start = frame(start as u64);
                        prop_assert_eq!(ours.alloc_at(start, 1 << order, FrameState::Kernel, Unit::Singles), Ok(()));
                        held.push((start, order));
                    }
                    None => prop_assert!(ours.alloc(anon().order(order).emergency()).is_err()),
                },
                Action::Free { which, parts, cpu } => {
                    if held.is_empty() {
                        continue;
                    }
                    let (start, order) = held.swap_remove(which % held.len());
                    let parts = parts.min(order);
                    for at in (0..1u64 << order).step_by(1 << parts) {
                        ours.free(start.offset(at), parts, cpu);
                        theirs.dealloc(start.offset(at).number() as usize, 1 << parts);
                    }
                }
            }
        }
        ours.audit().unwrap();
    }
}
