//! Bytes of a document as text.

use std::borrow::Cow;

use busbar_event::format::xml_encoding;
use encoding_rs::UTF_8;

use crate::fault::{DocumentFault, DocumentFaultKind};
use crate::limits::DOCUMENT_BYTES_MAX;

/// A document's text: by its byte order mark, else by the encoding that it declares, else as UTF-8.
///
/// # Errors
/// The encoding is not known, or the bytes do not fit it.
pub fn document_text(bytes: &[u8]) -> Result<Cow<'_, str>, DocumentFault> {
    let fault = |kind| DocumentFault::at(kind, "", 0);
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(fault(DocumentFaultKind::Large));
    }
    let encoding =
        xml_encoding(bytes).map_err(|name| fault(DocumentFaultKind::Encoding(name.to_owned())))?;
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
