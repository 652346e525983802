//! Transcripts by the byte: `tests/transcripts/*.txt`. A line `>` is what the client sends, `<` what the server
//! answers, in hexadecimal; `#` begins a comment. With BUSBAR_UPDATE set the answers are written anew.

#![allow(missing_docs)]

mod common;

use std::fmt::Write as _;
use std::path::Path;

use common::Node;

fn bytes(line: &str) -> Vec<u8> {
    let digits: Vec<u8> = line.bytes().filter(|b| b.is_ascii_hexdigit()).collect();
    let pairs = digits
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).expect("digits"));
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).expect("a byte"))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[test]
fn the_server_answers_as_the_transcripts_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let update = std::env::var_os("BUSBAR_UPDATE").is_some();
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a transcript");
        let mut node = Node::new();
        let conn = node.open();
        let mut run = String::new();
        for line in text.lines() {
            if line.starts_with('<') {
                continue;
            }
            let _ = writeln!(run, "{line}");
            if let Some(sent) = line.strip_prefix('>') {
                node.send(conn, &bytes(sent));
                let answer = node.output(conn);
                if !answer.is_empty() {
                    let _ = writeln!(run, "< {}", hex(&answer));
                }
            }
        }
        count += 1;
        match update {
            true => std::fs::write(&path, run).expect("written"),
            false => assert_eq!(run, text, "{}", path.display()),
        }
    }
    assert!(count >= 2, "there are transcripts");
}
