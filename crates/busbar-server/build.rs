//! Builds this crate again when the console was built.

use std::path::Path;

fn main() {
    let console = Path::new("../../web/dist");
    // A path that does not exist counts as changed at every build. An empty folder means the
    // same to us; where it cannot be made, only the build is slower.
    let _ = std::fs::create_dir_all(console);
    println!("cargo::rerun-if-changed={}", console.display());
}
