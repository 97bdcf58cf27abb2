//! Links without an operating system's libraries, at the addresses of linker.ld.
fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    for arg in ["-nostdlib", "-nostartfiles", "-static", "-no-pie"] {
        println!("cargo:rustc-link-arg-bins={arg}");
    }
    println!(
        "cargo:rustc-link-arg-bins=-Wl,-T,{dir}/linker.ld,--build-id=none,-z,max-page-size=4096,-z,norelro"
    );
    println!("cargo:rerun-if-changed=linker.ld");
}
