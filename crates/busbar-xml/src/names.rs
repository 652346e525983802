//! Which characters stand in names.

pub(crate) use busbar_event::format::{
    continues_xml_name as continues_name, starts_xml_name as starts_name,
};

/// How many bytes of a text's beginning are a name without a colon.
pub(crate) fn name_length(text: &str) -> usize {
    let mut letters = text.char_indices();
    match letters.next() {
        Some((_, first)) if starts_name(first) => {}
        _ => return 0,
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
