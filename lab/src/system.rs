//! What is composed: a [`System`] is a choice on each axis of the design.
//!
//! A system is named by a short grammar,
//! `BASE[-PAGES[-HOST PAGES]][+FEATURE[=VALUE]]…`: `native`, `native-thp`,
//! `nested-thp-4k`, `shadow`, `nested+frag=0.5`, `native+placement=interleave`;
//! or written out as TOML. Nothing else names combinations.

use crate::numa::{Interference, Replication};
use crate::passthrough::PassThrough;
use crate::segments::Segments;
use crate::sharing::{Aslr, Babelfish};
use mechanisms::Named;
use mechanisms::ptemagnet::Settings;
use paging::PageSize;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a virtual address becomes a host-physical one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Translation {
    /// One table, VA to PA.
    Native,
    /// A VM with two-dimensional walks, gVA to gPA to hPA.
    Nested,
    /// A VM whose hypervisor keeps a table gVA to hPA in step with the guest's.
    Shadow,
    /// A VM whose shadow table switches to the guest's own where the guest keeps changing it.
    Agile,
    /// A VM whose guest maps host frames itself, kept to its own by tags.
    #[serde(rename = "passthrough")]
    PassThrough,
    /// One table, and a segment for a process's primary region in front of it.
    DirectSegment,
    /// A VM whose memory is behind a segment: gVA to gPA by paging.
    VmmDirect,
    /// A VM whose processes have a segment: gPA to hPA by paging.
    GuestDirect,
    /// A VM with both segments.
    DualDirect,
}

/// The ways of translation by name.
const BASES: [(&str, Translation); 9] = [
    ("native", Translation::Native),
    ("nested", Translation::Nested),
    ("shadow", Translation::Shadow),
    ("agile", Translation::Agile),
    ("passthrough", Translation::PassThrough),
    ("direct-segment", Translation::DirectSegment),
    ("vmm-direct", Translation::VmmDirect),
    ("guest-direct", Translation::GuestDirect),
    ("dual-direct", Translation::DualDirect),
];

/// The ways of translation, with the words for them.
pub(crate) fn bases() -> impl Iterator<Item = (&'static str, Translation)> {
    BASES.into_iter()
}

/// Which page sizes a kernel uses for anonymous memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Pages {
    /// 4 KiB only.
    #[default]
    #[serde(rename = "4k")]
    Small,
    /// Transparent huge pages, always.
    #[serde(rename = "thp")]
    Thp,
    /// Reserved 2 MiB pages.
    #[serde(rename = "2m")]
    Huge2M,
    /// Reserved 1 GiB pages.
    #[serde(rename = "1g")]
    Huge1G,
}

impl Pages {
    /// The largest that there may be.
    pub(crate) fn largest(self) -> PageSize {
        match self {
            Pages::Small => PageSize::Size4K,
            Pages::Thp | Pages::Huge2M => PageSize::Size2M,
            Pages::Huge1G => PageSize::Size1G,
        }
    }
}

/// Where data and page tables are placed among the nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// On the node of the CPU that touches first.
    #[default]
    FirstTouch,
    /// Page by page over all nodes.
    Interleave,
    /// All on one node.
    Fixed(u8),
}

/// Which frame answers a fault.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Frames {
    /// The buddy allocator's next, through the CPU's list.
    #[default]
    Buddy,
    /// From reservations of `pages` pages (PTEMagnet).
    #[serde(rename = "ptemagnet")]
    PteMagnet {
        /// Pages of a reservation: 2, 4, 8, 16, 32 or 64.
        pages: u32,
    },
}

/// Frames that a CPU's list takes from the zone at once in Linux, for zones above 1 GiB.
const PCP_BATCH: u16 = 63;
/// The most that makes sense: a list of six batches is then 32 MiB.
const PCP_MOST: u16 = 1365;

/// The choices of one kernel: the host's, or the guest's.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Side {
    /// Page sizes.
    pub pages: Pages,
    /// Placement of data.
    pub placement: Placement,
    /// Table pages all on this node, wherever their data is.
    pub tables_on: Option<u8>,
    /// Share of free memory that no huge page can be made of, 0 to 1.
    pub fragmentation: f64,
    /// Levels of the page table, 4 or 5.
    pub levels: u8,
    /// NUMA balancing moves data to the node that uses it.
    pub numa_balancing: bool,
    /// Which CPUs walk page tables of their own (Mitosis).
    pub replication: Replication,
    /// Table pages move to the node that most of their entries point to (vMitosis).
    pub tables_follow: bool,
    /// Pages that are set aside for tables on each node (Mitosis's page-table page cache).
    pub table_cache: u32,
    /// Which frame answers a fault.
    pub frames: Frames,
    /// Frames that a CPU's list takes from the zone at once.
    pub pcp_batch: u16,
    /// Swap space, in MiB.
    pub swap_mib: u64,
    /// Memory that the processes of a group may have together, in MiB; no limit if 0.
    pub group_limit_mib: u64,
    /// PTEMagnet only for groups that may have this much memory, in MiB.
    pub ptemagnet_from_mib: u64,
    /// Replication only for these processes of the input and their children, a bit each; for all if 0.
    pub replicated_processes: u64,
    /// A mechanism of the list.
    #[serde(with = "crate::named::by_name", skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<Named>,
}

