//! Topics as bytes, each level with its length: what is read is a topic, and says the same when it is written again.
#![no_main]

use busbar_event::topic::{self, Separator};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(read) = topic::from_binary(data) else {
        return;
    };
    topic::check(&read).expect("a topic");
    let written = topic::to_binary(&read);
    assert!(written.len() <= data.len(), "no shorter form is read");
    assert_eq!(topic::from_binary(&written).expect("its own form"), read);
    for separator in [Separator::Underscore, Separator::Star, Separator::Hash] {
        if let Ok(outside) = separator.outward(&read) {
            assert_eq!(separator.inward(&outside).expect("its own form"), read);
        }
    }
});
