//! The choices of a [`System`] about Translation Pass-Through, and what came of them.

use crate::numa::Replication;
use crate::system::{Pages, System, Translation};
use serde::{Deserialize, Serialize};
use std::fmt;

/// About a system whose guests map host frames themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PassThrough {
    /// The walker checks the tag of each table that it goes into, not only the data page's.
    pub table_check: bool,
    /// Tags are looked up beside the walker's next load and beside the data's, not before them.
    pub overlapped_check: bool,
    /// Only the first so many processes are enlightened, and their children; all if none.
    pub enlightened: Option<u32>,
    /// The mode changes with the load of CR3, as hardware made for it would; not by hypercalls, as the
    /// artifact does it.
    pub fast_entry: bool,
    /// The whole guest is enlightened: its only tables name host frames, and it never leaves the mode.
    pub twin_free: bool,
    /// Again and again the VM falls back to nested paging, moves, and returns.
    pub live_migration: bool,
}

impl Default for PassThrough {
    fn default() -> Self {
        PassThrough {
            table_check: true,
            overlapped_check: false,
            enlightened: None,
            fast_entry: false,
            twin_free: false,
            live_migration: false,
        }
    }
}

impl fmt::Display for PassThrough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.table_check {
            f.write_str("+no-table-check")?;
        }
        if self.overlapped_check {
            f.write_str("+overlapped-check")?;
        }
        if let Some(n) = self.enlightened {
            write!(f, "+enlightened={n}")?;
        }
        if self.fast_entry {
            f.write_str("+fast-entry")?;
        }
        if self.twin_free {
            f.write_str("+twin-free")?;
        }
        if self.live_migration {
            f.write_str("+live-migration")?;
        }
        Ok(())
    }
}

impl System {
    /// Refuses what makes no sense with pass-through, and its switches without it.
    pub(crate) fn check_passthrough(&self) -> Result<(), String> {
        if self.translation != Translation::PassThrough {
            return match self.passthrough == PassThrough::default() {
                true => Ok(()),
                false => {
                    Err("`no-table-check`, `overlapped-check`, `enlightened`, `fast-entry`, `twin-free` and \
                              `live-migration` are for `passthrough`"
                        .to_string())
                }
            };
        }
        let choices = &self.passthrough;
        if choices.twin_free && (choices.enlightened.is_some() || choices.fast_entry) {
            return Err("without twins the whole guest is enlightened and never leaves the mode: neither \
                        `enlightened` nor `fast-entry`"
                .to_string());
        }
        if choices.twin_free && choices.live_migration {
            return Err(
                "without twins there are no tables of guest frames to fall back to: `live-migration` is \
                        for guests with twins"
                    .to_string(),
            );
        }
        if choices.twin_free && self.kernel.pages != Pages::Small {
            return Err(
                "without twins there is no place for the smaller entries of a huge page that the host \
                        does not back with one: 4k pages in the guest"
                    .to_string(),
            );
        }
        if !choices.twin_free && (self.kernel.replication != Replication::Off || self.kernel.tables_follow) {
            return Err(
                "under pass-through the walker walks the twins of the guest's tables, which know one \
                        place: copies of the tables themselves would cost and not be walked; \
                        `twin-free` has tables that can be copied"
                    .to_string(),
            );
        }
        Ok(())
    }
}

/// Pass-through at the end of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PassThroughOutcome {
    /// Bytes of the array gPA to hPA.
    pub array_bytes: u64,
    /// Bytes of guest memory that it tells of.
    pub guest_bytes: u64,
    /// Bytes of the frame tags.
    pub tag_bytes: u64,
    /// Bytes of host memory that they are for.
    pub host_bytes: u64,
    /// Bytes of twins of table pages.
    pub twin_bytes: u64,
    /// Bytes of pages that map by small pages what is huge for the guest alone.
    pub splinter_bytes: u64,
    /// Bytes that processes map now.
    pub mapped_bytes: u64,
    /// 4 KiB frames given to the VM since the start.
    pub given: u64,
    /// 4 KiB frames taken back since the start.
    pub revoked: u64,
    /// Faults on tags.
    pub tag_faults: u64,
    /// Paths of twins that the guest mended at faults.
    pub repairs: u64,
    /// Pages that the guest touched to get them backed.
    pub touched: u64,
    /// Times that a CPU entered the mode.
    pub entered: u64,
    /// Times that the VM fell back to nested paging.
    pub suspended: u64,
}
