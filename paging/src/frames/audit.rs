//! The check that every frame is somewhere exactly once.

use super::buddy::Zone;
use super::descriptors::{Descriptors, Word};
use super::fresh::{Fresh, Kind};
use super::{FramePool, FrameState, MAX_ORDER, Mobility, ORDERS, PAGEBLOCK, PAGEBLOCK_ORDER};
use crate::PhysSpace;
use alloc::vec::Vec;

/// All frames by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Frames in each state, indexed by [`FrameState`]; `Absent` stays 0.
    pub by_state: [u64; FrameState::COUNT],
}

impl Totals {
    /// Frames in `state`.
    pub fn of(&self, state: FrameState) -> u64 {
        self.by_state[state as usize]
    }
    /// All frames that exist.
    pub fn all(&self) -> u64 {
        self.by_state.iter().sum()
    }
    /// Frames that somebody owns.
    pub fn owned(&self) -> u64 {
        FrameState::ALL.into_iter().filter(|state| state.is_owned()).map(|state| self.of(state)).sum()
    }
    fn add(&mut self, state: FrameState, frames: u64) {
        self.by_state[state as usize] += frames;
    }
}

/// An inconsistency that [`FramePool::audit`] found: a bug.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("frame {frame:#x}: {what}")]
pub struct AuditError {
    /// The frame, or the first one.
    pub frame: u64,
    /// What is wrong with it.
    pub what: &'static str,
}

fn check(right: bool, frame: u64, what: &'static str) -> Result<(), AuditError> {
    if right { Ok(()) } else { Err(AuditError { frame, what }) }
}

impl<S: PhysSpace> FramePool<S> {
    /// Checks that every frame is free, on a CPU's list, or owned exactly once, and that all lists
    /// and counts agree. Takes time in proportion to the memory used.
    ///
    /// # Errors
    /// With the first inconsistency.
    pub fn audit(&self) -> Result<Totals, AuditError> {
        let mut totals = Totals::default();
        let mut used_blocks = Vec::new();
        for zone in &self.zones {
            let mut walk = Walk { d: &self.d, totals: &mut totals, found: Found::default() };
            for range in &zone.ranges {
                walk.range(range, &mut used_blocks)?;
            }
            let found = walk.found;
            self.audit_lists(zone, &found)?;
            let frames: u64 = zone.ranges.iter().map(|range| range.frames.end - range.frames.start).sum();
            let first = zone.ranges.first().map_or(0, |range| range.frames.start);
            check(frames == zone.frames, first, "the zone counts other frames than its ranges have")?;
            check(found.free == zone.free, first, "the zone counts other free frames than there are")?;
            self.audit_per_cpu(zone, &found, first)?;
        }
        used_blocks.dedup();
        check(used_blocks.len() == self.d.used_blocks(), 0, "a pageblock outside all memory is in use")?;
        Ok(totals)
    }

    fn audit_lists(&self, zone: &Zone, found: &Found) -> Result<(), AuditError> {
        for mobility in Mobility::ALL {
            for order in 0..ORDERS as u8 {
                let list = zone.lists.of(mobility, order);
                let listed = zone.lists.orders(mobility, order) >> order & 1 == 1;
                check(listed == (list.len > 0), list.head, "a free list's bit is wrong")?;
                check(
                    list.len == found.heads[mobility as usize][order as usize],
                    list.head,
                    "a free list has another length than there are free blocks",
                )?;
                let mut at = list.head;
                for _ in 0..list.len {
                    check(
                        self.d.is_free_head(at, order),
                        at,
                        "listed as free, but no head of a free block of that order",
                    )?;
                    check(self.d.mobility(at) == mobility, at, "listed under the other mobility")?;
                    let next = self.d.head(at, order).next();
                    check(
                        self.d.is_free_head(next, order) && self.d.head(next, order).prev() == at,
                        at,
                        "the next free block does not point back",
                    )?;
                    let buddy = at ^ 1 << order;
                    let unmerged = order < MAX_ORDER && self.d.is_free_head(buddy, order)
                        || order == PAGEBLOCK_ORDER
                            && zone
                                .ranges
                                .iter()
                                .any(|range| range.is_clean(buddy >> PAGEBLOCK_ORDER, &self.d));
                    check(!unmerged, at, "two free buddies are not merged")?;
                    at = next;
                }
                check(list.len == 0 || at == list.head, at, "a free list does not close")?;
            }
        }
        Ok(())
    }

    fn audit_per_cpu(&self, zone: &Zone, found: &Found, first: u64) -> Result<(), AuditError> {
        let mut listed: Vec<u64> = zone.pcp.iter().collect();
        listed.sort_unstable();
        for (at, &frame) in listed.iter().enumerate() {
            check(at == 0 || listed[at - 1] != frame, frame, "twice on per-CPU lists")?;
            check(self.d.of(frame) == Word::PER_CPU, frame, "on a per-CPU list, but not marked so")?;
        }
        check(
            listed.len() as u64 == found.per_cpu,
            first,
            "a frame is marked as on a per-CPU list, but on none",
        )?;
        check(listed.len() as u64 == zone.pcp.frames, first, "the per-CPU lists are counted wrongly")
    }
}

