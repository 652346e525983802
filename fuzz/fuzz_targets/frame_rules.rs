//! Frames of TCP and UDP gateways: any bytes, in any pieces, give the same frames, and any frame a valid topic or a
//! refusal.
#![no_main]

use std::sync::OnceLock;

use busbar_catalog::{Bundle, ByteOrder, FrameSpec, LengthSpec, Project};
use busbar_socket_gateway::{FrameRules, Framing, NextFrame};
use libfuzzer_sys::fuzz_target;

const FRAME_BYTES_MAX: usize = 64;

const FILES: [&str; 5] = [
    "topic: a/${peer}/${user}",
    "topic: a/${x}/${y}\nformat: json",
    "topic: a/${x}\nformat: { csv: { columns: [x, y], delimiter: ';' } }",
    "binary_topic: true",
    "topic: a/${MSH.9.2}/${PID.3}\nformat: hl7",
];

static RULES: OnceLock<[FrameRules; FILES.len()]> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else {
        return;
    };
    let framing = Framing::new(&match choice & 3 {
        0 => FrameSpec::Line,
        1 => FrameSpec::Delimiter("--".into()),
        2 => FrameSpec::Length(LengthSpec {
            bytes: 1,
            order: ByteOrder::Big,
        }),
        _ if choice & 4 > 0 => FrameSpec::Mllp,
        _ => FrameSpec::Length(LengthSpec {
            bytes: 2,
            order: ByteOrder::Little,
        }),
    });
    let whole = frames(&framing, bytes, usize::MAX);
    let pieces = frames(&framing, bytes, usize::from(choice >> 2 & 7) + 1);
    assert_eq!(whole, pieces);
    for rules in RULES.get_or_init(|| FILES.map(rules)) {
        for frame in whole.iter().flatten() {
            let mut buffer = String::new();
            if let Ok(ruled) = rules.apply(frame, "10.0.0.1", "ann", &mut buffer) {
                assert!(busbar_event::topic::check(ruled.topic).is_ok());
                assert!(frame.ends_with(ruled.payload));
            }
        }
    }
});

/// The frames that come out when bytes arrive in pieces, and `None` where one is refused.
fn frames(framing: &Framing, bytes: &[u8], piece: usize) -> Vec<Option<Vec<u8>>> {
    let (mut all, mut kept, mut searched) = (Vec::new(), Vec::new(), 0);
    for piece in bytes.chunks(piece.min(bytes.len()).max(1)) {
        kept.extend_from_slice(piece);
        loop {
            match framing.next(&kept, searched, FRAME_BYTES_MAX) {
                NextFrame::Whole(frame, used) => {
                    all.push(Some(frame.to_vec()));
                    kept.drain(..used);
                    searched = 0;
                }
                NextFrame::Partial(at) => {
                    searched = at;
                    break;
                }
                NextFrame::Refused(_) => {
                    all.push(None);
                    return all;
                }
            }
        }
    }
    all
}

fn rules(text: &str) -> FrameRules {
    let text = format!("protocol: tcp\nlisten: 127.0.0.1:0\n{text}\n");
    let files = [("gateways/g.yaml".to_owned(), text)].into();
    let (project, bad) = Project::parse(Bundle { files });
    assert!(bad.is_empty(), "{bad:?}");
    FrameRules::new(&project.gateways["g"].spec).expect("rules")
}
