//! Random sequences of actions on the pool and on the model, answers and errors compared.

use super::model::{Model, Owned};
use super::*;
use alloc::vec;
use proptest::prelude::*;
use proptest::sample::Index;

#[derive(Clone, Debug)]
enum Action {
    Alloc(AllocRequest),
    Contiguous {
        frames: u64,
        align: u32,
        request: AllocRequest,
    },
    AllocAt {
        at: Index,
        frames: u64,
        unit: Unit,
    },
    /// Frees the unit, or the singles in a block, that an owned frame is in.
    Free {
        which: Index,
        order: u8,
        cpu: Option<CpuId>,
    },
    /// Frees anything.
    FreeAny {
        at: Index,
        order: u8,
    },
    FreeContiguous {
        which: Index,
        frames: u64,
    },
    Get(Index),
    Put(Index, Option<CpuId>),
    Split(Index, u8),
    SetState(Index, FrameState),
    Drain(Option<CpuId>),
    Add {
        node: u8,
        block: u64,
        blocks: u64,
    },
    Remove {
        at: Index,
        blocks: u64,
    },
    Compact {
        node: u8,
        order: u8,
        refuse: u64,
    },
    Evacuate {
        at: Index,
        frames: u64,
        refuse: u64,
    },
}

fn unit() -> impl Strategy<Value = Unit> {
    prop_oneof![Just(Unit::Singles), Just(Unit::Compound)]
}

fn cpu() -> impl Strategy<Value = Option<CpuId>> {
    proptest::option::of((0..3u16).prop_map(CpuId))
}

fn order() -> impl Strategy<Value = u8> {
    prop_oneof![6 => 0..=2u8, 3 => 3..=10u8, 1 => 11..=12u8]
}

fn request() -> impl Strategy<Value = AllocRequest> {
    let policy = prop_oneof![
        Just(NodePolicy::Prefer),
        Just(NodePolicy::Strict),
        (0..4u8).prop_map(|set| NodePolicy::Within(NodeSet(set)))
    ];
    let state = prop_oneof![Just(FrameState::Anon), Just(FrameState::Table), Just(FrameState::File)];
    let zone = prop_oneof![4 => Just(ZoneKind::Normal), 1 => Just(ZoneKind::Dma32), 1 => Just(ZoneKind::Dma)];
    let watermark = prop_oneof![
        3 => Just(Watermark::Emergency),
        1 => Just(Watermark::Normal),
        1 => Just(Watermark::Opportunistic)
    ];
    let fields = (order(), 0..2u8, policy, state, unit(), cpu(), zone, watermark);
    fields.prop_map(|(order, node, policy, state, unit, cpu, zone, watermark)| {
        let request = AllocRequest::new(NodeId(node), state).order(order).unit(unit).zone(zone);
        AllocRequest { policy, cpu, watermark, ..request }
    })
}

fn owned_state() -> impl Strategy<Value = FrameState> {
    const STATES: [FrameState; 4] =
        [FrameState::Anon, FrameState::Pinned, FrameState::Kernel, FrameState::Ballooned];
    prop_oneof![5 => proptest::sample::select(&STATES), 1 => Just(FrameState::Faulty)]
}

fn action() -> impl Strategy<Value = Action> {
    let index = any::<Index>;
    prop_oneof![
        24 => request().prop_map(Action::Alloc),
        2 => (1..3000u64, 0..12u32, request())
            .prop_map(|(frames, align, request)| Action::Contiguous { frames, align, request }),
        3 => (index(), 1..700u64, unit()).prop_map(|(at, frames, unit)| Action::AllocAt { at, frames, unit }),
        16 => (index(), order(), cpu()).prop_map(|(which, order, cpu)| Action::Free { which, order, cpu }),
        3 => (index(), order()).prop_map(|(at, order)| Action::FreeAny { at, order }),
        2 => (index(), 1..1500u64).prop_map(|(which, frames)| Action::FreeContiguous { which, frames }),
        4 => index().prop_map(Action::Get),
        8 => (index(), cpu()).prop_map(|(which, cpu)| Action::Put(which, cpu)),
        3 => (index(), order()).prop_map(|(which, order)| Action::Split(which, order)),
        2 => (index(), owned_state()).prop_map(|(which, state)| Action::SetState(which, state)),
        1 => cpu().prop_map(Action::Drain),
        1 => (0..2u8, 0..20u64, 1..6u64).prop_map(|(node, block, blocks)| Action::Add { node, block, blocks }),
        1 => (index(), 1..4u64).prop_map(|(at, blocks)| Action::Remove { at, blocks }),
        2 => (0..2u8, 0..=10u8, any::<u64>()).prop_map(|(node, order, refuse)| Action::Compact { node, order, refuse }),
        1 => (index(), 1..1500u64, any::<u64>())
            .prop_map(|(at, frames, refuse)| Action::Evacuate { at, frames, refuse }),
    ]
}

