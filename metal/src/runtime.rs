//! What the compiler expects of the platform: memory functions, a heap, a
//! panic handler.

use crate::say;
use crate::serial::exit;
use core::arch::asm;
use linked_list_allocator::LockedHeap;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Gives `bytes` bytes at `start` to the heap.
///
/// # Safety
/// The range must be mapped, unused, and given once.
pub unsafe fn init_heap(start: usize, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { HEAP.lock().init(start as *mut u8, bytes) };
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("FAILED: {info}");
    exit(false)
}

/// Referenced by the prebuilt core library of a target with unwinding; never called.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Referenced by the prebuilt alloc library likewise: panics abort, so nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    say!("FAILED: something unwinds, and nothing may");
    exit(false)
}

// The prebuilt compiler runtime of this target leaves these to the C library.
// Written with string instructions so that the compiler does not turn a loop
// into a call of the function itself.

/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the caller's promise; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsq", "mov rcx, {rest}", "rep movsb", rest = in(reg) n % 8, inout("rcx") n / 8 => _,
            inout("rdi") to => _, inout("rsi") from => _, options(nostack))
    };
    to
}

/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= n {
        // SAFETY: forwards is right when `to` is not inside the source.
        return unsafe { memcpy(to, from, n) };
    }
    // SAFETY: the caller's promise; the direction flag is restored.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") n => _, inout("rdi") to.add(n).wrapping_sub(1) => _,
            inout("rsi") from.add(n).wrapping_sub(1) => _, options(nostack))
    };
    to
}

/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, n: usize) -> *mut u8 {
    let word = u64::from(value as u8) * 0x0101_0101_0101_0101;
    // SAFETY: the caller's promise; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep stosq", "mov rcx, {rest}", "rep stosb", rest = in(reg) n % 8, inout("rcx") n / 8 => _,
            inout("rdi") to => _, in("rax") word, options(nostack))
    };
    to
}

/// # Safety
/// As C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    for i in 0..n {
        // SAFETY: the caller's promise. Volatile, so that the loop stays one.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// # Safety
/// As C's `bcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(a, b, n) }
}

/// # Safety
/// As C's `strlen`.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(s: *const u8) -> usize {
    let mut n = 0;
    // SAFETY: the caller's promise: the string ends with a zero byte.
    while unsafe { s.add(n).read_volatile() } != 0 {
        n += 1;
    }
    n
}
