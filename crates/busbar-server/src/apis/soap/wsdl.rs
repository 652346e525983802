//! The WSDL of a web service.

use std::fmt::Write as _;

use busbar_event::format::{FieldSpec, FieldType, write_xml_text};

use super::WebService;

impl WebService<'_> {
    /// The WSDL 1.1 document, which tells callers that the service is at `address`: one operation, document/literal and wrapped,
    /// with a port for each version of SOAP.
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
        element(operation, self.parameters, &mut out);
        element(&response, &self.soap.answer.0, &mut out);
        let _ = write!(
            out,
            r#"    </xs:schema>
  </wsdl:types>
  <wsdl:message name="{operation}">
    <wsdl:part name="parameters" element="tns:{operation}"/>
  </wsdl:message>
  <wsdl:message name="{response}">
    <wsdl:part name="parameters" element="tns:{response}"/>
  </wsdl:message>
  <wsdl:portType name="{operation}PortType">
    <wsdl:operation name="{operation}">
      <wsdl:input message="tns:{operation}"/>
      <wsdl:output message="tns:{response}"/>
    </wsdl:operation>
  </wsdl:portType>
"#
        );
        for (prefix, version) in [("soap", "Soap11"), ("soap12", "Soap12")] {
            let _ = write!(
                out,
                r#"  <wsdl:binding name="{operation}{version}" type="tns:{operation}PortType">
    <{prefix}:binding style="document" transport="http://schemas.xmlsoap.org/soap/http"/>
    <wsdl:operation name="{operation}">
      <{prefix}:operation soapAction="" style="document"/>
      <wsdl:input><{prefix}:body use="literal"/></wsdl:input>
      <wsdl:output><{prefix}:body use="literal"/></wsdl:output>
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
        let (kind, repeated) = match field.field_type {
            FieldType::Bool => ("boolean", ""),
            FieldType::Int => ("long", ""),
            FieldType::Float => ("double", ""),
            FieldType::Text => ("string", ""),
            FieldType::Time => ("dateTime", ""),
            // An array is its element several times.
            FieldType::Json => ("anyType", " maxOccurs=\"unbounded\""),
        };
        let _ = writeln!(
            out,
            "            <xs:element name=\"{}\" type=\"xs:{kind}\"{optional}{repeated}/>",
            field.name
        );
    }
    out.push_str("          </xs:sequence>\n        </xs:complexType>\n      </xs:element>\n");
}

/// Words as text in XML. A sign stands for characters that XML has not.
pub(super) fn text(words: &str) -> String {
    escaped(words, false)
}

fn attribute(words: &str) -> String {
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
