//! The name in a TLS client certificate.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;

/// The common name (2.5.4.3) of the subject of a certificate that was verified.
pub(crate) fn common_name(certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
    // Whether it is a certificate at all was checked by the handshake.
    ParsedCertificate::try_from(certificate).ok()?;
    name_in(certificate)
}

/// Object identifier of the common name, as DER.
const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];

/// Tags of DER.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;

/// Certificate ::= { { [version], serial, algorithm, issuer, validity, subject, … }, … }
fn name_in(certificate: &[u8]) -> Option<Arc<str>> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    if *fields.first()? == VERSION {
        fields = element(fields)?.2;
    }
    for _ in 0..4 {
        fields = element(fields)?.2;
    }
    let (tag, mut names, _) = element(fields)?;
    if tag != SEQUENCE {
        return None;
    }
    let mut found = None;
    while !names.is_empty() {
        let (_, set, rest) = element(names)?;
        names = rest;
        let (_, pair, _) = element(set)?;
        if let Some(value) = pair.strip_prefix(COMMON_NAME) {
            let (tag, text, _) = element(value)?;
            if !matches!(tag, UTF8_STRING | PRINTABLE_STRING) {
                return None;
            }
            // The most specific one comes last.
            found = std::str::from_utf8(text).ok().map(Arc::from);
        }
    }
    found
}

/// The tag and content of the first element, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        long @ 0x81..=0x83 => {
            let (len, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (
                len.iter()
                    .fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
                rest,
            )
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_that_of_the_subject() {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = &mut params.distinguished_name;
        name.push(rcgen::DnType::OrganizationName, "works");
        name.push(rcgen::DnType::CommonName, "gauge-7");
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(common_name(certificate.der()).as_deref(), Some("gauge-7"));
        // Every shortened one is no certificate, and none panics.
        let der = certificate.der();
        for len in 0..der.len() {
            let _ = name_in(&der[..len]);
        }
    }
}
