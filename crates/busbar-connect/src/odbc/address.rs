//! Connection strings: `Driver=PostgreSQL Unicode;Server=db.example;Database=his`.

/// The keywords of a connection string with their values; none where it is none.
pub fn read(text: &str) -> Option<Vec<(String, String)>> {
    let mut all = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (keyword, behind) = rest.split_once('=')?;
        let keyword = keyword.trim();
        if keyword.is_empty() || keyword.contains([';', '{', '}']) {
            return None;
        }
        let behind = behind.trim_start();
        let (value, next) = match behind.strip_prefix('{') {
            None => {
                let (value, next) = behind.split_once(';').unwrap_or((behind, ""));
                (value.trim().to_owned(), next)
            }
            Some(braced) => {
                // A brace within is written twice.
                let mut value = String::new();
                let mut left = braced;
                let next = loop {
                    let (part, behind) = left.split_once('}')?;
                    value.push_str(part);
                    match behind.strip_prefix('}') {
                        Some(behind) => {
                            value.push('}');
                            left = behind;
                        }
                        None => break behind.trim_start(),
                    }
                };
                let next = match next.is_empty() {
                    true => next,
                    false => next.strip_prefix(';')?,
                };
                (value, next)
            }
        };
        all.push((keyword.to_owned(), value));
        rest = next.trim_start();
    }
    Some(all)
}

/// Appends a keyword and its value.
pub fn write(keyword: &str, value: &str, out: &mut String) {
    if !out.is_empty() && !out.ends_with(';') {
        out.push(';');
    }
    let special = value.contains([
        '{', '}', '[', ']', '(', ')', ',', ';', '?', '*', '=', '!', '@',
    ]);
    let is_plain = !special && value.trim() == value;
    out.push_str(keyword);
    out.push('=');
    match is_plain {
        true => out.push_str(value),
        false => {
            out.push('{');
            out.push_str(&value.replace('}', "}}"));
            out.push('}');
        }
    }
}

/// What the database is called, by the driver's name; none where that does not say.
pub fn product(driver: &str) -> Option<&'static str> {
    let small = driver.to_lowercase();
    let known = [
        ("postgres", "postgres"),
        ("psqlodbc", "postgres"),
        ("kingbase", "postgres"),
        ("mysql", "mysql"),
        ("mariadb", "mysql"),
        ("maodbc", "mysql"),
        ("myodbc", "mysql"),
        ("sqlite", "sqlite"),
        ("sql server", "microsoft"),
        ("msodbcsql", "microsoft"),
        ("oracle", "oracle"),
        ("sqora", "oracle"),
        ("db2", "db2"),
        ("dm8 odbc", "dm"),
        ("dameng", "dm"),
    ];
    let found = known.iter().find(|(part, _)| small.contains(part));
    found.map(|(_, product)| *product)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Option<String> {
        let read = read(text)?;
        let pairs = read
            .iter()
            .map(|(keyword, value)| format!("{keyword}|{value}"));
        Some(pairs.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn connection_strings_are_read_as_drivers_read_them() {
        for (text, expected) in [
            ("DSN=his", Some("DSN|his")),
            (
                "Driver={PostgreSQL Unicode};Server=a;",
                Some("Driver|PostgreSQL Unicode Server|a"),
            ),
            (
                " driver = x ; pwd = {a;b}}c} ; uid=",
                Some("driver|x pwd|a;b}c uid|"),
            ),
            ("his", None),
            ("=x", None),
            ("Driver={x", None),
            ("Driver={x}y;a=b", None),
            ("", Some("")),
        ] {
            assert_eq!(shown(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for value in ["plain", "a;b", "a}b{c", "{", " x ", "", "密码 ?=", "}}"] {
            let mut text = "DSN=x".to_owned();
            write("PWD", value, &mut text);
            let pairs = read(&text).expect("a connection string");
            assert_eq!(pairs[1], ("PWD".to_owned(), value.to_owned()), "{text}");
        }
    }
}
