//! A small trace of each format, made byte by byte.

use std::io::Write;

/// A trace, the format to ask for where its content does not tell, and the
/// `(reads, writes, fetches, modifies)` in it.
pub struct Fixture {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub counts: [usize; 4],
}

fn qemu16() -> Vec<u8> {
    let mut bytes = Vec::new();
    for i in 0..600u64 {
        bytes.extend((0x7f00_0000_0000 + i * 72).to_le_bytes());
        bytes.extend(((i / 200) as u32).to_le_bytes());
        bytes.extend([(i % 3 == 0) as u8, 3, 0, 0]);
    }
    bytes
}

fn champsim(record: usize, stores: usize, loads: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for i in 0..100u64 {
        let mut r = vec![0u8; record];
        r[..8].copy_from_slice(&(0x40_0000 + i * 4).to_le_bytes());
        r[8] = (i % 5 == 0) as u8;
        r[9] = (i % 10 == 0) as u8;
        // Registers: stack pointer, flags, instruction pointer.
        r[10..14].copy_from_slice(&[6, 25, 26, 6]);
        r[loads..loads + 8].copy_from_slice(&(0x7fff_0000_0000 + i * 8).to_le_bytes());
        if i % 2 == 0 {
            r[stores + 8..stores + 16].copy_from_slice(&(0x55_0000_0000 + i * 64).to_le_bytes());
        }
        bytes.extend(r);
    }
    bytes
}

/// A record of drmemtrace.
pub fn record(kind: u16, size: u16, addr: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..2].copy_from_slice(&kind.to_le_bytes());
    bytes[2..4].copy_from_slice(&size.to_le_bytes());
    bytes[4..].copy_from_slice(&addr.to_le_bytes());
    bytes
}

