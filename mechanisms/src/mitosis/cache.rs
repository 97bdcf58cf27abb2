//! The page-table page cache: pages kept by node for tables.
//!
//! A copy for a node is of use only if it lies there, so Mitosis sets pages
//! aside while the node has some (`kernel.pgtable_replication_cache`). Unlike
//! the published cache this one has a bound, gives pages back beyond it, and
//! when it is empty, and the node too, answers with a page of another node,
//! which [`Work::tables_misplaced`](paging::Work) counts, instead of panicking.

use alloc::vec::Vec;
use core::fmt;
use paging::frames::{MAX_NODES, NoFrame, NodeSet};
use paging::{Entry, Frame, NodeId, PhysSpace, TableFrames};

/// What a node's list did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheStats {
    /// The most pages that were held.
    pub high_water: usize,
    /// Requests answered from the list.
    pub hits: u64,
    /// Requests that the frame pool had to answer.
    pub misses: u64,
    /// Pages given back to the pool because the list was full.
    pub overflows: u64,
}

/// Pages for tables, by node; one for all address spaces of a kernel.
pub struct TablePages<S> {
    lists: [Vec<Frame<S>>; MAX_NODES],
    stats: [CacheStats; MAX_NODES],
    bound: usize,
}

impl<S: PhysSpace> fmt::Debug for TablePages<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TablePages")
            .field("held", &self.lists.each_ref().map(Vec::len))
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}

impl<S: PhysSpace> TablePages<S> {
    /// An empty cache that holds at most `bound` pages of a node.
    pub fn new(bound: usize) -> Self {
        TablePages {
            lists: [const { Vec::new() }; MAX_NODES],
            stats: [CacheStats::default(); MAX_NODES],
            bound,
        }
    }

    /// Takes pages from `pool` until each of `nodes` holds `pages` (the bound at
    /// most) or has no more; returns how many were taken.
    pub fn populate(&mut self, pool: &mut dyn TableFrames<S>, nodes: NodeSet, pages: usize) -> usize {
        let mut taken = 0;
        for node in nodes.iter() {
            while self.held(node) < pages.min(self.bound) {
                let Ok(frame) = pool.alloc_table(node, true) else { break };
                self.keep(node, frame);
                taken += 1;
            }
        }
        taken
    }

    /// Gives all pages back to `pool`.
    pub fn drain(&mut self, pool: &mut dyn TableFrames<S>) {
        self.lists.iter_mut().flat_map(|list| list.drain(..)).for_each(|frame| pool.free_table(frame));
    }

    /// Pages held for `node`.
    pub fn held(&self, node: NodeId) -> usize {
        self.lists[node.index()].len()
    }

    /// What the list of `node` did.
    pub fn stats(&self, node: NodeId) -> CacheStats {
        self.stats[node.index()]
    }

    /// The cache in front of `pool`, as [`TableEnv`](paging::TableEnv) wants it.
    pub fn over<'a>(&'a mut self, pool: &'a mut dyn TableFrames<S>) -> CachedFrames<'a, S> {
        CachedFrames { cache: self, pool }
    }

    pub(super) fn keep(&mut self, node: NodeId, frame: Frame<S>) {
        let list = &mut self.lists[node.index()];
        list.push(frame);
        let stats = &mut self.stats[node.index()];
        stats.high_water = stats.high_water.max(list.len());
    }
}

/// A [`TablePages`] in front of a frame pool.
pub struct CachedFrames<'a, S> {
    cache: &'a mut TablePages<S>,
    pool: &'a mut dyn TableFrames<S>,
}

impl<S: PhysSpace> fmt::Debug for CachedFrames<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cache.fmt(f)
    }
}

impl<S: PhysSpace> TableFrames<S> for CachedFrames<'_, S> {
    fn alloc_table(&mut self, node: NodeId, strict: bool) -> Result<Frame<S>, NoFrame> {
        let n = node.index();
        if let Some(frame) = self.cache.lists[n].pop() {
            self.cache.stats[n].hits += 1;
            return Ok(frame);
        }
        self.cache.stats[n].misses += 1;
        match self.pool.alloc_table(node, strict) {
            // The last resort is what is set aside for other nodes.
            Err(_) if !strict && self.cache.lists.iter().any(|list| !list.is_empty()) => {
                let longest = self.cache.lists.iter_mut().max_by_key(|list| list.len());
                longest.and_then(Vec::pop).map_or_else(|| self.pool.alloc_table(node, strict), Ok)
            }
            answer => answer,
        }
    }
    fn free_table(&mut self, frame: Frame<S>) {
        let node = self.pool.node_of(frame);
        if self.cache.held(node) < self.cache.bound {
            self.cache.keep(node, frame);
        } else {
            self.cache.stats[node.index()].overflows += 1;
            self.pool.free_table(frame);
        }
    }
    fn node_of(&self, frame: Frame<S>) -> NodeId {
        self.pool.node_of(frame)
    }
    fn leaf_copied(&mut self, entry: Entry) {
        self.pool.leaf_copied(entry);
    }
}
