//! Memory pressure.

use crate::error::{MmError, Stop};
use crate::kernel::{Cx, Kernel};
use paging::TableMemory;

impl<M: TableMemory> Kernel<M> {
    /// A step stopped for want of frames: gives some back so that it can be
    /// taken again.
    ///
    /// # Errors
    /// With what stopped the step, if nothing can be done.
    pub(crate) fn relieve(
        &mut self,
        _cx: &mut Cx<'_, M::Space>,
        stop: Stop,
        attempts: &mut u32,
    ) -> Result<(), MmError> {
        *attempts += 1;
        match stop {
            Stop::Fail(e) => Err(e),
            Stop::NoFrame(e) if self.core.source.reclaim(&mut self.core.pool, e.frames.max(32)) == 0 => {
                Err(MmError::OutOfMemory(e))
            }
            Stop::NoFrame(_) => Ok(()),
            Stop::Limit(group) => {
                let limit = self.group(group).limit.unwrap_or(u64::MAX);
                Err(MmError::GroupLimit { group, limit })
            }
        }
    }

    /// Now and then after a fault: kswapd, if a node is below its low watermark.
    pub(crate) fn balance_memory(&mut self, _cx: &mut Cx<'_, M::Space>) {}
}
