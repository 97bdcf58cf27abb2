//! Where the page of a table with one copy goes.

use paging::NodeId;
use paging::frames::NodeSet;

/// Where the page of a table with one copy goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Place {
    /// On the node of the CPU that first needs it, as in Linux.
    #[default]
    FirstTouch,
    /// All on one node: builds the papers' remote tables (`pgtable_replication = 0`).
    Fixed(NodeId),
    /// On these nodes in turn.
    Interleave(NodeSet),
}

impl Place {
    /// The node for a page wanted on `wanted` when the one before went to
    /// `turn`, and the turn then.
    pub(super) fn choose(self, wanted: NodeId, turn: NodeId) -> (NodeId, NodeId) {
        match self {
            Place::FirstTouch => (wanted, turn),
            Place::Fixed(node) => (node, turn),
            Place::Interleave(nodes) => {
                let next = nodes.iter().find(|&node| node > turn).or(nodes.iter().next()).unwrap_or(wanted);
                (next, next)
            }
        }
    }
}
