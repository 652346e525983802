//! XML Schemas: any two files are refused with a reason, or are columns with names of their own, whose schema can be derived and
//! read again.
#![no_main]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::LazyLock;

use busbar_catalog::{columns_of_xsd, xsd_of};
use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("busbar-fuzz-xsd-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for two files");
    folder
});

fn put(name: &str, bytes: &[u8]) -> PathBuf {
    let file = FOLDER.join(name);
    std::fs::write(&file, bytes).expect("room for a small file");
    file
}

fuzz_target!(|data: &[u8]| {
    // A zero ends the first file.
    let end = data.iter().position(|byte| *byte == 0);
    let (main, parts) = data.split_at(end.unwrap_or(data.len()));
    put("parts.xsd", parts.get(1..).unwrap_or_default());
    let main = put("main.xsd", main);
    let depth = data.first().map(|byte| usize::from(*byte) % 8);
    let found = match columns_of_xsd(&main, None, depth) {
        Ok(found) => found,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let names: BTreeSet<&str> = found.schema.0.iter().map(|column| &*column.name).collect();
    assert_eq!(names.len(), found.schema.0.len(), "each name once");
    assert!(!names.contains(""), "no column without a name");
    // Columns of different branches may exclude each other in one document.
    if let Ok(derived) = xsd_of("r", None, None, &found.schema.0) {
        let derived = put("derived.xsd", derived.as_bytes());
        let again = columns_of_xsd(&derived, None, None);
        assert!(
            again.is_ok(),
            "{}",
            again.err().map(|e| e.to_string()).unwrap_or_default()
        );
    }
});
