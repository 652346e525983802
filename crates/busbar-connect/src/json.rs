//! Payloads as JSON on one line.

use std::borrow::Cow;

use busbar_event::{Class, Error, quote};

/// A payload as JSON on one line: as it is if it is JSON, as a JSON string if it is any other text.
///
/// # Errors
/// *Permanent* for a payload that is not UTF-8.
pub fn json_text(payload: &[u8]) -> Result<Cow<'_, [u8]>, Error> {
    if serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok() {
        if memchr::memchr2(b'\n', b'\r', payload).is_none() {
            return Ok(Cow::Borrowed(payload));
        }
        // In JSON, line breaks occur only between tokens.
        let blank = |byte: &u8| match byte {
            b'\n' | b'\r' => b' ',
            other => *other,
        };
        return Ok(Cow::Owned(payload.iter().map(blank).collect()));
    }
    let no_text = |why| {
        Error::new(Class::Permanent, "connect.not-text")
            .with("payload", quote(&String::from_utf8_lossy(payload)))
            .caused_by(why)
    };
    let text = std::str::from_utf8(payload).map_err(no_text)?;
    Ok(Cow::Owned(serde_json::json!(text).to_string().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_json_on_one_line() {
        for (payload, expected) in [
            ("{\"a\":\r\n1}", "{\"a\":  1}"),
            ("plain", "\"plain\""),
            ("two\nlines", "\"two\\nlines\""),
            ("", "\"\""),
            ("3.20", "3.20"),
        ] {
            assert_eq!(json_text(payload.as_bytes()).unwrap(), expected.as_bytes());
        }
        let refused = json_text(b"\xff").unwrap_err();
        assert_eq!(
            (refused.class(), refused.code()),
            (Class::Permanent, "connect.not-text")
        );
    }
}
