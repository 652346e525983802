//! Columns as they are described beside the log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A column as the catalogue describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedColumn {
    /// Its name.
    pub name: String,
    /// How its values are written.
    pub shape: ValueShape,
}

/// How the values of a column are written in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueShape {
    /// A number.
    Number,
    /// A floating-point number of 32 bits. The server writes fewer digits than it has, unless it is one of 64 bits.
    Float,
    /// A text.
    Text,
    /// `0x00ff`.
    Bytes,
    /// The same, from a number of so many bits.
    Bits(u32),
    /// `2026-01-02`.
    Date,
    /// A date and a time without a zone.
    DateTime,
    /// A time in UTC.
    Timestamp,
}

/// What becomes of dates that are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ZeroDates {
    /// They come as the text that they are.
    #[default]
    Keep,
    /// They come as `null`.
    #[serde(rename = "none")]
    Null,
}
