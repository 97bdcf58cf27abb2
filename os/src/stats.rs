//! What a kernel counts, for each address space and in total.

use crate::hardware::ExitKind;
use core::ops::AddAssign;

/// How a fault was answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FaultKind {
    /// The entry allowed the access already: another CPU, or another member of
    /// a sharing group, had mapped it.
    Spurious,
    /// This node's replica of the table was filled from another.
    Replica,
    /// The shared zero frame was mapped for a load.
    ZeroPage,
    /// A fresh anonymous page.
    Anonymous,
    /// A page that was in the page cache.
    FileMinor,
    /// A page that was read from the file.
    FileMajor,
    /// A page of a private file mapping, copied at once for a store.
    FileCopy,
    /// A shared page was copied for a store.
    CowCopy,
    /// The last owner of a once shared page got it for itself.
    CowReuse,
    /// A store to a page that was write-protected to notice the first one
    /// (a shared file's page, or a VM's dirty log).
    WriteNotify,
    /// Read back from swap.
    SwapIn,
    /// Swapped out, but the frame was still there.
    SwapCached,
    /// A NUMA hinting fault; the page stayed where it was.
    NumaHint,
    /// A page that a segment has, mapped where it is: hardware took it for one that escaped.
    Segment,
    /// A NUMA hinting fault that moved the page to the CPU's node.
    NumaMigrate,
}

impl FaultKind {
    /// Whether a device had to be read.
    pub const fn is_major(self) -> bool {
        matches!(self, FaultKind::FileMajor | FaultKind::SwapIn)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters. All are events since the space (or kernel) was made.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }
        impl AddAssign<&Stats> for Stats {
            fn add_assign(&mut self, other: &Stats) {
                $(self.$name += other.$name;)*
            }
        }
        impl Stats {
            /// All counters with their names, in a fixed order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Faults answered without a device.
    minor_faults,
    /// Faults that read a device.
    major_faults,
    /// Faults that found nothing to do.
    spurious_faults,
    /// Faults answered by filling a replica of the table.
    replica_faults,
    /// Loads answered with the shared zero frame.
    zero_page_faults,
    /// Pages copied for a store.
    cow_copies,
    /// Pages that their last owner took over for a store.
    cow_reuses,
    /// First stores to write-protected pages of shared files or of a dirty log.
    write_notifies,
    /// Entries mapped besides the one that faulted (Linux's fault-around).
    faults_around,
    /// Huge pages given at a fault.
    huge_faults,
    /// Huge pages wanted at a fault and not to be had.
    huge_fallbacks,
    /// Blocks of small pages made huge in the background.
    collapses,
    /// Huge pages split.
    splits,
    /// Pages written to swap.
    swap_outs,
    /// Pages read from swap.
    swap_ins,
    /// Page-cache pages dropped from the mapping by reclaim.
    file_unmaps,
    /// Pages of a segment that were mapped because hardware took them for escaped ones.
    segment_faults,
    /// NUMA hinting faults.
    numa_hints,
    /// 4 KiB pages moved to another node.
    migrated_pages,
    /// Table pages that followed the data to another node.
    migrated_tables,
    /// Invalidations sent.
    shootdowns,
    /// Interrupts that they took.
    ipis,
    /// VM exits.
    exits,
    /// Of these, for a guest-physical address that is not mapped as needed.
    exits_nested,
    /// Faults that the shadow table must answer.
    exits_shadow_fault,
    /// Stores to tables that are write-protected for shadowing.
    exits_table_write,
    /// Loads of CR3.
    exits_root_load,
    /// Invalidations by the guest.
    exits_invalidate,
    /// Hypercalls into pass-through and out.
    exits_hypercall,
    /// Frames whose tag is not the VM's.
    exits_frame_tag,
    /// Hypercalls.
    hypercalls,
    /// Context switches to this space.
    switches,
    /// … that had to take over another space's PCID.
    pcid_evictions,
}

impl Stats {
    /// Exits of a VM happened.
    pub(crate) fn exited(&mut self, kind: ExitKind, times: u64) {
        self.exits += times;
        *match kind {
            ExitKind::Nested => &mut self.exits_nested,
            ExitKind::ShadowFault => &mut self.exits_shadow_fault,
            ExitKind::TableWrite => &mut self.exits_table_write,
            ExitKind::RootLoad => &mut self.exits_root_load,
            ExitKind::Invalidate => &mut self.exits_invalidate,
            ExitKind::Hypercall => &mut self.exits_hypercall,
            ExitKind::FrameTag => &mut self.exits_frame_tag,
        } += times;
    }
}
