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
    for line in text.split_inclusive('\n') {
        for (colon, _) in line.match_indices(':') {
            if names_a_secret(&line[..colon]) {
                let (begin, end) = value(line, colon);
                shown[from + begin..from + end].fill(b'*');
            }
        }
        from += line.len();
    }
    // Whole values are replaced, whose ends are those of characters.
    String::from_utf8(shown).unwrap_or_default()
}

/// Whether the text ends with a key of a secret.
fn names_a_secret(before: &str) -> bool {
    let key = before.trim_end().trim_end_matches(['"', '\'']);
    let begin = key.rfind(|char: char| !(char.is_alphanumeric() || matches!(char, '_' | '-')));
    let key = key[begin.map_or(0, |at| at + 1)..].to_ascii_lowercase();
    SECRET_KEYS.iter().any(|secret| key.ends_with(secret))
}

/// The place of the value behind the colon: nothing where a mapping or a block of lines follows.
fn value(line: &str, colon: usize) -> (usize, usize) {
    let rest = &line[colon + 1..];
    let begin = colon + 1 + (rest.len() - rest.trim_start().len());
    let rest = &line[begin..];
    let first = rest.chars().next().unwrap_or('\n');
    let length = match first {
        '{' | '[' | '|' | '>' => 0,
        '"' | '\'' => rest[1..].find(first).map_or(rest.len(), |end| end + 2),
        // Within braces a plain value ends with a comma; elsewhere the comma is a part of it.
        _ if line[..colon].contains('{') => rest.find([',', '}']).unwrap_or(rest.len()),
        _ => rest.len(),
    };
    let length = rest[..length].trim_end().len();
    (begin, begin + length)
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
        ] {
            assert_eq!(without_secrets(text), shown, "{text}");
        }
    }
}
