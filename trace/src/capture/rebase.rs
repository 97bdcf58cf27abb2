//! From the emulator's addresses to those that the program would have natively.
//!
//! QEMU puts a whole program into one 512 GiB stretch (0x4000000000 and up), and
//! maps upwards; Linux puts the executable and its heap near 0x555555554000, the
//! stack at the top and what is mapped below it, downwards. The tables have
//! another shape, so every stretch is moved to where Linux puts it (with address
//! randomisation off).
//!
//! A stretch keeps its address modulo 2 MiB if it is that large, because
//! allocators align inside it, and huge pages depend on that.

use std::collections::BTreeMap;

/// Lowest address of a position-independent executable: two thirds of the address space (`ELF_ET_DYN_BASE`,
/// arch/x86/include/asm/elf.h).
pub const EXECUTABLE: u64 = 0x5555_5555_4000;
/// What `mmap` returns lies below this: the top less the stack's gap (`mmap_base`, arch/x86/mm/mmap.c).
pub const MMAP_TOP: u64 = 0x7fff_f7ff_f000;
/// The end of the stack (`STACK_TOP` of 47 bits).
pub const STACK_TOP: u64 = 0x7fff_ffff_f000;
/// Where QEMU puts what may be anywhere (its `TASK_UNMAPPED_BASE`). An address asked for outside of this is meant.
const ANYWHERE: std::ops::Range<u64> = 0x40_0000_0000..0xc0_0000_0000;
const HUGE: u64 = 2 << 20;
/// A place that is asked for this close to a stretch is meant to stay beside it (a heap behind its program).
const NEAR: u64 = 64 << 20;

/// A stretch of guest addresses with one distance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    end: u64,
    /// Native address minus the guest's.
    delta: u64,
}

/// The translation of one process's addresses.
#[derive(Clone, Debug, Default)]
pub struct Rebase {
    identity: bool,
    pieces: BTreeMap<u64, Piece>,
    /// Native stretches in use.
    native: Ranges,
    /// Native stretches of a snapshot, to be used first: start, end.
    wanted: Vec<(u64, u64)>,
    /// Guest addresses that are the emulator's own, unless the program maps something there.
    emulators: Vec<(u64, u64)>,
}

impl Rebase {
    /// Leaves addresses as they are.
    pub fn identity() -> Rebase {
        Rebase { identity: true, ..Rebase::default() }
    }

    /// Prefers these native stretches (a snapshot's anonymous mappings) to the top of what is free.
    pub fn preferring(stretches: Vec<(u64, u64)>) -> Rebase {
        Rebase { wanted: stretches, ..Rebase::default() }
    }

    /// Tells which guest addresses are the emulator's own: accesses there are not the program's. (QEMU keeps the
    /// processor's descriptor tables in the program's address space, and reads them when it delivers a signal.)
    pub fn set_emulators(&mut self, ranges: Vec<(u64, u64)>) {
        self.emulators = ranges;
    }

    fn is_emulators(&self, guest: u64) -> bool {
        self.emulators.iter().any(|&(start, end)| (start..end).contains(&guest))
    }

    /// The stretch with one distance around a guest address: start, end, distance.
    pub fn around(&self, guest: u64) -> Option<(u64, u64, u64)> {
        self.piece(guest).map(|(start, piece)| (start, piece.end, piece.delta))
    }

    fn piece(&self, guest: u64) -> Option<(u64, Piece)> {
        let (&start, &piece) = self.pieces.range(..=guest).next_back()?;
        (guest < piece.end).then_some((start, piece))
    }

    /// The native stretches of a guest range: guest start, length, native start.
    pub fn range(&self, start: u64, len: u64) -> Vec<(u64, u64, u64)> {
        let end = start.saturating_add(len);
        let first = self.piece(start).map_or(start, |(s, _)| s);
        self.pieces
            .range(first..end)
            .map(|(&s, piece)| (s.max(start), piece.end.min(end), piece.delta))
            .map(|(s, e, delta)| (s, e - s, s.wrapping_add(delta)))
            .collect()
    }

    /// Gives a new guest range native addresses. Parts that have some keep them: a mapping inside
    /// a reservation stays in its place.
    pub fn map(&mut self, start: u64, len: u64, placed: bool) {
        let end = start.saturating_add(len);
        let mut at = start;
        let known = self.range(start, len);
        for (s, l) in known.iter().map(|&(s, l, _)| (s, l)).chain([(end, 0)]) {
            if at < s {
                let delta = if self.identity { 0 } else { self.choose(at, s, placed) };
                self.insert(at, s, delta);
            }
            at = s + l;
        }
    }

