//! The slow and obvious model: a map from owned frames to who has them.

use super::*;
use alloc::collections::BTreeMap;
use core::ops::Range;

/// Who has a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owned {
    pub head: u64,
    /// 0 for a single.
    pub order: u8,
    pub state: FrameState,
    pub refs: u32,
}

impl Owned {
    pub fn frames(&self) -> Range<u64> {
        self.head..self.head + (1 << self.order)
    }
}

/// All memory: ranges with their node, and owned frames (one entry for each).
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub ranges: Vec<(NodeId, Range<u64>)>,
    pub owned: BTreeMap<u64, Owned>,
}

impl Model {
    /// What the pool starts with. Fillers are taken over from it.
    pub fn new(pool: &Pool) -> Self {
        let mut model = Model::default();
        for node in pool.nodes().iter() {
            for range in pool.ranges(node) {
                model.add(node, range.start.number()..range.end.number());
            }
        }
        model.sync_fillers(pool);
        model
    }

    pub fn add(&mut self, node: NodeId, range: Range<u64>) {
        self.ranges.push((node, range));
        self.ranges.sort_by_key(|(_, range)| range.start);
        self.ranges.dedup_by(|next, range| {
            let adjacent = range.0 == next.0 && range.1.end == next.1.start;
            if adjacent {
                range.1.end = next.1.end;
            }
            adjacent
        });
    }

    /// Fillers move without anybody being asked.
    pub fn sync_fillers(&mut self, pool: &Pool) {
        self.owned.retain(|_, owned| owned.state != FrameState::Filler);
        for number in self.ranges.clone().into_iter().flat_map(|(_, range)| range) {
            if pool.state(frame(number)) == FrameState::Filler {
                self.own(number, 0, FrameState::Filler, Unit::Singles, pool.refs(frame(number)));
            }
        }
    }

    pub fn is_memory(&self, number: u64) -> bool {
        self.ranges.iter().any(|(_, range)| range.contains(&number))
    }

    /// Why the frame is not owned.
    fn unowned(&self, number: u64) -> BadFrame<HostPhys> {
        if self.is_memory(number) { BadFrame::Free(frame(number)) } else { BadFrame::Absent(frame(number)) }
    }

    pub fn all_free(&self, range: Range<u64>) -> bool {
        range.clone().all(|number| self.is_memory(number)) && self.owned.range(range).next().is_none()
    }

    pub fn own(&mut self, start: u64, order: u8, state: FrameState, unit: Unit, refs: u32) {
        for number in start..start + (1 << order) {
            let owned = match unit {
                Unit::Singles => Owned { head: number, order: 0, state, refs },
                Unit::Compound => Owned { head: start, order, state, refs },
            };
            self.owned.insert(number, owned);
        }
    }

    /// The unit that holds the frame, or the error.
    pub fn unit(&self, number: u64) -> Result<Owned, BadFrame<HostPhys>> {
        match self.owned.get(&number) {
            Some(owned) if owned.refs == 0 => Err(BadFrame::InUse(frame(number), owned.state)),
            Some(owned) => Ok(*owned),
            None => Err(self.unowned(number)),
        }
    }

    pub fn change(&mut self, unit: Owned, change: impl Fn(&mut Owned)) {
        for number in unit.frames() {
            change(self.owned.get_mut(&number).unwrap());
        }
    }

    /// A unit's last reference is gone.
    pub fn release(&mut self, unit: Owned) {
        if unit.state == FrameState::Faulty {
            self.change(unit, |owned| owned.refs = 0);
        } else {
            self.owned.retain(|number, _| !unit.frames().contains(number));
        }
    }

    pub fn free(&mut self, start: u64, order: u8) -> Result<(), BadFrame<HostPhys>> {
        if start & ((1 << order) - 1) != 0 {
            return Err(BadFrame::Misaligned { frame: frame(start), frames: 1 << order });
        }
        let shared = |unit: Owned, at| match unit.refs {
            1 => Ok(()),
            refs => Err(BadFrame::Shared { frame: frame(at), refs }),
        };
        let unit = self.unit(start)?;
        if unit.order > 0 {
            if unit.head != start || unit.order != order {
                let head = frame(unit.head);
                return Err(BadFrame::Compound { frame: frame(start), head, order: unit.order });
            }
            shared(unit, start)?;
            self.release(unit);
            return Ok(());
        }
        for number in start..start + (1 << order) {
            let unit = self.unit(number)?;
            if unit.order > 0 {
                let head = frame(unit.head);
                return Err(BadFrame::Compound { frame: head, head, order: unit.order });
            }
            shared(unit, number)?;
        }
        for number in start..start + (1 << order) {
            self.release(self.unit(number).unwrap());
        }
        Ok(())
    }

    /// Why a range cannot be taken out of the allocator.
    pub fn check_free(&self, start: u64, frames: u64) -> Result<(), BadFrame<HostPhys>> {
        for number in start..start + frames {
            if let Some(owned) = self.owned.get(&number) {
                return Err(BadFrame::InUse(frame(number), owned.state));
            }
            if !self.is_memory(number) {
                return Err(BadFrame::Absent(frame(number)));
            }
        }
        Ok(())
    }

    /// Whether a request can be answered, all reserves included.
    pub fn can_answer(&self, request: &AllocRequest, frames: u64, align: u64) -> bool {
        self.ranges.iter().any(|(node, range)| {
            let allowed = match request.policy {
                NodePolicy::Prefer => true,
                NodePolicy::Strict => *node == request.node,
                NodePolicy::Within(set) => set.contains(*node),
            };
            let end = range.end.min(request.zone.frames().end);
            // No block lies in two zones.
            let one_zone = |start: u64| ZoneKind::of(start) == ZoneKind::of(start + frames - 1);
            let starts = (range.start.next_multiple_of(align)..end).step_by(align as usize);
            allowed
                && starts
                    .take_while(|start| start + frames <= end)
                    .any(|start| one_zone(start) && self.owned.range(start..start + frames).next().is_none())
        })
    }

    /// Owned frames by state.
    pub fn totals(&self) -> [u64; FrameState::COUNT] {
        let mut totals = [0; FrameState::COUNT];
        for owned in self.owned.values() {
            totals[owned.state as usize] += 1;
        }
        totals
    }

    /// Compares with the pool: totals, and each owned frame.
    pub fn compare(&self, pool: &Pool) {
        let mut totals = pool.audit().unwrap_or_else(|error| panic!("{error}"));
        let free = core::mem::take(&mut totals.by_state[FrameState::Free as usize])
            + core::mem::take(&mut totals.by_state[FrameState::PerCpuFree as usize]);
        assert_eq!(totals.by_state, self.totals());
        let all: u64 = self.ranges.iter().map(|(_, range)| range.end - range.start).sum();
        assert_eq!(free + self.owned.len() as u64, all);
        for (&number, owned) in &self.owned {
            assert_eq!(pool.state(frame(number)), owned.state);
            assert_eq!(pool.refs(frame(number)), owned.refs);
            let unit = (owned.order > 0).then_some((frame(owned.head), owned.order));
            assert_eq!(pool.compound(frame(number)), unit);
        }
    }
}
