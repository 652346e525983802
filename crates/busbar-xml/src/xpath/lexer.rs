//! Words and signs of a path.

use std::ops::Range;

use super::{XPathFault, XPathFaultKind};
use crate::names::{is_space, name_length};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum PathToken {
    /// A sign or an operator: `(`, `::`, `and` and so on.
    Sign(&'static str),
    Literal(String),
    Number(f64),
    /// A name with its prefix.
    Name(Option<String>, String),
    /// `prefix:*`.
    PrefixAny(String),
    /// `*` in the place of a name.
    Any,
    Variable,
}

#[derive(Clone, Debug)]
pub(super) struct Lexeme {
    pub token: PathToken,
    pub at: Range<usize>,
}

const SIGNS: &[&str] = &[
    "::", "..", "//", "!=", "<=", ">=", "(", ")", "[", "]", ".", "@", ",", "/", "|", "+", "-", "=",
    "<", ">",
];

const OPERATOR_NAMES: &[&str] = &["and", "or", "div", "mod"];

pub(super) fn lexemes(text: &str) -> Result<Vec<Lexeme>, XPathFault> {
    let mut found: Vec<Lexeme> = Vec::new();
    let mut at = 0;
    loop {
        let rest = text[at..].trim_start_matches(is_space);
        at = text.len() - rest.len();
        let Some(first) = rest.chars().next() else {
            return Ok(found);
        };
        let (token, length) = match first {
            '"' | '\'' => match rest[1..].find(first) {
                Some(end) => (PathToken::Literal(rest[1..=end].to_owned()), end + 2),
                None => return Err(fault(XPathFaultKind::Unclosed, at..text.len())),
            },
            '$' => (PathToken::Variable, 1),
            '*' => match is_operator_expected(found.last()) {
                true => (PathToken::Sign("*"), 1),
                false => (PathToken::Any, 1),
            },
            '0'..='9' => number(rest),
            '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => number(rest),
            _ => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
                Some(sign) => (PathToken::Sign(sign), sign.len()),
                None => name(rest, found.last())
                    .ok_or_else(|| fault(XPathFaultKind::Syntax, at..at + first.len_utf8()))?,
            },
        };
        found.push(Lexeme {
            token,
            at: at..at + length,
        });
        at += length;
    }
}

fn number(rest: &str) -> (PathToken, usize) {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let mut length = digits(rest);
    if rest[length..].starts_with('.') {
        length += 1 + digits(&rest[length + 1..]);
    }
    let number = rest[..length].parse().unwrap_or(f64::NAN);
    (PathToken::Number(number), length)
}

fn name(rest: &str, before: Option<&Lexeme>) -> Option<(PathToken, usize)> {
    let length = name_length(rest);
    if length == 0 {
        return None;
    }
    let first = &rest[..length];
    if is_operator_expected(before)
        && let Some(operator) = OPERATOR_NAMES.iter().find(|name| **name == first)
    {
        return Some((PathToken::Sign(operator), length));
    }
    let behind = &rest[length..];
    let local = match behind.strip_prefix(':') {
        Some(local) if !local.starts_with(':') => local,
        _ => return Some((PathToken::Name(None, first.to_owned()), length)),
    };
    if local.starts_with('*') {
        return Some((PathToken::PrefixAny(first.to_owned()), length + 2));
    }
    match name_length(local) {
        0 => None,
        local_length => {
            let name = PathToken::Name(Some(first.to_owned()), local[..local_length].to_owned());
            Some((name, length + 1 + local_length))
        }
    }
}

/// Whether `*` and `and` are operators here: behind what ends an operand.
fn is_operator_expected(before: Option<&Lexeme>) -> bool {
    match before.map(|lexeme| &lexeme.token) {
        None => false,
        Some(PathToken::Sign(sign)) => matches!(*sign, ")" | "]" | "." | ".."),
        Some(_) => true,
    }
}

pub(super) fn fault(kind: XPathFaultKind, at: Range<usize>) -> XPathFault {
    XPathFault { kind, at }
}
