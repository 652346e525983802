//! Tests of events: the conditions of cases, compiled.
//!
//! A test by value compares codes. A *dimension* is something that cases compare with constants: a part of the topic, a
//! tag, a column. All constants of a dimension are numbered, and an event's *code* in it says which one its value is.

use arrow::datatypes::SchemaRef;
use busbar_catalog::{ANY, PathItem, RouteCondition, RouteTests, RouteValues};
use busbar_event::topic::Filter;
use busbar_event::{Class, Error};
use busbar_sql::{ConditionConstants, ConditionParser, ConditionPart, ConditionValue, Predicate};
use hashbrown::HashMap;

use crate::operator::Wrong;

/// The code of an event that has no value.
pub(super) const ABSENT: u32 = 0;
/// The code of a value that is none of the constants.
pub(super) const OTHER: u32 = 1;
/// The code of the first constant.
const FIRST: u32 = 2;

/// A test of an event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum RouteTest {
    Const(bool),
    And(Vec<RouteTest>),
    Or(Vec<RouteTest>),
    Not(Box<RouteTest>),
    /// The value in a dimension has one of these codes, in ascending order; none: it has any value.
    In(usize, Vec<u32>),
    /// The topic fits the pattern.
    Topic(Filter),
    /// An SQL condition, by its number.
    Sql(usize),
}

/// Something that cases compare with constants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Dimension {
    Kind,
    Client,
    Subject,
    Topic,
    Tag(String),
    /// A column of texts, by its name.
    Text(String),
    /// A column of whole numbers, by its name.
    Int(String),
}

impl Dimension {
    /// Whether it depends on the topic alone.
    pub fn is_topic(&self) -> bool {
        use Dimension::{Client, Kind, Subject, Topic};
        matches!(self, Kind | Client | Subject | Topic)
    }

    /// The column it is read from.
    pub fn column(&self) -> &str {
        match self {
            Dimension::Tag(_) => "tags",
            Dimension::Text(column) | Dimension::Int(column) => column,
            _ => "topic",
        }
    }
}

/// The dimensions, and the codes of their constants.
#[derive(Clone, Debug, Default)]
pub(super) struct Dimensions {
    places: HashMap<Dimension, usize>,
    pub all: Vec<(Dimension, Codes)>,
}

/// The codes of a dimension's constants.
#[derive(Clone, Debug, Default)]
pub(super) struct Codes {
    texts: HashMap<String, u32>,
    ints: HashMap<i64, u32>,
}

impl Codes {
    /// How many constants there are.
    pub fn constants(&self) -> usize {
        self.texts.len() + self.ints.len()
    }

    pub fn of_text(&self, text: Option<&str>) -> u32 {
        match text {
            None => ABSENT,
            Some(text) => self.texts.get(text).copied().unwrap_or(OTHER),
        }
    }

    pub fn of_int(&self, int: Option<i64>) -> u32 {
        match int {
            None => ABSENT,
            Some(int) => self.ints.get(&int).copied().unwrap_or(OTHER),
        }
    }
}

impl Dimensions {
    fn place(&mut self, dimension: Dimension) -> usize {
        if let Some(place) = self.places.get(&dimension) {
            return *place;
        }
        let place = self.all.len();
        self.places.insert(dimension.clone(), place);
        self.all.push((dimension, Codes::default()));
        place
    }

