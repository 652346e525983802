//! Authentication: passwords, API tokens and sessions.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use busbar_event::{Class, Error};
use parking_lot::{Condvar, Mutex};
use serde::Serialize;

use crate::attempts::Begun;
use crate::backing::Backing;
use crate::limits::{
    PASSWORD_BYTES_MAX, SESSION_AGE_SECONDS_MAX, SESSION_IDLE_SECONDS, SESSION_SAVE_SECONDS,
    USER_NAME_BYTES_MAX,
};
use crate::login_log::{Credential, LoginCounts, LoginLog};
use crate::password::{Cost, Hasher};
use crate::principal::{Principal, Proof, Via};
use crate::records::{SessionRecord, State, UserRecord, clip, session_key, token_key};
use crate::secret::{self, Digest};

/// Users, tokens and sessions of a node. Shared by every protocol.
pub struct Access {
    pub(crate) backing: Arc<dyn Backing>,
    pub(crate) now: Arc<dyn Fn() -> i64 + Send + Sync>,
    pub(crate) hasher: Hasher,
    idle_seconds: i64,
    /// Key of the digests of verified passwords; differs in each process.
    key: [u8; 32],
    /// Changes when a login may have ended or changed.
    epoch: AtomicU64,
    any_users: AtomicBool,
    /// When [`Access::expire`] last looked for what has expired.
    looked: AtomicI64,
    /// Held while users, tokens or stored sessions change, so that what is checked still holds when it is
    /// stored. Lock order: `changing`, then `state`.
    pub(crate) changing: Mutex<()>,
    pub(crate) state: Mutex<State>,
    /// Notified when a pending login attempt has settled.
    settled: Condvar,
    log: LoginLog,
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
            // The only place that reads the clock for logins; tests provide their own.
            #[expect(clippy::disallowed_methods)]
            now: Arc::new(|| {
                std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs() as i64)
            }),
        }
    }
}

/// A new session.
pub struct Session {
    /// The secret for the cookie.
    pub secret: String,
    /// Seconds until it ends when it is not used.
    pub idle_seconds: i64,
}

/// Prefix of every token, so that scanners recognise leaked ones.
pub(crate) const TOKEN_PREFIX: &str = "bbt_";

