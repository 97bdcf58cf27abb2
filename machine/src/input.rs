//! What a machine is fed: blocks of accesses, and what happens between them.
//!
//! A [`Source`] is a trace, a live program or a generator. It says once what
//! the world looks like before the first access ([`Setup`]) and then fills one
//! [`Block`] after the other. Accesses come in blocks so that nothing is
//! dispatched dynamically per access; what is rare (a fork, an `munmap`)
//! comes as [`Event`]s at the end of the block.

use paging::{PageSize, Va};

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Kind {
    /// A load.
    #[default]
    Read = 0,
    /// A store.
    Write = 1,
    /// An instruction fetch.
    Fetch = 2,
    /// A load and a store of the same bytes by one instruction.
    Modify = 3,
}

impl Kind {
    /// Whether the access needs write permission and dirties the page.
    #[inline(always)]
    pub const fn writes(self) -> bool {
        self as u8 & 1 == 1
    }
}

/// One memory access of one thread: 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Access {
    /// The virtual address of the first byte.
    pub va: Va,
    /// Instructions that the thread retired since its previous access, this
    /// access's own instruction included (so 0 for a second access of one
    /// instruction).
    pub insns: u16,
    /// Index into [`Setup::threads`].
    pub thread: u16,
    /// Read, write, fetch or modify.
    pub kind: Kind,
    /// log2 of the number of bytes.
    pub size_log2: u8,
    /// [`Access::DEPENDENT`], [`Access::LOCKED`] and bits to come.
    pub flags: u8,
    /// Always 0.
    pub reserved: u8,
}

impl Access {
    /// The address was computed from what the thread's previous access loaded,
    /// so this access cannot start before that one is complete.
    pub const DEPENDENT: u8 = 1;
    /// A locked instruction of x86: it starts when all accesses of the thread before it are complete, and those after it
    /// start when it is (Intel SDM vol. 3, 9.2.3.9: loads and stores are not reordered with locked instructions).
    pub const LOCKED: u8 = 2;

    /// An 8-byte access of `kind` by `thread`, `insns` instructions after its previous one.
    #[inline(always)]
    pub const fn new(va: u64, kind: Kind, thread: u16, insns: u16) -> Access {
        Access { va: Va::new(va), insns, thread, kind, size_log2: 3, flags: 0, reserved: 0 }
    }
    /// The same access, waiting for the thread's previous one.
    #[inline(always)]
    pub const fn dependent(mut self) -> Access {
        self.flags |= Self::DEPENDENT;
        self
    }
    /// The same access by a locked instruction.
    #[inline(always)]
    pub const fn locked(mut self) -> Access {
        self.flags |= Self::LOCKED;
        self
    }
}

/// How many accesses a block holds at most. Staged prefetching wants a few
/// hundred at a time: 1024 were measured slower than 256.
pub const BLOCK: usize = 256;

/// Some accesses, then some events.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// At most [`BLOCK`] accesses, in program order per thread.
    pub accesses: Vec<Access>,
    /// What happens after the last of them.
    pub events: Vec<Event>,
}

impl Block {
    /// An empty block with room for [`BLOCK`] accesses.
    pub fn new() -> Block {
        Block { accesses: Vec::with_capacity(BLOCK), events: Vec::new() }
    }
    /// Empties the block, keeping its memory.
    pub fn clear(&mut self) {
        self.accesses.clear();
        self.events.clear();
    }
    /// How many more accesses fit.
    pub fn room(&self) -> usize {
        BLOCK - self.accesses.len()
    }
}

/// What backs a region.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Backing {
    /// Private anonymous memory (heap, stack, `MAP_PRIVATE|MAP_ANONYMOUS`).
    #[default]
    Anonymous,
    /// Anonymous memory shared between forks (`MAP_SHARED|MAP_ANONYMOUS`).
    SharedAnonymous,
    /// A private mapping of a file: reads come from the page cache, writes are copied.
    PrivateFile {
        /// Name of the file: equal names are the same file in every process.
        file: String,
        /// Where in the file the region starts, in bytes; a multiple of 4096.
        offset: u64,
    },
    /// A shared mapping of a file: all see the page cache's own frames.
    SharedFile {
        /// Name of the file: equal names are the same file in every process.
        file: String,
        /// Where in the file the region starts, in bytes; a multiple of 4096.
        offset: u64,
    },
}

