//! The project's APIs: queries, flows and orchestrations that answer HTTP requests at `/apis/NAME`, and web
//! services at `/services/NAME`.

mod document;
mod fhir;
mod late;
mod parameters;
mod replies;
mod soap;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;
use busbar_access::Role;
use busbar_bus::{Bus, Cursor};
use busbar_catalog::{ApiRequest, ApiSpec, ApiWork, Project};
use busbar_event::Error;
use busbar_event::topic::Filter;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub(crate) use document::document;
pub(crate) use fhir::{
    FHIR_JSON, FhirResources, Refused, TakenChange, TakenResource, entry_answer, member,
    member_text, refer,
};
pub(crate) use late::{asked_at, find_reply};
pub(crate) use parameters::{GivenParameters, type_name};
pub(crate) use replies::ApiReply;
use replies::{ReplyReader, ReplyWaits, random};
pub(crate) use soap::{EnvelopeVersion, SoapCall, WebFault, WebService};

/// The APIs that run.
pub(crate) struct Apis {
    bus: Bus,
    running: Mutex<BTreeMap<String, Arc<RunningApi>>>,
    pub(crate) waits: Arc<ReplyWaits>,
    /// By stream and partition. One goes on over deployments, so that no reply falls between two of them.
    readers: Mutex<BTreeMap<(String, String), JoinHandle<()>>>,
}

/// An API as it runs.
pub(crate) struct RunningApi {
    pub(crate) spec: ApiSpec,
    pub(crate) counts: Arc<ApiCounts>,
    /// Calls that may still begin.
    pub(crate) calls: Arc<Semaphore>,
    /// The topic that other clients reply on.
    pub(crate) reply_to: Option<String>,
}

/// Calls of an API since the node started.
#[derive(Default)]
pub(crate) struct ApiCounts {
    /// Answered with what was asked for.
    pub(crate) answered: AtomicU64,
    /// Answered without it: the reply or the end had not come in time.
    pub(crate) late: AtomicU64,
    /// Refused: a wrong parameter, too many at the same time.
    pub(crate) refused: AtomicU64,
    /// Failed within the node.
    pub(crate) failed: AtomicU64,
    last: Mutex<LastCalls>,
}

/// The calls of an API that ended last.
#[derive(Clone, Default)]
pub(crate) struct LastCalls {
    /// The last one: when, in microseconds since 1970, and the status of its answer.
    pub(crate) call: Option<(i64, StatusCode)>,
    /// The last one that was refused or failed: when, the status, and why.
    pub(crate) failure: Option<(i64, StatusCode, Error)>,
}

impl ApiCounts {
    /// The calls that ended last.
    pub(crate) fn last(&self) -> LastCalls {
        self.last.lock().clone()
    }

    /// Counts a call that ended at `now`, in microseconds since 1970: as late, or by the status of its answer.
    pub(crate) fn count(
        &self,
        now: i64,
        (status, is_late): (StatusCode, bool),
        refused: Option<Error>,
    ) {
        {
            let mut last = self.last.lock();
            last.call = Some((now, status));
            if let Some(error) = refused {
                last.failure = Some((now, status, error));
            }
        }
        let counter = match status {
            _ if is_late => &self.late,
            status if status.is_client_error() => &self.refused,
            StatusCode::SERVICE_UNAVAILABLE => &self.refused,
            status if status.is_server_error() => &self.failed,
            _ => &self.answered,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether a path is that of an API or a web service, not of the node's own.
pub(crate) fn is_call(path: &str) -> bool {
    path.starts_with("/apis/") || path.starts_with("/services/")
}

impl RunningApi {
    /// Calls under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.spec
            .calls_max()
            .saturating_sub(self.calls.available_permits())
    }

    /// The role that may call it where no rules say so.
    pub(crate) fn role(&self) -> Role {
        match self.spec.work() {
            Some(ApiWork::Query(_)) => Role::Viewer,
            _ => Role::Operator,
        }
    }
}

impl Apis {
    /// # Errors
    /// When the system gives no random bytes.
    pub(crate) fn new(bus: Bus) -> Result<Apis, Error> {
        Ok(Apis {
            bus,
            running: Mutex::default(),
            waits: Arc::new(ReplyWaits::new()?),
            readers: Mutex::default(),
        })
    }

    /// Takes over the APIs of a project whose streams run.
    pub(crate) fn apply(&self, project: &Project) {
        // The fields that replies say their request in, by stream.
        let mut streams: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut running = BTreeMap::new();
        let before = self.running.lock().clone();
        for (name, parsed) in &project.apis {
            let spec = &parsed.spec;
            if !spec.enabled {
                continue;
            }
            let mut reply_to = None;
            if let Some(ApiWork::Request(request)) = spec.work() {
                let fields = streams.entry(request.reply.clone()).or_default();
                fields.extend(request.id.clone());
                reply_to = reply_topic(project, request);
            }
            let same = before.get(name).filter(|before| before.spec == *spec);
            let calls = match same {
                Some(before) => Arc::clone(&before.calls),
                None => Arc::new(Semaphore::new(spec.calls_max())),
            };
            let counts = before.get(name).map(|before| Arc::clone(&before.counts));
            let api = RunningApi {
                spec: spec.clone(),
                counts: counts.unwrap_or_default(),
                calls,
                reply_to,
            };
            running.insert(name.clone(), Arc::new(api));
        }
        self.read_replies(streams);
        // Only now is a call answered: who replies is heard.
        *self.running.lock() = running;
    }

    fn read_replies(&self, streams: BTreeMap<String, BTreeSet<String>>) {
        let mut readers = self.readers.lock();
        let mut needed = BTreeSet::new();
        for name in streams.keys() {
            let Some(stream) = self.bus.stream(name) else {
                continue;
            };
            for partition in stream.partitions().iter() {
                let place = (name.clone(), partition.number().to_string());
                needed.insert(place.clone());
                if readers.get(&place).is_some_and(|task| !task.is_finished()) {
                    continue;
                }
                let reader = ReplyReader {
                    stream: name.clone(),
                    cursor: Cursor::new(Arc::clone(partition), partition.end()),
                    waits: Arc::clone(&self.waits),
                };
                readers.insert(place, tokio::spawn(reader.run()));
            }
        }
        readers.retain(|place, task| {
            let is_needed = needed.contains(place);
            if !is_needed {
                task.abort();
            }
            is_needed
        });
        self.waits.set_fields(streams);
    }

    /// All that run, by name.
    pub(crate) fn running(&self) -> BTreeMap<String, Arc<RunningApi>> {
        self.running.lock().clone()
    }

    /// An API that runs.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<RunningApi>> {
        self.running.lock().get(name).cloned()
    }

    /// Ends the readers; calls that wait are answered as after their time.
    pub(crate) fn shut_down(&self) {
        for task in std::mem::take(&mut *self.readers.lock()).into_values() {
            task.abort();
        }
        self.waits.clear();
    }
}

/// The topic that is told to those who reply: what the file says, or the stream's first topic without wildcards.
fn reply_topic(project: &Project, request: &ApiRequest) -> Option<String> {
    let of_stream = || {
        let stream = project.streams.get(&request.reply)?;
        let mut topics = stream.spec.topics.iter().map(Filter::as_str);
        let topic = topics.find(|topic| !topic.contains(['+', '#']))?;
        Some(topic.to_owned())
    };
    request.reply_to.clone().or_else(of_stream)
}
