//! Answers of workers as Arrow columns.
//!
//! What comes from a worker is not trusted. The bytes of a frame are bounded before they are read; compressed buffers,
//! dictionaries and other types by which few bytes stand for many values are refused, as are columns that would take more
//! bytes as JSON than an answer may have.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::{Array, ArrayRef, AsArray, MapArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, FieldRef, UInt32Type};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::{MessageHeader, root_as_message};
use busbar_event::format::{encode_json, is_json};
use busbar_event::{Class, Error};

use crate::answers::PluginAnswers;
use crate::columns::{ENVELOPE, ROW};
use crate::events::GivenEvents;
use crate::frame::ScriptFailure;
use crate::limits::{ANSWER_EVENTS_MAX, COLUMN_DEPTH_MAX, EVENTS_OF_ONE_MAX};

/// What stands before the metadata of each message of an IPC stream.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// An answer in Arrow columns to a batch.
#[derive(Debug)]
pub struct ColumnsAnswer<'a> {
    /// An IPC stream with one record batch.
    pub ipc: &'a [u8],
    /// Events of the batch that have failed, by their place in it.
    pub failed: Vec<(u32, ScriptFailure)>,
    /// The events of the job.
    pub events: &'a GivenEvents,
    /// The first event of the batch in the job.
    pub first: usize,
    /// Number of events of the batch.
    pub count: usize,
    /// Names of the columns whose text is JSON.
    pub json: &'a [String],
    /// Bytes that all payloads together may take as JSON.
    pub bytes_max: usize,
}

/// The columns of an answer by what they are.
struct MadeColumns<'a> {
    /// The event of each row.
    rows: &'a [u32],
    topics: Option<&'a StringArray>,
    keys: Option<&'a StringArray>,
    tags: Option<&'a MapArray>,
    payloads: Vec<(FieldRef, ArrayRef)>,
}

impl ColumnsAnswer<'_> {
    /// Adds what was made to the answers of the job. The answer is the events that come to nothing because a value cannot be
    /// kept, by their place in the job, with the cause.
    ///
    /// # Errors
    /// `plugin.rubbish-answer`: it is no answer to this batch; nothing has been added then.
    pub fn read(mut self, answers: &mut PluginAnswers) -> Result<Vec<(usize, Error)>, Error> {
        // A fault of a library on bytes that it did not foresee ends the worker, and nothing else.
        let batch = catch_unwind(AssertUnwindSafe(|| batch_of(self.ipc)));
        let batch = batch.unwrap_or_else(|_| Err(rubbish(&"it is no Arrow IPC stream")))?;
        let made = MadeColumns::of(&batch, self.bytes_max)?;
        self.failed.sort_by_key(|(event, _)| *event);
        self.failed.dedup_by_key(|(event, _)| *event);
        self.check(&made)?;
        let payloads = catch_unwind(AssertUnwindSafe(|| made.payload_bytes(self.json)));
        let payloads = payloads.map_err(|_| rubbish(&"its columns cannot be written as JSON"))?;

        let mut order: Vec<usize> = (0..made.rows.len()).collect();
        if !made.rows.is_sorted() {
            order.sort_by_key(|row| made.rows[*row]);
        }
        let has_failed = |event: u32| {
            let found = self
                .failed
                .binary_search_by_key(&event, |(event, _)| *event);
            found.is_ok()
        };
        let is_bad = made.bad_json(self.json);
        let mut bad: Vec<(usize, Error)> = Vec::new();
        for row in order {
            let event = self.first + made.rows[row] as usize;
            if has_failed(made.rows[row]) {
                continue;
            }
            if let Some(column) = is_bad.get(&row) {
                let error = Error::new(Class::Permanent, "plugin.no-json");
                bad.push((event, error.with("column", column)));
                continue;
            }
            let given = self.events.parts_of(event);
            let mut draft = answers.begin_made(event);
            if let Some(topics) = made.topics
                && topics.is_valid(row)
                && topics.value(row) != given.topic
            {
                draft.topic(add(answers, topics.value(row).as_bytes()));
            }
            if let Some(keys) = made.keys {
                let key = keys.is_valid(row).then(|| keys.value(row));
                if key != given.key {
                    draft.key(key.map(|key| add(answers, key.as_bytes())));
                }
            }
            if let Some(tags) = made.tags
                && tags.is_valid(row)
                && (tags.value_length(row) > 0 || self.events.has_tags(event, 1))
            {
                let offsets = tags.value_offsets();
                let (names, values) = (tags.keys().as_string(), tags.values().as_string());
                for at in offsets[row] as usize..offsets[row + 1] as usize {
                    add_tag(answers, names, values, at);
                }
                draft.tags(answers);
            }
            if let Some(payloads) = &payloads {
                draft.payload(add(answers, payloads.value(row)));
            }
            answers.end_made(draft);
        }
        for (event, failure) in self.failed {
            answers.push_failed(self.first + event as usize, failure);
        }
        Ok(bad)
    }

    /// Whether all events that it names are of the batch, and no event has become too many.
    fn check(&self, made: &MadeColumns<'_>) -> Result<(), Error> {
        if made.rows.len() > ANSWER_EVENTS_MAX {
            return Err(rubbish(&format_args!(
                "more than {ANSWER_EVENTS_MAX} events"
            )));
        }
        let failed = self.failed.iter().map(|(event, _)| event);
        let mut counts = vec![0usize; self.count];
        for event in made.rows.iter().chain(failed) {
            let Some(count) = counts.get_mut(*event as usize) else {
                return Err(rubbish(&format_args!(
                    "it names event {event} of a batch of {}",
                    self.count
                )));
            };
            *count += 1;
            if *count > EVENTS_OF_ONE_MAX {
                return Err(rubbish(&format_args!(
                    "more than {EVENTS_OF_ONE_MAX} events of one"
                )));
            }
        }
        Ok(())
    }
}

