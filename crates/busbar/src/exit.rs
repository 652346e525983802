//! What the program's exit code says. The codes follow sysexits.h where it has a fitting one.

use busbar_event::{Class, Error};

/// All went well.
pub const OK: u8 = 0;
/// The command did its work and found something wrong: a check, a flow test, a damaged file.
pub const FOUND: u8 = 1;
/// The command line is not understood (clap ends with this code by itself).
#[allow(dead_code)]
pub const USAGE: u8 = 2;
/// The node cannot be reached, or its answer makes no sense.
pub const UNAVAILABLE: u8 = 69;
/// Reading or writing failed.
pub const IO: u8 = 74;
/// Trying again later may succeed.
pub const TRANSIENT: u8 = 75;
/// The node wants a login, or the user may not do this.
pub const DENIED: u8 = 77;
/// A setting or a file of the project must be changed first.
pub const CONFIGURATION: u8 = 78;

/// Why a command ended without success: what to print, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// What people are told.
    pub error: Error,
    /// The program's exit code.
    pub code: u8,
}

impl Failure {
    /// A failure with a code of its own.
    pub fn new(code: u8, error: Error) -> Failure {
        Failure { error, code }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let code = match error.class() {
            Class::Transient => TRANSIENT,
            Class::Permanent => IO,
            Class::Configuration => CONFIGURATION,
        };
        Failure { error, code }
    }
}
