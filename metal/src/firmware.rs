//! What the loader tells: memory, command line, modules, where ACPI's tables are.
//!
//! The structures are Xen's PVH `hvm_start_info`, version 1; a guest of this
//! kernel is told the same way.

use crate::physical::at;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

/// `hvm_start_info.magic`.
pub const MAGIC: u32 = 0x336e_c578;
/// Memory-map entries of this type are usable.
pub const RAM: u32 = 1;
/// A longer command line or memory map than any loader's is damage.
const SANE: usize = 4096;

/// `hvm_start_info`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct StartInfo {
    /// [`MAGIC`].
    pub magic: u32,
    /// 1.
    pub version: u32,
    /// Flags.
    pub flags: u32,
    /// Modules.
    pub modules: u32,
    /// Where their list is.
    pub module_list: u64,
    /// The command line, ended by a zero byte.
    pub command_line: u64,
    /// ACPI's root pointer.
    pub rsdp: u64,
    /// The memory map.
    pub memory_map: u64,
    /// Its entries.
    pub memory_entries: u32,
    /// Nothing.
    pub reserved: u32,
}

/// An entry of the memory map.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct MemoryEntry {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// 1: usable.
    pub kind: u32,
    /// Nothing; this kernel tells its guests the node here, which have no SRAT.
    pub node: u32,
}

/// A module that the loader put into memory.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Module {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Its own command line.
    pub command_line: u64,
    /// Nothing.
    pub reserved: u64,
}

/// What the loader said.
#[derive(Clone, Debug)]
pub struct Firmware {
    /// Usable memory, ascending.
    pub ram: Vec<Range<u64>>,
    /// The node of each, for a guest.
    pub nodes: Vec<u32>,
    /// The command line.
    pub command_line: String,
    /// Modules, by address.
    pub modules: Vec<Range<u64>>,
    /// ACPI's root pointer, if there is one.
    pub rsdp: Option<u64>,
}

/// Reads a structure from physical memory.
fn read<T: Copy>(address: u64) -> T {
    // SAFETY: the kernel maps all physical memory, and the structures read are plain numbers.
    unsafe { at::<T>(address).read_unaligned() }
}

impl Firmware {
    /// From the structure that the loader left at `start_info`.
    pub fn read(start_info: u64) -> Firmware {
        let info: StartInfo = read(start_info);
        assert!(info.magic == MAGIC, "no PVH loader: {:#x} at {start_info:#x} is not its magic", info.magic);
        let size = |i: usize, of: usize| (i * of) as u64;
        let entries: Vec<MemoryEntry> = (0..(info.memory_entries as usize).min(SANE))
            .map(|i| read::<MemoryEntry>(info.memory_map + size(i, size_of::<MemoryEntry>())))
            .filter(|entry| entry.kind == RAM)
            .collect();
        let ram = entries.iter().map(|entry| entry.start..entry.start.saturating_add(entry.len)).collect();
        let nodes = entries.iter().map(|entry| entry.node).collect();
        let modules = (0..(info.modules as usize).min(SANE))
            .map(|i| read::<Module>(info.module_list + size(i, size_of::<Module>())))
            .map(|module| module.start..module.start.saturating_add(module.len))
            .collect();
        let command_line = match info.command_line {
            0 => String::new(),
            line => (0..SANE as u64)
                .map(|i| read::<u8>(line + i))
                .take_while(|&byte| byte != 0)
                .map(char::from)
                .collect(),
        };
        Firmware { ram, nodes, command_line, modules, rsdp: Some(info.rsdp).filter(|&rsdp| rsdp != 0) }
    }

    /// The value of `name=value` on the command line.
    pub fn argument(&self, name: &str) -> Option<&str> {
        self.command_line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
}
