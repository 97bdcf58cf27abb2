//! Keys with values: entries stay in their way.

use super::lanes::{self, Mask, PRINTS};
use super::policy::{Lists, Recency, Trees, Xorshift};
use super::{Geometry, Key, Replacement};

/// What is known of the use of the ways.
#[derive(Clone, Debug)]
enum Policy {
    /// LRU of at most 16 ways.
    Lru16(Box<[Row]>),
    /// LRU of at most 25 ways.
    Lru25(Box<[u128]>),
    /// LRU of any number.
    Lists(Lists),
    Trees(Trees),
    Random(Xorshift),
}

/// A set of at most 16 ways under LRU: what a look-up reads first, together.
#[derive(Clone, Copy, Debug)]
#[repr(align(16))]
struct Row {
    prints: [[u16; PRINTS]; 2],
    order: u64,
}

impl Row {
    fn empty(ways: usize) -> Row {
        Row { prints: [[0; PRINTS]; 2], order: Recency::start(ways) }
    }
}

/// Sets of ways.
#[derive(Clone, Debug)]
pub struct Assoc<K, V> {
    /// Prints of the keys, `vectors` for each set; 0 for empty ways. None here if rows have them.
    prints: Box<[[u16; PRINTS]]>,
    vectors: usize,
    slots: Box<[Slot<K, V>]>,
    sets: usize,
    ways: usize,
    /// Of the words of rows.
    ends: (u32, u64),
    policy: Policy,
    /// Ways in use of each set; not counted for rows.
    filled: Box<[u32]>,
}

/// A way.
#[derive(Clone, Copy, Debug, Default)]
struct Slot<K, V> {
    key: K,
    value: V,
}

/// The first of the ways in `found` that `is_it` accepts.
#[inline(always)]
fn first<M: Mask>(mut found: M, is_it: impl Fn(usize) -> bool) -> Option<usize> {
    while let Some(way) = found.take() {
        if is_it(way) {
            return Some(way);
        }
    }
    None
}

impl<K: Key, V: Copy + Default> Assoc<K, V> {
    /// Empty sets.
    ///
    /// # Panics
    /// If there are no sets or no ways, or the policy cannot have so many ways.
    /// [`crate::profile`] refuses such geometries with a reason.
    pub fn new(geometry: Geometry, replacement: Replacement) -> Self {
        let Geometry { sets, ways } = geometry;
        assert!(sets > 0 && ways > 0, "a structure of {sets} sets of {ways} ways");
        let policy = match (replacement, ways) {
            (Replacement::Lru, ..=<u64 as Recency>::FIELDS) => {
                Policy::Lru16(vec![Row::empty(ways); sets].into())
            }
            (Replacement::Lru, ..=<u128 as Recency>::FIELDS) => {
                Policy::Lru25(vec![Recency::start(ways); sets].into())
            }
            (Replacement::Lru, _) => Policy::Lists(Lists::new(sets, ways)),
            (Replacement::TreePlru, _) => Policy::Trees(Trees::new(sets, ways)),
            (Replacement::Random { seed }, _) => Policy::Random(Xorshift::new(seed)),
        };
        let vectors = ways.div_ceil(PRINTS);
        let beside = if let Policy::Lru16(_) = policy { 0 } else { sets };
        Assoc {
            prints: vec![[0; PRINTS]; beside * vectors].into(),
            vectors,
            slots: vec![Slot::default(); geometry.entries()].into(),
            sets,
            ways,
            ends: Recency::ends(ways.min(<u64 as Recency>::FIELDS)),
            policy,
            filled: vec![0; beside].into(),
        }
    }

    /// Sets and ways.
    pub fn geometry(&self) -> Geometry {
        Geometry { sets: self.sets, ways: self.ways }
    }

    /// The value of `key` for which `admit` says yes, made the most recently used.
    #[inline(always)]
    pub fn get(&mut self, set: usize, key: K, admit: impl Fn(&V) -> bool) -> Option<V> {
        // LRU of few ways is what most structures are, and worth a path of its own.
        let Policy::Lru16(rows) = &mut self.policy else { return self.get_large(set, key, admit) };
        let row = &mut rows[set];
        let first = set * self.ways;
        let mut found = lanes::matches(&row.prints, key.print());
        while let Some(way) = found.take() {
            let slot = &self.slots[first + way];
            if slot.key == key && admit(&slot.value) {
                row.order = row.order.use_way(way);
                return Some(slot.value);
            }
        }
        None
    }