impl Default for Side {
    fn default() -> Self {
        Side {
            pages: Pages::Small,
            placement: Placement::FirstTouch,
            tables_on: None,
            fragmentation: 0.0,
            levels: 4,
            numa_balancing: false,
            replication: Replication::Off,
            tables_follow: false,
            table_cache: 0,
            frames: Frames::Buddy,
            pcp_batch: PCP_BATCH,
            swap_mib: 0,
            group_limit_mib: 0,
            ptemagnet_from_mib: 0,
            replicated_processes: 0,
            mechanism: None,
        }
    }
}

/// A choice on each axis.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    /// The way of translation.
    pub translation: Translation,
    /// The kernel that the processes run on: the guest's if there is one.
    #[serde(default)]
    pub kernel: Side,
    /// The hypervisor's kernel; not used natively.
    #[serde(default)]
    pub host: Side,
    /// The guest sees the nodes that there are, with its memory and CPUs on them; else it sees one.
    #[serde(default)]
    pub vnuma: bool,
    /// Threads are dealt out over all sockets, even if one would hold them.
    #[serde(default)]
    pub spread: bool,
    /// Others who use the memory of a node.
    #[serde(default)]
    pub interference: Option<Interference>,
    /// About direct segments.
    #[serde(default)]
    pub segments: Segments,
    /// What containers of one image share; nothing (private) without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub babelfish: Option<Babelfish>,
    /// About pass-through.
    #[serde(default)]
    pub passthrough: PassThrough,
    /// Under shadow paging: no leaf table goes out of sync.
    #[serde(default)]
    pub trap_each: bool,
}

impl Default for System {
    /// Native, with the baseline on each axis.
    fn default() -> Self {
        System {
            translation: Translation::Native,
            kernel: Side::default(),
            host: Side::default(),
            vnuma: false,
            spread: false,
            interference: None,
            segments: Segments::default(),
            babelfish: None,
            passthrough: PassThrough::default(),
            trap_each: false,
        }
    }
}

