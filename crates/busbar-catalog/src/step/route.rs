//! The step `route`: which events take which way through a flow.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use crate::{PathItem, StepSpec};

/// Sends each event on by cases: to steps and outputs of the case's own. An event that fits no case takes the default
/// case; without one it is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// The name under which the state of its cases' steps is kept, with that of the case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether an event takes the first case that it fits, or each of them.
    #[serde(
        default,
        rename = "match",
        skip_serializing_if = "RouteMatch::is_first"
    )]
    pub matching: RouteMatch,
    /// The cases, in order.
    pub cases: Vec<RouteCase>,
    /// What becomes of events that fit no case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<RouteDefault>,
}

/// How many cases an event can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RouteMatch {
    /// The first one that it fits.
    #[default]
    First,
    /// Each one that it fits.
    All,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteCase {
    /// Its name, under which the state of its steps is kept and which the console shows. Give one, and the state stays
    /// when other cases are added or moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which events fit.
    pub when: RouteCondition,
    /// What is done with them, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepSpec>,
    /// The outputs that they go to: names of outputs of the flow, or their streams, topics, tables or connections. An empty
    /// list drops them. Without it they go to every output. Only where the route is the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<String>>,
}

/// The case of events that fit no other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteDefault {
    /// What is done with them, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepSpec>,
    /// The outputs that they go to, as in a case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<String>>,
}

/// A condition of a case: an SQL condition as text, or tests that must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteCondition {
    /// SQL; null counts as false.
    Sql(String),
    /// Tests.
    Tests(Box<RouteTests>),
}

/// Tests of an event that must all hold; one at least.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteTests {
    /// The topic fits one of these patterns (`+` is one level, a last `#` all below).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<RouteValues>,
    /// The first part of the topic is one of these, or `any`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<RouteValues>,
    /// The second part of the topic is one of these, or `any`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<RouteValues>,
    /// The rest of the topic is one of these, or `any`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<RouteValues>,
    /// Each of these tags has one of the values, or `any`. A name that ends with `*` stands for the first tag that begins so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, RouteValues>,
    /// This SQL condition is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// All of these hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub and: Option<Vec<RouteCondition>>,
    /// One of these holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub or: Option<Vec<RouteCondition>>,
    /// This does not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not: Option<RouteCondition>,
}

/// A text, or a list of texts of which one must fit; `any` fits whatever is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteValues(pub Vec<String>);

/// What fits every value.
pub const ANY: &str = "any";

impl RouteMatch {
    fn is_first(&self) -> bool {
        *self == RouteMatch::First
    }
}

impl RouteSpec {
    /// What a case is called: its name, or `case-1` and so on; `default` for the default case, which comes last.
    pub fn case_name(&self, case: usize) -> String {
        match self.cases.get(case).map(|case| &case.name) {
            Some(Some(name)) => name.clone(),
            Some(None) => format!("case-{}", case + 1),
            None => "default".to_owned(),
        }
    }

    /// Lets cases that lead to some outputs lead to all of them; those that drop events go on doing so.
    pub(super) fn lead_everywhere(&mut self) {
        let cases = self
            .cases
            .iter_mut()
            .map(|case| (&mut case.to, &mut case.steps));
        let default = self.default.iter_mut();
        let default = default.map(|case| (&mut case.to, &mut case.steps));
        for (to, steps) in cases.chain(default) {
            *to = to.take().filter(Vec::is_empty);
            steps.iter_mut().for_each(StepSpec::lead_everywhere);
        }
    }

    /// The steps and outputs of each case, the default case last where there is one, with the way to it below the step's
    /// kind.
    pub fn ways(&self) -> impl Iterator<Item = RouteWay<'_>> {
        let cases = self.cases.iter().enumerate().map(|(i, case)| RouteWay {
            path: vec!["cases".into(), i.into()],
            steps: &case.steps,
            to: case.to.as_deref(),
        });
        let default = self.default.iter().map(|case| RouteWay {
            path: vec!["default".into()],
            steps: &case.steps,
            to: case.to.as_deref(),
        });
        cases.chain(default)
    }

    /// The SQL of its conditions, each text with its place below the step's kind.
    pub fn texts(&self) -> Vec<(Vec<PathItem<'static>>, &str)> {
        let mut texts = Vec::new();
        for (i, case) in self.cases.iter().enumerate() {
            let path = vec!["cases".into(), i.into(), "when".into()];
            case.when.texts(path, &mut texts);
        }
        texts
    }
}