    #[inline(never)]
    fn get_large(&mut self, set: usize, key: K, admit: impl Fn(&V) -> bool) -> Option<V> {
        let way = self.find(set, key, admit)?;
        self.use_way(set, way);
        Some(self.slots[set * self.ways + way].value)
    }

    /// Makes `key` the most recently used entry of its set, with `value`: in
    /// the place of an entry of the same key for which `same` says yes, else in
    /// an empty way, else in the policy's victim's. What had to leave is returned.
    #[inline(never)]
    pub fn put(&mut self, set: usize, key: K, value: V, same: impl Fn(&V) -> bool) -> Option<(K, V)> {
        match self.find(set, key, same) {
            Some(way) => {
                self.slots[set * self.ways + way] = Slot { key, value };
                self.use_way(set, way);
                None
            }
            None => self.insert(set, key, value),
        }
    }

    /// The same for a `key` that a lookup has just missed: no search for it.
    #[inline(always)]
    pub fn insert(&mut self, set: usize, key: K, value: V) -> Option<(K, V)> {
        debug_assert!(key != K::default(), "key 0 is the empty way");
        let Policy::Lru16(rows) = &mut self.policy else { return self.insert_large(set, key, value) };
        let row = &mut rows[set];
        let (way, order) = row.order.renew(self.ends);
        row.order = order;
        row.prints.as_flattened_mut()[way] = key.print();
        let left = std::mem::replace(&mut self.slots[set * self.ways + way], Slot { key, value });
        (left.key != K::default()).then_some((left.key, left.value))
    }

    #[inline(never)]
    fn insert_large(&mut self, set: usize, key: K, value: V) -> Option<(K, V)> {
        let way = self.victim(set);
        self.use_way(set, way);
        let left = std::mem::replace(&mut self.slots[set * self.ways + way], Slot { key, value });
        self.prints[set * self.vectors + way / PRINTS][way % PRINTS] = key.print();
        if left.key == K::default() {
            self.filled[set] += 1;
            return None;
        }
        Some((left.key, left.value))
    }

    /// Whether `key` is there; nothing is promoted.
    pub fn contains(&self, set: usize, key: K) -> bool {
        self.holds(set, key, |_| true)
    }

    /// Whether `key` is there with a value for which `admit` says yes; nothing is promoted.
    pub fn holds(&self, set: usize, key: K, admit: impl Fn(&V) -> bool) -> bool {
        self.find(set, key, admit).is_some()
    }

    #[inline(always)]
    fn find(&self, set: usize, key: K, admit: impl Fn(&V) -> bool) -> Option<usize> {
        let slots = &self.slots[set * self.ways..][..self.ways];
        let is_it = |way: usize| slots[way].key == key && admit(&slots[way].value);
        if let Policy::Lru16(rows) = &self.policy {
            return first(lanes::matches(&rows[set].prints, key.print()), is_it);
        }
        match self.vectors {
            1 => self.find_in::<1>(set, key, is_it),
            2 => self.find_in::<2>(set, key, is_it),
            3 => self.find_in::<3>(set, key, is_it),
            // Fully associative first levels: 64 (Zen 2, 3) and 72 entries (Zen 4).
            8 => self.find_in::<8>(set, key, is_it),
            9 => self.find_in::<9>(set, key, is_it),
            _ => self.find_in_wide(set, key, is_it),
        }
    }

    #[inline(always)]
    fn find_in<const VECTORS: usize>(
        &self,
        set: usize,
        key: K,
        is_it: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let row = self.prints[set * VECTORS..].first_chunk::<VECTORS>().expect("a whole set");
        if VECTORS > 4 {
            return first(lanes::matches_wide(row, key.print()), is_it);
        }
        first(lanes::matches(row, key.print()), is_it)
    }

