//! The ring of copies of one table page.
//!
//! The copies are linked through their descriptors, as Mitosis links them
//! through `struct page`: whoever holds the frame of one copy reaches all, with
//! one load for each and no hashing. A table that has one copy is a ring of one.

use paging::frames::{MAX_NODES, NodeSet};
use paging::{ENTRIES, Entry, Flags, Frame, NodeId, Slot, TableEnv, TableMemory};

/// The bits that hardware sets, each walker in the copy that it walked.
pub(super) const HARDWARE: Flags = Flags::ACCESSED.with(Flags::DIRTY);

/// Who walks a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// CPUs of every node: it is the only copy.
    Everyone,
    /// CPUs of this node.
    Node(NodeId),
    /// Software, and CPUs of nodes that have no copies: the complete copy among lazy ones.
    Master,
    /// Nobody anew, but a walker that cached its frame may still be in it. It
    /// stays in the ring, written and read as the others, until the flush is
    /// paid for with which [`paging::TableOps::free`] gets it.
    Retired,
}

impl Role {
    const fn code(self) -> u8 {
        match self {
            Role::Everyone => 0,
            Role::Node(node) => 1 + node.0,
            Role::Master => 0x40,
            Role::Retired => 0x41,
        }
    }
    const fn of(code: u8) -> Role {
        match code {
            0 => Role::Everyone,
            0x40 => Role::Master,
            0x41 => Role::Retired,
            node => Role::Node(NodeId(node - 1)),
        }
    }
}

/// Who walks the copy in `frame`.
pub fn role<M: TableMemory>(mem: &M, frame: Frame<M::Space>) -> Role {
    mem.descriptor(frame).map_or(Role::Everyone, |d| Role::of(d.role))
}

pub(super) fn set_role<M: TableMemory>(mem: &mut M, frame: Frame<M::Space>, role: Role) {
    if let Some(descriptor) = mem.descriptor_mut(frame) {
        descriptor.role = role.code();
    }
}

/// The copy after `frame` in its ring; itself if there is no other.
#[inline(always)]
pub(super) fn next<M: TableMemory>(mem: &M, frame: Frame<M::Space>) -> Frame<M::Space> {
    match mem.descriptor(frame) {
        Some(d) if d.next != 0 => Frame::new(d.next),
        _ => frame,
    }
}

fn set_next<M: TableMemory>(mem: &mut M, frame: Frame<M::Space>, next: Frame<M::Space>) {
    if let Some(descriptor) = mem.descriptor_mut(frame) {
        descriptor.next = if next == frame { 0 } else { next.number() };
    }
}

/// Whether a CPU may be in the copy in `frame` when CPUs of `walkers` alone walk the tables.
#[inline(always)]
pub(super) fn is_walked<M: TableMemory>(mem: &M, frame: Frame<M::Space>, walkers: NodeSet) -> bool {
    walkers == NodeSet::ALL || !matches!(role(mem, frame), Role::Node(node) if !walkers.contains(node))
}

/// Passes all copies of the table that `any` is a copy of, `any` first.
pub fn copies<M: TableMemory>(
    mem: &M,
    any: Frame<M::Space>,
) -> impl Iterator<Item = (Frame<M::Space>, Role)> + '_ {
    let mut at = Some(any);
    core::iter::from_fn(move || {
        let frame = at?;
        let after = next(mem, frame);
        at = (after != any).then_some(after);
        Some((frame, role(mem, frame)))
    })
}

