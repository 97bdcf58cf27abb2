//! A guest on shadow tables: no nested paging, and an exit for each page fault, load of CR3,
//! invalidation, and store to a page table.
//!
//! A store to a protected table page is made by the guest itself: the page
//! becomes writable for one instruction, after which the processor traps, and what has changed is
//! what was stored. No instruction has to be decoded for that.

use super::decode::{Decoded, decode};
use super::view::GuestView;
use super::{Guest, START_INFO, Told, own_frame, start_of_first};
use crate::guest::Call;
use crate::hardware::SHADOW;
use crate::machine::{BOOT, with};
use crate::physical::{self, DirectMap};
use crate::say;
use crate::smp;
use crate::svm::vmcb::exit;
use crate::svm::{self, Vcpu};
use crate::traps::intent_of;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use os::shadow::{ShadowFault, ShadowOutcome, TrapLog, Trapping};
use os::{Invalidate, PageRange};
use paging::frames::CpuId;
use paging::{Flags, Gfn, Hfn, Slot, TableMemory, Va};

/// Stores to one page without a fault in between after which it is no table (KVM: write
/// flooding, `detect_write_flooding`).
const FLOOD: u32 = 64;

/// A store that the guest is making.
struct Step {
    table: Gfn,
    leaf: Slot<paging::HostPhys>,
    before: Box<[u64; 512]>,
}

/// What the exits were for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exits {
    /// Faults that the shadow table was filled for.
    pub fills: u64,
    /// Faults that were the guest's own.
    pub guests: u64,
    /// Stores to tables.
    pub stores: u64,
    /// Loads of CR3.
    pub loads: u64,
    /// Invalidations.
    pub invalidations: u64,
}

/// A run of a guest of one CPU.
struct Run<'a> {
    guest: &'a Guest,
    cpu: CpuId,
    vcpu: Vcpu,
    log: Arc<TrapLog>,
    view: GuestView,
    mem: DirectMap,
    /// The guest's CR3.
    root: Gfn,
    step: Option<Step>,
    flooded: (Gfn, u32),
    exits: Exits,
}

impl Guest {
    /// Runs the guest, which has one CPU, to its end, on shadow tables. What it tells goes to `told`.
    ///
    /// # Panics
    /// If it does not get on.
    pub fn run_on_shadow(&self, told: Told) -> Exits {
        let cpu = BOOT;
        let frames = [own_frame(cpu), own_frame(cpu), own_frame(cpu)];
        svm::enable(frames[0]);
        let log = TrapLog::new(super::OWN.end >> 12, Trapping::Each);
        let (view, mem) = with(cpu, |kernel, hw| {
            kernel.enter_vm(hw, cpu, self.vm).expect("the VM");
            kernel.enable_shadow(self.vm, Arc::clone(&log)).expect("the VM");
            let table = kernel.vm(self.vm).expect("the VM").space().table();
            let end = kernel.mem().end();
            (GuestView::new(table.root(), table.levels(), end), DirectMap::new(end))
        });
        let start = start_of_first();
        let vcpu = Vcpu::new(frames[1], frames[2], &start, START_INFO);
        vcpu.vmcb.shadow();
        let root = Gfn::new(start.cr3 >> 12);
        let (step, flooded, exits) = (None, (root, 0), Exits::default());
        let mut run = Run { guest: self, cpu, vcpu, log, view, mem, root, step, flooded, exits };
        run.load(root);
        run.go_on(told);
        let exits = run.exits;
        with(cpu, |kernel, hw| {
            hw.loading_shadow = true;
            kernel.disable_shadow(hw, cpu, self.vm).expect("the VM has shadow tables");
            hw.loading_shadow = false;
            frames.into_iter().for_each(|frame| kernel.pool_mut().free(frame, 0, None));
        });
        exits
    }
}

