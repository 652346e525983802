//! Sessions read from disk when a node starts. All their clients are away.

use busbar_event::Micros;
use bytes::Bytes;

use crate::core::{parse_session_key, session_key};
use crate::group::restore_groups;
use crate::registry::Shared;
use crate::state::Session;

/// Enters the sessions of `records`, which come in the order of their keys; `group_record` gives a
/// shared subscription's own record. A session whose connection the node saw ending lives from then
/// on, any other from `now`. Returns the keys of records that a later session of the same client has
/// replaced: a crash came before they were deleted.
pub fn restore_sessions(
    shared: &Shared,
    records: impl IntoIterator<Item = (Bytes, Bytes)>,
    group_record: impl Fn(&str) -> Option<Vec<u8>>,
    now: Micros,
) -> Vec<Bytes> {
    let mut stale = Vec::new();
    let mut last: Option<Session> = None;
    for (key, record) in records {
        let session = parse_session_key(&key)
            .and_then(|(client, born)| Session::decode(client.into(), born, &record));
        let Some(session) = session else {
            tracing::error!(key = %String::from_utf8_lossy(&key), "a session record is damaged");
            continue;
        };
        match last.replace(session) {
            Some(older) if last.as_ref().is_some_and(|s| s.client == older.client) => {
                stale.push(session_key(&older));
            }
            Some(other) => restore_one(shared, other, &group_record, now),
            None => {}
        }
    }
    if let Some(session) = last {
        restore_one(shared, session, &group_record, now);
    }
    stale
}

fn restore_one(
    shared: &Shared,
    session: Session,
    group_record: impl Fn(&str) -> Option<Vec<u8>>,
    now: Micros,
) {
    restore_groups(shared, &session, group_record);
    let ended = session.ended.unwrap_or(now);
    let will_at = session.will_at(ended);
    let expires_at = session.expires_at(ended);
    shared.restore(Box::new(session), will_at, expires_at);
}
