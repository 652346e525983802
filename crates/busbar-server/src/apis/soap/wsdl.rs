//! The WSDL of a web service.

use std::fmt::Write as _;

use busbar_event::format::{FieldSpec, FieldType, write_xml_text};

use super::WebService;

impl WebService<'_> {
    /// The WSDL 1.1 document, which tells callers that the service is at `address`: one operation, document/literal and wrapped
    /// or rpc/literal, with a port for each version of SOAP.
    pub(crate) fn wsdl(&self, address: &str) -> String {
        let (operation, response) = (self.operation, self.response());
        let namespace = attribute(&self.namespace);
        let address = attribute(address);
        let documentation = match self.description {
            Some(words) => format!(
                "  <wsdl:documentation>{}</wsdl:documentation>\n",
                text(words)
            ),
            None => String::new(),
        };
        let mut out = format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<wsdl:definitions name="{operation}" targetNamespace="{namespace}" xmlns:tns="{namespace}"
    xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/"
    xmlns:soap12="http://schemas.xmlsoap.org/wsdl/soap12/" xmlns:xs="http://www.w3.org/2001/XMLSchema">
{documentation}  <wsdl:types>
    <xs:schema targetNamespace="{namespace}" elementFormDefault="qualified">
"#
        );
        let headers = self.in_header();
        for field in &headers {
            let (name, kind) = (&field.name, xsd_type(field.field_type));
            let _ = writeln!(
                out,
                "      <xs:element name=\"{name}\" type=\"{kind}\" nillable=\"true\"/>"
            );
        }
        if !self.is_rpc() {
            element(operation, &self.in_body(), &mut out);
            element(&response, &self.soap.answer.0, &mut out);
        }
        out.push_str("    </xs:schema>\n  </wsdl:types>\n");
        self.message(operation, &self.in_body(), &mut out);
        self.message(&response, &self.soap.answer.0, &mut out);
        let mut header_parts = String::new();
        if !headers.is_empty() {
            let _ = writeln!(out, "  <wsdl:message name=\"{operation}Header\">");
            for field in &headers {
                let name = &field.name;
                let _ = writeln!(
                    out,
                    "    <wsdl:part name=\"{name}\" element=\"tns:{name}\"/>"
                );
                let _ = write!(
                    header_parts,
                    "<PREFIX:header message=\"tns:{operation}Header\" part=\"{name}\" use=\"literal\"/>"
                );
            }
            out.push_str("  </wsdl:message>\n");
        }
        let _ = write!(
            out,
            r#"  <wsdl:portType name="{operation}PortType">
    <wsdl:operation name="{operation}">
      <wsdl:input message="tns:{operation}"/>
      <wsdl:output message="tns:{response}"/>
    </wsdl:operation>
  </wsdl:portType>
"#
        );
        let (style, of_body) = match self.is_rpc() {
            true => ("rpc", format!(" namespace=\"{namespace}\"")),
            false => ("document", String::new()),
        };
        for (prefix, version) in [("soap", "Soap11"), ("soap12", "Soap12")] {
            let header_parts = header_parts.replace("PREFIX", prefix);
            let _ = write!(
                out,
                r#"  <wsdl:binding name="{operation}{version}" type="tns:{operation}PortType">
    <{prefix}:binding style="{style}" transport="http://schemas.xmlsoap.org/soap/http"/>
    <wsdl:operation name="{operation}">
      <{prefix}:operation soapAction="" style="{style}"/>
      <wsdl:input>{header_parts}<{prefix}:body use="literal"{of_body}/></wsdl:input>
      <wsdl:output><{prefix}:body use="literal"{of_body}/></wsdl:output>
    </wsdl:operation>
  </wsdl:binding>
"#
            );
        }
        let _ = write!(
            out,
            r#"  <wsdl:service name="{operation}Service">
    <wsdl:port name="{operation}Soap11" binding="tns:{operation}Soap11">
      <soap:address location="{address}"/>
    </wsdl:port>
    <wsdl:port name="{operation}Soap12" binding="tns:{operation}Soap12">
      <soap12:address location="{address}"/>
    </wsdl:port>
  </wsdl:service>
</wsdl:definitions>
"#
        );
        out
    }

    /// Declares a message: one part that is an element, or a part for each field.
    fn message(&self, name: &str, fields: &[FieldSpec], out: &mut String) {
        let _ = writeln!(out, "  <wsdl:message name=\"{name}\">");
        match self.is_rpc() {
            true => {
                for field in fields {
                    let (part, kind) = (&field.name, xsd_type(field.field_type));
                    let _ = writeln!(out, "    <wsdl:part name=\"{part}\" type=\"{kind}\"/>");
                }
            }
            false => {
                let _ = writeln!(
                    out,
                    "    <wsdl:part name=\"parameters\" element=\"tns:{name}\"/>"
                );
            }
        }
        out.push_str("  </wsdl:message>\n");
    }
}

/// The type of XML Schema of values of a type.
fn xsd_type(field_type: FieldType) -> &'static str {
    match field_type {
        FieldType::Bool => "xs:boolean",
        FieldType::Int => "xs:long",
        FieldType::Float => "xs:double",
        FieldType::Text => "xs:string",
        FieldType::Time => "xs:dateTime",
        FieldType::Json => "xs:anyType",
    }
}

/// Declares an element with an element in it for each field.
fn element(name: &str, fields: &[FieldSpec], out: &mut String) {
    let _ = write!(
        out,
        "      <xs:element name=\"{name}\">\n        <xs:complexType>\n          <xs:sequence>\n"
    );
    for field in fields {
        let optional = match field.required {
            true => "",
            false => " minOccurs=\"0\" nillable=\"true\"",
        };
        // An array is its element several times.
        let repeated = match field.field_type {
            FieldType::Json => " maxOccurs=\"unbounded\"",
            _ => "",
        };
        let kind = xsd_type(field.field_type);
        let _ = writeln!(
            out,
            "            <xs:element name=\"{}\" type=\"{kind}\"{optional}{repeated}/>",
            field.name
        );
    }
    out.push_str("          </xs:sequence>\n        </xs:complexType>\n      </xs:element>\n");
}

/// Words as text in XML. A sign stands for characters that XML has not.
pub(super) fn text(words: &str) -> String {
    escaped(words, false)
}

/// Words as the value of an attribute.
pub(super) fn attribute(words: &str) -> String {
    escaped(words, true)
}

fn escaped(words: &str, is_attribute: bool) -> String {
    let mut out = String::with_capacity(words.len());
    if write_xml_text(words, is_attribute, &mut out) {
        return out;
    }
    let is_strange = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    let known: String = words
        .chars()
        .map(|c| if is_strange(c) { '\u{fffd}' } else { c })
        .collect();
    out.clear();
    write_xml_text(&known, is_attribute, &mut out);
    out
}
