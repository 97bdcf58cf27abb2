//! What processes that run could share: which of their translations are the same, which would be, and why the others are not.
//!
//! Processes share only with those of the same user and program (BabelFish's rule of groups). Two translations are
//! identical if they map the same frame at the same address with the same rights.

use machine::input::Permissions;
use rustc_hash::{FxHashMap as HashMap, FxHashSet as HashSet};
use serde::Serialize;
use trace::capture::{Line, Mapping, Snapshot};

/// A process that was looked at.
#[derive(Clone, Debug)]
pub struct Look {
    /// Whose it is.
    pub user: u32,
    /// What was seen.
    pub snapshot: Snapshot,
}

/// What can be said of one translation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Another process has the same.
    Identical,
    /// Another maps the same frame at another address: the same once layouts are one (ASLR in software, or BabelFish's in hardware).
    OtherAddress,
    /// Another maps the same frame at the same address with other rights.
    OtherRights,
    /// Others map the page at the same place and have not touched it: they would find it in a shared table.
    Untouched,
    /// A page of a file of which this process, or each other that maps it, has a copy of its own.
    Copied,
    /// Anonymous memory of its own.
    Private,
    /// Of a file that no other process of the group maps there.
    Alone,
    /// Frames were not shown, and the mapping does not tell.
    Unknown,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Verdict; 8] = [
        Verdict::Identical,
        Verdict::OtherAddress,
        Verdict::OtherRights,
        Verdict::Untouched,
        Verdict::Copied,
        Verdict::Private,
        Verdict::Alone,
        Verdict::Unknown,
    ];
}

/// What a mapping is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Instructions of a file.
    Code,
    /// What a file holds to be read.
    Constants,
    /// A private mapping of a file that may be written.
    Data,
    /// A shared mapping of a file, or shared memory.
    Shared,
    /// Anonymous memory: heap, stack, mappings.
    Anonymous,
}

impl Kind {
    fn of(line: &Line) -> Kind {
        let Permissions { write, execute, .. } = line.permissions();
        match (line.inode != 0, line.mode.shared) {
            (_, true) => Kind::Shared,
            (false, _) => Kind::Anonymous,
            (true, _) if execute => Kind::Code,
            (true, _) if write => Kind::Data,
            (true, _) => Kind::Constants,
        }
    }
}

/// Counts by [`Verdict`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    /// Translations.
    pub entries: u64,
    /// By verdict, in the order of [`Verdict::ALL`].
    pub by: [u64; 8],
}

impl Counts {
    /// How many have a verdict.
    pub fn get(&self, verdict: Verdict) -> u64 {
        self.by[verdict as usize]
    }
    /// Those that a group could have once, now or with one layout: of those known.
    pub fn shareable(&self) -> u64 {
        self.get(Verdict::Identical) + self.get(Verdict::OtherAddress)
    }
    fn count(&mut self, verdict: Verdict) {
        self.entries += 1;
        self.by[verdict as usize] += 1;
    }
}

/// Processes that may share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// Whose.
    pub user: u32,
    /// Their program.
    pub program: String,
    /// Which.
    pub pids: Vec<u32>,
    /// All translations.
    pub all: Counts,
    /// By what their mappings are.
    pub kinds: Vec<(Kind, Counts)>,
    /// Translations that would be left if equal ones were one.
    pub distinct: u64,
    /// Translations of huge pages among all.
    pub huge: u64,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// By user and program.
    pub groups: Vec<Group>,
    /// What could not be seen, why, and what would help.
    pub unseen: Vec<String>,
}

/// What a translation leads to: a frame, or where frames are not shown the page of a file that it must be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Target {
    Frame(u64),
    Page(u64, u64),
}

/// One translation.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    va: u64,
    size_log2: u8,
    rights: u8,
    /// None: not shown.
    target: Option<Target>,
    /// File and page.
    page: Option<(u64, u64)>,
    kind: Kind,
}

fn rights(line: &Line) -> u8 {
    let Permissions { read, write, execute } = line.permissions();
    u8::from(read) | u8::from(write) << 1 | u8::from(execute) << 2
}

