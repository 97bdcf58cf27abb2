//! A directory of a trace: one file a thread or a core.

use crate::error::{Hint, error};
use crate::input::Input;
use crate::meter::Meter;
use crate::open;
use machine::input::SourceError;
use std::path::Path;

/// The inputs of a trace directory, in the order of their names.
pub(crate) fn inputs(dir: &Path, meter: Option<&Meter>) -> Result<Vec<Input>, SourceError> {
    let name = dir.display().to_string();
    let traces = dir.join("trace");
    let mut files = Vec::new();
    let list = if traces.is_dir() { &traces } else { dir };
    let cannot = |e: std::io::Error| error(&name, format_args!("cannot be listed: {e}"));
    for entry in std::fs::read_dir(list).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.is_file() && is_trace(&path) {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        let error = error(&name, "the directory holds no *.trace.* or *.memtrace.* files of DynamoRIO");
        return Err(if dir.join("raw").is_dir() {
            error.hint("its raw/ is not post-processed yet: drrun -t drmemtrace -indir DIR, or drraw2trace -indir DIR")
        } else {
            error.hint("give the directory that drrun -t drmemtrace made, or one file of it")
        });
    }
    files.iter().map(|path| open::file_input(path, meter)).collect()
}

/// Whether a file is a thread's or a core's part of a trace: the schedules and
/// maps that lie beside are not.
fn is_trace(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.split('.').any(|part| part == "trace" || part == "memtrace")
}
