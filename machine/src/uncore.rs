//! What cores share: a last-level cache a socket, and memory.

use crate::cache::Cache;
use crate::metrics::Served;
use crate::numa::Memory;
use crate::set::Vectors;
use crate::timing::Ticks;
use paging::NodeId;

/// Last-level caches and memory.
#[derive(Clone, Debug)]
pub struct Uncore {
    /// One a socket.
    pub(crate) llc: Vec<Cache>,
    /// Memory of all nodes.
    pub memory: Memory,
}

impl Uncore {
    /// A load that missed the L2 of a core on `socket` and `node`: where it was
    /// served and how long it took, the way through the caches included.
    #[inline(always)]
    pub(crate) fn access(
        &mut self,
        vectors: impl Vectors,
        socket: usize,
        node: NodeId,
        line: u64,
        now: Ticks,
        llc_latency: Ticks,
    ) -> (Served, Ticks) {
        if self.llc[socket].access_with(vectors, line) {
            return (Served::Llc, llc_latency);
        }
        let home = self.memory.node_of(line);
        let latency = self.memory.access(now, node, home);
        (if home == node { Served::Local } else { Served::Remote }, latency)
    }

    /// The last-level cache of a socket.
    #[inline(always)]
    pub(crate) fn llc(&self, socket: usize) -> &Cache {
        &self.llc[socket]
    }
}
