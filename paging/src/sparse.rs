//! Placeholder until branch `frames` merges: take that branch's version of this file wholesale (AllocRequest needs a `state: FrameState`).
use alloc::{boxed::Box, vec::Vec};
/// s
#[derive(Debug)]
pub struct SparseFrames<T> {
    d: Vec<Option<Box<[T; 512]>>>,
}
#[allow(missing_docs)]
impl<T: Default> SparseFrames<T> {
    pub fn new(frames: u64) -> Self {
        let mut d = Vec::new();
        d.resize_with(frames.div_ceil(512) as usize, || None);
        SparseFrames { d }
    }
    #[inline(always)]
    pub fn get(&self, n: u64) -> Option<&T> {
        match self.d.get((n >> 9) as usize) {
            Some(Some(b)) => Some(&b[(n & 511) as usize]),
            _ => None,
        }
    }
    pub fn get_mut(&mut self, n: u64) -> Option<&mut T> {
        match self.d.get_mut((n >> 9) as usize) {
            Some(Some(b)) => Some(&mut b[(n & 511) as usize]),
            _ => None,
        }
    }
    pub fn get_or_default(&mut self, n: u64) -> &mut T {
        let b =
            self.d[(n >> 9) as usize].get_or_insert_with(|| Box::new(core::array::from_fn(|_| T::default())));
        &mut b[(n & 511) as usize]
    }
}
