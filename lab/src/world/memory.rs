//! What the input's processes map, and what of it is filled before they start.

use super::build::{reserved, thp};
use super::*;

impl World {
    /// Maps a region for a process of the input.
    pub(super) fn map(&mut self, process: u16, region: &Region) -> Result<(), WorldError> {
        self.check_place(region)?;
        let Some(placing) = self.plan.placing.as_ref() else { return self.map_part(process, region, None) };
        let mut region = region.clone();
        if thp(&self.plan.system.kernel) == ThpMode::Never && region.advice == HugeAdvice::Huge {
            // The kernel takes advice because the layout is told to it so; the program's it would not.
            region.advice = HugeAdvice::None;
        }
        if placing.process != process {
            return self.map_part(process, &region, None);
        }
        let parts = placing.layout.parts(&region);
        parts.iter().try_for_each(|(part, page)| self.map_part(process, part, *page))
    }

    /// Maps a region; of pages of this size, if it is a part of a real layout.
    fn map_part(&mut self, process: u16, region: &Region, page: Option<PageSize>) -> Result<(), WorldError> {
        let Process { pid, page: most, .. } = self.process(process)?;
        let side = self.plan.system.kernel;
        let page = match region.advice {
            _ if page.is_some() => page.unwrap_or_default(),
            HugeAdvice::Reserved(size) => size,
            _ if region.backing == Backing::Anonymous && region.permissions.write => reserved(&side),
            _ => PageSize::Size4K,
        };
        // Reserved huge pages need whole ones; a region that is too crooked stays small.
        let crooked = (region.start.raw() | region.len) & (page.bytes() - 1) != 0;
        let page = if crooked || page > most { PageSize::Size4K } else { page };
        let name = region.name.clone();
        let cpu = self.cpu_of(process);
        on_kernel!(self, |kernel, hw, files| {
            let file = |kernel: &mut Kernel<_>, files: &mut Files, name: &str, offset: u64| {
                files.open(kernel, name).map(|id| (id, offset >> 12))
            };
            let (backing, shared) = match &region.backing {
                Backing::Anonymous => (Ok(None), false),
                Backing::SharedAnonymous => (Ok(None), true),
                Backing::PrivateFile { file: f, offset } => {
                    (file(kernel, files, f, *offset).map(Some), false)
                }
                Backing::SharedFile { file: f, offset } => (file(kernel, files, f, *offset).map(Some), true),
            };
            backing.and_then(|file| {
                let request = MapRequest {
                    addr: Some(region.start),
                    fixed: true,
                    prot: prot(region.permissions),
                    file,
                    shared,
                    page,
                    ..MapRequest::anonymous(region.len)
                };
                kernel.mmap(hw, cpu, pid, &request)?;
                let advice = match region.advice {
                    HugeAdvice::Huge => Some(Advice::HugePage),
                    HugeAdvice::NoHuge => Some(Advice::NoHugePage),
                    HugeAdvice::None | HugeAdvice::Reserved(_) => None,
                };
                match advice {
                    Some(advice) => kernel.madvise(hw, cpu, pid, region.start, region.len, advice),
                    None => Ok(()),
                }
            })
        })
        .map_err(|error| WorldError::Kernel { what: format!("mapping `{name}`"), error })
    }

    /// Takes the faults of a region's initialisation.
    pub(super) fn populate(&mut self, process: u16, region: &Region) -> Result<(), WorldError> {
        let threads: Vec<CpuId> =
            self.threads.iter().filter(|t| t.process == process).map(|t| t.cpu).collect();
        let first = threads.first().copied().unwrap_or_default();
        let pages = region.len >> 12;
        match region.populate {
            Populate::OnDemand => Ok(()),
            Populate::By(thread) => {
                let cpu = self.threads.get(usize::from(thread)).map_or(first, |t| t.cpu);
                self.fill(process, cpu, region, 0, pages)
            }
            Populate::Partitioned => {
                // Everyone fills a share of its own, all at once: in turns of a huge page.
                let share = pages.div_ceil(threads.len().max(1) as u64).max(1);
                let turn = 512;
                for step in (0..share).step_by(turn as usize) {
                    for (i, cpu) in threads.iter().enumerate() {
                        let start = i as u64 * share + step;
                        let end = (start + turn).min((i as u64 + 1) * share).min(pages);
                        if start < end {
                            self.fill(process, *cpu, region, start, end)?;
                        }
                    }
                }
                Ok(())
            }
            Populate::RoundRobin => {
                for page in 0..pages {
                    let cpu = threads.get(page as usize % threads.len().max(1)).copied().unwrap_or(first);
                    self.fill(process, cpu, region, page, page + 1)?;
                }
                Ok(())
            }
        }
    }

