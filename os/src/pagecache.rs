//! Files and their cached pages. Shared anonymous memory is a file without a
//! device, as in Linux.

use crate::error::{MmError, Stop};
use crate::fault::{FaultOutcome, leaf_flags};
use crate::hardware::Hardware;
use crate::kernel::{Core, Cx, Kernel};
use crate::space::AddressSpace;
use crate::stats::FaultKind;
use crate::vma::Vma;
use alloc::vec::Vec;
use paging::frames::{AllocRequest, CpuId, FrameState};
use paging::{
    Addr, Entry, Flags, Frame, FrameRequest, Intent, PageSize, PhysSpace, Slot, Space, SparseFrames,
    TableMemory, Visibility,
};

/// A file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub u32);

/// Pages of a file at most: 16 TiB.
pub const MAX_FILE_PAGES: u64 = 1 << 32;

/// Where a page of a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cached<S: PhysSpace> {
    /// On its device only (never stored to, for one without).
    No,
    /// In a frame.
    Frame {
        frame: Frame<S>,
        /// The device has something older.
        dirty: bool,
    },
    /// In swap (of a file without a device).
    Swapped(u64),
}

/// As [`Cached`], in 8 bytes: a number, and below it 1 = frame, 2 = dirty, 4 = swapped.
#[derive(Clone, Copy, Default, Debug)]
struct Packed(u64);

impl<S: PhysSpace> From<Packed> for Cached<S> {
    fn from(p: Packed) -> Self {
        match p.0 & 7 {
            0 => Cached::No,
            4 => Cached::Swapped(p.0 >> 3),
            bits => Cached::Frame { frame: Frame::new(p.0 >> 3), dirty: bits & 2 != 0 },
        }
    }
}
impl<S: PhysSpace> From<Cached<S>> for Packed {
    fn from(c: Cached<S>) -> Self {
        Packed(match c {
            Cached::No => 0,
            Cached::Frame { frame, dirty } => frame.number() << 3 | u64::from(dirty) << 1 | 1,
            Cached::Swapped(slot) => slot << 3 | 4,
        })
    }
}

