//! Which ranges of a process are mapped by huge pages: the kernel's
//! `PAGEMAP_SCAN` (Linux 6.7, Documentation/admin-guide/mm/pagemap.rst).

use std::fs::File;
use std::io;

use rustix::ioctl::{Updater, ioctl, opcode};

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

const PAGE_IS_HUGE: u64 = 1 << 6;
const OPCODE: rustix::ioctl::Opcode = opcode::read_write::<ScanArg>(b'f', 16);

/// The ranges within `start..end` that are mapped by entries above level 1.
///
/// # Errors
/// If the kernel does not have the call, or refuses it.
pub fn huge(pagemap: &File, start: u64, end: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    let mut at = start;
    while at < end {
        let mut regions = [Region::default(); 256];
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            start: at,
            end,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            category_mask: PAGE_IS_HUGE,
            return_mask: PAGE_IS_HUGE,
            ..ScanArg::default()
        };
        // SAFETY: the opcode is PAGEMAP_SCAN, whose argument is this structure; the kernel writes at most vec_len
        // regions to vec, which outlives the call.
        unsafe { ioctl(pagemap, Updater::<OPCODE, ScanArg>::new(&mut arg))? };
        let before = found.len();
        found.extend(regions.iter().take_while(|r| r.end != 0).map(|r| (r.start, r.end)));
        if arg.walk_end <= at && found.len() == before {
            break;
        }
        at = arg.walk_end.max(at + 1);
    }
    Ok(found)
}
