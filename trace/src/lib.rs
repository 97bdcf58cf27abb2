//! Reading and writing memory-access traces.
//!
//! [`open`] makes a [`Source`](machine::input::Source) of a trace in any of the
//! [formats](Format) that it knows, compressed or not; none is ever held whole.
//! Pagewalk's own format is Parquet ([`parquet`]), written by [`ParquetWriter`].
//!
//! A trace is hostile input: every reader is bounded in memory, checks what it
//! delivers (addresses are canonical, threads exist), and answers a cut-off or
//! corrupt file with an error that names the byte.

mod archive;
pub mod capture;
mod champsim;
mod compression;
pub mod drmemtrace;
mod error;
mod gem5;
mod input;
mod open;
mod options;
pub mod parquet;
mod qemu16;
mod roster;
mod sniff;
mod source;
pub mod summary;
mod text;
mod write;

pub use open::{from_bytes, from_reader, open};
pub use options::{Compression, Format, OpenOptions};
pub use parquet::{About, ParquetWriter, Written};
pub use source::{Facts, TraceSource};
pub use write::{TraceWriter, WRITABLE, WriteOptions, copy, create};
