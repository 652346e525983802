//! The topics under `$SYS/broker`: what a node says of itself to those who subscribe to them.
//!
//! Names and forms are mosquitto's, because that is what stock tools and dashboards look for. The
//! values are made anew at most once an interval and only while somebody subscribes. They are in no
//! stream and on no disk, and nothing is done for them when an event passes.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use busbar_event::topic::Filter;
use busbar_event::{Batch, BatchBuilder, Flags, Micros, Row};

use busbar_gateway::reserved::{ROOT, is_own};

use crate::counters::{Census, Counters};
use busbar_gateway::event_log::{PartitionInfo, RetainedPage, RetainedRow};

/// Whether a filter asks for these topics: a wildcard in the first level never does.
pub fn is_sys_filter(filter: &Filter) -> bool {
    is_own(filter.as_str())
}

/// The values as they were at a time, in the order of their topics.
pub struct SysSnapshot {
    /// When they were made.
    pub made: Micros,
    /// One row a topic.
    pub batch: Batch,
}

impl SysSnapshot {
    /// Takes the values. `retained` is the number of topics with a retained message.
    pub fn make(c: &Counters, census: &Census, retained: usize, now: Micros) -> SysSnapshot {
        let mut rows: Vec<(&str, String)> = vec![
            ("bytes/received", c.wire_bytes_in.load(Relaxed).to_string()),
            ("bytes/sent", c.wire_bytes_out.load(Relaxed).to_string()),
            ("clients/connected", census.connected.to_string()),
            ("clients/disconnected", census.away.to_string()),
            ("clients/maximum", census.connected_most.to_string()),
            (
                "clients/total",
                (census.connected + census.away).to_string(),
            ),
            ("messages/received", c.packets_in.load(Relaxed).to_string()),
            ("messages/sent", c.packets_out.load(Relaxed).to_string()),
            (
                "publish/bytes/received",
                c.bytes_in.load(Relaxed).to_string(),
            ),
            ("publish/bytes/sent", c.bytes_out.load(Relaxed).to_string()),
            ("publish/messages/dropped", dropped(c).to_string()),
            (
                "publish/messages/received",
                c.publishes_in.load(Relaxed).to_string(),
            ),
            (
                "publish/messages/sent",
                c.publishes_out.load(Relaxed).to_string(),
            ),
            ("retained messages/count", retained.to_string()),
            (
                "shared_subscriptions/count",
                census.shared_subscriptions.to_string(),
            ),
            ("subscriptions/count", census.subscriptions.to_string()),
            (
                "uptime",
                format!("{} seconds", (now - census.started).max(0) / 1_000_000),
            ),
            (
                "version",
                concat!("busbar ", env!("CARGO_PKG_VERSION")).into(),
            ),
        ];
        rows.sort_unstable();
        let mut builder = BatchBuilder::new();
        for (name, value) in &rows {
            let topic = builder.topic_id(&format!("{ROOT}/broker/{name}"));
            builder.push(Row {
                topic,
                key: None,
                time: now,
                client: None,
                flags: Flags::default().with_retain(true),
                tags: &[],
                payload: value.as_bytes(),
            });
        }
        SysSnapshot {
            made: now,
            batch: builder.finish(),
        }
    }

    /// The rows that match `filter`, behind topic `after`, as retained messages.
    pub fn matching(&self, filter: &Filter, after: Option<&str>) -> RetainedPage {
        let rows = (0..self.batch.rows())
            .filter(|row| {
                let topic = self.batch.topic(*row);
                after.is_none_or(|after| topic > after) && filter.matches(topic)
            })
            .map(|row| RetainedRow {
                batch: self.batch.clone(),
                row,
                stream: ROOT.into(),
            })
            .collect();
        RetainedPage { rows, next: None }
    }
}

/// What stands in for the partition that these topics do not have.
pub fn no_partition() -> PartitionInfo {
    PartitionInfo {
        number: u32::MAX,
        name: Arc::from(ROOT),
        stream: Arc::from(ROOT),
        captures: Vec::new(),
    }
}

fn dropped(c: &Counters) -> u64 {
    [&c.publishes_refused, &c.expired, &c.too_large]
        .iter()
        .map(|count| count.load(Relaxed))
        .sum()
}
