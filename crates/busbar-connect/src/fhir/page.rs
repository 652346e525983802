//! Pages of resources: Bundles of the types `searchset` and `history`.

use busbar_event::format::{JsonParts, json_unquote};
use serde::Deserialize;
use serde_json::value::RawValue;

/// A Bundle, as far as it is read.
#[derive(Debug, Deserialize)]
pub struct Page<'a> {
    #[serde(rename = "resourceType", default)]
    pub resource_type: String,
    #[serde(default)]
    link: Vec<PageLink>,
    #[serde(borrow, default)]
    pub entry: Vec<PageEntry<'a>>,
}

#[derive(Debug, Deserialize)]
struct PageLink {
    #[serde(default)]
    relation: String,
    #[serde(default)]
    url: String,
}

/// One resource, or one version of it.
#[derive(Debug, Deserialize)]
pub struct PageEntry<'a> {
    #[serde(rename = "fullUrl", default)]
    full_url: Option<String>,
    #[serde(borrow, default)]
    pub resource: Option<&'a RawValue>,
    #[serde(default)]
    search: EntrySearch,
    #[serde(default)]
    request: EntryRequest,
    #[serde(default)]
    response: EntryResponse,
}

#[derive(Debug, Default, Deserialize)]
struct EntrySearch {
    #[serde(default)]
    mode: String,
}

#[derive(Debug, Default, Deserialize)]
struct EntryRequest {
    #[serde(default)]
    method: String,
    #[serde(default)]
    url: String,
}

#[derive(Debug, Default, Deserialize)]
struct EntryResponse {
    #[serde(default)]
    etag: Option<String>,
    #[serde(rename = "lastModified", default)]
    last_modified: Option<String>,
}

/// What every resource says of itself, as far as it is read.
#[derive(Debug, Deserialize)]
struct ResourceHead {
    #[serde(rename = "resourceType", default)]
    resource_type: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    meta: HeadMeta,
}

#[derive(Debug, Default, Deserialize)]
struct HeadMeta {
    #[serde(rename = "versionId", default)]
    version: Option<String>,
    #[serde(rename = "lastUpdated", default)]
    last_updated: Option<String>,
}

/// A version of a resource: the event that is made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub resource_type: String,
    pub id: String,
    pub change: VersionChange,
    pub version: Option<String>,
    /// When it was written, in microseconds since 1970, where the server says so. Some do not of deletions.
    pub at: Option<i64>,
    /// By what versions of a history are put in order, as far as it is known: when it, or the one before it, was written.
    pub order: i64,
    /// Whether it is there because another resource refers to it (`_include`).
    pub is_included: bool,
    /// The resource as it came; of a deleted one its type, id and meta.
    pub payload: Vec<u8>,
}

/// What happened to the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionChange {
    /// It was read as it is.
    Read,
    Create,
    Update,
    Delete,
}

impl VersionChange {
    /// As change sources write it.
    pub fn as_str(self) -> &'static str {
        match self {
            VersionChange::Read => "read",
            VersionChange::Create => "insert",
            VersionChange::Update => "update",
            VersionChange::Delete => "delete",
        }
    }
}

impl Page<'_> {
    /// The link to the next page.
    pub fn next(&self) -> Option<&str> {
        let next = self.link.iter().find(|link| link.relation == "next");
        next.map(|link| link.url.as_str())
    }

    /// Whether the server says that it has sorted the resources by the time of their changes: it names the parameters that it
    /// has taken into account.
    pub fn is_sorted(&self) -> bool {
        let mut own = self.link.iter().filter(|link| link.relation == "self");
        own.any(|link| link.url.contains("_sort=_lastUpdated"))
    }

    /// The versions of a page, in its order; the first entry that is none is an error, by its number.
    pub fn versions(&self) -> Result<Vec<Version>, usize> {
        let entries = self.entry.iter().enumerate();
        let versions = entries.filter_map(|(number, entry)| match entry.version() {
            Entry::Version(version) => Some(Ok(*version)),
            Entry::Remark => None,
            Entry::Strange => Some(Err(number)),
        });
        versions.collect()
    }
}

enum Entry {
    Version(Box<Version>),
    /// What the server says of the search.
    Remark,
    Strange,
}

