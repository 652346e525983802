//! How a failure to start becomes an exit code of the process (those of `sysexits.h`).

use busbar_catalog::Diagnostic;
use busbar_event::{Class, Error};

use crate::deploy::NotDeployed;

/// Why a node does not start.
#[derive(Debug)]
pub enum StartError {
    /// Something outside the project: a port, the data folder, a setting.
    Node(Error),
    /// The project does not check.
    Project(Vec<Diagnostic>),
}

impl StartError {
    /// The exit code of the process:
    ///
    /// | code | name | when |
    /// | --- | --- | --- |
    /// | 69 | unavailable | a port is in use |
    /// | 70 | software | something failed within |
    /// | 73 | can't create | the data folder cannot be written |
    /// | 74 | I/O error | the disk failed, or data is damaged |
    /// | 75 | temporary failure | another process uses the data folder |
    /// | 76 | protocol | the data folder is of a newer version |
    /// | 77 | no permission | a port may not be used |
    /// | 78 | configuration | a setting or the project is wrong; other addresses than this machine's without users |
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Project(_) => 78,
            StartError::Node(error) => exit_code(error),
        }
    }
}

/// The exit code for an error; see [`StartError::exit_code`].
pub fn exit_code(error: &Error) -> u8 {
    match error.code() {
        "server.port-in-use" | "gateway.port-in-use" => 69,
        "server.port-denied" | "gateway.port-denied" => 77,
        "server.data-unwritable" => 73,
        "log.locked" => 75,
        "log.version" => 76,
        "log.io" | "log.failed" | "log.damaged" | "log.full" | "server.logins-damaged" => 74,
        _ => match error.class() {
            Class::Configuration => 78,
            Class::Transient => 75,
            Class::Permanent => 70,
        },
    }
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        StartError::Node(error)
    }
}

impl From<NotDeployed> for StartError {
    fn from(refused: NotDeployed) -> Self {
        match refused {
            NotDeployed::Failed(error) => StartError::Node(error),
            NotDeployed::Wrong(diagnostics) => StartError::Project(diagnostics),
        }
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Node(error) => error.fmt(f),
            StartError::Project(diagnostics) => match diagnostics.first() {
                Some(first) => first.fmt(f),
                None => f.write_str("the project does not check"),
            },
        }
    }
}

impl std::error::Error for StartError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_code() {
        for (code, exit) in [
            ("server.port-in-use", 69),
            ("server.data-unwritable", 73),
            ("log.locked", 75),
            ("log.version", 76),
            ("server.needs-users", 78),
            ("server.logins-damaged", 74),
        ] {
            let error = StartError::from(Error::new(Class::Configuration, code));
            assert_eq!(error.exit_code(), exit, "{code}");
        }
    }
}
