//! Looking at a process through `/proc` (formats: proc(5) and
//! Documentation/admin-guide/mm/pagemap.rst).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::{Advice, Mapping, Run, Snapshot, scan};
use crate::capture::CaptureError;
use crate::capture::maps::Line;

/// Bits of a word of `pagemap`.
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;
/// The kernel's own pages, which every process has alike.
const KERNEL: [&str; 4] = ["[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"];

/// Looks at a running process. What needs a privilege that is lacking is left
/// out, and said so in [`Snapshot::unseen`].
///
/// # Errors
/// If there is no such process, or its mappings may not be read.
pub fn snapshot(pid: u32) -> Result<Snapshot, CaptureError> {
    let error = |error| refused(pid, error);
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).map_err(error)?;
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).map_err(error)?;
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let nodes = Nodes::read();
    let mut unseen = Unseen::default();
    let on_nodes = numa_maps(pid);
    let mut mappings = Vec::new();
    for (line, keys) in parse_smaps(&smaps) {
        if KERNEL.contains(&line.name.as_str()) {
            continue;
        }
        let reserved = keys.get("KernelPageSize").copied().filter(|&kib| kib > 4);
        let mut runs = runs_of(&pagemap, &line, &nodes, &mut unseen).map_err(error)?;
        let sizes = match reserved {
            Some(kib) => vec![(line.start, line.end, 10 + kib.trailing_zeros() as u8)],
            None => huge_ranges(&pagemap, &line, &keys, &mut unseen),
        };
        for (start, end, size) in sizes {
            mark(&mut runs, (start - line.start) / 4096, (end - line.start) / 4096, size);
        }
        let advice = match (reserved, keys.get("hg"), keys.get("nh")) {
            (Some(kib), ..) => Advice::Reserved(kib),
            (_, Some(_), _) => Advice::Huge,
            (_, _, Some(_)) => Advice::NoHuge,
            _ => Advice::None,
        };
        let frames_seen = runs.iter().all(|r| r.frame.is_some());
        let on_nodes =
            if frames_seen { Vec::new() } else { on_nodes.get(&line.start).cloned().unwrap_or_default() };
        mappings.push(Mapping { line, advice, on_nodes, runs });
    }
    Ok(Snapshot {
        version: 1,
        pid,
        program: program.to_string_lossy().into_owned(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        nodes: nodes.count,
        mappings,
        unseen: unseen.sentences(pid),
    })
}

/// Why the kernel did not let a process be looked at.
fn refused(pid: u32, error: io::Error) -> CaptureError {
    // The files in a closed process's directory are shown as root's; the directory itself as its user's (proc(5)).
    let owner = std::fs::metadata(format!("/proc/{pid}")).map(|directory| directory.uid());
    match (error.kind(), owner) {
        (io::ErrorKind::PermissionDenied, Ok(user)) if user == rustix::process::geteuid().as_raw() => {
            CaptureError::Closed { pid, user }
        }
        (io::ErrorKind::PermissionDenied, Ok(user)) => CaptureError::NotYours { pid, user },
        _ => CaptureError::Process { pid, error },
    }
}

/// What could not be seen.
#[derive(Debug, Default)]
struct Unseen {
    frames: bool,
    sizes: Option<String>,
}

impl Unseen {
    fn sentences(&self, pid: u32) -> Vec<String> {
        let mut all = Vec::new();
        if self.frames {
            all.push(format!(
                "frame numbers: the kernel shows them with CAP_SYS_ADMIN only (`sudo pagewalk snapshot {pid}`); \
                 without, the nodes of pages are known by mapping only"
            ));
        }
        if let Some(why) = &self.sizes {
            all.push(format!("which pages are huge: needs PAGEMAP_SCAN of Linux 6.7 ({why}); all taken for 4 KiB where a mapping has both"));
        }
        all
    }
}

