//! Faults: what the caller of a web service is told in place of an answer.

use axum::http::StatusCode;
use busbar_event::messages::Language;
use busbar_event::{Class, Error};

use super::envelope::EnvelopeVersion;
use super::wsdl::{attribute, text};
use crate::answer::Refusal;

/// The namespace of the details of faults.
const DETAIL: &str = "urn:busbar:error";

/// A fault.
pub(crate) struct WebFault {
    kind: WebFaultKind,
    error: Error,
    /// What is said in place of the error's own text.
    reason: Option<String>,
    /// What led to it.
    cause: Option<Error>,
    /// What identifies the request, where it is stored.
    request: Option<String>,
    /// The header that is not understood: its namespace and name.
    misunderstood: Option<(String, String)>,
    /// How the call is counted.
    counted: StatusCode,
    /// No reply has come in time.
    is_late: bool,
}

/// Whose fault it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WebFaultKind {
    /// The message is no envelope.
    Version,
    /// A header must be understood and is not.
    Header,
    /// What the caller sent does not fit.
    Client,
    /// The call could not be answered.
    Server,
}

impl WebFault {
    /// The message is no envelope.
    pub(crate) fn version(error: Error) -> WebFault {
        WebFault::of(WebFaultKind::Version, error)
    }

    /// A header must be understood and is not.
    pub(crate) fn header(error: Error, (namespace, local): (&str, &str)) -> WebFault {
        WebFault {
            misunderstood: Some((namespace.to_owned(), local.to_owned())),
            ..WebFault::of(WebFaultKind::Header, error)
        }
    }

    /// What the caller sent does not fit.
    pub(crate) fn client(error: Error) -> WebFault {
        WebFault::of(WebFaultKind::Client, error)
    }

    /// No reply to a request has come in time.
    pub(crate) fn late(error: Error, request: String) -> WebFault {
        WebFault {
            request: Some(request),
            counted: StatusCode::ACCEPTED,
            is_late: true,
            ..WebFault::of(WebFaultKind::Server, error)
        }
    }

    /// The reply to a request is not what the service declares.
    pub(crate) fn reply(cause: Error, request: String) -> WebFault {
        let error = Error::new(Class::Permanent, "server.soap-reply").with("request", &request);
        WebFault {
            cause: Some(cause),
            request: Some(request),
            ..WebFault::of(WebFaultKind::Server, error)
        }
    }

    /// The reply says that the request is refused, with the text that it gives for it.
    pub(crate) fn refused(status: StatusCode, reason: Option<String>, request: String) -> WebFault {
        let kind = match status.is_client_error() {
            true => WebFaultKind::Client,
            false => WebFaultKind::Server,
        };
        let error = Error::new(Class::Permanent, "server.soap-refused");
        WebFault {
            reason,
            request: Some(request),
            counted: status,
            ..WebFault::of(kind, error.with("status", status.as_u16()))
        }
    }

    fn of(kind: WebFaultKind, error: Error) -> WebFault {
        WebFault {
            kind,
            error,
            reason: None,
            cause: None,
            request: None,
            misunderstood: None,
            is_late: false,
            counted: match kind {
                WebFaultKind::Server => StatusCode::INTERNAL_SERVER_ERROR,
                _ => StatusCode::BAD_REQUEST,
            },
        }
    }

    /// What is wrong.
    pub(crate) fn error(&self) -> &Error {
        &self.error
    }

    /// The error, where calling again later may succeed.
    pub(crate) fn passing(&self) -> Option<&Error> {
        Some(&self.error).filter(|_| self.kind == WebFaultKind::Server && self.request.is_none())
    }

    /// What the call is counted by: the status, and whether the reply had not come in time.
    pub(crate) fn counted(&self) -> (StatusCode, bool) {
        (self.counted, self.is_late)
    }

    /// The status of its answer.
    pub(crate) fn status(&self, version: EnvelopeVersion) -> StatusCode {
        match (version, self.kind) {
            (EnvelopeVersion::Two, WebFaultKind::Client) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The elements that the header of the envelope holds: in SOAP 1.2 the one that names the header that is not understood.
    pub(crate) fn header_written(&self, version: EnvelopeVersion) -> String {
        match (&self.misunderstood, version) {
            (Some((namespace, local)), EnvelopeVersion::Two) => format!(
                "<soap:NotUnderstood xmlns:not=\"{}\" qname=\"not:{}\"/>",
                attribute(namespace),
                attribute(local)
            ),
            _ => String::new(),
        }
    }

    /// The element that the body of the envelope holds.
    pub(crate) fn written(&self, version: EnvelopeVersion) -> String {
        let (english, chinese) = (self.message(Language::En), self.message(Language::Zh));
        let detail = || {
            let mut detail = format!(
                "<error xmlns=\"{DETAIL}\"><code>{}</code><message>{english}</message><message_zh>{chinese}</message_zh>",
                self.error.code()
            );
            if let Some(request) = &self.request {
                detail.push_str(&format!("<request>{}</request>", text(request)));
            }
            detail + "</error>"
        };
        // Details say what is wrong with the body, not with headers.
        let is_of_body = matches!(self.kind, WebFaultKind::Client | WebFaultKind::Server);
        let code = match (self.kind, version) {
            (WebFaultKind::Version, _) => "VersionMismatch",
            (WebFaultKind::Header, _) => "MustUnderstand",
            (WebFaultKind::Client, EnvelopeVersion::One) => "Client",
            (WebFaultKind::Client, EnvelopeVersion::Two) => "Sender",
            (WebFaultKind::Server, EnvelopeVersion::One) => "Server",
            (WebFaultKind::Server, EnvelopeVersion::Two) => "Receiver",
        };
        match version {
            EnvelopeVersion::One => {
                let detail = match is_of_body {
                    true => format!("<detail>{}</detail>", detail()),
                    false => String::new(),
                };
                format!(
                    "<soap:Fault><faultcode>soap:{code}</faultcode><faultstring xml:lang=\"en\">{english}</faultstring>{detail}</soap:Fault>"
                )
            }
            EnvelopeVersion::Two => {
                let detail = match is_of_body {
                    true => format!("<soap:Detail>{}</soap:Detail>", detail()),
                    false => String::new(),
                };
                format!(
                    "<soap:Fault><soap:Code><soap:Value>soap:{code}</soap:Value></soap:Code><soap:Reason><soap:Text xml:lang=\"en\">{english}</soap:Text><soap:Text xml:lang=\"zh\">{chinese}</soap:Text></soap:Reason>{detail}</soap:Fault>"
                )
            }
        }
    }

    /// What is wrong, as text in XML.
    fn message(&self, language: Language) -> String {
        if let Some(reason) = &self.reason {
            return text(reason);
        }
        let own = self.error.message(language);
        match &self.cause {
            Some(cause) => text(&format!("{own}: {}", cause.message(language))),
            None => text(&own),
        }
    }
}

impl From<Refusal> for WebFault {
    fn from(refusal: Refusal) -> WebFault {
        let status = refusal.status();
        let is_passing = status == StatusCode::TOO_MANY_REQUESTS;
        let kind = match status.is_client_error() && !is_passing {
            true => WebFaultKind::Client,
            false => WebFaultKind::Server,
        };
        WebFault {
            counted: status,
            ..WebFault::of(kind, refusal.error().clone())
        }
    }
}

impl From<Error> for WebFault {
    fn from(error: Error) -> WebFault {
        Refusal::from(error).into()
    }
}