/// Why a name is not a system, or a system makes no sense.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("system `{name}`: {reason}{}", .hint.as_ref().map(|h| format!("\n  hint: {h}")).unwrap_or_default())]
pub struct SystemError {
    /// What was asked for.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Systems with names of their own, and what each is, in the order of reports.
pub fn presets() -> impl Iterator<Item = (&'static str, &'static str)> {
    PRESETS.iter().copied().chain(crate::named::presets())
}

const PRESETS: &[(&str, &str)] = &[
    ("native", "one dimension, 4 KiB pages"),
    ("native-thp", "one dimension, transparent huge pages"),
    ("native-2m", "one dimension, reserved 2 MiB pages"),
    ("native-1g", "one dimension, reserved 1 GiB pages"),
    ("nested", "a VM: 4 KiB pages in guest and host"),
    ("nested-thp-4k", "a VM: huge pages in the guest, 4 KiB in the host"),
    ("nested-4k-thp", "a VM: 4 KiB pages in the guest, huge in the host"),
    ("nested-thp-thp", "a VM: huge pages in guest and host"),
    ("nested+ptemagnet", "a VM whose guest keeps the host's entries together (PTEMagnet)"),
    ("shadow", "a VM under shadow paging, 4 KiB pages"),
    ("shadow-thp-thp", "a VM under shadow paging, huge pages in guest and host"),
    (
        "agile",
        "agile paging: a shadow table that switches to the guest's own where that changes, 4 KiB pages",
    ),
    ("agile-thp-thp", "agile paging, huge pages in guest and host"),
    ("passthrough", "a VM whose guest maps host frames itself (Translation Pass-Through), 4 KiB pages"),
    ("passthrough-thp-4k", "pass-through, huge pages in the guest, 4 KiB in the host"),
    ("passthrough-thp-thp", "pass-through, huge pages in guest and host"),
    ("direct-segment", "native, a process's primary region behind a segment, 4 KiB pages outside"),
    ("vmm-direct", "VMM Direct: the VM's memory behind a segment, 4 KiB pages in the guest"),
    ("vmm-direct-thp-4k", "VMM Direct, huge pages in the guest"),
    (
        "guest-direct",
        "Guest Direct: a guest process's primary region behind a segment, 4 KiB pages in the host",
    ),
    ("guest-direct-4k-thp", "Guest Direct, huge pages in the host"),
    ("dual-direct", "Dual Direct: both segments"),
    ("dual-direct+promote", "base virtualised, promoted while it runs as contiguity appears"),
    ("native+mitosis", "Mitosis: a copy of the page table on every node"),
    ("native+numa-balancing+vmitosis", "vMitosis: table pages follow the data that NUMA balancing moves"),
    ("nested+vnuma+mitosis+host-mitosis", "vMitosis in a VM that sees the nodes: copies of both tables"),
    ("nested+mitosis=no-p+host-mitosis", "vMitosis in a VM that sees one node: the hypervisor tells of more"),
    ("native+babelfish", "BabelFish: containers of one image share TLB entries and leaf tables"),
    ("nested+babelfish", "BabelFish in a VM"),
];

/// Features that `+` adds, with their values.
const FEATURES: &[(&str, &str)] = &[
    ("5level", "five levels, in every dimension"),
    ("frag=F", "share of memory no huge page can be made of, 0 to 1, of the kernel the processes run on"),
    ("host-frag=F", "the same of the host under a VM"),
    ("placement=P", "data: `first-touch`, `interleave`, or a node's number"),
    ("host-placement=P", "the same for a VM's memory"),
    ("pt-node=N", "all page-table pages of the kernel the processes run on, on node N"),
    ("host-pt-node=N", "all pages of the VM's table on node N"),
    ("numa-balancing", "data moves to the node that uses it"),
    ("host-numa-balancing", "the same of a VM's memory, by the host"),
    (
        "mitosis[=R]",
        "page tables on every node: `all`; on some: `0-1,3`; `lazy` (Hydra), `auto`; in a VM that sees one \
         node: `no-p` (told by the hypervisor), `no-f` (found from latencies)",
    ),
    ("host-mitosis[=R]", "the same for the VM's table: `all`, nodes, `lazy`"),
    ("vmitosis", "table pages move to where most of their entries point, after NUMA balancing's scans"),
    ("host-vmitosis", "the same for the VM's table"),
    ("table-cache=N", "pages set aside for tables on each node"),
    ("host-table-cache=N", "the same in the host under a VM"),
    ("vnuma", "the guest sees the machine's nodes; without it, one"),
    ("spread", "threads are dealt out over all sockets, even if one would hold them"),
    ("interference=N[:GB/s]", "others take bandwidth of node N: all that they can get, or so much"),
    ("ptemagnet=N", "frames from reservations of N pages, 2 to 64 (8 if N is left out)"),
    ("bad=N", "N frames in random places of the host's segment are faulty: their pages escape"),
    ("filter=BITS", "bits of each segment's escape filter (256)"),
    ("filter-functions=K", "hash functions of each escape filter, each with a bank of its own (4)"),
    ("promote", "no segments at first: the system is promoted while it runs"),
    ("trap-each", "shadow: each store to a shadowed table exits; leaf tables never go out of sync"),
    ("no-table-check", "pass-through: the walker checks the tag of the data page alone"),
    ("enlightened=N", "pass-through: only the first N processes take part, and their children"),
    ("overlapped-check", "pass-through: tags are looked up beside the next load, not before it"),
    ("fast-entry", "pass-through: the mode changes with CR3, without hypercalls"),
    ("twin-free", "pass-through: the whole guest is enlightened, its only tables name host frames"),
    (
        "live-migration",
        "pass-through: the VM falls back to nested paging, moves to the next node, returns, …",
    ),
    ("pcp=N", "a CPU's list takes N frames at once from the zone (63 as in Linux)"),
    ("swap=N", "N MiB of swap space of the kernel the processes run on"),
    ("host-swap=N", "the same of the host under a VM"),
    ("group-limit=N", "N MiB of memory for each group of processes (memcg); those without a group are one"),
    ("ptemagnet-from=N", "`ptemagnet` only for groups that may have N MiB or more"),
    ("mitosis-for=P,Q", "`mitosis` only for these processes of the input and their children, by number"),
    (
        "babelfish[=PART]",
        "containers of one image share TLB entries and leaf tables; only `tables`, only `tlb`, `no-mask` (the \
         cheaper TLB entries), `tlb-no-mask`",
    ),
    (
        "aslr=WHERE",
        "layouts of a group made one in `hardware` (2 cycles on each L1 TLB miss) or `software`; with babelfish",
    ),
    ("share-l1", "first-level TLBs share entries, too; with babelfish and aslr=software"),
];

impl Translation {
    /// The hypervisor keeps shadow tables.
    pub fn is_shadowed(self) -> bool {
        matches!(self, Translation::Shadow | Translation::Agile)
    }
}

impl System {
    /// The system of a name.
    ///
    /// # Errors
    /// With what is not understood and the nearest thing that would be.
    pub fn parse(name: &str) -> Result<System, SystemError> {
        let error =
            |reason: String, hint: Option<String>| SystemError { name: name.to_string(), reason, hint };
        let mut parts = name.split('+');
        let head = parts.next().unwrap_or_default();
        let base = BASES.iter().find(|(base, _)| {
            head.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        });
        let (base, translation) = match base {
            Some(base) => *base,
            None => {
                let other = head.split('-').next().unwrap_or_default();
                let known: Vec<&str> = presets().map(|(name, _)| name).collect();
                let near = crate::names::nearest(head, &known);
                return Err(error(
                    format!("`{other}` is no way of translation"),
                    Some(match near {
                        Some(n) => format!("did you mean `{n}`? `pagewalk list systems` lists them"),
                        None => {
                            format!("it starts with one of {}", BASES.map(|(base, _)| base).join(", "))
                        }
                    }),
                ));
            }
        };
        let words = head[base.len()..].split('-').skip(1);
        let mut system = System { translation, ..System::default() };
        let mut pages = Vec::new();
        for word in words {
            pages.push(match word {
                "4k" => Pages::Small,
                "thp" => Pages::Thp,
                "2m" => Pages::Huge2M,
                "1g" => Pages::Huge1G,
                other => {
                    return Err(error(
                        format!("`{other}` is no page size"),
                        Some("page sizes are `4k`, `thp`, `2m`, `1g`: guest first, then host".to_string()),
                    ));
                }
            });
        }
        match (translation, pages.as_slice()) {
            (_, []) => {}
            (_, [kernel]) => system.kernel.pages = *kernel,
            (Translation::Native | Translation::DirectSegment, [_, _, ..]) | (_, [_, _, _, ..]) => {
                return Err(error(
                    "too many page sizes".to_string(),
                    Some("native has one, a VM two".to_string()),
                ));
            }
            (_, [kernel, host]) => (system.kernel.pages, system.host.pages) = (*kernel, *host),
        }
        for feature in parts {
            system.add(feature).map_err(|(reason, hint)| error(reason, hint))?;
        }
        system.check().map_err(|reason| error(reason, None))?;
        Ok(system)
    }

