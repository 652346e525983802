//! Which characters stand in names.

pub(crate) use busbar_event::format::{
    continues_xml_name as continues_name, starts_xml_name as starts_name,
};

/// Whether an ASCII character stands in a name, at its beginning or not.
const ASCII_NAME: [bool; 128] = {
    let mut table = [false; 128];
    let mut byte = 0;
    while byte < 128 {
        table[byte] =
            matches!(byte as u8, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.');
        byte += 1;
    }
    table
};

/// How many bytes of a text's beginning are a name without a colon.
pub(crate) fn name_length(text: &str) -> usize {
    let mut letters = text.char_indices();
    match letters.next() {
        Some((_, first)) if starts_name(first) => {}
        _ => return 0,
    }
    let is_other = |byte: &u8| !ASCII_NAME.get(usize::from(*byte)).is_some_and(|is| *is);
    let ascii = text.bytes().position(|byte| is_other(&byte));
    match ascii {
        None => return text.len(),
        // Most names are ASCII as a whole.
        Some(at) if at > 0 && text.as_bytes()[at].is_ascii() => return at,
        Some(_) => {}
    }
    letters
        .find(|(_, c)| !continues_name(*c))
        .map_or(text.len(), |(at, _)| at)
}

/// Whether a document may hold this character.
pub(crate) fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..)
}

/// Whether XML takes this character for white space.
pub(crate) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}
