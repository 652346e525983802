//! Proving who one is without showing the password: SCRAM (RFC 5802, RFC 7677), without channel binding.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};

use crate::limits::SCRAM_ROUNDS_MAX;

/// The hash of a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScramHash {
    /// SCRAM-SHA-256.
    Sha256,
    /// SCRAM-SHA-512.
    Sha512,
}

/// One run of a mechanism.
pub struct Scram {
    hash: ScramHash,
    password: String,
    first: String,
    nonce: String,
    /// What the server has to prove at the end.
    expected: Vec<u8>,
}

impl Scram {
    /// Begins with a nonce of its own; `None` without a source of randomness. The user's name is empty where the server knows
    /// it from elsewhere.
    pub fn new(hash: ScramHash, user: &str, password: &str) -> Option<Scram> {
        let mut nonce = [0; 18];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let nonce = STANDARD.encode(nonce);
        Some(Scram::with_nonce(hash, user, password, &nonce))
    }

    fn with_nonce(hash: ScramHash, user: &str, password: &str, nonce: &str) -> Scram {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Scram {
            hash,
            password: password.to_owned(),
            first: format!("n={user},r={nonce}"),
            nonce: nonce.to_owned(),
            expected: Vec::new(),
        }
    }

    /// The client's first message.
    pub fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.first).into_bytes()
    }

    /// The answer to the server's challenge; `None` if it is none that may be answered.
    pub fn answer(&mut self, challenge: &[u8]) -> Option<Vec<u8>> {
        let challenge = std::str::from_utf8(challenge).ok()?;
        let field = |name: &str| {
            challenge
                .split(',')
                .find_map(|part| part.strip_prefix(name))
        };
        let nonce = field("r=")?;
        let salt = STANDARD.decode(field("s=")?).ok()?;
        let rounds: u32 = field("i=")?.parse().ok()?;
        if !nonce.starts_with(&self.nonce) || nonce == self.nonce || rounds > SCRAM_ROUNDS_MAX {
            return None;
        }
        let (derived, signed, hashed) = match self.hash {
            ScramHash::Sha256 => (
                pbkdf2::PBKDF2_HMAC_SHA256,
                hmac::HMAC_SHA256,
                &digest::SHA256,
            ),
            ScramHash::Sha512 => (
                pbkdf2::PBKDF2_HMAC_SHA512,
                hmac::HMAC_SHA512,
                &digest::SHA512,
            ),
        };
        let mut salted = vec![0; hashed.output_len()];
        let rounds = NonZeroU32::new(rounds)?;
        let password = self.password.as_bytes();
        pbkdf2::derive(derived, rounds, &salt, password, &mut salted);
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(signed, key), text);
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(hashed, client_key.as_ref());
        let without_proof = format!("c=biws,r={nonce}");
        let said = format!("{},{challenge},{without_proof}", self.first);
        let signature = sign(stored_key.as_ref(), said.as_bytes());
        let proof = client_key.as_ref().iter().zip(signature.as_ref());
        let proof: Vec<u8> = proof.map(|(a, b)| a ^ b).collect();
        let server_key = sign(&salted, b"Server Key");
        self.expected = sign(server_key.as_ref(), said.as_bytes()).as_ref().to_vec();
        Some(format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes())
    }

    /// Whether the server knows the password, too.
    pub fn verify(&self, last: &[u8]) -> bool {
        let proof = std::str::from_utf8(last).ok();
        let proof = proof.and_then(|text| text.trim_end().strip_prefix("v="));
        let proof = proof.and_then(|text| STANDARD.decode(text).ok());
        !self.expected.is_empty() && proof.as_deref() == Some(&self.expected[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(nonce: &str) -> Scram {
        Scram::with_nonce(ScramHash::Sha256, "user", "pencil", nonce)
    }

    /// The example of RFC 7677.
    #[test]
    fn scram_answers_as_the_standard_says_and_believes_no_other_server() {
        let mut scram = begun("rOprNGfwEbeRWgbNEkqO");
        let challenge = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let answer = scram.answer(challenge).expect("an answer");
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(String::from_utf8_lossy(&answer), expected);
        assert!(scram.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!scram.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="));
        assert!(!begun("n").verify(b"v="));
        for strange in [
            &b"r=other,s=AAAA,i=1"[..],
            b"r=nx,s=AAAA,i=4000000000",
            b"r=nx,s=AAAA,i=0",
            b"r=n,s=AAAA,i=1",
        ] {
            assert!(begun("n").answer(strange).is_none());
        }
    }

    #[test]
    fn names_are_escaped() {
        let scram = Scram::with_nonce(ScramHash::Sha512, "a=b,c", "p", "n");
        assert_eq!(scram.first(), b"n,,n=a=3Db=2Cc,r=n");
    }
}