/// What a walk over the words of a zone found.
#[derive(Default)]
struct Found {
    free: u64,
    per_cpu: u64,
    /// Heads of free blocks by mobility and order.
    heads: [[u64; ORDERS]; 2],
}

struct Walk<'a> {
    d: &'a Descriptors,
    totals: &'a mut Totals,
    found: Found,
}

impl Walk<'_> {
    fn range(&mut self, range: &Fresh, used_blocks: &mut Vec<u64>) -> Result<(), AuditError> {
        check(range.is_consistent(self.d), range.frames.start, "fresh pageblocks are counted wrongly")?;
        for (block, kind) in range.kinds(self.d) {
            let held = match kind {
                Some(Kind::Pinned) => range.held(),
                Some(_) => 0,
                None => continue,
            };
            debug_assert!(self.d.whole(block).is_blank());
            self.found.free += PAGEBLOCK - held;
            self.totals.add(FrameState::Free, PAGEBLOCK - held);
            self.totals.add(FrameState::Filler, held);
        }
        let mut at = range.frames.start;
        while at < range.frames.end {
            let block = at >> PAGEBLOCK_ORDER;
            let end = range.frames.end.min((block + 1) << PAGEBLOCK_ORDER);
            let whole = self.d.whole(block);
            if !whole.is_blank() {
                used_blocks.push(block);
            }
            if whole.is_split() {
                self.split(at, end)?;
            } else if range.blocks.contains(&block) {
                self.whole(block, whole)?;
            } else {
                return Err(AuditError { frame: at, what: "a pageblock with a hole is not split" });
            }
            at = end;
        }
        Ok(())
    }

    fn head(&mut self, frame: u64, order: u8) {
        self.found.heads[self.d.mobility(frame) as usize][order as usize] += 1;
    }

    fn whole(&mut self, block: u64, word: Word) -> Result<(), AuditError> {
        let frame = block << PAGEBLOCK_ORDER;
        if word.is_free() {
            self.found.free += PAGEBLOCK;
            self.totals.add(FrameState::Free, PAGEBLOCK);
            let (head, order) = self.d.free_block_of(frame).unwrap_or_default();
            check(self.d.is_free_head(head, order), frame, "inside a free block that has no head")?;
            check(head & ((1 << order) - 1) == 0, frame, "a free block is not aligned")?;
            if head == frame {
                let inner = |block| self.d.whole(block).is_inner();
                check(
                    order == PAGEBLOCK_ORDER || inner(block + 1),
                    frame,
                    "a free block's second half is not free",
                )?;
                self.head(frame, order);
            }
        } else if !word.is_blank() {
            self.unit(frame, word)?;
            let (_, head) = self.d.unit_of(frame).unwrap_or((frame, word));
            self.totals.add(head.state(), PAGEBLOCK);
        }
        Ok(())
    }

    fn split(&mut self, start: u64, end: u64) -> Result<(), AuditError> {
        let mut inner_until = 0;
        for frame in start..end {
            let word = self.d.of(frame);
            if let Some(order) = word.free_order() {
                check(frame >= inner_until, frame, "a free block begins inside another")?;
                check(frame & ((1 << order) - 1) == 0, frame, "a free block is not aligned")?;
                inner_until = frame + (1 << order);
                check(
                    inner_until <= end && order < PAGEBLOCK_ORDER,
                    frame,
                    "a free block leaves its pageblock",
                )?;
                self.head(frame, order);
            }
            if word.is_free() {
                check(frame < inner_until, frame, "free, but in no free block")?;
                self.found.free += 1;
                self.totals.add(FrameState::Free, 1);
                continue;
            }
            check(frame >= inner_until, frame, "not free, but inside a free block")?;
            if word.is_per_cpu() {
                self.found.per_cpu += 1;
                self.totals.add(FrameState::PerCpuFree, 1);
                continue;
            }
            check(!word.is_blank(), frame, "memory that nobody knows of")?;
            self.unit(frame, word)?;
            let (_, head) = self.d.unit_of(frame).unwrap_or((frame, word));
            self.totals.add(head.state(), 1);
        }
        Ok(())
    }

    /// Checks the word of an owned frame or pageblock.
    fn unit(&self, frame: u64, word: Word) -> Result<(), AuditError> {
        let Some((head, owner)) = self.d.unit_of(frame) else {
            return Err(AuditError { frame, what: "neither free nor owned" });
        };
        check(owner.is_owned(), frame, "part of a unit that nobody owns")?;
        check(owner.state().is_owned(), frame, "owned as something that cannot be owned")?;
        let order = owner.unit_order();
        check(
            head & ((1 << order) - 1) == 0 && frame - head < 1 << order,
            frame,
            "outside the unit it belongs to",
        )?;
        check(owner.refs() > 0 || owner.state() == FrameState::Faulty, frame, "owned without a reference")?;
        if word.is_owned() && order > 0 {
            let step = if order >= PAGEBLOCK_ORDER { PAGEBLOCK } else { 1 };
            let parts = (head + step..head + (1 << order)).step_by(step as usize);
            let lost = parts.into_iter().find(|&part| self.d.of(part).part_of() != Some(head));
            check(lost.is_none(), lost.unwrap_or(frame), "not marked as a part of its unit")?;
        }
        Ok(())
    }
}
