//! Batches from parts of batches: slices, chosen rows, and several after one another.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, AsArray, Int32Array, StringArray, UInt32Array};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::{concat, take};
use arrow::error::ArrowError;

use crate::batch::Inner;
use crate::envelope::{Names, Tags};
use crate::limits::BODY_ROWS_MAX;
use crate::{Batch, Body, Class, Error, Result};

impl Batch {
    /// Some neighbouring events; shares the memory.
    ///
    /// # Panics
    /// If the range is not within the batch.
    pub fn slice(&self, offset: usize, rows: usize) -> Batch {
        let batch = &*self.0;
        Batch(Arc::new(Inner {
            topic_keys: batch.topic_keys.slice(offset, rows),
            topic_values: batch.topic_values.clone(),
            key: batch.key.as_ref().map(|key| key.slice(offset, rows)),
            time: batch.time.slice(offset, rows),
            tags: batch.tags.as_ref().map(|tags| tags.slice(offset, rows)),
            client: batch.client.as_ref().map(|names| Names {
                keys: names.keys.slice(offset, rows),
                values: names.values.clone(),
            }),
            flags: batch.flags.slice(offset, rows),
            body: match &batch.body {
                Body::Payload(payload) => Body::Payload(payload.slice(offset, rows)),
                Body::Columns(columns) => Body::Columns(columns.slice(offset, rows)),
            },
            record: OnceLock::new(),
        }))
    }

    /// The events at these rows, in this order.
    ///
    /// # Panics
    /// If a row is null or not there.
    pub fn take(&self, rows: &UInt32Array) -> Batch {
        assert_eq!(rows.null_count(), 0, "rows to take are null");
        let batch = &*self.0;
        let chosen = rows.values();
        let column = |array: &dyn Array| take(array, rows, None).expect("rows are there");
        let topics: Vec<i32> = chosen
            .iter()
            .map(|row| batch.topic_keys[*row as usize])
            .collect();
        let (topic_keys, topic_values) = compact(topics, &batch.topic_values);
        let client = batch.client.as_ref().map(|names| Names {
            keys: column(&names.keys).as_primitive().clone(),
            values: names.values.clone(),
        });
        Batch(Arc::new(Inner {
            topic_keys,
            topic_values,
            key: batch
                .key
                .as_ref()
                .map(|key| column(key).as_string().clone()),
            time: chosen.iter().map(|row| batch.time[*row as usize]).collect(),
            tags: batch.tags.as_ref().map(|tags| {
                let map = column(&tags.to_map());
                Tags::from_map(map.as_map()).expect("tags stay tags")
            }),
            client,
            flags: chosen
                .iter()
                .map(|row| batch.flags[*row as usize])
                .collect(),
            body: match &batch.body {
                Body::Payload(payload) => Body::Payload(column(payload).as_binary().clone()),
                Body::Columns(columns) => Body::Columns(column(columns).as_struct().clone()),
            },
            record: OnceLock::new(),
        }))
    }

    /// The events of several batches after one another. All have payloads, or all have the same
    /// typed columns.
    pub fn concat(batches: &[Batch]) -> Result<Batch> {
        let [first, ..] = batches else {
            return Ok(crate::BatchBuilder::new().finish());
        };
        if batches.len() == 1 {
            return Ok(first.clone());
        }
        let rows: usize = batches.iter().map(Batch::rows).sum();
        if rows > BODY_ROWS_MAX {
            return Err(too_large(rows));
        }
        let arrow =
            |error: ArrowError| Error::new(Class::Permanent, "event.batch-mixed").caused_by(error);
        let body = match &first.0.body {
            Body::Payload(_) => Body::Payload(
                concat(&bodies(batches, |body| match body {
                    Body::Payload(payload) => Some(payload as &dyn Array),
                    Body::Columns(_) => None,
                })?)
                .map_err(arrow)?
                .as_binary()
                .clone(),
            ),
            Body::Columns(_) => Body::Columns(
                concat(&bodies(batches, |body| match body {
                    Body::Columns(columns) => Some(columns as &dyn Array),
                    Body::Payload(_) => None,
                })?)
                .map_err(arrow)?
                .as_struct()
                .clone(),
            ),
        };
        let mut topics = Merge::default();
        let mut topic_keys = Vec::with_capacity(rows);
        for batch in batches {
            let ids = topics.add(&batch.0.topic_values);
            topic_keys.extend(batch.topic_keys().iter().map(|key| ids[*key as usize]));
        }
        let key = match batches.iter().any(|batch| batch.0.key.is_some()) {
            true => Some(
                concat_text(
                    batches
                        .iter()
                        .map(|batch| (batch.0.key.as_ref(), batch.rows())),
                )
                .map_err(arrow)?,
            ),
            false => None,
        };
        let tags = match batches.iter().any(Batch::has_tags) {
            true => {
                let maps: Vec<_> = batches
                    .iter()
                    .map(|batch| match &batch.0.tags {
                        Some(tags) => tags.to_map(),
                        None => crate::envelope::no_tags(batch.rows()),
                    })
                    .collect();
                let maps: Vec<&dyn Array> = maps.iter().map(|map| map as &dyn Array).collect();
                Some(Tags::from_map(concat(&maps).map_err(arrow)?.as_map())?)
            }
            false => None,
        };
        Ok(Batch(Arc::new(Inner {
            topic_keys: ScalarBuffer::from(topic_keys),
            topic_values: topics.values(),
            key,
            time: batches
                .iter()
                .flat_map(|batch| batch.times().iter().copied())
                .collect(),
            tags,
            client: concat_clients(batches, rows),
            flags: batches
                .iter()
                .flat_map(|batch| batch.flags().iter().copied())
                .collect(),
            body,
            record: OnceLock::new(),
        })))
    }
}

