//! Memory that comes and goes while the machine runs.

use super::fresh::Fresh;
use super::layout::NO_NODE;
use super::pool::zone_parts;
use super::{
    BadFrame, FramePool, FrameState, MAX_FRAMES, NodeId, PAGEBLOCK, PAGEBLOCK_ORDER, SECTION_FRAMES,
};
use crate::{Frame, PhysSpace};
use alloc::vec::Vec;
use core::ops::Range;

/// Why memory could not be added or removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HotplugError {
    /// Not whole pageblocks.
    #[error("frames {start:#x}..{end:#x} are not whole 2 MiB pageblocks")]
    Misaligned {
        /// First frame.
        start: u64,
        /// First frame after.
        end: u64,
    },
    /// Memory is there already.
    #[error("frame {0:#x} is memory already")]
    Present(u64),
    /// No memory there to remove.
    #[error("frame {0:#x} is not memory")]
    Absent(u64),
    /// A frame in use.
    #[error("frame {frame:#x} is in use as {state:?}")]
    InUse {
        /// The frame.
        frame: u64,
        /// What it is used for.
        state: FrameState,
    },
    /// The section belongs to another node.
    #[error("the section of frame {frame:#x} belongs to node {owner}")]
    OtherNode {
        /// The frame.
        frame: u64,
        /// The node that has the section.
        owner: u8,
    },
    /// Beyond the supported addresses, or no such node.
    #[error("frame {0:#x} or its node is beyond what the pool supports")]
    OutOfRange(u64),
}

impl<S: PhysSpace> FramePool<S> {
    /// Adds never-used memory to `node`: whole pageblocks.
    ///
    /// # Errors
    /// If the range is no such, or memory already, or in a section of another node.
    pub fn add_range(&mut self, node: NodeId, start: Frame<S>, frames: u64) -> Result<(), HotplugError> {
        let range = self.plug_range(start, frames)?;
        if self.zones_of(node).is_empty() {
            return Err(HotplugError::OutOfRange(range.start));
        }
        for section in sections(&range) {
            match self.sections.get(section) {
                Some(&owner) if owner != NO_NODE && owner != node.0 => {
                    return Err(HotplugError::OtherNode { frame: section as u64 * SECTION_FRAMES, owner });
                }
                _ => {}
            }
        }
        let ranges = self.zones.iter().flat_map(|zone| &zone.ranges);
        if let Some(there) = ranges.map(|other| overlap(&other.frames, &range)).find(|both| !both.is_empty())
        {
            return Err(HotplugError::Present(there.start));
        }
        self.d.grow(range.end);
        let count = sections(&range).end.max(self.sections.len());
        self.sections.resize(count, NO_NODE);
        self.sections[sections(&range)].fill(node.0);
        for part in zone_parts(range) {
            let zone = self.zone_at(part.start);
            self.zones[zone].add(Fresh::new(part, None), &mut self.d);
        }
        self.refresh();
        Ok(())
    }

    /// Removes memory that is wholly free: whole pageblocks. Per-CPU lists are drained if need be.
    ///
    /// # Errors
    /// If a frame of the range is not memory, or in use; nothing is changed then.
    pub fn remove_range(&mut self, start: Frame<S>, frames: u64) -> Result<(), HotplugError> {
        let range = self.plug_range(start, frames)?;
        let mut known = 0;
        for other in self.zones.iter().flat_map(|zone| &zone.ranges) {
            // A pageblock with a hole in it cannot go.
            let whole = other.blocks.start * PAGEBLOCK..other.blocks.end * PAGEBLOCK;
            let both = overlap(&whole, &range);
            known += both.end.saturating_sub(both.start);
        }
        self.check_free(range.start, frames).map_err(|bad| match bad {
            BadFrame::InUse(frame, state) => HotplugError::InUse { frame: frame.number(), state },
            BadFrame::Absent(frame) => HotplugError::Absent(frame.number()),
            _ => HotplugError::OutOfRange(range.start),
        })?;
        if known != frames {
            return Err(HotplugError::Misaligned { start: range.start, end: range.end });
        }
        self.take_range(range.start, frames, FrameState::Reserved);
        self.d.blank(range.start >> PAGEBLOCK_ORDER..range.end >> PAGEBLOCK_ORDER);
        for zone in &mut self.zones {
            for old in core::mem::take(&mut zone.ranges) {
                let gone = overlap(&old.frames, &range);
                if gone.is_empty() {
                    zone.ranges.push(old);
                    continue;
                }
                zone.frames -= gone.end - gone.start;
                zone.scanners = None;
                let left = [old.frames.start..gone.start, gone.end..old.frames.end];
                let left = left.into_iter().filter(|part| !part.is_empty());
                zone.ranges.extend(left.map(|part| old.part(part, &self.d)));
            }
        }
        for section in sections(&range) {
            let first = section as u64 * SECTION_FRAMES;
            let in_section = |of: &Fresh| !overlap(&of.frames, &(first..first + SECTION_FRAMES)).is_empty();
            if !self.zones.iter().flat_map(|zone| &zone.ranges).any(in_section) {
                self.sections[section] = NO_NODE;
            }
        }
        self.refresh();
        Ok(())
    }

    /// The ranges of memory of `node`, ascending.
    pub fn ranges(&self, node: NodeId) -> Vec<Range<Frame<S>>> {
        let ranges = self.zones_of(node).iter().flat_map(|zone| &zone.ranges);
        ranges.map(|range| Frame::new(range.frames.start)..Frame::new(range.frames.end)).collect()
    }

    fn plug_range(&self, start: Frame<S>, frames: u64) -> Result<Range<u64>, HotplugError> {
        let start = start.number();
        let end = start.checked_add(frames).filter(|&end| end <= MAX_FRAMES);
        let end = end.ok_or(HotplugError::OutOfRange(start))?;
        if frames == 0 || (start | end) & (PAGEBLOCK - 1) != 0 {
            return Err(HotplugError::Misaligned { start, end });
        }
        Ok(start..end)
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    a.start.max(b.start)..a.end.min(b.end)
}

fn sections(range: &Range<u64>) -> Range<usize> {
    (range.start / SECTION_FRAMES) as usize..range.end.div_ceil(SECTION_FRAMES) as usize
}
