//! `odbc`: any database with an ODBC driver. The rows of a query or the changes of tables come in; rows are written to a table.
//!
//! ```yaml
//! odbc:
//!   connection: "Driver=PostgreSQL Unicode;Server=db.example;Database=his"
//!   user: busbar
//!   password: { env: HIS_PASSWORD }
//!   write: { table: patient, mode: upsert, key: [id] }      # a sink
//!   # poll: { tables: [{ table: patient, version: changed }] }   # a source
//! ```
//!
//! The driver manager and the driver are loaded by a process of their own, which is this program, started anew (`host`). One
//! process serves all that use the connection; what it shares with `jdbc` is `driver`.

mod address;
mod host;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use busbar_bus::Span;
use busbar_event::{Class, Error, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use host::{ODBC_HOST, run_odbc_host};

use crate::change::Write;
use crate::driver::{
    self, Driven, DriverDialectName, DriverKind, DriverLogin, DriverUse, PollOptions, QueryOptions,
};
use crate::places::{PathRefused, Places};
use crate::secret::Secret;

/// The connector.
pub type Odbc = Driven<OdbcKind>;

/// Which one it is.
pub struct OdbcKind;

/// The driver manager's file.
const LIBRARY: &str = "libodbc.so.2";

/// Any database with an ODBC driver, which is installed on the machine with the driver manager unixODBC.
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
    /// The connection string, as the driver's manual says it, without a password:
    /// `Driver=PostgreSQL Unicode;Server=db.example;Database=his`, or `DSN=his` for a data source of `odbc.ini`. `Driver` is a
    /// name of `odbcinst.ini`, or the path of a driver inside the project's folder or in one that `[files] allow` names.
    connection: String,
    /// User name: `UID` of the connection string.
    #[serde(default)]
    user: String,
    /// Password: a text, `{ env: NAME }` or `{ file: PATH }`. `PWD` of the connection string.
    password: Option<Secret>,
    /// Further keywords of the connection string, each a text, `{ env: NAME }` or `{ file: PATH }`.
    #[serde(default)]
    properties: BTreeMap<String, Secret>,
    /// How the database writes SQL, where the driver's name for it says too little.
    dialect: Option<DriverDialectName>,
    /// Memory of the process with the driver.
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

impl DriverKind for OdbcKind {
    type Options = Options;
    const KIND: &'static str = "odbc";
    const ADDRESS: &'static str = "connection";
    const DRIVER: &'static str = "connection";

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
        let Some(pairs) = address::read(&options.connection) else {
            return wrong("connection", "odbc.connection");
        };
        let is = |wanted: &[&str]| {
            let mut pairs = pairs.iter();
            pairs.any(|(keyword, _)| {
                wanted
                    .iter()
                    .any(|wanted| keyword.eq_ignore_ascii_case(wanted))
            })
        };
        if !is(&["driver", "dsn"]) {
            return wrong("connection", "odbc.no-driver");
        }
        if is(&["pwd", "password"]) {
            return wrong("connection", "odbc.connection-password");
        }
        let of_files = |name: &str| {
            let files = ["filedsn", "savefile"];
            files.iter().any(|file| name.eq_ignore_ascii_case(file))
        };
        let keywords = pairs.iter().map(|(keyword, _)| keyword);
        if keywords
            .chain(options.properties.keys())
            .any(|name| of_files(name))
        {
            return wrong("connection", "odbc.file");
        }
        let own = ["driver", "dsn"];
        let is_own = |name: &String| own.iter().any(|own| name.eq_ignore_ascii_case(own));
        let is_keyword = |name: &String| !name.is_empty() && !name.contains(['=', ';', '{', '}']);
        if options
            .properties
            .keys()
            .any(|name| is_own(name) || !is_keyword(name))
        {
            return wrong("properties", "odbc.property");
        }
        // A driver is code that is run: one that an administrator has installed, or of a folder that is allowed.
        let driver = driver(&pairs).filter(|driver| driver.contains('/'));
        driver
            .and_then(|driver| places.check(driver).err())
            .and_then(|code| wrong("connection", code))
    }

    fn login(options: &Options, project: &Path, places: &Places) -> Result<DriverLogin, Error> {
        let pairs = address::read(&options.connection)
            .ok_or_else(|| Error::new(Class::Configuration, "odbc.connection"))?;
        let mut whole = String::new();
        for (keyword, value) in &pairs {
            match keyword.eq_ignore_ascii_case("driver") && value.contains('/') {
                false => address::write(keyword, value, &mut whole),
                true => {
                    let file = project.join(value);
                    let found =
                        places
                            .resolve(project, &file)
                            .map_err(|refused| match refused {
                                PathRefused::Outside(error) => error,
                                PathRefused::Io(why) => {
                                    Error::new(Class::Configuration, "odbc.driver-missing")
                                        .with("file", value)
                                        .caused_by(why)
                                }
                            })?;
                    address::write(keyword, &found.to_string_lossy(), &mut whole);
                }
            }
        }
        let mut secrets = Vec::new();
        if !options.user.is_empty() {
            address::write("UID", &options.user, &mut whole);
        }
        let password = options.password.iter().map(|secret| ("PWD", secret));
        let properties = options.properties.iter();
        let properties = properties.map(|(name, secret)| (name.as_str(), secret));
        for (keyword, secret) in password.chain(properties) {
            let value = secret.read(project, places)?;
            if value.contains('\0') {
                return Err(Error::new(Class::Configuration, "odbc.property"));
            }
            address::write(keyword, &value, &mut whole);
            secrets.push(value);
        }
        let memory = options.memory.as_bytes();
        let product = driver(&pairs).and_then(address::product);
        let needed = match product {
            // Else the driver ends the transaction when a statement fails, and with it the savepoint to go back to.
            Some("postgres") => Some(("Protocol", "7.4-0")),
            // Else rows that have their values already are not counted as found.
            Some("mysql") => Some(("Option", "2")),
            _ => None,
        };
        if let Some((keyword, value)) = needed {
            let mut said = pairs
                .iter()
                .map(|(said, _)| said)
                .chain(options.properties.keys());
            if !said.any(|said| said.eq_ignore_ascii_case(keyword)) {
                address::write(keyword, value, &mut whole);
            }
        }
        Ok(DriverLogin {
            folder: project.to_path_buf(),
            url: options.connection.clone(),
            user: options.user.clone(),
            product: product.map(str::to_owned),
            start: json!({
                "library": LIBRARY, "connection": whole, "memory": memory, "sessions": options.sessions,
                "product": product,
            }),
            secrets,
            none: "odbc.driver",
            program: |_| Ok(command()),
            answers_at_input: true,
            memory,
            timeout: options.timeout.as_duration(),
            sessions: options.sessions,
        })
    }

    fn missing() -> Option<Error> {
        // Only the process with the driver can say.
        None
    }
}

/// The program that runs, also where its file has been replaced by a newer one.
fn command() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(ODBC_HOST);
    command
}

/// The driver that a connection string names.
fn driver(pairs: &[(String, String)]) -> Option<&str> {
    let mut pairs = pairs.iter();
    let found = pairs.find(|(keyword, _)| keyword.eq_ignore_ascii_case("driver"));
    found.map(|(_, value)| value.as_str())
}
