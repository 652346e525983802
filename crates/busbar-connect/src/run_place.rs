//! Where a run of a statement begins that takes rows in the order of a column.

/// The row of a piece of a run behind which another run may begin: the last one, or, where `more` rows may follow, the last one
/// with another value, for those that follow may have its value still, and a run takes greater values only. None where that is
/// none of these rows.
pub fn resumable<V: PartialEq>(
    values: impl DoubleEndedIterator<Item = V> + ExactSizeIterator,
    more: bool,
) -> Option<usize> {
    let mut values = values.enumerate().rev();
    let (at, last) = values.next()?;
    match more {
        false => Some(at),
        true => values
            .find(|(_, value)| *value != last)
            .map(|(before, _)| before),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_begins_behind_values_of_which_no_more_rows_follow() {
        for (values, more, expected) in [
            (&[][..], true, None),
            (&[1, 2, 2], false, Some(2)),
            (&[1, 2, 2], true, Some(0)),
            (&[1, 2], true, Some(0)),
            (&[2, 2], true, None),
            (&[2], true, None),
        ] {
            assert_eq!(
                resumable(values.iter(), more),
                expected,
                "{values:?} {more}"
            );
        }
    }
}
