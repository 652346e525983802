//! Failures by class, with what mends each.

use busbar_event::{Class, Error};

use super::wire::ThriftFault;
use crate::reason::reason;

/// What the server says, as people see it.
pub fn told(fault: ThriftFault, address: &str, table: &str) -> Error {
    let new = |class, code| Error::new(class, code).with("address", address);
    let (said, can_retry) = match fault {
        ThriftFault::Io(said, can_retry) => (said, can_retry),
        ThriftFault::Application(said) => {
            let error = new(Class::Configuration, "hbase.other-service");
            return error.with("said", first_line(&said));
        }
        ThriftFault::Strange => return new(Class::Transient, "hbase.strange"),
    };
    let has = |word: &str| said.contains(word);
    let (class, code) = match () {
        () if has("NoSuchColumnFamily") => (Class::Configuration, "hbase.no-family"),
        () if has("NamespaceNotFound") => (Class::Configuration, "hbase.no-namespace"),
        () if has("TableNotFound") || is_name(&said, table) => {
            (Class::Configuration, "hbase.no-table")
        }
        () if has("TableNotEnabled") || has("is disabled") => {
            (Class::Configuration, "hbase.disabled")
        }
        () if has("AccessDenied") => (Class::Configuration, "hbase.rights"),
        () if has("size too large") || has("exceeds limit") || has("exceeds configured") => {
            (Class::Permanent, "hbase.value")
        }
        () if can_retry => (Class::Transient, "hbase.for-now"),
        () => (Class::Configuration, "hbase.refused"),
    };
    new(class, code)
        .with("table", table)
        .with("said", first_line(&said))
}

/// HBase names a table that it does not have, and says nothing else.
fn is_name(said: &str, table: &str) -> bool {
    let said = said.lines().next().unwrap_or_default();
    let said = said.trim().trim_matches('\'');
    said == table || said.strip_prefix("default:") == Some(table)
}

/// Java puts whole stacks into what the server says.
fn first_line(said: &str) -> String {
    reason(said.lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_class() {
        use Class::{Configuration, Permanent, Transient};
        for (said, can_retry, class, code) in [
            ("t", false, Configuration, "hbase.no-table"),
            (
                "org.apache.hadoop.hbase.TableNotFoundException: t",
                false,
                Configuration,
                "hbase.no-table",
            ),
            (
                "Failed 1 action: NoSuchColumnFamilyException: 1 time",
                true,
                Configuration,
                "hbase.no-family",
            ),
            ("t is disabled.", false, Configuration, "hbase.disabled"),
            (
                "org.apache.hadoop.hbase.security.AccessDeniedException: Insufficient permissions",
                false,
                Configuration,
                "hbase.rights",
            ),
            ("KeyValue size too large", false, Permanent, "hbase.value"),
            ("Call to localhost failed", true, Transient, "hbase.for-now"),
            ("no such thing", false, Configuration, "hbase.refused"),
        ] {
            let fault = ThriftFault::Io(format!("{said}\n\tat java"), can_retry);
            let error = told(fault, "a:9090", "t");
            assert_eq!((error.class(), error.code()), (class, code), "{said}");
            assert!(!error.args().iter().any(|(_, value)| value.contains("java")));
        }
    }
}
