//! Encryption: which authorities are trusted, and which failures somebody must repair.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use busbar_event::{Class, Error};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::CA_BYTES_MAX;
use crate::places::{PathRefused, Places};

/// Encryption of a connection.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// A PEM file with the authorities to trust in place of the usual ones: inside the project's folder, or in one that
    /// `[files] allow` names.
    pub ca: Option<String>,
}

impl Tls {
    /// The authorities to trust, if they are not the usual ones. Blocks on the disk.
    ///
    /// # Errors
    /// *Configuration*: the file cannot be read, or holds no certificate.
    pub fn authorities(
        &self,
        project: &Path,
        places: &Places,
    ) -> Result<Option<Vec<CertificateDer<'static>>>, Error> {
        let ca = self.ca.as_deref();
        ca.map(|ca| certificates(ca, project, places)).transpose()
    }
}

/// Files that say who a client is.
#[derive(Debug, Clone)]
pub struct ClientPem {
    /// The certificate, and those of its authorities.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// What a client encrypts with.
///
/// # Errors
/// As [`Tls::authorities`], and *configuration* for authorities that are none.
pub async fn client_config(
    tls: &Tls,
    project: &Path,
    places: &Places,
) -> Result<Arc<rustls::ClientConfig>, Error> {
    client_config_as(tls, None, project, places).await
}

/// The same, in these versions of the protocol.
///
/// # Errors
/// As [`client_config`].
pub async fn client_config_of(
    tls: &Tls,
    versions: &[&'static rustls::SupportedProtocolVersion],
    project: &Path,
    places: &Places,
) -> Result<Arc<rustls::ClientConfig>, Error> {
    client_config_with(tls, None, versions, project, places).await
}

/// The same, and who the client is.
///
/// # Errors
/// As [`client_config`], and *configuration* for a certificate and a key that do not belong together.
pub async fn client_config_as(
    tls: &Tls,
    pem: Option<ClientPem>,
    project: &Path,
    places: &Places,
) -> Result<Arc<rustls::ClientConfig>, Error> {
    client_config_with(tls, pem, rustls::DEFAULT_VERSIONS, project, places).await
}

async fn client_config_with(
    tls: &Tls,
    pem: Option<ClientPem>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    project: &Path,
    places: &Places,
) -> Result<Arc<rustls::ClientConfig>, Error> {
    let (tls, project, places) = (tls.clone(), project.to_owned(), places.clone());
    let unusable = |why: &dyn std::fmt::Display| {
        Error::new(Class::Configuration, "connect.tls-unusable").with("why", why)
    };
    let read = tokio::task::spawn_blocking(move || {
        let authorities = tls.authorities(&project, &places)?;
        let identity = pem.map(|pem| {
            let certificates = certificates(&pem.certificate, &project, &places)?;
            let key = read_pem(&pem.key, "connect.tls-key", &project, &places)?;
            let key = PrivateKeyDer::from_pem_slice(&key).map_err(|why| {
                Error::new(Class::Configuration, "connect.tls-key")
                    .with("file", &pem.key)
                    .caused_by(why)
            })?;
            Ok::<_, Error>((certificates, key))
        });
        Ok::<_, Error>((authorities, identity.transpose()?))
    });
    let (authorities, identity) = read.await.map_err(|why| unusable(&why))??;
    let mut roots = rustls::RootCertStore::empty();
    match authorities {
        Some(certificates) => {
            for certificate in certificates {
                roots.add(certificate).map_err(|why| unusable(&why))?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|why| unusable(&why))?
        .with_root_certificates(roots);
    Ok(Arc::new(match identity {
        None => config.with_no_client_auth(),
        Some((certificates, key)) => config
            .with_client_auth_cert(certificates, key)
            .map_err(|why| unusable(&why))?,
    }))
}

/// The certificates in a PEM file.
fn certificates(
    file: &str,
    project: &Path,
    places: &Places,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = read_pem(file, "connect.tls-ca", project, places)?;
    let unusable = || {
        Error::new(Class::Configuration, "connect.tls-ca")
            .with("file", project.join(file).display())
    };
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|why| unusable().caused_by(why))?;
    match certificates.is_empty() {
        true => Err(unusable()),
        false => Ok(certificates),
    }
}

/// The bytes of a PEM file.
fn read_pem(
    file: &str,
    code: &'static str,
    project: &Path,
    places: &Places,
) -> Result<Vec<u8>, Error> {
    let path = project.join(file);
    let unusable = || Error::new(Class::Configuration, code).with("file", path.display());
    let path = places
        .resolve(project, &path)
        .map_err(|refused| match refused {
            PathRefused::Outside(error) => error,
            PathRefused::Io(why) => unusable().caused_by(why),
        })?;
    let mut pem = Vec::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(CA_BYTES_MAX).read_to_end(&mut pem))
        .map_err(|why| unusable().caused_by(why))?;
    Ok(pem)
}

/// What a handshake failed of, if trying again cannot help: a certificate that is not trusted or is for
/// another name, or a side that refuses ours.
pub fn refused<'a>(
    why: &'a (dyn std::error::Error + Send + Sync + 'static),
) -> Option<&'a rustls::Error> {
    let mut next: Option<&'a (dyn std::error::Error + 'static)> = Some(why);
    while let Some(error) = next {
        // What is inside an I/O error is not its source.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(|error| error.get_ref())
            .map(|inner| inner as &(dyn std::error::Error + 'static));
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return matches!(
                found,
                rustls::Error::InvalidCertificate(_)
                    | rustls::Error::AlertReceived(_)
                    | rustls::Error::InvalidMessage(_)
                    | rustls::Error::NoCertificatesPresented
                    | rustls::Error::PeerIncompatible(_)
            )
            .then_some(found);
        }
        next = inner.or_else(|| error.source());
    }
    None
}

/// A handshake that failed for good, with the peer's address.
pub fn untrusted(address: &str, why: &rustls::Error) -> Error {
    Error::new(Class::Configuration, "connect.tls-refused")
        .with("address", address)
        .caused_by(why.clone())
}
