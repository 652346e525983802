//! SOAP: envelopes, faults, and answers as columns.

use arrow::datatypes::Schema;
use busbar_catalog::CallSpec;
use busbar_connector::{
    CallEscapes, CallFault, CallForm, CallParts, Escape, ServiceAnswer, ServiceRequest,
};
use busbar_event::format::{FieldSpec, SchemaSpec, write_json_text};
use busbar_event::{Class, Error, quote};
use busbar_xml::{DocumentFaultKind, NodeAt, NodeKind, XPath, XPathNames, XmlDocument};
use bytes::Bytes;
use http::HeaderMap;

use super::answer::{AnswerColumn, target_of};
use super::fault::{answer_text, fault_error, fault_in, is_page, media_type};
use super::message::ColumnFault;
use super::operation::{FormOperation, WrittenMessage};
use super::token::{BODY, HEADER_END};
use super::wsdl::WsdlOperation;
use super::{SoapOptions, SoapSide, SoapVersion};
use crate::http::{check_head, check_headers, refused_answer, shown_url, status_class};

/// The form of a step.
pub(super) struct SoapForm {
    version: SoapVersion,
    action: String,
    shown: String,
    columns: Vec<AnswerColumn>,
    /// Columns that are read from a fault. Where there are any, a fault of the sender is an answer.
    faults: Vec<AnswerColumn>,
    operation: Option<FormOperation>,
}

/// What the body of an answer holds.
enum AnswerContent {
    Answer(NodeAt),
    Fault(NodeAt),
}

impl SoapForm {
    /// Checks a step.
    ///
    /// # Errors
    /// What does not fit, and where.
    pub fn new(
        options: &SoapOptions,
        side: &SoapSide,
        call: &CallSpec,
    ) -> Result<SoapForm, CallFault> {
        let fault = |key, code| CallFault::at(key, Error::new(Class::Configuration, code));
        if call.path.is_some() {
            return Err(fault("path", "connect.soap-not-rest"));
        }
        check_headers(call)?;
        let operation = match (&call.method, &side.wsdl) {
            (Some(_), None) => return Err(fault("method", "connect.soap-no-wsdl")),
            (Some(name), Some(_)) => {
                let found = side.operation(name);
                Some(found.map_err(|wrong| at("method", wrong))?)
            }
            (None, _) => None,
        };
        match &operation {
            None if call.send.is_some() && side.wsdl.is_some() => {
                return Err(fault("send", "connect.soap-send-method"));
            }
            None if call.send.is_some() => return Err(fault("send", "connect.soap-send")),
            None if call.body.is_none() => return Err(fault("body", "connect.soap-body")),
            Some(_) if call.body.is_some() => return Err(fault("body", "connect.soap-columns")),
            Some(_) if call.action.is_some() => {
                return Err(fault("action", "connect.soap-action-known"));
            }
            _ => {}
        }
        let action = call.action.clone().unwrap_or_default();
        if action.contains(|c: char| c.is_control() || c == '"') {
            return Err(fault("action", "connect.soap-action"));
        }
        // A name without a prefix is of any namespace here: people write paths as they read the document.
        let names = XPathNames {
            prefixes: options.namespaces.clone().into_iter().collect(),
            bare_is_any: true,
        };
        let compiled = |key, field: &FieldSpec| {
            let path = field.path.as_deref().unwrap_or(&field.name);
            let compiled = XPath::compile(path, &names);
            compiled.map_err(|fault| CallFault::at(key, fault.error(path)))
        };
        let mut columns = Vec::new();
        for field in &call.answer.0 {
            let path = compiled("answer", field)?;
            let target = match operation.as_ref().map(|operation| &operation.output) {
                None => None,
                Some(None) => return Err(fault("answer", "connect.soap-one-way")),
                Some(Some(output)) => {
                    target_of(output, field).map_err(|wrong| at("answer", wrong))?
                }
            };
            columns.push(AnswerColumn {
                name: field.name.clone(),
                path,
                target,
                field_type: operation.as_ref().map(|_| field.field_type),
            });
        }
        let mut faults = Vec::new();
        for field in &call.fault.0 {
            faults.push(AnswerColumn {
                name: field.name.clone(),
                path: compiled("fault", field)?,
                target: None,
                field_type: Some(field.field_type),
            });
        }
        Ok(match operation {
            Some(operation) => SoapForm {
                columns,
                faults,
                ..SoapForm::of(operation, side)
            },
            None => SoapForm {
                version: side.version,
                action,
                shown: shown_url(&side.url),
                columns,
                faults,
                operation: None,
            },
        })
    }

