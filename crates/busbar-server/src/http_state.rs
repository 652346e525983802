//! What the HTTP side of a node shares: its counts and its bounds.

use std::sync::Arc;

use busbar_catalog::Config;
use tokio::sync::Semaphore;

use crate::body::Bodies;
use crate::counts::{Answers, Delivered, PortStats};
use crate::limits::{LIVE_LISTENERS_MAX, SUBSCRIPTIONS_MAX};

/// Counts and bounds of the HTTP side.
pub(crate) struct HttpState {
    pub(crate) answers: Answers,
    pub(crate) delivered: Delivered,
    pub(crate) port: Arc<PortStats>,
    pub(crate) bodies: Bodies,
    /// Requests handled at the same time; others wait.
    pub(crate) turns: Semaphore,
    /// Live subscriptions.
    pub(crate) subscriptions: Arc<Semaphore>,
    /// Listeners of the live overview.
    pub(crate) listeners: Arc<Semaphore>,
}

impl HttpState {
    /// Nothing is counted yet.
    pub(crate) fn new(config: &Config) -> HttpState {
        let requests = (config.http.requests as usize).clamp(1, Semaphore::MAX_PERMITS);
        HttpState {
            answers: Answers::default(),
            delivered: Delivered::default(),
            port: Arc::default(),
            bodies: Bodies::default(),
            turns: Semaphore::new(requests),
            subscriptions: Arc::new(Semaphore::new(SUBSCRIPTIONS_MAX)),
            listeners: Arc::new(Semaphore::new(LIVE_LISTENERS_MAX)),
        }
    }
}
