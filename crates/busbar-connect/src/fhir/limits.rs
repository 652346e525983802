//! Every bound of the FHIR connector, units last.

use std::time::Duration;

/// Bytes of one answer: a page of resources, or what became of the entries of a Bundle.
pub const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Bytes of the resources of one request, unless one resource has more.
pub const REQUEST_BYTES: usize = 4 << 20;
/// Entries of one Bundle.
pub const BUNDLE_ENTRIES_MAX: usize = 500;
/// Resources that a page may be asked for. Servers answer with fewer where they see fit.
pub const PAGE_ROWS_MAX: usize = 5_000;
/// Pages of one round. A server whose `next` links do not end is not followed further.
pub const ROUND_PAGES_MAX: usize = 1_000_000;
/// Resources of one millisecond that a search knows again; where there are more, the server's `next` links alone are followed.
pub const INSTANT_ROWS_MAX: usize = 200_000;
/// Bytes of the versions that one round of a history collects, for they come newest first.
pub const HISTORY_BYTES_MAX: usize = 256 << 20;
/// Bytes of a `next` link.
pub const LINK_BYTES_MAX: usize = 16 << 10;
/// Bytes of the searched parameters of one row (`match`).
pub const MATCH_BYTES_MAX: usize = 4 << 10;
/// The shortest pause between two rounds.
pub const EVERY_MIN: Duration = Duration::from_millis(100);
/// Types of resources that one connection reads.
pub const TYPES_MAX: usize = 32;
/// Issues of an `OperationOutcome` that are shown.
pub const ISSUES_MAX: usize = 5;