    /// Gives a guest range this native start.
    pub fn place(&mut self, start: u64, len: u64, native: u64) {
        self.unmap(start, len);
        let delta = if self.identity { 0 } else { native.wrapping_sub(start) };
        self.insert(start, start + len, delta);
    }

    /// Frees a guest range's native addresses.
    pub fn unmap(&mut self, start: u64, len: u64) {
        for (s, l, native) in self.range(start, len) {
            let Some((from, piece)) = self.piece(s) else { continue };
            self.pieces.remove(&from);
            if from < s {
                self.pieces.insert(from, Piece { end: s, ..piece });
            }
            if s + l < piece.end {
                self.pieces.insert(s + l, piece);
            }
            self.native.remove(native, native + l);
        }
    }

    fn insert(&mut self, start: u64, end: u64, delta: u64) {
        let (mut from, mut to) = (start, end);
        // Neighbours with the same distance become one, so that there are few to search.
        if let Some((&s, p)) = self.pieces.range(..start).next_back()
            && p.end == start
            && p.delta == delta
        {
            from = s;
        }
        if let Some(p) = self.pieces.get(&end).copied().filter(|p| p.delta == delta) {
            self.pieces.remove(&end);
            to = p.end;
        }
        self.pieces.insert(from, Piece { end: to, delta });
        self.native.insert(start.wrapping_add(delta), end.wrapping_add(delta));
    }

    /// Whether something that has its place ends or begins at a guest address.
    pub fn is_beside(&self, guest: u64) -> bool {
        self.pieces.range(..guest).next_back().is_some_and(|(_, p)| p.end == guest)
    }

    /// Whether a native range is not in use.
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        start < end && end <= STACK_TOP && self.native.is_free(start, end)
    }

    /// The distance for a guest range that has none.
    fn choose(&self, start: u64, end: u64, placed: bool) -> u64 {
        let len = end - start;
        let fits = |delta: u64| self.is_free(start.wrapping_add(delta), end.wrapping_add(delta));
        if placed {
            // The program chose the place: near something of its own, or for itself.
            let before = self.pieces.range(..start).next_back().filter(|(_, p)| start - p.end < NEAR);
            let after = self.pieces.get(&end);
            let beside = before.map(|(_, p)| p.delta).into_iter().chain(after.map(|p| p.delta));
            let own = (!ANYWHERE.contains(&start)).then_some(0);
            if let Some(delta) = beside.chain(own).find(|&d| fits(d)) {
                return delta;
            }
        }
        let congruent = if len >= HUGE { HUGE } else { 4096 };
        let phase = start % congruent;
        let native = self
            .wanted
            .iter()
            .map(|&(from, to)| (from + (phase.wrapping_sub(from)) % congruent, to))
            .filter(|&(from, to)| from < to && to - from >= len && self.is_free(from, from + len))
            .min_by_key(|&(from, to)| to - from)
            .map_or_else(|| self.highest(len, phase, congruent), |(from, _)| from);
        native.wrapping_sub(start)
    }

    /// The highest free place below [`MMAP_TOP`], as Linux chooses.
    fn highest(&self, len: u64, phase: u64, congruent: u64) -> u64 {
        let below = |top: u64| {
            let start = top.checked_sub(len)?;
            let start = start - (start.wrapping_sub(phase)) % congruent;
            Some(start)
        };
        let mut top = MMAP_TOP;
        for (start, end) in self.native.down_from(MMAP_TOP) {
            if let Some(place) = below(top).filter(|&place| place >= end) {
                return place;
            }
            top = top.min(start);
        }
        below(top).unwrap_or(0)
    }
}

/// Disjoint ranges.
#[derive(Clone, Debug, Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn insert(&mut self, start: u64, end: u64) {
        self.remove(start, end);
        self.0.insert(start, end);
    }
    fn remove(&mut self, start: u64, end: u64) {
        while let Some((&from, &to)) = self.0.range(..end).next_back()
            && start < to
        {
            self.0.remove(&from);
            if from < start {
                self.0.insert(from, start);
            }
            if end < to {
                self.0.insert(end, to);
            }
        }
    }
    fn is_free(&self, start: u64, end: u64) -> bool {
        self.0.range(..end).next_back().is_none_or(|(_, &to)| to <= start)
    }
    fn down_from(&self, top: u64) -> impl Iterator<Item = (u64, u64)> {
        self.0.range(..top).rev().map(|(&from, &to)| (from, to))
    }
}

