//! The services that `call` steps ask: opened with the first call, shared by all flows, and left alone while they fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use busbar_catalog::{ConnectionSpec, TestAnswer};
use busbar_connector::{
    Admitted, AskedDatabase, Breaker, BreakerState, CallForm, Connector, Service, ServiceAnswer,
    ServiceContext, ServiceRequest, SqlService,
};
use busbar_event::{Class, Error};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value as Json;
use tokio::sync::{OnceCell, Semaphore};

use crate::limits::CALLS_IN_FLIGHT_MAX;

/// A service that `call` steps can name.
#[derive(Clone)]
pub(crate) struct KnownService {
    pub spec: ConnectionSpec,
    pub connector: Arc<dyn Connector>,
    /// How it is reached; none where a project is only checked.
    pub line: Option<Arc<ServiceLine>>,
}

/// The way to one service.
pub(crate) struct ServiceLine {
    name: Arc<str>,
    remote: RemoteService,
    permits: Semaphore,
    breaker: Breaker,
    calls: AtomicU64,
    failures: AtomicU64,
    in_flight: AtomicU32,
}

enum RemoteService {
    Opened(Box<OpenedService>),
    /// Answers that a test gives, and how often each may still be given.
    Canned(Mutex<Vec<(TestAnswer, Option<u32>)>>),
}

/// A service that is opened with the first call.
struct OpenedService {
    spec: ConnectionSpec,
    connector: Arc<dyn Connector>,
    context: ServiceContext,
    /// Where it is a database: its sessions.
    database: Option<Arc<AskedDatabase>>,
    service: OnceCell<Arc<dyn Service>>,
}

/// What a service's line is at.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceStatus {
    /// `closed` while calls pass, `open` while they wait because the service has failed several times in a row, `half-open`
    /// while one call is on trial.
    pub circuit: BreakerState,
    /// Calls since the process began.
    pub calls: u64,
    /// Those of them that failed for the moment and are tried again.
    pub failures: u64,
    /// Calls under way.
    pub in_flight: u32,
}

/// A call that was not taken.
#[derive(Debug)]
pub(crate) struct CallFailure {
    pub error: Error,
    /// The service has answered, so that it is the request that it does not want.
    pub is_answered: bool,
    /// It cannot be reached, or has said that it cannot work now, so that it may be anything but the request.
    pub is_unavailable: bool,
}

impl ServiceLine {
    /// A line to the service of a connection.
    pub fn new(
        name: &str,
        spec: ConnectionSpec,
        connector: Arc<dyn Connector>,
        context: ServiceContext,
        database: Option<Arc<AskedDatabase>>,
    ) -> ServiceLine {
        let opened = OpenedService {
            spec,
            connector,
            context,
            database,
            service: OnceCell::new(),
        };
        ServiceLine::to(name, RemoteService::Opened(Box::new(opened)))
    }

    /// A line on which a test answers.
    pub fn canned(name: &str, answers: &[TestAnswer]) -> ServiceLine {
        let answers = answers.iter().map(|answer| (answer.clone(), answer.times));
        ServiceLine::to(name, RemoteService::Canned(Mutex::new(answers.collect())))
    }

    fn to(name: &str, remote: RemoteService) -> ServiceLine {
        ServiceLine {
            name: name.into(),
            remote,
            permits: Semaphore::new(CALLS_IN_FLIGHT_MAX),
            breaker: Breaker::default(),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
        }
    }

