//! The model's version is a digest of its sources: a result that was kept is used again only by
//! a program that would compute the same.

use std::fs;
use std::path::{Path, PathBuf};

/// Crates whose code decides what a run gives.
const CRATES: [&str; 7] = ["paging", "mechanisms", "os", "machine", "workloads", "trace", "lab"];

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for name in CRATES {
        for part in ["src", "profiles"] {
            let directory = root.join(name).join(part);
            if directory.is_dir() {
                println!("cargo::rerun-if-changed={}", directory.display());
                list(&directory, &mut files);
            }
        }
    }
    files.sort();
    // FNV-1a, 64 bits (http://www.isthe.com/chongo/tech/comp/fnv): there is no adversary.
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for file in files {
        let content = fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let name = file.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
        add(name.as_bytes());
        add(&(content.len() as u64).to_le_bytes());
        add(&content);
    }
    println!("cargo::rustc-env=PAGEWALK_MODEL={digest:016x}");
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    for entry in entries {
        let path = entry.expect("a directory can be read to its end").path();
        if path.is_dir() {
            list(&path, files);
        } else {
            files.push(path);
        }
    }
}
