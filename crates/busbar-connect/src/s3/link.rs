//! Requests to the service.

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_connector::{Escape, Service as _, ServiceAnswer, ServiceContext, ServiceRequest};
use busbar_event::{Class, Error, quote};
use busbar_log::Clock;
use busbar_xml::XmlDocument;
use bytes::Bytes;

use super::S3Options;
use super::limits::{ANSWER_BYTES_MAX, CREATE_TRIES_MAX, LISTED_MAX};
use super::sign::{Signed, Signer, query_text};
use crate::http::{HttpClient, Remote, shown_url};
use crate::places::Places;
use crate::reason::reason;

const MARK_POSITION: &str = "x-amz-meta-busbar-position";
const MARK_WRITER: &str = "x-amz-meta-busbar-writer";

/// A bucket that is read and written.
pub struct S3Link {
    http: HttpClient,
    signer: Option<Signer>,
    clock: Arc<dyn Clock>,
    /// The path of the address, before that of the bucket.
    base: String,
    pub url: String,
    pub bucket: String,
}

/// An object in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub size: u64,
    pub etag: String,
}

/// A request of an object or of the bucket.
#[derive(Clone, Copy, Debug, Default)]
struct BucketRequest<'a> {
    method: &'a str,
    key: &'a str,
    query: &'a [(&'a str, String)],
    headers: &'a [(&'a str, String)],
    /// Metadata, see [`Signed::marks`].
    marks: &'a [(&'a str, String)],
}

/// What an object that Busbar has written says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMark {
    /// The position behind its rows.
    pub position: u64,
    /// The sink that has written it.
    pub writer: String,
}

impl S3Link {
    /// Reads secrets and authorities. Connects to nobody.
    ///
    /// # Errors
    /// *Configuration*.
    pub async fn open(
        options: &S3Options,
        context: &ServiceContext,
        places: &Places,
    ) -> Result<S3Link, Error> {
        let uri: http::Uri = options
            .url
            .parse()
            .map_err(|_| Error::new(Class::Configuration, "connect.http-url"))?;
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let (given, project) = (options.clone(), Arc::clone(&context.project_dir));
        let allowed = places.clone();
        // Some secrets stand in files.
        let read = tokio::task::spawn_blocking(move || {
            let (Some(access), Some(secret)) = (&given.access_key, &given.secret_key) else {
                return Ok(None);
            };
            Ok::<_, Error>(Some(Signer {
                access_key: access.read(&project, &allowed)?,
                secret_key: secret.read(&project, &allowed)?,
                region: given.region,
                host,
            }))
        });
        let signer = read
            .await
            .map_err(|why| Error::new(Class::Transient, "connect.failed-within").caused_by(why))?;
        let headers = BTreeMap::new();
        let remote = Remote {
            url: &options.url,
            headers: &headers,
            tls: options.tls.as_ref(),
            timeout: options.timeout.as_duration(),
            alpn: b"http/1.1",
            answer_most: ANSWER_BYTES_MAX,
        };
        Ok(S3Link {
            http: HttpClient::open(remote, context, places).await?,
            signer: signer?,
            clock: Arc::clone(&context.clock),
            base: uri.path().trim_end_matches('/').to_owned(),
            url: shown_url(&options.url),
            bucket: options.bucket.clone(),
        })
    }

    async fn ask(&self, asked: BucketRequest<'_>, body: Bytes) -> Result<ServiceAnswer, Error> {
        let mut path = String::from("/");
        Escape::Percent.write(&self.bucket, &mut path);
        for part in asked.key.split('/').filter(|_| !asked.key.is_empty()) {
            path.push('/');
            Escape::Percent.write(part, &mut path);
        }
        let mut headers: Vec<(String, String)> = asked
            .headers
            .iter()
            .chain(asked.marks)
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        if let Some(signer) = &self.signer {
            headers.extend(signer.headers(Signed {
                method: asked.method,
                path: &format!("{}{path}", self.base),
                query: asked.query,
                marks: asked.marks,
                body: &body,
                now_micros: self.clock.now_micros(),
            }));
        }
        if !asked.query.is_empty() {
            path.push('?');
            path.push_str(&query_text(asked.query));
        }
        let request = ServiceRequest {
            method: asked.method.to_owned(),
            path,
            headers,
            body,
            statement: None,
        };
        self.http.exchange(&request).await
    }

