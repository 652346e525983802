//! Templates for topics and keys: `alarm/${site}/rain`.

use std::fmt;
use std::ops::Range;

use busbar_event::topic::Filter;
use busbar_event::{Class, Error};

/// Literal text and variables, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<TemplatePart>,
}

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplatePart {
    /// Text that stays as it is.
    Literal(String),
    /// `${name}` and its place in the template's text.
    Variable {
        /// Which value.
        variable: Variable,
        /// Where the variable stands, with its braces.
        span: Range<usize>,
    },
}

/// The value a variable stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    /// `${topic}`: the whole topic.
    Topic,
    /// `${kind}`: the topic's first level.
    Kind,
    /// `${client}`: the topic's second level.
    Client,
    /// `${subject}`: the topic from its third level on.
    Subject,
    /// `${key}`: the event's key.
    Key,
    /// `${tags.name}`: a tag.
    Tag(String),
    /// Any other name: a column.
    Column(String),
}

impl Variable {
    /// The name between the braces.
    pub fn name(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Variable::Topic => "topic".into(),
            Variable::Kind => "kind".into(),
            Variable::Client => "client".into(),
            Variable::Subject => "subject".into(),
            Variable::Key => "key".into(),
            Variable::Tag(tag) => format!("tags.{tag}").into(),
            Variable::Column(column) => column.as_str().into(),
        }
    }

    /// Whether the value may hold `/`, that is several levels of a topic.
    pub fn spans_levels(&self) -> bool {
        matches!(self, Variable::Topic | Variable::Subject)
    }
}

impl Template {
    /// Reads a template. `$$` stands for one `$`.
    ///
    /// # Errors
    /// The place in the text and `catalog.template`.
    pub fn parse(text: &str) -> Result<Template, (Range<usize>, Error)> {
        let refuse = |span: Range<usize>| {
            let error = Error::new(Class::Configuration, "catalog.template");
            (span.clone(), error.with("text", &text[span]))
        };
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while let Some(found) = text[at..].find('$') {
            let dollar = at + found;
            literal.push_str(&text[at..dollar]);
            let rest = &text[dollar + 1..];
            if rest.starts_with('$') {
                literal.push('$');
                at = dollar + 2;
            } else if rest.starts_with('{') {
                let close = rest.find('}').ok_or_else(|| refuse(dollar..text.len()))?;
                let name = rest[1..close].trim();
                let span = dollar..dollar + 1 + close + 1;
                if name.is_empty() || name.contains(['{', '$', '/']) {
                    return Err(refuse(span));
                }
                if !literal.is_empty() {
                    parts.push(TemplatePart::Literal(std::mem::take(&mut literal)));
                }
                let variable = match name {
                    "topic" => Variable::Topic,
                    "kind" => Variable::Kind,
                    "client" => Variable::Client,
                    "subject" => Variable::Subject,
                    "key" => Variable::Key,
                    _ => match name.strip_prefix("tags.") {
                        Some(tag) => Variable::Tag(tag.to_owned()),
                        None => Variable::Column(name.to_owned()),
                    },
                };
                at = span.end;
                parts.push(TemplatePart::Variable { variable, span });
            } else {
                literal.push('$');
                at = dollar + 1;
            }
        }
        literal.push_str(&text[at..]);
        if !literal.is_empty() {
            parts.push(TemplatePart::Literal(literal));
        }
        Ok(Template {
            text: text.to_owned(),
            parts,
        })
    }

    /// The pieces.
    pub fn parts(&self) -> &[TemplatePart] {
        &self.parts
    }

    /// The text, when there is no variable in it.
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [TemplatePart::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// A pattern that matches every topic the template can produce.
    ///
    /// # Errors
    /// What the topic parser says of the literal parts.
    pub fn pattern(&self) -> Result<Filter, Error> {
        // A level with a variable in it matches anything.
        let mut levels: Vec<String> = vec![String::new()];
        let mut wild = vec![false];
        for part in &self.parts {
            match part {
                TemplatePart::Literal(text) => {
                    if text.contains(['+', '#']) {
                        return Err(
                            Error::new(Class::Configuration, "catalog.template-wildcard")
                                .with("text", &self.text),
                        );
                    }
                    for (i, piece) in text.split('/').enumerate() {
                        if i > 0 {
                            levels.push(String::new());
                            wild.push(false);
                        }
                        if let Some(level) = levels.last_mut() {
                            level.push_str(piece);
                        }
                    }
                }
                TemplatePart::Variable { variable, .. } if variable.spans_levels() => {
                    // The rest of the topic is unknown.
                    levels.pop();
                    levels.push("#".into());
                    let levels = substitute(levels, &wild);
                    return Filter::parse(&levels.join("/"));
                }
                TemplatePart::Variable { .. } => {
                    if let Some(last) = wild.last_mut() {
                        *last = true;
                    }
                }
            }
        }
        Filter::parse(&substitute(levels, &wild).join("/"))
    }
}

fn substitute(levels: Vec<String>, wild: &[bool]) -> Vec<String> {
    let replace = |(i, level): (usize, String)| match wild.get(i) {
        Some(true) if level != "#" => "+".to_owned(),
        _ => level,
    };
    levels.into_iter().enumerate().map(replace).collect()
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_variables_and_dollars() {
        let template = Template::parse("alarm/${site}/$$5/${tags.unit}").unwrap();
        assert_eq!(template.parts().len(), 4);
        assert!(matches!(&template.parts()[1],
            TemplatePart::Variable { variable: Variable::Column(c), span } if c == "site" && *span == (6..13)));
        assert_eq!(template.parts()[2], TemplatePart::Literal("/$5/".into()));
        assert_eq!(Template::parse("a/b").unwrap().literal(), Some("a/b"));
    }

    #[test]
    fn says_which_topics_can_come_out() {
        let pattern = |t: &str| Template::parse(t).unwrap().pattern().unwrap().to_string();
        assert_eq!(pattern("alarm/${site}/rain"), "alarm/+/rain");
        assert_eq!(pattern("alarm/x-${site}"), "alarm/+");
        assert_eq!(pattern("copy/${topic}/x"), "copy/#");
        assert_eq!(pattern("copy/a${subject}"), "copy/#");
        assert_eq!(pattern("${kind}"), "+");
    }

    #[test]
    fn refuses_what_is_not_closed() {
        for bad in ["a/${", "a/${}", "a/${x/y}", "${a${b}}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
        assert!(Template::parse("a/#").unwrap().pattern().is_err());
    }
}
