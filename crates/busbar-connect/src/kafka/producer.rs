//! A producer with transactions: an identity that fences whoever had it before, the position that was kept with its last
//! transaction, and one transaction after the other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
use super::kept::{KeptPosition, TransactionPart};
use super::limits::{BATCHES_IN_FLIGHT_MAX, OPEN_AFTER, RETRY_FIRST, RETRY_LAST, TRANSACTION_MAX};
use super::link::{KafkaAnswer, KafkaLink};
use super::rows::{PartitionRows, Sequences};
use super::server::{KafkaServer, address_of};

/// A producer that may write.
pub struct KafkaProducer {
    pub(super) server: Arc<KafkaServer>,
    /// The name of its transactions and of the group that keeps its position.
    pub id: Arc<str>,
    /// In whose first partition's name the position is kept.
    pub(super) positions: Arc<str>,
    pub identity: ProducerIdentity,
    pub sequences: Sequences,
    transactions: KafkaLink,
    pub(super) group: KafkaLink,
    /// The broker that keeps its position.
    pub(super) coordinator: i32,
    leaders: BTreeMap<i32, KafkaLink>,
    /// Where brokers are.
    addresses: BTreeMap<i32, Arc<str>>,
    /// The leader of each partition of each topic.
    topics: BTreeMap<Arc<str>, Vec<i32>>,
    /// Partitions in which nothing that was begun under another identity is open.
    pub(super) free: BTreeSet<(Arc<str>, i32)>,
    looked: Option<Instant>,
    /// What was kept with the last transaction.
    pub kept: Option<KeptPosition>,
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
        let (coordinator, address) = server.coordinator(&mut any, &id, false).await?;
        let group = KafkaLink::open(server, &address).await?;
        let mut producer = KafkaProducer {
            server: Arc::clone(server),
            id,
            positions: Arc::clone(&positions),
            identity,
            sequences: Sequences::new(),
            transactions,
            group,
            coordinator,
            leaders: BTreeMap::new(),
            addresses: BTreeMap::new(),
            topics: BTreeMap::new(),
            free: BTreeSet::new(),
            looked: None,
            kept: None,
        };
        if producer.partitions(&[&positions]).await?.is_empty() {
            return Err(no_topic(server, &positions, Class::Configuration));
        }
        producer.read_position().await?;
        producer.end_kept().await?;
        Ok(producer)
    }

    async fn read_position(&mut self) -> Result<(), Error> {
        let (id, positions) = (Arc::clone(&self.id), Arc::clone(&self.positions));
        let request = OffsetFetchRequest {
            group: &id,
            partitions: &[(&positions, 0)],
        };
        let resource = format!("--group '{}' --topic '{}'", self.id, self.positions);
        let mut patience = Patience::new(&self.server, &self.group, resource, "Read");
        let mut look = Some(Instant::now() + OPEN_AFTER.min(self.server.timeout / 2));
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
            if code == KafkaCode::UNSTABLE_OFFSET_COMMIT
                && look.take_if(|at| *at <= Instant::now()).is_some()
            {
                self.end_pending().await?;
            }
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
        mut kept: KeptPosition,
    ) -> Result<(), GivenUp> {
        let partitions: Vec<_> = all
            .iter()
            .map(|rows| (Arc::clone(&rows.topic), rows.partition))
            .collect();
        self.free(&partitions).await?;
        self.begin(&partitions, true).await?;
        let position = i64::try_from(kept.position).map_err(|_| {
            Error::new(Class::Configuration, "kafka.position").with("position", kept.position)
        })?;
        kept.parts = self.produce(all).await?;
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
        self.end(true).await?;
        self.kept = Some(kept);
        Ok(())
    }

    /// Takes partitions into the transaction, and the position if it is to be kept with it.
    pub(super) async fn begin(
        &mut self,
        partitions: &[(Arc<str>, i32)],
        position: bool,
    ) -> Result<(), Error> {
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
            if position {
                link.send(Api::AddOffsetsToTxn, |w, version| {
                    offsets.write(w, version);
                })?;
            }
            let mut code = KafkaCode::NONE;
            while link.owed() > 0 {
                let last = position && link.owed() == 1;
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

    /// Ends the transaction: what was written counts if `commit` says so, and is given up otherwise.
    pub(super) async fn end(&mut self, commit: bool) -> Result<(), Error> {
        let request = EndRequest {
            transactional_id: &self.id,
            identity: self.identity,
            commit,
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

    /// Sends the batches to their leaders, to all of these at a time. Returns where the records begin in each partition, if
    /// all brokers say so.
    async fn produce(
        &mut self,
        all: Vec<PartitionRows>,
    ) -> Result<Option<Vec<TransactionPart>>, GivenUp> {
        let mut by_leader: BTreeMap<i32, Vec<PartitionRows>> = BTreeMap::new();
        for rows in all {
            let leader = self.leader(&rows.topic, rows.partition).unwrap_or(-1);
            by_leader.entry(leader).or_default().push(rows);
        }
        let mut under_way = JoinSet::new();
        for (leader, rows) in by_leader {
            let Some(link) = self.link_to(leader).await? else {
                let rows = rows.first().map(|rows| (&*rows.topic, rows.partition));
                let (topic, partition) = rows.unwrap_or_default();
                return Err(leaderless(topic, partition).into());
            };
            let (server, id) = (Arc::clone(&self.server), Arc::clone(&self.id));
            under_way.spawn(async move {
                let sent = send(link, &server, &id, rows).await;
                (leader, sent)
            });
        }
        let mut failed = None;
        let mut parts = Vec::new();
        while let Some(done) = under_way.join_next().await {
            match done {
                Ok((leader, Ok((link, begins)))) => {
                    self.keep_link(leader, link);
                    parts.extend(begins);
                }
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
            None => {
                parts.sort();
                Ok(parts.iter().all(|part| part.offset >= 0).then_some(parts))
            }
            Some(why) => Err(why),
        }
    }

    /// The broker that leads a partition, if that is known.
    pub(super) fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        let place = usize::try_from(partition).ok()?;
        let leader = self.topics.get(topic)?.get(place)?;
        Some(*leader).filter(|leader| *leader >= 0)
    }

    /// A connection to a broker; `None` where nobody says where it is.
    pub(super) async fn link_to(&mut self, broker: i32) -> Result<Option<KafkaLink>, Error> {
        if let Some(link) = self.leaders.remove(&broker).filter(KafkaLink::rests) {
            return Ok(Some(link));
        }
        let Some(address) = self.addresses.get(&broker) else {
            return Ok(None);
        };
        KafkaLink::open(&self.server, address).await.map(Some)
    }

    /// Keeps a connection to a broker for the next time.
    pub(super) fn keep_link(&mut self, broker: i32, link: KafkaLink) {
        self.leaders.insert(broker, link);
    }
}

pub fn leaderless(topic: &str, partition: i32) -> Error {
    Error::new(Class::Transient, "kafka.no-leader")
        .with("topic", topic)
        .with("partition", partition)
}

/// Sends batches to one leader, some at a time, each partition's in their order. Returns where they begin in each.
async fn send(
    mut link: KafkaLink,
    server: &KafkaServer,
    id: &str,
    all: Vec<PartitionRows>,
) -> Result<(KafkaLink, Vec<TransactionPart>), GivenUp> {
    let mut begins = BTreeMap::new();
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
            let begins = begins
                .into_iter()
                .map(|((topic, partition), offset)| TransactionPart {
                    topic,
                    partition,
                    offset,
                });
            return Ok((link, begins.collect()));
        };
        let answer = link.receive().await?;
        produced(&answer, &link.address, server, sent, &mut begins)?;
    }
}

type SentBatch = (Arc<str>, i32, usize, Vec<usize>);

/// Sees what became of batches.
fn produced(
    answer: &KafkaAnswer,
    address: &str,
    server: &KafkaServer,
    sent: Vec<SentBatch>,
    begins: &mut BTreeMap<(Arc<str>, i32), i64>,
) -> Result<(), GivenUp> {
    let all = answer.read(read_produced)?;
    for (topic, partition, bytes, rows) in sent {
        let mut told = all.iter();
        let told = told.find(|told| *told.topic == *topic && told.partition == partition);
        let Some(told) = told else {
            return Err(super::failure::closed(address).into());
        };
        match told.code {
            KafkaCode::NONE | KafkaCode::DUPLICATE_SEQUENCE => {
                begins.entry((topic, partition)).or_insert(told.offset);
            }
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
