//! The TLS settings of a listening port, from its certificate and key. Used for MQTT here and for HTTP by the server.

use std::path::Path;
use std::sync::Arc;

use busbar_event::{Class, Error};
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Reads a certificate chain and its private key, both in PEM form. Blocks on the disk.
///
/// # Errors
/// *Configuration*: a file cannot be read or does not hold what it should, or the two do not belong together.
pub fn server_tls(certificates: &Path, key: &Path) -> Result<rustls::ServerConfig, Error> {
    let chain = CertificateDer::pem_file_iter(certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|why| unusable("gateway.tls-certificate", certificates, why))?;
    if chain.is_empty() {
        let why = PemError::NoItemsFound;
        return Err(unusable("gateway.tls-certificate", certificates, why));
    }
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|why| unusable("gateway.tls-key", key, why))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, secret)
        });
    config.map_err(|_| {
        Error::new(Class::Configuration, "gateway.tls-pair")
            .with("certificate", certificates.display())
            .with("key", key.display())
    })
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
        assert!(server_tls(&at("cert"), &at("key")).is_ok());
        for (certificate, key, code) in [
            ("text", "key", "gateway.tls-certificate"),
            ("nowhere", "key", "gateway.tls-certificate"),
            ("key", "key", "gateway.tls-certificate"),
            ("cert", "text", "gateway.tls-key"),
            ("cert", "cert", "gateway.tls-key"),
            ("cert", "other", "gateway.tls-pair"),
        ] {
            let refused = server_tls(&at(certificate), &at(key)).unwrap_err();
            assert_eq!(refused.code(), code, "{certificate} {key}");
        }
    }
}
