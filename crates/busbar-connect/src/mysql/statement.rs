//! What a statement in the log means for the tables that are followed.

/// What a statement does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogStatement {
    /// A transaction begins.
    Begin,
    /// It ends, and its changes stay.
    Commit,
    /// It ends, and its changes do not stay.
    Rollback,
    /// A mark in a transaction, or the way back to one, whose changes are not in the log.
    Savepoint,
    /// These tables have no rows any more: database, where it is said, and name.
    Empties(Vec<(Option<String>, String)>),
    /// Anything else, such as the definition of a table.
    Other,
}

#[derive(Debug, PartialEq, Eq)]
enum SqlToken {
    /// A word as it stands in capitals.
    Word(String),
    /// A name in quotes.
    Name(String),
    Sign(char),
}

impl LogStatement {
    /// Reads the beginning of a statement.
    pub fn read(sql: &str) -> LogStatement {
        let mut tokens = SqlTokens { rest: sql };
        let Some(SqlToken::Word(first)) = tokens.next() else {
            return LogStatement::Other;
        };
        let mut words = tokens.clone().map_while(|token| match token {
            SqlToken::Word(word) => Some(word.to_ascii_uppercase()),
            _ => None,
        });
        match first.to_ascii_uppercase().as_str() {
            "BEGIN" | "START" => LogStatement::Begin,
            // What is prepared has an event of its own, and what becomes of it later, too.
            "XA" => match words.next().as_deref() {
                Some("START" | "BEGIN") => LogStatement::Begin,
                Some("END") => LogStatement::Savepoint,
                _ => LogStatement::Other,
            },
            "COMMIT" => LogStatement::Commit,
            "ROLLBACK" => match words.next() {
                None => LogStatement::Rollback,
                Some(_) => LogStatement::Savepoint,
            },
            "SAVEPOINT" | "RELEASE" => LogStatement::Savepoint,
            "TRUNCATE" => {
                if words.next().as_deref() == Some("TABLE") {
                    tokens.next();
                }
                LogStatement::Empties(names(tokens))
            }
            "DROP" if words.next().as_deref() == Some("TABLE") => {
                tokens.next();
                if words.next().as_deref() == Some("IF") {
                    tokens.nth(1);
                }
                LogStatement::Empties(names(tokens))
            }
            "CREATE" if words.by_ref().take(3).eq(["OR", "REPLACE", "TABLE"]) => {
                tokens.nth(2);
                LogStatement::Empties(names(tokens).into_iter().take(1).collect())
            }
            _ => LogStatement::Other,
        }
    }
}

/// Names of tables with commas between them.
fn names(mut tokens: SqlTokens<'_>) -> Vec<(Option<String>, String)> {
    let mut names = Vec::new();
    let name = |token| match token {
        Some(SqlToken::Word(name) | SqlToken::Name(name)) => Some(name),
        _ => None,
    };
    while let Some(first) = name(tokens.next()) {
        let mut next = tokens.next();
        let mut whole = (None, first);
        if next == Some(SqlToken::Sign('.')) {
            let Some(second) = name(tokens.next()) else {
                break;
            };
            whole = (Some(whole.1), second);
            next = tokens.next();
        }
        names.push(whole);
        if next != Some(SqlToken::Sign(',')) {
            break;
        }
    }
    names
}

#[derive(Clone)]
struct SqlTokens<'a> {
    rest: &'a str,
}

impl Iterator for SqlTokens<'_> {
    type Item = SqlToken;

    fn next(&mut self) -> Option<SqlToken> {
        loop {
            self.rest = self.rest.trim_start();
            let end = if self.rest.starts_with("/*") {
                self.rest.find("*/").map(|at| at + 2)
            } else if self.rest.starts_with("--") || self.rest.starts_with('#') {
                self.rest.find('\n')
            } else {
                break;
            };
            self.rest = &self.rest[end.unwrap_or(self.rest.len())..];
        }
        let first = self.rest.chars().next()?;
        if first == '`' || first == '"' {
            let (mut name, mut chars) =
                (String::new(), self.rest.char_indices().skip(1).peekable());
            while let Some((at, char)) = chars.next() {
                if char != first {
                    name.push(char);
                } else if chars.next_if(|(_, next)| *next == first).is_some() {
                    // Written twice, it is one of the name.
                    name.push(first);
                } else {
                    self.rest = &self.rest[at + 1..];
                    return Some(SqlToken::Name(name));
                }
            }
            self.rest = "";
            return None;
        }
        let is_word = |char: char| char.is_alphanumeric() || char == '_' || char == '$';
        let end = self
            .rest
            .find(|char| !is_word(char))
            .unwrap_or(self.rest.len());
        let length = end.max(first.len_utf8());
        let (token, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(match end {
            0 => SqlToken::Sign(first),
            _ => SqlToken::Word(token.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_mean_what_they_do_to_tables() {
        let empties = |names: &[(Option<&str>, &str)]| {
            let owned = |(schema, name): &(Option<&str>, &str)| {
                (schema.map(str::to_owned), (*name).to_owned())
            };
            LogStatement::Empties(names.iter().map(owned).collect())
        };
        for (sql, expected) in [
            ("BEGIN", LogStatement::Begin),
            ("start transaction", LogStatement::Begin),
            ("XA START X'62',X'',1", LogStatement::Begin),
            ("XA END X'62',X'',1", LogStatement::Savepoint),
            ("XA ROLLBACK X'62',X'',1", LogStatement::Other),
            ("COMMIT", LogStatement::Commit),
            ("ROLLBACK", LogStatement::Rollback),
            ("ROLLBACK TO `a`", LogStatement::Savepoint),
            ("ROLLBACK TO a", LogStatement::Savepoint),
            ("SAVEPOINT `a`", LogStatement::Savepoint),
            ("truncate t", empties(&[(None, "t")])),
            (
                "/* from the /x */ -- y\nTRUNCATE TABLE `a b`.`t``1`;",
                empties(&[(Some("a b"), "t`1")]),
            ),
            (
                "DROP TABLE IF EXISTS `t`,his.u /* generated by server */",
                empties(&[(None, "t"), (Some("his"), "u")]),
            ),
            ("DROP TABLE t", empties(&[(None, "t")])),
            ("DROP TEMPORARY TABLE t", LogStatement::Other),
            (
                "create or replace table 表 (id int)",
                empties(&[(None, "表")]),
            ),
            ("CREATE TABLE t (id int)", LogStatement::Other),
            ("ALTER TABLE t ADD x int", LogStatement::Other),
            ("truncate `t", empties(&[])),
            ("", LogStatement::Other),
            ("`", LogStatement::Other),
        ] {
            assert_eq!(LogStatement::read(sql), expected, "{sql}");
        }
    }
}
