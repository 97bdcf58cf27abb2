//! Tests of the pool as a whole.

mod model;
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

/// Free blocks of all orders.
fn buddyinfo(pool: &Pool, node: NodeId) -> Vec<u64> {
    (0..=MAX_ORDER).map(|order| pool.free_blocks(node, order)).collect()
}
