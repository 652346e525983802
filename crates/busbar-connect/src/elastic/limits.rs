//! Every bound of the Elasticsearch connector, units last.

use std::time::Duration;

/// Bytes of one answer: a page of documents, or what became of the rows of a request.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Bytes of the rows of one request, unless one row has more. Servers take 100 MB, some hosted ones 10 MB.
pub const REQUEST_BYTES: usize = 5 << 20;
/// Rows of one request. The answers for so many fit into [`ANSWER_BYTES_MAX`] when all of them are refused.
pub const REQUEST_ROWS_MAX: usize = 2_000;
/// Bytes of a document's id, as the server limits it.
pub const ID_BYTES_MAX: usize = 512;
/// Documents that one page may have, as the server limits it by default.
pub const PAGE_ROWS_MAX: usize = 10_000 - 1;
/// The shortest pause between two searches.
pub const EVERY_MIN: Duration = Duration::from_millis(100);
/// Fields by which documents are sorted.
pub const SORT_FIELDS_MAX: usize = 8;
/// Bytes of the sort values that are kept with the position.
pub const NOTE_BYTES_MAX: usize = 4 << 10;
/// How often the server merges a row anew when another writer has changed the document meanwhile.
pub const MERGE_CONFLICTS_MAX: u32 = 5;
/// Names of documents that a connection may have for look-ups and queries.
pub const TABLES_MAX: usize = 256;
/// Values of keys in one request of a look-up: servers take at least 1,024 conditions.
pub const FIND_CLAUSES_MAX: usize = 512;
/// Documents of a page when all of them are read.
pub const SCAN_ROWS: usize = 500;
/// How long the types of the fields of a key are not asked for again.
pub const FIELDS_KEPT: Duration = Duration::from_secs(60);
