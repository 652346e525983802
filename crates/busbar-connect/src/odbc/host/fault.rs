//! What went wrong: its kind, and what the driver says.

use serde::Serialize;

use crate::driver::codes;
use crate::driver::limits::SAID_CHARS_MAX;

/// A failure, as the node is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OdbcFault {
    /// `credentials`, `table`, `value`, ….
    pub kind: &'static str,
    /// `transient`, `permanent` or `configuration`.
    class: &'static str,
    /// The SQLSTATE; empty without one.
    pub state: String,
    /// The database's own number.
    pub code: i32,
    /// The words of the driver.
    pub said: String,
}

/// One record of a driver's diagnostics.
#[derive(Clone, Debug)]
pub struct OdbcDiagnostic {
    pub state: String,
    pub code: i32,
    pub said: String,
}

impl OdbcFault {
    /// A failure of a kind, in words.
    pub fn new(kind: &'static str, said: impl Into<String>) -> OdbcFault {
        let mut said: String = said.into();
        if let Some((end, _)) = said.char_indices().nth(SAID_CHARS_MAX) {
            said.truncate(end);
        }
        OdbcFault {
            kind,
            class: class_of(kind),
            state: String::new(),
            code: 0,
            said,
        }
    }

    /// The failure that diagnostics are about: the first record that says something.
    pub fn of(records: &[OdbcDiagnostic], product: &str) -> OdbcFault {
        let of = |record: &OdbcDiagnostic, kind| OdbcFault {
            state: record.state.clone(),
            code: record.code,
            ..OdbcFault::new(kind, plain(&record.said))
        };
        let mut known = records.iter();
        let known = known.find_map(|record| Some(of(record, kind(record, product)?)));
        let first = || records.first().map(|record| of(record, "refused"));
        known
            .or_else(first)
            .unwrap_or_else(|| OdbcFault::new("refused", "-"))
    }

    /// Whether only the rows at hand are at fault.
    pub fn is_about_rows(&self) -> bool {
        self.class == "permanent"
    }
}

fn class_of(kind: &str) -> &'static str {
    match kind {
        "value" => "permanent",
        "for-now" | "unreachable" | "timeout" => "transient",
        _ => "configuration",
    }
}

/// The words without the names of the manager and the driver before them: `[unixODBC][Driver]no such table`.
fn plain(said: &str) -> &str {
    let mut rest = said.trim();
    while let Some((_, behind)) = rest
        .strip_prefix('[')
        .and_then(|inner| inner.split_once(']'))
    {
        rest = behind.trim_start();
    }
    match rest.is_empty() {
        true => said,
        false => rest,
    }
}

fn kind(record: &OdbcDiagnostic, product: &str) -> Option<&'static str> {
    if record.code != 0
        && let Some(known) = codes::kind(product, record.code)
    {
        return Some(known);
    }
    let said = record.said.as_str();
    // PostgreSQL's driver has one state for all that happens before there is a session.
    if said.contains("password authentication failed") || said.contains("no password supplied") {
        return Some("credentials");
    }
    // It says so without a state of its own, too.
    if record.state == "HY000" && said.contains("connection has been lost") {
        return Some("unreachable");
    }
    if record.state == "08001" && said.contains("does not exist") {
        return Some("refused");
    }
    Some(match record.state.as_str() {
        "IM002" | "IM003" | "IM004" | "IM005" | "IM006" => "driver",
        "01000" | "HY000" if said.contains("Can't open lib") => "driver",
        "42P01" | "42S02" | "S0002" | "42704" => "table",
        "42703" | "42S22" | "S0022" => "column",
        "42501" => "rights",
        "42P10" => "key",
        "44000" | "P0001" | "45000" => "value",
        "25006" | "55P03" | "HYT00" | "HYT01" | "S1T00" | "HY008" | "HY001" => "for-now",
        "08001" | "08004" => "unreachable",
        "01S00" | "01004" => return None,
        state => match state.get(..2)? {
            "21" | "22" | "23" | "38" => "value",
            "28" => "credentials",
            "08" | "40" | "53" | "57" => "for-now",
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(state: &str, code: i32, said: &str, product: &str) -> OdbcFault {
        let record = OdbcDiagnostic {
            state: state.into(),
            code,
            said: said.into(),
        };
        OdbcFault::of(&[record], product)
    }

    #[test]
    fn failures_have_a_class() {
        for (state, code, said, product, kind, class) in [
            (
                "IM002",
                0,
                "[unixODBC][Driver Manager]Data source name not found",
                "",
                "driver",
                "configuration",
            ),
            (
                "01000",
                0,
                "[unixODBC][Driver Manager]Can't open lib 'x.so'",
                "",
                "driver",
                "configuration",
            ),
            (
                "23505",
                1,
                "duplicate key",
                "postgres",
                "value",
                "permanent",
            ),
            (
                "HY000",
                1205,
                "Lock wait timeout",
                "mysql",
                "for-now",
                "transient",
            ),
            (
                "HY000",
                1406,
                "Data too long",
                "mysql",
                "value",
                "permanent",
            ),
            ("HY000", 1406, "other", "sybase", "refused", "configuration"),
            ("08001", 0, "refused", "", "unreachable", "transient"),
            ("08S01", 0, "gone", "", "for-now", "transient"),
            (
                "28000",
                1045,
                "Access denied",
                "mysql",
                "credentials",
                "configuration",
            ),
            (
                "HY000",
                19,
                "constraint failed",
                "sqlite",
                "value",
                "permanent",
            ),
            (
                "HY000",
                5,
                "database is locked",
                "sqlite",
                "for-now",
                "transient",
            ),
            (
                "HY000",
                1,
                "The connection has been lost",
                "postgres",
                "unreachable",
                "transient",
            ),
            ("x", 0, "", "", "refused", "configuration"),
        ] {
            let fault = of(state, code, said, product);
            assert_eq!(
                (fault.kind, fault.class),
                (kind, class),
                "{state} {code} {said}"
            );
        }
        assert_eq!(OdbcFault::of(&[], "").kind, "refused");
    }

    #[test]
    fn words_are_without_the_drivers_names_and_bounded() {
        assert_eq!(
            of("x", 0, "[unixODBC][Driver] no [such] table", "").said,
            "no [such] table"
        );
        assert_eq!(of("x", 0, "[only]", "").said, "[only]");
        let long = OdbcFault::new("value", "雨".repeat(SAID_CHARS_MAX * 2));
        assert_eq!(long.said.chars().count(), SAID_CHARS_MAX);
    }
}