    #[inline(never)]
    fn find_in_wide(&self, set: usize, key: K, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        let row = &self.prints[set * self.vectors..][..self.vectors];
        let (parts, rest) = row.as_chunks::<4>();
        let print = key.print();
        let masks = parts.iter().map(|part| lanes::matches(part, print));
        let rest = rest.as_chunks::<1>().0.iter().map(|vector| lanes::matches(vector, print));
        let whole = masks.enumerate().map(|(number, mask)| (number * 4 * PRINTS, mask));
        let broken = rest.enumerate().map(|(number, mask)| ((parts.len() * 4 + number) * PRINTS, mask));
        whole
            .chain(broken)
            .find_map(|(start, mask)| first(mask, |way| is_it(start + way)).map(|way| start + way))
    }

    /// The way that a new entry of the set takes.
    #[inline(always)]
    fn victim(&mut self, set: usize) -> usize {
        let full = || self.filled[set] as usize == self.ways;
        let empty = || {
            let row = &self.slots[set * self.ways..][..self.ways];
            row.iter().position(|slot| slot.key == K::default()).expect("an empty way")
        };
        match &mut self.policy {
            Policy::Lru16(rows) => rows[set].order.oldest(self.ways),
            Policy::Lru25(words) => words[set].oldest(self.ways),
            Policy::Lists(lists) => lists.oldest(set),
            Policy::Trees(_) | Policy::Random(_) if !full() => empty(),
            Policy::Trees(trees) => trees.victim(set),
            Policy::Random(generator) => generator.below(self.ways),
        }
    }

    #[inline(always)]
    fn use_way(&mut self, set: usize, way: usize) {
        match &mut self.policy {
            Policy::Lru16(rows) => rows[set].order = rows[set].order.use_way(way),
            Policy::Lru25(words) => words[set] = words[set].use_way(way),
            Policy::Lists(lists) => lists.use_way(set, way),
            Policy::Trees(trees) => trees.use_way(set, way),
            Policy::Random(_) => {}
        }
    }

    /// Removes the entries of `key` for which `which` says yes; how many.
    pub fn remove(&mut self, set: usize, key: K, which: impl Fn(&V) -> bool) -> usize {
        self.retain_in(set, |k, v| k != key || !which(v))
    }

    /// Removes all entries for which `keep` says no; how many.
    pub fn retain(&mut self, keep: impl Fn(K, &V) -> bool) -> usize {
        (0..self.sets).map(|set| self.retain_in(set, &keep)).sum()
    }

    fn retain_in(&mut self, set: usize, keep: impl Fn(K, &V) -> bool) -> usize {
        let mut removed = 0;
        for way in 0..self.ways {
            let slot = &mut self.slots[set * self.ways + way];
            if slot.key == K::default() || keep(slot.key, &slot.value) {
                continue;
            }
            slot.key = K::default();
            removed += 1;
            if let Policy::Lru16(rows) = &mut self.policy {
                rows[set].prints.as_flattened_mut()[way] = 0;
                rows[set].order = rows[set].order.retire(way, self.ways);
                continue;
            }
            self.prints[set * self.vectors + way / PRINTS][way % PRINTS] = 0;
            self.filled[set] -= 1;
            match &mut self.policy {
                Policy::Lru25(words) => words[set] = words[set].retire(way, self.ways),
                Policy::Lists(lists) => lists.retire(set, way),
                Policy::Lru16(_) | Policy::Trees(_) | Policy::Random(_) => {}
            }
        }
        removed
    }

    /// Removes everything. What the policy knew may stay: every way is used again
    /// before any must leave. A random policy's generator goes on where it was.
    pub fn clear(&mut self) {
        self.slots.fill(Slot::default());
        self.prints.fill([0; PRINTS]);
        if let Policy::Lru16(rows) = &mut self.policy {
            rows.iter_mut().for_each(|row| row.prints = [[0; PRINTS]; 2]);
        }
        self.filled.fill(0);
    }

    /// All entries, set by set.
    pub fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.slots.iter().filter(|slot| slot.key != K::default()).map(|slot| (slot.key, &slot.value))
    }

    /// Asks the host for what a lookup in `set` reads first.
    #[inline(always)]
    pub fn prefetch(&self, set: usize) {
        match &self.policy {
            Policy::Lru16(rows) => paging::prefetch::prefetch(&rows[set]),
            _ => paging::prefetch::prefetch(&self.prints[set * self.vectors]),
        }
        paging::prefetch::prefetch(&self.slots[set * self.ways]);
    }
}
