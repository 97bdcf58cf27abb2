//! Who works in a sweep's directory.
//!
//! Locks are the kernel's (`flock`): they go with the process that has them, however it ends, and need no
//! clock. On a directory that several machines share they are as good as its file system's; where that has none, two
//! runs do work twice, but as every result is named by its content and renamed into place, neither harms the other.

use super::key::Key;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Held while a run is alone in a directory, or while one of many tasks works there.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why there is no lock.
#[derive(Debug)]
pub enum Busy {
    /// Somebody else has it: who.
    Other(String),
    /// It cannot be made.
    Io(io::Error),
}

impl From<io::Error> for Busy {
    fn from(error: io::Error) -> Busy {
        Busy::Io(error)
    }
}

fn me() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("process {} on {host}", std::process::id())
}

impl Lock {
    /// For who must be alone; waits for it if `wait`.
    ///
    /// # Errors
    /// If another has it, or the file cannot be made.
    pub fn alone(directory: &Path, wait: bool) -> Result<Lock, Busy> {
        let mut file = open(directory)?;
        if wait {
            file.lock()?;
        } else {
            taken(file.try_lock(), &mut file)?;
        }
        file.set_len(0)?;
        file.write_all(me().as_bytes())?;
        Ok(Lock { _file: file })
    }

    /// For one of many tasks of a job.
    ///
    /// # Errors
    /// If a run is alone there, or the file cannot be made.
    pub fn shared(directory: &Path) -> Result<Lock, Busy> {
        let mut file = open(directory)?;
        taken(file.try_lock_shared(), &mut file)?;
        Ok(Lock { _file: file })
    }

    /// Who is alone in the directory, if anybody is.
    pub fn holder(directory: &Path) -> Option<String> {
        let mut file = File::open(directory.join("lock")).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(said(&mut file)),
            _ => None,
        }
    }
}

fn open(directory: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(directory.join("lock"))
}

fn taken(lock: Result<(), TryLockError>, file: &mut File) -> Result<(), Busy> {
    match lock {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Busy::Other(said(file))),
        Err(TryLockError::Error(e)) => Err(Busy::Io(e)),
    }
}

fn said(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(200).read_to_string(&mut text));
    if read.is_err() || text.is_empty() { "another process, perhaps a job's".to_string() } else { text }
}

/// What a process has under way, for `sweep status`: a file that it keeps locked.
#[derive(Debug)]
pub struct UnderWay {
    path: PathBuf,
    file: File,
    /// By worker.
    keys: Vec<Vec<Key>>,
}

impl UnderWay {
    /// Begins with nothing.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn new(directory: &Path, workers: usize) -> io::Result<UnderWay> {
        let directory = directory.join("running");
        fs::create_dir_all(&directory)?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let path = directory.join(format!("{host}-{}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        file.lock_shared()?;
        Ok(UnderWay { path, file, keys: vec![Vec::new(); workers] })
    }

    /// A worker begins with these points, or ends if there are none.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub fn set(&mut self, worker: usize, keys: Vec<Key>) -> io::Result<()> {
        self.keys[worker] = keys;
        let text: String = self.keys.iter().flatten().map(|key| format!("{key}\n")).collect();
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.file.write_all(text.as_bytes())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // Without the lock it means nothing, should it stay.
        let _ = fs::remove_file(&self.path);
    }
}

/// Points that processes have under way.
///
/// # Errors
/// If the directory cannot be read.
pub fn under_way(directory: &Path) -> io::Result<Vec<Key>> {
    let mut keys = Vec::new();
    each_under_way(directory, |_, mut file, alive| {
        let mut text = String::new();
        if alive {
            file.read_to_string(&mut text)?;
        }
        keys.extend(text.lines().filter_map(Key::parse));
        Ok(())
    })?;
    Ok(keys)
}

/// Takes away what killed processes said.
///
/// # Errors
/// If the directory cannot be read or written.
pub fn forget_dead(directory: &Path) -> io::Result<()> {
    each_under_way(directory, |path, _, alive| if alive { Ok(()) } else { fs::remove_file(path) })
}

fn each_under_way(
    directory: &Path,
    mut each: impl FnMut(&Path, File, bool) -> io::Result<()>,
) -> io::Result<()> {
    let entries = match fs::read_dir(directory.join("running")) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let path = entry?.path();
        // Its process may just have ended.
        if let Ok(file) = File::open(&path) {
            let alive = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
            each(&path, file, alive)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_alone_or_many_share() {
        let directory = std::env::temp_dir().join(format!("pagewalk-lock-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let alone = Lock::alone(&directory, false).unwrap();
        let me = me();
        assert!(matches!(Lock::alone(&directory, false), Err(Busy::Other(who)) if who == me));
        assert!(matches!(Lock::shared(&directory), Err(Busy::Other(_))));
        assert_eq!(Lock::holder(&directory), Some(me));
        drop(alone);
        assert_eq!(Lock::holder(&directory), None);
        let (a, b) = (Lock::shared(&directory).unwrap(), Lock::shared(&directory).unwrap());
        assert!(matches!(Lock::alone(&directory, false), Err(Busy::Other(_))));
        drop((a, b));
        Lock::alone(&directory, false).unwrap();

        let mut work = UnderWay::new(&directory, 2).unwrap();
        work.set(0, vec![Key(1), Key(2)]).unwrap();
        work.set(1, vec![Key(3)]).unwrap();
        work.set(0, vec![Key(4)]).unwrap();
        assert_eq!(under_way(&directory).unwrap(), [Key(4), Key(3)]);
        // As a killed process leaves it.
        fs::write(directory.join("running/dead-1"), format!("{}\n", Key(9))).unwrap();
        assert_eq!(under_way(&directory).unwrap(), [Key(4), Key(3)]);
        forget_dead(&directory).unwrap();
        assert!(!directory.join("running/dead-1").exists());
        assert_eq!(under_way(&directory).unwrap(), [Key(4), Key(3)]);
        drop(work);
        assert_eq!(under_way(&directory).unwrap(), []);
        fs::remove_dir_all(&directory).unwrap();
    }
}
