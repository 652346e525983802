//! The door: logins, users, tokens, sessions.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use busbar_event::{Class, Error};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::backing::Backing;
use crate::limits::{
    PASSWORD_BYTES_MAX, SESSION_AGE_SECONDS_MAX, SESSION_IDLE_SECONDS, SESSION_SAVE_SECONDS,
    TOKEN_NAME_BYTES_MAX, TOKENS_MAX, USER_NAME_BYTES_MAX, USERS_MAX,
};
use crate::password::{self, Cost, Hasher};
use crate::principal::{Principal, Proof, Role, Via};
use crate::records::{
    SessionRecord, State, TokenRecord, UserRecord, clip, session_key, token_key, user_key,
};
use crate::rules::Rules;
use crate::secret::{self, Digest};

/// Users, tokens and sessions of a node. Shared by every protocol.
pub struct Access {
    backing: Arc<dyn Backing>,
    now: Arc<dyn Fn() -> i64 + Send + Sync>,
    hasher: Hasher,
    idle_seconds: i64,
    /// Key of the digests of verified passwords; differs in each process.
    key: [u8; 32],
    /// Moves when a login may have ended or changed.
    epoch: AtomicU64,
    any_users: AtomicBool,
    /// When it was looked last for what has expired.
    looked: AtomicI64,
    /// Held while users or tokens change, so that what is checked still holds when it is kept.
    /// Lock order: `changing`, then `state`.
    changing: Mutex<()>,
    state: Mutex<State>,
}

/// How an [`Access`] works.
#[derive(Clone)]
pub struct AccessOptions {
    /// What a password hash costs.
    pub cost: Cost,
    /// Seconds after which a session that is not used is over.
    pub session_idle_seconds: i64,
    /// Seconds since 1970.
    pub now: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl Default for AccessOptions {
    fn default() -> Self {
        AccessOptions {
            cost: Cost::Standard,
            session_idle_seconds: SESSION_IDLE_SECONDS,
            // The one place where the time of logins enters; tests bring their own.
            #[expect(clippy::disallowed_methods)]
            now: Arc::new(|| {
                std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs() as i64)
            }),
        }
    }
}

/// A user to be.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// The name to log in with.
    pub name: String,
    /// The password; kept only as a hash.
    pub password: String,
    /// What the user may do.
    pub role: Role,
    /// What narrows it down.
    #[serde(default)]
    pub rules: Rules,
}

/// What to change about a user; what is absent stays.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserChange {
    /// The new password.
    #[serde(default)]
    pub password: Option<String>,
    /// The new role.
    #[serde(default)]
    pub role: Option<Role>,
    /// The new rules.
    #[serde(default)]
    pub rules: Option<Rules>,
}

/// A token to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What it is for.
    pub name: String,
    /// Its role; at most the user's, which it is when absent.
    #[serde(default)]
    pub role: Option<Role>,
    /// Rules of its own; the user's hold as well.
    #[serde(default)]
    pub rules: Rules,
    /// When it ends, in seconds since 1970.
    #[serde(default)]
    pub expires: Option<i64>,
}

/// A user as others may see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UserView {
    /// The name.
    pub name: String,
    /// The role.
    pub role: Role,
    /// The rules.
    pub rules: Rules,
    /// When it was made, in seconds since 1970.
    pub created: i64,
}

/// A token as others may see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenView {
    /// Public id, part of the token.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// Whose it is.
    pub user: String,
    /// The role.
    pub role: Role,
    /// The rules.
    pub rules: Rules,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// When it ends, in seconds since 1970.
    pub expires: Option<i64>,
}

/// A fresh session.
pub struct Session {
    /// The secret for the cookie.
    pub secret: String,
    /// Seconds until it ends when it is not used.
    pub idle_seconds: i64,
}

/// What is found before a token's secret, so that scanners recognise leaked ones.
const TOKEN_PREFIX: &str = "bbt_";

impl Access {
    /// Opens what `backing` keeps.
    pub fn open(backing: Arc<dyn Backing>, options: AccessOptions) -> Result<Access, Error> {
        let mut state = State::default();
        for (key, value) in backing.load()? {
            state.restore(&key, &value)?;
        }
        let now = (options.now)();
        let access = Access {
            backing,
            hasher: Hasher::new(options.cost)?,
            idle_seconds: options
                .session_idle_seconds
                .clamp(1, SESSION_AGE_SECONDS_MAX),
            key: secret::random()?,
            now: options.now,
            epoch: AtomicU64::new(1),
            any_users: AtomicBool::new(!state.users.is_empty()),
            looked: AtomicI64::new(now),
            changing: Mutex::new(()),
            state: Mutex::new(state),
        };
        access.forget_expired_sessions()?;
        Ok(access)
    }

