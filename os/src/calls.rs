//! The system calls on areas, and the beginning and end of processes.

use crate::error::{MmError, Stop};
use crate::fault::leaf_flags;
use crate::hardware::{Cost, Hardware, Syscall};
use crate::kernel::{Core, Cx, Kernel, NewSpace};
use crate::pagecache::FileId;
use crate::process::{GroupId, Process, ProcessId, ProcessSpec};
use crate::segment::{Content, Reason};
use crate::space::{AddressSpace, NotifyCx, Owner};
use crate::thp::ThpMode;
use crate::vma::{Backing, HugeAdvice, Policy, Prot, Vma};
use core::ops::Range;
use mechanisms::babelfish::Identity;
use paging::frames::CpuId;
use paging::{Entry, Flags, Flush, PageSize, Space, TableMemory, Va, Visibility};

/// The lowest address that an area may have (Linux `mmap_min_addr`).
pub const LOWEST: u64 = 64 << 10;

/// Bytes whose pages are released at once: bounds the list of what is gone.
const UNMAP_STEP: u64 = PageSize::Size1G.bytes();

/// An `mmap`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapRequest {
    /// Where it is wanted.
    pub addr: Option<Va>,
    /// Only there, in the place of what is there (`MAP_FIXED`).
    pub fixed: bool,
    /// Bytes; rounded up to the page size.
    pub len: u64,
    /// What is allowed.
    pub prot: Prot,
    /// A file, and its page at the first address.
    pub file: Option<(FileId, u64)>,
    /// Stores are seen by other mappings (`MAP_SHARED`), and by children.
    pub shared: bool,
    /// Above 4 KiB: made of huge pages (`MAP_HUGETLB`), private and anonymous.
    pub page: PageSize,
    /// A NUMA policy of its own.
    pub policy: Option<Policy>,
}

impl MapRequest {
    /// Private anonymous memory for data, anywhere.
    pub const fn anonymous(len: u64) -> Self {
        MapRequest {
            addr: None,
            fixed: false,
            len,
            prot: Prot::RW,
            file: None,
            shared: false,
            page: PageSize::Size4K,
            policy: None,
        }
    }
    /// A private mapping of a file from its first page on.
    pub const fn private_file(file: FileId, len: u64, prot: Prot) -> Self {
        MapRequest { file: Some((file, 0)), prot, ..Self::anonymous(len) }
    }
    /// A shared mapping of a file from its first page on.
    pub const fn shared_file(file: FileId, len: u64, prot: Prot) -> Self {
        MapRequest { shared: true, ..Self::private_file(file, len, prot) }
    }
    /// At this address and nowhere else.
    #[must_use]
    pub const fn at(mut self, addr: Va) -> Self {
        self.addr = Some(addr);
        self.fixed = true;
        self
    }
    /// Of pages of this size.
    #[must_use]
    pub const fn of(mut self, page: PageSize) -> Self {
        self.page = page;
        self
    }
    /// With this policy.
    #[must_use]
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }
}

/// What `madvise` says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Advice {
    /// The content is not needed: pages go, areas stay.
    DontNeed,
    /// Huge pages are welcome.
    HugePage,
    /// No huge pages.
    NoHugePage,
}

/// The range `start` + `len` as whole 4 KiB pages below `end`.
pub(crate) fn checked(start: u64, len: u64, end: u64) -> Result<Range<u64>, MmError> {
    if start & 4095 != 0 {
        return Err(bad_range(start, len, "the address is not a multiple of 4 KiB"));
    }
    if len == 0 {
        return Err(bad_range(start, len, "it is empty"));
    }
    match start.checked_add(len).and_then(|last| last.checked_next_multiple_of(4096)) {
        Some(last) if last <= end => Ok(start..last),
        _ => Err(bad_range(start, len, "it ends beyond the address space")),
    }
}

