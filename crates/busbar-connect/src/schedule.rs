//! When a statement is run: at intervals, or at times of the day as cron writes them.

use std::sync::Arc;
use std::time::Duration;

use busbar_log::Clock;
use tokio::time::Instant;

/// The longest pause before the clock is looked at again, which may have been set.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Days ahead in which a time is looked for: four years and one more, for the 29th of February.
const DAYS_AHEAD: i64 = 366 * 5;

const MINUTE_MICROS: i64 = 60_000_000;
const DAY_MINUTES: i64 = 24 * 60;

/// When a statement is run next.
pub enum RunSchedule {
    Every {
        every: Duration,
        due: Instant,
    },
    At {
        times: CronTimes,
        clock: Arc<dyn Clock>,
        /// Microseconds since 1970.
        due: i64,
    },
}

/// Times in UTC, written as `MINUTE HOUR DAY MONTH WEEKDAY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CronTimes {
    /// A bit for each value that fits.
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// A day fits when it is one of the month or one of the week, where both are given.
    either_day: bool,
}

impl RunSchedule {
    /// At once, and then at intervals.
    pub fn every(every: Duration) -> RunSchedule {
        RunSchedule::Every {
            every,
            due: Instant::now(),
        }
    }

    /// At the next time that fits.
    pub fn at(times: CronTimes, clock: Arc<dyn Clock>) -> RunSchedule {
        RunSchedule::At {
            due: times.next(clock.now_micros()),
            times,
            clock,
        }
    }

    /// How long it is until then; nothing when it is due.
    pub fn wait(&self) -> Duration {
        match self {
            RunSchedule::Every { due, .. } => due.saturating_duration_since(Instant::now()),
            RunSchedule::At { clock, due, .. } => {
                let micros = due.saturating_sub(clock.now_micros());
                Duration::from_micros(u64::try_from(micros).unwrap_or(0)).min(LOOK_AGAIN)
            }
        }
    }

    /// It has run.
    pub fn ran(&mut self) {
        match self {
            RunSchedule::Every { every, due } => *due = Instant::now() + *every,
            RunSchedule::At { times, clock, due } => *due = times.next(clock.now_micros()),
        }
    }
}

impl CronTimes {
    /// Reads five fields, each `*`, a number, a range `1-5`, with a step `*/10`, or several with commas. `None` for what is
    /// no such thing, or never comes.
    pub fn read(text: &str) -> Option<CronTimes> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return None;
        };
        let mut week = field(weekdays, 0, 7)?;
        // Sunday is 0 and 7.
        week |= week >> 7 & 1;
        let times = CronTimes {
            minutes: field(minutes, 0, 59)?,
            hours: field(hours, 0, 23)?,
            days: field(days, 1, 31)?,
            months: field(months, 1, 12)?,
            weekdays: week,
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
        };
        (times.next(0) < i64::MAX).then_some(times)
    }

    /// The first time behind this one, in microseconds since 1970.
    pub fn next(&self, after: i64) -> i64 {
        let from = after.div_euclid(MINUTE_MICROS) + 1;
        let first_day = from.div_euclid(DAY_MINUTES);
        for day in first_day..first_day + DAYS_AHEAD {
            if !self.has_day(day) {
                continue;
            }
            let begin = if day == first_day {
                from.rem_euclid(DAY_MINUTES)
            } else {
                0
            };
            let mut minutes = begin..DAY_MINUTES;
            let fits =
                |minute: &i64| has(self.hours, minute / 60) && has(self.minutes, minute % 60);
            if let Some(minute) = minutes.find(fits) {
                return (day * DAY_MINUTES + minute) * MINUTE_MICROS;
            }
        }
        i64::MAX
    }

    /// Whether a day since 1970 fits.
    fn has_day(&self, day: i64) -> bool {
        let (month, of_month) = civil(day);
        // The first day was a Thursday.
        let of_week = has(self.weekdays, (day + 4).rem_euclid(7));
        let of_month = has(self.days, of_month);
        has(self.months, month)
            && match self.either_day {
                true => of_week || of_month,
                false => of_week && of_month,
            }
    }
}

fn has(bits: u64, value: i64) -> bool {
    bits >> value & 1 == 1
}

fn field(text: &str, least: u64, most: u64) -> Option<u64> {
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<usize>().ok().filter(|step| *step > 0)?),
            None => (part, 1),
        };
        let (from, to) = match (range, range.split_once('-')) {
            ("*", _) => (least, most),
            (_, Some((from, to))) => (from.parse().ok()?, to.parse().ok()?),
            (one, None) if part.contains('/') => (one.parse().ok()?, most),
            (one, None) => {
                let one = one.parse().ok()?;
                (one, one)
            }
        };
        if from < least || to > most || from > to {
            return None;
        }
        for value in (from..=to).step_by(step) {
            bits |= 1 << value;
        }
    }
    Some(bits)
}

/// Month and day of a day since 1970, by eras of 400 years that begin with March.
fn civil(day: i64) -> (i64, i64) {
    let of_era = (day + 719_468).rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    (if month < 10 { month + 3 } else { month - 9 }, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Minutes since 1970, by days since then.
    fn minute(day: i64, hour: i64, minute: i64) -> i64 {
        (day * DAY_MINUTES + hour * 60 + minute) * MINUTE_MICROS
    }

    #[test]
    fn the_next_time_is_the_first_that_fits() {
        // Friday, 2024-02-02.
        let day = 19_755;
        let now = minute(day, 10, 30) + 1;
        for (text, expected) in [
            ("* * * * *", minute(day, 10, 31)),
            ("30 * * * *", minute(day, 11, 30)),
            ("*/15 * * * *", minute(day, 10, 45)),
            ("5/20 * * * *", minute(day, 10, 45)),
            ("0 3 * * *", minute(day + 1, 3, 0)),
            ("0 8-18/2 * * 1-5", minute(day, 12, 0)),
            ("0 8 * * 1-5", minute(day + 3, 8, 0)),
            ("0 0 * * 0", minute(day + 2, 0, 0)),
            ("0 0 * * 7", minute(day + 2, 0, 0)),
            ("0 0 1 * *", minute(day + 28, 0, 0)),
            ("0 0 29 2 *", minute(day + 27, 0, 0)),
            ("59 23 31 12 *", minute(day + 333, 23, 59)),
            // The 13th, or a Monday.
            ("0 0 13 * 1", minute(day + 3, 0, 0)),
            ("1,2 4 * * *", minute(day + 1, 4, 1)),
        ] {
            let times = CronTimes::read(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(times.next(now), expected, "{text}");
        }
        // A time itself is not behind it.
        let daily = CronTimes::read("0 3 * * *").expect("times");
        assert_eq!(daily.next(minute(day, 3, 0)), minute(day + 1, 3, 0));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "-1 * * * *",
            "1, * * * *",
            "0 0 31 2 *",
            "@daily",
        ] {
            assert_eq!(CronTimes::read(text), None, "{text}");
        }
    }
}
