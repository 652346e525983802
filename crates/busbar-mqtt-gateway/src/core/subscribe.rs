//! SUBSCRIBE and UNSUBSCRIBE.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use busbar_mqtt::control::{RetainHandling, Subscribe, SubscribeOptions, Unsubscribe};
use busbar_mqtt::{Reason, Refusal, Result, encode};

use crate::conn::RetainedTask;
use crate::group::Group;
use crate::state::{Positions, Sub, split_share};
use busbar_gateway::ConnId;
use busbar_gateway::Reach;
use busbar_gateway::event_log::EventLog;
use busbar_gateway::index::SubRef;

use super::{Core, LocalGroup};

impl<S: EventLog> Core<S> {
    pub(super) fn subscribe(&mut self, id: ConnId, packet: Subscribe) -> Result<()> {
        self.check_answer(id, packet.filters.len())?;
        let mut reasons = Vec::with_capacity(packet.filters.len());
        let mut tasks = Vec::new();
        for (text, options) in &packet.filters {
            let id_of_sub = packet.subscription_id.unwrap_or(0);
            let shared = Arc::clone(&self.shared);
            let text = shared.limits.topics.filter(text);
            reasons.push(self.subscribe_one(id, &text, *options, id_of_sub, &mut tasks)?);
        }
        let gate = self.gate(id);
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        let version = conn.version;
        conn.out.append(gate, |out| {
            encode::suback(version, packet.packet_id, &reasons, out)
        });
        conn.retained.extend(tasks);
        self.wake(id);
        self.pump(id);
        Ok(())
    }

    /// Refuses a request whose answer the client could not take.
    fn check_answer(&mut self, id: ConnId, filters: usize) -> Result<()> {
        let fits = self
            .conn(id)
            .is_none_or(|c| encode::suback_len(c.version, filters) <= c.packet_out_max);
        match fits {
            true => Ok(()),
            false => Err(Refusal::new(
                Reason::PACKET_TOO_LARGE,
                "the answer is larger than the client takes",
            )),
        }
    }

