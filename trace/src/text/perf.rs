//! `perf script`: samples with data addresses, or the tracepoint
//! `exceptions:page_fault_user`; and `perf mem report -D`.
//!
//! `perf script -F` chooses columns but not their order, which is perf's own:
//! comm, pid/tid, cpu, time, period, event, addr, `data_src`; what follows is not
//! looked at. Without a list of fields each line must hold a page fault.

use super::number::{decimal, fields, hex, shown};
use super::{Lines, Out};
use crate::options::Format;
use machine::input::Kind;

const SIZE_LOG2: u8 = 3;

/// `perf script` text.
#[derive(Debug)]
pub(crate) struct PerfScript {
    fields: Option<Fields>,
}

#[derive(Debug, Default)]
struct Fields {
    comm: bool,
    pid: bool,
    tid: bool,
    cpu: bool,
    time: bool,
    period: bool,
    event: bool,
    data_src: bool,
}

impl PerfScript {
    /// With the list that `perf script -F` was given, if it was.
    pub(crate) fn new(list: Option<&str>) -> Result<PerfScript, String> {
        let Some(list) = list else { return Ok(PerfScript { fields: None }) };
        let mut fields = Fields::default();
        let mut addr = false;
        for name in list.split(',').map(str::trim) {
            match name {
                "comm" => fields.comm = true,
                "pid" => fields.pid = true,
                "tid" => fields.tid = true,
                "cpu" => fields.cpu = true,
                "time" => fields.time = true,
                "period" => fields.period = true,
                "event" => fields.event = true,
                "data_src" => fields.data_src = true,
                "addr" => addr = true,
                // They stand behind what is needed.
                "weight" | "ip" | "sym" | "dso" | "symoff" | "phys_addr" | "data_page_size"
                | "code_page_size" => {}
                other => return Err(format!("perf field '{other}' is not known here")),
            }
        }
        if !addr {
            return Err(format!("the perf fields '{list}' have no 'addr': there is nothing to read"));
        }
        Ok(PerfScript { fields: Some(fields) })
    }
}

/// `pid/tid` or `tid`.
fn thread(field: &[u8]) -> Option<(u64, u64)> {
    match memchr::memchr(b'/', field) {
        Some(slash) => Some((decimal(&field[..slash])?, decimal(&field[slash + 1..])?)),
        None => decimal(field).map(|tid| (0, tid)),
    }
}

/// A user page fault: `address=… ip=… error_code=…` (Intel SDM vol. 3 §4.7:
/// bit 1 of the code is a write, bit 4 a fetch).
pub(crate) fn page_fault(line: &[u8]) -> Option<(u64, Kind)> {
    let at = memchr::memmem::find(line, b"page_fault_user:")?;
    let value = |name: &[u8]| fields(&line[at..]).find_map(|field| hex(field.strip_prefix(name)?));
    let code = value(b"error_code=")?;
    let kind = match (code & 2 != 0, code & 16 != 0) {
        (true, _) => Kind::Write,
        (_, true) => Kind::Fetch,
        _ => Kind::Read,
    };
    Some((value(b"address=")?, kind))
}

/// The thread of a line in perf's default form: the last number before `[cpu]`.
fn default_thread(line: &[u8]) -> Option<(u64, u64)> {
    let cpu = memchr::memchr(b'[', line)?;
    thread(line[..cpu].trim_ascii_end().rsplit(u8::is_ascii_whitespace).next()?)
}

/// Takes the columns of a line in turn.
fn sample(line: &[u8], wanted: &Fields) -> Option<((u64, u64), u64, Kind)> {
    let has_thread = wanted.pid || wanted.tid;
    let mut rest = fields(line);
    if wanted.comm {
        // A name may have blanks and numbers in it: count back from what follows.
        let is_next = |field: &[u8]| match (wanted.cpu, wanted.time) {
            (true, _) => field.starts_with(b"["),
            (_, true) => field.ends_with(b":"),
            _ => thread(field).is_some(),
        };
        let behind = fields(line).position(is_next)?;
        let back = usize::from(has_thread && (wanted.cpu || wanted.time));
        rest.nth(behind.checked_sub(back)?.checked_sub(1)?)?;
    }
    let mut who = (0, 0);
    if has_thread {
        who = thread(rest.next()?)?;
    }
    if wanted.cpu {
        rest.next()?.strip_prefix(b"[")?;
    }
    if wanted.time {
        rest.next()?.strip_suffix(b":")?;
    }
    if wanted.period {
        decimal(rest.next()?)?;
    }
    let mut store = false;
    if wanted.event {
        let event = rest.next()?.strip_suffix(b":")?;
        store = memchr::memmem::find(event, b"store").is_some();
    }
    let va = hex(rest.next()?)?;
    let kind = match wanted.data_src {
        true => op(hex(rest.next()?)?)?,
        false if store => Kind::Write,
        false => Kind::Read,
    };
    Some((who, va, kind))
}

