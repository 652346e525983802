//! Sends the topics under `$SYS` to the subscribers of this core.

use busbar_event::Micros;
use busbar_event::topic::Filter;

use crate::index::SubRef;
use crate::spine::{RetainedPage, Spine};
use crate::sys;

use super::Core;
use super::deliver::{RowAt, Sender, Target};

impl<S: Spine> Core<S> {
    /// Once an interval, while there is somebody to tell.
    pub(super) fn tell_sys(&mut self, now: Micros) {
        let interval = self.shared.limits.sys_interval_us;
        let since = now - self.sys_told;
        if interval == 0 || self.sys_subs == 0 || (0..interval).contains(&since) {
            return;
        }
        self.sys_told = now;
        let board = self.shared.board(self.spine.retained_count(), now);
        let info = sys::nowhere();
        let payloads = board.batch.payloads();
        let mut refs: Vec<SubRef> = Vec::new();
        let mut sender = Sender::new(
            &mut self.journal,
            &mut self.properties,
            &mut self.waiting,
            now,
        );
        for row in 0..board.batch.rows() {
            let topic = board.batch.topic(row);
            refs.clear();
            self.index.matches(topic, &mut refs);
            for of_conn in refs.chunk_by(|a, b| a.conn == b.conn) {
                let Some(Some(conn)) = self.conns.get_mut(of_conn[0].conn as usize) else {
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
                    batch: &board.batch,
                    row,
                    payload: payloads.value(row),
                };
                // Who has no room now hears of it the next time.
                let _ = target.offer(conn, &info, &at, &mut sender);
                if !conn.awake && !conn.out.is_empty() {
                    conn.awake = true;
                    self.awake.push(conn.id);
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
                let board = self.shared.board(self.spine.retained_count(), now);
                board.matching(filter, after)
            }
        }
    }

    /// A subscription to `filter` came or went.
    pub(super) fn want_sys(&mut self, filter: &Filter, comes: bool) {
        if sys::is_meant(filter) {
            self.sys_subs = match comes {
                true => self.sys_subs + 1,
                false => self.sys_subs.saturating_sub(1),
            };
        }
    }
}
