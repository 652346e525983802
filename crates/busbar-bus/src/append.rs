//! Appending whole batches: what flows, connectors and the API do.

use std::{future::Future, sync::Arc};

use arrow::array::{Array, StringArray, StringBuilder, UInt32Array};
use busbar_event::{Batch, Class, Error, Result};
use tokio::sync::oneshot;

use crate::{
    error::from_log,
    ingest::TimeReader,
    key::{KeyRule, partition_of},
    limits::{APPEND_BYTES_MAX, APPEND_ROWS_MAX},
    routes::Routes,
    stream::{Landed, Origin, Stream, StreamPartition},
};

/// How an append ended.
#[derive(Clone, Debug, Default)]
pub struct Appended {
    /// Where its rows landed, one entry for each partition touched.
    pub parts: Vec<Landed>,
}

impl Appended {
    /// Rows written now.
    pub fn rows(&self) -> u64 {
        self.parts
            .iter()
            .map(|part| u64::from(part.appended.count))
            .sum()
    }

    /// Whether all of it had been written before.
    pub fn duplicate(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(|part| part.appended.duplicate)
    }
}

/// Who appends, and the position it has reached with these rows. In a partition that knows a
/// position of this producer that is not lower, the rows are not written again.
pub type Producer = (Arc<str>, u64);

/// Hands the rows of a batch to the partitions that their topics lead to.
pub(crate) fn by_topic(routes: &Routes, batch: Batch, producer: Option<Producer>) -> Result<Sent> {
    check_size(&batch)?;
    Ok(send_all(route(routes, &batch)?, producer))
}

/// Hands the rows of a batch to the partitions of one stream.
pub(crate) fn to_stream(stream: &Stream, batch: Batch, producer: Option<Producer>) -> Result<Sent> {
    check_size(&batch)?;
    let mut parts = Parts::default();
    parts.add(stream, &batch, (0..batch.rows() as u32).collect())?;
    Ok(send_all(parts.finish(&batch)?, producer))
}

/// The rows of each partition. One look at the routes for each distinct topic.
fn route(routes: &Routes, batch: &Batch) -> Result<Vec<(Arc<StreamPartition>, Batch)>> {
    let topics = batch.topic_values();
    let mut streams: Vec<&Arc<Stream>> = Vec::new();
    // For each distinct topic the index of its stream; looked up when a row first needs it.
    let mut home: Vec<u32> = vec![u32::MAX; topics.len()];
    let mut rows: Vec<Vec<u32>> = Vec::new();
    for (row, key) in batch.topic_keys().iter().enumerate() {
        let slot = &mut home[*key as usize];
        if *slot == u32::MAX {
            let stream = routes.home(topics.value(*key as usize));
            let at = streams.iter().position(|known| Arc::ptr_eq(known, stream));
            *slot = at.unwrap_or_else(|| {
                streams.push(stream);
                rows.push(Vec::new());
                streams.len() - 1
            }) as u32;
        }
        rows[*slot as usize].push(row as u32);
    }
    let mut parts = Parts::default();
    for (stream, rows) in streams.into_iter().zip(rows) {
        parts.add(stream, batch, rows)?;
    }
    parts.finish(batch)
}

impl StreamPartition {
    /// As [`Bus::append`](crate::Bus::append), to this partition whatever topics and keys are, and with their
    /// times as they are.
    pub fn append_rows(
        self: &Arc<Self>,
        batch: Batch,
        producer: Option<Producer>,
    ) -> impl Future<Output = Result<Appended>> + Send + 'static {
        settle(check_size(&batch).map(|()| vec![hand_over(self, batch, producer)]))
    }
}

/// Rows by partition, while they are sorted out.
#[derive(Default)]
struct Parts {
    parts: Vec<Part>,
}

/// The rows of one partition, and how keys are made there.
struct Part {
    partition: Arc<StreamPartition>,
    rows: Vec<u32>,
    rule: Option<Arc<KeyRule>>,
}

impl Parts {
    fn add(&mut self, stream: &Stream, batch: &Batch, rows: Vec<u32>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let partitions = stream.partitions();
        let rule = stream.key_rule();
        if let [one] = &*partitions {
            let partition = Arc::clone(one);
            self.parts.push(Part {
                partition,
                rows,
                rule,
            });
            return Ok(());
        }
        let mut split: Vec<Vec<u32>> = vec![Vec::new(); partitions.len()];
        let mut made = MadeKeys::new(batch);
        for row in rows {
            let at = row as usize;
            let key = match (batch.key(at), rule.as_deref()) {
                (Some(key), _) => Some(key),
                (None, Some(rule)) => made.of(rule, batch, at)?,
                (None, None) => None,
            };
            let key = key.unwrap_or(batch.topic(at));
            split[partition_of(key, partitions.len())].push(row);
        }
        for (partition, rows) in partitions.iter().zip(split) {
            if !rows.is_empty() {
                self.parts.push(Part {
                    partition: Arc::clone(partition),
                    rows,
                    rule: rule.clone(),
                });
            }
        }
        Ok(())
    }

