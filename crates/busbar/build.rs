//! How the program is linked: without what only makes the file larger.

use std::env::var;

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
    }
}
