//! Bytes of XML documents as text, and which characters stand in names.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use super::xml::XmlFault;

/// How much of a document is looked at for its declaration, in bytes.
const DECLARATION_BYTES: usize = 256;

/// The encoding of a document: that of its byte order mark, else the one that it declares, else UTF-8.
///
/// # Errors
/// The name that it declares, if that is not known or cannot be the encoding of these bytes.
pub fn xml_encoding(bytes: &[u8]) -> Result<&'static Encoding, &str> {
    match (Encoding::for_bom(bytes), bytes) {
        (Some((encoding, _)), _) => Ok(encoding),
        (None, [b'<', 0, ..]) => Ok(UTF_16LE),
        (None, [0, b'<', ..]) => Ok(UTF_16BE),
        _ => match declared(bytes) {
            None => Ok(UTF_8),
            Some(name) => match Encoding::for_label(name.as_bytes()) {
                // Its declaration could be read byte by byte, which that of a document in UTF-16 cannot.
                Some(known) if known != UTF_16LE && known != UTF_16BE => Ok(known),
                _ => Err(name),
            },
        },
    }
}

/// A document's text.
pub(super) fn xml_text(bytes: &[u8]) -> Result<Cow<'_, str>, XmlFault> {
    let encoding = xml_encoding(bytes).map_err(|_| XmlFault::Encoding)?;
    if encoding == UTF_8 {
        let text = std::str::from_utf8(bytes);
        return text
            .map(Cow::Borrowed)
            .map_err(|error| XmlFault::Utf8(error.valid_up_to()));
    }
    match encoding.decode(bytes) {
        (_, _, true) => Err(XmlFault::Bytes(encoding.name())),
        (text, ..) => Ok(text),
    }
}

/// The encoding that the declaration at a document's beginning names.
fn declared(bytes: &[u8]) -> Option<&str> {
    let head = &bytes[..bytes.len().min(DECLARATION_BYTES)];
    let head = head.strip_prefix(b"<?xml")?;
    let end = memchr::memmem::find(head, b"?>")?;
    let head = std::str::from_utf8(&head[..end]).ok()?;
    let rest = &head[head.find("encoding")? + "encoding".len()..];
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let rest = rest.trim_start_matches(is_space).strip_prefix('=')?;
    let rest = rest.trim_start_matches(is_space);
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    rest[1..].split_once(quote).map(|(name, _)| name)
}

/// Whether a name in XML may begin with this character; a colon is not among them.
pub fn starts_xml_name(c: char) -> bool {
    matches!(c,
        'A'..='Z' | '_' | 'a'..='z' | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}'
        | '\u{F8}'..='\u{2FF}' | '\u{370}'..='\u{37D}' | '\u{37F}'..='\u{1FFF}'
        | '\u{200C}'..='\u{200D}' | '\u{2070}'..='\u{218F}' | '\u{2C00}'..='\u{2FEF}'
        | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}' | '\u{FDF0}'..='\u{FFFD}'
        | '\u{10000}'..='\u{EFFFF}')
}

/// Whether this character may stand in a name in XML; a colon is not among them.
pub fn continues_xml_name(c: char) -> bool {
    starts_xml_name(c)
        || matches!(c, '-' | '.' | '0'..='9' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
}

/// Whether a text is a name in XML, without a prefix.
pub fn is_xml_name(text: &str) -> bool {
    text.starts_with(starts_xml_name) && text.chars().all(continues_xml_name)
}
