//! The node's REST API, as the commands use it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use busbar_event::{Class, Error, Language};
use serde_json::Value;

use crate::exit::{self, Failure};
use crate::login::{self, Login};
use crate::say::language;
use crate::{trust, unreachable};

/// A node that is running, here or elsewhere.
#[derive(Debug, Clone, clap::Args)]
pub struct NodeArgs {
    /// The running node's address.
    #[arg(
        long,
        global = true,
        env = "BUSBAR_NODE",
        value_name = "URL",
        help_heading = "Node"
    )]
    node: Option<String>,
    /// An API token, when the node has users.
    #[arg(
        long,
        global = true,
        env = "BUSBAR_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        help_heading = "Node"
    )]
    token: Option<String>,
    /// Log in with this user's password (BUSBAR_PASSWORD, or typed) for this one command.
    #[arg(
        long,
        global = true,
        env = "BUSBAR_USER",
        value_name = "NAME",
        help_heading = "Node"
    )]
    user: Option<String>,
    /// Certificates (PEM) to trust when the node's address begins with https: of authorities, or the node's own.
    #[arg(
        long,
        global = true,
        env = "BUSBAR_CA",
        value_name = "FILE",
        help_heading = "Node"
    )]
    ca: Option<PathBuf>,
    /// How long an answer may take as a whole; unbounded when not given, since queries may be long.
    #[arg(skip)]
    answer_max: Option<Duration>,
}

/// What an API of the project answered.
pub struct ApiAnswer {
    /// The status of HTTP.
    pub status: u16,
    /// The body.
    pub text: String,
}

/// Largest answer that is read into memory, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 30;
/// How long opening a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Names the program to the node, whose audit log tells commands from other clients by it.
const USER_AGENT: &str = concat!("busbar/", env!("CARGO_PKG_VERSION"));
const DEFAULT_LISTEN: &str = "127.0.0.1:8080";

impl NodeArgs {
    /// The node of a command line that is still being typed, asked without a password. `typed` returns the value that
    /// was typed for an option.
    pub fn while_typing(typed: impl Fn(&str) -> Option<String>, answer_max: Duration) -> NodeArgs {
        let given = |option, variable| typed(option).or_else(|| std::env::var(variable).ok());
        NodeArgs {
            node: given("--node", "BUSBAR_NODE"),
            token: given("--token", "BUSBAR_TOKEN"),
            user: None,
            ca: given("--ca", "BUSBAR_CA").map(PathBuf::from),
            answer_max: Some(answer_max),
        }
    }

    /// The node's address, without a slash at the end.
    pub fn url(&self) -> String {
        if let Some(url) = &self.node {
            let address = url.trim_end_matches('/');
            return match url.contains("://") {
                true => address.to_owned(),
                false => format!("http://{address}"),
            };
        }
        // The same setting that tells a node where to listen tells its commands where to ask.
        let listen =
            std::env::var("BUSBAR_HTTP_LISTEN").unwrap_or_else(|_| DEFAULT_LISTEN.to_owned());
        format!("http://{listen}")
    }

    /// The same node, asked with a name and password.
    pub fn as_user(&self, name: &str) -> NodeArgs {
        NodeArgs {
            token: None,
            user: Some(name.to_owned()),
            ..self.clone()
        }
    }

    /// The same node, asked with a token.
    pub fn with_token(&self, token: &str) -> NodeArgs {
        NodeArgs {
            token: Some(token.to_owned()),
            user: None,
            ..self.clone()
        }
    }