    /// True as soon as one user exists: from then on everybody needs a login.
    pub fn has_users(&self) -> bool {
        self.any_users.load(Ordering::Acquire)
    }

    /// Moves when a login may have ended or changed. Whoever holds a [`Principal`] for long
    /// compares it and asks [`Access::current`].
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The principal as it is now; `None` when what its login rests on is gone: the user, the
    /// token, the session, the password (or, for [`Principal::local`], that there are no users).
    /// For a session this is use, which prolongs it.
    pub fn current(&self, principal: &Principal) -> Option<Principal> {
        let now = (self.now)();
        let mut state = self.state.lock();
        match (principal.via(), principal.proof()) {
            (Via::Local, _) => (!self.has_users()).then(|| principal.clone()),
            (Via::Token(id), _) => state.token_principal(id, now),
            (_, Proof::Session(digest)) => state.session_principal(digest, now, self.idle_seconds),
            (_, Proof::PasswordOf(epoch)) => {
                let record = state.users.get(principal.name())?;
                (record.password_epoch == epoch)
                    .then(|| state.user_principal(principal.name()))
                    .flatten()
            }
            (Via::Password | Via::Session, Proof::None) => None,
        }
    }

    /// Looks whether a token or session has ended since it looked last; if so, moves the epoch, so
    /// that those who are connected by it are looked at, and forgets sessions that are over. To be
    /// called now and then, from a thread that may wait for the disk.
    pub fn expire(&self) -> Result<(), Error> {
        let now = (self.now)();
        let before = self.looked.swap(now, Ordering::AcqRel);
        if self.state.lock().ended_between(before, now) {
            let _changing = self.changing.lock();
            self.changed();
            self.forget_expired_sessions()?;
        }
        Ok(())
    }

    // ---- logins ----------------------------------------------------------------------------

    /// Logs in by password. Hashes, so it takes some 25 ms of a core: call it from a thread that
    /// may wait. `peer` is whom the attempt counts against.
    pub fn authenticate_password(
        &self,
        user: &str,
        password: &str,
        peer: Option<IpAddr>,
    ) -> Result<Principal, Error> {
        let now = (self.now)();
        if user.len() > USER_NAME_BYTES_MAX || password.len() > PASSWORD_BYTES_MAX {
            self.state.lock().attempts.failed("", peer, now);
            return Err(refused());
        }
        let digest = Digest::keyed(&self.key, user, password);
        if let Known::Yes(principal) = self.look_up(user, &digest, peer, now)? {
            return Ok(principal);
        }
        let turn = self.hasher.turn()?;
        // Looked at again, for while this one waited others may have failed (or a thousand guesses
        // made at once would all count as the first), or the same login have been verified.
        let hash = match self.look_up(user, &digest, peer, now)? {
            Known::Yes(principal) => return Ok(principal),
            Known::NotYet(hash) => hash,
        };
        let verified = turn.verify(hash.as_deref(), password)?;
        let mut state = self.state.lock();
        // The user may have changed while the hash was computed.
        let unchanged = state.users.get(user).map(|record| &record.hash) == hash.as_ref();
        match state.user_principal(user) {
            Some(principal) if verified && unchanged => {
                state.attempts.succeeded(user, peer);
                state.remember(digest, now);
                Ok(principal)
            }
            _ => {
                state.attempts.failed(user, peer, now);
                Err(refused())
            }
        }
    }

    /// What is known of a login before any work is done: that it was verified lately, or the hash to
    /// verify it with (none for an unknown user).
    fn look_up(
        &self,
        user: &str,
        digest: &Digest,
        peer: Option<IpAddr>,
        now: i64,
    ) -> Result<Known, Error> {
        let state = self.state.lock();
        state.attempts.check(user, peer, now)?;
        let lately = state.verified.get(digest).is_some_and(|until| *until > now);
        Ok(match state.user_principal(user) {
            Some(principal) if lately => Known::Yes(principal),
            _ => Known::NotYet(state.users.get(user).map(|record| record.hash.clone())),
        })
    }

    /// Whether `text` has the form of an API token.
    pub fn is_token(text: &str) -> bool {
        text.starts_with(TOKEN_PREFIX)
    }

