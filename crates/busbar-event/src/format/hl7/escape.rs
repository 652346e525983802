use super::{Hl7Charset, Hl7Separators};

/// Most blanks or lines that one sequence stands for. Keeps a text from being many times as long as it was written.
const REPEAT_MAX: usize = 30;

/// Appends a text with its escape sequences replaced. Sequences that mean nothing here, such as those of a local meaning
/// and changes of the character set, stay as they are written; highlighting is left out.
pub(super) fn unescape(
    text: &str,
    separators: &Hl7Separators,
    charset: Hl7Charset,
    out: &mut Vec<u8>,
) {
    let Some(escape) = separators.escape else {
        out.extend_from_slice(text.as_bytes());
        return;
    };
    let mut rest = text;
    while let Some(from) = memchr::memchr(escape, rest.as_bytes()) {
        out.extend_from_slice(&rest.as_bytes()[..from]);
        let after = &rest[from + 1..];
        let Some(length) = memchr::memchr(escape, after.as_bytes()) else {
            // It never ends: a letter like others.
            out.extend_from_slice(&rest.as_bytes()[from..]);
            return;
        };
        match sequence(&after[..length], separators, charset, out) {
            true => rest = &after[length + 1..],
            false => {
                // The sign that would end it may begin another one.
                out.push(escape);
                out.extend_from_slice(&after.as_bytes()[..length]);
                rest = &after[length..];
                if is_sequence_name(&after[..length]) {
                    out.push(escape);
                    rest = &after[length + 1..];
                }
            }
        }
    }
    out.extend_from_slice(rest.as_bytes());
}

/// Whether it is a sequence of the standard or of a local meaning, though it says nothing here.
fn is_sequence_name(name: &str) -> bool {
    name.starts_with(['C', 'M', 'Z', 'X', '.']) && !name.contains(char::is_whitespace)
}

/// Appends what a sequence means; false if it means nothing here.
fn sequence(
    name: &str,
    separators: &Hl7Separators,
    charset: Hl7Charset,
    out: &mut Vec<u8>,
) -> bool {
    let letter = match name {
        "F" => Some(separators.field),
        "S" => Some(separators.component),
        "R" => separators.repetition,
        "T" => separators.subcomponent,
        "E" => separators.escape,
        "P" => separators.truncation,
        "H" | "N" => return true,
        ".br" | ".ce" => Some(b'\n'),
        ".fi" | ".nf" => return true,
        _ => {
            if let Some(digits) = name.strip_prefix('X') {
                return hex(digits, charset, out);
            }
            let (fill, count) = match name.get(..3) {
                Some(".sp") => (b'\n', name[3..].trim()),
                Some(".sk") => (b' ', name[3..].trim()),
                Some(".in" | ".ti") => return true,
                _ => return false,
            };
            let count = match count {
                "" => Some(1),
                count => count.trim_start_matches('+').parse().ok(),
            };
            let Some(count) = count.filter(|count| *count <= REPEAT_MAX) else {
                return false;
            };
            out.extend(std::iter::repeat_n(fill, count));
            return true;
        }
    };
    out.extend(letter);
    letter.is_some()
}

/// Bytes in the message's character set.
fn hex(digits: &str, charset: Hl7Charset, out: &mut Vec<u8>) -> bool {
    let bytes: Option<Vec<u8>> = digits
        .as_bytes()
        .chunks(2)
        .map(|two| match two {
            [a, b] => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                u8::try_from(digit(*a)? << 4 | digit(*b)?).ok()
            }
            _ => None,
        })
        .collect();
    match bytes.as_deref().and_then(|bytes| charset.decode(bytes)) {
        Some(text) if !text.is_empty() => {
            out.extend_from_slice(text.as_bytes());
            true
        }
        _ => false,
    }
}

/// Appends a text in which every one of the usual separators and every control character is an escape sequence. A text of two
/// quotation marks is written so that it does not mean that a value is deleted.
pub(super) fn escape(text: &str, out: &mut String) {
    if text == "\"\"" {
        out.push_str(r"\X2222\");
        return;
    }
    for letter in text.chars() {
        match letter {
            '|' => out.push_str(r"\F\"),
            '^' => out.push_str(r"\S\"),
            '~' => out.push_str(r"\R\"),
            '&' => out.push_str(r"\T\"),
            '\\' => out.push_str(r"\E\"),
            '\n' => out.push_str(r"\.br\"),
            control if control.is_ascii_control() => {
                let number = u32::from(control);
                out.push_str(&format!(r"\X{number:02X}\"));
            }
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unescaped(text: &str) -> String {
        let mut out = Vec::new();
        unescape(
            text,
            &Hl7Separators::default(),
            Hl7Charset::of("GB18030").unwrap(),
            &mut out,
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn sequences_are_replaced() {
        for (text, expected) in [
            (r"a\F\b\S\c\T\d\R\e\E\f", r"a|b^c&d~e\f"),
            (r"one\.br\two\.sp2\three\.sk3\x", "one\ntwo\n\nthree   x"),
            (r"\H\loud\N\ \.in5\x", "loud x"),
            (r"\X0D0A\\XD6D0\", "\r\n中"),
            (r"\X1\", r"\X1\"),
            (r"\XFFFF\x", r"\XFFFF\x"),
            (r"\Zlocal\x\C2842\\Mxx\", r"\Zlocal\x\C2842\\Mxx\"),
            (r"C:\temp\F", r"C:\temp\F"),
            (r"C:\temp dir\F\x", r"C:\temp dir|x"),
            (r"no end \F", r"no end \F"),
            (r"\", r"\"),
            (r"\\", r"\\"),
            (r"\.sp9999\", r"\.sp9999\"),
            (r"\P\", r"\P\"),
        ] {
            assert_eq!(unescaped(text), expected, "{text}");
        }
    }

    #[test]
    fn escaped_texts_come_back() {
        for text in [
            "",
            "plain",
            r"a|b^c&d~e\f",
            "\"\"",
            "line\none\r\n\u{b}\u{1c}",
            r"\F\ \Z\ \\",
            "中é",
        ] {
            let mut out = String::new();
            escape(text, &mut out);
            assert_eq!(unescaped(&out), text, "{out}");
            assert!(!out.contains(['|', '^', '&', '~', '\n', '\r', '\u{b}', '\u{1c}']));
        }
    }
}
