//! What the program's exit code says. The codes follow sysexits.h where it has a fitting one.

use busbar_event::{Class, Error};
use serde_json::Value;

use crate::say;

/// All went well.
pub const OK: u8 = 0;
/// The command did its work and found something wrong: a check, a flow test, a damaged file.
pub const FOUND: u8 = 1;
/// The command line is not understood.
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
    /// What a node said, word for word: programs get its code and arguments, not ours.
    pub told: Option<Box<Value>>,
    /// A drawing of the place, which says more than the error alone.
    report: Option<String>,
    /// With `--json` the answer was printed already: one command prints one document.
    answered: bool,
}

impl Failure {
    /// A failure with a code of its own.
    pub fn new(code: u8, error: Error) -> Failure {
        Failure {
            error,
            code,
            told: None,
            report: None,
            answered: false,
        }
    }

    /// Keeps what a node said for those who asked for JSON.
    pub fn with_told(mut self, told: Value) -> Failure {
        self.told = Some(Box::new(told));
        self
    }

    /// Shows people this instead of the error.
    pub fn with_report(mut self, report: String) -> Failure {
        self.report = Some(report);
        self
    }

    /// Says that programs have been told all of it.
    pub fn answered(mut self) -> Failure {
        self.answered = true;
        self
    }

    /// Prints it: JSON to standard output for programs, a report to standard error for people.
    pub fn print(&self, json: bool) {
        if json {
            match &self.told {
                _ if self.answered => {}
                Some(told) => println!("{}", serde_json::json!({ "error": told })),
                None => println!("{}", serde_json::json!({ "error": self.error })),
            }
            return;
        }
        if let Some(report) = &self.report {
            eprintln!("{report}");
            return;
        }
        self.print_warning();
    }

    /// Prints it to standard error, for a command that goes on.
    pub fn print_warning(&self) {
        eprintln!("busbar: {}", self.error.explained(say::language()));
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let code = match error.class() {
            Class::Transient => TRANSIENT,
            Class::Permanent => IO,
            Class::Configuration => CONFIGURATION,
        };
        Failure::new(code, error)
    }
}