#[derive(Debug)]
pub(crate) struct File {
    pages: u64,
    device: bool,
    cache: SparseFrames<Packed>,
    cached: u64,
    /// Mappings of it that keep a file without a name alive.
    pub mappings: u64,
    /// It has no name (any more): it goes with its last mapping.
    pub unlinked: bool,
    /// Where reclaim goes on.
    pub clock: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Files {
    files: Vec<Option<File>>,
    /// The file that reclaim looks at next.
    pub clock: u32,
    /// Pages written back.
    pub written: u64,
}

impl Files {
    fn add(&mut self, pages: u64, device: bool) -> Result<FileId, MmError> {
        if pages > MAX_FILE_PAGES {
            return Err(MmError::FileTooLarge { pages, max: MAX_FILE_PAGES });
        }
        let cache = SparseFrames::new(0);
        let file = File { pages, device, cache, cached: 0, mappings: 0, unlinked: !device, clock: 0 };
        self.files.push(Some(file));
        Ok(FileId(self.files.len() as u32 - 1))
    }
    pub(crate) fn count(&self) -> u32 {
        self.files.len() as u32
    }
    pub(crate) fn get(&self, file: FileId) -> Result<&File, MmError> {
        self.files.get(file.0 as usize).and_then(Option::as_ref).ok_or(MmError::NoFile(file))
    }
    pub(crate) fn get_mut(&mut self, file: FileId) -> Result<&mut File, MmError> {
        self.files.get_mut(file.0 as usize).and_then(Option::as_mut).ok_or(MmError::NoFile(file))
    }
    pub(crate) fn set_dirty(&mut self, file: FileId, page: u64) {
        if let Ok(file) = self.get_mut(file)
            && let Some(packed) = file.cache.get_mut(page)
        {
            packed.0 |= (packed.0 & 1) << 1;
        }
    }
}

impl File {
    pub(crate) fn has_device(&self) -> bool {
        self.device
    }
    pub(crate) fn page<S: PhysSpace>(&self, page: u64) -> Cached<S> {
        self.cache.get(page).copied().unwrap_or_default().into()
    }
    pub(crate) fn set_page<S: PhysSpace>(&mut self, page: u64, value: Cached<S>) {
        let packed = self.cache.get_or_default(page);
        let (was, is) = (packed.0 & 1, matches!(value, Cached::Frame { .. }));
        *packed = value.into();
        self.cached = self.cached - was + u64::from(is);
    }
    /// All pages that are in a frame, from page `from` on.
    pub(crate) fn frames<S: PhysSpace>(&self, from: u64) -> impl Iterator<Item = (u64, Frame<S>, bool)> {
        self.cache.blocks().filter(move |&(block, _)| block >= from >> 9).flat_map(move |(block, values)| {
            values.iter().enumerate().filter_map(move |(at, &packed)| match packed.into() {
                Cached::Frame { frame, dirty } => Some((block << 9 | at as u64, frame, dirty)),
                _ => None,
            })
        })
    }
    fn swap_slots(&self) -> impl Iterator<Item = u64> {
        self.cache.iter().filter(|(_, packed)| packed.0 & 7 == 4).map(|(_, packed)| packed.0 >> 3)
    }
}

impl<M: TableMemory> Core<M> {
    /// A fault of a file mapping whose entry is empty. `None`: look again.
    pub(crate) fn file_fault<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        vma: &Vma,
        addr: Addr<I>,
        intent: Intent,
    ) -> Result<Option<FaultOutcome>, Stop> {
        let Some((id, page)) = vma.file_page(addr.raw()) else { return Ok(None) };
        let file = self.files.get(id)?;
        if page >= file.pages {
            let pages = file.pages;
            return Err(MmError::Bus { addr: addr.raw(), file: id, page, pages }.into());
        }
        let (cached, major) = self.cached_page(space, cx, vma, addr, id, page)?;
        let size = PageSize::Size4K;
        if intent.write && !vma.shared {
            return self.copy_cached(space, cx, vma, addr, cached, major);
        }
        let entry = self.cached_entry(space, vma, addr.raw(), cached, intent.write);
        self.pool.get(cached);
        match self.install(space, cx, addr, size, entry, Visibility::Shared) {
            Ok(true) => {}
            other => {
                self.pool.put(cached, Some(cx.cpu));
                return other.map(|_| None);
            }
        }
        if intent.write {
            self.files.set_dirty(id, page);
        } else {
            self.fault_around(space, cx, vma, addr);
        }
        let kind = if major { FaultKind::FileMajor } else { FaultKind::FileMinor };
        Ok(Some(FaultOutcome::small(kind)))
    }

    /// The leaf for a cached page: a shared mapping's is write-protected until the first
    /// store (so that it is known to be dirty), a private one's is copied then.
    fn cached_entry<I: Space>(
        &self,
        space: &mut AddressSpace<I, M>,
        vma: &Vma,
        addr: u64,
        frame: Frame<M::Space>,
        write: bool,
    ) -> Entry {
        let flags = match (vma.shared, write) {
            (true, true) => space.page_flags(vma, addr, PageSize::Size4K, true),
            (true, false) => leaf_flags(vma.prot),
            (false, _) => leaf_flags(vma.prot) | Flags::COW,
        };
        Entry::leaf(frame, PageSize::Size4K, flags)
    }

