//! Proofs of a password: `mysql_native_password` and `caching_sha2_password`.

use ring::digest::{Algorithm, Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

pub const NATIVE: &str = "mysql_native_password";
pub const SHA2: &str = "caching_sha2_password";

/// The proof for a plug-in; `None` for one that is not known.
pub fn proof(plugin: &str, password: &str, nonce: &[u8]) -> Option<Vec<u8>> {
    if password.is_empty() && matches!(plugin, NATIVE | SHA2) {
        return Some(Vec::new());
    }
    let password = password.as_bytes();
    let (first, second) = match plugin {
        NATIVE => {
            let once = hash(&SHA1_FOR_LEGACY_USE_ONLY, &[password]);
            let twice = hash(&SHA1_FOR_LEGACY_USE_ONLY, &[&once]);
            let second = hash(&SHA1_FOR_LEGACY_USE_ONLY, &[nonce, &twice]);
            (once, second)
        }
        SHA2 => {
            let once = hash(&SHA256, &[password]);
            let twice = hash(&SHA256, &[&once]);
            let second = hash(&SHA256, &[&twice, nonce]);
            (once, second)
        }
        _ => return None,
    };
    Some(first.iter().zip(second).map(|(a, b)| a ^ b).collect())
}

fn hash(algorithm: &'static Algorithm, parts: &[&[u8]]) -> Vec<u8> {
    let mut context = Context::new(algorithm);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_fits_what_the_server_keeps() {
        // The server keeps the hash of the hash, and finds the first from the proof.
        let nonce = b"01234567890123456789";
        let proof = proof(NATIVE, "secret", nonce).expect("known");
        let once = hash(&SHA1_FOR_LEGACY_USE_ONLY, &[b"secret"]);
        let kept = hash(&SHA1_FOR_LEGACY_USE_ONLY, &[&once]);
        let mask = hash(&SHA1_FOR_LEGACY_USE_ONLY, &[nonce, &kept]);
        let found: Vec<_> = proof.iter().zip(mask).map(|(a, b)| a ^ b).collect();
        assert_eq!(hash(&SHA1_FOR_LEGACY_USE_ONLY, &[&found]), kept);
        assert_eq!(super::proof(SHA2, "", nonce), Some(Vec::new()));
        assert_eq!(super::proof("client_ed25519", "x", nonce), None);
    }
}
