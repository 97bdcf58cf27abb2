//! The set-associative engine of all structures: TLBs, page-walk caches,
//! nested TLB, data caches.
//!
//! Keys lie alone and contiguous, what they stand for in a second array; key 0
//! is an empty way. Sets under true LRU are kept in the order of their last
//! use, so that no ranks or timestamps exist: a hit at the front changes
//! nothing, and a hit farther back and a miss are the same shift of the keys in
//! front. Everything else (pseudo-LRU, random, sets of more than
//! [`ORDERED_WAYS`] ways) keeps its ways in place, with the state of the policy
//! beside them, and finds a key of a wide set through a hash index.

mod index;
mod ordered;
mod slots;

pub use index::SetIndex;
use slots::Slots;

/// Sets of more ways than this are not kept in order of use: shifting them would
/// cost more than the two links of a list.
pub const ORDERED_WAYS: usize = 32;

/// What a structure compares. 0 is an empty way.
pub trait Key: Copy + Eq + Default + std::fmt::Debug + Send + 'static {
    /// As a number, for the hash index of wide sets.
    fn bits(self) -> u64;
}
impl Key for u16 {
    #[inline(always)]
    fn bits(self) -> u64 {
        u64::from(self)
    }
}
impl Key for u32 {
    #[inline(always)]
    fn bits(self) -> u64 {
        u64::from(self)
    }
}
impl Key for u64 {
    #[inline(always)]
    fn bits(self) -> u64 {
        self
    }
}

/// How many sets of how many ways.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Geometry {
    /// Sets, at least 1; any number.
    pub sets: usize,
    /// Ways of each, at least 1; any number.
    pub ways: usize,
}

impl Geometry {
    /// `entries` in sets of `ways`; `None` if the ways do not divide them.
    pub fn of(entries: usize, ways: usize) -> Option<Geometry> {
        (ways > 0 && entries > 0 && entries.is_multiple_of(ways))
            .then(|| Geometry { sets: entries / ways, ways })
    }
    /// Entries in all.
    pub fn entries(self) -> usize {
        self.sets * self.ways
    }
}

/// Which way a new entry takes when its set is full.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Replacement {
    /// The least recently used.
    #[default]
    Lru,
    /// Tree pseudo-LRU: one bit a node of a binary tree over the ways, each
    /// pointing away from the last use below it. Ways must be a power of two, at
    /// most 64.
    TreePlru,
    /// Any, by a xorshift generator with this seed.
    Random {
        /// The seed; 0 is taken as another constant.
        seed: u64,
    },
}

/// Which order the ways of a set are kept in.
#[derive(Clone, Debug)]
enum Order {
    /// Of their last use, with a number of ways known to the compiler, so that
    /// scans and shifts are unrolled: the ways of the machines there are.
    Ordered2,
    Ordered4,
    Ordered6,
    Ordered8,
    Ordered11,
    Ordered12,
    Ordered16,
    Ordered20,
    Ordered24,
    /// Of their last use, any number of ways.
    Ordered,
    /// None; the policy's state decides.
    Slots(Slots),
}

/// `call!(self, function(arguments))` with the number of ways as a constant
/// where it is one of those spelled out in [`Order`].
macro_rules! by_ways {
    ($order:expr, $n:ident => $ordered:expr, $dynamic:expr, $slots:ident => $in_slots:expr) => {
        match $order {
            Order::Ordered2 => {
                const $n: usize = 2;
                $ordered
            }
            Order::Ordered4 => {
                const $n: usize = 4;
                $ordered
            }
            Order::Ordered6 => {
                const $n: usize = 6;
                $ordered
            }
            Order::Ordered8 => {
                const $n: usize = 8;
                $ordered
            }
            Order::Ordered11 => {
                const $n: usize = 11;
                $ordered
            }
            Order::Ordered12 => {
                const $n: usize = 12;
                $ordered
            }
            Order::Ordered16 => {
                const $n: usize = 16;
                $ordered
            }
            Order::Ordered20 => {
                const $n: usize = 20;
                $ordered
            }
            Order::Ordered24 => {
                const $n: usize = 24;
                $ordered
            }
            Order::Ordered => $dynamic,
            Order::Slots($slots) => $in_slots,
        }
    };
}

