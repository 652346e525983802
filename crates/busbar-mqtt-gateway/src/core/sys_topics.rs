//! Sends the topics under `$SYS` to the subscribers of this core.

use busbar_event::Micros;
use busbar_event::topic::Filter;

use crate::sys;
use busbar_gateway::event_log::{EventLog, RetainedPage};
use busbar_gateway::index::SubRef;

use super::Core;
use super::deliver::{RowAt, Sender, Target};

/// Who subscribes to the topics under `$SYS`, and when they were sent.
#[derive(Default)]
pub(super) struct SysTopics {
    /// Subscriptions of this core to these topics.
    subscriptions: usize,
    /// When the topics were sent last.
    sent_at: Micros,
}

impl<S: EventLog> Core<S> {
    /// Once an interval, while there is somebody to tell.
    pub(super) fn send_sys(&mut self, now: Micros) {
        let interval = self.shared.limits.sys_interval_us;
        let since = now - self.sys.sent_at;
        if interval == 0 || self.sys.subscriptions == 0 || (0..interval).contains(&since) {
            return;
        }
        self.sys.sent_at = now;
        let sys_snapshot = self.shared.sys_snapshot(self.log.retained_count(), now);
        let info = sys::no_partition();
        let payloads = sys_snapshot.batch.payloads();
        let mut refs: Vec<SubRef> = Vec::new();
        let mut sender = Sender::new(
            &mut self.journal,
            &mut self.delivery.properties,
            &mut self.waiting,
            now,
        );
        for row in 0..sys_snapshot.batch.rows() {
            let topic = sys_snapshot.batch.topic(row);
            refs.clear();
            self.delivery.index.matches(topic, &mut refs);
            for of_conn in refs.chunk_by(|a, b| a.conn == b.conn) {
                let Some(Some(conn)) = self.conns.slots.get_mut(of_conn[0].conn as usize) else {
                    continue;
                };
                if !conn.is_live() {
                    continue;
                }
                let subs = of_conn.iter().map(|r| r.sub);
                let Some(target) = Target::new(conn, subs, &info, topic) else {
                    continue;
                };
                let at = RowAt {
                    partition: &info.name,
                    offset: 0,
                    batch: &sys_snapshot.batch,
                    row,
                    payload: payloads.value(row),
                    maybe_sent: false,
                };
                // Who has no room now hears of it the next time.
                let _ = target.offer(conn, &info, &at, &mut sender);
                if !conn.awake && !conn.out.is_empty() {
                    conn.awake = true;
                    self.conns.awake.push(conn.id);
                }
            }
        }
        let counts = sender.counts();
        self.count_out(counts);
    }

    /// What a new subscription to these topics is told at once.
    pub(super) fn sys_page(
        &self,
        filter: &Filter,
        after: Option<&str>,
        now: Micros,
    ) -> RetainedPage {
        match self.shared.limits.sys_interval_us {
            0 => RetainedPage::default(),
            _ => {
                let sys_snapshot = self.shared.sys_snapshot(self.log.retained_count(), now);
                sys_snapshot.matching(filter, after)
            }
        }
    }

    /// A subscription to `filter` came or went.
    pub(super) fn want_sys(&mut self, filter: &Filter, comes: bool) {
        if sys::is_sys_filter(filter) {
            self.sys.subscriptions = match comes {
                true => self.sys.subscriptions + 1,
                false => self.sys.subscriptions.saturating_sub(1),
            };
        }
    }
}
