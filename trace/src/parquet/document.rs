//! The JSON of the setup and of events: a stable form of
//! [`machine::input`]'s types, whose fields may change.

use crate::input::is_canonical;
use machine::input::{
    Backing, Event, HugeAdvice, Permissions, Populate, ProcessSetup, Region, Setup, ThreadSetup,
};
use paging::{PageSize, Va};
use serde::{Deserialize, Serialize};

/// An address as text: JSON's numbers are exact only to 2^53 in many readers.
#[derive(Clone, Copy)]
struct Hex(u64);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{:#x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Hex, D::Error> {
        let text = String::deserialize(d)?;
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        u64::from_str_radix(digits, 16).map(Hex).map_err(serde::de::Error::custom)
    }
}

#[derive(Serialize, Deserialize)]
struct SetupDoc {
    name: String,
    processes: Vec<ProcessDoc>,
    /// The process of each thread.
    threads: Vec<u16>,
}

#[derive(Serialize, Deserialize)]
struct ProcessDoc {
    name: String,
    regions: Vec<RegionDoc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<u16>,
    implicit_regions: bool,
}

#[derive(Serialize, Deserialize)]
struct RegionDoc {
    name: String,
    start: Hex,
    len: Hex,
    backing: BackingDoc,
    permissions: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    advice: Option<AdviceDoc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    populate: Option<PopulateDoc>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BackingDoc {
    Anonymous,
    SharedAnonymous,
    PrivateFile { file: String, offset: Hex },
    SharedFile { file: String, offset: Hex },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AdviceDoc {
    Huge,
    NoHuge,
    #[serde(rename = "reserved_4k")]
    Reserved4K,
    #[serde(rename = "reserved_2m")]
    Reserved2M,
    #[serde(rename = "reserved_1g")]
    Reserved1G,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PopulateDoc {
    By(u16),
    Partitioned,
    RoundRobin,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum EventDoc {
    Map { process: u16, region: RegionDoc },
    Unmap { process: u16, start: Hex, len: Hex },
    Protect { process: u16, start: Hex, len: Hex, permissions: String },
    Discard { process: u16, start: Hex, len: Hex },
    Fork { parent: u16, child: u16 },
    Exec { process: u16, image: ProcessDoc },
    Exit { process: u16 },
    Spawn { thread: u16, process: u16 },
    MoveThread { thread: u16, node: u8 },
    Request { thread: u16 },
}

fn permissions_to_text(p: Permissions) -> String {
    [(p.read, 'r'), (p.write, 'w'), (p.execute, 'x')].map(|(on, c)| if on { c } else { '-' }).iter().collect()
}

fn permissions_from_text(text: &str) -> Result<Permissions, String> {
    let bit = |at: usize, letter: u8| match text.as_bytes().get(at) {
        Some(c) if *c == letter => Ok(true),
        Some(b'-') => Ok(false),
        _ => Err(format!("permissions '{text}' are not of the form rwx with - for what is not allowed")),
    };
    if text.len() != 3 {
        bit(3, b' ')?;
    }
    Ok(Permissions { read: bit(0, b'r')?, write: bit(1, b'w')?, execute: bit(2, b'x')? })
}

/// Refuses a range that no address space can hold.
fn check_range(start: Hex, len: Hex) -> Result<(), String> {
    let end = start.0.checked_add(len.0);
    let last = end.and_then(|e| e.checked_sub(1)).filter(|_| len.0 > 0);
    match last {
        _ if !(start.0 | len.0).is_multiple_of(4096) => {
            Err(format!("range {:#x}+{:#x} is not of whole 4096-byte pages", start.0, len.0))
        }
        // Canonical ends in the same half: no hole between them.
        Some(last) if is_canonical(start.0) && is_canonical(last) && (start.0 ^ last) >> 63 == 0 => Ok(()),
        _ => Err(format!("range {:#x}+{:#x} is empty or not canonical", start.0, len.0)),
    }
}

impl From<&Region> for RegionDoc {
    fn from(r: &Region) -> RegionDoc {
        RegionDoc {
            name: r.name.clone(),
            start: Hex(r.start.raw()),
            len: Hex(r.len),
            backing: match &r.backing {
                Backing::Anonymous => BackingDoc::Anonymous,
                Backing::SharedAnonymous => BackingDoc::SharedAnonymous,
                Backing::PrivateFile { file, offset } => {
                    BackingDoc::PrivateFile { file: file.clone(), offset: Hex(*offset) }
                }
                Backing::SharedFile { file, offset } => {
                    BackingDoc::SharedFile { file: file.clone(), offset: Hex(*offset) }
                }
            },
            permissions: permissions_to_text(r.permissions),
            advice: match r.advice {
                HugeAdvice::None => None,
                HugeAdvice::Huge => Some(AdviceDoc::Huge),
                HugeAdvice::NoHuge => Some(AdviceDoc::NoHuge),
                HugeAdvice::Reserved(PageSize::Size4K) => Some(AdviceDoc::Reserved4K),
                HugeAdvice::Reserved(PageSize::Size2M) => Some(AdviceDoc::Reserved2M),
                HugeAdvice::Reserved(PageSize::Size1G) => Some(AdviceDoc::Reserved1G),
            },
            populate: match r.populate {
                Populate::OnDemand => None,
                Populate::By(thread) => Some(PopulateDoc::By(thread)),
                Populate::Partitioned => Some(PopulateDoc::Partitioned),
                Populate::RoundRobin => Some(PopulateDoc::RoundRobin),
            },
        }
    }
}

impl TryFrom<RegionDoc> for Region {
    type Error = String;
    fn try_from(d: RegionDoc) -> Result<Region, String> {
        check_range(d.start, d.len).map_err(|e| format!("region '{}': {e}", d.name))?;
        let file_offset = |offset: Hex| match offset.0.is_multiple_of(4096) {
            true => Ok(offset.0),
            false => Err(format!("region '{}': file offset {:#x} is not of whole pages", d.name, offset.0)),
        };
        Ok(Region {
            start: Va::new(d.start.0),
            len: d.len.0,
            backing: match d.backing {
                BackingDoc::Anonymous => Backing::Anonymous,
                BackingDoc::SharedAnonymous => Backing::SharedAnonymous,
                BackingDoc::PrivateFile { file, offset } => {
                    Backing::PrivateFile { file, offset: file_offset(offset)? }
                }
                BackingDoc::SharedFile { file, offset } => {
                    Backing::SharedFile { file, offset: file_offset(offset)? }
                }
            },
            permissions: permissions_from_text(&d.permissions)?,
            advice: match d.advice {
                None => HugeAdvice::None,
                Some(AdviceDoc::Huge) => HugeAdvice::Huge,
                Some(AdviceDoc::NoHuge) => HugeAdvice::NoHuge,
                Some(AdviceDoc::Reserved4K) => HugeAdvice::Reserved(PageSize::Size4K),
                Some(AdviceDoc::Reserved2M) => HugeAdvice::Reserved(PageSize::Size2M),
                Some(AdviceDoc::Reserved1G) => HugeAdvice::Reserved(PageSize::Size1G),
            },
            populate: match d.populate {
                None => Populate::OnDemand,
                Some(PopulateDoc::By(thread)) => Populate::By(thread),
                Some(PopulateDoc::Partitioned) => Populate::Partitioned,
                Some(PopulateDoc::RoundRobin) => Populate::RoundRobin,
            },
            name: d.name,
        })
    }
}

impl From<&ProcessSetup> for ProcessDoc {
    fn from(p: &ProcessSetup) -> ProcessDoc {
        ProcessDoc {
            name: p.name.clone(),
            regions: p.regions.iter().map(RegionDoc::from).collect(),
            group: p.group,
            implicit_regions: p.implicit_regions,
        }
    }
}

impl TryFrom<ProcessDoc> for ProcessSetup {
    type Error = String;
    fn try_from(d: ProcessDoc) -> Result<ProcessSetup, String> {
        let regions = d.regions.into_iter().map(Region::try_from).collect::<Result<Vec<_>, _>>()?;
        let mut order: Vec<&Region> = regions.iter().collect();
        order.sort_by_key(|r| r.start.raw());
        for pair in order.windows(2) {
            if pair[1].start.raw() - pair[0].start.raw() < pair[0].len {
                return Err(format!("regions '{}' and '{}' overlap", pair[0].name, pair[1].name));
            }
        }
        Ok(ProcessSetup { name: d.name, regions, group: d.group, implicit_regions: d.implicit_regions })
    }
}

/// The setup as JSON.
pub(crate) fn setup_to_json(setup: &Setup) -> String {
    let doc = SetupDoc {
        name: setup.name.clone(),
        processes: setup.processes.iter().map(ProcessDoc::from).collect(),
        threads: setup.threads.iter().map(|t| t.process).collect(),
    };
    serde_json::to_string(&doc).expect("strings and numbers only")
}

/// The setup from JSON, checked: ranges can exist and do not overlap.
pub(crate) fn setup_from_json(json: &str) -> Result<Setup, String> {
    let doc: SetupDoc = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let processes = doc.processes.into_iter().map(ProcessSetup::try_from).collect::<Result<Vec<_>, _>>()?;
    if doc.threads.len() > 1 << 16 || processes.len() > 1 << 16 {
        return Err("more than 65536 threads or processes".to_owned());
    }
    let regions = || processes.iter().flat_map(|p| &p.regions);
    let nobody = |r: &&Region| matches!(r.populate, Populate::By(t) if usize::from(t) >= doc.threads.len());
    if let Some(region) = regions().find(nobody) {
        return Err(format!("region '{}' is filled by a thread that is not there", region.name));
    }
    let threads = doc.threads.into_iter().map(|process| ThreadSetup { process }).collect();
    Ok(Setup { name: doc.name, processes, threads, more_threads: true, accesses: None })
}

fn event_doc(event: &Event) -> Result<EventDoc, String> {
    Ok(match event {
        Event::Map { process, region } => EventDoc::Map { process: *process, region: region.into() },
        Event::Unmap { process, start, len } => {
            EventDoc::Unmap { process: *process, start: Hex(start.raw()), len: Hex(*len) }
        }
        Event::Protect { process, start, len, permissions } => EventDoc::Protect {
            process: *process,
            start: Hex(start.raw()),
            len: Hex(*len),
            permissions: permissions_to_text(*permissions),
        },
        Event::Discard { process, start, len } => {
            EventDoc::Discard { process: *process, start: Hex(start.raw()), len: Hex(*len) }
        }
        Event::Fork { parent, child } => EventDoc::Fork { parent: *parent, child: *child },
        Event::Exec { process, image } => EventDoc::Exec { process: *process, image: image.into() },
        Event::Exit { process } => EventDoc::Exit { process: *process },
        Event::Spawn { thread, process } => EventDoc::Spawn { thread: *thread, process: *process },
        Event::MoveThread { thread, node } => EventDoc::MoveThread { thread: *thread, node: *node },
        Event::Request { thread } => EventDoc::Request { thread: *thread },
        other => return Err(format!("event {other:?} has no form in a trace file")),
    })
}

fn event_from_doc(doc: EventDoc) -> Result<Event, String> {
    let range = |start: Hex, len: Hex| check_range(start, len).map(|()| (Va::new(start.0), len.0));
    Ok(match doc {
        EventDoc::Map { process, region } => Event::Map { process, region: region.try_into()? },
        EventDoc::Unmap { process, start, len } => {
            let (start, len) = range(start, len)?;
            Event::Unmap { process, start, len }
        }
        EventDoc::Protect { process, start, len, permissions } => {
            let (start, len) = range(start, len)?;
            Event::Protect { process, start, len, permissions: permissions_from_text(&permissions)? }
        }
        EventDoc::Discard { process, start, len } => {
            let (start, len) = range(start, len)?;
            Event::Discard { process, start, len }
        }
        EventDoc::Fork { parent, child } => Event::Fork { parent, child },
        EventDoc::Exec { process, image } => Event::Exec { process, image: image.try_into()? },
        EventDoc::Exit { process } => Event::Exit { process },
        EventDoc::Spawn { thread, process } => Event::Spawn { thread, process },
        EventDoc::MoveThread { thread, node } => Event::MoveThread { thread, node },
        EventDoc::Request { thread } => Event::Request { thread },
    })
}

/// Events as a JSON list.
pub(crate) fn events_to_json(events: &[Event]) -> Result<String, String> {
    let docs = events.iter().map(event_doc).collect::<Result<Vec<_>, _>>()?;
    Ok(serde_json::to_string(&docs).expect("strings and numbers only"))
}

/// Events from a JSON list, each checked for itself.
pub(crate) fn events_from_json(json: &[u8]) -> Result<Vec<Event>, String> {
    let docs: Vec<EventDoc> = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    docs.into_iter().map(event_from_doc).collect()
}
