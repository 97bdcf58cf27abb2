//! Scenarios of the NUMA papers: configurations by the letters that the papers
//! give them, workloads at the papers' footprints, and running them.
//!
//! A configuration becomes a [`System`] by name, so that each cell of a figure
//! can be run by itself: `pagewalk run -s native+placement=0+pt-node=1+interference=1`.

mod letters;
mod run;

pub use letters::{migration, oblivious, shadow, sockets, thin, wide};
pub use run::{Cell, Options, run};

use crate::system::System;

/// A workload of a figure.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Its name in the paper's tables, in small letters.
    pub name: &'static str,
    /// The generator and its parameters, all but the footprint.
    pub spec: &'static str,
    /// GiB that the paper's run takes.
    pub paper_gib: u64,
    /// By what it is divided here, with the memory of each node.
    pub divided: u64,
    /// Where the footprint is from.
    pub source: &'static str,
    /// Accesses that warm caches before each cell, and accesses counted.
    pub accesses: (u64, u64),
}

/// A figure of a paper.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Its name here, and the names of the paper's figures that it stands for.
    pub names: &'static [&'static str],
    /// What it shows.
    pub title: &'static str,
    /// The machine.
    pub machine: &'static str,
    /// What a configuration's letters mean.
    pub system: fn(&str) -> Option<System>,
    /// Its workloads.
    pub loads: &'static [Load],
    /// The configuration that each of its kind is compared with: the same without the mechanism.
    pub without: fn(&str) -> Option<String>,
    /// What was measured: `figure,workload,config,ratio,walk`.
    pub measured: &'static str,
    /// Whose measurements, and how far to trust them.
    pub source: &'static str,
}

/// What was measured for one cell of a figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The workload.
    pub workload: String,
    /// The configuration's letters.
    pub config: String,
    /// Runtime as a share of the figure's first configuration.
    pub ratio: f64,
    /// Share of cycles with a walk in progress.
    pub walk: Option<f64>,
}

impl Figure {
    /// How far to trust what was measured: the tag of its source.
    pub fn trust(&self) -> &'static str {
        self.source.rsplit_once('[').map_or(self.source, |(_, tag)| tag.trim_end_matches(']'))
    }

    /// What was measured, in the figure's order.
    pub fn measured(&self) -> impl Iterator<Item = Measured> + '_ {
        self.measured.lines().filter(|line| !line.starts_with('#')).skip(1).filter_map(|line| {
            let mut fields = line.split(',');
            let mine = fields.next()? == self.names[0];
            let (workload, config) = (fields.next()?.to_string(), fields.next()?.to_string());
            let ratio = fields.next()?.parse().ok()?;
            let walk = fields.next().and_then(|walk| walk.parse().ok());
            mine.then_some(Measured { workload, config, ratio, walk })
        })
    }
}

const ALL_OF_ONE_THREAD: (u64, u64) = (5_000_000, 2_000_000);
const ALL_OF_A_SOCKET: (u64, u64) = (6_000_000, 3_000_000);
const ALL_OF_THE_MACHINE: (u64, u64) = (16_000_000, 8_000_000);

const fn load(name: &'static str, spec: &'static str, paper_gib: u64, accesses: (u64, u64)) -> Load {
    const SOURCE: &str = "Mitosis, table 1 [M-m]; threads [F:AE-M]";
    Load { name, spec, paper_gib, divided: 1, source: SOURCE, accesses }
}

const fn in_vm(
    name: &'static str,
    spec: &'static str,
    (paper_gib, divided): (u64, u64),
    source: &'static str,
    accesses: (u64, u64),
) -> Load {
    Load { name, spec, paper_gib, divided, source, accesses }
}

/// One thread, or one thread a core of one socket (16 hyper-threads there; siblings are not modelled).
const MIGRATION: [Load; 4] = [
    load("gups", "gups", 64, ALL_OF_ONE_THREAD),
    load("btree", "btree", 35, ALL_OF_ONE_THREAD),
    load("redis", "kv:flavour=redis,keys=uniform,requests=unmarked", 75, ALL_OF_ONE_THREAD),
    load("xsbench", "xsbench:threads=14", 85, ALL_OF_A_SOCKET),
];
const MIGRATION_THP: [Load; 3] = [MIGRATION[0], MIGRATION[2], MIGRATION[3]];

/// A thread a core.
const SOCKETS: [Load; 3] = [
    load("xsbench", "xsbench:threads=56", 410, ALL_OF_THE_MACHINE),
    load("graph500", "bfs:flavour=graph500,degree=21,sample=4096,threads=56", 391, ALL_OF_THE_MACHINE),
    load("canneal", "canneal:threads=56", 356, ALL_OF_THE_MACHINE),
];

const THIN_GUPS: Load =
    in_vm("gups", "gups", (64, 1), "vMitosis artifact: the GUPS of Mitosis [F:AE-V]", ALL_OF_ONE_THREAD);
