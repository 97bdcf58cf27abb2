//! Sets whose entries stay where they are: pseudo-LRU, random, and LRU with
//! more ways than are worth shifting.

use super::{Geometry, Key, ORDERED_WAYS, Replacement};

/// A set, within the arrays of all sets.
#[derive(Debug)]
pub(super) struct Row<'a, K, V> {
    pub keys: &'a mut [K],
    pub values: &'a mut [V],
    /// Its first way.
    pub at: usize,
    pub ways: usize,
    pub set: usize,
}

/// What is known beside keys and values.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    policy: Policy,
    /// Where the keys of wide sets are.
    index: Option<Index>,
    /// Ways in use of each set.
    filled: Box<[u32]>,
}

#[derive(Clone, Debug)]
enum Policy {
    Lru(Lists),
    Tree(Trees),
    Random(Xorshift),
}

impl Slots {
    pub fn new(sets: usize, ways: usize, replacement: Replacement) -> Slots {
        Slots {
            policy: match replacement {
                Replacement::Lru => Policy::Lru(Lists::new(sets, ways)),
                Replacement::TreePlru => Policy::Tree(Trees::new(sets, ways)),
                Replacement::Random { seed } => Policy::Random(Xorshift::new(seed)),
            },
            index: (ways > ORDERED_WAYS).then(|| Index::new(Geometry { sets, ways })),
            filled: vec![0; sets].into(),
        }
    }

    /// The way of `key` for which `admit` says yes.
    #[inline(always)]
    pub fn find<K: Key, V>(&self, row: &Row<'_, K, V>, key: K, admit: impl Fn(&V) -> bool) -> Option<usize> {
        match &self.index {
            Some(index) => index
                .slots_of(row.set, key)
                .find(|&slot| {
                    row.keys[slot] == key && slot.wrapping_sub(row.at) < row.ways && admit(&row.values[slot])
                })
                .map(|slot| slot - row.at),
            None => {
                (0..row.ways).find(|way| row.keys[row.at + way] == key && admit(&row.values[row.at + way]))
            }
        }
    }

    /// The way that a new entry of the set takes.
    #[inline(always)]
    pub fn victim<K: Key, V>(&mut self, row: &Row<'_, K, V>) -> usize {
        if (self.filled[row.set] as usize) < row.ways {
            // Lists keep empty ways at their end; the others take the first one.
            return match &self.policy {
                Policy::Lru(lists) => lists.last(row.set),
                _ => (0..row.ways).find(|way| row.keys[row.at + way] == K::default()).expect("an empty way"),
            };
        }
        match &mut self.policy {
            Policy::Lru(lists) => lists.last(row.set),
            Policy::Tree(trees) => trees.victim(row.set),
            Policy::Random(rng) => rng.below(row.ways),
        }
    }

    /// Empties a way; what was in it.
    #[inline(always)]
    pub fn vacate<K: Key, V: Copy>(&mut self, row: &mut Row<'_, K, V>, way: usize) -> Option<(K, V)> {
        let slot = row.at + way;
        let key = row.keys[slot];
        if key == K::default() {
            return None;
        }
        if let Some(index) = &mut self.index {
            index.remove(row.set, key, slot, |slot| (slot / row.ways, row.keys[slot]));
        }
        row.keys[slot] = K::default();
        self.filled[row.set] -= 1;
        Some((key, row.values[slot]))
    }

    /// Gives an empty way to `key`.
    #[inline(always)]
    pub fn occupy<K: Key, V>(&mut self, row: &mut Row<'_, K, V>, way: usize, key: K) {
        row.keys[row.at + way] = key;
        self.filled[row.set] += 1;
        if let Some(index) = &mut self.index {
            index.insert(row.set, key, row.at + way);
        }
    }

    /// `way` is the most recently used.
    #[inline(always)]
    pub fn touch(&mut self, set: usize, way: usize) {
        match &mut self.policy {
            Policy::Lru(lists) => lists.move_to_front(set, way),
            Policy::Tree(trees) => trees.touch(set, way),
            Policy::Random(_) => {}
        }
    }

    /// `way` was emptied.
    pub fn forget(&mut self, set: usize, way: usize) {
        if let Policy::Lru(lists) = &mut self.policy {
            lists.move_to_back(set, way);
        }
    }

    /// All ways were emptied. A generator goes on where it was.
    pub fn clear(&mut self) {
        self.filled.fill(0);
        if let Some(index) = &mut self.index {
            index.places.fill(0);
        }
        if let Policy::Tree(trees) = &mut self.policy {
            trees.state.fill(0);
        }
    }
}

/// A circular list of ways for each set, the most recently used first.
#[derive(Clone, Debug)]
struct Lists {
    /// `(previous, next)` way of each way.
    links: Box<[(u16, u16)]>,
    first: Box<[u16]>,
    ways: usize,
}

impl Lists {
    fn new(sets: usize, ways: usize) -> Lists {
        assert!(ways < usize::from(u16::MAX), "{ways} ways");
        let last = ways as u16 - 1;
        let link = |way: u16| (if way == 0 { last } else { way - 1 }, if way == last { 0 } else { way + 1 });
        let links = (0..sets).flat_map(|_| (0..=last).map(link)).collect();
        Lists { links, first: vec![0; sets].into(), ways }
    }

