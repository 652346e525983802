//! Who may connect, publish and subscribe.

use std::net::SocketAddr;
use std::sync::Arc;

use busbar_event::topic::Filter;
use busbar_mqtt::Reason;

/// How much of what a filter matches may be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All of it.
    All,
    /// Part of it: each topic has to be checked.
    Some,
    /// Nothing.
    None,
}

/// What a client says about itself.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Client identifier.
    pub client_id: String,
    /// User name.
    pub username: Option<String>,
    /// Password, or an API token.
    pub password: Option<Vec<u8>>,
    /// Where it connects from; `None` when the HTTP server handed the connection over without.
    pub peer: Option<SocketAddr>,
}

/// Decides who may connect. May block: it is called on other threads than those of the cores.
pub trait Authorizer: Send + Sync {
    /// Checks credentials. Returns the identity, or the reason for the refusal.
    fn authenticate(&self, credentials: &Credentials) -> Result<Arc<dyn Identity>, Reason>;

    /// The same if it does not block; `None` if it may block, so that another thread has to be used.
    fn at_once(&self, credentials: &Credentials) -> Option<Result<Arc<dyn Identity>, Reason>> {
        let _ = credentials;
        None
    }
}

/// Somebody who is connected.
pub trait Identity: Send + Sync {
    /// The user whom the sessions of this login belong to; empty while the node has no users.
    fn user(&self) -> &str;
    /// May it publish to `topic`, which `stream` captures?
    fn may_publish(&self, topic: &str, stream: &str) -> bool;
    /// How much of what `filter` matches may it receive?
    fn may_subscribe(&self, filter: &Filter) -> Reach;
    /// May it receive `topic`, which `stream` captures?
    fn may_receive(&self, topic: &str, stream: &str) -> bool;
    /// True when nothing has to be asked event by event.
    fn is_unrestricted(&self) -> bool;
    /// Whether the login still holds; asked now and then.
    fn is_current(&self) -> bool {
        true
    }
}

/// Allows everything: for tests and for the example server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open;

impl Authorizer for Open {
    fn authenticate(&self, _: &Credentials) -> Result<Arc<dyn Identity>, Reason> {
        Ok(Arc::new(Open))
    }
}

impl Identity for Open {
    fn user(&self) -> &str {
        ""
    }

    fn may_publish(&self, _: &str, _: &str) -> bool {
        true
    }

    fn may_subscribe(&self, _: &Filter) -> Reach {
        Reach::All
    }

    fn may_receive(&self, _: &str, _: &str) -> bool {
        true
    }

    fn is_unrestricted(&self) -> bool {
        true
    }
}
