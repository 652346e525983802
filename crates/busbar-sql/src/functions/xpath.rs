//! `xpath(payload, '/reading/level')`: what an XPath leads to in an XML document, as text. `xpath_number` and `xpath_bool`
//! return it as that type, `xpath_list` the text of every node. A third argument declares prefixes:
//! `'w=urn:water h=urn:hl7-org:v3'`.
//!
//! Null if the path leads to no node, and for `xpath_number` if it leads to no number. A document that is not XML is an error
//! with its place; `xml_is_well_formed(payload)` asks before.
//!
//! Paths are compiled when a statement is planned and kept. The documents of a batch are read once for all calls on the
//! same column that one thread makes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, Float64Builder, ListBuilder, StringBuilder,
};
use arrow::datatypes::{DataType, Field, FieldRef};
use busbar_event::{Class, Error, quote};
use busbar_xml::{
    DocumentFault, EvaluationFault, XPath, XPathNames, XPathType, XmlDocument, document_text,
};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use parking_lot::Mutex;

use super::topic_part::text_or_dictionary;
use super::usage::misused;
use crate::budget::told;
use crate::limits::{DOCUMENTS_KEPT_BYTES, FUNCTION_RESULT_BYTES_MAX, XPATHS_KEPT};

/// What is made of what a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum XPathWanted {
    Text,
    Number,
    Truth,
    List,
    /// Whether the document is one; there is no path.
    WellFormed,
}

pub(super) fn function(name: &'static str, wanted: XPathWanted) -> ScalarUDF {
    ScalarUDF::new_from_impl(XPathCall {
        name,
        wanted,
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct XPathCall {
    name: &'static str,
    wanted: XPathWanted,
    signature: Signature,
}

impl ScalarUDFImpl for XPathCall {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let (document, texts) = match (self.wanted, arguments) {
            (XPathWanted::WellFormed, [document]) => (document, &arguments[1..]),
            (XPathWanted::WellFormed, _) => return Err(misused(self.name)),
            (_, [document, texts @ ..]) if matches!(texts.len(), 1 | 2) => (document, texts),
            _ => return Err(misused(self.name)),
        };
        let document = match document {
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                Some(DataType::Binary)
            }
            other => text_or_dictionary(other).map(|_| DataType::Utf8),
        };
        let document = document.ok_or_else(|| misused(self.name))?;
        if texts.iter().any(|text| text_or_dictionary(text).is_none()) {
            return Err(misused(self.name));
        }
        let texts = texts.iter().map(|_| DataType::Utf8);
        Ok(std::iter::once(document).chain(texts).collect())
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(match self.wanted {
            XPathWanted::Text => DataType::Utf8,
            XPathWanted::Number => DataType::Float64,
            XPathWanted::Truth | XPathWanted::WellFormed => DataType::Boolean,
            XPathWanted::List => DataType::new_list(DataType::Utf8, true),
        })
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        // Here a path is looked at when the statement is planned, so that it is refused then.
        let texts = arguments.scalar_arguments.iter().skip(1);
        let texts: Vec<Option<&str>> = texts
            .map(|text| text.and_then(|text| text.try_as_str().flatten()))
            .collect();
        match texts[..] {
            [Some(path)] => drop(self.compiled(path, "")?),
            [Some(path), Some(names)] => drop(self.compiled(path, names)?),
            _ => {}
        }
        let data_type = self.return_type(&[])?;
        Ok(Arc::new(Field::new(self.name, data_type, true)))
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some((documents, texts)) = call.args.split_first() else {
            return Err(misused(self.name));
        };
        let mut constants = Vec::new();
        for text in texts {
            match text {
                ColumnarValue::Scalar(ScalarValue::Utf8(Some(text))) => {
                    constants.push(text.as_str())
                }
                _ => return Err(misused(self.name)),
            }
        }
        let path = match constants[..] {
            [] => None,
            [path] => Some(self.compiled(path, "")?),
            [path, names, ..] => Some(self.compiled(path, names)?),
        };
        let is_scalar = matches!(documents, ColumnarValue::Scalar(_));
        let documents = documents.to_array(if is_scalar { 1 } else { call.number_rows })?;
        let mut results = Results::new(self.wanted, documents.len());
        match &path {
            None => each_document(&documents, |document| {
                results.add_truth(document.map(|document| document.is_ok()));
                Ok(())
            })?,
            Some(path) => each_document(&documents, |document| match document {
                None => results.add_null(),
                Some(Err(fault)) => Err(told(fault.error())),
                Some(Ok(document)) => results.add(path, document),
            })?,
        }
        let found = results.finish();
        Ok(match is_scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&found, 0)?),
            false => ColumnarValue::Array(found),
        })
    }
}

