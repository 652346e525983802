//! Faults: what kind one is, and answers that do not come from the service at all.

use std::borrow::Cow;

use busbar_connector::ServiceAnswer;
use busbar_event::{Class, Error, quote};
use busbar_xml::{DocumentFault, NodeAt, XmlDocument, document_text_in};
use http::header;
use memchr::memmem;

use crate::reason::reason;

/// What WS-Security calls a login that is refused.
const LOGIN_FAULTS: [&str; 5] = [
    "FailedAuthentication",
    "InvalidSecurity",
    "InvalidSecurityToken",
    "FailedCheck",
    "UnsupportedSecurityToken",
];

/// The error that a fault is: *transient* where the receiver has failed, else *permanent*.
pub(super) fn fault_error(tree: &XmlDocument, fault: NodeAt, url: &str) -> Error {
    let text = |place: Option<NodeAt>| place.map(|place| tree.value(place).trim().to_owned());
    let within = |outer, inner| tree.child(tree.child(fault, outer)?, inner);
    let code = code(tree, fault);
    let why = text(within("Reason", "Text")).or_else(|| text(tree.child(fault, "faultstring")));
    // `soap:Server.Busy`: a prefix before it, and finer distinctions behind.
    let kind = code
        .rsplit(':')
        .next()
        .and_then(|code| code.split('.').next());
    let class = match kind {
        Some("Server" | "Receiver") => Class::Transient,
        _ => Class::Permanent,
    };
    // The finer code of SOAP 1.2 stands within the first one.
    let inner = tree.child(fault, "Code").and_then(|outer| {
        let inner = tree.child(outer, "Subcode")?;
        Some(tree.value(tree.child(inner, "Value")?).trim())
    });
    let is_login = [Some(code), inner].into_iter().flatten().any(|code| {
        let local = code.rsplit(':').next().unwrap_or(code);
        LOGIN_FAULTS.contains(&local)
    });
    let (class, name) = match is_login {
        true => (Class::Permanent, "connect.soap-login"),
        false => (class, "connect.soap-fault"),
    };
    Error::new(class, name)
        .with("url", url)
        .with("code", quote(code))
        .with("said", reason(&why.unwrap_or_default()))
}

/// The code of a fault of either version; empty where it says none.
pub(super) fn code(tree: &XmlDocument, fault: NodeAt) -> &str {
    let two = tree.child(fault, "Code");
    let place = two.and_then(|outer| tree.child(outer, "Value"));
    let place = place.or_else(|| tree.child(fault, "faultcode"));
    place.map_or("", |place| tree.value(place).trim())
}

/// The fault in the body of an envelope.
pub(super) fn fault_in(tree: &XmlDocument) -> Option<NodeAt> {
    let envelope = tree.element()?;
    let fault = tree.child(tree.child(envelope, "Body")?, "Fault")?;
    (tree.namespace(fault) == tree.namespace(envelope)).then_some(fault)
}

/// Whether bytes may hold a fault, in any encoding that documents have: they are ASCII or UTF-16 as far as this word goes.
pub(super) fn may_hold_fault(body: &[u8]) -> bool {
    [&b"Fault"[..], b"F\0a\0u\0l\0t"]
        .iter()
        .any(|word| memmem::find(body, word).is_some())
}

/// Whether an answer is a web page: what a proxy or a login page sends in place of the service.
pub(super) fn is_page(answer: &ServiceAnswer) -> bool {
    let kind = media_type(answer);
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let begins = |word: &[u8]| {
        let body = answer.body.strip_prefix(b"\xef\xbb\xbf");
        let body = body.unwrap_or(&answer.body).trim_ascii_start();
        let begin = body.get(..word.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(word))
    };
    ["text/html", "application/xhtml+xml"]
        .iter()
        .any(|page| kind.eq_ignore_ascii_case(page))
        || begins(b"<!doctype html")
        || begins(b"<html")
}

/// The text of an answer, in the encoding that its media type says.
///
/// # Errors
/// As [`document_text_in`].
pub(super) fn answer_text(answer: &ServiceAnswer) -> Result<Cow<'_, str>, DocumentFault> {
    let kind = media_type(answer);
    let charset = kind.split(';').skip(1).find_map(|part| {
        let (name, value) = part.split_once('=')?;
        let is_charset = name.trim().eq_ignore_ascii_case("charset");
        is_charset.then(|| value.trim().trim_matches('"'))
    });
    document_text_in(&answer.body, charset)
}

/// What an answer says its type is; empty where it says none.
pub(super) fn media_type(answer: &ServiceAnswer) -> Cow<'_, str> {
    let kind = answer.headers.get(header::CONTENT_TYPE);
    String::from_utf8_lossy(kind.map_or(&[][..], |kind| kind.as_bytes()))
}