fn leaves(mapping: &Mapping) -> impl Iterator<Item = Leaf> + '_ {
    let line = &mapping.line;
    let kind = Kind::of(line);
    mapping.runs.iter().flat_map(move |run| {
        let step = 1u64 << (run.size_log2 - 12);
        (0..run.pages).step_by(step as usize).map(move |at| {
            let number = run.page + at;
            let page = (line.inode != 0).then_some((line.inode, (line.offset >> 12) + number));
            // Without frames, a page that cannot have been copied is the file's.
            let certain = page.filter(|_| line.mode.shared || !line.permissions().write);
            let target = match run.frame {
                Some(frame) => Some(Target::Frame(frame + at)),
                None => certain.map(|(file, page)| Target::Page(file, page)),
            };
            let va = line.start + number * 4096;
            Leaf { va, size_log2: run.size_log2, rights: rights(line), target, page, kind }
        })
    })
}

/// Everyone of a group who has something: the processes, as bits if there are few, else how many.
#[derive(Clone, Copy, Debug, Default)]
struct Who {
    first: usize,
    several: bool,
}

impl Who {
    fn add<K: std::hash::Hash + Eq>(map: &mut HashMap<K, Who>, key: K, process: usize) {
        let who = map.entry(key).or_insert(Who { first: process, several: false });
        who.several |= who.first != process;
    }
    /// Whether another than `process` is among them.
    fn other(self, process: usize) -> bool {
        self.several || self.first != process
    }
}

fn group(user: u32, program: String, members: &[&Look]) -> Group {
    let mut same = HashMap::default();
    let mut same_frame = HashMap::default();
    let mut targets = HashMap::default();
    let mut pages = HashMap::default();
    for (at, member) in members.iter().enumerate() {
        for leaf in member.snapshot.mappings.iter().flat_map(leaves) {
            if let Some(target) = leaf.target {
                Who::add(&mut same, (leaf.va, leaf.size_log2, leaf.rights, target), at);
                Who::add(&mut same_frame, (leaf.va, target), at);
                Who::add(&mut targets, (leaf.page, target), at);
            }
            if let Some(page) = leaf.page {
                Who::add(&mut pages, page, at);
            }
        }
    }
    // Where each member maps pages of files: at an address with these rights.
    let mut maps: HashMap<_, Vec<(usize, u64, u64)>> = HashMap::default();
    for (at, member) in members.iter().enumerate() {
        for line in
            member.snapshot.mappings.iter().map(|mapping| &mapping.line).filter(|line| line.inode != 0)
        {
            let base = line.start.wrapping_sub(line.offset);
            maps.entry((line.inode, base, rights(line))).or_default().push((at, line.start, line.end));
        }
    }
    let mut result = Group {
        user,
        program,
        pids: Vec::new(),
        all: Counts::default(),
        kinds: Vec::new(),
        distinct: 0,
        huge: 0,
    };
    let mut seen = HashSet::default();
    let mut kinds: std::collections::BTreeMap<Kind, Counts> = Default::default();
    for (at, member) in members.iter().enumerate() {
        result.pids.push(member.snapshot.pid);
        for leaf in member.snapshot.mappings.iter().flat_map(leaves) {
            let has = |who: Option<&Who>| who.is_some_and(|who| who.other(at));
            let verdict = match leaf.target {
                None => Verdict::Unknown,
                Some(target) if has(same.get(&(leaf.va, leaf.size_log2, leaf.rights, target))) => {
                    Verdict::Identical
                }
                Some(target) if has(same_frame.get(&(leaf.va, target))) => Verdict::OtherRights,
                Some(target) => match leaf.page {
                    Some(_) if has(targets.get(&(leaf.page, target))) => Verdict::OtherAddress,
                    Some(page) if has(pages.get(&page)) => Verdict::Copied,
                    Some((file, page)) => {
                        let base = leaf.va.wrapping_sub(page << 12);
                        let others = maps.get(&(file, base, leaf.rights)).into_iter().flatten();
                        let covers = |(who, start, end): &(usize, u64, u64)| {
                            *who != at && *start <= leaf.va && leaf.va < *end
                        };
                        match others.into_iter().any(covers) {
                            true => Verdict::Untouched,
                            false => Verdict::Alone,
                        }
                    }
                    None => Verdict::Private,
                },
            };
            let new = match leaf.target {
                None => true,
                Some(target) => seen.insert((leaf.va, leaf.size_log2, leaf.rights, target)),
            };
            result.distinct += u64::from(new);
            result.huge += u64::from(leaf.size_log2 > 12);
            result.all.count(verdict);
            kinds.entry(leaf.kind).or_default().count(verdict);
        }
    }
    result.kinds = kinds.into_iter().collect();
    result
}

