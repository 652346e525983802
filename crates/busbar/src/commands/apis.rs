//! `busbar apis`: the APIs of a node.

use busbar_event::{Class, Error};
use clap_complete::ArgValueCandidates;

use serde_json::{Map, Value};

use crate::client::{ApiAnswer, NodeArgs, escape};
use crate::exit::{self, Failure};
use crate::{complete, say};

/// List the APIs of a node, describe them, and call them.
#[derive(Debug, clap::Args)]
pub struct ApisArgs {
    #[command(subcommand)]
    command: Option<ApisCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum ApisCommand {
    /// List all APIs that one may call, with their counts; the same as without a command.
    List,
    /// Print the OpenAPI document of an API.
    Describe {
        /// The API.
        #[arg(add = ArgValueCandidates::new(complete::apis))]
        api: String,
    },
    /// Call an API and print what it answers.
    Call {
        /// The API.
        #[arg(add = ArgValueCandidates::new(complete::apis))]
        api: String,
        /// Parameters, each as NAME=VALUE.
        #[arg(value_name = "PARAMETER")]
        parameters: Vec<String>,
        /// All parameters as one JSON object.
        #[arg(long, conflicts_with = "parameters")]
        body: Option<String>,
    },
    /// Print the answer to a call that did not come in time.
    Answer {
        /// The API.
        #[arg(add = ArgValueCandidates::new(complete::apis))]
        api: String,
        /// The request, as the call said it, or the key of the instance.
        id: String,
    },
}

/// Runs `busbar apis`.
pub fn run(args: &ApisArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    match args.command.as_ref().unwrap_or(&ApisCommand::List) {
        ApisCommand::List => {
            let answer = node.get("/api/v1/apis")?;
            if json {
                println!("{answer}");
                return Ok(());
            }
            let columns = [
                "name",
                "work",
                "path",
                "service",
                "in_flight",
                "answered_total",
                "late_total",
                "refused_total",
                "failed_total",
                "description",
            ];
            say::list(&answer["apis"], &columns, "cli.no-apis");
        }
        ApisCommand::Describe { api } => {
            let document = node.get(&format!("/apis/{}/openapi.json", escape(api)))?;
            match json {
                true => println!("{document}"),
                false => println!("{document:#}"),
            }
        }
        ApisCommand::Call {
            api,
            parameters,
            body,
        } => {
            let given = match body {
                Some(body) => object(body)?,
                None => typed(parameters, &kinds(api, parameters, node)?)?,
            };
            let path = format!("/apis/{}", escape(api));
            let answer = node.ask(&path, Some(&Value::Object(given)))?;
            return told(api, &answer, json);
        }
        ApisCommand::Answer { api, id } => {
            let path = format!("/apis/{}/answers/{}", escape(api), escape(id));
            return told(api, &node.ask(&path, None)?, json);
        }
    }
    Ok(())
}

/// Prints an answer as it came, JSON on several lines for people.
///
/// # Errors
/// There is none yet, or it says that the call was refused.
fn told(api: &str, answer: &ApiAnswer, json: bool) -> Result<(), Failure> {
    let value = serde_json::from_str::<Value>(&answer.text);
    match &value {
        Ok(value) if !json => println!("{value:#}"),
        _ => println!("{}", answer.text),
    }
    let value = value.unwrap_or_default();
    let id = value["request"].as_str().or(value["key"].as_str());
    match (answer.status, id) {
        (202, Some(id)) => {
            let error = Error::new(Class::Transient, "cli.api-late");
            Err(Failure::new(
                exit::TRANSIENT,
                error.with("api", api).with("id", id),
            ))
        }
        (200..=299, _) => Ok(()),
        (status, _) => {
            let error = Error::new(Class::Permanent, "cli.api-refused");
            Err(Failure::new(
                exit::FOUND,
                error.with("api", api).with("status", status),
            ))
        }
    }
    .map_err(|failure| match json {
        true => failure.answered(),
        false => failure,
    })
}

/// The types of the API's parameters, by name; the node is not asked where none is given.
fn kinds(api: &str, given: &[String], node: &NodeArgs) -> Result<Map<String, Value>, Failure> {
    if given.is_empty() {
        return Ok(Map::new());
    }
    let list = node.get("/api/v1/apis")?;
    let mut all = list["apis"].as_array().into_iter().flatten();
    let one = all.find(|one| one["name"] == api);
    let parameters = one.and_then(|one| one["parameters"].as_array());
    let parameters = parameters.into_iter().flatten();
    let kinds = parameters.filter_map(|parameter| {
        let name = parameter["name"].as_str()?;
        Some((name.to_owned(), parameter["type"].clone()))
    });
    Ok(kinds.collect())
}

/// Parameters with the types that the API declares. What does not fit, and what is unknown, goes out as text: the node says what
/// is wrong with it.
fn typed(given: &[String], kinds: &Map<String, Value>) -> Result<Map<String, Value>, Failure> {
    let mut all = Map::new();
    for pair in given {
        let Some((name, text)) = pair.split_once('=') else {
            return Err(usage("cli.api-parameter", pair));
        };
        let kind = kinds.get(name).and_then(Value::as_str).unwrap_or_default();
        let read = || serde_json::from_str::<Value>(text).ok();
        let value = match kind {
            "int" | "float" => read().filter(Value::is_number),
            "bool" => read().filter(Value::is_boolean),
            "json" => read(),
            _ => None,
        };
        let value = value.unwrap_or_else(|| text.into());
        if all.insert(name.to_owned(), value).is_some() {
            return Err(usage("cli.api-twice", name));
        }
    }
    Ok(all)
}

fn object(text: &str) -> Result<Map<String, Value>, Failure> {
    serde_json::from_str(text).map_err(|why| {
        let mut failure = usage("cli.api-body", text);
        failure.error = failure.error.caused_by(why);
        failure
    })
}

fn usage(code: &'static str, given: &str) -> Failure {
    let error = Error::new(Class::Configuration, code);
    Failure::new(exit::USAGE, error.with("value", busbar_event::quote(given)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_have_the_types_that_the_api_declares() {
        let kinds = json!({ "n": "int", "x": "float", "b": "bool", "j": "json", "t": "text" });
        let kinds = kinds.as_object().unwrap();
        let given = [
            "n=9007199254740993",
            "x=1.50",
            "b=true",
            "j=[1]",
            "t=007",
            "u=1=2",
        ];
        let given = given.map(str::to_owned);
        let all = Value::Object(typed(&given, kinds).unwrap());
        let expected = r#"{"n":9007199254740993,"x":1.5,"b":true,"j":[1],"t":"007","u":"1=2"}"#;
        assert_eq!(all, serde_json::from_str::<Value>(expected).unwrap());
        // What is no number is for the node to refuse.
        let wrong = typed(&["n=1x".to_owned(), "b=1".to_owned()], kinds).unwrap();
        assert_eq!(Value::Object(wrong), json!({ "n": "1x", "b": "1" }));
        for given in [&["n"][..], &["n=1", "n=2"]] {
            let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(typed(&given, kinds).unwrap_err().code, exit::USAGE);
        }
    }
}
