//! The envelopes of SOAP: which version one has, and the parameters in it.

use busbar_event::format::{FieldSpec, FieldType};
use busbar_event::{Class, Error, quote};
use busbar_xml::{NodeAt, NodeKind, XmlDocument};
use serde_json::{Map, Number, Value as Json};

use super::fault::WebFault;
use super::{WebService, json_columns};
use crate::apis::GivenParameters;
use crate::apis::parameters::{find, twice, wrong};

const SCHEMA_INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// A version of SOAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EnvelopeVersion {
    /// 1.1.
    One,
    /// 1.2.
    Two,
}

impl EnvelopeVersion {
    /// The namespace of its envelopes.
    pub(crate) fn namespace(self) -> &'static str {
        match self {
            EnvelopeVersion::One => "http://schemas.xmlsoap.org/soap/envelope/",
            EnvelopeVersion::Two => "http://www.w3.org/2003/05/soap-envelope",
        }
    }

    /// The media type of its messages.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            EnvelopeVersion::One => "text/xml; charset=utf-8",
            EnvelopeVersion::Two => "application/soap+xml; charset=utf-8",
        }
    }

    /// An envelope around what its header and its body hold, which is XML already.
    pub(crate) fn envelope(self, header: &str, body: &str) -> String {
        let namespace = self.namespace();
        let header = match header {
            "" => String::new(),
            header => format!("<soap:Header>{header}</soap:Header>"),
        };
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<soap:Envelope xmlns:soap=\"{namespace}\">{header}<soap:Body>{body}</soap:Body></soap:Envelope>"
        )
    }

    fn of(namespace: &str) -> Option<EnvelopeVersion> {
        let mut all = [EnvelopeVersion::One, EnvelopeVersion::Two].into_iter();
        all.find(|version| version.namespace() == namespace)
    }

    /// Whether the receiver that a header names is the one who answers.
    fn is_own_role(self, role: &str) -> bool {
        match self {
            EnvelopeVersion::One => {
                matches!(role, "" | "http://schemas.xmlsoap.org/soap/actor/next")
            }
            EnvelopeVersion::Two => {
                const ROLES: &str = "http://www.w3.org/2003/05/soap-envelope/role/";
                let role = role.strip_prefix(ROLES).unwrap_or(role);
                matches!(role, "" | "next" | "ultimateReceiver")
            }
        }
    }
}

/// A call that was read.
pub(crate) struct SoapCall {
    /// The version of its envelope, which the answer has too.
    pub(crate) version: EnvelopeVersion,
    pub(crate) given: Result<GivenParameters, WebFault>,
}

impl SoapCall {
    /// Reads a message.
    ///
    /// # Errors
    /// A message whose version is not known: it is no XML, or its element is not an envelope.
    pub(crate) fn read(service: &WebService<'_>, text: &str) -> Result<SoapCall, WebFault> {
        let tree = XmlDocument::of(text).map_err(|fault| WebFault::client(fault.error()))?;
        let top = tree.element();
        let version = top
            .filter(|top| tree.local_name(*top) == "Envelope")
            .and_then(|top| Some((top, EnvelopeVersion::of(tree.namespace(top))?)));
        let Some((envelope, version)) = version else {
            let name = top.map_or("", |top| tree.local_name(top));
            let namespace = top.map_or("", |top| tree.namespace(top));
            let error = Error::new(Class::Permanent, "server.soap-version")
                .with("name", quote(name))
                .with("namespace", quote(namespace));
            return Err(WebFault::version(error));
        };
        let message = Message {
            tree: &tree,
            envelope,
            version,
            text,
        };
        Ok(SoapCall {
            version,
            given: message.given(service),
        })
    }
}

struct Message<'m> {
    tree: &'m XmlDocument,
    envelope: NodeAt,
    version: EnvelopeVersion,
    text: &'m str,
}

