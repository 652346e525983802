//! How the program is linked: without what only makes the file larger.

use std::env::var;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=BUSBAR_SYMBOLS");
    let set = |name: &str| var(name).unwrap_or_default();
    // Names of functions, for a profiler or a debugger. Panics name their place without them.
    if set("BUSBAR_SYMBOLS").is_empty() && set("CARGO_CFG_TARGET_OS") == "linux" {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
    }
    // Rust links for this target with an LLD of its own, unless it is told otherwise: it can keep one of
    // several functions whose code is the same.
    let flags = set("CARGO_ENCODED_RUSTFLAGS");
    let other =
        !set("RUSTC_LINKER").is_empty() || ["linker", "fuse-ld"].iter().any(|f| flags.contains(f));
    if set("TARGET") == "x86_64-unknown-linux-gnu" && !other {
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
        // Relocations in a tenth of the space, for a dynamic linker that knows the form.
        if glibc() >= Some((2, 36)) {
            println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        }
    }
}

/// The version of the C library here, such as (2, 36); none where it is another one.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    let minor = minor.split('.').next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
