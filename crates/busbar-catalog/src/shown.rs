//! What of a file is printed: all but the secrets that are written in it.

/// Keys whose values are secrets end with one of these.
const SECRET_KEYS: [&str; 9] = [
    "password",
    "passphrase",
    "secret",
    "token",
    "api_key",
    "api-key",
    "secret_key",
    "secret_access_key",
    "authorization",
];

/// The text of a YAML file with `*` for each byte of a secret, so that places in it stay where they are.
pub(crate) fn without_secrets(text: &str) -> String {
    let mut shown = text.as_bytes().to_vec();
    let mut from = 0;
    let mut open: Option<UnclosedSecret> = None;
    for line in text.split_inclusive('\n') {
        let content = line.trim();
        let indent = line.len() - line.trim_start().len();
        if let Some(value) = open
            && !content.is_empty()
        {
            if value.goes_on(indent, content) {
                shown[from + indent..from + indent + content.len()].fill(b'*');
                from += line.len();
                continue;
            }
            open = None;
        }
        for (colon, _) in line.match_indices(':') {
            if let Some(column) = secret_key(&line[..colon]) {
                let (begin, end) = value(line, colon);
                shown[from + begin..from + end].fill(b'*');
                open = UnclosedSecret::of(column, line[begin..].trim());
            }
        }
        from += line.len();
    }
    // Whole values are replaced, whose ends are those of characters.
    String::from_utf8(shown).unwrap_or_default()
}

/// A secret whose value may go on in the lines behind it.
#[derive(Clone, Copy)]
struct UnclosedSecret {
    /// The column of its key: lines of the value are indented deeper.
    column: usize,
    /// Whatever these lines hold is the secret: they are a block or within quotes.
    is_text: bool,
}

impl UnclosedSecret {
    /// The value of the key at `column` whose first line is `begun`; none if it ends in this line.
    fn of(column: usize, begun: &str) -> Option<UnclosedSecret> {
        let is_text = match begun.chars().next() {
            Some('{' | '[') => return None,
            Some('"' | '\'') if closing(begun).is_some() => return None,
            Some('"' | '\'') => true,
            // An anchor or a tag may stand before it.
            _ => begun
                .split_whitespace()
                .any(|word| word.starts_with(['|', '>'])),
        };
        Some(UnclosedSecret { column, is_text })
    }

    fn goes_on(self, indent: usize, content: &str) -> bool {
        let word = content.split_whitespace().next().unwrap_or_default();
        let is_mapping = word.ends_with(':') || content.starts_with(['{', '[']);
        indent > self.column && (self.is_text || !is_mapping)
    }
}

/// The column where the key of a secret begins that the text ends with.
fn secret_key(before: &str) -> Option<usize> {
    let is_quote = ['"', '\''];
    let key = before.trim_end().trim_end_matches(is_quote);
    let is_of_key = |char: char| char.is_alphanumeric() || matches!(char, '_' | '-');
    let around = key.trim_end_matches(is_of_key);
    let name = key[around.len()..].to_ascii_lowercase();
    let is_secret = SECRET_KEYS.iter().any(|secret| name.ends_with(secret));
    is_secret.then(|| around.trim_end_matches(is_quote).len())
}

/// The place of the value behind the colon: nothing where a mapping or a block of lines follows.
fn value(line: &str, colon: usize) -> (usize, usize) {
    let rest = &line[colon + 1..];
    let begin = colon + 1 + (rest.len() - rest.trim_start().len());
    let rest = &line[begin..];
    let first = rest.chars().next().unwrap_or('\n');
    let length = match first {
        '{' | '[' | '|' | '>' => 0,
        '"' | '\'' => closing(rest).unwrap_or(rest.len()),
        // Within braces a plain value ends with a comma; elsewhere the comma is a part of it.
        _ if line[..colon].contains('{') => rest.find([',', '}']).unwrap_or(rest.len()),
        _ => rest.len(),
    };
    let length = rest[..length].trim_end().len();
    (begin, begin + length)
}

/// Where a text in quotes ends, behind the closing one; none where it goes on in the next line.
fn closing(quoted: &str) -> Option<usize> {
    let mut chars = quoted.char_indices().peekable();
    let (_, quote) = chars.next()?;
    while let Some((at, char)) = chars.next() {
        if char == '\\' && quote == '"' {
            chars.next();
        } else if char == quote {
            // Within single quotes two of them stand for one.
            let is_doubled = quote == '\'' && chars.next_if(|(_, next)| *next == quote).is_some();
            if !is_doubled {
                return Some(at + 1);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown_and_all_else_is() {
        for (text, shown) in [
            (
                "user: a\npassword: hunter2, x\n",
                "user: a\npassword: **********\n",
            ),
            (
                "pg: { password: hunter2, user: a }",
                "pg: { password: *******, user: a }",
            ),
            (
                "{ \"token\" : 'a, b', x: 1 }",
                "{ \"token\" : ******, x: 1 }",
            ),
            ("sasl_password: 密码\n", "sasl_password: ******\n"),
            (
                "headers: { Authorization: Bearer abc }",
                "headers: { Authorization: ********** }",
            ),
            ("password: { env: PG }\n", "password: { env: PG }\n"),
            ("password:\n  env: PG\n", "password:\n  env: PG\n"),
            (
                "password_file_note: x\ntokens: 5\n",
                "password_file_note: x\ntokens: 5\n",
            ),
            ("password: 'open", "password: *****"),
            ("password: 'it''s'\n", "password: *******\n"),
            ("password: \"a\\\"b\"\n", "password: ******\n"),
            (
                "password: |\n  a: b\n\n  c\nuser: a\n",
                "password: |\n  ****\n\n  *\nuser: a\n",
            ),
            (
                "- password: >-\n    a\n  user: b\n",
                "- password: >-\n    *\n  user: b\n",
            ),
            (
                "password:\n  hunter2\nuser: a\n",
                "password:\n  *******\nuser: a\n",
            ),
            (
                "password: 'a\n  b: c'\nuser: a\n",
                "password: **\n  *****\nuser: a\n",
            ),
            // Characters of several bytes before a colon.
            (
                "# 连接（生产）: x\n# 说明，token: 密\n",
                "# 连接（生产）: x\n# 说明，token: ***\n",
            ),
        ] {
            assert_eq!(without_secrets(text), shown, "{text}");
        }
    }
}