    /// A store to an untouched page of a private mapping: copied at once.
    fn copy_cached<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        vma: &Vma,
        addr: Addr<I>,
        cached: Frame<M::Space>,
        major: bool,
    ) -> Result<Option<FaultOutcome>, Stop> {
        let size = PageSize::Size4K;
        let new = self.data_frame(space, cx, vma, addr, size, FrameState::Anon)?;
        self.copy(cx, cached, new, size);
        let entry = Entry::leaf(new, size, space.page_flags(vma, addr.raw(), size, true));
        match self.install(space, cx, addr, size, entry, Visibility::Private) {
            Ok(true) => {
                let kind = if major { FaultKind::FileMajor } else { FaultKind::FileCopy };
                Ok(Some(FaultOutcome::small(kind)))
            }
            other => {
                self.put(space.group, new, cx.cpu);
                other.map(|_| None)
            }
        }
    }

    /// The frame of a file's page, read now if it is not cached, and what is
    /// around it too. Whether a device was read.
    fn cached_page<I: Space>(
        &mut self,
        space: &AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        vma: &Vma,
        addr: Addr<I>,
        id: FileId,
        page: u64,
    ) -> Result<(Frame<M::Space>, bool), Stop> {
        let file = self.files.get(id)?;
        let (device, pages) = (file.device, file.pages);
        let found = file.page::<M::Space>(page);
        if let Cached::Frame { frame, .. } = found {
            return Ok((frame, false));
        }
        let frame = self.data_frame(space, cx, vma, addr, PageSize::Size4K, FrameState::File)?;
        let dirty = match found {
            Cached::Swapped(slot) => {
                cx.hw.swap_in(cx.cpu, slot, frame);
                self.swap.put(slot);
                true
            }
            _ if device => {
                cx.hw.file_read(cx.cpu, id, page, frame);
                false
            }
            _ => {
                self.zero(cx, frame, PageSize::Size4K);
                false
            }
        };
        self.files.get_mut(id)?.set_page(page, Cached::Frame { frame, dirty });
        if device && self.config.read_around > 1 {
            let first = page & !(self.config.read_around - 1);
            for near in first..(first + self.config.read_around).min(pages) {
                if self.files.get(id)?.page::<M::Space>(near) != Cached::No {
                    continue;
                }
                let frame = match self.kept_ahead(space, cx, vma, near) {
                    Some(frame) => frame,
                    None => {
                        let mut request = AllocRequest::new(self.node(cx.cpu), FrameState::File);
                        request.cpu = Some(cx.cpu);
                        // What is read ahead must not cause reclaim.
                        let Ok(frame) = self.pool.alloc(request.opportunistic()) else { break };
                        frame
                    }
                };
                cx.hw.file_read(cx.cpu, id, near, frame);
                self.files.get_mut(id)?.set_page(near, Cached::Frame { frame, dirty: false });
            }
        }
        Ok((frame, device || matches!(found, Cached::Swapped(_))))
    }

    /// The frame that the source of frames keeps for a page of the file in this area.
    fn kept_ahead<I: Space>(
        &mut self,
        space: &AddressSpace<I, M>,
        cx: &Cx<'_, M::Space>,
        vma: &Vma,
        file_page: u64,
    ) -> Option<Frame<M::Space>> {
        let (_, first) = vma.file_page(vma.start)?;
        let page = (vma.start >> 12) + file_page.checked_sub(first)?;
        let request = FrameRequest {
            space: u32::from(space.id.0),
            page,
            area_start: vma.start >> 12,
            area_end: vma.end >> 12,
            order: 0,
            node: self.node(cx.cpu),
            strict: false,
            cpu: cx.cpu,
            state: FrameState::File,
        };
        (page < request.area_end).then(|| self.source.kept(&mut self.pool, &request))?
    }

    /// Maps cached pages near a load's fault, as far as the leaf table and the
    /// area reach (Linux `do_fault_around`).
    fn fault_around<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        vma: &Vma,
        addr: Addr<I>,
    ) {
        let window = self.config.fault_around.min(512) << 12;
        if window <= 4096 {
            return;
        }
        let table = self.lookup(space, cx.cpu, addr).slot.table;
        let start = addr.raw() & !(window - 1);
        for near in (start.max(vma.start)..(start + window).min(vma.end)).step_by(4096) {
            let Some((id, page)) = vma.file_page(near) else { return };
            let Ok(file) = self.files.get(id) else { return };
            if page >= file.pages {
                return;
            }
            let Cached::Frame { frame, .. } = file.page::<M::Space>(page) else { continue };
            let slot = Slot::new(table, Addr::<I>::new(near).index(1));
            if !self.mem.load(slot).is_empty() {
                continue;
            }
            // Not used yet: Linux's prefaulted entries are old.
            let entry = self.cached_entry(space, vma, near, frame, false).without(Flags::ACCESSED);
            self.pool.get(frame);
            self.env(cx.cpu, |env| space.table.ops().write(env, slot, 1, entry));
            self.notify_mapped(space, cx, Addr::new(near), entry, PageSize::Size4K);
            space.stats.faults_around += 1;
        }
    }

    /// Drops a file's pages and the file.
    pub(crate) fn free_file(&mut self, id: FileId) {
        let Some(file) = self.files.files.get_mut(id.0 as usize).and_then(Option::take) else { return };
        for (_, frame, _) in file.frames::<M::Space>(0) {
            self.pool.put(frame, None);
        }
        for slot in file.swap_slots() {
            self.swap.put(slot);
        }
    }

    pub(crate) fn free_all_files(&mut self) {
        (0..self.files.count()).for_each(|file| self.free_file(FileId(file)));
    }

    /// An area of a file begins (`+1`) or ends.
    pub(crate) fn count_mapping(&mut self, vma: &Vma, begins: bool) {
        let Some((id, _)) = vma.file_page(vma.start) else { return };
        let Ok(file) = self.files.get_mut(id) else { return };
        if begins {
            file.mappings += vma.len() >> 12;
        } else {
            file.mappings -= vma.len() >> 12;
            if file.mappings == 0 && file.unlinked {
                self.free_file(id);
            }
        }
    }

    /// A file for shared anonymous memory.
    pub(crate) fn shared_memory(&mut self, pages: u64) -> Result<FileId, MmError> {
        self.files.add(pages, false)
    }
}

