//! A virtual machine that this kernel's image runs in again, on nested paging.

pub mod decode;
pub mod memory;
pub mod shadow;
pub mod view;

use crate::apic::KICK;
use crate::boot::boot_pml4;
use crate::firmware::{MAGIC, MemoryEntry, RAM, StartInfo};
use crate::guest::Call;
use crate::hardware::NESTED;
use crate::machine::{BOOT, Machine, with};
use crate::physical;
use crate::smp::{self, MAX_CPUS, Task};
use crate::svm::vmcb::{Start, exit};
use crate::svm::{self, Vcpu};
use crate::traps::intent_of;
use crate::{cpu, say};
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use os::{Slot, VmId, VmSpec};
use paging::frames::{AllocRequest, CpuId, FrameState};
use paging::{Gfn, Gpa, Hfn, Intent};

/// Where a guest finds what the loader says.
const START_INFO: u64 = 0x7000;
const MEMORY_MAP: u64 = 0x7100;
const COMMAND_LINE: u64 = 0x7800;
/// The guest's own memory, for its image and heap: as the host's, it begins where the image is linked.
const OWN: Range<u64> = 512 << 20..(512 + 64) << 20;
/// Faults at one address after which the guest will never get on.
const STUCK: u32 = 16;

/// The memory of one node of a guest.
#[derive(Clone, Debug)]
pub struct Node {
    /// Guest-physical addresses.
    pub memory: Range<u64>,
    /// The host's CPU for each of its CPUs.
    pub cpus: Vec<CpuId>,
}

/// A guest.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its VM.
    pub vm: VmId,
    /// The host's CPU for each of its CPUs.
    pub cpus: Vec<CpuId>,
}

/// What a guest's call means to the scenario. Returns the answer.
pub type Told = fn(&Guest, CpuId, u64, u64) -> u64;

static KICKED: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];
static STOPPED: AtomicBool = AtomicBool::new(false);

impl Guest {
    /// A VM with this kernel's image in it, told to run a scenario.
    pub fn new(machine: &Machine, spec: VmSpec, nodes: &[Node], command_line: &str) -> Guest {
        let slot =
            |range: &Range<u64>| Slot::new(Gfn::new(range.start >> 12), (range.end - range.start) >> 12);
        let mut slots: Vec<Slot> = nodes.iter().map(|node| slot(&node.memory)).collect();
        slots.push(slot(&OWN));
        let vm = with(BOOT, |kernel, hw| kernel.create_vm(hw, BOOT, spec, &slots)).expect("a VM");
        let guest = Guest { vm, cpus: nodes.iter().flat_map(|node| node.cpus.iter().copied()).collect() };
        guest.load(machine.image.as_ref().expect("the loader was given the image as a module"));
        let map: Vec<MemoryEntry> = nodes
            .iter()
            .enumerate()
            .map(|(node, of)| MemoryEntry {
                start: of.memory.start,
                len: of.memory.end - of.memory.start,
                kind: RAM,
                node: node as u32,
            })
            .collect();
        for (entry, at) in map.iter().zip((MEMORY_MAP..).step_by(size_of::<MemoryEntry>())) {
            guest.write(at, entry);
        }
        let cpus: Vec<String> = nodes
            .iter()
            .enumerate()
            .flat_map(|(node, of)| of.cpus.iter().map(move |_| alloc::format!("{node}")))
            .collect();
        let line = alloc::format!("{command_line} cpus={}\0", cpus.join(","));
        line.bytes().zip(COMMAND_LINE..).for_each(|(byte, at)| guest.write(at, &byte));
        let info = StartInfo {
            magic: MAGIC,
            version: 1,
            command_line: COMMAND_LINE,
            memory_map: MEMORY_MAP,
            memory_entries: map.len() as u32,
            ..StartInfo::default()
        };
        guest.write(START_INFO, &info);
        guest
    }

