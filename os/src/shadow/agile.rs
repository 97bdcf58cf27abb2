//! Agile paging: which of the guest's table pages are not shadowed, and when that changes.
//!
//! A page that is stored to for the second time within an interval is not shadowed from then on: shadows
//! switch to it, and its stores exit no more. A page to which nothing was stored during an interval is
//! shadowed again. Both as in the paper (§III); it takes a second for the interval, here the caller says when one ends.

use super::map::{ShadowMmu, Use};
use crate::space::NotifyCx;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use mechanisms::agile::Switches;
use paging::{Addr, Gfn, TableAt, TableMemory, Virt};

/// Stores within an interval after which a table is not shadowed.
const HOT: u32 = 2;
/// Tables of higher levels are always shadowed: the walk switches into these.
pub(super) const HIGHEST: u8 = 2;

/// The part of agile paging in a VM's shadow tables.
#[derive(Debug, Default)]
pub(super) struct AgileState {
    /// Stores of this interval.
    stores: BTreeMap<Gfn, u32>,
    /// Tables that are not shadowed, and where shadows switch to them.
    pub nested: BTreeMap<Gfn, Vec<Use>>,
    pub switches: Switches,
    /// How often a table changed sides.
    pub moved: u64,
}

fn bytes(at: &Use) -> u64 {
    TableAt::<Virt> { base: Addr::new(0), level: at.level }.bytes()
}

impl<M: TableMemory> ShadowMmu<M> {
    /// Whether a table of the guest is not shadowed.
    pub(super) fn is_nested(&self, table: Gfn) -> bool {
        self.agile.as_ref().is_some_and(|agile| agile.nested.contains_key(&table))
    }

    /// Tables that are not shadowed.
    pub fn nested_tables(&self) -> usize {
        self.agile.as_ref().map_or(0, |agile| agile.nested.len())
    }

    /// How often a table changed from shadowed to nested, or back.
    pub fn switch_moves(&self) -> u64 {
        self.agile.as_ref().map_or(0, |agile| agile.moved)
    }

    /// Where shadows switch to; none without agile paging.
    pub fn switches(&self) -> Option<&Switches> {
        self.agile.as_ref().map(|agile| &agile.switches)
    }

    /// A shadow of `root` switches to `table` for one more place.
    pub(super) fn switches_at(&mut self, table: Gfn, at: Use) {
        if let Some(uses) = self.agile.as_mut().and_then(|agile| agile.nested.get_mut(&table))
            && !uses.contains(&at)
        {
            uses.push(at);
        }
    }

    /// A store to a shadowed table: perhaps it is one too many.
    pub(super) fn count_store(&mut self, cx: &mut NotifyCx<'_, M>, table: Gfn) {
        let Some(agile) = &mut self.agile else { return };
        let stores = agile.stores.entry(table).or_default();
        *stores += 1;
        let low = |uses: &Vec<Use>| uses.iter().all(|at| at.level <= HIGHEST);
        if *stores >= HOT && self.tables.get(&table).is_some_and(low) {
            self.stop_shadowing(cx, table);
        }
    }

    fn stop_shadowing(&mut self, cx: &mut NotifyCx<'_, M>, table: Gfn) {
        let uses = self.tables.remove(&table).unwrap_or_default();
        self.log.protect(table, false);
        self.log.watch(table, true);
        for at in &uses {
            let Some(root) = self.index(at.root) else { continue };
            self.drop_range(cx, root, at.base..at.base + bytes(at));
            // Nothing of what is below is shadowed there.
            let (log, range) = (&self.log, at.base..at.base + bytes(at));
            self.tables.retain(|&lower, lower_uses| {
                lower_uses.retain(|u| u.root != at.root || u.level >= at.level || !range.contains(&u.base));
                if lower_uses.is_empty() {
                    log.protect(lower, false);
                }
                !lower_uses.is_empty()
            });
        }
        if let Some(agile) = &mut self.agile {
            agile.nested.insert(table, uses);
            agile.moved += 1;
        }
    }

    /// A table is no table any more, or is to be shadowed again.
    pub(super) fn end_nested(&mut self, cx: &mut NotifyCx<'_, M>, table: Gfn) {
        let Some(uses) = self.agile.as_mut().and_then(|agile| agile.nested.remove(&table)) else { return };
        self.log.watch(table, false);
        for at in uses {
            if let Some(root) = self.index(at.root) {
                self.drop_range(cx, root, at.base..at.base + bytes(&at));
            }
        }
    }

    /// An interval ends.
    pub(super) fn end_interval(&mut self, cx: &mut NotifyCx<'_, M>) {
        let Some(agile) = &mut self.agile else { return };
        agile.stores.clear();
        let all: Vec<Gfn> = agile.nested.keys().copied().collect();
        for table in all {
            // What a scan of the VM's dirty bits costs.
            cx.env.work.table_reads[cx.env.node.index()] += 1;
            if !self.log.take_touched(table) {
                self.end_nested(cx, table);
                if let Some(agile) = &mut self.agile {
                    agile.moved += 1;
                }
            }
        }
    }

    /// A root ends: shadows of it switch no more.
    pub(super) fn release_switches(&mut self, guest: Gfn) {
        let Some(agile) = &mut self.agile else { return };
        agile.nested.values_mut().for_each(|uses| uses.retain(|at| at.root != guest));
    }
}
