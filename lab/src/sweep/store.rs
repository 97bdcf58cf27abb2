//! Results on disk: files that are written beside and renamed, and never changed.
//!
//! A file holds what the points of one unit gave, a line each:
//! `CHECK KEY VALUES`, where `VALUES` is the record as a JSON list or, for a point that failed, the
//! reason as a JSON string, and `CHECK` is XXH3-64 of the rest of the line. So a line says of
//! itself whether it is whole: what a crash of the machine leaves behind is read as far as it is good, and the
//! rest runs again. Files are named by the keys in them; who runs the same points writes the same file.

use super::key::{Key, check};
use crate::results::{Kind, Record, Value, columns};
use rustc_hash::FxHashMap;
use serde_json::Value as Json;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a point.
#[derive(Clone, PartialEq, Debug)]
pub enum Fate {
    /// It ran.
    Done(Record),
    /// It failed, for this reason.
    Failed(String),
}

/// A result as it stands on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    sum: u64,
    values: Option<Box<str>>,
}

impl Kept {
    /// The record; `None` if values were not asked for, or are of another version's columns.
    pub fn record(&self) -> Option<Record> {
        match serde_json::from_str(self.values.as_ref()?).ok()? {
            Json::Array(values) => record(values),
            _ => None,
        }
    }
}

/// What is in a sweep's directory.
#[derive(Debug, Default)]
pub struct Found {
    /// Results.
    pub done: FxHashMap<Key, Kept>,
    /// Why points failed that have no result.
    pub failed: FxHashMap<Key, String>,
    /// Files with lines that are not whole.
    pub damaged: Vec<PathBuf>,
    /// Points of which two results differ: the same inputs must give the same.
    pub different: Vec<Key>,
}

/// Results in a directory.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

/// The ending of files that are not complete.
const PARTIAL: &str = "partial";

impl Store {
    /// That in `directory/results`.
    pub fn new(directory: &Path) -> Store {
        Store { directory: directory.join("results") }
    }

    /// Makes sure that results can be written, before anything runs.
    ///
    /// # Errors
    /// If not.
    pub fn prepare(&self) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let probe = self.directory.join(format!("{}.{PARTIAL}", unique()));
        File::create(&probe).and_then(|mut file| file.write_all(b"x"))?;
        fs::remove_file(&probe)
    }

    /// Writes what a unit gave, as one file.
    ///
    /// # Errors
    /// If the disk is full or gone; nothing is changed then.
    pub fn write(&self, fates: &[(Key, Fate)]) -> io::Result<()> {
        let mut text = Vec::new();
        for (key, fate) in fates {
            let line = match fate {
                Fate::Done(record) => format!("{key} {}", Json::from_iter(record.values().iter().map(json))),
                Fate::Failed(reason) => format!("{key} {}", Json::from(reason.as_str())),
            };
            writeln!(text, "{:016x} {line}", check(line.as_bytes()))?;
        }
        let path = self.path(fates.iter().map(|(key, _)| *key));
        fs::create_dir_all(path.parent().expect("below the directory"))?;
        replace(&path, &text)
    }

    /// The file of the points with these keys.
    fn path(&self, keys: impl Iterator<Item = Key>) -> PathBuf {
        let keys: Vec<u8> = keys.flat_map(|key| key.0.to_le_bytes()).collect();
        let name = Key::of(&keys).to_string();
        self.directory.join(&name[..2]).join(&name[2..])
    }

    /// Whether the points of one unit were written as a whole, and none failed.
    pub fn has_unit(&self, keys: &[Key]) -> bool {
        let mut found = Found::default();
        let whole =
            fs::read(self.path(keys.iter().copied())).is_ok_and(|bytes| found.add_lines(&bytes, false));
        whole && keys.iter().all(|key| found.done.contains_key(key))
    }

    /// Reads everything, with as many threads as there are cores; without the values if they are not wanted.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn read(&self, values: bool) -> io::Result<Found> {
        let files = self.files()?;
        let threads = crate::workers(0);
        let share = files.len().div_ceil(threads).max(1);
        let parts = std::thread::scope(|scope| {
            let workers: Vec<_> =
                files.chunks(share).map(|files| scope.spawn(move || read_files(files, values))).collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, _>| match worker.join() {
                Ok(found) => found,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            workers.into_iter().map(join).collect::<Vec<io::Result<Found>>>()
        });
        let mut found = Found::default();
        for part in parts {
            let part = part?;
            found.damaged.extend(part.damaged);
            found.different.extend(part.different);
            found.failed.extend(part.failed);
            found.done.reserve(part.done.len());
            part.done.into_iter().for_each(|(key, kept)| found.add(key, kept));
        }
        found.forget_failures();
        found.different.sort();
        found.different.dedup();
        Ok(found)
    }

    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for directory in entries(&self.directory)? {
            if directory.is_dir() {
                let complete = |path: &PathBuf| path.extension().is_none_or(|ending| ending != PARTIAL);
                files.extend(entries(&directory)?.into_iter().filter(complete));
            }
        }
        files.sort();
        Ok(files)
    }

    /// Takes away what killed runs left: files that were never completed, and damaged lines. Only for who
    /// is alone with the directory.
    ///
    /// # Errors
    /// If the directory cannot be read or written.
    pub fn mend(&self, found: &Found) -> io::Result<()> {
        for path in &found.damaged {
            let bytes = fs::read(path)?;
            let good: Vec<_> = bytes.split(|byte| *byte == b'\n').filter_map(Line::understand).collect();
            let mended = self.path(good.iter().map(|line| line.key));
            if !good.is_empty() {
                let text: String =
                    good.iter().map(|line| format!("{:016x} {}\n", line.sum, line.text)).collect();
                fs::create_dir_all(mended.parent().expect("below the directory"))?;
                replace(&mended, text.as_bytes())?;
            }
            if good.is_empty() || mended != *path {
                fs::remove_file(path)?;
            }
        }
        for directory in entries(&self.directory)? {
            let inside = if directory.is_dir() { entries(&directory)? } else { vec![directory] };
            for path in inside {
                if path.extension().is_some_and(|ending| ending == PARTIAL) {
                    fs::remove_file(path)?;
                }
            }
        }
        Ok(())
    }
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.map(|e| e.path())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// A name that nobody else uses now: hosts may share a directory.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Gives a file this content at once, or leaves it as it was.
///
/// # Errors
/// If the disk is full or gone.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let partial = path.with_file_name(format!("{}.{PARTIAL}", unique()));
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_data()
    });
    written.and_then(|()| fs::rename(&partial, path)).inspect_err(|_| {
        let _ = fs::remove_file(&partial);
    })
}

