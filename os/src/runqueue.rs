//! The scheduler's part that co-located containers need: who of those that share a CPU runs on it, and for how long.
//!
//! One queue a CPU, round robin: who has used up its quantum goes to the end of the queue, as do
//! equals under Linux's `SCHED_RR`. Nobody moves to another CPU. What a quantum is counted in is the caller's:
//! cycles, or instructions where who runs must not depend on what is measured.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use paging::frames::CpuId;

/// Tasks by CPU. The first in a queue runs.
#[derive(Clone, Debug)]
pub struct RunQueues<T> {
    queues: Vec<VecDeque<T>>,
    /// What the running task of each CPU has used of its quantum.
    used: Vec<u64>,
    quantum: u64,
    switches: u64,
}

impl<T: Copy + PartialEq> RunQueues<T> {
    /// Nobody runs on any of `cpus` CPUs. A quantum is at least 1.
    pub fn new(cpus: usize, quantum: u64) -> Self {
        let queues = (0..cpus).map(|_| VecDeque::new()).collect();
        RunQueues { queues, used: alloc::vec![0; cpus], quantum: quantum.max(1), switches: 0 }
    }

    /// How many CPUs there are.
    pub fn cpus(&self) -> usize {
        self.queues.len()
    }

    /// The CPU with the fewest tasks; of several, the first. None if there is no CPU.
    pub fn idlest(&self) -> Option<CpuId> {
        let least = (0..self.queues.len()).min_by_key(|cpu| self.queues[*cpu].len())?;
        Some(CpuId(least as u16))
    }

    /// A task begins on a CPU, after those that are there.
    ///
    /// # Panics
    /// If there is no such CPU.
    pub fn start(&mut self, cpu: CpuId, task: T) {
        self.queues[cpu.index()].push_back(task);
    }

    /// A task ends, wherever it is; the next begins with a whole quantum if it ran.
    pub fn stop(&mut self, task: T) {
        for (queue, used) in self.queues.iter_mut().zip(&mut self.used) {
            if queue.front() == Some(&task) {
                *used = 0;
            }
            queue.retain(|other| *other != task);
        }
    }

    /// Who runs on a CPU; nobody on one that there is not.
    pub fn running(&self, cpu: CpuId) -> Option<T> {
        self.queues.get(cpu.index())?.front().copied()
    }

    /// Who runs and waits on a CPU, in this order.
    pub fn tasks(&self, cpu: CpuId) -> impl Iterator<Item = T> + '_ {
        self.queues.get(cpu.index()).into_iter().flatten().copied()
    }

    /// Who runs on a CPU ran for `time`. Says who runs from now on.
    ///
    /// # Panics
    /// If there is no such CPU.
    pub fn ran(&mut self, cpu: CpuId, time: u64) -> Option<T> {
        let (queue, used) = (&mut self.queues[cpu.index()], &mut self.used[cpu.index()]);
        *used += time;
        if *used >= self.quantum {
            *used = 0;
            if queue.len() > 1 {
                queue.rotate_left(1);
                self.switches += 1;
            }
        }
        queue.front().copied()
    }

    /// Times that one task followed another because its quantum was used up.
    pub fn switches(&self) -> u64 {
        self.switches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_take_turns_of_a_quantum() {
        let mut queues = RunQueues::new(2, 10);
        for task in 0..5 {
            let cpu = queues.idlest().unwrap();
            queues.start(cpu, task);
        }
        assert!(queues.tasks(CpuId(0)).eq([0, 2, 4]) && queues.tasks(CpuId(1)).eq([1, 3]));
        let mut ran = [0u64; 5];
        for _ in 0..300 {
            let task = queues.running(CpuId(0)).unwrap();
            ran[task] += 3;
            queues.ran(CpuId(0), 3);
        }
        // Turns end with the step of 3 that reaches 10.
        assert_eq!(ran, [300, 0, 300, 0, 300]);
        assert_eq!((queues.switches(), queues.running(CpuId(1))), (75, Some(1)));
    }

    #[test]
    fn who_ends_makes_room_for_the_next_with_a_whole_quantum() {
        let mut queues = RunQueues::new(1, 10);
        assert_eq!((queues.running(CpuId(0)), queues.running(CpuId(7))), (None::<u8>, None));
        (0..3).for_each(|task| queues.start(CpuId(0), task));
        assert_eq!(queues.ran(CpuId(0), 9), Some(0));
        queues.stop(0);
        assert_eq!(queues.ran(CpuId(0), 9), Some(1));
        queues.stop(2);
        // Alone, one goes on.
        assert_eq!(queues.ran(CpuId(0), 9), Some(1));
        queues.stop(1);
        assert_eq!((queues.ran(CpuId(0), 1), queues.switches()), (None, 0));
    }
}
