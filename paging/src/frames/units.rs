//! Owned frames: their references, states, and compound units.

use super::descriptors::Word;
use super::fresh::Kind;
use super::layout::NO_NODE;
use super::{
    BadFrame, CpuId, FramePool, FrameState, PAGEBLOCK, PAGEBLOCK_ORDER, SECTION_FRAMES, Unit, ZoneKind,
};
use crate::{Frame, PhysSpace};

impl<S: PhysSpace> FramePool<S> {
    /// One more reference to the unit that `frame` belongs to. Returns the new count.
    ///
    /// # Panics
    /// If nobody owns the frame.
    #[inline]
    pub fn get(&mut self, frame: Frame<S>) -> u32 {
        let (head, word) = self.owned_unit(frame);
        let refs = word.refs().checked_add(1).expect("fewer than 2^32 references to a frame");
        self.d.set_unit(head, word.with_refs(refs));
        refs
    }

    /// One reference less to the unit that `frame` belongs to; at 0 the unit is freed.
    /// Returns whether it was.
    ///
    /// # Panics
    /// If nobody owns the frame.
    #[inline]
    pub fn put(&mut self, frame: Frame<S>, cpu: Option<CpuId>) -> bool {
        let (head, word) = self.owned_unit(frame);
        if word.refs() > 1 {
            self.d.set_unit(head, word.with_refs(word.refs() - 1));
            return false;
        }
        self.release_unit(head, word, cpu);
        true
    }

    /// The references to the unit that `frame` belongs to; 0 if nobody owns it.
    #[inline]
    pub fn refs(&self, frame: Frame<S>) -> u32 {
        match self.d.unit_of(frame.number()) {
            Some((_, word)) => word.refs(),
            None => u32::from(self.state(frame) == FrameState::Filler),
        }
    }

    /// Makes units of 2^`order` frames (0: singles) of the compound unit at `head`. Each
    /// starts with the head's count; adjust it where the mappings differ.
    ///
    /// # Errors
    /// If `head` is not the head of a unit of at least `order`.
    pub fn split_compound(&mut self, head: Frame<S>, order: u8) -> Result<(), BadFrame<S>> {
        let (found, word) = self.unit(head)?;
        let from = word.unit_order();
        if found != head.number() {
            return Err(BadFrame::Compound { frame: head, head: Frame::new(found), order: from });
        }
        if from < order {
            return Err(BadFrame::Misaligned { frame: head, frames: 1 << order });
        }
        if from == order {
            return Ok(());
        }
        let (state, refs) = (word.state(), word.refs());
        if order == 0 {
            self.d.own(found, from, state, Unit::Singles, refs);
            return Ok(());
        }
        for part in (found..found + (1 << from)).step_by(1 << order) {
            if order < PAGEBLOCK_ORDER {
                self.d.ensure_split(part >> PAGEBLOCK_ORDER);
            }
            self.d.own(part, order, state, Unit::Compound, refs);
        }
        Ok(())
    }

    /// The head and order of the compound unit that `frame` belongs to.
    pub fn compound(&self, frame: Frame<S>) -> Option<(Frame<S>, u8)> {
        let (head, word) = self.d.unit_of(frame.number())?;
        (word.unit_order() > 0).then(|| (Frame::new(head), word.unit_order()))
    }

    /// What `frame` is used for.
    #[inline]
    pub fn state(&self, frame: Frame<S>) -> FrameState {
        let word = self.d.of(frame.number());
        match self.d.unit_of(frame.number()) {
            Some((_, head)) => head.state(),
            None if word.is_free() => FrameState::Free,
            None if word.is_per_cpu() => FrameState::PerCpuFree,
            None => self.blank_state(frame.number()),
        }
    }

    /// The state of a frame whose word is blank.
    #[cold]
    fn blank_state(&self, frame: u64) -> FrameState {
        let block = frame >> PAGEBLOCK_ORDER;
        let Some(&node) =
            self.sections.get((frame / SECTION_FRAMES) as usize).filter(|&&node| node != NO_NODE)
        else {
            return FrameState::Absent;
        };
        let zone = &self.zones[usize::from(node) * 3 + ZoneKind::of(frame) as usize];
        let Some(range) = zone.range_of(block).map(|at| &zone.ranges[at]) else { return FrameState::Absent };
        match range.kind(block, &self.d) {
            Some(Kind::Pinned) if range.fillers(block).any(|offset| offset == frame & (PAGEBLOCK - 1)) => {
                FrameState::Filler
            }
            Some(_) => FrameState::Free,
            None => FrameState::Absent,
        }
    }

    /// Changes what an owned frame (or the unit it belongs to) is used for. A
    /// frame that becomes `Faulty` stays so when its last owner frees it.
    ///
    /// # Panics
    /// If nobody owns the frame, or `state` is not one of an owned frame.
    pub fn set_state(&mut self, frame: Frame<S>, state: FrameState) {
        assert!(state.is_owned(), "{frame:?} is owned: it cannot become {state:?}");
        let (head, word) = self.owned_unit(frame);
        self.d.set_unit(head, word.with_state(state));
    }

    /// The owned unit that holds `frame`: head, and the head's word.
    pub(super) fn unit(&mut self, frame: Frame<S>) -> Result<(u64, Word), BadFrame<S>> {
        let number = frame.number();
        if self.d.of(number).is_blank() && self.state(frame) == FrameState::Filler {
            let zone = self.zone_at(number);
            self.zones[zone].materialise(&mut self.d, number >> PAGEBLOCK_ORDER);
        }
        match self.d.unit_of(number) {
            Some((_, word)) if word.refs() == 0 => Err(BadFrame::InUse(frame, word.state())),
            Some(unit) => Ok(unit),
            None if self.state(frame) == FrameState::Absent => Err(BadFrame::Absent(frame)),
            None => Err(BadFrame::Free(frame)),
        }
    }

    /// As [`unit`](Self::unit), where only a bug can make it fail.
    #[inline]
    fn owned_unit(&mut self, frame: Frame<S>) -> (u64, Word) {
        match self.d.unit_of(frame.number()) {
            Some((head, word)) if word.refs() > 0 => (head, word),
            _ => self.unit(frame).unwrap_or_else(|bad| panic!("frame not owned: {bad}")),
        }
    }
}
