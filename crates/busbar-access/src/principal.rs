//! Who is asking.

use std::fmt;
use std::sync::Arc;

use busbar_event::topic::Filter;
use busbar_event::{Class, Error};
use serde::{Deserialize, Serialize};

use crate::rules::{Grant, Reach, Rules, reach};
use crate::secret::Digest;

/// What a user or token may do before its rules narrow it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks: receives and reads, changes nothing.
    Viewer,
    /// Works: publishes too, re-drives dead letters, pauses, resumes and replays flows.
    Operator,
    /// Owns the node: applies projects, keeps users.
    Admin,
}

impl Role {
    /// The role's name as it is written in files and on the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a principal proved who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// Over loopback, on a node that has no users yet.
    Local,
    /// By user name and password.
    Password,
    /// By the API token with this id.
    Token(Arc<str>),
    /// By a session cookie.
    Session,
}

/// Somebody who may do something. Cheap to clone and to ask; it holds no secret.
///
/// A principal is a picture of its user at the time of the login. Long connections compare
/// [`crate::Access::epoch`] and fetch a new picture by [`crate::Access::current`] when it moved.
#[derive(Clone, Debug)]
pub struct Principal(Arc<Inner>);

struct Inner {
    name: Arc<str>,
    role: Role,
    via: Via,
    proof: Proof,
    user: Arc<Rules>,
    token: Option<Arc<Rules>>,
}

/// What a login rests on: when it is gone, so is the login.
#[derive(Clone, Copy)]
pub(crate) enum Proof {
    /// On nothing, or on a token, which [`Via`] names.
    None,
    /// On the password that was set at this epoch.
    PasswordOf(u64),
    /// On this session.
    Session(Digest),
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("name", &self.name)
            .field("role", &self.role)
            .field("via", &self.via)
            .finish_non_exhaustive()
    }
}

impl Principal {
    /// Whoever sits at the machine of a node that has no users yet. May do everything.
    pub fn local() -> Principal {
        Principal::new(
            "local".into(),
            Role::Admin,
            Via::Local,
            Proof::None,
            Arc::default(),
            None,
        )
    }

    pub(crate) fn new(
        name: Arc<str>,
        role: Role,
        via: Via,
        proof: Proof,
        user: Arc<Rules>,
        token: Option<Arc<Rules>>,
    ) -> Principal {
        Principal(Arc::new(Inner {
            name,
            role,
            via,
            proof,
            user,
            token,
        }))
    }

    /// The user's name; `local` when there are no users.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The role.
    pub fn role(&self) -> Role {
        self.0.role
    }

    /// How the login was made.
    pub fn via(&self) -> &Via {
        &self.0.via
    }

    /// What the login rests on.
    pub(crate) fn proof(&self) -> Proof {
        self.0.proof
    }

    /// True for [`Principal::local`].
    pub fn is_local(&self) -> bool {
        self.0.via == Via::Local
    }

    /// Whether both may do exactly the same.
    pub fn same_rights(&self, other: &Principal) -> bool {
        self.0.role == other.0.role && self.0.user == other.0.user && self.0.token == other.0.token
    }

    /// True when every event may be published, received and read: no rule has to be asked.
    pub fn is_unrestricted(&self) -> bool {
        self.0.role >= Role::Operator
            && self.0.user.is_empty()
            && self.0.token.as_ref().is_none_or(|rules| rules.is_empty())
    }

    /// May it publish to `topic`, which `stream` captures?
    pub fn may_publish(&self, topic: &str, stream: &str) -> bool {
        self.0.role >= Role::Operator
            && self
                .lists(|rules| &rules.publish)
                .all(|list| list.iter().any(|grant| grant.allows(topic, stream)))
    }

    /// How much of what `filter` matches may it receive?
    pub fn may_subscribe(&self, filter: &Filter) -> Reach {
        let mut all = Reach::All;
        for list in self.lists(|rules| &rules.subscribe) {
            match reach(list, filter) {
                Reach::All => {}
                Reach::Some => all = Reach::Some,
                Reach::None => return Reach::None,
            }
        }
        all
    }

    /// May it receive events of `topic`, which `stream` captures?
    pub fn may_receive(&self, topic: &str, stream: &str) -> bool {
        self.lists(|rules| &rules.subscribe)
            .all(|list| list.iter().any(|grant| grant.allows(topic, stream)))
    }