    fn add(&mut self, feature: &str) -> Result<(), (String, Option<String>)> {
        let (key, value) = feature.split_once('=').unwrap_or((feature, ""));
        let share = || {
            value
                .parse::<f64>()
                .ok()
                .filter(|f| (0.0..=1.0).contains(f))
                .ok_or_else(|| (format!("`{feature}`: `{value}` is no share from 0 to 1"), None))
        };
        let node =
            || value.parse::<u8>().map_err(|_| (format!("`{feature}`: `{value}` is no node number"), None));
        let copies = || Replication::parse(value).map_err(|reason| (format!("`{feature}`: {reason}"), None));
        let pages = || {
            value.parse::<u32>().map_err(|_| (format!("`{feature}`: `{value}` is no number of pages"), None))
        };
        let placement = || match value {
            "first-touch" => Ok(Placement::FirstTouch),
            "interleave" => Ok(Placement::Interleave),
            _ => node().map(Placement::Fixed),
        };
        match key {
            "5level" => (self.kernel.levels, self.host.levels) = (5, 5),
            "frag" => self.kernel.fragmentation = share()?,
            "host-frag" => self.host.fragmentation = share()?,
            "placement" => self.kernel.placement = placement()?,
            "host-placement" => self.host.placement = placement()?,
            "pt-node" => self.kernel.tables_on = Some(node()?),
            "host-pt-node" => self.host.tables_on = Some(node()?),
            "numa-balancing" => self.kernel.numa_balancing = true,
            "host-numa-balancing" => self.host.numa_balancing = true,
            "mitosis" => self.kernel.replication = copies()?,
            "host-mitosis" => self.host.replication = copies()?,
            "vmitosis" => self.kernel.tables_follow = true,
            "host-vmitosis" => self.host.tables_follow = true,
            "table-cache" => self.kernel.table_cache = pages()?,
            "host-table-cache" => self.host.table_cache = pages()?,
            "vnuma" => self.vnuma = true,
            "spread" => self.spread = true,
            "interference" => {
                self.interference = Some(Interference::parse(value).ok_or_else(|| {
                    (
                        format!("`{feature}`: `{value}` is no node with GB/s"),
                        Some("as in `interference=1:20`".to_string()),
                    )
                })?);
            }
            "ptemagnet" => {
                let pages = if value.is_empty() { Ok(8) } else { value.parse::<u32>() };
                let wrong = || (format!("`{feature}`: `{value}` is no number of pages"), None);
                self.kernel.frames = Frames::PteMagnet { pages: pages.map_err(|_| wrong())? };
            }
            "swap" => self.kernel.swap_mib = u64::from(pages()?),
            "host-swap" => self.host.swap_mib = u64::from(pages()?),
            "group-limit" => self.kernel.group_limit_mib = u64::from(pages()?),
            "ptemagnet-from" => self.kernel.ptemagnet_from_mib = u64::from(pages()?),
            "mitosis-for" => {
                let bit = |n: &str| n.parse::<u8>().ok().filter(|n| *n < 64).map(|n| 1u64 << n);
                let bits = value.split(',').map(bit).try_fold(0, |all, bit| Some(all | bit?));
                let wrong =
                    || (format!("`{feature}`: `{value}` are no numbers of processes from 0 to 63"), None);
                self.kernel.replicated_processes = bits.ok_or_else(wrong)?;
            }
            "bad" => self.segments.bad = pages()?,
            "filter" => self.segments.filter_bits = pages()?,
            "filter-functions" => self.segments.filter_functions = pages()?,
            "promote" => self.segments.promote = true,
            "babelfish" => {
                let parts = Babelfish::parse(value);
                self.babelfish = Some(parts.map_err(|reason| (format!("`{feature}`: {reason}"), None))?);
            }
            "aslr" | "share-l1" => {
                let Some(babelfish) = &mut self.babelfish else {
                    let hint = "as in `native+babelfish+aslr=software`".to_string();
                    return Err((format!("`{feature}` is a choice of `babelfish`"), Some(hint)));
                };
                match (key, value) {
                    ("share-l1", "") => babelfish.first_level = true,
                    ("aslr", "hardware") => babelfish.aslr = Aslr::Hardware,
                    ("aslr", "software") => babelfish.aslr = Aslr::Software,
                    _ => {
                        return Err((
                            format!("`{feature}` is neither `aslr=hardware` nor `aslr=software`"),
                            None,
                        ));
                    }
                }
            }
            "trap-each" => self.trap_each = true,
            "no-table-check" => self.passthrough.table_check = false,
            "enlightened" => self.passthrough.enlightened = Some(pages()?),
            "overlapped-check" => self.passthrough.overlapped_check = true,
            "fast-entry" => self.passthrough.fast_entry = true,
            "twin-free" => self.passthrough.twin_free = true,
            "live-migration" => self.passthrough.live_migration = true,
            "pcp" => {
                let frames = value.parse::<u16>().ok().filter(|n| (1..=PCP_MOST).contains(n));
                let wrong = || (format!("`{feature}`: `{value}` is no number from 1 to {PCP_MOST}"), None);
                self.kernel.pcp_batch = frames.ok_or_else(wrong)?;
            }
            _ => {
                if let Some(taken) = self.take_named(feature) {
                    return taken.map_err(|reason| (reason, None));
                }
                let features = System::features();
                let known: Vec<&str> =
                    features.iter().map(|(n, _)| n.split(['=', '[']).next().unwrap_or_default()).collect();
                let hint = crate::names::nearest(key, &known).map(|n| format!("did you mean `{n}`?"));
                return Err((format!("`{key}` is no feature"), hint));
            }
        }
        Ok(())
    }

