//! Random secrets and their digests.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use busbar_event::{Class, Error};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Bytes of a secret before it is written as text.
const SECRET_BYTES: usize = 32;
/// Bytes of a public id.
const ID_BYTES: usize = 9;

/// The SHA-256 of a secret: what is stored of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    pub(crate) fn of(secret: &str) -> Digest {
        Digest(Sha256::digest(secret.as_bytes()).into())
    }

    /// A digest of a user's password that only this process can make.
    pub(crate) fn keyed(key: &[u8; 32], user: &str, password: &str) -> Digest {
        // The length is part of the input, so that no two pairs give the same bytes.
        let mut hash = Sha256::new();
        hash.update(key);
        hash.update((user.len() as u64).to_le_bytes());
        hash.update(user.as_bytes());
        hash.update(password.as_bytes());
        let inner: [u8; 32] = hash.finalize().into();
        let mut hash = Sha256::new();
        hash.update(key);
        hash.update(inner);
        Digest(hash.finalize().into())
    }

    pub(crate) fn same(&self, other: &Digest) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    pub(crate) fn to_text(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    pub(crate) fn from_text(text: &str) -> Option<Digest> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Digest)
    }
}

/// A fresh secret, as text.
pub(crate) fn secret() -> Result<String, Error> {
    random::<SECRET_BYTES>().map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
}

/// A fresh public id, as text.
pub(crate) fn id() -> Result<String, Error> {
    // The alphabet without `-` and `_` keeps ids easy to select with a double click.
    random::<ID_BYTES>().map(|bytes| bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Random bytes from the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|cause| {
        Error::new(Class::Transient, "access.no-randomness").with("why", cause.to_string())
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ_and_digests_compare() {
        let (a, b) = (secret().unwrap(), secret().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.len(), 43);
        assert!(Digest::of(&a).same(&Digest::of(&a)));
        assert!(!Digest::of(&a).same(&Digest::of(&b)));
        let text = Digest::of(&a).to_text();
        assert!(Digest::from_text(&text).unwrap().same(&Digest::of(&a)));
        assert!(Digest::from_text("x").is_none());
    }

    #[test]
    fn keyed_digests_depend_on_key_user_and_password() {
        let (k, l) = ([1; 32], [2; 32]);
        let base = Digest::keyed(&k, "ann", "secret");
        assert!(base.same(&Digest::keyed(&k, "ann", "secret")));
        assert!(!base.same(&Digest::keyed(&l, "ann", "secret")));
        assert!(!base.same(&Digest::keyed(&k, "anns", "ecret")));
    }
}
