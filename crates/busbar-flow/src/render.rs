//! Templates over a batch: topics and keys of results.

use std::fmt::Write;

use arrow::array::{Array, DictionaryArray, Int32Array, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{Int32Type, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use busbar_catalog::{Template, TemplatePart, Variable, suggest};
use busbar_event::topic::Filter;
use busbar_event::{Batch, Class, Error, topic};
use hashbrown::HashMap;

use crate::limits::TEMPLATE_BYTES_MAX;

/// Where result rows come from: the events, and for each row the event it was made of. A query's rows come
/// from no single event.
#[derive(Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub events: &'a Batch,
    pub rows: OriginRows<'a>,
}

/// See [`Origin`].
#[derive(Clone, Copy)]
pub(crate) enum OriginRows<'a> {
    /// Row `i` was made of event `i`.
    Same,
    /// Row `i` was made of event `rows[i]`.
    Some(&'a UInt32Array),
    /// Made of many.
    None,
}

impl<'a> Origin<'a> {
    /// The event a row was made of.
    pub fn event(&self, row: usize) -> Option<usize> {
        match self.rows {
            OriginRows::Same => Some(row),
            OriginRows::Some(rows) => Some(rows.value(row) as usize),
            OriginRows::None => None,
        }
    }
}

/// A template whose variables have been looked up.
#[derive(Clone, Debug)]
pub(crate) struct Renderer {
    pieces: Vec<Piece>,
    /// Every variable is a part of the event's topic: rendered once for each distinct topic.
    by_topic: bool,
    /// The text becomes a topic: values must not add levels to it.
    topic: bool,
}

#[derive(Clone, Debug)]
enum Piece {
    Literal(String),
    Own(Own),
    /// A column of the result, and whether its value may hold `/`.
    Column(usize, bool),
    Tag(String),
}

#[derive(Clone, Copy, Debug)]
enum Own {
    Topic,
    Kind,
    Client,
    Subject,
    Key,
}

/// What came of rendering: a value for each row; rows without one have a null and a reason.
pub(crate) struct Rendered {
    pub values: DictionaryArray<Int32Type>,
    pub failed: Vec<(usize, Error)>,
}

impl Renderer {
    /// Looks up the variables of a template. `schema` are the result's columns; `explicit` says that a
    /// `select` or query named them, `derived` that there is no event behind a row.
    ///
    /// # Errors
    /// The place in the template, what is wrong, and what was probably meant.
    pub fn compile(
        template: &Template,
        schema: &Schema,
        explicit: bool,
        derived: bool,
        is_topic: bool,
    ) -> Result<Renderer, (std::ops::Range<usize>, Error, Option<Error>)> {
        let mut pieces = Vec::new();
        let mut by_topic = true;
        for part in template.parts() {
            let (variable, span) = match part {
                TemplatePart::Literal(text) => {
                    pieces.push(Piece::Literal(text.clone()));
                    continue;
                }
                TemplatePart::Variable { variable, span } => (variable, span),
            };
            let name = variable.name();
            let own = match variable {
                Variable::Topic => Some(Own::Topic),
                Variable::Kind => Some(Own::Kind),
                Variable::Client => Some(Own::Client),
                Variable::Subject => Some(Own::Subject),
                Variable::Key => Some(Own::Key),
                Variable::Tag(_) | Variable::Column(_) => None,
            };
            let column = schema.index_of(&name).ok();
            match (own, variable, column) {
                // What a step named is what is meant.
                (Some(_), _, Some(column)) if explicit => {
                    by_topic = false;
                    pieces.push(Piece::Column(column, variable.spans_levels()));
                }
                (Some(own), ..) if !derived => {
                    by_topic &= !matches!(own, Own::Key);
                    pieces.push(Piece::Own(own));
                }
                (None, Variable::Tag(tag), _) if !derived => {
                    by_topic = false;
                    pieces.push(Piece::Tag(tag.clone()));
                }
                (None, _, Some(column)) => {
                    by_topic = false;
                    pieces.push(Piece::Column(column, false));
                }
                _ => {
                    let code = if column.is_none() && own.is_none() {
                        "flow.unknown-column"
                    } else {
                        "flow.no-event"
                    };
                    let error = Error::new(Class::Configuration, code).with("column", &name);
                    let names = schema.fields().iter().map(|f| f.name().as_str());
                    return Err((span.clone(), error, suggest(&name, names)));
                }
            }
        }
        Ok(Renderer {
            pieces,
            by_topic,
            topic: is_topic,
        })
    }

    /// The columns of the result that are needed.
    pub fn columns(&self) -> impl Iterator<Item = usize> + '_ {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Column(column, _) => Some(*column),
            _ => None,
        })
    }

    /// Renders a value for each row.
    pub fn render(&self, rows: &RecordBatch, origin: Origin<'_>) -> Result<Rendered, Error> {
        if self.by_topic && !matches!(origin.rows, OriginRows::None) {
            return Ok(self.render_by_topic(rows.num_rows(), origin));
        }
        let options = FormatOptions::new();
        let mut formatters = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            formatters.push(match piece {
                Piece::Column(column, _) => {
                    let array = rows.column(*column).as_ref();
                    let formatter = ArrayFormatter::try_new(array, &options).map_err(|e| {
                        Error::new(Class::Configuration, "flow.template-type").caused_by(e)
                    })?;
                    Some((array, formatter))
                }
                _ => None,
            });
        }
        let mut values = Interned::default();
        let mut keys = Vec::with_capacity(rows.num_rows());
        let mut failed = Vec::new();
        let mut text = String::new();
        for row in 0..rows.num_rows() {
            text.clear();
            let mut bad = None;
            for (piece, formatter) in self.pieces.iter().zip(&formatters) {
                let from = text.len();
                let done = match (piece, formatter) {
                    (Piece::Literal(literal), _) => {
                        text.push_str(literal);
                        continue;
                    }
                    (Piece::Column(column, _), Some((array, formatter))) => {
                        if array.is_null(row) {
                            Err(null(rows.schema_ref().field(*column).name()))
                        } else {
                            formatter.value(row).write(&mut text).map_err(|e| {
                                Error::new(Class::Permanent, "flow.template-type").caused_by(e)
                            })
                        }
                    }
                    (Piece::Own(own), _) => own_value(*own, origin, row, &mut text),
                    (Piece::Tag(tag), _) => origin
                        .event(row)
                        .and_then(|e| origin.events.tags(e).find(|(name, _)| name == tag))
                        .map(|(_, value)| text.push_str(value))
                        .ok_or_else(|| null(tag)),
                    (Piece::Column(..), None) => Ok(()),
                };
                if let Err(error) = done {
                    bad = Some(error);
                    break;
                }
                let levels = !matches!(
                    piece,
                    Piece::Column(_, true) | Piece::Own(Own::Topic | Own::Subject)
                );
                if self.topic && levels && text[from..].contains('/') {
                    bad = Some(
                        Error::new(Class::Permanent, "flow.template-slash")
                            .with("value", busbar_event::quote(&text[from..])),
                    );
                    break;
                }
            }
            match bad.map_or_else(|| self.check(&text), Err) {
                Ok(()) => keys.push(Some(values.key(&text))),
                Err(error) => {
                    failed.push((row, error));
                    keys.push(None);
                }
            }
        }
        Ok(Rendered {
            values: values.finish(keys),
            failed,
        })
    }

    fn render_by_topic(&self, rows: usize, origin: Origin<'_>) -> Rendered {
        let events = origin.events;
        let topics = events.topic_values();
        let mut made: Vec<Option<Result<i32, Error>>> = vec![None; topics.len()];
        let mut values = Interned::default();
        let mut keys = Vec::with_capacity(rows);
        let mut failed = Vec::new();
        let mut text = String::new();
        for row in 0..rows {
            // Never out of range: there is an event behind every row.
            let event = origin.event(row).unwrap_or(0);
            let slot = &mut made[events.topic_keys()[event] as usize];
            let key = slot.get_or_insert_with(|| {
                text.clear();
                for piece in &self.pieces {
                    match piece {
                        Piece::Literal(literal) => text.push_str(literal),
                        Piece::Own(own) => own_value(*own, origin, row, &mut text)?,
                        Piece::Column(..) | Piece::Tag(_) => {}
                    }
                }
                self.check(&text)?;
                Ok(values.key(&text))
            });
            match key {
                Ok(key) => keys.push(Some(*key)),
                Err(error) => {
                    failed.push((row, error.clone()));
                    keys.push(None);
                }
            }
        }
        Rendered {
            values: values.finish(keys),
            failed,
        }
    }

    fn check(&self, text: &str) -> Result<(), Error> {
        if self.topic {
            return topic::check(text);
        }
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(Error::new(Class::Permanent, "flow.template-long")
                .with("bytes", text.len())
                .with("bytes_max", TEMPLATE_BYTES_MAX));
        }
        Ok(())
    }
}

