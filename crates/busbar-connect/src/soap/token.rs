//! The way to a SOAP service: HTTP, with a user name token of WS-Security where one is asked for.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use busbar_connector::{HIDDEN, Service, ServiceAnswer, ServiceContext, ServiceRequest, Work};
use busbar_event::format::write_xml_text;
use busbar_event::{Class, Error, time};
use busbar_log::Clock;
use busbar_xml::XmlDocument;
use bytes::Bytes;
use http::{HeaderValue, header};
use memchr::memmem;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use ring::rand::{SecureRandom, SystemRandom};

use super::fault::{self, answer_text, fault_in, may_hold_fault};
use super::limits::NONCE_BYTES;
use super::{SoapUser, SoapVersion};
use crate::http::{HttpClient, Remote, status_class};
use crate::places::Places;

/// Sends envelopes to one address.
pub(super) struct SoapService {
    client: HttpClient,
    user: Option<UserToken>,
    clock: Arc<dyn Clock>,
    version: SoapVersion,
}

/// Who asks.
struct UserToken {
    name: String,
    password: String,
    /// What is sent is no password but a digest of it.
    digest: bool,
}

/// Where the header of an envelope goes: before this.
pub(super) const BODY: &str = "<soap:Body>";
/// How the header of an envelope ends that has one.
pub(super) const HEADER_END: &str = "</soap:Header>";

const SECURITY: &str =
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd";
const UTILITY: &str =
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd";
const PROFILE: &str =
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0";
const ENCODING: &str =
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-soap-message-security-1.0";

impl SoapService {
    /// Reads secrets and authorities. Connects to nobody.
    ///
    /// # Errors
    /// *Configuration*.
    pub async fn open(
        remote: Remote<'_>,
        user: Option<&SoapUser>,
        version: SoapVersion,
        context: &ServiceContext,
        places: &Places,
    ) -> Result<SoapService, Error> {
        let mut client = HttpClient::open(remote, context, places).await?;
        let user = match user.cloned() {
            None => None,
            Some(user) => {
                let (project, places) = (Arc::clone(&context.project_dir), places.clone());
                // It may stand in a file.
                let read = tokio::task::spawn_blocking(move || {
                    user.password
                        .read(&project, &places)
                        .map(|password| UserToken {
                            name: user.name,
                            password,
                            digest: user.digest,
                        })
                });
                let failed =
                    |why| Error::new(Class::Configuration, "connect.failed-within").caused_by(why);
                Some(read.await.map_err(failed)??)
            }
        };
        if let Some(user) = &user {
            let mut escaped = String::new();
            write_xml_text(&user.password, false, &mut escaped);
            client.keep_secret(&user.password);
            client.keep_secret(&escaped);
        }
        Ok(SoapService {
            client,
            user,
            clock: Arc::clone(&context.clock),
            version,
        })
    }

    /// Hides what was sent in secret where a fault or a refusal repeats it, in whatever encoding and by whatever references. The
    /// client has looked at bytes only, and not at those of an answer with a status of success.
    fn hide(&self, answer: &mut ServiceAnswer) {
        if status_class(answer.status).is_none() && !may_hold_fault(&answer.body) {
            return;
        }
        // What cannot be read is not shown either.
        let Ok(text) = answer_text(answer) else {
            return;
        };
        let is_own = text.as_bytes() == &answer.body[..];
        let body = self
            .client
            .without_secrets(Bytes::from(text.into_owned().into_bytes()));
        if !is_own {
            let kind = HeaderValue::from_static("text/xml; charset=utf-8");
            answer.headers.insert(header::CONTENT_TYPE, kind);
        }
        answer.body = body;
        let Ok(tree) = XmlDocument::of(&String::from_utf8_lossy(&answer.body)) else {
            return;
        };
        if !self.client.repeats_secret(tree.value(tree.root())) {
            return;
        }
        let mut code = String::new();
        let fault = fault_in(&tree);
        write_xml_text(
            fault.map_or("", |fault| fault::code(&tree, fault)),
            false,
            &mut code,
        );
        let namespace = self.version.namespace();
        let fault = format!(
            "<soap:Envelope xmlns:soap=\"{namespace}\">{BODY}<soap:Fault><faultcode>{code}</faultcode><faultstring>{HIDDEN}</faultstring></soap:Fault></soap:Body></soap:Envelope>"
        );
        answer.body = self.client.without_secrets(fault.into());
    }

