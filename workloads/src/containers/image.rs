//! The memory of a container's process: text and data of the binary and its libraries, heap, stack, and
//! the files that it maps, at the places where Linux puts them without randomisation of the layout.
//!
//! All containers of an image map the same files at the same places; that is what they can share. Data of a
//! module is mapped privately: its pages are the file's until they are written.

use machine::input::{Backing, Permissions, Populate, ProcessSetup, Region};
use paging::Va;

const PAGE: u64 = 4096;
/// Where a position-independent binary is without randomisation.
const BINARY: u64 = 0x5555_5555_4000;
/// Below the stack and the gap that is kept for it to grow.
const MAPPINGS_END: u64 = 0x7fff_f7ff_f000;
const STACK_END: u64 = 0x7fff_ffff_f000;
/// Pages of a stack that are mapped at the start, `exec`'s arguments among them.
const STACK: u64 = 132 << 10;

/// A run of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Part {
    pub start: u64,
    pub len: u64,
}

impl Part {
    pub(crate) fn pages(&self) -> u64 {
        self.len / PAGE
    }
}

/// A binary or a library.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Module {
    /// Code and constants, one mapping of the file.
    pub text: Part,
    /// Initialised data with the tables that the loader relocates.
    pub data: Part,
}

/// What all containers of an application have.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    name: &'static str,
    regions: Vec<Region>,
    pub modules: Vec<Module>,
    pub heap: Part,
    pub stack: Part,
    /// Where the next mapping ends.
    top: u64,
}

impl Image {
    /// A process that runs `name`: text and data of the binary in KiB, and the heap after them.
    pub(crate) fn new(name: &'static str, text: u64, data: u64, heap: u64) -> Image {
        let mut image = Image {
            name,
            regions: Vec::new(),
            modules: Vec::new(),
            heap: Part::default(),
            stack: Part { start: STACK_END - STACK, len: STACK },
            top: MAPPINGS_END,
        };
        let end = image.module(name, BINARY, text, data);
        // `brk` starts some pages after the data.
        image.heap = Part { start: end + 0x2_1000, len: heap.next_multiple_of(PAGE) };
        image.push("heap", image.heap, Backing::Anonymous, Permissions::READ_WRITE);
        image.push("stack", image.stack, Backing::Anonymous, Permissions::READ_WRITE);
        image
    }

    fn push(&mut self, name: &str, at: Part, backing: Backing, permissions: Permissions) {
        let region = Region::anonymous(name, at.start, at.len, Populate::OnDemand);
        self.regions.push(Region { backing, permissions, start: Va::new(at.start), ..region });
    }

    /// Maps text and data of a module from `start` on; returns its end.
    fn module(&mut self, name: &str, start: u64, text: u64, data: u64) -> u64 {
        let text = Part { start, len: (text << 10).next_multiple_of(PAGE) };
        let data = Part { start: text.start + text.len, len: (data << 10).next_multiple_of(PAGE) };
        let file = |offset| Backing::PrivateFile { file: name.to_string(), offset };
        self.push(name, text, file(0), Permissions::READ_EXECUTE);
        self.push(name, data, file(text.len), Permissions::READ_WRITE);
        self.modules.push(Module { text, data });
        data.start + data.len
    }

    /// A place for `len` bytes below all mappings so far.
    fn place(&mut self, len: u64) -> Part {
        let len = len.next_multiple_of(PAGE);
        self.top -= len;
        Part { start: self.top, len }
    }

    /// Loads a library: name, KiB of text and constants, KiB of data.
    pub(crate) fn library(&mut self, name: &str, text: u64, data: u64) {
        let all = (text << 10).next_multiple_of(PAGE) + (data << 10).next_multiple_of(PAGE);
        let at = self.place(all);
        self.module(name, at.start, text, data);
    }

    /// Loads several.
    pub(crate) fn libraries(&mut self, all: &[(&str, u64, u64)]) {
        all.iter().for_each(|(name, text, data)| self.library(name, *text, *data));
    }

    /// Maps a file from the page cache, shared.
    pub(crate) fn file(&mut self, name: &str, len: u64, write: bool) -> Part {
        let at = self.place(len);
        let backing = Backing::SharedFile { file: name.to_string(), offset: 0 };
        let permissions = if write { Permissions::READ_WRITE } else { Permissions::READ };
        self.push(name, at, backing, permissions);
        at
    }

    /// Maps anonymous memory: an allocator's arena, a cache, a large array.
    pub(crate) fn anonymous(&mut self, name: &str, len: u64) -> Part {
        let at = self.place(len);
        self.push(name, at, Backing::Anonymous, Permissions::READ_WRITE);
        at
    }

    /// Maps anonymous memory that a runtime wants at a place of its own, where nothing else lies: 4 TiB, as ZGC's heap.
    pub(crate) fn fixed(&mut self, name: &str, len: u64) -> Part {
        let at = Part { start: 4 << 40, len: len.next_multiple_of(PAGE) };
        self.push(name, at, Backing::Anonymous, Permissions::READ_WRITE);
        at
    }

    /// A container's process.
    pub(crate) fn process(&self, group: u16) -> ProcessSetup {
        ProcessSetup {
            name: self.name.to_string(),
            regions: self.regions.clone(),
            group: Some(group),
            implicit_regions: false,
        }
    }
}

/// The C library and what comes with it: KiB of text and constants, and of data, as in Debian 12 (`size`, rounded).
pub(crate) const C: &[(&str, u64, u64)] = &[("libc.so", 1868, 28), ("libm.so", 908, 8), ("ld.so", 208, 12)];
/// The C++ library.
pub(crate) const CPP: &[(&str, u64, u64)] = &[("libstdc++.so", 2168, 64), ("libgcc_s.so", 124, 8)];
/// TLS and compression.
pub(crate) const TLS: &[(&str, u64, u64)] =
    &[("libcrypto.so", 4400, 400), ("libssl.so", 630, 56), ("libz.so", 116, 8), ("libresolv.so", 56, 8)];
