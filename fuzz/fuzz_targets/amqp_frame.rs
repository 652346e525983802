#![no_main]
//! Frames, methods, headers and tables of AMQP 0-9-1, as a server reads them.
#![allow(missing_docs)]

use busbar_amqp::codec::{BasicProperties, ClientMethod, Framed, WireReader, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Framed::Whole(frame, len)) = split(rest, 131_072) {
        rest = &rest[len..];
        match frame.kind {
            1 => {
                let _ = ClientMethod::decode(frame.payload);
            }
            2 => {
                let mut r = WireReader::new(frame.payload);
                if r.take(12).is_ok()
                    && let Ok(properties) = BasicProperties::read(&mut r)
                {
                    // What was read is written so that it reads the same.
                    let mut out = Vec::new();
                    properties.write(&mut out);
                    let again = BasicProperties::read(&mut WireReader::new(&out));
                    let again = again.expect("what was written");
                    assert_eq!(again.reply_to, properties.reply_to);
                    assert_eq!(
                        again.headers.map(|t| t.bytes()),
                        properties.headers.map(|t| t.bytes())
                    );
                }
            }
            _ => {}
        }
    }
});
