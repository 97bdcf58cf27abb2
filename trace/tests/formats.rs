//! Each format on a trace that was made byte by byte, plain and compressed.

mod support;

use machine::input::{Event, Kind, SourceError};
use std::io::Cursor;
use support::fixtures::{self, Fixture, compressed, drmemtrace, record};
use support::{Whole, read_all, scratch};
use trace::{Format, OpenOptions, from_bytes, from_reader};

fn read(name: &str, bytes: &[u8]) -> Result<Whole, SourceError> {
    read_all(&mut *from_bytes(name, bytes.to_vec(), &OpenOptions::default())?)
}

fn counts(whole: &Whole) -> [usize; 4] {
    [Kind::Read, Kind::Write, Kind::Fetch, Kind::Modify]
        .map(|kind| whole.accesses.iter().filter(|a| a.kind == kind).count())
}

/// What a trace reader must keep whatever it reads.
fn check(whole: &Whole) {
    let mut threads = whole.setup.threads.len();
    let mut processes = whole.setup.processes.len();
    let mut events = whole.events.iter().peekable();
    for (i, access) in whole.accesses.iter().enumerate() {
        while let Some((_, event)) = events.next_if(|(at, _)| *at <= i) {
            match event {
                Event::Fork { child, .. } => {
                    assert_eq!(usize::from(*child), processes);
                    processes += 1;
                }
                Event::Spawn { thread, process } => {
                    assert_eq!(usize::from(*thread), threads);
                    assert!(usize::from(*process) < processes);
                    threads += 1;
                }
                _ => {}
            }
        }
        assert!(usize::from(access.thread) < threads);
        assert!(access.va.is_canonical(5));
    }
}

#[test]
fn each_format_is_recognised_and_counted() {
    for Fixture { name, bytes, counts: expected } in fixtures::all() {
        let whole = read(name, &bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        check(&whole);
        assert_eq!(counts(&whole), expected, "{name}");
    }
}

#[test]
fn each_compression_is_recognised() {
    for Fixture { name, bytes, counts: expected } in fixtures::all() {
        if name.ends_with("zip") {
            continue;
        }
        for (packed, bytes) in compressed(&bytes) {
            let whole =
                read(&format!("{name}.{packed}"), &bytes).unwrap_or_else(|e| panic!("{name}.{packed}: {e}"));
            assert_eq!(counts(&whole), expected, "{name}.{packed}");
        }
    }
}

#[test]
fn a_pipe_gives_the_same_as_a_file() {
    for Fixture { name, bytes, .. } in fixtures::all() {
        let piped = from_reader(name, Box::new(Cursor::new(bytes.clone())), &OpenOptions::default());
        match piped {
            Ok(mut source) => assert_eq!(read_all(&mut *source).unwrap(), read(name, &bytes).unwrap()),
            Err(e) => assert!(name.ends_with("zip") && e.to_string().contains("pipe"), "{name}: {e}"),
        }
    }
}

#[test]
fn without_fetches_the_instructions_stay() {
    for Fixture { name, bytes, counts: expected } in fixtures::all() {
        let mut options = OpenOptions::default();
        options.fetches = false;
        let whole = read_all(&mut *from_bytes(name, bytes.clone(), &options).unwrap()).unwrap();
        let fetches = if name.ends_with("perf") { expected[2] } else { 0 };
        assert_eq!(counts(&whole), [expected[0], expected[1], fetches, expected[3]], "{name}");
        // But for instructions behind the last data access.
        let sum = |whole: &Whole| {
            let last = whole.accesses.iter().rposition(|a| a.kind != Kind::Fetch).unwrap();
            whole.accesses[..=last].iter().map(|a| u64::from(a.insns)).sum::<u64>()
        };
        assert_eq!(sum(&whole), sum(&read(name, &bytes).unwrap()), "{name}");
    }
}

#[test]
fn drmemtrace_files_are_merged_by_time() {
    let dir = scratch("dr_merge");
    std::fs::create_dir(dir.join("trace")).unwrap();
    let put = |name: &str, bytes: Vec<u8>| std::fs::write(dir.join("trace").join(name), bytes).unwrap();
    put("drmemtrace.app.1.0.trace", drmemtrace(1, 1, 300, &[10, 30]));
    put("drmemtrace.app.2.0.trace", drmemtrace(1, 2, 1, &[20]));
    put("drmemtrace.app.3.0.trace", drmemtrace(3, 3, 1, &[5, 40]));
    put("cpu_schedule.bin.zip", vec![1, 2, 3]);
    let mut source = trace::open(&dir, &OpenOptions::default()).unwrap();
    let whole = read_all(&mut *source).unwrap();
    check(&whole);
    let mut order: Vec<(u16, usize)> = Vec::new();
    for access in &whole.accesses {
        match order.last_mut() {
            Some((thread, n)) if *thread == access.thread => *n += 1,
            _ => order.push((access.thread, 1)),
        }
    }
    // 300 instructions, 300 loads, 100 stores and a bundle of 2; or 1, 1, 1 and 2.
    assert_eq!(order, [(0, 5), (1, 702), (2, 5), (1, 702), (0, 5)]);
    let processes: Vec<_> = whole
        .events
        .iter()
        .filter_map(
            |(_, e)| if let Event::Spawn { thread, process } = e { Some((*thread, *process)) } else { None },
        )
        .collect();
    assert_eq!(processes, [(1, 1), (2, 1)]);
    let map = trace::drmemtrace::physical_map(&dir).unwrap();
    assert_eq!(map.pages, [(0x7f00_0000, 0x9000)].into());
}

#[test]
fn drmemtrace_of_a_core_has_several_threads() {
    let one = drmemtrace(1, 1, 10, &[10]);
    let footer = one.len() - 12;
    let whole = read("core.memtrace", &[&one[..footer], &drmemtrace(2, 2, 10, &[20])].concat()).unwrap();
    check(&whole);
    assert_eq!(whole.accesses.last().unwrap().thread, 1);
    assert_eq!(whole.events.len(), 3);
}

#[test]
fn drmemtrace_file_types_are_refused_or_noted() {
    let with_type = |bits| {
        let mut bytes = drmemtrace(1, 1, 10, &[10]);
        bytes[24..36].copy_from_slice(&record(28, 9, bits));
        bytes
    };
    for (bits, word) in [(0x44, "instructions only"), (0x20, "32-bit"), (0x10, "32-bit")] {
        let error = read("a.memtrace", &with_type(bits)).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("byte 24"), "{error}");
    }
    let mut source = from_bytes("a", with_type(0x41), &OpenOptions::default()).unwrap();
    source.setup().unwrap();
    assert!(source.facts().notes.iter().any(|n| n.contains("filtered")));
}