/// Lines of `smaps` with their keys in KiB; flags of `VmFlags` are keys, too.
fn parse_smaps(text: &str) -> Vec<(Line, BTreeMap<&str, u64>)> {
    let mut all: Vec<(Line, BTreeMap<&str, u64>)> = Vec::new();
    for text in text.lines() {
        if let Some(line) = Line::parse(text) {
            all.push((line, BTreeMap::new()));
        } else if let (Some((key, value)), Some((_, keys))) = (text.split_once(':'), all.last_mut()) {
            if key == "VmFlags" {
                keys.extend(value.split_whitespace().map(|flag| (flag, 1)));
            } else if let Ok(kib) = value.trim().trim_end_matches(" kB").parse() {
                keys.insert(key, kib);
            }
        }
    }
    all
}

/// The pages that are present, as runs of 4 KiB.
fn runs_of(pagemap: &File, line: &Line, nodes: &Nodes, unseen: &mut Unseen) -> io::Result<Vec<Run>> {
    let pages = (line.end - line.start) / 4096;
    let mut runs: Vec<Run> = Vec::new();
    let mut words = vec![0; 8 * 4096];
    let mut page = 0;
    while page < pages {
        let want = words.len().min(8 * (pages - page) as usize);
        let n = pagemap.read_at(&mut words[..want], (line.start / 4096 + page) * 8)?;
        if n < 8 {
            break;
        }
        for word in words[..n].chunks_exact(8) {
            let word = u64::from_le_bytes(word.try_into().expect("8 bytes"));
            if word & PRESENT != 0 {
                let frame = Some(word & FRAME).filter(|&f| f != 0);
                unseen.frames |= frame.is_none();
                let node = frame.and_then(|f| nodes.of(f));
                match runs.last_mut() {
                    Some(run)
                        if run.page + run.pages == page
                            && run.node == node
                            && run.frame.map(|f| f + run.pages) == frame =>
                    {
                        run.pages += 1;
                    }
                    _ => runs.push(Run { page, pages: 1, size_log2: 12, frame, node }),
                }
            }
            page += 1;
        }
    }
    Ok(runs)
}

/// Ranges of a mapping that are mapped by 2 MiB entries.
fn huge_ranges(
    pagemap: &File,
    line: &Line,
    keys: &BTreeMap<&str, u64>,
    unseen: &mut Unseen,
) -> Vec<(u64, u64, u8)> {
    const HUGE: u64 = 2 << 20;
    let kib: u64 =
        ["AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"].iter().filter_map(|k| keys.get(k)).sum();
    if kib == 0 {
        return Vec::new();
    }
    match scan::huge(pagemap, line.start, line.end) {
        Ok(ranges) => ranges.into_iter().map(|(start, end)| (start, end, 21)).collect(),
        Err(error) => {
            // All that can be huge is huge: then it is known all the same.
            let (start, end) = (line.start.next_multiple_of(HUGE), line.end / HUGE * HUGE);
            if start < end && end - start == kib << 10 {
                return vec![(start, end, 21)];
            }
            unseen.sizes = Some(error.to_string());
            Vec::new()
        }
    }
}

/// Cuts runs at a range of pages and gives those inside it the size of their entries.
fn mark(runs: &mut Vec<Run>, start: u64, end: u64, size_log2: u8) {
    let mut out = Vec::with_capacity(runs.len() + 2);
    for run in runs.iter() {
        let stop = run.page + run.pages;
        for (from, to, inside) in [
            (run.page, stop.min(start), false),
            (run.page.max(start), stop.min(end), true),
            (run.page.max(end), stop, false),
        ] {
            if from < to {
                out.push(Run {
                    page: from,
                    pages: to - from,
                    size_log2: if inside { size_log2 } else { run.size_log2 },
                    frame: run.frame.map(|f| f + (from - run.page)),
                    node: run.node,
                });
            }
        }
    }
    *runs = out;
}

/// Pages on each node, by mapping: `ADDRESS POLICY … N0=12 N1=3 kernelpagesize_kB=4`.
fn numa_maps(pid: u32) -> BTreeMap<u64, Vec<(u16, u64)>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap_or_default();
    text.lines().filter_map(numa_line).collect()
}

