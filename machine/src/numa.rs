//! NUMA memory: what a load costs that no cache served.
//!
//! Each node's memory controller, and each directed link between two nodes, is
//! a server that takes a fixed time for a line. A load pays the latency from
//! its node to the memory's node with nobody else about, and waits at the
//! servers on its way.
//!
//! **Waiting.** A server's utilisation ρ is the share of its time that is
//! booked. The mean wait is that of an M/D/1 queue (Pollaczek-Khinchine with
//! constant service): `W = S · ρ / (2 (1 − ρ))`. On a link `S` is the time of a
//! line. At a controller a line's transfer is short, but a request that finds
//! its bank busy with another row waits for the whole row cycle, so `S` is the
//! bank's cycle time (tRC, 45-50 ns for every DDR3 and DDR4): flat at low load,
//! doubled latency near 80 %, steep above 90 %, the shape that loaded-latency
//! tools measure. The queue is not endless: the others on a node have only so
//! many lines under way, so by Little's law no load takes longer than
//! `lines under way · time of a line`, which caps W.
//!
//! **Throughput.** Time is cut into epochs; a server gives out no more time in
//! an epoch than the epoch has, and what does not fit waits for the next one with room.
//! ρ is that of the epoch before. Cores whose clocks are apart by some epochs
//! still book each in its own time.
//!
//! **Interference** is bandwidth that somebody else takes from a node, and adds
//! to ρ. Arbitration is first come, first served, so however much they want,
//! half of the server's time is left for us when we want it.
//!
//! All integers; no floating point after construction.

use paging::NodeId;
use paging::frames::{Layout, SECTION_FRAMES};

/// What memory is made of, in units of hardware.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemorySpec {
    /// `latency_ps[from][to]`: picoseconds of an unloaded load that missed all
    /// caches, by a core of node `from`, of memory of node `to`.
    pub latency_ps: Vec<Vec<u64>>,
    /// Megabytes (10^6) a second of one node's memory.
    pub node_mb_s: u64,
    /// Megabytes a second from one node to another.
    pub link_mb_s: u64,
    /// Picoseconds for which a bank is busy with one row.
    pub bank_ps: u64,
    /// Lines that the cores of one node can have under way.
    pub lines_under_way: u64,
}

/// log2 of the epochs that a server remembers. Together they are 5 million cycles or more: by so much cores' clocks may be
/// apart, of which some wait for a huge page to be zeroed or for remote memory, and some do not.
const EPOCHS_LOG2: u32 = 10;
const EPOCHS: usize = 1 << EPOCHS_LOG2;
/// log2 of the steps in which utilisation is known.
const STEPS_LOG2: u32 = 6;
const STEPS: usize = 1 << STEPS_LOG2;
/// An epoch is the first power of two of ticks that is not shorter than this
/// many cycles: long against a queue, short against a phase of a program.
const EPOCH_CYCLES: u64 = 4096;

#[derive(Clone, Copy, Debug, Default)]
struct Epoch {
    number: u64,
    booked: u64,
}

/// A controller or a link.
#[derive(Clone, Debug)]
struct Server {
    /// Ticks for a line.
    service: u64,
    epochs: [Epoch; EPOCHS],
    /// Mean wait at each step of utilisation.
    wait: [u64; STEPS + 1],
    /// Taken by others, in steps.
    taken: u64,
    /// What holds for bookings in the epoch of the last one.
    current: Current,
}

/// An epoch in which a booking needs no look at the others.
#[derive(Clone, Copy, Debug, Default)]
struct Current {
    number: u64,
    /// The mean wait, by the utilisation of the epoch before.
    mean: u64,
    /// Time that may be booked before the last line of the epoch.
    last: u64,
}

impl Server {
    fn new(service: u64, queue_service: u64, cap: u64) -> Server {
        let wait = std::array::from_fn(|step| match (step as u64, STEPS as u64) {
            (step, steps) if step < steps => (queue_service * step / (2 * (steps - step))).min(cap),
            _ => cap,
        });
        Server {
            service: service.max(1),
            epochs: [Epoch::default(); EPOCHS],
            wait,
            taken: 0,
            current: Current::default(),
        }
    }

    #[inline(always)]
    fn booked(&self, number: u64) -> u64 {
        let epoch = self.epochs[number as usize & (EPOCHS - 1)];
        if epoch.number == number { epoch.booked } else { 0 }
    }

    /// Books a line at `now`; how long it waits for its turn.
    #[inline(always)]
    fn book(&mut self, now: u64, epoch_shift: u32) -> u64 {
        // Epoch 0 marks slots that were never used, so time starts in 1.
        let first = (now >> epoch_shift) + 1;
        let epoch = &mut self.epochs[first as usize & (EPOCHS - 1)];
        if first == self.current.number && epoch.booked <= self.current.last {
            epoch.booked += self.service;
            return self.current.mean;
        }
        self.book_anew(now, first, epoch_shift)
    }

