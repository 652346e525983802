//! `route`: sends each row the way of its case.
//!
//! A batch is split once. The topics that occur are looked at once each, other values are looked up among the constants of
//! all cases together, and what is left of a condition is evaluated for all rows that may fit it.

mod index;
mod test;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, DictionaryArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Int32Type, Int64Type, SchemaRef};
use busbar_catalog::{PathItem, RouteMatch, RouteSpec};
use busbar_event::topic::{self, Filter};
use busbar_event::{Class, Error};
use busbar_sql::Predicate;
use futures::future::{BoxFuture, FutureExt, ready};
use hashbrown::HashMap;

use super::rows::misfit;
use super::{Operator, Output, Rows, Step, StepContext, Wrong};
use crate::limits::ROUTE_SIGNATURES_MAX;
use crate::reader::text;
use index::{CaseIndex, CaseList};
use test::{ABSENT, Codes, Dimension, Dimensions, RouteTest, TestCompiler, holds};

/// The conditions of a route's cases, compiled.
pub(crate) struct RouteCases {
    index: CaseIndex,
    dimensions: Dimensions,
    predicates: Vec<Predicate>,
    first: bool,
    /// The number of the default case, which is behind the last one.
    default: usize,
    /// Places of the columns that are read.
    columns: Vec<usize>,
}

/// Where the events of a case go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteTarget {
    /// Nowhere.
    Drop,
    /// To outputs as they are, or on to the next step: the way of all cases without steps. A bit for each output.
    Plain(u32),
    /// To steps of the case's own, by the number of the way.
    Way(usize),
}

/// Rows for another way.
#[derive(Debug)]
pub(crate) struct RoutedRows {
    pub way: usize,
    pub rows: Rows,
    /// For each row the outputs that it goes to; none: those of the way.
    pub to: Option<UInt32Array>,
}

impl RouteCases {
    /// Compiles the conditions of all cases.
    ///
    /// # Errors
    /// What is wrong with one, and where.
    pub fn compile(spec: &RouteSpec, context: &StepContext<'_>) -> Result<RouteCases, Wrong> {
        if spec.cases.is_empty() {
            let error = Error::new(Class::Configuration, "flow.route-empty");
            return Err(Wrong::new(error).at("cases"));
        }
        let mut compiler = TestCompiler::new(context.schema);
        let mut tests = Vec::with_capacity(spec.cases.len());
        for (i, case) in spec.cases.iter().enumerate() {
            let test = compiler.compile(&case.when);
            tests.push(test.map_err(|wrong| wrong.at("when").at(PathItem::Index(i)).at("cases"))?);
        }
        let (dimensions, predicates) = (compiler.dimensions, compiler.predicates);
        let schema = context.schema;
        let named = dimensions
            .all
            .iter()
            .map(|(dimension, _)| dimension.column());
        let named = named
            .chain(["topic"])
            .filter_map(|name| schema.index_of(name).ok());
        let read = predicates.iter().flat_map(Predicate::columns);
        let mut columns: Vec<usize> = named.chain(read).collect();
        columns.sort_unstable();
        columns.dedup();
        Ok(RouteCases {
            index: CaseIndex::new(tests, &dimensions),
            dimensions,
            predicates,
            first: spec.matching == RouteMatch::First,
            default: spec.cases.len(),
            columns,
        })
    }

    /// Cases that no event takes, each with the earlier case that takes its events; none where its condition is never true.
    pub fn unreachable(&self) -> Vec<(usize, Option<usize>)> {
        self.index.unreachable(self.first)
    }
}

/// A route with the ways that lead on from it.
pub(crate) struct RouteStep {
    pub cases: Arc<RouteCases>,
    /// For each case, and behind them for the default case.
    pub targets: Arc<[RouteTarget]>,
    /// The way of cases without steps.
    pub plain: usize,
    /// Whether rows of the plain way carry the outputs that they go to.
    pub ends: bool,
}

impl Step for RouteStep {
    fn schema(&self) -> Option<SchemaRef> {
        None
    }

    fn columns(&self) -> Vec<usize> {
        self.cases.columns.clone()
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let predicates = self.cases.predicates.iter();
        let bound = predicates.map(|predicate| predicate.bind(schema));
        Ok(Box::new(Router {
            predicates: bound.collect::<Result<_, _>>()?,
            cases: Arc::clone(&self.cases),
            targets: Arc::clone(&self.targets),
            plain: self.plain,
            ends: self.ends,
            known: HashMap::new(),
            lists: Vec::new(),
        }))
    }
}

