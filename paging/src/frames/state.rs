//! What a frame is used for.

/// What a frame is used for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum FrameState {
    /// No memory here: a hole, or unplugged.
    Absent = 0,
    /// In the buddy allocator (or never used yet).
    Free = 1,
    /// On a CPU's list.
    PerCpuFree = 2,
    /// Anonymous memory of a process (or of a VM).
    Anon = 3,
    /// Page cache.
    File = 4,
    /// A page table.
    Table = 5,
    /// The kernel's own.
    Kernel = 6,
    /// Held by a mechanism for later (a reservation, a segment, a cache of table pages).
    Reserved = 7,
    /// Pinned for I/O: owned, and it must not move.
    Pinned = 8,
    /// Taken by injected fragmentation.
    Filler = 9,
    /// A hard-faulted frame: never handed out again.
    Faulty = 10,
    /// Given to the hypervisor by a balloon.
    Ballooned = 11,
}

impl FrameState {
    /// Number of states.
    pub const COUNT: usize = 12;
    /// All states, by value.
    pub const ALL: [FrameState; Self::COUNT] = [
        FrameState::Absent,
        FrameState::Free,
        FrameState::PerCpuFree,
        FrameState::Anon,
        FrameState::File,
        FrameState::Table,
        FrameState::Kernel,
        FrameState::Reserved,
        FrameState::Pinned,
        FrameState::Filler,
        FrameState::Faulty,
        FrameState::Ballooned,
    ];

    /// Whether somebody owns a frame in this state.
    #[inline(always)]
    pub const fn is_owned(self) -> bool {
        self as u8 >= FrameState::Anon as u8
    }

    /// The mobility of pages that are allocated for this state.
    pub const fn mobility(self) -> Mobility {
        match self {
            FrameState::Anon | FrameState::File => Mobility::Movable,
            _ => Mobility::Unmovable,
        }
    }
}

/// Whether the content of a frame can be moved to another one. Allocations of
/// the same kind are grouped by pageblock, so that unmovable ones (page
/// tables) do not spoil all huge pages (Linux migrate types).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Mobility {
    /// Reached through page tables only; can be migrated.
    #[default]
    Movable = 0,
    /// Stays where it is.
    Unmovable = 1,
}

impl Mobility {
    /// Both.
    pub const ALL: [Mobility; 2] = [Mobility::Movable, Mobility::Unmovable];

    /// The other one.
    #[inline(always)]
    pub const fn other(self) -> Mobility {
        match self {
            Mobility::Movable => Mobility::Unmovable,
            Mobility::Unmovable => Mobility::Movable,
        }
    }
}
