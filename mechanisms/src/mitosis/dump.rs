//! Where table pages and their entries are: the dump of the Mitosis talk
//! (Achermann, Gandhi, Roscoe, Bhattacharjee, 2018), as data and as text.

use alloc::vec::Vec;
use core::fmt;
use paging::frames::MAX_NODES;
use paging::{ENTRIES, Entry, Flags, Frame, NodeId, PageSize, PageTable, Slot, Space, TableMemory};

/// Table pages of one level on one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableRow {
    /// Pages, copies included.
    pub pages: u64,
    /// Their present entries, by the node that they point to.
    pub to: [u64; MAX_NODES],
    /// Pages that were not there at the last dump.
    pub added: u64,
    /// Pages of the last dump that are not there any more.
    pub removed: u64,
}

/// Data pages of one kind on one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DataRow {
    /// Pages, each mapping once however many copies of its entry there are.
    pub pages: u64,
    /// Pages more than at the last dump, or fewer: which ones is not kept.
    pub change: i64,
}

/// A kind of data page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataKind {
    /// Its size.
    pub size: PageSize,
    /// It can be executed.
    pub code: bool,
    /// It is hidden for a hinting fault of NUMA balancing.
    pub hinting: bool,
}

impl DataKind {
    /// All kinds in the order of the talk's rows, with 1 GiB pages before.
    pub fn all() -> impl Iterator<Item = DataKind> {
        (0..12).map(|at| DataKind {
            size: [PageSize::Size1G, PageSize::Size2M, PageSize::Size4K][at / 2 % 3],
            code: at % 2 == 0,
            hinting: at >= 6,
        })
    }
    fn index(self) -> usize {
        usize::from(self.hinting) * 6 + usize::from(3 - self.size.level()) * 2 + usize::from(!self.code)
    }
}

impl fmt::Display for DataKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = match self.size {
            PageSize::Size4K => "4k",
            PageSize::Size2M => "2M",
            PageSize::Size1G => "1G",
        };
        let (numa, what) = (if self.hinting { "NUMA" } else { "" }, if self.code { "Code" } else { "Data" });
        write!(f, "{numa}{what}{size}")
    }
}

/// The leaf entries that a node's walker finds, by where the entry and where
/// the data are, seen from that node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Entry and data on the node.
    pub local_local: u64,
    /// Entry on the node, data on another.
    pub local_remote: u64,
    /// Entry on another node, data on the node.
    pub remote_local: u64,
    /// Both on other nodes.
    pub remote_remote: u64,
}

impl Seen {
    /// All entries.
    pub fn entries(&self) -> u64 {
        self.local_local + self.local_remote + self.remote_local + self.remote_remote
    }
    /// The share of entries that lie on other nodes: figure 4 of the paper.
    pub fn remote_share(&self) -> f64 {
        (self.remote_local + self.remote_remote) as f64 / self.entries().max(1) as f64
    }
}

/// The state of one address space's tables.
#[derive(Clone, Debug)]
pub struct Dump {
    levels: u8,
    nodes: usize,
    tables: [[TableRow; MAX_NODES]; 5],
    data: [[DataRow; MAX_NODES]; 12],
    seen: [Seen; MAX_NODES],
    migrations: u64,
    /// Table pages by level, frame number and node, sorted: what the next dump compares with.
    pages: Vec<(u8, u64, u8)>,
}

impl Dump {
    /// Looks at `table` on a machine of `nodes` nodes, `node_of` saying which a frame
    /// is on, and compares it with the dump `before`.
    /// `migrations` is the number of data pages that NUMA balancing has moved.
    pub fn take<I: Space, M: TableMemory>(
        table: &PageTable<I, M>,
        mem: &M,
        node_of: &dyn Fn(Frame<M::Space>) -> NodeId,
        nodes: usize,
        migrations: u64,
        before: Option<&Dump>,
    ) -> Dump {
        let nodes = nodes.min(MAX_NODES);
        let mut dump = Dump {
            levels: table.levels(),
            nodes,
            tables: Default::default(),
            data: Default::default(),
            seen: Default::default(),
            migrations,
            pages: Vec::new(),
        };
        let node_of = |frame| node_of(frame).index().min(MAX_NODES - 1);
        walk(mem, table.root(), table.levels(), &mut |named, level| {
            table.ops_ref().copies(mem, named, &mut |copy| {
                let at = node_of(copy);
                dump.pages.push((level, copy.number(), at as u8));
                let row = &mut dump.tables[usize::from(level) - 1][at];
                row.pages += 1;
                for entry in used(mem, copy) {
                    row.to[node_of(entry.frame())] += 1;
                }
            });
            for entry in used(mem, named).filter(|e| !e.is_table(level)) {
                let Some(size) = PageSize::from_level(level) else { continue };
                let hinting = entry.is_prot_none();
                let kind = DataKind { size, code: !entry.has(Flags::NO_EXECUTE), hinting };
                dump.data[kind.index()][node_of(entry.leaf_frame(size))].pages += 1;
            }
        });
        dump.look_from_nodes(table, mem, node_of);
        dump.pages.sort_unstable();
        if let Some(before) = before {
            dump.compare(before);
        }
        dump
    }

