//! Several character sets in one message: the first repetition of MSH-18 names the one that each field begins with, the others are
//! switched to by the escape sequences of ISO 2022, such as `ESC $ B` for JIS X 0208 and `ESC ( B` back to ASCII.

use std::fmt;

use encoding_rs::{EUC_JP, EUC_KR, Encoding};

/// Most character sets besides the first.
const OTHERS_MAX: usize = 4;

const ESC: u8 = 0x1b;

/// The character sets of a message that has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Switched {
    first: NamedSet,
    others: [Option<NamedSet>; OTHERS_MAX],
}

/// A name of table 0211 that can stand among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NamedSet {
    /// `ISO IR6`, which is ASCII.
    Ascii,
    /// `ISO IR14`, JIS X 0201: letters, and katakana of half width.
    Jis0201,
    /// `ISO IR87`, JIS X 0208.
    Jis0208,
    /// `ISO IR159`, JIS X 0212.
    Jis0212,
    /// `KS X 1001`.
    Korean,
    /// `8859/1` and the others of that standard.
    Latin(u8),
}

/// What bytes below 128 (G0) or above (G1) stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CodeSet {
    /// ASCII, and the letters of JIS X 0201: a backslash and a tilde are separators of the message in both.
    Ascii,
    Katakana,
    Jis0208,
    Jis0212,
    Korean,
    Latin(u8),
}

/// The parts of ISO 8859 that are read, with the last byte of the sequence that switches to each.
const LATIN: [(u8, u8); 13] = [
    (1, b'A'),
    (2, b'B'),
    (3, b'C'),
    (4, b'D'),
    (5, b'L'),
    (6, b'G'),
    (7, b'F'),
    (8, b'H'),
    (10, b'V'),
    (13, b'Y'),
    (14, b'_'),
    (15, b'b'),
    (16, b'f'),
];

impl NamedSet {
    /// By the letters and digits of a name.
    fn of(plain: &str) -> Option<NamedSet> {
        Some(match plain {
            "" | "ISOIR6" | "ASCII" | "USASCII" => NamedSet::Ascii,
            "ISOIR14" => NamedSet::Jis0201,
            "ISOIR87" => NamedSet::Jis0208,
            "ISOIR159" => NamedSet::Jis0212,
            "KSX1001" | "EUCKR" => NamedSet::Korean,
            "LATIN1" => NamedSet::Latin(1),
            other => {
                let number = other.strip_prefix("ISO").unwrap_or(other);
                let part: u8 = number.strip_prefix("8859")?.parse().ok()?;
                let is_read = LATIN.iter().any(|(of, _)| *of == part);
                is_read.then_some(NamedSet::Latin(part))?
            }
        })
    }

    /// Whether messages switch to it, in whichever place it stands.
    fn is_switched(self) -> bool {
        matches!(
            self,
            NamedSet::Jis0201 | NamedSet::Jis0208 | NamedSet::Jis0212
        )
    }

    /// What bytes above 127 are where a field begins.
    fn upper(self) -> Option<CodeSet> {
        match self {
            NamedSet::Ascii | NamedSet::Jis0208 | NamedSet::Jis0212 => None,
            NamedSet::Jis0201 => Some(CodeSet::Katakana),
            NamedSet::Korean => Some(CodeSet::Korean),
            NamedSet::Latin(part) => Some(CodeSet::Latin(part)),
        }
    }

    /// What can be switched to where it is named.
    fn has(self, set: CodeSet) -> bool {
        match self {
            NamedSet::Ascii => set == CodeSet::Ascii,
            NamedSet::Jis0201 => matches!(set, CodeSet::Ascii | CodeSet::Katakana),
            NamedSet::Jis0208 => set == CodeSet::Jis0208,
            NamedSet::Jis0212 => set == CodeSet::Jis0212,
            NamedSet::Korean => set == CodeSet::Korean,
            NamedSet::Latin(part) => set == CodeSet::Latin(part),
        }
    }

    /// The sets that texts are written in.
    fn written(self) -> Option<CodeSet> {
        match self {
            NamedSet::Jis0208 => Some(CodeSet::Jis0208),
            NamedSet::Jis0212 => Some(CodeSet::Jis0212),
            other => other.upper(),
        }
    }
}

/// `ISO IR87`, `8859/15`.
impl fmt::Display for NamedSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NamedSet::Ascii => "ISO IR6",
            NamedSet::Jis0201 => "ISO IR14",
            NamedSet::Jis0208 => "ISO IR87",
            NamedSet::Jis0212 => "ISO IR159",
            NamedSet::Korean => "KS X 1001",
            NamedSet::Latin(part) => return write!(f, "8859/{part}"),
        })
    }
}