    /// Asks for leave to call.
    ///
    /// # Errors
    /// *Transient*, with the time to wait, while the circuit is open.
    pub fn admit(&self) -> Result<Admitted<'_>, Error> {
        self.breaker.admit().map_err(|wait| {
            Error::new(Class::Transient, "flow.call-open")
                .with("connection", &self.name)
                .with_retry_after(wait)
        })
    }

    /// Makes a call and reads what it brought.
    ///
    /// # Errors
    /// As [`Service::exchange`] and [`CallForm::answer`].
    pub async fn call(
        &self,
        form: &dyn CallForm,
        request: &ServiceRequest,
    ) -> Result<Bytes, CallFailure> {
        let (service, permit) = match &self.remote {
            RemoteService::Canned(answers) => return self.answer_canned(answers, form, request),
            RemoteService::Opened(opened) => {
                // Closed only with the line itself.
                let permit = self.permits.acquire().await.ok();
                let connector = &opened.connector;
                let open = || async {
                    match &opened.database {
                        Some(database) => {
                            Ok(Arc::new(SqlService::new(Arc::clone(database))) as Arc<dyn Service>)
                        }
                        None => {
                            connector
                                .service(&opened.spec, opened.context.clone())
                                .await
                        }
                    }
                };
                let service = opened.service.get_or_try_init(open).await;
                (service.map_err(unanswered)?, permit)
            }
        };
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let _under_way = UnderWay(&self.in_flight);
        let exchanged = service.exchange(request).await;
        drop(permit);
        let answered = match exchanged {
            Ok(answer) => read(form, answer),
            Err(error) => Err(unanswered(error)),
        };
        let class = answered.as_ref().err().map(|failure| failure.error.class());
        match class {
            Some(Class::Transient) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.breaker.failed();
            }
            // A refusal comes from a service that works.
            _ => self.breaker.succeeded(),
        }
        answered
    }

    fn answer_canned(
        &self,
        answers: &Mutex<Vec<(TestAnswer, Option<u32>)>>,
        form: &dyn CallForm,
        request: &ServiceRequest,
    ) -> Result<Bytes, CallFailure> {
        let body = form.shown(request);
        let mut answers = answers.lock();
        let fits = |(answer, left): &&mut (TestAnswer, Option<u32>)| {
            *left != Some(0)
                && answer
                    .path
                    .as_ref()
                    .is_none_or(|path| *path == request.path)
                && answer
                    .request
                    .as_ref()
                    .is_none_or(|wanted| is_body(wanted, &body))
        };
        let Some((answer, left)) = answers.iter_mut().find(fits) else {
            let error = Error::new(Class::Configuration, "flow.test-no-answer")
                .with("connection", &self.name)
                .with("method", &request.method)
                .with("path", &request.path)
                .with("body", busbar_event::quote(&String::from_utf8_lossy(&body)));
            return Err(unanswered(error));
        };
        if let Some(left) = left {
            *left -= 1;
        }
        let given = answer.body.as_ref().map(|body| match body {
            Json::String(text) => text.clone().into_bytes(),
            other => other.to_string().into_bytes(),
        });
        let given = form
            .canned(answer.status, given.unwrap_or_default().into())
            .map_err(unanswered)?;
        read(form, given)
    }

    /// What it is at.
    pub fn status(&self) -> ServiceStatus {
        ServiceStatus {
            circuit: self.breaker.state(),
            calls: self.calls.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
        }
    }

    /// Whether it leads to what a connection says now.
    pub fn leads_to(&self, spec: &ConnectionSpec) -> bool {
        match &self.remote {
            RemoteService::Canned(_) => false,
            RemoteService::Opened(opened) => {
                let own = &opened.spec;
                own.kind == spec.kind && own.options.to_json() == spec.options.to_json()
            }
        }
    }
}

/// Counts a call as over, also one that is given up.
struct UnderWay<'a>(&'a AtomicU32);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What an answer brought.
fn read(form: &dyn CallForm, answer: ServiceAnswer) -> Result<Bytes, CallFailure> {
    let is_unavailable = form.is_unavailable(&answer);
    form.answer(answer).map_err(|error| CallFailure {
        error,
        is_answered: true,
        is_unavailable,
    })
}

fn unanswered(error: Error) -> CallFailure {
    CallFailure {
        error,
        is_answered: false,
        is_unavailable: true,
    }
}

fn is_body(wanted: &Json, body: &[u8]) -> bool {
    match wanted {
        Json::String(text) => text.as_bytes() == body,
        wanted => serde_json::from_slice::<Json>(body).is_ok_and(|body| body == *wanted),
    }
}

/// The services among connections, without lines.
pub(crate) fn known_services<'a>(
    connections: impl Iterator<Item = (&'a String, &'a ConnectionSpec)>,
    connectors: &busbar_connector::Connectors,
) -> BTreeMap<String, KnownService> {
    let services = connections.filter_map(|(name, spec)| {
        let connector = connectors.get(&spec.kind)?;
        let known = KnownService {
            spec: spec.clone(),
            connector: Arc::clone(connector),
            line: None,
        };
        Some((name.clone(), known))
    });
    services.collect()
}