    /// GET.
    ///
    /// # Errors
    /// When the node is not there, refuses, or answers what is not JSON.
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        let request = self.agent()?.get(self.place(path)?);
        self.read(self.authorized(request)?.call())
    }

    /// Whether the node has users, asked without a login.
    ///
    /// # Errors
    /// As [`NodeArgs::get`].
    pub fn has_users(&self) -> Result<bool, Failure> {
        let request = self.agent()?.get(self.place("/api/v1/session")?);
        Ok(self.read(request.call())?["users"] != false)
    }

    /// POST of a JSON body.
    ///
    /// # Errors
    /// As [`NodeArgs::get`].
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.agent()?.post(self.place(path)?);
        self.read(self.authorized(request)?.send_json(body))
    }

    /// POST of a JSON body to an API of the project, or GET without one. The answer may be anything, with any status.
    ///
    /// # Errors
    /// When the node is not there or refuses.
    pub fn ask(&self, path: &str, body: Option<&Value>) -> Result<ApiAnswer, Failure> {
        let (agent, place) = (self.agent()?, self.place(path)?);
        let (status, text) = self.text(match body {
            Some(body) => self.authorized(agent.post(place))?.send_json(body),
            None => self.authorized(agent.get(place))?.call(),
        })?;
        if !status.is_success()
            && let Ok(value) = serde_json::from_str::<Value>(&text)
            && value["error"]["message"].is_string()
        {
            return Err(self.refused(status.as_u16(), &value));
        }
        Ok(ApiAnswer {
            status: status.as_u16(),
            text,
        })
    }

    /// DELETE.
    ///
    /// # Errors
    /// As [`NodeArgs::get`].
    pub fn delete(&self, path: &str) -> Result<Value, Failure> {
        let request = self.agent()?.delete(self.place(path)?);
        self.read(self.authorized(request)?.call())
    }

    /// The `data` lines of a server-sent event stream, for as long as it lasts and `each` says so.
    ///
    /// # Errors
    /// As [`NodeArgs::get`]; also when the stream breaks.
    pub fn events(&self, path: &str, mut each: impl FnMut(&str) -> bool) -> Result<(), Failure> {
        let request = self.agent()?.get(self.place(path)?);
        let mut answer = self
            .authorized(request)?
            .call()
            .map_err(|why| self.unreachable(why))?;
        if !answer.status().is_success() {
            return self.read(Ok(answer)).map(drop);
        }
        let reader = BufReader::new(answer.body_mut().with_config().limit(u64::MAX).reader());
        for line in reader.lines() {
            let line = line.map_err(|why| self.broken(why))?;
            if let Some(data) = line.strip_prefix("data:")
                && !each(data.trim_start())
            {
                break;
            }
        }
        Ok(())
    }

    /// POST of a JSON body whose answer comes in lines; `each` gets one after the other.
    ///
    /// # Errors
    /// As [`NodeArgs::get`]; also when the connection breaks or `each` fails.
    pub fn lines(
        &self,
        path: &str,
        body: &Value,
        mut each: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let request = self.agent()?.post(self.place(path)?);
        let request = self.authorized(request)?;
        let mut answer = request
            .header("Accept", "application/x-ndjson")
            .send_json(body)
            .map_err(|why| self.unreachable(why))?;
        if !answer.status().is_success() {
            return self.read(Ok(answer)).map(drop);
        }
        let reader = BufReader::new(answer.body_mut().with_config().limit(u64::MAX).reader());
        for line in reader.lines() {
            each(&line.map_err(|why| self.broken(why))?)?;
        }
        Ok(())
    }

    fn broken(&self, why: std::io::Error) -> Failure {
        let error = Error::new(Class::Transient, "cli.stream-broken").with("node", self.url());
        Failure::new(exit::UNAVAILABLE, error.caused_by(why))
    }

    /// The address of a path of the node.
    fn place(&self, path: &str) -> Result<ureq::http::Uri, Failure> {
        let url = self.url();
        let place = format!("{url}{path}").parse::<ureq::http::Uri>().ok();
        let place = place.filter(|place| matches!(place.scheme_str(), Some("http" | "https")));
        place.ok_or_else(|| {
            let given = self.node.as_deref().unwrap_or(&url);
            let error = Error::new(Class::Configuration, "cli.bad-address").with("node", given);
            Failure::new(exit::USAGE, error)
        })
    }

    fn agent(&self) -> Result<ureq::Agent, Failure> {
        let config = ureq::Agent::config_builder()
            .user_agent(USER_AGENT)
            .http_status_as_error(false)
            .timeout_global(self.answer_max)
            .timeout_connect(Some(CONNECT_MAX))
            .build();
        match &self.ca {
            Some(path) => Ok(trust::agent(config, path)?),
            None => Ok(config.into()),
        }
    }

    /// The login that `busbar login` stored for the node, when no other is given.
    fn stored_login(&self) -> Option<Login> {
        if self.user.is_some() || self.token.is_some() {
            return None;
        }
        login::saved(&self.url())
    }

    /// Adds the login: `--user` before `--token`, both before the stored one.
    fn authorized<B>(
        &self,
        request: ureq::RequestBuilder<B>,
    ) -> Result<ureq::RequestBuilder<B>, Failure> {
        if let Some(user) = &self.user {
            let pair = format!("{user}:{}", own_password()?);
            let pair = base64::engine::general_purpose::STANDARD.encode(pair);
            return Ok(request.header("Authorization", format!("Basic {pair}")));
        }
        if let Some(token) = &self.token {
            return Ok(request.header("Authorization", format!("Bearer {token}")));
        }
        Ok(match self.stored_login() {
            Some(login) => request.header("Authorization", format!("Bearer {}", login.token)),
            None => request,
        })
    }

    /// The status of an answer, and all of its text.
    fn text(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<(ureq::http::StatusCode, String), Failure> {
        let mut answer = answer.map_err(|why| self.unreachable(why))?;
        let status = answer.status();
        let text = answer
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_string()
            .map_err(|why| self.unreachable(why))?;
        Ok((status, text))
    }

    fn read(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, Failure> {
        let (status, text) = self.text(answer)?;
        let value: Value = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).map_err(|why| {
                let error =
                    Error::new(Class::Transient, "cli.strange-answer").with("node", self.url());
                Failure::new(
                    exit::UNAVAILABLE,
                    error.with("status", status).caused_by(why),
                )
            })?
        };
        if status.is_success() {
            return Ok(value);
        }
        Err(self.refused(status.as_u16(), &value))
    }

    /// Why a node refuses, by the body of its answer.
    fn refused(&self, status: u16, value: &Value) -> Failure {
        let refused = &value["error"];
        if refused["code"] == "access.refused"
            && let Some(login) = self.stored_login()
        {
            let error = Error::new(Class::Permanent, "cli.stale-login")
                .with("name", login.user)
                .with("node", self.url());
            return Failure::new(exit::DENIED, error).with_told(refused.clone());
        }
        if !refused["message"].is_string() {
            // A proxy in between, or a node that stops.
            let error = Error::new(Class::Transient, "cli.no-message").with("node", self.url());
            return Failure::new(exit::UNAVAILABLE, error.with("status", status));
        }
        refusal(status, refused)
    }

    fn unreachable(&self, why: ureq::Error) -> Failure {
        let error = unreachable::explain(why, &self.url(), self.ca.as_deref());
        Failure::new(exit::UNAVAILABLE, error)
    }
}

