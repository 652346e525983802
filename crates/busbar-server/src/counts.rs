//! What the HTTP side counts.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;

/// Counts of answers, by class of status.
#[derive(Default)]
pub(crate) struct Answers {
    counts: [AtomicU64; 5],
    pub(crate) limited: AtomicU64,
}

impl Answers {
    pub(crate) fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.counts[class].fetch_add(1, Ordering::Relaxed);
    }

    /// Class (`2xx`) and count.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(
            self.counts
                .iter()
                .map(|count| count.load(Ordering::Relaxed)),
        )
    }
}

/// Counts of events delivered over HTTP.
#[derive(Default)]
pub(crate) struct Delivered(AtomicU64);

impl Delivered {
    pub(crate) fn add(&self, events: usize) {
        self.0.fetch_add(events as u64, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the port counts.
#[derive(Default)]
pub(crate) struct PortStats {
    pub(crate) open: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
}
