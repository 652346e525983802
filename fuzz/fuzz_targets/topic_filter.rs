//! Topics and filters: matching is compared with the rules written down plainly.
#![no_main]

use busbar_event::topic::{self, Filter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|texts: (&str, &str, &str)| {
    let (a, b, name) = texts;
    let _ = topic::parts(name);
    if let Ok(topic) = topic::from_binary(name.as_bytes()) {
        assert!(topic::to_binary(&topic).len() >= topic.len());
    }
    if topic::check(name).is_err() {
        return;
    }
    assert_eq!(
        topic::from_binary(&topic::to_binary(name)).expect("a topic"),
        name
    );
    let (Ok(a), Ok(b)) = (Filter::parse(a), Filter::parse(b)) else {
        return;
    };
    for filter in [&a, &b] {
        assert_eq!(filter.matches(name), naive(filter.as_str(), name));
    }
    assert_eq!(a.overlaps(&b), b.overlaps(&a));
    if a.matches(name) && b.matches(name) {
        assert!(a.overlaps(&b));
        assert_eq!(a == b, a.specificity() == b.specificity());
    }
});

fn naive(filter: &str, topic: &str) -> bool {
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    if topic[0].starts_with('$') && (filter[0] == "+" || filter[0] == "#") {
        return false;
    }
    for (at, level) in filter.iter().enumerate() {
        match (*level, topic.get(at)) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(found)) if level == *found => {}
            _ => return false,
        }
    }
    filter.len() == topic.len()
}
