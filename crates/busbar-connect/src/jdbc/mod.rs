//! `jdbc`: any database with a JDBC driver. The rows of a query or the changes of tables come in; rows are written to a table.
//!
//! ```yaml
//! jdbc:
//!   driver: drivers/ojdbc11.jar
//!   url: "jdbc:oracle:thin:@//db.example:1521/HIS"
//!   user: busbar
//!   password: { env: HIS_PASSWORD }
//!   write: { table: patient, mode: upsert, key: [id] }      # a sink
//!   # poll: { tables: [{ table: patient, version: changed }] }   # a source
//! ```
//!
//! The drivers are loaded by a Java program, the worker, whose source is in `java`: it is compiled when it is first needed,
//! and speaks with the node over its input and output. One process serves all that use the connection.

mod java;

use std::collections::BTreeMap;
use std::path::Path;

use busbar_bus::Span;
use busbar_event::{Class, Error, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::change::Write;
use crate::driver::{
    self, Driven, DriverDialectName, DriverKind, DriverLogin, DriverUse, PollOptions, QueryOptions,
    codes, limits,
};
use crate::places::{PathRefused, Places};
use crate::secret::Secret;

/// The connector.
pub type Jdbc = Driven<JdbcKind>;

/// Which one it is.
pub struct JdbcKind;

/// Any database with a JDBC driver, whose jar the site provides. Java 11 or newer with its compiler has to be installed.
///
/// As a source with `poll`: at least once; the rows of tables whose version, a number or a time that grows with each
/// change, is new, in the order of version and key, so that none is skipped where several have the same version. Before
/// them comes what is in the tables (`read`). Each event has the row's columns and `change`: `read` or `upsert`. Rows that
/// are deleted are not seen. A row that is committed late, with a version that is behind, is found within `overlap`; after a
/// restart rows of the overlap come again.
///
/// As a source with `query`: at least once; the rows of a statement, run at intervals from the position of the last row.
///
/// Without either: steps look rows up in its tables (`join` with `table: NAME.schema.table`), `call` its statements, and SQL
/// reads its tables.
///
/// Whole numbers and finite floating-point numbers are numbers, bytes are hexadecimal digits, times are as in ISO 8601,
/// instants in UTC, and everything else is a text, decimal numbers too where they have digits behind the point or more than
/// 18 digits.
///
/// As a sink: exactly once. Each delivery is one transaction that also notes how far its producer has come, in the table
/// `busbar_position` of the same schema. A row that the database refuses becomes a dead letter (kept in `busbar_refused`
/// beside it until the next position) and the others of its delivery are written. Types are compared when the sink is
/// opened; where values would be rounded or cut, it is refused unless `lossy` is on.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The driver's jar, or several: inside the project's folder, or in one that `[files] allow` names.
    driver: Drivers,
    /// The driver's class. Not needed where the jar names it, as jars do since JDBC 4.
    class: Option<String>,
    /// The address, as the driver's manual says it: `jdbc:oracle:thin:@//db.example:1521/HIS`. Without a password.
    url: String,
    /// User name.
    #[serde(default)]
    user: String,
    /// Password: a text, `{ env: NAME }` or `{ file: PATH }`.
    password: Option<Secret>,
    /// Properties of the driver, each a text, `{ env: NAME }` or `{ file: PATH }`.
    #[serde(default)]
    properties: BTreeMap<String, Secret>,
    /// How the database writes SQL, where the driver's name for it says too little.
    dialect: Option<DriverDialectName>,
    /// Memory of the Java program for its objects.
    #[serde(default = "driver::memory")]
    memory: Size,
    /// Connections to the database at most. Each source and each partition of a sink takes one.
    #[serde(default = "driver::sessions")]
    sessions: usize,
    /// How long a statement may take.
    #[serde(default = "driver::half_a_minute")]
    timeout: Span,
    /// Tables whose changes come in; makes the connection a source.
    poll: Option<PollOptions>,
    /// A statement whose rows come in; makes the connection a source.
    query: Option<QueryOptions>,
    /// A table to write to; makes the connection a sink.
    write: Option<Write>,
}

/// One jar or several.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Drivers {
    /// A path.
    One(String),
    /// Paths.
    Several(Vec<String>),
}

impl Drivers {
    fn paths(&self) -> &[String] {
        match self {
            Drivers::One(path) => std::slice::from_ref(path),
            Drivers::Several(paths) => paths,
        }
    }
}