pub(crate) fn too_large(rows: usize) -> Error {
    Error::new(Class::Permanent, "event.body-rows")
        .with("rows", rows)
        .with("max", BODY_ROWS_MAX)
}

/// The bodies of one sort, whose offsets may not pass 32 bits together.
fn bodies<'a>(
    batches: &'a [Batch],
    one: impl Fn(&'a Body) -> Option<&'a dyn Array>,
) -> Result<Vec<&'a dyn Array>> {
    let bytes: usize = batches.iter().map(Batch::bytes).sum();
    if bytes > crate::limits::BODY_BYTES_MAX {
        return Err(Error::new(Class::Permanent, "event.body-bytes")
            .with("bytes", bytes)
            .with("max", crate::limits::BODY_BYTES_MAX));
    }
    let all: Option<Vec<_>> = batches.iter().map(|batch| one(batch.body())).collect();
    all.ok_or_else(|| Error::new(Class::Permanent, "event.batch-mixed"))
}

fn concat_text<'a>(
    columns: impl Iterator<Item = (Option<&'a StringArray>, usize)>,
) -> Result<StringArray, ArrowError> {
    let columns: Vec<StringArray> = columns
        .map(|(column, rows)| {
            column
                .cloned()
                .unwrap_or_else(|| StringArray::new_null(rows))
        })
        .collect();
    let columns: Vec<&dyn Array> = columns.iter().map(|column| column as &dyn Array).collect();
    Ok(concat(&columns)?.as_string().clone())
}

fn concat_clients(batches: &[Batch], rows: usize) -> Option<Names> {
    batches
        .iter()
        .any(|batch| batch.0.client.is_some())
        .then(|| {
            let mut names = Merge::default();
            let (mut keys, mut valid) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
            for batch in batches {
                match &batch.0.client {
                    Some(client) => {
                        let ids = names.add(&client.values);
                        for row in 0..batch.rows() {
                            valid.push(client.keys.is_valid(row));
                            keys.push(if client.keys.is_valid(row) {
                                ids[client.keys.value(row) as usize]
                            } else {
                                0
                            });
                        }
                    }
                    None => {
                        valid.resize(valid.len() + batch.rows(), false);
                        keys.resize(keys.len() + batch.rows(), 0);
                    }
                }
            }
            let nulls = NullBuffer::from(valid);
            let nulls = (nulls.null_count() > 0).then_some(nulls);
            Names {
                keys: Int32Array::new(ScalarBuffer::from(keys), nulls),
                values: names.values(),
            }
        })
}

/// Drops dictionary values that no key names, if there are more values than keys.
pub(crate) fn compact(keys: Vec<i32>, values: &StringArray) -> (ScalarBuffer<i32>, StringArray) {
    if values.len() <= keys.len() {
        return (ScalarBuffer::from(keys), values.clone());
    }
    let mut ids = HashMap::<i32, i32, foldhash::fast::RandomState>::default();
    let mut kept = Vec::new();
    let keys: Vec<i32> = keys
        .into_iter()
        .map(|key| {
            *ids.entry(key).or_insert_with(|| {
                kept.push(values.value(key as usize));
                kept.len() as i32 - 1
            })
        })
        .collect();
    (ScalarBuffer::from(keys), StringArray::from(kept))
}

/// Dictionary values of several batches under one numbering.
#[derive(Default)]
struct Merge<'a> {
    ids: HashMap<&'a str, i32, foldhash::fast::RandomState>,
    distinct: Vec<&'a str>,
}

impl<'a> Merge<'a> {
    /// The common number of each of these values.
    fn add(&mut self, values: &'a StringArray) -> Vec<i32> {
        (0..values.len())
            .map(|index| {
                let value = if values.is_valid(index) {
                    values.value(index)
                } else {
                    ""
                };
                *self.ids.entry(value).or_insert_with(|| {
                    self.distinct.push(value);
                    self.distinct.len() as i32 - 1
                })
            })
            .collect()
    }

    fn values(self) -> StringArray {
        StringArray::from(self.distinct)
    }
}