impl<M: TableMemory> Core<M> {
    /// Unmaps the pages of `range`; areas stay as they are.
    pub(crate) fn unmap_pages<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        range: Range<u64>,
    ) -> Result<(), Stop> {
        self.split_at(space, cx, range.start)?;
        self.split_at(space, cx, range.end)?;
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min((start / UNMAP_STEP + 1) * UNMAP_STEP);
            let mut flush = Flush::none();
            let unmapped = self.env(cx.cpu, |env| space.table.unmap_range(env, start..end, &mut flush));
            self.discharge(space, cx, flush);
            unmapped?;
            start = end;
        }
        Ok(())
    }

    /// Unmaps the pages of all areas inside `range`.
    pub(crate) fn unmap_areas<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        range: Range<u64>,
    ) -> Result<(), Stop> {
        let mut next = range.start;
        while let Some(part) = space.vmas.first_within(next..range.end) {
            self.unmap_pages(space, cx, part.range())?;
            next = part.end;
        }
        Ok(())
    }

    /// Takes areas and their pages out.
    pub(crate) fn unmap<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        range: Range<u64>,
    ) -> Result<(), Stop> {
        whole_huge_pages(space, &range)?;
        self.leave(space, cx, range.clone(), Content::Dropped, Reason::Unmapped)?;
        self.unmap_areas(space, cx, range.clone())?;
        self.tell_area(space, cx, range.clone(), None)?;
        self.area_gone(space, &range);
        for part in space.vmas.within(range.clone()) {
            self.count_mapping(&part, false);
        }
        space.vmas.remove(range);
        Ok(())
    }

    /// Tells who keeps frames for later that no fault will come in `range`.
    pub(crate) fn area_gone<I: Space>(&mut self, space: &AddressSpace<I, M>, range: &Range<u64>) {
        let pages = (range.end - range.start) >> 12;
        self.source.removed(&mut self.pool, u32::from(space.id.0), range.start >> 12, pages);
    }

    /// Adds an area where nothing is.
    pub(crate) fn add_area<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        vma: Vma,
    ) -> Result<(), Stop> {
        self.tell_area(space, cx, vma.range(), Some(&vma))?;
        self.count_mapping(&vma, true);
        space.vmas.insert(vma);
        Ok(())
    }

    fn map(
        &mut self,
        process: &mut Process<M>,
        cx: &mut Cx<'_, M::Space>,
        request: &MapRequest,
    ) -> Result<Va, Stop> {
        let space = &mut process.space;
        let top = space.mmap_top;
        let Some(len) = request.len.checked_next_multiple_of(request.page.bytes()).filter(|&len| len > 0)
        else {
            return Err(bad_range(0, request.len, "it is empty or too long").into());
        };
        if request.page > PageSize::Size4K && (request.shared || request.file.is_some()) {
            return Err(bad_range(0, len, "huge pages are for private anonymous areas").into());
        }
        if let Some((file, _)) = request.file {
            self.files.get(file)?;
        }
        let limit = (1u64 << (11 + 9 * u32::from(space.table.levels()))) - 4096;
        let start = if request.fixed {
            let start = request.addr.map_or(0, Va::raw);
            let range = checked(start, len, limit)?;
            if start & (request.page.bytes() - 1) != 0 || start < self.config.mmap_min_addr {
                let why = "the address is not a multiple of the page size, or too low";
                return Err(bad_range(start, len, why).into());
            }
            self.unmap(space, cx, range)?;
            start
        } else {
            // Large anonymous areas begin where a huge page can (Linux since 6.7).
            let huge =
                request.file.is_none() && len >= PageSize::Size2M.bytes() && space.thp != ThpMode::Never;
            let align = if huge { request.page.max(PageSize::Size2M) } else { request.page };
            let hint = request.addr.map(|addr| addr.align_down(request.page).raw());
            let free = |start: u64| {
                start >= LOWEST
                    && start.checked_add(len).is_some_and(|end| end <= limit)
                    && space.vmas.first_within(start..start + len).is_none()
            };
            match hint.filter(|&start| free(start)) {
                Some(start) => start,
                None => {
                    space.vmas.find_free(len, align.bytes(), LOWEST, top).ok_or(MmError::NoRoom { len })?
                }
            }
        };
        let backing = match request.file {
            Some((file, page)) => Backing::File { file, page },
            None if request.shared => Backing::File { file: self.shared_memory(len >> 12)?, page: 0 },
            None => Backing::Anonymous,
        };
        let vma = Vma {
            start,
            end: start + len,
            prot: request.prot,
            backing,
            shared: request.shared,
            page: request.page,
            huge: HugeAdvice::None,
            policy: request.policy,
        };
        self.add_area(space, cx, vma)?;
        Ok(Va::new(start))
    }

    fn protect<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        range: Range<u64>,
        prot: Prot,
    ) -> Result<(), Stop> {
        if !space.vmas.covers(range.clone()) {
            return Err(bad_range(range.start, range.end - range.start, "a part of it is not mapped").into());
        }
        whole_huge_pages(space, &range)?;
        if !(prot.read && prot.write) {
            self.leave(space, cx, range.clone(), Content::Kept, Reason::Protected)?;
        }
        self.split_at(space, cx, range.start)?;
        self.split_at(space, cx, range.end)?;
        let logging = space.log.is_some();
        let rights = leaf_flags(prot).without(Flags::ACCESSED);
        let mut next = range.start;
        while let Some(area) = space.vmas.first_within(next..range.end) {
            next = area.end;
            let change = |entry: Entry| {
                if entry.swap_slot().is_some() {
                    return entry;
                }
                let entry = if entry.is_prot_none() { entry.from_prot_none() } else { entry };
                // Pages that others may see carry the CoW mark; those of a shared file wait for
                // their first store. All others may be stored to at once.
                let own = !area.shared && !logging && !entry.has(Flags::COW);
                let keep = if prot.write { Flags::NONE } else { Flags::WRITABLE };
                let entry = entry.without(Flags::NO_EXECUTE | keep).with(rights);
                let entry = if prot.write && own { entry.with(Flags::WRITABLE) } else { entry };
                if prot.any() { entry } else { entry.to_prot_none() }
            };
            let mut flush = Flush::none();
            let updated = self.env(cx.cpu, |env| {
                let change = &mut |leaf: paging::LeafAt<I>| change(leaf.entry);
                space.table.update_range(env, area.range(), Visibility::Private, &mut flush, change)
            });
            self.discharge(space, cx, flush);
            updated?;
            self.tell_area(space, cx, area.range(), Some(&Vma { prot, ..area }))?;
        }
        space.vmas.update(range, |area| area.prot = prot);
        Ok(())
    }

    /// Ends an address space whose pages are gone already.
    pub(crate) fn end_space<I: Space>(
        &mut self,
        mut space: AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
    ) -> Result<(), MmError> {
        let areas: alloc::vec::Vec<Vma> = space.vmas.iter().copied().collect();
        areas.iter().for_each(|area| self.count_mapping(area, false));
        if let Some(mut notifier) = space.notifier.take() {
            self.env(cx.cpu, |env| {
                notifier.exited(&mut NotifyCx { env: env.reborrow(), hw: &mut *cx.hw, cpu: cx.cpu });
            });
        }
        self.source.exited(&mut self.pool, u32::from(space.id.0));
        self.retired += &space.stats;
        self.ids.put(space.id);
        self.env(cx.cpu, |env| space.table.destroy(env, || {}, &mut |_| {})).map_err(MmError::Map)
    }
}