    /// The form of calls of an operation of which no answer is read.
    pub fn of(mut operation: WsdlOperation, side: &SoapSide) -> SoapForm {
        let action = std::mem::take(&mut operation.action);
        SoapForm {
            version: side.version,
            action,
            shown: shown_url(&side.url),
            columns: Vec::new(),
            faults: Vec::new(),
            operation: Some(FormOperation::new(operation)),
        }
    }

    /// The address, for messages.
    pub fn shown_url(&self) -> &str {
        &self.shown
    }

    /// Whether a column of this name is part of the operation's message.
    pub fn sends(&self, name: &str) -> bool {
        let operation = self.operation.as_ref();
        operation.is_some_and(|operation| operation.has(name))
    }

    /// Checks the columns that are sent.
    ///
    /// # Errors
    /// One that the message does not have, whose type does not fit, or that is missing.
    pub fn check_columns(&self, columns: &Schema) -> Result<(), ColumnFault> {
        match &self.operation {
            Some(operation) => operation.check(columns),
            None => Ok(()),
        }
    }

    /// The fault in an answer, or what its body holds.
    fn content(&self, tree: &XmlDocument) -> Result<AnswerContent, Error> {
        let strange = || {
            let error = Error::new(Class::Transient, "connect.soap-no-envelope");
            error.with("url", &self.shown)
        };
        let envelope = tree.element().ok_or_else(strange)?;
        if tree.local_name(envelope) != "Envelope" {
            return Err(strange());
        }
        let body = tree.child(envelope, "Body").ok_or_else(strange)?;
        if let Some(fault) = fault_in(tree) {
            return Ok(AnswerContent::Fault(fault));
        }
        // An empty body answers that there is nothing to say.
        let mut elements = tree
            .children(body)
            .filter(|node| tree.kind(*node) == NodeKind::Element);
        let content = elements.next().unwrap_or(body);
        self.expected(tree, content).map(AnswerContent::Answer)
    }

    /// The content of an answer, if it is the element that the WSDL says.
    fn expected(&self, tree: &XmlDocument, content: NodeAt) -> Result<NodeAt, Error> {
        let output = self
            .operation
            .as_ref()
            .and_then(|known| known.output.as_ref());
        let Some(root) = output.map(|output| &output.root) else {
            return Ok(content);
        };
        let found = (tree.namespace(content), tree.local_name(content));
        if found == (root.namespace.as_str(), root.name.as_str()) {
            return Ok(content);
        }
        let shown = |(namespace, name): (&str, &str)| quote(&format!("{{{namespace}}}{name}"));
        Err(Error::new(Class::Permanent, "connect.soap-other")
            .with("url", &self.shown)
            .with("found", shown(found))
            .with("expected", shown((&root.namespace, &root.name))))
    }

    /// The columns as a JSON object; those of a fault are null in an answer, and the others in a fault.
    fn object(&self, tree: &XmlDocument, content: AnswerContent) -> Result<Bytes, Error> {
        let mut json = Vec::new();
        let output = self
            .operation
            .as_ref()
            .and_then(|known| known.output.as_ref());
        let (answer, fault) = match content {
            AnswerContent::Answer(answer) => (Some(answer), None),
            AnswerContent::Fault(fault) => (None, Some(fault)),
        };
        let columns = self.columns.iter().map(|column| (column, answer, output));
        let faults = self.faults.iter().map(|column| (column, fault, None));
        for (column, place, shape) in columns.chain(faults) {
            json.push(if json.is_empty() { b'{' } else { b',' });
            write_json_text(&column.name, &mut json);
            json.push(b':');
            match place {
                Some(place) => column.write(tree, place, shape, &mut json)?,
                None => json.extend_from_slice(b"null"),
            }
        }
        if json.is_empty() {
            json.push(b'{');
        }
        json.push(b'}');
        Ok(json.into())
    }

