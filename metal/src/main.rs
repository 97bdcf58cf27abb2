//! A small kernel on a machine: Pagewalk's `no_std` crates, unchanged, under an
//! MMU that is not ours.
//!
//! `paging`, `mechanisms` and `os` are linked as they are; what is here is what every
//! kernel brings along: booting, CPUs, interrupts, memory, and an [`os::Hardware`] made of instructions.
//! Each [scenario] is one boot, chosen on the command line (`scenario=life`), with its
//! verdict on the serial line and in QEMU's exit status.
//!
//! | file | |
//! |---|---|
//! | `boot.rs`, `runtime.rs` | from the loader to Rust; what the compiler expects |
//! | `firmware.rs`, `acpi.rs` | which memory, CPUs and nodes there are |
//! | `cpu.rs`, `tables.rs`, `traps.rs`, `apic.rs` | instructions, descriptor tables, ring 3 and back, interrupts |
//! | `smp.rs`, `lock.rs` | other CPUs, and the one lock |
//! | `physical.rs`, `hardware.rs` | [`paging::TableMemory`] and [`os::Hardware`]: what a kernel implements |
//! | `machine.rs`, `program.rs` | the kernel made and called; what runs in ring 3 |
//! | `svm/`, `vm/`, `guest.rs` | virtual machines: entered, held, and what a guest asks |
#![no_std]
#![no_main]

extern crate alloc;

mod acpi;
mod apic;
mod boot;
mod cpu;
mod firmware;
mod guest;
mod hardware;
mod lock;
mod machine;
mod physical;
mod program;
mod runtime;
mod scenario;
mod serial;
mod smp;
mod svm;
mod tables;
mod traps;
mod vm;

use acpi::Topology;
use firmware::Firmware;
use machine::Machine;

unsafe extern "C" {
    static kernel_end: u8;
}

const MIB: u64 = 1 << 20;
/// The kernel's own memory, after its image.
const HEAP: u64 = 48 * MIB;

#[unsafe(no_mangle)]
extern "C" fn metal_main(start_info: u64) -> ! {
    let image_end = &raw const kernel_end as u64 - physical::IMAGE;
    let heap = image_end.next_multiple_of(2 * MIB);
    // SAFETY: memory after the image is mapped and nobody's.
    unsafe { runtime::init_heap(physical::at::<u8>(heap) as usize, HEAP as usize) };
    smp::begin();
    let firmware = Firmware::read(start_info & 0xffff_ffff);
    let topology = match firmware.rsdp {
        Some(rsdp) => {
            apic::mask_legacy();
            apic::enable();
            Topology::read(rsdp)
        }
        None => {
            guest::begin();
            Topology::of_guest(&firmware)
        }
    };
    let started = smp::start_others(&topology);
    let mut used = firmware.modules.clone();
    used.push(0..MIB);
    let machine = Machine::new(&firmware, &topology, &used);
    // The same image again, for guests.
    let image = firmware.modules.first().cloned();
    let machine = Machine { image, command_line: firmware.command_line.clone(), ..machine };
    assert_eq!(started, machine.cpus.len(), "every CPU that the firmware names has started");
    let name = firmware.argument("scenario").unwrap_or("life");
    let Some((_, run)) = scenario::ALL.iter().find(|(known, _)| *known == name) else {
        let known = scenario::ALL.iter().map(|(name, _)| *name).collect::<alloc::vec::Vec<_>>().join(", ");
        panic!("there is no scenario {name}; there are {known}");
    };
    run(&machine);
    say!("{name}: PASSED");
    serial::exit(true)
}
