//! CPUs and nodes from ACPI's tables: MADT and SRAT (ACPI 6.5 §5.2.12, §5.2.16).

use crate::cpu;
use crate::firmware::Firmware;
use crate::physical::at;
use alloc::vec::Vec;
use core::ops::Range;

/// Flags of SRAT entries and of MADT's CPUs: it is there.
const ENABLED: u32 = 1;
/// No table of a machine is larger.
const SANE: u32 = 1 << 20;

/// What the tables say.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// CPUs: number on the interrupt bus, and proximity domain.
    pub cpus: Vec<(u32, u32)>,
    /// Memory of each proximity domain.
    pub memory: Vec<(u32, Range<u64>)>,
}

fn number<const N: usize>(address: u64) -> u64 {
    (0..N as u64).rev().fold(0, |number, i| {
        // SAFETY: the kernel maps all physical memory.
        let byte = unsafe { at::<u8>(address + i).read() };
        number << 8 | u64::from(byte)
    })
}

/// A table by its signature.
struct Table {
    start: u64,
    end: u64,
}

impl Table {
    /// The table at `address`, if its checksum is right.
    fn read(address: u64) -> Option<Table> {
        let len = number::<4>(address + 4) as u32;
        if !(36..=SANE).contains(&len) {
            return None;
        }
        let sum = (0..u64::from(len)).fold(0u8, |sum, i| sum.wrapping_add(number::<1>(address + i) as u8));
        (sum == 0).then_some(Table { start: address, end: address + u64::from(len) })
    }

    /// Its entries from byte `first` on: type, and where they begin.
    fn entries(&self, first: u64) -> impl Iterator<Item = (u8, u64)> + use<> {
        let (mut next, end) = (self.start + first, self.end);
        core::iter::from_fn(move || {
            let here = next;
            let len = (here + 2 <= end).then(|| number::<1>(here + 1)).filter(|&len| len >= 2)?;
            next = here + len;
            (next <= end).then(|| (number::<1>(here) as u8, here))
        })
    }
}

impl Topology {
    /// Of a guest, which its host tells on the command line and in the memory map: `cpus=0,1` are
    /// the nodes of its CPUs.
    pub fn of_guest(firmware: &Firmware) -> Topology {
        let nodes = firmware.argument("cpus").unwrap_or("0").split(',').map(|node| node.parse().unwrap_or(0));
        let cpus = (cpu::apic_id()..).zip(nodes).collect();
        let memory = firmware.nodes.iter().copied().zip(firmware.ram.iter().cloned()).collect();
        Topology { cpus, memory }
    }

    /// From the tables that the pointer at `rsdp` leads to.
    pub fn read(rsdp: u64) -> Topology {
        // Revision 2 has the XSDT, with 64-bit pointers.
        let wide = number::<1>(rsdp + 15) >= 2 && number::<8>(rsdp + 24) != 0;
        let (root, width) = if wide { (number::<8>(rsdp + 24), 8) } else { (number::<4>(rsdp + 16), 4) };
        let root = Table::read(root).expect("ACPI's root table has a right checksum");
        let pointers = (root.start + 36..root.end).step_by(width);
        let tables = pointers.map(|p| if wide { number::<8>(p) } else { number::<4>(p) });
        let mut topology = Topology::default();
        let mut domains: Vec<(u32, u32)> = Vec::new();
        for table in tables.filter_map(Table::read) {
            match &number::<4>(table.start).to_le_bytes()[..4] {
                b"APIC" => {
                    for (_, cpu) in table.entries(44).filter(|&(kind, _)| kind == 0) {
                        if number::<4>(cpu + 4) as u32 & ENABLED != 0 {
                            topology.cpus.push((number::<1>(cpu + 3) as u32, 0));
                        }
                    }
                }
                b"SRAT" => {
                    for (kind, entry) in table.entries(48) {
                        match kind {
                            0 if number::<4>(entry + 4) as u32 & ENABLED != 0 => {
                                let high = number::<3>(entry + 9) << 8;
                                let domain = number::<1>(entry + 2) | high;
                                domains.push((number::<1>(entry + 3) as u32, domain as u32));
                            }
                            1 if number::<4>(entry + 28) as u32 & ENABLED != 0 => {
                                let start = number::<8>(entry + 8);
                                let range = start..start.saturating_add(number::<8>(entry + 16));
                                topology.memory.push((number::<4>(entry + 2) as u32, range));
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        for (apic, domain) in &mut topology.cpus {
            *domain = domains.iter().find(|(of, _)| of == apic).map_or(0, |&(_, domain)| domain);
        }
        topology
    }
}