#[test]
fn errors_name_the_byte_and_keep_what_came_before() {
    // Name, bytes, where they are damaged, how, and the accesses before.
    let bad_address = 0x0123_4567_89ab_cdefu64.to_le_bytes();
    let all = fixtures::all();
    let of = |name: &str| all.iter().find(|f| f.name == name).unwrap().bytes.clone();
    for (name, at, before) in [
        ("a.qemu16", 16 * 400, 400),
        ("a.champsimtrace", 64 * 50, 50 * 2 + 25),
        ("a.memtrace", 12 * 11 + 12 * 7 + 4 + 12 * 3, 3 + 1),
    ] {
        let mut bytes = of(name);
        bytes[at..at + 8].copy_from_slice(&bad_address);
        let options = OpenOptions::default();
        let mut source = from_bytes(name, bytes, &options).unwrap();
        source.setup().unwrap();
        let mut block = machine::input::Block::new();
        let mut seen = 0;
        let error = loop {
            match source.fill(&mut block) {
                Ok(_) => seen += block.accesses.len(),
                Err(e) => break e.to_string(),
            }
        };
        assert_eq!(seen, before, "{name}: {error}");
        let byte = if name == "a.memtrace" { at - 4 } else { at };
        assert!(error.contains(&format!("at byte {byte}")), "{name}: {error}");
    }
    for (name, line) in [("a.lackey", 63), ("a.din", 30), ("a.ramulator", 30), ("a.perf", 30)] {
        let mut lines: Vec<_> = of(name).split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        lines[line - 1] = b"what is this".to_vec();
        let options = OpenOptions::with_format(
            from_bytes(name, of(name), &OpenOptions::default()).unwrap().facts().format,
        );
        let bytes = lines.join(&b'\n');
        let error = read_all(&mut *from_bytes(name, bytes, &options).unwrap()).unwrap_err().to_string();
        assert!(
            error.contains(&format!("line {line} ")) && error.contains("what is this"),
            "{name}: {error}"
        );
    }
}