    /// Logs in by API token. Cheap.
    pub fn authenticate_token(
        &self,
        token: &str,
        peer: Option<IpAddr>,
    ) -> Result<Principal, Error> {
        let now = (self.now)();
        let mut state = self.state.lock();
        let id = token
            .strip_prefix(TOKEN_PREFIX)
            .and_then(|rest| rest.split_once('_'))
            .map(|(id, _)| id);
        if let Some(id) = id
            && let Some(record) = state.tokens.get(id)
            && let Some(digest) = Digest::from_text(&record.digest)
            && digest.same(&Digest::of(token))
            && let Some(principal) = state.token_principal(id, now)
        {
            // Nobody guesses 256 bits, so a good token does not wait for the failures of others:
            // strangers, or a device of the same network whose token has expired.
            return Ok(principal);
        }
        state.attempts.check(TOKEN_PREFIX, peer, now)?;
        state.attempts.failed(TOKEN_PREFIX, peer, now);
        Err(refused())
    }

    /// Opens a session for somebody who just logged in.
    pub fn open_session(&self, principal: &Principal) -> Result<Session, Error> {
        if *principal.via() != Via::Password {
            return Err(Error::new(
                Class::Permanent,
                "access.session-needs-password",
            ));
        }
        let secret = secret::secret()?;
        let digest = Digest::of(&secret);
        let now = (self.now)();
        let record = SessionRecord {
            user: principal.name().to_owned(),
            created: now,
            expires: now + self.idle_seconds,
            saved: now + self.idle_seconds,
        };
        let _changing = self.changing.lock();
        let oldest = self.state.lock().session_to_drop(principal.name());
        if let Some(oldest) = oldest {
            self.drop_session(oldest)?;
        }
        self.keep(&session_key(&digest), &record)?;
        self.state.lock().sessions.insert(digest, record);
        Ok(Session {
            secret,
            idle_seconds: self.idle_seconds,
        })
    }

    /// The principal of a session cookie, if it is one. Using a session prolongs it.
    pub fn session(&self, secret: &str) -> Option<Principal> {
        let now = (self.now)();
        let digest = Digest::of(secret);
        let (principal, save) = {
            let mut state = self.state.lock();
            let principal = state.session_principal(digest, now, self.idle_seconds)?;
            let record = state.sessions.get_mut(&digest)?;
            let moved = record.expires - record.saved;
            let save = (moved >= SESSION_SAVE_SECONDS.min(self.idle_seconds / 10)).then(|| {
                record.saved = record.expires;
                record.clone()
            });
            (principal, save)
        };
        if let Some(record) = save {
            // A session whose new end cannot be kept (a full disk) still holds in this process.
            let _ = self.keep(&session_key(&digest), &record);
        }
        Some(principal)
    }

    /// Ends a session, and with it what is connected by it.
    pub fn close_session(&self, secret: &str) -> Result<(), Error> {
        let _changing = self.changing.lock();
        let ended = self.drop_session(Digest::of(secret));
        self.changed();
        ended
    }

    // ---- users -----------------------------------------------------------------------------

    /// The users, by name.
    pub fn users(&self) -> Vec<UserView> {
        let state = self.state.lock();
        state
            .users
            .iter()
            .map(|(name, record)| view_user(name, record))
            .collect()
    }

    /// Makes a user. The first one must be an admin, so that nobody is locked out. With
    /// `only_first`, refuses when there is a user already (decided and kept as one step).
    pub fn add_user(&self, new: NewUser, only_first: bool) -> Result<UserView, Error> {
        check_user_name(&new.name)?;
        password::check(&new.password)?;
        new.rules.check()?;
        if only_first && self.has_users() {
            return Err(Error::new(Class::Permanent, "access.login-needed"));
        }
        let mut record = UserRecord {
            hash: self.hasher.hash(&new.password)?,
            password_epoch: 0,
            role: new.role,
            rules: Arc::new(new.rules),
            created: (self.now)(),
        };
        let _changing = self.changing.lock();
        {
            let state = self.state.lock();
            if only_first && !state.users.is_empty() {
                return Err(Error::new(Class::Permanent, "access.login-needed"));
            }
            if state.users.is_empty() && new.role != Role::Admin {
                return Err(Error::new(Class::Permanent, "access.first-user-admin"));
            }
            if state.users.contains_key(&new.name) {
                return Err(
                    Error::new(Class::Permanent, "access.user-exists").with("user", &new.name)
                );
            }
            if state.users.len() >= USERS_MAX {
                return Err(
                    Error::new(Class::Permanent, "access.too-many-users").with("max", USERS_MAX)
                );
            }
        }
        self.keep(&user_key(&new.name), &record)?;
        record.password_epoch = self.epoch();
        let view = view_user(&new.name, &record);
        self.state.lock().users.insert(new.name, record);
        self.changed();
        Ok(view)
    }

