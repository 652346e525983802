//! Finding the topics that a filter selects in a sorted map without walking through all of them.

/// Where the next topic that may be selected can be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The one behind this.
    Step,
    /// This or behind.
    To(String),
    /// Nowhere.
    End,
}

/// Where to look behind a topic that the filter of these levels does not select.
///
/// Below `P/` all topics are neighbours, since nothing but they begins so; but between `a` and `a/`
/// lie the likes of `a-b`, for a slash is not the lowest byte.
pub(super) fn after(levels: &[&str], topic: &str) -> Next {
    // End of the last level that stands where the filter has `+`: its next value lies behind all
    // that begins with this and a slash.
    let mut plus: Option<usize> = None;
    let mut at = 0;
    for (depth, level) in levels.iter().enumerate() {
        let wild = matches!(*level, "+" | "#");
        if depth == 0 && wild && topic.starts_with('$') {
            return Next::To("%".to_owned());
        }
        let end = topic[at..]
            .find('/')
            .map_or(topic.len(), |slash| at + slash);
        let last = end == topic.len();
        match *level {
            "#" => return Next::Step,
            "+" => {
                if last {
                    // Too short, or selected after all.
                    return Next::Step;
                }
                plus = Some(end);
            }
            literal => {
                if topic[at..end] != *literal {
                    let wanted = format!("{}{literal}", &topic[..at]);
                    if topic < wanted.as_str() {
                        return Next::To(wanted);
                    }
                    let below = wanted + "/";
                    if depth + 1 < levels.len() && topic < below.as_str() {
                        return Next::To(below);
                    }
                    return behind(plus, topic);
                }
                if last && depth + 1 < levels.len() {
                    return Next::To(format!("{topic}/"));
                }
            }
        }
        if depth + 1 == levels.len() && !last {
            // Deeper than the filter: all that lies below this level is.
            return match *level {
                "+" => behind(Some(end), topic),
                _ => behind(plus, topic),
            };
        }
        at = end + 1;
    }
    Next::Step
}

/// Behind all topics below the level that ends at `plus`: a slash's successor is `0`.
fn behind(plus: Option<usize>, topic: &str) -> Next {
    match plus {
        Some(end) => Next::To(format!("{}0", &topic[..end])),
        None => Next::End,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use busbar_event::topic::Filter;
    use proptest::prelude::*;

    use super::*;

    fn walk(topics: &BTreeSet<String>, filter: &Filter) -> (Vec<String>, usize) {
        let levels: Vec<&str> = filter.as_str().split('/').collect();
        let mut found = Vec::new();
        let mut steps = 0;
        let mut from = String::new();
        while let Some(topic) = topics.range(from.clone()..).next() {
            steps += 1;
            assert!(steps < 10_000, "goes in circles at {topic} for {filter}");
            from = format!("{topic}\0");
            if filter.matches(topic) {
                found.push(topic.clone());
                continue;
            }
            match after(&levels, topic) {
                Next::Step => {}
                Next::To(key) => {
                    assert!(key > *topic, "{filter}: {key} is not behind {topic}");
                    from = key;
                }
                Next::End => break,
            }
        }
        (found, steps)
    }

    proptest! {
        #[test]
        fn finds_what_a_full_walk_finds(
            topics in prop::collection::btree_set("[$]?[ab-]{0,2}(/[ab0-]{0,2}){0,3}", 1..60),
            filter in "([ab-]{0,2}|\\+)(/([ab0-]{0,2}|\\+)){0,3}(/#)?",
        ) {
            let topics: BTreeSet<String> =
                topics.into_iter().filter(|topic| !topic.is_empty()).collect();
            if let Ok(filter) = Filter::parse(&filter) {
                let all: Vec<String> =
                    topics.iter().filter(|topic| filter.matches(topic)).cloned().collect();
                prop_assert_eq!(walk(&topics, &filter).0, all);
            }
        }
    }

    #[test]
    fn skips_what_cannot_match() {
        let topics: BTreeSet<String> = (0..100)
            .flat_map(|client| (0..100).map(move |part| format!("meter/m{client}/{part:02}")))
            .collect();
        let (found, steps) = walk(&topics, &Filter::parse("meter/+/77").unwrap());
        assert_eq!(found.len(), 100);
        assert!(steps < 500, "{steps} steps");
        let (found, steps) = walk(&topics, &Filter::parse("meter/m7/#").unwrap());
        assert_eq!((found.len(), steps < 110), (100, true));
    }
}
