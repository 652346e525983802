//! Event time in the input of one task: watermarks, and what each event is late by.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::operator::Times;

/// The event time of a task's input. It depends on the input alone: on the events and ticks in the log.
#[derive(Clone, Debug)]
pub(crate) struct EventTime {
    source: TimeSource,
    /// Everything before it is late, in microseconds since 1970; `i64::MIN` before the first event.
    watermark: i64,
}

#[derive(Clone, Debug)]
enum TimeSource {
    /// A stream: the watermark is the greatest time seen, less the lateness in microseconds.
    Stream { lateness: i64 },
    /// The stage before: the watermark is the least of its tasks'. A task that has not said anything yet holds it back.
    Stage {
        producers: BTreeMap<Arc<str>, i64>,
        expected: Vec<Arc<str>>,
    },
}

impl EventTime {
    /// Of a stream's partition. `lateness` is in microseconds.
    pub fn of_stream(lateness: i64) -> EventTime {
        EventTime {
            source: TimeSource::Stream { lateness },
            watermark: i64::MIN,
        }
    }

    /// Of a stage behind the tasks of these names.
    pub fn of_stage(expected: Vec<Arc<str>>) -> EventTime {
        EventTime {
            source: TimeSource::Stage {
                producers: BTreeMap::new(),
                expected,
            },
            watermark: i64::MIN,
        }
    }

    /// Goes on where a checkpoint was.
    pub fn resume(&mut self, watermark: Option<i64>, producers: &BTreeMap<String, i64>) {
        self.watermark = watermark.unwrap_or(i64::MIN);
        if let TimeSource::Stage { producers: own, .. } = &mut self.source {
            let known = producers.iter();
            *own = known
                .map(|(name, mark)| (name.as_str().into(), *mark))
                .collect();
        }
    }

    /// In microseconds since 1970; none before the first event.
    pub fn watermark(&self) -> Option<i64> {
        (self.watermark > i64::MIN).then_some(self.watermark)
    }

    /// The watermarks of the tasks of the stage before.
    pub fn producers(&self) -> BTreeMap<String, i64> {
        match &self.source {
            TimeSource::Stream { .. } => BTreeMap::new(),
            TimeSource::Stage { producers, .. } => {
                let known = producers.iter();
                known
                    .map(|(name, mark)| (name.to_string(), *mark))
                    .collect()
            }
        }
    }

    /// What holds the watermark back, in a stage behind another: the task that is furthest behind.
    pub fn held_back_by(&self) -> Option<Arc<str>> {
        let TimeSource::Stage {
            producers,
            expected,
        } = &self.source
        else {
            return None;
        };
        let mark = |name: &&Arc<str>| producers.get(*name).copied().unwrap_or(i64::MIN);
        expected.iter().min_by_key(mark).cloned()
    }

    /// Events of a stream went by. Those at the places `untimed`, in order, have no time that counts.
    pub fn events(&mut self, times: &[i64], untimed: &[u32]) -> Times {
        let lateness = match &self.source {
            TimeSource::Stream { lateness } => *lateness,
            TimeSource::Stage { .. } => 0,
        };
        let mut marks = Vec::with_capacity(times.len());
        let mut untimed = untimed.iter().peekable();
        for (at, time) in times.iter().enumerate() {
            marks.push(self.watermark);
            if untimed.next_if_eq(&&(at as u32)).is_some() {
                continue;
            }
            self.watermark = self.watermark.max(time.saturating_sub(lateness));
        }
        Times {
            times: times.to_vec().into(),
            marks: marks.into(),
        }
    }

    /// A tick: time has reached `watermark` although there was no event.
    pub fn tick(&mut self, watermark: i64) {
        self.watermark = self.watermark.max(watermark);
    }

    /// A task of the stage before has reached `watermark`.
    pub fn produced(&mut self, producer: &str, watermark: i64) {
        let TimeSource::Stage {
            producers,
            expected,
        } = &mut self.source
        else {
            return;
        };
        match producers.get_mut(producer) {
            Some(known) => *known = (*known).max(watermark),
            None => {
                producers.insert(producer.into(), watermark);
            }
        }
        let marks = expected
            .iter()
            .map(|name| producers.get(name).copied().unwrap_or(i64::MIN));
        let least = marks.min().unwrap_or(i64::MIN);
        self.watermark = self.watermark.max(least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_late_by_what_came_before_it_however_the_input_is_cut() {
        let times = [100, 300, 150, 290, 500];
        let mut whole = EventTime::of_stream(50);
        let marks = whole.events(&times, &[]).marks;
        assert_eq!(&marks[..], [i64::MIN, 50, 250, 250, 250]);
        assert_eq!(whole.watermark(), Some(450));
        for cut in 0..=times.len() {
            let mut parts = EventTime::of_stream(50);
            let mut again = parts.events(&times[..cut], &[]).marks.to_vec();
            again.extend(parts.events(&times[cut..], &[]).marks.iter());
            assert_eq!(again, &marks[..], "cut at {cut}");
            assert_eq!(parts.watermark(), Some(450));
        }
    }

    #[test]
    fn an_event_without_a_time_that_counts_moves_nothing() {
        let mut time = EventTime::of_stream(0);
        let marks = time.events(&[100, 900, 200, 800], &[1, 3]).marks;
        assert_eq!(&marks[..], [i64::MIN, 100, 100, 200]);
        assert_eq!(time.watermark(), Some(200));
    }

    #[test]
    fn a_stage_is_as_far_as_the_last_of_the_tasks_before_it() {
        let mut time = EventTime::of_stage(vec!["a".into(), "b".into()]);
        time.produced("a", 10);
        assert_eq!(time.watermark(), None);
        assert_eq!(time.held_back_by().as_deref(), Some("b"));
        time.produced("b", 30);
        assert_eq!(time.watermark(), Some(10));
        assert_eq!(time.held_back_by().as_deref(), Some("a"));
        time.produced("a", 20);
        time.produced("a", 15);
        assert_eq!(time.watermark(), Some(20));
        // A task that is no more says nothing that counts.
        time.produced("gone", 5);
        assert_eq!(time.watermark(), Some(20));
        let mut resumed = EventTime::of_stage(vec!["a".into(), "b".into()]);
        resumed.resume(time.watermark(), &time.producers());
        resumed.produced("a", 40);
        assert_eq!(resumed.watermark(), Some(30));
    }
}
