//! Help in the reader's language.
//!
//! What stands beside commands and options in the code is their English help. The catalogue has the
//! same texts in every language: `help.flows.pause` for a command, `help.flows.diff.<from>` and
//! `help.apply.--note` for what it takes, without the command for what means the same everywhere
//! (`help.<flow>`), `help.value.NAME` for the name of a value. The library's own words, such as
//! headings and the usage line, are `help.word.*`.

use busbar_event::{Language, messages};
use clap::builder::Str;
use clap::{Arg, ArgAction, Command};

use crate::say;

/// Columns of a text before it is broken. Below a heading it stands ten columns to the right, so that
/// a line fits a terminal of eighty.
const COLUMNS: usize = 68;

/// The program with its help in a language.
pub fn in_language(program: Command, language: Language) -> Command {
    if language == Language::En {
        return program;
    }
    let mut program = translated(program, language);
    program.build();
    finish(&mut program, language);
    program
}

/// The program with its texts in a language, before it is built; for those who build it themselves.
pub fn translated(program: Command, language: Language) -> Command {
    match language {
        Language::En => program,
        Language::Zh => command(program, "", language),
    }
}

fn command(command: Command, path: &str, language: Language) -> Command {
    let about = text(language, &about_code(path));
    // Where it means something else, it is not the program's.
    let own_version = command.get_arguments().any(|arg| arg.get_id() == "version");
    let more = messages::template(language, &more_code(path));
    let mut command = dressed(command, language)
        .about(about)
        .disable_help_flag(true)
        .disable_version_flag(true);
    if let Some(more) = more {
        command = command.long_about(wrapped(&format!("{about}\n\n{more}"), COLUMNS));
    }
    if command.get_after_help().is_some() {
        let codes = text(language, "help.exit-codes");
        command = command.after_help(wrapped(codes, COLUMNS));
    }
    command = command.arg(switch("help", 'h', ArgAction::Help));
    if !own_version {
        command = command.arg(switch("version", 'V', ArgAction::Version));
    }
    command
        .mut_args(|arg| argument(arg, path, language))
        .mut_subcommands(|below| {
            let path = joined(path, below.get_name());
            self::command(below, &path, language)
        })
}

/// A command whose page has its headings in a language.
fn dressed(command: Command, language: Language) -> Command {
    let word = |name: &str| text(language, &format!("help.word.{name}"));
    let usage = command.get_styles().get_usage();
    let template = format!(
        "{{before-help}}{{about-with-newline}}\n{usage}{}:{usage:#} {{usage}}\n\n{{all-args}}{{after-help}}",
        word("usage")
    );
    command
        .help_template(template)
        .subcommand_help_heading(word("commands"))
        .subcommand_value_name(word("command"))
}

fn switch(name: &'static str, short: char, action: ArgAction) -> Arg {
    Arg::new(name).long(name).short(short).action(action)
}

fn argument(arg: Arg, path: &str, language: Language) -> Arg {
    let word = |name: &str| text(language, &format!("help.word.{name}"));
    let mut told = text(language, &argument_code(&arg, path)).to_owned();
    let mut note = |name: &str, value: String| {
        told.push_str(&format!(" [{}: {value}]", word(name)));
    };
    if let Some(variable) = arg.get_env() {
        note("environment", variable.to_string_lossy().into_owned());
    }
    if arg.get_action().takes_values() {
        let list = |values: Vec<String>| values.join(", ");
        let defaults = arg.get_default_values().iter();
        let defaults: Vec<_> = defaults.map(|v| v.to_string_lossy().into_owned()).collect();
        if !defaults.is_empty() {
            note("default", list(defaults));
        }
        let possible = arg.get_possible_values();
        let possible: Vec<_> = possible.iter().map(|v| v.get_name().to_owned()).collect();
        if !possible.is_empty() {
            note("possible", list(possible));
        }
    }
    let heading = match arg.get_help_heading() {
        Some(_) => "node",
        None if arg.is_positional() => "arguments",
        None => "options",
    };
    let names = arg.get_value_names().unwrap_or_default();
    let names: Vec<Str> = names
        .iter()
        .map(|name| value_name(name, language))
        .collect();
    let arg = arg
        .help(wrapped(&told, COLUMNS))
        .help_heading(word(heading))
        .next_line_help(true)
        .hide_env(true)
        .hide_default_value(true)
        .hide_possible_values(true);
    if names.is_empty() {
        arg
    } else {
        arg.value_names(names)
    }
}

/// What only a built command has: the usage line, and the command `help`.
fn finish(command: &mut Command, language: Language) {
    // The library makes the command `help` itself, with all that is below it.
    *command = dressed(std::mem::take(command), language);
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let options = text(language, "help.word.options-in-usage");
    let usage = usage.replace("[OPTIONS]", options);
    let mut told = std::mem::take(command).override_usage(usage);
    if told.get_name() == "help" {
        told = told.about(text(language, "help.help"));
    }
    *command = told;
    for below in command.get_subcommands_mut() {
        finish(below, language);
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn about_code(path: &str) -> String {
    format!("help.{}", if path.is_empty() { "busbar" } else { path })
}

/// The code of what is said on `--help` only.
fn more_code(path: &str) -> String {
    format!("{}.more", about_code(path))
}

/// The code of an argument's own text, or of the one that is the same everywhere.
fn argument_code(arg: &Arg, path: &str) -> String {
    let name = match arg.get_long() {
        Some(long) => format!("--{long}"),
        None => format!("<{}>", arg.get_id()),
    };
    let own = format!("{}.{name}", about_code(path));
    match messages::template(Language::En, &own) {
        Some(_) => own,
        None => format!("help.{name}"),
    }
}

fn value_name(name: &Str, language: Language) -> Str {
    let code = format!("help.value.{name}");
    messages::template(language, &code).map_or_else(|| name.clone(), Str::from)
}

/// A text of the catalogue; a test sees to it that it is there.
fn text(language: Language, code: &str) -> &'static str {
    messages::template(language, code).unwrap_or_default()
}

/// Breaks lines that have no spaces to break at: between wide characters, but not before a mark that
/// closes, and elsewhere at spaces.
fn wrapped(text: &str, columns: usize) -> String {
    const CLOSING: &str = "，。；：、）》」』！？·,.;:)]";
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        let mut piece = String::new();
        let mut letters = paragraph.chars().peekable();
        while let Some(letter) = letters.next() {
            piece.push(letter);
            let next = letters.peek();
            let wide = |letter: &char| say::width(letter.encode_utf8(&mut [0; 4])) == 2;
            let may_break = next.is_none_or(|next| {
                letter == ' '
                    || ((wide(&letter) || wide(next)) && !CLOSING.contains(*next) && *next != ' ')
            });
            if may_break {
                if say::width(&line) + say::width(piece.trim_end()) > columns {
                    lines.push(line.trim_end().to_owned());
                    line.clear();
                }
                line.push_str(&piece);
                piece.clear();
            }
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
#[path = "help_tests.rs"]
mod tests;
