//! A producer with transactions: an identity that fences whoever had it before, the position that was kept with its last
//! transaction, and one transaction after the other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use busbar_event::{Class, Error};
use busbar_kafka::message::{
    AddOffsetsRequest, AddPartitionsRequest, EndRequest, InitProducerRequest, KeptOffset,
    OffsetFetchRequest, ProduceRequest, ProducerIdentity, TxnCommitRequest, read_code,
    read_committed_offsets, read_partition_codes, read_produced,
};
use busbar_kafka::{Api, KafkaCode};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::failure::{KafkaDoing, refused};
use super::limits::{BATCHES_IN_FLIGHT_MAX, RETRY_FIRST, RETRY_LAST, TRANSACTION_MAX};
use super::link::{KafkaAnswer, KafkaLink};
use super::rows::{PartitionRows, Sequences};
use super::server::{KafkaServer, address_of};

/// A producer that may write.
pub struct KafkaProducer {
    server: Arc<KafkaServer>,
    /// The name of its transactions and of the group that keeps its position.
    pub id: Arc<str>,
    /// In whose first partition's name the position is kept.
    positions: Arc<str>,
    pub identity: ProducerIdentity,
    pub sequences: Sequences,
    transactions: KafkaLink,
    group: KafkaLink,
    leaders: BTreeMap<i32, KafkaLink>,
    /// Where brokers are.
    addresses: BTreeMap<i32, Arc<str>>,
    /// The leader of each partition of each topic.
    topics: BTreeMap<Arc<str>, Vec<i32>>,
    looked: Option<Instant>,
    /// What was kept with the last transaction.
    pub kept: Option<KeptPosition>,
}

/// How far a producer has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptPosition {
    /// The position behind the delivery.
    pub position: u64,
    /// The number behind the last row of the delivery that was written.
    pub rows: usize,
    /// Rows that the brokers refused, as text.
    pub refused: String,
}

/// Why a transaction was given up.
pub enum GivenUp {
    /// A batch is too large: the rows in it, its bytes, and what the broker says.
    TooLarge(Vec<usize>, usize, Error),
    Failed(Error),
}

impl From<Error> for GivenUp {
    fn from(error: Error) -> GivenUp {
        GivenUp::Failed(error)
    }
}

impl KeptPosition {
    fn note(&self) -> String {
        format!("rows={} refused={}", self.rows, self.refused)
    }

    fn read(offset: i64, note: &str) -> Option<KeptPosition> {
        let position = u64::try_from(offset).ok()?;
        let (rows, refused) = note.strip_prefix("rows=")?.split_once(" refused=")?;
        Some(KeptPosition {
            position,
            rows: rows.parse().ok()?,
            refused: refused.to_owned(),
        })
    }
}

impl KafkaProducer {
    /// Takes the identity over: whoever had it may not write any more, and what it had begun is given up. Then reads how far
    /// it had come.
    ///
    /// # Errors
    /// *Transient*: brokers do not answer. *Configuration*: somebody must repair something first.
    pub async fn open(
        server: &Arc<KafkaServer>,
        id: Arc<str>,
        positions: Arc<str>,
    ) -> Result<KafkaProducer, Error> {
        let mut any = server.any().await?;
        let (_, address) = server.coordinator(&mut any, &id, true).await?;
        let mut transactions = KafkaLink::open(server, &address).await?;
        let request = InitProducerRequest {
            transactional_id: &id,
            timeout_millis: TRANSACTION_MAX.as_millis() as i32,
        };
        let resource = format!("--transactional-id '{id}'");
        let mut patience = Patience::new(server, &transactions, resource, "Write");
        let identity = loop {
            let asked = transactions.call(Api::InitProducerId, |w, version| {
                request.write(w, version);
            });
            match asked.await?.read(|r, _| ProducerIdentity::read(r))? {
                Ok(given) => break given,
                // An answer without a code is none of an error.
                Err(code) => drop(patience.is_done(code).await?),
            }
        };
        let (_, address) = server.coordinator(&mut any, &id, false).await?;
        let group = KafkaLink::open(server, &address).await?;
        let mut producer = KafkaProducer {
            server: Arc::clone(server),
            id,
            positions: Arc::clone(&positions),
            identity,
            sequences: Sequences::new(),
            transactions,
            group,
            leaders: BTreeMap::new(),
            addresses: BTreeMap::new(),
            topics: BTreeMap::new(),
            looked: None,
            kept: None,
        };
        if producer.partitions(&[&positions]).await?.is_empty() {
            return Err(no_topic(server, &positions, Class::Configuration));
        }
        producer.read_position().await?;
        Ok(producer)
    }

