//! Who may connect, publish and subscribe.

use std::net::SocketAddr;
use std::sync::Arc;

use busbar_event::topic::Filter;

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

/// Where a connection comes from, and what its transport proves.
#[derive(Clone, Debug, Default)]
pub struct ClientOrigin {
    /// The address of the client; `None` when the connection was handed over without.
    pub address: Option<SocketAddr>,
    /// The name of a user that is proven without a password: the common name in a client certificate that TLS has
    /// verified, or what a gateway says of the address.
    pub user: Option<Arc<str>>,
}

impl From<Option<SocketAddr>> for ClientOrigin {
    fn from(address: Option<SocketAddr>) -> ClientOrigin {
        ClientOrigin {
            address,
            user: None,
        }
    }
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
    /// Where it connects from.
    pub origin: ClientOrigin,
}

/// Why a login was refused. Each gateway says it in the words of its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// A login is needed and none was given.
    NoCredentials,
    /// The user name, password, token or certificate is wrong.
    BadCredentials,
    /// Too many attempts: later it may work.
    TryLater,
    /// The login could not be checked because of a fault of the node.
    Failed,
}

impl Denied {
    /// The same in words, for logs.
    pub fn name(self) -> &'static str {
        match self {
            Denied::NoCredentials => "no credentials",
            Denied::BadCredentials => "bad user name or password",
            Denied::TryLater => "too many attempts",
            Denied::Failed => "the login could not be checked",
        }
    }
}

/// Decides who may connect. May block: it is called on other threads than the worker threads.
pub trait Authorizer: Send + Sync {
    /// Checks credentials.
    ///
    /// # Errors
    /// The reason for the refusal.
    fn authenticate(&self, credentials: &Credentials) -> Result<Arc<dyn Identity>, Denied>;

    /// The same if it does not block; `None` if it may block, so that another thread has to be used.
    fn at_once(&self, credentials: &Credentials) -> Option<Result<Arc<dyn Identity>, Denied>> {
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
    fn authenticate(&self, _: &Credentials) -> Result<Arc<dyn Identity>, Denied> {
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