    /// Features that `+` adds to a name, with what they mean.
    pub fn features() -> Vec<(&'static str, &'static str)> {
        let of_list = crate::named::all().flat_map(|about| {
            [
                (about.name, about.says),
                (about.host_name, "the same for the host under a VM, and the VM's table"),
            ]
        });
        FEATURES.iter().copied().chain(of_list).collect()
    }

    /// Whether the system runs in a VM.
    pub fn is_virtual(&self) -> bool {
        !matches!(self.translation, Translation::Native | Translation::DirectSegment)
    }

    /// Refuses what makes no sense, with the reason.
    ///
    /// # Errors
    /// With a sentence that says why.
    pub fn check(&self) -> Result<(), String> {
        for (side, name) in [(&self.kernel, "the kernel"), (&self.host, "the host")] {
            if !(4..=5).contains(&side.levels) {
                return Err(format!("{name} has page tables of {} levels; x86-64 has 4 or 5", side.levels));
            }
            if !(0.0..=1.0).contains(&side.fragmentation) {
                return Err(format!(
                    "{name} is fragmented to {}; that is a share from 0 to 1",
                    side.fragmentation
                ));
            }
            if side.pages == Pages::Huge1G && side.fragmentation > 0.0 {
                return Err(format!(
                    "fragmented memory has no 1 GiB pages to reserve: {name} cannot have them"
                ));
            }
            if let Frames::PteMagnet { pages } = side.frames {
                Settings::of(pages).map_err(|bad| bad.to_string())?;
            }
            if !(1..=PCP_MOST).contains(&side.pcp_batch) {
                return Err(format!(
                    "{name} takes {} frames at once; that is from 1 to {PCP_MOST}",
                    side.pcp_batch
                ));
            }
        }
        if !self.is_virtual() && self.host != (Side { levels: self.host.levels, ..Side::default() }) {
            return Err("a native system has no host under it: its choices belong to the kernel".to_string());
        }
        if self.kernel.ptemagnet_from_mib > 0 && self.kernel.frames == Frames::Buddy {
            return Err("`ptemagnet-from` is a choice of `ptemagnet`".to_string());
        }
        if self.kernel.replicated_processes != 0
            && (self.kernel.replication == Replication::Off || self.babelfish.is_some())
        {
            return Err(
                "`mitosis-for` is a choice of `mitosis`, for processes that share no tables".to_string()
            );
        }
        self.check_tables()?;
        self.check_segments()?;
        self.check_sharing()?;
        self.check_passthrough()?;
        self.check_named()?;
        if self.trap_each && self.translation != Translation::Shadow {
            return Err(
                "`trap-each` is for `shadow`: agile paging has its own rule, and others trap nothing"
                    .to_string(),
            );
        }
        if self.translation.is_shadowed() && self.kernel.levels != self.host.levels {
            return Err(
                "a shadow table has the levels of the guest's table: both must be the same".to_string()
            );
        }
        Ok(())
    }