    /// The request with the token of the user. Each request has one of its own.
    fn signed(&self, request: &ServiceRequest) -> Result<ServiceRequest, Error> {
        let mut request = request.clone();
        let Some(user) = &self.user else {
            return Ok(request);
        };
        let mut nonce = [0; NONCE_BYTES];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| Error::new(Class::Transient, "connect.soap-random"))?;
        let mut header = user.header(&nonce, &created(self.clock.now_micros()), self.version)?;
        let Some(mut at) = memmem::find(&request.body, BODY.as_bytes()) else {
            return Ok(request);
        };
        match request.body[..at].ends_with(HEADER_END.as_bytes()) {
            // Beside the others.
            true => at -= HEADER_END.len(),
            false => header = format!("<soap:Header>{header}{HEADER_END}"),
        }
        let mut body = Vec::with_capacity(request.body.len() + header.len());
        body.extend_from_slice(&request.body[..at]);
        body.extend_from_slice(header.as_bytes());
        body.extend_from_slice(&request.body[at..]);
        request.body = body.into();
        Ok(request)
    }
}

impl Service for SoapService {
    fn exchange<'a>(
        &'a self,
        request: &'a ServiceRequest,
    ) -> Work<'a, Result<ServiceAnswer, Error>> {
        Box::pin(async move {
            let mut answer = match self.user {
                None => self.client.exchange(request).await?,
                Some(_) => self.client.exchange(&self.signed(request)?).await?,
            };
            self.hide(&mut answer);
            Ok(answer)
        })
    }
}

impl UserToken {
    /// The element in the header of an envelope that says who asks.
    fn header(&self, nonce: &[u8], created: &str, version: SoapVersion) -> Result<String, Error> {
        let mut name = String::new();
        let mut password = String::new();
        let is_text = write_xml_text(&self.name, false, &mut name)
            && (self.digest || write_xml_text(&self.password, false, &mut password));
        if !is_text {
            return Err(Error::new(Class::Configuration, "connect.soap-user-text"));
        }
        let kind = match self.digest {
            true => {
                password = digest(nonce, created, &self.password);
                "PasswordDigest"
            }
            false => "PasswordText",
        };
        let must = match version {
            SoapVersion::One => "1",
            SoapVersion::Two => "true",
        };
        let nonce = BASE64.encode(nonce);
        Ok(format!(
            "<wsse:Security xmlns:wsse=\"{SECURITY}\" xmlns:wsu=\"{UTILITY}\" soap:mustUnderstand=\"{must}\"><wsse:UsernameToken><wsse:Username>{name}</wsse:Username><wsse:Password Type=\"{PROFILE}#{kind}\">{password}</wsse:Password><wsse:Nonce EncodingType=\"{ENCODING}#Base64Binary\">{nonce}</wsse:Nonce><wsu:Created>{created}</wsu:Created></wsse:UsernameToken></wsse:Security>"
        ))
    }
}

/// The digest of a password, as the profile of user name tokens has it.
fn digest(nonce: &[u8], created: &str, password: &str) -> String {
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(nonce);
    digest.update(created.as_bytes());
    digest.update(password.as_bytes());
    BASE64.encode(digest.finish())
}

/// A time in milliseconds, which is as exact as some services read it.
fn created(micros: busbar_event::Micros) -> String {
    let text = time::text(micros);
    match text.split_once('.') {
        Some((seconds, rest)) => format!("{seconds}.{}Z", rest.get(..3).unwrap_or("000")),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(digest: bool) -> UserToken {
        UserToken {
            name: "bus & bar".into(),
            password: "s3cr<t".into(),
            digest,
        }
    }

    #[test]
    fn a_token_says_who_asks() {
        let created = created(1_266_147_296_123_456);
        assert_eq!(created, "2010-02-14T11:34:56.123Z");
        let text = user(false).header(b"0123456789abcdef", &created, SoapVersion::One);
        let text = text.expect("a header");
        for part in [
            "soap:mustUnderstand=\"1\"",
            "<wsse:Username>bus &amp; bar</wsse:Username>",
            "#PasswordText\">s3cr&lt;t</wsse:Password>",
            "#Base64Binary\">MDEyMzQ1Njc4OWFiY2RlZg==</wsse:Nonce>",
            "<wsu:Created>2010-02-14T11:34:56.123Z</wsu:Created>",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = user(true).header(b"0123456789abcdef", &created, SoapVersion::Two);
        let text = text.expect("a header");
        assert!(!text.contains("s3cr"), "{text}");
        // By Python: base64(sha1(b"0123456789abcdef" + b"2010-02-14T11:34:56.123Z" + b"s3cr<t").digest()).
        let expected = "#PasswordDigest\">QJv2AX51mMJZrdgzIN1cFxP5Sj8=</wsse:Password>";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("soap:mustUnderstand=\"true\""), "{text}");
    }

    #[test]
    fn a_name_that_xml_cannot_say_is_refused() {
        let user = UserToken {
            name: "a\u{1}".into(),
            ..user(true)
        };
        let refused = user.header(b"", "", SoapVersion::One).unwrap_err();
        assert_eq!(refused.code(), "connect.soap-user-text");
    }
}
