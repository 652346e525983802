//! Places in a text: converts the parser's lines and columns to bytes.

use std::ops::Range;

use datafusion_common::Span;
use datafusion_sql::sqlparser::tokenizer;

use crate::limits::QUOTED_CHARS_MAX;

/// The byte offset of a line and a column, both counted from 1, columns in characters. At most the text's length.
pub(crate) fn offset(text: &str, line: u64, column: u64) -> usize {
    let mut at = 0;
    let mut lines = line.saturating_sub(1);
    while lines > 0 {
        match text[at..].find('\n') {
            Some(end) => at += end + 1,
            None => return text.len(),
        }
        lines -= 1;
    }
    let skip = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
    let rest = &text[at..];
    at + rest
        .char_indices()
        .nth(skip)
        .map_or(rest.len(), |(byte, _)| byte)
}

/// The bytes that a span covers.
pub(crate) fn range(text: &str, span: Span) -> Range<usize> {
    let start = offset(text, span.start.line, span.start.column);
    let end = offset(text, span.end.line, span.end.column);
    widen(text, start..end.max(start))
}

/// The bytes that a span of the parser covers; none if it is empty.
pub(crate) fn parser_range(text: &str, span: tokenizer::Span) -> Option<Range<usize>> {
    Span::try_from_sqlparser_span(span).map(|span| range(text, span))
}

/// Extends an empty range to one character, so that a caret can be drawn.
fn widen(text: &str, range: Range<usize>) -> Range<usize> {
    if range.start < range.end {
        return range;
    }
    let next = text[range.start..].chars().next().map_or(0, char::len_utf8);
    range.start..range.start + next
}

/// The word that begins at a byte.
pub(crate) fn word_at(text: &str, start: usize) -> Range<usize> {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let rest = &text[start..];
    let length: usize = rest
        .chars()
        .take_while(|c| in_word(*c))
        .map(char::len_utf8)
        .sum();
    widen(text, start..start + length)
}

/// The first place where a text contains a word, ignoring case, that is not part of a longer one.
pub(crate) fn find_word(text: &str, word: &str) -> Option<Range<usize>> {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    if word.is_empty() {
        return None;
    }
    for (start, _) in text.char_indices() {
        let end = start + word.len();
        let Some(found) = text.get(start..end) else {
            continue;
        };
        if found.eq_ignore_ascii_case(word)
            && !text[..start].chars().next_back().is_some_and(in_word)
            && !text[end..].chars().next().is_some_and(in_word)
        {
            return Some(start..end);
        }
    }
    None
}

/// The text, cut to a length at which an error can contain it.
pub(crate) fn quote(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_count_from_one() {
        let text = "水位 > 1\nand b = 2";
        assert_eq!(&text[offset(text, 1, 4)..][..1], ">");
        assert_eq!(&text[offset(text, 2, 5)..][..1], "b");
        assert_eq!(offset(text, 9, 1), text.len());
        assert_eq!(offset(text, 2, 99), text.len());
    }

    #[test]
    fn words_stand_by_themselves() {
        assert_eq!(find_word("blevel + LEVEL", "level"), Some(9..14));
        assert_eq!(find_word("水level", "level"), None);
        assert_eq!(find_word("", "level"), None);
    }
}
