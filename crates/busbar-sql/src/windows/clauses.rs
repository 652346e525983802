//! The places of the clauses of a query.

use std::ops::Range;

use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::{Diagnostic, parse, text};

/// Where the clauses of a plain select stand in its text, in bytes and without the keywords that begin them.
#[derive(Debug, Default)]
pub(super) struct Clauses {
    /// Between `select` and `from`.
    pub select: Range<usize>,
    /// Behind `where`.
    pub condition: Option<Range<usize>>,
    /// The keys behind `group by`.
    pub by: Vec<Range<usize>>,
    /// Behind `having`.
    pub having: Option<Range<usize>>,
}

/// A clause that has begun.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clause {
    None,
    Select,
    From,
    Where,
    GroupBy,
    Having,
}

impl Clauses {
    /// Finds the clauses of a text that was parsed as one select without queries beside it.
    pub fn of(text: &str) -> Result<Self, Diagnostic> {
        let tokens = parse::tokens(text)?;
        let tokens: Vec<&TokenWithSpan> = tokens
            .iter()
            .filter(|token| !matches!(token.token, Token::Whitespace(_)))
            .collect();
        let mut found = Self::default();
        let (mut clause, mut from, mut depth) = (Clause::None, 0, 0_usize);
        let mut skip = 0;
        for (at, token) in tokens.iter().enumerate() {
            if skip > 0 {
                skip -= 1;
                continue;
            }
            let begin = text::offset(text, token.span.start.line, token.span.start.column);
            let end = text::offset(text, token.span.end.line, token.span.end.column);
            match &token.token {
                Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
                Token::RParen | Token::RBracket | Token::RBrace => depth = depth.saturating_sub(1),
                Token::Comma if depth == 0 && clause == Clause::GroupBy => {
                    found.by.push(trimmed(text, from..begin));
                    from = end;
                }
                Token::SemiColon | Token::EOF => {
                    found.ended(text, clause, from..begin);
                    return Ok(found);
                }
                Token::Word(word) if depth == 0 => {
                    let before = at.checked_sub(1).map(|at| keyword(tokens[at]));
                    let behind = tokens.get(at + 1).map(|token| keyword(token));
                    let next = match word.keyword {
                        Keyword::SELECT => Clause::Select,
                        // `a is distinct from b`
                        Keyword::FROM if before != Some(Keyword::DISTINCT) => Clause::From,
                        Keyword::WHERE => Clause::Where,
                        Keyword::GROUP if behind == Some(Keyword::BY) => {
                            skip = 1;
                            Clause::GroupBy
                        }
                        Keyword::HAVING => Clause::Having,
                        _ => continue,
                    };
                    found.ended(text, clause, from..begin);
                    clause = next;
                    from = match tokens.get(at + skip) {
                        Some(last) => text::offset(text, last.span.end.line, last.span.end.column),
                        None => end,
                    };
                }
                _ => {}
            }
        }
        found.ended(text, clause, from..text.len());
        Ok(found)
    }

    fn ended(&mut self, text: &str, clause: Clause, range: Range<usize>) {
        let range = trimmed(text, range);
        match clause {
            Clause::None | Clause::From => {}
            Clause::Select => self.select = range,
            Clause::Where => self.condition = Some(range),
            Clause::GroupBy => self.by.push(range),
            Clause::Having => self.having = Some(range),
        }
    }
}

fn keyword(token: &TokenWithSpan) -> Keyword {
    match &token.token {
        Token::Word(word) => word.keyword,
        _ => Keyword::NoKeyword,
    }
}

fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let piece = &text[range.clone()];
    let start = range.start + (piece.len() - piece.trim_start().len());
    start..start + piece.trim().len()
}
