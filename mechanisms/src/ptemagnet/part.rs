//! The Page Reservation Table (`PaRT`) of one address space: a radix tree from
//! region to [`Reservation`].

use super::reservation::Reservation;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

/// Entries of a node: 9 bits a level, as published.
const FANOUT: u64 = 512;
const BITS: u32 = FANOUT.trailing_zeros();
/// No node.
const NONE: u32 = u32::MAX;

/// 512 neighbouring regions: 16 MiB of addresses with reservations of 8 pages.
#[derive(Debug)]
struct Leaf {
    /// Number of the first region, divided by 512.
    key: u64,
    /// Entries with a block.
    live: u32,
    entries: Box<[Reservation]>,
}

/// The table. Nodes are named by their place in a list; the tree grows a level when
/// a region needs it, so it has no fixed width of addresses.
#[derive(Debug)]
pub struct Part {
    inner: Vec<[u32; FANOUT as usize]>,
    leaves: Vec<Option<Leaf>>,
    /// Places of `leaves` that are empty.
    vacant: Vec<u32>,
    root: u32,
    /// Levels of inner nodes above the leaves.
    height: u32,
    /// The leaf that was used last: faults come in neighbourhoods.
    last: (u64, u32),
}

impl Default for Part {
    fn default() -> Self {
        Part {
            inner: Vec::new(),
            leaves: Vec::new(),
            vacant: Vec::new(),
            root: NONE,
            height: 0,
            last: (u64::MAX, NONE),
        }
    }
}

impl Part {
    /// The entry of a region, if its leaf is there.
    #[inline]
    pub fn find(&mut self, region: u64) -> Option<&Reservation> {
        let at = self.leaf(region / FANOUT)?;
        self.leaves[at as usize].as_ref().map(|leaf| &leaf.entries[(region % FANOUT) as usize])
    }

    /// The entry of a region, its leaf made if it is missing.
    pub fn make(&mut self, region: u64) -> &Reservation {
        let key = region / FANOUT;
        let at = self.leaf(key).unwrap_or_else(|| self.add_leaf(key));
        match &self.leaves[at as usize] {
            Some(leaf) => &leaf.entries[(region % FANOUT) as usize],
            None => unreachable!("the tree names leaves that are there"),
        }
    }

    /// A block was put into the entry of a region.
    pub fn began(&mut self, region: u64) {
        if let Some(leaf) = self.leaf(region / FANOUT).and_then(|at| self.leaves[at as usize].as_mut()) {
            leaf.live += 1;
        }
    }

    /// The entry of a region is empty now; its leaf goes with the last.
    pub fn ended(&mut self, region: u64) {
        let key = region / FANOUT;
        let Some(at) = self.leaf(key) else { return };
        let Some(leaf) = self.leaves[at as usize].as_mut() else { return };
        leaf.live -= 1;
        if leaf.live == 0 {
            self.leaves[at as usize] = None;
            self.vacant.push(at);
            self.last = (u64::MAX, NONE);
            self.name(key, NONE);
        }
    }

    /// The regions with a block among `regions`, in no particular order.
    pub fn within(&mut self, regions: Range<u64>) -> Vec<u64> {
        let keys = regions.start / FANOUT..regions.end.div_ceil(FANOUT);
        let mut leaves: Vec<u32> = Vec::new();
        if keys.end.saturating_sub(keys.start) <= self.leaves.len() as u64 {
            leaves.extend(keys.filter_map(|key| self.leaf(key)));
        } else {
            let inside = |leaf: &Leaf| keys.contains(&leaf.key);
            let all = self.leaves.iter().enumerate();
            leaves.extend(all.filter(|(_, leaf)| leaf.as_ref().is_some_and(inside)).map(|(at, _)| at as u32));
        }
        let mut found = Vec::new();
        for at in leaves {
            found.extend(self.live(at as usize).filter(|region| regions.contains(region)));
        }
        found
    }

    /// Up to a leaf's worth of regions with a block, from the `hand`-th leaf on.
    /// The hand is moved behind them; at the end it is back at 0 and there are none.
    pub fn pass(&self, hand: &mut usize) -> Vec<u64> {
        while *hand < self.leaves.len() {
            let found: Vec<u64> = self.live(*hand).collect();
            *hand += 1;
            if !found.is_empty() {
                return found;
            }
        }
        *hand = 0;
        Vec::new()
    }