    fn texts<'a>(
        &mut self,
        dimension: Dimension,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> RouteTest {
        let place = self.place(dimension);
        let codes = &mut self.all[place].1.texts;
        let mut found: Vec<u32> = texts
            .into_iter()
            .map(|text| {
                let next = codes.len() as u32 + FIRST;
                *codes.entry_ref(text).or_insert(next)
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        RouteTest::In(place, found)
    }

    fn ints(&mut self, dimension: Dimension, ints: &[i64]) -> RouteTest {
        let place = self.place(dimension);
        let codes = &mut self.all[place].1.ints;
        let mut found: Vec<u32> = ints
            .iter()
            .map(|int| {
                let next = codes.len() as u32 + FIRST;
                *codes.entry(*int).or_insert(next)
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        RouteTest::In(place, found)
    }

    fn values(&mut self, dimension: Dimension, values: &RouteValues) -> RouteTest {
        match values.0.iter().any(|value| value == ANY) {
            true => RouteTest::In(self.place(dimension), Vec::new()),
            false => self.texts(dimension, values.0.iter().map(String::as_str)),
        }
    }
}

/// Compiles conditions against the columns of a step.
pub(super) struct TestCompiler<'a> {
    schema: &'a SchemaRef,
    parser: ConditionParser,
    pub dimensions: Dimensions,
    /// SQL conditions that are no comparisons with constants.
    pub predicates: Vec<Predicate>,
    /// Their numbers, by their texts.
    texts: HashMap<String, usize>,
}

impl<'a> TestCompiler<'a> {
    pub fn new(schema: &'a SchemaRef) -> TestCompiler<'a> {
        TestCompiler {
            schema,
            parser: ConditionParser::new(schema),
            dimensions: Dimensions::default(),
            predicates: Vec::new(),
            texts: HashMap::new(),
        }
    }

    /// # Errors
    /// What is wrong, and where below the condition.
    pub fn compile(&mut self, condition: &RouteCondition) -> Result<RouteTest, Wrong> {
        let test = match condition {
            RouteCondition::Sql(text) => self.sql(text)?,
            RouteCondition::Tests(tests) => self.tests(tests)?,
        };
        Ok(test.simple())
    }

    fn tests(&mut self, tests: &RouteTests) -> Result<RouteTest, Wrong> {
        let mut all = Vec::new();
        if let Some(values) = &tests.topic {
            let each = values.0.iter().enumerate();
            let each = each.map(|(i, text)| {
                let wrong = |error| {
                    let wrong = Wrong::new(error);
                    let at = match values.0.len() {
                        1 => wrong,
                        _ => wrong.at(i),
                    };
                    at.at("topic")
                };
                self.topic(text).map_err(wrong)
            });
            all.push(RouteTest::Or(each.collect::<Result<_, _>>()?));
        }
        let parts = [
            ("kind", &tests.kind, Dimension::Kind),
            ("client", &tests.client, Dimension::Client),
            ("subject", &tests.subject, Dimension::Subject),
        ];
        for (key, values, dimension) in parts {
            if let Some(values) = values {
                self.needs("topic").map_err(|wrong| wrong.at(key))?;
                all.push(self.dimensions.values(dimension, values));
            }
        }
        for (name, values) in &tests.tags {
            self.needs("tags").map_err(|wrong| wrong.at("tags"))?;
            let tag = Dimension::Tag(name.clone());
            all.push(self.dimensions.values(tag, values));
        }
        if let Some(text) = &tests.sql {
            all.push(self.sql(text).map_err(|wrong| wrong.at("sql"))?);
        }
        let mut list = |key: &'static str, list: &[RouteCondition]| {
            let each = list.iter().enumerate();
            let each = each.map(|(i, each)| {
                let compiled = self.compile(each);
                compiled.map_err(|wrong| wrong.at(PathItem::Index(i)).at(key))
            });
            each.collect::<Result<Vec<_>, _>>()
        };
        if let Some(and) = &tests.and {
            all.push(RouteTest::And(list("and", and)?));
        }
        if let Some(or) = &tests.or {
            all.push(RouteTest::Or(list("or", or)?));
        }
        if let Some(not) = &tests.not {
            let not = self.compile(not).map_err(|wrong| wrong.at("not"))?;
            all.push(RouteTest::Not(Box::new(not)));
        }
        Ok(RouteTest::And(all))
    }

    /// A pattern. What it says of the first two levels can be looked up.
    fn topic(&mut self, text: &str) -> Result<RouteTest, Error> {
        self.needs("topic").map_err(|wrong| wrong.error)?;
        if text == ANY {
            return Ok(RouteTest::Const(true));
        }
        let filter = Filter::parse(text)?;
        if filter.is_literal() {
            return Ok(self.dimensions.texts(Dimension::Topic, [text]));
        }
        let mut all = Vec::new();
        let levels = text.split('/').zip([Dimension::Kind, Dimension::Client]);
        for (level, dimension) in levels {
            if !level.is_empty() && level != "+" && level != "#" {
                all.push(self.dimensions.texts(dimension, [level]));
            }
        }
        all.push(RouteTest::Topic(filter));
        Ok(RouteTest::And(all))
    }

    fn sql(&mut self, text: &str) -> Result<RouteTest, Wrong> {
        let part = self.parser.parse(text)?;
        Ok(self.part(part))
    }

    fn part(&mut self, part: ConditionPart) -> RouteTest {
        let each = |this: &mut Self, parts: Vec<ConditionPart>| {
            parts.into_iter().map(|part| this.part(part)).collect()
        };
        match part {
            ConditionPart::And(parts) => RouteTest::And(each(self, parts)),
            ConditionPart::Or(parts) => RouteTest::Or(each(self, parts)),
            ConditionPart::Other(predicate, text) => {
                let number = self.predicates.len();
                let number = *self.texts.entry(text).or_insert(number);
                if number == self.predicates.len() {
                    self.predicates.push(predicate);
                }
                RouteTest::Sql(number)
            }
            ConditionPart::In(value, constants) => {
                let dimension = match value {
                    ConditionValue::TopicPart("kind") => Dimension::Kind,
                    ConditionValue::TopicPart("client") => Dimension::Client,
                    ConditionValue::TopicPart(_) => Dimension::Subject,
                    ConditionValue::Tag(name) => Dimension::Tag(name),
                    ConditionValue::Column(column) => {
                        let name = self.schema.field(column).name();
                        match &constants {
                            ConditionConstants::Texts(_) if name == "topic" => Dimension::Topic,
                            ConditionConstants::Texts(_) => Dimension::Text(name.clone()),
                            ConditionConstants::Ints(_) => Dimension::Int(name.clone()),
                        }
                    }
                };
                match &constants {
                    ConditionConstants::Texts(texts) => {
                        let texts = texts.iter().map(String::as_str);
                        self.dimensions.texts(dimension, texts)
                    }
                    ConditionConstants::Ints(ints) => self.dimensions.ints(dimension, ints),
                }
            }
        }
    }

    fn needs(&self, column: &str) -> Result<(), Wrong> {
        match self.schema.index_of(column) {
            Ok(_) => Ok(()),
            Err(_) => {
                let error = Error::new(Class::Configuration, "flow.unknown-column");
                Err(Wrong::new(error.with("column", column)))
            }
        }
    }
}

impl RouteTest {
    /// The same test without constants within it, and with one list of codes for each dimension that an `or` or `and`
    /// compares.
    pub fn simple(self) -> RouteTest {
        match self {
            RouteTest::And(parts) => join(parts, true),
            RouteTest::Or(parts) => join(parts, false),
            RouteTest::Not(part) => match part.simple() {
                RouteTest::Const(value) => RouteTest::Const(!value),
                RouteTest::Not(inner) => *inner,
                other => RouteTest::Not(Box::new(other)),
            },
            other => other,
        }
    }

    /// The tests by value that hold whenever this one does.
    pub fn required(&self) -> impl Iterator<Item = (usize, &[u32])> {
        let parts = match self {
            RouteTest::And(parts) => &parts[..],
            other => std::slice::from_ref(other),
        };
        parts.iter().filter_map(|part| match part {
            RouteTest::In(dimension, codes) => Some((*dimension, &codes[..])),
            _ => None,
        })
    }

    /// The test for events whose codes in some dimensions are known.
    pub fn known(&self, code: &impl Fn(usize) -> Option<u32>) -> RouteTest {
        let each = |parts: &[RouteTest]| parts.iter().map(|part| part.known(code)).collect();
        match self {
            RouteTest::And(parts) => RouteTest::And(each(parts)).simple(),
            RouteTest::Or(parts) => RouteTest::Or(each(parts)).simple(),
            RouteTest::Not(part) => RouteTest::Not(Box::new(part.known(code))).simple(),
            RouteTest::In(dimension, codes) => match code(*dimension) {
                Some(code) => RouteTest::Const(holds(codes, code)),
                None => self.clone(),
            },
            other => other.clone(),
        }
    }

    /// Whether `other` holds whenever this one does, as far as that can be told from its form.
    pub fn implies(&self, other: &RouteTest) -> bool {
        let parts = |test: &RouteTest| match test {
            RouteTest::And(parts) => parts.clone(),
            one => vec![one.clone()],
        };
        let mine = parts(self);
        let narrower = |wide: &RouteTest| {
            mine.iter().any(|narrow| match (narrow, wide) {
                (RouteTest::In(a, narrow), RouteTest::In(b, wide)) if a == b => {
                    wide.is_empty()
                        || (!narrow.is_empty() && narrow.iter().all(|code| wide.contains(code)))
                }
                (narrow, wide) => narrow == wide,
            })
        };
        *other == RouteTest::Const(true) || parts(other).iter().all(narrower)
    }
}

/// Whether a code is among those of a test by value.
pub(super) fn holds(codes: &[u32], code: u32) -> bool {
    match codes {
        [] => code != ABSENT,
        codes => codes.binary_search(&code).is_ok(),
    }
}

fn join(parts: Vec<RouteTest>, all: bool) -> RouteTest {
    let mut joined: Vec<RouteTest> = Vec::new();
    for part in parts.into_iter().map(RouteTest::simple) {
        let inner = match part {
            RouteTest::Const(value) if value == all => continue,
            RouteTest::Const(value) => return RouteTest::Const(value),
            RouteTest::And(inner) if all => inner,
            RouteTest::Or(inner) if !all => inner,
            other => vec![other],
        };
        for part in inner {
            let RouteTest::In(dimension, codes) = part else {
                joined.push(part);
                continue;
            };
            let known = joined.iter_mut().find_map(|known| match known {
                RouteTest::In(same, codes) if *same == dimension => Some(codes),
                _ => None,
            });
            match known {
                None => joined.push(RouteTest::In(dimension, codes)),
                Some(known) => {
                    let any = (known.is_empty(), codes.is_empty());
                    match (any, all) {
                        ((true, _), true) => *known = codes,
                        ((_, true), true) => {}
                        ((true, _) | (_, true), false) => known.clear(),
                        (_, true) => {
                            known.retain(|code| codes.contains(code));
                            if known.is_empty() {
                                return RouteTest::Const(false);
                            }
                        }
                        (_, false) => {
                            known.extend(codes);
                            known.sort_unstable();
                            known.dedup();
                        }
                    }
                }
            }
        }
    }
    match (joined.len(), all) {
        (0, _) => RouteTest::Const(all),
        (1, _) => joined.swap_remove(0),
        (_, true) => RouteTest::And(joined),
        (_, false) => RouteTest::Or(joined),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RouteTest::{And, Const, In, Not, Or, Sql};

    #[test]
    fn tests_are_made_simple() {
        let a = |codes: &[u32]| In(0, codes.to_vec());
        for (test, simple) in [
            (And(vec![a(&[2, 3]), a(&[3, 4])]), a(&[3])),
            (And(vec![a(&[2]), a(&[3])]), Const(false)),
            (Or(vec![a(&[3]), a(&[2])]), a(&[2, 3])),
            (Or(vec![a(&[3]), a(&[])]), a(&[])),
            (And(vec![a(&[3]), a(&[])]), a(&[3])),
            (
                And(vec![Const(true), And(vec![Sql(0), a(&[2])])]),
                And(vec![Sql(0), a(&[2])]),
            ),
            (Not(Box::new(Not(Box::new(Sql(1))))), Sql(1)),
            (Or(vec![Sql(0), Not(Box::new(Const(false)))]), Const(true)),
            (And(Vec::new()), Const(true)),
        ] {
            assert_eq!(test.clone().simple(), simple, "{test:?}");
        }
    }

    #[test]
    fn what_is_known_is_filled_in() {
        let test = And(vec![
            In(0, vec![2]),
            Not(Box::new(In(1, Vec::new()))),
            Sql(0),
        ]);
        let known = |codes: [u32; 2]| test.known(&|dimension| Some(codes[dimension]));
        assert_eq!(known([2, ABSENT]), Sql(0));
        assert_eq!(known([2, OTHER]), Const(false));
        assert_eq!(known([OTHER, ABSENT]), Const(false));
    }

    #[test]
    fn a_narrower_test_implies_a_wider_one() {
        let narrow = And(vec![In(0, vec![2]), Sql(0)]);
        assert!(narrow.implies(&In(0, vec![2, 3])));
        assert!(narrow.implies(&In(0, Vec::new())));
        assert!(narrow.implies(&Const(true)));
        assert!(!narrow.implies(&In(0, vec![3])));
        assert!(!narrow.implies(&Sql(1)));
        assert!(!In(0, Vec::new()).implies(&In(0, vec![2])));
    }
}