impl DriverKind for JdbcKind {
    type Options = Options;
    const KIND: &'static str = "jdbc";
    const ADDRESS: &'static str = "url";
    const DRIVER: &'static str = "driver";

    fn used(options: &Options) -> DriverUse {
        DriverUse {
            dialect: options.dialect,
            memory: options.memory,
            sessions: options.sessions,
            timeout: options.timeout,
            poll: options.poll.clone(),
            query: options.query.clone(),
            write: options.write.clone(),
        }
    }

    fn secrets(options: &Options) -> Vec<(&'static str, &Secret)> {
        let password = options.password.iter().map(|secret| ("password", secret));
        let properties = options.properties.values();
        password
            .chain(properties.map(|secret| ("properties", secret)))
            .collect()
    }

    fn fault(options: &Options, places: &Places) -> Option<(&'static str, Error)> {
        let wrong = |key, code| Some((key, Error::new(Class::Configuration, code)));
        let paths = options.driver.paths();
        if paths.is_empty() || paths.len() > limits::DRIVERS_MAX {
            return wrong("driver", "jdbc.no-driver");
        }
        if let Some(code) = paths.iter().find_map(|path| places.check(path).err()) {
            return wrong("driver", code);
        }
        if !options.url.starts_with("jdbc:") {
            return wrong("url", "jdbc.url");
        }
        match has_password(&options.url) {
            true => wrong("url", "jdbc.url-password"),
            false => None,
        }
    }

    fn login(options: &Options, project: &Path, places: &Places) -> Result<DriverLogin, Error> {
        let read = |secret: &Secret| secret.read(project, places);
        let drivers = options.driver.paths().iter().map(|driver| {
            let found = places.resolve(project, &project.join(driver));
            found.map_err(|refused| match refused {
                PathRefused::Outside(error) => error,
                PathRefused::Io(why) => Error::new(Class::Configuration, "jdbc.driver-missing")
                    .with("file", driver)
                    .caused_by(why),
            })
        });
        let drivers: Vec<_> = drivers.collect::<Result<_, _>>()?;
        let password = options.password.as_ref().map(read).transpose()?;
        let properties = options.properties.iter();
        let properties = properties.map(|(name, secret)| Ok((name.clone(), read(secret)?)));
        let properties: BTreeMap<_, _> = properties.collect::<Result<_, Error>>()?;
        let user = Some(&options.user).filter(|user| !user.is_empty());
        Ok(DriverLogin {
            folder: project.to_path_buf(),
            product: product(&options.url).map(str::to_owned),
            start: json!({
                "drivers": drivers, "class": options.class, "url": options.url, "user": user, "password": password,
                "properties": properties, "codes": codes::by_number(),
            }),
            secrets: password
                .into_iter()
                .chain(properties.into_values())
                .collect(),
            url: options.url.clone(),
            user: options.user.clone(),
            none: "jdbc.driver",
            program: java::command,
            answers_at_input: false,
            memory: options.memory.as_bytes(),
            timeout: options.timeout.as_duration(),
            sessions: options.sessions,
        })
    }

    fn missing() -> Option<Error> {
        let missing = ["java", "javac"].map(java::find);
        missing.into_iter().find_map(Result::err)
    }
}

/// What the database at an address is called; none where it does not say.
fn product(url: &str) -> Option<&str> {
    let kind = url.strip_prefix("jdbc:").unwrap_or(url);
    Some(match kind.split(':').next()? {
        "hsqldb" => "hsql",
        "sqlserver" => "microsoft",
        "mariadb" => "mysql",
        "postgresql" | "kingbase8" | "kingbase" => "postgres",
        other => other,
    })
}

/// Whether an address seems to hold a password.
fn has_password(url: &str) -> bool {
    let small = url.to_ascii_lowercase();
    let named = ["password=", "pwd=", "passwd="];
    let in_login = |rest: &str| {
        rest.split_once('@')
            .is_some_and(|(login, _)| login.contains('/'))
    };
    named.iter().any(|name| small.contains(name))
        || small
            .strip_prefix("jdbc:oracle:thin:")
            .is_some_and(in_login)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_addresses_are_seen() {
        for (url, expected) in [
            ("jdbc:oracle:thin:@//db:1521/HIS", false),
            ("jdbc:oracle:thin:scott/tiger@//db:1521/HIS", true),
            ("jdbc:postgresql://db/his?password=x", true),
            ("jdbc:sqlserver://db;databaseName=his;Password=x", true),
            ("jdbc:h2:./data/his", false),
        ] {
            assert_eq!(has_password(url), expected, "{url}");
        }
    }
}
