use std::borrow::Cow;

use encoding_rs::{BIG5, EUC_KR, Encoding, GB18030};

use super::switched::Switched;

/// A character set of messages, or several, as MSH-18 names them (table 0211 of the standard).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hl7Charset(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Utf8,
    /// ISO 8859-1: each byte is the character of that number.
    Latin1,
    Other(&'static Encoding),
    /// Several, with escape sequences of ISO 2022 between them.
    Switched(Switched),
}

/// Most letters and digits of a name.
const NAME_LETTERS_MAX: usize = 24;
/// Most names in MSH-18 that are looked at: more than can be read.
const NAMES_MAX: usize = 8;

impl Hl7Charset {
    /// UTF-8, and with it ASCII.
    pub const UTF_8: Hl7Charset = Hl7Charset(Kind::Utf8);

    /// ISO 8859-1, which any bytes are.
    pub(super) const LATIN_1: Hl7Charset = Hl7Charset(Kind::Latin1);

    /// Those in which a separator may be the second byte of a character.
    pub(super) const OF_SEVERAL_BYTES: [Hl7Charset; 3] = [
        Hl7Charset(Kind::Other(GB18030)),
        Hl7Charset(Kind::Other(BIG5)),
        Hl7Charset(Kind::Other(EUC_KR)),
    ];

    /// The character set of a name; `None` for one that is not read. Of several names, with `~` between them, the first is the one
    /// that each field begins with, and escape sequences switch to the others; where no sequence leads to these, the first alone
    /// counts.
    pub fn of(name: &str) -> Option<Hl7Charset> {
        let (first, others) = name.split_once('~').unwrap_or((name, ""));
        let mut plain = vec![plain_name(first)?];
        if first.len() < name.len() {
            // A name that is none stands for no set.
            let others = others.split('~').take(NAMES_MAX);
            plain.extend(others.map(|other| plain_name(other).unwrap_or_else(|| "?".to_owned())));
        }
        if let Some(switched) = Switched::of(plain.iter().map(String::as_str)) {
            return Some(Hl7Charset(Kind::Switched(switched)));
        }
        Hl7Charset::single(&plain[0])
    }

    fn single(plain: &str) -> Option<Hl7Charset> {
        let kind = match plain {
            "ASCII" | "USASCII" | "ISOIR6" | "UTF8" | "UNICODEUTF8" => Kind::Utf8,
            "88591" | "ISO88591" | "LATIN1" => Kind::Latin1,
            "GB18030" | "GB180302000" | "GB180302005" | "GBK" | "GB2312" | "GB231280" => {
                Kind::Other(GB18030)
            }
            "BIG5" => Kind::Other(BIG5),
            "KSX1001" | "EUCKR" => Kind::Other(EUC_KR),
            other => {
                let number = other.strip_prefix("ISO").unwrap_or(other);
                let part: u8 = number.strip_prefix("8859")?.parse().ok()?;
                let label = match part {
                    // The ninth and the eleventh are not among the encodings of the web, which has their
                    // successors instead.
                    2..=8 | 10 | 13..=16 => format!("iso-8859-{part}"),
                    _ => return None,
                };
                Kind::Other(Encoding::for_label(label.as_bytes())?)
            }
        };
        Some(Hl7Charset(kind))
    }