const THIN: [Load; 3] = [
    THIN_GUPS,
    in_vm(
        "xsbench",
        "xsbench:threads=24",
        (320, 4),
        "680 000 grid points and 48 threads [F:AE-V]: 241 M rows of 1436 bytes [D]; a quarter of it here",
        ALL_OF_A_SOCKET,
    ),
    in_vm("canneal", "canneal:threads=24", (64, 1), "[M-m]", ALL_OF_A_SOCKET),
];
const SHADOW: [Load; 1] = [THIN_GUPS];
const WIDE: [Load; 2] = [
    in_vm(
        "xsbench",
        "xsbench:threads=96",
        (1120, 8),
        "2 800 000 grid points [F:AE-V], 1330 GiB of rows of 1436 bytes [D], of which a VM of 7/8 of the machine \
         with copies of its tables holds 1120; an eighth of it and of each node here",
        ALL_OF_THE_MACHINE,
    ),
    in_vm(
        "canneal",
        "canneal:threads=96",
        (380, 2),
        "[M-m]; half of it and of each node here",
        ALL_OF_THE_MACHINE,
    ),
];

const MITOSIS: &str = include_str!("../../../data/measured/mitosis.csv");
const VMITOSIS: &str = include_str!("../../../data/measured/vmitosis.csv");
const MITOSIS_SOURCE: &str = "reference data of the Mitosis artifact [F:AE-M]";
const VMITOSIS_SOURCE: &str = "reference data of the vMitosis artifact [F:AE-V]";

/// The figures of Mitosis.
pub const MITOSIS_FIGURES: [Figure; 3] = [
    Figure {
        names: &["migration", "6", "10a"],
        title: "a program and its page table on one node or two, 4 KiB pages",
        machine: "haswell-ex",
        system: migration,
        loads: &MIGRATION,
        without: letters::without_plus_m,
        measured: MITOSIS,
        source: MITOSIS_SOURCE,
    },
    Figure {
        names: &["migration-thp", "10b"],
        title: "a program and its page table on one node or two, huge pages",
        machine: "haswell-ex",
        system: migration,
        loads: &MIGRATION_THP,
        without: letters::without_plus_m,
        measured: MITOSIS,
        source: MITOSIS_SOURCE,
    },
    Figure {
        names: &["sockets", "9"],
        title: "programs on four sockets",
        machine: "haswell-ex",
        system: sockets,
        loads: &SOCKETS,
        without: letters::without_plus_m,
        measured: MITOSIS,
        source: MITOSIS_SOURCE,
    },
];

/// The figures of vMitosis.
pub const VMITOSIS_FIGURES: [Figure; 5] = [
    Figure {
        names: &["thin", "1", "3"],
        title: "a VM's program on one socket, its tables (guest's, VM's) local or remote, 4 KiB pages",
        machine: "cascade-lake",
        system: thin,
        loads: &THIN,
        without: letters::without_follow,
        measured: VMITOSIS,
        source: VMITOSIS_SOURCE,
    },
    Figure {
        names: &["thin-thp", "3-thp"],
        title: "a VM's program on one socket, its tables (guest's, VM's) local or remote, huge pages",
        machine: "cascade-lake",
        system: thin,
        loads: &THIN,
        without: letters::without_follow,
        measured: VMITOSIS,
        source: VMITOSIS_SOURCE,
    },
    Figure {
        names: &["shadow"],
        title: "the same under shadow paging, its table local or remote",
        machine: "cascade-lake",
        system: shadow,
        loads: &SHADOW,
        without: letters::without_follow,
        measured: VMITOSIS,
        source: VMITOSIS_SOURCE,
    },
    Figure {
        names: &["wide", "4"],
        title: "a VM's program on four sockets, in a guest that sees them",
        machine: "cascade-lake",
        system: wide,
        loads: &WIDE,
        without: letters::without_m,
        measured: VMITOSIS,
        source: VMITOSIS_SOURCE,
    },
    Figure {
        names: &["oblivious", "5"],
        title: "a VM's program on four sockets, in a guest that sees one node",
        machine: "cascade-lake",
        system: oblivious,
        loads: &WIDE,
        without: letters::without_oblivious,
        measured: VMITOSIS,
        source: VMITOSIS_SOURCE,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measured_cell_has_a_system_and_a_workload() {
        let mut cells = 0;
        for figure in MITOSIS_FIGURES.iter().chain(&VMITOSIS_FIGURES) {
            let mut first = true;
            for row in figure.measured() {
                let system = (figure.system)(&row.config);
                assert!(system.is_some(), "{}: {}", figure.names[0], row.config);
                assert!(figure.loads.iter().any(|l| l.name == row.workload), "{}", row.workload);
                assert!(!first || row.ratio == 1.0 || figure.names[0].ends_with("thp"));
                let without = (figure.without)(&row.config);
                assert!(without.is_none_or(|w| figure.measured().any(|r| r.config == w)), "{}", row.config);
                (first, cells) = (false, cells + 1);
            }
        }
        let rows = |data: &str| data.lines().filter(|line| !line.starts_with('#')).count() - 1;
        assert_eq!(cells, rows(MITOSIS) + rows(VMITOSIS), "every row of the data is in a figure");
    }
}