impl PageEntry<'_> {
    fn version(&self) -> Entry {
        let Some(resource) = self.resource else {
            return self.deleted();
        };
        let Ok(head) = serde_json::from_str::<ResourceHead>(resource.get()) else {
            return Entry::Strange;
        };
        if self.search.mode == "outcome" || head.resource_type == "OperationOutcome" {
            return Entry::Remark;
        }
        let (false, Some(id)) = (head.resource_type.is_empty(), head.id) else {
            return Entry::Strange;
        };
        let at = head
            .meta
            .last_updated
            .or(self.response.last_modified.clone());
        Entry::Version(Box::new(Version {
            resource_type: head.resource_type,
            id,
            change: match self.request.method.as_str() {
                "POST" => VersionChange::Create,
                "PUT" | "PATCH" if head.meta.version.as_deref() == Some("1") => {
                    VersionChange::Create
                }
                "PUT" | "PATCH" => VersionChange::Update,
                "DELETE" => return self.deleted(),
                _ => VersionChange::Read,
            },
            version: head.meta.version,
            at: at.and_then(|at| busbar_event::time::parse(&at)),
            order: 0,
            is_included: self.search.mode == "include",
            payload: resource.get().as_bytes().to_vec(),
        }))
    }

    /// A version without a resource: it was deleted.
    fn deleted(&self) -> Entry {
        if self.request.method != "DELETE" {
            return Entry::Strange;
        }
        // `Patient/7`, `Patient/7/_history/2`, or the same behind an address.
        let whole = match (&self.full_url, self.request.url.as_str()) {
            (Some(url), "") => url.as_str(),
            (_, url) => url,
        };
        let path = whole.split(['?', '#']).next().unwrap_or_default();
        let mut parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        let mut version = self.response.etag.as_deref().map(etag);
        if let [.., "_history", number] = parts[..] {
            version = version.or(Some(number));
            parts.truncate(parts.len() - 2);
        }
        let [.., kind, id] = parts[..] else {
            return Entry::Strange;
        };
        if !busbar_event::format::is_resource_type(kind) || !busbar_event::format::is_fhir_id(id) {
            return Entry::Strange;
        }
        let at = self.response.last_modified.as_deref();
        let mut payload = serde_json::json!({ "resourceType": kind, "id": id });
        if let Some(version) = version {
            payload["meta"]["versionId"] = version.into();
        }
        if let Some(at) = at {
            payload["meta"]["lastUpdated"] = at.into();
        }
        Entry::Version(Box::new(Version {
            resource_type: kind.to_owned(),
            id: id.to_owned(),
            change: VersionChange::Delete,
            version: version.map(str::to_owned),
            at: at.and_then(busbar_event::time::parse),
            order: 0,
            is_included: false,
            payload: payload.to_string().into_bytes(),
        }))
    }
}

/// The version within an entity tag, `W/"3"`.
fn etag(tag: &str) -> &str {
    tag.trim_start_matches("W/").trim_matches('"')
}

/// The text of a top-level member of a resource.
pub fn text_of(resource: &str, name: &str) -> Option<String> {
    let mut found = None;
    let read = JsonParts::new(resource).object(|key, place| {
        if found.is_none() && json_unquote(key).as_deref() == Some(name) {
            found = json_unquote(&resource[place]).map(|text| text.into_owned());
        }
    });
    read.ok().and(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type and id, change and version of each.
    fn versions(entries: &str) -> Result<Vec<String>, usize> {
        let text = format!(r#"{{"resourceType":"Bundle","type":"history","entry":[{entries}]}}"#);
        let page: Page<'_> = serde_json::from_str(&text).expect("a page");
        let versions = page.versions()?.into_iter();
        Ok(versions
            .map(|v| {
                let version = v.version.as_deref().unwrap_or("-");
                format!(
                    "{}/{} {} {version}",
                    v.resource_type,
                    v.id,
                    v.change.as_str()
                )
            })
            .collect())
    }

    #[test]
    fn entries_are_versions() {
        let read = versions(
            r#"{"resource":{"resourceType":"Patient","id":"a","meta":{"versionId":"3"}},"request":{"method":"PUT","url":"Patient/a"}},
               {"resource":{"resourceType":"Patient","id":"b","meta":{"versionId":"1"}},"request":{"method":"PUT","url":"Patient/b"}},
               {"resource":{"resourceType":"OperationOutcome"},"search":{"mode":"outcome"}},
               {"fullUrl":"http://x/fhir/Patient/a","request":{"method":"DELETE","url":"Patient/a/_history/4"}},
               {"request":{"method":"DELETE","url":"http://x/fhir/Patient/c"},"response":{"etag":"W/\"2\""}},
               {"resource":{"resourceType":"Patient","id":"d"}}"#,
        );
        let told = [
            "Patient/a update 3",
            "Patient/b insert 1",
            "Patient/a delete 4",
            "Patient/c delete 2",
            "Patient/d read -",
        ];
        assert_eq!(read, Ok(told.map(str::to_owned).to_vec()));
        for strange in [
            r#"{}"#,
            r#"{"resource":{"id":"a"}}"#,
            r#"{"resource":{"resourceType":"Patient"}}"#,
            r#"{"request":{"method":"DELETE","url":"Patient"}}"#,
            r#"{"request":{"method":"DELETE","url":"Patent/1"}}"#,
            r#"{"request":{"method":"GET","url":"Patient/1"}}"#,
        ] {
            assert_eq!(versions(strange), Err(0), "{strange}");
        }
    }
}
