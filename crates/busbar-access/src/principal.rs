//! The authenticated caller and what it may do.

use std::fmt;
use std::sync::Arc;

use busbar_event::topic::Filter;
use busbar_event::{Class, Error};

use crate::role::{Right, Role};
use crate::rules::{Grant, Reach, Rules, reach};
use crate::secret::Digest;

/// How a principal was authenticated.
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

/// An authenticated caller. Cheap to clone and to query; it holds no secret.
///
/// A principal is a snapshot of its user at the time of the login. Long connections compare
/// [`crate::Access::epoch`] and fetch a new snapshot with [`crate::Access::current`] when it changed.
#[derive(Clone, Debug)]
pub struct Principal(Arc<Inner>);

struct Inner {
    name: Arc<str>,
    role: Role,
    via: Via,
    proof: Proof,
    rules: Arc<Rules>,
    token: Option<TokenRights>,
}

/// What a token restricts its user's rights to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRights {
    pub role: Role,
    pub rules: Arc<Rules>,
    /// Whether the token expires.
    pub expires: bool,
}

/// The credential a login depends on: when the credential is gone, the login is over.
#[derive(Clone, Copy)]
pub(crate) enum Proof {
    /// None, or a token, which [`Via`] names.
    None,
    /// The password that was set at this epoch.
    PasswordOf(u64),
    /// This session.
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
    /// The caller over loopback on a node that has no users yet. May do everything.
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
        rules: Arc<Rules>,
        token: Option<TokenRights>,
    ) -> Principal {
        Principal(Arc::new(Inner {
            name,
            role,
            via,
            proof,
            rules,
            token,
        }))
    }

    /// The user's name; `local` when there are no users.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The role in effect: at most the user's and the token's, and at most operator for a login
    /// that rules restrict.
    pub fn role(&self) -> Role {
        let role = match self.0.token.as_ref().map(|token| token.role) {
            Some(token) => self.0.role.at_most(token),
            None => self.0.role,
        };
        if role == Role::Admin && self.is_restricted() {
            Role::Operator
        } else {
            role
        }
    }

    /// How the login was made.
    pub fn via(&self) -> &Via {
        &self.0.via
    }

    /// The credential the login depends on.
    pub(crate) fn proof(&self) -> Proof {
        self.0.proof
    }

    /// True for [`Principal::local`].
    pub fn is_local(&self) -> bool {
        self.0.via == Via::Local
    }

    /// Whether both have exactly the same rights.
    pub fn same_rights(&self, other: &Principal) -> bool {
        self.0.role == other.0.role
            && self.0.rules == other.0.rules
            && self.0.token == other.0.token
    }

    /// Whether rules restrict this login, the user's or the token's.
    pub fn is_restricted(&self) -> bool {
        !self.0.rules.is_empty()
            || self
                .0
                .token
                .as_ref()
                .is_some_and(|token| !token.rules.is_empty())
    }

    /// Whether this login has every right of its user, for as long as the user has them: it was made
    /// with the password, or with a token that has neither a lower role, nor rules, nor an end.
    pub fn has_all_rights_of_user(&self) -> bool {
        self.0.token.as_ref().is_none_or(|token| {
            token.role == self.0.role && token.rules.is_empty() && !token.expires
        })
    }

    /// Whether the role grants `right`. Rules restrict publishing, receiving and reading further, and
    /// take the right to administer.
    pub fn has(&self, right: Right) -> bool {
        let granted = self.0.role.grants(right)
            && self
                .0
                .token
                .as_ref()
                .is_none_or(|token| token.role.grants(right));
        granted && (right != Right::Administer || !self.is_restricted())
    }

    /// True when every event may be published and received: no rule has to be checked.
    pub fn is_unrestricted(&self) -> bool {
        self.has(Right::Publish) && self.has(Right::Receive) && !self.is_restricted()
    }

    /// Whether it may publish to `topic`, which `stream` captures.
    pub fn may_publish(&self, topic: &str, stream: &str) -> bool {
        self.has(Right::Publish)
            && self
                .lists(Rules::publish)
                .all(|list| list.iter().any(|grant| grant.allows(topic, stream)))
    }

    /// How much of what `filter` matches it may receive.
    pub fn may_subscribe(&self, filter: &Filter) -> Reach {
        if !self.has(Right::Receive) {
            return Reach::None;
        }
        let mut all = Reach::All;
        for list in self.lists(Rules::subscribe) {
            match reach(list, filter) {
                Reach::All => {}
                Reach::Some => all = Reach::Some,
                Reach::None => return Reach::None,
            }
        }
        all
    }

    /// Whether it may receive events of `topic`, which `stream` captures.
    pub fn may_receive(&self, topic: &str, stream: &str) -> bool {
        self.has(Right::Receive)
            && self
                .lists(Rules::subscribe)
                .all(|list| list.iter().any(|grant| grant.allows(topic, stream)))
    }

    /// Whether it may read all of the history of `stream`.
    pub fn may_read_stream(&self, stream: &str) -> bool {
        self.may_read(|grant| matches!(grant, Grant::Stream(name) if name == stream))
    }

    /// Whether it may read `table`.
    pub fn may_read_table(&self, table: &str) -> bool {
        self.may_read(|grant| matches!(grant, Grant::Table(name) if name == table))
    }

    /// Whether it may query a table of a database, by its name from the connection on: `pg.public.patient`. Its rules must name
    /// it, `table:pg.public.patient` or `table:pg.*`; without that it takes the role of an operator.
    pub fn may_query_database(&self, table: &str) -> bool {
        let names = |grant: &Grant| match grant {
            Grant::Table(name) => {
                let below = name.strip_suffix('*').filter(|below| below.ends_with('.'));
                name == table || below.is_some_and(|below| table.starts_with(below))
            }
            _ => false,
        };
        // A token's own rules give its user nothing.
        let of_user = self.0.rules.read().unwrap_or_default();
        let is_named = of_user.iter().any(names);
        self.may_read(names) && (is_named || self.require(Role::Operator).is_ok())
    }

    /// Whether it may call an API. Rules say so by a list `call`, whatever the role; rules without one allow none. Where there are no
    /// rules it takes `role`. A token allows no more than its user may.
    pub fn may_call(&self, api: &str, role: Role) -> bool {
        let may = |rules: &Rules, own: Role| match rules.call() {
            Some(list) => list.iter().any(|grant| match grant {
                Grant::Api(name) => name == api,
                Grant::Topics(filter) => filter.as_str() == "#",
                Grant::Stream(_) | Grant::Table(_) => false,
            }),
            None => rules.is_empty() && role.rights().all(|right| own.grants(right)),
        };
        may(&self.0.rules, self.0.role)
            && self
                .0
                .token
                .as_ref()
                .is_none_or(|token| may(&token.rules, token.role))
    }

    /// Whether it may read every stream and every table.
    pub fn may_read_all(&self) -> bool {
        self.may_read(|_| false)
    }

    /// Checks that this login has all rights of `role`.
    ///
    /// # Errors
    /// `access.role-needed`, or `access.admin-restricted` when only the rules stand in the way.
    pub fn require(&self, role: Role) -> Result<(), Error> {
        let missing = role.rights().find(|right| !self.has(*right));
        match missing {
            None => Ok(()),
            Some(right) => Err(self.refusal(right, role.as_str())),
        }
    }

    /// Checks that this login may publish at all.
    ///
    /// # Errors
    /// `access.role-needed`.
    pub fn require_publish(&self) -> Result<(), Error> {
        if self.has(Right::Publish) {
            Ok(())
        } else {
            Err(self.refusal(Right::Publish, Role::Operator.as_str()))
        }
    }

    /// Checks that this login may manage users and tokens. A token that has less than its user must not:
    /// what it creates would have more, or remain when the token is gone.
    ///
    /// # Errors
    /// As [`Principal::require`]; `access.token-limited`.
    pub fn require_user_management(&self) -> Result<(), Error> {
        self.require(Role::Admin)?;
        if self.has_all_rights_of_user() {
            Ok(())
        } else {
            Err(Error::new(Class::Permanent, "access.token-limited"))
        }
    }

    fn refusal(&self, missing: Right, needed: &'static str) -> Error {
        let role_grants = self.0.role.grants(missing)
            && self
                .0
                .token
                .as_ref()
                .is_none_or(|token| token.role.grants(missing));
        if role_grants {
            return Error::new(Class::Permanent, "access.admin-restricted");
        }
        Error::new(Class::Permanent, "access.role-needed")
            .with("needed", needed)
            .with("role", self.role())
    }

    fn may_read(&self, named: impl Fn(&Grant) -> bool) -> bool {
        self.has(Right::Read)
            && self.lists(Rules::read).all(|list| {
                list.iter().any(|grant| {
                    named(grant) || matches!(grant, Grant::Topics(f) if f.as_str() == "#")
                })
            })
    }

    /// The lists that apply, the user's and the token's: each of them must allow.
    fn lists<'a>(
        &'a self,
        pick: impl Fn(&'a Rules) -> Option<&'a [Grant]>,
    ) -> impl Iterator<Item = &'a [Grant]> {
        [
            Some(&*self.0.rules),
            self.0.token.as_ref().map(|token| &*token.rules),
        ]
        .into_iter()
        .flatten()
        .filter_map(pick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Arc<Rules> {
        Arc::new(serde_json::from_str(text).unwrap())
    }

    fn with(role: Role, user: &str, token: Option<&str>) -> Principal {
        let token = token.map(|text| TokenRights {
            role,
            rules: rules(text),
            expires: false,
        });
        let proof = Proof::PasswordOf(1);
        Principal::new("u".into(), role, Via::Password, proof, rules(user), token)
    }

    fn filter(text: &str) -> Filter {
        Filter::parse(text).unwrap()
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
    fn a_device_publishes_and_receives_and_reads_nothing() {
        let device = with(Role::Device, "{}", None);
        assert!(device.may_publish("a/b", "inbox") && device.may_receive("a/b", "inbox"));
        assert!(device.is_unrestricted());
        assert!(!device.may_read_all() && !device.may_read_stream("inbox"));
        assert!(!device.may_read_table("t"));
        for role in [Role::Viewer, Role::Operator, Role::Admin] {
            let refused = device.require(role).unwrap_err();
            assert_eq!(refused.code(), "access.role-needed", "{role}");
        }
        assert!(with(Role::Viewer, "{}", None).require_publish().is_err());
    }

    #[test]
    fn lists_restrict_and_a_token_restricts_further() {
        let user = r#"{"publish":["meter/#"],"subscribe":["meter/#","stream:rain"],"read":["stream:rain","table:t"]}"#;
        let device = with(Role::Operator, user, Some(r#"{"publish":["meter/m1/+"]}"#));
        assert!(device.may_publish("meter/m1/reading", "meter"));
        assert!(!device.may_publish("meter/m2/reading", "meter"));
        assert!(!device.may_publish("plant/x", "inbox"));
        assert!(device.may_receive("gauge/g1/rain", "rain"));
        assert!(!device.may_receive("gauge/g1/rain", "other"));
        assert_eq!(device.may_subscribe(&filter("meter/+/x")), Reach::All);
        assert_eq!(device.may_subscribe(&filter("#")), Reach::Some);
        assert!(device.may_read_stream("rain") && !device.may_read_stream("meter"));
        assert!(device.may_read_table("t") && !device.may_read_table("u"));
        assert!(!device.may_read_all());
        assert!(with(Role::Viewer, r##"{"read":["#"]}"##, None).may_read_all());
    }

    #[test]
    fn an_api_is_for_the_role_or_for_whoever_the_rules_name() {
        let may = |role, rules: &str, token: Option<&str>| {
            with(role, rules, token).may_call("orders", Role::Operator)
        };
        let named = r#"{"call":["api:orders"]}"#;
        let other = r##"{"call":["api:stock"]}"##;
        for (role, rules, token, expected) in [
            (Role::Operator, "{}", None, true),
            (Role::Viewer, "{}", None, false),
            (Role::Device, named, None, true),
            (Role::Device, r##"{"call":["#"]}"##, None, true),
            (Role::Operator, other, None, false),
            // Who may read one stream must not read another by an API.
            (Role::Operator, r#"{"read":["stream:a"]}"#, None, false),
            (Role::Operator, "{}", Some(named), true),
            (Role::Operator, "{}", Some(other), false),
            (
                Role::Operator,
                "{}",
                Some(r#"{"read":["stream:a"]}"#),
                false,
            ),
            // A token gives no more than its user may.
            (Role::Viewer, "{}", Some(named), false),
        ] {
            assert_eq!(
                may(role, rules, token),
                expected,
                "{role} {rules} {token:?}"
            );
        }
    }

    #[test]
    fn a_database_is_for_operators_and_those_whose_rules_name_it() {
        let may = |role, rules: &str, token: Option<&str>, table: &str| {
            with(role, rules, token).may_query_database(table)
        };
        let named = r#"{"read":["table:pg.public.*","table:maria.t"]}"#;
        for (role, rules, token, table, expected) in [
            (Role::Operator, "{}", None, "pg.public.t", true),
            (Role::Viewer, "{}", None, "pg.public.t", false),
            (Role::Device, "{}", None, "pg.public.t", false),
            (
                Role::Viewer,
                r##"{"read":["#"]}"##,
                None,
                "pg.public.t",
                false,
            ),
            (Role::Viewer, named, None, "pg.public.t", true),
            (Role::Viewer, named, None, "pg.publicity.t", false),
            (Role::Viewer, named, None, "maria.t", true),
            (Role::Viewer, named, None, "maria.u", false),
            (Role::Operator, named, None, "maria.u", false),
            // Nobody gives himself more by a token, and a token can have less.
            (Role::Viewer, "{}", Some(named), "maria.t", false),
            (Role::Operator, "{}", Some(named), "maria.t", true),
            (Role::Operator, "{}", Some(named), "maria.u", false),
        ] {
            assert_eq!(
                may(role, rules, token, table),
                expected,
                "{role} {rules} {token:?} {table}"
            );
        }
    }

    #[test]
    fn a_reader_of_one_stream_receives_that_stream_only() {
        let meter = with(Role::Viewer, r#"{"read":["stream:meter","table:t"]}"#, None);
        assert!(meter.may_receive("meter/m1/reading", "meter"));
        assert!(!meter.may_receive("gauge/g1/rain", "rain"));
        assert_eq!(meter.may_subscribe(&filter("#")), Reach::Some);
        // The reverse: who receives one topic does not read all history.
        let command = with(Role::Operator, r#"{"subscribe":["command/m1/#"]}"#, None);
        assert!(!command.may_read_stream("meter") && !command.may_read_all());
        assert!(with(Role::Viewer, r##"{"subscribe":["#"]}"##, None).may_read_all());
        // A list that is given is the one that counts.
        let both = with(
            Role::Viewer,
            r##"{"read":["stream:meter"],"subscribe":["#"]}"##,
            None,
        );
        assert!(both.may_receive("gauge/g1/rain", "rain") && !both.may_read_stream("rain"));
    }

    #[test]
    fn rules_take_the_right_to_administer() {
        for (user, token) in [
            (r#"{"publish":["a"]}"#, None),
            ("{}", Some(r##"{"read":["#"]}"##)),
            (r#"{"subscribe":[]}"#, Some("{}")),
        ] {
            let restricted = with(Role::Admin, user, token);
            let refused = restricted.require(Role::Admin).unwrap_err();
            assert_eq!(
                refused.code(),
                "access.admin-restricted",
                "{user} {token:?}"
            );
            assert_eq!(restricted.role(), Role::Operator);
            assert!(restricted.require(Role::Operator).is_ok());
            assert!(restricted.require_user_management().is_err());
        }
        assert!(
            with(Role::Admin, "{}", Some("{}"))
                .require_user_management()
                .is_ok()
        );
    }

    #[test]
    fn a_token_has_no_right_that_its_user_lacks() {
        let of = |user, role, expires| {
            let token = TokenRights {
                role,
                rules: Arc::default(),
                expires,
            };
            let via = Via::Token("1".into());
            Principal::new(
                "u".into(),
                user,
                via,
                Proof::None,
                Arc::default(),
                Some(token),
            )
        };
        // The user was a device when the token was made, and is a viewer now.
        let mixed = of(Role::Viewer, Role::Device, false);
        assert!(mixed.may_receive("a", "inbox"));
        assert!(!mixed.may_publish("a", "inbox") && !mixed.may_read_all());
        assert_eq!(of(Role::Viewer, Role::Operator, false).role(), Role::Viewer);
        assert_eq!(of(Role::Admin, Role::Device, false).role(), Role::Device);
        for (role, expires) in [(Role::Admin, true), (Role::Operator, false)] {
            let limited = of(Role::Admin, role, expires);
            assert!(limited.require_user_management().is_err(), "{role}");
        }
        assert!(
            of(Role::Admin, Role::Admin, true)
                .require(Role::Admin)
                .is_ok()
        );
        assert!(
            of(Role::Admin, Role::Admin, false)
                .require_user_management()
                .is_ok()
        );
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
        assert_eq!(none.may_subscribe(&filter("#")), Reach::None);
    }
}