impl Found {
    fn add(&mut self, key: Key, kept: Kept) {
        match self.done.get(&key) {
            Some(known) if known.sum != kept.sum => self.different.push(key),
            Some(_) => {}
            None => {
                self.done.insert(key, kept);
            }
        }
    }

    /// Adds the lines that are whole; whether all are.
    fn add_lines(&mut self, bytes: &[u8], values: bool) -> bool {
        let mut whole = bytes.last() == Some(&b'\n');
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Some(line) = Line::understand(line) else {
                whole = false;
                continue;
            };
            match serde_json::from_str::<String>(line.fate) {
                Ok(reason) => {
                    self.failed.insert(line.key, reason);
                }
                Err(_) => {
                    self.add(line.key, Kept { sum: line.sum, values: values.then(|| line.fate.into()) })
                }
            }
        }
        whole
    }

    /// A result is better than a failure, which another run had.
    fn forget_failures(&mut self) {
        let done = &self.done;
        self.failed.retain(|key, _| !done.contains_key(key));
    }
}

fn read_files(files: &[PathBuf], values: bool) -> io::Result<Found> {
    let mut found = Found::default();
    for path in files {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            // Mended by another run in the meantime.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
        };
        if !found.add_lines(&bytes, values) {
            found.damaged.push(path.clone());
        }
    }
    Ok(found)
}

/// A line that is whole.
struct Line<'a> {
    sum: u64,
    /// Behind the sum.
    text: &'a str,
    key: Key,
    /// Behind the key.
    fate: &'a str,
}

impl Line<'_> {
    fn understand(line: &[u8]) -> Option<Line<'_>> {
        let (sum, text) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        let sum = u64::from_str_radix(sum, 16).ok()?;
        let (key, fate) = text.split_once(' ')?;
        (sum == check(text.as_bytes())).then_some(Line { sum, text, key: Key::parse(key)?, fate })
    }
}

fn json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Whole(n) => Json::from(*n),
        Value::Real(x) => Json::from(*x),
        Value::Text(text) => Json::from(&**text),
        Value::Flag(flag) => Json::from(*flag),
    }
}

