use busbar_event::Error;
use busbar_sql::{FailedGroups, GroupResults};

use super::Output;
use crate::operator::Rows;

/// Results of windows that closed, or early results of windows that are open.
pub(super) struct Closed {
    results: GroupResults,
    ends: GroupEnds,
}

/// The ends of the windows of groups, microseconds since 1970.
enum GroupEnds {
    /// All groups are of one window.
    One(i64),
    /// By the number of the group.
    Each(Vec<i64>),
}

impl Closed {
    /// Results of windows with one end.
    pub fn at(end: i64, results: GroupResults) -> Self {
        let ends = GroupEnds::One(end);
        Self { results, ends }
    }

    /// Results of windows with these ends, by the number of the group.
    pub fn each(ends: Vec<i64>, results: GroupResults) -> Self {
        let ends = GroupEnds::Each(ends);
        Self { results, ends }
    }

    /// Writes the results, and those that cannot be computed; `time` is the event time of a result by the end of its window.
    pub fn tell(self, time: impl Fn(i64) -> i64, out: &mut Output) {
        let of_group = |group: usize| {
            time(match &self.ends {
                GroupEnds::One(end) => *end,
                GroupEnds::Each(ends) => ends[group],
            })
        };
        let groups = self.results.groups.iter();
        let times = groups.map(|group| of_group(*group as usize)).collect();
        out.push(Rows::results(self.results.rows, times));
        if let Some(failed) = self.results.failed {
            tell_failed(failed, of_group, out);
        }
    }
}

/// Writes results that cannot be computed; `time` is the event time of one by the number of its group.
pub(in crate::operator) fn tell_failed(
    failed: FailedGroups,
    time: impl Fn(usize) -> i64,
    out: &mut Output,
) {
    let times = failed.groups.iter().map(|group| time(group.row)).collect();
    let causes: Vec<Error> = failed.groups.into_iter().map(|group| group.cause).collect();
    out.fail_results(failed.rows, times, causes);
}
