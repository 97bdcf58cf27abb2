//! Tags and array of a VM, kept in step with its table.

use crate::hardware::Invalidate;
use crate::space::{MmuNotifier, NotifyCx};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use mechanisms::passthrough::{FrameTags, Given, HostArray, Owner};
use paging::frames::CpuId;
use paging::{Entry, Flags, Frame, Gfn, Gpa, GuestPhys, Hfn, LeafAt, PageSize, PhysSpace, TableMemory};

/// What happened to a VM's tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PassThroughStats {
    /// 4 KiB frames given to the VM.
    pub given: u64,
    /// 4 KiB frames taken back.
    pub revoked: u64,
    /// Faults of the VM on tags that are not its own.
    pub tag_faults: u64,
    /// Slots that the guest asked for by touching a page.
    pub touched: u64,
    /// Times that a CPU entered the mode.
    pub entered: u64,
    /// Times that the VM fell back to nested paging.
    pub suspended: u64,
}

/// A VM whose guest maps host frames itself.
pub struct PassThrough<S: PhysSpace> {
    pub(super) owner: Owner,
    pub(super) array: Arc<HostArray>,
    pub(super) tags: Arc<FrameTags>,
    /// The host's frames that the array takes.
    pub(super) array_frames: Vec<Frame<S>>,
    /// The guest's root on each CPU that is in the mode.
    pub(super) entered: BTreeMap<CpuId, Gfn>,
    pub(super) suspended: bool,
    pub(super) stats: PassThroughStats,
}

impl<S: PhysSpace> fmt::Debug for PassThrough<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassThrough")
            .field("owner", &self.owner)
            .field("suspended", &self.suspended)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

fn host<S: PhysSpace>(frame: Frame<S>) -> Hfn {
    Hfn::new(frame.number())
}

/// Whether a leaf lets the guest do what it likes.
fn is_given(entry: Entry) -> bool {
    entry.has(Flags::PRESENT | Flags::WRITABLE)
}

impl<S: PhysSpace> PassThrough<S> {
    /// Whom its frames are tagged for.
    pub fn owner(&self) -> Owner {
        self.owner
    }
    /// Its array.
    pub fn array(&self) -> &Arc<HostArray> {
        &self.array
    }
    /// The machine's tags.
    pub fn tags(&self) -> &Arc<FrameTags> {
        &self.tags
    }
    /// What happened.
    pub fn stats(&self) -> &PassThroughStats {
        &self.stats
    }
    /// Whether it fell back to nested paging.
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }
    /// Host frames that the array takes.
    pub fn array_frames(&self) -> u64 {
        self.array_frames.len() as u64
    }
    /// The root that `cpu` entered the mode with, if it is in it.
    pub fn entered(&self, cpu: CpuId) -> Option<Gfn> {
        self.entered.get(&cpu).copied()
    }

    /// The page at `gpa` is the guest's now.
    pub(super) fn publish<M: TableMemory<Space = S>>(
        &mut self,
        cx: &mut NotifyCx<'_, M>,
        gpa: Gpa,
        entry: Entry,
        size: PageSize,
    ) {
        if self.suspended {
            return;
        }
        let (first, frame) = (gpa.frame(), host(entry.leaf_frame::<S>(size)));
        let pages = first.number()..first.number() + size.frames();
        let same =
            |gfn: Gfn, given: &Given| given.frame().number() == frame.number() + gfn.number() - pages.start;
        let node = cx.env.frames.node_of(entry.leaf_frame::<S>(size)).index();
        let had: Vec<_> = self.array.range(pages.clone()).collect();
        if had.len() as u64 == size.frames()
            && had.iter().all(|(gfn, given)| same(*gfn, given) && given.colour() == had[0].1.colour())
        {
            // Split or made whole in place.
            for (gfn, given) in had.into_iter().filter(|(_, given)| given.size() != size) {
                self.tags.resize(given.frame(), size);
                self.array.publish(gfn, given.resized(size));
                cx.env.work.table_writes[node] += 1;
            }
            return;
        }
        for (gfn, given) in had {
            self.revoke(cx, gfn, given);
        }
        let given = self.tags.give(self.owner, first, frame, size);
        for n in 0..size.frames() {
            self.array.publish(first.offset(n), Given::new(frame.offset(n), given.colour(), size));
        }
        self.stats.given += size.frames();
        if size == PageSize::Size4K {
            // A tag and a slot.
            cx.env.work.table_writes[node] += 2;
        } else {
            // Four tags, or eight slots, are in a line.
            cx.env.work.pass_lines[node] += (size.frames() / 4 + size.frames() / 8) as u32;
            cx.env.work.pass_writes[node] += 2 * size.frames() as u32;
        }
        if self.array.epoch() != self.tags.epoch() {
            self.array.set_epoch(self.tags.epoch());
        }
    }

    pub(super) fn revoke<M: TableMemory<Space = S>>(
        &mut self,
        cx: &mut NotifyCx<'_, M>,
        gfn: Gfn,
        given: Given,
    ) {
        self.tags.take(given.frame());
        self.array.withdraw(gfn);
        let node = cx.env.frames.node_of(Frame::new(given.frame().number())).index();
        cx.env.work.table_writes[node] += 2;
        self.stats.revoked += 1;
    }

    /// Takes all frames back; a flush is owed.
    pub(super) fn revoke_all<M: TableMemory<Space = S>>(&mut self, cx: &mut NotifyCx<'_, M>) {
        let all: Vec<_> = self.array.range(0..u64::MAX).collect();
        for (gfn, given) in all {
            self.revoke(cx, gfn, given);
        }
    }
}

impl<M: TableMemory> MmuNotifier<GuestPhys, M> for PassThrough<M::Space> {
    fn invalidate(&mut self, _cx: &mut NotifyCx<'_, M>, _what: Invalidate<'_>) {}

    fn wants_what_is_left(&self) -> bool {
        true
    }

    fn now(&mut self, cx: &mut NotifyCx<'_, M>, range: Range<u64>, leaves: &[LeafAt<GuestPhys>]) {
        if self.suspended {
            return;
        }
        // The leaf that maps a guest frame, if stores pass through it.
        let of = |gfn: Gfn| {
            let at = leaves.partition_point(|leaf| leaf.addr.raw() <= gfn.base().raw()).checked_sub(1)?;
            let leaf = &leaves[at];
            let within = gfn.number() - leaf.addr.page();
            let there = within < leaf.size.frames() && is_given(leaf.entry);
            there.then(|| host(leaf.entry.leaf_frame::<M::Space>(leaf.size)).offset(within))
        };
        let pages = range.start >> 12..range.end.div_ceil(4096);
        let gone: Vec<_> =
            self.array.range(pages).filter(|(gfn, given)| of(*gfn) != Some(given.frame())).collect();
        for (gfn, given) in gone {
            self.revoke(cx, gfn, given);
        }
        for leaf in leaves.iter().filter(|leaf| is_given(leaf.entry)) {
            self.publish(cx, leaf.addr, leaf.entry, leaf.size);
        }
    }

    fn mapped(&mut self, cx: &mut NotifyCx<'_, M>, addr: Gpa, entry: Entry, size: PageSize) {
        if is_given(entry) {
            self.publish(cx, addr, entry, size);
        }
    }

    fn exited(&mut self, _cx: &mut NotifyCx<'_, M>) {
        debug_assert_eq!(self.tags.owned(self.owner).count(), 0, "no tag survives its VM");
    }
}