    async fn read_position(&mut self) -> Result<(), Error> {
        let request = OffsetFetchRequest {
            group: &self.id,
            partitions: &[(&self.positions, 0)],
        };
        let resource = format!("--group '{}' --topic '{}'", self.id, self.positions);
        let mut patience = Patience::new(&self.server, &self.group, resource, "Read");
        loop {
            let asked = self.group.call(Api::OffsetFetch, |w, version| {
                request.write(w, version);
            });
            let answer = asked.await?;
            let (code, offsets) = answer.read(|r, _| read_committed_offsets(r))?;
            let found = offsets.first().filter(|_| !code.is_error());
            let code = found.map_or(code, |found| found.code);
            self.kept = found
                .and_then(|found| KeptPosition::read(found.offset, found.note.unwrap_or_default()));
            if patience.is_done(code).await? {
                return Ok(());
            }
        }
    }

    /// How many partitions each topic has, for those that exist.
    ///
    /// # Errors
    /// As [`KafkaProducer::open`].
    pub async fn partitions(
        &mut self,
        topics: &[&Arc<str>],
    ) -> Result<BTreeMap<Arc<str>, usize>, Error> {
        let known = |producer: &KafkaProducer| {
            let known = topics.iter().filter_map(|topic| {
                let partitions = producer.topics.get(*topic)?;
                Some((Arc::clone(topic), partitions.len()))
            });
            known.collect::<BTreeMap<_, _>>()
        };
        let fresh = |at: Instant| at.elapsed() < super::limits::METADATA_EVERY * 12;
        let found = known(self);
        if found.len() == topics.len() && self.looked.is_some_and(fresh) {
            return Ok(found);
        }
        let mut names: Vec<String> = topics.iter().map(|topic| topic.to_string()).collect();
        names.extend(self.topics.keys().map(|topic| topic.to_string()));
        names.sort();
        names.dedup();
        let metadata = self.server.metadata(&mut self.transactions, Some(&names));
        let metadata = metadata.await?;
        self.addresses = metadata
            .brokers
            .iter()
            .map(|broker| (broker.id, address_of(&broker.host, broker.port)))
            .collect();
        self.topics.clear();
        for topic in metadata.topics {
            match topic.code {
                KafkaCode::NONE => {
                    let mut leaders = vec![-1; topic.partitions.len()];
                    for partition in &topic.partitions {
                        let place = usize::try_from(partition.partition).ok();
                        if let Some(place) = place.and_then(|at| leaders.get_mut(at)) {
                            *place = partition.leader;
                        }
                    }
                    self.topics.insert(topic.name.into(), leaders);
                }
                KafkaCode::UNKNOWN_TOPIC_OR_PARTITION | KafkaCode::INVALID_TOPIC => {}
                code => {
                    let resource = format!("--topic '{}'", topic.name);
                    let doing = KafkaDoing {
                        resource: &resource,
                        operation: "Write",
                        ..self.server.doing(&self.transactions.address)
                    };
                    return Err(refused(code, doing));
                }
            }
        }
        self.looked = Some(Instant::now());
        Ok(known(self))
    }

    /// Writes everything and keeps the position, in one transaction.
    ///
    /// # Errors
    /// After one the producer is of no use any more: it may or may not have been written, which opening it again tells.
    pub async fn transact(
        &mut self,
        all: Vec<PartitionRows>,
        kept: KeptPosition,
    ) -> Result<(), GivenUp> {
        let partitions: Vec<_> = all
            .iter()
            .map(|rows| (Arc::clone(&rows.topic), rows.partition))
            .collect();
        self.begin(&partitions).await?;
        let position = i64::try_from(kept.position).map_err(|_| {
            Error::new(Class::Configuration, "kafka.position").with("position", kept.position)
        })?;
        self.produce(all).await?;
        let offsets = [KeptOffset {
            topic: Arc::clone(&self.positions),
            partition: 0,
            offset: position,
            note: kept.note(),
        }];
        let request = TxnCommitRequest {
            transactional_id: &self.id,
            group: &self.id,
            identity: self.identity,
            offsets: &offsets,
        };
        let resource = format!("--group '{}' --topic '{}'", self.id, self.positions);
        let mut patience = Patience::new(&self.server, &self.group, resource, "Read");
        loop {
            let asked = self.group.call(Api::TxnOffsetCommit, |w, version| {
                request.write(w, version);
            });
            let code = asked.await?.read(|r, _| read_partition_codes(r))?;
            if patience.is_done(code).await? {
                break;
            }
        }
        self.commit().await?;
        self.kept = Some(kept);
        Ok(())
    }

