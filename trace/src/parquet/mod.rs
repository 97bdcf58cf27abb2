//! Pagewalk's own trace format: Parquet, one row an access.
//!
//! `trace/SCHEMA.md` is the description for users. In short: columns
//! `va, insns, thread, kind, size_log2, flags` and the nullable `events`
//! (JSON: what happens after this access); the world before the first access
//! ([`Setup`](machine::input::Setup)), the command and the tool stand as
//! key-value pairs in the footer. `DuckDB`, Polars and pandas read it as it is.
//!
//! # Encodings
//!
//! `va` is a dictionary, because programs return to the same addresses; from the page on at which a row group has had too many
//! different ones it is `BYTE_STREAM_SPLIT`: the eight bytes of an address have very different
//! entropies, and apart they compress better than deltas do, which jump between stack, heap and text. The other
//! columns have few values and lie as dictionaries, run-length encoded or of 1, 2, 4, 8 or 16 bits. All under zstd.
//!
//! # A killed writer
//!
//! Rows are written to `FILE.partial`, a row group at a time, and the file is
//! renamed when it is complete. Parquet's footer is at the end and names row
//! groups by absolute position, so anything may lie between them: after a row
//! group the writer puts a whole footer, and the next row group behind it.
//! A killed writer therefore leaves a file that is valid as it is, or becomes
//! so when what follows the last footer is dropped, which the reader does.
//! Footers grow with the number of row groups; they are put only every
//! sixteen times their own size, so they cost at most a sixteenth.

mod column;
mod document;
mod encode;
mod footer;
mod groups;
mod pack;
mod places;
mod reader;
pub(crate) mod rows;
mod schema;
mod small;
mod split;
mod store;
mod thrift;
mod world;
mod writer;

pub(crate) use reader::ParquetSource;
pub(crate) use store::Store;
pub use writer::{About, ParquetWriter, Written};
