//! Transactions whose end a cluster has lost.
//!
//! A coordinator that begins to end a transaction writes down how it ends, answers, and then marks the end in each
//! partition. Where it is moved just then it may find no leader for a partition, take that for a topic that was deleted,
//! and count the transaction as ended. The partition then stays open: no reader of committed records gets beyond it, and a
//! position in it is not told. No transaction of this producer is under way once it has its identity, so that one which is
//! open in a partition is such a one.
//!
//! How it ends follows from what there is. The position is the last thing that is written, so that a transaction which has
//! written it has written all its records, and it names where these begin in each partition:
//!
//! - The position is held back, and no partition says that the transaction was given up: it counts. It may have been
//!   answered so.
//! - A partition says that it was given up: then it is everywhere.
//! - The position was kept: it counts, in the partitions that are named with it.
//! - A transaction that is open in a partition and is not the one of the position was given up.
//!
//! Ending it is a transaction of the same producer that names the same partitions and writes nothing: brokers know open
//! transactions by their producer.

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_event::{Class, Error};
use busbar_kafka::batch::{OpenBatch, next_batch};
use busbar_kafka::message::{
    FetchPartition, FetchRequest, FetchResponse, ProducersRequest, read_offset_record,
    read_producers,
};
use busbar_kafka::{Api, KafkaCode};

use super::failure::{KafkaDoing, refused, unreadable};
use super::kept::{KeptPosition, TransactionPart};
use super::limits::{FETCH_BYTES, FETCH_PARTITION_BYTES, RECORDS_BYTES_MAX};
use super::link::KafkaLink;
use super::producer::{KafkaProducer, leaderless};

/// The topic in which coordinators keep the offsets of groups.
const OFFSETS_TOPIC: &str = "__consumer_offsets";

type Place = (Arc<str>, i32);

/// What a transaction is in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Committed,
    GivenUp,
    /// Its records are not there any more, or belong to another transaction, too.
    Unknown,
}

impl KafkaProducer {
    /// Ends a transaction that holds the position back, if it is one whose end was lost.
    ///
    /// # Errors
    /// *Configuration*: how it ends cannot be told, or the right to look is missing. Others as [`KafkaProducer::open`].
    pub(super) async fn end_pending(&mut self) -> Result<(), Error> {
        if !self.group.knows(Api::DescribeProducers) {
            return Ok(());
        }
        let Some((partition, offset)) = self.open_position().await? else {
            return Ok(());
        };
        let parts = self.pending(partition, offset).await?;
        let parts = parts.and_then(|kept| kept.parts);
        let place: Place = (OFFSETS_TOPIC.into(), partition);
        let Some(parts) = parts else {
            return Err(self.half_ended(&place, offset));
        };
        let mut open = Vec::new();
        let mut fates = Vec::new();
        for (part, fate) in self.fates(&parts).await? {
            if fate == Fate::Open {
                open.push((part.topic, part.partition));
            }
            fates.push(fate);
        }
        let commit = match (
            fates.contains(&Fate::Committed),
            fates.contains(&Fate::GivenUp),
        ) {
            _ if fates.contains(&Fate::Unknown) => return Err(self.half_ended(&place, offset)),
            (true, true) => return Err(self.half_ended(&place, offset)),
            (_, given_up) => !given_up,
        };
        tracing::warn!(producer = %self.id, commit,
            "the cluster has lost the end of a transaction, which is ended now");
        self.begin(&open, true).await?;
        self.end(commit).await
    }