impl Access {
    /// Opens what `backing` stores.
    ///
    /// # Errors
    /// `access.damaged`, or what the backing reports.
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
            settled: Condvar::new(),
            log: LoginLog::default(),
        };
        access.remove_expired_sessions()?;
        Ok(access)
    }

    /// True as soon as one user exists: from then on every caller needs a login.
    pub fn has_users(&self) -> bool {
        self.any_users.load(Ordering::Acquire)
    }

    /// Changes when a login may have ended or changed. Whoever keeps a [`Principal`] for long
    /// compares it and calls [`Access::current`].
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Failed and refused logins since the node started.
    pub fn login_counts(&self) -> LoginCounts {
        self.log.counts()
    }

    /// The principal as it is now; `None` when the credential of its login is gone: the user, the
    /// token, the session, the password (or, for [`Principal::local`], that there are no users).
    /// For a session this counts as use, which extends it.
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

    /// Checks whether a token or session has expired since the last call; if so, changes the epoch, so
    /// that connections made with it are checked, and removes expired sessions. To be called
    /// regularly, from a thread that may wait for the disk.
    ///
    /// # Errors
    /// What the backing reports.
    pub fn expire(&self) -> Result<(), Error> {
        let now = (self.now)();
        let before = self.looked.swap(now, Ordering::AcqRel);
        if self.state.lock().ended_between(before, now) {
            let _changing = self.changing.lock();
            self.changed();
            self.remove_expired_sessions()?;
        }
        Ok(())
    }

    /// Authenticates by password. Computes a hash, which takes about 25 ms of a core: call it from a
    /// thread that may wait. Failures count against `peer`.
    ///
    /// # Errors
    /// `access.refused`; `access.too-many-attempts`; `access.busy`.
    pub fn authenticate_password(
        &self,
        user: &str,
        password: &str,
        peer: Option<IpAddr>,
    ) -> Result<Principal, Error> {
        let now = (self.now)();
        if user.len() > USER_NAME_BYTES_MAX || password.len() > PASSWORD_BYTES_MAX {
            let locked = self.state.lock().attempts.failed("", peer, now);
            self.log
                .failed(Credential::Password(None), peer, locked, now);
            return Err(refused());
        }
        let digest = Digest::keyed(&self.key, user, password);
        if let Known::Yes(principal) = self.look_up(user, &digest, peer, now)? {
            return Ok(principal);
        }
        let turn = self.hasher.turn()?;
        // Checked again: while this attempt waited, others may have failed, or the same login may have
        // been verified. From here on it is pending, so that attempts made at once share one bound.
        let hash = match self.begin_attempt(user, &digest, peer, now)? {
            Known::Yes(principal) => return Ok(principal),
            Known::NotYet(hash) => hash,
        };
        let verified = turn.verify(hash.as_deref(), password);
        let mut state = self.state.lock();
        state.attempts.settle(user, peer);
        self.settled.notify_all();
        let verified = verified?;
        // The user may have changed while the hash was computed.
        let unchanged = state.users.get(user).map(|record| &record.hash) == hash.as_ref();
        match state.user_principal(user) {
            Some(principal) if verified && unchanged => {
                state.attempts.succeeded(user, peer);
                state.remember(digest, now);
                Ok(principal)
            }
            _ => {
                let locked = state.attempts.failed(user, peer, now);
                let known = state.users.contains_key(user).then_some(user);
                drop(state);
                self.log
                    .failed(Credential::Password(known), peer, locked, now);
                Err(refused())
            }
        }
    }

    /// What is known of a login before any hash is computed: that it was verified recently, or the hash
    /// to verify it with (none for an unknown user).
    fn look_up(
        &self,
        user: &str,
        digest: &Digest,
        peer: Option<IpAddr>,
        now: i64,
    ) -> Result<Known, Error> {
        let state = self.state.lock();
        if let Err(error) = state.attempts.check(user, peer, now) {
            self.log.locked_out();
            return Err(error);
        }
        Ok(known(&state, user, digest, now))
    }

    /// The same at the turn to compute a hash; the attempt is then pending. Waits while pending attempts
    /// may still reach the bound.
    fn begin_attempt(
        &self,
        user: &str,
        digest: &Digest,
        peer: Option<IpAddr>,
        now: i64,
    ) -> Result<Known, Error> {
        let mut state = self.state.lock();
        loop {
            match state.attempts.begin(user, peer, now) {
                Err(error) => {
                    self.log.locked_out();
                    return Err(error);
                }
                Ok(Begun::Yes) => break,
                // Those that are pending have their turn to compute, so this ends.
                Ok(Begun::Wait) => self.settled.wait(&mut state),
            }
        }
        let known = known(&state, user, digest, now);
        if matches!(known, Known::Yes(_)) {
            state.attempts.settle(user, peer);
            self.settled.notify_all();
        }
        Ok(known)
    }

    /// Whether `text` has the form of an API token.
    pub fn is_token(text: &str) -> bool {
        text.starts_with(TOKEN_PREFIX)
    }

    /// Authenticates by API token. Cheap. Failures lock nobody out: nobody guesses 256 bits, but many
    /// programs repeat a token that was revoked.
    ///
    /// # Errors
    /// `access.refused`.
    pub fn authenticate_token(
        &self,
        token: &str,
        peer: Option<IpAddr>,
    ) -> Result<Principal, Error> {
        let now = (self.now)();
        let state = self.state.lock();
        let id = token
            .strip_prefix(TOKEN_PREFIX)
            .and_then(|rest| rest.split_once('_'))
            .map(|(id, _)| id);
        let record = id.and_then(|id| Some((id, state.tokens.get(id)?)));
        let mut known = None;
        if let Some((id, record)) = record
            && let Some(digest) = Digest::from_text(&record.digest)
            && digest.same(&Digest::of(token))
        {
            if let Some(principal) = state.token_principal(id, now) {
                return Ok(principal);
            }
            // It is the right token, and has expired: naming it helps, and gives nothing away.
            known = Some(record.name.clone());
        }
        drop(state);
        self.log
            .failed(Credential::Token(known.as_deref()), peer, false, now);
        Err(refused())
    }

    /// The principal of a user whose name is proven without a password: by a TLS client certificate that was verified,
    /// or by an address that the operator has given to the user. Cheap. The login ends like that of a password: when
    /// the password changes or the user is removed.
    ///
    /// # Errors
    /// `access.refused`.
    pub fn authenticate_proven(
        &self,
        user: &str,
        peer: Option<IpAddr>,
    ) -> Result<Principal, Error> {
        let now = (self.now)();
        let found = self.state.lock().user_principal(user);
        found.ok_or_else(|| {
            self.log.failed(Credential::Proven, peer, false, now);
            refused()
        })
    }

    /// Opens a session for somebody who just logged in with a password.
    ///
    /// # Errors
    /// `access.session-needs-password`, or what the backing reports.
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
        self.store(&session_key(&digest), &record)?;
        self.state.lock().sessions.insert(digest, record);
        Ok(Session {
            secret,
            idle_seconds: self.idle_seconds,
        })
    }

    /// The principal of a session cookie, if it is valid. Using a session extends it. May wait for the disk.
    pub fn session(&self, secret: &str) -> Option<Principal> {
        let now = (self.now)();
        let digest = Digest::of(secret);
        let (principal, save) = {
            let mut state = self.state.lock();
            let principal = state.session_principal(digest, now, self.idle_seconds)?;
            let record = state.sessions.get(&digest)?;
            let moved = record.expires - record.saved;
            (
                principal,
                moved >= SESSION_SAVE_SECONDS.min(self.idle_seconds / 10),
            )
        };
        if save {
            self.save_session(digest);
        }
        Some(principal)
    }

    /// Stores a session's new end, unless the session has ended in the meantime: what a logout deleted must
    /// not be written again.
    fn save_session(&self, digest: Digest) {
        let _changing = self.changing.lock();
        let record = {
            let mut state = self.state.lock();
            let Some(record) = state.sessions.get_mut(&digest) else {
                return;
            };
            record.saved = record.expires;
            record.clone()
        };
        // A session whose new end cannot be stored (a full disk) is still valid in this process.
        let _ = self.store(&session_key(&digest), &record);
    }

    /// Ends a session, and the connections made with it.
    ///
    /// # Errors
    /// What the backing reports; the session has ended in this process all the same.
    pub fn close_session(&self, secret: &str) -> Result<(), Error> {
        let _changing = self.changing.lock();
        let ended = self.drop_session(Digest::of(secret));
        self.changed();
        ended
    }

    /// Makes long connections check their login again.
    pub(crate) fn changed(&self) {
        let any = !self.state.lock().users.is_empty();
        self.any_users.store(any, Ordering::Release);
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn store(&self, key: &str, record: &impl Serialize) -> Result<(), Error> {
        let value = serde_json::to_vec(record)
            .map_err(|_| Error::new(Class::Permanent, "access.damaged").with("key", key))?;
        self.backing.put(key.as_bytes(), &value)
    }

    pub(crate) fn user_record(&self, name: &str) -> Result<UserRecord, Error> {
        let state = self.state.lock();
        state.users.get(name).cloned().ok_or_else(|| {
            Error::new(Class::Permanent, "access.unknown-user").with("user", clip(name))
        })
    }

    pub(crate) fn drop_token(&self, id: &str) -> Result<(), Error> {
        self.backing.delete(token_key(id).as_bytes())?;
        self.state.lock().tokens.remove(id);
        Ok(())
    }

    pub(crate) fn drop_session(&self, digest: Digest) -> Result<(), Error> {
        // Out of memory first: a logout holds even when the disk is full.
        let known = self.state.lock().sessions.remove(&digest).is_some();
        if known {
            self.backing.delete(session_key(&digest).as_bytes())?;
        }
        Ok(())
    }

    fn remove_expired_sessions(&self) -> Result<(), Error> {
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

/// What is known of a login before any hash is computed.
enum Known {
    /// It was verified recently.
    Yes(Principal),
    /// It must be verified, with this hash; none for an unknown user.
    NotYet(Option<String>),
}

fn known(state: &State, user: &str, digest: &Digest, now: i64) -> Known {
    let recently = state.verified.get(digest).is_some_and(|until| *until > now);
    match state.user_principal(user) {
        Some(principal) if recently => Known::Yes(principal),
        _ => Known::NotYet(state.users.get(user).map(|record| record.hash.clone())),
    }
}

/// One answer for every failed login: it does not tell which part was wrong.
fn refused() -> Error {
    Error::new(Class::Permanent, "access.refused")
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
