//! Expressions over a dictionary column, evaluated once for each distinct value.
//!
//! A batch of ten thousand events often has ten topics. `topic like 'gauge/%'` is then evaluated for ten texts, and
//! an event's result is looked up by the key of its topic.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, DictionaryArray, Int32Array, RecordBatch};
use arrow::compute::take;
use arrow::datatypes::{DataType, FieldRef, Int32Type, Schema, SchemaRef};
use datafusion_common::Result;
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_expr::ColumnarValue;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;

/// Wraps every maximal subexpression that reads one dictionary column and nothing else.
pub(crate) fn once_for_each_value(
    expr: Arc<dyn PhysicalExpr>,
    schema: &SchemaRef,
) -> Result<Arc<dyn PhysicalExpr>> {
    let wrapped = expr.transform_down(|node| {
        if node.children().is_empty() {
            return Ok(Transformed::no(node));
        }
        match only_dictionary(&node, schema)? {
            None => Ok(Transformed::no(node)),
            Some(column) => {
                let inner = Arc::clone(&node).transform_up(|node| {
                    Ok(match node.downcast_ref::<Column>() {
                        Some(column) => {
                            let first = Column::new(column.name(), 0);
                            Transformed::yes(Arc::new(first) as Arc<dyn PhysicalExpr>)
                        }
                        None => Transformed::no(node),
                    })
                })?;
                let field = schema.field(column.index()).clone().with_nullable(true);
                let wrapped = OnDictionary {
                    inner: inner.data,
                    column: Arc::new(column),
                    schema: Arc::new(Schema::new(vec![field])),
                    field: node.return_field(schema)?,
                };
                let wrapped: Arc<dyn PhysicalExpr> = Arc::new(wrapped);
                Ok(Transformed::new(wrapped, true, TreeNodeRecursion::Jump))
            }
        }
    })?;
    Ok(wrapped.data)
}

/// The only column that an expression reads, if it is a dictionary.
fn only_dictionary(expr: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Result<Option<Column>> {
    let mut found: Option<Column> = None;
    let mut fits = true;
    expr.apply(|node| {
        if let Some(column) = node.downcast_ref::<Column>() {
            match &found {
                None => found = Some(column.clone()),
                Some(known) => fits &= known == column,
            }
        }
        fits &= !node.is_volatile_node();
        Ok(match fits {
            true => TreeNodeRecursion::Continue,
            false => TreeNodeRecursion::Stop,
        })
    })?;
    let is_dictionary = |column: &Column| match schema.field(column.index()).data_type() {
        DataType::Dictionary(key, _) => **key == DataType::Int32,
        _ => false,
    };
    Ok(found.filter(|column| fits && is_dictionary(column)))
}

/// An expression over one dictionary column, evaluated on the dictionary.
#[derive(Debug)]
struct OnDictionary {
    /// Over a batch of only that column.
    inner: Arc<dyn PhysicalExpr>,
    column: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    field: FieldRef,
}

impl OnDictionary {
    fn evaluate_column(&self, array: ArrayRef) -> Result<ColumnarValue> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), vec![array])?;
        self.inner.evaluate(&batch)
    }
}

impl PhysicalExpr for OnDictionary {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let rows = batch.num_rows();
        let array = self.column.evaluate(batch)?.into_array(rows)?;
        let Some(dictionary) = array.as_any().downcast_ref::<DictionaryArray<Int32Type>>() else {
            return self.evaluate_column(array);
        };
        let distinct = dictionary.values().len();
        if distinct + 1 >= rows {
            return self.evaluate_column(array);
        }
        // One row for each value, and a null for the rows that are null.
        let numbers = (0..distinct as i32).map(Some).chain([None]);
        let each = DictionaryArray::new(
            numbers.collect::<Int32Array>(),
            Arc::clone(dictionary.values()),
        );
        let each = match self.evaluate_column(Arc::new(each)) {
            Ok(ColumnarValue::Array(each)) => each,
            Ok(ColumnarValue::Scalar(value)) => return Ok(ColumnarValue::Scalar(value)),
            // The value that fails may occur in no row.
            Err(_) => return self.evaluate_column(array),
        };
        let keys = dictionary.keys();
        let result = if keys.null_count() == 0 {
            take(&each, keys, None)?
        } else {
            let keys = keys.iter().map(|key| key.unwrap_or(distinct as i32));
            take(&each, &Int32Array::from_iter_values(keys), None)?
        };
        Ok(ColumnarValue::Array(result))
    }

    fn return_field(&self, _input_schema: &Schema) -> Result<FieldRef> {
        Ok(Arc::clone(&self.field))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.column]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let column = children.pop().unwrap_or_else(|| Arc::clone(&self.column));
        Ok(Arc::new(Self {
            inner: Arc::clone(&self.inner),
            column,
            schema: Arc::clone(&self.schema),
            field: Arc::clone(&self.field),
        }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}

impl fmt::Display for OnDictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "each({})", self.inner)
    }
}

impl PartialEq for OnDictionary {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner) && self.column.eq(&other.column)
    }
}

impl Eq for OnDictionary {}

impl Hash for OnDictionary {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
        self.column.hash(state);
    }
}

/// Applies a function of texts to each distinct value of a dictionary, or to each row of another array.
pub(crate) fn map_texts(
    array: &ArrayRef,
    mut map: impl FnMut(&[u8]) -> Option<String>,
) -> Result<ArrayRef> {
    let mut each = |values: &ArrayRef| -> Result<ArrayRef> {
        let texts: arrow::array::StringArray = match values.data_type() {
            DataType::Utf8 => {
                let values = values.as_string::<i32>().iter();
                values.map(|text| map(text?.as_bytes())).collect()
            }
            DataType::Binary => {
                let values = values.as_binary::<i32>().iter();
                values.map(|bytes| map(bytes?)).collect()
            }
            other => {
                return datafusion_common::internal_err!("a text was expected, not {other}");
            }
        };
        Ok(Arc::new(texts))
    };
    match array.as_any().downcast_ref::<DictionaryArray<Int32Type>>() {
        Some(dictionary) => Ok(take(&each(dictionary.values())?, dictionary.keys(), None)?),
        None => each(array),
    }
}
