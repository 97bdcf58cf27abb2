//! The kernels' background work: huge pages, NUMA balancing, tables that
//! follow their data, and replication that is switched by what is counted.

use super::*;
use crate::numa::Replication;
use machine::metrics::Served;
use mechanisms::mitosis::{Auto, Sample, Thresholds};

/// What a core had counted at some time.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    cycles: u64,
    walk_cycles: u64,
    accesses: u64,
    misses: u64,
    loads: u64,
    remote: u64,
}

impl Counted {
    fn of(core: CoreView<'_>) -> Counted {
        let counters = core.counters;
        let by = counters.grid.by_served();
        let remote = by[Served::Remote as usize];
        Counted {
            cycles: core.timing.elapsed() / TICKS,
            walk_cycles: core.timing.walk_active / TICKS,
            accesses: counters.accesses,
            misses: counters.stlb_misses + counters.stlb_fetch_misses,
            loads: by[Served::Local as usize] + remote,
            remote,
        }
    }
}

/// What `mitosis=auto` knows.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// By process.
    auto: Vec<Auto>,
    /// By core, at the last look.
    cores: Vec<Counted>,
    /// Cycles of table updates at the last look.
    updates: u64,
}

impl Watch {
    /// Counters begin anew.
    pub(super) fn restart(&mut self, machine: &Tagged) {
        if !self.cores.is_empty() {
            self.cores = machine.cores().map(Counted::of).collect();
        }
    }
}

impl World {
    /// The scans of NUMA balancing come once a tick, which is a thousandth of Linux's period or less, or pages would never move
    /// in what can be simulated. What they make fault costs as much of the time as it does there.
    fn time_lapse(&mut self) {
        let now = self.cycles().into_iter().max().unwrap_or(0);
        let since = u128::from(now - std::mem::replace(&mut self.last_tick, now));
        let period = u128::from(SCAN_PERIOD * 1000 * self.plan.profile.clock.mhz);
        self.costs.hint = (since * u128::from(Costs::WHOLE) / period).min(u128::from(Costs::WHOLE)) as u64;
    }

    /// Background work of the kernels.
    pub(super) fn tick(&mut self) -> Result<(), WorldError> {
        self.time_lapse();
        let System { kernel: side, host, .. } = self.plan.system;
        let failed = |error| WorldError::Kernel { what: "background work".to_string(), error };
        for index in 0..self.processes.len() {
            let pid = self.processes[index].pid;
            if !on_kernel!(self, |kernel, _hw, _files| kernel.process(pid).is_ok()) {
                continue;
            }
            if side.pages == Pages::Thp {
                // Linux scans 4096 pages a round (khugepaged/pages_to_scan): 8 blocks.
                on_kernel!(self, |kernel, hw, _files| kernel.khugepaged(hw, CpuId(0), pid, 8))
                    .map_err(failed)?;
            }
            if side.numa_balancing {
                // Tables follow after its last window, if they do.
                on_kernel!(self, |kernel, hw, _files| kernel.numa_scan(hw, CpuId(0), pid)).map_err(failed)?;
            } else if side.tables_follow {
                on_kernel!(self, |kernel, hw, _files| kernel.rebalance_tables(hw, CpuId(0), pid))
                    .map_err(failed)?;
            }
        }
        if side.replication == Replication::Auto {
            self.watch()?;
        }
        if let Some(vm) = self.guest.as_ref().map(|guest| guest.vm) {
            let mut hardware = HostHardware(shared!(self, &self.host_files.names));
            if host.numa_balancing {
                self.host.numa_scan_vm(&mut hardware, CpuId(0), vm).map_err(failed)?;
            } else if host.tables_follow {
                self.host.rebalance_vm_tables(&mut hardware, CpuId(0), vm).map_err(failed)?;
            }
        }
        if self.plan.system.translation == Way::Agile
            && let Some(vm) = self.guest.as_ref().map(|guest| guest.vm)
        {
            let mut hardware = HostHardware(shared!(self, &self.host_files.names));
            self.host.end_agile_interval(&mut hardware, CpuId(0), vm).map_err(failed)?;
        }
        self.migrate_live()
    }

    /// Looks at what each process's cores counted since the last look, and
    /// switches its replication. A core's counts are those of who runs on it now.
    fn watch(&mut self) -> Result<(), WorldError> {
        let now: Vec<Counted> = self.machine.cores().map(Counted::of).collect();
        let before = std::mem::replace(&mut self.watch.cores, now.clone());
        let updates = self.spent.updates - std::mem::replace(&mut self.watch.updates, self.spent.updates);
        self.watch.auto.resize(self.processes.len(), Auto::default());
        let memory = self.plan.profile.memory_spec();
        let local = memory.latency_ps[0][0];
        let remote = *memory.latency_ps[0].iter().max().unwrap_or(&local);
        let hertz = self.plan.profile.clock.mhz * 1_000_000;
        let thresholds = Thresholds::of_machine(local as f64, remote as f64, hertz, self.nodes);
        for index in 0..self.processes.len() {
            let mut sample = Sample::default();
            for (core, running) in self.running.iter().enumerate() {
                if *running != Some(index as u16) {
                    continue;
                }
                let (now, then) = (now[core], before.get(core).copied().unwrap_or_default());
                sample.cycles += now.cycles - then.cycles;
                sample.walk_cycles += now.walk_cycles - then.walk_cycles;
                sample.accesses += now.accesses - then.accesses;
                sample.misses += now.misses - then.misses;
                sample.walker_loads += now.loads - then.loads;
                sample.walker_remote += now.remote - then.remote;
            }
            if sample.cycles == 0 {
                continue;
            }
            sample.update_cycles = updates.min(sample.cycles);
            let auto = self.watch.auto[index];
            let next = auto.after(&sample, &thresholds);
            self.watch.auto[index] = next;
            if next.is_on() != auto.is_on() {
                self.replicate(index as u16, next.is_on())?;
            }
        }
        Ok(())
    }

    /// Gives each node's CPUs page tables of their own for a process that runs, or all the same ones.
    ///
    /// # Errors
    /// If memory for the copies is exhausted.
    pub fn replicate(&mut self, process: u16, on: bool) -> Result<(), WorldError> {
        let pid = self.process(process)?.pid;
        let cpu = self.cpu_of(process);
        let nodes = if on { NodeSet::first(self.nodes) } else { NodeSet::default() };
        on_kernel!(self, |kernel, hw, _files| kernel.replicate_tables(hw, cpu, pid, nodes))
            .map(|_| ())
            .map_err(|error| WorldError::Kernel {
                what: format!("replicating tables of process {process}"),
                error,
            })
    }
}
