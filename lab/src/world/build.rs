//! Building a world: one function for each axis of a [`System`], then the
//! machine, the host, the VM on it, and the input's processes.

use super::tables::{NodePages, single, tables};
use super::*;
use crate::groups::{self, Members};
use crate::numa::Replication;
use crate::system::Frames;
use mechanisms::Named;
use mechanisms::ptemagnet::{PteMagnet, Settings};
use paging::FrameSource;
use paging::frames::PcpConfig;

pub(super) fn thp(side: &Side) -> ThpMode {
    match side.pages {
        Pages::Thp => ThpMode::Always,
        Pages::Small => ThpMode::Never,
        // Huge pages are asked for by area; nothing else is to become huge.
        Pages::Huge2M | Pages::Huge1G => ThpMode::Never,
    }
}

pub(super) fn reserved(side: &Side) -> PageSize {
    match side.pages {
        Pages::Huge2M => PageSize::Size2M,
        Pages::Huge1G => PageSize::Size1G,
        Pages::Small | Pages::Thp => PageSize::Size4K,
    }
}

pub(super) fn policy(side: &Side, nodes: usize) -> Policy {
    match side.placement {
        Placement::FirstTouch => Policy::FirstTouch,
        Placement::Interleave => Policy::Interleave((0..nodes as u8).map(NodeId).collect::<NodeSet>()),
        Placement::Fixed(node) => Policy::Preferred(NodeId(node)),
    }
}

fn pool<S: PhysSpace>(layout: &Layout, side: &Side, seed: u64) -> Result<FramePool<S>, LayoutError> {
    let fragmentation = (side.fragmentation > 0.0).then(|| Fragmentation::new(side.fragmentation, seed));
    let pcp = PcpConfig { batch: side.pcp_batch, high: 6 * side.pcp_batch };
    FramePool::new(layout, PoolConfig { pcp, fragmentation, ..PoolConfig::default() })
}

/// The axis of frames: which frame answers a fault.
fn frames<S: PhysSpace>(side: &Side) -> Box<dyn FrameSource<S>> {
    match side.frames {
        Frames::Buddy => side.mechanism.map_or_else(|| Box::new(FromBuddy) as _, Named::frames),
        // A size that cannot be was refused with the system.
        Frames::PteMagnet { pages } => {
            let settings = Settings::of(pages).unwrap_or_default();
            Box::new(PteMagnet::new(settings.min_limit(side.ptemagnet_from_mib * 256)))
        }
    }
}

/// The same, with a real layout's frames for the process that has one.
fn placed<S: PhysSpace>(
    plan: &Plan,
    shared: &Arc<layout::Shared>,
    pool: &mut FramePool<S>,
    inner: Box<dyn FrameSource<S>>,
) -> Result<Box<dyn FrameSource<S>>, WorldError> {
    let Some(placing) = &plan.placing else { return Ok(inner) };
    let source = LayoutFrames::new(Arc::clone(&placing.layout), Arc::clone(shared), pool, inner);
    Ok(Box::new(source.map_err(WorldError::NoPlace)?))
}

fn config(system: &System, side: &Side, cpus: Vec<NodeId>, placing: Option<&Placing>) -> KernelConfig {
    // A real layout says for each part of a region whether its pages are huge.
    let thp = if placing.is_some() { thp(side).max(ThpMode::Madvise) } else { thp(side) };
    let other = if *side == system.kernel { &system.host } else { &system.kernel };
    let (filter, filter_pages) = segments::filter(system, other);
    // Traces of other machines, and of physical memory, begin at 0.
    let (levels, mmap_min_addr) = (side.levels, 0);
    let swap_slots = side.swap_mib * 256;
    KernelConfig { levels, thp, swap_slots, filter, filter_pages, mmap_min_addr, ..KernelConfig::new(cpus) }
}

/// Others take bandwidth.
fn interfere(machine: &mut Tagged, others: Option<Interference>) {
    let memory = &mut machine.uncore_mut().memory;
    for node in (0..memory.nodes() as u8).map(NodeId) {
        let taken = others.filter(|others| others.node() == node);
        memory.set_interference(node, taken.map_or(0, |o| o.mb_s.map_or(u64::MAX, u64::from)));
    }
}