impl Message<'_> {
    fn given(&self, service: &WebService<'_>) -> Result<GivenParameters, WebFault> {
        self.check_headers(service)?;
        let operation = self.operation(service).ok_or_else(|| {
            let error = Error::new(Class::Permanent, "server.soap-body")
                .with("name", service.operation)
                .with("namespace", &service.namespace);
            WebFault::client(error)
        })?;
        self.parameters(service, operation)
            .map_err(WebFault::client)
    }

    /// Whether a block of the header is one of the service's parameters.
    fn is_parameter(&self, service: &WebService<'_>, block: NodeAt) -> bool {
        let mut fields = service.parameters.iter();
        self.tree.namespace(block) == service.namespace
            && fields
                .any(|field| service.is_header(field) && field.name == self.tree.local_name(block))
    }

    /// No header must be understood but those of the service.
    fn check_headers(&self, service: &WebService<'_>) -> Result<(), WebFault> {
        let Some(header) = self.part("Header") else {
            return Ok(());
        };
        for block in self.elements(header) {
            let attribute = |name| self.attribute(block, self.version.namespace(), name);
            let must = attribute("mustUnderstand").is_some_and(|must| matches!(must, "1" | "true"));
            let role = attribute("actor").or_else(|| attribute("role"));
            if must
                && self.version.is_own_role(role.unwrap_or_default())
                && !self.is_parameter(service, block)
            {
                let (namespace, local) = (self.tree.namespace(block), self.tree.local_name(block));
                let error = Error::new(Class::Permanent, "server.soap-header");
                let error = error.with("name", quote(local));
                return Err(WebFault::header(error, (namespace, local)));
            }
        }
        Ok(())
    }

    /// The element of the operation, which the body holds alone.
    fn operation(&self, service: &WebService<'_>) -> Option<NodeAt> {
        let mut elements = self.elements(self.part("Body")?);
        let operation = elements.next()?;
        let is_own = self.tree.local_name(operation) == service.operation
            && self.tree.namespace(operation) == service.namespace;
        (is_own && elements.next().is_none()).then_some(operation)
    }

    fn parameters(
        &self,
        service: &WebService<'_>,
        operation: NodeAt,
    ) -> Result<GivenParameters, Error> {
        let fields = &service.in_body();
        let mut given = self.header_parameters(service)?;
        // Parameters of JSON that are not nil; such an element may come several times.
        let mut of_json: Vec<&FieldSpec> = Vec::new();
        for element in self.elements(operation) {
            let name = self.tree.local_name(element);
            let namespace = self.tree.namespace(element);
            let field = match namespace.is_empty() || namespace == service.namespace {
                true => find(fields, name)?,
                false => find(fields, &format!("{{{namespace}}}{name}"))?,
            };
            let is_nil = self.is_nil(element);
            let is_json = field.field_type == FieldType::Json;
            if is_json && !is_nil {
                if !of_json.iter().any(|known| known.name == field.name) {
                    of_json.push(field);
                }
                continue;
            }
            let value = match is_nil {
                true => Json::Null,
                false => self.value(field, element)?,
            };
            if given.insert(field.name.clone(), value).is_some() {
                return Err(twice(field));
            }
        }
        if !of_json.is_empty() {
            let values = json_columns(service.operation, &of_json, self.text)?;
            for (field, value) in of_json.iter().zip(values) {
                given.insert(field.name.clone(), value);
            }
        }
        GivenParameters::checked(service.parameters, given)
    }

    /// The parameters that stand in the header.
    fn header_parameters(&self, service: &WebService<'_>) -> Result<Map<String, Json>, Error> {
        let fields = service.in_header();
        let mut given = Map::new();
        let blocks = self.part("Header").into_iter();
        for block in blocks.flat_map(|header| self.elements(header)) {
            if !self.is_parameter(service, block) {
                continue;
            }
            let field = find(&fields, self.tree.local_name(block))?;
            let value = match self.is_nil(block) {
                true => Json::Null,
                false => self.value(field, block)?,
            };
            if given.insert(field.name.clone(), value).is_some() {
                return Err(twice(field));
            }
        }
        Ok(given)
    }

    fn is_nil(&self, element: NodeAt) -> bool {
        let nil = self.attribute(element, SCHEMA_INSTANCE, "nil");
        nil.is_some_and(|nil| matches!(nil, "1" | "true"))
    }

    /// The value of a parameter that is no JSON.
    fn value(&self, field: &FieldSpec, element: NodeAt) -> Result<Json, Error> {
        if self.elements(element).next().is_some() {
            return Err(wrong(field));
        }
        let whole = self.tree.value(element);
        let text = whole.trim();
        let value = match field.field_type {
            FieldType::Text | FieldType::Json => Some(whole.into()),
            FieldType::Time => Some(text.into()),
            FieldType::Bool => match text {
                "true" | "1" => Some(true.into()),
                "false" | "0" => Some(false.into()),
                _ => None,
            },
            FieldType::Int => text.parse::<i64>().ok().map(Json::from),
            FieldType::Float => {
                let number = text.parse::<f64>().ok();
                number.and_then(Number::from_f64).map(Json::Number)
            }
        };
        value.ok_or_else(|| wrong(field))
    }

    /// A part of the envelope.
    fn part(&self, name: &str) -> Option<NodeAt> {
        self.elements(self.envelope).find(|part| {
            self.tree.local_name(*part) == name
                && self.tree.namespace(*part) == self.version.namespace()
        })
    }

    fn elements(&self, node: NodeAt) -> impl Iterator<Item = NodeAt> + '_ {
        let children = self.tree.children(node);
        children.filter(|child| self.tree.kind(*child) == NodeKind::Element)
    }

    fn attribute(&self, element: NodeAt, namespace: &str, name: &str) -> Option<&str> {
        let mut all = self.tree.attributes(element);
        let found = all.find(|attribute| {
            self.tree.local_name(*attribute) == name && self.tree.namespace(*attribute) == namespace
        })?;
        Some(self.tree.value(found).trim())
    }
}
