//! What must hold after every action.

use super::{Walk, World};
use mechanisms::babelfish::*;
use paging::frames::NodeId;
use paging::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

impl<S: Walk> World<S> {
    /// Everything that is cached says what the model says, and everything is
    /// counted once.
    pub fn check(&mut self) {
        self.check_cached();
        self.check_tables();
    }

    fn check_cached(&self) {
        let contexts: Vec<(usize, BabelContext)> =
            self.live().into_iter().map(|p| (p, self.context(p))).collect();
        // Which processes reach a frame by their own tables, at which page.
        let mut reached: HashMap<u64, BTreeSet<usize>> = HashMap::new();
        for &(p, _) in &contexts {
            for (_, entry) in self.leaves(p) {
                reached.entry(entry.frame::<S>().number()).or_default().insert(p);
            }
        }
        for (cpu, state) in self.machine.cpus.iter().enumerate() {
            for (level, entries) in [("first", &state.first), ("second", &state.second)] {
                // Others find no more than this when they arrive.
                for &(p, ref context) in contexts.iter().filter(|(p, _)| state.ran.contains(p)) {
                    let mut matched = BTreeSet::new();
                    let admitted =
                        entries.iter().filter(|e| e.key == BabelTag::key(context) && e.tag.admits(context));
                    for entry in admitted {
                        let what = || format!("cpu {cpu}, {level} level, process {p}: {entry:x?}");
                        assert!(matched.insert(entry.page), "two ways match: {}", what());
                        let Some(area) = self.proc(p).area(entry.page) else { continue };
                        let seen = self.data.get(&entry.frame).copied();
                        assert_eq!(seen, self.expected(p, entry.page), "stale: {}", what());
                        if entry.rights.write() {
                            assert!(area.write, "more than allowed: {}", what());
                            let others = reached.get(&entry.frame).is_some_and(|r| r.iter().any(|q| *q != p));
                            assert!(area.shared || !others, "a store would be seen by others: {}", what());
                        }
                    }
                }
            }
            for (&(p, level, number), cached) in &state.paths {
                if self.procs[p].is_some() {
                    let addr = number << (12 + 9 * u32::from(level));
                    let now = self.path(p, cpu, addr, level);
                    assert_eq!(
                        now,
                        Some((cached.frame, cached.link)),
                        "cpu {cpu}: old path of {p} to {addr:#x}"
                    );
                }
            }
        }
    }

    /// The table of `level` for `addr` that a CPU walks, and the software bits of the entry that points to it.
    fn path(&self, p: usize, cpu: usize, addr: u64, level: u8) -> Option<(u64, u8)> {
        let mut table = self.proc(p).table.hardware_root(NodeId(cpu as u8));
        let mut link = 0;
        for at in (level + 1..=4).rev() {
            let entry = self.mem.load(Slot::new(table, Va::new(addr).index(at)));
            if !entry.is_table(at) {
                return None;
            }
            table = entry.frame();
            link = walk::link_of(entry);
        }
        Some((table.number(), link))
    }

    /// Tables of the process as node 0 walks them: frame → place, and the entry that points to it.
    fn tables(&self, p: usize) -> BTreeMap<u64, (TableAt<Virt>, Entry)> {
        let root = self.proc(p).table.hardware_root(NodeId(0));
        let at = TableAt { base: Va::new(0), level: 4 };
        let mut found = BTreeMap::from([(root.number(), (at, Entry::EMPTY))]);
        let mut open = vec![(root, at)];
        while let Some((table, at)) = open.pop() {
            for (index, entry) in paging::ops::entries(&self.mem, table) {
                if entry.is_table(at.level) {
                    found.insert(entry.frame::<S>().number(), (at.child(index), entry));
                    open.push((entry.frame(), at.child(index)));
                }
            }
        }
        found
    }
    pub(super) fn leaves(&self, p: usize) -> Vec<(u64, Entry)> {
        let mut leaves = Vec::new();
        for (table, (at, _)) in self.tables(p) {
            for (index, entry) in paging::ops::entries(&self.mem, Frame::new(table)) {
                if !entry.is_table(at.level) {
                    leaves.push((at.base.page() + ((index as u64) << (9 * (at.level - 1))), entry));
                }
            }
        }
        leaves
    }

    fn check_tables(&mut self) {
        let mut linked: BTreeMap<u64, Vec<(usize, TableAt<Virt>, Entry)>> = BTreeMap::new();
        for p in self.live() {
            for (table, (at, entry)) in self.tables(p) {
                linked.entry(table).or_default().push((p, at, entry));
            }
        }
        let masks = self.group().masks();
        let sharing = self.group().sharing();
        let mut refs: HashMap<u64, u32> = self.files.values().map(|frame| (*frame, 1)).collect();
        let mut pages = BTreeSet::new();
        for (&table, users) in &linked {
            let frame = Frame::<S>::new(table);
            let (p, at, _) = users[0];
            self.proc(p).table.ops_ref().copies(&self.mem, frame, &mut |copy| {
                pages.insert(copy.number());
            });
            assert_eq!(
                self.mem.descriptor(frame).unwrap().users as usize,
                users.len() - 1,
                "sharers of {at:?}"
            );
            assert!(users.len() == 1 || sharing.tables && (1..=3).contains(&at.level));
            for &(p, other, entry) in users {
                assert_eq!((at.base, at.level), (other.base, other.level));
                self.check_link(p, at, entry, &masks);
            }
            for (index, entry) in paging::ops::entries(&self.mem, frame) {
                if !entry.is_table(at.level) {
                    let page = at.base.page() + ((index as u64) << (9 * (at.level - 1)));
                    // O says whose the table is, where entries are shared.
                    let alone = sharing.mask && users.len() == 1 && users[0].2.has(Flags::SOFT_10);
                    assert!(
                        !alone || self.proc(p).area(page).is_some(),
                        "{p} has a leaf at {page:#x} but no area"
                    );
                    *refs.entry(entry.frame::<S>().number()).or_default() += 1;
                }
            }
        }
        assert_eq!(refs, self.pool.refs, "references to frames");
        assert_eq!(pages.len() + masks.len(), self.pool.tables.len(), "table pages");
    }

    fn check_link(&self, p: usize, at: TableAt<Virt>, entry: Entry, masks: &Masks) {
        if entry.is_empty() {
            return;
        }
        let (owned, orpc) = (entry.has(Flags::SOFT_10), entry.has(Flags::SOFT_9));
        if owned {
            return assert!(!orpc);
        }
        let block = Block::of(at).expect("only tables that hold leaves are shared");
        let mask = masks.page::<S>(block.set()).map_or(0, |page| {
            let cell = self.mem.load(Slot::new(page, block.index() / 2)).bits();
            (cell >> (32 * (block.index() & 1))) as u32
        });
        assert_eq!(orpc, mask != 0, "ORPC of {at:?}");
        let index = self.context(p).pc_index;
        assert!(index.is_none_or(|i| mask >> i & 1 == 0), "a sharer with a bit at {at:?}");
    }
}
