//! `busbar user`, `busbar token`, `busbar login` and `busbar logout`: users of a node and their rights.

use busbar_event::{Class, Error};
use clap_complete::ArgValueCandidates;
use serde_json::{Map, Value, json};

use crate::client::{NodeArgs, escape};
use crate::exit::{self, Failure};
use crate::login::{self, Login};
use crate::{complete, say};

/// Users of a node. As soon as one exists, every protocol needs a login.
#[derive(Debug, clap::Args)]
pub struct UserArgs {
    #[command(subcommand)]
    command: Option<UserCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum UserCommand {
    /// Add a user; the password is typed, or the first line of standard input.
    Add {
        /// The user's name.
        name: String,
        /// What the user may do. A device publishes and receives; a viewer receives and reads; an operator does
        /// both and drives flows; an admin does everything. When not given: viewer, and admin for the first user.
        #[arg(long, value_parser = ROLES)]
        role: Option<String>,
        #[command(flatten)]
        rules: RulesArgs,
    },
    /// Change a user's role, rules or password.
    Change {
        /// The user's name.
        #[arg(add = ArgValueCandidates::new(complete::users))]
        name: String,
        /// What the user may do: see `busbar user add --help`.
        #[arg(long, value_parser = ROLES)]
        role: Option<String>,
        /// Remove all rules, so that only the role decides.
        #[arg(long, conflicts_with_all = ["publish", "subscribe", "read", "call"])]
        no_rules: bool,
        /// Set a new password: it is typed, or the first line of standard input.
        #[arg(long)]
        password: bool,
        #[command(flatten)]
        rules: RulesArgs,
    },
    /// All users; the same as without a command.
    List,
    /// Remove a user, with all tokens.
    Remove {
        /// The user's name.
        #[arg(add = ArgValueCandidates::new(complete::users))]
        name: String,
    },
}

/// API tokens.
#[derive(Debug, clap::Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: Option<TokenCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum TokenCommand {
    /// Add a token; it is shown only now. Needs a password: see --user.
    Add {
        /// What the token is for.
        name: String,
        /// What the token may do, at most what its user may.
        #[arg(long, value_parser = ROLES)]
        role: Option<String>,
        /// When it expires, RFC 3339.
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        #[command(flatten)]
        rules: RulesArgs,
    },
    /// All tokens, without their secrets; the same as without a command.
    List,
    /// Revoke a token.
    Remove {
        /// The token's id.
        #[arg(add = ArgValueCandidates::new(complete::tokens))]
        id: String,
    },
}

/// Log in to a node; later commands need no password.
///
/// The password is typed, or BUSBAR_PASSWORD, or the first line of standard input. What is stored is a
/// token of its own, which `busbar logout` revokes.
#[derive(Debug, clap::Args)]
pub struct LoginArgs {
    /// The user's name.
    name: String,
}

/// Rules that restrict a role: a list that is given allows what it names and nothing else.
#[derive(Debug, clap::Args)]
pub struct RulesArgs {
    /// Publish only this topic filter, or `stream:NAME`; may be given again.
    #[arg(long, value_name = "FILTER")]
    publish: Option<Vec<String>>,
    /// Receive only this topic filter, or `stream:NAME`; may be given again.
    #[arg(long, value_name = "FILTER")]
    subscribe: Option<Vec<String>>,
    /// Read and query only `stream:NAME` or `table:NAME`; may be given again.
    #[arg(long, value_name = "NAME")]
    read: Option<Vec<String>>,
    /// Call only `api:NAME`, whatever the role; may be given again.
    #[arg(long, value_name = "API")]
    call: Option<Vec<String>>,
}

const ROLES: [&str; 4] = ["device", "viewer", "operator", "admin"];

impl RulesArgs {
    /// The rules as the API takes them; `None` when none was given.
    fn rules(&self) -> Option<Value> {
        let mut rules = Map::new();
        for (name, list) in [
            ("publish", &self.publish),
            ("subscribe", &self.subscribe),
            ("read", &self.read),
            ("call", &self.call),
        ] {
            if let Some(list) = list {
                rules.insert(name.to_owned(), json!(list));
            }
        }
        (!rules.is_empty()).then_some(Value::Object(rules))
    }
}