impl Backing {
    /// The backing `bytes` further on.
    #[must_use]
    pub fn further(&self, bytes: u64) -> Backing {
        match self.clone() {
            Backing::PrivateFile { file, offset } => Backing::PrivateFile { file, offset: offset + bytes },
            Backing::SharedFile { file, offset } => Backing::SharedFile { file, offset: offset + bytes },
            other => other,
        }
    }
}

/// Permissions of a region.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Permissions {
    /// Loads are allowed.
    pub read: bool,
    /// Stores are allowed.
    pub write: bool,
    /// Fetches are allowed.
    pub execute: bool,
}

impl Permissions {
    /// Readable and writable.
    pub const READ_WRITE: Permissions = Permissions { read: true, write: true, execute: false };
    /// Readable only.
    pub const READ: Permissions = Permissions { read: true, write: false, execute: false };
    /// Readable and executable.
    pub const READ_EXECUTE: Permissions = Permissions { read: true, write: false, execute: true };
}

/// The program's own wish for huge pages in a region (`madvise`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum HugeAdvice {
    /// None given.
    #[default]
    None,
    /// `MADV_HUGEPAGE`.
    Huge,
    /// `MADV_NOHUGEPAGE`.
    NoHuge,
    /// Reserved huge pages (hugetlbfs) of this size.
    Reserved(PageSize),
}

/// Whether and how a region is filled before the first access is counted.
///
/// Programs of the papers initialise tens of gigabytes before what is measured
/// begins. The page faults of that phase are really taken, in this order, but
/// its accesses are not simulated one by one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Populate {
    /// Only on demand, by the accesses themselves.
    #[default]
    OnDemand,
    /// By one thread, in address order.
    By(u16),
    /// Every thread of the process fills its own equal, contiguous share, all
    /// at once, taking turns page by page.
    Partitioned,
    /// Threads take turns, page by page: thread = page number mod threads.
    RoundRobin,
}

/// A mapping of a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region {
    /// What it is, for reports: `heap`, `table`, a library's name.
    pub name: String,
    /// First byte; a multiple of 4096.
    pub start: Va,
    /// Length in bytes; a multiple of 4096.
    pub len: u64,
    /// What backs it.
    pub backing: Backing,
    /// What may be done with it.
    pub permissions: Permissions,
    /// `madvise` about huge pages.
    pub advice: HugeAdvice,
    /// Filled before the first counted access?
    pub populate: Populate,
}

impl Region {
    /// A read-write anonymous region.
    pub fn anonymous(name: impl Into<String>, start: u64, len: u64, populate: Populate) -> Region {
        Region {
            name: name.into(),
            start: Va::new(start),
            len,
            backing: Backing::Anonymous,
            permissions: Permissions::READ_WRITE,
            advice: HugeAdvice::None,
            populate,
        }
    }
    /// Whether it is the `brk` heap, as workloads and as Linux call it.
    pub fn is_heap(&self) -> bool {
        matches!(self.name.as_str(), "heap" | "[heap]")
    }
}

/// A process that exists before the first access.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProcessSetup {
    /// The program's name.
    pub name: String,
    /// Its mappings, not overlapping.
    pub regions: Vec<Region>,
    /// Processes with the same number are containers of one image and user (a BabelFish group).
    pub group: Option<u16>,
    /// An access outside every region makes an anonymous one around it instead
    /// of being an error: for traces that do not say what was mapped.
    pub implicit_regions: bool,
}

/// A thread that exists before the first access, or is started later by an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ThreadSetup {
    /// Index of its process in [`Setup::processes`] (or as given by [`Event::Fork`]).
    pub process: u16,
}

/// The world before the first access.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Setup {
    /// What the input is, for reports: `gups:footprint=64GiB`, a file's name.
    pub name: String,
    /// Processes, by index.
    pub processes: Vec<ProcessSetup>,
    /// Threads, by index: what [`Access::thread`] means.
    pub threads: Vec<ThreadSetup>,
    /// How many threads run at once is not known yet: events may bring more than there are now, each for a core of its own.
    pub more_threads: bool,
    /// How many accesses will come; `None` if it is not known or endless.
    pub accesses: Option<u64>,
}