    fn finish(self, batch: &Batch) -> Result<Vec<(Arc<StreamPartition>, Batch)>> {
        self.parts
            .into_iter()
            .map(
                |Part {
                     partition,
                     rows,
                     rule,
                 }| {
                    let part = match rows.len() == batch.rows() {
                        true => batch.clone(),
                        false => batch.take(&UInt32Array::from(rows)),
                    };
                    let part = match rule {
                        Some(rule) => with_keys(&rule, part)?,
                        None => part,
                    };
                    Ok((partition, part))
                },
            )
            .collect()
    }
}

/// Keys that a rule makes; those that come from topics are made once for each distinct topic.
struct MadeKeys(Vec<Option<Option<String>>>);

impl MadeKeys {
    fn new(batch: &Batch) -> MadeKeys {
        MadeKeys(vec![None; batch.topic_values().len()])
    }

    fn of<'a>(
        &'a mut self,
        rule: &KeyRule,
        batch: &'a Batch,
        row: usize,
    ) -> Result<Option<&'a str>> {
        if let KeyRule::Tag(name) = rule {
            let mut tags = batch.tags(row);
            return Ok(tags.find(|(tag, _)| tag == name).map(|(_, value)| value));
        }
        let made = &mut self.0[batch.topic_keys()[row] as usize];
        if made.is_none() {
            let key = rule.of_topic(batch.topic(row));
            *made = Some(key.map_err(|refused| refused.error())?);
        }
        Ok(made.as_ref().and_then(|key| key.as_deref()))
    }
}

/// Gives rows without a key the one their stream makes.
fn with_keys(rule: &KeyRule, batch: Batch) -> Result<Batch> {
    let missing = batch.keys().is_none_or(|keys| keys.null_count() > 0);
    if !missing {
        return Ok(batch);
    }
    let mut made = MadeKeys::new(&batch);
    let mut keys = StringBuilder::with_capacity(batch.rows(), 16 * batch.rows());
    for row in 0..batch.rows() {
        let key = match batch.key(row) {
            Some(key) => Some(key),
            None => made.of(rule, &batch, row)?,
        };
        keys.append_option(key);
        // A topic stands in a batch once, keys made from it in each row.
        if keys.values_slice().len() > APPEND_BYTES_MAX {
            return Err(too_large(&batch, keys.values_slice().len()));
        }
    }
    let keys: StringArray = keys.finish();
    let mut envelope = batch.envelope();
    envelope.key = Some(keys);
    Batch::from_columns(envelope, batch.body().clone())
}

fn check_size(batch: &Batch) -> Result<()> {
    match batch.rows() > APPEND_ROWS_MAX || batch.bytes() > APPEND_BYTES_MAX {
        true => Err(too_large(batch, batch.bytes())),
        false => Ok(()),
    }
}

fn too_large(batch: &Batch, bytes: usize) -> Error {
    Error::new(Class::Permanent, "bus.append-large")
        .with("rows", batch.rows())
        .with("rows_max", APPEND_ROWS_MAX)
        .with("bytes", bytes)
        .with("bytes_max", APPEND_BYTES_MAX)
}

pub(crate) type Waiting = (
    Arc<StreamPartition>,
    oneshot::Receiver<busbar_log::Result<busbar_log::Appended>>,
);

/// What was handed to the commit thread.
pub(crate) type Sent = Vec<Waiting>;

fn send_all(parts: Vec<(Arc<StreamPartition>, Batch)>, producer: Option<Producer>) -> Sent {
    parts
        .into_iter()
        .map(|(partition, rows)| send(&partition, rows, producer.clone()))
        .collect()
}

fn send(partition: &Arc<StreamPartition>, batch: Batch, producer: Option<Producer>) -> Waiting {
    let (rule, now) = (partition.time_rule(), partition.steady.now_micros());
    let batch = TimeReader::default().apply(&rule, batch, now, false);
    hand_over(partition, batch, producer)
}

fn hand_over(
    partition: &Arc<StreamPartition>,
    batch: Batch,
    producer: Option<Producer>,
) -> Waiting {
    let (tell, told) = oneshot::channel();
    let done = Box::new(move |result| {
        // The receiver is gone if the caller was cancelled; the rows are written all the same.
        let _ = tell.send(result);
    });
    partition.append(batch, Origin::One(producer), done);
    (Arc::clone(partition), told)
}

/// Waits until rows are as durable as their streams say.
pub(crate) async fn settle(sent: Result<Sent>) -> Result<Appended> {
    let mut appended = Appended::default();
    let mut failed = None;
    for (partition, told) in sent? {
        match told.await.unwrap_or(Err(busbar_log::LogError::Closed)) {
            Ok(landed) => {
                appended.parts.push(Landed {
                    partition: partition.id(),
                    appended: landed,
                });
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        Some(error) => Err(from_log(error)),
        None => Ok(appended),
    }
}
