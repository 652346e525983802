use std::borrow::Cow;
use std::fmt;

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic, Template};
use busbar_event::format::{Hl7Charset, Hl7Path, Hl7Zone};
use busbar_event::{Class, Error};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::limits::{MLLP_TIMEOUT_MAX, MLLP_VALUES_MAX};
use crate::places::Places;
use crate::secret::refuse_placeholder;
use crate::tls::Tls;

/// Sends rows as messages of HL7 version 2 over MLLP, one after the other over one connection that stays open.
///
/// At least once: a message counts when the other side has answered it with `AA` or `CA`. A connection that is lost, no answer
/// within `timeout`, and `AR` with the error 206 or 207 are tried again, with the same control id. A message that is answered
/// with `AE`, `CE`, or another `AR` or `CR` becomes a dead letter with the text of the answer's ERR segment. After a crash
/// messages may come again, with the same control id where the row was made from one event.
///
/// Without `message` each payload is sent as it came; it must be an HL7 message that asks for an answer. With it the message is
/// made of the row's columns: each path gets a text, `${column}` for the value of a column, or a text with such values in it.
/// A column alone keeps its shape: a list fills repetitions, or segments with `[*]`, an object components, and null leaves its
/// place empty. What is not given is filled in: MSH-7, a control id in MSH-10, `P` in MSH-11, `2.5` in MSH-12, the character
/// set in MSH-18.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// Host and port of the receiver.
    pub address: String,
    /// TLS; `{}` trusts the usual authorities.
    pub tls: Option<Tls>,
    /// How long an answer may take.
    #[serde(default = "half_a_minute")]
    pub timeout: Span,
    /// What a message is made of: values by their path in it. Without it each payload is a message.
    pub message: Option<MessageValues>,
    /// The character set of messages that are made: a name of MSH-18, such as `GB18030`, or several with `~` between them, such as
    /// `ISO IR6~ISO IR87` for Japanese; UTF-8 if not given.
    pub charset: Option<String>,
    /// The zone in which times are written into messages, such as `+08:00`; UTC if not given.
    pub zone: Option<String>,
}

/// Paths and templates, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MessageValues(pub Vec<(String, String)>);

fn half_a_minute() -> Span {
    Span::from_micros(30_000_000)
}

impl Options {
    /// Reads and checks them.
    pub fn read(spec: &ConnectionSpec, places: &Places) -> Result<Options, Diagnostic> {
        refuse_placeholder(spec, &["address"])?;
        let options: Options = spec.options.read()?;
        let refuse = |key: &str, error: Error| Err(spec.options.diagnostic(key, error));
        let error = |code| Error::new(Class::Configuration, code);
        let port = options.address.rsplit_once(':').and_then(|(host, port)| {
            (!host.is_empty())
                .then(|| port.parse::<u16>().ok())
                .flatten()
        });
        if port.is_none_or(|port| port == 0) {
            return refuse("address", error("mllp.address"));
        }
        let timeout = options.timeout.as_duration();
        if timeout.is_zero() || timeout > MLLP_TIMEOUT_MAX {
            let error = error("mllp.timeout").with("most_s", MLLP_TIMEOUT_MAX.as_secs());
            return refuse("timeout", error);
        }
        if let Some(ca) = options.tls.as_ref().and_then(|tls| tls.ca.as_deref())
            && let Err(code) = places.check(ca)
        {
            return refuse("tls", error(code));
        }
        if let Err(why) = options.charset() {
            return refuse("charset", why);
        }
        if let Err(why) = options.zone() {
            return refuse("zone", why);
        }
        let values = options.message.iter().flat_map(|message| &message.0);
        for (count, (path, template)) in values.enumerate() {
            let why = match (Hl7Path::parse(path), Template::parse(template)) {
                _ if count == MLLP_VALUES_MAX => error("mllp.values").with("most", MLLP_VALUES_MAX),
                (None, _) => error("mllp.path").with("path", busbar_event::quote(path)),
                (_, Err((_, why))) => why,
                (Some(_), Ok(_)) => continue,
            };
            return refuse("message", why);
        }
        Ok(options)
    }

    /// The character set of messages that are made.
    pub fn charset(&self) -> Result<Hl7Charset, Error> {
        let name = self.charset.as_deref().unwrap_or("UNICODE UTF-8");
        Hl7Charset::of(name).ok_or_else(|| wrong("charset", name))
    }

    /// The zone in which times are written.
    pub fn zone(&self) -> Result<Hl7Zone, Error> {
        let name = self.zone.as_deref().unwrap_or("Z");
        Hl7Zone::parse(name).ok_or_else(|| wrong("zone", name))
    }
}

fn wrong(option: &'static str, value: &str) -> Error {
    Error::new(Class::Configuration, "event.hl7-option")
        .with("option", option)
        .with("value", busbar_event::quote(value))
}

impl<'de> serde::Deserialize<'de> for MessageValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MessageValuesVisitor;
        impl<'de> Visitor<'de> for MessageValuesVisitor {
            type Value = MessageValues;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of paths in the message to values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MessageValues, A::Error> {
                let mut values = Vec::new();
                while let Some((path, ValueText(text))) = map.next_entry()? {
                    values.push((path, text));
                }
                Ok(MessageValues(values))
            }
        }
        deserializer.deserialize_map(MessageValuesVisitor)
    }
}

/// A text, or the text of a number.
struct ValueText(String);

impl<'de> serde::Deserialize<'de> for ValueText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueTextVisitor;
        impl Visitor<'_> for ValueTextVisitor {
            type Value = ValueText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a number")
            }

            fn visit_str<E>(self, text: &str) -> Result<ValueText, E> {
                Ok(ValueText(text.to_owned()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<ValueText, E> {
                Ok(ValueText(number.to_string()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<ValueText, E> {
                Ok(ValueText(number.to_string()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<ValueText, E> {
                Ok(ValueText(number.to_string()))
            }
        }
        deserializer.deserialize_any(ValueTextVisitor)
    }
}

impl Serialize for MessageValues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (path, template) in &self.0 {
            map.serialize_entry(path, template)?;
        }
        map.end()
    }
}

impl JsonSchema for MessageValues {
    fn schema_name() -> Cow<'static, str> {
        "MessageValues".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": { "type": ["string", "number"] } })
    }
}