    /// The first booking after one in another epoch, or in an epoch that is full.
    #[inline(never)]
    fn book_anew(&mut self, now: u64, first: u64, epoch_shift: u32) -> u64 {
        let own = self.booked(first - 1) >> (epoch_shift - STEPS_LOG2);
        let step = (own + self.taken).min(STEPS as u64);
        let mean = self.wait[step as usize];
        let room = 1 << epoch_shift;
        let room = room - (room >> STEPS_LOG2) * self.taken.min(STEPS as u64 / 2);
        for number in first..first + EPOCHS as u64 {
            let epoch = &mut self.epochs[number as usize & (EPOCHS - 1)];
            if epoch.number > number {
                // This core is so far behind the others that nobody remembers
                // its time.
                return mean;
            }
            if epoch.number < number {
                *epoch = Epoch { number, booked: 0 };
            }
            if number == first {
                self.current = Current { number, mean, last: room.saturating_sub(self.service) };
            }
            if epoch.booked + self.service <= room || epoch.booked == 0 {
                let turn = ((number - 1) << epoch_shift) + epoch.booked;
                epoch.booked += self.service;
                return if number == first { mean } else { mean.max(turn - now) };
            }
        }
        mean.max((EPOCHS as u64) << epoch_shift)
    }
}

/// The memory of a machine.
#[derive(Clone, Debug)]
pub struct Memory {
    nodes: usize,
    node_of_section: Box<[u8]>,
    latency: Box<[u64]>,
    controllers: Box<[Server]>,
    links: Box<[Server]>,
    node_mb_s: u64,
    epoch_shift: u32,
    lines: Box<[u64]>,
}

impl Memory {
    /// The memory of `layout`, for a core clock of `mhz` whose cycles are
    /// `ticks_per_cycle` ticks. All times below are in ticks.
    ///
    /// # Panics
    /// If the latencies are not a matrix over the nodes of the layout.
    pub fn new(spec: &MemorySpec, layout: &Layout, mhz: u64, ticks_per_cycle: u64) -> Memory {
        let nodes = layout.nodes.len();
        assert!(
            spec.latency_ps.len() == nodes && spec.latency_ps.iter().all(|row| row.len() == nodes),
            "latencies for {nodes} nodes"
        );
        let ticks =
            |ps: u64| (u128::from(ps) * u128::from(mhz) * u128::from(ticks_per_cycle) / 1_000_000) as u64;
        // 64 bytes at 1 MB/s are 64 µs.
        let line_ps = |mb_s: u64| 64_000_000 / mb_s.max(1);
        let (node_line, link_line) = (line_ps(spec.node_mb_s), line_ps(spec.link_mb_s));
        // By Little's law, less what an unloaded access takes already.
        let cap = |line: u64, latency: u64| ticks((spec.lines_under_way * line).saturating_sub(latency));
        let controllers = (0..nodes).map(|node| {
            let cap = cap(node_line, spec.latency_ps[node][node]);
            Server::new(ticks(node_line), ticks(spec.bank_ps), cap)
        });
        let all = spec.latency_ps.iter().flatten();
        let links = all
            .clone()
            .map(|latency| Server::new(ticks(link_line), ticks(link_line), cap(link_line, *latency)));
        let mut node_of_section = Vec::new();
        for (number, node) in layout.nodes.iter().enumerate() {
            for range in &node.frames {
                let end = range.end.div_ceil(SECTION_FRAMES) as usize;
                if node_of_section.len() < end {
                    node_of_section.resize(end, 0);
                }
                node_of_section[(range.start / SECTION_FRAMES) as usize..end].fill(number as u8);
            }
        }
        Memory {
            nodes,
            node_of_section: node_of_section.into(),
            controllers: controllers.collect(),
            links: links.collect(),
            latency: all.map(|ps| ticks(*ps)).collect(),
            node_mb_s: spec.node_mb_s,
            epoch_shift: (EPOCH_CYCLES * ticks_per_cycle).next_power_of_two().trailing_zeros(),
            lines: vec![0; nodes * nodes].into(),
        }
    }

    /// The node whose memory physical line `line` is in.
    #[inline(always)]
    pub fn node_of(&self, line: u64) -> NodeId {
        let section = line / (SECTION_FRAMES * 64);
        NodeId(self.node_of_section.get(section as usize).copied().unwrap_or(0))
    }

    /// How long a load takes that a core of node `from` sends at `now` to
    /// memory of node `to`; its bandwidth is booked.
    #[inline(always)]
    pub fn access(&mut self, now: u64, from: NodeId, to: NodeId) -> u64 {
        let way = from.index() * self.nodes + to.index();
        self.lines[way] += 1;
        let mut time = self.latency[way] + self.controllers[to.index()].book(now, self.epoch_shift);
        if from != to {
            time += self.links[way].book(now, self.epoch_shift);
        }
        time
    }

    /// How long such a load takes with nobody else about.
    pub fn unloaded(&self, from: NodeId, to: NodeId) -> u64 {
        self.latency[from.index() * self.nodes + to.index()]
    }

    /// Others take `mb_s` megabytes a second of `node`'s memory from now on;
    /// `u64::MAX` for all that they can get.
    pub fn set_interference(&mut self, node: NodeId, mb_s: u64) {
        let share = u128::from(mb_s) * STEPS as u128 / u128::from(self.node_mb_s.max(1));
        let controller = &mut self.controllers[node.index()];
        controller.taken = share.min(STEPS as u128) as u64;
        controller.current = Current::default();
    }

    /// Lines loaded by cores of `from` from memory of `to`.
    pub fn lines(&self, from: NodeId, to: NodeId) -> u64 {
        self.lines[from.index() * self.nodes + to.index()]
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes
    }
}
