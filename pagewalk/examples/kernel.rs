//! Mitosis's page tables in a kernel of one's own: no lab, no modelled machine, no `os`.
//!
//! What such a kernel brings is its memory ([`TableMemory`]), its frames ([`TableFrames`]), and its processors: here
//! one a node, each with a root register and a walker that sets accessed and dirty bits, in forty lines.
//!
//! `cargo run --release --example kernel`

use pagewalk::mechanisms::mitosis::Replicated;
use pagewalk::paging::frames::NodeSet;
use pagewalk::paging::sync::{AtomicU64, Ordering};
use pagewalk::paging::{
    Descriptor, ENTRIES, Entry, Flags, Flush, Hfn, HostPhys, NoFrame, NodeId, PageSize, PageTable, Slot,
    TableEnv, TableFrames, TableMemory, Va, Visibility, Work,
};

const NODES: usize = 4;
/// Frames of each node's memory.
const PER_NODE: u64 = 64;

fn node_of(frame: Hfn) -> NodeId {
    NodeId((frame.number() / PER_NODE) as u8)
}

/// Physical memory, as words; and what the kernel keeps beside each frame.
struct Ram {
    frames: Vec<[AtomicU64; ENTRIES]>,
    beside: Vec<Descriptor>,
}

impl Ram {
    fn new() -> Ram {
        let count = NODES * PER_NODE as usize;
        let frame = |_| std::array::from_fn(|_| AtomicU64::new(0));
        Ram { frames: (0..count).map(frame).collect(), beside: vec![Descriptor::default(); count] }
    }
}

impl TableMemory for Ram {
    type Space = HostPhys;

    fn cell(&self, slot: Slot<HostPhys>) -> Option<&AtomicU64> {
        self.cells(slot.table).map(|cells| &cells[slot.index])
    }
    fn cells(&self, frame: Hfn) -> Option<&[AtomicU64; ENTRIES]> {
        self.frames.get(frame.number() as usize)
    }
    fn create(&mut self, frame: Hfn) {
        self.discard(frame);
    }
    fn discard(&mut self, frame: Hfn) {
        let at = frame.number() as usize;
        self.frames[at].iter().for_each(|entry| entry.store(0, Ordering::Relaxed));
        self.beside[at] = Descriptor::default();
    }
    fn descriptor(&self, frame: Hfn) -> Option<&Descriptor> {
        self.beside.get(frame.number() as usize)
    }
    fn descriptor_mut(&mut self, frame: Hfn) -> Option<&mut Descriptor> {
        self.beside.get_mut(frame.number() as usize)
    }
}

/// Free frames of each node. Frame 0 is nobody's.
struct Free([Vec<Hfn>; NODES]);

impl Free {
    fn new() -> Free {
        let of = |node: usize| (node as u64 * PER_NODE..(node as u64 + 1) * PER_NODE).rev();
        Free(std::array::from_fn(|node| of(node).filter(|frame| *frame != 0).map(Hfn::new).collect()))
    }
    fn count(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }
}

impl TableFrames<HostPhys> for Free {
    fn alloc_table(&mut self, node: NodeId, strict: bool) -> Result<Hfn, NoFrame> {
        let others = if strict { 0..0 } else { 0..NODES };
        let found = std::iter::once(node.index()).chain(others).find_map(|node| self.0[node].pop());
        found.ok_or(NoFrame { free: self.count() as u64, ..NoFrame::for_table(node, strict) })
    }
    fn free_table(&mut self, frame: Hfn) {
        self.0[node_of(frame).index()].push(frame);
    }
    fn node_of(&self, frame: Hfn) -> NodeId {
        node_of(frame)
    }
}

/// A processor of a node: its root register, and one TLB entry.
struct Processor {
    node: NodeId,
    root: Hfn,
    tlb: Option<(u64, Entry)>,
}

