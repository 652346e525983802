//! Requests to the server, and its refusals.

use std::collections::BTreeMap;

use busbar_connector::{Escape, Service as _, ServiceAnswer, ServiceContext, ServiceRequest};
use busbar_event::{Class, Error, quote};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::ClickHouseOptions;
use super::limits::{ANSWER_BYTES_MAX, PLAIN_STATEMENT_BYTES};
use crate::http::{AnswerPieces, HttpClient, Remote, shown_url};
use crate::places::Places;
use crate::reason::reason;
use crate::secret::Secret;

/// A database that is asked.
pub struct ClickHouseLink {
    http: HttpClient,
    database: String,
    /// The server's address, for messages.
    pub url: String,
}

impl ClickHouseLink {
    /// Reads secrets and authorities. Connects to nobody.
    ///
    /// # Errors
    /// *Configuration*.
    pub async fn open(
        options: &ClickHouseOptions,
        context: &ServiceContext,
        places: &Places,
    ) -> Result<ClickHouseLink, Error> {
        let mut headers = BTreeMap::new();
        if let Some(user) = &options.user {
            let user = Secret::Text(user.clone());
            headers.insert("X-ClickHouse-User".to_owned(), user);
        }
        if let Some(password) = &options.password {
            headers.insert("X-ClickHouse-Key".to_owned(), password.clone());
        }
        let remote = Remote {
            url: &options.url,
            headers: &headers,
            tls: options.tls.as_ref(),
            timeout: options.timeout.as_duration(),
            alpn: b"http/1.1",
            answer_most: ANSWER_BYTES_MAX,
        };
        Ok(ClickHouseLink {
            http: HttpClient::open(remote, context, places).await?,
            database: options.database.clone(),
            url: shown_url(&options.url),
        })
    }

    /// Runs a statement; what it answers.
    ///
    /// # Errors
    /// *Transient* without an answer; else as the server's refusal is.
    pub async fn run(
        &self,
        statement: &str,
        parameters: &[(&str, &str)],
        data: Bytes,
    ) -> Result<Bytes, Error> {
        let mut path = self.path();
        for (name, value) in parameters {
            path.push_str("&param_");
            Escape::Percent.write(name, &mut path);
            path.push('=');
            Escape::Percent.write(&escaped(value), &mut path);
        }
        // Where there are data, they are the body.
        let rows = !data.is_empty();
        let body = match rows {
            false => Bytes::copy_from_slice(statement.as_bytes()),
            true => {
                path.push_str("&query=");
                Escape::Percent.write(statement, &mut path);
                data
            }
        };
        self.send(path, body, rows).await
    }

    /// Runs a statement of a flow or a query, whose values may be at fault. An answer with rows begins with a line of their
    /// names and one of their types; any other one is empty.
    ///
    /// # Errors
    /// As [`ClickHouseLink::run`].
    pub async fn ask(&self, statement: &str) -> Result<AnswerPieces, Error> {
        let mut path = self.path();
        path.push_str("&default_format=TabSeparatedWithNamesAndTypes&date_time_output_format=iso");
        if statement.len() > PLAIN_STATEMENT_BYTES {
            path.push_str(&format!("&max_query_size={}", statement.len() + 1));
        }
        let body = Bytes::copy_from_slice(statement.as_bytes());
        let answer = self.http.in_pieces(&asked(path, body)).await?;
        answer.map_err(|answer| self.refused(&answer, true))
    }

    /// What requests go through.
    pub(super) fn client(&self) -> &HttpClient {
        &self.http
    }

    /// A line of an answer is larger than an answer may be.
    pub fn too_large(&self) -> Error {
        self.http.too_large()
    }

    fn path(&self) -> String {
        // With `wait_end_of_query` an error in the middle of an answer is not hidden behind its beginning.
        let mut path = "/?wait_end_of_query=1&database=".to_owned();
        Escape::Percent.write(&self.database, &mut path);
        path
    }

    /// `values`: values were sent, which may be at fault.
    async fn send(&self, path: String, body: Bytes, values: bool) -> Result<Bytes, Error> {
        let answer = self.http.exchange(&asked(path, body)).await?;
        match answer.status {
            200 => Ok(answer.body),
            _ => Err(self.refused(&answer, values)),
        }
    }

