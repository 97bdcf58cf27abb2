//! Programs that run under the command: what passes through, what is left after an interruption.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// The command; `None`, said aloud, where programs cannot be captured.
fn pagewalk(args: &[&str]) -> Option<Command> {
    if Command::new("qemu-x86_64").arg("--version").output().is_err() {
        // Past the test harness, which would swallow it.
        let _ = writeln!(std::io::stderr(), "SKIPPED: no qemu-x86_64\n  hint: apt install qemu-user");
        return None;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_pagewalk"));
    command.args(args);
    Some(command)
}

fn output(args: &[&str], input: &str) -> Option<Output> {
    let mut command = pagewalk(args)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Some(child.wait_with_output().unwrap())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("pagewalk-{}-{name}", std::process::id()))
}

const CHATTY: [&str; 3] = ["sh", "-c", "read word; echo got $word; echo aside >&2; exit 7"];

#[test]
fn a_simulated_programs_input_output_and_status_pass_through() {
    let Some(out) = output(&[&["compare", "native", "nested", "--"][..], &CHATTY].concat(), "a\n") else {
        return;
    };
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    assert_eq!(out.status.code(), Some(7), "{stderr}");
    let (first, table) = stdout.split_once('\n').unwrap();
    assert_eq!(first, "got a");
    assert!(table.contains("native") && table.contains("cycles per access"), "{table}");
    assert!(stderr.starts_with("aside\n"), "{stderr}");
    assert!(stderr.contains("none lost; addresses moved from QEMU's layout"), "{stderr}");
    assert!(
        !stderr.contains('\x1b') && !stderr.contains('\r'),
        "no line of progress into a pipe: {stderr:?}"
    );
}

#[test]
fn a_recorded_programs_input_output_and_status_pass_through() {
    let path = scratch("chatty.parquet");
    let file = path.to_str().unwrap();
    let Some(out) = output(&[&["record", "-q", "-o", file, "--"][..], &CHATTY].concat(), "b\n") else {
        return;
    };
    assert_eq!((text(&out.stdout), text(&out.stderr)), ("got b\n".into(), "aside\n".into()));
    assert_eq!(out.status.code(), Some(7));
    let info = output(&["trace", "info", "--json", file], "").unwrap();
    std::fs::remove_file(path).unwrap();
    assert!(text(&info.stdout).contains("\"format\": \"parquet\""));
}

#[test]
fn a_program_that_a_signal_ended_has_its_status() {
    let Some(out) = output(&["run", "-q", "--", "sh", "-c", "kill -KILL $$"], "") else { return };
    assert_eq!(out.status.code(), Some(128 + 9), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("cycles per access"), "what had been seen is shown");
}

/// A program that says when it runs, and does not end by itself for a long time.
const ENDLESS: [&str; 3] = ["sh", "-c", "echo ready; i=0; while [ $i -lt 3000000 ]; do i=$((i+1)); done"];

/// Starts the command in a process group of its own; returns when the program runs.
fn start(args: &[&str]) -> Option<(Child, BufReader<std::process::ChildStdout>)> {
    let mut command = pagewalk(&[args, &ENDLESS].concat())?;
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    std::thread::sleep(Duration::from_millis(300));
    Some((child, stdout))
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

#[test]
fn an_interruption_prints_what_has_been_seen() {
    // As a terminal does it: the program gets the signal, too; and to the command alone.
    for group in [true, false] {
        let Some((mut child, mut stdout)) = start(&["compare", "native", "nested", "--"]) else { return };
        if group {
            kill_process_group(pid(&child), Signal::INT).unwrap();
        } else {
            kill_process(pid(&child), Signal::INT).unwrap();
        }
        let (mut table, mut said) = (String::new(), String::new());
        stdout.read_to_string(&mut table).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = child.wait().unwrap();
        assert!(table.contains("cycles per access"), "{table}\n{said}");
        assert!(said.contains("interrupted: this is what had been seen"), "{said}");
        assert!(said.contains("none lost"), "{said}");
        // In a group the command's SIGTERM may be first.
        let by = |signal: Signal| status.code() == Some(128 + signal.as_raw());
        assert!(by(Signal::TERM) || group && by(Signal::INT), "{status} {said}");
    }
}

#[test]
fn an_interrupted_recording_is_whole() {
    let path = scratch("interrupted.parquet");
    let file = path.to_str().unwrap();
    let Some((mut child, _stdout)) = start(&["record", "-o", file, "--"]) else { return };
    kill_process_group(pid(&child), Signal::INT).unwrap();
    child.wait().unwrap();
    let info = output(&["trace", "info", "--json", file], "").unwrap();
    std::fs::remove_file(path).unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    assert!(info["accesses"].as_u64().unwrap() > 10_000, "{info}");
}

#[test]
fn a_killed_recording_leaves_what_was_seen() {
    let path = scratch("killed.parquet");
    let partial = PathBuf::from(format!("{}.partial", path.display()));
    let file = partial.to_str().unwrap();
    let Some((mut child, _stdout)) = start(&["record", "-o", path.to_str().unwrap(), "--"]) else { return };
    // Until the first part is in the file.
    while !output(&["trace", "info", file], "").unwrap().status.success() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // The program goes on alone, as it would have; here it is to end.
    let _ = kill_process_group(pid(&child), Signal::KILL);
    let stat = output(&["trace", "stat", "--json", file], "").unwrap();
    assert!(stat.status.success(), "{}", text(&stat.stderr));
    let run = output(&["run", "-q", "-w", file], "").unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));
    std::fs::remove_file(partial).unwrap();
    assert!(!path.exists(), "nothing that looks finished");
}

#[test]
fn a_start_is_waited_for() {
    let path = scratch("signal.parquet");
    let file = path.to_str().unwrap();
    let args = ["record", "-o", file, "--start-signal", "USR1", "--limit", "100k", "--terminate", "--"];
    let Some((child, _stdout)) = start(&args) else { return };
    kill_process(pid(&child), Signal::USR1).unwrap();
    let out = child.wait_with_output().unwrap();
    std::fs::remove_file(path).unwrap();
    let said = text(&out.stderr);
    assert!(said.contains("waiting for SIGUSR1: kill -USR1"), "{said}");
    assert!(said.contains("100 000 accesses taken") && said.contains("before the start"), "{said}");
    assert_eq!(out.status.code(), Some(128 + 15));
}
