//! Damaged traces: no panic, no more memory than a reader's own, an error or a
//! shorter trace. The same few thousand mutations each time.

mod support;

use machine::input::{Block, More};
use std::path::Path;
use support::fixtures::{self, compressed};
use support::{read_all, scratch};
use trace::{Format, OpenOptions, WriteOptions, copy, create, from_bytes};

/// A small generator of its own: the mutations are part of the test.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64* (Vigna 2016).
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn mutate(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = random.next() as u8,
            3 => bytes[at] = 0xff,
            4 => {
                let end = bytes.len().min(at + 8);
                bytes[at..end].fill([0, 0xff, 0x7f, 0x80][random.below(4)]);
            }
            _ => {
                let part = bytes[at..bytes.len().min(at + 64)].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, part);
            }
        }
    }
    bytes
}

/// Reads to the end or to an error.
fn consume(name: &str, bytes: Vec<u8>, options: &OpenOptions) {
    let Ok(mut source) = from_bytes(name, bytes, options) else { return };
    if source.setup().is_err() {
        return;
    }
    let mut block = Block::new();
    while let Ok(More::Yes) = source.fill(&mut block) {
        assert!(block.accesses.len() <= machine::input::BLOCK);
    }
}

fn parquet() -> Vec<u8> {
    let path = scratch("hostile").join("t.parquet");
    let mut source =
        from_bytes("a.memtrace", fixtures::drmemtrace(7, 7, 90, &[1, 2, 3]), &OpenOptions::default())
            .unwrap();
    let setup = source.setup().unwrap();
    copy(&mut *source, create(Path::new(&path), &setup, &WriteOptions::default()).unwrap()).unwrap();
    std::fs::read(path).unwrap()
}

fn format_of(name: &str, bytes: &[u8]) -> Format {
    from_bytes(name, bytes.to_vec(), &OpenOptions::default()).unwrap().facts().format
}

#[test]
fn mutated_traces_of_each_format() {
    let mut random = Random(1);
    for fixture in fixtures::all() {
        let options = OpenOptions::with_format(format_of(fixture.name, &fixture.bytes));
        for round in 0..5000 {
            let bytes = mutate(&fixture.bytes, &mut random);
            let options = if round % 4 == 0 { OpenOptions::default() } else { options.clone() };
            consume(fixture.name, bytes, &options);
        }
    }
}

#[test]
fn mutated_compressed_streams() {
    let mut random = Random(2);
    let plain = fixtures::drmemtrace(7, 7, 90, &[1, 2, 3]);
    for (packed, bytes) in compressed(&plain) {
        let rounds = if packed == "xz" || packed == "bz2" { 1000 } else { 5000 };
        for _ in 0..rounds {
            consume(packed, mutate(&bytes, &mut random), &OpenOptions::with_format(Format::DrMemtrace));
        }
    }
}

/// A few kilobytes of zstd that are gigabytes of nothing: whoever reads can stop after each block.
#[test]
fn lines_without_accesses_do_not_hold_a_block_back() {
    let lines = 1 << 20;
    let plain = vec![b'\n'; lines];
    for (packed, bytes) in compressed(&plain) {
        let mut source = from_bytes(packed, bytes, &OpenOptions::with_format(Format::PerfScript)).unwrap();
        source.setup().unwrap();
        let (mut block, mut blocks) = (Block::new(), 0);
        while source.fill(&mut block).unwrap() == More::Yes {
            assert!(block.accesses.is_empty());
            blocks += 1;
        }
        assert!(blocks > 100, "{packed}: {lines} lines in {blocks} blocks");
    }
}

#[test]
fn mutated_parquet() {
    let mut random = Random(3);
    let bytes = parquet();
    // One flipped bit anywhere in the rows is found.
    let footer = bytes.len()
        - 8
        - u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
    for at in 4..footer {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        let mut source = from_bytes("p", bytes, &OpenOptions::default()).unwrap();
        let error = read_all(&mut *source).unwrap_err().to_string();
        assert!(error.contains("bytes 4 to"), "{error}");
    }
    // Without the checksums the decoders themselves are met.
    let key = b"pagewalk.crc32";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap();
    let mut bytes = bytes;
    bytes[at] = b'P';
    let whole = read_all(&mut *from_bytes("p", bytes.clone(), &OpenOptions::default()).unwrap()).unwrap();
    assert!(!whole.accesses.is_empty());
    let mut options = OpenOptions::with_format(Format::Parquet);
    for round in 0..8000 {
        options.recover = round % 2 == 0;
        consume("p", mutate(&bytes, &mut random), &options);
    }
    // The footer is where lengths lie.
    let footer = bytes.len()
        - 8
        - u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
    for at in footer..bytes.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            consume("p", bytes, &options);
        }
    }
}