struct Router {
    cases: Arc<RouteCases>,
    predicates: Vec<Predicate>,
    targets: Arc<[RouteTarget]>,
    plain: usize,
    ends: bool,
    /// The list of cases of each signature that has occurred.
    known: HashMap<Box<[u32]>, u32>,
    lists: Vec<CaseList>,
}

impl Operator for Router {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        ready(self.split(rows).map(|routed| out.routed.extend(routed))).boxed()
    }
}

impl Router {
    fn split(&mut self, rows: Rows) -> Result<Vec<RoutedRows>, Error> {
        let mut splitting = Splitting::new(&rows)?;
        let lists = self.lists(&mut splitting)?;
        let targets = Arc::clone(&self.targets);
        let mut takers = Takers {
            targets: &targets,
            masks: vec![0; rows.len()],
            ways: BTreeMap::new(),
        };
        // The rows of each list, in order.
        let mut of_list: Vec<Vec<u32>> = vec![Vec::new(); self.lists.len()];
        for (row, list) in lists.iter().enumerate() {
            of_list[*list as usize].push(row as u32);
        }
        for (list, mut left) in self.lists.iter().zip(of_list) {
            if left.is_empty() {
                continue;
            }
            let mut taken = vec![false; if self.cases.first { 0 } else { left.len() }];
            for (case, test) in list {
                let fits = match test {
                    None => None,
                    Some(test) => Some(splitting.test(test, &left, self)?),
                };
                let fits = |at: usize| fits.as_ref().is_none_or(|fits| fits[at]);
                let fitting = (0..left.len()).filter(|at| fits(*at));
                takers.take(*case as usize, fitting.clone().map(|at| left[at]));
                if self.cases.first {
                    let mut at = 0;
                    left.retain(|_| {
                        at += 1;
                        !fits(at - 1)
                    });
                    if left.is_empty() {
                        break;
                    }
                } else {
                    fitting.for_each(|at| taken[at] = true);
                }
            }
            let rest = left.iter().enumerate();
            let rest = rest.filter(|(at, _)| !taken.get(*at).copied().unwrap_or(false));
            takers.take(self.cases.default, rest.map(|(_, row)| *row));
        }
        self.emit(&rows, takers)
    }

    /// The list of cases of each row.
    fn lists(&mut self, splitting: &mut Splitting<'_>) -> Result<Vec<u32>, Error> {
        let cases = Arc::clone(&self.cases);
        let index = &cases.index;
        if self.lists.len() > ROUTE_SIGNATURES_MAX {
            self.known.clear();
            self.lists.clear();
        }
        let rows = splitting.rows.len();
        let dimension = |place: &usize| &cases.dimensions.all[*place];
        let of_topic: Vec<_> = index.signature[..index.of_topic]
            .iter()
            .map(dimension)
            .collect();
        let mut others = Vec::new();
        for place in &index.signature[index.of_topic..] {
            let (dimension, codes) = dimension(place);
            others.push(splitting.codes(dimension, codes)?);
        }
        let mut signature = vec![ABSENT; index.signature.len()];
        let mut list_of = |signature: &[u32]| match self.known.get(signature) {
            Some(list) => *list,
            None => {
                let list = self.lists.len() as u32;
                self.lists.push(index.cases(signature, cases.first));
                self.known.insert(signature.into(), list);
                list
            }
        };
        let Some(topics) = splitting.topics.as_ref().filter(|_| index.of_topic > 0) else {
            return Ok((0..rows)
                .map(|row| {
                    for (code, other) in signature.iter_mut().zip(&others) {
                        *code = other[row];
                    }
                    list_of(&signature)
                })
                .collect());
        };
        let values = topics.values().as_string::<i32>();
        // The codes of each topic that occurs, or its list where nothing else counts.
        let mut seen: Vec<Option<u32>> = vec![None; values.len()];
        let mut codes: Vec<u32> = Vec::new();
        let mut lists = Vec::with_capacity(rows);
        for (row, key) in topics.keys().iter().enumerate() {
            let key = key.map_or(usize::MAX, |key| key as usize);
            let known = seen.get(key).copied().flatten();
            let at = known.unwrap_or_else(|| {
                let topic = (key < values.len()).then(|| values.value(key));
                let of_topic = of_topic.iter().map(|(dimension, codes)| {
                    codes.of_text(topic.and_then(|topic| part(dimension, topic)))
                });
                let at = codes.len() as u32;
                codes.extend(of_topic);
                let at = match others.is_empty() {
                    true => list_of(&codes[at as usize..]),
                    false => at,
                };
                if let Some(seen) = seen.get_mut(key) {
                    *seen = Some(at);
                }
                at
            });
            if others.is_empty() {
                lists.push(at);
                continue;
            }
            let (own, rest) = signature.split_at_mut(index.of_topic);
            own.copy_from_slice(&codes[at as usize..at as usize + index.of_topic]);
            for (code, other) in rest.iter_mut().zip(&others) {
                *code = other[row];
            }
            lists.push(list_of(&signature));
        }
        Ok(lists)
    }

