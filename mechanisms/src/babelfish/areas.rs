//! What the members of a group map where: two may share a leaf table only if
//! neither maps something else in it.
//!
//! A hole is compatible with everything: the published hardware serves a stray
//! access of a member from the group's entries as well.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;
use paging::{Content, Flags};

/// What is mapped from some address on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    object: Option<u64>,
    /// The object's page minus the address's, which stays when a piece is cut.
    offset: u64,
    rights: Flags,
    shared: bool,
}

impl Piece {
    pub(super) fn new(start: u64, content: Content) -> Self {
        Piece {
            object: content.object,
            offset: content.page.wrapping_sub(start >> 12),
            rights: content.rights,
            shared: content.shared,
        }
    }
    /// Whether all who map it, and did not write to it on their own, map the same frames.
    pub(super) fn is_object(&self) -> bool {
        self.object.is_some()
    }
    /// Whether two who map `self` and `other` at the same place map the same frames there.
    ///
    /// A table is `inherited` if it came from one process by `fork` and may
    /// hold pages that only its descendants have.
    fn fits(&self, other: &Piece, inherited: bool) -> bool {
        if inherited {
            return self == other && self.shared && self.is_object();
        }
        // Anonymous pages are never put into a table that was not inherited.
        self == other || !(self.is_object() || other.is_object())
    }
}

/// Non-overlapping pieces by first address.
#[derive(Clone, Debug, Default)]
pub(super) struct Areas(BTreeMap<u64, (u64, Piece)>);

impl Areas {
    /// The pieces that overlap `range`, cut to it.
    pub(super) fn within(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, Piece)> + '_ {
        let before = self.0.range(..range.start).next_back();
        before.into_iter().chain(self.0.range(range.clone())).filter_map(move |(&start, &(end, piece))| {
            let cut = start.max(range.start)..end.min(range.end);
            (cut.start < cut.end).then_some((cut, piece))
        })
    }

    /// Puts `piece`, or nothing, in the place of what is in `range`.
    pub(super) fn set(&mut self, range: Range<u64>, piece: Option<Piece>) {
        if range.is_empty() {
            return;
        }
        let cut: Vec<_> = self
            .within(range.clone())
            .filter_map(|(part, _)| self.0.range(..=part.start).next_back().map(|(&s, &v)| (s, v)))
            .collect();
        for (start, (end, old)) in cut {
            self.0.remove(&start);
            if start < range.start {
                self.0.insert(start, (range.start, old));
            }
            if end > range.end {
                self.0.insert(range.end, (end, old));
            }
        }
        if let Some(piece) = piece {
            self.0.insert(range.start, (range.end, piece));
        }
    }

    /// Adds what `other` has in `range`.
    pub(super) fn merge(&mut self, other: &Areas, range: Range<u64>) {
        for (part, piece) in other.within(range) {
            self.set(part, Some(piece));
        }
    }

    /// Whether something is mapped in `range`.
    pub(super) fn touches(&self, range: Range<u64>) -> bool {
        self.within(range).next().is_some()
    }

    /// Whether an object is mapped in `range`.
    pub(super) fn has_object(&self, range: Range<u64>) -> bool {
        self.within(range).any(|(_, piece)| piece.is_object())
    }

    /// Whether nothing is mapped in `whole` but in `part`.
    pub(super) fn only_in(&self, whole: Range<u64>, part: &Range<u64>) -> bool {
        self.within(whole).all(|(r, _)| part.start <= r.start && r.end <= part.end)
    }

    /// Whether, somewhere in `range`, `layout` (of a table, `inherited` or not) maps another thing.
    pub(super) fn conflicts(&self, layout: &Areas, range: Range<u64>, inherited: bool) -> bool {
        self.within(range)
            .any(|(part, mine)| layout.within(part).any(|(_, theirs)| !mine.fits(&theirs, inherited)))
    }

    /// Whether, somewhere in `range`, both map something and a table of `layout` may have leaves.
    pub(super) fn meets(&self, layout: &Areas, range: Range<u64>, inherited: bool) -> bool {
        self.within(range)
            .any(|(part, _)| layout.within(part).any(|(_, theirs)| inherited || theirs.is_object()))
    }

    /// Whether `addr` is mapped.
    pub(super) fn covers(&self, addr: u64) -> bool {
        self.0.range(..=addr).next_back().is_some_and(|(_, &(end, _))| addr < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(object: u64, page: u64) -> Content {
        Content { object: Some(object), page, rights: Flags::NONE, shared: false }
    }
    const ANONYMOUS: Content = Content { object: None, page: 0, rights: Flags::WRITABLE, shared: false };

    fn areas(list: &[(Range<u64>, Content)]) -> Areas {
        let mut areas = Areas::default();
        for (range, content) in list {
            areas.set(range.clone(), Some(Piece::new(range.start, *content)));
        }
        areas
    }

    #[test]
    fn cutting_keeps_what_is_mapped() {
        let mut a = areas(&[(0x1000..0x9000, file(1, 0))]);
        a.set(0x3000..0x4000, None);
        a.set(0x5000..0x6000, Some(Piece::new(0x5000, ANONYMOUS)));
        let covered: Vec<bool> = (0..10).map(|p| a.covers(p << 12)).collect();
        assert_eq!(covered, [false, true, true, false, true, true, true, true, true, false]);
        // What is left is still the same file at the same place.
        let b = areas(&[(0x6000..0x9000, file(1, 5))]);
        assert!(!b.conflicts(&a, 0..0x10000, false));
        assert!(areas(&[(0x6000..0x9000, file(1, 6))]).conflicts(&a, 0..0x10000, false));
        assert!(a.only_in(0x8000..0x10000, &(0x8000..0x9000)));
        assert!(!a.only_in(0x7000..0x10000, &(0x8000..0x9000)));
    }

    #[test]
    fn a_hole_fits_everything_and_anonymous_memory_only_where_nothing_was_inherited() {
        let all = 0..0x20000;
        let text = areas(&[(0x1000..0x4000, file(1, 0))]);
        let heap = areas(&[(0x8000..0xa000, ANONYMOUS)]);
        assert!(!text.conflicts(&heap, all.clone(), true));
        assert!(!heap.conflicts(&heap, all.clone(), false));
        assert!(heap.conflicts(&heap, all.clone(), true), "another process's heap");
        assert!(text.conflicts(&text, all.clone(), true), "pages may have been written before the fork");
        let shared = areas(&[(0x1000..0x4000, Content { shared: true, ..file(1, 0) })]);
        assert!(!shared.conflicts(&shared, all.clone(), true));
        assert!(shared.conflicts(&text, all.clone(), false));
        assert!(!heap.meets(&heap, all.clone(), false) && heap.meets(&heap, all, true));
    }
}