/// Something that happens between two accesses.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// `mmap` by a process; replaces what was there.
    Map {
        /// Who.
        process: u16,
        /// What.
        region: Region,
    },
    /// `munmap`.
    Unmap {
        /// Who.
        process: u16,
        /// First byte; a multiple of 4096.
        start: Va,
        /// Bytes; a multiple of 4096.
        len: u64,
    },
    /// `mprotect`.
    Protect {
        /// Who.
        process: u16,
        /// First byte; a multiple of 4096.
        start: Va,
        /// Bytes; a multiple of 4096.
        len: u64,
        /// The permissions from now on.
        permissions: Permissions,
    },
    /// `madvise(MADV_DONTNEED)`.
    Discard {
        /// Who.
        process: u16,
        /// First byte; a multiple of 4096.
        start: Va,
        /// Bytes; a multiple of 4096.
        len: u64,
    },
    /// `fork`: the child gets the next free process index, which must be `child`.
    Fork {
        /// Who forks.
        parent: u16,
        /// The new process's index.
        child: u16,
    },
    /// `execve`: all mappings go, these come.
    Exec {
        /// Who.
        process: u16,
        /// The new image.
        image: ProcessSetup,
    },
    /// The process ends.
    Exit {
        /// Who.
        process: u16,
    },
    /// A thread starts; its index must be the next free one.
    Spawn {
        /// The thread's index.
        thread: u16,
        /// Its process.
        process: u16,
    },
    /// The scheduler moves a thread to another NUMA node.
    MoveThread {
        /// Which.
        thread: u16,
        /// Where to.
        node: u8,
    },
    /// `move_pages`: what of these the process alone has moves to a node.
    Migrate {
        /// Whose.
        process: u16,
        /// First byte; a multiple of 4096.
        start: Va,
        /// Bytes; a multiple of 4096.
        len: u64,
        /// Where to, modulo the nodes that its kernel sees.
        node: u8,
    },
    /// The host moves memory of the VM to a node. Nothing natively.
    MigrateVm {
        /// Where to, modulo the machine's nodes.
        node: u8,
        /// 4 KiB pages at most.
        pages: u64,
    },
    /// The guest's balloon takes free memory for the host. Nothing natively.
    Inflate {
        /// 4 KiB pages at most.
        pages: u64,
    },
    /// The guest's balloon gives memory back. Nothing natively.
    Deflate {
        /// 4 KiB pages at most.
        pages: u64,
    },
    /// A kernel takes pages back, as under memory pressure.
    Reclaim {
        /// 4 KiB pages.
        pages: u64,
        /// The host's kernel takes them from the VM; natively nothing.
        of_host: bool,
    },
    /// A request of a server begins; ends at the thread's next one. For latencies.
    Request {
        /// Who serves it.
        thread: u16,
    },
}

/// Why a source could not go on.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}{}", .hint.as_ref().map(|h| format!("\n  hint: {h}")).unwrap_or_default())]
pub struct SourceError {
    /// Which input: a file's name, a workload.
    pub what: String,
    /// What is wrong, with the byte or line where.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Whether a source has more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum More {
    /// Call [`Source::fill`] again.
    Yes,
    /// This block was the last; it may be non-empty.
    No,
}

/// A stream of accesses.
pub trait Source {
    /// The world before the first access. Called once, before [`Source::fill`].
    ///
    /// # Errors
    /// If the input cannot be opened or understood.
    fn setup(&mut self) -> Result<Setup, SourceError>;

    /// Whether something else works for the source at the same time and needs a core: a program that
    /// runs.
    fn is_live(&self) -> bool {
        false
    }

    /// Clears `block` and fills it: accesses first, then what happens after them.
    /// A block may hold fewer accesses than fit, and none at all.
    ///
    /// # Errors
    /// If the input is cut off or corrupt; what was delivered before stays valid.
    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError>;
}
