//! Messages of HL7 in a file, and the counts of batches.

use std::collections::HashMap;
use std::sync::Arc;

use crate::limits::{FILE_BATCHES_MAX, FILE_LINE_BYTES_MAX};

/// Names of segments that begin or end something.
const MARKS: [&[u8]; 5] = [b"MSH", b"FHS", b"BHS", b"BTS", b"FTS"];

/// The first message, or segment around a batch, of bytes that begin with one: its length without the line breaks behind it,
/// where the next one begins, and whether it was cut off. `None` if it is not there wholly; the last one ends with the bytes if
/// `is_last`.
pub(super) fn next(bytes: &[u8], is_last: bool) -> Option<(usize, usize, bool)> {
    let breaks = |byte: &&u8| matches!(byte, b'\r' | b'\n');
    let before = bytes.iter().take_while(breaks).count();
    if before > 0 {
        return Some((0, before, false));
    }
    let is_message = !MARKS[1..].iter().any(|mark| bytes.starts_with(mark));
    let mut at = 0;
    let end = loop {
        let Some(length) = memchr::memchr2(b'\r', b'\n', &bytes[at..]) else {
            break None;
        };
        at += length;
        at += bytes[at..].iter().take_while(breaks).count();
        let line = &bytes[at..];
        if !is_message || MARKS.iter().any(|mark| line.starts_with(mark)) {
            break Some(at);
        }
    };
    match end.or_else(|| is_last.then_some(bytes.len())) {
        Some(end) if end <= FILE_LINE_BYTES_MAX => {
            let behind = bytes[..end].iter().rev().take_while(breaks).count();
            Some((end - behind, end, false))
        }
        None if bytes.len() <= FILE_LINE_BYTES_MAX => None,
        _ => Some((FILE_LINE_BYTES_MAX, FILE_LINE_BYTES_MAX, true)),
    }
}

/// What becomes of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hl7FilePart {
    /// It is an event.
    Event,
    /// It stands around messages.
    Around,
    /// It is the end of a batch that counts wrong.
    Miscounted(String),
}

/// Counts the messages of batches and the batches of files, file by file.
#[derive(Debug, Default)]
pub(super) struct Batches {
    open: HashMap<Arc<str>, OpenFile>,
}

/// What is known of a file that has not ended.
#[derive(Debug, Default)]
struct OpenFile {
    /// Messages since the segment BHS; none outside of batches, and in one that began before this program did.
    messages: Option<u64>,
    /// Batches since the segment FHS; none where that was read before this program began.
    batches: Option<u64>,
}