    fn subscribe_one(
        &mut self,
        id: ConnId,
        text: &str,
        options: SubscribeOptions,
        id_of_sub: u32,
        tasks: &mut Vec<RetainedTask>,
    ) -> Result<Reason> {
        let max = self.shared.limits.subscriptions_per_session_max;
        let (share, filter) = split_share(text)
            .map_err(|reason| Refusal::new(reason, "topic filter is not a filter"))?;
        if share.is_some() && options.no_local {
            return Err(Refusal::protocol("no-local on a shared subscription"));
        }
        self.freshen();
        // What was committed up to now is not delivered.
        let mut since = Positions::default();
        for reader in self.delivery.readers.iter().flatten() {
            if reader.info.may_match(&filter) {
                since.insert(
                    Arc::clone(&reader.info.name),
                    self.log.end(reader.info.number),
                );
            }
        }
        let Some(conn) = self.conn(id) else {
            return Ok(Reason::UNSPECIFIED_ERROR);
        };
        let reach = conn
            .identity
            .as_ref()
            .map_or(Reach::None, |i| i.may_subscribe(&filter));
        if reach == Reach::None {
            return Ok(Reason::NOT_AUTHORIZED);
        }
        let Some(session) = conn.session.as_mut() else {
            return Ok(Reason::UNSPECIFIED_ERROR);
        };
        let known = session.by_text.get(text).copied();
        let is_new = known.is_none();
        let slot = match known {
            Some(slot) => {
                if let Some(Some(sub)) = session.subs.get_mut(slot as usize) {
                    sub.options = options;
                    sub.id = id_of_sub;
                    sub.reach = reach;
                }
                self.delivery.index.touch();
                slot
            }
            None => {
                if session.by_text.len() >= max {
                    return Ok(Reason::QUOTA_EXCEEDED);
                }
                let sub = Sub {
                    text: text.into(),
                    filter: filter.clone(),
                    share: share.clone(),
                    options,
                    id: id_of_sub,
                    since,
                    reach,
                };
                // Whoever subscribes to much is not searched for a free slot each time.
                let free = match session.by_text.len() < session.subs.len() {
                    true => session.subs.iter().position(Option::is_none),
                    false => None,
                };
                let slot = free.unwrap_or_else(|| {
                    session.subs.push(None);
                    session.subs.len() - 1
                });
                session.by_text.insert(Arc::clone(&sub.text), slot as u32);
                session.subs[slot] = Some(sub);
                self.shared.subscriptions.fetch_add(1, Ordering::Relaxed);
                self.join(id, slot as u32, true);
                slot as u32
            }
        };
        let send = match options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::DoNotSend => false,
        };
        if send && share.is_none() {
            tasks.push(RetainedTask {
                sub: slot,
                after: None,
            });
        }
        Ok(Reason(options.qos))
    }

    pub(super) fn unsubscribe(&mut self, id: ConnId, packet: Unsubscribe) -> Result<()> {
        self.check_answer(id, packet.filters.len())?;
        let mut reasons = Vec::with_capacity(packet.filters.len());
        let shared = Arc::clone(&self.shared);
        for text in &packet.filters {
            let text = &*shared.limits.topics.filter(text);
            split_share(text)
                .map_err(|reason| Refusal::new(reason, "topic filter is not a filter"))?;
            let slot = self
                .conn(id)
                .and_then(|c| c.session.as_ref())
                .and_then(|s| s.by_text.get(text).copied());
            let Some(slot) = slot else {
                reasons.push(Reason::NO_SUBSCRIPTION_EXISTED);
                continue;
            };
            self.part(id, slot, true);
            if let Some(conn) = self.conn(id) {
                conn.retained.retain(|task| task.sub != slot);
                if let Some(session) = conn.session.as_mut() {
                    session.by_text.remove(text);
                    session.subs[slot as usize] = None;
                    self.shared.subscriptions.fetch_sub(1, Ordering::Relaxed);
                }
            }
            reasons.push(Reason::SUCCESS);
        }
        let gate = self.gate(id);
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        let version = conn.version;
        conn.out.append(gate, |out| {
            encode::unsuback(version, packet.packet_id, &reasons, out)
        });
        self.wake(id);
        Ok(())
    }

    /// Enters all subscriptions of a session that was attached.
    pub(super) fn join_all(&mut self, id: ConnId) {
        for slot in self.slots_of(id) {
            self.join(id, slot, false);
        }
    }

    /// Takes out all subscriptions of a connection.
    pub(super) fn part_all(&mut self, id: ConnId, ends: bool) {
        for slot in self.slots_of(id) {
            self.part(id, slot, ends);
        }
    }

    fn slots_of(&mut self, id: ConnId) -> Vec<u32> {
        match self.conn(id).and_then(|c| c.session.as_ref()) {
            Some(session) => session.live_subs().map(|(slot, _)| slot).collect(),
            None => Vec::new(),
        }
    }

    fn sub_of(&mut self, id: ConnId, slot: u32) -> Option<Sub> {
        self.conn(id)?
            .session
            .as_ref()?
            .subs
            .get(slot as usize)?
            .clone()
    }

    fn join(&mut self, id: ConnId, slot: u32, is_new: bool) {
        let Some(sub) = self.sub_of(id, slot) else {
            return;
        };
        if sub.share.is_none() {
            self.delivery.index.insert(
                sub.filter.as_str(),
                SubRef {
                    conn: id.slot,
                    sub: slot,
                },
            );
            self.want_sys(&sub.filter, true);
            return self.want(&sub.filter, true);
        }
        let group = self.shared.group(&sub.text, || {
            Group::new(Arc::clone(&sub.text), sub.filter.clone(), sub.since.clone())
        });
        {
            let mut group = group.lock();
            group.join(self.number, id);
            group.sessions += usize::from(is_new);
        }
        match self.groups.local.iter_mut().find(|g| g.text == sub.text) {
            Some(local) => local.members.push(id),
            None => self.groups.local.push(LocalGroup {
                text: Arc::clone(&sub.text),
                group,
                members: vec![id],
                saved: Vec::new(),
            }),
        }
    }

    fn part(&mut self, id: ConnId, slot: u32, ends: bool) {
        let Some(sub) = self.sub_of(id, slot) else {
            return;
        };
        if sub.share.is_none() {
            self.delivery.index.remove(
                sub.filter.as_str(),
                SubRef {
                    conn: id.slot,
                    sub: slot,
                },
            );
            self.want_sys(&sub.filter, false);
            return self.want(&sub.filter, false);
        }
        let Some(at) = self.groups.local.iter().position(|g| g.text == sub.text) else {
            return;
        };
        let local = &mut self.groups.local[at];
        local.members.retain(|m| *m != id);
        let group = Arc::clone(&local.group);
        if local.members.is_empty() {
            self.groups.local.swap_remove(at);
        }
        group.lock().leave(self.number, id);
        if ends {
            self.end_membership(&sub.text);
        }
        self.wake_group(&sub.text);
    }

    /// A session that subscribed to a group no longer does.
    pub(super) fn end_membership(&mut self, text: &Arc<str>) {
        let Some(group) = self.shared.existing_group(text) else {
            return;
        };
        let over = {
            let mut group = group.lock();
            group.sessions = group.sessions.saturating_sub(1);
            group.sessions == 0
        };
        if over {
            self.shared.drop_group(text);
            self.journal.delete_group(text);
        }
    }
}