    /// The host frame behind a guest-physical address, backed now if it was not.
    pub fn host_address(&self, gpa: u64) -> u64 {
        let at = smp::here();
        let frame = with(at, |kernel, hw| {
            kernel
                .populate_vm(hw, at, self.vm, Gpa::new(gpa & !4095), 4096, Intent::WRITE)
                .unwrap_or_else(|error| panic!("guest-physical address {gpa:#x}: {error}"));
            kernel.host_frame(self.vm, Gfn::new(gpa >> 12)).expect("the VM")
        });
        frame.expect("it was backed just now").base().raw() + (gpa & 4095)
    }

    /// Writes into the guest's memory; no value crosses a page.
    fn write<T: Copy>(&self, gpa: u64, value: &T) {
        // SAFETY: the address is the guest's memory, which is mapped.
        unsafe { physical::at::<T>(self.host_address(gpa)).write_unaligned(*value) };
    }

    /// Puts the program's segments where it wants them. (ELF64; the image is this very program's, so it
    /// is only checked to be one.)
    fn load(&self, image: &Range<u64>) {
        fn read<T: Copy>(address: u64) -> T {
            // SAFETY: the loader put the image there, and all memory is mapped.
            unsafe { physical::at::<T>(address).read_unaligned() }
        }
        assert!(read::<[u8; 4]>(image.start) == *b"\x7fELF", "the module is an ELF program");
        let table = image.start + read::<u64>(image.start + 32);
        let (size, count) = (read::<u16>(image.start + 54), read::<u16>(image.start + 56));
        for header in (0..u64::from(count)).map(|i| table + i * u64::from(size)) {
            const LOAD: u32 = 1;
            if read::<u32>(header) != LOAD {
                continue;
            }
            let [offset, _, to, bytes, memory] =
                core::array::from_fn(|i| read::<u64>(header + 8 + 8 * i as u64));
            let mut done = 0;
            // Memory beyond the file's bytes is zero already.
            while done < bytes.min(memory) {
                let part = (4096 - (to + done) % 4096).min(bytes - done);
                let target = self.host_address(to + done);
                let source = image.start + offset + done;
                assert!(source + part <= image.end, "the image is whole");
                // SAFETY: source and target are mapped, and different frames.
                unsafe {
                    physical::at::<u8>(target)
                        .copy_from_nonoverlapping(physical::at::<u8>(source), part as usize);
                }
                done += part;
            }
        }
    }

    /// Runs the guest to its end. What it tells goes to `told`.
    ///
    /// # Panics
    /// If it does not get on.
    pub fn run(&self, told: Told) {
        STOPPED.store(false, Ordering::Release);
        let start = start_of_first();
        assert_eq!(self.cpus[0], BOOT, "the guest's first CPU is the host's first");
        self.run_cpu(BOOT, 0, &start, START_INFO, told);
    }

