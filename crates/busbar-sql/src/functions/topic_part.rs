//! `topic_part(topic, 2)`: a level of a topic, counted from 1; null if the topic has fewer levels.
//!
//! `topic_part(topic, 'subject')`: one of the parts `kind`, `client` and `subject`, the subject being all levels from the
//! third on; null if the topic has none. Expressions that name a part as a column are turned into this.

use arrow::datatypes::DataType;
use busbar_event::topic::parts;
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::usage::misused;
use crate::dictionary::map_texts;
use crate::limits::TOPIC_PARTS_MAX;

pub(super) fn function() -> ScalarUDF {
    ScalarUDF::new_from_impl(TopicPart {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TopicPart {
    signature: Signature,
}

/// Picks a part of a topic.
type Pick = dyn Fn(&str) -> Option<&str>;

impl ScalarUDFImpl for TopicPart {
    fn name(&self) -> &str {
        "topic_part"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let [topic, part] = arguments else {
            return Err(misused("topic_part"));
        };
        let part = match part {
            DataType::Utf8 | DataType::Utf8View => DataType::Utf8,
            level if level.is_integer() => DataType::Int64,
            _ => return Err(misused("topic_part")),
        };
        match text_or_dictionary(topic) {
            Some(topic) => Ok(vec![topic, part]),
            None => Err(misused("topic_part")),
        }
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [topics, part] = &call.args[..] else {
            return Err(misused("topic_part"));
        };
        let picked: Box<Pick> = match part {
            ColumnarValue::Scalar(ScalarValue::Int64(part)) => {
                let level = part.filter(|part| (1..=TOPIC_PARTS_MAX).contains(part));
                let level = level.and_then(|level| usize::try_from(level - 1).ok());
                Box::new(move |topic| topic.split('/').nth(level?))
            }
            ColumnarValue::Scalar(ScalarValue::Utf8(Some(part))) => {
                let part: fn(&str) -> &str = match part.as_str() {
                    "kind" => |topic| parts(topic).kind,
                    "client" => |topic| parts(topic).client,
                    "subject" => |topic| parts(topic).subject,
                    _ => return Err(misused("topic_part")),
                };
                Box::new(move |topic| Some(part(topic)).filter(|part| !part.is_empty()))
            }
            _ => return Err(misused("topic_part")),
        };
        let pick = |topic: &[u8]| picked(std::str::from_utf8(topic).ok()?).map(ToOwned::to_owned);
        let is_scalar = matches!(topics, ColumnarValue::Scalar(_));
        let topics = topics.to_array(if is_scalar { 1 } else { call.number_rows })?;
        let parts = map_texts(&topics, pick)?;
        Ok(match is_scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&parts, 0)?),
            false => ColumnarValue::Array(parts),
        })
    }
}

/// The type in which a text argument is taken: a dictionary stays one.
pub(crate) fn text_or_dictionary(given: &DataType) -> Option<DataType> {
    match given {
        DataType::Dictionary(key, value)
            if **key == DataType::Int32 && **value == DataType::Utf8 =>
        {
            Some(given.clone())
        }
        DataType::Dictionary(_, value) => text_or_dictionary(value),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {
            Some(DataType::Utf8)
        }
        _ => None,
    }
}
