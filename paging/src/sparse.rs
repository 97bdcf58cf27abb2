//! A sparse array indexed by frame (or page) number, without hashing.
//!
//! Two levels: a directory with one slot for each pageblock of 512 numbers,
//! and an array of 512 values for each pageblock that was written. A look-up
//! is two dependent loads and no arithmetic but a shift and a mask; numbers
//! that were never written cost 8 bytes for 512 of them.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::mem::size_of;

/// Values in a pageblock: the frames of a 2 MiB page.
pub const BLOCK: usize = 512;

/// An array of `T` indexed by number, that holds memory only for the
/// pageblocks (numbers with the same `number >> 9`) that were written.
///
/// ```
/// let mut owner = paging::SparseFrames::<u32>::new(1 << 32);
/// *owner.get_or_default(0x8000_0000) = 7;
/// assert_eq!(owner.get(0x8000_0000), Some(&7));
/// assert_eq!(owner.get(0x8000_0001), Some(&0)); // same pageblock
/// assert_eq!(owner.get(0), None);
/// ```
#[derive(Clone)]
pub struct SparseFrames<T> {
    directory: Vec<Option<Box<[T; BLOCK]>>>,
    blocks: usize,
}

impl<T> Default for SparseFrames<T> {
    fn default() -> Self {
        SparseFrames { directory: Vec::new(), blocks: 0 }
    }
}

impl<T> fmt::Debug for SparseFrames<T> {
    /// Sizes only: the values may be millions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SparseFrames").field("blocks", &self.blocks).field("bytes", &self.bytes()).finish()
    }
}

impl<T> SparseFrames<T> {
    /// An empty array whose directory has room for numbers below `numbers`.
    /// Only address space is set aside; the directory grows to what is used.
    /// Larger numbers (hot-plug) are accepted, at the price of a copy.
    pub fn new(numbers: u64) -> Self {
        SparseFrames { directory: Vec::with_capacity(numbers.div_ceil(BLOCK as u64) as usize), blocks: 0 }
    }

    /// The value of `number`, if its pageblock was written.
    #[inline(always)]
    pub fn get(&self, number: u64) -> Option<&T> {
        Some(&self.block(number >> 9)?[(number & 511) as usize])
    }

    /// The value of `number` for change, if its pageblock was written.
    #[inline(always)]
    pub fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        Some(&mut self.block_mut(number >> 9)?[(number & 511) as usize])
    }

    /// The values of pageblock `block` (a number `>> 9`).
    #[inline(always)]
    pub fn block(&self, block: u64) -> Option<&[T; BLOCK]> {
        self.directory.get(block as usize)?.as_deref()
    }

    /// The values of pageblock `block` for change.
    #[inline(always)]
    pub fn block_mut(&mut self, block: u64) -> Option<&mut [T; BLOCK]> {
        self.directory.get_mut(block as usize)?.as_deref_mut()
    }

    /// Gives pageblock `block` the values `values`.
    pub fn set_block(&mut self, block: u64, values: Box<[T; BLOCK]>) {
        let at = block as usize;
        if at >= self.directory.len() {
            self.directory.resize_with(at + 1, || None);
        }
        self.blocks += usize::from(self.directory[at].replace(values).is_none());
    }

    /// Forgets the values of pageblock `block`, and returns them.
    pub fn clear_block(&mut self, block: u64) -> Option<Box<[T; BLOCK]>> {
        let old = self.directory.get_mut(block as usize)?.take();
        self.blocks -= usize::from(old.is_some());
        old
    }

    /// The written pageblocks in order, with their number.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, &[T; BLOCK])> {
        self.directory.iter().enumerate().filter_map(|(at, block)| Some((at as u64, block.as_deref()?)))
    }

    /// All values of written pageblocks in order, with their number.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.blocks().flat_map(|(at, values)| (at << 9..).zip(values.iter()))
    }

    /// As [`iter`](Self::iter), for change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        self.directory
            .iter_mut()
            .enumerate()
            .filter_map(|(at, block)| Some((at as u64, block.as_deref_mut()?)))
            .flat_map(|(at, values)| (at << 9..).zip(values.iter_mut()))
    }

    /// The memory that the array holds, in bytes.
    pub fn bytes(&self) -> usize {
        self.directory.len() * size_of::<Option<Box<[T; BLOCK]>>>() + self.blocks * size_of::<[T; BLOCK]>()
    }
}

impl<T: Default> SparseFrames<T> {
    /// The value of `number` for change; its pageblock gets default values if
    /// it was never written.
    #[inline]
    pub fn get_or_default(&mut self, number: u64) -> &mut T {
        let at = (number >> 9) as usize;
        if !matches!(self.directory.get(at), Some(Some(_))) {
            self.set_block(number >> 9, filled(T::default));
        }
        // The slot was filled just now if it was not before.
        &mut self.directory[at].as_deref_mut().expect("a written pageblock")[(number & 511) as usize]
    }
}

/// A pageblock of values made by `make`, built on the heap (a kernel's stack
/// may be as small as 4 pageblocks of bytes).
pub(crate) fn filled<T>(make: impl FnMut() -> T) -> Box<[T; BLOCK]> {
    let values: Vec<T> = core::iter::repeat_with(make).take(BLOCK).collect();
    match values.into_boxed_slice().try_into() {
        Ok(block) => block,
        Err(_) => unreachable!("512 values were made"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Action {
        Write(u64, u32),
        Clear(u64),
    }

    fn action() -> impl Strategy<Value = Action> {
        let number = prop_oneof![0..2048u64, (1u64 << 20)..(1 << 20) + 600];
        prop_oneof![
            4 => (number.clone(), 1..100u32).prop_map(|(n, v)| Action::Write(n, v)),
            1 => number.prop_map(|n| Action::Clear(n >> 9)),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(actions in proptest::collection::vec(action(), 0..60)) {
            let mut sparse = SparseFrames::<u32>::new(1024);
            let mut model = BTreeMap::<u64, [u32; BLOCK]>::new();
            for action in actions {
                match action {
                    Action::Write(n, v) => {
                        *sparse.get_or_default(n) = v;
                        model.entry(n >> 9).or_insert([0; BLOCK])[(n & 511) as usize] = v;
                    }
                    Action::Clear(b) => {
                        prop_assert_eq!(sparse.clear_block(b).map(|b| *b), model.remove(&b));
                    }
                }
            }
            let want: Vec<(u64, u32)> =
                model.iter().flat_map(|(b, v)| (0..512).map(move |i| (b * 512 + i, v[i as usize]))).collect();
            prop_assert_eq!(sparse.iter().map(|(n, v)| (n, *v)).collect::<Vec<_>>(), want.clone());
            prop_assert_eq!(sparse.iter_mut().map(|(n, v)| (n, *v)).collect::<Vec<_>>(), want);
            prop_assert_eq!(sparse.blocks().count(), model.len());
            for n in [0, 511, 512, 2047, 1 << 20, u64::MAX >> 12] {
                let want = model.get(&(n >> 9)).map(|b| b[(n & 511) as usize]);
                prop_assert_eq!(sparse.get(n).copied(), want);
                prop_assert_eq!(sparse.get_mut(n).copied(), want);
            }
        }
    }

    #[test]
    fn memory_follows_what_was_written() {
        let mut sparse = SparseFrames::<u64>::new(1 << 27);
        assert_eq!(sparse.bytes(), 0);
        *sparse.get_or_default(512 * 10) = 1;
        assert_eq!(sparse.bytes(), 11 * 8 + 4096);
        assert!(sparse.clear_block(10).is_some());
        assert_eq!(sparse.bytes(), 11 * 8);
    }
}
