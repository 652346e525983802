//! Writes rows, each delivery in a transaction together with the producer's position.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_connector::{Delivery, Sink, SinkContext, Work, Written};
use busbar_event::{Class, Error};
use tokio::time::Instant;

use super::KafkaWrite;
use super::kept::KeptPosition;
use super::limits::{NAME_BYTES_MAX, REFUSED_KEPT_MAX, RETRY_FIRST, RETRY_LAST};
use super::producer::{GivenUp, KafkaProducer, no_topic};
use super::rows::{BatchTarget, RowPlan, read_rows, write_rows};
use super::server::KafkaServer;

/// Writes rows to a cluster.
pub struct KafkaSink {
    server: Arc<KafkaServer>,
    /// Before the names of producers.
    name: Arc<str>,
    /// In whose name positions are kept.
    positions: Arc<str>,
    plan: RowPlan,
    /// Who wrote last, unless that failed.
    producer: Option<(Arc<str>, KafkaProducer)>,
    /// Bytes of a batch that brokers take, as they have shown.
    most: usize,
}

impl KafkaSink {
    pub(super) fn new(
        server: Arc<KafkaServer>,
        options: KafkaWrite,
        context: SinkContext,
    ) -> Result<KafkaSink, Error> {
        let plan = RowPlan::new(&options, &context.schema)?;
        let positions = options.positions.as_deref().map(Arc::from);
        let positions = positions.or_else(|| plan.one_topic().cloned());
        let positions =
            positions.ok_or_else(|| Error::new(Class::Configuration, "kafka.positions-needed"))?;
        Ok(KafkaSink {
            server,
            name: options.producer.map_or(context.name, Arc::from),
            positions,
            plan,
            producer: None,
            most: usize::MAX,
        })
    }

    /// The producer of this name, with its position; the one that wrote last, if that went well.
    async fn producer(&mut self, name: &Arc<str>) -> Result<KafkaProducer, Error> {
        match self.producer.take() {
            Some((known, producer)) if known == *name => Ok(producer),
            _ => {
                let id = transactional_id(&self.name, name);
                let positions = Arc::clone(&self.positions);
                KafkaProducer::open(&self.server, id, positions).await
            }
        }
    }

    /// Delivers; what changes hands in the cluster just now is waited for, for as long as a request may take.
    async fn deliver(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        let until = Instant::now() + self.server.timeout;
        let mut pause = RETRY_FIRST;
        loop {
            match self.attempt(delivery).await {
                Err(error) if error.code() == "kafka.for-now" && Instant::now() < until => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_LAST);
                }
                outcome => return outcome,
            }
        }
    }

    async fn attempt(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        let count = delivery.events.rows();
        // Rows of this delivery that brokers refused: found now, or kept with the position.
        let mut refused: BTreeMap<usize, Error> = BTreeMap::new();
        loop {
            // Dropped where anything fails: opened again, it knows whether the transaction was committed.
            let mut producer = self.producer(&delivery.producer).await?;
            let mut done = 0;
            if let Some(kept) = &producer.kept {
                if kept.position > delivery.position {
                    done = count;
                } else if kept.position == delivery.position {
                    done = kept.rows.saturating_sub(delivery.first).min(count);
                    let own = read_rows(&kept.refused).into_iter();
                    let own = own.filter_map(|row| row.checked_sub(delivery.first));
                    for row in own.filter(|row| *row < done) {
                        let error = Error::new(Class::Permanent, "kafka.row-refused-before");
                        refused.entry(row).or_insert(error);
                    }
                }
            }
            let sorted = self.plan.sort(delivery, 0..count)?;
            let mut rejected = sorted.rejected;
            if done < count {
                let topics: Vec<_> = sorted.topics.keys().collect();
                let partitions = producer.partitions(&topics).await?;
                let mut all = Vec::new();
                for (topic, rows) in &sorted.topics {
                    let Some(partitions) = partitions.get(topic).filter(|count| **count > 0) else {
                        if self.plan.one_topic().is_some() {
                            return Err(no_topic(&self.server, topic, Class::Configuration));
                        }
                        rejected.extend(
                            rows.iter().map(|row| {
                                (row.row, no_topic(&self.server, topic, Class::Permanent))
                            }),
                        );
                        continue;
                    };
                    let left = rows
                        .iter()
                        .filter(|row| row.row >= done && !refused.contains_key(&row.row));
                    let left: Vec<_> = left.collect();
                    let target = BatchTarget {
                        topic,
                        partitions: *partitions,
                        most: self.most,
                        identity: producer.identity,
                    };
                    let sequences = &mut producer.sequences;
                    all.extend(self.plan.batches(delivery, &left, &target, sequences));
                }
                let kept = kept(delivery, &refused, producer.kept.as_ref());
                match producer.transact(all, kept).await {
                    Ok(()) => {}
                    Err(GivenUp::Failed(error)) => return Err(error),
                    Err(GivenUp::TooLarge(rows, bytes, error)) => {
                        match rows[..] {
                            [row] => drop(refused.insert(row, error)),
                            // Smaller batches show which rows it is.
                            _ => self.most = (bytes / 2).min(self.most / 2).max(1),
                        }
                        continue;
                    }
                }
            }
            self.producer = Some((Arc::clone(&delivery.producer), producer));
            rejected.extend(refused);
            rejected.sort_by_key(|(row, _)| *row);
            let mut seen = BTreeSet::new();
            rejected.retain(|(row, _)| seen.insert(*row));
            return Ok(Written::of(rejected));
        }
    }
}