    /// Runs a statement that answers with rows.
    ///
    /// # Errors
    /// As [`ClickHouseLink::run`].
    pub async fn rows<T: DeserializeOwned>(
        &self,
        statement: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Vec<T>, Error> {
        let statement = format!(
            "{statement} SETTINGS output_format_json_quote_64bit_integers=0 FORMAT JSONEachRow"
        );
        let body = self.run(&statement, parameters, Bytes::new()).await?;
        let rows = serde_json::Deserializer::from_slice(&body).into_iter();
        rows.collect::<Result<_, _>>()
            .map_err(|_| self.strange(&body))
    }

    /// An answer that is none of this kind of server.
    pub fn strange(&self, body: &[u8]) -> Error {
        let start = String::from_utf8_lossy(&body[..body.len().min(100)]).into_owned();
        Error::new(Class::Configuration, "clickhouse.strange")
            .with("url", &self.url)
            .with("said", quote(&start))
    }

    fn refused(&self, answer: &ServiceAnswer, values: bool) -> Error {
        let text = String::from_utf8_lossy(&answer.body);
        let number = answer.headers.get("x-clickhouse-exception-code");
        let number = number.and_then(|number| number.to_str().ok()?.parse().ok());
        // Also behind a proxy that drops the header.
        let number = number.or_else(|| {
            let (number, _) = text.strip_prefix("Code: ")?.split_once('.')?;
            number.parse().ok()
        });
        let (class, code) = match told(number, answer.status) {
            (Class::Permanent, _) if !values => (Class::Configuration, "clickhouse.refused"),
            told => told,
        };
        let said = match text.trim() {
            "" => answer.status.to_string(),
            said => reason(said),
        };
        Error::new(class, code)
            .with("url", &self.url)
            .with("database", &self.database)
            .with("said", said)
    }
}

fn asked(path: String, body: Bytes) -> ServiceRequest {
    ServiceRequest {
        method: "POST".to_owned(),
        path,
        headers: Vec::new(),
        body,
        statement: None,
    }
}

/// The class and the message of a refusal, by the server's number of it.
fn told(number: Option<u32>, status: u16) -> (Class, &'static str) {
    match (number, status) {
        // Values that cannot be read, are out of range, are null, or break a constraint.
        (
            Some(
                6 | 26 | 27 | 38 | 41 | 53 | 69 | 72 | 131 | 349 | 376 | 407 | 441 | 457 | 467
                | 469 | 675 | 676 | 691,
            ),
            _,
        ) => (Class::Permanent, "clickhouse.row"),
        (Some(192..=194 | 516), _) | (None, 401) => {
            (Class::Configuration, "clickhouse.credentials")
        }
        (Some(164 | 497), _) | (None, 403) => (Class::Configuration, "clickhouse.rights"),
        // Tables, columns and statements.
        (Some(10 | 16 | 36 | 42 | 43 | 44 | 46 | 47 | 48 | 60 | 62 | 81 | 115 | 456), _) => {
            (Class::Configuration, "clickhouse.refused")
        }
        (Some(_), _) | (None, 408 | 425 | 429 | 500..) => (Class::Transient, "clickhouse.for-now"),
        _ => (Class::Configuration, "clickhouse.refused"),
    }
}

/// The value of a parameter, which the server reads as a field of TabSeparated: unescaped it would take `C:\new` for another
/// text, and refuse one with a tab.
fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\");
    value.replace('\t', "\\t").replace('\n', "\\n")
}

/// A name in a statement.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A text in a statement.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_come_as_they_are() {
        assert_eq!(escaped("C:\\new"), r"C:\\new");
        assert_eq!(escaped("a\tb\nc"), r"a\tb\nc");
        assert_eq!(escaped("\\N"), r"\\N");
    }

    #[test]
    fn what_a_refusal_is_decides_what_is_done() {
        for (number, status, class) in [
            (Some(27), 400, Class::Permanent),
            (Some(349), 500, Class::Permanent),
            (Some(516), 403, Class::Configuration),
            (Some(60), 404, Class::Configuration),
            (Some(241), 500, Class::Transient),
            (Some(252), 500, Class::Transient),
            (None, 502, Class::Transient),
            (None, 404, Class::Configuration),
        ] {
            assert_eq!(told(number, status).0, class, "{number:?} {status}");
        }
    }
}
