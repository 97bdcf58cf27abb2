//! How much of a zone stays free for whom.
//!
//! Linux's formulas at its defaults, without what `khugepaged` adds to
//! `min_free_kbytes` when it starts: set that by hand if a run needs it.

use super::ZoneKind;
use super::buddy::Zone;

/// The watermarks of a zone, in frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ZoneMarks {
    /// Only emergencies go below.
    pub min: u64,
    /// Reclaim in the background starts below.
    pub low: u64,
    /// … and stops above.
    pub high: u64,
}

/// `lowmem_reserve_ratio` of the lower zones: one frame in 256 of what the zones above
/// have is kept in this one (Linux `mm/page_alloc.c`).
const RESERVE_RATIO: u64 = 256;
/// `watermark_scale_factor`: ten thousandths of a zone between two marks.
const SCALE: u64 = 10;

/// `vm.min_free_kbytes` as Linux sets it for `kib` of memory
/// (`calculate_min_free_kbytes`): √(16·kib) within 128 … 262144.
fn min_free_kib(kib: u64) -> u64 {
    (16 * kib).isqrt().clamp(128, 262_144)
}

/// Sets all zones' marks and reserves (`setup_per_zone_wmarks`, `setup_per_zone_lowmem_reserve`).
pub(super) fn set_marks(zones: &mut [Zone], override_kib: Option<u64>) {
    let all: u64 = zones.iter().map(|zone| zone.frames).sum();
    let min_frames = override_kib.unwrap_or_else(|| min_free_kib(all * 4)) / 4;
    for zone in zones.iter_mut().filter(|zone| zone.frames > 0) {
        let min = (u128::from(min_frames) * u128::from(zone.frames) / u128::from(all)) as u64;
        let gap = (min / 4).max(zone.frames * SCALE / 10_000);
        zone.marks = ZoneMarks { min, low: min + gap, high: min + 2 * gap };
    }
    for at in 0..zones.len() {
        let (node, kind) = (zones[at].node, zones[at].kind);
        zones[at].reserve = ZoneKind::ALL.map(|highest| {
            let above = zones
                .iter()
                .filter(|other| other.node == node && other.kind > kind && other.kind <= highest)
                .map(|other| other.frames)
                .sum::<u64>();
            above / RESERVE_RATIO
        });
    }
}

impl Zone {
    /// Whether `frames` frames can go and leave `mark` and the reserve against requests that could
    /// use `highest` (`__zone_watermark_ok`).
    #[inline(always)]
    pub fn can_spare(&self, frames: u64, mark: u64, highest: ZoneKind) -> bool {
        self.free >= frames + mark + self.reserve[highest as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::NodeId;

    #[test]
    fn marks_of_a_known_machine() {
        // The formula by hand for one zone of 16 GiB: √(16·16777216) = 16384 KiB.
        let mut zone = Zone::new(NodeId(0), ZoneKind::Normal);
        zone.frames = 4 << 20;
        let mut zones = [zone];
        set_marks(&mut zones, None);
        assert_eq!(zones[0].marks, ZoneMarks { min: 4096, low: 4096 + 4194, high: 4096 + 2 * 4194 });
        set_marks(&mut zones, Some(4));
        assert_eq!(zones[0].marks.min, 1);
    }

    #[test]
    fn lower_zones_are_kept_from_requests_that_could_go_higher() {
        let mut zones = [ZoneKind::Dma, ZoneKind::Dma32, ZoneKind::Normal].map(|k| Zone::new(NodeId(0), k));
        zones[0].frames = 4096;
        zones[1].frames = 256 * 1000;
        zones[2].frames = 256 * 5000;
        set_marks(&mut zones, None);
        assert_eq!(zones.map(|z| z.reserve), [[0, 1000, 6000], [0, 0, 5000], [0; 3]]);
    }
}
