//! What the gateway counts.

use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;

use crate::registry::Shared;

/// A picture of the gateway's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Connections now.
    pub connections: u64,
    /// Protocol now, connected or not.
    pub sessions: u64,
    /// Connections since the start.
    pub connections_total: u64,
    /// Connections refused or closed for a fault.
    pub refusals_total: u64,
    /// Publishes taken.
    pub publishes_in_total: u64,
    /// Payload bytes taken.
    pub bytes_in_total: u64,
    /// Publishes refused.
    pub publishes_refused_total: u64,
    /// Logins refused.
    pub logins_refused_total: u64,
    /// Messages sent.
    pub publishes_out_total: u64,
    /// Messages not sent because they had expired.
    pub expired_total: u64,
    /// Messages not sent because they were too large for the client.
    pub too_large_total: u64,
}

impl Stats {
    pub(crate) fn of(shared: &Shared) -> Stats {
        let c = &shared.counters;
        Stats {
            connections: shared.admissions.connections() as u64,
            sessions: shared.sessions() as u64,
            connections_total: shared.admissions.accepted(),
            refusals_total: c.refusals.load(Relaxed),
            publishes_in_total: c.publishes_in.load(Relaxed),
            bytes_in_total: c.bytes_in.load(Relaxed),
            publishes_refused_total: c.publishes_refused.load(Relaxed),
            logins_refused_total: c.logins_refused.load(Relaxed),
            publishes_out_total: c.publishes_out.load(Relaxed),
            expired_total: c.expired.load(Relaxed),
            too_large_total: c.too_large.load(Relaxed),
        }
    }
}
