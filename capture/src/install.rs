//! How QEMU loads the plugin.

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::ffi::{self, Id, Info};
use crate::translate::{WANTED, Wanted};
use crate::{exec, maps, process, syscalls, translate, vcpu};

/// QEMU's entry point.
///
/// # Safety
/// Called by QEMU, once, with its own info and `argc` C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    info: *const Info,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: by the caller.
    let info = unsafe { &*info };
    let args: Vec<&str> = (0..argc.max(0) as usize)
        // SAFETY: by the caller.
        .filter_map(|i| unsafe { CStr::from_ptr(*argv.add(i)) }.to_str().ok())
        .collect();
    match install(id, info, &args) {
        Ok(()) => 0,
        Err(why) => {
            process::fail(&why);
            eprintln!("pagewalk's QEMU plugin: {why}");
            1
        }
    }
}

fn install(id: Id, info: &Info, args: &[&str]) -> Result<(), String> {
    let mut wanted = Wanted { version: info.version_cur, ..Wanted::default() };
    let (mut ring, mut log) = (None, 0);
    for arg in args {
        let (key, value) = arg.split_once('=').unwrap_or((arg, ""));
        match key {
            "ring" => ring = Some(value),
            "log" => log = value.parse().map_err(|_| format!("log={value}: not a number"))?,
            "count" => wanted.count = true,
            "fetch" => {
                wanted.fetch = Some(match value {
                    "line" => 6,
                    "block" => 12,
                    _ => return Err(format!("fetch={value}: line or block")),
                });
            }
            "program" => wanted.program = value.to_owned(),
            "start" => {
                wanted.start = Some(value.parse().map_err(|_| format!("start={value}: not a number"))?)
            }
            _ => return Err(format!("unknown argument {arg:?}")),
        }
    }
    // SAFETY: QEMU gives a C string.
    let target = unsafe { CStr::from_ptr(info.target_name) }.to_string_lossy();
    if !wanted.count {
        let ring = ring.ok_or("needs ring=PATH or count")?;
        process::attach(ring, log)?;
        if info.system_emulation || target != "x86_64" {
            return Err(format!("captures x86-64 programs in user mode, not {target} here; use qemu-x86_64"));
        }
        maps::remember_own();
        remember_command(args);
    }
    if info.version_cur >= 2 {
        vcpu::use_scoreboard();
    }
    let count = wanted.count;
    WANTED.set(wanted).map_err(|_| "loaded twice")?;
    // SAFETY: id is ours, and the callbacks are of the types that QEMU documents.
    unsafe {
        ffi::qemu_plugin_register_vcpu_init_cb(id, vcpu::started);
        ffi::qemu_plugin_register_vcpu_tb_trans_cb(id, translate::on_translate);
        if count {
            ffi::qemu_plugin_register_atexit_cb(id, print_count, std::ptr::null_mut());
        } else {
            ffi::qemu_plugin_register_vcpu_exit_cb(id, vcpu::ended);
            ffi::qemu_plugin_register_vcpu_syscall_cb(id, syscalls::on_call);
            ffi::qemu_plugin_register_vcpu_syscall_ret_cb(id, syscalls::on_return);
        }
    }
    Ok(())
}

/// How the plugin was loaded, for the programs that this one starts. QEMU doubles commas in paths. A
/// region of interest that begins at a symbol is of the first program only.
fn remember_command(args: &[&str]) {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: an address inside this library, and a place for the answer.
    let found = unsafe { libc::dladdr(remember_command as *const c_void, &mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return;
    }
    // SAFETY: dladdr succeeded: a C string that lives as long as the library.
    let path = unsafe { CStr::from_ptr(info.dli_fname) }.to_string_lossy();
    let path = std::fs::canonicalize(&*path).map_or(path.to_string(), |p| p.display().to_string());
    let mut line = path.replace(',', ",,");
    let own = ["log=", "program=", "start="];
    for arg in args.iter().filter(|arg| !own.iter().any(|key| arg.starts_with(key))) {
        line.push(',');
        line.push_str(arg);
    }
    let _ = exec::PLUGIN.set(line);
}

extern "C" fn print_count(_: Id, _: *mut c_void) {
    let line = format!("{} accesses\n", vcpu::counted());
    // SAFETY: the line is readable. The guest may have closed the descriptor: then this fails quietly.
    unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
}
