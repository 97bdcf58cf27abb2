//! Address space layouts of a group's members.
//!
//! A translation can be shared only under one address. Either the kernel gives
//! all members of a group one random layout (in software: nothing here), or
//! each has its own and the hardware adds the difference to the group's layout,
//! segment by segment, between the first-level TLBs and the second level
//! (`diff_i_offset[]`, for the 7 segments that Linux randomises). The page
//! tables then map the group's addresses.

use paging::Va;

/// Segments whose places Linux randomises: code, data, heap, stack, mappings,
/// vDSO and its data.
pub const SEGMENTS: usize = 7;

/// Cycles of the addition, on every miss of a first-level TLB (ISCA'20; from
/// memory, medium trust).
pub const SHIFT_CYCLES: u16 = 2;

/// A segment of a process and how far it lies from the group's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// Its first address in the process.
    pub start: u64,
    /// Its bytes; 0 if there is none.
    pub len: u64,
    /// What is added to get the group's address.
    pub offset: u64,
}

impl Segment {
    /// The segment that lies at `start` in a process and at `group` in the group's layout.
    pub const fn new(start: u64, len: u64, group: u64) -> Self {
        Segment { start, len, offset: group.wrapping_sub(start) }
    }
}

/// The offsets of one process; none by default (one layout for the group).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Aslr {
    segments: [Segment; SEGMENTS],
    used: bool,
}

impl Aslr {
    /// The hardware's offsets for a process. They must be multiples of 4 KiB
    /// (2 MiB where huge pages lie), and group addresses must not overlap.
    pub const fn hardware(segments: [Segment; SEGMENTS]) -> Self {
        Aslr { segments, used: true }
    }
    /// Whether the hardware adds offsets.
    #[inline(always)]
    pub const fn is_used(&self) -> bool {
        self.used
    }
    /// Cycles on a miss of a first-level TLB.
    #[inline(always)]
    pub const fn cycles(&self) -> u16 {
        if self.used { SHIFT_CYCLES } else { 0 }
    }
    /// The group's address for the process's `va`; the same outside all segments.
    #[inline(always)]
    pub fn group(&self, va: Va) -> Va {
        if !self.used {
            return va;
        }
        let inside = |s: &&Segment| va.raw().wrapping_sub(s.start) < s.len;
        match self.segments.iter().find(inside) {
            Some(segment) => Va::new(va.raw().wrapping_add(segment.offset)),
            None => va,
        }
    }
    /// The process's address for the group's `va`; the same outside all segments.
    pub fn own(&self, va: Va) -> Va {
        let inside = |s: &&Segment| va.raw().wrapping_sub(s.start.wrapping_add(s.offset)) < s.len;
        match self.segments.iter().find(inside) {
            Some(segment) if self.used => Va::new(va.raw().wrapping_sub(segment.offset)),
            _ => va,
        }
    }
    /// Whether it lies elsewhere than its group somewhere.
    pub fn is_moved(&self) -> bool {
        self.used && self.segments.iter().any(|segment| segment.len > 0 && segment.offset != 0)
    }
    /// Where the `len` bytes from the group's address `start` lie in the process: in each segment
    /// that has some of them, and where they would be outside of all.
    pub fn own_ranges(&self, start: u64, len: u64, visit: &mut dyn FnMut(u64, u64)) {
        visit(start, len);
        let end = start.saturating_add(len);
        for segment in self.segments.iter().filter(|segment| self.used && segment.offset != 0) {
            let group = segment.start.wrapping_add(segment.offset);
            let (first, last) = (start.max(group), end.min(group.saturating_add(segment.len)));
            if first < last {
                visit(first.wrapping_sub(segment.offset), last - first);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn processes_with_layouts_of_their_own_meet_at_the_groups_addresses() {
        let group = [0x40_0000u64, 0x60_0000, 0x100_0000, 0x7f00_0000_0000];
        // Segment i lies i + 1 times `pages` pages from its place in the group.
        let at = |i: usize, pages: i64| group[i].wrapping_add_signed(pages * (i as i64 + 1) * 4096);
        let layout = |pages: i64| {
            let mut segments = [Segment::default(); SEGMENTS];
            for (i, segment) in segments.iter_mut().take(group.len()).enumerate() {
                *segment = Segment::new(at(i, pages), 0x10_0000, group[i]);
            }
            Aslr::hardware(segments)
        };
        let (up, down) = (layout(5), layout(-3));
        for (i, start) in group.into_iter().enumerate() {
            for offset in [0, 4096, 0xf_ffff] {
                assert_eq!(up.group(Va::new(at(i, 5) + offset)), Va::new(start + offset));
                assert_eq!(up.own(Va::new(start + offset)), Va::new(at(i, 5) + offset));
                assert_eq!(down.group(Va::new(at(i, -3) + offset)), Va::new(start + offset));
            }
        }
        // All of segment 1 of the group, and a page after it.
        let mut own = Vec::new();
        up.own_ranges(group[1], 0x10_1000, &mut |start, len| own.push((start, len)));
        assert_eq!(own, [(group[1], 0x10_1000), (at(1, 5), 0x10_0000)]);
        let outside = Va::new(0x5555_0000_0000);
        assert_eq!((up.group(outside), up.own(outside)), (outside, outside));
        assert!(up.is_moved() && !Aslr::hardware([Segment::default(); SEGMENTS]).is_moved());
        assert_eq!(Aslr::default().group(outside), outside);
        assert_eq!((up.cycles(), Aslr::default().cycles()), (2, 0));
    }
}
