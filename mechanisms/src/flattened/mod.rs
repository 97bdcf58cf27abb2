//! Flattened page tables (Park, Vougioukas, Sandberg, Black-Schaffer: Every Walk's a Hit: Making Page Walks
//! Single-Access Cache Hits; ASPLOS 2022): two levels of 4 KiB tables merged into one table of 2 MiB, whose
//! 2^18 entries are indexed by the 18 bits of both. A walk loads one entry where it loaded two.
//!
//! Merged are the two upper levels (4 and 3) and, GiB by GiB, the two lower ones (2 and 1): a walk of 4 levels
//! is two references, one of 5 levels three; in a VM with flattened tables on both sides (2 + 1) × (2 + 1) − 1 = 8
//! instead of 24. With the level-3 entry in a page-walk cache, which covers 1 GiB instead of the 2 MiB of an
//! ordinary level-2 entry, one reference is left.
//!
//! # How it lies in memory
//!
//! A merged table of levels 2 and 1 is 512 level-1 tables, one behind the other: entry `i1` of table
//! `i2` lies where the 18 bits `i2·512 + i1` lead. So *software keeps its ordinary tree* ([`Flat`]): level-2
//! tables that no walker reads while their GiB is merged, and level-1 tables that are pages of the merged one. What the walker
//! reads are second copies of the tables above level 2; in those, an entry with [`MERGED`] points to a merged table.
//! The register of the root has the same bit.
//!
//! Where the node has no free 2 MiB block, levels stay as they are: an ordinary entry in the same place.
//!
//! # Huge pages
//!
//! A merged table has no entry for a page of 2 MiB (one would be 512 equal ones). The GiB goes back to ordinary levels when the first
//! is mapped: one entry of the walker's level-3 table changes, the level-1 tables stay where they are,
//! what is left of the 2 MiB returns to the allocator after the flush. It is not merged again before its level-2
//! table is freed. A walk for a 2 MiB page is then two references, [4 3] and 2; for a 1 GiB page one.
//!
//! # What must hold
//!
//! * A walk ends as one of software's tree by ordinary levels does, whatever is merged.
//! * A merged GiB has nothing in its level-2 table but links to the pages of its merged table.
//! * A page of a merged table is freed only after the flush that takes the entry which leads there from every walk cache.
//! * Every frame of a block is freed once: with the level-2 table, or when the GiB is no longer merged and it is
//!   not in use, or as the level-1 table that it is.
//!
//! # What the paper has and this has not
//!
//! The paper's second technique, replacement that favours lines of page tables in the caches while
//! misses are frequent, is the caches' own and none of the tables'. It is not here.

mod tables;
mod walk;

pub use tables::Flat;
pub use walk::{FlatTables, MERGED};

use crate::mechanism::{Mechanism, Refusal, Side};
use alloc::boxed::Box;
use paging::{Flags, NodeId, Space, TableMemory, TableOps};

/// log2 of the pages of a merged table.
const ORDER: u8 = 9;

/// The mechanism, for the list of names.
#[derive(Clone, Copy, Debug)]
pub struct Flattened;

impl Mechanism for Flattened {
    const SAYS: &'static str = "page tables with two levels merged into one of 2 MiB (Every Walk's a Hit)";
    const NEEDS: &'static str =
        "processor; kernel of the side: levels merged in pairs (flattened page tables)";
    const SYSTEMS: &'static [(&'static str, &'static str)] = &[
        ("native+flattened", "flattened page tables: two references instead of four"),
        ("nested+flattened", "the same in the guest of a VM"),
        ("nested+flattened+host-flattened", "the same in guest and host: eight references instead of 24"),
    ];
    const REFUSES: &'static [Refusal] = &[
        Refusal {
            on: None,
            with: "mitosis",
            why: "copies of tables are kept page by page, and a merged table is one block: a node without a \
                  free block would walk other levels than its neighbour",
        },
        Refusal {
            on: None,
            with: "vmitosis",
            why: "table pages move to their data one by one, and the pages of a merged table stay together",
        },
        Refusal {
            on: Some(Side::Kernel),
            with: "babelfish",
            why: "a leaf table that a group shares is in one place, and in a merged table its place follows from \
                  the address: it would have to be in each member's at once",
        },
        Refusal {
            on: Some(Side::Kernel),
            with: "shadow",
            why: "no walker walks the guest's table under shadow paging: flatten the shadow table, \
                  `host-flattened`",
        },
        Refusal {
            on: None,
            with: "agile",
            why: "the switch from a shadow to the guest's table is an entry of level 2 or 3, which a merged \
                  table has not",
        },
        Refusal {
            on: Some(Side::Kernel),
            with: "passthrough",
            why: "the walker walks the twins of the guest's tables, which are pages of their own",
        },
    ];

    type Tables<'a, M: TableMemory> = FlatTables<'a, M>;

    fn walked<M: TableMemory>(mem: &M, root: Flags) -> FlatTables<'_, M> {
        FlatTables::new(mem, root)
    }

    fn tables<I: Space, M: TableMemory>(fixed: Option<NodeId>) -> Box<dyn TableOps<I, M>> {
        Box::new(Flat::<M::Space>::new(fixed))
    }
}