/// The names, with `~` between them.
impl fmt::Display for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        let mut others = self.others.iter().flatten();
        others.try_for_each(|other| write!(f, "~{other}"))
    }
}

/// A part of ISO 8859 but the first, in which each byte is the character of its number.
fn latin(part: u8) -> Option<&'static Encoding> {
    Encoding::for_label(format!("iso-8859-{part}").as_bytes())
}

impl CodeSet {
    /// Behind `ESC`: the set, whether it is the upper one, and the length of the sequence.
    fn designated(sequence: &[u8]) -> Option<(CodeSet, bool, usize)> {
        Some(match sequence {
            [b'(', b'B' | b'J', ..] => (CodeSet::Ascii, false, 2),
            [b'(', b'I', ..] => (CodeSet::Katakana, false, 2),
            [b')', b'I', ..] => (CodeSet::Katakana, true, 2),
            // The first edition of JIS X 0208, too.
            [b'$', b'B' | b'@', ..] => (CodeSet::Jis0208, false, 2),
            [b'$', b'(', b'D', ..] => (CodeSet::Jis0212, false, 3),
            [b'$', b')', b'C', ..] => (CodeSet::Korean, true, 3),
            [b'-', last, ..] => {
                let (part, _) = LATIN.iter().find(|(_, of)| of == last)?;
                (CodeSet::Latin(*part), true, 2)
            }
            _ => return None,
        })
    }

    /// What switches to it.
    fn designation(self) -> Vec<u8> {
        match self {
            CodeSet::Ascii => b"\x1b(B".to_vec(),
            CodeSet::Katakana => b"\x1b(I".to_vec(),
            CodeSet::Jis0208 => b"\x1b$B".to_vec(),
            CodeSet::Jis0212 => b"\x1b$(D".to_vec(),
            CodeSet::Korean => b"\x1b$)C".to_vec(),
            CodeSet::Latin(part) => {
                let last = LATIN.iter().find(|(of, _)| *of == part);
                vec![ESC, b'-', last.map_or(b'A', |(_, last)| *last)]
            }
        }
    }

    /// Whether it stands above 127.
    fn is_upper(self) -> bool {
        matches!(self, CodeSet::Korean | CodeSet::Latin(_))
    }

    /// Appends the text of bytes, which are all below 128 or all above. False if they are none of it.
    fn decode(self, bytes: &[u8], out: &mut String) -> bool {
        let high = |byte: &u8| byte | 0x80;
        let (encoding, bytes): (&Encoding, Vec<u8>) = match self {
            CodeSet::Ascii => {
                out.push_str(std::str::from_utf8(bytes).unwrap_or_default());
                return true;
            }
            CodeSet::Latin(1) => {
                out.extend(bytes.iter().map(|byte| char::from(*byte)));
                return true;
            }
            CodeSet::Latin(part) => match latin(part) {
                Some(encoding) => (encoding, bytes.to_vec()),
                None => return false,
            },
            CodeSet::Korean => (EUC_KR, bytes.to_vec()),
            CodeSet::Jis0208 => (EUC_JP, bytes.iter().map(high).collect()),
            // EUC marks what is of neither ASCII nor JIS X 0208 by a byte before it.
            CodeSet::Katakana => {
                let marked = bytes.iter().flat_map(|byte| [0x8e, high(byte)]);
                (EUC_JP, marked.collect())
            }
            CodeSet::Jis0212 => {
                let pairs = bytes.chunks(2);
                let marked = pairs.flat_map(|pair| [0x8f].into_iter().chain(pair.iter().map(high)));
                (EUC_JP, marked.collect())
            }
        };
        let decoded = encoding.decode_without_bom_handling_and_without_replacement(&bytes);
        decoded.inspect(|text| out.push_str(text)).is_some()
    }