/// Sets of ways.
#[derive(Clone, Debug)]
pub struct Assoc<K, V> {
    /// Set after set. The first set begins at `start`, on a line of the host:
    /// the 16 tags of a cache's set are then one line.
    keys: Box<[K]>,
    start: usize,
    values: Box<[V]>,
    sets: usize,
    ways: usize,
    order: Order,
}

/// Bytes of a line of the host.
const LINE: usize = 64;

impl<K: Key, V: Copy + Default> Assoc<K, V> {
    /// Empty sets.
    ///
    /// # Panics
    /// If there are no sets or no ways, or the policy cannot have so many ways.
    /// [`crate::profile`] refuses such geometries with a reason.
    pub fn new(geometry: Geometry, replacement: Replacement) -> Self {
        let Geometry { sets, ways } = geometry;
        assert!(sets > 0 && ways > 0, "a structure of {sets} sets of {ways} ways");
        let order = match (replacement, ways) {
            (Replacement::Lru, 2) => Order::Ordered2,
            (Replacement::Lru, 4) => Order::Ordered4,
            (Replacement::Lru, 6) => Order::Ordered6,
            (Replacement::Lru, 8) => Order::Ordered8,
            (Replacement::Lru, 11) => Order::Ordered11,
            (Replacement::Lru, 12) => Order::Ordered12,
            (Replacement::Lru, 16) => Order::Ordered16,
            (Replacement::Lru, 20) => Order::Ordered20,
            (Replacement::Lru, 24) => Order::Ordered24,
            (Replacement::Lru, ..=ORDERED_WAYS) => Order::Ordered,
            _ => Order::Slots(Slots::new(sets, ways, replacement)),
        };
        let spare = LINE / size_of::<K>();
        let keys = vec![K::default(); geometry.entries() + spare].into_boxed_slice();
        let start = keys.as_ptr().align_offset(LINE).min(spare);
        let values = vec![V::default(); geometry.entries()].into_boxed_slice();
        Assoc { keys, start, values, sets, ways, order }
    }

    /// Sets and ways.
    pub fn geometry(&self) -> Geometry {
        Geometry { sets: self.sets, ways: self.ways }
    }

    #[inline(always)]
    fn row_n<const N: usize>(&mut self, set: usize) -> (&mut [K; N], &mut [V; N]) {
        let at = set * N;
        let keys = self.keys[self.start + at..].first_chunk_mut().expect("a whole set");
        let values = self.values[at..].first_chunk_mut().expect("a whole set");
        (keys, values)
    }

    #[inline(always)]
    fn row(&mut self, set: usize) -> (&mut [K], &mut [V]) {
        let at = set * self.ways;
        (&mut self.keys[self.start + at..][..self.ways], &mut self.values[at..][..self.ways])
    }

    #[inline(always)]
    fn parts(&mut self, set: usize) -> (&mut Slots, slots::Row<'_, K, V>) {
        let at = set * self.ways;
        let Order::Slots(slots) = &mut self.order else { unreachable!("only for sets without order") };
        let keys = &mut self.keys[self.start..];
        (slots, slots::Row { keys, values: &mut self.values, at, ways: self.ways, set })
    }

    /// The value of `key` for which `admit` says yes, made the most recently used.
    #[inline(always)]
    pub fn get(&mut self, set: usize, key: K, admit: impl Fn(&V) -> bool) -> Option<V> {
        by_ways!(
            &self.order,
            N => {
                let (keys, values) = self.row_n::<N>(set);
                ordered::get_n(keys, values, key, admit)
            },
            {
                let (keys, values) = self.row(set);
                ordered::get(keys, values, key, admit)
            },
            _slots => self.get_in_slots(set, key, admit)
        )
    }

