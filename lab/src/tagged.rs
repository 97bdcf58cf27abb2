//! The machine, by what its TLB entries are tagged with: the one place where that
//! is decided. What runs accesses is compiled for each tag; everything else
//! asks here.

use crate::groups::Members;
use crate::hardware::tlb_space;
use machine::core::Core;
use machine::explain::{Recorded, Recorder};
use machine::machine::Saved;
use machine::metrics::Counters;
use machine::profile::Profile;
use machine::timing::{Ticks, Timing};
use machine::uncore::Uncore;
use machine::{Machine, Scope, Whose};
use mechanisms::babelfish::{Aslr, BabelTag};
use os::SpaceId;
use paging::frames::CpuId;
use paging::{AsidVmid, NodeId, Reach, TlbTag, Va};

/// A machine with TLBs of one of the tags that there are.
#[derive(Debug)]
pub enum Tagged {
    /// ASID and VMID.
    Plain(Machine<AsidVmid>),
    /// BabelFish's CCID, O, ORPC and mask; and who is in which group.
    Babel(Machine<BabelTag>, Members),
}

/// What walks of one core can change, set aside.
#[derive(Debug)]
pub enum Aside {
    /// Of a machine with plain tags.
    Plain(CpuId, Saved<AsidVmid>),
    /// Of one with BabelFish's.
    Babel(CpuId, Saved<BabelTag>),
}

/// What is the same of a core, whatever its TLBs are tagged with.
#[derive(Clone, Copy, Debug)]
pub struct CoreView<'a> {
    /// Its number.
    pub id: CpuId,
    /// Its node.
    pub node: NodeId,
    /// Its clock.
    pub timing: &'a Timing,
    /// What it counted.
    pub counters: &'a Counters,
}

fn view<T: TlbTag>(core: &Core<T>) -> CoreView<'_> {
    CoreView { id: core.id, node: core.node(), timing: &core.timing, counters: &core.counters }
}

/// `$call` on the machine, whichever it is.
macro_rules! on {
    ($tagged:expr, $machine:ident => $call:expr) => {
        match $tagged {
            Tagged::Plain($machine) => $call,
            Tagged::Babel($machine, _) => $call,
        }
    };
}

impl Tagged {
    /// A machine at rest. With `members`, its TLBs share entries in groups.
    pub fn new(profile: &Profile, cores: &[NodeId], members: Option<Members>) -> Tagged {
        match members {
            None => Tagged::Plain(Machine::new(profile, cores)),
            Some(members) => Tagged::Babel(Machine::new(profile, cores), members),
        }
    }