pub(crate) fn bad_range(start: u64, len: u64, why: &'static str) -> MmError {
    MmError::BadRange { start, len, why }
}

/// Areas of reserved huge pages are cut at whole pages only. (Transparent ones
/// are split, so that none lies across the end of an area.)
fn whole_huge_pages<I: Space, M: TableMemory>(
    space: &AddressSpace<I, M>,
    range: &Range<u64>,
) -> Result<(), MmError> {
    let inside = |edge: u64| {
        space.vmas.get(edge).is_some_and(|area| area.start < edge && edge & (area.page.bytes() - 1) != 0)
    };
    if inside(range.start) || inside(range.end) {
        let why = "it cuts a reserved huge page";
        return Err(bad_range(range.start, range.end - range.start, why));
    }
    Ok(())
}

impl<M: TableMemory> Kernel<M> {
    /// A process without any memory.
    ///
    /// # Errors
    /// If there is no frame for its root, or no number for its address space.
    pub fn create_process(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        spec: ProcessSpec,
    ) -> Result<ProcessId, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        self.core.admit(&spec)?;
        let id = ProcessId(self.processes.next());
        let mut attempts = 0;
        let space = loop {
            match self.core.process_space(&cx, id, &spec, None) {
                Ok(space) => break space,
                Err(stop) => self.relieve(&mut cx, stop, &mut attempts)?,
            }
        };
        self.processes.push(Process { id, spec, space });
        self.core.charge(&mut cx, Cost::Syscall(Syscall::Exec));
        Ok(id)
    }

    /// `mmap`. Returns where.
    ///
    /// # Errors
    /// [`MmError::BadRange`], [`MmError::NoRoom`], [`MmError::NoFile`].
    pub fn mmap(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
        request: &MapRequest,
    ) -> Result<Va, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let va = self.on_process(&mut cx, pid, |core, process, cx| core.map(process, cx, request))?;
        self.core.charge(&mut cx, Cost::Syscall(Syscall::Map));
        Ok(va)
    }

    /// `munmap`. What is not mapped is skipped.
    ///
    /// # Errors
    /// [`MmError::BadRange`], also if a reserved huge page would be cut.
    pub fn munmap(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
        va: Va,
        len: u64,
    ) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        self.on_process(&mut cx, pid, |core, process, cx| {
            let range = checked(va.raw(), len, process.space.table.end())?;
            core.unmap(&mut process.space, cx, range)
        })?;
        self.core.charge(&mut cx, Cost::Syscall(Syscall::Unmap));
        Ok(())
    }

    /// `mprotect`.
    ///
    /// # Errors
    /// [`MmError::BadRange`], also if a part is not mapped: then nothing was changed.
    pub fn mprotect(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
        va: Va,
        len: u64,
        prot: Prot,
    ) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        self.on_process(&mut cx, pid, |core, process, cx| {
            let range = checked(va.raw(), len, process.space.table.end())?;
            core.protect(&mut process.space, cx, range, prot)
        })?;
        self.core.charge(&mut cx, Cost::Syscall(Syscall::Protect));
        Ok(())
    }

    /// `madvise`.
    ///
    /// # Errors
    /// [`MmError::BadRange`], also if a part is not mapped.
    pub fn madvise(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
        va: Va,
        len: u64,
        advice: Advice,
    ) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        self.on_process(&mut cx, pid, |core, process, cx| {
            let space = &mut process.space;
            let range = checked(va.raw(), len, space.table.end())?;
            if !space.vmas.covers(range.clone()) {
                return Err(bad_range(va.raw(), len, "a part of it is not mapped").into());
            }
            whole_huge_pages(space, &range)?;
            core.split_at(space, cx, range.start)?;
            core.split_at(space, cx, range.end)?;
            match advice {
                Advice::DontNeed => {
                    core.discard_in_place(space, cx, &range);
                    core.unmap_areas(space, cx, range)?;
                }
                Advice::HugePage => space.vmas.update(range, |area| area.huge = HugeAdvice::Yes),
                Advice::NoHugePage => space.vmas.update(range, |area| area.huge = HugeAdvice::No),
            }
            Ok(())
        })?;
        self.core.charge(&mut cx, Cost::Syscall(Syscall::Advise));
        Ok(())
    }

    /// `mbind`: a policy for pages that are not there yet.
    ///
    /// # Errors
    /// [`MmError::BadRange`], also if a part is not mapped.
    pub fn mbind(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
        va: Va,
        len: u64,
        policy: Option<Policy>,
    ) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        self.on_process(&mut cx, pid, |core, process, cx| {
            let space = &mut process.space;
            let range = checked(va.raw(), len, space.table.end())?;
            if !space.vmas.covers(range.clone()) {
                return Err(bad_range(va.raw(), len, "a part of it is not mapped").into());
            }
            whole_huge_pages(space, &range)?;
            core.split_at(space, cx, range.start)?;
            core.split_at(space, cx, range.end)?;
            space.vmas.update(range, |area| area.policy = policy);
            Ok(())
        })?;
        self.core.charge(&mut cx, Cost::Syscall(Syscall::Policy));
        Ok(())
    }

    /// `set_mempolicy`: for pages and tables that are not there yet.
    ///
    /// # Errors
    /// [`MmError::NoProcess`].
    pub fn set_policy(&mut self, pid: ProcessId, policy: Policy) -> Result<(), MmError> {
        self.process_mut(pid)?.space.policy = policy;
        Ok(())
    }

    /// `exec`: the process gets a new, empty address space.
    ///
    /// # Errors
    /// If there is no frame for the new root.
    pub fn exec(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
    ) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let new = self
            .on_process(&mut cx, pid, |core, process, cx| core.process_space(cx, pid, &process.spec, None))?;
        self.on_process(&mut cx, pid, |core, process, cx| core.empty(&mut process.space, cx))?;
        let process = self.process_mut(pid)?;
        let old = core::mem::replace(&mut process.space, new);
        self.core.end_space(old, &mut cx)?;
        self.core.charge(&mut cx, Cost::Syscall(Syscall::Exec));
        Ok(())
    }

    /// `exec` of another application, or by another user (a set-user-ID program): the process
    /// leaves its group, whose translations are not for it, unless they are the same. With `group`, it
    /// joins that one: a container begins.
    ///
    /// # Errors
    /// As [`Kernel::exec`], and [`MmError::NotYourGroup`].
    pub fn exec_as(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
        group: Option<GroupId>,
        identity: Identity,
    ) -> Result<(), MmError> {
        let before = *self.process(pid)?.spec();
        let kept = if before.identity == identity { before.group } else { GroupId::default() };
        let spec = ProcessSpec { group: group.unwrap_or(kept), identity, ..before };
        self.core.admit(&spec)?;
        self.process_mut(pid)?.spec = spec;
        let done = self.exec(hw, cpu, pid);
        if done.is_err() {
            self.process_mut(pid)?.spec = before;
        }
        done
    }

    /// `exit`. CPUs that run the process run none then.
    ///
    /// # Errors
    /// [`MmError::NoProcess`].
    pub fn exit(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
    ) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        self.on_process(&mut cx, pid, |core, process, cx| core.empty(&mut process.space, cx))?;
        let process = self.processes.remove(pid.0).ok_or(MmError::NoProcess(pid))?;
        self.core.end_space(process.space, &mut cx)?;
        self.core.charge(&mut cx, Cost::Syscall(Syscall::Exit));
        Ok(())
    }
}

