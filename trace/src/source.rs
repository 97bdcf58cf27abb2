//! What a trace can tell beyond its accesses.

use crate::options::{Compression, Format};
use machine::input::Source;
use serde::Serialize;

/// A source that is a trace.
pub trait TraceSource: Source + Send {
    /// What is known of the trace so far: some notes come only with
    /// [`Source::setup`] or while it is read.
    fn facts(&self) -> Facts;
}

/// What kind of trace it is, and what to know before believing results from it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Facts {
    /// The format.
    pub format: Format,
    /// How it is compressed.
    pub compression: Compression,
    /// What a user must know: addresses that are physical, accesses that a cache filtered.
    pub notes: Vec<String>,
    /// The command that was captured, if the trace tells.
    pub command: Option<String>,
}

impl Facts {
    pub(crate) fn new(format: Format, compression: Compression, notes: Vec<String>) -> Facts {
        Facts { format, compression, notes, command: None }
    }
}
