//! Where a server is, and who asks: the options that connections of SQL databases have alike.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic};
use busbar_connector::limits::{POOL_SESSIONS, POOL_SESSIONS_MAX};
use busbar_event::{Class, Error};

use super::Doing;
use crate::change::{is_table_name, table_name};
use crate::limits::STATEMENT_TIMEOUT_MAX;
use crate::places::Places;
use crate::secret::Secret;
use crate::tls::Tls;

/// Where a server is, and who asks. `P` is the protocol, which opens sessions.
#[derive(Clone)]
pub struct Server<P> {
    pub address: Arc<str>,
    pub database: Arc<str>,
    pub user: Arc<str>,
    pub password: Option<String>,
    pub tls: Option<Tls>,
    /// How long a statement may take.
    pub timeout: Duration,
    /// Where files of the project are.
    pub project: Arc<Path>,
    pub places: Places,
    pub protocol: P,
}

/// The options that name a server.
pub struct LoginOptions<'a> {
    pub address: &'a str,
    pub database: &'a str,
    pub user: &'a str,
    pub password: Option<&'a Secret>,
    pub tls: Option<&'a Tls>,
    pub timeout: Span,
    pub sessions: u16,
}

/// Codes of errors about options that name a server.
pub struct LoginCodes {
    pub address: &'static str,
    pub timeout: &'static str,
}

impl<P> Server<P> {
    /// What errors of this server name.
    pub fn doing<'a>(&'a self, table: &'a str, rights: &'a str) -> Doing<'a> {
        Doing {
            address: &self.address,
            user: &self.user,
            database: &self.database,
            table,
            rights,
        }
    }
}

impl LoginOptions<'_> {
    /// Checks what can be checked without the server.
    ///
    /// # Errors
    /// What is wrong, with its place in the file.
    pub fn check(
        &self,
        spec: &ConnectionSpec,
        places: &Places,
        codes: &LoginCodes,
    ) -> Result<(), Diagnostic> {
        let refuse = |key: &str, code| {
            let error = Error::new(Class::Configuration, code);
            spec.options.diagnostic(key, error)
        };
        let port = self.address.rsplit_once(':').and_then(|(host, port)| {
            (!host.is_empty())
                .then(|| port.parse::<u16>().ok())
                .flatten()
        });
        if port.is_none_or(|port| port == 0) {
            return Err(refuse("address", codes.address));
        }
        let timeout = self.timeout.as_duration();
        if timeout.is_zero() || timeout > STATEMENT_TIMEOUT_MAX {
            let error = Error::new(Class::Configuration, codes.timeout);
            let error = error.with("most_s", STATEMENT_TIMEOUT_MAX.as_secs());
            return Err(spec.options.diagnostic("timeout", error));
        }
        if let Some(ca) = self.tls.and_then(|tls| tls.ca.as_deref()) {
            places.check(ca).map_err(|code| refuse("tls", code))?;
        }
        if let Some(file) = self.password.and_then(Secret::file) {
            let checked = places.check(file);
            checked.map_err(|code| refuse("password", code))?;
        }
        if self.sessions == 0 || self.sessions > POOL_SESSIONS_MAX {
            let error = Error::new(Class::Configuration, "database.sessions");
            let error = error.with("most", POOL_SESSIONS_MAX);
            return Err(spec.options.diagnostic("sessions", error));
        }
        Ok(())
    }

    /// Where the server is. Blocks on the disk when the password stands in a file.
    ///
    /// # Errors
    /// *Configuration*: the password cannot be read.
    pub fn server<P>(
        &self,
        protocol: P,
        project: &Arc<Path>,
        places: &Places,
    ) -> Result<Server<P>, Error> {
        let password = self.password.map(|secret| secret.read(project, places));
        Ok(Server {
            address: self.address.into(),
            database: self.database.into(),
            user: self.user.into(),
            password: password.transpose()?,
            tls: self.tls.cloned(),
            timeout: self.timeout.as_duration(),
            project: Arc::clone(project),
            places: places.clone(),
            protocol,
        })
    }
}

/// Checks the names of tables that are followed, and of those whose snapshot is taken anew. A name alone is one of `schema`.
///
/// # Errors
/// What is wrong, with its place in the file: none or more than `most` tables, a name that is none, a table that is not followed.
pub fn check_followed(
    spec: &ConnectionSpec,
    (tables, again): (&[String], &BTreeMap<String, u32>),
    schema: &str,
    most: usize,
    [no_tables, not_followed]: [&'static str; 2],
) -> Result<(), Diagnostic> {
    let refuse = |error: Error| spec.options.diagnostic("follow", error);
    let wrong = |code| Error::new(Class::Configuration, code);
    if tables.is_empty() || tables.len() > most {
        return Err(refuse(wrong(no_tables)));
    }
    if !tables.iter().all(|table| is_table_name(table)) {
        return Err(refuse(wrong("connect.table-name")));
    }
    let shown = |table: &String| {
        let (schema, name) = table_name(table, schema);
        format!("{schema}.{name}")
    };
    let unknown = |again: &&String| !tables.iter().any(|table| shown(table) == **again);
    match again.keys().find(unknown) {
        None => Ok(()),
        Some(unknown) => Err(refuse(wrong(not_followed).with("table", unknown))),
    }
}

/// The number of sessions where no option says it.
pub fn default_sessions() -> u16 {
    POOL_SESSIONS
}

/// How long a statement may take where no option says it.
pub fn default_timeout() -> Span {
    Span::from_micros(30_000_000)
}
