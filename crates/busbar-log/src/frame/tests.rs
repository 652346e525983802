use super::*;

fn golden() -> (Header, Vec<u8>) {
    let body = b"three rows, opaque".to_vec();
    let header = Header {
        kind: Kind::Rows,
        body_crc: crc32c::crc32c(&body),
        body_len: body.len(),
        header_len: 128,
        base: 1_000_000,
        count: 3,
        attributes: 0x0102,
        min_time: -1,
        max_time: 1_760_000_000_000_000,
        durable: 4096,
        salt: 0xdead_beef,
        producers: Arc::from([(Arc::from("flow:rain/0"), 77), (Arc::from("泵"), u64::MAX)]),
    };
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(padding(body.len()));
    (header, bytes)
}

const GOLDEN_FRAME: &str = include_str!("../../fixtures/frame.hex");
const GOLDEN_SEGMENT: &str = include_str!("../../fixtures/segment.hex");

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|b| format!("{b:02x}")).collect::<String>();
    bytes.chunks(16).map(|l| line(l) + "\n").collect()
}

/// What was written by version 1 must be read for ever, and is still written so.
#[test]
fn the_golden_frame_is_read_and_written() {
    let (header, bytes) = golden();
    assert_eq!(hex(&bytes), GOLDEN_FRAME);
    let stored = unhex(GOLDEN_FRAME);
    let read = Header::decode(&stored).unwrap();
    assert_eq!(read, header);
    assert_eq!(read.frame_len(), stored.len() as u64);
    read.check_body(&stored[read.header_len..]).unwrap();
    let segment = SegmentHeader {
        salt: 0x0102_0304,
        base: 42,
        created_micros: 1_760_000_000_000_000,
    };
    assert_eq!(hex(&segment.encode()), GOLDEN_SEGMENT);
    assert_eq!(SegmentHeader::decode(&unhex(GOLDEN_SEGMENT)), Ok(segment));
}

#[test]
fn every_flipped_bit_and_every_cut_is_seen() {
    let (_, bytes) = golden();
    assert!(check_frame(&bytes).is_ok());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            assert!(check_frame(&bad).is_err(), "byte {at} bit {bit}");
        }
        assert!(check_frame(&bytes[..at]).is_err(), "cut at {at}");
    }
    let segment = unhex(GOLDEN_SEGMENT);
    for at in 0..segment.len() {
        let mut bad = segment.clone();
        bad[at] ^= 1;
        assert!(SegmentHeader::decode(&bad).is_err(), "byte {at}");
    }
}

/// Damaged as disks and bugs do it, each with the reason it must be refused for. The checksums
/// are made right again, so that the check behind them is the one that is tested.
#[test]
fn damaged_fixtures_are_refused_for_their_own_reason() {
    type Harm = fn(&mut Vec<u8>);
    let cases: [(&str, Harm); 9] = [
        ("a frame has an unknown version", |b| b[12] = 2),
        ("a frame is of an unknown kind", |b| b[13] = 9),
        ("a frame's body has an unknown codec", |b| b[14] = 1),
        ("a frame's body has an impossible length", |b| {
            b[16..20].fill(0xff)
        }),
        ("a frame's producers are cut short", |b| b[22] = 9),
        ("a frame has too many producers", |b| b[22..24].fill(0xff)),
        ("a frame's offsets are impossible", |b| b[24..32].fill(0xff)),
        ("a frame's number of rows does not fit its kind", |b| {
            b[32..36].fill(0)
        }),
        ("a frame's producers are cut short", |b| b[66] = 0xff),
    ];
    for (why, harm) in cases {
        let (_, mut bytes) = golden();
        harm(&mut bytes);
        let crc = crc32c::crc32c(&bytes[8..128]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(check_frame(&bytes), Err(why));
    }
    let (_, mut bytes) = golden();
    bytes[20..22].fill(0);
    assert_eq!(
        check_frame(&bytes),
        Err("a frame's header has an impossible length")
    );
    assert_eq!(
        check_frame(&[0; 64]),
        Err("there are zeros where a frame should begin")
    );
    let (_, mut bytes) = golden();
    *bytes.last_mut().unwrap() = 1;
    assert_eq!(check_frame(&bytes), Err("a frame's padding is not zero"));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(0u8.., 0..400), keep in 0usize..200) {
        let _ = check_frame(&bytes);
        let (_, mut whole) = golden();
        let at = keep.min(whole.len());
        let len = (whole.len() - at).min(bytes.len());
        whole[at..at + len].copy_from_slice(&bytes[..len]);
        let crc = crc32c::crc32c(&whole[8..128]);
        whole[4..8].copy_from_slice(&crc.to_le_bytes());
        let _ = check_frame(&whole);
    }

    #[test]
    fn headers_read_back(
        base in 0..u64::MAX / 2, count in 1u32.., attributes: u16, min_time: i64, max_time: i64,
        durable in 0..1u64 << 30, salt: u32,
        producers in proptest::collection::vec(("[a-z:/0-9]{1,40}", 0u64..), 0..20),
    ) {
        let producers: Producers = producers.into_iter().map(|(id, p)| (Arc::from(id), p)).collect();
        let header = Header {
            kind: Kind::Rows, body_crc: 1, body_len: 100, header_len: header_len(&producers), base,
            count, attributes, min_time, max_time, durable: durable * 64, salt, producers,
        };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        proptest::prop_assert_eq!(Header::decode(&bytes), Ok(header));
    }
}
