//! Capture of real, unmodified programs: all their threads and children.
//!
//! [`start`] runs a program under QEMU's user-mode emulation with Pagewalk's
//! plugin and gives its accesses as a [`Source`](machine::input::Source), while it runs. The program keeps
//! its input, output and exit status.

mod elf;
mod known;
mod lackey;
mod launch;
mod live;
mod maps;
mod merge;
mod page;
mod pages;
mod qemu;
mod rebase;
mod record;
mod relaid;
mod snapshot;
mod space;

use std::fs::File;
use std::path::PathBuf;

pub use live::{LiveSource, Summary};
pub use maps::{Line, Mode};
pub(crate) use pages::Pages;
pub use relaid::Relaid;
pub use snapshot::{Advice, Mapping, Run, Snapshot, snapshot};
pub use space::Layout;

pub use launch::start;
pub use record::{Progress, Recorded, record};

/// What to capture, and how.
#[derive(Debug, Default)]
pub struct CaptureOptions {
    /// By what means.
    pub route: Route,
    /// When to begin.
    pub start: Start,
    /// How many accesses to take; all if `None`.
    pub limit: Option<u64>,
    /// What becomes of the program when that many have been taken.
    pub afterwards: Afterwards,
    /// Whether instruction fetches are taken, too.
    pub fetches: Fetches,
    /// The addresses that the program gets.
    pub layout: Layout,
    /// `qemu-x86_64` or `valgrind`; looked for in `PATH` if not given.
    pub emulator: Option<PathBuf>,
    /// The plugin; looked for beside this program if not given.
    pub plugin: Option<PathBuf>,
    /// Where the program's standard output goes, if not where ours does.
    pub stdout: Option<File>,
}

/// By what means a program is captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Route {
    /// QEMU's user-mode emulation with Pagewalk's plugin: tens of millions of accesses a second, threads, children,
    /// mappings.
    #[default]
    Qemu,
    /// Valgrind's lackey: about a million accesses a second of one process, in Valgrind's layout, without mappings.
    Lackey,
}

/// When capture begins. The address space is followed from the program's start in any case.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Start {
    /// With the program.
    #[default]
    AtOnce,
    /// After this many accesses of the program and its children.
    After(u64),
    /// When the program reaches this function of its executable for the first time.
    Symbol(String),
    /// When the capturing process gets this signal.
    Signal(i32),
}

/// What becomes of the program when enough has been captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Afterwards {
    /// It runs to its end, unobserved.
    #[default]
    RunOn,
    /// It gets SIGTERM.
    Terminate,
}

/// Whether instruction fetches are captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fetches {
    /// Not at all.
    #[default]
    None,
    /// One for each page of each basic block.
    Blocks,
    /// One for each 64-byte line of each basic block.
    Lines,
}

/// Why a program could not be captured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The program itself cannot be run.
    #[error("{program}: {reason}")]
    Program {
        /// As it was given.
        program: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no emulator.
    #[error(
        "no qemu-x86_64 found\n  hint: install it with `apt install qemu-user` (Debian, Ubuntu), or name one in the variable PAGEWALK_QEMU"
    )]
    NoEmulator,
    /// The emulator does not work.
    #[error("{path}: {reason}\n  hint: {hint}")]
    Emulator {
        /// Which.
        path: String,
        /// What it said.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// There is no Valgrind.
    #[error("no valgrind found\n  hint: install it with `apt install valgrind` (Debian, Ubuntu)")]
    NoValgrind,
    /// Lackey does not know functions.
    #[error(
        "lackey cannot begin at a symbol\n  hint: begin after a number of accesses or at a signal, or capture with QEMU"
    )]
    LackeySymbol,
    /// There is no plugin.
    #[error(
        "no libcapture_qemu.so in {looked}\n  hint: build it with `cargo build --release -p capture-qemu`, or name it in the variable PAGEWALK_QEMU_PLUGIN"
    )]
    NoPlugin {
        /// Where it was looked for.
        looked: String,
    },
    /// The symbol to start at is not there.
    #[error(
        "{program} has no symbol {symbol:?}\n  hint: a stripped program has only its dynamic symbols; start after a number of accesses or at a signal instead"
    )]
    NoSymbol {
        /// The executable.
        program: String,
        /// What was looked for.
        symbol: String,
    },
    /// A process cannot be looked at.
    #[error("process {pid}: {error}\n  hint: it must still run")]
    Process {
        /// Which.
        pid: u32,
        /// What the kernel said.
        error: std::io::Error,
    },
    /// A process may not be looked at: it is another user's.
    #[error(
        "process {pid} may not be looked at: it is user {user}'s\n  hint: run this as that user, or as root"
    )]
    NotYours {
        /// Which.
        pid: u32,
        /// Whose it is.
        user: u32,
    },
    /// A process of the own user may not be looked at either.
    #[error(
        "process {pid} may not be looked at, although it is user {user}'s, as this is: the kernel closes what \
         changed its user (as the workers of a server that root started do), may do more than its user, or runs a \
         file that its user may not read\n  hint: run this as root (in a container: with CAP_SYS_PTRACE)"
    )]
    Closed {
        /// Which.
        pid: u32,
        /// Whose it is.
        user: u32,
    },
    /// A file is not a snapshot.
    #[error("{}: {reason}\n  hint: make one with `pagewalk snapshot PID -o FILE`", path.display())]
    Snapshot {
        /// Which.
        path: PathBuf,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// A file cannot be written.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The capture broke off, or the trace cannot be written.
    #[error(transparent)]
    Stream(#[from] machine::input::SourceError),
    /// The system refused something.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: std::io::Error,
    },
}