    /// Takes the partitions and the position into the transaction.
    async fn begin(&mut self, partitions: &[(Arc<str>, i32)]) -> Result<(), Error> {
        let add = AddPartitionsRequest {
            transactional_id: &self.id,
            identity: self.identity,
            partitions,
        };
        let offsets = AddOffsetsRequest {
            transactional_id: &self.id,
            identity: self.identity,
            group: &self.id,
        };
        let resource = format!("--transactional-id '{}'", self.id);
        let link = &mut self.transactions;
        let mut patience = Patience::new(&self.server, link, resource, "Write");
        loop {
            if !partitions.is_empty() {
                link.send(Api::AddPartitionsToTxn, |w, version| add.write(w, version))?;
            }
            link.send(Api::AddOffsetsToTxn, |w, version| {
                offsets.write(w, version);
            })?;
            let mut code = KafkaCode::NONE;
            while link.owed() > 0 {
                let last = link.owed() == 1;
                let answer = link.receive().await?;
                let told = answer.read(|r, _| match last {
                    true => read_code(r),
                    false => read_partition_codes(r),
                })?;
                if !code.is_error() {
                    code = told;
                }
            }
            if patience.is_done(code).await? {
                return Ok(());
            }
        }
    }

    /// Ends the transaction: what was written counts.
    async fn commit(&mut self) -> Result<(), Error> {
        let request = EndRequest {
            transactional_id: &self.id,
            identity: self.identity,
            commit: true,
        };
        let resource = format!("--transactional-id '{}'", self.id);
        let link = &mut self.transactions;
        let mut patience = Patience::new(&self.server, link, resource, "Write");
        loop {
            let asked = link.call(Api::EndTxn, |w, version| request.write(w, version));
            let code = asked.await?.read(|r, _| read_code(r))?;
            if patience.is_done(code).await? {
                return Ok(());
            }
        }
    }

    /// Sends the batches to their leaders, to all of these at a time.
    async fn produce(&mut self, all: Vec<PartitionRows>) -> Result<(), GivenUp> {
        let mut by_leader: BTreeMap<i32, Vec<PartitionRows>> = BTreeMap::new();
        for rows in all {
            let leaders = self.topics.get(&rows.topic);
            let place = usize::try_from(rows.partition).ok();
            let leader = leaders
                .zip(place)
                .and_then(|(all, at)| all.get(at))
                .copied();
            by_leader
                .entry(leader.unwrap_or(-1))
                .or_default()
                .push(rows);
        }
        let mut under_way = JoinSet::new();
        for (leader, rows) in by_leader {
            let link = self.leaders.remove(&leader).filter(KafkaLink::rests);
            let link = match link {
                Some(link) => link,
                None => {
                    let Some(address) = self.addresses.get(&leader) else {
                        return Err(self.leaderless(&rows).into());
                    };
                    KafkaLink::open(&self.server, address).await?
                }
            };
            let (server, id) = (Arc::clone(&self.server), Arc::clone(&self.id));
            under_way.spawn(async move {
                let sent = send(link, &server, &id, rows).await;
                (leader, sent)
            });
        }
        let mut failed = None;
        while let Some(done) = under_way.join_next().await {
            match done {
                Ok((leader, Ok(link))) => drop(self.leaders.insert(leader, link)),
                Ok((_, Err(why))) => {
                    // A row that is too large is found before anything is tried again.
                    if !matches!(failed, Some(GivenUp::TooLarge(..))) {
                        failed = Some(why);
                    }
                }
                Err(why) => {
                    let error = super::failure::closed(&self.server.addresses());
                    return Err(error.caused_by(why).into());
                }
            }
        }
        match failed {
            None => Ok(()),
            Some(why) => Err(why),
        }
    }

    fn leaderless(&self, rows: &[PartitionRows]) -> Error {
        let (topic, partition) = rows
            .first()
            .map_or(("", 0), |rows| (&*rows.topic, rows.partition));
        Error::new(Class::Transient, "kafka.no-leader")
            .with("topic", topic)
            .with("partition", partition)
    }
}

