//! HL7 version 2 payloads: messages in ER7, the form with `|` and `^`, as typed columns and back.
//!
//! [`Hl7Reader`] reads a message with the separators and the character set that its MSH segment declares, and knows no
//! version: a message is segments of fields of repetitions of components of subcomponents, whatever its type. [`Hl7Path`]
//! says where in a message a value is. [`Hl7Writer`] makes a message of values and their paths.

mod answer;
mod charset;
mod decoder;
mod escape;
mod json;
mod message;
mod options;
mod path;
mod separators;
mod switched;
mod time;
mod write;

pub use answer::{Hl7Answer, Hl7Refusal};
pub use charset::Hl7Charset;
pub(super) use decoder::{Hl7Decoder, Hl7Reject};
pub use message::{Hl7Message, Hl7Reader, Hl7Value};
pub use options::Hl7Options;
pub use path::Hl7Path;
pub use separators::Hl7Separators;
pub use time::Hl7Zone;
pub use write::Hl7Writer;
