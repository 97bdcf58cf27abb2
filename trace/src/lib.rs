//! Reading and writing memory-access traces.
//!
//! [`open`] makes a [`Source`](machine::input::Source) of a trace in any of the
//! [formats](Format) that it knows, compressed or not; none is ever held whole.
//! Pagewalk's own format is Parquet ([`parquet`]), written by [`ParquetWriter`].
//!
//! | format | recognised by | threads | fetches | sizes | instructions |
//! |---|---|---|---|---|---|
//! | Pagewalk's Parquet | magic number | yes | yes | yes | yes |
//! | `DynamoRIO` drmemtrace: file, zip of chunks, directory | header record | yes | yes | yes | yes |
//! | `ChampSim`, `CloudSuite` | plausible records, name | one | yes | no | yes |
//! | gem5 packets | magic number | no | flagged | yes | no |
//! | Valgrind lackey | lines | no | yes | yes | yes |
//! | Dinero `din`, extended | lines, name | no | yes | extended | with fetches |
//! | Ramulator: CPU, DRAM, `LD`/`ST` | lines, name | no | no | lines | CPU |
//! | `perf script`, `perf mem report -D` | lines, fields given | yes | flagged | no | no |
//! | QEMU plugin, 16-byte records | plausible records, name | yes | no | yes | no |
//!
//! Where a format tells no instructions, each access is one. gz, xz, zstd,
//! bzip2, LZ4, Snappy and zip are recognised by content around any of them.
//! Traces that describe no mappings set
//! [`implicit_regions`](machine::input::ProcessSetup::implicit_regions).
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
mod meter;
mod open;
mod options;
pub mod parquet;
mod qemu16;
mod roster;
mod sniff;
mod source;
pub mod summary;
pub mod table;
mod text;
mod write;

pub use meter::Meter;
pub use open::{from_bytes, from_reader, open};
pub use options::{Compression, Format, OpenOptions};
pub use parquet::{About, ParquetWriter, Written};
pub use source::{Facts, TraceSource};
pub use write::{TraceWriter, WRITABLE, WriteOptions, convert, copy, create};
