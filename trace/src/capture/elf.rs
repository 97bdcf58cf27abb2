//! As much of ELF as capture needs: which parts of a file are mapped with which
//! permissions, and where a symbol is. Files are hostile: everything is bounded.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use machine::input::Permissions;

/// A loadable segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where in the file it begins.
    pub offset: u64,
    /// Where in memory it begins, before relocation.
    pub va: u64,
    /// Bytes in the file.
    pub file_len: u64,
    /// Bytes in memory: what is beyond the file's is zero.
    pub len: u64,
    /// What may be done with it.
    pub permissions: Permissions,
}

/// An open ELF file, 64 bits, little-endian.
#[derive(Debug)]
pub struct Elf {
    file: File,
    header: [u8; 64],
}

/// Sections, segments and symbols beyond these are not looked at.
const MOST_HEADERS: u16 = 1024;
const MOST_SYMBOL_BYTES: u64 = 1 << 30;

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}
fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("4 bytes"))
}
fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().expect("8 bytes"))
}

impl Elf {
    /// Opens a file.
    ///
    /// # Errors
    /// If it cannot be read or is not such a file.
    pub fn open(path: &Path) -> io::Result<Elf> {
        let file = File::open(path)?;
        let mut header = [0; 64];
        file.read_exact_at(&mut header, 0)?;
        if !header.starts_with(b"\x7fELF\x02\x01") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a 64-bit little-endian ELF file"));
        }
        Ok(Elf { file, header })
    }

    fn table(&self, offset: u64, entry: usize, count: u16) -> Vec<Vec<u8>> {
        (0..count.min(MOST_HEADERS) as u64)
            .map_while(|i| {
                let mut bytes = vec![0; entry];
                let at = offset.checked_add(i * entry as u64)?;
                self.file.read_exact_at(&mut bytes, at).ok()?;
                Some(bytes)
            })
            .collect()
    }

    /// The loadable segments, as they lie in the file.
    pub fn segments(&self) -> Vec<Segment> {
        // PT_LOAD is 1; flags are X 1, W 2, R 4.
        self.program_headers()
            .iter()
            .filter(|h| u32_at(h, 0) == 1)
            .map(|h| {
                let flags = u32_at(h, 4);
                Segment {
                    offset: u64_at(h, 8),
                    va: u64_at(h, 16),
                    file_len: u64_at(h, 32),
                    len: u64_at(h, 40),
                    permissions: Permissions {
                        read: flags & 4 != 0,
                        write: flags & 2 != 0,
                        execute: flags & 1 != 0,
                    },
                }
            })
            .collect()
    }

    /// Bytes that it takes in memory, from its first page to its last; 0 if it is not loaded.
    pub fn memory(&self) -> u64 {
        let segments = self.segments();
        let start = segments.iter().map(|s| s.va & !4095).min().unwrap_or(0);
        let end = segments.iter().map(|s| s.va.saturating_add(s.len)).max().unwrap_or(0);
        end.saturating_add(4095 - start) & !4095
    }

    /// The interpreter: the dynamic linker, if the program has one.
    pub fn interpreter(&self) -> Option<PathBuf> {
        // PT_INTERP is 3; PATH_MAX is 4096.
        let headers = self.program_headers();
        let header = headers.iter().find(|h| u32_at(h, 0) == 3)?;
        let mut path = vec![0; usize::try_from(u64_at(header, 32)).ok().filter(|&len| len <= 4096)?];
        self.file.read_exact_at(&mut path, u64_at(header, 8)).ok()?;
        path.truncate(path.iter().position(|&b| b == 0)?);
        Some(PathBuf::from(OsStr::from_bytes(&path)))
    }

    fn program_headers(&self) -> Vec<Vec<u8>> {
        // e_phoff, e_phentsize, e_phnum.
        let entry = u16_at(&self.header, 54) as usize;
        if entry < 56 {
            return Vec::new();
        }
        self.table(u64_at(&self.header, 32), entry, u16_at(&self.header, 56))
    }

    /// The address of a symbol, before relocation: from the full table or, in a stripped file, the dynamic one.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        // e_shoff, e_shentsize, e_shnum.
        let entry = u16_at(&self.header, 58) as usize;
        if entry < 64 {
            return None;
        }
        let sections = self.table(u64_at(&self.header, 40), entry, u16_at(&self.header, 60));
        // SHT_SYMTAB is 2, SHT_DYNSYM 11; sh_offset, sh_size, sh_link.
        [2, 11].into_iter().find_map(|kind| {
            let symbols = sections.iter().find(|s| u32_at(s, 4) == kind)?;
            let strings = sections.get(u32_at(symbols, 40) as usize)?;
            let (symbols, strings) = (self.bytes(symbols)?, self.bytes(strings)?);
            symbols.chunks_exact(24).find_map(|symbol| {
                let rest = strings.get(u32_at(symbol, 0) as usize..)?;
                let value = u64_at(symbol, 8);
                (value != 0 && rest.strip_prefix(name.as_bytes())?.first() == Some(&0)).then_some(value)
            })
        })
    }

    fn bytes(&self, section: &[u8]) -> Option<Vec<u8>> {
        let (offset, len) = (u64_at(section, 24), u64_at(section, 32));
        let end = offset.checked_add(len)?;
        if len > MOST_SYMBOL_BYTES || end > self.file.metadata().ok()?.len() {
            return None;
        }
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_has_code_and_a_main() {
        let elf = Elf::open(&std::env::current_exe().unwrap()).unwrap();
        let segments = elf.segments();
        assert!(segments.iter().any(|s| s.permissions.execute && !s.permissions.write));
        assert!(segments.iter().any(|s| s.permissions.write && !s.permissions.execute));
        let main = elf.symbol("main").unwrap();
        let code = segments.iter().find(|s| s.permissions.execute).unwrap();
        assert!((code.va..code.va + code.file_len).contains(&main));
        assert!(elf.interpreter().is_none_or(|path| path.exists()));
        assert_eq!(elf.symbol("no such symbol"), None);
        assert_eq!(elf.symbol("mai"), None);
    }

    #[test]
    fn lies_are_not_believed() {
        let path = std::env::temp_dir().join(format!("trace-elf-{}", std::process::id()));
        let mut bytes = b"\x7fELF\x02\x01".to_vec();
        bytes.resize(64, 0xff);
        std::fs::write(&path, &bytes).unwrap();
        let elf = Elf::open(&path).unwrap();
        assert_eq!((elf.segments(), elf.symbol("main"), elf.interpreter()), (vec![], None, None));
        std::fs::write(&path, b"text").unwrap();
        assert!(Elf::open(&path).is_err());
        std::fs::remove_file(path).unwrap();
    }
}
