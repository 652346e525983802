//! The section `properties` of a message, and how identifiers become text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::encode::ListWriter;
use super::fault::V1Fault;
use super::value::{TypedItems, TypedValue};

const ULONG_MARK: &str = "AMQP_ULONG:";
const UUID_MARK: &str = "AMQP_UUID:";
const BINARY_MARK: &str = "AMQP_BINARY:";

/// The properties of a message, borrowed from it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct V1Properties<'a> {
    /// The application's identifier.
    pub message_id: Option<TypedValue<'a>>,
    /// The user who sent it.
    pub user_id: Option<&'a [u8]>,
    /// The address it is sent to.
    pub to: Option<&'a str>,
    /// What it is about.
    pub subject: Option<&'a str>,
    /// Where an answer goes.
    pub reply_to: Option<&'a str>,
    /// What an answer refers to.
    pub correlation_id: Option<TypedValue<'a>>,
    /// Media type.
    pub content_type: Option<&'a str>,
    /// Encoding of the body, as `gzip`.
    pub content_encoding: Option<&'a str>,
    /// When it is over, in milliseconds since 1970.
    pub expires_ms: Option<i64>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: Option<i64>,
    /// The group that it belongs to.
    pub group_id: Option<&'a str>,
    /// Its number in the group.
    pub group_sequence: Option<u32>,
    /// The group that an answer belongs to.
    pub reply_to_group_id: Option<&'a str>,
}

impl<'a> V1Properties<'a> {
    /// Reads the fields of the section.
    ///
    /// # Errors
    /// `amqp:decode-error` when one has a type that it may not have.
    pub fn read(items: TypedItems<'a>) -> Result<V1Properties<'a>, V1Fault> {
        let mut f = items.reader();
        let identifier = |value: TypedValue<'a>| match value {
            TypedValue::Null => Ok(None),
            TypedValue::Ulong(_)
            | TypedValue::Uuid(_)
            | TypedValue::Binary(_)
            | TypedValue::Text(_) => Ok(Some(value)),
            _ => Err(V1Fault::decode(
                "an identifier has a type that it may not have",
            )),
        };
        let time = |value: TypedValue<'a>| match value {
            TypedValue::Null => Ok(None),
            TypedValue::Timestamp(ms) => Ok(Some(ms)),
            _ => Err(V1Fault::decode("a time is not a timestamp")),
        };
        Ok(V1Properties {
            message_id: identifier(f.value()?)?,
            user_id: f.binary()?,
            to: f.text()?,
            subject: f.text()?,
            reply_to: f.text()?,
            correlation_id: identifier(f.value()?)?,
            content_type: f.text()?,
            content_encoding: f.text()?,
            expires_ms: time(f.value()?)?,
            created_ms: time(f.value()?)?,
            group_id: f.text()?,
            group_sequence: f.uint()?,
            reply_to_group_id: f.text()?,
        })
    }

    /// Appends the section, if it has anything.
    pub fn write(&self, out: &mut Vec<u8>) {
        if *self == V1Properties::default() {
            return;
        }
        let value = |value: Option<TypedValue<'a>>| value.unwrap_or(TypedValue::Null);
        super::encode::put_described(0x73, out, |l: &mut ListWriter<'_>| {
            l.value(&value(self.message_id));
            l.value(&value(self.user_id.map(TypedValue::Binary)));
            l.text_or_null(self.to);
            l.text_or_null(self.subject);
            l.text_or_null(self.reply_to);
            l.value(&value(self.correlation_id));
            l.symbol_or_null(self.content_type);
            l.symbol_or_null(self.content_encoding);
            l.value(&value(self.expires_ms.map(TypedValue::Timestamp)));
            l.value(&value(self.created_ms.map(TypedValue::Timestamp)));
            l.text_or_null(self.group_id);
            l.value(&value(self.group_sequence.map(TypedValue::Uint)));
            l.text_or_null(self.reply_to_group_id);
        });
    }
}

/// An identifier as bytes that other protocols can carry: text as it is, bytes as they are if they are no text,
/// everything else as text with a mark, from which [`read_identifier`] makes it again.
pub fn identifier_bytes(id: &TypedValue<'_>) -> Vec<u8> {
    match *id {
        TypedValue::Text(text) => text.as_bytes().to_vec(),
        TypedValue::Ulong(n) => format!("{ULONG_MARK}{n}").into_bytes(),
        TypedValue::Uuid(bytes) => {
            format!("{UUID_MARK}{:032x}", u128::from_be_bytes(bytes)).into_bytes()
        }
        TypedValue::Binary(bytes) if std::str::from_utf8(bytes).is_ok() => {
            format!("{BINARY_MARK}{}", BASE64.encode(bytes)).into_bytes()
        }
        TypedValue::Binary(bytes) => bytes.to_vec(),
        _ => Vec::new(),
    }
}

/// An identifier as text: as [`identifier_bytes`], and with a mark for bytes that are no text.
pub fn identifier_text(id: &TypedValue<'_>) -> String {
    match *id {
        TypedValue::Binary(bytes) => format!("{BINARY_MARK}{}", BASE64.encode(bytes)),
        ref id => String::from_utf8(identifier_bytes(id)).unwrap_or_default(),
    }
}

/// The identifier that these bytes stand for. `decoded` holds what the result borrows.
pub fn read_identifier<'a>(bytes: &'a [u8], decoded: &'a mut Vec<u8>) -> TypedValue<'a> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return TypedValue::Binary(bytes);
    };
    if let Some(n) = text.strip_prefix(ULONG_MARK).and_then(|n| n.parse().ok()) {
        return TypedValue::Ulong(n);
    }
    if let Some(hex) = text.strip_prefix(UUID_MARK)
        && let Ok(n) = u128::from_str_radix(hex, 16)
    {
        return TypedValue::Uuid(n.to_be_bytes());
    }
    if let Some(coded) = text.strip_prefix(BINARY_MARK)
        && let Ok(bytes) = BASE64.decode(coded)
    {
        *decoded = bytes;
        return TypedValue::Binary(decoded);
    }
    TypedValue::Text(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_keep_their_type_through_other_protocols() {
        for id in [
            TypedValue::Text("ID:1"),
            TypedValue::Text(""),
            TypedValue::Ulong(u64::MAX),
            TypedValue::Uuid([7; 16]),
            TypedValue::Binary(b"text"),
            TypedValue::Binary(b"\xff\x00"),
        ] {
            let (bytes, text) = (identifier_bytes(&id), identifier_text(&id));
            let (mut a, mut b) = (Vec::new(), Vec::new());
            assert_eq!(read_identifier(&bytes, &mut a), id);
            assert_eq!(read_identifier(text.as_bytes(), &mut b), id);
        }
    }
}
