//! MQTT packets: any bytes from a client, and from a server, are refused or decoded; nothing panics.
#![no_main]

use busbar_mqtt::{Decoder, Packet, Split, Version, client, split, version_of_refused_connect};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut decoder = Decoder::new(1 << 16);
    let mut rest = data;
    while let Ok(Split::Whole(frame)) = decoder.split(rest) {
        match decoder.decode(frame) {
            Ok(Packet::Publish(publish)) => {
                let _ = publish.topic_text();
                if publish.parse_properties().is_ok() {
                    publish.user_properties().count();
                }
            }
            Ok(_) => {}
            Err(_) => break,
        }
        rest = &rest[frame.len..];
    }
    version_of_refused_connect(data);
    for version in [Version::V311, Version::V5] {
        let mut rest = data;
        while let Ok(Split::Whole(frame)) = split(rest, 1 << 16) {
            if client::decode(frame, version).is_err() {
                break;
            }
            rest = &rest[frame.len..];
        }
    }
});
