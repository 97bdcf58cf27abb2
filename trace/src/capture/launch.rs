//! Finds the emulator and the plugin, and starts a program in them.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use capture_ring::Shared;
use capture_ring::program::{self, Unfit};

use super::elf::Elf;
use super::lackey::Lackey;
use super::live::{Engine, LiveSource, Names, Signals};
use super::qemu::Qemu;
use super::{CaptureError, CaptureOptions, Fetches, Route, Start};

const PLUGIN: &str = "libcapture_qemu.so";

/// Runs `program` (a path, or a name looked for in `PATH`) with `args`, and captures it.
///
/// # Errors
/// If the program, the emulator or the plugin is missing or does not fit; each says what to do.
pub fn start(
    program: &OsStr,
    args: &[OsString],
    options: CaptureOptions,
) -> Result<LiveSource, CaptureError> {
    let line = [program].into_iter().chain(args.iter().map(OsString::as_os_str));
    let line: Vec<String> = line.map(|word| quoted(&word.to_string_lossy())).collect();
    let begin = Arc::new(AtomicBool::new(false));
    let signal = if let Start::Signal(signal) = options.start { Some(signal) } else { None };
    let system = |what| move |error| CaptureError::System { what, error };
    let signals = Signals::listen(signal, &begin).map_err(system("signal handlers"))?;
    let mut names = Names {
        program: program.to_string_lossy().into_owned(),
        command: line.join(" "),
        emulator: String::new(),
    };
    let (child, engine): (_, Box<dyn Engine>) = match options.route {
        Route::Qemu => {
            let (executable, words) = find_program(program, args)?;
            let emulator = find_emulator(&options)?;
            names.emulator = version(&emulator);
            let (shared, memory) = Shared::create().map_err(system("shared memory"))?;
            let mut command = qemu_command(&emulator, &executable, words, memory.as_raw_fd(), &options)?;
            redirect(&mut command, &options)?;
            let engine = Qemu::new(shared, memory, &options, begin);
            let child = command.spawn().map_err(system("starting the emulator"))?;
            engine.started(child.id());
            (child, Box::new(engine))
        }
        Route::Lackey => {
            if let Start::Symbol(_) = options.start {
                return Err(CaptureError::LackeySymbol);
            }
            // Valgrind resolves scripts itself.
            let path = find_path(program)?;
            if !path.exists() {
                return Err(unfit(program, "no such file"));
            }
            let valgrind = options.emulator.clone().or_else(|| in_path(OsStr::new("valgrind")));
            let valgrind = valgrind.ok_or(CaptureError::NoValgrind)?;
            names.emulator = version(&valgrind);
            let mut command = Command::new(&valgrind);
            redirect(&mut command, &options)?;
            let rest = |command: &mut Command| {
                command.arg(&path).args(args);
            };
            let interrupted = signals.interrupted.clone();
            let (engine, child) = Lackey::spawn(command, rest, &names.program, &options, begin, interrupted)
                .map_err(system("starting Valgrind"))?;
            (child, Box::new(engine))
        }
    };
    Ok(LiveSource::new(names, child, engine, options.afterwards, signals))
}

fn qemu_command(
    emulator: &Path,
    executable: &Path,
    words: Vec<OsString>,
    memory: RawFd,
    options: &CaptureOptions,
) -> Result<Command, CaptureError> {
    let plugin = find_plugin(options)?;
    // QEMU's option parser takes a doubled comma for one.
    let escaped = |path: &Path| path.to_string_lossy().replace(',', ",,");
    let memory = format!("/proc/{}/fd/{memory}", std::process::id());
    let mut spec = format!("{},ring={memory},log=0,program={}", escaped(&plugin), escaped(executable));
    match options.fetches {
        Fetches::None => {}
        Fetches::Blocks => spec.push_str(",fetch=block"),
        Fetches::Lines => spec.push_str(",fetch=line"),
    }
    if let Start::Symbol(symbol) = &options.start {
        spec.push_str(&format!(",start={}", find_symbol(executable, symbol)?));
    }
    let mut command = Command::new(emulator);
    let mut words = words.into_iter();
    command.arg("-plugin").arg(spec).arg("-0").arg(words.next().unwrap_or_default());
    command.arg(executable).args(words);
    Ok(command)
}

