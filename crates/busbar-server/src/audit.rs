//! The audit log: who changed what, when and from where.
//!
//! Entries are in a store of the log under their number, 8 bytes big-endian, as JSON; the oldest are removed
//! when there are more than [`AUDIT_ENTRIES_MAX`]. No entry holds a password, a token or a payload.

use std::net::IpAddr;
use std::sync::Arc;

use busbar_bus::from_log;
use busbar_event::{Class, Error};
use busbar_log::{Change, Clock, Store};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::limits::{AUDIT_ENTRIES_MAX, AUDIT_SCAN_ENTRIES, AUDIT_VALUE_CHARS_MAX};

/// The audit log of a node.
pub(crate) struct AuditLog {
    store: Store,
    clock: Arc<dyn Clock>,
    /// The number of the next entry. Held while one is written, so that entries are in order.
    next: Mutex<u64>,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    UserAdd,
    UserChange,
    UserRemove,
    TokenAdd,
    TokenRemove,
    ProjectApply,
    FlowRollback,
    FlowPause,
    FlowResume,
    FlowReplay,
    PluginRollback,
    FlowRun,
    FlowRunCancel,
    DeadLettersRedrive,
    DeadLettersDiscard,
    DeadLettersEdit,
    TableRepair,
    InstanceOrder,
    EventResend,
    ConnectionSnapshot,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Action::UserAdd => "user.add",
            Action::UserChange => "user.change",
            Action::UserRemove => "user.remove",
            Action::TokenAdd => "token.add",
            Action::TokenRemove => "token.remove",
            Action::ProjectApply => "project.apply",
            Action::FlowRollback => "flow.rollback",
            Action::FlowPause => "flow.pause",
            Action::FlowResume => "flow.resume",
            Action::FlowReplay => "flow.replay",
            Action::PluginRollback => "plugin.rollback",
            Action::FlowRun => "flow.run",
            Action::FlowRunCancel => "flow.run-cancel",
            Action::DeadLettersRedrive => "dead-letters.redrive",
            Action::DeadLettersDiscard => "dead-letters.discard",
            Action::DeadLettersEdit => "dead-letters.edit",
            Action::TableRepair => "table.repair",
            Action::InstanceOrder => "instance.order",
            Action::EventResend => "event.resend",
            Action::ConnectionSnapshot => "connection.snapshot",
        }
    }
}

/// An entry as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Microseconds since 1970.
    pub time: i64,
    /// The user, or `local` on a node without users.
    pub user: String,
    /// How the user was authenticated: `password`, `session`, `token` or `local`.
    pub via: String,
    /// The id of the token, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// `console`, `cli`, `api` or `node`.
    pub origin: String,
    /// The address the request came from; none for what the node did itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// See [`Action::as_str`].
    pub action: String,
    /// The user, token, flow or version that was changed.
    pub target: String,
    /// Names and values that say more.
    #[serde(default)]
    pub detail: Vec<(String, String)>,
}

impl AuditLog {
    pub(crate) fn open(store: Store, clock: Arc<dyn Clock>) -> AuditLog {
        let mut last = None;
        store.for_each(b"", |key, _| last = last.max(number(key)));
        AuditLog {
            store,
            clock,
            next: Mutex::new(last.map_or(0, |last| last + 1)),
        }
    }

    /// Writes down what the node did itself, such as taking over files saved in the project's folder.
    pub(crate) async fn record_own(
        self: &Arc<AuditLog>,
        action: Action,
        target: String,
        detail: &[(&str, String)],
    ) {
        let entry = Entry {
            time: self.now(),
            user: String::new(),
            via: "local".to_owned(),
            token: None,
            origin: "node".to_owned(),
            peer: None,
            action: action.as_str().to_owned(),
            target,
            detail: details(detail),
        };
        self.record(entry).await;
    }

    /// Microseconds since 1970, by the clock of the log.
    pub(crate) fn now(&self) -> i64 {
        self.clock.now_micros()
    }

    /// Writes down a change that is made already, so an entry that cannot be written is logged instead.
    pub(crate) async fn record(self: &Arc<AuditLog>, entry: Entry) {
        let audit = Arc::clone(self);
        let (user, action, target) = (
            entry.user.clone(),
            entry.action.clone(),
            entry.target.clone(),
        );
        let written = tokio::task::spawn_blocking(move || audit.write(&entry)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(user, action, target, %error, "an audit entry could not be written");
            }
            Err(_) => tracing::error!(user, action, target, "an audit entry could not be written"),
        }
    }

    /// Writes an entry. Durable when it returns; waits for the disk.
    fn write(&self, entry: &Entry) -> Result<(), Error> {
        let value = serde_json::to_vec(entry).map_err(|cause| {
            Error::new(Class::Permanent, "server.unwritable-answer").with("why", cause)
        })?;
        let mut next = self.next.lock();
        let mut changes = vec![Change::Put(key(*next), value.into())];
        if let Some(old) = next.checked_sub(AUDIT_ENTRIES_MAX) {
            changes.push(Change::Delete(key(old)));
        }
        self.store.apply_sync(changes).map_err(from_log)?;
        *next += 1;
        Ok(())
    }

    /// Entries before number `before` (the newest when absent), newest first, at most `limit` of those that
    /// `fits` accepts; and where to continue, none at the end.
    pub(crate) fn page(
        &self,
        before: Option<u64>,
        limit: usize,
        fits: impl Fn(&Entry) -> bool,
    ) -> (Vec<(u64, Entry)>, Option<u64>) {
        let mut end = before.unwrap_or(u64::MAX).min(*self.next.lock());
        let mut found = Vec::new();
        while end > 0 {
            let start = end.saturating_sub(AUDIT_SCAN_ENTRIES);
            let after = start.checked_sub(1).map(key);
            let count = usize::try_from(end - start).unwrap_or(usize::MAX);
            let entries = self.store.scan(b"", after.as_deref(), count);
            let first = entries.first().and_then(|(key, _)| number(key));
            if first.is_none_or(|first| first >= end) {
                break;
            }
            for (key, value) in entries.iter().rev() {
                let Some(number) = number(key).filter(|number| *number < end) else {
                    continue;
                };
                let Ok(entry) = serde_json::from_slice::<Entry>(value) else {
                    continue;
                };
                if !fits(&entry) {
                    continue;
                }
                if found.len() == limit {
                    let next = found.last().map(|(number, _)| *number);
                    return (found, next);
                }
                found.push((number, entry));
            }
            end = start;
        }
        (found, None)
    }
}

fn key(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn number(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

/// Details without those that are empty, each cut to its bound.
pub(crate) fn details(detail: &[(&str, String)]) -> Vec<(String, String)> {
    detail
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| ((*name).to_owned(), cut(value)))
        .collect()
}

/// The text, cut to its bound.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(AUDIT_VALUE_CHARS_MAX).collect()
}