impl<'a> MadeColumns<'a> {
    fn of(batch: &'a RecordBatch, bytes_max: usize) -> Result<MadeColumns<'a>, Error> {
        let wrong = |field: &Field| {
            rubbish(&format_args!(
                "column {} has the type {}",
                busbar_event::quote(field.name()),
                field.data_type()
            ))
        };
        let mut made = MadeColumns {
            rows: &[],
            topics: None,
            keys: None,
            tags: None,
            payloads: Vec::new(),
        };
        let mut names: Vec<&str> = Vec::with_capacity(batch.num_columns());
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            names.push(field.name());
            match (field.name().as_str(), field.data_type()) {
                (ROW, DataType::UInt32) if array.null_count() == 0 => {
                    made.rows = array.as_primitive::<UInt32Type>().values();
                }
                ("topic", DataType::Utf8) => made.topics = Some(array.as_string()),
                ("key", DataType::Utf8) => made.keys = Some(array.as_string()),
                ("tags", DataType::Map(..)) => {
                    let tags = array.as_map();
                    let is_text = |array: &ArrayRef| *array.data_type() == DataType::Utf8;
                    if !is_text(tags.keys()) || !is_text(tags.values()) {
                        return Err(wrong(field));
                    }
                    made.tags = Some(tags);
                }
                // It is the event's own.
                ("time", _) => {}
                (name, _) if name == ROW || ENVELOPE.contains(&name) => return Err(wrong(field)),
                _ if !becomes_json(field.data_type(), 0) => return Err(wrong(field)),
                _ => {
                    let plain = field.as_ref().clone().with_metadata(Default::default());
                    made.payloads.push((plain.into(), array.clone()));
                }
            }
        }
        names.sort_unstable();
        if let Some(same) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let name = busbar_event::quote(same[0]);
            return Err(rubbish(&format_args!("it has two columns {name}")));
        }
        if names.binary_search(&ROW).is_err() {
            return Err(rubbish(&format_args!("it has no column {ROW}")));
        }
        let columns = made.payloads.iter();
        let bytes = columns.map(|(field, array)| member_bytes(field, array));
        if bytes.fold(0usize, usize::saturating_add) > bytes_max {
            let error = Error::new(Class::Permanent, "plugin.answer-too-long");
            return Err(error.with("bytes_max", bytes_max));
        }
        Ok(made)
    }

    /// The payload of each row; none where the answer has no column of payloads, so that those of the events stay.
    fn payload_bytes(&self, json: &[String]) -> Option<arrow::array::BinaryArray> {
        if self.payloads.is_empty() {
            return None;
        }
        let fields = self.payloads.iter().map(|(field, array)| {
            let is_json = json.contains(field.name()) && *array.data_type() == DataType::Utf8;
            match is_json {
                true => json_field(field.name()),
                false => field.clone(),
            }
        });
        let arrays = self.payloads.iter().map(|(_, array)| array.clone());
        let columns = StructArray::new(fields.collect(), arrays.collect(), None);
        Some(encode_json(&columns))
    }

    /// Rows with a value that should be JSON and is none, with the column.
    fn bad_json(&self, json: &[String]) -> BTreeMap<usize, &str> {
        let mut bad = BTreeMap::new();
        for (field, array) in &self.payloads {
            if json.contains(field.name())
                && let Some(texts) = array.as_string_opt::<i32>()
            {
                for row in 0..texts.len() {
                    if texts.is_valid(row) && !is_json(texts.value(row).as_bytes()) {
                        bad.insert(row, field.name().as_str());
                    }
                }
            }
        }
        bad
    }
}