/// Asks the node and prints.
pub fn user(args: &UserArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    match args.command.as_ref().unwrap_or(&UserCommand::List) {
        UserCommand::Add { name, role, rules } => {
            let password = login::typed_password()?;
            let body = json!({
                "name": name,
                "password": password,
                "role": role,
                "rules": rules.rules().unwrap_or_else(|| json!({})),
            });
            let answer = node.post("/api/v1/users", &body)?;
            if json {
                println!("{answer}");
            } else {
                let told = [
                    ("name", name.to_owned()),
                    ("role", say::cell(&answer["role"])),
                ];
                println!("{}", say::line("cli.user-added", &told));
            }
        }
        UserCommand::Change {
            name,
            role,
            no_rules,
            password,
            rules,
        } => {
            let mut body = Map::new();
            if *password {
                body.insert("password".to_owned(), login::typed_password()?.into());
            }
            if let Some(role) = role {
                body.insert("role".to_owned(), role.as_str().into());
            }
            if *no_rules {
                body.insert("rules".to_owned(), json!({}));
            }
            if let Some(rules) = rules.rules() {
                body.insert("rules".to_owned(), rules);
            }
            if body.is_empty() {
                let error = Error::new(Class::Configuration, "cli.nothing-to-change");
                return Err(Failure::new(exit::USAGE, error));
            }
            let path = format!("/api/v1/users/{}", escape(name));
            let answer = node.post(&path, &Value::Object(body))?;
            said(&answer, json, "cli.user-changed", name);
        }
        UserCommand::List => {
            let mut answer = node.get("/api/v1/users")?;
            if !json {
                for user in answer["users"].as_array_mut().into_iter().flatten() {
                    user["rules"] = rules_text(&user["rules"]).into();
                }
            }
            let columns = ["name", "role", "rules"];
            listed(&answer, &answer["users"], &columns, "cli.no-users", json);
        }
        UserCommand::Remove { name } => {
            let answer = node.delete(&format!("/api/v1/users/{}", escape(name)))?;
            said(&answer, json, "cli.user-removed", name);
        }
    }
    Ok(())
}

/// Asks the node and prints.
pub fn token(args: &TokenArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    match args.command.as_ref().unwrap_or(&TokenCommand::List) {
        TokenCommand::Add {
            name,
            role,
            expires,
            rules,
        } => {
            let body = json!({
                "name": name,
                "role": role,
                "expires": expires,
                "rules": rules.rules().unwrap_or_else(|| json!({})),
            });
            let answer = node.post("/api/v1/tokens", &body)?;
            if json {
                println!("{answer}");
            } else {
                println!("{}", say::cell(&answer["token"]));
            }
        }
        TokenCommand::List => {
            let answer = node.get("/api/v1/tokens")?;
            let columns = ["id", "name", "user", "role", "created", "expires"];
            listed(&answer, &answer["tokens"], &columns, "cli.no-tokens", json);
        }
        TokenCommand::Remove { id } => {
            let answer = node.delete(&format!("/api/v1/tokens/{}", escape(id)))?;
            said(&answer, json, "cli.token-removed", id);
        }
    }
    Ok(())
}

/// Adds a token with the password, and stores it.
pub fn login(args: &LoginArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let url = node.url();
    // Without users any password is refused, as a wrong one is.
    if !node.has_users()? {
        let error = Error::new(Class::Configuration, "cli.no-users-yet").with("node", &url);
        return Err(Failure::new(exit::FOUND, error));
    }
    let body = json!({ "name": "busbar login" });
    let answer = node.as_user(&args.name).post("/api/v1/tokens", &body)?;
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    let fresh = Login {
        user: text("user"),
        id: text("id"),
        token: text("token"),
    };
    let before = login::saved(&url);
    login::save(&url, Some(fresh.clone()))?;
    if let Some(before) = before {
        // An old one may have been revoked already.
        let path = format!("/api/v1/tokens/{}", escape(&before.id));
        let _ = node.with_token(&before.token).delete(&path);
    }
    if json {
        println!(
            "{}",
            json!({ "node": url, "user": fresh.user, "id": fresh.id })
        );
    } else {
        let told = [("name", fresh.user), ("node", url)];
        println!("{}", say::line("cli.logged-in", &told));
    }
    Ok(())
}

/// Forgets the stored login and revokes its token. The login is forgotten even when the node cannot be asked:
/// it must not stand in the way of the next command.
pub fn logout(node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let url = node.url();
    let Some(login) = login::saved(&url) else {
        let error = Error::new(Class::Configuration, "cli.not-logged-in").with("node", &url);
        return Err(Failure::new(exit::FOUND, error));
    };
    login::save(&url, None)?;
    let path = format!("/api/v1/tokens/{}", escape(&login.id));
    let revoked = match node.with_token(&login.token).delete(&path) {
        Ok(_) => true,
        // The node does not accept the token any more.
        Err(failure) if failure.code == exit::DENIED => true,
        Err(failure) => {
            failure.print_warning();
            let told = [("id", login.id), ("node", url.clone())];
            eprintln!("busbar: {}", say::line("cli.token-left", &told));
            false
        }
    };
    if json {
        println!(
            "{}",
            json!({ "node": url, "user": login.user, "revoked": revoked })
        );
    } else {
        let told = [("name", login.user), ("node", url)];
        println!("{}", say::line("cli.logged-out", &told));
    }
    Ok(())
}

fn said(answer: &Value, json: bool, code: &str, name: &str) {
    if json {
        println!("{answer}");
    } else {
        println!("{}", say::line(code, &[("name", name.to_owned())]));
    }
}

/// Rules in one line, as `publish: a/#, b; read: stream:meter`; nothing where the role alone decides.
fn rules_text(rules: &Value) -> String {
    let rules = rules.as_object().into_iter().flatten();
    let lists = rules.filter_map(|(kind, list)| {
        let list: Vec<String> = list.as_array()?.iter().map(say::cell).collect();
        Some(format!("{kind}: {}", list.join(", ")))
    });
    lists.collect::<Vec<_>>().join("; ")
}

fn listed(answer: &Value, list: &Value, columns: &[&str], none: &str, json: bool) {
    if json {
        println!("{answer}");
    } else {
        say::list(list, columns, none);
    }
}
