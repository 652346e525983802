//! Hostile frames get the standard's reason code, and no input makes the decoder panic.

use busbar_mqtt::client::{encode_connect, encode_subscribe, encode_unsubscribe};
use busbar_mqtt::control::{Connect, SubscribeOptions, Will};
use busbar_mqtt::{Control, Decoder, Packet, PublishOut, Reason, Refusal, Split, Version};
use proptest::prelude::*;

fn connect(version: Version) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 30,
        client_id: "meter-1".into(),
        username: Some("u".into()),
        password: Some(b"p".to_vec()),
        will: None,
        session_expiry_s: 0,
        receive_maximum: u16::MAX,
        maximum_packet_size: None,
        topic_alias_maximum: 0,
        request_response_info: false,
        request_problem_info: version == Version::V5,
        auth_method: None,
    }
}

fn decode_all(decoder: &mut Decoder, mut bytes: &[u8]) -> Result<usize, Refusal> {
    let mut packets = 0;
    while let Split::Whole(frame) = decoder.split(bytes)? {
        if let Packet::Publish(p) = decoder.decode(frame)? {
            p.topic_text()?;
            p.parse_properties()?;
            p.user_properties().count();
        }
        packets += 1;
        bytes = &bytes[frame.len..];
        if bytes.is_empty() {
            break;
        }
    }
    Ok(packets)
}

fn connected(version: Version) -> Decoder {
    let mut decoder = Decoder::new(1 << 20);
    let mut bytes = Vec::new();
    encode_connect(&connect(version), &mut bytes);
    assert_eq!(decode_all(&mut decoder, &bytes), Ok(1));
    decoder
}