    /// Runs one CPU of the guest, on one of the host's.
    fn run_cpu(&self, cpu: CpuId, number: usize, start: &Start, argument: u64, told: Told) {
        let frames = [own_frame(cpu), own_frame(cpu), own_frame(cpu)];
        svm::enable(frames[0]);
        with(cpu, |kernel, hw| kernel.enter_vm(hw, cpu, self.vm)).expect("the VM");
        let mut vcpu = Vcpu::new(frames[1], frames[2], start, argument);
        let mut others: Vec<Task<()>> = Vec::new();
        let (mut last, mut times) = (0, 0);
        while !STOPPED.load(Ordering::Acquire) {
            if KICKED[number].swap(false, Ordering::AcqRel) {
                vcpu.vmcb.interrupt(KICK);
            }
            vcpu.vmcb.nest(NESTED[cpu.index()].load(Ordering::Acquire));
            match vcpu.run() {
                exit::INTERRUPT => smp::serve(cpu),
                exit::HALT => {
                    while !KICKED[number].load(Ordering::Acquire)
                        && !vcpu.vmcb.interrupt_is_pending()
                        && !STOPPED.load(Ordering::Acquire)
                    {
                        cpu::wait_for_interrupt();
                        smp::serve(cpu);
                    }
                    vcpu.vmcb.skip(1);
                }
                exit::NESTED_FAULT => {
                    let gpa = vcpu.vmcb.info_2();
                    times = if last == gpa { times + 1 } else { 0 };
                    last = gpa;
                    assert!(
                        times < STUCK,
                        "the guest faults at {gpa:#x} again and again: the entry is wrong"
                    );
                    let intent = intent_of(vcpu.vmcb.info_1());
                    with(cpu, |kernel, hw| kernel.vm_fault(hw, cpu, self.vm, Gpa::new(gpa), intent))
                        .unwrap_or_else(|why| panic!("the guest at {:#x}: {why}", vcpu.vmcb.rip()));
                }
                exit::CALL => {
                    let (a, b) = (vcpu.registers.rdi, vcpu.registers.rsi);
                    let answer = match Call::of(vcpu.vmcb.rax()) {
                        Some(Call::Done) => {
                            STOPPED.store(true, Ordering::Release);
                            0
                        }
                        Some(Call::Kick) => {
                            KICKED[a as usize % MAX_CPUS].store(true, Ordering::Release);
                            if let Some(&target) = self.cpus.get(a as usize) {
                                smp::kick(target);
                            }
                            0
                        }
                        Some(Call::Start) => {
                            let start = Start {
                                rip: smp::metal_other as *const () as u64,
                                rsp: b,
                                cr3: &raw const boot_pml4 as u64,
                            };
                            let (it, target) = (self.clone(), self.cpus[a as usize]);
                            let job = move |cpu| it.run_cpu(cpu, a as usize, &start, a, told);
                            others.push(smp::spawn(target, job));
                            0
                        }
                        Some(Call::Tell) => told(self, cpu, a, b),
                        None => panic!("the guest calls {:#x}, which is nothing", vcpu.vmcb.rax()),
                    };
                    vcpu.vmcb.set_rax(answer);
                    vcpu.vmcb.skip(3);
                }
                other => {
                    let what = match other {
                        exit::SHUTDOWN => "a triple fault",
                        exit::INVALID => "a control block that makes no sense",
                        _ => "an exit that nobody asked for",
                    };
                    panic!("the guest's CPU {number} at {:#x}: {what} ({other:#x})", vcpu.vmcb.rip());
                }
            }
        }
        self.cpus.iter().filter(|other| **other != cpu).for_each(|&other| smp::kick(other));
        others.into_iter().for_each(|task| task.join(cpu));
        frames.into_iter().for_each(|frame| with(cpu, |kernel, _| kernel.pool_mut().free(frame, 0, None)));
    }

    /// Ends the VM.
    pub fn end(self) {
        with(BOOT, |kernel, hw| kernel.destroy_vm(hw, BOOT, self.vm)).expect("the VM");
        say!("the guest's VM is gone");
    }
}

/// What a guest's first CPU begins with.
fn start_of_first() -> Start {
    Start {
        rip: crate::metal_main as *const () as u64,
        rsp: &raw const crate::boot::boot_stack_end as u64 - 8,
        cr3: &raw const boot_pml4 as u64,
    }
}

/// A frame of the host's pool for the hypervisor itself.
fn own_frame(cpu: CpuId) -> Hfn {
    with(cpu, |kernel, _| {
        let request = AllocRequest::new(kernel.config().cpus[cpu.index()], FrameState::Kernel);
        kernel.pool_mut().alloc(request).expect("a frame")
    })
}

/// Nothing is told.
pub fn nothing(_: &Guest, _: CpuId, a: u64, b: u64) -> u64 {
    panic!("the guest tells {a:#x} {b:#x}, and this scenario asks for nothing")
}