    /// Changes a user. A new password ends the user's sessions, and what is connected by the old one.
    pub fn change_user(&self, name: &str, change: UserChange) -> Result<UserView, Error> {
        if let Some(rules) = &change.rules {
            rules.check()?;
        }
        let hash = match &change.password {
            Some(password) => {
                password::check(password)?;
                Some(self.hasher.hash(password)?)
            }
            None => None,
        };
        let _changing = self.changing.lock();
        let mut record = self.user_record(name)?;
        if let Some(role) = change.role {
            if role != Role::Admin {
                self.check_other_admin(name)?;
            }
            record.role = role;
        }
        if let Some(rules) = change.rules {
            record.rules = Arc::new(rules);
        }
        let password_changed = hash.is_some();
        if let Some(hash) = hash {
            record.hash = hash;
            record.password_epoch = self.epoch();
        }
        self.keep(&user_key(name), &record)?;
        let view = view_user(name, &record);
        let ended = {
            let mut state = self.state.lock();
            state.users.insert(name.to_owned(), record);
            state.verified.clear();
            if password_changed {
                state.sessions_of(name)
            } else {
                Vec::new()
            }
        };
        self.changed();
        for digest in ended {
            self.drop_session(digest)?;
        }
        Ok(view)
    }

    /// Removes a user with its tokens and sessions. The last admin stays.
    pub fn remove_user(&self, name: &str) -> Result<(), Error> {
        let _changing = self.changing.lock();
        self.user_record(name)?;
        self.check_other_admin(name)?;
        let (tokens, sessions) = {
            let state = self.state.lock();
            let tokens: Vec<String> = state
                .tokens
                .iter()
                .filter(|(_, token)| token.user == name)
                .map(|(id, _)| id.clone())
                .collect();
            (tokens, state.sessions_of(name))
        };
        // The user goes first: should the process end in between, tokens and sessions of a user
        // who is gone let nobody in.
        self.backing.delete(user_key(name).as_bytes())?;
        {
            let mut state = self.state.lock();
            state.users.remove(name);
            state.verified.clear();
        }
        self.changed();
        for id in tokens {
            self.drop_token(&id)?;
        }
        for digest in sessions {
            self.drop_session(digest)?;
        }
        Ok(())
    }

    // ---- tokens ----------------------------------------------------------------------------

    /// The tokens: all of them, or one user's.
    pub fn tokens(&self, user: Option<&str>) -> Vec<TokenView> {
        let state = self.state.lock();
        state
            .tokens
            .iter()
            .filter(|(_, record)| user.is_none_or(|user| record.user == user))
            .map(|(id, record)| view_token(id, record))
            .collect()
    }

    /// Makes a token for `owner`. The text is shown this once and not kept.
    pub fn add_token(
        &self,
        owner: &Principal,
        new: NewToken,
    ) -> Result<(TokenView, String), Error> {
        new.rules.check()?;
        if new.name.len() > TOKEN_NAME_BYTES_MAX || new.name.chars().any(char::is_control) {
            return Err(Error::new(Class::Permanent, "access.bad-token-name")
                .with("max", TOKEN_NAME_BYTES_MAX));
        }
        if owner.is_local() {
            return Err(Error::new(Class::Permanent, "access.token-needs-user"));
        }
        // A token that could make tokens would outlive its own revocation.
        if matches!(owner.via(), Via::Token(_)) {
            return Err(Error::new(Class::Permanent, "access.token-needs-password"));
        }
        let now = (self.now)();
        if new.expires.is_some_and(|end| end <= now) {
            return Err(Error::new(Class::Permanent, "access.token-expired"));
        }
        let role = new.role.unwrap_or(owner.role());
        owner.require(role)?;
        let id = secret::id()?;
        let text = format!("{TOKEN_PREFIX}{id}_{}", secret::secret()?);
        let record = TokenRecord {
            name: new.name,
            user: owner.name().to_owned(),
            digest: Digest::of(&text).to_text(),
            role,
            rules: Arc::new(new.rules),
            created: now,
            expires: new.expires,
        };
        let _changing = self.changing.lock();
        self.user_record(owner.name())?;
        if self.state.lock().tokens.len() >= TOKENS_MAX {
            return Err(
                Error::new(Class::Permanent, "access.too-many-tokens").with("max", TOKENS_MAX)
            );
        }
        self.keep(&token_key(&id), &record)?;
        let view = view_token(&id, &record);
        self.state.lock().tokens.insert(id, record);
        self.changed();
        Ok((view, text))
    }