fn redirect(command: &mut Command, options: &CaptureOptions) -> Result<(), CaptureError> {
    if let Some(stdout) = &options.stdout {
        let stdout =
            stdout.try_clone().map_err(|error| CaptureError::System { what: "standard output", error })?;
        command.stdout(Stdio::from(stdout));
    }
    Ok(())
}

/// A word of a command as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// The emulator's own name and version: the first line of what it says.
fn version(emulator: &Path) -> String {
    let output = Command::new(emulator).arg("--version").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("an emulator of unknown version").to_owned()
}

fn unfit(program: &OsStr, reason: &str) -> CaptureError {
    CaptureError::Program { program: program.to_string_lossy().into_owned(), reason: reason.to_owned() }
}

fn find_path(program: &OsStr) -> Result<PathBuf, CaptureError> {
    if program.as_encoded_bytes().contains(&b'/') {
        Ok(PathBuf::from(program))
    } else {
        in_path(program).ok_or_else(|| unfit(program, "no such program in PATH"))
    }
}

fn find_program(program: &OsStr, args: &[OsString]) -> Result<(PathBuf, Vec<OsString>), CaptureError> {
    let path = find_path(program)?;
    let words = [program.to_owned()].into_iter().chain(args.iter().cloned()).collect();
    program::resolve(&path, words).map_err(|why| match why {
        Unfit::NoProgram if !path.exists() => unfit(program, "no such file"),
        Unfit::NoProgram => unfit(program, "is not an executable program"),
        Unfit::NativeOnly(why) => unfit(program, &format!("cannot be captured: {why}")),
    })
}

fn in_path(name: &OsStr) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
}

fn find_emulator(options: &CaptureOptions) -> Result<PathBuf, CaptureError> {
    let named = options.emulator.clone().or_else(|| std::env::var_os("PAGEWALK_QEMU").map(PathBuf::from));
    let path = named.or_else(|| in_path(OsStr::new("qemu-x86_64"))).ok_or(CaptureError::NoEmulator)?;
    let error = |reason: String, hint: &str| CaptureError::Emulator {
        path: path.display().to_string(),
        reason,
        hint: hint.to_owned(),
    };
    let help = Command::new(&path)
        .arg("-help")
        .output()
        .map_err(|e| error(format!("does not run: {e}"), "install QEMU with `apt install qemu-user`"))?;
    // A QEMU built without plugins (Debian's static packages, 10.x of its backports) does not list the option.
    if !String::from_utf8_lossy(&help.stdout).contains("-plugin") {
        return Err(error(
            "was built without plugins".into(),
            "use the dynamically linked one: `apt install qemu-user` on Debian 12, or build QEMU with --enable-plugins",
        ));
    }
    Ok(path)
}

fn find_plugin(options: &CaptureOptions) -> Result<PathBuf, CaptureError> {
    let named =
        options.plugin.clone().or_else(|| std::env::var_os("PAGEWALK_QEMU_PLUGIN").map(PathBuf::from));
    if let Some(path) = named {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(CaptureError::NoPlugin { looked: path.display().to_string() })
        };
    }
    // Beside the command (target/release), where cargo puts it for tests (deps) and examples, and where a
    // package would.
    let exe = std::env::current_exe().unwrap_or_default();
    let dir = exe.parent().unwrap_or(Path::new("."));
    let places = [dir.to_owned(), dir.join("deps"), dir.join(".."), dir.join("../lib/pagewalk")];
    places
        .iter()
        .map(|place| place.join(PLUGIN))
        .find(|file| file.is_file())
        .ok_or_else(|| CaptureError::NoPlugin { looked: dir.display().to_string() })
}

/// How far behind the executable's first page a symbol is.
fn find_symbol(executable: &Path, symbol: &str) -> Result<u64, CaptureError> {
    let missing =
        || CaptureError::NoSymbol { program: executable.display().to_string(), symbol: symbol.to_owned() };
    let elf = Elf::open(executable).map_err(|_| missing())?;
    let address = elf.symbol(symbol).ok_or_else(missing)?;
    let first = elf.segments().first().map(|s| s.va & !4095).ok_or_else(missing)?;
    address.checked_sub(first).ok_or_else(missing)
}
