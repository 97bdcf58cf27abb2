//! When tables are replicated.

use super::place::Place;
use paging::NodeId;
use paging::frames::NodeSet;

/// A policy, for the system or for a process; a process's own goes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// One copy of every table page, where it is first needed: Linux.
    #[default]
    Off,
    /// One copy, all on this node: builds the bad cases of the papers.
    Fixed(NodeId),
    /// A copy on every node.
    All,
    /// A copy on these nodes (`numactl --pgtablerepl`).
    Nodes(NodeSet),
    /// A copy on every node while [`Auto`] says that it pays.
    Auto,
}

impl Policy {
    /// The nodes to replicate on, of a machine that has `machine`; `auto_on` is
    /// what [`Auto::is_on`] says.
    pub fn nodes(self, machine: NodeSet, auto_on: bool) -> NodeSet {
        match self {
            Policy::All => machine,
            Policy::Auto if auto_on => machine,
            Policy::Nodes(nodes) => NodeSet(nodes.0 & machine.0),
            Policy::Off | Policy::Fixed(_) | Policy::Auto => NodeSet::default(),
        }
    }

    /// Where single copies go.
    pub fn place(self) -> Place {
        match self {
            Policy::Fixed(node) => Place::Fixed(node),
            _ => Place::FirstTouch,
        }
    }
}

/// What was counted for one address space in an interval.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sample {
    /// Cycles of the CPUs that ran it.
    pub cycles: u64,
    /// Of these, cycles with a page walk in progress (`dtlb_misses.walk_duration`).
    pub walk_cycles: u64,
    /// Memory accesses.
    pub accesses: u64,
    /// Of these, accesses that missed the TLBs.
    pub misses: u64,
    /// Loads of the walker that went to memory.
    pub walker_loads: u64,
    /// Of these, loads from another node.
    pub walker_remote: u64,
    /// Cycles that software spent writing table entries.
    pub update_cycles: u64,
}

/// When replication pays.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Thresholds {
    /// Latency of local memory, in cycles; with `remote`, of the machine.
    pub local: f64,
    /// Latency of remote memory.
    pub remote: f64,
    /// Copies that there would be.
    pub copies: usize,
    /// Share of accesses that must miss the TLBs to think of it at all.
    pub miss_ratio: f64,
    /// Gain, as a share of the run time, from which it is switched on.
    pub enter: f64,
    /// Gain below which it is switched off.
    pub leave: f64,
    /// Cycles for which it must have been so without a break.
    pub hold: u64,
}

/// What replication costs a program that has nothing from it, as a share of its
/// run time, allocation of the copies included: Mitosis, LP-LD with and without, 0.41-0.46 % `[M-m]`.
pub const IDLE_COST: f64 = 0.0046;

impl Thresholds {
    /// For a machine with memory latencies `local` and `remote` (cycles), clock
    /// `hertz`, and `copies` nodes. The gain must be twice the idle cost, and is
    /// kept down to that cost; the miss ratio of 1 % and the hysteresis of 1 s
    /// are WASP's (ASPLOS 2024) `[F:MW]`.
    pub fn of_machine(local: f64, remote: f64, hertz: u64, copies: usize) -> Self {
        Thresholds {
            local,
            remote,
            copies,
            miss_ratio: 0.01,
            enter: 2.0 * IDLE_COST,
            leave: IDLE_COST,
            hold: hertz,
        }
    }
}

/// Switches replication of an address space on and off by what is counted.
///
/// The gain is estimated before it can be measured: walker loads from remote
/// memory would become local ones, so walks that take a share w of the cycles,
/// a share r of whose loads is remote, would shorten by w·r·(1 - local/remote);
/// against that stand the updates of the further copies. While it is on there are no
/// remote loads to count, so the share of before stands for what would come back.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Auto {
    on: bool,
    /// The remote share of walker loads when it was last off.
    remote_share: f64,
    /// Cycles for which the other state would have been better.
    against: u64,
}

impl Auto {
    /// Whether tables are to be replicated.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// The state after one more interval.
    #[must_use]
    pub fn after(mut self, sample: &Sample, thresholds: &Thresholds) -> Auto {
        if sample.cycles == 0 {
            return self;
        }
        if !self.on && sample.walker_loads > 0 {
            self.remote_share = sample.walker_remote as f64 / sample.walker_loads as f64;
        }
        let gain = self.gain(sample, thresholds);
        let misses = sample.misses as f64 >= thresholds.miss_ratio * sample.accesses as f64;
        let better =
            if self.on { misses && gain >= thresholds.leave } else { misses && gain >= thresholds.enter };
        if better == self.on {
            self.against = 0;
            return self;
        }
        self.against += sample.cycles;
        if self.against >= thresholds.hold {
            self.on = better;
            self.against = 0;
        }
        self
    }

