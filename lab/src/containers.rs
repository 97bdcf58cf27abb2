//! What is counted of containers: their requests and start-ups, what they could share, and what they shared.

use mechanisms::babelfish::{Ccid, GroupStats, cost::Space};
use paging::{Entry, Flags, Frame, PhysSpace, TableMemory, ops};
use rustc_hash::FxHashMap as HashMap;
use serde::Serialize;

/// Cycles that requests and start-ups took on their cores; time when others had the core is not in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RequestCounts {
    /// Requests that ended.
    pub requests: u64,
    /// Mean cycles of one.
    pub mean: f64,
    /// The median.
    pub median: u64,
    /// Of a hundred, five take longer.
    pub tail: u64,
    /// Of a hundred, one takes longer.
    pub p99: u64,
    /// Processes that started up: fork, exec, and until the first request.
    pub starts: u64,
    /// Mean cycles of one.
    pub mean_start: f64,
    /// The same since the beginning, warm-up included.
    pub starts_in_all: u64,
    /// Mean cycles of one.
    pub mean_start_in_all: f64,
}

/// Leaf entries of the members of groups: how many there are, and how many others have the same.
///
/// Two are the same if they translate the same address of the same group to the same frame with the same rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shareable {
    /// Leaf entries of all members.
    pub entries: u64,
    /// Of these, those that another member has, too.
    pub shareable: u64,
    /// Different ones.
    pub distinct: u64,
    /// Entries with the accessed bit.
    pub active: u64,
    /// Of these, different ones.
    pub active_distinct: u64,
}

impl Shareable {
    /// Shareable entries as a share of all.
    pub fn share(&self) -> f64 {
        crate::outcome::ratio(self.shareable, self.entries)
    }
    /// By how much fewer active entries there are once equal ones are one.
    pub fn active_saved(&self) -> f64 {
        crate::outcome::ratio(self.active - self.active_distinct, self.active)
    }
}

/// Translations of members by what makes them the same: group, address, and the entry without A and D.
#[derive(Debug, Default)]
pub(crate) struct Leaves {
    seen: HashMap<(u32, u64, u64), (u32, u32)>,
}

impl Leaves {
    /// Adds those of a member's table.
    pub(crate) fn add<M: TableMemory>(&mut self, group: u32, mem: &M, root: Frame<M::Space>, levels: u8) {
        self.table(group, mem, root, levels, 0);
    }

    fn table<M: TableMemory>(&mut self, group: u32, mem: &M, table: Frame<M::Space>, level: u8, base: u64) {
        for (index, entry) in ops::entries(mem, table) {
            let va = base + ((index as u64) << (12 + 9 * (u32::from(level) - 1)));
            if entry.is_table(level) {
                self.table(group, mem, entry.frame(), level - 1, va);
            } else if entry.is_leaf(level) {
                let (all, active) =
                    self.seen.entry((group, va, Self::meaning::<M::Space>(entry))).or_default();
                *all += 1;
                *active += u32::from(entry.has(Flags::ACCESSED));
            }
        }
    }

    /// Frame and rights. (Whether an entry's page will be copied on a store is a right, too.)
    fn meaning<S: PhysSpace>(entry: Entry) -> u64 {
        let rights = [Flags::WRITABLE, Flags::USER, Flags::NO_EXECUTE];
        let bits = rights
            .iter()
            .enumerate()
            .fold(0, |bits, (at, flag)| bits | u64::from(entry.bits() & flag.0 != 0) << at);
        entry.frame::<S>().number() << 3 | bits
    }

    /// What they come to; `None` if no group has a leaf.
    pub(crate) fn count(&self) -> Option<Shareable> {
        let mut sum = Shareable { distinct: self.seen.len() as u64, ..Shareable::default() };
        for &(all, active) in self.seen.values() {
            sum.entries += u64::from(all);
            sum.shareable += if all > 1 { u64::from(all) } else { 0 };
            sum.active += u64::from(active);
            sum.active_distinct += u64::from(active > 0);
        }
        (sum.entries > 0).then_some(sum)
    }
}

/// What BabelFish did, over all groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SharingCounts {
    /// Groups that had members; processes that are in no group have one each.
    pub groups: u64,
    /// Links of a leaf table that others already had.
    pub tables_linked: u64,
    /// Of these, at a fork.
    pub tables_adopted: u64,
    /// Leaves that members got without a fault of their own: what is saved in faults is at most this.
    pub leaves_given: u64,
    /// Tables copied because one member changed something.
    pub tables_copied: u64,
    /// Tables that their last sharer kept for its own.
    pub tables_taken: u64,
    /// Bits set in masks.
    pub bits_set: u64,
    /// Blocks whose TLB entries are no longer shared.
    pub blocks_unshared: u64,
    /// Sets of 1 GiB that fell back to private translations: more than 32 writers.
    pub sets_unshared: u64,
    /// Shared tables at the end.
    pub shared_tables: u64,
    /// Links to them at the end.
    pub links: u64,
    /// MaskPages at the end.
    pub mask_pages: u64,
    /// Bytes that sharing takes for MaskPages and counters.
    pub bytes: u64,
    /// These as a share of the shared tables' bytes.
    pub overhead: f64,
    /// Bytes of tables that need not exist.
    pub bytes_saved: u64,
}

impl SharingCounts {
    pub(crate) fn of(groups: &[(Ccid, GroupStats, Space)]) -> SharingCounts {
        let mut sum = SharingCounts { groups: groups.len() as u64, ..SharingCounts::default() };
        let mut space = Space::default();
        for (_, stats, of_group) in groups {
            sum.tables_linked += stats.tables_linked;
            sum.tables_adopted += stats.tables_adopted;
            sum.leaves_given += stats.leaves_given;
            sum.tables_copied += stats.tables_copied;
            sum.tables_taken += stats.tables_taken;
            sum.bits_set += stats.bits_set;
            sum.blocks_unshared += stats.blocks_unshared;
            sum.sets_unshared += stats.sets_unshared;
            space.tables += of_group.tables;
            space.links += of_group.links;
            space.mask_pages += of_group.mask_pages;
        }
        (sum.shared_tables, sum.links, sum.mask_pages) = (space.tables, space.links, space.mask_pages);
        (sum.bytes, sum.overhead, sum.bytes_saved) = (space.bytes(), space.overhead(), space.saved());
        sum
    }
}
