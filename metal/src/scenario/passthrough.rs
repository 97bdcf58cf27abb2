//! Translation Pass-Through: a guest's programs run on tables that hold host frames, with
//! nested paging off.
//!
//! No shipping MMU compares a frame's tag before it is used. So that is done in software where tables
//! are loaded: before each entry into the guest every entry of the twin tables is
//! looked at as the hardware would ([`FrameTags::admits`]), and what it would refuse is taken out of them, so that
//! the MMU faults there. Nothing else of the mechanism is replaced: the guest's kernel keeps its own
//! tables of guest frames, [`Twin`](mechanisms::passthrough::Twin)s are what the MMU walks, and the host's
//! array and tags follow the VM's table.
//!
//! The guest's kernel runs beside the host's here, as in the lab; its programs run in ring 3 of
//! a virtual CPU.

use super::bits;
use crate::hardware::pattern;
use crate::machine::{BOOT, Machine, Os, finish, with_os};
use crate::physical::{self, DirectMap};
use crate::program::{Program, Series, TEXT, text};
use crate::say;
use crate::svm::vmcb::{Start, exit};
use crate::svm::{self, Vcpu};
use crate::traps::intent_of;
use crate::vm::memory::GuestMemory;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use mechanisms::passthrough::{FrameTags, HostArray, Owner, TagPlaces, TwinPages, colour_of, twin_of};
use os::passthrough::{Enlightened, TwinTables};
use os::{
    Cost, FileId, Hardware, Kernel, KernelConfig, MapRequest, MmError, ProcessId, ProcessSpec, Prot,
    RootLoad, Shootdown, SingleTables, Slot, SpaceId, VmId, VmSpec,
};
use paging::frames::{AllocRequest, CpuId, FramePool, FrameState, Layout, NodeId, PoolConfig};
use paging::{Entry, FromBuddy, Gfn, Gpa, GuestPhys, Hfn, Intent, TableMemory, Va, Work};

const HEAP: u64 = 0x7000_0000_0000;
const PAGES: u64 = 512;
/// The guest's memory: 32 MiB, from 1 MiB on.
const FRAMES: u64 = 8192;
/// Faults at one address after which a program will never get on.
const STUCK: u32 = 16;

/// What a guest's kernel calls its machine.
struct GuestHardware<'a> {
    os: &'a mut Os,
    vm: VmId,
    text: Option<FileId>,
}

impl GuestHardware<'_> {
    /// The host frame behind a guest frame, backed now if it was not.
    fn host(&mut self, gfn: Gfn) -> Hfn {
        let Os { kernel, hw } = &mut *self.os;
        kernel.populate_vm(hw, BOOT, self.vm, gfn.base(), 4096, Intent::WRITE).expect("the VM's memory");
        kernel.host_frame(self.vm, gfn).expect("the VM").expect("it was backed just now")
    }
}

impl Hardware<GuestPhys> for GuestHardware<'_> {
    fn load_root(&mut self, _cpu: CpuId, _load: &RootLoad<GuestPhys>) {}
    /// Every entry into a guest forgets what was cached of it.
    fn shootdown(&mut self, _from: CpuId, _what: &Shootdown<'_>) {}
    fn flush_space(&mut self, _cpu: CpuId, _space: SpaceId) {}
    fn touch(&mut self, cpu: CpuId, frame: Gfn) {
        let Os { kernel, hw } = &mut *self.os;
        kernel.expose_to_vm(hw, cpu, self.vm, frame).expect("the VM's memory");
    }
    fn zero(&mut self, _cpu: CpuId, frame: Gfn, order: u8) {
        (0..1 << order).for_each(|i| physical::zero(self.host(frame.offset(i)), 1));
    }
    fn copy(&mut self, _cpu: CpuId, from: Gfn, to: Gfn, order: u8) {
        for i in 0..1 << order {
            let (from, to) = (self.host(from.offset(i)), self.host(to.offset(i)));
            physical::copy(from, to, 1);
        }
    }
    fn file_read(&mut self, cpu: CpuId, file: FileId, page: u64, frame: Gfn) {
        let frame = self.host(frame);
        if Some(file) == self.text {
            let it = self.os.hw.text.expect("the host has the file");
            self.os.hw.file_read(cpu, it, page, frame);
        } else {
            (0..512).for_each(|word| physical::write_word(frame, word, pattern(file, page, word)));
        }
    }
    fn file_write(&mut self, _cpu: CpuId, file: FileId, page: u64, _frame: Gfn) {
        unreachable!("page {page} of file {} is not shared: nothing writes it", file.0)
    }
    fn swap_out(&mut self, _cpu: CpuId, _frame: Gfn, slot: u64) {
        unreachable!("the guest has no swap, and slot {slot} is in it")
    }
    fn swap_in(&mut self, _cpu: CpuId, slot: u64, _frame: Gfn) {
        unreachable!("the guest has no swap, and slot {slot} is in it")
    }
    fn charge(&mut self, _cpu: CpuId, _cost: Cost, _work: &Work) {}
}

