//! Parsing, with limits that are checked before a syntax tree is built.

use std::ops::Range;

use datafusion_sql::parser::{DFParserBuilder, Statement};
use datafusion_sql::sqlparser::ast::{Expr, Query, SelectItem};
use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, TokenizerError};

use crate::Diagnostic;
use crate::diagnostic::too_nested;
use crate::explain::{explain, syntax};
use crate::limits::{NESTING_MAX, OPERATORS_MAX, SELECTS_MAX, TEXT_BYTES_MAX};
use crate::{session, text};

static DIALECT: GenericDialect = GenericDialect {};

/// Parses one expression.
pub(crate) fn expression(text: &str) -> Result<Expr, Diagnostic> {
    let mut parser = parser(text)?;
    let parsed = parser.parse_expr();
    finish(text, &mut parser, parsed)
}

/// Parses a list such as that between `select` and `from`.
pub(crate) fn select_list(text: &str) -> Result<Vec<SelectItem>, Diagnostic> {
    let mut parser = parser(text)?;
    let parsed = parser.parse_comma_separated(Parser::parse_select_item);
    finish(text, &mut parser, parsed)
}

/// Parses one statement; a semicolon may follow.
pub(crate) fn statement(text: &str) -> Result<Statement, Diagnostic> {
    let tokens = tokens(text)?;
    let mut statements = DFParserBuilder::new(tokens)
        .with_dialect(&DIALECT)
        .with_recursion_limit(NESTING_MAX)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| explain(text, error, session::function_names()))?;
    match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) => Ok(statement),
        (None, _) => Err(Diagnostic::new("sql.empty", 0..text.len())),
        _ => Err(Diagnostic::new("sql.one-statement", 0..text.len())),
    }
}

/// Parses a query that is a part of this crate. Nothing in it has a place, so that no error points into it.
pub(crate) fn own_query(text: &str) -> Option<Query> {
    let tokens = Tokenizer::new(&DIALECT, text).tokenize().ok()?;
    let mut parser = Parser::new(&DIALECT).with_tokens(tokens);
    parser.parse_query().ok().map(|query| *query)
}

/// The place of the first word of a text, in bytes.
pub(crate) fn first_word(text: &str) -> Range<usize> {
    let start = text.len() - text.trim_start().len();
    text::word_at(text, start)
}

fn parser(text: &str) -> Result<Parser<'static>, Diagnostic> {
    Ok(Parser::new(&DIALECT)
        .with_tokens_with_locations(tokens(text)?)
        .with_recursion_limit(NESTING_MAX))
}

fn finish<T>(
    text: &str,
    parser: &mut Parser<'_>,
    parsed: Result<T, datafusion_sql::sqlparser::parser::ParserError>,
) -> Result<T, Diagnostic> {
    let parsed = parsed.map_err(|error| syntax(text, &error.to_string(), None))?;
    let next = parser.peek_token();
    if next.token == Token::EOF {
        return Ok(parsed);
    }
    let place = text::parser_range(text, next.span).unwrap_or(text.len()..text.len());
    Err(Diagnostic::new("sql.unexpected", place)
        .with("found", text::quote(&next.token.to_string())))
}

/// The tokens of a text, with white space and places.
pub(crate) fn tokens(text: &str) -> Result<Vec<TokenWithSpan>, Diagnostic> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Diagnostic::new("sql.too-long", 0..text.len())
            .with("bytes", text.len())
            .with("most", TEXT_BYTES_MAX));
    }
    if text.trim().is_empty() {
        return Err(Diagnostic::new("sql.empty", 0..text.len()));
    }
    let mut tokens = Tokenizer::new(&DIALECT, text)
        .tokenize_with_location()
        .map_err(|TokenizerError { message, location }| {
            let start = text::offset(text, location.line, location.column);
            syntax(text, &message, Some(text::word_at(text, start)))
        })?;
    quote_columns(&mut tokens);
    if deepest(&tokens) > NESTING_MAX {
        return Err(too_nested(text));
    }
    let selects = tokens
        .iter()
        .filter(
            |token| matches!(&token.token, Token::Word(word) if word.keyword == Keyword::SELECT),
        )
        .count();
    if selects > SELECTS_MAX {
        return Err(Diagnostic::new("sql.too-many-selects", 0..text.len())
            .with("selects", selects)
            .with("most", SELECTS_MAX));
    }
    let operators = tokens.iter().filter(|token| deepens(&token.token)).count();
    if operators > OPERATORS_MAX {
        return Err(Diagnostic::new("sql.too-many-operators", 0..text.len())
            .with("operators", operators)
            .with("most", OPERATORS_MAX));
    }
    Ok(tokens)
}

/// Quotes `partition` and `offset` where they are columns of a stream: the parser takes them for keywords.
fn quote_columns(tokens: &mut [TokenWithSpan]) {
    for at in 0..tokens.len() {
        let rest = tokens[at + 1..].iter().map(|token| &token.token);
        let next = rest
            .into_iter()
            .find(|token| !matches!(token, Token::Whitespace(_)));
        let is_column = match &tokens[at].token {
            Token::Word(word) if word.quote_style.is_some() => false,
            Token::Word(word) if word.keyword == Keyword::OFFSET => {
                !matches!(next, Some(Token::Number(..) | Token::LParen))
            }
            Token::Word(word) if word.keyword == Keyword::PARTITION => {
                !matches!(next, Some(Token::Word(by)) if by.keyword == Keyword::BY)
            }
            _ => false,
        };
        if is_column && let Token::Word(word) = &mut tokens[at].token {
            word.value = word.value.to_lowercase();
            word.quote_style = Some('"');
            word.keyword = Keyword::NoKeyword;
        }
    }
}

/// The depth to which brackets and prefix operators nest. The parser has a limit, too, but it backtracks, and then
/// the error that it reports is another one.
fn deepest(tokens: &[TokenWithSpan]) -> usize {
    let (mut brackets, mut prefixes, mut most) = (0_usize, 0, 0);
    for token in tokens {
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => brackets += 1,
            Token::RParen | Token::RBracket | Token::RBrace => {
                brackets = brackets.saturating_sub(1);
            }
            Token::Whitespace(_) => {}
            Token::Plus | Token::Minus | Token::Tilde | Token::ExclamationMark => prefixes += 1,
            Token::Word(word) if word.keyword == Keyword::NOT => prefixes += 1,
            _ => prefixes = 0,
        }
        most = most.max(brackets + prefixes);
    }
    most
}

/// Whether a token can make the syntax tree one level deeper without a bracket.
fn deepens(token: &Token) -> bool {
    match token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::NOT
                | Keyword::XOR
                | Keyword::IS
                | Keyword::IN
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::SIMILAR
                | Keyword::RLIKE
                | Keyword::REGEXP
                | Keyword::BETWEEN
                | Keyword::DIV
                | Keyword::AT
                | Keyword::COLLATE
                | Keyword::UNION
                | Keyword::INTERSECT
                | Keyword::EXCEPT
                | Keyword::JOIN
        ),
        Token::Comma
        | Token::SemiColon
        | Token::LParen
        | Token::RParen
        | Token::Whitespace(_)
        | Token::Number(..)
        | Token::Period
        | Token::EOF => false,
        Token::SingleQuotedString(_) | Token::DoubleQuotedString(_) => false,
        Token::Char(_) | Token::RBracket | Token::RBrace => false,
        // Every other token counts as an operator.
        _ => true,
    }
}