impl Processor {
    /// A load or store, as hardware makes it: the leaf, and how many of the table pages that were read are on other nodes.
    fn access(&mut self, ram: &Ram, va: Va, write: bool) -> Result<(Entry, usize), &'static str> {
        let allowed = |entry: Entry| !write || entry.has(Flags::WRITABLE | Flags::DIRTY);
        if let Some((_, entry)) = self.tlb.filter(|(page, entry)| *page == va.page() && allowed(*entry)) {
            return Ok((entry, 0));
        }
        let (mut table, mut remote) = (self.root, 0);
        for level in (1..=4).rev() {
            let slot = Slot::new(table, va.index(level));
            let entry = ram.load(slot);
            if !entry.is_present() {
                return Err("not present");
            }
            remote += usize::from(node_of(table) != self.node);
            let bits = if level == 1 && write { Flags::ACCESSED | Flags::DIRTY } else { Flags::ACCESSED };
            if level == 1 && write && !entry.has(Flags::WRITABLE) {
                return Err("read-only");
            }
            ram.mark(slot, entry, bits);
            if level == 1 {
                let entry = ram.load(slot);
                self.tlb = Some((va.page(), entry));
                return Ok((entry, remote));
            }
            table = entry.frame();
        }
        unreachable!("level 1 returns")
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut ram, mut free, mut work) = (Ram::new(), Free::new(), Work::default());
    // Two frames of data; what is free now must be free again at the end.
    let data = [free.alloc_table(NodeId(0), true)?, free.alloc_table(NodeId(0), true)?];
    let before = free.count();
    /// What the kernel hands to table operations: it runs on node 0.
    macro_rules! env {
        () => {
            &mut TableEnv { mem: &mut ram, frames: &mut free, node: NodeId(0), work: &mut work }
        };
    }

    // An address space with one copy of its tables, on node 0, and two pages.
    let replicated = Replicated::new(NodeSet::default());
    let mut table = PageTable::new(Box::new(replicated), env!(), 4, NodeId(0))?;
    let pages = [Va::new(0x1000_0000), Va::new(0x1000_1000)];
    for (page, frame) in pages.into_iter().zip(data) {
        let flags = Flags::USER | Flags::WRITABLE;
        table.map(env!(), page, frame, PageSize::Size4K, flags, NodeId(0), Visibility::Private)?;
    }
    let mut processors: Vec<Processor> = (0..NODES as u8)
        .map(|node| Processor { node: NodeId(node), root: table.hardware_root(NodeId(node)), tlb: None })
        .collect();
    println!("one copy of the tables, on node 0; a walk's references to other nodes:");
    for cpu in &mut processors {
        let (_, remote) = cpu.access(&ram, pages[0], false)?;
        println!("  processor of node {}: {remote} of 4", cpu.node.0);
        assert_eq!(remote, if cpu.node.0 == 0 { 0 } else { 4 });
    }

    // Copies on all nodes, while the processors could go on; then each loads its own root.
    let mut flush = Flush::none();
    table.replicate(env!(), NodeSet::first(NODES), &mut flush)?;
    processors.iter_mut().for_each(|cpu| (cpu.root, cpu.tlb) = (table.hardware_root(cpu.node), None));
    let released = flush.discharge(|_, _| { /* the loads of the roots have flushed all */ });
    table.free_tables(env!(), &released);
    println!("a copy on every node:");
    for cpu in &mut processors {
        let (_, remote) = cpu.access(&ram, pages[0], false)?;
        println!("  processor of node {}: {remote} of 4", cpu.node.0);
        assert_eq!(remote, 0, "each tree stays on its node");
    }

    // A store by node 2 sets D in the copy that its walker read; software sees it wherever it is.
    processors[2].access(&ram, pages[1], true)?;
    let seen = table.lookup(env!(), pages[1]).entry;
    assert!(seen.has(Flags::DIRTY) && seen.has(Flags::ACCESSED));
    println!("node 2 stored to a page: software on node 0 reads it as dirty");

    // Read-only: one call changes all copies, and owes a shootdown.
    table.set_flags(env!(), pages[1], Flags::NONE, Flags::WRITABLE, Visibility::Private)?;
    processors.iter_mut().for_each(|cpu| cpu.tlb = None);
    for cpu in &mut processors {
        assert_eq!(cpu.access(&ram, pages[1], true), Err("read-only"));
        assert!(cpu.access(&ram, pages[1], false).is_ok());
    }
    println!("write-protected: every processor's store faults");

    // Gone: frames come out of the obligation to flush, and only after it.
    let mut frames = Vec::new();
    let shootdown = || processors.iter_mut().for_each(|cpu| cpu.tlb = None);
    table.destroy(env!(), shootdown, &mut |gone| frames.extend(gone.frame()))?;
    assert_eq!(frames, data);
    assert_eq!(free.count(), before, "every table page came back");
    println!("destroyed: {} frames of data and all table pages are back", frames.len());
    Ok(())
}
