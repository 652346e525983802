//! Writing to standard output and standard error without a panic when they cannot be written.
//!
//! `print!`, `println!`, `eprint!` and `eprintln!` of this crate are the macros below. They are declared before all other
//! modules, so that they stand in place of those of the standard library, which panic.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{exit, say};

/// A server goes on when nobody can read what it prints.
static KEEP_RUNNING: AtomicBool = AtomicBool::new(false);

/// From now on what cannot be printed is lost instead of ending the process.
pub fn keep_running() {
    KEEP_RUNNING.store(true, Ordering::Relaxed);
}

/// Prints to standard output. Ends the process when that fails: what was printed is then not the whole answer.
pub fn print(text: Arguments<'_>) {
    end_on_failure(io::stdout().lock().write_fmt(text));
}

/// Sees that everything printed so far has been written.
pub fn flush() {
    end_on_failure(io::stdout().lock().flush());
}

/// Prints to standard error. What cannot be written there cannot be reported anywhere.
pub fn eprint(text: Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

fn end_on_failure(written: io::Result<()>) {
    let Err(why) = written else { return };
    if KEEP_RUNNING.load(Ordering::Relaxed) {
        return;
    }
    // Whoever closed the pipe has read enough.
    if why.kind() != io::ErrorKind::BrokenPipe {
        let why = [("why", why.to_string())];
        eprint(format_args!(
            "busbar: {}\n",
            say::line("cli.output-failed", &why)
        ));
    }
    #[allow(
        clippy::disallowed_methods,
        reason = "there is nobody left to give an exit code to; nothing is held by what only prints"
    )]
    std::process::exit(exit::IO.into());
}

macro_rules! print {
    ($($text:tt)*) => { $crate::output::print(format_args!($($text)*)) };
}
macro_rules! println {
    () => { $crate::output::print(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::print(format_args!("{}\n", format_args!($($text)*))) };
}
macro_rules! eprint {
    ($($text:tt)*) => { $crate::output::eprint(format_args!($($text)*)) };
}
macro_rules! eprintln {
    () => { $crate::output::eprint(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::eprint(format_args!("{}\n", format_args!($($text)*))) };
}