/// Sends batches to one leader, some at a time, each partition's in their order.
async fn send(
    mut link: KafkaLink,
    server: &KafkaServer,
    id: &str,
    all: Vec<PartitionRows>,
) -> Result<KafkaLink, GivenUp> {
    let mut queues: Vec<_> = all
        .into_iter()
        .map(|rows| VecDeque::from(rows.batches))
        .collect();
    let mut under_way = VecDeque::new();
    loop {
        while under_way.len() < BATCHES_IN_FLIGHT_MAX {
            // One batch of each partition.
            let next = queues.iter_mut().filter_map(VecDeque::pop_front);
            let (batches, rows): (Vec<_>, Vec<_>) = next.unzip();
            if batches.is_empty() {
                break;
            }
            let request = ProduceRequest {
                transactional_id: Some(id),
                wait_millis: server.timeout.as_millis() as i32,
                batches: &batches,
            };
            link.send(Api::Produce, |w, version| request.write(w, version))?;
            let sent = batches.into_iter().zip(rows).map(|(batch, rows)| {
                let bytes = batch.records.len();
                (batch.topic, batch.partition, bytes, rows)
            });
            under_way.push_back(sent.collect::<Vec<_>>());
        }
        let Some(sent) = under_way.pop_front() else {
            return Ok(link);
        };
        let answer = link.receive().await?;
        produced(&answer, &link.address, server, sent)?;
    }
}

type SentBatch = (Arc<str>, i32, usize, Vec<usize>);

/// Sees what became of batches.
fn produced(
    answer: &KafkaAnswer,
    address: &str,
    server: &KafkaServer,
    sent: Vec<SentBatch>,
) -> Result<(), GivenUp> {
    let all = answer.read(read_produced)?;
    for (topic, partition, bytes, rows) in sent {
        let mut told = all.iter();
        let told = told.find(|told| *told.topic == *topic && told.partition == partition);
        let Some(told) = told else {
            return Err(super::failure::closed(address).into());
        };
        match told.code {
            KafkaCode::NONE | KafkaCode::DUPLICATE_SEQUENCE => {}
            KafkaCode::MESSAGE_TOO_LARGE | KafkaCode::RECORD_LIST_TOO_LARGE => {
                let error = Error::new(Class::Permanent, "kafka.row-too-large")
                    .with("topic", &topic)
                    .with("bytes", bytes);
                return Err(GivenUp::TooLarge(rows, bytes, error));
            }
            KafkaCode::INVALID_RECORD | KafkaCode(32) => {
                let error = Error::new(Class::Permanent, "kafka.row-refused")
                    .with("topic", &topic)
                    .with("said", told.said.unwrap_or("INVALID_RECORD"));
                return Err(GivenUp::TooLarge(rows, bytes, error));
            }
            KafkaCode::UNKNOWN_TOPIC_OR_PARTITION => {
                return Err(no_topic(server, &topic, Class::Transient).into());
            }
            code => {
                let resource = format!("--topic '{topic}'");
                let doing = KafkaDoing {
                    resource: &resource,
                    operation: "Write",
                    ..server.doing(address)
                };
                return Err(refused(code, doing).into());
            }
        }
    }
    Ok(())
}

/// A topic that does not exist.
pub fn no_topic(server: &KafkaServer, topic: &str, class: Class) -> Error {
    Error::new(class, "kafka.no-topic")
        .with("topic", topic)
        .with("address", server.addresses())
}

/// Asks again while the answer is that something is still under way, for as long as a request may take.
struct Patience {
    server: Arc<KafkaServer>,
    address: Arc<str>,
    resource: String,
    operation: &'static str,
    until: Instant,
    pause: Duration,
}

impl Patience {
    fn new(
        server: &Arc<KafkaServer>,
        link: &KafkaLink,
        resource: String,
        operation: &'static str,
    ) -> Patience {
        Patience {
            server: Arc::clone(server),
            address: Arc::clone(&link.address),
            resource,
            operation,
            until: Instant::now() + server.timeout,
            pause: RETRY_FIRST,
        }
    }

    /// Whether it is done; waits before it is to be asked again.
    async fn is_done(&mut self, code: KafkaCode) -> Result<bool, Error> {
        let under_way = matches!(
            code,
            KafkaCode::CONCURRENT_TRANSACTIONS
                | KafkaCode::COORDINATOR_LOAD_IN_PROGRESS
                | KafkaCode::UNSTABLE_OFFSET_COMMIT
        );
        match code {
            KafkaCode::NONE => Ok(true),
            _ if under_way && Instant::now() < self.until => {
                tokio::time::sleep(self.pause).await;
                self.pause = (self.pause * 2).min(RETRY_LAST);
                Ok(false)
            }
            code => {
                let doing = KafkaDoing {
                    resource: &self.resource,
                    operation: self.operation,
                    ..self.server.doing(&self.address)
                };
                Err(refused(code, doing))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_kept_with_what_was_refused() {
        let kept = KeptPosition {
            position: 7,
            rows: 300,
            refused: "3,17-20".into(),
        };
        assert_eq!(KeptPosition::read(7, &kept.note()), Some(kept));
        assert_eq!(KeptPosition::read(-1, ""), None);
        assert_eq!(KeptPosition::read(7, "of somebody else"), None);
    }
}
