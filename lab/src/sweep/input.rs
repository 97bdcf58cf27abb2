//! Inputs of points: generators, and traces with a digest of their content.

use super::key::Key;
use super::parameter::Wrong;
use crate::experiment::filled;
use machine::input::{Setup, Source, SourceError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where the accesses of a point come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Input {
    /// The workload with its parameters, or the trace as written.
    pub name: String,
    /// The trace's file.
    pub trace: Option<PathBuf>,
    /// Of the name of a generator, or of the content of a trace.
    pub digest: Key,
    /// What the source calls itself.
    pub title: String,
    /// Bytes filled before the first access.
    pub filled: u64,
    /// Bytes filled on demand, at most.
    pub on_demand: u64,
    /// Accesses that there are, if that is known.
    pub accesses: Option<u64>,
}

impl Input {
    /// Opens it; a trace is the same for every seed.
    ///
    /// # Errors
    /// If it is not there any more.
    pub fn open(&self, seed: u64) -> Result<Box<dyn Source>, SourceError> {
        match &self.trace {
            Some(path) => Ok(trace::open(path, &trace::OpenOptions::default())?),
            None => match workloads::build(&self.name, seed) {
                Ok(source) => Ok(source),
                Err(e) => Err(SourceError { what: self.name.clone(), reason: e.to_string(), hint: None }),
            },
        }
    }

    /// Looks at a generator or a trace.
    pub(super) fn look(
        name: &str,
        directory: &Path,
        seed: u64,
        digests: &mut Digests,
    ) -> Result<Input, Wrong> {
        if is_trace(name, directory) {
            let path = directory.join(name);
            let wrong = |e: &dyn std::fmt::Display| Wrong::File(format!("trace {}: {e}", path.display()));
            let digest = digests.of(&path).map_err(|e| wrong(&e))?;
            let source = trace::open(&path, &trace::OpenOptions::default());
            let setup =
                source.and_then(|mut source| source.setup()).map_err(|e| Wrong::File(e.to_string()))?;
            return Ok(Input::new(name, Some(path), digest, &setup));
        }
        let source = workloads::build(name, seed).map_err(|e| Wrong::Choice(e.to_string()));
        let setup = source?.setup().map_err(|e| Wrong::Choice(e.to_string()))?;
        Ok(Input::new(name, None, Key::of(name.as_bytes()), &setup))
    }

    fn new(name: &str, trace: Option<PathBuf>, digest: Key, setup: &Setup) -> Input {
        let all: u64 = setup.processes.iter().flat_map(|p| &p.regions).map(|r| r.len).sum();
        let filled = filled(setup);
        Input {
            name: name.to_string(),
            trace,
            digest,
            title: setup.name.clone(),
            filled,
            on_demand: all - filled,
            accesses: setup.accesses,
        }
    }
}

/// A workload's name has no dot and no slash before its parameters; a file's usually has.
fn is_trace(name: &str, directory: &Path) -> bool {
    let head = name.split(':').next().unwrap_or_default();
    head.contains(['.', '/']) || directory.join(name).is_file()
}

/// What tells whether a file is still the one whose digest is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Stamp {
    length: u64,
    inode: u64,
    /// Of the content and of the inode: the second cannot be set by programs.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Stamp> {
        let meta = std::fs::metadata(path)?;
        Ok(Stamp {
            length: meta.len(),
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// Digests of traces that were read before: a long trace is not read again to ask how a sweep is.
#[derive(Debug, Default)]
pub struct Digests {
    kept: Option<PathBuf>,
    known: BTreeMap<PathBuf, (Stamp, Key)>,
    new: bool,
}

impl Digests {
    /// Those kept in a file, if it is there and whole.
    pub fn kept_in(file: &Path) -> Digests {
        let known = std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Digests { kept: Some(file.to_path_buf()), known: known.unwrap_or_default(), new: false }
    }

    fn of(&mut self, path: &Path) -> io::Result<Key> {
        if path.is_dir() {
            return self.of_directory(path);
        }
        let stamp = Stamp::of(path)?;
        let absolute = std::path::absolute(path)?;
        if let Some((known, key)) = self.known.get(&absolute)
            && *known == stamp
        {
            return Ok(*key);
        }
        let (key, _) = Key::of_file(path)?;
        self.known.insert(absolute, (stamp, key));
        self.new = true;
        Ok(key)
    }

    fn of_directory(&mut self, path: &Path) -> io::Result<Key> {
        let mut parts: Vec<PathBuf> =
            std::fs::read_dir(path)?.map(|entry| entry.map(|e| e.path())).collect::<io::Result<_>>()?;
        parts.sort();
        let mut text = String::new();
        for part in parts {
            let name = part.file_name().unwrap_or_default().to_string_lossy().into_owned();
            text += &format!("{} {name}\n", self.of(&part)?);
        }
        Ok(Key::of(text.as_bytes()))
    }

    /// Keeps them. It is no loss if that does not succeed: they are read again.
    pub fn keep(&self) {
        if let (Some(file), true) = (&self.kept, self.new)
            && let Ok(text) = serde_json::to_vec(&self.known)
        {
            let _ = super::store::replace(file, &text);
        }
    }
}
