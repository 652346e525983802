//! Replies that came when nobody waited any more: they are events of their stream, and are found there by what identifies
//! the request.

use std::collections::BTreeSet;

use busbar_bus::{Stream, StreamPartition};
use busbar_catalog::ApiRequest;
use busbar_event::{Class, Error};

use super::replies::{ApiReply, request_of};
use crate::limits::{API_ANSWER_READ_BYTES, API_ANSWER_SCAN_EVENTS_MAX, REPLY_CLOCK_MICROS};

/// When a request of an API was made, in microseconds since 1970, by its identifier; none for a text that is none, and for one of
/// another API, which not everybody may call who may call this one.
pub(crate) fn asked_at(api: &str, id: &str) -> Option<i64> {
    let mut parts = id.split('-');
    let (run, time, random) = (parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let fits = run.len() == 16 && random.len() == 32 && is_hex(run) && is_hex(random);
    let fits = fits && random.ends_with(&api_digits(api));
    let micros = i64::from_str_radix(time, 16).ok()?;
    (fits && parts.next().is_none() && micros >= 0).then_some(micros)
}

/// The hexadecimal digits that identifiers of an API's requests end with: its name by FNV-1a, with 32 bits.
pub(super) fn api_digits(api: &str) -> String {
    let fold = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    format!("{:08x}", api.bytes().fold(0x811c_9dc5, fold))
}

/// The first reply to a request that was made at `since`. Blocks on the disk.
///
/// # Errors
/// `server.api-answer-far` where there are more events since then than are looked at; what the disk says.
pub(crate) fn find_reply(
    stream: &Stream,
    request: &ApiRequest,
    (id, since): (&str, i64),
) -> Result<Option<ApiReply>, Error> {
    let fields: BTreeSet<String> = request.id.iter().cloned().collect();
    let mut looked_at = 0;
    for partition in stream.partitions().iter() {
        let found = find_in(partition, &fields, (id, since), &mut looked_at)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn find_in(
    partition: &StreamPartition,
    fields: &BTreeSet<String>,
    (id, since): (&str, i64),
    looked_at: &mut u64,
) -> Result<Option<ApiReply>, Error> {
    let since = since.saturating_sub(REPLY_CLOCK_MICROS);
    let mut at = partition.offset_at_time(since)?.max(partition.start());
    let end = partition.end();
    while at < end {
        let chunks = partition.read(at, API_ANSWER_READ_BYTES)?;
        let Some(next) = chunks.last().map(busbar_bus::Chunk::end) else {
            break;
        };
        for chunk in &chunks {
            let batch = &chunk.batch;
            let mut rows = 0..batch.rows();
            let found = rows.find(|row| request_of(batch, *row, fields, |of| of == id).is_some());
            if let Some(row) = found {
                return Ok(Some(ApiReply::of(batch, row)));
            }
        }
        *looked_at += next - at;
        at = next;
        if *looked_at > API_ANSWER_SCAN_EVENTS_MAX {
            return Err(Error::new(Class::Permanent, "server.api-answer-far")
                .with("request", id)
                .with("stream", partition.stream())
                .with("most", API_ANSWER_SCAN_EVENTS_MAX));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_says_when_the_request_was_made() {
        assert_eq!(api_digits("a"), "e40c292c");
        let (run, random) = ("0123456789abcdef", "0123456789abcdef01234567e40c292c");
        for (id, micros) in [
            (format!("{run}-5f5e100-{random}"), Some(100_000_000)),
            (format!("{run}-{random}"), None),
            (format!("{run}--{random}"), None),
            (format!("{run}--1-{random}"), None),
            (format!("{run}-ffffffffffffffff-{random}"), None),
            (format!("{run}-1-{random}-"), None),
            (format!("{run}-1-{random}0"), None),
            (format!("{}-1-{random}", &run[1..]), None),
            (format!("{run}-1-{}'", &random[1..]), None),
            (String::new(), None),
        ] {
            assert_eq!(asked_at("a", &id), micros, "{id}");
            assert_eq!(asked_at("b", &id), None, "{id}");
        }
    }
}
