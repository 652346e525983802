//! Publishes what the [`TopicReader`] brings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use busbar_connector::{Polled, Polling, Position, Source, SourceContext, Work};
use busbar_event::Error;
use busbar_kafka::batch::OpenBatch;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::KafkaRead;
use super::failure::{closed, unreadable};
use super::group::{GroupTeller, ToldGroup};
use super::limits::{FETCHED_WAITING_MAX, GROUP_EVERY, RECORDS_BYTES_MAX};
use super::member::{SharedIdentity, leave};
use super::publish::RecordPublisher;
use super::reader::{Arrived, FetchedRecords, ReadPartition, TopicReader};
use super::server::KafkaServer;
use super::start;
use crate::topic::TopicTemplate;

/// Reads topics of a cluster.
pub struct KafkaSource {
    server: Arc<KafkaServer>,
    arrived: mpsc::Receiver<Arrived>,
    reader: JoinHandle<()>,
    group: Option<GroupTeller>,
    /// The group that this node is a member of.
    joined: Option<(String, SharedIdentity)>,
    /// Who waits until all that has come is in the stream, and the group knows it.
    handing_over: Option<oneshot::Sender<()>>,
    publisher: RecordPublisher,
    /// What has come and is not published yet.
    come: Option<Coming>,
    parts: BTreeMap<Arc<str>, PartState>,
}

struct Coming {
    fetched: FetchedRecords,
    /// The batch that is being read.
    open: Option<OpenBatch>,
}

/// How far a partition is.
struct PartState {
    partition: Arc<ReadPartition>,
    /// The offset behind what was published.
    position: i64,
    /// The offset behind what there is.
    end: i64,
}

impl KafkaSource {
    pub(super) fn new(
        server: Arc<KafkaServer>,
        options: KafkaRead,
        topic: TopicTemplate,
        context: SourceContext,
    ) -> KafkaSource {
        let (tell, arrived) = mpsc::channel(FETCHED_WAITING_MAX);
        let member = options.join.then(SharedIdentity::default);
        let group = options.group.clone().map(|group| {
            let told = ToldGroup {
                server: Arc::clone(&server),
                group,
                member: member.clone(),
            };
            GroupTeller::new(told, tell.clone())
        });
        let joined = options.group.clone().zip(member.clone());
        let publisher = RecordPublisher::new(topic, context.name, options.offset_tags);
        let reader = TopicReader::new(Arc::clone(&server), options, context.resume, member, tell);
        KafkaSource {
            server,
            arrived,
            reader: tokio::spawn(reader.run()),
            group,
            joined,
            handing_over: None,
            publisher,
            come: None,
            parts: BTreeMap::new(),
        }
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        loop {
            if let Some(polling) = self.publish()? {
                return Ok(Polled::Batch(polling));
            }
            if self.handing_over.is_some() {
                // What was published before is in the stream: this is asked only then.
                let told = match &self.group {
                    Some(group) => group.flush().await,
                    None => true,
                };
                let waits = self.handing_over.take().filter(|_| told);
                self.parts.clear();
                // Who waits hears of a failure by this being dropped.
                let _ = waits.map(|waits| waits.send(()));
            }
            let Some(arrived) = self.arrived.recv().await else {
                return Err(closed(&self.server.addresses()));
            };
            match arrived {
                Arrived::Begins {
                    partition,
                    offset,
                    kept,
                } => {
                    let part = Arc::clone(&partition.part);
                    let state = PartState {
                        partition,
                        position: offset,
                        end: offset,
                    };
                    self.parts.insert(Arc::clone(&part), state);
                    if !kept {
                        // Kept at once, so that what comes later is read also after a restart.
                        return Ok(Polled::Batch(self.reached(&part, offset)));
                    }
                }
                Arrived::Records(fetched) => {
                    if let Some(state) = self.parts.get_mut(&fetched.partition.part) {
                        state.end = fetched.end;
                    }
                    self.come = Some(Coming {
                        fetched,
                        open: None,
                    });
                }
                Arrived::HandsOver(waits) => self.handing_over = Some(waits),
                // Lets the runtime see that the brokers answer.
                Arrived::Quiet => return Ok(Polled::Idle(Duration::ZERO)),
                Arrived::Told(error) | Arrived::Failed(error) => return Err(error),
            }
        }
    }

