//! The TLS settings of a listening port, from its certificate and key. Gateways and the HTTP port use them.

use std::path::Path;
use std::sync::Arc;

use busbar_event::{Class, Error};
use rustls::RootCertStore;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

/// Reads a certificate chain and its private key, both in PEM form. With `clients`, a file of certificate
/// authorities in PEM form, a client may present a certificate of theirs; one of another origin ends the handshake.
/// Blocks on the disk.
///
/// # Errors
/// *Configuration*: a file cannot be read or does not hold what it should, or certificate and key do not belong
/// together.
pub fn server_tls(
    certificates: &Path,
    key: &Path,
    clients: Option<&Path>,
) -> Result<rustls::ServerConfig, Error> {
    let chain = certificates_in(certificates, "gateway.tls-certificate")?;
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|why| unusable("gateway.tls-key", key, why))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = match clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(file) => {
            let bad = || {
                Error::new(Class::Configuration, "gateway.tls-client-ca")
                    .with("file", file.display())
            };
            let mut roots = RootCertStore::empty();
            for authority in certificates_in(file, "gateway.tls-client-ca")? {
                roots.add(authority).map_err(|_| bad())?;
            }
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .map_err(|_| bad())?
        }
    };
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain, secret)
        });
    config.map_err(|_| {
        Error::new(Class::Configuration, "gateway.tls-pair")
            .with("certificate", certificates.display())
            .with("key", key.display())
    })
}

/// The certificates in a PEM file, at least one.
fn certificates_in(file: &Path, code: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|why| unusable(code, file, why))?;
    match all.is_empty() {
        true => Err(unusable(code, file, PemError::NoItemsFound)),
        false => Ok(all),
    }
}

/// An error about a file. Only the operating system's words are added to ours.
fn unusable(code: &'static str, file: &Path, why: PemError) -> Error {
    let error = Error::new(Class::Configuration, code).with("file", file.display());
    match why {
        PemError::Io(why) => error.caused_by(why),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let signed = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (one, other) = (signed(), signed());
        for (name, text) in [
            ("cert", one.cert.pem()),
            ("key", one.signing_key.serialize_pem()),
            ("other", other.signing_key.serialize_pem()),
            ("text", "nothing of the kind".to_owned()),
        ] {
            std::fs::write(at(name), text).unwrap();
        }
        assert!(server_tls(&at("cert"), &at("key"), None).is_ok());
        for (certificate, key, code) in [
            ("text", "key", "gateway.tls-certificate"),
            ("nowhere", "key", "gateway.tls-certificate"),
            ("key", "key", "gateway.tls-certificate"),
            ("cert", "text", "gateway.tls-key"),
            ("cert", "cert", "gateway.tls-key"),
            ("cert", "other", "gateway.tls-pair"),
        ] {
            let refused = server_tls(&at(certificate), &at(key), None).unwrap_err();
            assert_eq!(refused.code(), code, "{certificate} {key}");
        }
        let with_clients = |ca: &str| server_tls(&at("cert"), &at("key"), Some(&at(ca)));
        assert!(with_clients("cert").is_ok());
        for ca in ["text", "nowhere", "key"] {
            let refused = with_clients(ca).unwrap_err();
            assert_eq!(refused.code(), "gateway.tls-client-ca", "{ca}");
        }
    }
}
