//! Password hashes, and the bound on how many are computed at the same time.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use busbar_event::{Class, Error};
use parking_lot::{Condvar, Mutex};

use crate::limits::{
    HASH_WAITERS_MAX, HASHES_IN_FLIGHT_MAX, PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN,
};

/// What one hash costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// 19 MiB, two passes, one lane: about 25 ms of one core.
    Standard,
    /// As little as the algorithm allows; for tests only, never for passwords of people.
    Least,
}

pub(crate) struct Hasher {
    argon: Argon2<'static>,
    /// The hash of a random password, verified for unknown users so that they take as long
    /// as known ones.
    decoy: String,
    gate: Gate,
}

impl Hasher {
    pub(crate) fn new(cost: Cost) -> Result<Hasher, Error> {
        let params = match cost {
            Cost::Standard => Params::new(19 * 1024, 2, 1, None),
            Cost::Least => Params::new(Params::MIN_M_COST, 1, 1, None),
        }
        .map_err(failed)?;
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let decoy = argon
            .hash_password(crate::secret::secret()?.as_bytes())
            .map_err(failed)?
            .to_string();
        Ok(Hasher {
            argon,
            decoy,
            gate: Gate::default(),
        })
    }

    /// Hashes a new password. Takes about 25 ms of a core: call it from a thread that may wait.
    pub(crate) fn hash(&self, password: &str) -> Result<String, Error> {
        let _turn = self.turn()?;
        Ok(self
            .argon
            .hash_password(password.as_bytes())
            .map_err(failed)?
            .to_string())
    }

    /// Waits for the turn to compute a hash. What was checked before may no longer hold afterwards.
    pub(crate) fn turn(&self) -> Result<Turn<'_>, Error> {
        Ok(Turn {
            hasher: self,
            _pass: self.gate.enter()?,
        })
    }
}

/// The turn to compute one hash.
pub(crate) struct Turn<'a> {
    hasher: &'a Hasher,
    _pass: Pass<'a>,
}

impl Turn<'_> {
    /// Whether `password` belongs to `hash`; without a hash it takes as long and is false.
    pub(crate) fn verify(self, hash: Option<&str>, password: &str) -> Result<bool, Error> {
        let parsed = PasswordHash::new(hash.unwrap_or(&self.hasher.decoy)).map_err(failed)?;
        let same = self
            .hasher
            .argon
            .verify_password(password.as_bytes(), &parsed)
            .is_ok();
        Ok(same && hash.is_some())
    }
}

/// Refuses passwords that are too short to be accepted or too long to be hashed.
pub(crate) fn check(password: &str) -> Result<(), Error> {
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(Error::new(Class::Permanent, "access.password-too-long")
            .with("max", PASSWORD_BYTES_MAX));
    }
    if password.chars().count() < PASSWORD_CHARS_MIN {
        return Err(Error::new(Class::Permanent, "access.password-too-short")
            .with("min", PASSWORD_CHARS_MIN));
    }
    Ok(())
}

fn failed(cause: impl std::fmt::Display) -> Error {
    Error::new(Class::Permanent, "access.hash-failed").with("why", cause)
}

/// Lets [`HASHES_IN_FLIGHT_MAX`] threads compute a hash at a time; up to [`HASH_WAITERS_MAX`] others wait.
#[derive(Default)]
struct Gate {
    state: Mutex<(usize, usize)>,
    freed: Condvar,
}

struct Pass<'a>(&'a Gate);

impl Gate {
    fn enter(&self) -> Result<Pass<'_>, Error> {
        let mut state = self.state.lock();
        if state.0 >= HASHES_IN_FLIGHT_MAX {
            if state.1 >= HASH_WAITERS_MAX {
                return Err(Error::new(Class::Transient, "access.busy"));
            }
            state.1 += 1;
            while state.0 >= HASHES_IN_FLIGHT_MAX {
                self.freed.wait(&mut state);
            }
            state.1 -= 1;
        }
        state.0 += 1;
        Ok(Pass(self))
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.state.lock().0 -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_verifies_its_password_only() {
        let hasher = Hasher::new(Cost::Least).unwrap();
        let hash = hasher.hash("correct horse").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$"));
        let verify = |hash, password| hasher.turn().unwrap().verify(hash, password).unwrap();
        assert!(verify(Some(&hash), "correct horse"));
        assert!(!verify(Some(&hash), "correct horsf"));
        assert!(!verify(None, "correct horse"));
        assert_ne!(hash, hasher.hash("correct horse").unwrap());
    }

    #[test]
    fn lengths_are_checked_before_any_work() {
        assert_eq!(
            check("short").unwrap_err().code(),
            "access.password-too-short"
        );
        assert_eq!(
            check(&"x".repeat(PASSWORD_BYTES_MAX + 1))
                .unwrap_err()
                .code(),
            "access.password-too-long"
        );
        check("八个汉字也是密码").unwrap();
    }

    #[test]
    fn the_gate_lets_everyone_through_in_the_end() {
        let gate = Gate::default();
        let most = std::sync::atomic::AtomicUsize::new(0);
        let now = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    use std::sync::atomic::Ordering::SeqCst;
                    let _pass = gate.enter().unwrap();
                    most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                    #[expect(clippy::disallowed_methods)]
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    now.fetch_sub(1, SeqCst);
                });
            }
        });
        assert_eq!(most.into_inner(), HASHES_IN_FLIGHT_MAX);
    }
}
