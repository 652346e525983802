//! Pages of documents, as searches answer with them.

use serde::Deserialize;
use serde_json::value::RawValue;

/// The answer to a search.
#[derive(Deserialize)]
pub struct DocumentPage<'a> {
    #[serde(borrow)]
    pub hits: Hits<'a>,
    /// Where a further page is asked for, where that was wanted.
    #[serde(rename = "_scroll_id", default)]
    pub scroll: Option<String>,
    #[serde(default)]
    timed_out: bool,
    #[serde(rename = "_shards", default)]
    shards: Shards,
}

#[derive(Default, Deserialize)]
struct Shards {
    #[serde(default)]
    failed: u64,
}

#[derive(Deserialize)]
pub struct Hits<'a> {
    #[serde(borrow)]
    pub hits: Vec<Hit<'a>>,
}

/// A document.
#[derive(Deserialize)]
pub struct Hit<'a> {
    #[serde(rename = "_index")]
    pub index: String,
    #[serde(rename = "_id")]
    pub id: String,
    #[serde(rename = "_source", borrow, default)]
    pub source: Option<&'a RawValue>,
    #[serde(borrow, default)]
    sort: Option<&'a RawValue>,
}

impl DocumentPage<'_> {
    /// Whether documents of some shards are missing.
    pub fn is_partial(&self) -> bool {
        self.timed_out || self.shards.failed > 0
    }
}

impl Hit<'_> {
    /// The sort values in the server's own words, for numbers may have more digits than others keep.
    pub fn sort(&self) -> &str {
        self.sort.map_or("null", RawValue::get)
    }
}

/// What a search does not do unless it is told: fail where it cannot ask all shards.
pub const WHOLE: &str = "allow_partial_search_results=false";
