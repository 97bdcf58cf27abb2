//! Capture, end to end, with real programs. The model in `common` checks each
//! access against what the stream said is mapped, and that none is lost.

mod common;

use std::io::{Read, Seek};
use std::os::unix::process::ExitStatusExt;

use common::{Stream, run, same, start};
use machine::input::{Access, Event, Kind, Permissions};
use trace::capture::{Afterwards, CaptureError, CaptureOptions, Fetches, Layout, Start};

fn options() -> CaptureOptions {
    CaptureOptions { stdout: Some(output()), ..CaptureOptions::default() }
}

/// A file for the program's output.
fn output() -> std::fs::File {
    let path = std::env::temp_dir().join(format!(
        "trace-capture-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let file =
        std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

fn text(mut file: std::fs::File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// This test program as a subject: runs one of the functions below.
fn subject(name: &str, options: CaptureOptions) -> Option<Stream> {
    let exe = std::env::current_exe().unwrap();
    run(&[exe.to_str().unwrap(), "--exact", name, "--ignored", "--test-threads=1"], options)
}

#[test]
fn true_is_captured_whole_and_looks_native() {
    let Some(stream) = run(&["/bin/true"], options()) else { return };
    let summary = stream.summary.unwrap();
    assert!(summary.status.success());
    assert_eq!((summary.seen, summary.skipped, summary.dropped), (summary.delivered, 0, 0));
    // Valgrind's lackey counts 39.6 k accesses of /bin/true on Debian 12; QEMU sees no vdso.
    assert!((10_000..100_000).contains(&summary.seen), "{}", summary.seen);
    let regions = &stream.setup.processes[0].regions;
    assert_eq!(regions[0].start.raw(), 0x5555_5555_4000, "{:x?}", regions[0]);
    let stack = regions.last().unwrap();
    assert_eq!((stack.name.as_str(), stack.start.raw() + stack.len), ("[stack]", 0x7fff_ffff_f000));
    assert!(regions.iter().any(|r| r.permissions == Permissions::READ_EXECUTE));
    let libc = stream.events.iter().find_map(|e| match e {
        Event::Map { region, .. } if region.name.starts_with("libc.so") => Some(region.start.raw()),
        _ => None,
    });
    assert_eq!(libc.unwrap() >> 28, 0x7ffff, "libraries lie below the stack");
    assert_eq!(stream.events.last(), Some(&Event::Exit { process: 0 }));
}

#[test]
fn a_shell_and_its_children_are_all_captured() {
    let out = output();
    let options = CaptureOptions { stdout: Some(out.try_clone().unwrap()), ..CaptureOptions::default() };
    let Some(stream) = run(&["sh", "-c", "echo one; /bin/echo two | cat; exit 7"], options) else { return };
    assert_eq!(text(out), "one\ntwo\n");
    let summary = stream.summary.unwrap();
    assert_eq!(summary.status.code(), Some(7));
    assert_eq!(summary.escapes, Vec::<String>::new());
    let count = |f: fn(&Event) -> bool| stream.events.iter().filter(|e| f(e)).count();
    assert_eq!(count(|e| matches!(e, Event::Fork { .. })), 2);
    assert_eq!(count(|e| matches!(e, Event::Exec { .. })), 2);
    assert_eq!(count(|e| matches!(e, Event::Exit { .. })), 3);
    let mut images: Vec<&str> = stream
        .events
        .iter()
        .filter_map(|e| if let Event::Exec { image, .. } = e { Some(image.name.as_str()) } else { None })
        .collect();
    images.sort_unstable();
    assert_eq!(images, ["cat", "echo"]);
    assert!(stream.accesses.iter().any(|a| a.thread == 2), "each process's accesses are there");
}

#[test]
fn a_killed_program_loses_nothing_and_keeps_its_status() {
    let Some(stream) = run(&["sh", "-c", "kill -9 $$"], options()) else { return };
    assert_eq!(stream.summary.unwrap().status.signal(), Some(9));
    assert!(!stream.accesses.is_empty());
}

#[test]
fn scripts_run_in_their_interpreter() {
    let path = std::env::temp_dir().join(format!("trace-capture-script-{}", std::process::id()));
    std::fs::write(&path, "#!/bin/sh -u\necho \"$1\"\n").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let out = output();
    let options = CaptureOptions { stdout: Some(out.try_clone().unwrap()), ..CaptureOptions::default() };
    let stream = run(&[path.to_str().unwrap(), "argument"], options);
    std::fs::remove_file(path).unwrap();
    if stream.is_some() {
        assert_eq!(text(out), "argument\n");
    }
}

const SQL: &str = "create table t(a integer primary key, b text); \
    with recursive c(x) as (select 1 union all select x+1 from c where x < 300) \
    insert into t select x, 'row ' || x * 7919 % 1000 from c; \
    create index i on t(b); select sum(length(b)), count(distinct b) from t where b like 'row 1%';";

#[test]
fn sqlite_gives_the_same_stream_twice() {
    let Some(one) = run(&["sqlite3", ":memory:", SQL], options()) else { return };
    let Some(two) = run(&["sqlite3", ":memory:", SQL], options()) else { return };
    assert!(same(&one.accesses, &two.accesses), "the same program, the same accesses");
    assert_eq!(one.events.len(), two.events.len());
    assert!(one.accesses.len() > 500_000);
}

#[test]
fn a_region_of_interest_is_the_same_stream_later() {
    let Some(all) = run(&["/bin/true"], options()) else { return };
    let (skip, limit) = (12_345, 4_321);
    let options = CaptureOptions { start: Start::After(skip), limit: Some(limit), ..options() };
    let part = run(&["/bin/true"], options).unwrap();
    let summary = part.summary.unwrap();
    assert_eq!((summary.skipped, summary.delivered), (skip, limit));
    assert_eq!(summary.seen, all.accesses.len() as u64);
    let (skip, limit) = (skip as usize, limit as usize);
    assert!(same(&part.accesses, &all.accesses[skip..skip + limit]));
}

#[test]
fn a_region_of_interest_begins_at_a_function() {
    let exe = std::env::current_exe().unwrap();
    let command = [exe.to_str().unwrap(), "--list"];
    let options = CaptureOptions { start: Start::Symbol("main".into()), ..options() };
    let Some(part) = run(&command, options) else { return };
    let all = run(&command, self::options()).unwrap();
    let skipped = part.summary.unwrap().skipped;
    assert!(0 < skipped && skipped < all.accesses.len() as u64 / 2, "{skipped}");
    // The program is loaded by then, and its libraries are in the setup.
    assert!(part.setup.processes[0].regions.iter().any(|r| r.name.starts_with("libc.so")));
}

#[test]
fn a_program_is_ended_at_the_limit_if_asked() {
    let options = CaptureOptions { limit: Some(1000), afterwards: Afterwards::Terminate, ..options() };
    let Some(stream) = run(&["sh", "-c", "while :; do :; done"], options) else { return };
    assert_eq!(stream.summary.unwrap().status.signal(), Some(15));
    assert_eq!(stream.accesses.len(), 1000);
}

#[test]
fn fetches_come_between_the_same_data_accesses() {
    let Some(without) = run(&["/bin/true"], options()) else { return };
    let mut counts = Vec::new();
    for fetches in [Fetches::Blocks, Fetches::Lines] {
        let with = run(&["/bin/true"], CaptureOptions { fetches, ..options() }).unwrap();
        let (fetched, data): (Vec<Access>, Vec<Access>) =
            with.accesses.iter().partition(|a| a.kind == Kind::Fetch);
        let key = |a: &Access| (a.va.raw() & 0xfff, a.kind, a.size_log2);
        assert!(data.iter().map(key).eq(without.accesses.iter().map(key)));
        let last = with.accesses.iter().rposition(|a| a.kind != Kind::Fetch).unwrap();
        let insns = |accesses: &[Access]| accesses.iter().map(|a| a.insns as u64).sum::<u64>();
        assert_eq!(insns(&with.accesses[..=last]), insns(&without.accesses));
        counts.push(fetched.len());
    }
    assert!(0 < counts[0] && counts[0] < counts[1], "{counts:?}");
}

#[test]
fn the_emulators_own_layout_can_be_kept() {
    let Some(stream) = run(&["/bin/true"], CaptureOptions { layout: Layout::Emulator, ..options() }) else {
        return;
    };
    let executable = stream.setup.processes[0].regions.iter().find(|r| r.name == "true").unwrap();
    assert_ne!(executable.start.raw(), 0x5555_5555_4000);
}

#[test]
fn threads_mapping_and_unmapping_are_in_order() {
    let Some(stream) = subject("subject_threads", options()) else { return };
    assert!(stream.summary.unwrap().status.success());
    let spawned = stream.events.iter().filter(|e| matches!(e, Event::Spawn { .. })).count();
    assert!(spawned >= 5, "{spawned}");
    let unmapped = stream.events.iter().filter(|e| matches!(e, Event::Unmap { .. })).count();
    assert!(unmapped >= 180, "{unmapped}");
}

/// Threads that map, fill, grow, hand over and unmap memory as fast as they can: the addresses of one are the
/// next moment another's.
#[test]
#[ignore = "runs inside a capture"]
fn subject_threads() {
    use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap, munmap};
    use std::ptr::null_mut;
    const LEN: usize = 32 << 10;
    let (send, receive) = std::sync::mpsc::sync_channel::<usize>(4);
    let taker = std::thread::spawn(move || {
        for address in receive {
            // SAFETY: the makers give away mappings of 2 * LEN bytes.
            unsafe {
                let bytes = std::slice::from_raw_parts(address as *const u8, 2 * LEN);
                assert!(bytes.iter().step_by(512).map(|&b| b as usize).sum::<usize>() > 0);
                munmap(address as *mut _, 2 * LEN).unwrap();
            }
        }
    });
    let makers: Vec<_> = (1..4_u8)
        .map(|i| {
            let send = send.clone();
            std::thread::spawn(move || {
                let (read_write, private) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
                for _ in 0..60 {
                    // SAFETY: fresh mappings, used within their lengths.
                    unsafe {
                        let small = mmap_anonymous(null_mut(), LEN, read_write, private).unwrap();
                        std::slice::from_raw_parts_mut(small.cast::<u8>(), LEN)
                            .iter_mut()
                            .step_by(512)
                            .for_each(|b| *b = i);
                        let big = mremap(small, LEN, 2 * LEN, MremapFlags::MAYMOVE).unwrap();
                        std::slice::from_raw_parts_mut(big.cast::<u8>(), 2 * LEN)[LEN..].fill(i);
                        send.send(big as usize).unwrap();
                    }
                }
            })
        })
        .collect();
    drop(send);
    makers.into_iter().for_each(|t| t.join().unwrap());
    taker.join().unwrap();
}

/// The accesses of the thread that modifies most.
fn busiest(stream: &Stream) -> Vec<Access> {
    let of = |thread| stream.accesses.iter().copied().filter(move |a| a.thread == thread);
    let threads = stream.accesses.iter().map(|a| a.thread).max().unwrap();
    let busiest = (0..=threads).max_by_key(|&t| of(t).filter(|a| a.kind == Kind::Modify).count()).unwrap();
    of(busiest).collect()
}

/// Whether that many accesses in a row satisfy a condition, and not one more.
fn has_run(accesses: &[Access], len: usize, f: impl Fn(&Access) -> bool) -> bool {
    accesses.split(|a| !f(a)).any(|run| run.len() == len)
}

#[test]
fn instructions_and_kinds_are_exact() {
    let Some(stream) = subject("subject_instructions", options()) else { return };
    let accesses = busiest(&stream);
    // A loop of five instructions with one atomic modify.
    assert!(has_run(&accesses, 4999, |a| a.kind == Kind::Modify && a.insns == 5 && a.size_log2 == 3));
    // A loop of four with a read and a write.
    let pairs = accesses.windows(4).filter(|w| {
        let expect = [(Kind::Read, 2), (Kind::Write, 2), (Kind::Read, 2), (Kind::Write, 2)];
        w.iter().zip(expect).all(|(a, (kind, insns))| a.kind == kind && a.insns == insns && a.size_log2 == 1)
    });
    assert!(pairs.count() >= 4990);
    // One instruction that stores 5000 bytes, and the next after it.
    assert!(has_run(&accesses, 4999, |a| a.kind == Kind::Write && a.insns == 0 && a.size_log2 == 0));
}

/// Loops of known instructions.
#[test]
#[ignore = "runs inside a capture"]
fn subject_instructions() {
    let mut word = 0_u64;
    let mut bytes = [0_u8; 5000];
    // SAFETY: the memory operands are this function's own variables, and all registers are declared.
    unsafe {
        std::arch::asm!(
            "2:", "lock add qword ptr [{p}], 1", "nop", "nop", "dec {n:e}", "jnz 2b",
            p = in(reg) &mut word, n = inout(reg) 5000 => _,
        );
        std::arch::asm!(
            "2:", "mov {t:x}, word ptr [{p}]", "dec {n:e}", "mov word ptr [{p}], {t:x}", "jnz 2b",
            p = in(reg) &mut word, n = inout(reg) 5000 => _, t = out(reg) _,
        );
        std::arch::asm!(
            "rep stosb",
            inout("rcx") bytes.len() => _, inout("rdi") bytes.as_mut_ptr() => _, in("al") 1_u8,
        );
    }
    assert_eq!((word & 0xffff, bytes[4999]), (5000, 1));
}

#[test]
fn python_is_captured() {
    let out = output();
    let options = CaptureOptions {
        stdout: Some(out.try_clone().unwrap()),
        limit: Some(3_000_000),
        ..CaptureOptions::default()
    };
    let Some(stream) = run(&["python3", "-c", "print(sum(range(1000)))"], options) else { return };
    assert!(stream.summary.unwrap().status.success());
    assert_eq!(text(out), "499500\n");
}

#[test]
fn what_cannot_be_captured_says_why() {
    let error = |program: &str, options: CaptureOptions| {
        trace::capture::start(program.as_ref(), &[], options).map(|_| ()).unwrap_err().to_string()
    };
    assert_eq!(error("no-such-program", options()), "no-such-program: no such program in PATH");
    assert_eq!(error("/no/such", options()), "/no/such: no such file");
    assert_eq!(error("/etc/passwd", options()), "/etc/passwd: is not an executable program");
    let Some(()) = common::start(&["/bin/true"], options()).map(drop) else { return };
    let nowhere = CaptureOptions { plugin: Some("/no/plugin.so".into()), ..options() };
    assert!(error("/bin/true", nowhere).contains("cargo build --release -p capture-qemu"));
    let nowhere = CaptureOptions { emulator: Some("/no/qemu".into()), ..options() };
    assert!(error("/bin/true", nowhere).contains("apt install qemu-user"));
    let other = CaptureOptions { emulator: Some("/bin/true".into()), ..options() };
    assert!(error("/bin/true", other).contains("plugins"));
    let symbol = CaptureOptions { start: Start::Symbol("nonesuch".into()), ..options() };
    let result = trace::capture::start("/bin/true".as_ref(), &[], symbol);
    assert!(matches!(result, Err(CaptureError::NoSymbol { .. })));
}

#[test]
fn a_start_that_never_comes_is_an_error() {
    let options = CaptureOptions { start: Start::After(1 << 40), ..options() };
    let Some(mut source) = start(&["/bin/true"], options) else { return };
    let error = machine::input::Source::setup(&mut source).unwrap_err().to_string();
    assert!(error.contains("ended before capture began, after"), "{error}");
}
