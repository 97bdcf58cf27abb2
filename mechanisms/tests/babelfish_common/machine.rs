//! CPUs with TLBs and walk caches as lists, from which only invalidations (and
//! evictions that a test asks for) take something away.

use mechanisms::babelfish::*;
use paging::flush::Reach;
use paging::frames::NodeId;
use paging::*;
use std::collections::HashMap;

/// A cached translation.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub key: u16,
    /// The 4 KiB page.
    pub page: u64,
    pub size: PageSize,
    pub tag: BabelTag,
    pub frame: u64,
    pub rights: Rights,
    pub dirty: bool,
}

impl Entry {
    fn allows(&self, intent: Intent) -> bool {
        self.rights.allow(intent) && (!intent.write || self.dirty)
    }
}

#[derive(Debug, Default)]
pub struct Cpu {
    pub first: Vec<Entry>,
    pub second: Vec<Entry>,
    /// By process, level and address.
    pub paths: HashMap<(usize, u8, u64), CachedTable>,
    /// Processes that it ever ran.
    pub ran: std::collections::HashSet<usize>,
    pub shared_hits: u64,
    pub extra_cycles: u64,
    pub mask_fetches: u64,
}

/// A walk's steps, with the CPU's walk caches.
struct Steps<'a> {
    cpu: &'a mut Cpu,
    process: usize,
}

impl Port for Steps<'_> {
    fn reference(&mut self, _cell: Cell, _at: Hpa) {}
    fn side_reference(&mut self, _cell: Cell, _at: Hpa) {
        self.cpu.mask_fetches += 1;
    }
    fn check(&mut self, _check: Check) {}
    fn cached_table(&mut self, dim: Dim, addr: u64, levels: u8, _row: u8) -> Option<CachedTable> {
        if dim == Dim::Host {
            return None;
        }
        let paths = &self.cpu.paths;
        (1..levels).find_map(|level| paths.get(&(self.process, level, addr >> (12 + 9 * level))).copied())
    }
    fn cache_table(&mut self, dim: Dim, addr: u64, table: CachedTable) {
        if dim == Dim::Guest {
            self.cpu.paths.insert((self.process, table.level, addr >> (12 + 9 * table.level)), table);
        }
    }
    fn cached_host(&mut self, _gpa: Gpa, _write: bool, _row: u8, _levels: u8) -> Option<HostLeaf> {
        None
    }
    fn cache_host(&mut self, _gpa: Gpa, _leaf: HostLeaf) {}
}

/// The host of a VM: it has all guest frames, elsewhere.
#[derive(Debug)]
pub struct Virtual {
    mem: Arena<HostPhys>,
    table: PageTable<GuestPhys, Arena<HostPhys>>,
    frames: u64,
}

const HOST_OFFSET: u64 = 1 << 24;

#[derive(Debug, Default)]
struct HostTables(u64);

impl TableFrames<HostPhys> for HostTables {
    fn alloc_table(&mut self, _node: NodeId, _strict: bool) -> Result<Hfn, paging::NoFrame> {
        self.0 += 1;
        Ok(Hfn::new(self.0))
    }
    fn free_table(&mut self, _frame: Hfn) {}
    fn node_of(&self, _frame: Hfn) -> NodeId {
        NodeId(0)
    }
}

impl Virtual {
    fn new(frames: u64) -> Self {
        let mut mem = Arena::new(1 << 16);
        let (mut tables, mut work) = (HostTables::default(), Work::default());
        let mut env = TableEnv { mem: &mut mem, frames: &mut tables, node: NodeId(0), work: &mut work };
        let mut table = PageTable::new(Box::new(OneCopy::default()), &mut env, 4, NodeId(0)).unwrap();
        for first in (0..frames).step_by(512) {
            let (at, frame) = (Gpa::new(first << 12), Hfn::new(first + HOST_OFFSET));
            let flags = Flags::WRITABLE | Flags::USER;
            table.map(&mut env, at, frame, PageSize::Size2M, flags, NodeId(0), Visibility::Private).unwrap();
        }
        Virtual { mem, table, frames }
    }
}

/// How a machine with tables in a physical space walks them.
pub trait Walk: PhysSpace + Sized {
    /// What it needs besides.
    type Host;
    fn host(frames: u64) -> Self::Host;
    /// Walks; the leaf and the frame of this space.
    fn walk<P: Port>(
        host: &Self::Host,
        mem: &Arena<Self>,
        root: Frame<Self>,
        masks: &Masks,
        port: &mut P,
        va: Va,
        intent: Intent,
    ) -> Result<(Leaf, u64), Fault>;
}

impl Walk for HostPhys {
    type Host = u64;
    fn host(frames: u64) -> u64 {
        frames
    }
    fn walk<P: Port>(
        host: &u64,
        mem: &Arena<HostPhys>,
        root: Hfn,
        masks: &Masks,
        port: &mut P,
        va: Va,
        intent: Intent,
    ) -> Result<(Leaf, u64), Fault> {
        let walk = Babel { walk: Native { mem, root, levels: 4, frames: *host }, masks };
        let leaf = walk.walk(port, va, intent)?;
        Ok((leaf, leaf.frame.number()))
    }
}

impl Walk for GuestPhys {
    type Host = Virtual;
    fn host(frames: u64) -> Virtual {
        Virtual::new(frames)
    }
    fn walk<P: Port>(
        vm: &Virtual,
        guest: &Arena<GuestPhys>,
        root: Gfn,
        masks: &Masks,
        port: &mut P,
        va: Va,
        intent: Intent,
    ) -> Result<(Leaf, u64), Fault> {
        let host =
            HostDim { mem: &vm.mem, root: vm.table.root(), levels: 4, frames: vm.frames + HOST_OFFSET };
        let walk = Babel { walk: Nested { guest, root, levels: 4, frames: vm.frames, host }, masks };
        let leaf = walk.walk(port, va, intent)?;
        Ok((leaf, leaf.frame.number() - HOST_OFFSET))
    }
}

