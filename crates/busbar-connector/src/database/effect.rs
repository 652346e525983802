//! What a statement may leave behind in the session that it runs on.
//!
//! A session of a pool goes from one user to the next, and what one of them sets there (a role, a schema, a variable, a
//! temporary table, a lock) would hold for the next. The statement is looked at word by word and knows no database's grammar, so
//! it errs to one side only: texts, comments and names are read like words, and what is not known to leave nothing may leave
//! something. Triggers, defaults, views and operators are taken to leave nothing.

use super::SqlStatement;

/// What a statement may leave behind in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionEffect {
    /// Nothing: it reads or changes rows, and calls no function.
    Nothing,
    /// What the functions or the procedure leave that it calls.
    OfRoutines,
    /// Anything.
    Any,
}

/// A word of a statement, or a byte that belongs to none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TextToken<'a> {
    Word(&'a str),
    Byte(u8),
}

/// Words that a statement about rows begins with.
const ABOUT_ROWS: [&str; 10] = [
    "SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "UPSERT", "VALUES", "WITH", "TABLE",
];
/// Words that run a procedure.
const CALLS: [&str; 3] = ["CALL", "EXEC", "EXECUTE"];
/// Words that begin another statement, which SQL Server takes without a semicolon before it.
const BEGIN_OTHERS: [&str; 17] = [
    "ALTER",
    "BEGIN",
    "COMMIT",
    "CREATE",
    "DEALLOCATE",
    "DECLARE",
    "DROP",
    "EXEC",
    "EXECUTE",
    "GRANT",
    "IMMEDIATE",
    "OPEN",
    "REVERT",
    "REVOKE",
    "ROLLBACK",
    "SETUSER",
    "USE",
];
/// Words that `INTO` follows where it names the table that rows are written to.
const WRITE_INTO: [&str; 5] = ["INSERT", "MERGE", "REPLACE", "UPSERT", "IGNORE"];
/// Words that a parenthesis follows without a call, and functions of the standard.
const OPEN_PARENTHESIS: [&str; 50] = [
    "ALL",
    "AND",
    "ANY",
    "ARRAY",
    "AS",
    "AVG",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "CHAR",
    "COALESCE",
    "CONFLICT",
    "COUNT",
    "DECIMAL",
    "DISTINCT",
    "ELSE",
    "EXCEPT",
    "EXISTS",
    "FILTER",
    "FROM",
    "HAVING",
    "IN",
    "INTERSECT",
    "JOIN",
    "LATERAL",
    "LIKE",
    "LIMIT",
    "LOWER",
    "MATERIALIZED",
    "MAX",
    "MIN",
    "NOT",
    "NULLIF",
    "NUMERIC",
    "ON",
    "OR",
    "OVER",
    "SELECT",
    "SOME",
    "SUM",
    "THEN",
    "TOP",
    "UNION",
    "UPPER",
    "USING",
    "VALUES",
    "VARCHAR",
    "WHEN",
    "WHERE",
];

impl SqlStatement {
    /// What it may leave behind in its session. What only reads was made by Busbar, and leaves nothing.
    pub fn effect(&self) -> SessionEffect {
        match self.reads {
            true => SessionEffect::Nothing,
            // A value is no part of the text, whatever it is.
            false => effect(&self.written(|_, _| " ? ".to_owned())),
        }
    }
}

