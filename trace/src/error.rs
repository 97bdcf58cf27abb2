//! Short ways to a [`SourceError`].

use machine::input::SourceError;
use std::fmt::Display;

/// An error of the input `what`.
pub(crate) fn error(what: &str, reason: impl Display) -> SourceError {
    SourceError { what: what.to_owned(), reason: reason.to_string(), hint: None }
}

/// An error at a byte of the (decompressed) input `what`.
pub(crate) fn error_at(what: &str, byte: u64, reason: impl Display) -> SourceError {
    error(what, format_args!("at byte {byte}: {reason}"))
}

pub(crate) trait Hint {
    /// The same error, and what to do about it.
    fn hint(self, hint: impl Display) -> Self;
}

impl Hint for SourceError {
    fn hint(mut self, hint: impl Display) -> SourceError {
        self.hint = Some(hint.to_string());
        self
    }
}

/// Says where a damaged trace was probably damaged.
pub(crate) const CUT_OFF: &str =
    "the file is incomplete; copy or record it again, or use what is before this place with --accesses";
