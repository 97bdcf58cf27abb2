//! Placeholder until branch `frames` merges: take that branch's version of this file wholesale (AllocRequest needs a `state: FrameState`).
use crate::addr::*;
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, PartialOrd, Ord, Hash)]
/// n
pub struct NodeId(pub u8);
impl NodeId {
    /// i
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
/// n
pub struct CpuId(pub u16);
/// m
pub const MAX_NODES: usize = 8;
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
/// n
pub struct NoFrame;
impl core::fmt::Display for NoFrame {
    fn fmt(&self, _f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        Ok(())
    }
}
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
/// s
pub enum FrameState {
    #[default]
    /// a
    Anon,
}
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
/// s
pub enum Mobility {
    #[default]
    /// a
    Movable,
}
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
/// s
pub enum NodePolicy {
    #[default]
    /// a
    Prefer,
    /// b
    Strict,
}
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
/// s
#[allow(missing_docs)]
pub struct AllocRequest {
    pub order: u8,
    pub node: NodeId,
    pub policy: NodePolicy,
    pub mobility: Mobility,
    pub cpu: Option<CpuId>,
    pub state: FrameState,
}
/// p
#[derive(Debug)]
pub struct FramePool<S>(core::marker::PhantomData<S>);
impl<S: PhysSpace> FramePool<S> {
    /// a
    #[allow(clippy::missing_errors_doc)]
    pub fn alloc(&mut self, _r: AllocRequest) -> Result<Frame<S>, NoFrame> {
        Err(NoFrame)
    }
}