fn effect(sql: &str) -> SessionEffect {
    let all = tokens(sql.trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace()));
    // `{ ? = call f() }`, or a SELECT in parentheses.
    let before =
        |token: &&TextToken<'_>| matches!(token, TextToken::Byte(b'(' | b'{' | b'?' | b'='));
    let first = all.iter().take_while(before).count();
    let (mut effect, takes_parameters) = match all.get(first) {
        Some(token) if token.is_one_of(&ABOUT_ROWS) => (SessionEffect::Nothing, false),
        // Named parameters of SQL Server; elsewhere `@` is a variable of the session.
        Some(token) if token.is_one_of(&CALLS) => {
            (SessionEffect::OfRoutines, !token.is_one_of(&["CALL"]))
        }
        _ => return SessionEffect::Any,
    };
    // Where the columns behind a table's name begin.
    let mut columns_at = None;
    for at in first..all.len() {
        let before = at.checked_sub(1).map(|before| all[before]);
        match all[at] {
            TextToken::Byte(b';') => return SessionEffect::Any,
            TextToken::Byte(b'@') if !takes_parameters => return SessionEffect::Any,
            TextToken::Byte(b'(') if columns_at == Some(at) => {}
            TextToken::Byte(b'(') => {
                let is_call = match before {
                    Some(TextToken::Byte(byte)) => matches!(byte, b'"' | b'`' | b']'),
                    Some(word) => !word.is_one_of(&OPEN_PARENTHESIS),
                    None => false,
                };
                if is_call {
                    effect = effect.max(SessionEffect::OfRoutines);
                }
            }
            // A comment, which may stand between a name and its parenthesis.
            TextToken::Byte(b'#') => effect = effect.max(SessionEffect::OfRoutines),
            TextToken::Byte(byte @ (b'-' | b'*'))
                if before == Some(TextToken::Byte(if byte == b'*' { b'/' } else { b'-' })) =>
            {
                effect = effect.max(SessionEffect::OfRoutines);
            }
            // Of a variable it is another statement: `SET LANGUAGE German`.
            token
                if token.is_one_of(&["SET"])
                    && all.get(behind_name(&all, at + 1)) != Some(&TextToken::Byte(b'=')) =>
            {
                return SessionEffect::Any;
            }
            token if token.is_one_of(&["INTO"]) => {
                // Elsewhere it makes a table, or assigns variables.
                if !before.is_some_and(|before| before.is_one_of(&WRITE_INTO)) {
                    return SessionEffect::Any;
                }
                columns_at = Some(behind_name(&all, at + 1));
            }
            // EXECUTE AS changes who the session is.
            token if token.is_one_of(&["AS"]) && before.is_some_and(|b| b.is_one_of(&CALLS)) => {
                return SessionEffect::Any;
            }
            token if at > first && token.is_one_of(&BEGIN_OTHERS) => return SessionEffect::Any,
            _ => {}
        }
    }
    effect
}

/// The place behind a name with its points; that of what stands there instead of a name.
fn behind_name(all: &[TextToken<'_>], mut at: usize) -> usize {
    loop {
        at = match all.get(at) {
            Some(TextToken::Word(_)) => at + 1,
            Some(TextToken::Byte(open @ (b'"' | b'`' | b'['))) => {
                let close = if *open == b'[' { b']' } else { *open };
                let inside = all[at + 1..].iter();
                let inside = inside.take_while(|token| **token != TextToken::Byte(close));
                at + inside.count() + 2
            }
            _ => return at,
        };
        if all.get(at) != Some(&TextToken::Byte(b'.')) {
            return at;
        }
        at += 1;
    }
}

fn tokens(sql: &str) -> Vec<TextToken<'_>> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..);
    let bytes = sql.as_bytes();
    let (mut all, mut at) = (Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        let length = bytes[at..]
            .iter()
            .take_while(|byte| is_word(**byte))
            .count();
        match length {
            0 if byte.is_ascii_whitespace() => {}
            0 => all.push(TextToken::Byte(*byte)),
            // All bytes of a character beyond ASCII belong to the word.
            _ => all.push(TextToken::Word(&sql[at..at + length])),
        }
        at += length.max(1);
    }
    all
}

impl TextToken<'_> {
    fn is_one_of(&self, words: &[&str]) -> bool {
        match self {
            TextToken::Word(word) => words.iter().any(|known| known.eq_ignore_ascii_case(word)),
            TextToken::Byte(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SqlPart, SqlValue};
    use super::*;

    #[test]
    fn what_a_statement_may_leave_is_never_less_than_it_leaves() {
        use SessionEffect::{Any, Nothing, OfRoutines};
        for (sql, expected) in [
            ("select a, b from t where c = ? and d in (?, ?)", Nothing),
            ("(select count(*) from t) union (select 2);", Nothing),
            ("insert into s.t (a, b) values (?, ?)", Nothing),
            ("INSERT INTO `s`.\"t\" (a) SELECT (1)", Nothing),
            ("insert into [my table] ([a]) values (?)", Nothing),
            (
                "update t set a = ?, [b c] = 2 where coalesce(d, 1) > 0",
                Nothing,
            ),
            ("delete from t where exists (select 1 from u)", Nothing),
            ("with x as (select 1 as n) select n from x;\n", Nothing),
            ("select a from t for update", Nothing),
            // Functions and procedures.
            ("select set_config('search_path', ?, false)", OfRoutines),
            ("select get_lock('a', 0)", OfRoutines),
            ("select \"f\" (1)", OfRoutines),
            ("select f /* in */ (1)", OfRoutines),
            ("select f -- in\n(1)", OfRoutines),
            ("select f # in\n(1)", OfRoutines),
            ("insert into t select f (1)", OfRoutines),
            ("call p(?)", OfRoutines),
            ("{ ? = call f(?) }", OfRoutines),
            ("exec dbo.p @id = ?", OfRoutines),
            // Everything else.
            ("", Any),
            ("set search_path = x", Any),
            ("SET ROLE admin", Any),
            ("use his", Any),
            ("-- a\nselect 1", Any),
            ("create temporary table t (a int)", Any),
            ("select * into #t from u", Any),
            ("select a into temp t from u", Any),
            ("select @a := 1", Any),
            ("select a from t into @a", Any),
            ("call p(@a)", Any),
            ("select 1; set a = 1", Any),
            ("select 1 set language German", Any),
            ("update statistics t set dateformat dmy", Any),
            ("update t set a = 1 set rowcount 5", Any),
            ("delete t use master", Any),
            ("select 1 exec p", Any),
            ("execute as user = 'x'", Any),
            ("exec p 1 declare c cursor for select 1", Any),
            ("lock tables t write", Any),
            ("alter session set nls_language = 'GERMAN'", Any),
            ("begin p(?); end;", Any),
            ("select 'insert' into x from t", Any),
            ("do $$ begin end $$", Any),
        ] {
            assert_eq!(effect(sql), expected, "{sql}");
        }
    }

    #[test]
    fn values_are_no_part_of_the_text() {
        let mut statement = SqlStatement {
            parts: vec![
                SqlPart::Text("select a from t where b = ".into()),
                SqlPart::Value(SqlValue::Text("; set role x".into()), None),
            ],
            ..SqlStatement::default()
        };
        assert_eq!(statement.effect(), SessionEffect::Nothing);
        statement.parts[0] = SqlPart::Text("set role ".into());
        assert_eq!(statement.effect(), SessionEffect::Any);
        // Busbar's own.
        statement.reads = true;
        assert_eq!(statement.effect(), SessionEffect::Nothing);
    }
}