impl<M: TableMemory> Core<M> {
    /// Lets a process into its group, if it is the same user's and application's.
    fn admit(&mut self, spec: &ProcessSpec) -> Result<(), MmError> {
        if spec.group == GroupId::default() {
            return Ok(());
        }
        let owner = *self.groups.entry(spec.group).or_default().owner.get_or_insert(spec.identity);
        if owner == spec.identity {
            return Ok(());
        }
        Err(MmError::NotYourGroup { group: spec.group, owner, process: spec.identity })
    }

    /// An empty address space for a process.
    pub(crate) fn process_space(
        &mut self,
        cx: &Cx<'_, M::Space>,
        id: ProcessId,
        spec: &ProcessSpec,
        parent: Option<crate::SpaceId>,
    ) -> Result<AddressSpace<paging::Virt, M>, Stop> {
        let &ProcessSpec { group, policy, thp, .. } = spec;
        let levels = self.config.levels;
        let begin = NewSpace { owner: Owner::Process(id), group, policy, thp, parent, levels };
        let mut space = self.new_space(cx.cpu, &begin, |tables, info| tables.process(info))?;
        if let Some(top) = spec.mmap_top {
            space.mmap_top = top.min(space.mmap_top) & !4095;
        }
        Ok(space)
    }

    /// Takes an address space off all CPUs and lets go of all its pages.
    pub(crate) fn empty<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
    ) -> Result<(), Stop> {
        self.unload(space, cx);
        // Told first, so that tables that others share are let go of whole.
        self.tell_area(space, cx, 0..space.table.end(), None)?;
        self.leave(space, cx, 0..u64::MAX, Content::Dropped, Reason::Unmapped)?;
        self.unmap_areas(space, cx, 0..u64::MAX)
    }
}
