//! Completion in shells: the shell asks this program for candidates, and the program asks the node.

use std::ffi::OsString;
use std::time::Duration;

use busbar_event::{Class, Error};
use clap::CommandFactory as _;
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, CompletionCandidate, Shell};
use serde_json::Value;

use crate::client::NodeArgs;
use crate::exit::{self, Failure};
use crate::{help, say};

/// The variable by which a shell says that it wants candidates.
const VARIABLE: &str = "BUSBAR_COMPLETE";
/// How long a node may take to name candidates; a person waits with a finger on the key.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Answers a shell that asks for candidates, and ends; does nothing otherwise.
pub fn answer() {
    let program = || help::translated(crate::Cli::command(), say::language());
    CompleteEnv::with_factory(program).var(VARIABLE).complete();
}

/// Prints what makes a shell ask.
pub fn register(shell: Shell) -> Result<(), Failure> {
    let shells = Shells::builtins();
    let name = shell.to_string();
    let written = match shells.completer(&name) {
        Some(shell) => {
            let mut out = std::io::stdout();
            shell.write_registration(VARIABLE, "busbar", "busbar", "busbar", &mut out)
        }
        None => Err(std::io::ErrorKind::Unsupported.into()),
    };
    written.map_err(|why| {
        let error = Error::new(Class::Transient, "cli.cannot-write").with("path", name);
        Failure::new(exit::IO, error.caused_by(why))
    })
}

/// Names of flows.
pub fn flows() -> Vec<CompletionCandidate> {
    candidates("/api/v1/flows", "flows", "name", "state")
}

/// Names of APIs.
pub fn apis() -> Vec<CompletionCandidate> {
    candidates("/api/v1/apis", "apis", "name", "description")
}

/// Names of orchestrations.
pub fn orchestrations() -> Vec<CompletionCandidate> {
    candidates(
        "/api/v1/orchestrations",
        "orchestrations",
        "name",
        "description",
    )
}

/// Names of streams.
pub fn streams() -> Vec<CompletionCandidate> {
    candidates("/api/v1/streams", "streams", "name", "topics")
}

/// Names of plug-ins.
pub fn plugins() -> Vec<CompletionCandidate> {
    candidates("/api/v1/plugins", "plugins", "name", "state")
}

/// Names of connections.
pub fn connections() -> Vec<CompletionCandidate> {
    candidates("/api/v1/connections", "connections", "name", "state")
}

/// Ids of dead letters.
pub fn dead_letters() -> Vec<CompletionCandidate> {
    candidates("/api/v1/dead-letters", "letters", "id", "flow")
}

/// Names of users.
pub fn users() -> Vec<CompletionCandidate> {
    candidates("/api/v1/users", "users", "name", "role")
}

/// Ids of tokens.
pub fn tokens() -> Vec<CompletionCandidate> {
    candidates("/api/v1/tokens", "tokens", "id", "name")
}

/// Filters that the streams of a node capture.
pub fn filters() -> Vec<CompletionCandidate> {
    let Some(answer) = ask("/api/v1/streams") else {
        return Vec::new();
    };
    let mut filters = Vec::new();
    for stream in answer["streams"].as_array().into_iter().flatten() {
        for topic in stream["topics"].as_array().into_iter().flatten() {
            let name = say::cell(&stream["name"]);
            filters.push(CompletionCandidate::new(say::cell(topic)).help(Some(name.into())));
        }
    }
    filters
}

fn candidates(path: &str, list: &str, value: &str, about: &str) -> Vec<CompletionCandidate> {
    let Some(answer) = ask(path) else {
        return Vec::new();
    };
    let list = answer[list].as_array().into_iter().flatten();
    list.map(|entry| {
        let about = say::cell(&entry[about]);
        CompletionCandidate::new(say::cell(&entry[value])).help(Some(about.into()))
    })
    .collect()
}

/// What the node says, or nothing: a person who presses a key wants no complaints.
fn ask(path: &str) -> Option<Value> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let node = NodeArgs::while_typing(|option| typed(&words, option), ANSWER_MAX);
    node.get(path).ok()
}

/// The value of an option in a command line that is not finished yet.
fn typed(words: &[OsString], option: &str) -> Option<String> {
    let words: Vec<_> = words.iter().filter_map(|word| word.to_str()).collect();
    let mut values = words.iter().enumerate().filter_map(|(at, word)| {
        let rest = word.strip_prefix(option)?;
        match rest.strip_prefix('=') {
            Some(value) => Some(value.to_owned()),
            // Bash hands `--node=x` over as three words.
            None if rest.is_empty() => {
                let next = words.get(at + 1)?;
                let value = if *next == "=" {
                    words.get(at + 2)?
                } else {
                    next
                };
                Some((*value).to_owned())
            }
            None => None,
        }
    });
    values.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_that_was_typed_is_asked() {
        let typed = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            super::typed(&words, "--node")
        };
        for line in [
            "busbar flows pause --node http://a:1 x",
            "busbar --node=http://a:1 flows pause x",
            "busbar --node = http://a:1 flows pause",
        ] {
            assert_eq!(typed(line).as_deref(), Some("http://a:1"), "{line}");
        }
        assert_eq!(typed("busbar flows pause --node"), None);
        assert_eq!(typed("busbar flows pause --nodes b"), None);
    }

    #[test]
    fn every_shell_that_is_offered_is_known() {
        for shell in <Shell as clap::ValueEnum>::value_variants() {
            assert!(
                Shells::builtins().completer(&shell.to_string()).is_some(),
                "{shell}"
            );
        }
    }
}