    /// Creates an object, whole or not at all; false where there is one with its key.
    ///
    /// # Errors
    /// *Transient*, or *configuration* where the service refuses.
    pub async fn create(&self, key: &str, mark: &ObjectMark, body: Bytes) -> Result<bool, Error> {
        let asked = BucketRequest {
            method: "PUT",
            key,
            headers: &[
                ("Content-Type", "application/x-ndjson".to_owned()),
                ("If-None-Match", "*".to_owned()),
            ],
            marks: &[
                (MARK_POSITION, mark.position.to_string()),
                (MARK_WRITER, mark.writer.clone()),
            ],
            ..BucketRequest::default()
        };
        let answer = self.ask(asked, body).await?;
        match answer.status {
            200..=299 => Ok(true),
            412 => Ok(false),
            // It knows no conditions.
            501 => Err(self.no_conditions(key)),
            _ => Err(self.refused(&answer, key)),
        }
    }

    /// What an object says of itself.
    ///
    /// # Errors
    /// As [`S3Link::create`]; *configuration* where it says nothing.
    pub async fn mark(&self, key: &str) -> Result<ObjectMark, Error> {
        let asked = BucketRequest {
            method: "HEAD",
            key,
            ..BucketRequest::default()
        };
        let answer = self.ask(asked, Bytes::new()).await?;
        match answer.status {
            200..=299 => {}
            // Removed since it was listed.
            404 => {
                return Err(Error::new(Class::Transient, "s3.for-now")
                    .with("url", &self.url)
                    .with("bucket", &self.bucket)
                    .with("key", key)
                    .with("said", "404"));
            }
            _ => return Err(self.refused(&answer, key)),
        }
        let text = |name| answer.headers.get(name)?.to_str().ok();
        let position = text(MARK_POSITION).and_then(|position| position.parse().ok());
        let Some(position) = position else {
            return Err(Error::new(Class::Configuration, "s3.no-position")
                .with("bucket", &self.bucket)
                .with("key", key));
        };
        Ok(ObjectMark {
            position,
            writer: text(MARK_WRITER).unwrap_or_default().to_owned(),
        })
    }

    /// The service replaces an object although it is told not to.
    pub fn no_conditions(&self, key: &str) -> Error {
        Error::new(Class::Configuration, "s3.no-conditions")
            .with("url", &self.url)
            .with("bucket", &self.bucket)
            .with("key", key)
    }

    /// Many objects are there that were not when the sink looked last.
    pub fn taken_for_now(&self, key: &str) -> Error {
        Error::new(Class::Transient, "s3.for-now")
            .with("url", &self.url)
            .with("bucket", &self.bucket)
            .with("key", key)
            .with("said", "412")
    }

    /// The service says of one object after the other that it is there, and does not list them.
    pub fn always_there(&self, key: &str) -> Error {
        Error::new(Class::Configuration, "s3.always-there")
            .with("url", &self.url)
            .with("bucket", &self.bucket)
            .with("key", key)
            .with("tries", CREATE_TRIES_MAX)
    }

    /// Some bytes of an object; none when it is gone or another one is in its place.
    ///
    /// # Errors
    /// As [`S3Link::create`].
    pub async fn piece(&self, object: &Listed, from: u64, to: u64) -> Result<Option<Bytes>, Error> {
        let headers = [
            ("Range", format!("bytes={from}-{}", to.saturating_sub(1))),
            ("If-Match", object.etag.clone()),
        ];
        let asked = BucketRequest {
            method: "GET",
            key: &object.key,
            headers: &headers,
            ..BucketRequest::default()
        };
        let answer = self.ask(asked, Bytes::new()).await?;
        let length = usize::try_from(to - from).unwrap_or(usize::MAX);
        match answer.status {
            200..=299 if answer.body.len() == length => Ok(Some(answer.body)),
            200..=299 => Err(self.strange(&answer.body)),
            404 if error_code(&answer.body).0 == "NoSuchKey" => Ok(None),
            412 => Ok(None),
            _ => Err(self.refused(&answer, &object.key)),
        }
    }

    /// The objects behind a key, in the order of their keys, and whether there are more.
    ///
    /// # Errors
    /// As [`S3Link::create`]. *Configuration*: the service lists other objects, or in another order, so that who goes on behind the
    /// last one would not come to an end, or would pass some over.
    pub async fn list(
        &self,
        prefix: &str,
        after: &str,
        flat: bool,
    ) -> Result<(Vec<Listed>, bool), Error> {
        let mut query = Vec::new();
        if flat {
            query.push(("delimiter", "/".to_owned()));
        }
        query.push(("list-type", "2".to_owned()));
        query.push(("max-keys", LISTED_MAX.to_string()));
        query.push(("prefix", prefix.to_owned()));
        if !after.is_empty() {
            query.push(("start-after", after.to_owned()));
        }
        let asked = BucketRequest {
            method: "GET",
            query: &query,
            ..BucketRequest::default()
        };
        let answer = self.ask(asked, Bytes::new()).await?;
        if answer.status != 200 {
            return Err(self.refused(&answer, prefix));
        }
        let list = read_list(&answer.body).ok_or_else(|| self.strange(&answer.body))?;
        self.check_list(&list, prefix, after)?;
        Ok((list.objects, list.more))
    }

