//! Tests of the pool as a whole.

mod audit;
mod behaviour;
mod compaction;
mod differential;
mod fragmentation;
mod model;
mod plug;
mod random;

use super::*;
use crate::{Hfn, HostPhys};
use alloc::vec::Vec;

type Pool = FramePool<HostPhys>;

fn frame(number: u64) -> Hfn {
    Hfn::new(number)
}

/// Two nodes that have all zones, a hole and ragged edges between them: node 0 in DMA and DMA32, node 1 in
/// Normal, about 60 MiB in all.
fn small_layout() -> Layout {
    let normal = DMA32_END;
    Layout {
        nodes: [
            NodeSpec { frames: [256..3000, 3003..6000, 6144..8192 + 17].to_vec() },
            NodeSpec { frames: [normal..normal + 4096, normal + 5120..normal + 7168].to_vec() },
        ]
        .to_vec(),
        distances: Layout::uniform_distances(2),
    }
}

/// A pool without fragmentation, with short lists so that small tests see batches move.
fn small_pool() -> Pool {
    let config = PoolConfig { pcp: PcpConfig { batch: 7, high: 20 }, ..PoolConfig::default() };
    Pool::new(&small_layout(), config).unwrap()
}

/// One node with `frames` frames in one Normal zone.
fn flat_pool(frames: u64, config: PoolConfig) -> Pool {
    let range = DMA32_END..DMA32_END + frames;
    Pool::new(&Layout::of_ranges(core::slice::from_ref(&range)), config).unwrap()
}

/// An anonymous frame of node 0.
fn anon() -> AllocRequest {
    AllocRequest::new(NodeId(0), FrameState::Anon)
}

/// Allocates until refused.
fn exhaust(pool: &mut Pool, request: AllocRequest) -> Vec<Hfn> {
    core::iter::from_fn(|| pool.alloc(request).ok()).collect()
}

/// Free blocks of all orders.
fn buddyinfo(pool: &Pool, node: NodeId) -> Vec<u64> {
    (0..=MAX_ORDER).map(|order| pool.free_blocks(node, order)).collect()
}
