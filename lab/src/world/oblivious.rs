//! A guest that is shown one node and keeps page tables near its CPUs all the
//! same: told by the hypervisor where they are (NO-P), or by measuring (NO-F).

use super::*;
use crate::numa::Replication;
use mechanisms::mitosis::{GroupPages, group_cpus};
use os::TableCache;
use paging::frames::{AllocRequest, FrameState};
use paging::random::{STEP, mix};
use paging::{NoFrame, TableFrames};

/// Frames of a block that table pages are set aside in: a huge page of the host
/// is then near one group.
const BLOCK_FRAMES: u64 = 512;

/// The group of each CPU: its node, as the hypervisor tells, or what latencies
/// say; empty if the guest does not ask.
pub(super) fn groups(machine: &Tagged, replication: Replication, cpus: &[NodeId], seed: u64) -> Vec<NodeId> {
    match replication {
        Replication::Told => cpus.to_vec(),
        Replication::Found => {
            let memory = &machine.uncore().memory;
            let near = (0..memory.nodes() as u8).map(NodeId).map(|node| memory.unloaded(node, node)).min();
            let far = hundredths(near.unwrap_or(0));
            group_cpus(cpus.len(), far, &mut |a, b| measured(machine, a as u16, b as u16, seed))
        }
        _ => Vec::new(),
    }
}

fn hundredths(ticks: u64) -> u32 {
    (ticks * 100 / TICKS) as u32
}

/// Hundredths of cycles that a cache line takes from CPU `a` to `b`, measured: a
/// tenth more or less than it is, as repeated measurements scatter (50-60 and
/// 100-126 ns were seen, vMitosis `[F:KW]`).
fn measured(machine: &Tagged, a: u16, b: u16, seed: u64) -> u32 {
    let exact = hundredths(machine.line_transfer(CpuId(a), CpuId(b)));
    let pair = u64::from(a) << 32 | u64::from(b);
    exact * (90 + (mix(seed ^ pair.wrapping_mul(STEP)) % 21) as u32) / 100
}

/// Pages for the tables of `setup`'s regions, for each copy.
pub(super) fn pages_for(setup: &Setup) -> u64 {
    let bytes: u64 = setup.processes.iter().flat_map(|p| &p.regions).map(|r| r.len).sum();
    let leaves = bytes >> PageSize::Size2M.shift();
    // The tables above them, those that regions begin and end in, and roots.
    (leaves + leaves / 100 + BLOCK_FRAMES).next_multiple_of(BLOCK_FRAMES)
}

/// Sets `pages` guest frames aside near each group of CPUs, and gives them to the guest's kernel.
pub(super) fn set_aside(
    kernel: &mut Kernel<GuestMem>,
    hardware: &mut GuestHardware<'_>,
    groups: &[NodeId],
    told: bool,
    pages: u64,
) -> Result<(), MmError> {
    let mut runs = Vec::new();
    for group in groups.iter().copied().collect::<NodeSet>().iter() {
        let cpu = CpuId(groups.iter().position(|g| *g == group).unwrap_or(0) as u16);
        let (mut left, mut size) = (pages, pages);
        while left > 0 {
            let frames = size.min(left);
            let request = AllocRequest::new(NodeId(0), FrameState::Table);
            match kernel.pool_mut().alloc_contiguous(frames, BLOCK_FRAMES, request) {
                Ok(start) => {
                    if told {
                        hardware.place(cpu, start, frames, group)?;
                    } else {
                        // The host's first touch is that of a CPU of the group.
                        for block in (0..frames).step_by(BLOCK_FRAMES as usize) {
                            hardware.zero(cpu, start.offset(block), BLOCK_FRAMES.ilog2() as u8);
                        }
                    }
                    runs.push((start.number()..start.number() + frames, group));
                    left -= frames;
                }
                // What is missing comes from anywhere, and is counted then.
                Err(_) if size == BLOCK_FRAMES => break,
                Err(_) => size = (size / 2).next_multiple_of(BLOCK_FRAMES),
            }
        }
    }
    kernel.set_table_cache(Some(Box::new(NearPages(GroupPages::new(runs)))));
    Ok(())
}

/// [`GroupPages`] as a kernel's table cache.
#[derive(Debug)]
struct NearPages(GroupPages<GuestPhys>);

impl TableCache<GuestPhys> for NearPages {
    fn alloc_table(
        &mut self,
        pool: &mut dyn TableFrames<GuestPhys>,
        node: NodeId,
        strict: bool,
    ) -> Result<Frame<GuestPhys>, NoFrame> {
        self.0.alloc(pool, node, strict)
    }
    fn free_table(&mut self, pool: &mut dyn TableFrames<GuestPhys>, frame: Frame<GuestPhys>) {
        self.0.free(pool, frame);
    }
    fn node_of(&self, frame: Frame<GuestPhys>) -> Option<NodeId> {
        self.0.group_of(frame)
    }
    fn drain(&mut self, pool: &mut dyn TableFrames<GuestPhys>) -> u64 {
        self.0.drain(pool)
    }
}