    /// May it read all of the history of `stream`?
    pub fn may_read_stream(&self, stream: &str) -> bool {
        self.may_read(|grant| matches!(grant, Grant::Stream(name) if name == stream))
    }

    /// May it read `table`?
    pub fn may_read_table(&self, table: &str) -> bool {
        self.may_read(|grant| matches!(grant, Grant::Table(name) if name == table))
    }

    /// May it read every stream and every table?
    pub fn may_read_all(&self) -> bool {
        self.may_read(|_| false)
    }

    /// Refuses when the role is below `role`.
    pub fn require(&self, role: Role) -> Result<(), Error> {
        if self.0.role >= role {
            Ok(())
        } else {
            Err(Error::new(Class::Permanent, "access.role-needed")
                .with("needed", role)
                .with("role", self.0.role))
        }
    }

    fn may_read(&self, named: impl Fn(&Grant) -> bool) -> bool {
        self.lists(|rules| &rules.read).all(|list| {
            list.iter()
                .any(|grant| named(grant) || matches!(grant, Grant::Topics(f) if f.as_str() == "#"))
        })
    }

    /// The lists that are given, the user's and the token's: each of them must allow.
    fn lists<'a>(
        &'a self,
        pick: impl Fn(&'a Rules) -> &'a Option<Vec<Grant>>,
    ) -> impl Iterator<Item = &'a [Grant]> {
        [Some(&*self.0.user), self.0.token.as_deref()]
            .into_iter()
            .flatten()
            .filter_map(move |rules| pick(rules).as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Arc<Rules> {
        Arc::new(serde_json::from_str(text).unwrap())
    }

    fn with(role: Role, user: &str, token: Option<&str>) -> Principal {
        Principal::new(
            "u".into(),
            role,
            Via::Password,
            Proof::PasswordOf(1),
            rules(user),
            token.map(rules),
        )
    }

    #[test]
    fn a_role_without_lists_has_its_defaults() {
        let viewer = with(Role::Viewer, "{}", None);
        assert!(!viewer.may_publish("a/b", "inbox"));
        assert!(viewer.may_receive("a/b", "inbox"));
        assert!(viewer.may_read_stream("inbox"));
        assert!(!viewer.is_unrestricted());
        let operator = with(Role::Operator, "{}", None);
        assert!(operator.may_publish("a/b", "inbox") && operator.is_unrestricted());
        assert!(operator.may_read_all() && viewer.may_read_all());
        assert!(operator.require(Role::Admin).is_err());
        assert!(Principal::local().require(Role::Admin).is_ok());
    }

    #[test]
    fn lists_narrow_and_a_token_narrows_further() {
        let user = r#"{"publish":["meter/#"],"subscribe":["meter/#","stream:rain"],"read":["stream:rain","table:t"]}"#;
        let device = with(Role::Operator, user, Some(r#"{"publish":["meter/m1/+"]}"#));
        assert!(device.may_publish("meter/m1/reading", "meter"));
        assert!(!device.may_publish("meter/m2/reading", "meter"));
        assert!(!device.may_publish("plant/x", "inbox"));
        assert!(device.may_receive("gauge/g1/rain", "rain"));
        assert!(!device.may_receive("gauge/g1/rain", "other"));
        assert_eq!(
            device.may_subscribe(&Filter::parse("meter/+/x").unwrap()),
            Reach::All
        );
        assert_eq!(
            device.may_subscribe(&Filter::parse("#").unwrap()),
            Reach::Some
        );
        assert!(device.may_read_stream("rain") && !device.may_read_stream("meter"));
        assert!(device.may_read_table("t") && !device.may_read_table("u"));
        assert!(!device.may_read_all());
        assert!(with(Role::Viewer, r##"{"read":["#"]}"##, None).may_read_all());
    }

    #[test]
    fn an_empty_list_allows_nothing() {
        let none = with(
            Role::Admin,
            r#"{"publish":[],"subscribe":[],"read":[]}"#,
            None,
        );
        assert!(!none.may_publish("a", "inbox"));
        assert!(!none.may_receive("a", "inbox"));
        assert!(!none.may_read_stream("inbox"));
        assert_eq!(
            none.may_subscribe(&Filter::parse("#").unwrap()),
            Reach::None
        );
    }
}
