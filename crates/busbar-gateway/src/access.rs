//! [`Authorizer`] over `busbar-access`.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use busbar_access::{Access, Principal};
use busbar_event::topic::Filter;

use crate::authorizer::{Authorizer, Credentials, Denied, Identity, Reach};

/// Users, passwords and tokens of a node. While there is no user, everybody may do everything (the node listens on
/// loopback only then); as soon as there is one, every client needs a login: user name and password, an API token
/// as the password under any user name, or a TLS client certificate whose common name is that of a user.
#[derive(Clone)]
pub struct AccessAuthorizer(Arc<Access>);

impl AccessAuthorizer {
    /// Over the access rules of a node.
    pub fn new(access: Arc<Access>) -> AccessAuthorizer {
        AccessAuthorizer(access)
    }

    fn login(&self, credentials: &Credentials) -> Result<Principal, Denied> {
        if !self.0.has_users() {
            return Ok(Principal::local());
        }
        let peer: Option<IpAddr> = credentials.origin.address.map(|p| p.ip());
        let Some(password) = &credentials.password else {
            let named = credentials.origin.user.as_deref();
            let Some(name) = named else {
                return Err(Denied::NoCredentials);
            };
            return self
                .0
                .authenticate_proven(name, peer)
                .map_err(|_| Denied::BadCredentials);
        };
        let password = std::str::from_utf8(password).map_err(|_| Denied::BadCredentials)?;
        let by_token = || self.0.authenticate_token(password, peer);
        let result = match &credentials.username {
            _ if Access::is_token(password) => by_token(),
            Some(user) => self.0.authenticate_password(user, password, peer),
            None => by_token(),
        };
        result.map_err(|error| match error.class() {
            busbar_event::Class::Transient => Denied::TryLater,
            _ => Denied::BadCredentials,
        })
    }
}

impl Authorizer for AccessAuthorizer {
    fn authenticate(&self, credentials: &Credentials) -> Result<Arc<dyn Identity>, Denied> {
        let epoch = self.0.epoch();
        let principal = self.login(credentials)?;
        Ok(Arc::new(Login {
            access: Arc::clone(&self.0),
            principal,
            epoch: AtomicU64::new(epoch),
            valid: AtomicBool::new(true),
        }))
    }

    fn at_once(&self, credentials: &Credentials) -> Option<Result<Arc<dyn Identity>, Denied>> {
        // Only passwords take time, and without users there is none.
        (!self.0.has_users()).then(|| self.authenticate(credentials))
    }
}

struct Login {
    access: Arc<Access>,
    principal: Principal,
    epoch: AtomicU64,
    valid: AtomicBool,
}

impl Identity for Login {
    fn user(&self) -> &str {
        match self.principal.is_local() {
            true => "",
            false => self.principal.name(),
        }
    }

    fn may_publish(&self, topic: &str, stream: &str) -> bool {
        self.principal.may_publish(topic, stream)
    }

    fn may_subscribe(&self, filter: &Filter) -> Reach {
        match self.principal.may_subscribe(filter) {
            busbar_access::Reach::All => Reach::All,
            busbar_access::Reach::Some => Reach::Some,
            busbar_access::Reach::None => Reach::None,
        }
    }

    fn may_receive(&self, topic: &str, stream: &str) -> bool {
        self.principal.may_receive(topic, stream)
    }

    fn is_unrestricted(&self) -> bool {
        self.principal.is_unrestricted()
    }

    fn is_current(&self) -> bool {
        let epoch = self.access.epoch();
        if self.epoch.swap(epoch, Ordering::AcqRel) != epoch {
            // Users or tokens changed: a login whose rules are no longer the same has to be made
            // again, so that what was allowed before is not allowed for ever.
            let same = self
                .access
                .current(&self.principal)
                .is_some_and(|now| now.same_rights(&self.principal));
            self.valid.store(same, Ordering::Release);
        }
        self.valid.load(Ordering::Acquire)
    }
}