/// A guest that maps host frames itself.
struct Guest {
    kernel: Kernel<GuestMemory>,
    vm: VmId,
    owner: Owner,
    tags: Arc<FrameTags>,
    text: Option<FileId>,
    vcpu: Vcpu,
    /// Entries that were taken out because their frame is not tagged for the guest.
    refused: u64,
    entered: u64,
}

/// A frame of the host's for itself.
fn own_frame(os: &mut Os) -> Hfn {
    os.kernel.pool_mut().alloc(AllocRequest::new(NodeId(0), FrameState::Kernel)).expect("a frame")
}

/// A VM all of whose memory is backed and tagged.
fn backed_vm(os: &mut Os, tags: &Arc<FrameTags>) -> (VmId, Arc<HostArray>) {
    let Os { kernel, hw } = os;
    let slots = [Slot::new(Gfn::new(0), FRAMES)];
    let vm = kernel.create_vm(hw, BOOT, VmSpec::default(), &slots).expect("a VM");
    kernel.populate_vm(hw, BOOT, vm, Gpa::new(0), FRAMES * 4096, Intent::WRITE).expect("memory");
    let array = Arc::new(HostArray::new(FRAMES));
    kernel
        .enable_passthrough(hw, BOOT, vm, Arc::clone(&array), Arc::clone(tags))
        .expect("nothing is in the way");
    (vm, array)
}

impl Guest {
    fn new(os: &mut Os, tags: &Arc<FrameTags>) -> Guest {
        let (vm, array) = backed_vm(os, tags);
        let (root, levels, end) = {
            let table = os.kernel.vm(vm).expect("the VM").space().table();
            (table.root(), table.levels(), os.kernel.mem().end())
        };
        let layout = Layout::of_ranges(core::slice::from_ref(&(0x100..FRAMES)));
        let pool = FramePool::new(&layout, PoolConfig::default()).expect("a layout");
        let tables = TwinTables::new(
            Box::new(SingleTables::default()),
            array,
            Arc::new(TwinPages::default()),
            Enlightened::All,
        );
        let config = KernelConfig { pcids: 1, ..KernelConfig::new(alloc::vec![NodeId(0)]) };
        let mem = GuestMemory::new(root, levels, end);
        let owner = os.kernel.passthrough(vm).expect("enabled").owner();
        let frames = [own_frame(os), own_frame(os), own_frame(os)];
        svm::enable(frames[0]);
        let mut hw = GuestHardware { os, vm, text: None };
        let mut kernel = Kernel::new(config, pool, mem, Box::new(FromBuddy), Box::new(tables), &mut hw)
            .expect("a guest's kernel");
        let text = kernel.create_file(1).expect("a file");
        let vcpu = Vcpu::new(frames[1], frames[2], &Start { rip: TEXT, rsp: 0, cr3: 0 }, 0);
        vcpu.vmcb.ring_3();
        Guest { kernel, vm, owner, tags: Arc::clone(tags), text: Some(text), vcpu, refused: 0, entered: 0 }
    }