/// Steps and outputs of a case.
pub struct RouteWay<'a> {
    /// From the value of the step's kind to the case.
    pub path: Vec<PathItem<'static>>,
    /// What is done.
    pub steps: &'a [StepSpec],
    /// Where it goes.
    pub to: Option<&'a [String]>,
}

impl RouteCondition {
    fn texts<'a>(
        &'a self,
        path: Vec<PathItem<'static>>,
        texts: &mut Vec<(Vec<PathItem<'static>>, &'a str)>,
    ) {
        let below = |key: &'static str| {
            let mut path = path.clone();
            path.push(key.into());
            path
        };
        let tests = match self {
            RouteCondition::Sql(text) => return texts.push((path, text)),
            RouteCondition::Tests(tests) => tests,
        };
        texts.extend(tests.sql.iter().map(|text| (below("sql"), text.as_str())));
        for (key, list) in [("and", &tests.and), ("or", &tests.or)] {
            for (i, each) in list.iter().flatten().enumerate() {
                let mut path = below(key);
                path.push(i.into());
                each.texts(path, texts);
            }
        }
        if let Some(not) = &tests.not {
            not.texts(below("not"), texts);
        }
    }
}

impl Serialize for RouteCondition {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            RouteCondition::Sql(text) => s.serialize_str(text),
            RouteCondition::Tests(tests) => tests.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for RouteCondition {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct RouteConditionForms;
        impl<'de> Visitor<'de> for RouteConditionForms {
            type Value = RouteCondition;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an SQL condition, or tests such as kind, client, subject and tags")
            }
            fn visit_str<E>(self, text: &str) -> Result<RouteCondition, E> {
                Ok(RouteCondition::Sql(text.to_owned()))
            }
            fn visit_bool<E>(self, value: bool) -> Result<RouteCondition, E> {
                Ok(RouteCondition::Sql(value.to_string()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RouteCondition, A::Error> {
                let tests = RouteTests::deserialize(MapAccessDeserializer::new(map))?;
                if tests == RouteTests::default() {
                    return Err(de::Error::invalid_length(0, &self));
                }
                Ok(RouteCondition::Tests(Box::new(tests)))
            }
        }
        d.deserialize_any(RouteConditionForms)
    }
}

impl JsonSchema for RouteCondition {
    fn schema_name() -> Cow<'static, str> {
        "RouteCondition".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let tests = generator.subschema_for::<RouteTests>();
        json_schema!({
            "description": "An SQL condition, or tests that must all hold",
            "anyOf": [{ "type": "string" }, { "type": "boolean" }, tests],
        })
    }
}

impl Serialize for RouteValues {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [one] => s.serialize_str(one),
            many => many.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for RouteValues {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct RouteValuesForms;
        impl<'de> Visitor<'de> for RouteValuesForms {
            type Value = RouteValues;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }
            fn visit_str<E>(self, text: &str) -> Result<RouteValues, E> {
                Ok(RouteValues(vec![text.to_owned()]))
            }
            fn visit_bool<E>(self, value: bool) -> Result<RouteValues, E> {
                Ok(RouteValues(vec![value.to_string()]))
            }
            fn visit_i64<E>(self, value: i64) -> Result<RouteValues, E> {
                Ok(RouteValues(vec![value.to_string()]))
            }
            fn visit_u64<E>(self, value: u64) -> Result<RouteValues, E> {
                Ok(RouteValues(vec![value.to_string()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RouteValues, A::Error> {
                let mut values = Vec::new();
                // A number in a file means the text that is written.
                while let Some(value) = seq.next_element::<String>()? {
                    values.push(value);
                }
                match values.is_empty() {
                    true => Err(de::Error::invalid_length(0, &self)),
                    false => Ok(RouteValues(values)),
                }
            }
        }
        d.deserialize_any(RouteValuesForms)
    }
}

impl JsonSchema for RouteValues {
    fn schema_name() -> Cow<'static, str> {
        "RouteValues".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A text, or a list of texts of which one must fit; any fits whatever is there",
            "anyOf": [
                { "type": ["string", "number", "boolean"] },
                { "type": "array", "items": { "type": ["string", "number", "boolean"] }, "minItems": 1 },
            ],
        })
    }
}
