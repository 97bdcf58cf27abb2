//! Processes and the groups that they belong to.

use crate::hardware::CpuMask;
use crate::space::AddressSpace;
use crate::thp::ThpMode;
use crate::vma::Policy;
use mechanisms::babelfish::Identity;
use paging::{TableMemory, Virt};

/// A process. Numbers are not used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProcessId(pub u32);

/// A group of processes: containers of one image. One user and one application, so its
/// members may share translations (`BabelFish`), and one memory limit (memcg). Number 0 is
/// everybody who is in no group; they share nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct GroupId(pub u32);

/// A group's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Group {
    /// Frames of anonymous memory that it may have.
    pub limit: Option<u64>,
    /// Frames of anonymous memory that it has.
    pub charged: u64,
    /// CPUs that ran a member.
    pub cpus: CpuMask,
    /// Whose it is: its first member's.
    pub owner: Option<Identity>,
}

/// How a process begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProcessSpec {
    /// Its group.
    pub group: GroupId,
    /// Whose it is, and what it runs: all members of a group are the same user's and run the same.
    pub identity: Identity,
    /// Its NUMA policy (`set_mempolicy`).
    pub policy: Policy,
    /// Its huge-page mode, if not the kernel's (`prctl(PR_SET_THP_DISABLE)`).
    pub thp: Option<ThpMode>,
    /// Where `mmap` begins to place areas, downwards; ASLR is the caller's.
    pub mmap_top: Option<u64>,
}

/// A process.
#[derive(Debug)]
pub struct Process<M: TableMemory> {
    pub(crate) id: ProcessId,
    pub(crate) spec: ProcessSpec,
    pub(crate) space: AddressSpace<Virt, M>,
}

impl<M: TableMemory> Process<M> {
    /// Its number.
    pub fn id(&self) -> ProcessId {
        self.id
    }
    /// How it began.
    pub fn spec(&self) -> &ProcessSpec {
        &self.spec
    }
    /// Its address space.
    pub fn space(&self) -> &AddressSpace<Virt, M> {
        &self.space
    }
    /// Its address space, for whoever switches a mechanism on and off.
    pub fn space_mut(&mut self) -> &mut AddressSpace<Virt, M> {
        &mut self.space
    }
}
