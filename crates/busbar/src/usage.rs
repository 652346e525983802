//! Command lines that are not understood, in the reader's language.

use busbar_event::Language;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::say;

/// Prints what is wrong with the command line, or the help that was asked for; the exit code.
pub fn refuse(error: &clap::Error) -> u8 {
    // Help and version are what was wanted, and clap tells all else in English.
    match (say::language(), retold(error)) {
        (Language::Zh, Some(text)) => eprint!("{text}"),
        _ => {
            // A closed output has nobody who would read about it.
            let _ = error.print();
        }
    }
    u8::try_from(error.exit_code()).unwrap_or(crate::exit::USAGE)
}

/// The same in the catalogue's words; `None` for what has no words there.
fn retold(error: &clap::Error) -> Option<String> {
    let told = |kind| error.get(kind).map(words);
    let args = |name, kind| Some([(name, told(kind)?)]);
    let mut text = match error.kind() {
        ErrorKind::UnknownArgument => say::line(
            "cli.usage-argument",
            &args("argument", ContextKind::InvalidArg)?,
        ),
        ErrorKind::InvalidSubcommand => say::line(
            "cli.usage-command",
            &args("command", ContextKind::InvalidSubcommand)?,
        ),
        ErrorKind::MissingRequiredArgument => say::line(
            "cli.usage-missing",
            &args("arguments", ContextKind::InvalidArg)?,
        ),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let argument = ("argument", told(ContextKind::InvalidArg)?);
            match told(ContextKind::InvalidValue)? {
                none if none.is_empty() => say::line("cli.usage-no-value", &[argument]),
                value => say::line("cli.usage-value", &[argument, ("value", value)]),
            }
        }
        ErrorKind::ArgumentConflict => {
            let argument = told(ContextKind::InvalidArg)?;
            let other = told(ContextKind::PriorArg)?;
            // Given twice, an argument is at odds with itself.
            let code = if argument == other {
                "cli.usage-twice"
            } else {
                "cli.usage-conflict"
            };
            say::line(code, &[("argument", argument), ("other", other)])
        }
        ErrorKind::TooManyValues => say::line(
            "cli.usage-value",
            &[
                ("argument", told(ContextKind::InvalidArg)?),
                ("value", told(ContextKind::InvalidValue)?),
            ],
        ),
        ErrorKind::InvalidUtf8 => say::line("cli.usage-utf8", &[]),
        _ => return None,
    };
    text.push('\n');
    let near = [
        ContextKind::SuggestedArg,
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedValue,
    ];
    if let Some(near) = near.into_iter().find_map(told) {
        text.push_str(&say::line("catalog.did-you-mean", &[("name", near)]));
        text.push('\n');
    }
    if let Some(values) = told(ContextKind::ValidValue) {
        text.push_str(&say::line("cli.usage-values", &[("values", values)]));
        text.push('\n');
    }
    text.push_str(&say::line("cli.usage-help", &[]));
    text.push('\n');
    Some(format!("busbar: {text}"))
}

fn words(value: &ContextValue) -> String {
    match value {
        ContextValue::String(word) => word.clone(),
        ContextValue::Strings(words) => words.join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, Command};

    fn wrong(args: &[&str]) -> clap::Error {
        Command::new("busbar")
            .subcommand(
                Command::new("sql")
                    .arg(Arg::new("QUERY").required(true))
                    .arg(
                        Arg::new("limit")
                            .long("limit")
                            .value_parser(clap::value_parser!(u64)),
                    ),
            )
            .subcommand_required(true)
            .try_get_matches_from(args)
            .unwrap_err()
    }

    #[test]
    fn every_common_mistake_has_words() {
        for (args, word) in [
            (&["busbar", "sqll"][..], "sqll"),
            (&["busbar", "sql"], "QUERY"),
            (&["busbar", "sql", "select 1", "--limt", "3"], "--limt"),
            (&["busbar", "sql", "select 1", "--limit", "x"], "--limit"),
        ] {
            let text = retold(&wrong(args)).unwrap();
            assert!(text.contains(word), "{args:?}: {text}");
        }
        assert!(retold(&wrong(&["busbar", "--help"])).is_none());
    }
}