/// As [`copies`], for what changes them.
#[inline(always)]
pub(super) fn each<M: TableMemory>(
    env: &mut TableEnv<'_, M>,
    any: Frame<M::Space>,
    mut visit: impl FnMut(&mut TableEnv<'_, M>, Frame<M::Space>),
) {
    let mut frame = any;
    loop {
        let after = next(env.mem, frame);
        visit(env, frame);
        if after == any {
            return;
        }
        frame = after;
    }
}

/// Puts `new` into the ring behind `of`.
pub(super) fn join<M: TableMemory>(mem: &mut M, of: Frame<M::Space>, new: Frame<M::Space>, role: Role) {
    let after = next(mem, of);
    set_next(mem, of, new);
    set_next(mem, new, after);
    set_role(mem, new, role);
}

fn leave<M: TableMemory>(mem: &mut M, frame: Frame<M::Space>) {
    let after = next(mem, frame);
    let mut before = after;
    while next(mem, before) != frame {
        before = next(mem, before);
    }
    set_next(mem, before, after);
    set_next(mem, frame, frame);
}

/// The copy for `node`'s CPUs.
pub fn serving<M: TableMemory>(mem: &M, any: Frame<M::Space>, node: NodeId) -> Option<Frame<M::Space>> {
    copies(mem, any).find(|&(_, role)| role == Role::Node(node)).map(|(frame, _)| frame)
}

/// What an entry in a copy with `role` points to where software wrote `child`:
/// the child's copy for the same node.
pub(super) fn link<M: TableMemory>(mem: &M, child: Frame<M::Space>, role: Role) -> Frame<M::Space> {
    match role {
        Role::Node(node) => serving(mem, child, node).unwrap_or(child),
        _ => child,
    }
}

/// The nodes that have a copy of their own.
pub fn nodes<M: TableMemory>(mem: &M, any: Frame<M::Space>) -> NodeSet {
    copies(mem, any)
        .filter_map(|(_, role)| match role {
            Role::Node(node) => Some(node),
            _ => None,
        })
        .collect()
}

/// Whether another address space links one of the copies: they are then not
/// this one's to drop or to move.
pub(super) fn is_shared<M: TableMemory>(mem: &M, any: Frame<M::Space>) -> bool {
    copies(mem, any).any(|(frame, _)| mem.descriptor(frame).is_some_and(|d| d.users > 0))
}

/// Makes the inner entry at `slot` point to `child`. The walker may set A at the same time.
pub(super) fn relink<M: TableMemory>(
    env: &mut TableEnv<'_, M>,
    slot: Slot<M::Space>,
    child: Frame<M::Space>,
) {
    let seen = env.load(slot);
    if seen.frame::<M::Space>() != child {
        let new = seen.with_frame(child);
        let late = Flags(env.swap(slot, new).flags().0 & !new.flags().0);
        if late != Flags::NONE {
            env.modify(slot, late, Flags::NONE);
        }
    }
}

/// Frees the copy in `frame` if it was retired, or else the table: all copies
/// that are not waiting for a flush of their own.
pub(super) fn free<M: TableMemory>(env: &mut TableEnv<'_, M>, frame: Frame<M::Space>) {
    if role(env.mem, frame) == Role::Retired {
        hand_over(env, frame);
    } else {
        let mut at = next(env.mem, frame);
        while at != frame {
            let after = next(env.mem, at);
            if role(env.mem, at) != Role::Retired {
                leave(env.mem, at);
                env.free_table(at);
            }
            at = after;
        }
    }
    leave(env.mem, frame);
    env.free_table(frame);
}

/// Frees the copies of `of` for `nodes`, which no entry points to and no CPU loaded.
pub(super) fn free_serving<M: TableMemory>(env: &mut TableEnv<'_, M>, of: Frame<M::Space>, nodes: NodeSet) {
    for node in nodes.iter() {
        if let Some(copy) = serving(env.mem, of, node) {
            leave(env.mem, copy);
            env.free_table(copy);
        }
    }
}

/// What walkers set in a retired copy up to the flush goes to a copy that stays.
fn hand_over<M: TableMemory>(env: &mut TableEnv<'_, M>, retired: Frame<M::Space>) {
    if !copies(env.mem, retired).any(|(_, role)| role != Role::Retired) {
        return;
    }
    for index in 0..ENTRIES {
        let bits = Flags(env.mem.load(Slot::new(retired, index)).flags().0 & HARDWARE.0);
        if bits == Flags::NONE {
            continue;
        }
        // A lazy copy may not hold the entry; the master does.
        let heir = copies(env.mem, retired)
            .filter(|&(_, role)| role != Role::Retired)
            .map(|(frame, _)| Slot::new(frame, index))
            .find(|&slot| !env.mem.load(slot).is_empty());
        if let Some(slot) = heir {
            env.modify(slot, bits, Flags::NONE);
        }
    }
    env.passed(retired, &(0..ENTRIES), 0);
}

/// The entry at `slot`, with the hardware's bits of all copies. Only those are
/// combined: the frame of an inner entry differs from copy to copy.
pub(super) fn read<M: TableMemory>(env: &mut TableEnv<'_, M>, slot: Slot<M::Space>) -> Entry {
    let mut entry = env.load(slot);
    if entry.is_empty() {
        return entry;
    }
    let mut at = next(env.mem, slot.table);
    while at != slot.table {
        let bits = env.load(Slot::new(at, slot.index)).flags().0 & HARDWARE.0;
        entry = entry.with(Flags(bits));
        at = next(env.mem, at);
    }
    entry
}

/// The frames of `nodes`' copies as an array, `otherwise` for nodes without one.
pub(super) fn by_node<M: TableMemory>(
    mem: &M,
    any: Frame<M::Space>,
    otherwise: Frame<M::Space>,
) -> [Frame<M::Space>; MAX_NODES] {
    let mut frames = [otherwise; MAX_NODES];
    for (frame, role) in copies(mem, any) {
        if let Role::Node(node) = role {
            frames[node.index()] = frame;
        }
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_survive_their_code() {
        let nodes = (0..8).map(|n| Role::Node(NodeId(n)));
        for role in nodes.chain([Role::Everyone, Role::Master, Role::Retired]) {
            assert_eq!(Role::of(role.code()), role);
        }
    }
}
