//! Where windows begin and end. All times are microseconds since 1970 UTC.

use busbar_event::{Class, Error};

use crate::limits::WINDOW_PANES_MAX;

/// Windows of one length that begin at regular times: `tumble` when they follow each other, `hop` when
/// they overlap.
///
/// Windows share *panes*: stretches of time of the greatest length that no window's edge cuts. Rows
/// are aggregated once for each pane; a window merges its panes when it closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Length of a window.
    size: i64,
    /// Time from the beginning of a window to that of the next.
    slide: i64,
    /// Length of a pane.
    pane: i64,
    /// A time at which a window begins.
    origin: i64,
}

/// A pane, and the first window that counts its rows: a row that is late for the first windows of its
/// pane is kept apart from those that are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PaneKey {
    pub start: i64,
    pub first_window: i64,
}

impl Shape {
    /// Windows that begin every `slide` microseconds and are `size` long.
    ///
    /// # Errors
    /// `flow.window-size` when a length is not positive or `slide` is longer than `size`,
    /// `flow.window-panes` when a window would have more than [`WINDOW_PANES_MAX`] panes.
    pub fn new(size: i64, slide: i64, origin: i64) -> Result<Self, Error> {
        if size <= 0 || slide <= 0 || slide > size {
            return Err(Error::new(Class::Configuration, "flow.window-size"));
        }
        let pane = greatest_divisor(size, slide);
        if size / pane > WINDOW_PANES_MAX {
            return Err(Error::new(Class::Configuration, "flow.window-panes")
                .with("panes", size / pane)
                .with("most", WINDOW_PANES_MAX));
        }
        Ok(Self {
            size,
            slide,
            pane,
            origin: origin.rem_euclid(slide),
        })
    }

    /// The pane of a time and the first window that still counts it when the watermark is `mark`; none when
    /// all windows of the time are closed.
    pub fn pane(&self, time: i64, mark: i64) -> Option<PaneKey> {
        let last = self.floor(time, self.slide);
        let open = self.first_open(mark);
        if open > last {
            return None;
        }
        let start = self.floor(time, self.pane);
        Some(PaneKey {
            start,
            first_window: self.first_window(start).max(open),
        })
    }

    /// Times from `start` to the end of its pane.
    pub fn pane_end(&self, start: i64) -> i64 {
        start.saturating_add(self.pane)
    }

    /// The end of the window that begins at `start`.
    pub fn end(&self, start: i64) -> i64 {
        start.saturating_add(self.size)
    }

    /// The beginning of the window behind the one that begins at `start`.
    pub fn next(&self, start: i64) -> i64 {
        start.saturating_add(self.slide)
    }

    /// The last window that counts a pane.
    pub fn last_window(&self, pane: i64) -> i64 {
        self.floor(pane, self.slide)
    }

    /// Whether the window that begins at `window` counts a pane.
    pub fn counts(&self, window: i64, pane: PaneKey) -> bool {
        pane.first_window <= window && window <= pane.start && pane.start < self.end(window)
    }

    /// The first window that counts a pane, were none closed.
    fn first_window(&self, pane: i64) -> i64 {
        // The first that ends behind the beginning of the pane.
        self.floor(pane.saturating_sub(self.size), self.slide)
            .saturating_add(self.slide)
    }

    /// The first window that is open at a watermark: the first that ends behind it.
    fn first_open(&self, mark: i64) -> i64 {
        self.floor(mark.saturating_sub(self.size), self.slide)
            .saturating_add(self.slide)
    }

    fn floor(&self, time: i64, step: i64) -> i64 {
        let from_origin = time.saturating_sub(self.origin);
        from_origin
            .div_euclid(step)
            .saturating_mul(step)
            .saturating_add(self.origin)
    }
}

fn greatest_divisor(a: i64, b: i64) -> i64 {
    match b {
        0 => a,
        _ => greatest_divisor(b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: i64 = i64::MIN;

    #[test]
    fn every_window_of_a_time_counts_its_pane_and_no_other_does() {
        for (size, slide, origin) in [(60, 60, 0), (60, 10, 0), (60, 25, 7), (7, 3, -5), (1, 1, 0)]
        {
            let shape = Shape::new(size, slide, origin).unwrap();
            for time in -200..200 {
                for mark in [
                    NEVER,
                    time - 100,
                    time - 30,
                    time - 5,
                    time,
                    time + 5,
                    time + 70,
                ] {
                    let starts = (-400..400).filter(|s| (s - origin).rem_euclid(slide) == 0);
                    let expected: Vec<i64> = starts
                        .filter(|s| *s <= time && time < s + size && s + size > mark)
                        .collect();
                    let pane = shape.pane(time, mark);
                    let counted: Vec<i64> = (-400..400)
                        .filter(|s| (s - origin).rem_euclid(slide) == 0)
                        .filter(|s| pane.is_some_and(|pane| shape.counts(*s, pane)))
                        .collect();
                    assert_eq!(counted, expected, "{size} {slide} {origin} {time} {mark}");
                    if let Some(pane) = pane {
                        assert!(pane.start <= time && time < shape.pane_end(pane.start));
                        assert_eq!(shape.last_window(pane.start), *expected.last().unwrap());
                    }
                }
            }
        }
    }

    #[test]
    fn absurd_lengths_are_refused() {
        for (size, slide) in [(0, 1), (1, 0), (-1, 1), (1, 2)] {
            assert_eq!(
                Shape::new(size, slide, 0).unwrap_err().code(),
                "flow.window-size"
            );
        }
        assert_eq!(
            Shape::new(86_400_000_000, 7, 0).unwrap_err().code(),
            "flow.window-panes"
        );
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        let shape = Shape::new(60, 10, 0).unwrap();
        for time in [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX] {
            for mark in [i64::MIN, 0, i64::MAX] {
                let _ = shape.pane(time, mark);
            }
        }
    }
}