/// The pool and the model, driven together.
struct Pair {
    pool: Pool,
    model: Model,
}

impl Pair {
    fn some_owned(&self, which: Index) -> Option<Owned> {
        let count = self.model.owned.len();
        (count > 0).then(|| *self.model.owned.values().nth(which.index(count)).unwrap())
    }

    /// Any frame of the address space, memory or not.
    fn some_frame(&self, at: Index) -> u64 {
        let number = at.index(20_000) as u64;
        if number < 10_000 { number } else { DMA32_END + number - 10_000 }
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Alloc(request) => {
                let frames = 1 << request.order;
                let got = self.pool.alloc(request);
                self.answered(got, frames, frames, &request);
            }
            Action::Contiguous { frames, align, request } => {
                let is_unit = frames.is_power_of_two() && 1 << align >= frames;
                let unit = if is_unit { request.unit } else { Unit::Singles };
                let request = request.unit(unit);
                let got = self.pool.alloc_contiguous(frames, 1 << align, request);
                self.answered(got, frames, 1 << align, &request);
            }
            Action::AllocAt { at, frames, unit } => {
                let start = self.some_frame(at);
                let got = self.pool.alloc_at(frame(start), frames, FrameState::Reserved, unit);
                let is_unit = frames.is_power_of_two() && start & (frames - 1) == 0;
                if unit == Unit::Compound && !is_unit {
                    assert!(matches!(got, Err(BadFrame::Misaligned { .. })));
                    return;
                }
                let want = self.model.check_free(start, frames);
                assert_eq!(got, want);
                if got.is_ok() {
                    self.own(start, frames, FrameState::Reserved, unit);
                }
            }
            Action::Free { which, order, cpu } => {
                let Some(unit) = self.some_owned(which) else { return };
                let (start, order) = if unit.order > 0 {
                    (unit.head, unit.order)
                } else {
                    (unit.head >> order << order, order)
                };
                let got = self.pool.try_free(frame(start), order, cpu);
                assert_eq!(got, self.model.free(start, order));
            }
            Action::FreeAny { at, order } => {
                let start = self.some_frame(at);
                assert_eq!(self.pool.try_free(frame(start), order, None), self.model.free(start, order));
            }
            Action::FreeContiguous { which, frames } => {
                let Some(unit) = self.some_owned(which) else { return };
                self.free_contiguous(unit.head, frames);
            }
            Action::Get(which) => {
                let Some(unit) = self.some_owned(which).filter(|unit| unit.refs > 0) else { return };
                assert_eq!(self.pool.get(frame(unit.head)), unit.refs + 1);
                self.model.change(unit, |owned| owned.refs += 1);
            }
            Action::Put(which, cpu) => {
                let Some(unit) = self.some_owned(which).filter(|unit| unit.refs > 0) else { return };
                let any_part = frame(unit.frames().end - 1);
                assert_eq!(self.pool.put(any_part, cpu), unit.refs == 1);
                if unit.refs == 1 {
                    self.model.release(unit);
                } else {
                    self.model.change(unit, |owned| owned.refs -= 1);
                }
            }
            Action::Split(which, order) => {
                let Some(unit) = self.some_owned(which) else { return };
                let got = self.pool.split_compound(frame(unit.head), order);
                if unit.refs == 0 || order > unit.order {
                    assert!(got.is_err());
                    return;
                }
                assert_eq!(got, Ok(()));
                let kind = if order > 0 { Unit::Compound } else { Unit::Singles };
                for part in unit.frames().step_by(1 << order) {
                    self.model.own(part, order, unit.state, kind, unit.refs);
                }
            }
            Action::SetState(which, state) => {
                let Some(unit) = self.some_owned(which).filter(|unit| unit.refs > 0) else { return };
                self.pool.set_state(frame(unit.head), state);
                self.model.change(unit, |owned| owned.state = state);
            }
            Action::Drain(cpu) => self.pool.drain(cpu),
            Action::Add { node, block, blocks } => {
                self.add(NodeId(node), block * PAGEBLOCK, blocks * PAGEBLOCK)
            }
            Action::Remove { at, blocks } => {
                self.remove(self.some_frame(at) & !(PAGEBLOCK - 1), blocks * PAGEBLOCK);
            }
            Action::Compact { node, order, refuse } => {
                let model = &mut self.model;
                let report = self.pool.compact(NodeId(node), order, &mut |from, to, order| {
                    moved(model, from, to, order, refuse)
                });
                self.model.sync_fillers(&self.pool);
                let request = AllocRequest::new(NodeId(node), FrameState::Anon).strict();
                if report.success {
                    assert!(self.model.can_answer(&request, 1 << order, 1 << order));
                }
            }
            Action::Evacuate { at, frames, refuse } => {
                let start = self.some_frame(at);
                let model = &mut self.model;
                let report = self.pool.evacuate(frame(start), frames, &mut |from, to, order| {
                    assert!((start..start + frames).contains(&from.number()));
                    assert!(!(start..start + frames).contains(&to.number()));
                    moved(model, from, to, order, refuse)
                });
                self.model.sync_fillers(&self.pool);
                assert_eq!(report.success, self.model.all_free(start..start + frames), "{report:?}");
            }
        }
    }

    fn own(&mut self, start: u64, frames: u64, state: FrameState, unit: Unit) {
        match unit {
            Unit::Compound => self.model.own(start, frames.ilog2() as u8, state, unit, 1),
            Unit::Singles => {
                for number in start..start + frames {
                    self.model.own(number, 0, state, unit, 1);
                }
            }
        }
    }

    fn answered(&mut self, got: Result<Hfn, NoFrame>, frames: u64, align: u64, request: &AllocRequest) {
        match got {
            Ok(start) => {
                let start = start.number();
                assert_eq!(start & (align - 1), 0);
                assert!(self.model.all_free(start..start + frames), "handed out twice");
                let node = self.pool.node_of(frame(start));
                match request.policy {
                    NodePolicy::Strict => assert_eq!(node, request.node),
                    NodePolicy::Within(set) => assert!(set.contains(node)),
                    NodePolicy::Prefer => {}
                }
                assert!(ZoneKind::of(start + frames - 1) <= request.zone);
                self.own(start, frames, request.state, request.unit);
            }
            Err(no) => {
                assert_eq!(no.frames, frames);
                // A block of small alignment may lie across pageblocks that are not whole: only aligned
                // blocks and whole pageblocks are promised.
                let promised = frames.max(align).next_power_of_two();
                let (frames, align) = if promised <= 1 << MAX_ORDER {
                    (promised, promised)
                } else {
                    (frames.next_multiple_of(PAGEBLOCK), align.max(PAGEBLOCK))
                };
                if request.watermark == Watermark::Emergency {
                    assert!(
                        !self.model.can_answer(request, frames, align),
                        "refused though there is room: {no}"
                    );
                }
            }
        }
    }

    fn free_contiguous(&mut self, start: u64, frames: u64) {
        let got = self.pool.try_free_contiguous(frame(start), frames);
        let mut units = Vec::new();
        let mut at = start;
        while at < start + frames {
            match self.model.unit(at) {
                Ok(unit) if unit.refs == 1 && unit.frames().end <= start + frames => {
                    units.push(unit);
                    at = unit.frames().end;
                }
                _ => {
                    assert!(got.is_err());
                    return;
                }
            }
        }
        assert_eq!(got, Ok(()));
        for unit in units {
            self.model.release(unit);
        }
    }

    fn add(&mut self, node: NodeId, start: u64, frames: u64) {
        // Nodes' sections are far apart: the second half of the choices is above 4 GiB.
        let start = if node.0 == 1 { start + DMA32_END + 4096 } else { start + 8192 };
        let there = (start..start + frames).any(|number| self.model.is_memory(number));
        let got = self.pool.add_range(node, frame(start), frames);
        assert_eq!(got.is_err(), there, "{got:?}");
        if !there {
            self.model.add(node, start..start + frames);
        }
    }

    fn remove(&mut self, start: u64, frames: u64) {
        let got = self.pool.remove_range(frame(start), frames);
        match self.model.check_free(start, frames) {
            Ok(()) => assert_eq!(got, Ok(())),
            Err(BadFrame::InUse(at, state)) => {
                assert_eq!(got, Err(HotplugError::InUse { frame: at.number(), state }));
            }
            Err(_) => assert!(matches!(got, Err(HotplugError::Absent(_)))),
        }
        if got.is_ok() {
            let all = core::mem::take(&mut self.model.ranges);
            for (node, range) in all {
                for part in [range.start..range.end.min(start), range.start.max(start + frames)..range.end] {
                    if part.start < part.end {
                        self.model.add(node, part);
                    }
                }
            }
        }
    }
}