    /// What became of a call that was answered with a fault.
    fn refused(&self, tree: &XmlDocument, fault: NodeAt) -> Result<Bytes, Error> {
        let error = fault_error(tree, fault, &self.shown);
        let is_of_sender =
            error.class() == Class::Permanent && error.code() == "connect.soap-fault";
        match is_of_sender && !self.faults.is_empty() {
            true => self.object(tree, AnswerContent::Fault(fault)),
            false => Err(error),
        }
    }
}

/// The fault of a step at a key.
fn at(key: &'static str, wrong: ColumnFault) -> CallFault {
    CallFault {
        help: wrong.help,
        ..CallFault::at(key, wrong.error)
    }
}

impl CallForm for SoapForm {
    fn escapes(&self) -> CallEscapes {
        CallEscapes {
            path: Escape::Percent,
            body: Escape::Xml,
        }
    }

    fn check_sent(&self, columns: &Schema) -> Result<(), CallFault> {
        self.check_columns(columns)
            .map_err(|wrong| at("send", wrong))
    }

    fn reads_faults(&self) -> bool {
        true
    }

    fn columns(&self, declared: &SchemaSpec) -> SchemaSpec {
        // Paths have been followed when the object is made.
        let fields = declared.0.iter().cloned();
        let plain = fields.map(|field| busbar_event::format::FieldSpec {
            path: None,
            ..field
        });
        SchemaSpec(plain.collect())
    }

