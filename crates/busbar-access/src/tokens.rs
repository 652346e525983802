//! API tokens: adding and removing.

use std::sync::Arc;

use busbar_event::{Class, Error};
use serde::{Deserialize, Serialize};

use crate::access::{Access, TOKEN_PREFIX};
use crate::limits::{TOKEN_NAME_BYTES_MAX, TOKENS_MAX};
use crate::principal::{Principal, Via};
use crate::records::{TokenRecord, token_key};
use crate::role::Role;
use crate::rules::Rules;
use crate::secret::{self, Digest};
use crate::users::check_role;

/// A token to add.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What it is for.
    pub name: String,
    /// Its role, at most its user's. When absent it is its user's, or operator for a token of an admin
    /// that has rules.
    #[serde(default)]
    pub role: Option<Role>,
    /// Rules of its own; the user's apply as well.
    #[serde(default)]
    pub rules: Rules,
    /// When it expires, in seconds since 1970.
    #[serde(default)]
    pub expires: Option<i64>,
}

/// A token without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenView {
    /// Public id, part of the token.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// The user it belongs to.
    pub user: String,
    /// The role.
    pub role: Role,
    /// The rules.
    pub rules: Rules,
    /// When it was added, in seconds since 1970.
    pub created: i64,
    /// When it expires, in seconds since 1970.
    pub expires: Option<i64>,
}

impl Access {
    /// The tokens that `by` may see: all of them for an admin, its own for a user, itself for a token
    /// that has less than its user.
    pub fn tokens(&self, by: &Principal) -> Vec<TokenView> {
        let state = self.state.lock();
        state
            .tokens
            .iter()
            .filter(|(id, record)| manages(by, id, record))
            .map(|(id, record)| view(id, record))
            .collect()
    }

    /// Adds a token of `owner`. The returned text is the only copy of its secret.
    ///
    /// # Errors
    /// When the token would have more rights than its owner, or the owner is a token itself.
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
        // A token that could add tokens would outlive its own revocation.
        if matches!(owner.via(), Via::Token(_)) {
            return Err(Error::new(Class::Permanent, "access.token-needs-password"));
        }
        let now = (self.now)();
        if new.expires.is_some_and(|end| end <= now) {
            return Err(Error::new(Class::Permanent, "access.token-expired"));
        }
        let role = new.role.unwrap_or(match owner.role() {
            Role::Admin if !new.rules.is_empty() => Role::Operator,
            role => role,
        });
        check_role(role, &new.rules)?;
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
        self.store(&token_key(&id), &record)?;
        let view = view(&id, &record);
        self.state.lock().tokens.insert(id, record);
        self.changed();
        Ok((view, text))
    }

    /// Revokes a token that [`Access::tokens`] shows to `by`. Returns what it was.
    ///
    /// # Errors
    /// `access.unknown-token`, or what the backing reports.
    pub fn remove_token(&self, by: &Principal, id: &str) -> Result<TokenView, Error> {
        let _changing = self.changing.lock();
        let token = {
            let state = self.state.lock();
            let record = state.tokens.get(id);
            record
                .filter(|record| manages(by, id, record))
                .map(|record| view(id, record))
        };
        let Some(token) = token else {
            return Err(Error::new(Class::Permanent, "access.unknown-token").with("id", id));
        };
        self.drop_token(id)?;
        self.changed();
        Ok(token)
    }
}

/// Whether `by` may see and revoke a token.
fn manages(by: &Principal, id: &str, token: &TokenRecord) -> bool {
    if by.has_all_rights_of_user() {
        by.role() == Role::Admin || token.user == by.name()
    } else {
        matches!(by.via(), Via::Token(own) if **own == *id)
    }
}

fn view(id: &str, record: &TokenRecord) -> TokenView {
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
