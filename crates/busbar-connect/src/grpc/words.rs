//! A `.proto` file as words: names with their dots, numbers, texts in quotation marks, and signs.

use super::proto::ProtoFault;

/// A word and its line, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub text: String,
    pub line: usize,
}

/// The words of a file.
pub(super) struct Words {
    words: Vec<Word>,
    at: usize,
}

impl Word {
    pub fn fault(&self, code: &'static str) -> ProtoFault {
        ProtoFault {
            line: self.line,
            word: self.text.clone(),
            code,
        }
    }
}

impl Words {
    pub fn new(text: &str) -> Result<Words, ProtoFault> {
        let mut words = Vec::new();
        let mut line = 1;
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+');
            let length = if first == '\n' {
                line += 1;
                rest = &rest[1..];
                continue;
            } else if first.is_whitespace() {
                rest = &rest[first.len_utf8()..];
                continue;
            } else if rest.starts_with("//") {
                rest = rest.find('\n').map_or("", |end| &rest[end..]);
                continue;
            } else if rest.starts_with("/*") {
                let end = rest.find("*/").map_or(rest.len(), |end| end + 2);
                line += rest[..end].matches('\n').count();
                rest = &rest[end..];
                continue;
            } else if is_part(first) {
                rest.find(|c| !is_part(c)).unwrap_or(rest.len())
            } else if first == '"' || first == '\'' {
                match quoted(&rest[1..], first) {
                    Some(length) => length + 2,
                    None => {
                        let text = first.to_string();
                        return Err(Word { text, line }.fault("connect.proto-word"));
                    }
                }
            } else {
                first.len_utf8()
            };
            let text = rest[..length].to_owned();
            words.push(Word { text, line });
            rest = &rest[length..];
        }
        Ok(Words { words, at: 0 })
    }

    pub fn next(&mut self) -> Option<Word> {
        let word = self.words.get(self.at).cloned()?;
        self.at += 1;
        Some(word)
    }

    /// The next word, which there must be.
    pub fn take(&mut self) -> Result<Word, ProtoFault> {
        let end = ProtoFault {
            line: self.words.last().map_or(1, |word| word.line),
            word: String::new(),
            code: "connect.proto-end",
        };
        self.next().ok_or(end)
    }

    /// The next word, which must be this one.
    pub fn expect(&mut self, text: &str) -> Result<(), ProtoFault> {
        let word = self.take()?;
        match word.text == text {
            true => Ok(()),
            false => Err(word.fault("connect.proto-word")),
        }
    }

    pub fn peek_text(&self) -> Option<String> {
        self.words.get(self.at).map(|word| word.text.clone())
    }

    pub fn first_is(&self, text: &str) -> bool {
        self.words
            .get(self.at)
            .is_some_and(|word| word.text == text)
    }

    pub fn second_is(&self, text: &str) -> bool {
        self.words
            .get(self.at + 1)
            .is_some_and(|word| word.text == text)
    }
}

/// The length of a text up to its quotation mark, which a backslash hides.
fn quoted(text: &str, mark: char) -> Option<usize> {
    let mut hidden = false;
    for (at, c) in text.char_indices() {
        match c {
            '\n' => return None,
            _ if hidden => hidden = false,
            '\\' => hidden = true,
            c if c == mark => return Some(at),
            _ => {}
        }
    }
    None
}
