//! `pagewalk shareable` on real processes: forked Python workers, and servers with and without random layouts.

use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Removes a file when a test ends, however it ends.
struct Gone(std::path::PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Ends a process when a test does, however it ends.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Said past the test harness, which would swallow it.
fn skipped(why: &str, hint: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}\n  hint: {hint}");
}

fn shareable(args: &[&str], pids: &[u32]) -> (bool, String, String) {
    let pids = pids.iter().map(u32::to_string);
    let out =
        Command::new(env!("CARGO_BIN_EXE_pagewalk")).arg("shareable").args(args).args(pids).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.success(), text(&out.stdout), text(&out.stderr))
}

fn report(pids: &[u32]) -> Value {
    let (ok, stdout, stderr) = shareable(&["--json"], pids);
    assert!(ok, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// Of the first group: translations with a verdict, by its place in the report.
fn count(report: &Value, verdict: usize) -> u64 {
    report["groups"][0]["all"]["by"][verdict].as_u64().unwrap()
}

const IDENTICAL: usize = 0;
const OTHER_ADDRESS: usize = 1;
const PRIVATE: usize = 5;
const UNKNOWN: usize = 7;

/// Forks two workers, one of which writes what it inherited when it is told to. Only their parent can write to the
/// pipe that they wait on, so they end with it, however it ends: a worker left behind would keep the standard error
/// of `cargo test` open, and whoever reads that would wait for ever.
const WORKERS: &str = "
import os, sys
data = bytearray(32 << 20)
for i in range(0, len(data), 4096): data[i] = 1
r, w = os.pipe()
pids = []
for worker in range(2):
    pid = os.fork()
    if pid == 0:
        os.close(w)
        if os.read(r, 1):
            for i in range(0, len(data) // 2, 4096): data[i] = 2
            print('written', flush=True)
            os.read(r, 1)
        os._exit(0)
    pids.append(pid)
print(*pids, flush=True)
sys.stdin.readline()
os.write(w, b'x')
sys.stdin.readline()
";

/// Python with this script, talked to through its standard input and output; where it is missing that is said.
fn python(script: &str) -> Option<Ends> {
    let python =
        Command::new("python3").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let python = python.map(Ends).ok();
    if python.is_none() {
        skipped("no python3", "apt install python3");
    }
    python
}

#[test]
fn forked_python_workers_share_until_they_write() {
    let Some(mut python) = python(WORKERS) else { return };
    let mut input = python.0.stdin.take().unwrap();
    let mut lines = BufReader::new(python.0.stdout.take().unwrap()).lines();
    let pids: Vec<u32> = lines.next().unwrap().unwrap().split(' ').map(|pid| pid.parse().unwrap()).collect();
    let before = report(&pids);
    writeln!(input).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "written");
    let after = report(&pids);
    let (_, text, _) = shareable(&[], &pids);
    let alone = shareable(&[], &pids[..1]).1;
    let twice = shareable(&[], &[pids[0], pids[0]]);
    assert_eq!(before["groups"].as_array().unwrap().len(), 1);
    assert!(alone.contains("nobody to share with"), "{alone}");
    assert!(!twice.0 && twice.2.contains("named twice"), "{}", twice.2);
    if count(&before, UNKNOWN) > 0 {
        // Without the privilege: the code is known, what was written is not, and it says so.
        assert!(text.contains("not seen: frame numbers"), "{text}");
        assert!(count(&before, IDENTICAL) > 100, "{before}");
        return;
    }
    let entries = before["groups"][0]["all"]["entries"].as_u64().unwrap();
    assert!(count(&before, IDENTICAL) > entries * 8 / 10, "{before}");
    // One wrote 16 MiB: its pages are its own now, and the other's are nobody else's (but their parent's).
    let pages = (16 << 20) / 4096;
    let huge = before["groups"][0]["huge"].as_u64().unwrap();
    if huge == 0 {
        assert!(count(&after, PRIVATE) >= count(&before, PRIVATE) + 2 * pages, "{before}\n{after}");
    }
    assert!(count(&after, IDENTICAL) < count(&before, IDENTICAL), "{before}\n{after}");
    assert!(text.contains("identical: another process has the same page"), "{text}");
}

/// Two servers of the same program that are up, begun by `prefix`.
fn servers(prefix: &[&str]) -> Option<[Ends; 2]> {
    let one = |name: &str| {
        let socket = std::env::temp_dir().join(format!("pagewalk-{}-{name}.sock", std::process::id()));
        let socket = socket.to_str()?;
        let command =
            [prefix, &["redis-server", "--port", "0", "--save", "", "--unixsocket", socket]].concat();
        let mut server = Command::new(command[0])
            .args(&command[1..])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()
            .map(Ends)?;
        let lines = BufReader::new(server.0.stdout.take()?).lines();
        let up = lines.map_while(Result::ok).any(|line| line.contains("accept connections"));
        let _ = std::fs::remove_file(socket);
        up.then_some(server)
    };
    let mark = prefix.len();
    Some([one(&format!("{mark}-a"))?, one(&format!("{mark}-b"))?])
}

#[test]
fn servers_share_more_with_one_layout_than_with_random_ones() {
    let Some(random) = servers(&["setarch", "x86_64"]) else {
        return skipped("no redis-server (or setarch)", "apt install redis-server util-linux");
    };
    let Some(fixed) = servers(&["setarch", "x86_64", "-R"]) else {
        // Docker's seccomp profile refuses personality(2); nothing that could be installed helps.
        println!("not compared: personality(2) is refused here, so layouts cannot be fixed");
        return;
    };
    let on = std::fs::read_to_string("/proc/sys/kernel/randomize_va_space").unwrap_or_default();
    let pids = |servers: &[Ends; 2]| [servers[0].0.id(), servers[1].0.id()];
    let (random, fixed) = (report(&pids(&random)), report(&pids(&fixed)));
    assert!(count(&fixed, IDENTICAL) > 200, "{fixed}");
    assert_eq!(count(&fixed, OTHER_ADDRESS), 0, "{fixed}");
    if on.trim() == "0" {
        println!("not compared: this kernel does not randomise layouts");
        return;
    }
    // The code is the same frames at other addresses.
    assert!(count(&random, OTHER_ADDRESS) > 200, "{random}");
    assert!(count(&random, IDENTICAL) < count(&fixed, IDENTICAL) / 10, "{random}\n{fixed}");
}

#[test]
fn a_process_that_is_gone_is_named() {
    let (ok, _, stderr) = shareable(&[], &[4_194_303]);
    assert!(!ok && stderr.contains("no process 4194303"), "{stderr}");
}

/// Closed to its own user: root's becomes another's, as a server's workers do; another's says itself that it is closed.
const CLOSED: &str = "
import ctypes, os, sys
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
else:
    ctypes.CDLL(None).prctl(4, 0)
print(flush=True)
sys.stdin.readline()
";

#[test]
fn who_may_look_at_a_process_is_said() {
    let Some(mut python) = python(CLOSED) else { return };
    BufReader::new(python.0.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    // The build may be where only root may read.
    let program = Gone(std::env::temp_dir().join(format!("pagewalk-looks-{}", std::process::id())));
    std::fs::copy(env!("CARGO_BIN_EXE_pagewalk"), &program.0).unwrap();
    let refusal = |pid: u32| {
        let mut look = Command::new(&program.0);
        look.args(["shareable", &pid.to_string()]);
        if root {
            look.uid(65534).gid(65534);
        }
        let out = look.output()?;
        assert!(!out.status.success());
        Ok(String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let closed = match refusal(python.0.id()) {
        Err(error) if root && std::io::Error::kind(&error) == ErrorKind::PermissionDenied => {
            return skipped(
                "user 65534 may not run the program",
                "let TMPDIR name a directory that all users may read",
            );
        }
        refusal => refusal.unwrap(),
    };
    assert!(closed.contains("changed its user") && closed.contains("run this as root"), "{closed}");
    // The first of all processes is root's, as is this one where root runs it.
    let other = refusal(1).unwrap();
    assert!(other.contains("it is user 0's") && other.contains("run this as that user"), "{other}");
}
