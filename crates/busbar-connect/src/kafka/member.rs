//! Membership in a consumer group: which partitions are this node's, and whether they still are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use busbar_event::{Class, Error};
use busbar_kafka::message::{
    HeartbeatRequest, JoinGroupRequest, JoinedGroup, LeaveGroupRequest, MemberIdentity,
    NamedPartition, OffsetFetchRequest, SyncGroupRequest, read_code, read_committed_offsets,
    read_synced,
};
use busbar_kafka::{Api, Assignor, KafkaCode};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::failure::{KafkaDoing, closed, refused};
use super::limits::{GROUP_EVERY, REBALANCE_MAX, RETRY_FIRST, RETRY_LAST};
use super::link::KafkaLink;
use super::server::KafkaServer;

/// Who a node is in its group, for those who tell the group something; none before it has joined.
pub type SharedIdentity = Arc<Mutex<Option<MemberIdentity>>>;

/// A member of a group.
pub struct KafkaMember {
    server: Arc<KafkaServer>,
    group: String,
    session: Duration,
    identity: SharedIdentity,
    /// Sends heartbeats while this node is a member of the group.
    heart: Option<GroupHeart>,
    /// Whether it has shared the partitions out.
    pub leads: bool,
}

/// The coordinator's answer to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeartSays {
    Member,
    /// The partitions are shared out anew: it has to join again.
    JoinAgain,
    /// It is no member any more.
    Lost,
}

/// Heartbeats in the background.
struct GroupHeart {
    says: watch::Receiver<HeartSays>,
    task: JoinHandle<()>,
}

impl Drop for GroupHeart {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl KafkaMember {
    pub fn new(
        server: Arc<KafkaServer>,
        group: String,
        session: Duration,
        identity: SharedIdentity,
    ) -> KafkaMember {
        KafkaMember {
            server,
            group,
            session,
            identity,
            heart: None,
            leads: false,
        }
    }