    #[inline(always)]
    fn last(&self, set: usize) -> usize {
        usize::from(self.links[set * self.ways + usize::from(self.first[set])].0)
    }

    #[inline(always)]
    fn move_to_front(&mut self, set: usize, way: usize) {
        let first = self.first[set];
        if usize::from(first) == way {
            return;
        }
        let links = &mut self.links[set * self.ways..][..self.ways];
        let last = links[usize::from(first)].0;
        if usize::from(last) != way {
            let (previous, next) = links[way];
            links[usize::from(previous)].1 = next;
            links[usize::from(next)].0 = previous;
            links[way] = (last, first);
            links[usize::from(last)].1 = way as u16;
            links[usize::from(first)].0 = way as u16;
        }
        // The last one of a circle becomes the first by a turn of it.
        self.first[set] = way as u16;
    }

    fn move_to_back(&mut self, set: usize, way: usize) {
        self.move_to_front(set, way);
        self.first[set] = self.links[set * self.ways + way].1;
    }
}

/// A tree of bits for each set: node `i` has the children `2i` and `2i + 1`,
/// and its bit says in which half the next victim is.
#[derive(Clone, Debug)]
struct Trees {
    state: Box<[u64]>,
    /// For each way: the bits on the way to it, and those of them that are 1 when all point away from it.
    away: Box<[(u64, u64)]>,
    levels: u32,
}

impl Trees {
    fn new(sets: usize, ways: usize) -> Trees {
        assert!(ways.is_power_of_two() && ways <= 64, "tree pseudo-LRU of {ways} ways");
        let levels = ways.trailing_zeros();
        let away = (0..ways)
            .map(|way| {
                (0..levels).fold((0, 0), |(path, away), level| {
                    let node = (ways + way) >> (levels - level);
                    let right = way >> (levels - level - 1) & 1;
                    (path | 1 << node, away | u64::from(right == 0) << node)
                })
            })
            .collect();
        Trees { state: vec![0; sets].into(), away, levels }
    }

    #[inline(always)]
    fn touch(&mut self, set: usize, way: usize) {
        let (path, away) = self.away[way];
        self.state[set] = self.state[set] & !path | away;
    }

    #[inline(always)]
    fn victim(&self, set: usize) -> usize {
        let state = self.state[set];
        let leaf = (0..self.levels).fold(1, |node, _| node * 2 + (state >> node & 1) as usize);
        leaf - (1 << self.levels)
    }
}

/// Marsaglia's xorshift64: fixed here, so that a seed means the same for ever.
#[derive(Clone, Debug)]
struct Xorshift(u64);

impl Xorshift {
    fn new(seed: u64) -> Xorshift {
        Xorshift(if seed == 0 { 0x9e37_79b9_7f4a_7c15 } else { seed })
    }

    #[inline(always)]
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * bound as u64) >> 32) as usize
    }
}

/// From a key to its slots: open addressing with linear probing. A place holds
/// a slot + 1. Equal keys may have several slots (tags decide between them).
#[derive(Clone, Debug)]
struct Index {
    places: Box<[u32]>,
    shift: u32,
}

impl Index {
    fn new(geometry: Geometry) -> Index {
        // A load of at most a half keeps probes short.
        let places = (geometry.entries() * 2).next_power_of_two().max(8);
        Index { places: vec![0; places].into(), shift: 64 - places.trailing_zeros() }
    }

    #[inline(always)]
    fn home<K: Key>(&self, set: usize, key: K) -> usize {
        let mixed = (key.bits() ^ (set as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> self.shift) as usize
    }

    #[inline(always)]
    fn slots_of<K: Key>(&self, set: usize, key: K) -> impl Iterator<Item = usize> + '_ {
        let mut place = self.home(set, key);
        std::iter::from_fn(move || {
            let slot = self.places[place];
            place = (place + 1) & (self.places.len() - 1);
            (slot != 0).then(|| slot as usize - 1)
        })
    }

    #[inline(always)]
    fn insert<K: Key>(&mut self, set: usize, key: K, slot: usize) {
        let mut place = self.home(set, key);
        while self.places[place] != 0 {
            place = (place + 1) & (self.places.len() - 1);
        }
        self.places[place] = slot as u32 + 1;
    }

    /// Removes `slot`, moving back those behind it that a probe would no longer reach.
    #[inline(always)]
    fn remove<K: Key>(&mut self, set: usize, key: K, slot: usize, of: impl Fn(usize) -> (usize, K)) {
        let mask = self.places.len() - 1;
        let mut hole = self.home(set, key);
        while self.places[hole] != slot as u32 + 1 {
            hole = (hole + 1) & mask;
        }
        let mut next = (hole + 1) & mask;
        while self.places[next] != 0 {
            let (set, key) = of(self.places[next] as usize - 1);
            let home = self.home(set, key);
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.places[hole] = self.places[next];
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.places[hole] = 0;
    }
}