/// Compares processes, those of each user and program with each other.
pub fn compare(looks: &[Look]) -> Report {
    let mut groups: Vec<(u32, String, Vec<&Look>)> = Vec::new();
    let mut unseen: Vec<String> = Vec::new();
    for look in looks {
        let program = &look.snapshot.program;
        match groups.iter_mut().find(|(user, of, _)| *user == look.user && of == program) {
            Some((.., members)) => members.push(look),
            None => groups.push((look.user, program.clone(), vec![look])),
        }
        for sentence in &look.snapshot.unseen {
            // Once, not for each process.
            let sentence = sentence.replace(&format!("snapshot {}", look.snapshot.pid), "snapshot PID");
            if !unseen.contains(&sentence) {
                unseen.push(sentence);
            }
        }
    }
    let groups = groups.into_iter().map(|(user, program, members)| group(user, program, &members)).collect();
    Report { groups, unseen }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trace::capture::{Advice, Run};

    fn mapping(line: &str, runs: &[(u64, u64, Option<u64>)]) -> Mapping {
        let runs = runs
            .iter()
            .map(|&(page, pages, frame)| Run { page, pages, size_log2: 12, frame, node: None })
            .collect();
        Mapping { line: Line::parse(line).unwrap(), advice: Advice::None, on_nodes: Vec::new(), runs }
    }

    fn look(pid: u32, user: u32, mappings: Vec<Mapping>) -> Look {
        let snapshot = Snapshot { pid, program: "/bin/a".to_string(), mappings, ..Snapshot::default() };
        Look { user, snapshot }
    }

    /// Two forked processes, and one whose layout is another.
    fn three(frames: bool) -> Vec<Look> {
        let f = |frame: u64| frames.then_some(frame);
        let code = |start: u64, pages| {
            let line = format!("{:x}-{:x} r-xp 00001000 fe:00 7 /bin/a", start, start + 0x4000);
            mapping(&line, &[(0, pages, f(100))])
        };
        let data = |start: u64, frame| {
            let line = format!("{:x}-{:x} rw-p 00005000 fe:00 7 /bin/a", start, start + 0x2000);
            mapping(&line, &[(0, 1, f(110)), (1, 1, f(frame))])
        };
        let heap = |frame| {
            mapping("10000000-10002000 rw-p 00000000 00:00 0 [heap]", &[(0, 1, f(120)), (1, 1, f(frame))])
        };
        vec![
            look(1, 0, vec![code(0x40_0000, 3), data(0x60_0000, 111), heap(121)]),
            look(2, 0, vec![code(0x40_0000, 2), data(0x60_0000, 211), heap(221)]),
            look(3, 0, vec![code(0x50_0000, 1)]),
            look(4, 1, vec![code(0x40_0000, 3)]),
        ]
    }

    #[test]
    fn each_translation_has_its_verdict() {
        let report = compare(&three(true));
        let group = &report.groups[0];
        assert_eq!((group.pids.as_slice(), group.all.entries), (&[1, 2, 3][..], 14));
        let get = |verdict| group.all.get(verdict);
        // Two pages of code, the first of data, the heap's first: twice each.
        assert_eq!(get(Verdict::Identical), 8);
        assert_eq!(get(Verdict::OtherAddress), 1, "the code of the third");
        assert_eq!(get(Verdict::Untouched), 1, "the third page of code");
        assert_eq!((get(Verdict::Copied), get(Verdict::Private)), (2, 2));
        assert_eq!(group.distinct, 14 - 4);
        assert_eq!(group.all.shareable(), 9);
        // The other user's process is alone, though it maps the same frames.
        assert_eq!(report.groups[1].pids, [4]);
        assert_eq!(report.groups[1].all.get(Verdict::Alone), 3);
    }

    #[test]
    fn without_frames_only_what_mappings_tell_is_known() {
        let group = &compare(&three(false)).groups[0];
        let get = |verdict| group.all.get(verdict);
        assert_eq!((get(Verdict::Identical), get(Verdict::OtherAddress), get(Verdict::Untouched)), (4, 1, 1));
        assert_eq!(get(Verdict::Unknown), 8);
        assert_eq!(
            group.kinds.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
            [Kind::Code, Kind::Data, Kind::Anonymous]
        );
    }
}
