//! Where frames begin and end in a stream of bytes.

use busbar_catalog::{ByteOrder, FrameSpec};
use memchr::{memchr, memmem};

const BLOCK_BEGIN: u8 = 0x0b;
const BLOCK_END: [u8; 2] = [0x1c, b'\r'];

/// How frames are told apart.
#[derive(Clone, Debug)]
pub enum Framing {
    /// A line feed ends a frame; a carriage return before it is dropped.
    Line,
    /// These bytes end a frame.
    Delimiter(Box<[u8]>),
    /// A number of this many bytes, which is the length, stands before a frame.
    Length(usize, ByteOrder),
    /// Blocks of MLLP: between the bytes 0x0B and 0x1C 0x0D. Line breaks between blocks do not count.
    Mllp,
}

/// The next frame in some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextFrame<'a> {
    /// A frame, and the bytes up to its end.
    Whole(&'a [u8], usize),
    /// It has not come wholly. The search goes on at this byte when there are more.
    Partial(usize),
    /// What comes is no frame that may be taken.
    Refused(FrameFault),
}

/// Why a frame is refused. The connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// It is longer than allowed.
    TooLong,
    /// Its length is zero.
    Empty,
    /// It does not begin as a block of MLLP does.
    NoBlock,
}

impl FrameFault {
    /// The code that the sender is told.
    pub fn code(self) -> &'static str {
        match self {
            FrameFault::TooLong => "gateway.frame-too-long",
            FrameFault::Empty => "gateway.frame-empty",
            FrameFault::NoBlock => "gateway.frame-mllp",
        }
    }
}

impl Framing {
    /// From a gateway's file.
    pub fn new(spec: &FrameSpec) -> Framing {
        match spec {
            FrameSpec::Line => Framing::Line,
            FrameSpec::Delimiter(text) => Framing::Delimiter(text.as_bytes().into()),
            FrameSpec::Length(length) => Framing::Length(usize::from(length.bytes), length.order),
            FrameSpec::Mllp => Framing::Mllp,
        }
    }

    /// The first frame in `bytes`, of at most `bytes_max` bytes. The first `searched` bytes hold no end of a frame.
    pub fn next<'a>(&self, bytes: &'a [u8], searched: usize, bytes_max: usize) -> NextFrame<'a> {
        match self {
            Framing::Line => match memchr(b'\n', &bytes[searched..]) {
                Some(found) => {
                    let end = searched + found;
                    let line = &bytes[..end];
                    let line = line.strip_suffix(b"\r").unwrap_or(line);
                    whole(line, end + 1, bytes_max)
                }
                // A carriage return that is not dropped yet does not count.
                None => partial(bytes.len(), bytes.len(), bytes_max + 1),
            },
            Framing::Delimiter(mark) => match memmem::find(&bytes[searched..], mark) {
                Some(found) => {
                    let end = searched + found;
                    whole(&bytes[..end], end + mark.len(), bytes_max)
                }
                None => {
                    // The end may have come in part.
                    let searched = bytes.len().saturating_sub(mark.len() - 1);
                    partial(bytes.len(), searched, bytes_max + mark.len() - 1)
                }
            },
            Framing::Mllp => match bytes.first() {
                None => NextFrame::Partial(0),
                Some(b'\r' | b'\n') => NextFrame::Whole(&[], 1),
                Some(&BLOCK_BEGIN) => match memmem::find(&bytes[searched..], &BLOCK_END) {
                    Some(found) => {
                        let end = searched + found;
                        whole(&bytes[1..end], end + BLOCK_END.len(), bytes_max)
                    }
                    None => {
                        let searched = bytes.len().saturating_sub(BLOCK_END.len() - 1);
                        partial(bytes.len(), searched.max(1), bytes_max + BLOCK_END.len())
                    }
                },
                Some(_) => NextFrame::Refused(FrameFault::NoBlock),
            },
            Framing::Length(width, order) => {
                let Some((head, rest)) = bytes.split_at_checked(*width) else {
                    return NextFrame::Partial(0);
                };
                let shift = |length: usize, byte: &u8| length << 8 | usize::from(*byte);
                let length = match order {
                    ByteOrder::Big => head.iter().fold(0, shift),
                    ByteOrder::Little => head.iter().rev().fold(0, shift),
                };
                match length {
                    0 => NextFrame::Refused(FrameFault::Empty),
                    _ if length > bytes_max => NextFrame::Refused(FrameFault::TooLong),
                    _ => match rest.get(..length) {
                        Some(frame) => NextFrame::Whole(frame, width + length),
                        None => NextFrame::Partial(0),
                    },
                }
            }
        }
    }

    /// Appends a frame. `text` holds no end of a frame, and its length fits.
    pub fn write(&self, text: &[u8], out: &mut Vec<u8>) {
        match self {
            Framing::Line => {
                out.extend_from_slice(text);
                out.push(b'\n');
            }
            Framing::Delimiter(mark) => {
                out.extend_from_slice(text);
                out.extend_from_slice(mark);
            }
            Framing::Mllp => {
                out.push(BLOCK_BEGIN);
                out.extend_from_slice(text);
                out.extend_from_slice(&BLOCK_END);
            }
            Framing::Length(width, order) => {
                let length = (text.len() as u32).to_be_bytes();
                let length = &length[4 - width..];
                match order {
                    ByteOrder::Big => out.extend_from_slice(length),
                    ByteOrder::Little => out.extend(length.iter().rev()),
                }
                out.extend_from_slice(text);
            }
        }
    }
}

