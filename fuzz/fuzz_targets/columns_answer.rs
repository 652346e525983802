//! Answers of workers as Arrow columns: any bytes are refused and add nothing, or become events of the batch in its order,
//! whose payloads are JSON and take no more memory than an answer may.
//!
//! The first byte is the number of events of the batch. The bits of the second byte are the events that have failed.
#![no_main]

use std::cell::RefCell;
use std::panic::catch_unwind;

use busbar_plugin::{
    ColumnsAnswer, EventForm, GivenEvent, GivenEvents, PluginAnswers, ScriptFailure,
};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

/// The place of the batch in the job.
const FIRST: usize = 3;
const BYTES_MAX: usize = 4096;
/// Bytes that one byte of a text takes at most in JSON.
const ESCAPED_MAX: usize = 6;

thread_local! {
    /// What the last panic said.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

// The Arrow library panics on some bytes that it does not foresee. The reader catches that and refuses the answer, so only a
// panic that leaves the reader ends the run; the hook of libFuzzer would end it at any.
fuzz_target!(
    init: {
        std::panic::set_hook(Box::new(|panic| PANIC.set(panic.to_string())));
    },
    |data: &[u8]| {
        if catch_unwind(|| read(data)).is_err() {
            eprintln!("{}", PANIC.take());
            std::process::abort();
        }
    }
);

fn read(data: &[u8]) {
    let [count, failed, ipc @ ..] = data else {
        return;
    };
    let (count, failed) = (usize::from(*count) % 8, *failed);
    let mut events = GivenEvents::new(EventForm::Arrow);
    for _ in 0..FIRST + count {
        let event = GivenEvent {
            topic: "a/b",
            key: Some("k"),
            time: 7,
            payload: b"{}",
        };
        events.push(&event, [("site", "north")].into_iter());
    }
    let failure = |event| {
        let (message, file, line) = (String::new(), None, None);
        (
            event,
            ScriptFailure {
                message,
                file,
                line,
            },
        )
    };
    let answer = ColumnsAnswer {
        ipc,
        failed: (0..8)
            .filter(|event| failed >> event & 1 == 1)
            .map(failure)
            .collect(),
        events: &events,
        first: FIRST,
        count,
        json: &["j".to_owned()],
        bytes_max: BYTES_MAX,
    };
    let mut answers = PluginAnswers::default();
    let Ok(lost) = answer.read(&mut answers) else {
        assert!(answers.is_empty() && answers.failed().next().is_none());
        return;
    };
    let batch = FIRST..FIRST + count;
    assert!(lost.iter().all(|(event, _)| batch.contains(event)));
    assert!(answers.failed().all(|(event, _)| batch.contains(&event)));
    let (mut last, mut bytes) = (FIRST, 0);
    for (at, row) in answers.rows().enumerate() {
        assert!(last <= row.event && batch.contains(&row.event));
        assert!(answers.failed().all(|(event, _)| event != row.event));
        last = row.event;
        let _ = answers.tags(at).count();
        if let Some(payload) = row.payload {
            bytes += payload.len();
            let json = serde_json::from_slice::<&RawValue>(payload);
            assert!(json.is_ok(), "{}", String::from_utf8_lossy(payload));
        }
    }
    assert!(bytes <= ESCAPED_MAX * BYTES_MAX, "{bytes}");
}
