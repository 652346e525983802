use std::borrow::Cow;

use encoding_rs::{BIG5, EUC_KR, Encoding, GB18030};

/// A character set of messages, as MSH-18 names it (table 0211 of the standard).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hl7Charset(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Utf8,
    /// ISO 8859-1: each byte is the character of that number.
    Latin1,
    Other(&'static Encoding),
}

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

    /// The character set of a name; `None` for one that is not read.
    pub fn of(name: &str) -> Option<Hl7Charset> {
        // Names differ in what stands between their letters and digits. Anything else is no part of a name: written again, as
        // an escape sequence, it would be another one.
        let is_between = |byte| matches!(byte, b' ' | b'-' | b'/' | b'_' | b'.' | b':');
        if !name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || is_between(b))
        {
            return None;
        }
        let mut plain = [0; 24];
        let letters = name.bytes().filter(u8::is_ascii_alphanumeric);
        let mut length = 0;
        for letter in letters {
            *plain.get_mut(length)? = letter.to_ascii_uppercase();
            length += 1;
        }
        let kind = match &plain[..length] {
            b"ASCII" | b"USASCII" | b"UTF8" | b"UNICODEUTF8" => Kind::Utf8,
            b"88591" | b"ISO88591" | b"LATIN1" => Kind::Latin1,
            b"GB18030" | b"GB180302000" | b"GB180302005" | b"GBK" | b"GB2312" | b"GB231280" => {
                Kind::Other(GB18030)
            }
            b"BIG5" => Kind::Other(BIG5),
            b"KSX1001" | b"EUCKR" => Kind::Other(EUC_KR),
            other => {
                let number = other.strip_prefix(b"ISO").unwrap_or(other);
                let part = number.strip_prefix(b"8859")?;
                let part: u8 = std::str::from_utf8(part).ok()?.parse().ok()?;
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
        }
    }
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
            "ISO IR87",
            "GB1803\u{0}0",
        ] {
            assert_eq!(Hl7Charset::of(name), None, "{name}");
        }
        let long = "8859".repeat(99);
        assert_eq!(Hl7Charset::of(&long), None);
        assert_eq!(Hl7Charset::of("8859/1").unwrap().encode("中"), None);
        assert_eq!(Hl7Charset::of("8859/2").unwrap().encode("中"), None);
        assert_eq!(Hl7Charset::of("GBK").unwrap().decode(b"\xff\xff"), None);
    }
}