    /// Bytes that the table takes.
    pub fn bytes(&self) -> usize {
        let leaves = self.leaves.len() - self.vacant.len();
        self.inner.len() * size_of::<[u32; FANOUT as usize]>()
            + leaves * FANOUT as usize * size_of::<Reservation>()
    }

    fn live(&self, at: usize) -> impl Iterator<Item = u64> + '_ {
        self.leaves[at].iter().flat_map(|leaf| {
            let live = leaf.entries.iter().enumerate().filter(|(_, entry)| entry.lock().block().is_some());
            live.map(|(index, _)| leaf.key * FANOUT + index as u64)
        })
    }

    /// The place of a leaf.
    #[inline]
    fn leaf(&mut self, key: u64) -> Option<u32> {
        if self.last.0 == key {
            return Some(self.last.1);
        }
        if self.root == NONE || key >> (BITS * self.height) != 0 {
            return None;
        }
        let mut at = self.root;
        for level in (0..self.height).rev() {
            at = self.inner[at as usize][index(key, level)];
            if at == NONE {
                return None;
            }
        }
        self.last = (key, at);
        Some(at)
    }

    fn add_leaf(&mut self, key: u64) -> u32 {
        let entries = (0..FANOUT).map(|_| Reservation::default()).collect();
        let leaf = Some(Leaf { key, live: 0, entries });
        let at = match self.vacant.pop() {
            Some(at) => {
                self.leaves[at as usize] = leaf;
                at
            }
            None => {
                self.leaves.push(leaf);
                self.leaves.len() as u32 - 1
            }
        };
        self.name(key, at);
        self.last = (key, at);
        at
    }

    /// Makes the tree lead from `key` to the leaf at `leaf`.
    fn name(&mut self, key: u64, leaf: u32) {
        while self.height == 0 || key >> (BITS * self.height) != 0 {
            let node = self.add_inner();
            self.inner[node as usize][0] = self.root;
            self.root = node;
            self.height += 1;
        }
        let mut at = self.root;
        for level in (1..self.height).rev() {
            let mut next = self.inner[at as usize][index(key, level)];
            if next == NONE {
                next = self.add_inner();
                self.inner[at as usize][index(key, level)] = next;
            }
            at = next;
        }
        self.inner[at as usize][index(key, 0)] = leaf;
    }

    fn add_inner(&mut self) -> u32 {
        self.inner.push([NONE; FANOUT as usize]);
        self.inner.len() as u32 - 1
    }
}

/// The index of a leaf's key in an inner node of `level`.
fn index(key: u64, level: u32) -> usize {
    (key >> (BITS * level) & (FANOUT - 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    /// Regions near each other and all over the address space.
    fn region() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..2000, (1u64 << 33)..(1 << 33) + 3000, 0..1u64 << 45]
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_regions(
            steps in proptest::collection::vec((region(), any::<bool>()), 0..200),
            range in (region(), 0u64..5000),
        ) {
            let (mut part, mut model) = (Part::default(), BTreeSet::new());
            for (region, add) in steps {
                // What is taken out is mostly what was put in.
                let region = match model.range(region..).next() {
                    Some(&there) if !add => there,
                    _ => region,
                };
                if add && model.insert(region) {
                    part.make(region).lock().begin(region * 8, 8, 0);
                    part.began(region);
                } else if !add && model.remove(&region) {
                    part.find(region).expect("its leaf is there").lock().end();
                    part.ended(region);
                }
                let found = part.find(region).and_then(|entry| entry.lock().block());
                prop_assert_eq!(found, model.contains(&region).then_some(region * 8));
            }
            let mut all: Vec<u64> = part.within(0..u64::MAX);
            all.sort_unstable();
            prop_assert_eq!(&all, &model.iter().copied().collect::<Vec<_>>());
            let range = range.0..range.0 + range.1;
            let mut some = part.within(range.clone());
            some.sort_unstable();
            prop_assert_eq!(some, model.range(range).copied().collect::<Vec<_>>());
            let (mut hand, mut passed) = (0, BTreeSet::new());
            loop {
                let found = part.pass(&mut hand);
                if found.is_empty() {
                    break;
                }
                passed.extend(found);
            }
            prop_assert_eq!(&passed, &model);
            for region in all {
                part.find(region).expect("its leaf is there").lock().end();
                part.ended(region);
            }
            let leaves = FANOUT as usize * size_of::<Reservation>();
            prop_assert!(part.bytes() % leaves == part.inner.len() * 2048 % leaves, "no leaf stays");
        }
    }
}
