//! How the clients of a gateway write topics: with other separators, and with parts left out.

use std::borrow::Cow;

use super::{Separator, check};
use crate::{Class, Error, Result};

/// How a gateway's clients write topics. Topics with a `/` in them keep their levels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicSpelling {
    separators: Vec<Separator>,
    /// What stands for a missing kind and a missing client.
    missing: Option<(String, String)>,
}

/// A subscription to a filter behind this and a separator, such as `$as/_/gateway/+/relay`, is sent topics with that
/// separator between their levels.
const AS: &str = "$as/";

impl TopicSpelling {
    /// With these separators besides `/` (a text such as `_*`), and a template such as `gateway/${client_id}` for the parts
    /// that a topic leaves out; `${user}` stands for the user.
    ///
    /// # Errors
    /// `event.topic-separators`, `event.topic-template`
    pub fn new(separators: &str, template: &str) -> Result<TopicSpelling> {
        let known = [Separator::Underscore, Separator::Star, Separator::Hash];
        let each = separators.chars().map(|letter| {
            let separator = known.into_iter().find(|known| known.as_char() == letter);
            separator.ok_or_else(|| {
                Error::new(Class::Configuration, "event.topic-separators")
                    .with("separators", crate::quote(separators))
            })
        });
        let separators = each.collect::<Result<Vec<_>>>()?;
        let missing = match template {
            "" => None,
            template => {
                let fits = |part: &str| {
                    let plain = part.replace("${client_id}", "x").replace("${user}", "x");
                    !plain.contains(['$', '/']) && check(&plain).is_ok()
                };
                let parts = template.split_once('/');
                let parts = parts.filter(|(kind, client)| fits(kind) && fits(client));
                let (kind, client) = parts.ok_or_else(|| {
                    Error::new(Class::Configuration, "event.topic-template")
                        .with("template", crate::quote(template))
                })?;
                Some((kind.to_owned(), client.to_owned()))
            }
        };
        Ok(TopicSpelling {
            separators,
            missing,
        })
    }

    /// A topic as it is inside. A topic of one level is a subject, and parts before a `/` may be empty: `//relay` and `relay`
    /// are both the subject `relay` of the client.
    ///
    /// # Errors
    /// What is wrong with the topic.
    pub fn inward<'t>(&self, topic: &'t str, client_id: &str, user: &str) -> Result<Cow<'t, str>> {
        let mut inside = Cow::Borrowed(topic);
        if let Some(separator) = self.separator_of(topic) {
            inside = Cow::Owned(topic.replace(separator.as_char(), "/"));
        }
        if let Some((kind, client)) = &self.missing {
            let mut levels: Vec<&str> = inside.splitn(3, '/').collect();
            if levels.len() == 1 {
                levels.splice(0..0, ["", ""]);
            }
            if levels.len() == 3 && (levels[0].is_empty() || levels[1].is_empty()) {
                let part = |own: &str, template: &str| match own.is_empty() {
                    true => template
                        .replace("${client_id}", client_id)
                        .replace("${user}", user),
                    false => own.to_owned(),
                };
                let parts = (part(levels[0], kind), part(levels[1], client));
                inside = Cow::Owned(format!("{}/{}/{}", parts.0, parts.1, levels[2]));
            }
        }
        check(&inside)?;
        Ok(inside)
    }

    /// A filter whose levels are parted by another separator, as one that says so itself: see [`spelled`].
    pub fn filter<'t>(&self, filter: &'t str) -> Cow<'t, str> {
        let separator = self.separator_of(filter);
        match separator.filter(|separator| *separator != Separator::Hash) {
            None => Cow::Borrowed(filter),
            Some(separator) => {
                let separator = separator.as_char();
                let inside = filter.replace(separator, "/");
                Cow::Owned(format!("{AS}{separator}/{inside}"))
            }
        }
    }

    fn separator_of(&self, topic: &str) -> Option<Separator> {
        if self.separators.is_empty() || topic.contains('/') {
            return None;
        }
        let mut separators = self.separators.iter().copied();
        separators.find(|separator| topic.contains(separator.as_char()))
    }
}

/// The filter of a subscription, and the separator that topics are to be sent with if it asks for one.
pub fn spelled(filter: &str) -> (Option<Separator>, &str) {
    let rest = filter
        .strip_prefix(AS)
        .and_then(|rest| rest.split_once('/'));
    match rest {
        Some(("_", rest)) => (Some(Separator::Underscore), rest),
        Some(("*", rest)) => (Some(Separator::Star), rest),
        _ => (None, filter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_brought_into_one_form() {
        let spelling = TopicSpelling::new("_*#", "gateway/${client_id}").unwrap();
        for (outside, inside) in [
            ("gateway/dsd2348/relay", "gateway/dsd2348/relay"),
            ("gateway_dsd2348_relay", "gateway/dsd2348/relay"),
            ("gateway*dsd2348*relay", "gateway/dsd2348/relay"),
            ("gateway#dsd2348#relay", "gateway/dsd2348/relay"),
            ("gateway/d_1/relay_2", "gateway/d_1/relay_2"),
            ("relay", "gateway/d1/relay"),
            ("//relay/state", "gateway/d1/relay/state"),
            ("meter//relay", "meter/d1/relay"),
            ("/m1/relay", "gateway/m1/relay"),
            ("__relay", "gateway/d1/relay"),
            ("meter/m1", "meter/m1"),
        ] {
            assert_eq!(
                spelling.inward(outside, "d1", "").unwrap(),
                inside,
                "{outside}"
            );
        }
        assert!(spelling.inward("relay", "a/+", "").is_err());
        let plain = TopicSpelling::default();
        assert_eq!(plain.inward("a_b_c", "", "").unwrap(), "a_b_c");
        assert!(plain.inward("a#b", "", "").is_err());
    }

    #[test]
    fn filters_say_how_topics_are_to_be_sent() {
        let spelling = TopicSpelling::new("_", "").unwrap();
        assert_eq!(
            spelling.filter("gateway_g1_relay"),
            "$as/_/gateway/g1/relay"
        );
        assert_eq!(spelling.filter("gateway/+/re_lay"), "gateway/+/re_lay");
        assert_eq!(
            spelled("$as/_/gateway/+/relay"),
            (Some(Separator::Underscore), "gateway/+/relay")
        );
        assert_eq!(spelled("$as/x/a"), (None, "$as/x/a"));
        assert_eq!(spelled("a/b"), (None, "a/b"));
    }

    #[test]
    fn wrong_settings_are_refused() {
        for wrong in ["gateway", "a/b/c", "a/${x}", "/b", "a/+"] {
            let error = TopicSpelling::new("", wrong).unwrap_err();
            assert_eq!(error.code(), "event.topic-template", "{wrong}");
        }
        let error = TopicSpelling::new("_;", "").unwrap_err();
        assert_eq!(error.code(), "event.topic-separators");
        assert!(TopicSpelling::new("", "${user}/x-${client_id}").is_ok());
    }
}
