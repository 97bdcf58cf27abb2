//! What can go wrong, with where and what to do.

use crate::hypervisor::VmId;
use crate::pagecache::FileId;
use crate::process::{GroupId, ProcessId};
use crate::segment::NoSegment;
use crate::vma::Vma;
use alloc::boxed::Box;
use core::fmt;
use mechanisms::babelfish::Identity;
use paging::frames::HotplugError;
use paging::{Intent, MapError, NoFrame, PageSize};

/// An access that no area allows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segv {
    /// The kind of address.
    pub space: &'static str,
    /// The address.
    pub addr: u64,
    /// What the access wanted.
    pub intent: Intent,
    /// The area that holds the address, if one does: then its permissions forbid the access.
    pub area: Option<Vma>,
    /// The area below, if none holds it.
    pub below: Option<Vma>,
    /// The area above, if none holds it.
    pub above: Option<Vma>,
}

impl fmt::Display for Segv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.intent {
            Intent { write: true, .. } => "store to",
            Intent { fetch: true, .. } => "fetch from",
            _ => "load from",
        };
        write!(f, "{access} {} {:#x}: ", self.space, self.addr)?;
        if let Some(area) = &self.area {
            return write!(f, "not allowed in [{area}]");
        }
        f.write_str("nothing is mapped there")?;
        if let Some(below) = &self.below {
            write!(f, "; below it [{below}]")?;
        }
        if let Some(above) = &self.above {
            write!(f, "; above it [{above}]")?;
        }
        Ok(())
    }
}

/// Why a call of the kernel failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MmError {
    /// No area allows the access.
    #[error("{0}")]
    Segv(Box<Segv>),
    /// A process of another user or application in a group.
    #[error(
        "group {} is user {}'s for application {:#x}: a process of user {} and application {:#x} must not share \
         its translations; give it a group of its own",
        group.0, owner.user, owner.application, process.user, process.application
    )]
    NotYourGroup {
        /// The group.
        group: GroupId,
        /// Whose it is.
        owner: Identity,
        /// Who asked.
        process: Identity,
    },
    /// Beyond the end of the file.
    #[error("access to {addr:#x} is page {page} of file {} that has {pages} pages", file.0)]
    Bus {
        /// The address.
        addr: u64,
        /// The file.
        file: FileId,
        /// The page wanted.
        page: u64,
        /// Pages of the file.
        pages: u64,
    },
    /// Nothing is left, and nothing could be reclaimed.
    #[error("out of memory: {0}; add memory or swap, or end a process")]
    OutOfMemory(NoFrame),
    /// The group's limit is reached, and nothing of the group could be reclaimed.
    #[error("group {} is at its limit of {limit} frames; raise it or add swap", group.0)]
    GroupLimit {
        /// The group.
        group: GroupId,
        /// Its limit.
        limit: u64,
    },
    /// No huge page for an area that is made of them.
    #[error("no free {size} page for {addr:#x}: reserve more of them before memory fragments")]
    NoHugePage {
        /// The address.
        addr: u64,
        /// The size.
        size: PageSize,
    },
    /// Swap space is full.
    #[error("all {0} swap slots are used")]
    SwapFull(u64),
    /// A range that cannot be.
    #[error("range {start:#x}+{len:#x}: {why}")]
    BadRange {
        /// First address.
        start: u64,
        /// Bytes.
        len: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No room in the address space.
    #[error("no free range of {len:#x} bytes is left in the address space")]
    NoRoom {
        /// Bytes wanted.
        len: u64,
    },
    /// No such process.
    #[error("no process {}", .0.0)]
    NoProcess(ProcessId),
    /// No such VM.
    #[error("no VM {}", .0.0)]
    NoVm(VmId),
    /// A VM without shadow tables.
    #[error("VM {} has no shadow tables: enable them first", .0.0)]
    NoShadow(VmId),
    /// A VM in which translation is not passed through.
    #[error("VM {}: translation is not passed through: {why}", .vm.0)]
    NoPassThrough {
        /// The VM.
        vm: VmId,
        /// Why.
        why: &'static str,
    },
    /// No such file.
    #[error("no file {}", .0.0)]
    NoFile(FileId),
    /// A file that is too large.
    #[error("a file of {pages} pages is too large: at most {max}")]
    FileTooLarge {
        /// Pages wanted.
        pages: u64,
        /// Pages at most.
        max: u64,
    },
    /// More address spaces than TLB tags can tell apart.
    #[error("65535 address spaces are alive: no number is left for another")]
    NoSpaceId,
    /// A configuration that cannot be.
    #[error("kernel configuration: {0}")]
    BadConfig(&'static str),
    /// No such CPU.
    #[error("CPU {cpu} is not one of the {cpus} of this kernel")]
    NoCpu {
        /// The CPU named.
        cpu: u16,
        /// How many there are.
        cpus: usize,
    },
    /// Memory could not be added or removed.
    #[error("memory hot-plug: {0}")]
    Hotplug(#[from] HotplugError),
    /// There can be no segment.
    #[error("direct segment: {0}")]
    NoSegment(#[from] NoSegment),
    /// A table could not be changed as wanted.
    #[error("page table: {0}")]
    Map(MapError),
}

/// Why a step inside the kernel stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Frames are missing: after reclaim the step is taken again.
    NoFrame(NoFrame),
    /// The group is at its limit: after reclaim in it the step is taken again.
    Limit(GroupId),
    /// Nothing helps.
    Fail(MmError),
}

impl From<NoFrame> for Stop {
    fn from(e: NoFrame) -> Self {
        Stop::NoFrame(e)
    }
}
impl From<MapError> for Stop {
    fn from(e: MapError) -> Self {
        match e {
            MapError::NoFrame(e) => Stop::NoFrame(e),
            other => Stop::Fail(MmError::Map(other)),
        }
    }
}
impl From<MmError> for Stop {
    fn from(e: MmError) -> Self {
        Stop::Fail(e)
    }
}
