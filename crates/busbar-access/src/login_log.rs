//! Log lines and counts of failed logins.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::limits::LOGIN_LINES_PER_SECOND_MAX;

/// Counts failed logins and logs them, at most [`LOGIN_LINES_PER_SECOND_MAX`] lines a second.
///
/// Names of users are logged only when they exist: people type passwords into the field for the name.
#[derive(Default)]
pub(crate) struct LoginLog {
    failed_passwords: AtomicU64,
    failed_tokens: AtomicU64,
    failed_proven: AtomicU64,
    lock_outs: AtomicU64,
    refused: AtomicU64,
    lines: Mutex<Lines>,
}

/// Failed logins since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoginCounts {
    /// Logins with a wrong name or password.
    pub failed_passwords: u64,
    /// Logins with a token that is unknown, revoked or expired.
    pub failed_tokens: u64,
    /// Logins by a valid client certificate, or by address, as a user that does not exist.
    pub failed_proven: u64,
    /// Failures that reached a bound, so that the next attempts have to wait.
    pub lock_outs: u64,
    /// Attempts that were refused without a check because of earlier failures.
    pub refused: u64,
}

/// What a failed login was made with.
pub(crate) enum Credential<'a> {
    /// A password, of this user if it exists.
    Password(Option<&'a str>),
    /// A token, with this name if it was valid once.
    Token(Option<&'a str>),
    /// A TLS client certificate, or an address.
    Proven,
}

#[derive(Default)]
struct Lines {
    second: i64,
    written: u32,
    suppressed: u64,
}

impl Lines {
    /// Whether a line may be written, and how many were left out before it.
    fn next(&mut self, now_seconds: i64) -> Option<u64> {
        if self.second != now_seconds {
            (self.second, self.written) = (now_seconds, 0);
        }
        if self.written >= LOGIN_LINES_PER_SECOND_MAX {
            self.suppressed += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl LoginLog {
    pub fn counts(&self) -> LoginCounts {
        LoginCounts {
            failed_passwords: self.failed_passwords.load(Ordering::Relaxed),
            failed_tokens: self.failed_tokens.load(Ordering::Relaxed),
            failed_proven: self.failed_proven.load(Ordering::Relaxed),
            lock_outs: self.lock_outs.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Records a failed login; `locked` when the next attempt has to wait.
    pub fn failed(
        &self,
        credential: Credential<'_>,
        peer: Option<IpAddr>,
        locked: bool,
        now_seconds: i64,
    ) {
        let count = match credential {
            Credential::Password(_) => &self.failed_passwords,
            Credential::Token(_) => &self.failed_tokens,
            Credential::Proven => &self.failed_proven,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if locked {
            self.lock_outs.fetch_add(1, Ordering::Relaxed);
        }
        let Some(suppressed) = self.lines.lock().next(now_seconds) else {
            return;
        };
        let peer = peer.map(tracing::field::display);
        match credential {
            Credential::Password(user) if locked => tracing::warn!(
                user = user.unwrap_or("(unknown)"),
                peer,
                suppressed,
                "login failed; further attempts from this address have to wait"
            ),
            Credential::Password(user) => tracing::warn!(
                user = user.unwrap_or("(unknown)"),
                peer,
                suppressed,
                "login failed: wrong name or password"
            ),
            Credential::Token(name) => tracing::warn!(
                token = name.unwrap_or("(unknown)"),
                peer,
                suppressed,
                "login failed: the token is unknown, revoked or expired"
            ),
            Credential::Proven => tracing::warn!(
                peer,
                suppressed,
                "login failed: there is no user of the name in the client certificate, or of the address"
            ),
        }
    }

    /// Records an attempt that was refused because of earlier failures. The failure that led to it has its
    /// line already.
    pub fn locked_out(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_what_is_left_out_is_counted() {
        let mut lines = Lines::default();
        for _ in 0..LOGIN_LINES_PER_SECOND_MAX {
            assert_eq!(lines.next(1), Some(0));
        }
        assert_eq!(lines.next(1), None);
        assert_eq!(lines.next(1), None);
        assert_eq!(lines.next(2), Some(2));
        assert_eq!(lines.next(2), Some(0));
    }
}
