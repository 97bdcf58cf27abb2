//! The escape filter: which pages inside a segment's bounds are not the segment's.
//!
//! A parallel Bloom filter: each hash function has a bank of bits of its own, so
//! that all are read at once. The functions are H3 (Carter and Wegman 1979): a
//! bit of the hash is the parity of some bits of the key, a few XOR gates in hardware. A page
//! that was never inserted may be said to have escaped, never the other way round.
//!
//! Keys are page numbers. A huge leaf is asked for by its own number, so that
//! one look-up decides about all of it; whoever lets leaves of a size be cached
//! whole inserts escaped pages under that size too (see [`EscapeFilter::insert`]).

use alloc::sync::Arc;
use alloc::vec::Vec;
use paging::PageSize;

/// Bits of a key: 52 of page number, 2 of page size.
const KEY_BITS: u32 = 54;
/// Keys are hashed four bits at a time.
const NIBBLES: usize = KEY_BITS.div_ceil(4) as usize;
/// The functions' hashes lie side by side, 16 bits each.
const MAX_FUNCTIONS: u32 = 8;

/// The size of a filter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FilterGeometry {
    bits: u32,
    functions: u32,
}

impl Default for FilterGeometry {
    /// The paper's: 256 bits, 4 functions.
    fn default() -> Self {
        FilterGeometry { bits: 256, functions: 4 }
    }
}

/// A filter that cannot be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "a filter of {bits} bits and {functions} functions cannot be: 1 to 8 functions, each with a bank of 2 to \
     65536 bits, a power of two"
)]
pub struct BadGeometry {
    /// The bits asked for.
    pub bits: u32,
    /// The functions asked for.
    pub functions: u32,
}

impl FilterGeometry {
    /// `bits` bits in all, in as many banks as there are functions.
    ///
    /// # Errors
    /// If the banks are no powers of two.
    pub fn new(bits: u32, functions: u32) -> Result<Self, BadGeometry> {
        let fits = (1..=MAX_FUNCTIONS).contains(&functions)
            && bits.is_multiple_of(functions)
            && (bits / functions).is_power_of_two()
            && (2..=1 << 16).contains(&(bits / functions));
        if fits { Ok(FilterGeometry { bits, functions }) } else { Err(BadGeometry { bits, functions }) }
    }
    /// Bits of all banks.
    pub const fn bits(self) -> u32 {
        self.bits
    }
    /// Hash functions, each with a bank.
    pub const fn functions(self) -> u32 {
        self.functions
    }
    /// Bits of one bank.
    pub const fn bank(self) -> u32 {
        self.bits / self.functions
    }
    /// 64-bit words of a saved filter.
    pub const fn words(self) -> usize {
        self.bits.div_ceil(64) as usize
    }
}

/// The matrices of the functions, as the XOR of their rows for each value of each nibble.
#[derive(Debug)]
struct H3([[u128; 16]; NIBBLES]);

impl H3 {
    /// Hardware has its matrices wired: they follow from nothing but the geometry.
    fn new(geometry: FilterGeometry) -> H3 {
        let mask = u64::from(geometry.bank() - 1);
        let mut seed = 0x6469_7265_6374_2121_u64;
        let mut row = || {
            (0..geometry.functions())
                .fold(0u128, |row, function| row | u128::from(splitmix(&mut seed) & mask) << (16 * function))
        };
        let mut tables = [[0; 16]; NIBBLES];
        for table in &mut tables {
            let rows = [row(), row(), row(), row()];
            for (value, entry) in table.iter_mut().enumerate() {
                *entry = (0..4).filter(|bit| value >> bit & 1 == 1).fold(0, |sum, bit| sum ^ rows[bit]);
            }
        }
        H3(tables)
    }

    #[inline(always)]
    fn of(&self, key: u64) -> u128 {
        let nibble = |(at, table): (usize, &[u128; 16])| table[(key >> (4 * at) & 15) as usize];
        self.0.iter().enumerate().map(nibble).fold(0, |sum, part| sum ^ part)
    }
}

/// Steele, Lea and Flood's generator (OOPSLA 2014).
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The filter of one segment.
#[derive(Clone, Debug)]
pub struct EscapeFilter {
    geometry: FilterGeometry,
    hash: Arc<H3>,
    words: Vec<u64>,
    /// The largest page size under which pages are inserted.
    keyed: PageSize,
    empty: bool,
}

impl PartialEq for EscapeFilter {
    fn eq(&self, other: &Self) -> bool {
        (self.geometry, self.keyed, &self.words) == (other.geometry, other.keyed, &other.words)
    }
}
impl Eq for EscapeFilter {}

impl Default for EscapeFilter {
    fn default() -> Self {
        EscapeFilter::new(FilterGeometry::default(), PageSize::Size4K)
    }
}

#[inline(always)]
fn key(page: u64, size: PageSize) -> u64 {
    page >> size.order() | (size as u64) << 52
}

impl EscapeFilter {
    /// An empty filter, whose pages will be inserted under all sizes up to `keyed`.
    pub fn new(geometry: FilterGeometry, keyed: PageSize) -> Self {
        let words = alloc::vec![0; geometry.words()];
        EscapeFilter { geometry, hash: Arc::new(H3::new(geometry)), words, keyed, empty: true }
    }
    /// Its size.
    pub const fn geometry(&self) -> FilterGeometry {
        self.geometry
    }
    /// The largest page size that it can be asked about.
    pub const fn keyed(&self) -> PageSize {
        self.keyed
    }
    /// Whether nothing was inserted.
    pub const fn is_empty(&self) -> bool {
        self.empty
    }