    /// Appends a character, as bytes below 128 or above as the set stands. False if it is none of it.
    fn encode(self, letter: char, out: &mut Vec<u8>) -> bool {
        let mut utf8 = [0; 4];
        let text = &*letter.encode_utf8(&mut utf8);
        let encoding = match self {
            CodeSet::Latin(1) => {
                let byte = u8::try_from(letter).ok().filter(|byte| *byte >= 0x80);
                out.extend(byte);
                return byte.is_some();
            }
            CodeSet::Latin(part) => latin(part),
            CodeSet::Korean => Some(EUC_KR),
            CodeSet::Katakana | CodeSet::Jis0208 => Some(EUC_JP),
            // It can be read, but no text has to be written in it: its characters are rare, and `encoding_rs` does not write them.
            CodeSet::Jis0212 | CodeSet::Ascii => None,
        };
        let Some(encoding) = encoding else {
            return false;
        };
        let (bytes, _, is_lossy) = encoding.encode(text);
        if is_lossy {
            return false;
        }
        match (self, &*bytes) {
            (CodeSet::Katakana, [0x8e, byte]) => out.push(byte & 0x7f),
            (CodeSet::Jis0208, [first @ 0xa1..=0xff, second @ 0xa1..=0xff]) => {
                out.extend([first & 0x7f, second & 0x7f]);
            }
            // What EUC-KR has beyond KS X 1001 is no part of it.
            (CodeSet::Korean, [0xa1..=0xff, 0xa1..=0xff]) | (CodeSet::Latin(_), [0x80..=0xff]) => {
                out.extend_from_slice(&bytes);
            }
            _ => return false,
        }
        true
    }
}

