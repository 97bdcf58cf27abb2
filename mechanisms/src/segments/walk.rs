//! Segments in the way of translation: beside the second-level TLB and inside the walker.
//!
//! One type serves all modes of a VM: a segment whose base equals its limit
//! compares nothing, so that the mode is what the registers hold at the moment.

use super::registers::{Answer, Registers};
use paging::{
    Check, Direct, Fault, Gpa, GuestPhys, HostLeaf, HostPhys, HostStage, Hpa, Intent, Leaf, Nested, PageSize,
    Port, Rights, Translation, Va, Virt, Walked,
};

fn segment_leaf(frame: paging::Hfn, size: PageSize) -> Leaf {
    // A segment has no dirty bits, and its memory is data.
    Leaf { frame, size, rights: Rights::DATA, dirty: true, link: 0, tag: 0 }
}

/// A native walk with a direct segment (Basu et al., ISCA 2013) beside the
/// second-level TLB.
#[derive(Clone, Copy, Debug)]
pub struct DirectSegment<'a, X> {
    /// The running process's segment.
    pub segment: &'a Registers<Virt, HostPhys>,
    /// The walk for all other addresses.
    pub walk: X,
}

/// What the real CPU waits for: nothing if registers answer.
#[derive(Clone, Copy, Debug)]
pub enum Place<L> {
    /// The segment answers.
    Direct,
    /// In a table.
    Table(L),
}

impl<X: Translation> Translation for DirectSegment<'_, X> {
    type Located = Place<X::Located>;
    const STAGES: u8 = X::STAGES;
    const DIRECT: bool = true;

    #[inline(always)]
    fn direct(&self, va: Va) -> Direct {
        if !self.segment.is_on() {
            return Direct::Off;
        }
        match self.segment.translate(va) {
            Some(at) => Direct::Hit(segment_leaf(at.frame(), PageSize::Size4K)),
            None => Direct::Miss,
        }
    }

    #[inline(always)]
    fn walk<P: Port>(&self, port: &mut P, va: Va, intent: Intent) -> Result<Leaf, Fault> {
        if Rights::DATA.allow(intent)
            && let Some(at) = self.segment.translate(va)
        {
            // An entry from before the segment began sent the access to the walker.
            port.check(Check::Direct);
            return Ok(segment_leaf(at.frame(), PageSize::Size4K));
        }
        if self.segment.bounds(va) {
            port.check(Check::EscapeFilter);
        }
        self.walk.walk(port, va, intent)
    }

    #[inline(always)]
    fn peek(&self, va: Va) -> Option<Hpa> {
        self.segment.translate(va).or_else(|| self.walk.peek(va))
    }

    #[inline(always)]
    fn locate(&self, va: Va, near: &mut impl FnMut(Hpa)) -> Option<Self::Located> {
        match self.segment.translate(va) {
            Some(_) => Some(Place::Direct),
            None => self.walk.locate(va, near).map(Place::Table),
        }
    }

    #[inline(always)]
    fn relocate(&self, va: Va, located: Self::Located, near: &mut impl FnMut(Hpa)) -> Option<Self::Located> {
        match located {
            Place::Direct => Some(Place::Direct),
            Place::Table(located) => self.walk.relocate(va, located, near).map(Place::Table),
        }
    }

    #[inline(always)]
    fn arrive(&self, va: Va, located: Self::Located) -> Option<Hpa> {
        match located {
            Place::Direct => self.segment.translate(va),
            Place::Table(located) => self.walk.arrive(va, located),
        }
    }
}

/// The host dimension with the VMM's segment in front: one check answers for
/// what is in the segment, a nested walk for what is not.
#[derive(Clone, Copy, Debug)]
pub struct VmmStage<'a, D> {
    /// The running VM's segment.
    pub segment: &'a Registers<GuestPhys, HostPhys>,
    /// The VM's table.
    pub host: D,
}

impl<D: HostStage> HostStage for VmmStage<'_, D> {
    type Located = Place<D::Located>;
    const STAGES: u8 = D::STAGES;

    #[inline(always)]
    fn translate<P: Port>(&self, port: &mut P, gpa: Gpa, row: u8, intent: Intent) -> Result<HostLeaf, Fault> {
        if self.segment.is_on() {
            port.check(Check::VmmSegment);
            match self.segment.answer(gpa) {
                Answer::Inside(frame, size) => {
                    return Ok(HostLeaf { frame, size, rights: Rights::ALL, dirty: true });
                }
                Answer::Escaped => port.check(Check::EscapeFilter),
                Answer::Outside => {}
            }
        }
        self.host.translate(port, gpa, row, intent)
    }

    #[inline(always)]
    fn peek(&self, gpa: Gpa) -> Option<Hpa> {
        self.segment.translate(gpa).or_else(|| self.host.peek(gpa))
    }

    #[inline(always)]
    fn locate(&self, gpa: Gpa, near: &mut impl FnMut(Hpa)) -> Option<Self::Located> {
        match self.segment.translate(gpa) {
            Some(_) => Some(Place::Direct),
            None => self.host.locate(gpa, near).map(Place::Table),
        }
    }

    #[inline(always)]
    fn relocate(
        &self,
        gpa: Gpa,
        located: Self::Located,
        near: &mut impl FnMut(Hpa),
    ) -> Option<Self::Located> {
        match located {
            Place::Direct => Some(Place::Direct),
            Place::Table(located) => self.host.relocate(gpa, located, near).map(Place::Table),
        }
    }

    #[inline(always)]
    fn arrive(&self, gpa: Gpa, located: Self::Located) -> Option<Hpa> {
        match located {
            Place::Direct => self.segment.translate(gpa),
            Place::Table(located) => self.host.arrive(gpa, located),
        }
    }
}