fn whole(frame: &[u8], used: usize, bytes_max: usize) -> NextFrame<'_> {
    match frame.len() > bytes_max {
        true => NextFrame::Refused(FrameFault::TooLong),
        false => NextFrame::Whole(frame, used),
    }
}

fn partial<'a>(came: usize, searched: usize, came_max: usize) -> NextFrame<'a> {
    match came > came_max {
        true => NextFrame::Refused(FrameFault::TooLong),
        false => NextFrame::Partial(searched),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use busbar_catalog::LengthSpec;
    use proptest::prelude::*;

    /// What comes out when bytes arrive in pieces of these sizes, as a connection keeps them.
    fn frames(
        framing: &Framing,
        bytes: &[u8],
        pieces: &[usize],
        max: usize,
    ) -> Vec<Result<Vec<u8>, FrameFault>> {
        let (mut all, mut kept, mut searched) = (Vec::new(), Vec::new(), 0);
        let mut rest = bytes;
        let mut pieces = pieces.iter().copied().chain(std::iter::repeat(usize::MAX));
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(pieces.next().unwrap_or(1).clamp(1, rest.len()));
            kept.extend_from_slice(piece);
            rest = tail;
            loop {
                match framing.next(&kept, searched, max) {
                    NextFrame::Whole(frame, used) => {
                        all.push(Ok(frame.to_vec()));
                        kept.drain(..used);
                        searched = 0;
                    }
                    NextFrame::Partial(at) => {
                        searched = at;
                        break;
                    }
                    NextFrame::Refused(fault) => {
                        all.push(Err(fault));
                        return all;
                    }
                }
            }
            // Nothing that waits is longer than a frame and its marks.
            assert!(kept.len() <= max + 16);
        }
        all
    }

    fn framings() -> Vec<Framing> {
        let length = |bytes, order| FrameSpec::Length(LengthSpec { bytes, order });
        [
            FrameSpec::Line,
            FrameSpec::Delimiter("\u{3}".into()),
            FrameSpec::Delimiter("--\r\n".into()),
            length(1, ByteOrder::Big),
            length(2, ByteOrder::Little),
            length(4, ByteOrder::Big),
            FrameSpec::Mllp,
        ]
        .iter()
        .map(Framing::new)
        .collect()
    }

    #[test]
    fn the_bounds_hold_to_the_byte() {
        let line = Framing::Line;
        let whole = |frame: &'static [u8]| Ok(frame.to_vec());
        assert_eq!(
            frames(&line, b"abc\r\nabcd\nx", &[], 4),
            [whole(b"abc"), whole(b"abcd")]
        );
        assert_eq!(frames(&line, b"abcd\r\n", &[], 4), [whole(b"abcd")]);
        for piece in [1, 2, usize::MAX] {
            let got = frames(&line, b"abcdefgh", &[piece; 8], 4);
            assert_eq!(got, [Err(FrameFault::TooLong)], "{piece}");
        }
        let mllp = Framing::Mllp;
        assert_eq!(
            frames(&mllp, b"\x0babcd\x1c\r\n\x0ba\x1cb\x1c\rx", &[1; 99], 4),
            [
                whole(b"abcd"),
                whole(b""),
                whole(b"a\x1cb"),
                Err(FrameFault::NoBlock)
            ]
        );
        for piece in [1, 2, usize::MAX] {
            let got = frames(&mllp, b"\x0babcde\x1c\r", &[piece; 8], 4);
            assert_eq!(got, [Err(FrameFault::TooLong)], "{piece}");
        }
        let two = Framing::Length(2, ByteOrder::Big);
        assert_eq!(
            frames(&two, b"\0\x02hi\0\0", &[], 4),
            [whole(b"hi"), Err(FrameFault::Empty)]
        );
        assert_eq!(
            frames(&two, b"\0\x05", &[1, 1], 4),
            [Err(FrameFault::TooLong)]
        );
        let four = Framing::Length(4, ByteOrder::Big);
        assert_eq!(
            frames(&four, &[0xff; 4], &[1; 4], 4),
            [Err(FrameFault::TooLong)]
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_arrives(
            texts in prop::collection::vec("[a-z ]{1,40}", 0..8),
            pieces in prop::collection::vec(1usize..20, 0..40),
        ) {
            for framing in framings() {
                let mut bytes = Vec::new();
                for text in &texts {
                    framing.write(text.as_bytes(), &mut bytes);
                }
                let want: Vec<_> = texts.iter().map(|t| Ok(t.as_bytes().to_vec())).collect();
                prop_assert_eq!(frames(&framing, &bytes, &pieces, 40), want, "{:?}", framing);
            }
        }

        #[test]
        fn any_bytes_are_framed_the_same_in_any_pieces(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            pieces in prop::collection::vec(1usize..20, 0..40),
        ) {
            for framing in framings() {
                let at_once = frames(&framing, &bytes, &[], 16);
                let in_pieces = frames(&framing, &bytes, &pieces, 16);
                prop_assert_eq!(at_once, in_pieces, "{:?}", framing);
            }
        }
    }
}
