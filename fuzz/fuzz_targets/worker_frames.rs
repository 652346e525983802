//! Frames of worker processes: any bytes are refused with a reason or are frames, however they are cut; and an answer that is
//! refused adds nothing.
#![no_main]

use busbar_plugin::{FrameDecoder, PluginAnswers, WorkerFrame};
use libfuzzer_sys::fuzz_target;

const LINE_BYTES_MAX: usize = 4096;

/// The lines that come before an error, in one text.
fn lines(data: &[u8], step: usize) -> Vec<u8> {
    let mut decoder = FrameDecoder::new(LINE_BYTES_MAX);
    let mut all = Vec::new();
    for part in data.chunks(step) {
        decoder.push(part);
        loop {
            match decoder.next_line() {
                Ok(Some(line)) => {
                    all.extend_from_slice(line);
                    all.push(b'\n');
                    read(line);
                }
                Ok(None) => break,
                Err(_) => return all,
            }
        }
    }
    all
}

fn read(line: &[u8]) {
    if let Ok(WorkerFrame::Result { id, events }) = WorkerFrame::read(line) {
        let mut answers = PluginAnswers::default();
        let count = id as usize % 8;
        match answers.read(events, 3, count) {
            Err(_) => assert!(answers.is_empty() && answers.failed().next().is_none()),
            Ok(()) => {
                for (at, row) in answers.rows().enumerate() {
                    assert!((3..3 + count).contains(&row.event));
                    let _ = answers.tags(at).count();
                }
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    assert_eq!(lines(data, 7), lines(data, data.len().max(1)));
});
