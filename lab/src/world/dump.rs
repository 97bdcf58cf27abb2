//! Where page tables and their entries are, at any time in a run: the dump of
//! the Mitosis talk, for each process and VM.

use super::*;
use mechanisms::mitosis::{DataKind, Dump};
use serde::Serialize;
use std::cell::RefCell;

/// The tables of one address space at one time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TableDump {
    /// Whose: a process's name and number, or the VM.
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

/// The last dumps, to compare the next ones with: of processes by number, then of the VM.
#[derive(Debug, Default)]
pub(super) struct Dumps(HashMap<Option<usize>, Dump>);

impl World {
    /// Dumps the tables of each process that is alive, and of the VM; the nodes
    /// are the host's, of a guest's tables too. `after` accesses were made.
    pub fn dump_tables(&mut self, after: u64) -> Vec<TableDump> {
        let nodes = self.nodes;
        let mut dumps = Vec::new();
        let before = &mut self.dumps.0;
        let last = std::mem::take(before);
        let mut keep = |key: Option<usize>, dump: Dump, of: String, levels: u8| {
            dumps.push(TableDump::of(&dump, of, after, nodes, levels));
            before.insert(key, dump);
        };
        for (index, process) in self.processes.iter().enumerate() {
            let key = Some(index);
            let of = format!("process {index}");
            match &self.guest {
                None => {
                    let Ok(it) = self.host.process(process.pid) else { continue };
                    let (table, moved) = (it.space().table(), it.space().stats().migrated_pages);
                    let node_of = |frame| self.host.pool().node_of(frame);
                    let dump = Dump::take(table, self.host.mem(), &node_of, nodes, moved, last.get(&key));
                    keep(key, dump, of, table.levels());
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
                    keep(key, dump, of, table.levels());
                }
            }
        }
        if let Some(vm) = self.guest.as_ref().and_then(|guest| self.host.vm(guest.vm).ok()) {
            let (table, moved) = (vm.space().table(), vm.space().stats().migrated_pages);
            let node_of = |frame| self.host.pool().node_of(frame);
            let dump = Dump::take(table, self.host.mem(), &node_of, nodes, moved, last.get(&None));
            keep(None, dump, "the VM".to_string(), table.levels());
        }
        dumps
    }
}