impl Switched {
    /// Of the names in MSH-18, of which letters and digits are left. None if one is not read, there are too many, or messages with
    /// these names never switch.
    pub fn of<'n>(names: impl Iterator<Item = &'n str>) -> Option<Switched> {
        let mut names = names.map(NamedSet::of);
        let first = names.next()??;
        let mut others = [None; OTHERS_MAX];
        let mut count = 0;
        for name in names {
            *others.get_mut(count)? = Some(name?);
            count += 1;
        }
        (count > 0 || first.is_switched()).then_some(Switched { first, others })
    }

    fn named(&self) -> impl Iterator<Item = NamedSet> {
        [self.first]
            .into_iter()
            .chain(self.others.iter().copied().flatten())
    }

    fn may_switch_to(&self, set: CodeSet) -> bool {
        set == CodeSet::Ascii || self.named().any(|named| named.has(set))
    }

    /// The text of a message.
    ///
    /// # Errors
    /// The byte at which a sequence leads to a set that MSH-18 does not name, bytes are not of the set they stand in, or a
    /// segment ends before it is back in ASCII.
    pub fn decode(&self, bytes: &[u8]) -> Result<String, usize> {
        let separator = bytes.iter().position(|byte| *byte == b'M');
        let separator = separator.and_then(|begin| bytes.get(begin + 3).copied());
        let mut out = String::with_capacity(bytes.len());
        let (mut lower, mut upper) = (CodeSet::Ascii, self.first.upper());
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            let rest = &bytes[at..];
            if byte == ESC {
                let (set, is_upper, length) = CodeSet::designated(&rest[1..]).ok_or(at)?;
                if !self.may_switch_to(set) {
                    return Err(at);
                }
                match is_upper {
                    true => upper = Some(set),
                    false => lower = set,
                }
                at += 1 + length;
                continue;
            }
            // Letters of several bytes have neither blanks nor control characters in them.
            let is_control = byte <= b' ' || byte == 0x7f;
            if is_control || (lower == CodeSet::Ascii && byte < 0x80) {
                if matches!(byte, b'\r' | b'\n') && lower != CodeSet::Ascii {
                    return Err(at);
                }
                if matches!(byte, b'\r' | b'\n') || Some(byte) == separator {
                    upper = self.first.upper();
                }
                out.push(char::from(byte));
                at += 1;
                continue;
            }
            let is_high = byte >= 0x80;
            let ends = |byte: &u8| (*byte >= 0x80) != is_high || *byte <= b' ' || *byte == 0x7f;
            let length = rest.iter().position(ends).unwrap_or(rest.len());
            let set = match is_high {
                true => upper.ok_or(at)?,
                false => lower,
            };
            if !set.decode(&rest[..length], &mut out) {
                return Err(at);
            }
            at += length;
        }
        match lower {
            CodeSet::Ascii => Ok(out),
            _ => Err(bytes.len()),
        }
    }

    /// The bytes of a text; none if it has characters that none of the sets can write. All that is ASCII is in ASCII, so that
    /// each part of a message ends there.
    pub fn encode(&self, text: &str) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(text.len());
        let mut lower = CodeSet::Ascii;
        // None where a reader may or may not have gone back to the first set.
        let mut upper = self.first.upper();
        let mut bytes = Vec::new();
        for letter in text.chars() {
            if let Ok(byte) = u8::try_from(letter)
                && byte.is_ascii()
            {
                if byte == ESC {
                    return None;
                }
                if lower != CodeSet::Ascii {
                    out.extend_from_slice(&CodeSet::Ascii.designation());
                    lower = CodeSet::Ascii;
                }
                let may_separate = byte.is_ascii_punctuation() || byte.is_ascii_control();
                if may_separate && upper != self.first.upper() {
                    upper = None;
                }
                out.push(byte);
                continue;
            }
            bytes.clear();
            let mut written = self.named().filter_map(NamedSet::written);
            let set = written.find(|set| set.encode(letter, &mut bytes))?;
            match set.is_upper() {
                true if upper != Some(set) => {
                    out.extend_from_slice(&set.designation());
                    upper = Some(set);
                }
                false if lower != set => {
                    out.extend_from_slice(&set.designation());
                    lower = set;
                }
                _ => {}
            }
            out.extend_from_slice(&bytes);
        }
        if lower != CodeSet::Ascii {
            out.extend_from_slice(&CodeSet::Ascii.designation());
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(names: &[&str]) -> Switched {
        Switched::of(names.iter().copied()).expect("names")
    }

    #[test]
    fn texts_are_read_and_written_in_several_sets() {
        for (names, text, bytes) in [
            (
                &["", "ISOIR87"][..],
                "山田^太郎",
                &b"\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"[..],
            ),
            (&["ISOIR87"], "A亜B", b"A\x1b$B0!\x1b(BB"),
            (&["ISOIR6", "ISOIR87"], "plain|~^\\&\r", b"plain|~^\\&\r"),
            (
                &["ISOIR14", "ISOIR87"],
                "ﾔﾏﾀﾞ^山",
                b"\x1b(ITO@^\x1b(B^\x1b$B;3\x1b(B",
            ),
            (
                &["88591", "88592", "KSX1001"],
                "é^ł|é한",
                b"\xe9^\x1b-B\xb3|\x1b-A\xe9\x1b$)C\xc7\xd1",
            ),
            (
                &["", "KSX1001"],
                "김한국",
                b"\x1b$)C\xb1\xe8\xc7\xd1\xb1\xb9",
            ),
        ] {
            let sets = sets(names);
            assert_eq!(sets.encode(text).unwrap(), bytes, "{text}");
            assert_eq!(sets.decode(bytes).as_deref(), Ok(text));
        }
        // What others write.
        for (names, bytes, text) in [
            (
                &["ISOIR14", "ISOIR87"][..],
                &b"\xd4\xcf\xc0\xde^\x1b$@;3\x1b(J^\x1b)I\xb1"[..],
                "ﾔﾏﾀﾞ^山^ｱ",
            ),
            (&["", "ISOIR159"], b"\x1b$(D0!\x1b(B", "丂"),
            (&["88591", "88592"], b"\x1b-B\xb3^\xb3|\xb3", "ł^ł|³"),
        ] {
            let mut message = b"MSH|".to_vec();
            message.extend_from_slice(bytes);
            let read = sets(names).decode(&message);
            assert_eq!(read, Ok(format!("MSH|{text}")));
        }
    }

    #[test]
    fn what_is_not_in_the_sets_is_refused_with_its_place() {
        for (names, bytes, at) in [
            // Another set than those that are named, and no set.
            (&["", "ISOIR87"][..], &b"ab\x1b$(D0!\x1b(B"[..], 2),
            (&["", "ISOIR87"], b"ab\x1b(I", 2),
            (&["", "ISOIR87"], b"a\x1b", 1),
            (&["", "ISOIR87"], b"a\x1b$", 1),
            // Not back in ASCII at the end of a segment, and of the message.
            (&["", "ISOIR87"], b"\x1b$B;3\rPID", 5),
            (&["", "ISOIR87"], b"\x1b$B;3", 5),
            // Half a character, no character, and bytes of no set.
            (&["", "ISOIR87"], b"\x1b$B;\x1b(B", 3),
            (&["", "ISOIR87"], b"\x1b$B)!\x1b(B", 3),
            (&["", "ISOIR87"], b"a\xb1", 1),
            (&["ISOIR14", "ISOIR87"], b"a\xfe", 1),
        ] {
            assert_eq!(sets(names).decode(bytes), Err(at), "{bytes:?}");
        }
        let japanese = sets(&["", "ISOIR87"]);
        assert_eq!(japanese.encode("한"), None);
        assert_eq!(
            japanese.encode("ﾔ"),
            None,
            "katakana of half width are of ISO IR14"
        );
        assert_eq!(japanese.encode("\u{1b}$B"), None);
        assert_eq!(Switched::of(["ISOIR87", "GB18030"].into_iter()), None);
        assert_eq!(Switched::of(["ISOIR6"].into_iter()), None);
        let many = ["ISOIR87"; OTHERS_MAX + 2];
        assert_eq!(Switched::of(many.into_iter()), None);
    }
}