fn null(name: &str) -> Error {
    Error::new(Class::Permanent, "flow.template-null").with("column", name)
}

fn own_value(own: Own, origin: Origin<'_>, row: usize, text: &mut String) -> Result<(), Error> {
    let Some(event) = origin.event(row) else {
        return Err(null("topic"));
    };
    let topic = origin.events.topic(event);
    let (name, value) = match own {
        Own::Topic => ("topic", topic),
        Own::Kind => ("kind", topic::parts(topic).kind),
        Own::Client => ("client", topic::parts(topic).client),
        Own::Subject => ("subject", topic::parts(topic).subject),
        Own::Key => ("key", origin.events.key(event).ok_or_else(|| null("key"))?),
    };
    if value.is_empty() {
        return Err(null(name));
    }
    // Writing to a String does not fail.
    let _ = text.write_str(value);
    Ok(())
}

/// Distinct values and their numbers.
#[derive(Default)]
struct Interned {
    numbers: HashMap<String, i32>,
    values: Vec<String>,
}

impl Interned {
    fn key(&mut self, text: &str) -> i32 {
        if let Some(key) = self.numbers.get(text) {
            return *key;
        }
        // As many as rows at most.
        let key = self.values.len() as i32;
        self.numbers.insert(text.to_owned(), key);
        self.values.push(text.to_owned());
        key
    }

