//! `topic_part(topic, 2)`: a level of a topic, counted from 1; null if the topic has fewer levels.

use arrow::datatypes::DataType;
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
        if !part.is_integer() {
            return Err(misused("topic_part"));
        }
        let topic = text_or_dictionary(topic);
        match topic {
            Some(topic) => Ok(vec![topic, DataType::Int64]),
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
        let part = match part {
            ColumnarValue::Scalar(ScalarValue::Int64(part)) => *part,
            _ => return Err(misused("topic_part")),
        };
        let level = part.filter(|part| (1..=TOPIC_PARTS_MAX).contains(part));
        let pick = |topic: &[u8]| {
            let level = usize::try_from(level? - 1).ok()?;
            let part = topic.split(|byte| *byte == b'/').nth(level)?;
            String::from_utf8(part.to_vec()).ok()
        };
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