impl Batches {
    /// What a record of a file is.
    pub fn see(&mut self, file: &Arc<str>, record: &[u8]) -> Hl7FilePart {
        let name = record.get(..3).unwrap_or_default();
        if !MARKS.contains(&name) || name == b"MSH" {
            if let Some(OpenFile {
                messages: Some(count),
                ..
            }) = self.open.get_mut(file)
            {
                *count += 1;
            }
            return Hl7FilePart::Event;
        }
        if self.open.len() >= FILE_BATCHES_MAX && !self.open.contains_key(file) {
            self.open.clear();
        }
        let known = self.open.entry(Arc::clone(file)).or_default();
        // Whichever segment it is, the batch before it is over.
        let in_batch = known.messages.take();
        let found = match name {
            b"BTS" => in_batch,
            b"FTS" => self.open.remove(file).and_then(|known| known.batches),
            b"BHS" => {
                known.messages = Some(0);
                known.batches = known.batches.map(|batches| batches + 1);
                None
            }
            _ => {
                known.batches = Some(0);
                None
            }
        };
        // A batch without its end may have been cut off, and messages are missing.
        if let Some(found) = in_batch.filter(|_| name != b"BTS") {
            return Hl7FilePart::Miscounted(format!("BTS is missing, found {found}"));
        }
        let Some(found) = found else {
            return Hl7FilePart::Around;
        };
        let text = String::from_utf8_lossy(record);
        let separator = text.chars().nth(3).unwrap_or('|');
        let said = text.split(separator).nth(1).unwrap_or_default().trim();
        let name = String::from_utf8_lossy(name);
        match said.is_empty() || said.parse() == Ok(found) {
            true => Hl7FilePart::Around,
            false => Hl7FilePart::Miscounted(format!("{name} counts {said}, found {found}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::{Kind, records};
    use super::*;

    fn taken(text: &str, kind: Kind) -> Vec<&str> {
        let records = records(text.as_bytes(), kind);
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        records.map(|record| text(record.bytes)).collect()
    }

    #[test]
    fn a_message_ends_where_the_next_begins() {
        let file =
            "FHS|^~\\&\rBHS|^~\\&\r\nMSH|^~\\&|1\rPID|1\r\rMSH|^~\\&|2\nPID|2\nBTS|2\nFTS|1\n";
        let all = [
            "FHS|^~\\&",
            "BHS|^~\\&",
            "MSH|^~\\&|1\rPID|1",
            "MSH|^~\\&|2\nPID|2",
            "BTS|2",
            "FTS|1",
        ];
        assert_eq!(taken(file, Kind::Message), all);
        let open = "MSH|1\rPID|1\rMSH|2\rPI";
        assert_eq!(taken(open, Kind::Message), ["MSH|1\rPID|1"]);
        assert_eq!(
            taken(open, Kind::LastMessage),
            ["MSH|1\rPID|1", "MSH|2\rPI"]
        );
        // A name that is not there wholly may be of either sort.
        assert!(taken("MSH|1\rMS", Kind::Message).is_empty());
        assert_eq!(taken("\r\nMSH|1\rMSH", Kind::Message), ["", "MSH|1"]);
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let mut long = b"MSH|".to_vec();
        long.resize(FILE_LINE_BYTES_MAX + 2, b'x');
        assert_eq!(
            next(&long, false),
            Some((FILE_LINE_BYTES_MAX, FILE_LINE_BYTES_MAX, true))
        );
        assert_eq!(next(&long[..FILE_LINE_BYTES_MAX], false), None);
    }

    #[test]
    fn batches_are_counted() {
        let mut batches = Batches::default();
        let file: Arc<str> = "a".into();
        let mut see = |record: &str| batches.see(&file, record.as_bytes());
        assert_eq!(see("BTS|7"), Hl7FilePart::Around, "it began before");
        for (said, part) in [
            ("BTS|2", Hl7FilePart::Around),
            ("BTS", Hl7FilePart::Around),
            (
                "BTS|3|x",
                Hl7FilePart::Miscounted("BTS counts 3, found 2".into()),
            ),
            (
                "BTS|x",
                Hl7FilePart::Miscounted("BTS counts x, found 2".into()),
            ),
        ] {
            assert_eq!(see("BHS|^~\\&"), Hl7FilePart::Around);
            assert_eq!(see("MSH|1"), Hl7FilePart::Event);
            assert_eq!(see("MSH|2"), Hl7FilePart::Event);
            assert_eq!(see(said), part);
        }
    }

    #[test]
    fn batches_of_a_file_are_counted_and_end_with_their_last_segment() {
        let file: Arc<str> = "a".into();
        let wrong = |said: &str| Hl7FilePart::Miscounted(said.to_owned());
        let around = || Hl7FilePart::Around;
        for (records, last) in [
            (
                &["FHS", "BHS", "MSH", "BTS|1", "BHS", "BTS|0", "FTS|2"][..],
                around(),
            ),
            (&["FHS", "BHS", "MSH", "BTS|1", "FTS"], around()),
            (&["FHS", "FTS|0"], around()),
            (
                &["FHS", "BHS", "MSH", "BTS|1", "FTS|2"],
                wrong("FTS counts 2, found 1"),
            ),
            (
                &["FHS", "BHS", "MSH", "FTS|1"],
                wrong("BTS is missing, found 1"),
            ),
            (
                &["BHS", "MSH", "MSH", "BHS"],
                wrong("BTS is missing, found 2"),
            ),
            (&["BHS", "FHS"], wrong("BTS is missing, found 0")),
            // The file began before this program did.
            (&["BTS|7", "FTS|9"], around()),
            (&["BHS", "BTS|0", "FTS|9"], around()),
        ] {
            let mut batches = Batches::default();
            let seen = records
                .iter()
                .map(|record| batches.see(&file, record.as_bytes()));
            assert_eq!(seen.last(), Some(last), "{records:?}");
        }
    }
}