/// A column whose text is JSON.
fn json_field(name: &str) -> FieldRef {
    let spec = busbar_event::format::FieldSpec::new(name, busbar_event::format::FieldType::Json);
    spec.field().into()
}

fn add(answers: &mut PluginAnswers, bytes: &[u8]) -> Range<usize> {
    let buffer = answers.buffer();
    let start = buffer.len();
    buffer.extend_from_slice(bytes);
    start..buffer.len()
}

/// Adds a tag; one without a value is none.
fn add_tag(answers: &mut PluginAnswers, names: &StringArray, values: &StringArray, at: usize) {
    if values.is_valid(at) {
        let name = add(answers, names.value(at).as_bytes());
        let value = add(answers, values.value(at).as_bytes());
        answers.add_tag(name, value);
    }
}

/// The only record batch of an IPC stream.
fn batch_of(ipc: &[u8]) -> Result<RecordBatch, Error> {
    let no_stream = || rubbish(&"it is no Arrow IPC stream");
    check_messages(ipc)?;
    let mut decoder = StreamDecoder::new();
    let mut bytes = Buffer::from(ipc);
    let batch = decoder.decode(&mut bytes).map_err(|_| no_stream())?;
    batch.ok_or_else(no_stream)
}

/// Whether a stream consists of a schema and one record batch, neither compressed nor with dictionaries. Nothing is
/// allocated by what it says of itself.
fn check_messages(ipc: &[u8]) -> Result<(), Error> {
    let no_stream = || rubbish(&"it is no Arrow IPC stream");
    let mut rest = ipc;
    let mut batches = 0;
    loop {
        let Some((head, behind)) = rest.split_first_chunk::<8>() else {
            return match (rest.is_empty(), batches) {
                (true, 1) => Ok(()),
                _ => Err(no_stream()),
            };
        };
        let [c0, c1, c2, c3, l0, l1, l2, l3] = *head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if [c0, c1, c2, c3] != CONTINUATION || length > behind.len() {
            return Err(no_stream());
        }
        if length == 0 {
            return match (behind.is_empty(), batches) {
                (true, 1) => Ok(()),
                _ => Err(no_stream()),
            };
        }
        let (metadata, behind) = behind.split_at(length);
        let message = root_as_message(metadata).map_err(|_| no_stream())?;
        let body = usize::try_from(message.bodyLength()).map_err(|_| no_stream())?;
        rest = behind.get(body..).ok_or_else(no_stream)?;
        match message.header_type() {
            MessageHeader::Schema => {}
            MessageHeader::RecordBatch => {
                batches += 1;
                let batch = message.header_as_record_batch().ok_or_else(no_stream)?;
                if batch.compression().is_some() {
                    return Err(rubbish(&"its buffers are compressed"));
                }
                let is_within = |buffer: &arrow::ipc::Buffer| {
                    let (offset, length) = (buffer.offset(), buffer.length());
                    let end = offset.checked_add(length);
                    offset >= 0 && length >= 0 && end.is_some_and(|end| end as usize <= body)
                };
                let buffers = batch.buffers().unwrap_or_default();
                if !buffers.iter().all(is_within) {
                    return Err(no_stream());
                }
                if batch.length() < 0 || batch.length() > i64::from(u32::MAX) {
                    return Err(no_stream());
                }
            }
            _ => return Err(rubbish(&"it has dictionaries or other messages")),
        }
        if batches > 1 {
            return Err(rubbish(&"it has more than one record batch"));
        }
    }
}

