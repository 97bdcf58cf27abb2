//! [`os::Hardware`] by real instructions.

use crate::boot::boot_pdpt_high;
use crate::cpu::cr3;
use crate::physical;
use crate::program;
use crate::smp::{self, MAX_CPUS, MAX_PAGES, Request};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use mechanisms::segments::Image;
use os::{Cost, FileId, Hardware, Invalidate, RootLoad, SegmentLoad, Shootdown, SpaceId, SpaceKind};
use paging::frames::CpuId;
use paging::{Hfn, HostPhys, Work};

/// A page on a device.
type Page = Box<[u64; 512]>;

/// The nested table of each CPU's VM, which the next entry into the guest loads.
pub static NESTED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// The shadow table of each CPU's guest, likewise.
pub static SHADOW: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// What was asked of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Loads of CR3, or of a root for a guest.
    pub loads: u64,
    /// Shootdowns.
    pub shootdowns: u64,
    /// Interrupts sent for them.
    pub interrupts: u64,
    /// Page faults answered.
    pub faults: u64,
    /// VM exits answered.
    pub exits: u64,
}

/// The machine.
#[derive(Debug, Default)]
pub struct Metal {
    /// What was asked.
    pub counts: Counts,
    /// The file that holds the programs of ring 3.
    pub text: Option<FileId>,
    /// Pages of files that were written, or that are not a pattern.
    disk: BTreeMap<(FileId, u64), Page>,
    swap: BTreeMap<u64, Page>,
    /// What each CPU runs: the space and the table.
    pub running: [Option<(SpaceId, Hfn)>; MAX_CPUS],
    /// Spaces that are shadow tables: no host process runs on them.
    shadows: BTreeSet<SpaceId>,
    /// Root loads are for a guest's shadow tables now.
    pub loading_shadow: bool,
    /// What the registers of each CPU's segments would hold, by [`SpaceKind`].
    pub segments: [[Option<Image>; 2]; MAX_CPUS],
    /// A fault on purpose: shootdowns are lost.
    pub deaf: bool,
}

/// The device's content of a file's page that nobody wrote.
pub fn pattern(file: FileId, page: u64, word: u64) -> u64 {
    (u64::from(file.0) << 48 | page << 16 | word).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// A page of a device into a frame.
fn store(page: &[u64; 512], frame: Hfn) {
    page.iter().zip(0..).for_each(|(&word, index)| physical::write_word(frame, index, word));
}

/// What a frame holds, for a device.
fn fetch(frame: Hfn) -> Page {
    Box::new(core::array::from_fn(|index| physical::read_word(frame, index as u64)))
}

impl Metal {
    fn load(&mut self, own: CpuId, cpu: CpuId, root: u64) {
        self.counts.loads += 1;
        smp::ask(own, cpu, Request::LoadRoot(root));
    }

    /// Whether a space is a shadow table.
    pub fn is_shadow(&self, space: SpaceId) -> bool {
        self.shadows.contains(&space)
    }
}

impl Hardware<HostPhys> for Metal {
    fn load_root(&mut self, cpu: CpuId, load: &RootLoad<HostPhys>) {
        if load.kind == SpaceKind::Vm {
            NESTED[cpu.index()].store(load.root.base().raw(), Ordering::Release);
            return;
        }
        if self.loading_shadow || (load.space != SpaceId::KERNEL && self.is_shadow(load.space)) {
            self.shadows.insert(load.space);
            SHADOW[cpu.index()].store(load.root.base().raw(), Ordering::Release);
            return;
        }
        let kernel = &raw const boot_pdpt_high as u64;
        physical::link_kernel(load.root, kernel);
        self.running[cpu.index()] = (load.space != SpaceId::KERNEL).then_some((load.space, load.root));
        let own = smp::here();
        self.load(own, cpu, load.root.base().raw());
        debug_assert!(own != cpu || cr3() == load.root.base().raw(), "CR3 holds what was loaded");
    }

    fn load_segment(&mut self, cpu: CpuId, load: &SegmentLoad<'_>) {
        self.segments[cpu.index()][load.kind as usize] = load.image.cloned();
    }

    fn shootdown(&mut self, from: CpuId, what: &Shootdown<'_>) {
        self.counts.shootdowns += 1;
        if self.deaf {
            return;
        }
        // A guest's translations are tagged with its ASID, which is flushed by the next VMRUN of a
        // CPU that was kicked out of the guest; TLBs keep nothing of a process
        // that does not run (no PCIDs), so pages are those of the running one.
        let guest = what.kind == SpaceKind::Vm || self.is_shadow(what.space);
        let mut pages: Vec<u64> = Vec::new();
        let mut all = guest;
        match what.what {
            Invalidate::All => all = true,
            Invalidate::Ranges(ranges) => {
                let total: u64 = ranges.iter().map(|range| range.len.div_ceil(4096)).sum();
                all |= total > MAX_PAGES as u64;
                if !all {
                    let each = |range: &os::PageRange| (range.start..range.start + range.len).step_by(4096);
                    pages.extend(ranges.iter().flat_map(each));
                }
            }
        }
        for cpu in what.cpus.iter() {
            let request = if all { Request::All } else { Request::Pages(&pages) };
            self.counts.interrupts += u64::from(cpu != from);
            smp::ask(from, cpu, request);
        }
    }

    fn flush_space(&mut self, cpu: CpuId, _space: SpaceId) {
        smp::ask(smp::here(), cpu, Request::All);
    }

    fn zero(&mut self, _cpu: CpuId, frame: Hfn, order: u8) {
        physical::zero(frame, 1 << order);
    }

    fn copy(&mut self, _cpu: CpuId, from: Hfn, to: Hfn, order: u8) {
        physical::copy(from, to, 1 << order);
    }

    fn file_read(&mut self, _cpu: CpuId, file: FileId, page: u64, frame: Hfn) {
        if let Some(content) = self.disk.get(&(file, page)) {
            store(content, frame);
        } else if Some(file) == self.text && page == 0 {
            physical::zero(frame, 1);
            let words = program::text().chunks(8).zip(0..);
            for (bytes, index) in words {
                let mut word = [0; 8];
                word[..bytes.len()].copy_from_slice(bytes);
                physical::write_word(frame, index, u64::from_le_bytes(word));
            }
        } else {
            (0..512).for_each(|word| physical::write_word(frame, word, pattern(file, page, word)));
        }
    }

    fn file_write(&mut self, _cpu: CpuId, file: FileId, page: u64, frame: Hfn) {
        self.disk.insert((file, page), fetch(frame));
    }

    fn swap_out(&mut self, _cpu: CpuId, frame: Hfn, slot: u64) {
        self.swap.insert(slot, fetch(frame));
    }

    fn swap_in(&mut self, _cpu: CpuId, slot: u64, frame: Hfn) {
        match self.swap.get(&slot) {
            Some(content) => store(content, frame),
            None => panic!("swap slot {slot} is read back but was never written"),
        }
    }

    fn charge(&mut self, _cpu: CpuId, cost: Cost, _work: &Work) {
        // Time passes by itself here; what happened is counted.
        match cost {
            Cost::PageFault(_) => self.counts.faults += 1,
            Cost::Exit(_) => self.counts.exits += 1,
            _ => {}
        }
    }
}