impl XPathCall {
    /// The path, as it was compiled before if it was.
    fn compiled(&self, path: &str, names: &str) -> Result<Arc<XPath>> {
        static KEPT: LazyLock<Mutex<VecDeque<KeptXPath>>> = LazyLock::new(Mutex::default);
        let mut kept = KEPT.lock();
        let known = kept
            .iter()
            .find(|kept| kept.path == path && kept.names == names);
        let compiled = match known {
            Some(known) => Arc::clone(&known.compiled),
            None => {
                let prefixes = XPathNames::parse(names).map_err(|part| {
                    let error = Error::new(Class::Configuration, "xml.path-namespaces");
                    told(error.with("part", quote(&part)).with("function", self.name))
                })?;
                let compiled = XPath::compile(path, &prefixes)
                    .map_err(|fault| told(fault.error(path).with("function", self.name)))?;
                if kept.len() == XPATHS_KEPT {
                    kept.pop_front();
                }
                let compiled = Arc::new(compiled);
                kept.push_back(KeptXPath {
                    path: path.to_owned(),
                    names: names.to_owned(),
                    compiled: Arc::clone(&compiled),
                });
                compiled
            }
        };
        drop(kept);
        match self.wanted == XPathWanted::List && compiled.returns() != XPathType::Nodes {
            true => Err(told(
                Error::new(Class::Configuration, "xml.path-list")
                    .with("path", quote(path))
                    .with("function", self.name),
            )),
            false => Ok(compiled),
        }
    }
}

struct KeptXPath {
    path: String,
    names: String,
    compiled: Arc<XPath>,
}

/// The column that is made.
enum Results {
    Texts(StringBuilder),
    Numbers(Float64Builder),
    Truths(BooleanBuilder),
    Lists(ListBuilder<StringBuilder>),
}

impl Results {
    fn new(wanted: XPathWanted, rows: usize) -> Results {
        match wanted {
            XPathWanted::Text => Results::Texts(StringBuilder::new()),
            XPathWanted::Number => Results::Numbers(Float64Builder::with_capacity(rows)),
            XPathWanted::Truth | XPathWanted::WellFormed => {
                Results::Truths(BooleanBuilder::with_capacity(rows))
            }
            XPathWanted::List => Results::Lists(ListBuilder::new(StringBuilder::new())),
        }
    }

    fn add_null(&mut self) -> Result<()> {
        match self {
            Results::Texts(texts) => texts.append_null(),
            Results::Numbers(numbers) => numbers.append_null(),
            Results::Truths(truths) => truths.append_null(),
            Results::Lists(lists) => lists.append_null(),
        }
        Ok(())
    }

    fn add_truth(&mut self, truth: Option<bool>) {
        if let Results::Truths(truths) = self {
            truths.append_option(truth);
        }
    }

    fn add(&mut self, path: &XPath, document: &XmlDocument) -> Result<()> {
        let stopped = |fault: EvaluationFault| told(fault.error());
        let root = document.root();
        match self {
            Results::Truths(truths) => {
                truths.append_value(path.truth(document, root).map_err(stopped)?);
            }
            Results::Numbers(numbers) => {
                let number = path.number(document, root).map_err(stopped)?;
                numbers.append_option(Some(number).filter(|number| !number.is_nan()));
            }
            Results::Texts(texts) if path.returns() == XPathType::Nodes => {
                let nodes = path.nodes(document, root).map_err(stopped)?;
                let text = nodes.first().map(|node| document.value(*node));
                within(texts, text.map_or(0, str::len))?;
                texts.append_option(text);
            }
            Results::Texts(texts) => {
                let text = path.text(document, root).map_err(stopped)?;
                within(texts, text.len())?;
                texts.append_value(text);
            }
            Results::Lists(lists) => {
                for node in path.nodes(document, root).map_err(stopped)? {
                    let text = document.value(node);
                    within(lists.values(), text.len())?;
                    lists.values().append_value(text);
                }
                lists.append(true);
            }
        }
        Ok(())
    }

    fn finish(self) -> ArrayRef {
        match self {
            Results::Texts(mut texts) => Arc::new(texts.finish()),
            Results::Numbers(mut numbers) => Arc::new(numbers.finish()),
            Results::Truths(mut truths) => Arc::new(truths.finish()),
            Results::Lists(mut lists) => Arc::new(lists.finish()),
        }
    }
}