    fn request(&self, parts: CallParts) -> Result<ServiceRequest, Error> {
        let body = parts.body.unwrap_or_default();
        let WrittenMessage {
            header,
            body: content,
        } = match &self.operation {
            None => WrittenMessage {
                header: String::new(),
                body: String::from_utf8_lossy(&body).into_owned(),
            },
            Some(operation) => operation.write(&body)?,
        };
        let header = match header.is_empty() {
            true => header,
            false => format!("<soap:Header>{header}{HEADER_END}"),
        };
        let mut headers = parts.headers;
        let kind = match self.version {
            SoapVersion::One => {
                headers.push(("SOAPAction".into(), format!("\"{}\"", self.action)));
                "text/xml; charset=utf-8".to_owned()
            }
            SoapVersion::Two if self.action.is_empty() => {
                "application/soap+xml; charset=utf-8".to_owned()
            }
            SoapVersion::Two => {
                format!(
                    "application/soap+xml; charset=utf-8; action=\"{}\"",
                    self.action
                )
            }
        };
        headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
        headers.push(("Content-Type".into(), kind));
        check_head("", &headers)?;
        let namespace = self.version.namespace();
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<soap:Envelope xmlns:soap=\"{namespace}\">{header}{BODY}{content}</soap:Body></soap:Envelope>"
        );
        Ok(ServiceRequest {
            method: "POST".into(),
            path: String::new(),
            headers,
            body: body.into(),
            statement: None,
        })
    }

    fn answer(&self, answer: ServiceAnswer) -> Result<Bytes, Error> {
        let refusal = status_class(answer.status);
        if refusal.is_none()
            && media_type(&answer)
                .trim()
                .to_ascii_lowercase()
                .starts_with("multipart/")
        {
            let error = Error::new(Class::Permanent, "connect.soap-attachments");
            return Err(error.with("url", &self.shown));
        }
        if refusal.is_none() && is_page(&answer) {
            let error = Error::new(Class::Transient, "connect.soap-page");
            return Err(error.with("url", &self.shown));
        }
        let tree = answer_text(&answer).and_then(|text| XmlDocument::of(&text));
        match (tree, refusal) {
            (Ok(tree), refusal) => match (self.content(&tree), refusal) {
                // A fault comes with status 500 and says more than that.
                (Ok(AnswerContent::Fault(fault)), _) => self.refused(&tree, fault),
                (_, Some(class)) => Err(refused_answer(class, &self.shown, &answer)),
                (content, None) => self.object(&tree, content?),
            },
            (Err(_), Some(class)) => Err(refused_answer(class, &self.shown, &answer)),
            // One-way operations answer with nothing.
            (Err(_), None) if answer.body.is_empty() => Ok(Bytes::from_static(b"{}")),
            (Err(fault), None) => {
                if let DocumentFaultKind::Encoding(_) | DocumentFaultKind::Bytes(_) = fault.kind {
                    let error = Error::new(Class::Permanent, "connect.soap-encoding");
                    return Err(error.with("url", &self.shown).caused_by(fault.error()));
                }
                let (class, code) = match fault.kind {
                    DocumentFaultKind::DocumentType | DocumentFaultKind::Entity => {
                        (Class::Permanent, "connect.soap-declares")
                    }
                    DocumentFaultKind::Deep
                    | DocumentFaultKind::Nodes
                    | DocumentFaultKind::Large => (Class::Permanent, "connect.soap-deep"),
                    // Not what the service says, or not all of it.
                    _ => (Class::Transient, "connect.soap-not-xml"),
                };
                Err(Error::new(class, code).with("url", &self.shown))
            }
        }
    }

    fn canned(&self, status: Option<u16>, body: Bytes) -> Result<ServiceAnswer, Error> {
        // What a test gives is what the body of the envelope holds.
        let text = String::from_utf8_lossy(&body);
        let is_envelope = |tree: &XmlDocument| {
            let element = tree.element();
            element.is_some_and(|element| tree.local_name(element) == "Envelope")
        };
        let body = match XmlDocument::of(&text) {
            Ok(tree) if !is_envelope(&tree) => {
                let namespace = self.version.namespace();
                format!("<soap:Envelope xmlns:soap=\"{namespace}\"><soap:Body>{text}</soap:Body></soap:Envelope>").into()
            }
            _ => body,
        };
        Ok(ServiceAnswer {
            status: status.unwrap_or(200),
            headers: HeaderMap::new(),
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    fn made(options: &str, step: &str) -> Result<SoapForm, CallFault> {
        let options: SoapOptions = serde_json::from_str(options).expect("options");
        let side = SoapSide {
            url: "http://a/b".into(),
            version: options.version.unwrap_or_default(),
            wsdl: None,
        };
        SoapForm::new(
            &options,
            &side,
            &serde_json::from_str(step).expect("a step"),
        )
    }

    fn form(version: &str, step: &str) -> Result<SoapForm, CallFault> {
        let options =
            format!(r#"{{"url":"http://a/b","version":"{version}","namespaces":{{"w":"urn:w"}}}}"#);
        made(&options, step)
    }

    const STEP: &str = r#"{"connection":"a","action":"urn:w/Get","body":"<Get/>",
        "answer":{"level":{"type":"float","path":"w:level"},"name":"text","note":"text"}}"#;

    #[test]
    fn paths_begin_at_the_content_or_at_the_envelope() {
        let answer = "<r xmlns='urn:w'><list><item><id>1</id><v>one</v></item><item><id>2</id><v>two</v></item></list></r>";
        for (path, json) in [
            ("list/item[id='2']/v", r#"{"b":"two"}"#),
            ("//item[last()]/id", r#"{"b":2}"#),
            ("/Envelope/Body/r/list/item/v", r#"{"b":"one"}"#),
            ("/s:Envelope/s:Body/w:r//w:v[2]", r#"{"b":null}"#),
            ("count(//item)", r#"{"b":2}"#),
            ("concat(name(), '-', list/item[2]/v)", r#"{"b":"r-two"}"#),
        ] {
            let options = r#"{"url":"http://a/b","namespaces":{"w":"urn:w","s":"http://schemas.xmlsoap.org/soap/envelope/"}}"#;
            let step = format!(
                r#"{{"connection":"a","body":"x","answer":{{"b":{{"type":"text","path":"{path}"}}}}}}"#
            );
            let form =
                made(options, &step).unwrap_or_else(|fault| panic!("{path}: {}", fault.error));
            let read = form
                .answer(envelope(SoapVersion::One, answer))
                .expect("columns");
            assert_eq!(read, json, "{path}");
        }
    }

    fn envelope(version: SoapVersion, content: &str) -> ServiceAnswer {
        let namespace = version.namespace();
        ServiceAnswer {
            status: 200,
            body: format!(
                "<s:Envelope xmlns:s='{namespace}'><s:Body>{content}</s:Body></s:Envelope>"
            )
            .into(),
            ..ServiceAnswer::default()
        }
    }

    #[test]
    fn a_request_is_an_envelope_of_its_version() {
        let made = |version| {
            let form = form(version, STEP).expect("it fits");
            let body = Some(Bytes::from_static(b"<Get id='1'/>"));
            form.request(CallParts {
                body,
                ..CallParts::default()
            })
            .expect("a request")
        };
        let header = |request: &ServiceRequest, name: &str| {
            let found = request.headers.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        };
        let one = made("1.1");
        let text = String::from_utf8_lossy(&one.body).into_owned();
        assert!(
            text.contains("<soap:Body><Get id='1'/></soap:Body>"),
            "{text}"
        );
        assert!(
            text.contains("http://schemas.xmlsoap.org/soap/envelope/"),
            "{text}"
        );
        assert_eq!(header(&one, "SOAPAction").as_deref(), Some("\"urn:w/Get\""));
        assert_eq!(
            header(&one, "Content-Type").as_deref(),
            Some("text/xml; charset=utf-8")
        );
        let two = made("1.2");
        assert!(
            String::from_utf8_lossy(&two.body).contains("http://www.w3.org/2003/05/soap-envelope")
        );
        assert_eq!(header(&two, "SOAPAction"), None);
        assert!(
            header(&two, "Content-Type")
                .expect("a type")
                .ends_with("action=\"urn:w/Get\"")
        );
    }

    #[test]
    fn an_answer_becomes_columns() {
        let form = form("1.1", STEP).expect("it fits");
        let answer = "<r xmlns='urn:w'><level> 1.5 </level><name>a \"b\"</name></r>";
        let read = form
            .answer(envelope(SoapVersion::One, answer))
            .expect("columns");
        assert_eq!(read, r#"{"level":1.5,"name":"a \"b\"","note":null}"#);
        let canned = form
            .canned(None, Bytes::from_static(answer.as_bytes()))
            .expect("an answer");
        assert_eq!(form.answer(canned).expect("columns"), read);
    }

    #[test]
    fn faults_and_strange_answers_have_classes() {
        let form = form("1.1", STEP).expect("it fits");
        let one = |code: &str| {
            let fault = format!(
                "<s:Fault><faultcode>{code}</faultcode><faultstring>no such station</faultstring></s:Fault>"
            );
            ServiceAnswer {
                status: 500,
                ..envelope(SoapVersion::One, &fault)
            }
        };
        let two = |code: &str| {
            let fault = format!(
                "<s:Fault><s:Code><s:Value>s:{code}</s:Value></s:Code><s:Reason><s:Text>no such station</s:Text></s:Reason></s:Fault>"
            );
            envelope(SoapVersion::Two, &fault)
        };
        let raw = |status, body: &'static str| ServiceAnswer {
            status,
            body: Bytes::from_static(body.as_bytes()),
            ..ServiceAnswer::default()
        };
        for (answer, class, code) in [
            (one("s:Client"), Class::Permanent, "connect.soap-fault"),
            (one("s:Client.Bad"), Class::Permanent, "connect.soap-fault"),
            (one("s:Server"), Class::Transient, "connect.soap-fault"),
            (one("Server.Busy"), Class::Transient, "connect.soap-fault"),
            (two("Sender"), Class::Permanent, "connect.soap-fault"),
            (two("Receiver"), Class::Transient, "connect.soap-fault"),
            (raw(500, "oops"), Class::Transient, "connect.http-refused"),
            (
                raw(404, "<html/>"),
                Class::Permanent,
                "connect.http-refused",
            ),
            (
                raw(200, "<levels/>"),
                Class::Transient,
                "connect.soap-no-envelope",
            ),
            (
                raw(200, "<s:Envelope"),
                Class::Transient,
                "connect.soap-not-xml",
            ),
            (raw(200, "<html/>"), Class::Transient, "connect.soap-page"),
            (
                raw(200, "\u{feff}\n<!DOCTYPE HTML><title>Log in</title>"),
                Class::Transient,
                "connect.soap-page",
            ),
            (
                ServiceAnswer {
                    headers: [(header::CONTENT_TYPE, "Text/HTML; charset=utf-8")]
                        .map(|(name, value)| (name, header::HeaderValue::from_static(value)))
                        .into_iter()
                        .collect(),
                    ..raw(200, "Log in")
                },
                Class::Transient,
                "connect.soap-page",
            ),
            (
                ServiceAnswer {
                    headers: [(header::CONTENT_TYPE, "text/xml; charset=EBCDIC")]
                        .map(|(name, value)| (name, header::HeaderValue::from_static(value)))
                        .into_iter()
                        .collect(),
                    ..raw(200, "<a/>")
                },
                Class::Permanent,
                "connect.soap-encoding",
            ),
            (
                ServiceAnswer {
                    headers: [(header::CONTENT_TYPE, "Multipart/Related; type=\"text/xml\"")]
                        .map(|(name, value)| (name, header::HeaderValue::from_static(value)))
                        .into_iter()
                        .collect(),
                    ..raw(200, "--a")
                },
                Class::Permanent,
                "connect.soap-attachments",
            ),
            (
                one("wsse:FailedAuthentication"),
                Class::Permanent,
                "connect.soap-login",
            ),
            (
                raw(200, "<!DOCTYPE a><a/>"),
                Class::Permanent,
                "connect.soap-declares",
            ),
        ] {
            let told = format!("{answer:?}");
            let error = form.answer(answer).expect_err(&told);
            assert_eq!((error.class(), error.code()), (class, code), "{told}");
            if code == "connect.soap-fault" {
                assert!(error.to_string().contains("no such station"), "{error}");
            }
        }
    }

    #[test]
    fn a_fault_of_the_sender_is_data_where_a_step_reads_it() {
        let of = |version: &str, columns: &str| {
            let step = format!(
                r#"{{"connection":"a","body":"x","answer":{{"level":"float"}},"fault":{{{columns}}}}}"#
            );
            form(version, &step).expect("it fits")
        };
        let one = of(
            "1.1",
            r#""faultcode":"text","why":{"type":"text","path":"faultstring"},"detail":"json""#,
        );
        let fault = |code: &str| ServiceAnswer {
            status: 500,
            ..envelope(
                SoapVersion::One,
                &format!(
                    "<s:Fault><faultcode>s:{code}</faultcode><faultstring>no such bed</faultstring><detail><bed xmlns='urn:w'>7</bed><full>true</full></detail></s:Fault>"
                ),
            )
        };
        let read = one.answer(fault("Client.NoBed")).expect("columns");
        assert_eq!(
            read,
            r#"{"level":null,"faultcode":"s:Client.NoBed","why":"no such bed","detail":{"bed":7,"full":true}}"#
        );
        let read = one.answer(envelope(SoapVersion::One, "<r><level>1.5</level></r>"));
        assert_eq!(
            read.expect("columns"),
            r#"{"level":1.5,"faultcode":null,"why":null,"detail":null}"#
        );
        // That of the receiver is tried again, and a login that is refused is nothing of the row.
        let error = one.answer(fault("Server")).expect_err("to try again");
        assert_eq!(
            (error.class(), error.code()),
            (Class::Transient, "connect.soap-fault")
        );
        let error = one
            .answer(fault("FailedAuthentication"))
            .expect_err("refused");
        assert_eq!(error.code(), "connect.soap-login");
        let two = of(
            "1.2",
            r#""code":{"type":"text","path":"Code/Subcode/Value"},"why":{"type":"text","path":"Reason/Text"}"#,
        );
        let content = "<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>NoBed</s:Value></s:Subcode></s:Code><s:Reason><s:Text xml:lang='en'>full</s:Text></s:Reason></s:Fault>";
        let read = two.answer(envelope(SoapVersion::Two, content));
        assert_eq!(
            read.expect("columns"),
            r#"{"level":null,"code":"NoBed","why":"full"}"#
        );
    }

    #[test]
    fn what_is_wrong_with_a_step_is_said() {
        for (step, code) in [
            (r#"{"connection":"a"}"#, "connect.soap-body"),
            (r#"{"connection":"a","send":"*"}"#, "connect.soap-send"),
            (
                r#"{"connection":"a","method":"Get","send":"*"}"#,
                "connect.soap-no-wsdl",
            ),
            (
                r#"{"connection":"a","body":"x","path":"/a"}"#,
                "connect.soap-not-rest",
            ),
            (
                r#"{"connection":"a","body":"x","action":"a\"b"}"#,
                "connect.soap-action",
            ),
            (
                r#"{"connection":"a","body":"x","answer":{"b":{"type":"int","path":"c | y:d"}}}"#,
                "xml.path-prefix",
            ),
        ] {
            assert_eq!(
                form("1.1", step).err().expect(step).error.code(),
                code,
                "{step}"
            );
        }
    }
}
