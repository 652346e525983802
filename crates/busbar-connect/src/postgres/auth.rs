//! Proving who one is: SCRAM-SHA-256 (RFC 7677) and MD5 passwords.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use ring::hmac;
use ring::pbkdf2;
use ring::rand::{SecureRandom, SystemRandom};

use super::limits::SCRAM_ROUNDS_MAX;

/// The name of the mechanism.
pub const SCRAM: &str = "SCRAM-SHA-256";

/// One run of SCRAM-SHA-256, without channel binding.
pub struct Scram {
    password: String,
    first: String,
    nonce: String,
    /// What the server has to prove at the end.
    expected: Vec<u8>,
}

impl Scram {
    /// Begins with a nonce of its own; `None` without a source of randomness.
    pub fn new(password: &str) -> Option<Scram> {
        let mut nonce = [0; 18];
        SystemRandom::new().fill(&mut nonce).ok()?;
        Some(Scram::with_nonce(password, &STANDARD.encode(nonce)))
    }

    fn with_nonce(password: &str, nonce: &str) -> Scram {
        Scram {
            password: password.to_owned(),
            first: format!("n=,r={nonce}"),
            nonce: nonce.to_owned(),
            expected: Vec::new(),
        }
    }

    /// The client's first message. The user's name is that of the session.
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
        let mut salted = [0; 32];
        let rounds = NonZeroU32::new(rounds)?;
        let password = self.password.as_bytes();
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            rounds,
            &salt,
            password,
            &mut salted,
        );
        let sign =
            |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest(&SHA256, client_key.as_ref());
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

/// The answer to a request for an MD5 password, with the zero that ends it.
pub fn md5_answer(user: &str, password: &str, salt: &[u8]) -> Vec<u8> {
    let inner = hex(&md5(format!("{password}{user}").as_bytes()));
    let outer = hex(&md5(&[inner.as_bytes(), salt].concat()));
    format!("md5{outer}\0").into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// MD5 (RFC 1321), which older servers ask for and ring does not have.
fn md5(text: &[u8]) -> [u8; 16] {
    const TURNS: [[u32; 4]; 4] = [
        [7, 12, 17, 22],
        [5, 9, 14, 20],
        [4, 11, 16, 23],
        [6, 10, 15, 21],
    ];
    let mut padded = text.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend((text.len() as u64 * 8).to_le_bytes());
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in padded.chunks_exact(64) {
        let word = |at: usize| {
            let bytes = &block[at * 4..at * 4 + 4];
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        let [mut a, mut b, mut c, mut d] = state;
        for step in 0..64_usize {
            let (mixed, at) = match step / 16 {
                0 => ((b & c) | (!b & d), step),
                1 => ((d & b) | (!d & c), (5 * step + 1) % 16),
                2 => (b ^ c ^ d, (3 * step + 5) % 16),
                _ => (c ^ (b | !d), (7 * step) % 16),
            };
            let constant = (((step + 1) as f64).sin().abs() * 4_294_967_296.0) as u32;
            let sum = a
                .wrapping_add(mixed)
                .wrapping_add(constant)
                .wrapping_add(word(at));
            a = d;
            d = c;
            c = b;
            b = b.wrapping_add(sum.rotate_left(TURNS[step / 16][step % 4]));
        }
        for (kept, new) in state.iter_mut().zip([a, b, c, d]) {
            *kept = kept.wrapping_add(new);
        }
    }
    let mut result = [0; 16];
    for (bytes, word) in result.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, without the user's name.
    #[test]
    fn scram_answers_as_the_standard_says_and_believes_no_other_server() {
        let mut scram = Scram::with_nonce("pencil", "rOprNGfwEbeRWgbNEkqO");
        scram.first = "n=user,r=rOprNGfwEbeRWgbNEkqO".into();
        let challenge = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let answer = scram.answer(challenge).expect("an answer");
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(String::from_utf8_lossy(&answer), expected);
        assert!(scram.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!scram.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="));
        assert!(!Scram::with_nonce("p", "n").verify(b"v="));
        for strange in [
            &b"r=other,s=AAAA,i=1"[..],
            b"r=nx,s=AAAA,i=4000000000",
            b"r=nx,s=AAAA,i=0",
            b"r=n,s=AAAA,i=1",
        ] {
            assert!(Scram::with_nonce("p", "n").answer(strange).is_none());
        }
    }

    #[test]
    fn md5_is_that_of_the_standard() {
        assert_eq!(hex(&md5(b"")), "d41d8cd98f00b204e9800998ecf8427e");
        let long =
            b"12345678901234567890123456789012345678901234567890123456789012345678901234567890";
        assert_eq!(hex(&md5(long)), "57edf4a22be3c955ac49da2e2107b67a");
    }
}