    /// Sees that a list is what was asked for.
    fn check_list(&self, list: &ObjectList, prefix: &str, after: &str) -> Result<(), Error> {
        let wrong = |code| {
            Error::new(Class::Configuration, code)
                .with("url", &self.url)
                .with("bucket", &self.bucket)
        };
        let mut before = after;
        for Listed { key, .. } in &list.objects {
            if !key.starts_with(prefix) {
                let error = wrong("s3.list-prefix").with("key", quote(key));
                return Err(error.with("prefix", quote(prefix)));
            }
            if key.as_str() <= before {
                let error = wrong("s3.list-order").with("key", quote(key));
                return Err(error.with("before", quote(before)));
            }
            before = key;
        }
        match list.more && list.objects.is_empty() && !list.has_folders {
            true => Err(wrong("s3.list-empty").with("before", quote(after))),
            false => Ok(()),
        }
    }

    fn strange(&self, body: &[u8]) -> Error {
        let start = String::from_utf8_lossy(&body[..body.len().min(100)]).into_owned();
        Error::new(Class::Configuration, "s3.strange")
            .with("url", &self.url)
            .with("said", quote(&start))
    }

    /// The error of an answer that refuses a request.
    fn refused(&self, answer: &ServiceAnswer, key: &str) -> Error {
        let (name, message) = error_code(&answer.body);
        let (class, code) = match (answer.status, name.as_str()) {
            (408 | 409 | 425 | 429, _) => (Class::Transient, "s3.for-now"),
            (501, _) => (Class::Configuration, "s3.refused"),
            (500.., _) => (Class::Transient, "s3.for-now"),
            (_, "RequestTimeTooSkewed") => (Class::Configuration, "s3.clock"),
            (_, "NoSuchBucket") => (Class::Configuration, "s3.no-bucket"),
            (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch") | (401, _) => {
                (Class::Configuration, "s3.credentials")
            }
            (403, _) => (Class::Configuration, "s3.rights"),
            (_, "AuthorizationHeaderMalformed" | "PermanentRedirect") | (301 | 307, _) => {
                (Class::Configuration, "s3.region")
            }
            _ => (Class::Configuration, "s3.refused"),
        };
        let said = format!("{} {name} {message}", answer.status);
        Error::new(class, code)
            .with("url", &self.url)
            .with("bucket", &self.bucket)
            .with("key", key)
            .with("said", reason(&said))
    }
}

/// The name and the message of an error's document; empty where there is none.
fn error_code(body: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(body);
    let Ok(document) = XmlDocument::of(&text) else {
        return (String::new(), String::new());
    };
    let part = |name| {
        let element = document.element()?;
        let child = document.child(element, name)?;
        Some(document.value(child).to_owned())
    };
    (
        part("Code").unwrap_or_default(),
        part("Message").unwrap_or_default(),
    )
}

/// What the service lists.
struct ObjectList {
    objects: Vec<Listed>,
    /// Keys with a `/` behind the prefix were put together to folders, which count as objects of the list.
    has_folders: bool,
    more: bool,
}

fn read_list(body: &[u8]) -> Option<ObjectList> {
    let document = XmlDocument::of(std::str::from_utf8(body).ok()?).ok()?;
    let element = document.element()?;
    if document.local_name(element) != "ListBucketResult" {
        return None;
    }
    let text = |node, name| Some(document.value(document.child(node, name)?).to_owned());
    let (mut objects, mut has_folders) = (Vec::new(), false);
    for node in document.children(element) {
        match document.local_name(node) {
            "Contents" => objects.push(Listed {
                key: text(node, "Key")?,
                size: text(node, "Size")?.parse().ok()?,
                etag: text(node, "ETag")?,
            }),
            "CommonPrefixes" => has_folders = true,
            _ => {}
        }
    }
    let more = text(element, "IsTruncated").is_some_and(|more| more == "true");
    Some(ObjectList {
        objects,
        has_folders,
        more,
    })
}
