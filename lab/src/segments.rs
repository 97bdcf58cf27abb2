//! The choices of a [`System`] about direct segments, and what came of them.

use crate::system::{Pages, System, Translation};
use mechanisms::segments::FilterGeometry;
use serde::{Deserialize, Serialize};
use std::fmt;

/// About the segments of a system that has some.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Segments {
    /// Frames in random places of the host's segment that are faulty.
    pub bad: u32,
    /// Bits of each escape filter.
    pub filter_bits: u32,
    /// Hash functions of each escape filter.
    pub filter_functions: u32,
    /// The system starts without segments and is promoted while it runs.
    pub promote: bool,
}

impl Default for Segments {
    fn default() -> Self {
        let filter = FilterGeometry::default();
        Segments { bad: 0, filter_bits: filter.bits(), filter_functions: filter.functions(), promote: false }
    }
}

impl Segments {
    pub(crate) fn filter(&self) -> Result<FilterGeometry, String> {
        FilterGeometry::new(self.filter_bits, self.filter_functions).map_err(|bad| bad.to_string())
    }
}

impl fmt::Display for Segments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = Segments::default();
        if self.bad > 0 {
            write!(f, "+bad={}", self.bad)?;
        }
        if self.filter_bits != base.filter_bits {
            write!(f, "+filter={}", self.filter_bits)?;
        }
        if self.filter_functions != base.filter_functions {
            write!(f, "+filter-functions={}", self.filter_functions)?;
        }
        if self.promote {
            f.write_str("+promote")?;
        }
        Ok(())
    }
}

impl Translation {
    /// Processes have a segment: of the guest's, or a native one.
    pub fn has_process_segment(self) -> bool {
        matches!(self, Translation::DirectSegment | Translation::GuestDirect | Translation::DualDirect)
    }
    /// The VM has a segment.
    pub fn has_vm_segment(self) -> bool {
        matches!(self, Translation::VmmDirect | Translation::DualDirect)
    }
    /// There are segments at all.
    pub fn is_segmented(self) -> bool {
        self.has_process_segment() || self.has_vm_segment()
    }
}

impl System {
    /// Refuses impossible segments.
    pub(crate) fn check_segments(&self) -> Result<(), String> {
        let way = self.translation;
        if !way.is_segmented() {
            return match self.segments == Segments::default() {
                true => Ok(()),
                false => {
                    Err("bad frames, filters and promotion are for systems with segments: `direct-segment`, \
                              `vmm-direct`, `guest-direct`, `dual-direct`"
                        .to_string())
                }
            };
        }
        self.segments.filter()?;
        if self.vnuma {
            return Err("a VM whose memory is one segment has one node: without `vnuma`".to_string());
        }
        let reserved = |pages| matches!(pages, Pages::Huge2M | Pages::Huge1G);
        if way.has_process_segment() && reserved(self.kernel.pages) {
            return Err(
                "a primary region needs no reserved huge pages: outside of it pages are `4k` or `thp`"
                    .to_string(),
            );
        }
        if way.has_vm_segment() && reserved(self.host.pages) {
            return Err(
                "the VMM's segment needs no reserved huge pages: outside of it pages are `4k` or `thp`"
                    .to_string(),
            );
        }
        if way == Translation::GuestDirect && self.segments.bad > 0 {
            return Err(
                "bad frames are the host's, whose paging goes around them: only a VMM's or a native \
                        segment has to let pages escape"
                    .to_string(),
            );
        }
        Ok(())
    }
}

/// A step towards segments.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Accesses before it.
    pub accesses: u64,
    /// What was to begin.
    pub what: String,
    /// Why it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Pages in place.
    pub pages: u64,
    /// Pages that were in use and copied.
    pub copied: u64,
    /// Frames of others that were moved out of the way.
    pub compacted: u64,
    /// Frames that self-ballooning made contiguous.
    pub ballooned: u64,
    /// Cycles of software.
    pub cycles: u64,
}

/// The segments of a system at its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SegmentOutcome {
    /// The mode of the first process.
    pub mode: String,
    /// Pages in place in processes' segments.
    pub process_pages: u64,
    /// Pages in place in the VM's segment.
    pub vm_pages: u64,
    /// Pages within bounds that escaped.
    pub escaped: u64,
    /// The share of other pages that filters let escape too, 0 to 1: the largest of all filters.
    pub false_positives: f64,
    /// What left segments, and why.
    pub departures: String,
    /// Frames moved to close the I/O gap.
    pub gap_closed: u64,
    /// How the segments came to be.
    pub steps: Vec<Step>,
}
