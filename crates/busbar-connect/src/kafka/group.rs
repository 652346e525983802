//! Tells a consumer group how far partitions have been read, for others to see.

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_event::{Class, Error};
use busbar_kafka::message::{KeptOffset, OffsetCommitRequest, read_offset_commit};
use busbar_kafka::{Api, KafkaCode};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::failure::{KafkaDoing, refused};
use super::limits::{GROUP_EVERY, MEMBER_EVERY};
use super::link::KafkaLink;
use super::member::SharedIdentity;
use super::reader::Arrived;
use super::server::KafkaServer;

/// What a group is still to be told.
pub struct GroupTeller {
    state: Arc<Untold>,
    task: JoinHandle<()>,
}

/// The group, and who tells it.
pub struct ToldGroup {
    pub server: Arc<KafkaServer>,
    pub group: String,
    /// The member that this node is; none where the group has no members.
    pub member: Option<SharedIdentity>,
}

#[derive(Default)]
struct Untold {
    offsets: Mutex<BTreeMap<(Arc<str>, i32), i64>>,
    /// Asks for it to be told at once.
    now: Notify,
    /// It was.
    done: Notify,
}

impl GroupTeller {
    /// Begins to tell the group; configuration errors are handed to `arrived`.
    pub fn new(told: ToldGroup, arrived: mpsc::Sender<Arrived>) -> GroupTeller {
        let state = Arc::new(Untold::default());
        let telling = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut link = None;
            let every = match told.member {
                Some(_) => MEMBER_EVERY,
                None => GROUP_EVERY,
            };
            loop {
                tokio::select! {
                    () = tokio::time::sleep(every) => {}
                    () = telling.now.notified() => {}
                }
                let untold: Vec<_> = {
                    let offsets = telling.offsets.lock();
                    offsets
                        .iter()
                        .map(|(key, offset)| (key.clone(), *offset))
                        .collect()
                };
                match told.tell(&mut link, &untold).await {
                    Ok(()) => {
                        // What was committed here meanwhile is told the next time.
                        let mut offsets = telling.offsets.lock();
                        offsets.retain(|key, offset| {
                            !untold.iter().any(|(told, at)| told == key && at == offset)
                        });
                    }
                    Err(error) if error.class() == Class::Configuration => {
                        // Nobody listens any more where this fails.
                        let _ = arrived.send(Arrived::Failed(error)).await;
                        return;
                    }
                    Err(error) => {
                        let group = &told.group;
                        tracing::debug!(%group, %error, "the group could not be told how far it is");
                        link = None;
                    }
                }
                telling.done.notify_one();
            }
        });
        GroupTeller { state, task }
    }

    /// A partition has been read up to this offset.
    pub fn reached(&self, topic: Arc<str>, partition: i32, offset: i64) {
        self.state.offsets.lock().insert((topic, partition), offset);
    }

    /// Tells what has not been told, and waits until that is done or has failed; whether the group knows all of it.
    pub async fn flush(&self) -> bool {
        let told = async {
            while !self.state.offsets.lock().is_empty() && !self.task.is_finished() {
                self.state.now.notify_one();
                self.state.done.notified().await;
            }
        };
        // The runtime bounds how long closing may take; the group's offsets are only shown.
        let _ = tokio::time::timeout(GROUP_EVERY, told).await;
        self.state.offsets.lock().is_empty()
    }
}

impl Drop for GroupTeller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ToldGroup {
    async fn tell(
        &self,
        link: &mut Option<KafkaLink>,
        untold: &[((Arc<str>, i32), i64)],
    ) -> Result<(), Error> {
        let (server, group) = (&self.server, self.group.as_str());
        if untold.is_empty() {
            return Ok(());
        }
        let not_now = |code| {
            Error::new(Class::Transient, "kafka.group-lost")
                .with("group", group)
                .with("said", code)
        };
        let member = match &self.member {
            None => None,
            Some(member) => {
                let member = member.lock().clone();
                Some(member.ok_or_else(|| not_now(KafkaCode::UNKNOWN_MEMBER_ID))?)
            }
        };
        let link = match link {
            Some(link) => link,
            None => link.insert(server.coordinator_link(group).await?),
        };
        let offsets: Vec<_> = untold
            .iter()
            .map(|((topic, partition), offset)| KeptOffset {
                topic: Arc::clone(topic),
                partition: *partition,
                offset: *offset,
                note: String::new(),
            })
            .collect();
        let request = OffsetCommitRequest {
            group,
            member: member.as_ref(),
            offsets: &offsets,
        };
        let asked = link.call(Api::OffsetCommit, |w, version| request.write(w, version));
        let code = asked.await?.read(|r, _| read_offset_commit(r))?;
        match code {
            KafkaCode::NONE => Ok(()),
            // The partitions may be those of another member by now, which has begun at what was told before.
            KafkaCode::UNKNOWN_MEMBER_ID | KafkaCode::ILLEGAL_GENERATION if member.is_some() => {
                Err(not_now(code))
            }
            // Others are members of it.
            KafkaCode::UNKNOWN_MEMBER_ID | KafkaCode::ILLEGAL_GENERATION => {
                Err(Error::new(Class::Configuration, "kafka.group-in-use").with("group", group))
            }
            code => {
                let resource = format!("--group '{group}'");
                let doing = KafkaDoing {
                    resource: &resource,
                    operation: "Read",
                    ..server.doing(&link.address)
                };
                Err(refused(code, doing))
            }
        }
    }
}