/// Whether a text may still be added.
fn within(texts: &StringBuilder, bytes: usize) -> Result<()> {
    let bytes = (texts.values_slice().len() + bytes) as u64;
    match bytes > FUNCTION_RESULT_BYTES_MAX {
        true => Err(told(
            Error::new(Class::Permanent, "sql.result-bytes")
                .with("function", "xpath")
                .with("bytes", bytes)
                .with("most", FUNCTION_RESULT_BYTES_MAX),
        )),
        false => Ok(()),
    }
}

/// A document, or why it is none.
type ReadDocument = std::result::Result<XmlDocument, DocumentFault>;

/// The documents of the column that was read last.
#[derive(Default)]
struct ReadDocuments {
    /// The column itself, so that its memory cannot be another's.
    column: Option<ArrayRef>,
    /// Of its first rows, as far as there is room.
    documents: Vec<Option<ReadDocument>>,
    bytes: usize,
}

/// Gives the document of each row, as far as it has one, to `take`.
fn each_document(
    column: &ArrayRef,
    mut take: impl FnMut(Option<std::result::Result<&XmlDocument, &DocumentFault>>) -> Result<()>,
) -> Result<()> {
    thread_local! {
        static READ: RefCell<ReadDocuments> = RefCell::default();
    }
    READ.with_borrow_mut(|read| {
        let is_same = read
            .column
            .as_ref()
            .is_some_and(|known| known.to_data().ptr_eq(&column.to_data()));
        if !is_same {
            *read = ReadDocuments {
                column: Some(Arc::clone(column)),
                ..ReadDocuments::default()
            };
        }
        let mut spare = XmlDocument::default();
        for row in 0..column.len() {
            if row == read.documents.len() && read.bytes < DOCUMENTS_KEPT_BYTES {
                let document = match column.is_null(row) {
                    true => None,
                    false => Some(document(column, row, XmlDocument::default())),
                };
                read.bytes += size_of::<Option<ReadDocument>>();
                if let Some(Ok(document)) = &document {
                    read.bytes += document.memory();
                }
                read.documents.push(document);
            }
            match read.documents.get(row) {
                Some(document) => take(document.as_ref().map(ReadDocument::as_ref))?,
                None if column.is_null(row) => take(None)?,
                None => match document(column, row, spare) {
                    Ok(document) => {
                        take(Some(Ok(&document)))?;
                        spare = document;
                    }
                    Err(fault) => {
                        take(Some(Err(&fault)))?;
                        spare = XmlDocument::default();
                    }
                },
            }
        }
        Ok(())
    })
}

/// Reads a row's document into one whose memory is used again.
fn document(column: &ArrayRef, row: usize, mut document: XmlDocument) -> ReadDocument {
    match column.data_type() {
        // A text has been decoded already: what it says of its encoding does not count.
        DataType::Utf8 => document.read(column.as_string::<i32>().value(row))?,
        _ => document.read(&document_text(column.as_binary::<i32>().value(row))?)?,
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BinaryArray, StringArray};

    fn texts(column: &ArrayRef) -> Vec<Option<String>> {
        let mut texts = Vec::new();
        each_document(column, |document| {
            let text = document.map(|document| match document {
                Ok(document) => document.value(document.root()).to_owned(),
                Err(fault) => format!("{}:{}", fault.line, fault.column),
            });
            texts.push(text);
            Ok(())
        })
        .unwrap();
        texts
    }

    #[test]
    fn each_row_gets_its_own_document_on_every_call() {
        // 水 in GB18030.
        let gb = [
            b"<?xml version='1.0' encoding='GB18030'?><a>",
            &[0xcb, 0xae][..],
            b"</a>",
        ]
        .concat();
        let one: ArrayRef = Arc::new(BinaryArray::from(vec![
            Some(&b"<a>1</a>"[..]),
            None,
            Some(b"<a>\n<"),
            Some(&gb),
        ]));
        let expected = ["1", "2:2", "水"].map(|text| Some(text.to_owned()));
        let [first, second, third] = expected;
        let expected = [first, None, second, third];
        assert_eq!(texts(&one), expected);
        assert_eq!(texts(&one), expected);
        assert_eq!(texts(&one.slice(2, 2)), expected[2..]);
        let other: ArrayRef = Arc::new(StringArray::from(vec![
            "<?xml version='1.0' encoding='GBK'?><a>水</a>";
            2
        ]));
        assert_eq!(texts(&other)[1].as_deref(), Some("水"));
        // More than is kept.
        let large = format!("<a>{}</a>", "<b>x</b>".repeat(20_000));
        let many: ArrayRef = Arc::new(StringArray::from(vec![large; 24]));
        for _ in 0..2 {
            assert!(
                texts(&many)
                    .iter()
                    .all(|text| text.as_ref().is_some_and(|text| text.len() == 20_000))
            );
        }
    }
}
