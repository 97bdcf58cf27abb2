//! Lines of `/proc/PID/maps`.

use std::path::PathBuf;

use machine::input::{Backing, Permissions};
use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Line {
    /// First byte.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// `rwxp`, or `s` for shared.
    pub mode: Mode,
    /// Offset in the file.
    pub offset: u64,
    /// Inode of the file; 0 if there is none.
    pub inode: u64,
    /// The file, or `[heap]` and the like, or empty.
    pub name: String,
}

/// What may be done with a mapping, and whether it is shared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mode {
    /// `rwx`.
    pub permissions: Permissions,
    /// `s`, not `p`.
    pub shared: bool,
}

impl Mode {
    fn parse(text: &str) -> Option<Mode> {
        let &[r, w, x, s] = text.as_bytes() else { return None };
        let permissions = Permissions { read: r == b'r', write: w == b'w', execute: x == b'x' };
        Some(Mode { permissions, shared: s == b's' })
    }
}

impl TryFrom<String> for Mode {
    type Error = String;
    fn try_from(text: String) -> Result<Mode, String> {
        Mode::parse(&text).ok_or_else(|| format!("{text:?} is not a mode such as rw-p"))
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> String {
        let Permissions { read, write, execute } = mode.permissions;
        let letters = [(read, 'r', '-'), (write, 'w', '-'), (execute, 'x', '-'), (mode.shared, 's', 'p')];
        letters.map(|(yes, letter, other)| if yes { letter } else { other }).iter().collect()
    }
}

impl Line {
    /// What may be done with it.
    pub fn permissions(&self) -> Permissions {
        self.mode.permissions
    }

    /// Parses one line; `None` if it is none.
    pub fn parse(line: &str) -> Option<Line> {
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let p = words.next()?;
        let offset = u64::from_str_radix(words.next()?, 16).ok()?;
        let _device = words.next()?;
        let inode = words.next()?.trim().parse().ok()?;
        let name = words.next().unwrap_or("").trim_start().to_owned();
        let mode = Mode::parse(p)?;
        (start < end && start.is_multiple_of(4096) && end.is_multiple_of(4096)).then_some(Line {
            start,
            end,
            mode,
            offset,
            inode,
            name,
        })
    }

    /// A part of it.
    pub fn part(&self, start: u64, end: u64) -> Line {
        Line { start, end, offset: self.offset + (start - self.start), ..self.clone() }
    }

    /// The file that backs it, if one does.
    pub fn file(&self) -> Option<PathBuf> {
        (self.inode != 0 && self.name.starts_with('/')).then(|| PathBuf::from(&self.name))
    }

    /// What backs it, as a model understands it.
    pub fn backing(&self) -> Backing {
        let file = self.name.clone();
        match (self.file().is_some(), self.mode.shared) {
            // Shared anonymous memory is a nameless file to the kernel.
            (true, true) if self.name.starts_with("/dev/zero") => Backing::SharedAnonymous,
            (true, true) => Backing::SharedFile { file, offset: self.offset },
            (true, false) => Backing::PrivateFile { file, offset: self.offset },
            (false, true) => Backing::SharedAnonymous,
            (false, false) => Backing::Anonymous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let line = Line::parse("7f1c-7f1d r-xp 0 0:0 0").is_none();
        assert!(line, "not page-aligned");
        let line = Line::parse(
            "55d0c9a5c000-55d0c9a5e000 r-xp 00002000 fe:00 1312                      /usr/bin/a b",
        )
        .unwrap();
        assert_eq!((line.start, line.end, line.offset), (0x55d0_c9a5_c000, 0x55d0_c9a5_e000, 0x2000));
        assert_eq!(line.permissions(), Permissions::READ_EXECUTE);
        assert_eq!(String::from(line.mode), "r-xp");
        assert_eq!(line.backing(), Backing::PrivateFile { file: "/usr/bin/a b".into(), offset: 0x2000 });
        let heap = Line::parse("1000-3000 rw-p 00000000 00:00 0                          [heap]").unwrap();
        assert_eq!((heap.backing(), heap.name.as_str()), (Backing::Anonymous, "[heap]"));
    }

    #[test]
    fn what_is_no_line_is_none() {
        for text in ["", "x", "1000-2000", "1000-2000 rw-p", "2000-1000 rw-p 0 0:0 0", "1000-2000 rw 0 0:0 0"]
        {
            assert_eq!(Line::parse(text), None, "{text}");
        }
    }

    #[test]
    fn our_own_are_read() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let lines: Vec<Line> = maps.lines().map(|l| Line::parse(l).expect(l)).collect();
        assert!(lines.iter().any(|l| l.name == "[stack]"));
    }
}
