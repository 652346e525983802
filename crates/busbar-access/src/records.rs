//! The stored records of users, tokens and sessions, and their keys.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use busbar_event::{Class, Error};
use serde::{Deserialize, Serialize};

use crate::attempts::Attempts;
use crate::limits::{
    SESSION_AGE_SECONDS_MAX, SESSIONS_MAX, SESSIONS_PER_USER_MAX, USER_NAME_BYTES_MAX,
    VERIFIED_MAX, VERIFIED_SECONDS,
};
use crate::principal::{Principal, Proof, TokenRights, Via};
use crate::role::Role;
use crate::rules::Rules;
use crate::secret::Digest;

/// A user, under `user/NAME`.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct UserRecord {
    pub hash: String,
    /// The epoch at which this process saw the password set; logins by an older one are over.
    #[serde(skip)]
    pub password_epoch: u64,
    pub role: Role,
    #[serde(with = "shared")]
    pub rules: Arc<Rules>,
    pub created: i64,
}

/// A token, under `token/ID`: of its secret only the digest is stored.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct TokenRecord {
    pub name: String,
    pub user: String,
    pub digest: String,
    pub role: Role,
    #[serde(with = "shared")]
    pub rules: Arc<Rules>,
    pub created: i64,
    pub expires: Option<i64>,
}

/// A console session, under `session/DIGEST`.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct SessionRecord {
    pub user: String,
    pub created: i64,
    pub expires: i64,
    /// The end that was stored last; use extends `expires` in memory.
    #[serde(skip)]
    pub saved: i64,
}

impl SessionRecord {
    /// When it ends, in seconds since 1970, however much it is used.
    pub fn end(&self) -> i64 {
        self.expires.min(self.created + SESSION_AGE_SECONDS_MAX)
    }

    /// Extends it, as use does.
    pub fn touch(&mut self, now: i64, idle_seconds: i64) {
        self.expires = (now + idle_seconds).min(self.created + SESSION_AGE_SECONDS_MAX);
    }
}

/// All records in memory, and the counts of failed logins.
#[derive(Default)]
pub(crate) struct State {
    pub users: BTreeMap<String, UserRecord>,
    pub tokens: BTreeMap<String, TokenRecord>,
    pub sessions: HashMap<Digest, SessionRecord>,
    pub attempts: Attempts,
    /// Digests of passwords that were verified recently, and until when they count.
    pub verified: HashMap<Digest, i64>,
}

impl State {
    pub fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let damaged = || {
            Error::new(Class::Permanent, "access.damaged")
                .with("key", clip(&String::from_utf8_lossy(key)))
        };
        let key_text = std::str::from_utf8(key).map_err(|_| damaged())?;
        match key_text.split_once('/') {
            Some(("user", name)) => {
                let record = serde_json::from_slice(value).map_err(|_| damaged())?;
                self.users.insert(name.to_owned(), record);
            }
            Some(("token", id)) => {
                let record = serde_json::from_slice(value).map_err(|_| damaged())?;
                self.tokens.insert(id.to_owned(), record);
            }
            Some(("session", digest)) => {
                let digest = Digest::from_text(digest).ok_or_else(damaged)?;
                let mut record: SessionRecord =
                    serde_json::from_slice(value).map_err(|_| damaged())?;
                record.saved = record.expires;
                self.sessions.insert(digest, record);
            }
            _ => return Err(damaged()),
        }
        Ok(())
    }

    /// The principal of a login with the present password of `name`.
    pub fn user_principal(&self, name: &str) -> Option<Principal> {
        let record = self.users.get(name)?;
        Some(Principal::new(
            name.into(),
            record.role,
            Via::Password,
            Proof::PasswordOf(record.password_epoch),
            record.rules.clone(),
            None,
        ))
    }

    /// The principal of a session that has not ended; the call counts as use.
    pub fn session_principal(
        &mut self,
        digest: Digest,
        now: i64,
        idle_seconds: i64,
    ) -> Option<Principal> {
        let session = self.sessions.get_mut(&digest)?;
        if session.end() <= now {
            return None;
        }
        session.touch(now, idle_seconds);
        let record = self.users.get(&session.user)?;
        Some(Principal::new(
            session.user.as_str().into(),
            record.role,
            Via::Session,
            Proof::Session(digest),
            record.rules.clone(),
            None,
        ))
    }

    pub fn token_principal(&self, id: &str, now: i64) -> Option<Principal> {
        let token = self.tokens.get(id)?;
        let user = self.users.get(&token.user)?;
        if token.expires.is_some_and(|end| end <= now) {
            return None;
        }
        Some(Principal::new(
            token.user.as_str().into(),
            user.role,
            Via::Token(id.into()),
            Proof::None,
            user.rules.clone(),
            Some(TokenRights {
                role: token.role,
                rules: token.rules.clone(),
                expires: token.expires.is_some(),
            }),
        ))
    }

    pub fn sessions_of(&self, name: &str) -> Vec<Digest> {
        self.sessions
            .iter()
            .filter(|(_, record)| record.user == name)
            .map(|(digest, _)| *digest)
            .collect()
    }

    /// The session to end before a new one of `user` is opened, when there are too many.
    pub fn session_to_drop(&self, user: &str) -> Option<Digest> {
        let own = |record: &SessionRecord| record.user == user;
        let of_user = self.sessions.values().filter(|record| own(record)).count();
        let mut candidates = self.sessions.iter().collect::<Vec<_>>();
        if of_user >= SESSIONS_PER_USER_MAX {
            candidates.retain(|(_, record)| own(record));
        } else if self.sessions.len() < SESSIONS_MAX {
            return None;
        }
        let first = candidates
            .into_iter()
            .min_by_key(|(_, record)| record.end());
        first.map(|(digest, _)| *digest)
    }

    /// True when a token or session ended between the two times.
    pub fn ended_between(&self, before: i64, now: i64) -> bool {
        let ended = |end: i64| before < end && end <= now;
        self.tokens
            .values()
            .any(|token| token.expires.is_some_and(ended))
            || self.sessions.values().any(|session| ended(session.end()))
    }

    pub fn remember(&mut self, digest: Digest, now: i64) {
        if self.verified.len() >= VERIFIED_MAX {
            self.verified.retain(|_, until| *until > now);
        }
        if self.verified.len() < VERIFIED_MAX {
            self.verified.insert(digest, now + VERIFIED_SECONDS);
        }
    }
}

/// Serialises rules behind an `Arc` like rules.
mod shared {
    use super::{Arc, Deserialize, Rules, Serialize};

    pub(super) fn serialize<S: serde::Serializer>(
        rules: &Arc<Rules>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Rules::serialize(rules, serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<Rules>, D::Error> {
        Rules::deserialize(deserializer).map(Arc::new)
    }
}

pub(crate) fn user_key(name: &str) -> String {
    format!("user/{name}")
}

pub(crate) fn token_key(id: &str) -> String {
    format!("token/{id}")
}

pub(crate) fn session_key(digest: &Digest) -> String {
    format!("session/{}", digest.to_text())
}

/// A name from outside, short enough for an error.
pub(crate) fn clip(name: &str) -> String {
    name.chars().take(USER_NAME_BYTES_MAX).collect()
}