    /// Revokes a token: anybody's for an admin, one's own for the others.
    pub fn remove_token(&self, by: &Principal, id: &str) -> Result<(), Error> {
        let _changing = self.changing.lock();
        let known = {
            let state = self.state.lock();
            state
                .tokens
                .get(id)
                .is_some_and(|record| by.role() == Role::Admin || record.user == by.name())
        };
        if !known {
            return Err(Error::new(Class::Permanent, "access.unknown-token").with("id", id));
        }
        self.drop_token(id)?;
        self.changed();
        Ok(())
    }

    // ---- inside ----------------------------------------------------------------------------

    fn changed(&self) {
        let any = !self.state.lock().users.is_empty();
        self.any_users.store(any, Ordering::Release);
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    fn keep(&self, key: &str, record: &impl Serialize) -> Result<(), Error> {
        let value = serde_json::to_vec(record)
            .map_err(|_| Error::new(Class::Permanent, "access.damaged").with("key", key))?;
        self.backing.put(key.as_bytes(), &value)
    }

    fn user_record(&self, name: &str) -> Result<UserRecord, Error> {
        let state = self.state.lock();
        state.users.get(name).cloned().ok_or_else(|| {
            Error::new(Class::Permanent, "access.unknown-user").with("user", clip(name))
        })
    }

    fn check_other_admin(&self, name: &str) -> Result<(), Error> {
        let state = self.state.lock();
        let other = state
            .users
            .iter()
            .any(|(other, record)| other != name && record.role == Role::Admin);
        let is_admin = state
            .users
            .get(name)
            .is_some_and(|record| record.role == Role::Admin);
        if is_admin && !other {
            Err(Error::new(Class::Permanent, "access.last-admin").with("user", clip(name)))
        } else {
            Ok(())
        }
    }

    fn drop_token(&self, id: &str) -> Result<(), Error> {
        self.backing.delete(token_key(id).as_bytes())?;
        self.state.lock().tokens.remove(id);
        Ok(())
    }

    fn drop_session(&self, digest: Digest) -> Result<(), Error> {
        // Out of the memory first: a logout holds even when the disk is full.
        let known = self.state.lock().sessions.remove(&digest).is_some();
        if known {
            self.backing.delete(session_key(&digest).as_bytes())?;
        }
        Ok(())
    }

    fn forget_expired_sessions(&self) -> Result<(), Error> {
        let now = (self.now)();
        let expired: Vec<Digest> = self
            .state
            .lock()
            .sessions
            .iter()
            .filter(|(_, record)| record.end() <= now)
            .map(|(digest, _)| *digest)
            .collect();
        for digest in expired {
            self.drop_session(digest)?;
        }
        Ok(())
    }
}

/// What is known of a login before any work is done.
enum Known {
    Yes(Principal),
    NotYet(Option<String>),
}

fn view_user(name: &str, record: &UserRecord) -> UserView {
    UserView {
        name: name.to_owned(),
        role: record.role,
        rules: (*record.rules).clone(),
        created: record.created,
    }
}

fn view_token(id: &str, record: &TokenRecord) -> TokenView {
    TokenView {
        id: id.to_owned(),
        name: record.name.clone(),
        user: record.user.clone(),
        role: record.role,
        rules: (*record.rules).clone(),
        created: record.created,
        expires: record.expires,
    }
}

/// A name is what a person types and what stands in a URL: letters and digits of any script,
/// and `. _ - @`.
fn check_user_name(name: &str) -> Result<(), Error> {
    let fits = !name.is_empty()
        && name.len() <= USER_NAME_BYTES_MAX
        && name != "local"
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '@'));
    if fits {
        Ok(())
    } else {
        Err(Error::new(Class::Permanent, "access.bad-user-name")
            .with("user", clip(name))
            .with("max", USER_NAME_BYTES_MAX))
    }
}

/// One answer for every failed login: it does not tell which part was wrong.
fn refused() -> Error {
    Error::new(Class::Permanent, "access.refused")
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
