//! Bytes of a document as text.

use std::borrow::Cow;

use busbar_event::format::xml_encoding;
use encoding_rs::{Encoding, UTF_8};

use crate::fault::{DocumentFault, DocumentFaultKind};
use crate::limits::DOCUMENT_BYTES_MAX;

/// A document's text: by its byte order mark, else by the encoding that it declares, else as UTF-8.
///
/// # Errors
/// The encoding is not known, or the bytes do not fit it.
pub fn document_text(bytes: &[u8]) -> Result<Cow<'_, str>, DocumentFault> {
    document_text_in(bytes, None)
}

/// A document's text, with the encoding that was said beside it, as the `charset` of its media type. That holds before what the
/// document declares, and a byte order mark holds before both.
///
/// # Errors
/// As [`document_text`].
pub fn document_text_in<'b>(
    bytes: &'b [u8],
    charset: Option<&str>,
) -> Result<Cow<'b, str>, DocumentFault> {
    let fault = |kind| DocumentFault::at(kind, "", 0);
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(fault(DocumentFaultKind::Large));
    }
    let unknown = |name: &str| fault(DocumentFaultKind::Encoding(name.to_owned()));
    let encoding = match charset {
        Some(name) if Encoding::for_bom(bytes).is_none() => {
            Encoding::for_label(name.as_bytes()).ok_or_else(|| unknown(name))?
        }
        _ => xml_encoding(bytes).map_err(unknown)?,
    };
    if encoding == UTF_8 {
        // Checked and not copied; what is wrong with it is found below.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        if let Ok(text) = std::str::from_utf8(bytes) {
            return Ok(Cow::Borrowed(text));
        }
    }
    let (text, _, malformed) = encoding.decode(bytes);
    if !malformed {
        return Ok(text);
    }
    // What was read until then, for the place. Decoding puts a sign in the place of what does not fit.
    let good = match encoding == UTF_8 {
        true => std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len),
        false => text.find('\u{fffd}').unwrap_or(0),
    };
    let kind = DocumentFaultKind::Bytes(encoding.name());
    Err(DocumentFault::at(kind, &text, good))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_in_their_encoding() {
        let (gb, _, _) =
            encoding_rs::GB18030.encode("<?xml version='1.0' encoding=\"GB18030\"?><a>水位𠀀</a>");
        let mut utf16 = vec![0xff, 0xfe];
        utf16.extend("<a>水</a>".encode_utf16().flat_map(u16::to_le_bytes));
        for (bytes, text) in [
            (
                &gb[..],
                "<?xml version='1.0' encoding=\"GB18030\"?><a>水位𠀀</a>",
            ),
            (&utf16, "<a>水</a>"),
            (&utf16[2..], "<a>水</a>"),
            ("\u{feff}<a>水</a>".as_bytes(), "<a>水</a>"),
            (
                b"<?xml version='1.0' encoding='ISO-8859-1'?><a>\xe9</a>",
                "<?xml version='1.0' encoding='ISO-8859-1'?><a>é</a>",
            ),
            (b"", ""),
        ] {
            assert_eq!(document_text(bytes).unwrap(), text);
        }
    }

    #[test]
    fn a_media_type_says_the_encoding() {
        let (gb, _, _) = encoding_rs::GB18030.encode("<a>水</a>");
        for (bytes, charset, text) in [
            (&gb[..], Some("GB18030"), "<a>水</a>"),
            (
                b"<?xml version='1.0' encoding='GBK'?><a>\xe9</a>",
                Some("iso-8859-1"),
                "<?xml version='1.0' encoding='GBK'?><a>é</a>",
            ),
            ("\u{feff}<a>水</a>".as_bytes(), Some("GB18030"), "<a>水</a>"),
            ("<a>水</a>".as_bytes(), None, "<a>水</a>"),
        ] {
            assert_eq!(document_text_in(bytes, charset).unwrap(), text);
        }
        let fault = document_text_in(b"<a/>", Some("EBCDIC")).unwrap_err();
        assert_eq!(fault.kind, DocumentFaultKind::Encoding("EBCDIC".into()));
    }

    #[test]
    fn other_bytes_are_refused_with_their_place() {
        for (bytes, kind, line, column) in [
            (
                &b"<a>\n\xe6\xb0\xb4\xff</a>"[..],
                DocumentFaultKind::Bytes("UTF-8"),
                2,
                2,
            ),
            (
                b"<?xml version='1.0' encoding='GBK'?><a>\xff</a>",
                DocumentFaultKind::Bytes("GBK"),
                1,
                40,
            ),
            (
                b"<?xml version='1.0' encoding='EBCDIC'?><a/>",
                DocumentFaultKind::Encoding("EBCDIC".into()),
                1,
                1,
            ),
            (
                b"<?xml version='1.0' encoding='utf-16'?><a/>",
                DocumentFaultKind::Encoding("utf-16".into()),
                1,
                1,
            ),
        ] {
            let fault = DocumentFault { kind, line, column };
            assert_eq!(document_text(bytes), Err(fault));
        }
    }
}