/// Whether a column of this type can be written as JSON with a size in proportion to its bytes.
fn becomes_json(data_type: &DataType, depth: usize) -> bool {
    match data_type {
        DataType::Boolean
        | DataType::Utf8
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32
        | DataType::Timestamp(..) => true,
        number if number.is_integer() => true,
        DataType::List(item) => {
            depth < COLUMN_DEPTH_MAX && becomes_json(item.data_type(), depth + 1)
        }
        DataType::Struct(fields) => {
            let mut fields_fit = fields
                .iter()
                .map(|f| becomes_json(f.data_type(), depth + 1));
            depth < COLUMN_DEPTH_MAX && !fields.is_empty() && fields_fit.all(|fits| fits)
        }
        DataType::Map(entry, _) => match entry.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                depth < COLUMN_DEPTH_MAX
                    && *fields[0].data_type() == DataType::Utf8
                    && becomes_json(fields[1].data_type(), depth + 1)
            }
            _ => false,
        },
        _ => false,
    }
}

/// Bytes that a column takes at most when all its rows are written as members of JSON objects, without what escapes add.
fn member_bytes(field: &Field, array: &ArrayRef) -> usize {
    let name = array.len().saturating_mul(field.name().len() + 4);
    name.saturating_add(value_bytes(array))
}

/// Bytes that the values of a column take at most as JSON, each with a comma, without what escapes add.
fn value_bytes(array: &ArrayRef) -> usize {
    let each = |bytes: usize| array.len().saturating_mul(bytes);
    match array.data_type() {
        DataType::Boolean => each(6),
        DataType::Utf8 => each(5).saturating_add(array.as_string::<i32>().values().len()),
        DataType::List(_) => each(5).saturating_add(value_bytes(array.as_list::<i32>().values())),
        DataType::Struct(fields) => {
            let members = fields.iter().zip(array.as_struct().columns());
            members.fold(each(5), |sum: usize, (field, array)| {
                sum.saturating_add(member_bytes(field, array))
            })
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let entries = value_bytes(map.keys()).saturating_add(value_bytes(map.values()));
            each(5).saturating_add(entries)
        }
        // A time with zone, the longest number and a date.
        _ => each(40),
    }
}