impl Run<'_> {
    /// The guest loads a root: the processor gets its shadow.
    fn load(&mut self, root: Gfn) {
        let (cpu, vm) = (self.cpu, self.guest.vm);
        with(cpu, |kernel, hw| {
            hw.loading_shadow = true;
            kernel
                .shadow_load(hw, cpu, vm, root, 4)
                .unwrap_or_else(|error| panic!("a shadow table: {error}"));
            hw.loading_shadow = false;
        });
        self.root = root;
    }

    fn go_on(&mut self, told: Told) {
        loop {
            self.vcpu.vmcb.set_cr3(SHADOW[self.cpu.index()].load(Ordering::Acquire));
            match self.vcpu.run() {
                exit::INTERRUPT => smp::serve(self.cpu),
                exit::PAGE_FAULT => self.fault(),
                exit::DEBUG => self.stored(),
                exit::WRITE_CR3 => {
                    let operand = self.operand();
                    let root = Gfn::new(self.register(operand.register) >> 12);
                    self.exits.loads += 1;
                    self.load(root);
                    self.vcpu.vmcb.skip(operand.length);
                }
                exit::READ_CR3 => {
                    let operand = self.operand();
                    self.set_register(operand.register, self.root.base().raw());
                    self.vcpu.vmcb.skip(operand.length);
                }
                exit::INVLPG => {
                    let operand = self.operand();
                    let base = self.register(operand.register);
                    let start = base.wrapping_add_signed(operand.displacement) & !4095;
                    self.exits.invalidations += 1;
                    let (cpu, vm, root) = (self.cpu, self.guest.vm, self.root);
                    let pages = [PageRange { start, len: 4096 }];
                    with(cpu, |kernel, hw| {
                        kernel.shadow_invalidate(hw, cpu, vm, root, Invalidate::Ranges(&pages))
                    })
                    .expect("the VM has shadow tables");
                    self.vcpu.vmcb.skip(operand.length);
                }
                exit::HALT => {
                    // With one CPU there is nobody to wait for.
                    panic!("the guest halts at {:#x}, and nothing will wake it", self.vcpu.vmcb.rip())
                }
                exit::CALL => {
                    let (a, b) = (self.vcpu.registers.rdi, self.vcpu.registers.rsi);
                    match Call::of(self.vcpu.vmcb.rax()) {
                        Some(Call::Done) => return,
                        Some(Call::Tell) => {
                            let answer = told(self.guest, self.cpu, a, b);
                            self.vcpu.vmcb.set_rax(answer);
                        }
                        other => panic!("the guest, which has one CPU, calls {other:?}"),
                    }
                    self.vcpu.vmcb.skip(3);
                }
                other => panic!("the guest at {:#x} leaves for {other:#x}", self.vcpu.vmcb.rip()),
            }
        }
    }

    fn operand(&self) -> Decoded {
        let rip = self.vcpu.vmcb.rip();
        let bytes = self.view.bytes::<8>(self.root, rip);
        bytes
            .as_ref()
            .and_then(decode)
            .unwrap_or_else(|| panic!("the guest's instruction at {rip:#x} is unknown: {bytes:x?}"))
    }

    fn register(&self, number: u8) -> u64 {
        let it = &self.vcpu.registers;
        match number {
            0 => self.vcpu.vmcb.rax(),
            1 => it.rbx_rcx_rdx[1],
            2 => it.rbx_rcx_rdx[2],
            3 => it.rbx_rcx_rdx[0],
            4 => self.vcpu.vmcb.rsp(),
            5 => it.rbp,
            6 => it.rsi,
            7 => it.rdi,
            high => it.r8_to_r15[usize::from(high - 8)],
        }
    }

    fn set_register(&mut self, number: u8, value: u64) {
        let it = &mut self.vcpu.registers;
        match number {
            0 => self.vcpu.vmcb.set_rax(value),
            1 => it.rbx_rcx_rdx[1] = value,
            2 => it.rbx_rcx_rdx[2] = value,
            3 => it.rbx_rcx_rdx[0] = value,
            4 => panic!("the guest reads CR3 into its stack pointer"),
            5 => it.rbp = value,
            6 => it.rsi = value,
            7 => it.rdi = value,
            high => it.r8_to_r15[usize::from(high - 8)] = value,
        }
    }

    fn fault(&mut self) {
        let (error, va) = (self.vcpu.vmcb.info_1(), self.vcpu.vmcb.info_2());
        let (cpu, vm, root) = (self.cpu, self.guest.vm, self.root);
        let fault =
            ShadowFault { root, levels: 4, va: Va::new(va), intent: intent_of(error), user: error & 4 != 0 };
        let outcome = with(cpu, |kernel, hw| kernel.shadow_fault(hw, cpu, vm, &self.view, &fault))
            .unwrap_or_else(|why| panic!("the guest at {:#x}: {why}", self.vcpu.vmcb.rip()));
        match outcome {
            ShadowOutcome::Mapped(_) => self.exits.fills += 1,
            ShadowOutcome::Guest(why) => {
                self.exits.guests += 1;
                let present = matches!(why, paging::Fault::Page { why: paging::Why::Protection, .. });
                self.vcpu.vmcb.inject_page_fault(va, error & !1 | u64::from(present));
            }
            ShadowOutcome::Emulate(table) => self.let_store(table, va),
        }
    }

    /// Lets the guest make its store to a table.
    fn let_store(&mut self, table: Gfn, va: u64) {
        let (cpu, vm, root) = (self.cpu, self.guest.vm, self.root);
        let intent = paging::Intent::READ;
        let read = ShadowFault { root, levels: 4, va: Va::new(va), intent, user: false };
        let leaf = with(cpu, |kernel, hw| {
            kernel.shadow_fault(hw, cpu, vm, &self.view, &read).expect("what is stored to can be read");
            let shadow =
                kernel.shadow(vm).expect("the VM has shadow tables").table(root).expect("it is loaded");
            leaf_of(kernel.mem(), shadow.table().root(), va)
        });
        assert!(self.step.is_none(), "one instruction stores to two tables");
        let before = Box::new(self.page(table));
        self.mem.modify(leaf, Flags::WRITABLE | Flags::DIRTY, Flags::NONE);
        self.vcpu.vmcb.set_step(true);
        self.step = Some(Step { table, leaf, before });
    }

    /// The guest has made its store.
    fn stored(&mut self) {
        self.vcpu.vmcb.set_step(false);
        let Some(Step { table, leaf, before }) = self.step.take() else {
            panic!("the guest traps at {:#x}, and was not asked to", self.vcpu.vmcb.rip());
        };
        self.mem.modify(leaf, Flags::NONE, Flags::WRITABLE | Flags::DIRTY);
        self.exits.stores += 1;
        let after = self.page(table);
        for (index, (old, new)) in before.iter().zip(after).enumerate() {
            if *old != new {
                self.log.stored(table, index);
            }
        }
        self.flooded = if self.flooded.0 == table { (table, self.flooded.1 + 1) } else { (table, 1) };
        if self.flooded.1 >= FLOOD {
            self.log.freed(table);
            self.flooded.1 = 0;
        }
        let (cpu, vm) = (self.cpu, self.guest.vm);
        with(cpu, |kernel, hw| kernel.shadow_sync(hw, cpu, vm)).expect("the VM has shadow tables");
    }

    fn page(&self, gfn: Gfn) -> [u64; 512] {
        let frame: Hfn = self.view.host_frame(gfn).expect("a table that was walked is in memory");
        core::array::from_fn(|index| physical::read_word(frame, index as u64))
    }
}

/// The place of the leaf for `va`.
fn leaf_of(mem: &DirectMap, root: Hfn, va: u64) -> Slot<paging::HostPhys> {
    let (mut table, mut level) = (root, 4);
    loop {
        let slot = Slot::new(table, (va >> (3 + 9 * level)) as usize);
        let entry = mem.load(slot);
        if level == 1 || !entry.is_table(level as u8) {
            return slot;
        }
        table = entry.frame();
        level -= 1;
    }
}

/// Says what the exits were for.
pub fn report(exits: &Exits) {
    let Exits { fills, guests, stores, loads, invalidations } = exits;
    say!(
        "shadow paging: {fills} fills, {guests} faults of the guest's own, {stores} stores to tables, \
         {loads} loads of CR3, {invalidations} invalidations"
    );
}
