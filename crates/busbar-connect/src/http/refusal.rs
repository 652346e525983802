//! Answers that are not taken, and when to ask again.

use std::time::{Duration, SystemTime};

use busbar_event::{Class, Error, Micros};
use http::{HeaderMap, StatusCode, header};

use crate::limits::HTTP_RETRY_AFTER_MAX;
use crate::reason::reason;

/// The error of an answer with this status, these headers and the beginning of this body.
pub(crate) fn refused(
    class: Class,
    url: &str,
    (status, headers, said): (u16, &HeaderMap, &str),
    now: Micros,
) -> Error {
    let said = reason(said);
    let code = match said.is_empty() {
        true => "connect.http-refused-silently",
        false => "connect.http-refused",
    };
    let known = StatusCode::from_u16(status).ok();
    let known = known.and_then(|status| status.canonical_reason());
    let error = Error::new(class, code)
        .with("url", url)
        .with("status", status)
        .with("reason", known.unwrap_or_default())
        .with("said", said);
    match asked_pause(status, headers, now) {
        Some(wait) => error.with_retry_after(wait),
        None => error,
    }
}

/// The pause that an answer asks for, where its status lets it.
pub(crate) fn asked_pause(status: u16, headers: &HeaderMap, now: Micros) -> Option<Duration> {
    match status {
        429 | 503 => retry_after(headers, now),
        _ => None,
    }
}

/// The pause that a response asks for in `Retry-After`: seconds, or a date relative to the `Date` of the response. `None`
/// when it is neither; at most [`HTTP_RETRY_AFTER_MAX`].
fn retry_after(headers: &HeaderMap, now: Micros) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let asked = text(header::RETRY_AFTER)?;
    let wait = if asked.bytes().all(|byte| byte.is_ascii_digit()) && !asked.is_empty() {
        // A number that overflows is a long time too.
        Duration::from_secs(asked.parse().unwrap_or(u64::MAX))
    } else {
        let until = httpdate::parse_http_date(asked).ok()?;
        let now = text(header::DATE)
            .and_then(|date| httpdate::parse_http_date(date).ok())
            .unwrap_or_else(|| {
                SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(now).unwrap_or(0))
            });
        until.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(HTTP_RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_ask_for_patience() {
        const AT: Micros = 784_111_777_000_000; // Sun, 06 Nov 1994 08:49:37 GMT
        let of = |after: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, after.parse().expect("a value"));
            if let Some(date) = date {
                headers.insert(header::DATE, date.parse().expect("a value"));
            }
            retry_after(&headers, AT).map(|wait| wait.as_secs())
        };
        let most = HTTP_RETRY_AFTER_MAX.as_secs();
        for (after, date, wait) in [
            ("0", None, Some(0)),
            ("120", None, Some(120)),
            ("99999999999999999999999", None, Some(most)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", None, Some(10)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", None, Some(10)),
            ("Sun Nov  6 08:49:47 1994", None, Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", None, Some(0)),
            ("Fri, 31 Dec 1999 23:59:59 GMT", None, Some(most)),
            // Its clock is an hour behind ours; it means ten seconds.
            (
                "Sun, 06 Nov 1994 07:49:47 GMT",
                Some("Sun, 06 Nov 1994 07:49:37 GMT"),
                Some(10),
            ),
            ("soon", None, None),
            ("-3", None, None),
            ("1.5", None, None),
            ("", None, None),
        ] {
            assert_eq!(of(after, date), wait, "{after} {date:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), AT), None);
    }
}