/// Sets pages aside for tables.
fn set_aside<M: TableMemory>(kernel: &mut Kernel<M>, side: &Side) {
    if side.table_cache > 0 {
        let nodes = kernel.pool().nodes();
        kernel.set_table_cache(Some(Box::new(NodePages::new(nodes, side.table_cache))));
    }
}

/// The memory of a VM: its layout as the guest sees it, and the host's slots
/// for it. It gets what the host can spare, seven eighths of each node.
fn guest_memory(layout: &Layout, system: &System) -> (Layout, Vec<Slot>) {
    let bytes: Vec<u64> = layout
        .nodes
        .iter()
        .map(|n| n.frames.iter().map(|r| r.end - r.start).sum::<u64>() / 8 * 7 * 4096)
        .map(|b| b & !((1 << 30) - 1))
        .collect();
    // One segment is to hold it: no more than a range of the host's memory without holes.
    let mut one: u64 = bytes.iter().sum();
    if system.translation.has_vm_segment() {
        one = one.min((segments::longest_range(layout, &system.host) / 8 * 7 * 4096) & !((1 << 30) - 1));
    }
    let memory = if system.vnuma { Layout::pc(&bytes) } else { Layout::pc(&[one]) };
    let page = reserved(&system.host);
    // A guest's node is the host's, unless the host was told to place it otherwise.
    let bound = system.vnuma && system.host.placement == Placement::FirstTouch;
    let mut slots = Vec::new();
    let mut nodes = Vec::new();
    for (number, node) in memory.nodes.iter().enumerate() {
        let policy = bound.then_some(Policy::Preferred(NodeId(number as u8)));
        let whole: Vec<_> =
            node.frames.iter().map(|r| whole_pages(r, page)).filter(|r| r.end > r.start).collect();
        slots.extend(whole.iter().map(|r| Slot {
            page,
            policy,
            ..Slot::new(Frame::new(r.start), r.end - r.start)
        }));
        nodes.push(paging::frames::NodeSpec { frames: whole });
    }
    let distances = if system.vnuma { layout.distances.clone() } else { memory.distances };
    (Layout { nodes, distances }, slots)
}

impl World {
    /// Builds the machine and its kernels, creates the input's processes, and
    /// fills what the input says was filled before.
    ///
    /// # Errors
    /// If memory does not suffice or the plan makes no sense.
    pub fn new(plan: Plan, setup: &Setup) -> Result<World, WorldError> {
        World::on(&plan.profile.layout(), plan, setup)
    }