    /// The guest's kernel and its machine.
    fn with<R>(
        &mut self,
        os: &mut Os,
        f: impl FnOnce(&mut Kernel<GuestMemory>, &mut GuestHardware<'_>) -> R,
    ) -> R {
        f(&mut self.kernel, &mut GuestHardware { os, vm: self.vm, text: self.text })
    }

    /// The twin of a process's root, in guest and host frames.
    fn twin(&self, os: &Os, pid: ProcessId) -> (Gfn, Option<(Hfn, u8)>) {
        let table = self.kernel.process(pid).expect("alive").space().table();
        let twin = twin_of(self.kernel.mem(), table.root()).expect("the process is enlightened");
        let entered = os.kernel.passthrough_registers(self.vm, twin, 4).expect("the mode is on");
        (twin, entered.root)
    }

    /// The tag check: takes out of the tables from `root` down what hardware would refuse.
    fn check_tags(&mut self, mem: &DirectMap, root: Hfn) {
        let mut todo = alloc::vec![(root, 4u8)];
        while let Some((table, level)) = todo.pop() {
            let Some(cells) = mem.cells(table) else { continue };
            for cell in cells {
                let entry = Entry(cell.load(Ordering::Acquire));
                if !entry.is_present() {
                    continue;
                }
                if self.tags.admits(self.owner, entry.frame(), colour_of(entry)).is_none() {
                    // Not if it is another by now.
                    let _ = cell.compare_exchange(entry.bits(), 0, Ordering::AcqRel, Ordering::Relaxed);
                    self.refused += 1;
                } else if entry.is_table(level) {
                    todo.push((entry.frame(), level - 1));
                }
            }
        }
    }

    /// Runs a program of the guest, on the twin of its process's table.
    fn run(&mut self, os: &mut Os, pid: ProcessId, program: &Program) -> Result<(u64, u64), MmError> {
        self.with(os, |kernel, hw| kernel.switch_to(hw, BOOT, pid))?;
        self.vcpu.begin(&program.context());
        let (mut last, mut times) = (0, 0);
        loop {
            let (twin, _) = self.twin(os, pid);
            let Os { kernel, hw } = os;
            kernel.enter_passthrough(hw, BOOT, self.vm, twin, true)?;
            let (root, colour) = self.twin(os, pid).1.expect("the root was touched");
            assert!(self.tags.admits(self.owner, root, colour).is_some(), "the root is the guest's own");
            self.check_tags(os.kernel.mem(), root);
            self.vcpu.vmcb.pass_through(root.base().raw());
            self.entered += 1;
            let code = self.vcpu.run();
            let Os { kernel, hw } = os;
            kernel.leave_passthrough(hw, BOOT, self.vm, true)?;
            match code {
                exit::INTERRUPT => crate::smp::serve(BOOT),
                exit::SOFTWARE_INTERRUPT => {
                    return Ok((self.vcpu.vmcb.rax(), self.vcpu.registers.rbx_rcx_rdx[0]));
                }
                exit::PAGE_FAULT => {
                    let (va, error) = (self.vcpu.vmcb.info_2(), self.vcpu.vmcb.info_1());
                    times = if last == va { times + 1 } else { 0 };
                    last = va;
                    assert!(times < STUCK, "the guest's program faults at {va:#x} again and again");
                    let intent = intent_of(error);
                    self.with(os, |kernel, hw| kernel.fault(hw, BOOT, pid, Va::new(va), intent))?;
                }
                other => panic!("the guest's program at {:#x} leaves for {other:#x}", self.vcpu.vmcb.rip()),
            }
        }
    }

    fn fill(&mut self, os: &mut Os, pid: ProcessId, series: Series) {
        self.run(os, pid, &Program::Fill(series)).unwrap_or_else(|error| panic!("{series:x?}: {error}"));
    }

    fn expect(&mut self, os: &mut Os, pid: ProcessId, series: Series) {
        let done = self.run(os, pid, &Program::Check(series));
        let (right, found) = done.unwrap_or_else(|error| panic!("{series:x?}: {error}"));
        let va = series.start + right * series.stride;
        let word = series.first + right * series.step;
        assert_eq!(right, series.count, "the guest reads {found:#x} at {va:#x}, must read {word:#x}");
    }

    /// Every leaf that the MMU walks is what guest and VM say. Returns how many.
    fn compare(&mut self, os: &mut Os, pid: ProcessId) -> u64 {
        let (_, root) = self.twin(os, pid);
        let Some((root, _)) = root else { return 0 };
        self.check_tags(os.kernel.mem(), root);
        let mut leaves = 0;
        for at in bits::entries(os.kernel.mem(), root, 4).iter().filter(|at| at.entry.is_leaf(at.level)) {
            let own = self.kernel.entry_of(pid, Va::new(at.va)).expect("alive");
            let gfn = own.frame().expect("the guest's own table maps it");
            let behind = os.kernel.host_frame(self.vm, gfn).expect("the VM");
            assert_eq!(
                Some(at.entry.frame()),
                behind,
                "the twin leaf for {:#x}, guest frame {:#x}",
                at.va,
                gfn.number()
            );
            leaves += 1;
        }
        os.kernel.check_passthrough(self.vm).expect("tags and array are what the VM's table says");
        leaves
    }

    fn end(self, os: &mut Os, frames: &mut Vec<Hfn>) {
        let Guest { kernel, vm, text, vcpu, .. } = self;
        kernel.shutdown(&mut GuestHardware { os, vm, text }).expect("an orderly end");
        frames.extend(vcpu.frames());
    }
}

/// Runs it.
pub fn run(machine: &Machine) {
    machine.start();
    with_os(BOOT, |os| {
        let tags = Arc::new(FrameTags::new(os.kernel.mem().end(), TagPlaces::default()));
        // Another guest, whose memory is nobody else's.
        let (other, secrets) = backed_vm(os, &tags);
        let secret = secrets.get(Gfn::new(1000)).expect("it is backed");
        physical::write_word(secret.frame(), 0, 0x005e_c4e7);

        let mut guest = Guest::new(os, &tags);
        let create = |guest: &mut Guest, os: &mut Os| {
            let text_file = guest.text.expect("the guest has the file");
            guest
                .with(os, |kernel, hw| {
                    let pid = kernel.create_process(hw, BOOT, ProcessSpec::default())?;
                    let request = MapRequest::private_file(text_file, text().len() as u64, Prot::RX);
                    kernel.mmap(hw, BOOT, pid, &request.at(Va::new(TEXT)))?;
                    kernel.mmap(hw, BOOT, pid, &MapRequest::anonymous(PAGES * 4096).at(Va::new(HEAP)))?;
                    Ok::<_, MmError>(pid)
                })
                .expect("a process")
        };
        let pid = create(&mut guest, os);
        guest.fill(os, pid, Series::pages(HEAP, PAGES, 1));
        guest.expect(os, pid, Series::pages(HEAP, PAGES, 1));
        let leaves = guest.compare(os, pid);
        say!(
            "a guest's program ran on {leaves} leaves that name host frames, entered {} times",
            guest.entered
        );

        // A fork: twins of both.
        let child = guest.with(os, |kernel, hw| kernel.fork(hw, BOOT, pid)).expect("a fork");
        guest.fill(os, child, Series::pages(HEAP, 50, 500));
        guest.expect(os, pid, Series::pages(HEAP, PAGES, 1));
        guest.expect(os, child, Series::pages(HEAP, 50, 500));
        guest.expect(os, child, Series::pages(HEAP + 50 * 4096, PAGES - 50, 51));

        // The host moves all of the VM's memory: every tag goes, every entry is stale.
        let before = guest.refused;
        let moved = {
            let Os { kernel, hw } = &mut *os;
            kernel.migrate_vm(hw, BOOT, guest.vm, 0..FRAMES * 4096, NodeId(1), u64::MAX).expect("room")
        };
        guest.expect(os, pid, Series::pages(HEAP, PAGES, 1));
        guest.expect(os, child, Series::pages(HEAP, 50, 500));
        guest.compare(os, pid);
        let stale = guest.refused - before;
        assert!(moved > PAGES && stale > 0, "{moved} pages moved, {stale} stale entries were refused");
        say!("{moved} pages of the VM moved: {stale} stale entries were refused, and mended by the guest");

        // A hostile guest names another's frame, under every colour there is.
        let (_, root) = guest.twin(os, pid);
        let leaf = bits::leaf(os.kernel.mem(), root.expect("it ran").0, 4, HEAP).expect("it is mapped");
        let before = guest.refused;
        for colour in 0..128u64 {
            let forged = leaf.entry.bits() & !(0x7f << 52) | colour << 52;
            os.kernel.mem().store(leaf.slot, Entry(forged).with_frame(secret.frame()));
            guest.expect(os, pid, Series { count: 1, ..Series::pages(HEAP, 1, 1) });
        }
        assert_eq!(guest.refused - before, 128, "every forged entry was refused");
        assert_eq!(
            physical::read_word(secret.frame(), 0),
            0x005e_c4e7,
            "the other guest's memory is as it was"
        );
        say!("128 forged entries for another guest's frame were refused");

        let mut frames = Vec::new();
        let vm = guest.vm;
        guest.end(os, &mut frames);
        let Os { kernel, hw } = os;
        for id in [vm, other] {
            kernel.disable_passthrough(hw, BOOT, id).expect("it was enabled");
            kernel.destroy_vm(hw, BOOT, id).expect("the VM");
        }
        frames.push(svm::disable());
        frames.into_iter().for_each(|frame| kernel.pool_mut().free(frame, 0, None));
    });
    finish();
}