fn record(values: Vec<Json>) -> Option<Record> {
    let value = |(column, value): (&crate::results::Column, Json)| {
        Some(match (column.kind, value) {
            (_, Json::Null) => Value::Null,
            (Kind::Whole, Json::Number(n)) => Value::Whole(n.as_u64()?),
            (Kind::Real, Json::Number(n)) => Value::Real(n.as_f64()?),
            (Kind::Text, Json::String(text)) => Value::Text(Arc::from(text)),
            (Kind::Flag, Json::Bool(flag)) => Value::Flag(flag),
            _ => return None,
        })
    };
    let all = values.len();
    let values: Vec<Value> = columns().zip(values).map(value).collect::<Option<_>>()?;
    if values.len() != all {
        return None;
    }
    Record::from_values(values).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("pagewalk-store-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    fn example(n: u64) -> Record {
        let value = |column: &crate::results::Column| match column.kind {
            Kind::Whole => Value::Whole(u64::MAX - n),
            Kind::Real => Value::Real(1.0 / (n + 3) as f64),
            Kind::Text => Value::Text(Arc::from(format!("line\n\"{n}\""))),
            Kind::Flag => Value::Flag(true),
        };
        Record::from_values(columns().map(value).collect()).unwrap()
    }

    #[test]
    fn what_was_written_is_read_and_what_was_cut_off_is_not() {
        let directory = scratch("cut");
        let store = Store::new(&directory);
        let fates: Vec<(Key, Fate)> = (0..3)
            .map(|n| (Key(u128::from(n) + 7), Fate::Done(example(n))))
            .chain([(Key(99), Fate::Failed("it rained".to_string()))])
            .collect();
        store.prepare().unwrap();
        store.write(&fates).unwrap();
        let read = || {
            let found = store.read(true).unwrap();
            let done = found.done.iter().map(|(key, kept)| (*key, Fate::Done(kept.record().unwrap())));
            let failed = found.failed.iter().map(|(key, reason)| (*key, Fate::Failed(reason.clone())));
            (done.chain(failed).collect::<FxHashMap<_, _>>(), found)
        };
        let wanted: FxHashMap<_, _> = fates.iter().cloned().collect();
        let (got, found) = read();
        assert_eq!(got, wanted);
        assert!(found.damaged.is_empty() && found.different.is_empty());
        let keys: Vec<Key> = fates[..3].iter().map(|(key, _)| *key).collect();
        assert!(!store.has_unit(&keys), "no such unit was written");
        store.write(&fates[..3]).unwrap();
        assert!(store.has_unit(&keys));
        fs::remove_file(store.path(keys.iter().copied())).unwrap();

        let path = store.files().unwrap().remove(0);
        let bytes = fs::read(&path).unwrap();
        // Cut anywhere, or with any byte changed: what is left is right, and the damage is seen.
        for place in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
            for cut in [true, false] {
                let mut bad = bytes.clone();
                if cut {
                    bad.truncate(place)
                } else {
                    bad[place] ^= 1
                };
                fs::write(&path, bad).unwrap();
                let (got, found) = read();
                assert_eq!(found.damaged, std::slice::from_ref(&path), "at {place}");
                for (key, fate) in &got {
                    assert_eq!(Some(fate), wanted.get(key), "at {place}");
                }
            }
        }
        let (good, found) = read();
        assert!(!good.is_empty());
        fs::write(path.with_file_name("killed.partial"), b"half").unwrap();
        store.mend(&found).unwrap();
        let (got, found) = read();
        assert!(found.damaged.is_empty());
        assert_eq!(got, good);
        assert!(store.files().unwrap().iter().all(|path| path.extension().is_none()));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_result_is_better_than_a_failure_and_two_that_differ_are_told() {
        let directory = scratch("twice");
        let store = Store::new(&directory);
        store.write(&[(Key(1), Fate::Failed("no memory".into())), (Key(2), Fate::Done(example(2)))]).unwrap();
        store.write(&[(Key(1), Fate::Done(example(1)))]).unwrap();
        let found = store.read(true).unwrap();
        assert_eq!(found.done[&Key(1)].record(), Some(example(1)));
        assert!(found.different.is_empty() && found.failed.is_empty());
        store.write(&[(Key(2), Fate::Done(example(5))), (Key(3), Fate::Done(example(3)))]).unwrap();
        assert_eq!(store.read(false).unwrap().different, [Key(2)]);
        fs::remove_dir_all(&directory).unwrap();
    }
}
