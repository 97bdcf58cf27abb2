//! A core's way to data: its caches, and what lies behind them.
//!
//! Nothing here depends on a system, so all share two versions, for hosts with and without AVX2, which takes 4 to 6 %
//! less time for random updates. A call costs them no more than a copy for each reference of a walk.

use crate::cache::Cache;
use crate::core::Latencies;
use crate::metrics::Served;
use crate::set::{Avx2, Plain, Vectors};
use crate::timing::Ticks;
use crate::uncore::Uncore;
use paging::NodeId;

/// The private data caches of a core, and where it is.
#[derive(Clone, Debug)]
pub(crate) struct DataPath {
    pub l1d: Cache,
    pub l2: Cache,
    pub latencies: Latencies,
    pub socket: usize,
    pub node: NodeId,
    /// The walker's loads enter at the second level.
    pub walker_skips_l1: bool,
    pub avx2: Option<Avx2>,
}

/// A function of [`DataPath`] in two versions, and the choice between them.
macro_rules! in_both {
    ($(#[$doc:meta])* $name:ident, $plain:ident, $avx2:ident, $any:ident) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(&mut self, uncore: &mut Uncore, line: u64, now: Ticks) -> (Served, Ticks) {
            #[cfg(target_arch = "x86_64")]
            if let Some(avx2) = self.avx2 {
                // SAFETY: there is an `Avx2`, so the host has what the function is compiled for.
                return unsafe { self.$avx2(avx2, uncore, line, now) };
            }
            self.$plain(uncore, line, now)
        }
        #[inline(never)]
        fn $plain(&mut self, uncore: &mut Uncore, line: u64, now: Ticks) -> (Served, Ticks) {
            self.$any(Plain, uncore, line, now)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,bmi1,bmi2")]
        #[inline(never)]
        fn $avx2(&mut self, avx2: Avx2, uncore: &mut Uncore, line: u64, now: Ticks) -> (Served, Ticks) {
            self.$any(avx2, uncore, line, now)
        }
    };
}

impl DataPath {
    in_both! {
        /// A load of `line` at `now`: where it was served, and after how long.
        load, load_plain, load_avx2, load_any
    }
    in_both! {
        /// The first level does not have `line`, wanted at `now`: the same.
        beyond_l1, beyond_l1_plain, beyond_l1_avx2, beyond_l1_any
    }

    /// The same by the walker.
    #[inline(always)]
    pub fn walker_load(&mut self, uncore: &mut Uncore, line: u64, now: Ticks) -> (Served, Ticks) {
        if self.walker_skips_l1 { self.beyond_l1(uncore, line, now) } else { self.load(uncore, line, now) }
    }

    #[inline(always)]
    fn load_any(
        &mut self,
        vectors: impl Vectors,
        uncore: &mut Uncore,
        line: u64,
        now: Ticks,
    ) -> (Served, Ticks) {
        if self.l1d.access_with(vectors, line) {
            return (Served::L1, self.latencies.l1);
        }
        self.beyond_l1_any(vectors, uncore, line, now)
    }

    #[inline(always)]
    fn beyond_l1_any(
        &mut self,
        vectors: impl Vectors,
        uncore: &mut Uncore,
        line: u64,
        now: Ticks,
    ) -> (Served, Ticks) {
        if self.l2.access_with(vectors, line) {
            return (Served::L2, self.latencies.l2);
        }
        uncore.access(vectors, self.socket, self.node, line, now, self.latencies.llc)
    }
}
