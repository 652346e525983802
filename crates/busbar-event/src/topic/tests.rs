use proptest::prelude::*;

use super::*;
use crate::testing;

/// What a filter selects, word for word from MQTT's rules.
fn naive(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) => true,
        ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => naive(filter, topic),
        ([f, filter @ ..], [t, topic @ ..]) => f == t && naive(filter, topic),
        _ => false,
    }
}

fn naive_matches(filter: &str, topic: &str) -> bool {
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    let hidden = topic[0].starts_with('$') && (filter[0] == "+" || filter[0] == "#");
    !hidden && naive(&filter, &topic)
}

fn filter() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "([ab$]{0,2}|\\+)(/([ab]{0,2}|\\+)){0,4}(/#)?",
        1 => Just("#".to_string()),
        1 => testing::topic(),
    ]
    .prop_filter("a filter", |text| Filter::parse(text).is_ok())
}

fn short_topic() -> impl Strategy<Value = String> {
    prop_oneof!["[ab$]{0,2}(/[ab]{0,2}){0,4}", testing::topic()]
        .prop_filter("a topic", |text| check(text).is_ok())
}

/// Every topic of few levels that can tell such filters apart.
fn all_topics() -> Vec<String> {
    let levels = ["", "a", "b", "$a", "ab", "zz"];
    let mut topics: Vec<String> = Vec::new();
    let mut longest: Vec<String> = levels.iter().map(|level| level.to_string()).collect();
    for _ in 0..3 {
        topics.extend(longest.iter().filter(|topic| !topic.is_empty()).cloned());
        longest = longest
            .iter()
            .flat_map(|topic| levels.iter().map(move |level| format!("{topic}/{level}")))
            .collect();
    }
    topics
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn matches_as_the_rules_say(filter in filter(), topic in short_topic()) {
        let parsed = Filter::parse(&filter).unwrap();
        prop_assert_eq!(parsed.matches(&topic), naive_matches(&filter, &topic));
    }

    #[test]
    fn a_topic_is_a_filter_of_itself(topic in short_topic(), other in short_topic()) {
        let filter = Filter::parse(&topic).unwrap();
        prop_assert!(filter.is_literal() && filter.matches(&topic));
        prop_assert_eq!(filter.matches(&other), topic == other);
        prop_assert_eq!(filter.overlaps(&Filter::parse(&other).unwrap()), topic == other);
    }

    #[test]
    fn one_of_those_that_match_is_the_most_specific(
        filters in prop::collection::vec(filter(), 2..6),
        topic in short_topic(),
    ) {
        let mut matching: Vec<Filter> =
            filters.iter().map(|text| Filter::parse(text).unwrap()).filter(|filter| filter.matches(&topic)).collect();
        matching.sort();
        matching.dedup();
        for a in &matching {
            for b in &matching {
                prop_assert!(a.overlaps(b));
                prop_assert_eq!(a == b, a.specificity() == b.specificity());
            }
        }
    }

    #[test]
    fn any_text_is_a_filter_or_refused(text in "[\\PC/+#$\\x00]{0,12}", topic in "[\\PC/]{0,12}") {
        if let Ok(filter) = Filter::parse(&text) {
            prop_assert_eq!(filter.matches(&topic), naive_matches(&text, &topic));
            prop_assert!(filter.overlaps(&filter));
            let json = serde_json::to_string(&filter).unwrap();
            prop_assert_eq!(serde_json::from_str::<Filter>(&json).unwrap(), filter);
        }
        prop_assert_eq!(check(&text).is_ok(), !text.is_empty() && !text.contains(['+', '#', '\0']));
    }

    #[test]
    fn binary_topics_come_back(topic in short_topic(), bytes in prop::collection::vec(any::<u8>(), 0..20)) {
        prop_assert_eq!(from_binary(&to_binary(&topic)).unwrap(), topic);
        if let Ok(topic) = from_binary(&bytes) {
            prop_assert!(check(&topic).is_ok());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn filters_overlap_if_some_topic_is_in_both(a in "([ab]|\\+)(/([ab]|\\+)){0,2}(/#)?|#|\\$a(/\\+)?", b in "([ab]|\\+)(/([ab]|\\+)){0,2}(/#)?|#|\\$a(/#)?") {
        let (a, b) = (Filter::parse(&a).unwrap(), Filter::parse(&b).unwrap());
        let both = all_topics().iter().any(|topic| a.matches(topic) && b.matches(topic));
        prop_assert_eq!(a.overlaps(&b), both, "{} {}", a, b);
        prop_assert_eq!(b.overlaps(&a), both);
    }
}

#[test]
fn refuses_what_is_no_topic_or_filter_and_says_why() {
    let long = "a".repeat(TOPIC_BYTES_MAX + 1);
    let deep = "/".repeat(TOPIC_LEVELS_MAX);
    for (topic, code) in [
        ("", "event.topic-empty"),
        ("a/+", "event.topic-wildcard"),
        ("a#", "event.topic-wildcard"),
        ("a\0", "event.topic-nul"),
        (&long, "event.topic-long"),
        (&deep, "event.topic-deep"),
    ] {
        assert_eq!(check(topic).unwrap_err().code(), code);
    }
    for (filter, code) in [
        ("", "event.topic-empty"),
        ("a/#/b", "event.filter-wildcard"),
        ("##", "event.filter-wildcard"),
        ("a+", "event.filter-wildcard"),
        ("+a/b", "event.filter-wildcard"),
        ("a\0", "event.topic-nul"),
        (&long, "event.topic-long"),
        (&deep, "event.topic-deep"),
    ] {
        assert_eq!(
            Filter::parse(filter).unwrap_err().code(),
            code,
            "{filter:.10}"
        );
    }
    let max = "/".repeat(TOPIC_LEVELS_MAX - 1);
    assert!(check(&max).is_ok() && Filter::parse(&max).unwrap().matches(&max));
}

#[test]
fn orders_filters_from_narrow_to_wide() {
    let parse = |text| Filter::parse(text).unwrap().specificity();
    assert!(
        parse("a/b") > parse("a/+") && parse("a/+") > parse("a/#") && parse("a/#") > parse("#")
    );
    assert!(parse("a/b") > parse("a/b/#"));
    assert!(parse("+/b/c") > parse("a/#"), "more literal levels first");
    assert!(parse("a/+/c") > parse("+/b/c"), "then from left to right");
}

#[test]
fn takes_topics_apart() {
    let whole = Parts {
        kind: "gateway",
        client: "dsd2348",
        subject: "relay/1",
    };
    assert_eq!(parts("gateway/dsd2348/relay/1"), whole);
    assert_eq!(
        parts("gateway"),
        Parts {
            kind: "gateway",
            ..Parts::default()
        }
    );
    assert_eq!(
        parts("/a/"),
        Parts {
            kind: "",
            client: "a",
            subject: ""
        }
    );
}

#[test]
fn other_separators_are_translated_or_refused() {
    for separator in [
        Separator::Slash,
        Separator::Underscore,
        Separator::Star,
        Separator::Hash,
    ] {
        let outside = "gateway/dsd2348/relay".replace('/', &separator.as_char().to_string());
        assert_eq!(separator.inward(&outside).unwrap(), "gateway/dsd2348/relay");
        assert_eq!(separator.outward("gateway/dsd2348/relay").unwrap(), outside);
    }
    assert_eq!(
        Separator::Underscore.inward("a_b/c").unwrap_err().code(),
        "event.topic-separator"
    );
    assert_eq!(
        Separator::Star.outward("a/b*c").unwrap_err().code(),
        "event.topic-separator"
    );
    assert_eq!(
        Separator::Star.inward("a*#").unwrap_err().code(),
        "event.topic-wildcard"
    );
    assert_eq!(
        serde_json::from_str::<Separator>("\"*\"").unwrap(),
        Separator::Star
    );
}
