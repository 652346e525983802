//! Bounds of everything that this crate builds or takes in; units are last in the names.

/// Longest topic, in bytes: what MQTT's two length bytes can say.
pub const TOPIC_BYTES_MAX: usize = 65_535;
/// Most levels of a topic or filter. Bounds the depth of every tree built from them.
pub const TOPIC_LEVELS_MAX: usize = 256;
/// Largest payload unless a configuration says otherwise.
pub const PAYLOAD_BYTES_MAX_DEFAULT: usize = 1 << 20;
/// Largest payload that any configuration may allow: MQTT's largest packet.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 20;
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 65_535;
/// Most tags of one event.
pub const TAGS_MAX: usize = 64;
/// Longest tag name and longest tag value, in bytes each.
pub const TAG_BYTES_MAX: usize = 65_535;
/// Rows at which a batch is sealed.
pub const BATCH_ROWS_MAX: usize = 16_384;
/// Bytes at which a batch is sealed; its last event may exceed it.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Most rows that [`decode`](crate::decode) accepts in one body. Larger than what a builder seals
/// because small frames are merged.
pub const BODY_ROWS_MAX: usize = 1 << 20;
/// Largest body that [`decode`](crate::decode) accepts, in bytes.
pub const BODY_BYTES_MAX: usize = 1 << 30;
/// Most typed columns of an event, nested ones included.
pub const COLUMNS_MAX: usize = 1_024;
/// Deepest nesting of typed columns.
pub const COLUMN_DEPTH_MAX: usize = 16;
/// Deepest nesting of a JSON document that is decoded.
pub const JSON_DEPTH_MAX: usize = 64;
/// Deepest nesting of an XML document that is decoded.
pub const XML_DEPTH_MAX: usize = JSON_DEPTH_MAX - 2;
/// Most attributes of one element.
pub const XML_ATTRIBUTES_MAX: usize = 256;
/// Most elements and attributes of an XML document.
pub const XML_NODES_MAX: usize = 65_536;
/// Largest XML document that is decoded, in bytes.
pub const XML_BYTES_MAX: usize = 16 << 20;
/// Largest HL7 message that is read or made, in bytes.
pub const HL7_BYTES_MAX: usize = 16 << 20;
/// Most segments of an HL7 message or batch.
pub const HL7_SEGMENTS_MAX: usize = 65_536;
/// Largest number in the path of an HL7 value.
pub const HL7_PLACE_MAX: usize = 9_999;
/// Most fields, repetitions, components and subcomponents of an HL7 message that is made, empty ones included.
pub const HL7_PLACES_MAX: usize = 1 << 20;
/// The last element of a list that a path of FHIR may name, counted from zero.
pub const FHIR_ITEM_MAX: usize = 999;
/// Bytes of the name of an element of FHIR, with its quotes. The longest of R4 has half as many.
pub const FHIR_NAME_BYTES_MAX: usize = 128;
/// How often an event may be relayed, or pass a bridge to another broker; one more time is a cycle.
pub const HOPS_MAX: u32 = 16;
/// Most characters of a payload or value quoted in an error.
pub const QUOTE_CHARS_MAX: usize = 40;
/// Most events of a sample that a schema is inferred from.
pub const INFER_ROWS_MAX: usize = 4_096;
/// Most fields that inference keeps, in order of first appearance.
pub const INFER_FIELDS_MAX: usize = 256;

const _: () = {
    // Offsets in a batch are 32-bit: a nearly full batch and one largest event must fit.
    assert!(BATCH_BYTES_MAX + PAYLOAD_BYTES_MAX < i32::MAX as usize);
    assert!(BATCH_ROWS_MAX <= BODY_ROWS_MAX);
    assert!(BATCH_BYTES_MAX + PAYLOAD_BYTES_MAX < BODY_BYTES_MAX);
    assert!(TAGS_MAX * 2 * TAG_BYTES_MAX + KEY_BYTES_MAX < PAYLOAD_BYTES_MAX);
};
