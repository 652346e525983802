//! What was seen of the node last, for all who ask or listen.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use busbar_flow::DeadRetention;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::limits::SPARK_SECONDS;
use crate::picture::{Live, Rates};

/// Pictures of the node.
pub(crate) struct Feed {
    live: watch::Sender<Bytes>,
    overview: Mutex<Bytes>,
    latest: Mutex<Option<Arc<Live>>>,
    rates: Mutex<Lines>,
    /// Events a second that each source brought.
    sources: Mutex<HashMap<String, f64>>,
    dead: AtomicU64,
    dead_retention: Mutex<DeadRetention>,
}

/// The last minute of each stream and of each flow, by name, oldest first.
#[derive(Default)]
struct Lines {
    streams: BTreeMap<String, VecDeque<u64>>,
    flows: BTreeMap<String, VecDeque<u64>>,
}

impl Default for Feed {
    fn default() -> Self {
        Feed {
            live: watch::Sender::new(Bytes::from_static(b": busbar\n\n")),
            overview: Mutex::default(),
            latest: Mutex::default(),
            rates: Mutex::default(),
            sources: Mutex::default(),
            dead: AtomicU64::new(0),
            dead_retention: Mutex::default(),
        }
    }
}

impl Feed {
    /// The newest picture, and each one after it.
    pub(crate) fn listen(&self) -> watch::Receiver<Bytes> {
        self.live.subscribe()
    }

    /// The newest overview as JSON.
    pub(crate) fn overview(&self) -> Bytes {
        self.overview.lock().clone()
    }

    /// The newest state, for callers that may see a part of it; none before the first.
    pub(crate) fn latest(&self) -> Option<Arc<Live>> {
        self.latest.lock().clone()
    }

    /// Rates of the last minute.
    pub(crate) fn rates(&self) -> Rates {
        let lines = self.rates.lock();
        let plain = |lines: &BTreeMap<String, VecDeque<u64>>| {
            let plain = |(name, line): (&String, &VecDeque<u64>)| {
                (name.clone(), line.iter().copied().collect())
            };
            lines.iter().map(plain).collect()
        };
        Rates {
            step_s: 1,
            streams: plain(&lines.streams),
            flows: plain(&lines.flows),
        }
    }

    /// Events a second that a source brought.
    pub(crate) fn source_rate(&self, name: &str) -> f64 {
        self.sources.lock().get(name).copied().unwrap_or(0.0)
    }

    /// Dead letters that wait to be looked at, as counted last.
    pub(crate) fn dead(&self) -> u64 {
        self.dead.load(Ordering::Relaxed)
    }

    /// How long dead letters are kept, as determined last.
    pub(crate) fn dead_retention(&self) -> DeadRetention {
        self.dead_retention.lock().clone()
    }

    /// Takes over how many dead letters wait, and how long they are kept.
    pub(crate) fn set_dead(&self, count: u64, retention: DeadRetention) {
        self.dead.store(count, Ordering::Relaxed);
        *self.dead_retention.lock() = retention;
    }

    /// Takes over how many events a second each source brought.
    pub(crate) fn set_source_rates(&self, rates: HashMap<String, f64>) {
        *self.sources.lock() = rates;
    }

    /// Takes over a picture: everyone who listens has it next.
    pub(crate) fn show(&self, live: Live) {
        {
            let mut lines = self.rates.lock();
            let streams = live.overview.streams.iter();
            grow(&mut lines.streams, streams.map(|s| (&*s.name, s.rate)));
            let flows = live.overview.flows.iter();
            grow(&mut lines.flows, flows.map(|f| (f.name(), f.rate())));
        }
        let short = serde_json::to_vec(&live.overview).unwrap_or_default();
        *self.overview.lock() = short.into();
        let event = live.to_event();
        *self.latest.lock() = Some(Arc::new(live));
        if let Some(event) = event {
            self.live.send_replace(event);
        }
    }
}

/// Adds a second to each line; a line whose name is gone goes too.
fn grow<'a>(
    lines: &mut BTreeMap<String, VecDeque<u64>>,
    now: impl Iterator<Item = (&'a str, u64)>,
) {
    let mut old = std::mem::take(lines);
    for (name, rate) in now {
        let (name, mut line) = old
            .remove_entry(name)
            .unwrap_or_else(|| (name.to_owned(), VecDeque::new()));
        if line.len() == SPARK_SECONDS {
            line.pop_front();
        }
        line.push_back(rate);
        lines.insert(name, line);
    }
}
