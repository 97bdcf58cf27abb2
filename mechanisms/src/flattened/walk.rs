//! The walker's view: where the entry for an address is in a merged table.

use super::ORDER;
use paging::sync::AtomicU64;
use paging::walk::link_of;
use paging::{Addr, Entry, Flags, Frame, Slot, TableMemory, Walked};

/// In an entry of the walker's that points to a table, and beside the root: the table is a merged one, of the
/// level it has and the next below.
pub const MERGED: Flags = Flags::SOFT_11;

/// The same in a link.
const LINK: u8 = link_of(Entry(MERGED.0));

/// Tables some of which are merged.
#[derive(Debug)]
pub struct FlatTables<'a, M> {
    mem: &'a M,
    root: u8,
}

impl<'a, M> FlatTables<'a, M> {
    /// The tables in `mem`; `root`: the software bits beside the root.
    pub fn new(mem: &'a M, root: Flags) -> Self {
        FlatTables { mem, root: link_of(Entry(root.0)) }
    }
}

impl<M: TableMemory> Walked for FlatTables<'_, M> {
    type Space = M::Space;
    const LINKS: bool = true;

    #[inline(always)]
    fn word(&self, slot: Slot<M::Space>) -> Option<&AtomicU64> {
        self.mem.cell(slot)
    }

    #[inline(always)]
    fn root_link(&self) -> u8 {
        self.root
    }

    /// A merged table of `level` and the one below is indexed by the 18 bits of both: its pages are the
    /// tables of the lower level in the order of their addresses.
    #[inline(always)]
    fn entry_of(&self, table: Frame<M::Space>, level: u8, link: u8, addr: u64) -> (Slot<M::Space>, u8) {
        let addr = Addr::<M::Space>::new(addr);
        // A guest may write what it likes into its tables: there is no level below the last.
        if link & LINK == 0 || level < 2 {
            return (Slot::new(table, addr.index(level)), level);
        }
        let page = addr.index(level) & ((1 << ORDER) - 1);
        (Slot::new(table.offset(page as u64), addr.index(level - 1)), level - 1)
    }

    #[inline(always)]
    fn has_pages(link: u8) -> bool {
        link & LINK != 0
    }
}
