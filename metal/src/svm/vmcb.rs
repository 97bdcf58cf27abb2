//! The control block of a virtual CPU (AMD APM vol. 2, appendix B).

use crate::physical::at;

/// Offsets into the block.
mod offset {
    pub const READS_OF_CR: u64 = 0x00;
    pub const WRITES_OF_CR: u64 = 0x02;
    pub const EXCEPTIONS: u64 = 0x08;
    pub const INTERCEPTS: u64 = 0x0c;
    pub const INTERCEPTS_SVM: u64 = 0x10;
    pub const ASID: u64 = 0x58;
    pub const TLB_CONTROL: u64 = 0x5c;
    pub const VIRTUAL_INTERRUPT: u64 = 0x60;
    pub const SHADOW: u64 = 0x68;
    pub const EXIT_CODE: u64 = 0x70;
    pub const EXIT_INFO_1: u64 = 0x78;
    pub const EXIT_INFO_2: u64 = 0x80;
    pub const NESTED: u64 = 0x90;
    pub const INJECT: u64 = 0xa8;
    pub const NESTED_ROOT: u64 = 0xb0;
    pub const SEGMENTS: u64 = 0x400;
    pub const PRIVILEGE: u64 = 0x4cb;
    pub const EFER: u64 = 0x4d0;
    pub const CR4: u64 = 0x548;
    pub const CR3: u64 = 0x550;
    pub const CR0: u64 = 0x558;
    pub const DR7: u64 = 0x560;
    pub const DR6: u64 = 0x568;
    pub const FLAGS: u64 = 0x570;
    pub const RIP: u64 = 0x578;
    pub const RSP: u64 = 0x5d8;
    pub const RAX: u64 = 0x5f8;
    pub const CR2: u64 = 0x640;
    pub const PAT: u64 = 0x668;
}

/// Why a guest left, as far as this kernel asks for it.
pub mod exit {
    /// A load from CR3.
    pub const READ_CR3: u64 = 0x03;
    /// A store to CR3.
    pub const WRITE_CR3: u64 = 0x13;
    /// A single step.
    pub const DEBUG: u64 = 0x41;
    /// A page fault.
    pub const PAGE_FAULT: u64 = 0x4e;
    /// An interrupt for the host.
    pub const INTERRUPT: u64 = 0x60;
    /// `INT n`.
    pub const SOFTWARE_INTERRUPT: u64 = 0x75;
    /// `HLT`.
    pub const HALT: u64 = 0x78;
    /// `INVLPG`.
    pub const INVLPG: u64 = 0x79;
    /// A triple fault.
    pub const SHUTDOWN: u64 = 0x7f;
    /// `VMMCALL`.
    pub const CALL: u64 = 0x81;
    /// A guest-physical address that the nested table does not allow.
    pub const NESTED_FAULT: u64 = 0x400;
    /// The block makes no sense.
    pub const INVALID: u64 = u64::MAX;
}

/// Interrupts that are the host's, `HLT`, `INVLPG` (only asked for under shadow paging), triple faults.
const INTR: u32 = 1;
const HLT: u32 = 1 << 24;
const INT_N: u32 = 1 << 21;
const INVLPG: u32 = 1 << 25;
const SHUTDOWN: u32 = 1 << 31;
/// `VMRUN`, which must be intercepted, and `VMMCALL`.
const VMRUN_VMMCALL: u32 = 3;
/// The guest's IF masks virtual interrupts only, the host's masks real ones.
const MASKING: u64 = 1 << 24;
/// A virtual interrupt is pending, of the highest priority.
const PENDING: u64 = 1 << 8 | 0xf << 16 | 1 << 20;
/// TF: trap after one instruction.
const STEP: u64 = 1 << 8;

/// A control block, in a frame of its own.
#[derive(Clone, Copy, Debug)]
pub struct Vmcb {
    /// Its physical address.
    pub address: u64,
}

/// What a guest's CPU begins with.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Where.
    pub rip: u64,
    /// Its stack.
    pub rsp: u64,
    /// Its table.
    pub cr3: u64,
}

macro_rules! fields {
    ($($name:ident, $set:ident: $at:ident, $what:literal;)*) => {
        $(
            #[doc = $what]
            pub fn $name(&self) -> u64 {
                self.read(offset::$at)
            }
            #[doc = $what]
            pub fn $set(&self, value: u64) {
                self.write(offset::$at, value);
            }
        )*
    };
}

impl Vmcb {
    fn write<T>(&self, offset: u64, value: T) {
        // SAFETY: the block's frame is mapped, and this CPU's alone; offsets are within it.
        unsafe { at::<T>(self.address + offset).write_volatile(value) };
    }
    fn read(&self, offset: u64) -> u64 {
        // SAFETY: as for `write`.
        unsafe { at::<u64>(self.address + offset).read_volatile() }
    }

    fields! {
        rax, set_rax: RAX, "RAX.";
        rip, set_rip: RIP, "RIP.";
    }

    /// RSP.
    pub fn rsp(&self) -> u64 {
        self.read(offset::RSP)
    }
    /// The guest walks the table at this address.
    pub fn set_cr3(&self, root: u64) {
        self.write(offset::CR3, root);
    }
    /// More about the exit.
    pub fn info_1(&self) -> u64 {
        self.read(offset::EXIT_INFO_1)
    }
    /// More about the exit.
    pub fn info_2(&self) -> u64 {
        self.read(offset::EXIT_INFO_2)
    }