    /// The name that table 0211 has for it.
    pub fn name(self) -> Cow<'static, str> {
        match self.0 {
            Kind::Utf8 => "UNICODE UTF-8".into(),
            Kind::Latin1 => "8859/1".into(),
            Kind::Other(encoding) => match encoding.name() {
                "gb18030" => "GB 18030-2000".into(),
                "Big5" => "BIG-5".into(),
                "EUC-KR" => "KS X 1001".into(),
                other => other.replace("ISO-8859-", "8859/").into(),
            },
            Kind::Switched(sets) => sets.to_string().into(),
        }
    }

    /// The text of bytes; `None` if they are not in this character set.
    pub fn decode(self, bytes: &[u8]) -> Option<Cow<'_, str>> {
        match self.0 {
            Kind::Utf8 => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            Kind::Latin1 => Some(encoding_rs::mem::decode_latin1(bytes)),
            Kind::Other(encoding) => {
                encoding.decode_without_bom_handling_and_without_replacement(bytes)
            }
            Kind::Switched(sets) => sets.decode(bytes).ok().map(Cow::Owned),
        }
    }

    /// The bytes of a text; `None` if it has characters that this character set lacks.
    pub fn encode(self, text: &str) -> Option<Cow<'_, [u8]>> {
        match self.0 {
            Kind::Utf8 => Some(Cow::Borrowed(text.as_bytes())),
            Kind::Latin1 => text
                .chars()
                .all(|letter| u32::from(letter) < 256)
                .then(|| encoding_rs::mem::encode_latin1_lossy(text)),
            Kind::Other(encoding) => {
                let (bytes, _, is_lossy) = encoding.encode(text);
                (!is_lossy).then_some(bytes)
            }
            Kind::Switched(sets) => sets.encode(text).map(Cow::Owned),
        }
    }

    /// Whether escape sequences of ISO 2022 switch between several sets, which MSH-20 names `ISO 2022-1994`.
    pub fn switches(self) -> bool {
        matches!(self.0, Kind::Switched(_))
    }

    /// The byte at which a message that switches between its character sets cannot be read.
    pub(super) fn switch_fault(self, bytes: &[u8]) -> Option<usize> {
        match self.0 {
            Kind::Switched(sets) => sets.decode(bytes).err(),
            _ => None,
        }
    }
}

/// The letters and digits of a name, in capitals. Names differ in what stands between these. Anything else is no part of a name:
/// written again, as an escape sequence, it would be another one.
fn plain_name(name: &str) -> Option<String> {
    let is_between = |byte| matches!(byte, b' ' | b'-' | b'/' | b'_' | b'.' | b':');
    let mut plain = String::new();
    for byte in name.bytes() {
        match byte {
            byte if byte.is_ascii_alphanumeric() && plain.len() < NAME_LETTERS_MAX => {
                plain.push(char::from(byte.to_ascii_uppercase()));
            }
            byte if is_between(byte) => {}
            _ => return None,
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_character_sets_and_texts_come_back() {
        for (name, text, bytes) in [
            ("ASCII", "a", &b"a"[..]),
            ("UNICODE UTF-8", "中", "中".as_bytes()),
            ("8859/1", "é\u{85}", b"\xe9\x85"),
            ("8859/2", "ł", b"\xb3"),
            ("8859/15", "€", b"\xa4"),
            ("GB 18030-2000", "中𠀀", b"\xd6\xd0\x95\x32\x82\x36"),
            ("GB18030", "中", b"\xd6\xd0"),
            ("BIG-5", "中", b"\xa4\xa4"),
            ("KS X 1001", "한", b"\xc7\xd1"),
            ("ISO IR87", "a亜", b"a\x1b$B0!\x1b(B"),
            ("ISO IR6~ISO IR14~ISO IR87", "ｱ亜", b"\x1b(I1\x1b$B0!\x1b(B"),
            ("8859/1~8859/2", "éł", b"\xe9\x1b-B\xb3"),
        ] {
            let charset = Hl7Charset::of(name).unwrap();
            assert_eq!(charset.decode(bytes).unwrap(), text, "{name}");
            assert_eq!(*charset.encode(text).unwrap(), *bytes, "{name}");
            assert_eq!(Hl7Charset::of(&charset.name()), Some(charset), "{name}");
        }
        for name in [
            "",
            "UNICODE",
            "UNICODE UTF-16",
            "8859/9",
            "8859/x",
            "ISO IR100",
            "~X",
            "GB1803\u{0}0",
        ] {
            assert_eq!(Hl7Charset::of(name), None, "{name}");
        }
        // Sets that no sequence leads to.
        for name in ["GB 18030-2000~X", "GB18030~\u{0}", "GB18030~ISO IR87"] {
            assert_eq!(Hl7Charset::of(name), Hl7Charset::of("GB18030"), "{name}");
        }
        let long = "8859".repeat(99);
        assert_eq!(Hl7Charset::of(&long), None);
        assert_eq!(Hl7Charset::of("8859/1").unwrap().encode("中"), None);
        assert_eq!(Hl7Charset::of("8859/2").unwrap().encode("中"), None);
        assert_eq!(Hl7Charset::of("GBK").unwrap().decode(b"\xff\xff"), None);
    }
}
