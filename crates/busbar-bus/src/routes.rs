//! Which stream captures an event: an immutable table, replaced as a whole when streams change.

use std::sync::Arc;

use busbar_event::{Class, Error, Result, topic::Filter};
use hashbrown::HashMap;

use crate::stream::Stream;

/// The patterns of all streams. The most specific matching pattern wins; what no pattern
/// matches goes to the inbox, topics that begin with `$` included.
pub(crate) struct Routes {
    /// Patterns without wildcards: no other pattern that matches such a topic is more specific.
    literal: HashMap<Box<str>, Arc<Stream>>,
    /// The others, most specific first.
    patterns: Vec<(Filter, Arc<Stream>)>,
    inbox: Arc<Stream>,
}

impl Routes {
    /// Builds the table. `streams` must have passed [`check_patterns`].
    pub fn new(streams: &[Arc<Stream>], inbox: Arc<Stream>) -> Routes {
        let mut literal = HashMap::new();
        let mut patterns = Vec::new();
        for stream in streams {
            for filter in &stream.spec().topics {
                if filter.is_literal() {
                    literal.insert(filter.as_str().into(), Arc::clone(stream));
                } else {
                    patterns.push((filter.clone(), Arc::clone(stream)));
                }
            }
        }
        patterns.sort_by_cached_key(|(filter, _)| std::cmp::Reverse(filter.specificity()));
        Routes {
            literal,
            patterns,
            inbox,
        }
    }

    /// The stream that takes events of `topic`.
    pub fn home(&self, topic: &str) -> &Arc<Stream> {
        if !self.literal.is_empty()
            && let Some(stream) = self.literal.get(topic)
        {
            return stream;
        }
        self.patterns
            .iter()
            .find(|(filter, _)| filter.matches(topic))
            .map_or(&self.inbox, |(_, stream)| stream)
    }
}

/// Refuses a pattern that two streams claim: an event lands in exactly one.
pub(crate) fn check_patterns<'a>(
    streams: impl Iterator<Item = (&'a str, &'a [Filter])>,
) -> Result<()> {
    let mut seen: HashMap<&str, &str> = HashMap::new();
    for (name, filters) in streams {
        for filter in filters {
            if let Some(other) = seen.insert(filter.as_str(), name) {
                return Err(Error::new(Class::Configuration, "bus.pattern-twice")
                    .with("pattern", filter)
                    .with("stream", name)
                    .with("other", other));
            }
        }
    }
    Ok(())
}