    /// A batch of what has come, if there is any.
    fn publish(&mut self) -> Result<Option<Polling>, Error> {
        let Some(mut coming) = self.come.take() else {
            return Ok(None);
        };
        let partition = Arc::clone(&coming.fetched.partition);
        let mut positions = Vec::new();
        let read = self.fill(&mut coming, &mut positions);
        if !self.publisher.is_empty() {
            // What cannot be read comes again behind it.
            let position = positions.last().copied().unwrap_or_default();
            self.come = Some(coming);
            self.moved(&partition.part, i64::try_from(position).unwrap_or(i64::MAX));
            return Ok(Some(Polling {
                batch: self.publisher.finish(),
                part: Arc::clone(&partition.part),
                position: Position::Rows(positions),
                note: start::note(partition.id),
            }));
        }
        read.map_err(|why| {
            unreadable(&self.server.addresses(), why)
                .with("topic", &partition.topic)
                .with("partition", partition.number)
                .with("offset", coming.fetched.from)
        })?;
        // Behind the last record are the ends of transactions, and what was given up.
        let (next, end) = (coming.fetched.next, coming.fetched.end);
        let behind = self.parts.get(&partition.part);
        match behind.is_some_and(|state| state.position < next) && next >= end {
            true => Ok(Some(self.reached(&partition.part, next))),
            false => Ok(None),
        }
    }

    /// Takes records until there are enough or no more.
    fn fill(&mut self, coming: &mut Coming, positions: &mut Vec<u64>) -> busbar_kafka::Result<()> {
        let Coming { fetched, open } = coming;
        while !self.publisher.is_full() {
            let batch = match open {
                Some(batch) => batch,
                None => {
                    let Some((head, records)) = fetched.batches.first().cloned() else {
                        return Ok(());
                    };
                    let batch = OpenBatch::new(head, records, RECORDS_BYTES_MAX)?;
                    fetched.batches.remove(0);
                    open.insert(batch)
                }
            };
            match batch.next_record()? {
                None => *open = None,
                Some(record) if record.offset < fetched.from => {}
                Some(record) => {
                    self.publisher.push(&fetched.partition, &record);
                    // Offsets only grow, whatever is sent.
                    fetched.from = record.offset + 1;
                    positions.push(u64::try_from(fetched.from).unwrap_or(0));
                }
            }
        }
        Ok(())
    }

    /// Only a position.
    fn reached(&mut self, part: &Arc<str>, offset: i64) -> Polling {
        self.moved(part, offset);
        let id = self.parts.get(part).map_or([0; 16], |s| s.partition.id);
        Polling {
            batch: self.publisher.finish(),
            part: Arc::clone(part),
            position: Position::End(u64::try_from(offset).unwrap_or(0)),
            note: start::note(id),
        }
    }

    fn moved(&mut self, part: &Arc<str>, position: i64) {
        if let Some(state) = self.parts.get_mut(part) {
            state.position = position;
        }
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Source for KafkaSource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }

    fn committed(&mut self, part: &str, position: u64) {
        if let (Some(group), Some(state)) = (&self.group, self.parts.get(part)) {
            let offset = i64::try_from(position).unwrap_or(i64::MAX);
            let topic = Arc::clone(&state.partition.topic);
            group.reached(topic, state.partition.number, offset);
        }
    }

    fn lag_events(&self) -> BTreeMap<Arc<str>, u64> {
        let parts = self.parts.iter();
        parts
            .map(|(part, state)| {
                let behind = state.end.saturating_sub(state.position);
                (Arc::clone(part), u64::try_from(behind).unwrap_or(0))
            })
            .collect()
    }

    fn close(&mut self) -> Work<'_, Result<(), Error>> {
        Box::pin(async move {
            self.reader.abort();
            if let Some(group) = &self.group {
                group.flush().await;
            }
            if let Some((group, identity)) = &self.joined {
                // Its members wait a little longer where this fails.
                let left = leave(&self.server, group, identity);
                let _ = tokio::time::timeout(GROUP_EVERY, left).await;
            }
            Ok(())
        })
    }
}