fn rubbish(cause: &dyn fmt::Display) -> Error {
    Error::new(Class::Permanent, "plugin.rubbish-answer").with("cause", cause)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BooleanBuilder, DictionaryArray, Float64Array, Int32Array, ListArray, ListBuilder,
        NullArray, UInt32Array,
    };
    use arrow::datatypes::{Int32Type, Schema};
    use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};

    use super::*;
    use crate::events::{EventForm, GivenEvent};

    fn events(count: usize) -> GivenEvents {
        let mut events = GivenEvents::new(EventForm::Arrow);
        for _ in 0..count {
            let event = GivenEvent {
                topic: "a/b",
                key: Some("k"),
                time: 7,
                payload: b"{\"v\":1}",
            };
            events.push(&event, std::iter::empty());
        }
        events
    }

    fn ipc(columns: &[(&str, ArrayRef)]) -> Vec<u8> {
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
            .collect();
        let arrays = columns.iter().map(|(_, array)| array.clone()).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref()).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    }

    /// What comes of an answer to the events 10, 11 and 12 of a job: events made and failed, or the error.
    fn read(ipc: &[u8], failed: &[u32]) -> Result<Vec<String>, Error> {
        let events = events(20);
        let failure = |event: &u32| {
            let message = "no".to_owned();
            let (file, line) = (None, None);
            (
                *event,
                ScriptFailure {
                    message,
                    file,
                    line,
                },
            )
        };
        let answer = ColumnsAnswer {
            ipc,
            failed: failed.iter().map(failure).collect(),
            events: &events,
            first: 10,
            count: 3,
            json: &["j".to_owned()],
            bytes_max: 1000,
        };
        let mut answers = PluginAnswers::default();
        let bad = answer.read(&mut answers);
        if bad.is_err() {
            assert!(answers.is_empty() && answers.failed().next().is_none());
        }
        let shown = |row: crate::AnswerRow<'_>| {
            let payload = row.payload.map(String::from_utf8_lossy);
            let payload = payload.unwrap_or("own".into());
            format!("{} {:?} {:?} {payload}", row.event, row.topic, row.key)
        };
        let mut lines: Vec<String> = answers.rows().map(shown).collect();
        lines.extend(
            bad?.iter()
                .map(|(event, error)| format!("{event} {}", error.code())),
        );
        lines.extend(answers.failed().map(|(event, _)| format!("{event} failed")));
        Ok(lines)
    }

    fn rows(rows: &[u32]) -> (&'static str, ArrayRef) {
        (ROW, Arc::new(UInt32Array::from(rows.to_vec())))
    }

    fn text(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(values.iter().copied().collect::<StringArray>())
    }

    #[test]
    fn rows_are_of_the_events_that_they_name_in_order() {
        let v: ArrayRef = Arc::new(Float64Array::from(vec![Some(2.5), Some(1.0), None]));
        let j = text(&[Some("[1]"), None, Some("{]")]);
        let topics = text(&[None, Some("x/y"), Some("a/b")]);
        let keys = text(&[Some("k"), Some("m"), None]);
        let answer = ipc(&[
            rows(&[2, 0, 1]),
            ("v", v),
            ("j", j),
            ("topic", topics),
            ("key", keys),
        ]);
        assert_eq!(
            read(&answer, &[]).unwrap(),
            [
                "10 Some(\"x/y\") Some(Some(\"m\")) {\"v\":1.0}",
                "12 None None {\"v\":2.5,\"j\":[1]}",
                "11 plugin.no-json",
            ]
        );
        assert_eq!(
            read(&ipc(&[rows(&[2, 0, 1])]), &[]).unwrap(),
            ["10 None None own", "11 None None own", "12 None None own"]
        );
        // An event that failed makes nothing; without columns of payloads they stay.
        assert_eq!(
            read(&ipc(&[rows(&[0, 0, 1])]), &[1, 2]).unwrap(),
            [
                "10 None None own",
                "10 None None own",
                "11 failed",
                "12 failed"
            ]
        );
    }

    #[test]
    fn what_is_no_answer_to_the_batch_is_refused() {
        let one = |name, array: ArrayRef| ipc(&[rows(&vec![0; array.len()]), (name, array)]);
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1)])]);
        assert_eq!(read(&one("v", Arc::new(list)), &[]).unwrap().len(), 1);
        let dictionary: DictionaryArray<Int32Type> = vec!["a"].into_iter().collect();
        let whole = ipc(&[rows(&[0])]);
        let mut twice = whole.clone();
        twice.extend_from_slice(&whole);
        let long = "n".repeat(999);
        // A list of bits, each of which is a word in JSON.
        let mut many = ListBuilder::new(BooleanBuilder::new());
        many.append_value([Some(true); 200]);
        let many: ArrayRef = Arc::new(many.finish());
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
        for (why, bad) in [
            ("no rows named", ipc(&[("v", text(&[None]))])),
            ("rows of a wrong type", ipc(&[(ROW, text(&[None]))])),
            ("row beyond the batch", ipc(&[rows(&[3])])),
            (
                "topic of a wrong type",
                one("topic", Arc::new(Int32Array::from(vec![1]))),
            ),
            ("tags of a wrong type", one("tags", text(&[None]))),
            ("dictionary", one("v", Arc::new(dictionary))),
            ("no values", one("v", Arc::new(NullArray::new(1)))),
            ("names too long", one(&long, numbers)),
            ("bits that become words", one("v", many)),
            ("two columns of a name", ipc(&[rows(&[0]), rows(&[0])])),
            ("two streams", twice),
            ("cut off", whole[..whole.len() / 2].to_vec()),
            ("nothing", Vec::new()),
            ("no stream", b"hello, how are you?".to_vec()),
        ] {
            let error = read(&bad, &[]).expect_err(why);
            let expected = match why {
                "names too long" | "bits that become words" => "plugin.answer-too-long",
                _ => "plugin.rubbish-answer",
            };
            assert_eq!(error.code(), expected, "{why}");
        }
        assert!(read(&whole, &[3]).is_err());
    }

    #[test]
    fn compressed_buffers_are_refused() {
        let batch = RecordBatch::try_from_iter([rows(&[0])]).unwrap();
        let compressed = IpcWriteOptions::default()
            .try_with_compression(Some(arrow::ipc::CompressionType::LZ4_FRAME));
        let writer =
            StreamWriter::try_new_with_options(Vec::new(), batch.schema_ref(), compressed.unwrap());
        let mut writer = writer.unwrap();
        // Without the codec the writer refuses it itself.
        if writer.write(&batch).is_ok() {
            assert!(read(&writer.into_inner().unwrap(), &[]).is_err());
        }
    }

    #[test]
    fn damaged_bytes_are_refused_or_read_and_never_more() {
        let v: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0]));
        let good = ipc(&[
            rows(&[0, 1, 2]),
            ("v", v),
            ("topic", text(&[None, None, Some("x")])),
        ]);
        for at in 0..good.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                let _ = read(&bad, &[]);
            }
        }
    }
}