/// The records of one thread: `count` instructions with a load, every third with a store.
pub fn drmemtrace(pid: u64, tid: u64, count: u64, times: &[u64]) -> Vec<u8> {
    let head =
        [(25, 0, 4), (28, 12, 4), (28, 9, 0x240), (22, 4, tid), (24, 4, pid), (28, 10, 64), (28, 18, 4096)];
    let mut records: Vec<(u16, u16, u64)> = head.to_vec();
    for time in times {
        records.extend([(28, 2, *time), (28, 3, 1), (28, 15, 0x9000), (28, 17, 0x7f00_0000)]);
        for i in 0..count {
            let pc = 0x40_0000 + i * 8;
            records.extend([(47, 5, 0x1234), (10 + (i % 7) as u16, 5, pc), (0, 8, 0x7f00_0000 + i * 16)]);
            if i % 3 == 0 {
                records.push((1, 28, 0x7fff_0000 + i));
            }
            // Things that are no accesses.
            records.extend([(2, 64, 0x1000), (29, 3, pc), (18, 64, pc), (28, 200, 7)]);
        }
        // A bundle of two instructions behind the last.
        records.push((17, 2, 0x0304));
    }
    records.extend([(23, 4, tid), (26, 0, 0)]);
    records.into_iter().flat_map(|(k, s, a)| record(k, s, a)).collect()
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn gem5() -> Vec<u8> {
    let mut bytes = b"gem5".to_vec();
    let mut message = |fields: &[(u64, u64)], name: Option<&str>| {
        let mut m = Vec::new();
        if let Some(name) = name {
            varint(&mut m, 1 << 3 | 2);
            varint(&mut m, name.len() as u64);
            m.extend(name.as_bytes());
        }
        for (field, value) in fields {
            varint(&mut m, field << 3);
            varint(&mut m, *value);
        }
        varint(&mut bytes, m.len() as u64);
        bytes.extend(m);
    };
    message(&[(2, 0), (3, 1_000_000_000_000)], Some("system.monitor"));
    for i in 0..200 {
        // Tick, command, address, size, flags, packet, pc.
        let command = [1, 4, 1, 2][i as usize % 4];
        let flags = if i % 4 == 2 { 0x100 } else { 0 };
        message(
            &[(1, i * 500), (2, command), (3, 0x8000_0000 + i * 64), (4, 64), (5, flags), (6, i), (7, 0x40)],
            None,
        );
    }
    bytes
}

fn text(lines: impl Iterator<Item = String>) -> Vec<u8> {
    lines.map(|line| line + "\n").collect::<String>().into_bytes()
}

fn zip_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (i, (name, bytes)) in members.iter().enumerate() {
        let method = [zip::CompressionMethod::Deflated, zip::CompressionMethod::Stored][i % 2];
        zip.start_file(*name, zip::write::SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// The same bytes under each compression.
pub fn compressed(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
    xz.write_all(bytes).unwrap();
    let mut bz2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bz2.write_all(bytes).unwrap();
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(bytes).unwrap();
    let mut sz = snap::write::FrameEncoder::new(Vec::new());
    sz.write_all(bytes).unwrap();
    vec![
        ("gz", gz.finish().unwrap()),
        ("xz", xz.finish().unwrap()),
        ("zst", zstd::encode_all(bytes, 1).unwrap()),
        ("bz2", bz2.finish().unwrap()),
        ("lz4", lz4.finish().unwrap()),
        ("sz", sz.into_inner().unwrap()),
        ("zip", zip_of(&[("trace", bytes)])),
    ]
}

/// A trace of each format, all recognised by content or by the name given here.
pub fn all() -> Vec<Fixture> {
    let fixture = |name, bytes, counts| Fixture { name, bytes, counts };
    let dr = drmemtrace(7, 7, 90, &[100]);
    let cut = dr.len() / 24 * 12;
    let perf = |i: u64| {
        format!(
            "  my prog   83{} [000]  2631.600874: exceptions:page_fault_user: address={:#x} ip=0x1 error_code={:#x}",
            i % 2,
            0x7f00_0000_0000 + i * 4096,
            [4, 6, 20][i as usize % 3]
        )
    };
    vec![
        fixture("a.qemu16", qemu16(), [400, 200, 0, 0]),
        fixture("a.champsimtrace", champsim(64, 16, 32), [100, 50, 100, 0]),
        fixture("a.cloudsuite", champsim(96, 24, 56), [100, 50, 100, 0]),
        fixture("a.memtrace", dr.clone(), [90, 30, 92, 0]),
        fixture(
            "a.trace.zip",
            zip_of(&[("chunk.0000", &dr[..cut]), ("chunk.0001", &dr[cut..])]),
            [90, 30, 92, 0],
        ),
        fixture("a.ptrc", gem5(), [50, 50, 50, 0]),
        fixture(
            "a.lackey",
            text(["==12== Lackey", "==12== ", ""].into_iter().map(String::from).chain((0..120u64).map(
                |i| {
                    let kind = ["I ", " L", " S", " M"][i as usize % 4];
                    format!("{kind} {:08x},{}", 0x1fff_0000u64 + i * 8, 1 << (i % 5))
                },
            ))),
            [30, 30, 30, 30],
        ),
        fixture("a.din", text((0..90u64).map(|i| format!("{} 0x7fff93f3d{i:03x}", i % 3))), [30, 30, 30, 0]),
        fixture(
            "b.din",
            text((0..90u64).map(|i| format!("{} 4{i:05x} 8", ["r", "w", "i"][i as usize % 3]))),
            [30, 30, 30, 0],
        ),
        fixture(
            "a.ramulator",
            text((0..60u64).map(|i| match i % 2 {
                0 => format!("{} {}", i * 3000, 20_734_016 + i * 64),
                _ => format!("{i} {} {}", 20_734_016 + i * 64, 30_000_000 + i * 64),
            })),
            [60, 30, 0, 0],
        ),
        fixture(
            "b.ramulator",
            text((0..60u64).map(|i| format!("{:#x} {}", i << 20, ["R", "W"][i as usize % 2]))),
            [30, 30, 0, 0],
        ),
        fixture(
            "c.ramulator",
            text((0..60u64).map(|i| format!("{} {}", ["LD", "ST"][i as usize % 2], i * 4096))),
            [30, 30, 0, 0],
        ),
        fixture("a.perf", text((0..60).map(perf)), [20, 20, 20, 0]),
        fixture(
            "a.perfmem",
            text(["# PID, TID, IP, ADDR, LOCAL WEIGHT, DSRC, SYMBOL".to_owned()].into_iter().chain(
                (0..60u64).map(|i| {
                    let dsrc = [0x6810_0142, 0x6810_0144][i as usize % 2];
                    // perf's own slip: "0x016" before the digits.
                    format!(
                        "{} {} 0x401000 0x016{:x} 57 {dsrc:#x} prog:main+0x1",
                        10,
                        10 + i % 2,
                        0x7fff_1234_0000u64 + i
                    )
                }),
            )),
            [30, 30, 0, 0],
        ),
    ]
}
