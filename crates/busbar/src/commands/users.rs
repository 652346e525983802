//! `busbar user` and `busbar token`: who may do what on a node.

use std::io::{BufRead as _, IsTerminal as _};

use busbar_event::{Class, Error};
use serde_json::{Value, json};

use crate::client::{NodeArgs, escape};
use crate::exit::{self, Failure};
use crate::say;

/// Users of a node. As soon as one exists, every protocol needs a login.
#[derive(Debug, clap::Subcommand)]
pub enum UserCommand {
    /// Add a user; the password is read from standard input.
    Add {
        /// The user's name.
        name: String,
        /// What the user may do.
        #[arg(long, default_value = "admin", value_parser = ["admin", "operator", "viewer"])]
        role: String,
    },
    /// All users.
    List,
    /// Remove a user, with all tokens.
    Remove {
        /// The user's name.
        name: String,
    },
}

/// API tokens.
#[derive(Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// Make a token; it is shown this once.
    Add {
        /// What the token is for.
        name: String,
    },
    /// All tokens, without their secrets.
    List,
    /// Make a token worthless.
    Remove {
        /// The token's id.
        id: String,
    },
}

/// Asks the node and prints.
pub fn user(command: &UserCommand, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    match command {
        UserCommand::Add { name, role } => {
            let password = password()?;
            let body = json!({ "name": name, "password": password, "role": role });
            let answer = node.post("/api/v1/users", &body)?;
            said(&answer, json, "cli.user-added", name);
        }
        UserCommand::List => listed(
            &node.get("/api/v1/users")?,
            "users",
            &["name", "role"],
            json,
        ),
        UserCommand::Remove { name } => {
            let answer = node.delete(&format!("/api/v1/users/{}", escape(name)))?;
            said(&answer, json, "cli.user-removed", name);
        }
    }
    Ok(())
}

/// Asks the node and prints.
pub fn token(command: &TokenCommand, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    match command {
        TokenCommand::Add { name } => {
            let answer = node.post("/api/v1/tokens", &json!({ "name": name }))?;
            if json {
                println!("{answer}");
            } else {
                println!("{}", say::cell(&answer["token"]));
            }
        }
        TokenCommand::List => listed(
            &node.get("/api/v1/tokens")?,
            "tokens",
            &["id", "name", "user", "created"],
            json,
        ),
        TokenCommand::Remove { id } => {
            let answer = node.delete(&format!("/api/v1/tokens/{}", escape(id)))?;
            said(&answer, json, "cli.token-removed", id);
        }
    }
    Ok(())
}

/// A password never stands in the command line, where others could read it.
fn password() -> Result<String, Failure> {
    if std::io::stdin().is_terminal() {
        eprint!("{} ", say::line("cli.password", &[]));
    }
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|why| {
            Failure::new(
                exit::IO,
                Error::new(Class::Transient, "cli.no-password").caused_by(why),
            )
        })?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Error::new(Class::Configuration, "cli.no-password").into());
    }
    Ok(password.to_owned())
}

fn said(answer: &Value, json: bool, code: &str, name: &str) {
    if json {
        println!("{answer}");
    } else {
        println!("{}", say::line(code, &[("name", name.to_owned())]));
    }
}

fn listed(answer: &Value, name: &str, columns: &[&str], json: bool) {
    if json {
        println!("{answer}");
        return;
    }
    let list = answer
        .as_array()
        .or_else(|| answer[name].as_array())
        .map_or(&[][..], Vec::as_slice);
    let head: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|entry| {
            columns
                .iter()
                .map(|name| say::cell(&entry[*name]))
                .collect()
        })
        .collect();
    print!("{}", say::table(&head, &rows));
}