    /// The share of the run time that replication saves, or would.
    pub fn gain(&self, sample: &Sample, thresholds: &Thresholds) -> f64 {
        let share = |part: u64| part as f64 / sample.cycles.max(1) as f64;
        let walks = share(sample.walk_cycles);
        let shorter = self.remote_share * (1.0 - thresholds.local / thresholds.remote).max(0.0);
        let copies = thresholds.copies as f64;
        let (saved, updates) = if self.on {
            // Walks are short now, and updates are made to all copies.
            (walks * shorter / (1.0 - shorter), share(sample.update_cycles) * (copies - 1.0) / copies)
        } else {
            (walks * shorter, share(sample.update_cycles) * (copies - 1.0))
        };
        saved - updates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mitosis's machine: 280 and 580 cycles, 2.2 GHz, four nodes `[M-h]`.
    fn haswell() -> Thresholds {
        Thresholds::of_machine(280.0, 580.0, 2_200_000_000, 4)
    }

    fn sample(walk: f64, remote: f64) -> Sample {
        Sample {
            cycles: 1_000_000_000,
            walk_cycles: (walk * 1e9) as u64,
            accesses: 100_000_000,
            misses: 20_000_000,
            walker_loads: 1_000_000,
            walker_remote: (remote * 1e6) as u64,
            update_cycles: 0,
        }
    }

    fn settled(start: Auto, sample: &Sample) -> Auto {
        (0..10).fold(start, |auto, _| auto.after(sample, &haswell()))
    }

    #[test]
    fn on_where_the_paper_gained_and_off_where_it_did_not() {
        // Walk shares of figures 6 and 9, remote shares by placement or figure 4 [F:AE-M].
        let gained = [
            ("GUPS RPI-LD", 0.95, 1.0),
            ("Redis RP-LD", 0.40, 1.0),
            ("XSBench F", 0.41, 0.75),
            ("Canneal F", 0.38, 0.75),
        ];
        for (name, walk, remote) in gained {
            assert!(settled(Auto::default(), &sample(walk, remote)).is_on(), "{name}");
        }
        let not = [("GUPS LP-LD", 0.83, 0.0), ("Graph500 TF", 0.01, 0.75), ("Graph500 TI", 0.0, 0.75)];
        for (name, walk, remote) in not {
            assert!(!settled(Auto::default(), &sample(walk, remote)).is_on(), "{name}");
        }
    }

    #[test]
    fn it_takes_a_second_to_change_and_a_break_starts_anew() {
        let (good, bad, machine) = (sample(0.5, 1.0), sample(0.001, 1.0), haswell());
        let mut auto = Auto::default();
        for step in [&good, &good, &bad, &good, &good] {
            auto = auto.after(step, &machine);
            assert!(!auto.is_on());
        }
        assert!(auto.after(&good, &machine).is_on(), "3 G cycles in a row are 1.4 s");
    }

    #[test]
    fn it_stays_on_although_nothing_is_remote_any_more() {
        let on = settled(Auto::default(), &sample(0.5, 1.0));
        let local = sample(0.26, 0.0);
        assert!(settled(on, &local).is_on());
        // Walks went away, or updates took over: off.
        assert!(!settled(on, &sample(0.003, 0.0)).is_on());
        assert!(!settled(on, &Sample { update_cycles: 400_000_000, ..local }).is_on());
        assert!(!settled(on, &Sample { misses: 1000, ..local }).is_on());
    }

    #[test]
    fn the_mask_is_cut_to_the_machine() {
        let machine = NodeSet::first(4);
        assert_eq!(Policy::Nodes(NodeSet(0b11_0010)).nodes(machine, false), NodeSet(0b10));
        assert_eq!(Policy::Auto.nodes(machine, false), NodeSet::default());
        assert_eq!(Policy::Auto.nodes(machine, true), machine);
        assert_eq!(Policy::Fixed(NodeId(2)).place(), Place::Fixed(NodeId(2)));
    }
}
