//! The QEMU user-mode plugin that hands a program's memory accesses to Pagewalk.
//!
//! QEMU translates the program block by block. For every block the plugin asks
//! to be called at each memory access, and lets QEMU count the instructions;
//! for every system call that changes the address space or the set of threads
//! and processes it writes a message. All of it goes into the shared memory of
//! [`capture_ring`]; nothing is printed, no descriptor is left open, and the
//! program's exit status is its own.
//!
//! One library serves all QEMU releases from 6.0 on: which functions QEMU has is
//! looked up when the library is loaded (`ffi`).
//!
//! Arguments: `ring=PATH` (the consumer's memory), `log=N` (this process's log), `program=PATH` (what QEMU runs),
//! and optionally `fetch=block|line` (instruction fetches, too) and `start=N` (begin N bytes behind the
//! program's first). `count` alone only counts; for measuring.

mod decode;
mod exec;
mod ffi;
mod install;
mod maps;
mod memory;
mod process;
mod syscalls;
mod translate;
mod vcpu;