#[test]
fn connect_survives_the_round_trip() {
    for version in [Version::V311, Version::V5] {
        let v5 = version == Version::V5;
        let mut c = connect(version);
        c.clean_start = false;
        c.session_expiry_s = if v5 { 77 } else { u32::MAX };
        c.will = Some(Will {
            topic: "will/topic".into(),
            payload: vec![0, 1, 2],
            qos: 2,
            retain: true,
            delay_s: if v5 { 9 } else { 0 },
            text_payload: false,
            expiry_s: v5.then_some(0),
            content_type: v5.then(|| "a/b".into()),
            response_topic: v5.then(|| "r".into()),
            correlation: v5.then(|| vec![7]),
            user: if v5 {
                vec![("a".into(), "1".into()), ("a".into(), "2".into())]
            } else {
                vec![]
            },
        });
        if v5 {
            c.client_id = String::new();
        }
        let mut bytes = Vec::new();
        let mut with_codec_name = c.clone();
        with_codec_name.session_expiry_s = if v5 { 77 } else { u32::MAX };
        encode_connect(&c, &mut bytes);
        let mut decoder = Decoder::new(1 << 20);
        let Split::Whole(frame) = decoder.split(&bytes).unwrap() else {
            panic!("not whole")
        };
        match decoder.decode(frame).unwrap() {
            Packet::Control(Control::Connect(got)) => assert_eq!(*got, c),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn each_fault_has_its_reason_code() {
    use Reason as R;
    let cases: &[(&str, &[u8], R)] = &[
        ("qos 3", &[0x36, 5, 0, 1, b'a', 0, 1], R::MALFORMED_PACKET),
        (
            "dup on qos 0",
            &[0x38, 4, 0, 1, b'a', 0],
            R::MALFORMED_PACKET,
        ),
        (
            "packet id zero",
            &[0x32, 6, 0, 1, b'a', 0, 0, 0],
            R::PROTOCOL_ERROR,
        ),
        ("nul in topic", &[0x30, 4, 0, 1, 0, 0], R::MALFORMED_PACKET),
        (
            "surrogate in topic",
            &[0x30, 6, 0, 3, 0xed, 0xa0, 0x80, 0],
            R::MALFORMED_PACKET,
        ),
        (
            "topic longer than packet",
            &[0x30, 4, 0, 9, b'a', 0],
            R::MALFORMED_PACKET,
        ),
        (
            "alias zero",
            &[0x30, 7, 0, 1, b'a', 3, 35, 0, 0],
            R::TOPIC_ALIAS_INVALID,
        ),
        (
            "expiry twice",
            &[0x30, 14, 0, 1, b'a', 10, 2, 0, 0, 0, 1, 2, 0, 0, 0, 1],
            R::PROTOCOL_ERROR,
        ),
        (
            "unknown property",
            &[0x30, 6, 0, 1, b'a', 2, 99, 0],
            R::MALFORMED_PACKET,
        ),
        (
            "will delay in publish",
            &[0x30, 9, 0, 1, b'a', 5, 24, 0, 0, 0, 1],
            R::MALFORMED_PACKET,
        ),
        (
            "payload format 2",
            &[0x30, 6, 0, 1, b'a', 2, 1, 2],
            R::PROTOCOL_ERROR,
        ),
        ("pubrel flags", &[0x60, 2, 0, 1], R::MALFORMED_PACKET),
        (
            "subscribe flags",
            &[0x80, 7, 0, 1, 0, 0, 1, b'a', 0],
            R::MALFORMED_PACKET,
        ),
        (
            "subscribe without filter",
            &[0x82, 3, 0, 1, 0],
            R::PROTOCOL_ERROR,
        ),
        (
            "subscribe id zero",
            &[0x82, 7, 0, 0, 0, 0, 1, b'a', 0],
            R::PROTOCOL_ERROR,
        ),
        (
            "subscription id zero",
            &[0x82, 9, 0, 1, 2, 11, 0, 0, 1, b'a', 0],
            R::PROTOCOL_ERROR,
        ),
        (
            "subscribe qos 3",
            &[0x82, 7, 0, 1, 0, 0, 1, b'a', 3],
            R::PROTOCOL_ERROR,
        ),
        (
            "subscribe reserved",
            &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x40],
            R::MALFORMED_PACKET,
        ),
        (
            "retain handling 3",
            &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x30],
            R::PROTOCOL_ERROR,
        ),
        (
            "empty filter",
            &[0x82, 6, 0, 1, 0, 0, 0, 0],
            R::TOPIC_FILTER_INVALID,
        ),
        ("trailing byte", &[0xc0, 1, 0], R::MALFORMED_PACKET),
        (
            "puback trailing",
            &[0x40, 5, 0, 1, 0, 0, 9],
            R::MALFORMED_PACKET,
        ),
        ("puback reason", &[0x40, 3, 0, 1, 0x8e], R::PROTOCOL_ERROR),
        ("disconnect reason", &[0xe0, 1, 0x8e], R::PROTOCOL_ERROR),
        ("type zero", &[0x00, 0], R::MALFORMED_PACKET),
        ("connack from client", &[0x20, 2, 0, 0], R::PROTOCOL_ERROR),
        (
            "over-long length",
            &[0x30, 0xff, 0xff, 0xff, 0xff, 1],
            R::MALFORMED_PACKET,
        ),
        ("padded length", &[0xc0, 0x80, 0x00], R::MALFORMED_PACKET),
        (
            "too large",
            &[0x30, 0xff, 0xff, 0xff, 0x7f],
            R::PACKET_TOO_LARGE,
        ),
    ];
    for (name, bytes, reason) in cases {
        let got = decode_all(&mut connected(Version::V5), bytes).map_err(|r| r.reason);
        assert_eq!(got, Err(*reason), "{name}");
    }
    let first: &[(&str, &[u8], R)] = &[
        ("publish first", &[0x30, 3, 0, 1, b'a'], R::PROTOCOL_ERROR),
        (
            "level 3",
            b"\x10\x0e\0\x04MQTT\x03\x02\0\0\0\x02ab",
            R::UNSUPPORTED_PROTOCOL_VERSION,
        ),
        (
            "level 6",
            b"\x10\x0e\0\x04MQTT\x06\x02\0\0\0\x02ab",
            R::UNSUPPORTED_PROTOCOL_VERSION,
        ),
        (
            "name",
            b"\x10\x0e\0\x04MQTX\x04\x02\0\0\0\x02ab",
            R::UNSUPPORTED_PROTOCOL_VERSION,
        ),
        (
            "reserved flag",
            b"\x10\x0e\0\x04MQTT\x04\x03\0\0\0\x02ab",
            R::MALFORMED_PACKET,
        ),
        (
            "will qos 3",
            b"\x10\x0e\0\x04MQTT\x04\x1e\0\0\0\x02ab",
            R::MALFORMED_PACKET,
        ),
        (
            "will retain without will",
            b"\x10\x0e\0\x04MQTT\x04\x22\0\0\0\x02ab",
            R::MALFORMED_PACKET,
        ),
        (
            "password alone",
            b"\x10\x0e\0\x04MQTT\x04\x42\0\0\0\x02ab",
            R::MALFORMED_PACKET,
        ),
        (
            "empty id",
            b"\x10\x0c\0\x04MQTT\x04\x00\0\0\0\0",
            R::CLIENT_IDENTIFIER_NOT_VALID,
        ),
        (
            "trailing",
            b"\x10\x0f\0\x04MQTT\x04\x02\0\0\0\x02abc",
            R::MALFORMED_PACKET,
        ),
    ];
    for (name, bytes, reason) in first {
        let got = decode_all(&mut Decoder::new(1 << 20), bytes).map_err(|r| r.reason);
        assert_eq!(got, Err(*reason), "{name}");
    }
}

#[test]
fn subscribe_and_unsubscribe_survive_the_round_trip() {
    for version in [Version::V311, Version::V5] {
        let mut bytes = Vec::new();
        let o = SubscribeOptions {
            qos: 2,
            no_local: version == Version::V5,
            ..Default::default()
        };
        encode_subscribe(
            version,
            9,
            (version == Version::V5).then_some(300),
            &[("a/+", o), ("#", o)],
            &mut bytes,
        );
        encode_unsubscribe(version, 10, &["a/+"], &mut bytes);
        let mut decoder = connected(version);
        let Split::Whole(frame) = decoder.split(&bytes).unwrap() else {
            panic!("not whole")
        };
        match decoder.decode(frame).unwrap() {
            Packet::Control(Control::Subscribe(s)) => {
                assert_eq!(s.filters, vec![("a/+".to_owned(), o), ("#".to_owned(), o)]);
                assert_eq!(s.packet_id, 9);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(decode_all(&mut decoder, &bytes), Ok(2));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(v5 in any::<bool>(), bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let version = if v5 { Version::V5 } else { Version::V311 };
        let _ = decode_all(&mut connected(version), &bytes);
        let _ = decode_all(&mut Decoder::new(1 << 20), &bytes);
    }

    #[test]
    fn a_flipped_byte_never_panics(at in 0usize..200, to in any::<u8>()) {
        let mut bytes = Vec::new();
        let mut c = connect(Version::V5);
        c.session_expiry_s = 5;
        encode_connect(&c, &mut bytes);
        encode_subscribe(Version::V5, 9, Some(7), &[("a/+", SubscribeOptions::default())], &mut bytes);
        PublishOut { dup: false, qos: 1, retain: false, topic: b"a/b", packet_id: 3, properties: &[2, 0, 0, 0, 9], payload: b"xyz" }.encode(Version::V5, &mut bytes);
        let n = bytes.len();
        bytes[at % n] = to;
        let _ = decode_all(&mut Decoder::new(1 << 20), &bytes);
    }
}