    /// Faults the pages `start..end` of a region in on `cpu`.
    pub(super) fn fill(
        &mut self,
        process: u16,
        cpu: CpuId,
        region: &Region,
        start: u64,
        end: u64,
    ) -> Result<(), WorldError> {
        self.switch(cpu, process)?;
        let pid = self.process(process)?.pid;
        let intent = Intent { write: region.permissions.write, fetch: false };
        let va = region.start.offset(start << 12);
        on_kernel!(self, |kernel, hw, _files| kernel.populate(hw, cpu, pid, va, (end - start) << 12, intent))
            .map_err(|error| WorldError::Kernel { what: format!("filling `{}`", region.name), error })?;
        if self.guest.as_ref().is_some_and(|guest| guest.shadowed.is_some()) {
            // The accesses that filled the pages went through the shadow table.
            let thread = Thread { process, cpu };
            let (mut at, end) = (va.raw(), region.start.offset(end << 12).raw());
            while at < end {
                let size = self.shadow_fault(thread, Va::new(at), intent)?.unwrap_or_default();
                at = (at & !(size.bytes() - 1)) + size.bytes();
            }
        }
        Ok(())
    }

    /// Tells the source of a real layout's frames which address space is the process's now.
    pub(super) fn follow_layout(&mut self, process: u16) -> Result<(), WorldError> {
        if self.plan.placing.as_ref().is_none_or(|placing| placing.process != process) {
            return Ok(());
        }
        let pid = self.process(process)?.pid;
        let space = on_kernel!(self, |kernel, _hw, _files| kernel.process(pid).map(|p| p.space().id()))
            .map_err(|error| WorldError::Kernel { what: format!("process {process}"), error })?;
        self.placed.space.store(u32::from(space.0), Ordering::Relaxed);
        Ok(())
    }

    /// Fills what was in memory, for an input that did not say so itself.
    pub(super) fn fill_layout(&mut self) -> Result<(), WorldError> {
        let Some(placing) = self.plan.placing.clone().filter(|placing| placing.fill) else { return Ok(()) };
        let cpu = self.cpu_of(placing.process);
        for (region, present) in placing.layout.present() {
            let permissions = region.permissions;
            if !(permissions.read || permissions.write || permissions.execute) {
                continue;
            }
            let first = region.start.page();
            for pages in present {
                self.fill(placing.process, cpu, region, pages.start - first, pages.end - first)?;
            }
        }
        Ok(())
    }

    /// A trace that does not say what was mapped touched `va`: 2 MiB around it,
    /// as far as they are free, become memory.
    pub(super) fn map_implicit(&mut self, process: u16, va: Va) -> Result<(), WorldError> {
        let pid = self.process(process)?.pid;
        if va.raw() >> (11 + 9 * self.plan.system.kernel.levels) != 0 {
            return Err(WorldError::KernelHalf { va: va.raw() });
        }
        let block = PageSize::Size2M;
        let (mut start, mut end) = (va.align_down(block).raw(), va.align_down(block).raw() + block.bytes());
        let neighbours = on_kernel!(self, |kernel, _hw, _files| kernel
            .process(pid)
            .map(|p| p.space().vmas().neighbours(va.raw())))
        .map_err(|error| WorldError::Kernel { what: format!("process {process}"), error })?;
        start = neighbours.0.map_or(start, |below| start.max(below.end));
        end = neighbours.1.map_or(end, |above| end.min(above.start));
        let mut region = Region::anonymous("implicit", start, end - start, Populate::OnDemand);
        region.permissions = Permissions { read: true, write: true, execute: true };
        self.map(process, &region)
    }
}

impl Files {
    fn open<M: TableMemory>(&mut self, kernel: &mut Kernel<M>, name: &str) -> Result<FileId, MmError> {
        if let Some(id) = self.ids.get(name) {
            return Ok(*id);
        }
        let id = kernel.create_file(os::MAX_FILE_PAGES)?;
        let index = id.0 as usize;
        if self.names.len() <= index {
            self.names.resize(index + 1, String::new());
        }
        self.names[index] = name.to_string();
        self.ids.insert(name.to_string(), id);
        Ok(id)
    }
}

pub(super) fn prot(p: Permissions) -> Prot {
    Prot { read: p.read, write: p.write, exec: p.execute }
}
