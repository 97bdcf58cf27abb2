//! The walker: after a walk through a table that others share (O = 0) and in
//! which somebody has a private copy (ORPC = 1) it fetches the block's mask
//! from the MaskPage, for the TLB entry's tag. With ORPC = 0 it fetches nothing.
//!
//! The paper fetches the mask in parallel with the leaf entry; here it is one
//! more reference after it, so the walk is charged a little more.

use super::mask::{Block, Masks, mask_in, mask_slot};
use super::tag::{LINK_ORPC, LINK_OWNED};
use paging::{
    Cell, Fault, Frame, GuestPhys, HostPhys, HostStage, Hpa, Intent, Leaf, Native, Nested, PhysSpace, Port,
    Slot, TableAt, TableMemory, Translation, Va, Virt,
};

/// A walk of tables that may have masks beside them.
pub trait Masked: Translation {
    /// The physical space that the tables are in.
    type Space: PhysSpace;

    /// The block of the leaf table for `va`, without a step. The walker has
    /// just been there.
    fn block(&self, va: Va) -> Option<Block>;

    /// Loads the mask of `block` from its MaskPage.
    ///
    /// # Errors
    /// If the page cannot be reached, in a VM.
    fn mask<P: Port>(&self, port: &mut P, page: Frame<Self::Space>, block: Block) -> Result<u32, Fault>;
}

/// The level of the entry that decides about `va`.
fn leaf_level<M: TableMemory>(mem: &M, root: Frame<M::Space>, levels: u8, va: Va) -> Option<u8> {
    let (mut table, mut level) = (root, levels);
    loop {
        let entry = mem.load(Slot::new(table, va.index(level)));
        if !entry.is_table(level) {
            return entry.is_leaf(level).then_some(level);
        }
        table = entry.frame();
        level -= 1;
    }
}

fn block_at(va: Va, level: u8) -> Option<Block> {
    Block::of(TableAt::<Virt>::covering(va, level))
}

/// The place of a reference to the mask of a table of `level` in the walk's grid: beside
/// the entry that points to the table.
fn cell(block: Block) -> Cell {
    Cell { guest: block.level + 1, host: 0 }
}

impl<M: TableMemory<Space = HostPhys>> Masked for Native<'_, M> {
    type Space = HostPhys;

    fn block(&self, va: Va) -> Option<Block> {
        block_at(va, leaf_level(self.mem, self.root, self.levels, va)?)
    }
    fn mask<P: Port>(&self, port: &mut P, page: Frame<HostPhys>, block: Block) -> Result<u32, Fault> {
        let slot = mask_slot(page, block.index());
        port.side_reference(cell(block), slot.addr());
        Ok(mask_in(self.mem.load(slot), block.index()))
    }
}

impl<G, D> Masked for Nested<'_, G, D>
where
    G: TableMemory<Space = GuestPhys>,
    D: HostStage,
{
    type Space = GuestPhys;

    fn block(&self, va: Va) -> Option<Block> {
        block_at(va, leaf_level(self.guest, self.root, self.levels, va)?)
    }
    fn mask<P: Port>(&self, port: &mut P, page: Frame<GuestPhys>, block: Block) -> Result<u32, Fault> {
        // The MaskPage is guest memory, so its address is translated too.
        let slot = mask_slot(page, block.index());
        let host = self.host.translate(port, slot.addr(), cell(block).guest, Intent::READ)?;
        port.side_reference(cell(block), host.frame.base().offset(slot.index as u64 * 8));
        Ok(mask_in(self.guest.load(slot), block.index()))
    }
}

/// A walk that brings the mask.
#[derive(Clone, Copy, Debug)]
pub struct Babel<'a, X> {
    /// The walk itself.
    pub walk: X,
    /// The MaskPages of the running process's group.
    pub masks: &'a Masks,
}

impl<X: Masked> Translation for Babel<'_, X> {
    type Located = X::Located;
    const STAGES: u8 = X::STAGES;

    #[inline(always)]
    fn walk<P: Port>(&self, port: &mut P, va: Va, intent: Intent) -> Result<Leaf, Fault> {
        let mut leaf = self.walk.walk(port, va, intent)?;
        if leaf.link & (LINK_OWNED | LINK_ORPC) == LINK_ORPC {
            leaf.tag = u64::from(self.fetch(port, va)?);
        }
        Ok(leaf)
    }

    #[inline(always)]
    fn peek(&self, va: Va) -> Option<Hpa> {
        self.walk.peek(va)
    }

    #[inline(always)]
    fn locate(&self, va: Va, near: &mut impl FnMut(Hpa)) -> Option<X::Located> {
        self.walk.locate(va, near)
    }

    #[inline(always)]
    fn relocate(&self, va: Va, located: X::Located, near: &mut impl FnMut(Hpa)) -> Option<X::Located> {
        self.walk.relocate(va, located, near)
    }

    #[inline(always)]
    fn arrive(&self, va: Va, located: X::Located) -> Option<Hpa> {
        self.walk.arrive(va, located)
    }
}

impl<X: Masked> Babel<'_, X> {
    #[inline(never)]
    fn fetch<P: Port>(&self, port: &mut P, va: Va) -> Result<u32, Fault> {
        let page = self.walk.block(va).and_then(|block| Some((block, self.masks.page(block.set())?)));
        match page {
            Some((block, page)) => self.walk.mask(port, page, block),
            // Nobody who has a bit may be served by an entry whose mask is not known.
            None => Ok(u32::MAX),
        }
    }
}
