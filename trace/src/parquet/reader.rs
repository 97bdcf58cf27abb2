//! Reading: columns are decoded a batch at a time and joined to accesses.

use super::column::{Column, all_null, chunk_range};
use super::document::{events_from_json, setup_from_json};
use super::footer;
use super::schema::{
    COLUMNS, KEY_COMMAND, KEY_COMPLETE, KEY_CRC, KEY_EVENTS_BEFORE, KEY_SETUP, KEY_TOOL, KEY_VERSION, VERSION,
};
use super::store::Store;
use super::world::World;
use crate::error::{CUT_OFF, Hint, error};
use crate::input::is_canonical;
use crate::options::{Compression, Format};
use crate::roster;
use crate::source::{Facts, TraceSource};
use flate2::Crc;
use machine::input::{Access, BLOCK, Block, Event, Kind, More, Setup, Source, SourceError};
use paging::Va;
use parquet::basic::Type as Physical;
use parquet::data_type::{ByteArrayType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::Length;
use std::sync::Arc;

/// Rows decoded at a time: the columns of a batch stay in the L2 cache.
const BATCH: usize = 4096;

/// A trace in Pagewalk's own format.
#[derive(Debug)]
pub(crate) struct ParquetSource {
    name: String,
    store: Arc<Store>,
    footer: ParquetMetaData,
    /// Where each of [`COLUMNS`] is in the file.
    columns: [Option<usize>; COLUMNS.len()],
    fetches: bool,
    world: World,
    next_group: usize,
    group: Option<Group>,
    /// CRC-32 of the row groups, if they are told.
    crcs: Vec<u32>,
    batch: Batch,
    before: Vec<Event>,
    skipped_insns: Vec<u32>,
}

struct Group {
    /// Rows of the groups before this one.
    rows_left: usize,
    va: Column<Int64Type>,
    small: [Option<Column<Int32Type>>; 5],
    events: Option<Column<ByteArrayType>>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("rows_left", &self.rows_left).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Batch {
    va: Vec<i64>,
    small: [Vec<i32>; 5],
    /// Row within the batch, and what happens after it.
    events: std::collections::VecDeque<(usize, Vec<Event>)>,
    at: usize,
    /// Number of the batch's first row in the file.
    first_row: u64,
}

/// The small columns: name, largest value, and value where the column is missing.
const SMALL: [(&str, i32, i32); 5] = [
    ("insns", u16::MAX as i32, 1),
    ("thread", u16::MAX as i32, 0),
    ("kind", 3, 0),
    ("size_log2", 12, 3),
    ("flags", u8::MAX as i32, 0),
];

impl ParquetSource {
    pub(crate) fn new(name: String, store: Store, recover: bool, fetches: bool) -> Result<Self, SourceError> {
        let footer = match footer::at_end(&store) {
            Ok(footer) => footer,
            Err(e) if !footer::has_magic(&store) => return Err(error(&name, e)),
            Err(_) if recover => footer::last(&store).map_err(|e| error(&name, e))?.0,
            Err(e) => {
                let error = error(
                    &name,
                    format_args!("the Parquet file of {} bytes is cut off or damaged: {e}", store.len()),
                );
                return Err(error.hint(
                    "if writing it was interrupted, rename it to end in .partial: what is whole is then read",
                ));
            }
        };
        let descr = footer.file_metadata().schema_descr();
        let columns = COLUMNS.map(|name| {
            descr.columns().iter().position(|c| c.path().parts() == [name] && c.max_rep_level() == 0)
        });
        for (name_of, at) in COLUMNS.iter().zip(columns) {
            let want = match *name_of {
                "va" => Physical::INT64,
                "events" => Physical::BYTE_ARRAY,
                _ => Physical::INT32,
            };
            match at {
                Some(at) if descr.column(at).physical_type() != want => {
                    let have = descr.column(at).physical_type();
                    return Err(error(
                        &name,
                        format_args!("column '{name_of}' is of type {have}, not {want}"),
                    ));
                }
                None if *name_of == "va" => {
                    return Err(error(&name, "a Parquet file, but no trace: it has no column 'va'")
                        .hint("the columns of a trace are listed in trace/SCHEMA.md"));
                }
                _ => {}
            }
        }
        Ok(ParquetSource {
            name,
            store: Arc::new(store),
            footer,
            columns,
            fetches,
            world: World::default(),
            next_group: 0,
            group: None,
            crcs: Vec::new(),
            batch: Batch::default(),
            before: Vec::new(),
            skipped_insns: Vec::new(),
        })
    }

    /// A key of the footer.
    pub(crate) fn key(&self, key: &str) -> Option<&str> {
        let pairs = self.footer.file_metadata().key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == key)?.value.as_deref()
    }

    fn wrong(&self, place: std::fmt::Arguments<'_>, reason: impl std::fmt::Display) -> SourceError {
        error(&self.name, format_args!("{place}: {reason}"))
    }

    fn open_group(&self, index: usize) -> Result<Group, SourceError> {
        let meta = self.footer.row_group(index);
        let place = |e: ParquetError| self.wrong(format_args!("row group {index}"), e);
        let rows_left = usize::try_from(meta.num_rows())
            .map_err(|_| self.wrong(format_args!("row group {index}"), "negative number of rows"))?;
        if let Some(expected) = self.crcs.get(index) {
            self.check_crc(meta, *expected).map_err(place)?;
        }
        let open = |column: usize| self.columns[column].map(|at| (meta, at));
        let va = open(0).expect("checked when opened");
        let mut small = [const { None }; 5];
        for (i, slot) in small.iter_mut().enumerate() {
            *slot = open(1 + i).map(|(m, at)| Column::open(&self.store, m, at)).transpose().map_err(place)?;
        }
        let events = open(6)
            .filter(|(m, at)| !all_null(m.column(*at)))
            .map(|(m, at)| Column::open(&self.store, m, at))
            .transpose()
            .map_err(place)?;
        Ok(Group { rows_left, va: Column::open(&self.store, va.0, va.1).map_err(place)?, small, events })
    }

    /// Compares the bytes of a row group with their checksum, before a decoder sees them.
    fn check_crc(&self, meta: &RowGroupMetaData, expected: u32) -> ParquetResult<()> {
        let mut range: Option<(u64, u64)> = None;
        for column in meta.columns() {
            let (start, end) = chunk_range(column, &self.store)?;
            range = Some(range.map_or((start, end), |(s, e)| (s.min(start), e.max(end))));
        }
        let (start, end) = range.unwrap_or_default();
        let mut crc = Crc::new();
        let mut at = start;
        while at < end {
            let part = self.store.get(at, (end - at).min(1 << 20) as usize)?;
            crc.update(&part);
            at += part.len() as u64;
        }
        if crc.sum() != expected {
            return Err(ParquetError::General(format!(
                "bytes {start} to {end} are damaged: checksum {:08x}, not {expected:08x}",
                crc.sum()
            )));
        }
        Ok(())
    }

    /// Decodes the next rows; false at the end of the file.
    fn next_batch(&mut self) -> Result<bool, SourceError> {
        self.batch.first_row += self.batch.va.len() as u64;
        self.batch.va.clear();
        self.batch.at = 0;
        while self.group.as_ref().is_none_or(|g| g.rows_left == 0) {
            if self.next_group == self.footer.num_row_groups() {
                return Ok(false);
            }
            self.group = Some(self.open_group(self.next_group)?);
            self.next_group += 1;
        }
        let group = self.group.as_mut().expect("opened above");
        let rows = group.rows_left.min(BATCH);
        let first = self.batch.first_row;
        let damaged = |column: &str, column_byte: u64, e: &dyn std::fmt::Display| {
            let place = format!("row {first}, column '{column}' from byte {column_byte}: {e}");
            error(&self.name, place).hint(CUT_OFF)
        };
        group.va.read(rows, &mut self.batch.va).map_err(|e| damaged("va", group.va.byte, &e))?;
        for ((column, out), (name, _, default)) in
            group.small.iter_mut().zip(&mut self.batch.small).zip(SMALL)
        {
            out.clear();
            match column {
                Some(column) => column.read(rows, out).map_err(|e| damaged(name, column.byte, &e))?,
                None => out.resize(rows, default),
            }
        }
        if let Some(column) = &mut group.events {
            let byte = column.byte;
            for (row, json) in column.read_sparse(rows).map_err(|e| damaged("events", byte, &e))? {
                let events = events_from_json(&json).map_err(|e| damaged("events", byte, &e))?;
                self.batch.events.push_back((row, events));
            }
        }
        group.rows_left -= rows;
        self.check_batch()?;
        Ok(true)
    }

    /// Refuses values that no access has, naming the first row with one.
    fn check_batch(&self) -> Result<(), SourceError> {
        let batch = &self.batch;
        let all_canonical = batch.va.iter().fold(true, |ok, va| ok & is_canonical(*va as u64));
        if !all_canonical {
            let row = batch.va.iter().position(|va| !is_canonical(*va as u64)).expect("there is one");
            return Err(self.wrong(
                format_args!("row {}", batch.first_row + row as u64),
                format_args!("address {:#x} is not canonical", batch.va[row]),
            ));
        }
        for (values, (name, max, _)) in batch.small.iter().zip(SMALL) {
            // As unsigned numbers, so that negative ones are large.
            let largest = values.iter().fold(0, |largest, v| (*v as u32).max(largest));
            if largest > max as u32 {
                let row = values.iter().position(|v| *v as u32 > max as u32).expect("there is one");
                return Err(self.wrong(
                    format_args!("row {}", batch.first_row + row as u64),
                    format_args!("{name} is {}, more than {max}", values[row]),
                ));
            }
        }
        Ok(())
    }

    /// Refuses an event about a thread or process that is not there, and counts new ones.
    fn check_events(&mut self, events: &[Event]) -> Result<(), SourceError> {
        for event in events {
            if !self.world.admit(event) {
                let row = self.batch.first_row + self.batch.at as u64;
                return Err(self.wrong(
                    format_args!("row {row}"),
                    format_args!(
                        "{event:?}: there are {} processes and {} threads",
                        self.world.processes,
                        self.world.threads.len()
                    ),
                ));
            }
        }
        Ok(())
    }
}

impl TraceSource for ParquetSource {
    fn facts(&self) -> Facts {
        let mut notes: Vec<String> = self
            .key(KEY_TOOL)
            .filter(|tool| !tool.is_empty())
            .map(|tool| format!("written by {tool}"))
            .into_iter()
            .collect();
        if self.key(KEY_COMPLETE) == Some("false") {
            notes.push(
                "writing it was interrupted: only what was seen until shortly before is there".to_owned(),
            );
        }
        Facts {
            command: self.key(KEY_COMMAND).map(str::to_owned),
            ..Facts::new(Format::Parquet, Compression::None, notes)
        }
    }
}

impl Source for ParquetSource {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        let version = self.key(KEY_VERSION).map(str::parse::<u32>);
        if let Some(version) = version {
            match version {
                Ok(1..=VERSION) => {}
                _ => {
                    let found = self.key(KEY_VERSION).unwrap_or_default();
                    return Err(error(&self.name, format_args!("schema version '{found}' is not known"))
                        .hint(
                            "it was written by a newer pagewalk: update, or write it again with this one",
                        ));
                }
            }
        }
        let key = |key, e: String| self.wrong(format_args!("footer key '{key}'"), e);
        let mut setup = match self.key(KEY_SETUP) {
            Some(json) => setup_from_json(json).map_err(|e| key(KEY_SETUP, e))?,
            None => roster::single(&self.name),
        };
        let before = match self.key(KEY_EVENTS_BEFORE) {
            Some(json) => events_from_json(json.as_bytes()).map_err(|e| key(KEY_EVENTS_BEFORE, e))?,
            None => Vec::new(),
        };
        self.crcs = match self.key(KEY_CRC) {
            Some(list) => {
                let crcs =
                    list.split(',').filter(|crc| !crc.is_empty()).map(|crc| u32::from_str_radix(crc, 16));
                let crcs: Vec<u32> =
                    crcs.collect::<Result<_, _>>().map_err(|e| key(KEY_CRC, e.to_string()))?;
                if crcs.len() != self.footer.num_row_groups() {
                    let groups = self.footer.num_row_groups();
                    return Err(key(KEY_CRC, format!("{} checksums of {groups} row groups", crcs.len())));
                }
                crcs
            }
            None => Vec::new(),
        };
        setup.name.clone_from(&self.name);
        let rows: i64 =
            self.footer.row_groups().iter().map(RowGroupMetaData::num_rows).fold(0, i64::saturating_add);
        setup.accesses = u64::try_from(rows).ok().filter(|_| self.fetches);
        self.world = World::new(&setup);
        self.before = before;
        Ok(setup)
    }

    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        block.clear();
        if !self.before.is_empty() {
            let before = std::mem::take(&mut self.before);
            self.check_events(&before)?;
            block.events = before;
            return Ok(More::Yes);
        }
        if self.batch.at == self.batch.va.len() && !self.next_batch()? {
            return Ok(More::No);
        }
        let batch = &mut self.batch;
        let start = batch.at;
        let mut end = batch.va.len().min(start + BLOCK);
        let mut events = None;
        if let Some((row, _)) = batch.events.front()
            && *row < end
        {
            end = row + 1;
            events = batch.events.pop_front();
        }
        let [insns, threads, kinds, sizes, flags] = batch.small.each_ref().map(|c| &c[start..end]);
        if let Some(i) = self.world.missing(threads) {
            let row = batch.first_row + (start + i) as u64;
            let thread = threads[i];
            return Err(
                self.wrong(format_args!("row {row}"), format_args!("thread {thread} was never started"))
            );
        }
        let columns = batch.va[start..end].iter().zip(insns).zip(threads).zip(kinds).zip(sizes).zip(flags);
        block.accesses.extend(columns.map(|(((((va, insns), thread), kind), size), flags)| Access {
            va: Va::new(*va as u64),
            insns: *insns as u16,
            thread: *thread as u16,
            kind: KINDS[(*kind & 3) as usize],
            size_log2: *size as u8,
            flags: *flags as u8,
            reserved: 0,
        }));
        batch.at = end;
        if !self.fetches {
            drop_fetches(&mut block.accesses, &mut self.skipped_insns);
        }
        if let Some((_, events)) = events {
            self.check_events(&events)?;
            block.events = events;
        }
        Ok(More::Yes)
    }
}

const KINDS: [Kind; 4] = [Kind::Read, Kind::Write, Kind::Fetch, Kind::Modify];

/// Takes fetches out; their instructions count for the thread's next access.
fn drop_fetches(accesses: &mut Vec<Access>, carried: &mut Vec<u32>) {
    accesses.retain_mut(|a| {
        let thread = usize::from(a.thread);
        if carried.len() <= thread {
            carried.resize(thread + 1, 0);
        }
        let insns = carried[thread].saturating_add(a.insns.into());
        if a.kind == Kind::Fetch {
            carried[thread] = insns;
            return false;
        }
        a.insns = u16::try_from(insns).unwrap_or(u16::MAX);
        carried[thread] = insns - u32::from(a.insns);
        true
    });
}