    /// Joins the group, for the first time or again, as a reader of these topics. Waits until its other members have done so.
    /// The partitions that are this member's.
    ///
    /// # Errors
    /// *Transient*: a broker does not answer. *Configuration*: the group does not take it.
    pub async fn join(
        &mut self,
        any: &mut KafkaLink,
        topics: &[String],
    ) -> Result<BTreeSet<NamedPartition>, Error> {
        let known = self.identity.lock().take();
        let mut id = known.map(|identity| identity.id).unwrap_or_default();
        self.heart = None;
        let mut pause = Duration::ZERO;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).clamp(RETRY_FIRST, RETRY_LAST);
            let mut link = self.coordinator(any).await?;
            link.wait_for(REBALANCE_MAX + self.server.timeout);
            let request = JoinGroupRequest {
                group: &self.group,
                member: &id,
                session_millis: millis(self.session),
                rebalance_millis: millis(REBALANCE_MAX),
                assignors: &Assignor::NAMES,
                topics,
            };
            let asked = link.call(Api::JoinGroup, |w, version| request.write(w, version));
            let joined = asked.await?.read(JoinedGroup::read)?;
            match joined.code {
                KafkaCode::NONE => {}
                KafkaCode::MEMBER_ID_REQUIRED => {
                    id = joined.member;
                    continue;
                }
                KafkaCode::UNKNOWN_MEMBER_ID => {
                    id.clear();
                    continue;
                }
                code => {
                    self.again(code, &link)?;
                    continue;
                }
            }
            id = joined.member.clone();
            let identity = MemberIdentity {
                id: id.clone(),
                generation: joined.generation,
            };
            let shares = match joined.leader == id {
                true => self.share(any, &joined).await?,
                false => Vec::new(),
            };
            let request = SyncGroupRequest {
                group: &self.group,
                identity: &identity,
                assignor: &joined.assignor,
                shares: &shares,
            };
            let asked = link.call(Api::SyncGroup, |w, version| request.write(w, version));
            let (code, partitions) = asked.await?.read(read_synced)?;
            match code {
                KafkaCode::NONE => {}
                KafkaCode::UNKNOWN_MEMBER_ID | KafkaCode::ILLEGAL_GENERATION => {
                    id.clear();
                    continue;
                }
                code => {
                    self.again(code, &link)?;
                    continue;
                }
            }
            self.leads = joined.leader == id;
            *self.identity.lock() = Some(identity.clone());
            self.heart = Some(self.beat(identity));
            return Ok(partitions.into_iter().collect());
        }
    }

    /// Waits until the member has to join again.
    ///
    /// # Errors
    /// *Transient*: it is no member any more, and others may read its partitions.
    pub async fn moved(&mut self) -> Result<(), Error> {
        let lost = || {
            let error = Error::new(Class::Transient, "kafka.group-lost");
            Err(error.with("group", &self.group))
        };
        let Some(heart) = &mut self.heart else {
            return lost();
        };
        let says = heart.says.wait_for(|says| *says != HeartSays::Member);
        match says.await.map(|says| *says) {
            Ok(HeartSays::JoinAgain) => Ok(()),
            _ => lost(),
        }
    }

    /// Leaves the group, so that its other members need not wait until this one is taken for dead.
    pub async fn leave(&self) {
        let left = leave(&self.server, &self.group, &self.identity);
        // They wait a little longer where this fails.
        let _ = tokio::time::timeout(GROUP_EVERY, left).await;
    }

    /// The offsets that the group has kept of partitions, which are sorted by topic.
    ///
    /// # Errors
    /// As [`KafkaMember::join`].
    pub async fn offsets(
        &self,
        any: &mut KafkaLink,
        partitions: &[(&str, i32)],
    ) -> Result<BTreeMap<NamedPartition, i64>, Error> {
        let mut link = self.coordinator(any).await?;
        let request = OffsetFetchRequest {
            group: &self.group,
            partitions,
        };
        let until = Instant::now() + self.server.timeout;
        loop {
            let asked = link.call(Api::OffsetFetch, |w, version| request.write(w, version));
            let answer = asked.await?;
            let (code, offsets) = answer.read(|r, _| read_committed_offsets(r))?;
            let codes = offsets.iter().map(|offset| offset.code);
            let wrong = [code].into_iter().chain(codes).find(|code| code.is_error());
            match wrong {
                None => {
                    let kept = offsets.into_iter().filter(|offset| offset.offset >= 0);
                    let kept = kept
                        .map(|kept| ((kept.topic.to_owned(), kept.partition), kept.offset))
                        .collect();
                    return Ok(kept);
                }
                Some(code) if code.is_retriable() && Instant::now() < until => {
                    tokio::time::sleep(RETRY_LAST).await;
                    if code.wants_coordinator() {
                        link = self.coordinator(any).await?;
                    }
                }
                Some(code) => return Err(self.refused(code, &link)),
            }
        }
    }

    async fn coordinator(&self, any: &mut KafkaLink) -> Result<KafkaLink, Error> {
        let (_, address) = self.server.coordinator(any, &self.group, false).await?;
        KafkaLink::open(&self.server, &address).await
    }

    /// Shares the partitions out, as all members have agreed to.
    async fn share(
        &self,
        any: &mut KafkaLink,
        joined: &JoinedGroup,
    ) -> Result<Vec<(String, Vec<NamedPartition>)>, Error> {
        let assignor = Assignor::named(&joined.assignor).ok_or_else(|| {
            Error::new(Class::Configuration, "kafka.group-other").with("group", &self.group)
        })?;
        let topics: BTreeSet<&String> = joined
            .members
            .iter()
            .flat_map(|(_, topics)| topics)
            .collect();
        let topics: Vec<String> = topics.into_iter().cloned().collect();
        let metadata = self.server.metadata(any, Some(&topics)).await?;
        let there = metadata
            .topics
            .iter()
            .filter(|topic| !topic.code.is_error());
        let counts = there.map(|topic| {
            let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            (topic.name.clone(), count)
        });
        Ok(assignor.share(&joined.members, &counts.collect()))
    }

    fn beat(&self, identity: MemberIdentity) -> GroupHeart {
        let (say, says) = watch::channel(HeartSays::Member);
        let (server, group, session) = (Arc::clone(&self.server), self.group.clone(), self.session);
        let task = tokio::spawn(async move {
            let mut link = None;
            let mut heard = Instant::now();
            while heard.elapsed() < session {
                // Often enough that one that is lost does not matter.
                tokio::time::sleep(session / 5).await;
                let beat = heartbeat(&server, &group, &identity, &mut link);
                let beat = tokio::time::timeout(session, beat).await;
                match beat.unwrap_or_else(|_| Err(closed(&server.addresses()))) {
                    Ok(KafkaCode::NONE) => heard = Instant::now(),
                    Ok(KafkaCode::REBALANCE_IN_PROGRESS) => {
                        heard = Instant::now();
                        say.send_replace(HeartSays::JoinAgain);
                    }
                    Ok(code) if code.is_retriable() => link = None,
                    Ok(code) => {
                        tracing::debug!(%group, %code, "the coordinator does not know the member any more");
                        break;
                    }
                    Err(error) => {
                        tracing::debug!(%group, %error, "the coordinator was not told that the member lives");
                        link = None;
                    }
                }
            }
            say.send_replace(HeartSays::Lost);
        });
        GroupHeart { says, task }
    }

    /// What a refusal to join is, unless joining again is all that it takes.
    fn again(&self, code: KafkaCode, link: &KafkaLink) -> Result<(), Error> {
        let new = |name| {
            let error = Error::new(Class::Configuration, name);
            Err(error.with("group", &self.group))
        };
        match code {
            KafkaCode::INCONSISTENT_GROUP_PROTOCOL => new("kafka.group-other"),
            KafkaCode::INVALID_SESSION_TIMEOUT => new("kafka.group-session"),
            code if code.is_retriable() => Ok(()),
            code => Err(self.refused(code, link)),
        }
    }

    fn refused(&self, code: KafkaCode, link: &KafkaLink) -> Error {
        let resource = format!("--group '{}'", self.group);
        let doing = KafkaDoing {
            resource: &resource,
            operation: "Read",
            ..self.server.doing(&link.address)
        };
        refused(code, doing)
    }
}

async fn heartbeat(
    server: &KafkaServer,
    group: &str,
    identity: &MemberIdentity,
    link: &mut Option<KafkaLink>,
) -> Result<KafkaCode, Error> {
    let link = match link {
        Some(link) => link,
        None => link.insert(server.coordinator_link(group).await?),
    };
    let request = HeartbeatRequest { group, identity };
    let asked = link.call(Api::Heartbeat, |w, version| request.write(w, version));
    asked.await?.read(|r, _| read_code(r))
}

/// Leaves the group, so that its other members need not wait until this one is taken for dead.
///
/// # Errors
/// *Transient*: a broker does not answer.
pub async fn leave(
    server: &KafkaServer,
    group: &str,
    identity: &SharedIdentity,
) -> Result<(), Error> {
    let Some(member) = identity.lock().take() else {
        return Ok(());
    };
    let mut link = server.coordinator_link(group).await?;
    let request = LeaveGroupRequest {
        group,
        member: &member.id,
    };
    let asked = link.call(Api::LeaveGroup, |w, version| request.write(w, version));
    asked.await?.read(|r, _| read_code(r)).map(drop)
}

fn millis(span: Duration) -> i32 {
    i32::try_from(span.as_millis()).unwrap_or(i32::MAX)
}