    fn finish(self, keys: Vec<Option<i32>>) -> DictionaryArray<Int32Type> {
        let values = StringArray::from(self.values);
        DictionaryArray::new(Int32Array::from(keys), std::sync::Arc::new(values))
    }
}

/// The topic of an event that a stream takes under one of its patterns: its own where it fits, else the
/// pattern with the event's levels in place of the wildcards.
pub(crate) fn fit(patterns: &[Filter], topic: &str) -> Option<String> {
    if patterns.is_empty() || patterns.iter().any(|p| p.matches(topic)) {
        return Some(topic.to_owned());
    }
    let own: Vec<&str> = topic.split('/').collect();
    patterns.iter().find_map(|pattern| {
        let mut levels = Vec::new();
        for (i, level) in pattern.as_str().split('/').enumerate() {
            match level {
                "+" => levels.push(*own.get(i)?),
                "#" => levels.extend(own.get(i..)?),
                literal => levels.push(literal),
            }
        }
        let made = levels.join("/");
        topic::check(&made).is_ok().then_some(made)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_fitted_to_patterns() {
        let filters = |list: &[&str]| -> Vec<Filter> {
            list.iter().map(|f| Filter::parse(f).unwrap()).collect()
        };
        let fit = |patterns: &[&str], topic| fit(&filters(patterns), topic);
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(
            fit(&["clean/+/reading"], "meter/m1/raw"),
            some("clean/m1/reading")
        );
        assert_eq!(fit(&["clean/#"], "meter/m1/raw"), some("clean/m1/raw"));
        assert_eq!(fit(&["x/+/+/+", "y"], "meter/m1"), some("y"));
        assert_eq!(fit(&["x/+/+/+"], "meter/m1"), None);
        assert_eq!(fit(&["meter/#"], "meter/m1"), some("meter/m1"));
        assert_eq!(fit(&[], "a"), some("a"));
    }
}