/// What is kept with the transaction: how many rows of the delivery are written then, and which the brokers have refused.
fn kept(
    delivery: &Delivery,
    refused: &BTreeMap<usize, Error>,
    before: Option<&KeptPosition>,
) -> KeptPosition {
    let mut rows: BTreeSet<usize> = refused.keys().map(|row| row + delivery.first).collect();
    if let Some(before) = before.filter(|before| before.position == delivery.position) {
        rows.extend(read_rows(&before.refused));
    }
    if rows.len() > REFUSED_KEPT_MAX {
        tracing::warn!(producer = %delivery.producer, rows = rows.len(),
            "more rows were refused than are kept with the position; those behind the first {REFUSED_KEPT_MAX} become no dead letter if the node fails now");
    }
    let rows: Vec<_> = rows.into_iter().take(REFUSED_KEPT_MAX).collect();
    let mut text = String::new();
    write_rows(&rows, &mut text);
    KeptPosition {
        position: delivery.position,
        rows: delivery.first + delivery.events.rows(),
        refused: text,
        parts: None,
    }
}

/// The name of a producer's transactions. Longer ones are cut, and told apart by a number of the whole.
fn transactional_id(name: &str, producer: &str) -> Arc<str> {
    let id = format!("busbar/{name}/{producer}");
    if id.len() <= NAME_BYTES_MAX {
        return id.into();
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, id.as_bytes());
    let digest = digest.as_ref().iter().take(12);
    let digest: String = digest.map(|byte| format!("{byte:02x}")).collect();
    let mut short = id;
    let mut end = NAME_BYTES_MAX - digest.len() - 1;
    while !short.is_char_boundary(end) {
        end -= 1;
    }
    short.truncate(end);
    format!("{short}~{digest}").into()
}

impl Sink for KafkaSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(self.deliver(delivery))
    }

    fn position<'a>(&'a mut self, producer: &'a str) -> Work<'a, Result<Option<u64>, Error>> {
        Box::pin(async move {
            let name: Arc<str> = producer.into();
            let producer = self.producer(&name).await?;
            let position = producer.kept.as_ref().map(|kept| kept.position);
            self.producer = Some((name, producer));
            Ok(position)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_bound_and_stay_different() {
        assert_eq!(&*transactional_id("k", "flow:f"), "busbar/k/flow:f");
        let long = |end: &str| transactional_id("k", &format!("{}{end}", "雨".repeat(200)));
        assert_ne!(long("a"), long("b"));
        assert!(long("a").len() <= NAME_BYTES_MAX);
    }
}
