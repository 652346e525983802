//! Where the parts of a JSON text are, so that a payload goes from a request to the log, and from the log to a reader, as the
//! bytes it came as: no tree is built, keys keep their order and numbers their digits.

use std::borrow::Cow;
use std::ops::Range;

use super::scan::{Fault, Scanner};

/// Walks over one or more JSON values in a text, and checks them.
#[derive(Debug)]
pub struct JsonParts<'a> {
    text: &'a str,
    scanner: Scanner<'a>,
}

/// Why a text is not JSON, and the byte at which it stops being it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotJson {
    /// The byte.
    pub at: usize,
    /// Why: the code of a message.
    pub why: &'static str,
}

impl NotJson {
    /// Line and column (in characters), both from one.
    pub fn place(&self, text: &str) -> (usize, usize) {
        let before = &text[..text.floor_char_boundary(self.at)];
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .map_or(1, |line| line.chars().count() + 1);
        (line, column)
    }
}

/// The text that a JSON string stands for; `raw` includes the quotes.
pub fn json_unquote(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.as_bytes().contains(&b'\\') {
        serde_json::from_str(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

impl<'a> JsonParts<'a> {
    /// Begins at the start of the text.
    pub fn new(text: &'a str) -> JsonParts<'a> {
        JsonParts {
            text,
            scanner: Scanner::new(text.as_bytes()),
        }
    }

    /// Where the next value begins, or the end.
    pub fn position(&mut self) -> usize {
        let _ = self.scanner.peek();
        self.scanner.at
    }

    /// True when only white space is left.
    pub fn at_end(&mut self) -> bool {
        self.scanner.end().is_ok()
    }

    /// The next byte that is not white space.
    pub fn peek(&mut self) -> Option<u8> {
        self.scanner.peek().ok()
    }

    /// Checks the next value, whatever it is, and returns its place.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn value(&mut self) -> Result<Range<usize>, NotJson> {
        self.part(0)
    }

    /// Checks the next value, an object, and hands each member's key, in quotes, and the place of its value to `member`.
    ///
    /// # Errors
    /// When it is not JSON, or no object.
    pub fn object(
        &mut self,
        mut member: impl FnMut(&'a str, Range<usize>),
    ) -> Result<Range<usize>, NotJson> {
        let start = self.position();
        self.expect(b'{', "event.json-not-object")?;
        if self.take(b'}') {
            return Ok(start..self.scanner.at);
        }
        loop {
            let from = self.position();
            if self.peek() != Some(b'"') {
                return Err(self.bad("event.json-key"));
            }
            let (key, _) = self.scanner.string().map_err(|fault| self.fault(fault))?;
            self.expect(b':', "event.json-colon")?;
            let value = self.part(1)?;
            member(&self.text[from..=key.to], value);
            if self.take(b'}') {
                return Ok(start..self.scanner.at);
            }
            self.expect(b',', "event.json-object-end")?;
        }
    }

    /// Checks the next value, an array, and hands each element's place to `element`.
    ///
    /// # Errors
    /// When it is not JSON, or no array.
    pub fn array(&mut self, mut element: impl FnMut(Range<usize>)) -> Result<(), NotJson> {
        self.expect(b'[', "event.json-not-array")?;
        if self.take(b']') {
            return Ok(());
        }
        loop {
            element(self.part(1)?);
            if self.take(b']') {
                return Ok(());
            }
            self.expect(b',', "event.json-array-end")?;
        }
    }

    /// Checks the next value, inside `depth` containers.
    fn part(&mut self, depth: usize) -> Result<Range<usize>, NotJson> {
        let start = self.position();
        self.scanner
            .skip(depth)
            .map_err(|fault| self.fault(fault))?;
        Ok(start..self.scanner.at)
    }

    fn take(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        self.scanner.at += usize::from(is);
        is
    }

    fn expect(&mut self, byte: u8, why: &'static str) -> Result<(), NotJson> {
        match self.take(byte) {
            true => Ok(()),
            false => Err(self.bad(why)),
        }
    }

    fn bad(&self, why: &'static str) -> NotJson {
        NotJson {
            at: self.scanner.at,
            why,
        }
    }

    fn fault(&self, fault: Fault) -> NotJson {
        let (at, why) = match fault {
            Fault::End => (self.text.len(), "event.json-ends-early"),
            Fault::Syntax(at) => (at, "event.json-character"),
            Fault::Text(at) => (at, "event.json-string"),
            Fault::Number(at) => (at, "event.json-not-number"),
            Fault::Depth(at) => (at, "event.json-deep"),
            Fault::Trailing(at) => (at, "event.json-more"),
            Fault::NotObject => (self.scanner.at, "event.json-not-object"),
            Fault::Utf8(at) => (at, "event.json-utf8"),
        };
        NotJson { at, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::write_json_text;
    use proptest::prelude::*;

    fn is_json(text: &str) -> bool {
        let mut parts = JsonParts::new(text);
        parts.value().is_ok() && parts.at_end()
    }

    #[test]
    fn parts_are_found_where_they_are() {
        let text = r#" {"topic" : "a/b", "payload":{"kw": 3.20} } "#;
        let mut members = Vec::new();
        let mut parts = JsonParts::new(text);
        let whole = parts.object(|key, value| members.push((key, &text[value])));
        assert_eq!(&text[whole.unwrap()], text.trim());
        assert!(parts.at_end());
        assert_eq!(
            members,
            [("\"topic\"", "\"a/b\""), ("\"payload\"", r#"{"kw": 3.20}"#)]
        );
        let (text, mut elements) = ("[1, [2] ,\"x\"]", Vec::new());
        let mut parts = JsonParts::new(text);
        parts.array(|place| elements.push(&text[place])).unwrap();
        assert_eq!(elements, ["1", "[2]", "\"x\""]);
    }

    #[test]
    fn faults_have_a_place_and_a_reason() {
        for (text, at, why) in [
            ("{\n \"é\": x}", (2, 7), "event.json-character"),
            ("[1,", (1, 4), "event.json-ends-early"),
            ("[01]", (1, 2), "event.json-not-number"),
        ] {
            let bad = JsonParts::new(text).value().unwrap_err();
            assert_eq!((bad.place(text), bad.why), (at, why), "{text}");
        }
        for (text, at, why) in [
            ("[]", 0, "event.json-not-object"),
            ("{1:2}", 1, "event.json-key"),
            ("{\"a\" 2}", 5, "event.json-colon"),
            ("{\"a\":2 \"b\"", 7, "event.json-object-end"),
        ] {
            let bad = JsonParts::new(text).object(|_, _| {}).unwrap_err();
            assert_eq!(bad, NotJson { at, why }, "{text}");
        }
    }

    proptest! {
        #[test]
        fn says_what_serde_json_says(text in r#"[\[\]{}",:\\ untrefalsd0-9.eE+\-\n]{0,24}"#) {
            let read = serde_json::from_str::<serde_json::Value>(&text);
            // serde_json refuses numbers that no float can hold; the bytes are JSON all the same.
            let large = read.as_ref().is_err_and(|e| e.to_string().contains("out of range"));
            prop_assert_eq!(is_json(&text), read.is_ok() || large);
        }

        #[test]
        fn strings_go_out_and_come_back(text in ".*") {
            let _ = is_json(&text);
            let mut out = Vec::new();
            write_json_text(&text, &mut out);
            let out = String::from_utf8(out).unwrap();
            prop_assert_eq!(json_unquote(&out).unwrap(), &*text);
            prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }
    }
}
