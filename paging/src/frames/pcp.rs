//! Per-CPU lists of single frames.
//!
//! A CPU takes and frees single frames on a list of its own and exchanges them
//! with the zone in batches (Linux `per_cpu_pages`). A batch comes off the
//! buddy lists in one go and mostly in ascending order: it decides over what
//! span of memory a process's faults stay contiguous when others fault too.
//! Larger blocks come straight from the zone, as in Linux before 5.13.

use super::buddy::Zone;
use super::descriptors::Descriptors;
use super::{CpuId, Mobility};
use alloc::vec::Vec;
use core::mem::size_of;

/// One zone's lists of all CPUs.
#[derive(Clone, Debug, Default)]
pub(super) struct PerCpu {
    /// By CPU and mobility; the end of a list is its hot side. Lists appear when a CPU is
    /// first seen.
    lists: Vec<[Vec<u32>; 2]>,
    /// Frames on all lists.
    pub frames: u64,
}

impl PerCpu {
    /// Takes the frame that was freed last.
    #[inline(always)]
    pub fn pop(&mut self, cpu: CpuId, mobility: Mobility) -> Option<u64> {
        let frame = self.lists.get_mut(cpu.index())?[mobility as usize].pop()?;
        self.frames -= 1;
        Some(u64::from(frame))
    }

    /// Adds a frame that was just freed; returns how long the CPU's lists are now.
    #[inline(always)]
    pub fn push(&mut self, cpu: CpuId, mobility: Mobility, frame: u64) -> usize {
        if cpu.index() >= self.lists.len() {
            self.lists.resize_with(cpu.index() + 1, Default::default);
        }
        let lists = &mut self.lists[cpu.index()];
        lists[mobility as usize].push(frame as u32);
        self.frames += 1;
        lists[0].len() + lists[1].len()
    }

    /// The (empty) list that a batch goes to, taken out; [`put_batch`](Self::put_batch) puts it back.
    pub fn take_list(&mut self, cpu: CpuId, mobility: Mobility) -> Vec<u32> {
        if cpu.index() >= self.lists.len() {
            self.lists.resize_with(cpu.index() + 1, Default::default);
        }
        core::mem::take(&mut self.lists[cpu.index()][mobility as usize])
    }

    /// Makes `batch` a CPU's list. Its first frame is used first.
    pub fn put_batch(&mut self, cpu: CpuId, mobility: Mobility, mut batch: Vec<u32>) {
        batch.reverse();
        self.frames += batch.len() as u64;
        self.lists[cpu.index()][mobility as usize] = batch;
    }

    /// Takes up to `count` frames from the cold side of a CPU's list.
    pub fn cold(&mut self, cpu: CpuId, mobility: Mobility, count: usize) -> Vec<u64> {
        let Some(lists) = self.lists.get_mut(cpu.index()) else { return Vec::new() };
        let list = &mut lists[mobility as usize];
        let taken: Vec<u64> = list.drain(..count.min(list.len())).map(u64::from).collect();
        self.frames -= taken.len() as u64;
        taken
    }

    /// The CPU's longer list.
    pub fn longer(&self, cpu: CpuId) -> Mobility {
        let lists = &self.lists[cpu.index()];
        if lists[1].len() > lists[0].len() { Mobility::Unmovable } else { Mobility::Movable }
    }

    /// CPUs that have lists.
    pub fn cpus(&self) -> impl Iterator<Item = CpuId> + use<> {
        (0..self.lists.len() as u16).map(CpuId)
    }

    /// All frames.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.lists.iter().flatten().flatten().map(|&frame| u64::from(frame))
    }

    pub fn bytes(&self) -> usize {
        self.lists.capacity() * size_of::<[Vec<u32>; 2]>()
            + self.lists.iter().flatten().map(|list| list.capacity() * size_of::<u32>()).sum::<usize>()
    }
}

impl Zone {
    /// Takes a single frame through the list of `cpu`, which gets a batch if it is empty
    /// (`rmqueue_bulk`). The frame's word is stale.
    pub fn take_single(
        &mut self,
        d: &mut Descriptors,
        cpu: CpuId,
        mobility: Mobility,
        batch: u16,
        stolen: &mut u64,
        refills: &mut u64,
    ) -> Option<u64> {
        if let Some(frame) = self.pcp.pop(cpu, mobility) {
            return Some(frame);
        }
        let mut list = self.pcp.take_list(cpu, mobility);
        self.take_batch(d, batch.max(1).into(), mobility, stolen, |frame| list.push(frame as u32));
        *refills += u64::from(!list.is_empty());
        self.pcp.put_batch(cpu, mobility, list);
        self.pcp.pop(cpu, mobility)
    }

    /// Gives up to `count` frames of a CPU's list back, the coldest first
    /// (`free_pcppages_bulk`); returns how many.
    pub fn drain(&mut self, d: &mut Descriptors, cpu: CpuId, mobility: Mobility, count: usize) -> usize {
        let cold = self.pcp.cold(cpu, mobility, count);
        for &frame in &cold {
            self.give(d, frame, 0);
        }
        cold.len()
    }
}
