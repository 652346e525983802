//! Web services: an API by request and reply that is called with SOAP 1.1 and 1.2, document/literal or rpc/literal.

mod envelope;
mod fault;
mod wsdl;

use arrow::array::{Array as _, BinaryArray, StructArray};
use busbar_catalog::{ApiRequest, ApiSpec, SoapSpec, SoapStyle};
use busbar_event::format::{
    Decoder, FieldSpec, FormatSpec, JsonOptions, SchemaSpec, XmlEncoder, XmlOptions,
};
use busbar_event::{Class, Error};

use super::replies::ApiReply;
pub(crate) use envelope::{EnvelopeVersion, SoapCall};
pub(crate) use fault::WebFault;
use wsdl::attribute;

/// An API as a web service with one operation.
pub(crate) struct WebService<'a> {
    pub(crate) operation: &'a str,
    pub(crate) namespace: String,
    pub(crate) parameters: &'a [FieldSpec],
    pub(crate) request: &'a ApiRequest,
    description: Option<&'a str>,
    soap: &'a SoapSpec,
}

impl<'a> WebService<'a> {
    /// The API `name`; none if its file does not make it a web service.
    pub(crate) fn of(name: &'a str, spec: &'a ApiSpec) -> Option<WebService<'a>> {
        let soap = spec.soap.as_deref()?;
        Some(WebService {
            operation: soap.operation(name),
            namespace: soap.namespace(name),
            parameters: &spec.parameters.0,
            request: spec.request.as_deref()?,
            description: spec.description.as_deref(),
            soap,
        })
    }

    /// The URL that the WSDL tells callers, where the file says one.
    pub(crate) fn address(&self) -> Option<&'a str> {
        self.soap.address.as_deref()
    }

    /// Whether a parameter stands in the header.
    fn is_header(&self, field: &FieldSpec) -> bool {
        self.soap.headers.contains(&field.name)
    }

    /// The parameters in the body.
    fn in_body(&self) -> Vec<FieldSpec> {
        let all = self.parameters.iter();
        all.filter(|field| !self.is_header(field))
            .cloned()
            .collect()
    }

    /// The parameters in the header.
    fn in_header(&self) -> Vec<FieldSpec> {
        let all = self.parameters.iter();
        all.filter(|field| self.is_header(field)).cloned().collect()
    }

    /// The name of the element of answers.
    fn response(&self) -> String {
        format!("{}Response", self.operation)
    }

    /// A reply as the element that the body of the answer holds.
    ///
    /// # Errors
    /// The reply is not what the columns of the answer declare.
    pub(crate) fn answer(&self, reply: &ApiReply) -> Result<String, Error> {
        let said = reply.content_type.as_deref();
        // Steps that write XML do not say so, and no JSON begins like it.
        let is_document = reply.payload.trim_ascii_start().starts_with(b"<");
        let format = match is_document || said.is_some_and(is_xml) {
            true => FormatSpec::Xml(XmlOptions::default()),
            false => FormatSpec::Json(JsonOptions::default()),
        };
        let columns: Vec<usize> = (0..self.soap.answer.0.len()).collect();
        let mut decoder = Decoder::new(&format, &self.soap.answer.schema()?, &columns)?;
        let mut decoded = decoder.decode(&BinaryArray::from_vec(vec![&reply.payload]));
        if let Some(rejected) = decoded.rejected.pop() {
            return Err(rejected.cause);
        }
        let names = self.soap.answer.0.iter().map(|field| field.name.as_str());
        let names: Vec<&str> = names.collect();
        let response = self.response();
        // The parts of an rpc message are in no namespace.
        let namespace = Some(self.namespace.as_str()).filter(|_| !self.is_rpc());
        let encoder = XmlEncoder::new(&response, namespace, None, &names)?;
        let mut documents = encoder.encode(&StructArray::from(decoded.columns));
        if let Some((_, error)) = documents.refused.pop() {
            return Err(error);
        }
        let written = match documents.payloads.is_empty() {
            true => None,
            false => std::str::from_utf8(documents.payloads.value(0)).ok(),
        };
        let within = || Error::new(Class::Transient, "server.failed-within");
        let written = written.ok_or_else(within)?;
        if !self.is_rpc() {
            return Ok(written.to_owned());
        }
        let inner = written.strip_prefix(&format!("<{response}"));
        let inner = inner.and_then(|inner| inner.strip_suffix(&format!("</{response}>")));
        let namespace = attribute(&self.namespace);
        inner
            .map(|inner| {
                format!("<rpc:{response} xmlns:rpc=\"{namespace}\"{inner}</rpc:{response}>")
            })
            .ok_or_else(within)
    }

    fn is_rpc(&self) -> bool {
        self.soap.style == SoapStyle::Rpc
    }
}

/// Whether a media type is that of XML.
fn is_xml(media_type: &str) -> bool {
    let kind = media_type.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    matches!(&*kind, "text/xml" | "application/xml") || kind.ends_with("+xml")
}

/// The values of parameters of JSON, which are elements of any form, read as payloads in XML are.
fn json_columns(
    operation: &str,
    fields: &[&FieldSpec],
    document: &str,
) -> Result<Vec<serde_json::Value>, Error> {
    let plain = fields.iter().map(|field| FieldSpec {
        required: false,
        ..FieldSpec::clone(field)
    });
    let schema = SchemaSpec(plain.collect()).schema()?;
    let format = FormatSpec::Xml(XmlOptions {
        root: Some(format!("Body.{operation}")),
    });
    let columns: Vec<usize> = (0..fields.len()).collect();
    let mut decoder = Decoder::new(&format, &schema, &columns)?;
    // What the declaration says of the encoding held for the bytes that the text was read from.
    let text = match document.strip_prefix("<?xml") {
        Some(rest) => rest.split_once("?>").map_or("", |(_, text)| text),
        None => document,
    };
    let mut decoded = decoder.decode(&BinaryArray::from_vec(vec![text.as_bytes()]));
    if let Some(rejected) = decoded.rejected.pop() {
        return Err(rejected.cause);
    }
    let values = decoded.columns.columns().iter().map(|column| {
        let texts = column.as_any().downcast_ref::<arrow::array::StringArray>();
        let text = texts
            .filter(|texts| texts.is_valid(0))
            .map(|texts| texts.value(0));
        text.and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    });
    Ok(values.collect())
}
