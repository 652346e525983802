//! Why a node did not answer, in words that name the way out.

use std::io::ErrorKind;
use std::path::Path;

use busbar_event::{Class, Error};
use rustls::CertificateError;

/// The error for a request that got no answer.
pub fn explain(why: ureq::Error, node: &str, ca: Option<&Path>) -> Error {
    if let Some(tls) = tls_error(&why) {
        return explain_tls(tls, node, ca);
    }
    let error = |code| Error::new(Class::Transient, code).with("node", node);
    match why {
        ureq::Error::HostNotFound => error("cli.host-unknown"),
        ureq::Error::Timeout(_) => error("cli.node-slow"),
        // An answer that is not HTTP: most likely the port speaks TLS.
        ureq::Error::Protocol(_) if !is_https(node) => error("cli.no-http"),
        ureq::Error::Io(why) => match why.kind() {
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
                if !is_https(node) =>
            {
                error("cli.no-http")
            }
            ErrorKind::ConnectionRefused => error("cli.node-unreachable"),
            ErrorKind::NotFound => error("cli.host-unknown"),
            ErrorKind::TimedOut => error("cli.node-slow"),
            _ => error("cli.node-unreachable").caused_by(why),
        },
        _ => error("cli.node-unreachable"),
    }
}

fn is_https(node: &str) -> bool {
    node.starts_with("https://")
}

/// The TLS error in an error, if it is one.
fn tls_error(why: &ureq::Error) -> Option<&rustls::Error> {
    match why {
        ureq::Error::Rustls(tls) => Some(tls),
        ureq::Error::Io(why) => why.get_ref()?.downcast_ref(),
        _ => None,
    }
}

fn explain_tls(tls: &rustls::Error, node: &str, ca: Option<&Path>) -> Error {
    use CertificateError as Bad;
    use rustls::Error as Tls;
    let error = |code| Error::new(Class::Configuration, code).with("node", node);
    match tls {
        Tls::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            error("cli.tls-expired")
        }
        Tls::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            error("cli.tls-not-yet")
        }
        Tls::InvalidCertificate(Bad::NotValidForName) => error("cli.tls-name"),
        Tls::InvalidCertificate(Bad::NotValidForNameContext { presented, .. }) => {
            let names: Vec<&str> = presented.iter().map(|name| plain(name)).collect();
            match names.is_empty() {
                true => error("cli.tls-name"),
                false => error("cli.tls-names").with("names", names.join(", ")),
            }
        }
        Tls::InvalidCertificate(_) | Tls::NoCertificatesPresented => match ca {
            Some(path) => error("cli.tls-other").with("path", path.display()),
            None => error("cli.tls-untrusted"),
        },
        Tls::InvalidMessage(_) => error("cli.no-tls"),
        _ => error("cli.tls-failed"),
    }
}

/// A name as people write it: the library gives `DnsName("localhost")`, `IpAddress(127.0.0.1)`.
fn plain(name: &str) -> &str {
    let inner = name
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tls: rustls::Error, ca: Option<&Path>) -> Error {
        let why = std::io::Error::new(ErrorKind::InvalidData, tls);
        explain(ureq::Error::Io(why), "https://localhost:8443", ca)
    }

    #[test]
    fn each_tls_error_names_its_cause() {
        let bad = rustls::Error::InvalidCertificate;
        let presented = vec![
            "DnsName(\"plant.example\")".to_owned(),
            "IpAddress(10.0.0.1)".to_owned(),
        ];
        let expected = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let names = bad(CertificateError::NotValidForNameContext {
            expected,
            presented,
        });
        for (tls, code) in [
            (bad(CertificateError::Expired), "cli.tls-expired"),
            (bad(CertificateError::NotValidYet), "cli.tls-not-yet"),
            (bad(CertificateError::UnknownIssuer), "cli.tls-untrusted"),
            (names.clone(), "cli.tls-names"),
            (
                rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
                "cli.no-tls",
            ),
            (rustls::Error::DecryptError, "cli.tls-failed"),
        ] {
            let error = of(tls, None);
            assert_eq!(error.code(), code);
            assert!(!error.to_string().contains("Error"), "{error}");
        }
        let text = of(names, None).to_string();
        assert!(text.contains("plant.example, 10.0.0.1"), "{text}");
        let other = of(
            bad(CertificateError::UnknownIssuer),
            Some(Path::new("ca.pem")),
        );
        assert_eq!(other.code(), "cli.tls-other");
    }

    #[test]
    fn a_refused_connection_is_told_from_a_closed_one() {
        let of = |kind: ErrorKind, node| {
            let why = ureq::Error::Io(kind.into());
            explain(why, node, None).code()
        };
        let (plain, tls) = ("http://127.0.0.1:1", "https://127.0.0.1:1");
        assert_eq!(
            of(ErrorKind::ConnectionRefused, plain),
            "cli.node-unreachable"
        );
        assert_eq!(of(ErrorKind::UnexpectedEof, plain), "cli.no-http");
        assert_eq!(of(ErrorKind::UnexpectedEof, tls), "cli.node-unreachable");
        assert_eq!(of(ErrorKind::TimedOut, plain), "cli.node-slow");
    }
}
