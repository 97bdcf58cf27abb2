//! `execve` of a captured program: QEMU would start the new program natively,
//! out of sight. So the plugin starts it itself, in QEMU and with the plugin.
//!
//! What cannot run in this QEMU (another machine's program, a script whose
//! interpreter is one, a program with the set-user-ID bit) starts as it would
//! have, and the consumer is told.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::OnceLock;

use capture_ring::Note;
use capture_ring::program::{self, Unfit};

use crate::{memory, process, translate};

/// The `-plugin` argument, up to the log's number.
pub static PLUGIN: OnceLock<String> = OnceLock::new();

/// Longest string, and most of them, that are taken from a program; as the kernel's `MAX_ARG_STRLEN`.
const LONGEST: usize = 128 << 10;
const MOST: usize = 1 << 20;

/// `execve` begins. Does not return if the new program starts.
pub fn execve(path: u64, argv: u64, envp: u64) {
    if let Some(path) = string(path) {
        start(&path, argv, envp);
    }
}

/// `execveat` begins.
pub fn execveat(dir: i32, path: u64, argv: u64, envp: u64, flags: u64) {
    let Some(path) = string(path) else { return };
    let path = match path.to_bytes() {
        [] if flags & libc::AT_EMPTY_PATH as u64 != 0 => format!("/proc/self/fd/{dir}").into_bytes(),
        bytes if bytes.starts_with(b"/") || dir == libc::AT_FDCWD => bytes.to_vec(),
        bytes => [format!("/proc/self/fd/{dir}/").as_bytes(), bytes].concat(),
    };
    if let Ok(path) = CString::new(path) {
        start(&path, argv, envp);
    }
}

fn start(path: &CString, argv: u64, envp: u64) {
    if process::stopped() {
        return;
    }
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    // The guest sees QEMU's link; what it means is its own executable.
    let path = if path == Path::new("/proc/self/exe") { translate::program() } else { path.to_owned() };
    let (Some(args), Some(env)) = (strings(argv), strings(envp)) else { return };
    let args = args.into_iter().map(|a| OsString::from_vec(a.into_bytes())).collect();
    match program::resolve(&path, args) {
        Ok((program, args)) => {
            let Some(line) = command_line(&program, args) else { return };
            let (argv, envp) = (pointers(&line), pointers(&env));
            // SAFETY: both are null-terminated arrays of C strings that outlive the call.
            unsafe { libc::execve(c"/proc/self/exe".as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        }
        // The call will fail without us.
        Err(Unfit::NoProgram) => {}
        Err(Unfit::NativeOnly(why)) => {
            process::say(Note::Escape { what: format!("{}: {why}", path.display()).into_bytes() });
        }
    }
}

fn command_line(program: &Path, args: Vec<OsString>) -> Option<Vec<CString>> {
    // QEMU takes a doubled comma for one.
    let name = program.to_str()?.replace(',', ",,");
    let plugin = format!("{},log={},program={name}", PLUGIN.get()?, process::log_index());
    let mut args = args.into_iter();
    let name = args.next().unwrap_or_default();
    let mut line: Vec<OsString> = vec!["qemu-x86_64".into(), "-plugin".into(), plugin.into(), "-0".into()];
    line.extend([name, program.as_os_str().to_owned()]);
    line.extend(args);
    line.into_iter().map(|word| CString::new(word.into_vec()).ok()).collect()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// A C string of the guest's.
fn string(address: u64) -> Option<CString> {
    let mut bytes = Vec::new();
    while bytes.len() < LONGEST {
        // Up to the end of the page, beyond which nothing may be mapped.
        let at = address + bytes.len() as u64;
        let mut part = vec![0; 4096 - (at % 4096) as usize];
        let n = memory::read(at, &mut part);
        if n == 0 {
            return None;
        }
        if let Some(end) = part[..n].iter().position(|&b| b == 0) {
            bytes.extend_from_slice(&part[..end]);
            return CString::new(bytes).ok();
        }
        bytes.extend_from_slice(&part[..n]);
    }
    None
}

/// A null-terminated array of C strings of the guest's; a null pointer is an empty one, as for the kernel.
fn strings(address: u64) -> Option<Vec<CString>> {
    let mut all = Vec::new();
    if address == 0 {
        return Some(all);
    }
    while all.len() < MOST {
        let mut word = [0; 8];
        if memory::read(address + 8 * all.len() as u64, &mut word) != 8 {
            return None;
        }
        match u64::from_le_bytes(word) {
            0 => return Some(all),
            pointer => all.push(string(pointer)?),
        }
    }
    None
}