    /// How many cores there are.
    pub fn len(&self) -> usize {
        on!(self, machine => machine.cores.len())
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The cores, to be looked at.
    pub fn cores(&self) -> impl Iterator<Item = CoreView<'_>> {
        (0..self.len()).map(|at| self.core(CpuId(at as u16)))
    }
    /// A core, to be looked at.
    pub fn core(&self, cpu: CpuId) -> CoreView<'_> {
        on!(self, machine => view(&machine.cores[cpu.index()]))
    }
    /// Cores' counters added up.
    pub fn counters(&self) -> Counters {
        on!(self, machine => machine.counters())
    }
    /// What cores share.
    pub fn uncore(&self) -> &Uncore {
        on!(self, machine => &machine.uncore)
    }
    /// What cores share, for change.
    pub fn uncore_mut(&mut self) -> &mut Uncore {
        on!(self, machine => &mut machine.uncore)
    }
    /// Software runs on a core for `ticks`.
    pub fn spend(&mut self, cpu: CpuId, ticks: Ticks) {
        on!(self, machine => machine.spend(cpu, ticks));
    }
    /// How long a cache line takes from one core to another.
    pub fn line_transfer(&self, from: CpuId, to: CpuId) -> Ticks {
        on!(self, machine => machine.line_transfer(from, to))
    }
    /// Records the next `limit` walks of each core.
    pub fn record_walks(&mut self, limit: usize) {
        let recorder = || (limit > 0).then(|| Box::new(Recorder { walks: Vec::new(), limit }));
        on!(self, machine => machine.cores.iter_mut().for_each(|core| core.recorder = recorder()));
    }
    /// What was recorded, by core; recording ends.
    pub fn recorded_walks(&mut self) -> Vec<Vec<Recorded>> {
        fn walks<T: TlbTag>(core: &mut Core<T>) -> Vec<Recorded> {
            core.recorder.take().map_or(Vec::new(), |recorder| recorder.walks)
        }
        on!(self, machine => machine.cores.iter_mut().map(walks).collect())
    }
    /// Which level of TLBs would answer a load of `va` by what a core runs now.
    pub fn in_tlb(&mut self, cpu: CpuId, va: Va) -> Option<u8> {
        on!(self, machine => machine.cores[cpu.index()].in_tlb(va))
    }
    /// Sets aside what walks of a core can change.
    pub fn save(&self, cpu: CpuId) -> Aside {
        match self {
            Tagged::Plain(machine) => Aside::Plain(cpu, machine.save(cpu)),
            Tagged::Babel(machine, _) => Aside::Babel(cpu, machine.save(cpu)),
        }
    }
    /// Makes it as it was.
    pub fn restore(&mut self, aside: &Aside) {
        match (self, aside) {
            (Tagged::Plain(machine), Aside::Plain(cpu, saved)) => machine.restore(*cpu, saved),
            (Tagged::Babel(machine, _), Aside::Babel(cpu, saved)) => machine.restore(*cpu, saved),
            _ => debug_assert!(false, "the state of another machine"),
        }
    }
    /// Forgets what was counted, not what is cached.
    pub fn reset_counters(&mut self) {
        on!(self, machine => machine.cores.iter_mut().for_each(|core| core.reset_counters()));
    }
    /// The next walk of a core is made in full.
    pub fn forget_walk_caches(&mut self, cpu: CpuId) {
        on!(self, machine => machine.cores[cpu.index()].forget_walk_caches());
    }

    /// Who is in which group, if there are groups.
    pub fn members(&self) -> Option<&Members> {
        match self {
            Tagged::Plain(_) => None,
            Tagged::Babel(_, members) => Some(members),
        }
    }

    /// The layout of `space`, if it lies elsewhere than its group.
    pub fn moved(&self, space: SpaceId) -> Option<Aslr> {
        self.members()?.layout(space).filter(Aslr::is_moved)
    }

    /// A core runs `space` of kernel `vm` from now on.
    pub fn load(&mut self, cpu: CpuId, vm: u16, space: SpaceId) {
        let number = tlb_space(vm, space);
        match self {
            Tagged::Plain(machine) => machine.cores[cpu.index()].load_context(number, number, vm),
            Tagged::Babel(machine, members) => {
                machine.cores[cpu.index()].load_context(members.context(vm, space), number, vm);
            }
        }
    }

    /// A core forgets all that it has of a space alone.
    pub fn forget(&mut self, cpu: CpuId, vm: u16, space: SpaceId) {
        let number = tlb_space(vm, space);
        let (reach, spaces) = (Reach::Space, &[number][..]);
        match self {
            Tagged::Plain(machine) => {
                let whose = Whose { context: &number, contexts: spaces, reach, spaces };
                machine.cores[cpu.index()].forget(&whose);
            }
            Tagged::Babel(machine, members) => {
                let context = members.context(vm, space);
                let whose = Whose { context: &context, contexts: &[context], reach, spaces };
                machine.cores[cpu.index()].forget(&whose);
            }
        }
    }

    /// Pages of a process are no longer to be translated as before, on the cores `cpus`.
    pub fn invalidate(
        &mut self,
        cpus: impl Iterator<Item = CpuId>,
        (vm, space, reach): (u16, SpaceId, Reach),
        scope: Scope<'_>,
        tables: bool,
    ) {
        let number = tlb_space(vm, space);
        match self {
            Tagged::Plain(machine) => {
                let whose = Whose { context: &number, contexts: &[number], reach, spaces: &[number] };
                cpus.for_each(|cpu| machine.invalidate(cpu, &whose, scope, tables));
            }
            Tagged::Babel(machine, members) => {
                let (spaces, contexts) = members.concerned(vm, space, reach);
                let context = &members.context(vm, space);
                let whose = Whose { context, contexts: &contexts, reach, spaces: &spaces };
                cpus.for_each(|cpu| machine.invalidate(cpu, &whose, scope, tables));
            }
        }
    }

    /// A VM's table changed, on one core.
    pub fn invalidate_vm(&mut self, cpu: CpuId, vm: u16, scope: Scope<'_>) {
        // Both tags keep the VM in the upper bits of what they compare.
        on!(self, machine => machine.invalidate_vm(cpu, vm, scope, |key| key >> 12 == vm));
    }
}
