//! What it takes to run a file: is it a program for this emulator, or a script
//! whose interpreter is one?

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why a file cannot be run in the emulator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// Nor can it be run otherwise: no such file, not executable, or of unknown format.
    NoProgram,
    /// It runs natively only.
    NativeOnly(&'static str),
}

/// The executable and the arguments (the first is its name for itself) that
/// running `path` with `args` comes to: scripts are resolved as the kernel does.
///
/// # Errors
/// If the emulator cannot run it.
pub fn resolve(path: &Path, args: Vec<OsString>) -> Result<(PathBuf, Vec<OsString>), Unfit> {
    resolve_at(path, args, 0)
}

fn resolve_at(path: &Path, args: Vec<OsString>, depth: u32) -> Result<(PathBuf, Vec<OsString>), Unfit> {
    // A link into /proc/self would mean another process once it is followed by another.
    let path =
        if path.starts_with("/proc/self") { std::fs::canonicalize(path) } else { std::path::absolute(path) };
    let path = path.map_err(|_| Unfit::NoProgram)?;
    let meta = std::fs::metadata(&path).map_err(|_| Unfit::NoProgram)?;
    if !meta.is_file() || rustix::fs::access(&path, rustix::fs::Access::EXEC_OK).is_err() {
        return Err(Unfit::NoProgram);
    }
    let (mode, me) = (meta.permissions().mode(), rustix::process::geteuid().as_raw());
    if mode & 0o4000 != 0 && meta.uid() != me || mode & 0o2000 != 0 && me != 0 {
        return Err(Unfit::NativeOnly("it runs with another user's rights"));
    }
    let mut head = [0; 256];
    let Ok(n) = std::fs::File::open(&path).and_then(|mut f| f.read(&mut head)) else {
        return Err(Unfit::NativeOnly("it cannot be read"));
    };
    let head = &head[..n];
    if head.starts_with(b"#!") && depth < 4 {
        // One interpreter, at most one argument, the script's path, the script's arguments.
        let line = head[2..].split(|&b| b == b'\n').next().unwrap_or_default().trim_ascii();
        let mut words = line.splitn(2, u8::is_ascii_whitespace);
        let interpreter = words.next().unwrap_or_default();
        let argument = words.next().map(<[u8]>::trim_ascii).filter(|a| !a.is_empty());
        let mut new = vec![OsString::from_vec(interpreter.to_vec())];
        new.extend(argument.map(|a| OsString::from_vec(a.to_vec())));
        new.push(path.into_os_string());
        new.extend(args.into_iter().skip(1));
        return resolve_at(Path::new(OsStr::from_bytes(interpreter)), new, depth + 1);
    }
    // ELF, 64 bits, little-endian; machine EM_X86_64.
    if head.starts_with(b"\x7fELF\x02\x01") && head.get(18..20) == Some(&[62, 0]) {
        Ok((path, args))
    } else if head.starts_with(b"\x7fELF") {
        Err(Unfit::NativeOnly("it is not an x86-64 program"))
    } else {
        Err(Unfit::NoProgram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(name: &str, text: &str, mode: u32) -> PathBuf {
        let path = std::env::temp_dir().join(format!("capture-ring-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_program_is_itself() {
        let (path, args) = resolve(Path::new("/bin/true"), vec!["true".into(), "x".into()]).unwrap();
        assert_eq!((path, args), (PathBuf::from("/bin/true"), vec!["true".into(), "x".into()]));
    }

    #[test]
    fn a_script_is_its_interpreter_with_one_argument() {
        let path = script("one", "#! /bin/sh -e -u\necho\n", 0o755);
        let (program, args) = resolve(&path, vec!["me".into(), "a".into()]).unwrap();
        assert_eq!(program, Path::new("/bin/sh"));
        assert_eq!(args, ["/bin/sh".into(), OsString::from("-e -u"), path.into_os_string(), "a".into()]);
    }

    #[test]
    fn scripts_of_scripts_end() {
        let path = script("loop", "", 0o755);
        std::fs::write(&path, format!("#!{}\n", path.display())).unwrap();
        assert_eq!(resolve(&path, vec!["me".into()]), Err(Unfit::NoProgram));
    }

    #[test]
    fn what_cannot_run_is_told_apart() {
        assert_eq!(resolve(Path::new("/nowhere"), vec![]), Err(Unfit::NoProgram));
        assert_eq!(resolve(Path::new("/"), vec![]), Err(Unfit::NoProgram));
        assert_eq!(resolve(&script("plain", "echo\n", 0o755), vec![]), Err(Unfit::NoProgram));
        assert_eq!(resolve(&script("noexec", "#!/bin/sh\n", 0o644), vec![]), Err(Unfit::NoProgram));
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(64, 0);
        elf[18] = 183; // EM_AARCH64
        let path = script("arm", "", 0o755);
        std::fs::write(&path, elf).unwrap();
        assert!(matches!(resolve(&path, vec![]), Err(Unfit::NativeOnly(_))));
    }
}
