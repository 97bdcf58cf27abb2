//! What a process's log says.

/// A message: what happened, and how far every lane of the process had come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// What happened.
    pub note: Note,
    /// (lane, records written when it happened).
    pub cuts: Vec<(u32, u64)>,
}

/// What happened in a process. Addresses are the guest program's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// A program begins: a new one, or after `execve`. The text is its
    /// `/proc/self/maps` without the emulator's own files; some of it may be the emulator's.
    Image {
        /// Its stack: first byte, one past the last.
        stack: (u64, u64),
        /// Its executable.
        path: Vec<u8>,
        /// The maps.
        maps: Vec<u8>,
    },
    /// A thread begins to write to a lane.
    ThreadStart {
        /// Which.
        lane: u32,
    },
    /// A thread is gone; the cut of its lane is final.
    ThreadEnd {
        /// Which lane.
        lane: u32,
    },
    /// `mmap` or `shmat` succeeded.
    Map {
        /// First byte.
        start: u64,
        /// Where the program asked for it; 0 if anywhere.
        hint: u64,
        /// Bytes.
        len: u64,
        /// `PROT_*`.
        prot: u32,
        /// `MAP_*`.
        flags: u32,
        /// Offset in the file.
        offset: u64,
        /// The file; empty if anonymous.
        path: Vec<u8>,
    },
    /// `munmap` or `shmdt` begins.
    Unmap {
        /// First byte.
        start: u64,
        /// Bytes; 0 for the whole mapping that begins there.
        len: u64,
    },
    /// `mprotect` succeeded.
    Protect {
        /// First byte.
        start: u64,
        /// Bytes.
        len: u64,
        /// `PROT_*`.
        prot: u32,
    },
    /// `madvise` begins.
    Advise {
        /// First byte.
        start: u64,
        /// Bytes.
        len: u64,
        /// `MADV_*`.
        advice: u32,
    },
    /// `brk` returned this end of the heap.
    Brk {
        /// The end.
        end: u64,
    },
    /// `mremap` succeeded: logged when it returned.
    Remap {
        /// Where it was.
        old: u64,
        /// How long it was.
        old_len: u64,
        /// Where it is.
        new: u64,
        /// How long it is.
        new_len: u64,
        /// `MREMAP_*`.
        flags: u32,
    },
    /// A fork begins; the child, if one comes to be, will write to this log.
    Fork {
        /// The child's log.
        log: u32,
    },
    /// The fork failed: nobody will write to this log.
    ForkFailed {
        /// The log that was meant for the child.
        log: u32,
    },
    /// A program is started that cannot be captured, and runs natively.
    Escape {
        /// Which, and why.
        what: Vec<u8>,
    },
}

impl Note {
    fn parts(&self) -> (u8, [u64; 5], &[u8], &[u8]) {
        let none: &[u8] = &[];
        match self {
            Note::Image { stack, path, maps } => (0, [stack.0, stack.1, 0, 0, 0], path, maps),
            Note::ThreadStart { lane } => (1, [*lane as u64, 0, 0, 0, 0], none, none),
            Note::ThreadEnd { lane } => (2, [*lane as u64, 0, 0, 0, 0], none, none),
            Note::Map { start, hint, len, prot, flags, offset, path } => {
                (3, [*start, *len, *prot as u64 | (*flags as u64) << 32, *offset, *hint], path, none)
            }
            Note::Unmap { start, len } => (4, [*start, *len, 0, 0, 0], none, none),
            Note::Protect { start, len, prot } => (5, [*start, *len, *prot as u64, 0, 0], none, none),
            Note::Advise { start, len, advice } => (6, [*start, *len, *advice as u64, 0, 0], none, none),
            Note::Brk { end } => (7, [*end, 0, 0, 0, 0], none, none),
            Note::Remap { old, old_len, new, new_len, flags } => {
                (8, [*old, *old_len, *new, *new_len, *flags as u64], none, none)
            }
            Note::Fork { log } => (9, [*log as u64, 0, 0, 0, 0], none, none),
            Note::ForkFailed { log } => (10, [*log as u64, 0, 0, 0, 0], none, none),
            Note::Escape { what } => (11, [0; 5], what, none),
        }
    }

    fn from_parts(kind: u8, a: [u64; 5], one: Vec<u8>, two: Vec<u8>) -> Option<Note> {
        Some(match kind {
            0 => Note::Image { stack: (a[0], a[1]), path: one, maps: two },
            1 => Note::ThreadStart { lane: a[0] as u32 },
            2 => Note::ThreadEnd { lane: a[0] as u32 },
            3 => Note::Map {
                start: a[0],
                len: a[1],
                prot: a[2] as u32,
                flags: (a[2] >> 32) as u32,
                offset: a[3],
                hint: a[4],
                path: one,
            },
            4 => Note::Unmap { start: a[0], len: a[1] },
            5 => Note::Protect { start: a[0], len: a[1], prot: a[2] as u32 },
            6 => Note::Advise { start: a[0], len: a[1], advice: a[2] as u32 },
            7 => Note::Brk { end: a[0] },
            8 => Note::Remap { old: a[0], old_len: a[1], new: a[2], new_len: a[3], flags: a[4] as u32 },
            9 => Note::Fork { log: a[0] as u32 },
            10 => Note::ForkFailed { log: a[0] as u32 },
            11 => Note::Escape { what: one },
            _ => return None,
        })
    }
}

const FIXED: usize = 8;

impl Message {
    /// The message as words: `total words | kind << 32`, number of cuts, lengths of
    /// the two texts, five arguments, then two words a cut, then the texts.
    pub fn encode(&self) -> Vec<u64> {
        let (kind, args, one, two) = self.note.parts();
        let mut words = Vec::with_capacity(32);
        words.extend([0, self.cuts.len() as u64, one.len() as u64 | (two.len() as u64) << 32]);
        words.extend(args);
        for &(lane, at) in &self.cuts {
            words.extend([lane as u64, at]);
        }
        for text in [one, two] {
            words.extend(text.chunks(8).map(|chunk| {
                let mut bytes = [0; 8];
                bytes[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(bytes)
            }));
        }
        words[0] = words.len() as u64 | (kind as u64) << 32;
        words
    }

    /// How many words the message that begins with `first` has.
    pub fn len_words(first: u64) -> usize {
        first as u32 as usize
    }

    /// The message that these words are; `None` if they are none.
    pub fn decode(words: &[u64]) -> Option<Message> {
        let (fixed, rest) = words.split_at_checked(FIXED)?;
        let cuts = usize::try_from(fixed[1]).ok()?;
        let (one, two) = (fixed[2] as u32 as usize, (fixed[2] >> 32) as usize);
        let (cut_words, text) = rest.split_at_checked(cuts.checked_mul(2)?)?;
        if one.div_ceil(8) + two.div_ceil(8) != text.len() {
            return None;
        }
        let bytes = |words: &[u64], len: usize| -> Vec<u8> {
            words.iter().flat_map(|w| w.to_le_bytes()).take(len).collect()
        };
        let (first, second) = text.split_at(one.div_ceil(8));
        let note = Note::from_parts(
            (fixed[0] >> 32) as u8,
            fixed[3..8].try_into().ok()?,
            bytes(first, one),
            bytes(second, two),
        )?;
        Some(Message { note, cuts: cut_words.chunks(2).map(|c| (c[0] as u32, c[1])).collect() })
    }
}
