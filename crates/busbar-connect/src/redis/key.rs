//! Keys that are made of columns: `patient:${id}`.

use std::borrow::Cow;

use busbar_catalog::{Template, TemplatePart};

/// How the keys of rows are made of columns, and what columns a key was made of.
#[derive(Clone, Debug)]
pub struct RedisKey {
    parts: Vec<RedisKeyPart>,
    /// Whether colons in values are escaped, so that different values make different keys.
    is_escaped: bool,
}

/// A part of a key.
#[derive(Clone, Debug)]
pub enum RedisKeyPart {
    /// A text that all keys have there.
    Literal(Vec<u8>),
    /// The name of a column.
    Column(String),
}

impl RedisKey {
    pub fn new(template: &Template) -> RedisKey {
        let part = |part: &TemplatePart| match part {
            TemplatePart::Literal(text) => RedisKeyPart::Literal(text.clone().into_bytes()),
            TemplatePart::Variable { variable, .. } => {
                RedisKeyPart::Column(variable.name().into_owned())
            }
        };
        RedisKey {
            parts: template.parts().iter().map(part).collect(),
            is_escaped: false,
        }
    }

    /// The keys of a table's rows: a text and the columns of the table's key, with a colon before each. In values `%` and `:`
    /// are written as `%25` and `%3A`.
    pub fn of_table<'a>(prefix: &str, columns: impl Iterator<Item = &'a str>) -> RedisKey {
        let mut parts = vec![RedisKeyPart::Literal(prefix.as_bytes().to_vec())];
        for column in columns {
            parts.push(RedisKeyPart::Literal(b":".to_vec()));
            parts.push(RedisKeyPart::Column(column.to_owned()));
        }
        RedisKey {
            parts,
            is_escaped: true,
        }
    }

    /// Names of its columns, in its order.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            RedisKeyPart::Literal(_) => None,
            RedisKeyPart::Column(name) => Some(name.as_str()),
        })
    }

    /// Whether it begins with a text, so that there are other keys.
    pub fn begins_with_text(&self) -> bool {
        matches!(self.parts.first(), Some(RedisKeyPart::Literal(_)))
    }

    /// Whether two columns stand beside each other, so that a key does not say where one ends.
    pub fn is_ambiguous(&self) -> bool {
        let column = |part: &RedisKeyPart| matches!(part, RedisKeyPart::Column(_));
        self.parts
            .windows(2)
            .any(|pair| column(&pair[0]) && column(&pair[1]))
    }

    /// All keys that there can be, as the server's own pattern.
    pub fn pattern(&self) -> String {
        let mut pattern = String::new();
        for part in &self.parts {
            match part {
                RedisKeyPart::Column(_) => pattern.push('*'),
                RedisKeyPart::Literal(text) => {
                    for c in String::from_utf8_lossy(text).chars() {
                        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
                            pattern.push('\\');
                        }
                        pattern.push(c);
                    }
                }
            }
        }
        pattern
    }

    /// The key of a row, given the texts of its columns in the order of [`RedisKey::columns`].
    ///
    /// # Errors
    /// The column that has no value.
    pub fn of<'a>(
        &self,
        mut values: impl Iterator<Item = Option<Cow<'a, [u8]>>>,
    ) -> Result<Vec<u8>, &str> {
        let mut key = Vec::new();
        for part in &self.parts {
            match part {
                RedisKeyPart::Literal(text) => key.extend_from_slice(text),
                RedisKeyPart::Column(name) => match values.next().flatten() {
                    Some(value) if self.is_escaped => escape(&value, &mut key),
                    Some(value) => key.extend_from_slice(&value),
                    None => return Err(name),
                },
            }
        }
        Ok(key)
    }

    /// The texts of the columns that a key was made of; none if it was made otherwise. A column ends where the text behind it
    /// is found first.
    pub fn read<'a>(&self, key: &'a [u8]) -> Option<Vec<&'a [u8]>> {
        let (mut rest, mut values) = (key, Vec::new());
        let mut parts = self.parts.iter().peekable();
        while let Some(part) = parts.next() {
            match (part, parts.peek()) {
                (RedisKeyPart::Literal(text), _) => rest = rest.strip_prefix(&text[..])?,
                (RedisKeyPart::Column(_), None) => {
                    values.push(rest);
                    rest = &[];
                }
                (RedisKeyPart::Column(_), Some(RedisKeyPart::Literal(end))) => {
                    let at = memchr::memmem::find(rest, end)?;
                    values.push(&rest[..at]);
                    rest = &rest[at..];
                }
                (RedisKeyPart::Column(_), Some(RedisKeyPart::Column(_))) => return None,
            }
        }
        rest.is_empty().then_some(values)
    }
}

fn escape(value: &[u8], key: &mut Vec<u8>) {
    for byte in value {
        match byte {
            b'%' => key.extend_from_slice(b"%25"),
            b':' => key.extend_from_slice(b"%3A"),
            _ => key.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> RedisKey {
        RedisKey::new(&Template::parse(text).unwrap())
    }

    #[test]
    fn a_key_is_read_as_it_was_made() {
        let site = key("p:${site}:${id}");
        assert_eq!(site.columns().collect::<Vec<_>>(), ["site", "id"]);
        let texts = [&b"n"[..], b"a:b"].map(|text| Some(Cow::Borrowed(text)));
        let made = site.of(texts.into_iter()).unwrap();
        assert_eq!(made, b"p:n:a:b");
        assert_eq!(site.read(&made), Some(vec![&b"n"[..], b"a:b"]));
        assert_eq!(site.read(b"q:n:1"), None);
        assert_eq!(site.read(b"p:n"), None);
        assert_eq!(key("p:${id}:x").read(b"p:1:x:x"), None);
        assert_eq!(site.of([None].into_iter()), Err("site"));
        assert_eq!(key("p[${id}]").pattern(), "p\\[*\\]");
        assert!(key("${a}${b}").is_ambiguous() && !site.is_ambiguous());
    }

    #[test]
    fn rows_of_a_table_have_different_keys() {
        let table = RedisKey::of_table("plant:runs", ["a", "b"].into_iter());
        let made = |a: &'static str, b: &'static str| {
            let texts = [a, b].map(|text| Some(Cow::Borrowed(text.as_bytes())));
            String::from_utf8(table.of(texts.into_iter()).unwrap()).unwrap()
        };
        assert_eq!(made("x", "1"), "plant:runs:x:1");
        assert_eq!(made("a:b", "c%"), "plant:runs:a%3Ab:c%25");
        assert_ne!(made("a:b", "c"), made("a", "b:c"));
        assert_ne!(made("a%3A", "c"), made("a:", "c"));
    }
}
