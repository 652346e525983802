//! Signatures of requests, version 4.

use std::fmt::Write as _;

use busbar_connector::Escape;
use ring::{digest, hmac};

/// Who signs.
#[derive(Clone)]
pub struct Signer {
    pub access_key: String,
    pub secret_key: String,
    pub region: String,
    /// The host and, unless it is the usual one, the port, as they stand in the request.
    pub host: String,
}

/// What is signed.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    pub method: &'a str,
    /// Percent-encoded.
    pub path: &'a str,
    /// Names and values, in the order of the names.
    pub query: &'a [(&'a str, String)],
    /// Metadata of an object: names in small letters that begin with `x-amz-meta-`, in their order, and values.
    pub marks: &'a [(&'a str, String)],
    pub body: &'a [u8],
    pub now_micros: i64,
}

impl Signer {
    /// The headers that a request needs.
    pub fn headers(&self, signed: Signed<'_>) -> Vec<(String, String)> {
        let time = basic_time(signed.now_micros);
        let day = &time[..8];
        let body = hex(digest::digest(&digest::SHA256, signed.body).as_ref());
        let mut names = "host;x-amz-content-sha256;x-amz-date".to_owned();
        let mut marks = String::new();
        for (name, value) in signed.marks {
            // Writing to a text does not fail.
            let _ = write!(names, ";{name}");
            let _ = writeln!(marks, "{name}:{value}");
        }
        let request = format!(
            "{}\n{}\n{}\nhost:{}\nx-amz-content-sha256:{body}\nx-amz-date:{time}\n{marks}\n{names}\n{body}",
            signed.method,
            signed.path,
            query_text(signed.query),
            self.host
        );
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let request = hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{request}");
        let mut key = format!("AWS4{}", self.secret_key).into_bytes();
        for part in [day, &self.region, "s3", "aws4_request"] {
            key = keyed(&key, part);
        }
        let signature = hex(&keyed(&key, &text));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={signature}",
            self.access_key
        );
        vec![
            ("x-amz-content-sha256".to_owned(), body),
            ("x-amz-date".to_owned(), time),
            ("Authorization".to_owned(), authorization),
        ]
    }
}

/// A query as it is sent and signed.
pub fn query_text(query: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (name, value) in query {
        if !text.is_empty() {
            text.push('&');
        }
        Escape::Percent.write(name, &mut text);
        text.push('=');
        Escape::Percent.write(value, &mut text);
    }
    text
}

fn keyed(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A time as `20130524T000000Z`.
fn basic_time(micros: i64) -> String {
    let seconds = micros.div_euclid(1_000_000);
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years that begin in March have their leap day at the end.
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!(
        "{year:04}{month:02}{date:02}T{hour:02}{minute:02}{:02}Z",
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_827_696, "20000229T123456Z"),
            (1_369_353_600, "20130524T000000Z"),
            (4_107_542_399, "21000228T235959Z"),
        ] {
            assert_eq!(basic_time(seconds * 1_000_000), text);
        }
    }

    /// The example of a list in the service's documentation of signatures.
    #[test]
    fn a_signature_is_that_of_the_documentation() {
        let signer = Signer {
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            region: "us-east-1".into(),
            host: "examplebucket.s3.amazonaws.com".into(),
        };
        let headers = signer.headers(Signed {
            method: "GET",
            path: "/",
            query: &[("max-keys", "2".to_owned()), ("prefix", "J".to_owned())],
            marks: &[],
            body: b"",
            now_micros: 1_369_353_600_000_000,
        });
        let authorization = &headers[2].1;
        assert!(
            authorization.ends_with(
                "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
            ),
            "{authorization}"
        );
    }
}
