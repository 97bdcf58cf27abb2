//! The virtual memory areas of an address space: what is mapped where, before
//! any page is. For a VM they are its memory slots.

use crate::pagecache::FileId;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use paging::PageSize;
use paging::frames::{NodeId, NodeSet};

/// What an area allows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Prot {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Fetches.
    pub exec: bool,
}

impl Prot {
    /// Nothing (`PROT_NONE`).
    pub const NONE: Prot = Prot { read: false, write: false, exec: false };
    /// Loads only.
    pub const R: Prot = Prot { read: true, write: false, exec: false };
    /// Data.
    pub const RW: Prot = Prot { read: true, write: true, exec: false };
    /// Code.
    pub const RX: Prot = Prot { read: true, write: false, exec: true };
    /// Everything (a VM's memory).
    pub const RWX: Prot = Prot { read: true, write: true, exec: true };

    /// Whether any access is allowed: on x86 each implies loads.
    pub const fn any(self) -> bool {
        self.read || self.write || self.exec
    }
}

impl fmt::Display for Prot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |set, c| if set { c } else { '-' };
        write!(f, "{}{}{}", letter(self.read, 'r'), letter(self.write, 'w'), letter(self.exec, 'x'))
    }
}

/// What stands behind an area.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Backing {
    /// Zeroes.
    Anonymous,
    /// A file, from its page `page` on at the area's start. Shared anonymous
    /// memory is a file without a device.
    File {
        /// The file.
        file: FileId,
        /// Its page at the area's first address.
        page: u64,
    },
}

/// What `madvise` said about huge pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum HugeAdvice {
    /// Nothing.
    #[default]
    None,
    /// `MADV_HUGEPAGE`.
    Yes,
    /// `MADV_NOHUGEPAGE`.
    No,
}

/// On which node pages are wanted (`set_mempolicy`, `mbind`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Policy {
    /// On the node of the CPU that touches them first.
    #[default]
    FirstTouch,
    /// On this node if it has room.
    Preferred(NodeId),
    /// On these nodes and no others, the nearest first.
    Bind(NodeSet),
    /// Page by page over these nodes.
    Interleave(NodeSet),
}

impl Policy {
    /// The node for the `unit`-th page (or table) of an address space, asked for by a CPU of `local`.
    pub fn node(self, local: NodeId, unit: u64) -> NodeId {
        match self {
            Policy::FirstTouch => local,
            Policy::Preferred(node) => node,
            Policy::Bind(nodes) if nodes.contains(local) => local,
            Policy::Bind(nodes) => nodes.iter().next().unwrap_or(local),
            Policy::Interleave(nodes) => {
                let count = u64::from(nodes.0.count_ones());
                match count {
                    0 => local,
                    _ => nodes.iter().nth((unit % count) as usize).unwrap_or(local),
                }
            }
        }
    }
    /// The nodes that no page may lie outside of.
    pub const fn bound(self) -> Option<NodeSet> {
        match self {
            Policy::Bind(nodes) => Some(nodes),
            _ => None,
        }
    }
}

/// One area. Addresses are bytes, multiples of the page size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Vma {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// What it allows.
    pub prot: Prot,
    /// What stands behind it.
    pub backing: Backing,
    /// Stores reach the file, and other mappings of it (`MAP_SHARED`).
    pub shared: bool,
    /// The page size it is made of: above 4 KiB these are reserved huge pages
    /// (hugetlbfs), never split and never swapped.
    pub page: PageSize,
    /// What `madvise` said.
    pub huge: HugeAdvice,
    /// Its own NUMA policy.
    pub policy: Option<Policy>,
}

impl Vma {
    /// Whether it holds `addr`.
    pub const fn contains(&self, addr: u64) -> bool {
        self.start <= addr && addr < self.end
    }
    /// Its addresses.
    pub const fn range(&self) -> Range<u64> {
        self.start..self.end
    }
    /// Bytes.
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }
    /// Whether it has no address.
    pub const fn is_empty(&self) -> bool {
        self.start >= self.end
    }
    /// Whether its pages are private and not of a file.
    pub const fn is_anonymous(&self) -> bool {
        matches!(self.backing, Backing::Anonymous)
    }
    /// The file and its page behind `addr`.
    pub const fn file_page(&self, addr: u64) -> Option<(FileId, u64)> {
        match self.backing {
            Backing::File { file, page } => Some((file, page + ((addr - self.start) >> 12))),
            Backing::Anonymous => None,
        }
    }
    /// Whether the block of `size` around `addr` lies wholly in it.
    pub const fn holds_block(&self, addr: u64, size: PageSize) -> bool {
        let base = addr & !(size.bytes() - 1);
        base >= self.start && base + size.bytes() <= self.end
    }
    /// The part of it inside `range`.
    fn clipped(&self, range: &Range<u64>) -> Vma {
        let start = self.start.max(range.start);
        let mut part = Vma { start, end: self.end.min(range.end), ..*self };
        if let Backing::File { page, .. } = &mut part.backing {
            *page += (start - self.start) >> 12;
        }
        part
    }
    /// Whether `next` continues it.
    fn continues(&self, next: &Vma) -> bool {
        if self.end != next.start {
            return false;
        }
        let expected = Vma { start: next.start, end: next.end, ..*self };
        let expected = match self.backing {
            Backing::Anonymous => expected,
            Backing::File { file, page } => {
                Vma { backing: Backing::File { file, page: page + (self.len() >> 12) }, ..expected }
            }
        };
        expected == *next
    }
}

