#![no_main]
//! Frames, performatives and messages of AMQP 1.0, as a server reads them.
#![allow(missing_docs)]

use busbar_amqp::v1::message::V1Message;
use busbar_amqp::v1::{Performative, TypedReader, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some((frame, len))) = split(rest, 131_072) {
        rest = &rest[len..];
        let mut r = TypedReader::new(frame.body);
        let read = Performative::read(&mut r);
        if let Ok(Performative::Transfer(_)) = read {
            message(r.rest());
        }
    }
    message(bytes);
});

/// What was read becomes tags, or is refused.
fn message(bytes: &[u8]) {
    let Ok(message) = V1Message::read(bytes) else {
        return;
    };
    let mut tags = Vec::new();
    if message.write_tags("", 0, &mut tags).is_ok() {
        assert!(tags.iter().all(|(_, value)| value.len() <= 65_535));
    }
    let _ = (message.is_retained(), message.is_to_topic());
}