    fn emit(&self, rows: &Rows, takers: Takers<'_>) -> Result<Vec<RoutedRows>, Error> {
        let mut routed = Vec::with_capacity(takers.ways.len() + 1);
        let kept = (0..rows.len() as u32).filter(|row| takers.masks[*row as usize] != 0);
        let kept: Vec<u32> = kept.collect();
        if !kept.is_empty() {
            let masks = kept.iter().map(|row| takers.masks[*row as usize]);
            let to = self.ends.then(|| masks.collect());
            let rows = match kept.len() == rows.len() {
                true => rows.clone(),
                false => rows.take(&kept.into())?,
            };
            routed.push(RoutedRows {
                way: self.plain,
                rows,
                to,
            });
        }
        for (way, mut places) in takers.ways {
            // The lists of cases were gone through one after the other.
            places.sort_unstable();
            let rows = match places.len() == rows.len() {
                true => rows.clone(),
                false => rows.take(&places.into())?,
            };
            routed.push(RoutedRows {
                way,
                rows,
                to: None,
            });
        }
        Ok(routed)
    }
}

/// Which rows take which way.
struct Takers<'a> {
    targets: &'a [RouteTarget],
    /// For each row the outputs that it goes to as it is.
    masks: Vec<u32>,
    ways: BTreeMap<usize, Vec<u32>>,
}

impl Takers<'_> {
    fn take(&mut self, case: usize, rows: impl Iterator<Item = u32>) {
        match self.targets.get(case) {
            None | Some(RouteTarget::Drop) => {}
            Some(RouteTarget::Plain(mask)) => {
                rows.for_each(|row| self.masks[row as usize] |= *mask);
            }
            Some(RouteTarget::Way(way)) => self.ways.entry(*way).or_default().extend(rows),
        }
    }
}

/// A batch that is being split.
struct Splitting<'a> {
    rows: &'a Rows,
    topics: Option<DictionaryArray<Int32Type>>,
    /// Which topics fit a pattern, as far as that is known.
    fits: HashMap<Filter, Vec<Option<bool>>>,
    /// The codes of all rows in a dimension that is no part of the signature.
    codes: HashMap<usize, Vec<u32>>,
}