    /// What the walkers find; nodes that load the same root are looked at once.
    fn look_from_nodes<I: Space, M: TableMemory>(
        &mut self,
        table: &PageTable<I, M>,
        mem: &M,
        node_of: impl Fn(Frame<M::Space>) -> usize,
    ) {
        let mut trees: Vec<(Frame<M::Space>, Matrix)> = Vec::new();
        for node in 0..self.nodes {
            let root = table.ordinary_root(NodeId(node as u8));
            let known = trees.iter().position(|&(known, _)| known == root);
            let at = known.unwrap_or_else(|| {
                let mut found = Matrix::default();
                walk(mem, root, table.levels(), &mut |page, level| {
                    let from = &mut found[node_of(page)];
                    for entry in used(mem, page).filter(|e| !e.is_table(level)) {
                        from[node_of(entry.frame())] += 1;
                    }
                });
                trees.push((root, found));
                trees.len() - 1
            });
            let found = &trees[at].1;
            let seen = &mut self.seen[node];
            for (from, to) in found.iter().enumerate() {
                let local: u64 = to[node];
                let remote = to.iter().sum::<u64>() - local;
                if from == node {
                    (seen.local_local, seen.local_remote) = (local, remote);
                } else {
                    seen.remote_local += local;
                    seen.remote_remote += remote;
                }
            }
        }
    }

    fn compare(&mut self, before: &Dump) {
        let only_in = |a: &[(u8, u64, u8)], b: &[(u8, u64, u8)]| -> Vec<(u8, u64, u8)> {
            a.iter().filter(|page| b.binary_search(page).is_err()).copied().collect()
        };
        for (level, _, node) in only_in(&self.pages, &before.pages) {
            self.tables[usize::from(level) - 1][usize::from(node)].added += 1;
        }
        for (level, _, node) in only_in(&before.pages, &self.pages) {
            self.tables[usize::from(level) - 1][usize::from(node)].removed += 1;
        }
        for (now, then) in self.data.iter_mut().flatten().zip(before.data.iter().flatten()) {
            now.change = now.pages as i64 - then.pages as i64;
        }
    }

    /// Table pages of `level` (1-5) on `node`.
    pub fn tables(&self, level: u8, node: NodeId) -> &TableRow {
        &self.tables[usize::from(level.clamp(1, 5)) - 1][node.index()]
    }
    /// Data pages of `kind` on `node`.
    pub fn data(&self, kind: DataKind, node: NodeId) -> &DataRow {
        &self.data[kind.index()][node.index()]
    }
    /// The leaf entries that a walker of `node` finds.
    pub fn seen(&self, node: NodeId) -> &Seen {
        &self.seen[node.index()]
    }
    /// Of the leaf entries in tables on `node`, the share that points to the node.
    pub fn local_share(&self, node: NodeId) -> f64 {
        let to = &self.tables[0][node.index()].to;
        to[node.index()] as f64 / to.iter().sum::<u64>().max(1) as f64
    }
    /// Data pages that NUMA balancing has moved.
    pub fn migrations(&self) -> u64 {
        self.migrations
    }
}

/// Leaf entries by the node that they are on and the node that they point to.
type Matrix = [[u64; MAX_NODES]; MAX_NODES];

/// Passes all tables from `table` down.
fn walk<M: TableMemory>(
    mem: &M,
    table: Frame<M::Space>,
    level: u8,
    visit: &mut dyn FnMut(Frame<M::Space>, u8),
) {
    visit(table, level);
    for entry in used(mem, table).filter(|e| e.is_table(level)) {
        walk(mem, entry.frame(), level - 1, visit);
    }
}

/// The entries of `table` that lead to a table or to data.
fn used<M: TableMemory>(mem: &M, table: Frame<M::Space>) -> impl Iterator<Item = Entry> + '_ {
    let entries = (0..ENTRIES).map(move |index| mem.load(Slot::new(table, index)));
    entries.filter(|entry| entry.is_present() || entry.is_prot_none())
}

/// A count as the talk writes it: 8, 44k, 11M.
struct Short(u64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0 {
            n @ ..1_000 => (n, ""),
            n @ ..1_000_000 => (n / 1_000, "k"),
            n @ ..1_000_000_000 => (n / 1_000_000, "M"),
            n => (n / 1_000_000_000, "G"),
        };
        write!(f, "{value}{unit}")
    }
}

/// One row a kind, one column a node; rows of data that nobody has are left out.
impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for level in 1..=self.levels {
            write!(f, "PTablesLevel{level:<4}")?;
            let rows = &self.tables[usize::from(level) - 1][..self.nodes];
            for row in rows {
                write!(f, " {} [", Short(row.pages))?;
                for (at, &to) in row.to[..self.nodes].iter().enumerate() {
                    write!(f, "{}{}", if at > 0 { " " } else { "" }, Short(to))?;
                }
                write!(f, "] (+{}, -{}) |", Short(row.added), Short(row.removed))?;
            }
            writeln!(f, " {}", Short(rows.iter().map(|row| row.pages).sum()))?;
        }
        for kind in DataKind::all() {
            let rows = &self.data[kind.index()][..self.nodes];
            if rows.iter().all(|row| row.pages == 0 && row.change == 0) {
                continue;
            }
            // Width through a string: `DataKind` writes itself in pieces.
            write!(f, "{:<16}", alloc::string::ToString::to_string(&kind))?;
            for row in rows {
                let sign = if row.change < 0 { '-' } else { '+' };
                write!(f, " {} ({sign}{}) |", Short(row.pages), Short(row.change.unsigned_abs()))?;
            }
            writeln!(f, " {}", Short(rows.iter().map(|row| row.pages).sum()))?;
        }
        writeln!(f, "Migrations       {}", self.migrations)?;
        for node in (0..self.nodes).map(|n| NodeId(n as u8)) {
            let seen = self.seen(node);
            writeln!(
                f,
                "Socket{node}: LL: {} LR: {} RL: {} RR: {} ({:.0} % of leaf entries remote, {:.0} % of its own point home)",
                seen.local_local,
                seen.local_remote,
                seen.remote_local,
                seen.remote_remote,
                100.0 * seen.remote_share(),
                100.0 * self.local_share(node),
            )?;
        }
        Ok(())
    }
}
