//! A strict JSON scanner that checks a document and tells where its parts are, so that a payload
//! goes from the request to the log, and from the log to the reader, as the bytes it came as:
//! no tree is built, keys keep their order and numbers their digits.

use std::borrow::Cow;
use std::ops::Range;

use crate::limits::JSON_DEPTH_MAX;

/// Walks over one or more JSON values in a text.
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// Why a text is not JSON, and the byte at which it stops being it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) at: usize,
    pub(crate) why: &'static str,
}

impl Bad {
    /// Line and column (in characters), both from one.
    pub(crate) fn place(&self, text: &str) -> (usize, usize) {
        let mut end = self.at.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &text[..end];
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .map_or(1, |line| line.chars().count() + 1);
        (line, column)
    }
}

/// True when all of `text` is one JSON value.
pub(crate) fn is_json(text: &str) -> bool {
    let mut scanner = Scanner::new(text);
    scanner.value().is_ok() && scanner.at_end()
}

/// The text of a JSON string, quotes included in `raw`.
pub(crate) fn unquote(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.as_bytes().contains(&b'\\') {
        serde_json::from_str(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// Appends `text` as a JSON string.
pub(crate) fn quote(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut clean = 0;
    for (at, byte) in text.bytes().enumerate() {
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0..0x20 => b'u',
            _ => continue,
        };
        out.extend_from_slice(&text.as_bytes()[clean..at]);
        out.extend_from_slice(&[b'\\', short]);
        if short == b'u' {
            out.extend_from_slice(b"00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
        clean = at + 1;
    }
    out.extend_from_slice(&text.as_bytes()[clean..]);
    out.push(b'"');
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Scanner { text, at: 0 }
    }

    /// Where the next value begins, or the end.
    pub(crate) fn position(&mut self) -> usize {
        self.space();
        self.at
    }

    /// True when only white space is left.
    pub(crate) fn at_end(&mut self) -> bool {
        self.space();
        self.at == self.text.len()
    }

    /// The next byte that is not white space.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        self.space();
        self.text.as_bytes().get(self.at).copied()
    }

    /// Checks the next value, whatever it is.
    pub(crate) fn value(&mut self) -> Result<Range<usize>, Bad> {
        self.space();
        let start = self.at;
        self.any(0)?;
        Ok(start..self.at)
    }

    /// Checks the next value, an object, and hands each member's key and value (raw) to `member`.
    pub(crate) fn object(
        &mut self,
        mut member: impl FnMut(&'a str, Range<usize>),
    ) -> Result<Range<usize>, Bad> {
        self.space();
        let start = self.at;
        self.members(0, &mut member)?;
        Ok(start..self.at)
    }

    /// Checks the next value, an array, and hands each element's place to `element`.
    pub(crate) fn array(&mut self, mut element: impl FnMut(Range<usize>)) -> Result<(), Bad> {
        self.space();
        self.elements(0, &mut element)
    }

    fn any(&mut self, depth: usize) -> Result<(), Bad> {
        if depth >= JSON_DEPTH_MAX {
            return Err(self.bad("nested too deep"));
        }
        match self.text.as_bytes().get(self.at) {
            Some(b'{') => self.members(depth, &mut |_, _| {}),
            Some(b'[') => self.elements(depth, &mut |_| {}),
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            Some(_) => Err(self.bad("not a value")),
            None => Err(self.bad("ends before a value")),
        }
    }

    fn members(
        &mut self,
        depth: usize,
        member: &mut dyn FnMut(&'a str, Range<usize>),
    ) -> Result<(), Bad> {
        self.expect(b'{', "not an object")?;
        self.space();
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            self.space();
            let key = self.at;
            if self.text.as_bytes().get(key) != Some(&b'"') {
                return Err(self.bad("not a key in quotes"));
            }
            self.string()?;
            let key = &self.text[key..self.at];
            self.space();
            self.expect(b':', "no colon after a key")?;
            self.space();
            let start = self.at;
            self.any(depth + 1)?;
            member(key, start..self.at);
            self.space();
            if self.take(b'}') {
                return Ok(());
            }
            self.expect(b',', "neither a comma nor the object's end")?;
        }
    }

    fn elements(&mut self, depth: usize, element: &mut dyn FnMut(Range<usize>)) -> Result<(), Bad> {
        self.expect(b'[', "not an array")?;
        self.space();
        if self.take(b']') {
            return Ok(());
        }
        loop {
            self.space();
            let start = self.at;
            self.any(depth + 1)?;
            element(start..self.at);
            self.space();
            if self.take(b']') {
                return Ok(());
            }
            self.expect(b',', "neither a comma nor the array's end")?;
        }
    }

    fn string(&mut self) -> Result<(), Bad> {
        let bytes = self.text.as_bytes();
        self.at += 1;
        loop {
            let rest = &bytes[self.at..];
            let Some(len) = memchr::memchr2(b'"', b'\\', rest) else {
                self.at = bytes.len();
                return Err(self.bad("a string without an end"));
            };
            if let Some(control) = rest[..len].iter().position(|b| *b < 0x20) {
                self.at += control;
                return Err(self.bad("a control character in a string"));
            }
            self.at += len + 1;
            if rest[len] == b'"' {
                return Ok(());
            }
            match bytes.get(self.at) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
                Some(b'u') => {
                    self.at += 1;
                    match self.hex4()? {
                        0xD800..0xDC00 => {
                            if !(self.take(b'\\') && self.take(b'u')) {
                                return Err(self.bad("half a surrogate pair"));
                            }
                            if !(0xDC00..0xE000).contains(&self.hex4()?) {
                                return Err(self.bad("half a surrogate pair"));
                            }
                        }
                        0xDC00..0xE000 => return Err(self.bad("half a surrogate pair")),
                        _ => {}
                    }
                }
                _ => return Err(self.bad("an unknown escape")),
            }
        }
    }

    fn hex4(&mut self) -> Result<u32, Bad> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let code = digits.and_then(|digits| {
            digits.iter().try_fold(0, |code, digit| {
                Some(code * 16 + char::from(*digit).to_digit(16)?)
            })
        });
        match code {
            Some(code) => {
                self.at += 4;
                Ok(code)
            }
            None => Err(self.bad("an unknown escape")),
        }
    }

    fn number(&mut self) -> Result<(), Bad> {
        self.take(b'-');
        if !self.take(b'0') && self.digits() == 0 {
            return Err(self.bad("a number without digits"));
        }
        if self.take(b'.') && self.digits() == 0 {
            return Err(self.bad("a number without digits"));
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            if self.digits() == 0 {
                return Err(self.bad("a number without digits"));
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn word(&mut self, word: &str) -> Result<(), Bad> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.bad("not a value"))
        }
    }

    fn space(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest
            .iter()
            .take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r'))
            .count();
    }

    fn take(&mut self, byte: u8) -> bool {
        let is = self.text.as_bytes().get(self.at) == Some(&byte);
        self.at += usize::from(is);
        is
    }

    fn expect(&mut self, byte: u8, why: &'static str) -> Result<(), Bad> {
        if self.take(byte) {
            Ok(())
        } else {
            Err(self.bad(why))
        }
    }

    fn bad(&self, why: &'static str) -> Bad {
        Bad { at: self.at, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn agrees_with_the_grammar() {
        for good in [
            "null",
            " true ",
            "-0",
            "0.5e-7",
            "1E+2",
            r#""""#,
            r#""é\n😀""#,
            "[]",
            "[1, [2]]",
            r#"{"a":{"b":[null]},"a":1}"#,
        ] {
            assert!(is_json(good), "{good}");
        }
        for bad in [
            "",
            "nul",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "'a'",
            "\"a",
            "\"\n\"",
            r#""\x""#,
            r#""\ud800""#,
            r#""\udc00""#,
            "[1,]",
            "[1 2]",
            "{a:1}",
            r#"{"a" 1}"#,
            r#"{"a":1,}"#,
            "1 2",
            "]",
            "{",
            "[",
            r#""\u12"#,
            r#""\u12é4""#,
        ] {
            assert!(!is_json(bad), "{bad}");
        }
        let deep = |n| "[".repeat(n) + &"]".repeat(n);
        assert!(is_json(&deep(JSON_DEPTH_MAX)));
        assert!(!is_json(&deep(JSON_DEPTH_MAX + 1)));
        assert!(!is_json(&"[".repeat(1 << 20)));
    }

    #[test]
    fn tells_where_the_parts_and_the_faults_are() {
        let text = r#" {"topic":"a/b", "payload": {"kw": 3.20} } "#;
        let mut members = Vec::new();
        Scanner::new(text)
            .object(|key, value| members.push((key, &text[value])))
            .unwrap();
        assert_eq!(
            members,
            [("\"topic\"", "\"a/b\""), ("\"payload\"", r#"{"kw": 3.20}"#)]
        );
        let text = "{\n \"é\": x}";
        let bad = Scanner::new(text).value().unwrap_err();
        assert_eq!(bad.place(text), (2, 7));
    }

    #[test]
    fn strings_go_out_and_come_back() {
        let text = "a\"b\\c\n\u{1}\u{7f}é😀";
        let mut out = Vec::new();
        quote(&mut out, text);
        let out = String::from_utf8(out).unwrap();
        assert_eq!(unquote(&out).unwrap(), text);
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
    }

    proptest! {
        #[test]
        fn says_what_serde_json_says(text in r#"[\[\]{}",:\\ untrefalsd0-9.eE+\-\n]{0,24}"#) {
            prop_assert_eq!(is_json(&text), serde_json::from_str::<serde_json::Value>(&text).is_ok()
                // serde_json refuses numbers that no float can hold; the bytes are JSON all the same.
                || serde_json::from_str::<serde_json::Value>(&text).is_err_and(|e| e.to_string().contains("out of range")));
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = is_json(&text);
            let mut out = Vec::new();
            quote(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