    /// Refuses impossible placements of tables.
    fn check_tables(&self) -> Result<(), String> {
        let (kernel, host) = (&self.kernel, &self.host);
        let oblivious = self.is_virtual() && !self.vnuma;
        if self.vnuma && !self.is_virtual() {
            return Err("there is no guest to see nodes; natively the kernel sees them".to_string());
        }
        if !oblivious && kernel.replication.is_oblivious() {
            return Err(
                "`mitosis=no-p` and `no-f` are for a VM that sees one node: without `vnuma`".to_string()
            );
        }
        if host.replication.is_oblivious() {
            return Err("a hypervisor sees its nodes: `host-mitosis`, without `no-p` or `no-f`".to_string());
        }
        if host.replication == Replication::Auto {
            return Err(
                "walks are counted by process: `auto` is for `mitosis`, not for `host-mitosis`".to_string()
            );
        }
        if oblivious {
            let needs = "a guest that sees one node";
            if kernel.replication != Replication::Off && !kernel.replication.is_oblivious() {
                return Err(format!(
                    "{needs} has no nodes to keep tables on: add `vnuma`, or let it be `mitosis=no-p` or `no-f`"
                ));
            }
            if kernel.tables_follow || kernel.numa_balancing {
                return Err(format!("{needs} has nowhere to move anything: add `vnuma`"));
            }
        }
        for (side, name) in [(kernel, "the kernel"), (host, "the host")] {
            if side.replication != Replication::Off && side.tables_follow {
                return Err(format!(
                    "{name}'s tables are on every node already: `mitosis` or `vmitosis`, not both"
                ));
            }
        }
        if self.translation.is_shadowed() && (kernel.replication != Replication::Off || kernel.tables_follow)
        {
            return Err("no walker walks the guest's table under shadow paging (or only parts of it, under agile paging): copy the \
                        shadow table, `host-mitosis`"
                .to_string());
        }
        Ok(())
    }