/// A VM's walk with both segments. By what is switched on: base virtualised,
/// VMM Direct, Guest Direct, Dual Direct.
#[derive(Clone, Copy, Debug)]
pub struct Segmented<'a, G, D> {
    /// The running guest process's segment.
    pub segment: &'a Registers<Virt, GuestPhys>,
    /// The walk for all other addresses, and the VMM's segment inside it.
    pub walk: Nested<'a, G, VmmStage<'a, D>>,
}

/// What the real CPU waits for in a VM.
#[derive(Clone, Copy, Debug)]
pub enum VmPlace<N, L> {
    /// In the guest's dimension, or both.
    Walk(N),
    /// In the host's dimension alone: the guest's segment said where to.
    Host(L, Gpa),
}

impl<G, D> Segmented<'_, G, D> {
    /// The guest's segment for an access with `intent`.
    #[inline(always)]
    fn guest(&self, intent: Intent) -> Option<&Registers<Virt, GuestPhys>> {
        (self.segment.is_on() && Rights::DATA.allow(intent)).then_some(self.segment)
    }
}

impl<'a, G, D> Translation for Segmented<'a, G, D>
where
    G: Walked<Space = GuestPhys>,
    D: HostStage,
{
    type Located = VmPlace<<Nested<'a, G, VmmStage<'a, D>> as Translation>::Located, Place<D::Located>>;
    const STAGES: u8 = Nested::<'a, G, VmmStage<'a, D>>::STAGES;
    const DIRECT: bool = true;

    #[inline(always)]
    fn direct(&self, va: Va) -> Direct {
        let vmm = self.walk.host.segment;
        if !self.segment.is_on() || !vmm.is_on() {
            return Direct::Off;
        }
        match self.segment.translate(va).and_then(|gpa| vmm.translate(gpa)) {
            Some(at) => Direct::Hit(segment_leaf(at.frame(), PageSize::Size4K)),
            None => Direct::Miss,
        }
    }

    #[inline(always)]
    fn walk<P: Port>(&self, port: &mut P, va: Va, intent: Intent) -> Result<Leaf, Fault> {
        if let Some(segment) = self.guest(intent) {
            port.check(Check::GuestSegment);
            match segment.answer(va) {
                Answer::Inside(frame, guest) => {
                    let gpa = frame.base().offset(va.page_offset(PageSize::Size4K));
                    let host = self.walk.host.translate(port, gpa, 0, intent)?;
                    let rights = Rights::DATA.and(host.rights);
                    let size = guest.min(host.size);
                    return Ok(Leaf { frame: host.frame, size, rights, dirty: host.dirty, link: 0, tag: 0 });
                }
                Answer::Escaped => port.check(Check::EscapeFilter),
                Answer::Outside => {}
            }
        }
        self.walk.walk(port, va, intent)
    }

    #[inline(always)]
    fn peek(&self, va: Va) -> Option<Hpa> {
        match self.segment.translate(va) {
            Some(gpa) => self.walk.host.peek(gpa),
            None => self.walk.peek(va),
        }
    }

    #[inline(always)]
    fn locate(&self, va: Va, near: &mut impl FnMut(Hpa)) -> Option<Self::Located> {
        match self.segment.translate(va) {
            Some(gpa) => Some(VmPlace::Host(self.walk.host.locate(gpa, near)?, gpa)),
            None => self.walk.locate(va, near).map(VmPlace::Walk),
        }
    }

    #[inline(always)]
    fn relocate(&self, va: Va, located: Self::Located, near: &mut impl FnMut(Hpa)) -> Option<Self::Located> {
        match located {
            VmPlace::Walk(walk) => self.walk.relocate(va, walk, near).map(VmPlace::Walk),
            VmPlace::Host(host, gpa) => Some(VmPlace::Host(self.walk.host.relocate(gpa, host, near)?, gpa)),
        }
    }

    #[inline(always)]
    fn arrive(&self, va: Va, located: Self::Located) -> Option<Hpa> {
        match located {
            VmPlace::Walk(walk) => self.walk.arrive(va, walk),
            VmPlace::Host(host, gpa) => self.walk.host.arrive(gpa, host),
        }
    }
}