pub struct Machine<S: Walk> {
    pub cpus: Vec<Cpu>,
    host: S::Host,
}

impl<S: Walk> Machine<S> {
    pub fn new(frames: u64) -> Self {
        Machine { cpus: (0..super::NODES).map(|_| Cpu::default()).collect(), host: S::host(frames) }
    }

    /// The frame for an access.
    #[expect(clippy::too_many_arguments, reason = "an access, the core's registers, and the memory")]
    pub fn translate(
        &mut self,
        mem: &Arena<S>,
        cpu: usize,
        process: usize,
        context: &BabelContext,
        root: Frame<S>,
        masks: &Masks,
        va: Va,
        intent: Intent,
        skip_first: bool,
    ) -> Result<u64, Fault> {
        let cpu = &mut self.cpus[cpu];
        let page = va.page();
        if !skip_first && let Some(hit) = only(&cpu.first, page, context) {
            if hit.allows(intent) {
                return Ok(hit.frame);
            }
        } else if let Some(hit) = only(&cpu.second, page, context)
            && hit.allows(intent)
        {
            cpu.shared_hits += u64::from(hit.tag.shared_hit(context));
            cpu.extra_cycles += u64::from(hit.tag.extra_cycles());
            put(&mut cpu.first, context, Entry { tag: hit.tag.first_level(context), ..hit });
            return Ok(hit.frame);
        }
        let (leaf, frame) = S::walk(&self.host, mem, root, masks, &mut Steps { cpu, process }, va, intent)?;
        let tag = BabelTag::of(context, va, &leaf);
        let entry = Entry {
            key: BabelTag::key(context),
            page,
            size: leaf.size,
            tag,
            frame,
            rights: leaf.rights,
            dirty: leaf.dirty,
        };
        put(&mut cpu.second, context, entry);
        put(&mut cpu.first, context, Entry { tag: tag.first_level(context), ..entry });
        Ok(frame)
    }

    /// A CPU runs `process` from now on, whose group has entries that must not serve it if it is `parted`.
    pub fn arrive(&mut self, cpu: usize, process: usize, context: &BabelContext, parted: bool) {
        let cpu = &mut self.cpus[cpu];
        if cpu.ran.insert(process) && parted {
            for level in [&mut cpu.first, &mut cpu.second] {
                level.retain(|e| {
                    e.key != BabelTag::key(context) || !e.tag.invalidated(context, Reach::Shared)
                });
            }
        }
    }

    /// An invalidation by `process` on the CPUs that ran it, or all.
    pub fn shootdown(
        &mut self,
        process: usize,
        context: &BabelContext,
        reach: Reach,
        extent: &Extent<Virt>,
        paths: bool,
    ) {
        let hit = |start: u64, len: u64| match extent {
            Extent::Nothing => false,
            Extent::All => true,
            Extent::Ranges(ranges) => {
                ranges.iter().any(|r| r.start.raw() < start + len && start < r.start.raw() + r.len)
            }
        };
        let key = BabelTag::key(context);
        for cpu in self.cpus.iter_mut().filter(|cpu| reach == Reach::Group || cpu.ran.contains(&process)) {
            for level in [&mut cpu.first, &mut cpu.second] {
                level.retain(|e| {
                    let (start, len) = (e.page << 12 & !(e.size.bytes() - 1), e.size.bytes());
                    !(e.key == key && hit(start, len) && e.tag.invalidated(context, reach))
                });
            }
            if paths {
                cpu.paths.retain(|&(owner, level, number), _| {
                    let shift = 12 + 9 * u32::from(level);
                    let concerned = owner == process || reach == Reach::Group;
                    !(concerned && hit(number << shift, 1 << shift))
                });
            }
        }
    }

    /// A process ended, and its PCID is free.
    pub fn forget(&mut self, process: usize, context: &BabelContext) {
        for cpu in &mut self.cpus {
            for level in [&mut cpu.first, &mut cpu.second] {
                level.retain(|e| !e.tag.invalidated(context, Reach::Space));
            }
            cpu.paths.retain(|(owner, ..), _| *owner != process);
        }
    }

    /// Takes out of a CPU's second level (and first) about half of the entries, and about half of its paths.
    pub fn evict(&mut self, cpu: usize, seed: u64) {
        let half = |x: u64| (x ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 == 0;
        let cpu = &mut self.cpus[cpu];
        cpu.first.retain(|e| half(e.page));
        cpu.second.retain(|e| half(e.page + 1));
        cpu.paths.retain(|(_, level, number), _| half(number + u64::from(*level)));
    }
}

/// The one entry that serves the access.
fn only(entries: &[Entry], page: u64, context: &BabelContext) -> Option<Entry> {
    let mut matching =
        entries.iter().filter(|e| e.page == page && e.key == BabelTag::key(context) && e.tag.admits(context));
    let first = matching.next().copied();
    assert!(matching.next().is_none(), "two ways match at page {page:#x}");
    first
}

/// Puts an entry in the place of the one that would have served its access.
fn put(entries: &mut Vec<Entry>, context: &BabelContext, entry: Entry) {
    entries.retain(|e| !(e.page == entry.page && e.key == entry.key && e.tag.admits(context)));
    entries.push(entry);
}
