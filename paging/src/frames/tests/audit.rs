//! The audit notices what is planted.

use super::super::descriptors::Word;
use super::*;

/// A pool with something of everything.
fn used_pool() -> Pool {
    let mut pool = flat_pool(16 * PAGEBLOCK, PoolConfig::default());
    let cpu = Some(CpuId(0));
    let singles: Vec<_> = (0..100).map(|_| pool.alloc(anon().on_cpu(CpuId(0))).unwrap()).collect();
    for frame in singles.iter().step_by(2) {
        pool.free(*frame, 0, cpu);
    }
    pool.alloc(anon().order(3).unit(Unit::Compound)).unwrap();
    pool.alloc(anon().order(9).unit(Unit::Compound)).unwrap();
    pool.audit().unwrap();
    pool
}

fn first(pool: &Pool, wanted: impl Fn(Word) -> bool) -> u64 {
    (DMA32_END..DMA32_END + 16 * PAGEBLOCK).find(|&number| wanted(pool.d.of(number))).unwrap()
}

fn what(pool: &Pool) -> &'static str {
    pool.audit().unwrap_err().what
}

#[test]
fn a_frame_that_is_lost_or_has_two_owners() {
    let mut pool = used_pool();
    let owned = first(&pool, Word::is_plain_single);
    pool.d.set_head(owned, 0, Word::BLANK);
    assert_eq!(what(&pool), "memory that nobody knows of");
    pool.d.set_head(owned, 0, Word::INNER);
    assert_eq!(what(&pool), "free, but in no free block");
    pool.d.set_head(owned, 0, Word::owned(FrameState::Anon, 0, 0));
    assert_eq!(what(&pool), "owned without a reference");
    pool.d.set_head(owned, 0, Word::owned(FrameState::Free, 0, 1));
    assert_eq!(what(&pool), "owned as something that cannot be owned");

    let mut pool = used_pool();
    let inner = first(&pool, Word::is_inner);
    pool.d.ensure_split(inner >> PAGEBLOCK_ORDER);
    pool.d.set_head(inner, 0, Word::owned(FrameState::Anon, 0, 1));
    assert_eq!(what(&pool), "not free, but inside a free block");
}

#[test]
fn a_broken_list() {
    let mut pool = used_pool();
    let head = first(&pool, |word| word.is_free_head(0) || word.is_free_head(1));
    let order = pool.d.of(head).free_order().unwrap();
    let mobility = pool.d.mobility(head);
    let word = pool.d.of(head);
    pool.d.set_head(head, order, word.with_next(head ^ 1 << 20));
    assert_eq!(what(&pool), "the next free block does not point back");
    pool.d.set_head(head, order, word);
    pool.zones[2].lists.unlink(&mut pool.d, head, order, mobility);
    assert!(what(&pool).starts_with("a free list"), "{}", what(&pool));

    let mut pool = used_pool();
    pool.zones[2].free += 1;
    assert_eq!(what(&pool), "the zone counts other free frames than there are");

    let mut pool = used_pool();
    pool.d.set_mobility(head, PAGEBLOCK_ORDER, Mobility::Unmovable);
    assert_eq!(what(&pool), "a free list has another length than there are free blocks");
}

#[test]
fn buddies_that_did_not_merge() {
    let mut pool = flat_pool(2 * PAGEBLOCK, PoolConfig::default());
    let zone = &mut pool.zones[2];
    assert_eq!(zone.extract(&mut pool.d, DMA32_END, 8), 8);
    zone.free += 256;
    let end = super::super::lists::End::Hot;
    pool.d.fill(DMA32_END, 8, Word::INNER);
    zone.lists.push(&mut pool.d, DMA32_END, 8, Mobility::Movable, end);
    assert_eq!(what(&pool), "two free buddies are not merged");
}

#[test]
fn per_cpu_lists_that_lie() {
    let mut pool = used_pool();
    let listed = first(&pool, Word::is_per_cpu);
    pool.zones[2].pcp.push(CpuId(1), Mobility::Movable, listed);
    assert_eq!(what(&pool), "twice on per-CPU lists");

    let mut pool = used_pool();
    let owned = first(&pool, Word::is_plain_single);
    pool.zones[2].pcp.push(CpuId(1), Mobility::Movable, owned);
    assert_eq!(what(&pool), "on a per-CPU list, but not marked so");

    let mut pool = used_pool();
    pool.zones[2].pcp.pop(CpuId(0), Mobility::Movable);
    assert_eq!(what(&pool), "a frame is marked as on a per-CPU list, but on none");
}

#[test]
fn a_unit_that_fell_apart() {
    let mut pool = used_pool();
    let part = first(&pool, |word| word.part_of().is_some());
    let head = pool.d.of(part).part_of().unwrap();
    assert!(pool.compound(frame(head)).is_some());
    pool.d.set_head(part, 0, Word::owned(FrameState::Anon, 0, 1));
    assert_eq!(what(&pool), "not marked as a part of its unit");

    let mut pool = used_pool();
    pool.d.set_head(head, 0, Word::owned(FrameState::Anon, 0, 1));
    assert_eq!(what(&pool), "outside the unit it belongs to");
}

#[test]
fn memory_that_does_not_exist() {
    let mut pool = used_pool();
    pool.d.set_whole(0, Word::owned(FrameState::Anon, 0, 1));
    assert_eq!(what(&pool), "a pageblock outside all memory is in use");
    let mut pool = used_pool();
    pool.zones[2].frames -= 1;
    assert_eq!(what(&pool), "the zone counts other frames than its ranges have");
}