    #[inline(never)]
    fn get_in_slots(&mut self, set: usize, key: K, admit: impl Fn(&V) -> bool) -> Option<V> {
        let (slots, row) = self.parts(set);
        let way = slots.find(&row, key, admit)?;
        slots.touch(set, way);
        Some(row.values[row.at + way])
    }

    /// Makes `key` the most recently used entry of its set, with `value`: in
    /// the place of an entry of the same key for which `same` says yes, else in
    /// an empty way, else in the policy's victim's. What had to leave is returned.
    #[inline(always)]
    pub fn put(&mut self, set: usize, key: K, value: V, same: impl Fn(&V) -> bool) -> Option<(K, V)> {
        debug_assert!(key != K::default(), "key 0 is the empty way");
        by_ways!(
            &self.order,
            N => {
                let (keys, values) = self.row_n::<N>(set);
                ordered::put_n(keys, values, key, value, same)
            },
            {
                let (keys, values) = self.row(set);
                ordered::put(keys, values, key, value, same)
            },
            _slots => self.put_in_slots(set, key, value, same)
        )
    }

    #[inline(never)]
    fn put_in_slots(&mut self, set: usize, key: K, value: V, same: impl Fn(&V) -> bool) -> Option<(K, V)> {
        let (slots, mut row) = self.parts(set);
        let found = slots.find(&row, key, same);
        let (way, left) = match found {
            Some(way) => (way, None),
            None => {
                let way = slots.victim(&row);
                let left = slots.vacate(&mut row, way);
                slots.occupy(&mut row, way, key);
                (way, left)
            }
        };
        row.values[row.at + way] = value;
        slots.touch(set, way);
        left
    }

    /// Whether `key` is there; nothing is promoted.
    pub fn contains(&self, set: usize, key: K) -> bool {
        let at = self.start + set * self.ways;
        key != K::default() && self.keys[at..at + self.ways].contains(&key)
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
        if matches!(self.order, Order::Slots(_)) {
            let (slots, mut row) = self.parts(set);
            let mut removed = 0;
            for way in 0..row.ways {
                let key = row.keys[row.at + way];
                if key != K::default() && !keep(key, &row.values[row.at + way]) {
                    slots.vacate(&mut row, way);
                    slots.forget(set, way);
                    removed += 1;
                }
            }
            return removed;
        }
        let (keys, values) = self.row(set);
        ordered::retain(keys, values, keep)
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.keys.fill(K::default());
        if let Order::Slots(slots) = &mut self.order {
            slots.clear();
        }
    }

    /// All entries, set by set.
    pub fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        let keys = &self.keys[self.start..][..self.sets * self.ways];
        keys.iter().copied().zip(&self.values).filter(|(key, _)| *key != K::default())
    }

    /// Asks the host for the keys of `set`, which a lookup will soon compare.
    #[inline(always)]
    pub fn prefetch(&self, set: usize) {
        let at = self.start + set * self.ways;
        paging::prefetch::prefetch(&self.keys[at]);
        // A set may lie across two lines of the host.
        if self.ways * size_of::<K>() > LINE {
            paging::prefetch::prefetch(&self.keys[at + self.ways - 1]);
        }
    }
}

impl<K: Key> Assoc<K, ()> {
    /// Whether `key` is there; in either case it is now the most recently used.
    #[inline(always)]
    pub fn touch(&mut self, set: usize, key: K) -> bool {
        debug_assert!(key != K::default(), "key 0 is the empty way");
        by_ways!(
            &self.order,
            N => ordered::touch_n(self.row_n::<N>(set).0, key),
            ordered::touch(self.row(set).0, key),
            _slots => self.touch_in_slots(set, key)
        )
    }

    #[inline(never)]
    fn touch_in_slots(&mut self, set: usize, key: K) -> bool {
        let (slots, mut row) = self.parts(set);
        let found = slots.find(&row, key, |()| true);
        let way = found.unwrap_or_else(|| {
            let way = slots.victim(&row);
            slots.vacate(&mut row, way);
            slots.occupy(&mut row, way, key);
            way
        });
        slots.touch(set, way);
        found.is_some()
    }
}
