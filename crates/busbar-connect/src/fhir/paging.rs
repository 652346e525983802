//! Pages of a search by the time of the last change.
//!
//! Many servers count the rows of a page from the first one that the search finds now. A resource that changes between two
//! pages is not found any more, all others move up by one, and the `next` link leads behind one that nobody has read. So the next
//! page is a search of its own, from the time of the last resource. Only where a whole page is of one millisecond the links are
//! followed, until the search finds the same resources of it twice in succession.

use std::collections::{BTreeMap, BTreeSet};

use super::limits::INSTANT_ROWS_MAX;
use super::page::Version;

/// Where the next page begins.
pub(super) struct PageKey {
    /// The time from which resources are read, in microseconds since 1970 to the millisecond; none from the first one on.
    from: Option<i64>,
    /// The resources that have come since, with the times of their changes.
    seen: BTreeMap<String, i64>,
    /// Those of the time `from` that the search has found since it began there.
    found: BTreeSet<String>,
    /// The same of the search before.
    before: Option<BTreeSet<String>>,
    /// Whether this search has gone on by a link, behind some of the time `from`.
    is_linked: bool,
    /// The last time of the page.
    last: Option<i64>,
    /// The last time of what has come by this search.
    sorted: Option<i64>,
    is_sorted: bool,
    /// There are too many resources of one time.
    is_full: bool,
}

/// A time in microseconds, to the millisecond: no server keeps more.
pub(super) fn to_milliseconds(micros: i64) -> i64 {
    micros - micros.rem_euclid(1_000)
}

impl PageKey {
    pub fn new(from: Option<i64>) -> PageKey {
        let from = from.map(to_milliseconds);
        PageKey {
            from,
            seen: BTreeMap::new(),
            found: BTreeSet::new(),
            before: None,
            is_linked: false,
            last: None,
            sorted: from,
            is_sorted: true,
            is_full: false,
        }
    }

    /// Whether resources have come in the order of their changes.
    pub fn is_sorted(&self) -> bool {
        self.is_sorted
    }

    /// The time before which all resources have come; none where that is not known yet.
    pub fn from(&self) -> Option<i64> {
        self.from
    }

    /// A page has come.
    pub fn begin_page(&mut self) {
        self.last = None;
    }

    /// Notes a resource of the page, by the time of its change; whether it has not come before.
    pub fn is_new(&mut self, at: i64, version: &Version) -> bool {
        if self.is_full || self.from.is_some_and(|from| at < from) {
            // The search did not ask for an earlier one: the server does not compare times.
            self.is_sorted &= self.from.is_none_or(|from| at >= from);
            return true;
        }
        self.last = Some(at);
        let version_id = version.version.as_deref().unwrap_or_default();
        let name = format!("{}/{}", version.id, version_id);
        if self.from == Some(at) {
            self.found.insert(name.clone());
        }
        let is_new = self.seen.insert(name, at).is_none();
        if is_new {
            self.is_sorted &= Some(at) >= self.sorted;
            self.sorted = Some(at);
        }
        self.is_full = self.seen.len() >= INSTANT_ROWS_MAX;
        is_new
    }

    /// The path of the next page: the server's link, or a search from a time; none behind the last page.
    pub fn next(
        &mut self,
        link: Option<String>,
        search: impl Fn(Option<i64>) -> String,
    ) -> Option<String> {
        let goes_on = self.last > self.from;
        if self.is_full || (link.is_some() && !goes_on) {
            self.is_linked |= !self.found.is_empty();
            return link;
        }
        let found = std::mem::take(&mut self.found);
        if self.is_linked && self.before.as_ref() != Some(&found) {
            // A resource may have moved behind a link.
            self.before = Some(found);
        } else if link.is_none() {
            return None;
        } else {
            self.from = self.last;
            self.before = None;
            let from = self.from;
            self.seen.retain(|_, at| Some(*at) == from);
        }
        self.is_linked = false;
        self.sorted = self.from;
        Some(search(self.from))
    }
}

#[cfg(test)]
mod tests {
    use super::super::page::VersionChange;
    use super::*;

    fn version(id: u32) -> Version {
        Version {
            resource_type: "Patient".into(),
            id: id.to_string(),
            change: VersionChange::Read,
            version: None,
            at: None,
            order: 0,
            is_included: false,
            payload: Vec::new(),
        }
    }

    /// Reads pages of three of what a server has, which counts rows from the first one; before each page something may change.
    /// What was read, and how many pages.
    fn read(
        mut there: Vec<(i64, u32)>,
        mut change: impl FnMut(usize, &mut Vec<(i64, u32)>),
    ) -> (Vec<u32>, usize) {
        let mut key = PageKey::new(None);
        let (mut seen, mut pages) = (Vec::new(), 0);
        let mut path = Some("0 0".to_owned());
        while let Some(asked) = path {
            change(pages, &mut there);
            let (from, skip) = asked.split_once(' ').unwrap();
            let (from, skip): (i64, usize) = (from.parse().unwrap(), skip.parse().unwrap());
            let found: Vec<_> = there.iter().filter(|(at, _)| *at >= from).collect();
            key.begin_page();
            for (at, id) in found.iter().skip(skip).take(3) {
                if key.is_new(*at, &version(*id)) {
                    seen.push(*id);
                }
            }
            let link = (found.len() > skip + 3).then(|| format!("{from} {}", skip + 3));
            path = key.next(link, |from| format!("{} 0", from.unwrap_or(0)));
            pages += 1;
            assert!(pages < 100, "{asked}");
        }
        (seen, pages)
    }

    #[test]
    fn each_page_is_read_from_the_last_time() {
        let there: Vec<_> = (0..10).map(|n| (1_000 * i64::from(n), n)).collect();
        let (seen, pages) = read(there, |_, _| ());
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        // The last one of each page comes once more.
        assert_eq!(pages, 5);
    }

    #[test]
    fn nothing_is_missed_that_moves_up_while_pages_are_read() {
        for instants in [1, 2, 4, 20] {
            for at_page in 1..8 {
                for gone in 0..20u32 {
                    let there: Vec<_> = (0..20u32)
                        .map(|n| (1_000 * (i64::from(n) * instants / 20), n))
                        .collect();
                    let (mut seen, _) = read(there, |page, there| {
                        if page == at_page {
                            there.retain(|(_, id)| *id != gone);
                        }
                    });
                    seen.sort_unstable();
                    let twice = seen.len();
                    seen.dedup();
                    assert_eq!(seen.len(), twice, "none comes twice");
                    seen.retain(|id| *id != gone);
                    let others: Vec<u32> = (0..20).filter(|id| *id != gone).collect();
                    assert_eq!(seen, others, "{instants} {at_page} {gone}");
                }
            }
        }
    }
}