fn numa_line(line: &str) -> Option<(u64, Vec<(u16, u64)>)> {
    let mut words = line.split_whitespace();
    let start = u64::from_str_radix(words.next()?, 16).ok()?;
    let (mut nodes, mut unit) = (Vec::new(), 1);
    for (key, value) in words.filter_map(|w| w.split_once('=')) {
        if key == "kernelpagesize_kB" {
            unit = value.parse::<u64>().ok()? / 4;
        } else if let Some(node) = key.strip_prefix('N').and_then(|n| n.parse().ok()) {
            nodes.push((node, value.parse::<u64>().ok()?));
        }
    }
    nodes.iter_mut().for_each(|(_, pages)| *pages *= unit);
    Some((start, nodes))
}

/// Which node's memory a frame is.
#[derive(Debug, Default)]
struct Nodes {
    count: u16,
    /// First frame of each block of memory that a node has.
    blocks: BTreeMap<u64, u16>,
    block_frames: u64,
}

impl Nodes {
    /// From sysfs: each node's directory links to its blocks of memory.
    fn read() -> Nodes {
        let block =
            std::fs::read_to_string("/sys/devices/system/memory/block_size_bytes").unwrap_or_default();
        let block_frames = u64::from_str_radix(block.trim(), 16).unwrap_or(0) / 4096;
        let mut nodes = Nodes { count: 0, blocks: BTreeMap::new(), block_frames };
        let number = |name: std::ffi::OsString, prefix: &str| -> Option<u64> {
            name.to_str()?.strip_prefix(prefix)?.parse().ok()
        };
        for entry in std::fs::read_dir("/sys/devices/system/node").into_iter().flatten().flatten() {
            let Some(node) = number(entry.file_name(), "node") else { continue };
            nodes.count += 1;
            for block in std::fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                if let Some(block) = number(block.file_name(), "memory") {
                    nodes.blocks.insert(block * block_frames, node as u16);
                }
            }
        }
        nodes.count = nodes.count.max(1);
        nodes
    }

    fn of(&self, frame: u64) -> Option<u16> {
        if self.count == 1 {
            return Some(0);
        }
        let (&first, &node) = self.blocks.range(..=frame).next_back()?;
        (frame < first + self.block_frames).then_some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_cut_where_entries_change() {
        let run =
            |page, pages, size_log2, frame| Run { page, pages, size_log2, frame: Some(frame), node: Some(0) };
        let mut runs = vec![run(0, 100, 12, 1000), run(200, 1000, 12, 5000)];
        mark(&mut runs, 512, 1024, 21);
        assert_eq!(
            runs,
            [
                run(0, 100, 12, 1000),
                run(200, 312, 12, 5000),
                run(512, 512, 21, 5312),
                run(1024, 176, 12, 5824)
            ]
        );
    }

    #[test]
    fn numa_maps_counts_small_pages() {
        let line = "7f26a0000000 default anon=513 dirty=513 N0=1 N3=512 kernelpagesize_kB=4";
        assert_eq!(numa_line(line), Some((0x7f26_a000_0000, vec![(0, 1), (3, 512)])));
        let huge = "7f0000000000 bind:1 file=/anon_hugepage huge dirty=2 N1=2 kernelpagesize_kB=2048";
        assert_eq!(numa_line(huge), Some((0x7f00_0000_0000, vec![(1, 1024)])));
        assert_eq!(numa_line("no address"), None);
    }

    #[test]
    fn smaps_flags_are_keys() {
        let text =
            "1000-3000 rw-p 00000000 00:00 0 \nSize:  8 kB\nAnonHugePages:   0 kB\nVmFlags: rd wr hg \n";
        let all = parse_smaps(text);
        assert_eq!(all[0].1.get("Size"), Some(&8));
        assert!(all[0].1.contains_key("hg") && !all[0].1.contains_key("nh"));
    }

    #[test]
    fn frames_belong_to_the_node_that_has_their_block() {
        let nodes = Nodes { count: 2, blocks: [(0, 0), (1 << 15, 1)].into(), block_frames: 1 << 15 };
        assert_eq!([5, 40_000, 70_000].map(|f| nodes.of(f)), [Some(0), Some(1), None]);
    }
}
