//! Topics of a source's events, from the template in the connection's file.

use busbar_catalog::{ConnectionSpec, Diagnostic, Template, TemplatePart};
use busbar_event::limits::{TOPIC_BYTES_MAX, TOPIC_LEVELS_MAX};
use busbar_event::{Class, Error};

/// A template over the names that a source offers.
#[derive(Debug, Clone)]
pub struct TopicTemplate {
    template: Template,
}

impl TopicTemplate {
    /// Reads the connection's template, or `default`; each variable must be one of `offered`.
    ///
    /// # Errors
    /// A diagnostic that names the variable and those that are available.
    pub fn read(
        spec: &ConnectionSpec,
        default: &str,
        offered: &[&str],
    ) -> Result<TopicTemplate, Diagnostic> {
        let text = spec.topic.as_deref().unwrap_or(default);
        let template =
            Template::parse(text).map_err(|(_, error)| spec.diagnostic_at_kind(error))?;
        template
            .pattern()
            .map_err(|error| spec.diagnostic_at_kind(error))?;
        for part in template.parts() {
            if let TemplatePart::Variable { variable, .. } = part
                && !offered.contains(&variable.name().as_ref())
            {
                let error = Error::new(Class::Configuration, "connect.topic-variable")
                    .with("name", variable.name())
                    .with("offered", offered.join(", "));
                let help = busbar_catalog::suggest(&variable.name(), offered.iter().copied());
                return Err(spec.diagnostic_at_kind(error).with_help(help));
            }
        }
        Ok(TopicTemplate { template })
    }

    /// Whether the topic depends on the value of this name.
    pub fn uses(&self, name: &str) -> bool {
        let mut parts = self.template.parts().iter();
        parts.any(|part| {
            matches!(part, TemplatePart::Variable { variable, .. } if variable.name() == name)
        })
    }

    /// Writes the topic. Each value becomes one level: separators and wildcards in it are replaced by `_`; a value named
    /// `topic` is inserted as it is.
    pub fn write(&self, value: impl Fn(&str) -> Option<String>, out: &mut String) {
        out.clear();
        for part in self.template.parts() {
            match part {
                TemplatePart::Literal(text) => out.push_str(text),
                TemplatePart::Variable { variable, .. } => {
                    let name = variable.name();
                    let text = value(&name).unwrap_or_default();
                    if name == "topic" {
                        out.push_str(&text);
                    } else if text.is_empty() {
                        out.push('_');
                    } else {
                        out.extend(text.chars().map(level_char));
                    }
                }
            }
        }
    }
}

fn level_char(c: char) -> char {
    if matches!(c, '/' | '+' | '#') || c.is_control() {
        '_'
    } else {
        c
    }
}

/// A valid topic of an event, derived from one that is not valid.
pub fn fitting(topic: &str) -> String {
    let mut levels = 1;
    let mut fitting = String::new();
    for c in topic.chars() {
        let c = match c {
            '+' | '#' | '\0' => '_',
            '/' if levels == TOPIC_LEVELS_MAX => '_',
            '/' => {
                levels += 1;
                '/'
            }
            c => c,
        };
        if fitting.len() + c.len_utf8() > TOPIC_BYTES_MAX {
            break;
        }
        fitting.push(c);
    }
    if fitting.is_empty() {
        fitting.push('_');
    }
    fitting
}

#[cfg(test)]
mod tests {
    use busbar_catalog::Source;

    use super::*;

    fn spec(text: &str) -> ConnectionSpec {
        let source = Source::parse("connections/x.yaml", text).expect("YAML");
        ConnectionSpec::read(&source).expect("a connection")
    }

    #[test]
    fn a_value_is_one_level() {
        let spec = spec("host: {}\ntopic: disk/${mount}/${host}\n");
        let template = TopicTemplate::read(&spec, "", &["host", "mount"]).expect("a template");
        let mut topic = String::new();
        template.write(
            |name| (name == "mount").then(|| "/var/lib".to_owned()),
            &mut topic,
        );
        assert_eq!(topic, "disk/_var_lib/_");
    }

    #[test]
    fn an_unknown_variable_is_refused_with_what_there_is() {
        let spec = spec("host: {}\ntopic: a/${hots}\n");
        let refused = TopicTemplate::read(&spec, "", &["host", "kind"]).unwrap_err();
        assert_eq!(refused.error().code(), "connect.topic-variable");
    }

    #[test]
    fn any_topic_becomes_one_that_fits() {
        let deep = "a/".repeat(TOPIC_LEVELS_MAX * 2);
        let long = "é".repeat(TOPIC_BYTES_MAX);
        for topic in ["", "a/+/b", "#", "nul\0", &deep, &long] {
            let fitting = fitting(topic);
            assert!(
                busbar_event::topic::check(&fitting).is_ok(),
                "{fitting:.40}"
            );
        }
        assert_eq!(fitting("a/+/b#"), "a/_/b_");
    }
}
