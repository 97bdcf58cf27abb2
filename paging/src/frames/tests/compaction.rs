//! Compaction and evacuation, with an owner that keeps track.

use super::*;
use alloc::collections::BTreeMap;

/// Every second frame of the lower half used, each with content of its own.
fn checkered(blocks: u64) -> (Pool, BTreeMap<Hfn, u64>) {
    let mut pool = flat_pool(blocks * PAGEBLOCK, PoolConfig::default());
    let all = exhaust(&mut pool, anon().emergency());
    let mut content = BTreeMap::new();
    for (nth, frame) in (0..).zip(all) {
        if nth % 2 == 0 && nth < blocks * PAGEBLOCK / 2 {
            content.insert(frame, nth);
        } else {
            pool.free(frame, 0, None);
        }
    }
    (pool, content)
}

fn take_huge(pool: &mut Pool) -> u64 {
    exhaust(pool, anon().order(9).emergency()).len() as u64
}

#[test]
fn compaction_makes_huge_pages_and_loses_nothing() {
    let (mut pool, mut content) = checkered(16);
    assert_eq!(take_huge(&mut pool), 8);
    let contents: Vec<u64> = content.values().copied().collect();
    let mut made = 0;
    loop {
        let report = pool.compact(NodeId(0), 9, &mut |from, to, order| {
            assert_eq!(order, 0);
            assert_eq!(pool_state_is_free(&content, to), None);
            let moved = content.remove(&from).expect("only what is owned moves");
            content.insert(to, moved);
            true
        });
        pool.audit().unwrap();
        if !report.success {
            break;
        }
        made += take_huge(&mut pool);
    }
    // 2048 frames in use fill four of the eight pageblocks.
    assert_eq!(made, 4);
    let mut after: Vec<u64> = content.values().copied().collect();
    after.sort_unstable();
    assert_eq!(after, contents);
    for frame in content.keys() {
        assert_eq!((pool.state(*frame), pool.refs(*frame)), (FrameState::Anon, 1));
    }
}

/// The content of a frame that should have none.
fn pool_state_is_free(content: &BTreeMap<Hfn, u64>, frame: Hfn) -> Option<u64> {
    content.get(&frame).copied()
}

#[test]
fn references_and_states_move_along() {
    let (mut pool, content) = checkered(4);
    for &frame in content.keys() {
        pool.set_state(frame, FrameState::File);
        pool.get(frame);
    }
    take_huge(&mut pool);
    let mut moves = BTreeMap::new();
    let report = pool.compact(NodeId(0), 9, &mut |from, to, _| moves.insert(from, to).is_none());
    assert!(report.success && report.moved == moves.len() as u64 && report.moved == 256);
    for (from, to) in moves {
        assert_eq!(pool.state(from), FrameState::Free);
        assert_eq!((pool.state(to), pool.refs(to)), (FrameState::File, 2));
    }
}

#[test]
fn what_cannot_move_or_is_refused_stays() {
    let (mut pool, content) = checkered(4);
    take_huge(&mut pool);
    let frames: Vec<Hfn> = content.keys().copied().collect();
    // One pinned frame in each pageblock: nothing is moved in vain.
    for frame in [frames[0], frames[256]] {
        pool.set_state(frame, FrameState::Pinned);
    }
    let report = pool.compact(NodeId(0), 9, &mut |_, _, _| panic!("nothing can be gained"));
    assert_eq!((report.success, report.moved), (false, 0));
    for frame in [frames[0], frames[256]] {
        pool.set_state(frame, FrameState::Anon);
    }
    let before = pool.audit().unwrap();
    let report = pool.compact(NodeId(0), 9, &mut |_, _, _| false);
    assert_eq!((report.success, report.moved, report.refused > 0), (false, 0, true));
    assert_eq!(pool.audit().unwrap(), before);
    for frame in frames {
        assert_eq!(pool.state(frame), FrameState::Anon);
    }
}

#[test]
fn movable_fillers_make_way_and_others_do_not() {
    for (pin, huge) in [(Mobility::Movable, true), (Mobility::Unmovable, false)] {
        let fragmentation = Some(Fragmentation { pin, ..Fragmentation::new(1.0, 5) });
        let mut pool = flat_pool(32 * PAGEBLOCK, PoolConfig { fragmentation, ..PoolConfig::default() });
        let mut pages = 0;
        while pool.compact(NodeId(0), 9, &mut |_, _, _| panic!("fillers have no owner to ask")).success {
            pool.alloc(anon().page(crate::PageSize::Size2M).emergency()).unwrap();
            pages += 1;
        }
        let totals = pool.audit().unwrap();
        assert_eq!(totals.of(FrameState::Filler), 32);
        // All fillers fit into one pageblock; the scanners meet in it or just below.
        assert_eq!(pages >= 30, huge, "{pages}");
        assert_eq!(pages == 0, !huge);
    }
}

#[test]
fn a_range_is_emptied_for_a_segment() {
    let (mut pool, mut content) = checkered(16);
    let start = frame(DMA32_END);
    let report = pool.evacuate(start, 4 * PAGEBLOCK, &mut |from, to, _| {
        assert!(to >= start.offset(4 * PAGEBLOCK));
        let moved = content.remove(&from).unwrap();
        content.insert(to, moved).is_none()
    });
    assert!(report.success);
    assert_eq!(report.moved, 1024);
    pool.alloc_at(start, 4 * PAGEBLOCK, FrameState::Reserved, Unit::Singles).unwrap();
    pool.audit().unwrap();
    // With a pinned frame in it, nothing moves.
    let pinned = *content.keys().next().unwrap();
    pool.set_state(pinned, FrameState::Pinned);
    let around = frame(pinned.number() & !511);
    let report = pool.evacuate(around, PAGEBLOCK, &mut |_, _, _| panic!("it cannot succeed"));
    assert!(!report.success);
}

#[test]
fn huge_pages_move_out_of_a_range() {
    let mut pool = flat_pool(16 * PAGEBLOCK, PoolConfig::default());
    let huge = pool.alloc(anon().page(crate::PageSize::Size2M)).unwrap();
    let mut went = None;
    let report = pool.evacuate(huge, PAGEBLOCK, &mut |from, to, order| {
        went = Some((from, to, order));
        true
    });
    assert!(report.success && report.moved == 512);
    let (from, to, order) = went.unwrap();
    assert_eq!((from, order), (huge, 9));
    assert_eq!(pool.compound(to.offset(3)), Some((to, 9)));
    assert_eq!(pool.state(huge), FrameState::Free);
    pool.audit().unwrap();
}

#[test]
fn hopeless_zones_are_left_alone_for_a_while() {
    let (mut pool, content) = checkered(4);
    for &frame in content.keys() {
        pool.set_state(frame, FrameState::Pinned);
    }
    take_huge(&mut pool);
    let tried: Vec<usize> =
        (0..300).filter(|_| pool.try_compact(NodeId(0), 9, &mut |_, _, _| true).scanned > 0).collect();
    assert_eq!(tried, [0, 2, 6, 14, 30, 62, 126, 190, 254]);
    assert!(pool.compact(NodeId(0), 9, &mut |_, _, _| true).scanned > 0);
    // A success ends it.
    for &frame in content.keys() {
        pool.set_state(frame, FrameState::Anon);
    }
    assert!(pool.compact(NodeId(0), 9, &mut |_, _, _| true).success);
    take_huge(&mut pool);
    assert!(pool.try_compact(NodeId(0), 9, &mut |_, _, _| true).scanned > 0);
}