/// The owner's side of a move.
fn moved(model: &mut Model, from: Hfn, to: Hfn, order: u8, refuse: u64) -> bool {
    let unit = model.unit(from.number()).expect("only what somebody owns is moved");
    assert_eq!((unit.head, unit.order), (from.number(), order));
    assert!(matches!(unit.state, FrameState::Anon | FrameState::File));
    assert!(model.all_free(to.number()..to.number() + (1 << order)), "moved onto somebody");
    if from.number().wrapping_mul(refuse | 1).is_multiple_of(16) {
        return false;
    }
    model.owned.retain(|number, _| !unit.frames().contains(number));
    let kind = if order > 0 { Unit::Compound } else { Unit::Singles };
    model.own(to.number(), order, unit.state, kind, unit.refs);
    true
}

fn run(mut pair: Pair, actions: Vec<Action>) -> Pair {
    for (nth, action) in actions.into_iter().enumerate() {
        pair.apply(action);
        if nth % 16 == 15 {
            pair.model.compare(&pair.pool);
        }
    }
    pair.model.compare(&pair.pool);
    pair
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_pool_behaves_as_the_model(actions in proptest::collection::vec(action(), 1..160)) {
        let pool = small_pool();
        let model = Model::new(&pool);
        run(Pair { pool, model }, actions);
    }

    #[test]
    fn a_fragmented_pool_behaves_as_the_model(
        level in 0.1..=1.0f64,
        seed in any::<u64>(),
        pins_per_block in prop_oneof![Just(1u16), Just(3), Just(40)],
        pin in prop_oneof![Just(Mobility::Movable), Just(Mobility::Unmovable)],
        actions in proptest::collection::vec(action(), 1..100),
    ) {
        let fragmentation = Some(Fragmentation { level, seed, pin, pins_per_block });
        let pcp = PcpConfig { batch: 7, high: 20 };
        let pool = Pool::new(&small_layout(), PoolConfig { pcp, fragmentation, min_free_kib: None }).unwrap();
        let model = Model::new(&pool);
        run(Pair { pool, model }, actions);
    }

    #[test]
    fn all_comes_back_in_the_blocks_it_began_with(requests in proptest::collection::vec(request(), 1..200)) {
        let mut pool = small_pool();
        let before = [buddyinfo(&pool, NodeId(0)), buddyinfo(&pool, NodeId(1))];
        let got: Vec<_> = requests.iter().filter_map(|r| Some((pool.alloc(*r).ok()?, r))).collect();
        for (nth, (start, request)) in got.iter().enumerate() {
            if request.unit == Unit::Singles && nth % 2 == 0 {
                // In pieces, in an order of no meaning.
                let frames = 1u64 << request.order;
                for at in 0..frames {
                    let cpu = (at % 3 == 0).then_some(CpuId(1));
                    pool.free(start.offset(at.wrapping_mul(0x9e37_79b1) % frames), 0, cpu);
                }
            } else {
                pool.free(*start, request.order, request.cpu);
            }
        }
        pool.drain(None);
        prop_assert_eq!([buddyinfo(&pool, NodeId(0)), buddyinfo(&pool, NodeId(1))], before);
        prop_assert_eq!(pool.audit().unwrap().owned(), 0);
    }
}
