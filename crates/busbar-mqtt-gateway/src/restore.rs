//! Protocol read from disk when a node starts. All their clients are away.

use std::sync::Arc;

use busbar_event::Micros;
use bytes::Bytes;

use crate::core::{parse_session_key, session_key};
use crate::group::Group;
use crate::registry::Shared;
use crate::state::{Positions, Session, Source};

/// Enters the sessions of `records`, which come in the order of their keys; `group_record` gives a
/// shared subscription's own record, and `ends` where the partitions end. A session whose connection the
/// node saw ending lives from then on, any other from `now`: it was connected when the node was killed, so
/// messages up to the ends may have been sent to it. Returns the keys of records that a later session of
/// the same client has replaced: a crash came before they were deleted.
pub fn restore_sessions(
    shared: &Shared,
    records: impl IntoIterator<Item = (Bytes, Bytes)>,
    group_record: impl Fn(&str) -> Option<Vec<u8>>,
    ends: &Positions,
    now: Micros,
) -> Vec<Bytes> {
    let mut stale = Vec::new();
    // Protocol of one client identifier, each of another user.
    let mut client: Vec<Session> = Vec::new();
    for (key, record) in records {
        let session =
            parse_session_key(&key).and_then(|(id, born)| Session::decode(id, born, &record));
        let Some(session) = session else {
            tracing::error!(key = %String::from_utf8_lossy(&key), "a session record is damaged");
            continue;
        };
        if client.first().is_some_and(|s| s.client != session.client) {
            for session in client.drain(..) {
                restore_one(shared, session, &group_record, ends, now);
            }
        }
        match client.iter_mut().find(|s| s.user == session.user) {
            Some(same) if same.born < session.born => {
                stale.push(session_key(&std::mem::replace(same, session)));
            }
            Some(_) => stale.push(session_key(&session)),
            None => client.push(session),
        }
    }
    for session in client {
        restore_one(shared, session, &group_record, ends, now);
    }
    stale
}

fn restore_one(
    shared: &Shared,
    mut session: Session,
    group_record: impl Fn(&str) -> Option<Vec<u8>>,
    ends: &Positions,
    now: Micros,
) {
    let was_connected = session.ended.is_none();
    if was_connected {
        let positions = &session.positions;
        let behind = |(name, end): &(&_, &u64)| positions.get(*name).is_some_and(|at| at < *end);
        let maybe_sent = ends.iter().filter(behind);
        session.maybe_sent = maybe_sent.map(|(name, end)| (name.clone(), *end)).collect();
    }
    restore_groups(
        shared,
        &session,
        group_record,
        was_connected.then_some(ends),
    );
    let ended = session.ended.unwrap_or(now);
    let will_at = session.will_at(ended);
    let expires_at = session.expires_at(ended);
    shared.restore(Box::new(session), will_at, expires_at);
}

/// Enters the shared subscriptions of a session read from disk, whose client is away. `record` gives
/// a group's own record. `maybe_sent` is where the partitions end if the session was connected when the node
/// was killed.
fn restore_groups(
    shared: &Shared,
    session: &Session,
    record: impl Fn(&str) -> Option<Vec<u8>>,
    maybe_sent: Option<&Positions>,
) {
    for (_, sub) in session.live_subs().filter(|(_, s)| s.share.is_some()) {
        let group = shared.group(&sub.text, || {
            let (text, filter) = (Arc::clone(&sub.text), sub.filter.clone());
            let since = || Group::new(Arc::clone(&sub.text), sub.filter.clone(), sub.since.clone());
            match record(&sub.text) {
                None => since(),
                Some(record) => Group::decode(text, filter, &record).unwrap_or_else(|| {
                    tracing::error!(
                        subscription = &*sub.text,
                        "the record of a shared subscription is damaged; messages come again from where it began"
                    );
                    since()
                }),
            }
        });
        let mut group = group.lock();
        if let Some(ends) = maybe_sent {
            group.set_maybe_sent(ends);
        }
        group.sessions += 1;
        for flight in session
            .in_flight
            .values()
            .filter(|f| f.group.as_ref() == Some(&sub.text))
        {
            if let Source::Log(partition, offset) = &flight.source {
                group.take(partition, *offset);
            }
        }
    }
}