impl<M: TableMemory> Kernel<M> {
    /// A file of `pages` pages on a device.
    ///
    /// # Errors
    /// [`MmError::FileTooLarge`].
    pub fn create_file(&mut self, pages: u64) -> Result<FileId, MmError> {
        self.core.files.add(pages, true)
    }

    /// Pages of `file` that are cached.
    ///
    /// # Errors
    /// [`MmError::NoFile`].
    pub fn cached_pages(&self, file: FileId) -> Result<u64, MmError> {
        Ok(self.core.files.get(file)?.cached)
    }

    /// The frame that holds page `page` of `file`, if it is cached.
    ///
    /// # Errors
    /// [`MmError::NoFile`].
    pub fn cached_frame(&self, file: FileId, page: u64) -> Result<Option<Frame<M::Space>>, MmError> {
        Ok(match self.core.files.get(file)?.page(page) {
            Cached::Frame { frame, .. } => Some(frame),
            _ => None,
        })
    }

    /// Pages written back to their files so far.
    pub fn written_back(&self) -> u64 {
        self.core.files.written
    }

    /// Removes a file's name: it goes when nothing maps it any more.
    ///
    /// # Errors
    /// [`MmError::NoFile`].
    pub fn unlink(&mut self, file: FileId) -> Result<(), MmError> {
        let it = self.core.files.get_mut(file)?;
        it.unlinked = true;
        if it.mappings == 0 {
            self.core.free_file(file);
        }
        Ok(())
    }

    /// `read` of a file's page by a program: brings it into the page cache.
    ///
    /// # Errors
    /// [`MmError::NoFile`], [`MmError::Bus`], [`MmError::OutOfMemory`].
    pub fn read_file(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        file: FileId,
        page: u64,
    ) -> Result<Frame<M::Space>, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let pages = self.core.files.get(file)?.pages;
        if page >= pages {
            return Err(MmError::Bus { addr: page << 12, file, page, pages });
        }
        let mut attempts = 0;
        loop {
            if let Some(frame) = self.cached_frame(file, page)? {
                return Ok(frame);
            }
            let mut request = AllocRequest::new(self.core.node(cpu), FrameState::File);
            request.cpu = Some(cpu);
            match self.core.pool.alloc(request) {
                Ok(frame) => {
                    cx.hw.file_read(cpu, file, page, frame);
                    self.core.files.get_mut(file)?.set_page(page, Cached::Frame { frame, dirty: false });
                }
                Err(e) => self.relieve(&mut cx, e.into(), &mut attempts)?,
            }
        }
    }
}