    /// Ends the transaction whose position is kept in the partitions where it is still open.
    ///
    /// # Errors
    /// As [`KafkaProducer::end_pending`].
    pub(super) async fn end_kept(&mut self) -> Result<(), Error> {
        let parts = self.kept.as_ref().and_then(|kept| kept.parts.clone());
        let parts = parts.unwrap_or_default();
        let places: Vec<_> = parts.iter().map(place).collect();
        let open = self.open_transactions(&places).await?;
        let mut kept = Vec::new();
        for part in &parts {
            let place = place(part);
            match open.get(&place) {
                Some(begin) if *begin == part.offset => kept.push(place),
                // What was given up begins before what counts, and one marker would end both.
                Some(begin) if *begin < part.offset => return Err(self.half_ended(&place, *begin)),
                _ => {}
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        tracing::warn!(producer = %self.id, partitions = kept.len(),
            "the cluster has lost the end of a transaction in some partitions, where it is ended now");
        self.begin(&kept, false).await?;
        self.end(true).await
    }

    /// Gives up what is open in partitions that this producer has not written to yet: records of a transaction that was
    /// given up would count as soon as the next one does.
    ///
    /// # Errors
    /// As [`KafkaProducer::end_pending`].
    pub(super) async fn free(&mut self, places: &[Place]) -> Result<(), Error> {
        let new = places.iter().filter(|place| !self.free.contains(*place));
        let new: Vec<_> = new.cloned().collect();
        let open = self.open_transactions(&new).await?;
        if !open.is_empty() {
            tracing::warn!(producer = %self.id, partitions = open.len(),
                "the cluster has lost that a transaction was given up in some partitions, where that is done now");
            let open: Vec<_> = open.into_keys().collect();
            self.begin(&open, false).await?;
            self.end(false).await?;
        }
        self.free.extend(new);
        Ok(())
    }

    /// The partition of [`OFFSETS_TOPIC`] in which this producer has a transaction open, and where that begins.
    async fn open_position(&mut self) -> Result<Option<(i32, i64)>, Error> {
        let asked = [OFFSETS_TOPIC.to_owned()];
        let metadata = self.server.metadata(&mut self.group, Some(&asked)).await?;
        let topic = metadata.topics.into_iter().next();
        let topic = topic.ok_or_else(|| leaderless(OFFSETS_TOPIC, 0))?;
        if topic.code.is_error() {
            return Err(self.unread(topic.code, OFFSETS_TOPIC, &self.group.address));
        }
        let name: Arc<str> = OFFSETS_TOPIC.into();
        let partitions = topic.partitions.iter();
        let led = partitions.filter(|partition| partition.leader == self.coordinator);
        let led: Vec<_> = led
            .map(|partition| (Arc::clone(&name), partition.partition))
            .collect();
        let found = ask_open(&mut self.group, self.identity.id, &led).await?;
        for (place, open) in found {
            match open {
                Ok(Some(begin)) => return Ok(Some((place.1, begin))),
                Ok(None) => {}
                Err(code) => return Err(self.unread(code, OFFSETS_TOPIC, &self.group.address)),
            }
        }
        Ok(None)
    }

    /// The position that an open transaction holds back.
    async fn pending(
        &mut self,
        partition: i32,
        offset: i64,
    ) -> Result<Option<KeptPosition>, Error> {
        let place = (OFFSETS_TOPIC.into(), partition);
        let answer = fetch(&mut self.group, &place, offset, false).await?;
        let response = answer.read(FetchResponse::read)?;
        let found = response.partitions.into_iter().next();
        let code = found.as_ref().map_or(response.code, |found| found.code);
        let found = found.filter(|_| !response.code.is_error() && !code.is_error());
        let Some(found) = found else {
            return Err(self.unread(code, OFFSETS_TOPIC, &self.group.address));
        };
        let address = Arc::clone(&self.group.address);
        let wrong = |why| unreadable(&address, why);
        let mut records = answer.body.slice(found.records);
        // The first batch may begin before the offset that was asked for.
        while let Some((head, bytes)) = next_batch(&mut records).map_err(wrong)? {
            if head.producer_id != self.identity.id || head.control || head.last_offset < offset {
                continue;
            }
            let mut batch = OpenBatch::new(head, bytes, RECORDS_BYTES_MAX).map_err(wrong)?;
            while let Some(record) = batch.next_record().map_err(wrong)? {
                let (Some(key), Some(value)) = (record.key, record.value) else {
                    continue;
                };
                let Some(kept) = read_offset_record(key, value).map_err(wrong)? else {
                    continue;
                };
                if *kept.group == *self.id && *kept.topic == *self.positions {
                    return Ok(KeptPosition::read(kept.offset, kept.note));
                }
            }
        }
        Ok(None)
    }

    /// What a transaction is in each of its partitions; those of topics that are gone are left out.
    async fn fates(
        &mut self,
        parts: &[TransactionPart],
    ) -> Result<Vec<(TransactionPart, Fate)>, Error> {
        let places: Vec<_> = parts.iter().map(place).collect();
        let open = self.open_transactions(&places).await?;
        let mut fates = Vec::new();
        for part in parts {
            let Some(leader) = self.leader(&part.topic, part.partition) else {
                continue;
            };
            let fate = match open.get(&place(part)) {
                Some(begin) if *begin == part.offset => Fate::Open,
                Some(_) => Fate::Unknown,
                None => self.ended(part, leader).await?,
            };
            fates.push((part.clone(), fate));
        }
        Ok(fates)
    }

    /// How a transaction has ended that is not open any more.
    async fn ended(&mut self, part: &TransactionPart, leader: i32) -> Result<Fate, Error> {
        let Some(mut link) = self.link_to(leader).await? else {
            return Err(leaderless(&part.topic, part.partition));
        };
        let answer = fetch(&mut link, &place(part), part.offset, true).await?;
        let response = answer.read(FetchResponse::read)?;
        let address = Arc::clone(&link.address);
        self.keep_link(leader, link);
        let found = response.partitions.into_iter().next();
        let code = found.as_ref().map_or(response.code, |found| found.code);
        match (code, found) {
            (KafkaCode::OFFSET_OUT_OF_RANGE, _) => Ok(Fate::Unknown),
            // Another producer's transaction is open before it.
            (KafkaCode::NONE, Some(found)) if found.end <= part.offset => {
                let code = KafkaCode::UNSTABLE_OFFSET_COMMIT;
                Err(self.unread(code, &part.topic, &address))
            }
            (KafkaCode::NONE, Some(found)) => {
                let mut aborted = found.aborted.iter();
                let given_up = aborted.any(|transaction| {
                    transaction.producer_id == self.identity.id
                        && transaction.first_offset <= part.offset
                });
                Ok(if given_up {
                    Fate::GivenUp
                } else {
                    Fate::Committed
                })
            }
            (code, _) => Err(self.unread(code, &part.topic, &address)),
        }
    }

    /// Where the transactions begin that this producer has open, of these partitions. Partitions of topics that are gone
    /// have none, and where a broker is too old to be asked or the right to look is missing none is known.
    async fn open_transactions(&mut self, places: &[Place]) -> Result<BTreeMap<Place, i64>, Error> {
        let mut open = BTreeMap::new();
        if places.is_empty() {
            return Ok(open);
        }
        let mut topics: Vec<_> = places.iter().map(|(topic, _)| topic).collect();
        topics.sort();
        topics.dedup();
        let known = self.partitions(&topics).await?;
        let mut by_leader: BTreeMap<i32, Vec<Place>> = BTreeMap::new();
        for place in places.iter().filter(|place| known.contains_key(&place.0)) {
            match self.leader(&place.0, place.1) {
                Some(leader) => by_leader.entry(leader).or_default().push(place.clone()),
                None => return Err(leaderless(&place.0, place.1)),
            }
        }
        for (leader, mut led) in by_leader {
            led.sort();
            let Some(mut link) = self.link_to(leader).await? else {
                let (topic, partition) = &led[0];
                return Err(leaderless(topic, *partition));
            };
            let known = link.knows(Api::DescribeProducers);
            let asked = match known {
                true => ask_open(&mut link, self.identity.id, &led).await?,
                false => Vec::new(),
            };
            let address = Arc::clone(&link.address);
            self.keep_link(leader, link);
            for (place, found) in asked {
                match found {
                    Ok(Some(begin)) => drop(open.insert(place, begin)),
                    Ok(None) | Err(KafkaCode::UNKNOWN_TOPIC_OR_PARTITION) => {}
                    Err(code @ KafkaCode::TOPIC_AUTHORIZATION_FAILED) => {
                        let error = self.unread(code, &place.0, &address);
                        tracing::warn!(producer = %self.id, %error,
                            "whether a transaction is open there cannot be seen");
                    }
                    Err(code) => return Err(self.unread(code, &place.0, &address)),
                }
            }
        }
        Ok(open)
    }

    fn unread(&self, code: KafkaCode, topic: &str, address: &str) -> Error {
        let resource = format!("--topic '{topic}'");
        let doing = KafkaDoing {
            resource: &resource,
            operation: "Read",
            ..self.server.doing(address)
        };
        refused(code, doing)
    }

    /// Only people can tell how a transaction ends that is open in this partition.
    fn half_ended(&self, place: &Place, offset: i64) -> Error {
        Error::new(Class::Configuration, "kafka.half-ended")
            .with("producer", &self.id)
            .with("address", &self.group.address)
            .with("topic", &place.0)
            .with("partition", place.1)
            .with("offset", offset)
    }
}

fn place(part: &TransactionPart) -> Place {
    (Arc::clone(&part.topic), part.partition)
}

/// Where the open transaction of a producer begins in each of the partitions, which one broker leads.
async fn ask_open(
    link: &mut KafkaLink,
    producer: i64,
    places: &[Place],
) -> Result<Vec<(Place, Result<Option<i64>, KafkaCode>)>, Error> {
    let request = ProducersRequest { partitions: places };
    let asked = link.call(Api::DescribeProducers, |w, version| {
        request.write(w, version);
    });
    let answer = asked.await?;
    let found = answer.read(|r, _| read_producers(r))?;
    let found = found.into_iter().map(|partition| {
        let mut own = partition.producers.iter();
        let own = own.find(|known| known.id == producer);
        let open = match partition.code {
            KafkaCode::NONE => Ok(own.and_then(|known| known.open)),
            code => Err(code),
        };
        ((partition.topic.into(), partition.partition), open)
    });
    Ok(found.collect())
}

/// What a partition has from an offset on.
async fn fetch(
    link: &mut KafkaLink,
    place: &Place,
    offset: i64,
    committed: bool,
) -> Result<super::link::KafkaAnswer, Error> {
    let request = FetchRequest {
        wait_millis: 0,
        most_bytes: FETCH_BYTES,
        partition_bytes: FETCH_PARTITION_BYTES,
        committed,
        partitions: &[FetchPartition {
            topic: &place.0,
            partition: place.1,
            offset,
        }],
    };
    link.call(Api::Fetch, |w, version| request.write(w, version))
        .await
}