/// Addresses of accesses, translated fast: most go where one of the last few went.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// Pages: number, distance.
    pages: [(u64, u64); PAGES],
    /// The last large stretch: start, length, distance.
    large: (u64, u64, u64),
}

const PAGES: usize = 256;
const LARGE: u64 = 1 << 20;
/// No address has this page number.
const NONE: u64 = u64::MAX;

impl Default for Lookup {
    fn default() -> Lookup {
        Lookup { pages: [(NONE, 0); PAGES], large: (0, 0, 0) }
    }
}

impl Lookup {
    /// Forgets everything: the translation has changed.
    pub fn clear(&mut self) {
        self.large.1 = 0;
        self.pages.fill((NONE, 0));
    }
    /// The native address; `None` if the access is not the program's. Unchanged where nothing is known.
    #[inline(always)]
    pub fn address(&mut self, rebase: &Rebase, guest: u64) -> Option<u64> {
        self.recent(guest).or_else(|| self.look_up(rebase, guest))
    }
    /// The native address in one of the last pages.
    #[inline(always)]
    pub fn recent(&self, guest: u64) -> Option<u64> {
        let (page, delta) = self.pages[(guest >> 12) as usize % PAGES];
        (page == guest >> 12).then(|| guest.wrapping_add(delta))
    }
    /// As [`Lookup::address`], for a page that was not one of the last.
    #[inline(never)]
    pub fn look_up(&mut self, rebase: &Rebase, guest: u64) -> Option<u64> {
        if guest.wrapping_sub(self.large.0) >= self.large.1 {
            let Some((start, end, delta)) = rebase.around(guest) else {
                return (!rebase.is_emulators(guest)).then_some(guest);
            };
            if end - start < LARGE {
                self.pages[(guest >> 12) as usize % PAGES] = (guest >> 12, delta);
                return Some(guest.wrapping_add(delta));
            }
            self.large = (start, end - start, delta);
        }
        self.pages[(guest >> 12) as usize % PAGES] = (guest >> 12, self.large.2);
        Some(guest.wrapping_add(self.large.2))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const GUEST: u64 = 0x40_0000_0000;

    fn address(rebase: &Rebase, guest: u64) -> Option<u64> {
        rebase.around(guest).map(|(_, _, delta)| guest.wrapping_add(delta))
    }

    #[test]
    fn mappings_go_down_from_the_top_as_in_linux() {
        let mut rebase = Rebase::default();
        rebase.map(GUEST, 0x3000, false);
        rebase.map(GUEST + 0x3000, 0x1000, false);
        assert_eq!(address(&rebase, GUEST), Some(MMAP_TOP - 0x3000));
        assert_eq!(address(&rebase, GUEST + 0x3000), Some(MMAP_TOP - 0x4000));
        // A hole is filled by the next that fits.
        rebase.unmap(GUEST, 0x3000);
        rebase.map(GUEST + 0x10000, 0x2000, false);
        assert_eq!(address(&rebase, GUEST + 0x10000), Some(MMAP_TOP - 0x2000));
    }

    #[test]
    fn what_is_mapped_into_a_reservation_stays_in_it() {
        let mut rebase = Rebase::default();
        rebase.map(GUEST, 0x10000, false);
        let before = address(&rebase, GUEST + 0x5000);
        rebase.map(GUEST + 0x4000, 0x3000, true);
        assert_eq!(address(&rebase, GUEST + 0x5000), before);
    }

    #[test]
    fn a_place_asked_for_is_near_its_neighbour_or_as_asked() {
        let mut rebase = Rebase::default();
        rebase.place(GUEST, 0x5000, EXECUTABLE);
        rebase.map(GUEST + 0x5000, 0x21000, true);
        assert_eq!(address(&rebase, GUEST + 0x5000), Some(EXECUTABLE + 0x5000), "a heap");
        // Go's arenas.
        rebase.map(0xc0_0000_0000, 64 << 20, true);
        assert_eq!(address(&rebase, 0xc0_0000_0000), Some(0xc0_0000_0000));
    }

    #[test]
    fn a_snapshots_stretches_come_first() {
        let mut rebase = Rebase::preferring(vec![
            (0x7000_0000_0000, 0x7000_1000_0000),
            (0x6000_0000_0000, 0x6000_0010_0000),
        ]);
        rebase.map(GUEST, 0x10_0000, false);
        rebase.map(GUEST + (4 << 30), 0x20_0000, false);
        assert_eq!(address(&rebase, GUEST), Some(0x6000_0000_0000), "the tightest that fits");
        assert_eq!(address(&rebase, GUEST + (4 << 30)), Some(0x7000_0000_0000));
    }

    #[test]
    fn identity_changes_nothing() {
        let mut rebase = Rebase::identity();
        rebase.map(GUEST, 0x1000, false);
        rebase.place(GUEST + 0x5000, 0x1000, EXECUTABLE);
        assert_eq!(
            rebase.range(GUEST, 0x9000),
            [(GUEST, 0x1000, GUEST), (GUEST + 0x5000, 0x1000, GUEST + 0x5000)]
        );
        assert_eq!(Lookup::default().address(&rebase, 0x123), Some(0x123));
    }

    #[test]
    fn the_emulators_addresses_are_the_programs_once_it_maps_them() {
        let mut rebase = Rebase::default();
        rebase.set_emulators(vec![(GUEST, GUEST + 0x2000)]);
        let mut lookup = Lookup::default();
        assert_eq!(lookup.address(&rebase, GUEST + 0x1028), None);
        assert_eq!(lookup.address(&rebase, GUEST + 0x2000), Some(GUEST + 0x2000));
        rebase.map(GUEST + 0x1000, 0x1000, false);
        assert_eq!(lookup.address(&rebase, GUEST + 0x1028), Some(MMAP_TOP - 0x1000 + 0x28));
    }

    #[derive(Clone, Debug)]
    enum Action {
        Map(u64, u64, bool),
        Unmap(u64, u64),
    }

    fn action() -> impl Strategy<Value = Action> {
        let range = || (0..2000_u64, prop_oneof![4 => 1..40_u64, 1 => 500..1500_u64]);
        prop_oneof![
            2 => (range(), any::<bool>()).prop_map(|((s, l), placed)| Action::Map(s, l, placed)),
            1 => range().prop_map(|(s, l)| Action::Unmap(s, l)),
        ]
    }

    proptest! {
        /// Against a map from page to page: pages keep their native place while they are mapped, and no two
        /// share one.
        #[test]
        fn pages_keep_their_own_place(actions in prop::collection::vec(action(), 1..60)) {
            let mut rebase = Rebase::default();
            let mut lookup = Lookup::default();
            let mut model: HashMap<u64, u64> = HashMap::new();
            for action in actions {
                match action {
                    Action::Map(start, len, placed) => {
                        rebase.map(GUEST + start * 4096, len * 4096, placed);
                        for page in start..start + len {
                            let native = address(&rebase, GUEST + page * 4096);
                            let native = native.expect("mapped");
                            prop_assert_eq!(*model.entry(page).or_insert(native), native);
                            prop_assert!(native < STACK_TOP && native.is_multiple_of(4096));
                        }
                    }
                    Action::Unmap(start, len) => {
                        rebase.unmap(GUEST + start * 4096, len * 4096);
                        (start..start + len).for_each(|page| { model.remove(&page); });
                    }
                }
                lookup.clear();
                for page in 0..3600 {
                    let guest = GUEST + page * 4096 + 8;
                    prop_assert_eq!(address(&rebase, guest), model.get(&page).map(|n| n + 8));
                    prop_assert_eq!(lookup.address(&rebase, guest), Some(model.get(&page).map_or(guest, |n| n + 8)));
                }
                let mut places: Vec<u64> = model.values().copied().collect();
                places.sort_unstable();
                places.dedup();
                prop_assert_eq!(places.len(), model.len(), "two pages in one place");
            }
        }

        #[test]
        fn large_mappings_keep_their_alignment(start in 0..4096_u64, len in 512..5000_u64) {
            let mut rebase = Rebase::default();
            rebase.map(GUEST - 0x1000_0000, 0x3000, false);
            let guest = GUEST + start * 4096;
            rebase.map(guest, len * 4096, false);
            prop_assert_eq!(address(&rebase, guest).unwrap() % HUGE, guest % HUGE);
        }
    }
}
