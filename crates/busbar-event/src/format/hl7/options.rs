use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Hl7Charset, Hl7Zone};
use crate::{Class, Error, Result};

/// Options of HL7 version 2 payloads. The path of a column is `SEGMENT.FIELD.COMPONENT.SUBCOMPONENT`, such as `PID.5.1`;
/// `OBX[2].5` is of the second OBX segment, `PID.3[2]` the second repetition, and `[*]` all of them, as a list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hl7Options {
    /// The character set of messages whose MSH-18 is empty or ASCII: `UNICODE UTF-8` (the default), `8859/1` to `8859/15`,
    /// `GB 18030-2000`, `BIG-5`, `KS X 1001`, or several with `~` between them, such as `ISO IR6~ISO IR87` for Japanese.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub charset: Option<String>,
    /// The zone of times that are written without one, such as `+08:00`; UTC if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

impl Hl7Options {
    /// The character set of messages that declare none.
    ///
    /// # Errors
    /// *Configuration*: `event.hl7-option`.
    pub fn charset(&self) -> Result<Hl7Charset> {
        let Some(name) = &self.charset else {
            return Ok(Hl7Charset::UTF_8);
        };
        Hl7Charset::of(name).ok_or_else(|| wrong("charset", name))
    }

    /// The zone of times that are written without one.
    ///
    /// # Errors
    /// *Configuration*: `event.hl7-option`.
    pub fn zone(&self) -> Result<Hl7Zone> {
        let Some(name) = &self.zone else {
            return Ok(Hl7Zone::UTC);
        };
        Hl7Zone::parse(name).ok_or_else(|| wrong("zone", name))
    }
}

fn wrong(option: &'static str, value: &str) -> Error {
    Error::new(Class::Configuration, "event.hl7-option")
        .with("option", option)
        .with("value", crate::quote(value))
}
