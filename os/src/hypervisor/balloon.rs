//! The balloon: the guest pins frames that it does not need, and the host takes
//! the memory behind them.

use super::VmId;
use crate::error::MmError;
use crate::hardware::{Cost, ExitKind, Hardware};
use crate::kernel::Kernel;
use crate::segment::{Content, Reason};
use alloc::vec::Vec;
use paging::frames::{AllocRequest, CpuId, FrameState, NodeId};
use paging::{Frame, Gfn, PageSize, TableMemory};

impl<M: TableMemory> Kernel<M> {
    /// The guest's half: pins up to `frames` free frames of `node`, fewer if
    /// that would need a reserve. The host is told their numbers.
    pub fn inflate_balloon(&mut self, node: NodeId, frames: u64) -> Vec<Frame<M::Space>> {
        let request = AllocRequest::new(node, FrameState::Ballooned).strict().opportunistic();
        let pool = &mut self.core.pool;
        let taken: Vec<_> = (0..frames).map_while(|_| pool.alloc(request).ok()).collect();
        self.core.balloon.extend(&taken);
        taken
    }

    /// The guest's half: frees up to `frames` frames of the balloon. The host
    /// backs them again when they are used. Returns how many.
    pub fn deflate_balloon(&mut self, frames: u64) -> u64 {
        let keep = self.core.balloon.len().saturating_sub(frames as usize);
        let freed = self.core.balloon.split_off(keep);
        freed.iter().for_each(|&frame| self.core.pool.free(frame, 0, None));
        freed.len() as u64
    }

    /// Frames in the balloon of this (guest's) kernel.
    pub fn balloon(&self) -> &[Frame<M::Space>] {
        &self.core.balloon
    }

    /// The host's half: takes the memory behind these guest frames. What is a part of a
    /// reserved huge page stays (Linux: `MADV_DONTNEED` fails there). Returns how many host frames came back.
    ///
    /// # Errors
    /// [`MmError::NoVm`]; memory errors.
    pub fn take_ballooned(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
        gfns: &[Gfn],
    ) -> Result<u64, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let mut sorted = gfns.to_vec();
        sorted.sort_unstable();
        let mut runs = sorted.chunk_by(|a, b| a.offset(1) == *b);
        let free = |kernel: &Self| -> u64 {
            let pool = &kernel.core.pool;
            pool.nodes().iter().map(|node| pool.free_frames(node) + pool.pcp_frames(node)).sum()
        };
        let before = free(self);
        runs.try_for_each(|run| {
            let start = run[0].base().raw();
            self.on_vm(&mut cx, id, |core, vm, cx| {
                let range = start..start + (run.len() as u64) * 4096;
                let small = |area: &crate::Vma| area.page == PageSize::Size4K;
                core.leave(&mut vm.space, cx, range.clone(), Content::Dropped, Reason::Ballooned)?;
                let parts: Vec<_> = vm.space.vmas.within(range).filter(small).collect();
                parts.into_iter().try_for_each(|part| core.unmap_pages(&mut vm.space, cx, part.range()))
            })
        })?;
        // The balloon's driver names up to 256 frames at once (virtio-balloon, VIRTIO_BALLOON_ARRAY_PFNS_MAX).
        let calls = (gfns.len() as u64).div_ceil(256).max(1);
        if let Some(vm) = self.vms.get_mut(id.0) {
            vm.space.stats.hypercalls += calls;
        }
        (0..calls).for_each(|_| self.core.charge(&mut cx, Cost::Exit(ExitKind::Hypercall)));
        Ok(free(self).saturating_sub(before))
    }
}
