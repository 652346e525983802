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
use super::limits::GROUP_EVERY;
use super::link::KafkaLink;
use super::reader::Arrived;
use super::server::KafkaServer;

/// What a group is still to be told.
pub struct GroupTeller {
    state: Arc<Untold>,
    task: JoinHandle<()>,
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
    /// Begins to tell `group`; what somebody must repair is handed to `arrived`.
    pub fn new(
        server: Arc<KafkaServer>,
        group: String,
        arrived: mpsc::Sender<Arrived>,
    ) -> GroupTeller {
        let state = Arc::new(Untold::default());
        let telling = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut link = None;
            loop {
                tokio::select! {
                    () = tokio::time::sleep(GROUP_EVERY) => {}
                    () = telling.now.notified() => {}
                }
                let untold: Vec<_> = {
                    let offsets = telling.offsets.lock();
                    offsets
                        .iter()
                        .map(|(key, offset)| (key.clone(), *offset))
                        .collect()
                };
                match tell(&server, &group, &mut link, &untold).await {
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

    /// Tells what has not been told, and waits until that is done or has failed.
    pub async fn flush(&self) {
        let told = async {
            while !self.state.offsets.lock().is_empty() && !self.task.is_finished() {
                self.state.now.notify_one();
                self.state.done.notified().await;
            }
        };
        // The runtime bounds how long closing may take; the group's offsets are only shown.
        let _ = tokio::time::timeout(GROUP_EVERY, told).await;
    }
}

impl Drop for GroupTeller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tell(
    server: &KafkaServer,
    group: &str,
    link: &mut Option<KafkaLink>,
    untold: &[((Arc<str>, i32), i64)],
) -> Result<(), Error> {
    if untold.is_empty() {
        return Ok(());
    }
    let link = match link {
        Some(link) => link,
        None => {
            let mut any = server.any().await?;
            let (_, address) = server.coordinator(&mut any, group, false).await?;
            link.insert(KafkaLink::open(server, &address).await?)
        }
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
        offsets: &offsets,
    };
    let asked = link.call(Api::OffsetCommit, |w, version| request.write(w, version));
    let code = asked.await?.read(|r, _| read_offset_commit(r))?;
    match code {
        KafkaCode::NONE => Ok(()),
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
