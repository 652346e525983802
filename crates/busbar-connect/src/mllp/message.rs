use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Schema};
use busbar_catalog::{Template, TemplatePart, Variable};
use busbar_connector::Delivery;
use busbar_event::format::{Hl7Charset, Hl7Path, Hl7Writer, Hl7Zone, encode_json};
use busbar_event::{Class, Error, Micros};
use serde_json::{Map, Value};

use super::options::{MessageValues, Options};

/// Makes messages of rows.
pub(super) struct MessageMaker {
    values: Vec<(Hl7Path, Template)>,
    charset: Hl7Charset,
    zone: Hl7Zone,
    /// Names of the columns that hold times.
    times: Vec<String>,
    writer: Hl7Writer,
}

impl MessageMaker {
    /// # Errors
    /// *Configuration*: a value names a column that the rows do not have.
    pub fn new(
        message: &MessageValues,
        options: &Options,
        schema: &Schema,
    ) -> Result<MessageMaker, Error> {
        let mut values = Vec::new();
        for (path, text) in &message.0 {
            let wrong = || Error::new(Class::Configuration, "mllp.path").with("path", path);
            let template = Template::parse(text).map_err(|(_, why)| why)?;
            for part in template.parts() {
                if let TemplatePart::Variable {
                    variable: Variable::Column(name),
                    ..
                } = part
                    && schema.index_of(name).is_err()
                {
                    return Err(Error::new(Class::Configuration, "mllp.column")
                        .with("path", path)
                        .with("column", busbar_event::quote(name)));
                }
            }
            values.push((Hl7Path::parse(path).ok_or_else(wrong)?, template));
        }
        let is_time = |kind: &DataType| matches!(kind, DataType::Timestamp(..));
        let times = schema.fields().iter().filter(|f| is_time(f.data_type()));
        Ok(MessageMaker {
            values,
            charset: options.charset()?,
            zone: options.zone()?,
            times: times.map(|field| field.name().clone()).collect(),
            writer: Hl7Writer::default(),
        })
    }

    /// The rows of a delivery as JSON objects, of which messages are made.
    pub fn rows(&self, rows: &RecordBatch) -> BinaryArray {
        let columns: Vec<ArrayRef> = rows.columns().to_vec();
        let fields = rows.schema().fields().clone();
        match StructArray::try_new(fields, columns, None) {
            Ok(object) if !object.columns().is_empty() => encode_json(&object),
            _ => BinaryArray::from(vec![&b"{}"[..]; rows.num_rows()]),
        }
    }

    /// The message of a row, in its character set.
    ///
    /// # Errors
    /// *Permanent*: a value does not fit its place, or is not in the character set.
    pub fn make(
        &mut self,
        delivery: &Delivery,
        row: usize,
        object: &[u8],
        id: &str,
        now: Micros,
    ) -> Result<Vec<u8>, Error> {
        let object: Map<String, Value> = serde_json::from_slice(object).unwrap_or_default();
        // What an earlier row left when it failed.
        self.writer = Hl7Writer::default();
        for (path, template) in &self.values {
            let value = match template.parts() {
                [TemplatePart::Variable { variable, .. }] => {
                    self.value(variable, delivery, row, &object)
                }
                parts => {
                    let mut text = String::new();
                    for part in parts {
                        match part {
                            TemplatePart::Literal(literal) => text.push_str(literal),
                            TemplatePart::Variable { variable, .. } => {
                                match self.value(variable, delivery, row, &object) {
                                    Value::Null => {}
                                    Value::String(value) => text.push_str(&value),
                                    other => text.push_str(&other.to_string()),
                                }
                            }
                        }
                    }
                    Value::String(text)
                }
            };
            self.writer.set(path, &value)?;
        }
        let time = self.zone.write(now).unwrap_or_default();
        let charset = self.charset.name();
        let names = charset.split('~').map(Value::from);
        let scheme = match self.charset.switches() {
            true => Value::from("ISO 2022-1994"),
            false => Value::Null,
        };
        for (field, value) in [
            (7, Value::from(time)),
            (10, Value::from(id)),
            (11, Value::from("P")),
            (12, Value::from("2.5")),
            (18, Value::Array(names.collect())),
            (20, scheme),
        ] {
            if !self.writer.has(*b"MSH", field) {
                let path = Hl7Path::field(*b"MSH", field);
                self.writer.set(&path, &value)?;
            }
        }
        let text = self.writer.finish()?;
        let encoded = self.charset.encode(&text).map(|bytes| bytes.into_owned());
        encoded.ok_or_else(|| Error::new(Class::Permanent, "mllp.charset").with("charset", charset))
    }

    /// What a variable stands for; times as HL7 writes them.
    fn value(
        &self,
        variable: &Variable,
        delivery: &Delivery,
        row: usize,
        object: &Map<String, Value>,
    ) -> Value {
        let events = &delivery.events;
        let topic = events.topic(row);
        let mut levels = topic.splitn(3, '/');
        let text = |text: Option<&str>| match text {
            Some(text) => Value::String(text.to_owned()),
            None => Value::Null,
        };
        match variable {
            Variable::Topic => text(Some(topic)),
            Variable::Kind => text(levels.next()),
            Variable::Client => text(levels.nth(1)),
            Variable::Subject => text(levels.nth(2)),
            Variable::Key => text(events.key(row)),
            Variable::Tag(name) => {
                let mut tags = events.tags(row);
                text(tags.find(|(tag, _)| tag == name).map(|(_, value)| value))
            }
            Variable::Column(name) => match object.get(name) {
                Some(Value::String(value)) if self.times.contains(name) => {
                    let time = busbar_event::time::parse(value);
                    let time = time.and_then(|micros| self.zone.write(micros));
                    Value::String(time.unwrap_or_else(|| value.clone()))
                }
                Some(value) => value.clone(),
                None => Value::Null,
            },
        }
    }
}
