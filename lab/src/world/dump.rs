//! Where page tables and their entries are, at any time in a run: the dump of
//! the Mitosis talk, for each process and VM.

use super::*;
use mechanisms::mitosis::{DataKind, Dump};
use os::AddressSpace;
use paging::Space;
use serde::Serialize;
use std::cell::RefCell;

/// The tables of one address space at one time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TableDump {
    /// Whose: a process's number, the shadow of one, or the VM.
    pub of: String,
    /// Accesses before it, warm-up included.
    pub after: u64,
    /// By level (from 1) and socket.
    pub tables: Vec<LevelDump>,
    /// By kind of page and socket, kinds that are there.
    pub data: Vec<DataDump>,
    /// What the walkers of each socket find.
    pub walkers: Vec<WalkerDump>,
    /// 4 KiB pages that were moved between nodes so far.
    pub migrations: u64,
    /// As a person reads it.
    #[serde(skip)]
    pub text: String,
}

/// Table pages of one level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LevelDump {
    /// Level, 1 the leaves.
    pub level: u8,
    /// On each socket.
    pub sockets: Vec<SocketTables>,
}

/// Table pages of one level on one socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SocketTables {
    /// Pages, copies included.
    pub pages: u64,
    /// Present entries by the socket that they point to.
    pub to: Vec<u64>,
    /// Pages that were not there at the last dump.
    pub added: u64,
    /// Pages of the last dump that are not there any more.
    pub removed: u64,
}

/// Data pages of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataDump {
    /// `Data4k`, `Code2M`, `NUMAData4k` and so on, as in the talk.
    pub kind: String,
    /// Pages on each socket.
    pub pages: Vec<u64>,
    /// More than at the last dump, or fewer.
    pub change: Vec<i64>,
}

/// Leaf entries that a socket's walkers find, by where entry and data are, seen from there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WalkerDump {
    /// Entry and data on the socket.
    pub local_local: u64,
    /// Entry on the socket, data on another.
    pub local_remote: u64,
    /// Entry on another, data on the socket.
    pub remote_local: u64,
    /// Both on others.
    pub remote_remote: u64,
    /// Share of the entries that are on other sockets.
    pub remote_share: f64,
}

impl TableDump {
    fn of(dump: &Dump, of: String, after: u64, nodes: usize, levels: u8) -> TableDump {
        let sockets = || (0..nodes as u8).map(NodeId);
        let table = |level| LevelDump {
            level,
            sockets: sockets()
                .map(|node| dump.tables(level, node))
                .map(|row| SocketTables {
                    pages: row.pages,
                    to: row.to[..nodes].to_vec(),
                    added: row.added,
                    removed: row.removed,
                })
                .collect(),
        };
        let data = |kind: DataKind| DataDump {
            kind: kind.to_string(),
            pages: sockets().map(|node| dump.data(kind, node).pages).collect(),
            change: sockets().map(|node| dump.data(kind, node).change).collect(),
        };
        let is_there = |d: &DataDump| d.pages.iter().any(|n| *n > 0) || d.change.iter().any(|n| *n != 0);
        TableDump {
            of,
            after,
            tables: (1..=levels).map(table).collect(),
            data: DataKind::all().map(data).filter(is_there).collect(),
            walkers: sockets()
                .map(|node| dump.seen(node))
                .map(|seen| WalkerDump {
                    local_local: seen.local_local,
                    local_remote: seen.local_remote,
                    remote_local: seen.remote_local,
                    remote_remote: seen.remote_remote,
                    remote_share: seen.remote_share(),
                })
                .collect(),
            migrations: dump.migrations(),
            text: dump.to_string(),
        }
    }
}

/// Whose table a dump is of; processes by number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Whose {
    Process(usize),
    /// What the hardware walks for a process in place of the guest's own.
    Shadow(usize),
    Vm,
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Whose::Process(index) => write!(f, "process {index}"),
            Whose::Shadow(index) => write!(f, "the shadow of process {index}"),
            Whose::Vm => f.write_str("the VM"),
        }
    }
}

/// The last dumps, to compare the next ones with.
#[derive(Debug, Default)]
pub(super) struct Dumps(HashMap<Whose, Dump>);

impl World {
    /// Dumps the tables of each process that is alive, their shadows, and those of the VM; the nodes
    /// are the host's, of a guest's tables too. `after` accesses were made.
    pub fn dump_tables(&mut self, after: u64) -> Vec<TableDump> {
        let nodes = self.nodes;
        let mut dumps = Vec::new();
        let before = &mut self.dumps.0;
        let last = std::mem::take(before);
        let mut keep = |key: Whose, dump: Dump, levels: u8| {
            dumps.push(TableDump::of(&dump, key.to_string(), after, nodes, levels));
            before.insert(key, dump);
        };
        for (index, process) in self.processes.iter().enumerate() {
            let key = Whose::Process(index);
            match &self.guest {
                None => {
                    let Ok(it) = self.host.process(process.pid) else { continue };
                    keep(
                        key,
                        in_host(&self.host, it.space(), nodes, last.get(&key)),
                        it.space().table().levels(),
                    );
                }
                Some(guest) => {
                    let Ok(it) = guest.kernel.process(process.pid) else { continue };
                    let (table, moved) = (it.space().table(), it.space().stats().migrated_pages);
                    let host = RefCell::new(&mut self.host);
                    let node_of = |frame| {
                        let mut host = host.borrow_mut();
                        match host.host_frame(guest.vm, frame) {
                            Ok(Some(backed)) => host.pool().node_of(backed),
                            // Never touched: where the guest believes it.
                            _ => guest.kernel.pool().node_of(frame),
                        }
                    };
                    let dump = Dump::take(table, guest.kernel.mem(), &node_of, nodes, moved, last.get(&key));
                    keep(key, dump, table.levels());
                    let key = Whose::Shadow(index);
                    if let Some(shadow) = self.host.shadow(guest.vm).ok().and_then(|s| s.table(table.root()))
                    {
                        keep(
                            key,
                            in_host(&self.host, shadow, nodes, last.get(&key)),
                            shadow.table().levels(),
                        );
                    }
                }
            }
        }
        if let Some(vm) = self.guest.as_ref().and_then(|guest| self.host.vm(guest.vm).ok()) {
            let dump = in_host(&self.host, vm.space(), nodes, last.get(&Whose::Vm));
            keep(Whose::Vm, dump, vm.space().table().levels());
        }
        dumps
    }
}

/// The tables of a space whose frames are the host's own.
fn in_host<I: Space>(
    host: &Kernel<Arena<HostPhys>>,
    space: &AddressSpace<I, Arena<HostPhys>>,
    nodes: usize,
    before: Option<&Dump>,
) -> Dump {
    let node_of = |frame| host.pool().node_of(frame);
    Dump::take(space.table(), host.mem(), &node_of, nodes, space.stats().migrated_pages, before)
}