impl fmt::Display for Vma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sharing = if self.shared { 's' } else { 'p' };
        write!(f, "{:#x}-{:#x} {}{sharing}", self.start, self.end, self.prot)?;
        match self.backing {
            Backing::Anonymous => Ok(()),
            Backing::File { file, page } => write!(f, " file {} page {page}", file.0),
        }
    }
}

/// The areas of an address space: sorted, apart, merged where they continue each other.
#[derive(Clone, Debug, Default)]
pub struct VmaSet {
    areas: Vec<Vma>,
    /// Where the last look-up ended: faults come in runs.
    recent: usize,
}

impl VmaSet {
    /// The areas in order.
    pub fn iter(&self) -> impl Iterator<Item = &Vma> {
        self.areas.iter()
    }
    /// Number of areas.
    pub fn len(&self) -> usize {
        self.areas.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.areas.is_empty()
    }
    /// Index of the first area that ends after `addr`.
    fn position(&self, addr: u64) -> usize {
        self.areas.partition_point(|area| area.end <= addr)
    }
    /// The area that holds `addr`.
    pub fn get(&self, addr: u64) -> Option<&Vma> {
        self.areas.get(self.position(addr)).filter(|area| area.contains(addr))
    }
    /// As [`get`](Self::get), and remembers it for the next time.
    #[inline]
    pub fn find(&mut self, addr: u64) -> Option<Vma> {
        if let Some(area) = self.areas.get(self.recent)
            && area.contains(addr)
        {
            return Some(*area);
        }
        self.recent = self.position(addr);
        self.areas.get(self.recent).filter(|area| area.contains(addr)).copied()
    }
    /// The areas below and above an address that none holds.
    pub fn neighbours(&self, addr: u64) -> (Option<Vma>, Option<Vma>) {
        let at = self.position(addr);
        (at.checked_sub(1).map(|below| self.areas[below]), self.areas.get(at).copied())
    }
    /// The parts of areas inside `range`, in order.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Vma> + '_ {
        let end = if range.is_empty() { 0 } else { range.end };
        self.areas[self.position(range.start)..]
            .iter()
            .take_while(move |area| area.start < end)
            .map(move |area| area.clipped(&range))
    }
    /// The first part of an area inside `range`.
    pub fn first_within(&self, range: Range<u64>) -> Option<Vma> {
        self.within(range).next()
    }
    /// Whether areas cover `range` without a gap.
    pub fn covers(&self, range: Range<u64>) -> bool {
        let mut next = range.start;
        for area in self.within(range.clone()) {
            if area.start != next {
                return false;
            }
            next = area.end;
        }
        next >= range.end
    }
    /// Takes everything in `range` out.
    pub fn remove(&mut self, range: Range<u64>) {
        self.edit(range, |_| None);
    }
    /// Adds an area where none is.
    pub fn insert(&mut self, area: Vma) {
        debug_assert!(!area.is_empty() && self.within(area.range()).next().is_none());
        let at = self.position(area.start);
        self.areas.insert(at, area);
        self.merge_around(at, at + 1);
    }
    /// Changes the parts of areas inside `range`, splitting where it ends inside one.
    pub fn update(&mut self, range: Range<u64>, mut change: impl FnMut(&mut Vma)) {
        self.edit(range, |mut area| {
            change(&mut area);
            Some(area)
        });
    }

    fn edit(&mut self, range: Range<u64>, mut change: impl FnMut(Vma) -> Option<Vma>) {
        let first = self.position(range.start);
        let count = self.areas[first..].iter().take_while(|area| area.start < range.end).count();
        if range.is_empty() || count == 0 {
            return;
        }
        let mut parts = Vec::with_capacity(count + 2);
        for area in &self.areas[first..first + count] {
            if area.start < range.start {
                parts.push(area.clipped(&(0..range.start)));
            }
            parts.extend(change(area.clipped(&range)));
            if area.end > range.end {
                parts.push(area.clipped(&(range.end..u64::MAX)));
            }
        }
        let new = parts.len();
        self.areas.splice(first..first + count, parts);
        self.merge_around(first, first + new);
    }

    /// Merges areas `from..to` with each other and with their neighbours.
    fn merge_around(&mut self, from: usize, to: usize) {
        let from = from.saturating_sub(1);
        let to = (to + 1).min(self.areas.len());
        let mut kept = from;
        for at in from + 1..to {
            if self.areas[kept].continues(&self.areas[at]) {
                self.areas[kept].end = self.areas[at].end;
            } else {
                kept += 1;
                self.areas[kept] = self.areas[at];
            }
        }
        if to > from {
            self.areas.drain(kept + 1..to);
        }
    }

    /// The highest free place for `len` bytes below `top`, aligned, not below `bottom`.
    pub fn find_free(&self, len: u64, align: u64, bottom: u64, top: u64) -> Option<u64> {
        let mut ceiling = top;
        let mut at = self.areas.partition_point(|area| area.start < top);
        loop {
            let floor = at.checked_sub(1).map_or(bottom, |below| self.areas[below].end.max(bottom));
            if let Some(start) = ceiling.checked_sub(len)
                && start & !(align - 1) >= floor
            {
                return Some(start & !(align - 1));
            }
            at = at.checked_sub(1)?;
            ceiling = ceiling.min(self.areas[at].start);
            if ceiling < bottom {
                return None;
            }
        }
    }
    /// The first address after all areas.
    pub fn end(&self) -> u64 {
        self.areas.last().map_or(0, |area| area.end)
    }
    /// Bytes of all areas.
    pub fn bytes(&self) -> u64 {
        self.areas.iter().map(Vma::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    const PAGES: u64 = 48;

    fn area(start: u64, end: u64, prot: Prot, file: bool) -> Vma {
        // A file area's page equals its address page, so that neighbours continue each other.
        let backing = match file {
            true => Backing::File { file: FileId(1), page: start },
            false => Backing::Anonymous,
        };
        Vma {
            start: start << 12,
            end: end << 12,
            prot,
            backing,
            shared: false,
            page: PageSize::Size4K,
            huge: HugeAdvice::None,
            policy: None,
        }
    }

    #[derive(Clone, Debug)]
    enum Action {
        Map(u64, u64, Prot, bool),
        Unmap(u64, u64),
        Protect(u64, u64, Prot),
    }

    fn prot() -> impl Strategy<Value = Prot> {
        prop_oneof![Just(Prot::R), Just(Prot::RW)]
    }

    fn action() -> impl Strategy<Value = Action> {
        let range = (0..PAGES, 1..12u64).prop_map(|(start, len)| (start, (start + len).min(PAGES)));
        prop_oneof![
            (range.clone(), prot(), any::<bool>()).prop_map(|((s, e), p, f)| Action::Map(s, e, p, f)),
            range.clone().prop_map(|(s, e)| Action::Unmap(s, e)),
            (range, prot()).prop_map(|((s, e), p)| Action::Protect(s, e, p)),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_map_from_page_to_attributes(actions in proptest::collection::vec(action(), 0..60)) {
            let mut set = VmaSet::default();
            let mut model = BTreeMap::<u64, (Prot, Option<u64>)>::new();
            for action in actions {
                match action {
                    Action::Map(s, e, prot, file) => {
                        set.remove(s << 12..e << 12);
                        set.insert(area(s, e, prot, file));
                        model.extend((s..e).map(|p| (p, (prot, file.then_some(p)))));
                    }
                    Action::Unmap(s, e) => {
                        set.remove(s << 12..e << 12);
                        model.retain(|p, _| !(s..e).contains(p));
                    }
                    Action::Protect(s, e, prot) => {
                        set.update(s << 12..e << 12, |area| area.prot = prot);
                        model.range_mut(s..e).for_each(|(_, v)| v.0 = prot);
                    }
                }
                for page in 0..PAGES {
                    let got = set.find((page << 12) + 5).map(|a| (a.prot, a.file_page(page << 12).map(|f| f.1)));
                    prop_assert_eq!(got, model.get(&page).copied());
                }
                let areas: Vec<_> = set.iter().copied().collect();
                for pair in areas.windows(2) {
                    prop_assert!(pair[0].end <= pair[1].start && !pair[0].continues(&pair[1]), "{:?}", pair);
                }
                prop_assert_eq!(set.bytes() >> 12, model.len() as u64);
                // The highest free run of 3 pages, by brute force.
                let free = |start: u64| (start..start + 3).all(|p| !model.contains_key(&p));
                let want = (1..=PAGES - 3).rev().find(|&start| free(start));
                prop_assert_eq!(set.find_free(3 << 12, 4096, 1 << 12, PAGES << 12), want.map(|s| s << 12));
                prop_assert_eq!(set.covers(4 << 12..9 << 12), (4..9).all(|p| model.contains_key(&p)));
            }
        }
    }
}