    /// Refuses what the machine cannot hold.
    ///
    /// # Errors
    /// With a sentence that says why.
    pub fn check_on(&self, nodes: usize) -> Result<(), String> {
        for (at, side) in [&self.kernel, &self.host].into_iter().enumerate() {
            let mask = if let Replication::Nodes(mask) = side.replication { mask } else { 0 };
            let asked = [
                side.tables_on,
                if let Placement::Fixed(n) = side.placement { Some(n) } else { None },
                mask.checked_ilog2().map(|n| n as u8),
                self.interference.map(|i| i.node),
            ];
            let oblivious = at == 0 && self.is_virtual() && !self.vnuma;
            if oblivious && asked[..3].iter().flatten().any(|n| *n > 0) {
                return Err("a guest that sees one node has node 0 only: add `vnuma`".to_string());
            }
            if let Some(node) = asked.into_iter().flatten().find(|n| usize::from(*n) >= nodes) {
                return Err(format!(
                    "node {node} is asked for, and the machine has nodes 0 to {}",
                    nodes - 1
                ));
            }
        }
        Ok(())
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn pages(p: Pages) -> &'static str {
            match p {
                Pages::Small => "4k",
                Pages::Thp => "thp",
                Pages::Huge2M => "2m",
                Pages::Huge1G => "1g",
            }
        }
        let base = BASES.iter().find(|(_, way)| *way == self.translation);
        f.write_str(base.map_or("", |(name, _)| name))?;
        let (kernel, host) = (self.kernel.pages, self.host.pages);
        if kernel != Pages::Small || host != Pages::Small {
            write!(f, "-{}", pages(kernel))?;
            if self.is_virtual() {
                write!(f, "-{}", pages(host))?;
            }
        }
        if self.kernel.levels == 5 {
            f.write_str("+5level")?;
        }
        for (side, prefix) in [(&self.kernel, ""), (&self.host, "host-")] {
            if side.fragmentation != 0.0 {
                write!(f, "+{prefix}frag={}", side.fragmentation)?;
            }
            match side.placement {
                Placement::FirstTouch => {}
                Placement::Interleave => write!(f, "+{prefix}placement=interleave")?,
                Placement::Fixed(n) => write!(f, "+{prefix}placement={n}")?,
            }
            if let Some(n) = side.tables_on {
                write!(f, "+{prefix}pt-node={n}")?;
            }
        }
        if self.vnuma {
            f.write_str("+vnuma")?;
        }
        for (side, prefix) in [(&self.kernel, ""), (&self.host, "host-")] {
            if side.numa_balancing {
                write!(f, "+{prefix}numa-balancing")?;
            }
            match side.replication {
                Replication::Off => {}
                Replication::All => write!(f, "+{prefix}mitosis")?,
                copies => write!(f, "+{prefix}mitosis={copies}")?,
            }
            if side.tables_follow {
                write!(f, "+{prefix}vmitosis")?;
            }
            if side.table_cache > 0 {
                write!(f, "+{prefix}table-cache={}", side.table_cache)?;
            }
        }
        if self.spread {
            f.write_str("+spread")?;
        }
        if let Some(interference) = self.interference {
            write!(f, "+interference={interference}")?;
        }
        match self.kernel.frames {
            Frames::Buddy => {}
            Frames::PteMagnet { pages: 8 } => f.write_str("+ptemagnet")?,
            Frames::PteMagnet { pages } => write!(f, "+ptemagnet={pages}")?,
        }
        if self.kernel.pcp_batch != PCP_BATCH {
            write!(f, "+pcp={}", self.kernel.pcp_batch)?;
        }
        for (side, prefix) in [(&self.kernel, ""), (&self.host, "host-")] {
            if side.swap_mib > 0 {
                write!(f, "+{prefix}swap={}", side.swap_mib)?;
            }
        }
        let kernel = &self.kernel;
        for (word, mib) in
            [("group-limit", kernel.group_limit_mib), ("ptemagnet-from", kernel.ptemagnet_from_mib)]
        {
            if mib > 0 {
                write!(f, "+{word}={mib}")?;
            }
        }
        if kernel.replicated_processes != 0 {
            let numbers: Vec<String> = (0..64)
                .filter(|n| kernel.replicated_processes >> n & 1 == 1)
                .map(|n: u32| n.to_string())
                .collect();
            write!(f, "+mitosis-for={}", numbers.join(","))?;
        }
        write!(f, "{}{}", self.segments, self.passthrough)?;
        if self.trap_each {
            f.write_str("+trap-each")?;
        }
        if let Some(babelfish) = self.babelfish {
            write!(f, "{babelfish}")?;
        }
        self.named().try_for_each(|name| write!(f, "+{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_parses_and_prints_as_itself() {
        for (name, _) in presets() {
            assert_eq!(System::parse(name).unwrap().to_string(), name);
        }
        for name in [
            "nested+frag=0.5+host-placement=interleave",
            "native+5level+pt-node=2",
            "native+numa-balancing",
            "nested+vnuma+mitosis=lazy+host-numa-balancing+host-mitosis=0,2+spread",
            "native+mitosis+mitosis-for=0,3",
            "nested+ptemagnet+group-limit=64+ptemagnet-from=128",
            "native+mitosis=auto+table-cache=64+interference=1:20",
            "nested+host-pt-node=1+host-vmitosis+interference=1",
            "nested+ptemagnet",
            "nested+ptemagnet=16+pcp=31+swap=64+host-swap=16",
            "dual-direct-thp-4k+frag=0.5+bad=16+filter=512+filter-functions=8+promote",
            "direct-segment-thp+bad=3",
            "native+babelfish=no-mask+aslr=software+share-l1",
            "nested-thp-4k+vnuma+mitosis+babelfish=tables",
            "shadow-thp-thp+host-mitosis+trap-each",
            "passthrough+twin-free",
            "passthrough+host-mitosis+no-table-check+overlapped-check+enlightened=1+fast-entry+live-migration",
        ] {
            assert_eq!(System::parse(name).unwrap().to_string(), name);
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        let why = |name: &str| System::parse(name).unwrap_err().to_string();
        assert!(why("nativ-thp").contains("did you mean `native-thp`"), "{}", why("nativ-thp"));
        assert!(why("native-thp-4k").contains("too many page sizes"));
        assert!(why("native-64k").contains("no page size"));
        assert!(why("direct-segment-4k-4k").contains("too many page sizes"));
        assert!(why("dual-direct+filter=100").contains("power of two"));
        assert!(why("nested+bad=1").contains("systems with segments"));
        assert!(why("guest-direct-2m").contains("no reserved huge pages"));
        assert!(why("vmm-direct-4k-2m").contains("no reserved huge pages"));
        assert!(why("guest-direct+bad=1").contains("goes around them"));
        assert!(why("vmm-direct+vnuma").contains("one node"));
        assert!(why("native+frg=0.1").contains("did you mean `frag`"));
        assert!(why("native+frag=2").contains("no share"));
        assert!(why("nested+ptemagnet=12").contains("2, 4, 8, 16, 32 or 64"));
        assert!(why("nested+ptemagnet=x").contains("no number of pages"));
        assert!(why("nested+pcp=0").contains("from 1 to"));
        assert!(why("nested+ptemagnet-from=8").contains("choice of `ptemagnet`"));
        assert!(why("native+mitosis-for=1").contains("choice of `mitosis`"));
        assert!(why("native+mitosis+mitosis-for=64").contains("0 to 63"));
        assert!(why("native+host-frag=0.5").contains("no host under it"));
        assert!(why("native+vnuma").contains("no guest"));
        assert!(why("nested+mitosis").contains("`mitosis=no-p`"));
        assert!(why("nested+vnuma+mitosis=no-p").contains("without `vnuma`"));
        assert!(why("nested+numa-balancing").contains("nowhere to move"));
        assert!(why("native+mitosis+vmitosis").contains("not both"));
        assert!(why("shadow+vnuma+mitosis").contains("no walker"));
        assert!(why("nested+host-mitosis=auto").contains("by process"));
        assert!(why("native+mitosis=9").contains("neither"));
        assert!(why("native+babelfish+share-l1").contains("aslr=software"));
        assert!(why("native+babelfish=tables+aslr=software+share-l1").contains("shares none"));
        assert!(why("native+babelfish=all").contains("none of"));
        assert!(why("native+share-l1").contains("choice of `babelfish`"));
        assert!(why("shadow+babelfish").contains("shadow"));
        assert!(why("dual-direct+babelfish").contains("segment"));
        assert!(why("native+mitosis=lazy+babelfish").contains("from the start"));
        assert!(why("agile+trap-each").contains("is for `shadow`"));
        assert!(why("agile+vnuma+mitosis").contains("no walker"));
        assert!(why("nested+fast-entry").contains("are for `passthrough`"));
        assert!(why("passthrough-thp-thp+twin-free").contains("smaller entries"));
        assert!(why("passthrough+twin-free+live-migration").contains("fall back"));
        assert!(why("passthrough+twin-free+fast-entry").contains("never leaves"));
        assert!(why("passthrough+babelfish").contains("twins belong"));
        assert!(why("passthrough+vnuma+mitosis").contains("twins"));
        assert!(why("native+interference=1:x").contains("interference=1:20"));
        assert!(
            System::parse("native+mitosis=0-6").unwrap().check_on(4).unwrap_err().contains("nodes 0 to 3")
        );
        assert!(System::parse("nested+pt-node=1").unwrap().check_on(4).unwrap_err().contains("vnuma"));
        assert!(System::parse("native+pt-node=7").unwrap().check_on(4).unwrap_err().contains("nodes 0 to 3"));
    }
}