    /// Makes the frame at `address`, which is all zeroes, the block of a CPU that runs
    /// 64-bit code in ring 0 from `start` on.
    pub fn new(address: u64, start: &Start) -> Vmcb {
        let it = Vmcb { address };
        it.write(offset::INTERCEPTS, INTR | HLT | SHUTDOWN);
        it.write(offset::INTERCEPTS_SVM, VMRUN_VMMCALL);
        it.write(offset::ASID, 1u32);
        it.write(offset::VIRTUAL_INTERRUPT, MASKING);
        // ES, CS, SS, DS; then the system segments that VMRUN looks at.
        let segments: [(u64, u64, u64); 6] =
            [(0, 16, 0xc93), (1, 8, 0xa9b), (2, 16, 0xc93), (3, 16, 0xc93), (7, 0, 0x82), (9, 0, 0x8b)];
        for (number, selector, attributes) in segments {
            let segment = selector | attributes << 16 | 0xffff_ffff << 32;
            it.write(offset::SEGMENTS + 16 * number, segment);
        }
        it.write(offset::PRIVILEGE, 0u8);
        // SVME (which VMRUN asks for), NXE, LMA, LME; the rest as `boot.rs` sets it.
        it.write(offset::EFER, 0x1d00u64);
        it.write(offset::CR4, 0x620u64);
        it.write(offset::CR0, 0x8001_0013u64);
        it.write(offset::DR7, 0x400u64);
        it.write(offset::DR6, 0xffff_0ff0u64);
        it.write(offset::PAT, 0x0007_0406_0007_0406u64);
        it.write(offset::FLAGS, 2u64);
        it.write(offset::CR3, start.cr3);
        it.write(offset::RIP, start.rip);
        it.write(offset::RSP, start.rsp);
        it
    }

    /// The guest's tables hold guest frames, and the table at `root` leads from these to the host's.
    pub fn nest(&self, root: u64) {
        self.write(offset::NESTED, 1u64);
        self.write(offset::NESTED_ROOT, root);
    }

    /// The guest runs on the table in CR3, without nested paging: its page faults, uses of CR3 and
    /// invalidations are the host's.
    pub fn shadow(&self) {
        self.write(offset::NESTED, 0u64);
        self.write(offset::EXCEPTIONS, 1u32 << 14 | 1 << 1);
        // It must not see where its shadow table is.
        self.write(offset::READS_OF_CR, 1u16 << 3);
        self.write(offset::WRITES_OF_CR, 1u16 << 3);
        self.write(offset::INTERCEPTS, INTR | HLT | INVLPG | SHUTDOWN);
    }

    /// The guest begins in ring 3, and whatever would take it out of there is an exit.
    pub fn ring_3(&self) {
        for (number, selector, attributes) in [(1u64, 0x23u64, 0xafbu64), (2, 0x1b, 0xcf3)] {
            self.write(offset::SEGMENTS + 16 * number, selector | attributes << 16 | 0xffff_ffff << 32);
        }
        self.write(offset::PRIVILEGE, 3u8);
        self.write(offset::EXCEPTIONS, u32::MAX);
        self.write(offset::INTERCEPTS, INTR | INT_N | HLT | SHUTDOWN);
    }

    /// The guest walks the table at `root`, whose entries hold host frames.
    pub fn pass_through(&self, root: u64) {
        self.write(offset::NESTED, 0u64);
        self.set_cr3(root);
    }

    /// The next entry forgets what the TLB has of guests.
    pub fn flush(&self) {
        self.write(offset::TLB_CONTROL, 1u8);
    }
    /// Why the guest left.
    pub fn exit_code(&self) -> u64 {
        self.read(offset::EXIT_CODE)
    }
    /// A virtual interrupt is to be taken as soon as the guest lets it.
    pub fn interrupt(&self, vector: u8) {
        self.write(offset::VIRTUAL_INTERRUPT, MASKING | PENDING | u64::from(vector) << 32);
    }
    /// Whether it was not taken yet.
    pub fn interrupt_is_pending(&self) -> bool {
        self.read(offset::VIRTUAL_INTERRUPT) & 1 << 8 != 0
    }
    /// The guest goes on after an instruction of `bytes` bytes. (TCG has no NextRIP.)
    pub fn skip(&self, bytes: u64) {
        self.set_rip(self.rip() + bytes);
        self.write(offset::SHADOW, 0u64);
    }
    /// The guest takes a page fault for `address`.
    pub fn inject_page_fault(&self, address: u64, error: u64) {
        self.write(offset::CR2, address);
        // Valid, with an error code, an exception, vector 14.
        self.write(offset::INJECT, 1u64 << 31 | 1 << 11 | 3 << 8 | 14 | error << 32);
    }
    /// Whether the guest traps after one instruction.
    pub fn set_step(&self, on: bool) {
        let flags = self.read(offset::FLAGS);
        self.write(offset::FLAGS, if on { flags | STEP } else { flags & !STEP });
    }
}