#[test]
fn every_cut_is_an_error_or_a_shorter_trace() {
    for Fixture { name, bytes, .. } in fixtures::all() {
        let whole = read(name, &bytes).unwrap();
        let binary = !whole.accesses.is_empty() && std::str::from_utf8(&bytes).is_err();
        for cut in (0..bytes.len()).step_by(13) {
            let format = from_bytes(name, bytes.clone(), &OpenOptions::default()).unwrap().facts().format;
            let options = OpenOptions::with_format(format);
            let short = from_bytes(name, bytes[..cut].to_vec(), &options).and_then(|mut s| read_all(&mut *s));
            match short {
                Ok(short) => assert!(short.accesses.len() <= whole.accesses.len(), "{name} at {cut}"),
                Err(e) if binary => assert!(e.to_string().contains(name), "{e}"),
                Err(e) => assert!(e.to_string().contains("line "), "{name} at {cut}: {e}"),
            }
        }
    }
}

#[test]
fn what_cannot_be_told_is_asked_for() {
    // Both a fetch of Dinero and an instruction count of Ramulator.
    let error = read("trace.txt", b"2 12345678\n1 87654321\n").unwrap_err().to_string();
    assert!(error.contains("dinero or ramulator") && error.contains("--format dinero|ramulator"), "{error}");
    assert!(read("trace.din", b"2 12345678\n1 87654321\n").is_ok());
    let error = read("trace.bin", &[0x99; 1000]).unwrap_err().to_string();
    assert!(error.contains("no known format") && error.contains("champsim|"), "{error}");
    let error = read("empty", b"").unwrap_err().to_string();
    assert!(error.contains("is empty"), "{error}");
    let options = OpenOptions::with_format(Format::DrMemtrace);
    let error = read_all(&mut *from_bytes("x.raw", vec![7; 100], &options).unwrap()).unwrap_err().to_string();
    assert!(error.contains("drraw2trace"), "{error}");
}

#[test]
fn perf_samples_follow_their_list_of_fields() {
    let text = "my prog 2 1234/1235 [003] 12.345678:      1 cpu/mem-loads,ldlat=30/P:     7f0011223344 \
                68100142 |OP LOAD|LVL L1 hit|SNP None  57 401136 main+0x6 (prog)\n\
                other    88/88 [001] 12.4:  1 cpu/mem-stores/P:     7f0011223388 68100144 |OP STORE|LVL L1 hit\n\
                other    88/88 [001] 12.5:  1 cpu/mem-stores/P:     0 68100144 |OP STORE|LVL N/A\n";
    let mut options = OpenOptions::with_format(Format::PerfScript);
    options.perf_fields = Some("comm,pid,tid,cpu,time,period,event,addr,data_src,weight,ip,sym,dso".into());
    let whole = read_all(&mut *from_bytes("p", text.as_bytes().to_vec(), &options).unwrap()).unwrap();
    check(&whole);
    let got: Vec<_> = whole.accesses.iter().map(|a| (a.va.raw(), a.kind, a.thread)).collect();
    assert_eq!(got, [(0x7f00_1122_3344, Kind::Read, 0), (0x7f00_1122_3388, Kind::Write, 1)]);
    options.perf_fields = Some("comm,ip".into());
    let error = from_bytes("p", text.as_bytes().to_vec(), &options).err().unwrap().to_string();
    assert!(error.contains("no 'addr'"), "{error}");
}

#[test]
fn a_bomb_takes_time_but_no_memory() {
    // 64 MiB of zeros in a few kilobytes: no address, so refused where it begins.
    let zeros = vec![0u8; 64 << 20];
    for (packed, bytes) in compressed(&zeros) {
        let options = OpenOptions::with_format(Format::Dinero);
        let error = from_bytes(&format!("bomb.{packed}"), bytes, &options)
            .and_then(|mut source| read_all(&mut *source))
            .unwrap_err()
            .to_string();
        assert!(error.contains("not text"), "{error}");
    }
}
