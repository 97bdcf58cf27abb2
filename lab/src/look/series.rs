//! A run over time: what was counted from one moment to the next.
//!
//! Samples are taken between blocks, a few hundred in a run however long it is: when there
//! are too many, every second one goes, and the next ones come half as often.

use super::Counts;
use machine::metrics::LatencyHistogram;
use serde::Serialize;

/// Samples kept at most; half as many at least, once a run is long enough.
const KEPT: usize = 256;
/// Accesses between two samples at first.
const FIRST: u64 = 4096;

/// Everything counted until one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub counts: Counts,
    pub latency: LatencyHistogram,
}

/// Samples of one run.
#[derive(Clone, Debug)]
pub(crate) struct Recording {
    samples: Vec<Sample>,
    every: u64,
    next: u64,
}

impl Default for Recording {
    fn default() -> Self {
        Recording { samples: Vec::new(), every: FIRST, next: FIRST }
    }
}

impl Recording {
    /// Whether a sample is due after so many counted accesses.
    #[inline(always)]
    pub fn is_due(&self, accesses: u64) -> bool {
        accesses >= self.next
    }

    /// Takes one.
    pub fn take(&mut self, sample: Sample) {
        if self.samples.len() == KEPT {
            // The first one is the start, and stays.
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.every *= 2;
        }
        self.next = (sample.counts.accesses / self.every + 1) * self.every;
        self.samples.push(sample);
    }

    /// The series from the first sample, the start, to `end`.
    pub fn finish(mut self, end: Sample) -> Series {
        let all = end.counts.accesses;
        if let Some(last) = self.samples.last().map(|last| last.counts.accesses).filter(|last| *last < all) {
            // A short rest belongs to the interval before it.
            if self.samples.len() > 1 && all - last < self.every / 2 {
                self.samples.pop();
            }
            self.samples.push(end);
        }
        Series { points: self.samples.windows(2).map(|pair| Interval::between(&pair[0], &pair[1])).collect() }
    }
}

/// A run over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Series {
    /// Intervals of about as many accesses each, in order.
    pub points: Vec<Interval>,
}

/// What was counted in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Interval {
    /// Accesses counted until its end.
    pub until: u64,
    /// What was counted in it.
    pub counts: Counts,
    /// Cycles that half of its walks do not exceed; 0 without walks.
    pub latency_p50: u64,
    /// Cycles that 90 % of its walks do not exceed.
    pub latency_p90: u64,
    /// Cycles that 99 % of its walks do not exceed.
    pub latency_p99: u64,
}

impl Interval {
    fn between(from: &Sample, to: &Sample) -> Interval {
        let latency = to.latency.since(&from.latency);
        Interval {
            until: to.counts.accesses,
            counts: to.counts.since(&from.counts),
            latency_p50: latency.quantile(0.5),
            latency_p90: latency.quantile(0.9),
            latency_p99: latency.quantile(0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(accesses: u64) -> Sample {
        Sample { counts: Counts { accesses, cycles: 3 * accesses, ..Counts::default() }, ..Sample::default() }
    }

    #[test]
    fn a_long_run_keeps_a_few_hundred_even_intervals() {
        let mut recording = Recording::default();
        recording.take(sample(0));
        let (mut at, end) = (0, 50_000_000);
        while at < end {
            at += 256;
            if recording.is_due(at) {
                recording.take(sample(at));
            }
        }
        let points = recording.finish(sample(at)).points;
        assert!((KEPT / 2 - 1..=KEPT).contains(&points.len()), "{}", points.len());
        assert_eq!(points.iter().map(|p| p.counts.accesses).sum::<u64>(), at);
        assert!(points.iter().all(|p| p.counts.cycles == 3 * p.counts.accesses));
        let typical = points[points.len() / 2].counts.accesses;
        let uneven = points.iter().filter(|p| p.counts.accesses.abs_diff(typical) > typical / 2);
        assert_eq!(uneven.count(), 0, "{points:?}");
    }

    #[test]
    fn a_run_without_accesses_has_no_points() {
        let mut recording = Recording::default();
        recording.take(sample(0));
        assert!(recording.finish(sample(0)).points.is_empty());
    }
}