/// The operation of a `data_src` (Linux, `perf_mem_data_src`: load 2, store 4, prefetch 8, exec 16).
fn op(data_src: u64) -> Option<Kind> {
    Some(match data_src & 0x1f {
        op if op & 4 != 0 => Kind::Write,
        op if op & 16 != 0 => Kind::Fetch,
        _ => Kind::Read,
    })
}

impl Lines for PerfScript {
    const FORMAT: Format = Format::PerfScript;

    fn line(&mut self, line: &[u8], out: &mut Out<'_>) -> Result<(), String> {
        if line.trim_ascii().is_empty() || line.starts_with(b"#") {
            return Ok(());
        }
        let (who, va, kind) = match &self.fields {
            None => {
                let no_fault = || {
                    let line = shown(line);
                    format!(
                        "{line} is no page fault; for other events say what perf script -F was given: --perf-fields comm,tid,time,event,addr"
                    )
                };
                let (va, kind) = page_fault(line).ok_or_else(no_fault)?;
                (default_thread(line).ok_or_else(no_fault)?, va, kind)
            }
            Some(fields) => sample(line, fields).ok_or_else(|| {
                format!("{} does not have the columns that --perf-fields says", shown(line))
            })?,
        };
        // A sample without an address.
        if va == 0 {
            return Ok(());
        }
        out.by(who.0, who.1)?;
        out.access(va, kind, SIZE_LOG2, 1)
    }

    fn notes(&self) -> Vec<String> {
        vec![match self.fields {
            None => "only the first touch of each page is in the trace (page faults)".to_owned(),
            Some(_) => "samples, not every access: counts are no absolute numbers".to_owned(),
        }]
    }
}

/// `perf mem report -D` text: columns named by its first line.
#[derive(Debug, Default)]
pub(crate) struct PerfMem {
    /// Where pid, tid, addr and dsrc are.
    columns: Option<[usize; 4]>,
    separator: Option<u8>,
}

impl PerfMem {
    fn header(&mut self, line: &[u8]) -> Option<()> {
        let names: Vec<_> = line.strip_prefix(b"#")?.split(|b| *b == b',').map(<[u8]>::trim_ascii).collect();
        let at = |name: &[u8]| names.iter().position(|n| *n == name);
        self.columns = Some([at(b"PID")?, at(b"TID")?, at(b"ADDR")?, at(b"DSRC")?]);
        Some(())
    }

    fn sample(&mut self, line: &[u8], columns: [usize; 4]) -> Option<((u64, u64), u64, Kind)> {
        let comma = memchr::memchr(b',', line).is_some();
        let separator = *self.separator.get_or_insert(if comma { b',' } else { b' ' });
        let parts: Vec<_> = if separator == b',' {
            line.split(|b| *b == b',').map(<[u8]>::trim_ascii).collect()
        } else {
            fields(line).collect()
        };
        let [pid, tid, addr, dsrc] = columns.map(|at| parts.get(at).copied());
        let mut addr = addr?;
        // perf prints the address as "0x016" and then its digits where it means
        // sixteen digits (tools/perf/builtin-mem.c), but not with a separator.
        if separator == b' ' && addr.len() != 18 {
            addr = addr.strip_prefix(b"0x016").unwrap_or(addr);
        }
        Some(((decimal(pid?)?, decimal(tid?)?), hex(addr)?, op(hex(dsrc?)?)?))
    }
}

impl Lines for PerfMem {
    const FORMAT: Format = Format::PerfMem;

    fn line(&mut self, line: &[u8], out: &mut Out<'_>) -> Result<(), String> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        if line.starts_with(b"#") {
            self.header(line).unwrap_or_default();
            return Ok(());
        }
        let columns = self.columns.ok_or("the line that names the columns (# PID, TID, …) is missing")?;
        let (who, va, kind) = self
            .sample(line, columns)
            .ok_or_else(|| format!("{} does not have the columns named above", shown(line)))?;
        if va == 0 {
            return Ok(());
        }
        out.by(who.0, who.1)?;
        out.access(va, kind, SIZE_LOG2, 1)
    }

    fn notes(&self) -> Vec<String> {
        vec!["samples, not every access: counts are no absolute numbers".to_owned()]
    }
}