    /// The same with memory as another firmware than the profile's lays it out.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn on(layout: &Layout, plan: Plan, setup: &Setup) -> Result<World, WorldError> {
        let costs = Costs::of(&plan.profile);
        let nodes = layout.nodes.len();
        let members = plan.system.babelfish.map(Members::new);
        let mut machine = Tagged::new(&plan.profile, &plan.cores, members.clone());
        interfere(&mut machine, plan.system.interference);
        let cpus = plan.cores.clone();
        let mut oracle = plan.verify.then(|| Oracle::new(layout.end(), &setup.processes));
        let mut spent = Spent::default();
        let mut segments = vec![CoreSegments::default(); cpus.len()];
        let shared = Arc::new(layout::Shared::default());
        let native = !plan.system.is_virtual();
        let host_side = if native { plan.system.kernel } else { plan.system.host };
        let failed = |what: &str| {
            let what = what.to_string();
            move |error: MmError| WorldError::Kernel { what, error }
        };
        let mut host = {
            let mut hardware = HostHardware(Shared {
                machine: &mut machine,
                oracle: oracle.as_mut(),
                costs: &costs,
                spent: &mut spent,
                files: &[],
                vms: &[],
                segments: &mut segments,
                agile: false,
                lose_shootdowns: false,
            });
            let mut pool = pool(layout, &host_side, plan.seed)?;
            let mut source = frames(&host_side);
            if native {
                source = placed(&plan, &shared, &mut pool, source)?;
            }
            Kernel::new(
                config(&plan.system, &host_side, cpus.clone(), plan.placing.as_ref().filter(|_| native)),
                pool,
                Arena::new(layout.end()),
                source,
                tables(&host_side, NodeSet::first(nodes), members.clone().filter(|_| native)),
                &mut hardware,
            )
            .map_err(failed("the host's kernel"))?
        };
        set_aside(&mut host, &host_side);
        let mut vms = Vec::new();
        let mut guest = None;
        if !native {
            let (memory, mut slots) = guest_memory(layout, &plan.system);
            if plan.system.translation.has_vm_segment() {
                slots = segments::cut_at_gap(slots);
            }
            let spec =
                VmSpec { policy: policy(&host_side, nodes), thp: Some(thp(&host_side)), ..VmSpec::default() };
            let mut hardware = HostHardware(Shared {
                machine: &mut machine,
                oracle: oracle.as_mut(),
                costs: &costs,
                spent: &mut spent,
                files: &[],
                vms: &[],
                segments: &mut segments,
                agile: false,
                lose_shootdowns: false,
            });
            let vm =
                host.create_vm(&mut hardware, CpuId(0), spec, &slots).map_err(failed("creating the VM"))?;
            let space = host.vm(vm).map_err(failed("the VM"))?.space().id();
            vms.push(space);
            for cpu in 0..cpus.len() {
                host.enter_vm(&mut hardware, CpuId(cpu as u16), vm).map_err(failed("entering the VM"))?;
            }
            let mut passed = None;
            if plan.system.translation == Way::PassThrough {
                let new = passthrough::Passed::new(&mut host, layout, memory.end())?;
                new.enable(&mut host, &mut hardware, vm).map_err(failed("passing translation through"))?;
                passed = Some(new);
            }
            let side = plan.system.kernel;
            let copies = side.replication;
            let table_nodes = oblivious::groups(&machine, copies, &cpus, plan.seed);
            let shadow = plan.system.translation.is_shadowed();
            let mut shadowed = shadow.then(HashMap::new);
            let tables: Box<dyn Tables<GuestMem>> = if shadow {
                let trapping = match plan.system.translation {
                    Way::Agile => Trapping::Agile,
                    _ if plan.system.trap_each => Trapping::Each,
                    _ => Trapping::Unsync,
                };
                let log = TrapLog::new(memory.end(), trapping);
                host.enable_shadow(vm, log.clone()).map_err(failed("shadow paging"))?;
                Box::new(TrappedTables::new(single(&side), log))
            } else {
                let near: NodeSet = table_nodes.iter().copied().collect();
                let near = if near.is_empty() { NodeSet::first(nodes) } else { near };
                let own = tables(&side, near, members);
                match &passed {
                    Some(passed) => passed.tables(&plan.system, own),
                    None => own,
                }
            };
            let mut guest_pool = pool(&memory, &side, plan.seed.wrapping_add(1))?;
            let source = placed(&plan, &shared, &mut guest_pool, frames(&side))?;
            let mut hardware = GuestHardware {
                shared: Shared {
                    machine: &mut machine,
                    oracle: oracle.as_mut(),
                    costs: &costs,
                    spent: &mut spent,
                    files: &[],
                    vms: &vms,
                    segments: &mut segments,
                    agile: false,
                    lose_shootdowns: false,
                },
                host: &mut host,
                vm,
                index: 1,
                shadowed: shadowed.as_mut(),
            };
            let guest_cpus = if plan.system.vnuma { cpus.clone() } else { vec![NodeId(0); cpus.len()] };
            let config = KernelConfig {
                table_nodes: table_nodes.clone(),
                ..config(&plan.system, &side, guest_cpus, plan.placing.as_ref())
            };
            // As much memory again may be plugged in after the VM's.
            let way = passed.as_ref().and_then(|passed| passed.enlightenment(&plan.system, vm));
            let mem = GuestTables::new(Arena::new(2 * memory.end()), way);
            let mut kernel = Kernel::new(config, guest_pool, mem, source, tables, &mut hardware)
                .map_err(failed("the guest's kernel"))?;
            if copies.is_oblivious() {
                let (told, pages) = (copies == Replication::Told, oblivious::pages_for(setup));
                oblivious::set_aside(&mut kernel, &mut hardware, &table_nodes, told, pages)
                    .map_err(failed("setting pages aside for the guest's tables"))?;
            } else {
                set_aside(&mut kernel, &side);
            }
            guest = Some(Guest { kernel, vm, files: Files::default(), shadowed, passed });
        }
        let running = vec![None; cpus.len()];
        let mut world = World {
            plan,
            frames: layout.end(),
            nodes,
            costs,
            machine,
            host,
            guest,
            host_files: Files::default(),
            vms,
            segments,
            segment_log: Default::default(),
            processes: Vec::new(),
            threads: Vec::new(),
            living: vec![0; running.len()],
            running,
            oracle,
            tables_before: TableBytes::default(),
            placed: shared,
            spent,
            watch: Default::default(),
            dumps: Default::default(),
            since_tick: 0,
            last_tick: 0,
            requests: Default::default(),
            own: Default::default(),
        };
        for process in &setup.processes {
            world.create_process(process)?;
        }
        for thread in &setup.threads {
            world.add_thread(thread.process)?;
        }
        world.start_segments()?;
        for (index, process) in setup.processes.iter().enumerate() {
            for region in &process.regions {
                world.populate(index as u16, region)?;
            }
        }
        world.fill_layout()?;
        // Whoever filled memory, everybody starts when it is done.
        let ready = world.cycles().into_iter().max().unwrap_or(0);
        for cpu in 0..world.living.len() {
            world.idle_until(CpuId(cpu as u16), ready);
        }
        world.last_tick = ready;
        Ok(world)
    }

    /// Others take this of the memory's bandwidth from now on.
    pub fn set_interference(&mut self, others: Option<Interference>) {
        interfere(&mut self.machine, others);
    }

    pub(super) fn create_process(&mut self, setup: &ProcessSetup) -> Result<(), WorldError> {
        let oblivious = self.guest.is_some() && !self.plan.system.vnuma;
        let kernel_nodes = if oblivious { 1 } else { self.nodes };
        let group = setup.group.map(groups::group).unwrap_or_default();
        let limit = self.plan.system.kernel.group_limit_mib * 256;
        if limit > 0 {
            on_kernel!(self, |kernel, _hw, _files| kernel.set_limit(group, Some(limit)));
        }
        let spec = ProcessSpec {
            group,
            identity: groups::identity(&setup.name),
            policy: policy(&self.plan.system.kernel, kernel_nodes),
            ..ProcessSpec::default()
        };
        let pid = on_kernel!(self, |kernel, hw, _files| kernel.create_process(hw, CpuId(0), spec)).map_err(
            |error| WorldError::Kernel { what: format!("creating process {}", setup.name), error },
        )?;
        let page = PageSize::Size1G;
        self.processes.push(Process { pid, implicit: setup.implicit_regions, page });
        let index = (self.processes.len() - 1) as u16;
        self.follow_layout(index)?;
        self.lay_out(index, &setup.regions)?;
        setup.regions.iter().try_for_each(|region| self.map(index, region))
    }

    pub(super) fn add_thread(&mut self, process: u16) -> Result<(), WorldError> {
        if usize::from(process) >= self.processes.len() {
            let count = self.processes.len();
            return Err(WorldError::Unknown { kind: "process", index: process, count });
        }
        // A core each in turn; but none is shared with a thread that lives while another has nobody left.
        let cores = self.running.len();
        let next = self.threads.len() % cores;
        let idle = (next..next + cores).map(|core| core % cores).find(|&core| self.living[core] == 0);
        let core = idle.unwrap_or(next);
        self.living[core] += 1;
        self.threads.push(Thread { process, cpu: CpuId(core as u16) });
        Ok(())
    }
}

fn whole_pages(range: &std::ops::Range<u64>, page: PageSize) -> std::ops::Range<u64> {
    let frames = page.frames();
    range.start.next_multiple_of(frames)..range.end / frames * frames
}
