//! Users: adding, changing, removing.

use std::sync::Arc;

use busbar_event::{Class, Error};
use serde::{Deserialize, Serialize};

use crate::access::Access;
use crate::limits::{USER_NAME_BYTES_MAX, USERS_MAX};
use crate::password;
use crate::records::{State, UserRecord, clip, user_key};
use crate::role::Role;
use crate::rules::Rules;

/// A user to add.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// The name to log in with.
    pub name: String,
    /// The password; stored only as a hash.
    pub password: String,
    /// What the user may do; when absent, admin for the first user and viewer for all others.
    #[serde(default)]
    pub role: Option<Role>,
    /// What restricts the role.
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

/// A user without its password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UserView {
    /// The name.
    pub name: String,
    /// The role.
    pub role: Role,
    /// The rules.
    pub rules: Rules,
    /// When it was added, in seconds since 1970.
    pub created: i64,
}

impl Access {
    /// The users, by name.
    pub fn users(&self) -> Vec<UserView> {
        let state = self.state.lock();
        state
            .users
            .iter()
            .map(|(name, record)| view(name, record))
            .collect()
    }

    /// Adds a user. The first one must be an unrestricted admin, so that nobody is locked out. With
    /// `only_first`, refuses when there is a user already (checked and stored as one step).
    ///
    /// # Errors
    /// What is wrong with the name, the password or the rules; `access.user-exists`.
    pub fn add_user(&self, new: NewUser, only_first: bool) -> Result<UserView, Error> {
        check_name(&new.name)?;
        password::check(&new.password)?;
        new.rules.check()?;
        let login_needed = || Error::new(Class::Permanent, "access.login-needed");
        if only_first && self.has_users() {
            return Err(login_needed());
        }
        let hash = self.hasher.hash(&new.password)?;
        let _changing = self.changing.lock();
        let role = {
            let state = self.state.lock();
            let first = state.users.is_empty();
            if only_first && !first {
                return Err(login_needed());
            }
            let role = new.role.unwrap_or(match first {
                true => Role::Admin,
                false => Role::Viewer,
            });
            if first && role != Role::Admin {
                return Err(Error::new(Class::Permanent, "access.first-user-admin"));
            }
            check_role(role, &new.rules)?;
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
            role
        };
        let mut record = UserRecord {
            hash,
            password_epoch: 0,
            role,
            rules: Arc::new(new.rules),
            created: (self.now)(),
        };
        self.store(&user_key(&new.name), &record)?;
        record.password_epoch = self.epoch();
        let view = view(&new.name, &record);
        self.state.lock().users.insert(new.name, record);
        self.changed();
        Ok(view)
    }

    /// Changes a user. A new password ends the user's sessions, and the connections made with the old one.
    ///
    /// # Errors
    /// `access.unknown-user`, `access.last-admin`, or what is wrong with the change.
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
            record.role = role;
        }
        if let Some(rules) = change.rules {
            record.rules = Arc::new(rules);
        }
        if change.role.is_some_and(|role| role != Role::Admin) {
            self.check_other_admin(name)?;
        }
        check_role(record.role, &record.rules)?;
        let password_changed = hash.is_some();
        if let Some(hash) = hash {
            record.hash = hash;
            record.password_epoch = self.epoch();
        }
        self.store(&user_key(name), &record)?;
        let view = view(name, &record);
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
    ///
    /// # Errors
    /// `access.unknown-user`, `access.last-admin`, or what the backing reports.
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
        // The user first: should the process end in between, tokens and sessions of a user that does not
        // exist are worthless.
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

    /// Checks that somebody else may administer the node when `name` no longer may.
    fn check_other_admin(&self, name: &str) -> Result<(), Error> {
        let state = self.state.lock();
        let is_last = administers(&state, name)
            && !state
                .users
                .keys()
                .any(|other| other != name && administers(&state, other));
        if is_last {
            Err(Error::new(Class::Permanent, "access.last-admin").with("user", clip(name)))
        } else {
            Ok(())
        }
    }
}

fn administers(state: &State, name: &str) -> bool {
    state
        .users
        .get(name)
        .is_some_and(|record| record.role == Role::Admin && record.rules.is_empty())
}

fn view(name: &str, record: &UserRecord) -> UserView {
    UserView {
        name: name.to_owned(),
        role: record.role,
        rules: (*record.rules).clone(),
        created: record.created,
    }
}

/// Refuses rules for an admin: what an admin configures is bound by no rule.
pub(crate) fn check_role(role: Role, rules: &Rules) -> Result<(), Error> {
    if role == Role::Admin && !rules.is_empty() {
        return Err(Error::new(Class::Permanent, "access.admin-with-rules"));
    }
    Ok(())
}

/// A name is what a person types and what is part of a URL: letters and digits of any script,
/// and `. _ - @`.
fn check_name(name: &str) -> Result<(), Error> {
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