    /// The bit of each function for `key`, as positions in all banks.
    #[inline(always)]
    fn places(&self, key: u64) -> impl Iterator<Item = usize> + use<> {
        let (hashes, bank) = (self.hash.of(key), self.geometry.bank() as usize);
        (0..self.geometry.functions as usize)
            .map(move |function| function * bank + (hashes >> (16 * function)) as usize % bank)
    }

    /// Lets the 4 KiB page `page` escape, alone and as a part of the huge pages around it.
    pub fn insert(&mut self, page: u64) {
        for size in PageSize::ALL.into_iter().filter(|&size| size <= self.keyed) {
            for place in self.places(key(page, size)) {
                self.words[place / 64] |= 1 << (place % 64);
            }
        }
        self.empty = false;
    }

    /// Whether the page of `size` that holds the 4 KiB page `page` may have escaped
    /// (or a part of it). Sizes beyond [`keyed`](Self::keyed) may always have.
    #[inline(always)]
    pub fn hits(&self, page: u64, size: PageSize) -> bool {
        !self.empty && self.ask(page, size)
    }

    fn ask(&self, page: u64, size: PageSize) -> bool {
        size > self.keyed
            || self.places(key(page, size)).all(|place| self.words[place / 64] >> (place % 64) & 1 == 1)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.words.fill(0);
        self.empty = true;
    }

    /// Forgets everything but `pages`: a bit cannot be taken out alone, as other pages may need it.
    pub fn rebuild(&mut self, pages: impl IntoIterator<Item = u64>) {
        self.clear();
        pages.into_iter().for_each(|page| self.insert(page));
    }

    /// The share of pages that never escaped and yet hit, 0 to 1: of each bank, the share of bits set.
    pub fn false_positives(&self) -> f64 {
        let bank = self.geometry.bank() as usize;
        let set = |function: usize| {
            let bits = function * bank..(function + 1) * bank;
            bits.filter(|place| self.words[place / 64] >> (place % 64) & 1 == 1).count()
        };
        (0..self.geometry.functions as usize).map(|f| set(f) as f64 / bank as f64).product()
    }

    /// The bits, to be saved when another process or VM gets the filter.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Loads bits that were saved from a filter of the same geometry.
    ///
    /// # Panics
    /// If they are of another geometry.
    pub fn load(&mut self, words: &[u64]) {
        self.words.copy_from_slice(words);
        self.empty = words.iter().all(|&word| word == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn geometries_are_whole_banks() {
        for (bits, functions) in [(256, 4), (256, 2), (256, 1), (512, 8), (1 << 16, 1), (48, 3)] {
            let geometry = FilterGeometry::new(bits, functions).expect("whole banks");
            assert_eq!(geometry.bank() * geometry.functions(), bits);
        }
        for (bits, functions) in [(0, 4), (256, 0), (256, 3), (256, 9), (4, 4), (1 << 20, 8), (100, 4)] {
            assert_eq!(FilterGeometry::new(bits, functions), Err(BadGeometry { bits, functions }));
        }
    }

    #[test]
    fn the_hash_is_linear_and_spreads() {
        let h = H3::new(FilterGeometry::default());
        assert_eq!(h.of(0x1234) ^ h.of(0xff_0000_0000), h.of(0xff_0000_1234));
        // Each function reaches all of its 64 bits on a run of pages.
        for function in 0..4 {
            let reached = (0..4096).fold(0u64, |set, page| set | 1 << (h.of(page) >> (16 * function) & 63));
            assert_eq!(reached, u64::MAX, "function {function}");
        }
    }

    #[test]
    fn sixteen_pages_let_few_others_escape() {
        let mut filter = EscapeFilter::default();
        let mut seed = 7;
        (0..16).for_each(|_| filter.insert(splitmix(&mut seed) & 0xff_ffff));
        let asked = 1 << 20;
        let wrong = (0..asked).filter(|_| filter.hits(splitmix(&mut seed) & 0xff_ffff, PageSize::Size4K));
        let rate = wrong.count() as f64 / f64::from(asked);
        // (1 - (63/64)^16)^4 = 0.24 %: what independent functions would give.
        let expected = (1.0 - (63.0f64 / 64.0).powi(16)).powi(4);
        assert!((rate / expected - 1.0).abs() < 0.5, "{rate} against {expected}");
        assert!((rate / filter.false_positives() - 1.0).abs() < 0.1, "{rate}");
    }

    proptest! {
        #[test]
        fn whatever_was_inserted_hits(
            pages in proptest::collection::hash_set(0u64..1 << 40, 0..40),
            bank in 1u32..8,
            functions in 1u32..9,
            keyed in prop_oneof![Just(PageSize::Size4K), Just(PageSize::Size2M), Just(PageSize::Size1G)],
        ) {
            let geometry = FilterGeometry::new(functions << bank, functions).unwrap();
            let mut filter = EscapeFilter::new(geometry, keyed);
            pages.iter().for_each(|&page| filter.insert(page));
            let mut other = EscapeFilter::new(geometry, keyed);
            other.load(filter.words());
            prop_assert_eq!(&other, &filter);
            for &page in &pages {
                for size in PageSize::ALL {
                    prop_assert!(other.hits(page, size), "{} {:?}", page, size);
                    // Any page of the huge page knows of it.
                    prop_assert!(size == PageSize::Size4K || other.hits(page ^ 1, size));
                }
            }
            let kept: Vec<u64> = pages.iter().copied().take(2).collect();
            other.rebuild(kept.iter().copied());
            prop_assert!(kept.iter().all(|&page| other.hits(page, PageSize::Size4K)));
            prop_assert!(other.false_positives() <= filter.false_positives());
            other.clear();
            prop_assert!(other.is_empty() && !pages.iter().any(|&page| other.hits(page, PageSize::Size4K)));
        }
    }
}
