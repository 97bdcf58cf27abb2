//! Reading the guest's memory.

use crate::translate;

/// Reads as much as there is, and says how much. The kernel checks the address: a bad one is the guest's fault, not
/// ours.
pub fn read(address: u64, into: &mut [u8]) -> usize {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let host = address.wrapping_add(translate::guest_base());
    let remote = libc::iovec { iov_base: host as *mut libc::c_void, iov_len: into.len() };
    // SAFETY: local covers `into`; remote is only read, by the kernel.
    let n = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    usize::try_from(n).unwrap_or(0)
}
