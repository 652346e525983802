//! Who makes a change, and from where.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::USER_AGENT;
use axum::http::request::Parts;
use busbar_access::{Principal, Via};

use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::audit::{Action, Entry, cut, details};
use crate::guard::Caller;
use crate::peer::Link;

/// The author of a change, for the audit log. Handlers that change something take it as an argument.
#[derive(Clone)]
pub(crate) struct Actor {
    pub(crate) caller: Principal,
    origin: &'static str,
    peer: IpAddr,
}

impl FromRequestParts<Arc<App>> for Actor {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Answer<Self> {
        let Caller(caller) = Caller::from_request_parts(parts, app).await?;
        let link = Link::from_request_parts(parts, app).await?;
        let agent = parts.headers.get(USER_AGENT);
        let cli = agent.is_some_and(|agent| agent.as_bytes().starts_with(b"busbar/"));
        // Only browsers say where a request was made.
        let browser = parts.headers.contains_key("sec-fetch-site");
        let origin = match caller.via() {
            Via::Session => "console",
            _ if cli => "cli",
            Via::Local if browser => "console",
            _ => "api",
        };
        Ok(Actor {
            caller,
            origin,
            peer: link.address().ip().to_canonical(),
        })
    }
}

impl Actor {
    /// Writes down what was done. The change is made already, so an entry that cannot be written is logged
    /// instead.
    pub(crate) async fn record(
        &self,
        app: &App,
        action: Action,
        target: impl Into<String>,
        detail: &[(&str, String)],
    ) {
        let (via, token) = match self.caller.via() {
            Via::Local => ("local", None),
            Via::Password => ("password", None),
            Via::Session => ("session", None),
            Via::Token(id) => ("token", Some(id.to_string())),
        };
        let entry = Entry {
            time: app.audit.now(),
            user: self.caller.name().to_owned(),
            via: via.to_owned(),
            token,
            origin: self.origin.to_owned(),
            peer: Some(self.peer),
            action: action.as_str().to_owned(),
            target: cut(&target.into()),
            detail: details(detail),
        };
        app.audit.record(entry).await;
    }
}
