//! The prompt of `busbar sql`: queries over several lines, each ended by a semicolon.
//!
//! The terminal edits the line; for a history use a wrapper such as `rlwrap`. Line editing libraries enable
//! features of shared crates, which would compile DataFusion a second time.

use std::io::{self, BufRead as _, Read as _, Write as _};

use busbar_event::{Class, Error};

use crate::exit::{self, Failure};

/// Words that exit, as in other SQL clients.
const GOODBYE: [&str; 4] = ["exit", "quit", "\\q", ".exit"];
/// Bytes of one query at the prompt.
const QUERY_BYTES_MAX: usize = 1 << 20;

/// Reads queries from a terminal.
pub struct Prompt;

impl Prompt {
    /// The next queries; `None` at the end of input.
    ///
    /// # Errors
    /// When the terminal cannot be read.
    pub fn next(&mut self) -> Result<Option<Vec<String>>, Failure> {
        let mut text = String::new();
        loop {
            print!("{}", if text.is_empty() { "sql> " } else { "  -> " });
            io::stdout().flush().map_err(unusable)?;
            let before = text.len();
            let room = QUERY_BYTES_MAX + 1 - before;
            let mut line = io::stdin().lock().take(room as u64);
            if line.read_line(&mut text).map_err(unusable)? == 0 {
                return Ok(None);
            }
            if text.len() > QUERY_BYTES_MAX {
                let error = Error::new(Class::Configuration, "cli.queries-too-long");
                return Err(error.with("bytes_max", QUERY_BYTES_MAX).into());
            }
            if text.trim().is_empty() {
                text.clear();
                continue;
            }
            if is_goodbye(&text) {
                return Ok(None);
            }
            let (queries, rest) = split(&text);
            // An empty line ends a query too, for users who forget the semicolon.
            let ended = text[before..].trim().is_empty();
            if (rest.is_empty() && !queries.is_empty()) || ended {
                let rest = Some(rest).filter(|rest| !rest.is_empty());
                return Ok(Some(
                    queries.into_iter().chain(rest).map(str::to_owned).collect(),
                ));
            }
        }
    }
}

fn unusable(why: io::Error) -> Failure {
    let error = Error::new(Class::Transient, "cli.no-terminal");
    Failure::new(exit::IO, error.caused_by(why))
}

fn is_goodbye(text: &str) -> bool {
    GOODBYE.contains(&text.trim().trim_end_matches(';'))
}

/// Splits a text into the queries that end with a semicolon and the rest behind the last one. Semicolons in
/// quotes and comments do not count; a text of comments only is not a query.
pub fn split(text: &str) -> (Vec<&str>, &str) {
    let mut queries = Vec::new();
    let (mut begun, mut empty) = (0, true);
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        let next = letters.peek().map(|(_, next)| *next);
        match (letter, next) {
            ('-', Some('-')) => while letters.next().is_some_and(|(_, within)| within != '\n') {},
            ('/', Some('*')) => {
                letters.next();
                let mut before = ' ';
                for (_, within) in letters.by_ref() {
                    if before == '*' && within == '/' {
                        break;
                    }
                    before = within;
                }
            }
            (';', _) => {
                if !empty {
                    queries.push(text[begun..at].trim());
                }
                (begun, empty) = (at + 1, true);
            }
            ('\'' | '"', _) => {
                empty = false;
                while letters.next().is_some_and(|(_, within)| within != letter) {}
            }
            _ => empty &= letter.is_whitespace(),
        }
    }
    (queries, if empty { "" } else { text[begun..].trim() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_end_queries_but_not_inside_quotes_and_comments() {
        assert_eq!(
            split("select 1; select ';' ;"),
            (vec!["select 1", "select ';'"], "")
        );
        assert_eq!(
            split("select 'it''s;' as \"a;b\"; rest"),
            (vec!["select 'it''s;' as \"a;b\""], "rest")
        );
        assert_eq!(
            split("select 1 -- one; two\n+ 1; x"),
            (vec!["select 1 -- one; two\n+ 1"], "x")
        );
        assert_eq!(split("select /* ; */ 1;"), (vec!["select /* ; */ 1"], ""));
        assert_eq!(split(";; -- that was all"), (vec![], ""));
        assert_eq!(split("select '电表;"), (vec![], "select '电表;"));
    }
}