/// The password of `--user`, asked for once.
fn own_password() -> Result<&'static str, Failure> {
    static PASSWORD: OnceLock<String> = OnceLock::new();
    if let Some(password) = PASSWORD.get() {
        return Ok(password);
    }
    let password = login::password()?;
    Ok(PASSWORD.get_or_init(|| password))
}

/// Hints for the command line, by the code of the node's refusal.
const HINTS: &[(&str, &str)] = &[
    ("access.login-needed", "cli.login-how"),
    ("access.session-needs-password", "cli.password-how"),
    ("access.token-needs-password", "cli.password-how"),
    ("access.unknown-token", "cli.tokens-how"),
    ("access.unknown-user", "cli.users-how"),
    ("flow.no-connection", "cli.connections-how"),
    ("flow.unknown", "cli.flows-how"),
    ("orchestrate.unknown", "cli.orchestrations-how"),
    ("plugin.unknown", "cli.plugins-how"),
    ("server.copy-table", "cli.connections-how"),
    ("server.unknown-api", "cli.apis-how"),
    ("server.unknown-flow", "cli.flows-how"),
    ("server.unknown-letter", "cli.dead-letters-how"),
];

/// A refusal of the node, in the reader's language.
pub fn refusal(status: u16, error: &Value) -> Failure {
    let (key, cause) = match language() {
        Language::Zh => ("message_zh", "cause_zh"),
        Language::En => ("message", "cause"),
    };
    let text = error[key].as_str().or_else(|| error["message"].as_str());
    let mut text = text.unwrap_or_default().to_owned();
    let cause = error[cause].as_str().or_else(|| error["cause"].as_str());
    if let Some(cause) = cause {
        text = format!("{text}: {cause}");
    }
    if let Some((_, hint)) = HINTS.iter().find(|(code, _)| error["code"] == *code) {
        text = format!("{text}; {}", crate::say::line(hint, &[]));
    }
    let class = match error["class"].as_str() {
        Some("transient") => Class::Transient,
        Some("configuration") => Class::Configuration,
        _ => Class::Permanent,
    };
    let code = match (status, class) {
        (401 | 403, _) => exit::DENIED,
        (_, Class::Transient) => exit::TRANSIENT,
        (_, Class::Configuration) => exit::CONFIGURATION,
        (_, Class::Permanent) => exit::FOUND,
    };
    Failure::new(code, Error::new(class, "cli.refused").with("text", text)).with_told(error.clone())
}

/// A text as one segment of a path or one value of a query.
pub fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_survives_the_query_string() {
        assert_eq!(escape("alarm/#"), "alarm%2F%23");
        assert_eq!(escape("电表-1"), "%E7%94%B5%E8%A1%A8-1");
    }

    #[test]
    fn what_is_not_there_comes_with_the_command_that_lists_what_is() {
        for (code, hint) in HINTS {
            let error = serde_json::json!({ "class": "permanent", "code": code, "message": "no" });
            let told = refusal(404, &error).error.to_string();
            let hint = crate::say::line(hint, &[]);
            assert!(hint.contains("`busbar "), "{code}: {hint}");
            assert!(told.contains(&hint), "{code}: {told}");
        }
    }

    #[test]
    fn a_refusal_keeps_its_class_as_an_exit_code() {
        let error = serde_json::json!({ "class": "configuration", "message": "no such stream", "message_zh": "没有这个流" });
        assert_eq!(refusal(404, &error).code, exit::CONFIGURATION);
        assert_eq!(refusal(401, &error).code, exit::DENIED);
        assert!(
            refusal(404, &error)
                .error
                .to_string()
                .contains("no such stream")
                || language() == Language::Zh
        );
    }
}