impl<'a> Splitting<'a> {
    fn new(rows: &'a Rows) -> Result<Splitting<'a>, Error> {
        let topics = rows.batch.column_by_name("topic");
        let topics = topics.map(|column| match column.as_dictionary_opt::<Int32Type>() {
            Some(known) if known.values().data_type() == &DataType::Utf8 => Ok(known.clone()),
            _ => text(column).map(|texts| busbar_event::dictionary(&texts)),
        });
        Ok(Splitting {
            rows,
            topics: topics.transpose()?,
            fits: HashMap::new(),
            codes: HashMap::new(),
        })
    }

    /// Whether the test holds, for each of these rows.
    fn test(
        &mut self,
        test: &RouteTest,
        places: &[u32],
        router: &Router,
    ) -> Result<Vec<bool>, Error> {
        match test {
            RouteTest::Const(value) => Ok(vec![*value; places.len()]),
            RouteTest::And(parts) => self.join(parts, places, router, true),
            RouteTest::Or(parts) => self.join(parts, places, router, false),
            RouteTest::Not(part) => {
                let mut holds = self.test(part, places, router)?;
                holds.iter_mut().for_each(|holds| *holds = !*holds);
                Ok(holds)
            }
            RouteTest::In(place, among) => {
                let (dimension, codes) = &router.cases.dimensions.all[*place];
                if !self.codes.contains_key(place) {
                    let of_rows = self.codes(dimension, codes)?;
                    self.codes.insert(*place, of_rows);
                }
                let of_rows = &self.codes[place];
                let each = places.iter();
                Ok(each
                    .map(|row| holds(among, of_rows[*row as usize]))
                    .collect())
            }
            RouteTest::Topic(filter) => Ok(self.topic(filter, places)),
            RouteTest::Sql(number) => {
                let batch = match places.len() == self.rows.len() {
                    true => self.rows.batch.clone(),
                    false => {
                        let places = UInt32Array::from(places.to_vec());
                        take_record_batch(&self.rows.batch, &places).map_err(misfit)?
                    }
                };
                let holds: BooleanArray = router.predicates[*number].evaluate(&batch)?;
                Ok(holds.iter().map(|holds| holds == Some(true)).collect())
            }
        }
    }

    /// Tests of which all, or one, must hold. What the tests before have decided is not tested again.
    fn join(
        &mut self,
        parts: &[RouteTest],
        places: &[u32],
        router: &Router,
        all: bool,
    ) -> Result<Vec<bool>, Error> {
        let mut result = vec![all; places.len()];
        let mut open: Vec<usize> = (0..places.len()).collect();
        for part in parts {
            let rows: Vec<u32> = open.iter().map(|at| places[*at]).collect();
            if rows.is_empty() {
                break;
            }
            let holds = self.test(part, &rows, router)?;
            let mut holds = holds.into_iter();
            open.retain(|at| {
                let holds = holds.next().unwrap_or(all);
                result[*at] = holds;
                holds == all
            });
        }
        Ok(result)
    }

    fn topic(&mut self, filter: &Filter, places: &[u32]) -> Vec<bool> {
        let Some(topics) = &self.topics else {
            return vec![false; places.len()];
        };
        let values = topics.values().as_string::<i32>();
        let known = self.fits.entry_ref(filter).or_default();
        known.resize(values.len(), None);
        let each = places.iter().map(|row| {
            let row = *row as usize;
            if topics.keys().is_null(row) {
                return false;
            }
            let key = topics.keys().value(row) as usize;
            *known[key].get_or_insert_with(|| filter.matches(values.value(key)))
        });
        each.collect()
    }

    /// The code of each row.
    fn codes(&self, dimension: &Dimension, codes: &Codes) -> Result<Vec<u32>, Error> {
        let rows = self.rows.len();
        let column = match dimension {
            Dimension::Tag(name) => return self.tag_codes(name, codes),
            Dimension::Text(name) | Dimension::Int(name) => self.rows.batch.column_by_name(name),
            of_topic => {
                let Some(topics) = &self.topics else {
                    return Ok(vec![ABSENT; rows]);
                };
                let values = topics.values().as_string::<i32>();
                let of = |topic| codes.of_text(part(of_topic, topic));
                let each: Vec<u32> = values
                    .iter()
                    .map(|topic| topic.map_or(ABSENT, of))
                    .collect();
                return Ok(spread(topics, &each));
            }
        };
        let Some(column) = column else {
            return Ok(vec![ABSENT; rows]);
        };
        if let Some(ints) = column.as_primitive_opt::<Int64Type>() {
            return Ok(ints.iter().map(|int| codes.of_int(int)).collect());
        }
        if let Some(values) = column.as_dictionary_opt::<Int32Type>() {
            let texts = text(values.values())?;
            let each: Vec<u32> = texts.iter().map(|text| codes.of_text(text)).collect();
            return Ok(spread(values, &each));
        }
        let texts = text(column)?;
        Ok(texts.iter().map(|text| codes.of_text(text)).collect())
    }

    fn tag_codes(&self, name: &str, codes: &Codes) -> Result<Vec<u32>, Error> {
        let rows = self.rows.len();
        let tags = self.rows.batch.column_by_name("tags");
        let Some(tags) = tags.and_then(|tags| tags.as_map_opt()) else {
            return Ok(vec![ABSENT; rows]);
        };
        let (names, values) = (text(tags.keys())?, text(tags.values())?);
        let offsets = tags.value_offsets();
        let of = |row: usize| {
            if tags.is_null(row) {
                return ABSENT;
            }
            let mut range = offsets[row] as usize..offsets[row + 1] as usize;
            let is_it = |known: &str| match name.strip_suffix('*') {
                Some(prefix) => known.starts_with(prefix),
                None => known == name,
            };
            match range.find(|at| is_it(names.value(*at))) {
                Some(at) if values.is_valid(at) => codes.of_text(Some(values.value(at))),
                Some(_) => codes.of_text(Some("")),
                None => ABSENT,
            }
        };
        Ok((0..rows).map(of).collect())
    }
}

/// The code of each row, from that of each distinct value.
fn spread(values: &DictionaryArray<Int32Type>, each: &[u32]) -> Vec<u32> {
    let keys = values.keys().iter();
    keys.map(|key| key.map_or(ABSENT, |key| each[key as usize]))
        .collect()
}

/// The part of a topic that a dimension looks at, or the whole; none if the topic has no such part.
fn part<'t>(dimension: &Dimension, topic: &'t str) -> Option<&'t str> {
    let parts = topic::parts(topic);
    let part = match dimension {
        Dimension::Kind => parts.kind,
        Dimension::Client => parts.client,
        Dimension::Subject => parts.subject,
        _ => topic,
    };
    Some(part).filter(|part| !part.is_empty())
}
