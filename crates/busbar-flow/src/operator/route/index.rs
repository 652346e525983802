//! Which cases an event may take, found by looking its values up.
//!
//! Each case that requires one of some constants is listed under these constants, in the dimension that has most of them.
//! The codes of an event in these dimensions, and in all those of the topic, are its *signature*. Events of one signature
//! are tested by one list of cases, in which what the signature decides is decided already.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::test::{Dimensions, RouteTest};
use crate::limits::ROUTE_SIGNATURE_MAX;

/// The cases of a route, indexed.
pub(super) struct CaseIndex {
    tests: Vec<Arc<RouteTest>>,
    /// The dimensions that make the signature; those of the topic come first.
    pub signature: Vec<usize>,
    /// How many of them are dimensions of the topic.
    pub of_topic: usize,
    /// For each dimension of the signature, by code: the cases that require it.
    by: Vec<Vec<Vec<u32>>>,
    /// Cases that are listed nowhere.
    rest: Vec<u32>,
}

/// The cases that events of one signature may take, in order; those without a test are taken by all of them.
pub(super) type CaseList = Vec<(u32, Option<Arc<RouteTest>>)>;

impl CaseIndex {
    pub fn new(tests: Vec<RouteTest>, dimensions: &Dimensions) -> CaseIndex {
        let rank = |dimension: &usize| {
            let (what, codes) = &dimensions.all[*dimension];
            (codes.constants(), what.is_topic())
        };
        // For each case the dimension it is listed under, and the codes.
        let listed: Vec<Option<(usize, Vec<u32>)>> = tests
            .iter()
            .map(|test| {
                let required = test.required().filter(|(_, codes)| !codes.is_empty());
                let best = required.max_by_key(|(dimension, _)| rank(dimension))?;
                Some((best.0, best.1.to_vec()))
            })
            .collect();
        let mut uses: BTreeMap<usize, usize> = BTreeMap::new();
        for (dimension, _) in listed.iter().flatten() {
            *uses.entry(*dimension).or_default() += 1;
        }
        let all = 0..dimensions.all.len();
        let (mut signature, others): (Vec<usize>, Vec<usize>) =
            all.partition(|dimension| dimensions.all[*dimension].0.is_topic());
        let of_topic = signature.len();
        let mut others: Vec<usize> = others
            .into_iter()
            .filter(|d| uses.contains_key(d))
            .collect();
        others.sort_by_key(|dimension| std::cmp::Reverse(uses[dimension]));
        others.truncate(ROUTE_SIGNATURE_MAX);
        signature.extend(others);
        let mut by: Vec<Vec<Vec<u32>>> = vec![Vec::new(); signature.len()];
        let mut rest = Vec::new();
        for (case, listed) in listed.into_iter().enumerate() {
            let place = listed.and_then(|(dimension, codes)| {
                let place = signature.iter().position(|known| *known == dimension)?;
                Some((place, codes))
            });
            let Some((place, codes)) = place else {
                rest.push(case as u32);
                continue;
            };
            for code in codes {
                let code = code as usize;
                if by[place].len() <= code {
                    by[place].resize(code + 1, Vec::new());
                }
                by[place][code].push(case as u32);
            }
        }
        CaseIndex {
            tests: tests.into_iter().map(Arc::new).collect(),
            signature,
            of_topic,
            by,
            rest,
        }
    }

    /// The cases for events with these codes. With `first`, none behind one that all of them take.
    pub fn cases(&self, codes: &[u32], first: bool) -> CaseList {
        let known = |dimension: usize| {
            let place = self
                .signature
                .iter()
                .position(|known| *known == dimension)?;
            codes.get(place).copied()
        };
        let listed = self.by.iter().zip(codes);
        let listed = listed.filter_map(|(by, code)| by.get(*code as usize));
        let mut candidates: Vec<u32> = listed.flatten().chain(&self.rest).copied().collect();
        candidates.sort_unstable();
        let mut list = Vec::new();
        for case in candidates {
            let test = &self.tests[case as usize];
            match test.known(&known) {
                RouteTest::Const(false) => {}
                RouteTest::Const(true) => {
                    list.push((case, None));
                    if first {
                        break;
                    }
                }
                left if left == **test => list.push((case, Some(Arc::clone(test)))),
                left => list.push((case, Some(Arc::new(left)))),
            }
        }
        list
    }

    /// Cases that no event takes, where each takes the first case that it fits: each with the earlier case that takes its
    /// events, or none where its own condition is never true.
    pub fn unreachable(&self, first: bool) -> Vec<(usize, Option<usize>)> {
        let mut found = Vec::new();
        let mut seen: hashbrown::HashMap<&RouteTest, usize> = hashbrown::HashMap::new();
        // Earlier cases whose test can imply others although it is not the same, by what they are listed under.
        let mut always: Option<usize> = None;
        for (case, test) in self.tests.iter().enumerate() {
            if **test == RouteTest::Const(false) {
                found.push((case, None));
                continue;
            }
            if !first {
                continue;
            }
            let same = seen.get(&**test).copied();
            let listed = || {
                let required = test.required();
                let lists = required.flat_map(|(dimension, codes)| {
                    let place = self.signature.iter().position(|d| *d == dimension);
                    let list = place.map(|place| &self.by[place]);
                    let code = codes.first().map(|code| *code as usize);
                    list.and_then(|list| list.get(code?)).into_iter().flatten()
                });
                let earlier = lists.map(|earlier| *earlier as usize);
                let mut earlier = earlier.filter(|earlier| *earlier < case);
                earlier.find(|earlier| test.implies(&self.tests[*earlier]))
            };
            if let Some(earlier) = always.or(same).or_else(listed) {
                found.push((case, Some(earlier)));
                continue;
            }
            if **test == RouteTest::Const(true) {
                always = Some(case);
            }
            seen.insert(test, case);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::route::test::{ABSENT, OTHER, TestCompiler};
    use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
    use busbar_catalog::RouteCondition;

    fn index(conditions: &[&str]) -> (CaseIndex, Vec<String>) {
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new_dictionary("topic", DataType::Int32, DataType::Utf8, false),
            Field::new("site", DataType::Utf8, true),
            Field::new("level", DataType::Int64, true),
        ]));
        let mut compiler = TestCompiler::new(&schema);
        let tests = conditions
            .iter()
            .map(|text| {
                compiler
                    .compile(&RouteCondition::Sql((*text).to_owned()))
                    .unwrap()
            })
            .collect();
        let index = CaseIndex::new(tests, &compiler.dimensions);
        let names = index.signature.iter();
        let names = names.map(|d| format!("{:?}", compiler.dimensions.all[*d].0));
        let names = names.collect();
        (index, names)
    }

    #[test]
    fn cases_are_listed_where_constants_tell_them_apart_best() {
        let conditions: Vec<String> = (0..100)
            .map(|n| format!("kind = 'gauge' and site = 's{n}'"))
            .collect();
        let conditions: Vec<&str> = conditions.iter().map(String::as_str).collect();
        let (index, names) = index(&conditions);
        assert_eq!(names, ["Kind", r#"Text("site")"#]);
        // The constants of `site` are numbered from 2.
        assert_eq!(index.cases(&[2, 7], true), [(5, None)]);
        assert!(index.cases(&[OTHER, 7], true).is_empty());
        assert!(index.cases(&[2, ABSENT], true).is_empty());
    }

    #[test]
    fn what_codes_do_not_decide_is_left() {
        let (index, _) = index(&[
            "level > 5",
            "kind = 'a' and level > 7",
            "kind = 'a'",
            "true",
        ]);
        let cases = |first| {
            let list = index.cases(&[2], first);
            list.into_iter()
                .map(|(case, test)| (case, test.is_some()))
                .collect::<Vec<_>>()
        };
        assert_eq!(cases(true), [(0, true), (1, true), (2, false)]);
        assert_eq!(cases(false), [(0, true), (1, true), (2, false), (3, false)]);
    }

    #[test]
    fn cases_that_no_event_takes_are_found() {
        let (index, _) = index(&[
            "kind = 'a'",
            "kind = 'a' and level > 5",
            "kind = 'b' and kind = 'c'",
            "level > 5",
            "level > 5",
            "kind in ('b', 'a')",
            "true",
            "site = 'x'",
        ]);
        assert_eq!(
            index.unreachable(true),
            [(1, Some(0)), (2, None), (4, Some(3)), (7, Some(6))]
        );
        assert_eq!(index.unreachable(false), [(2, None)]);
    }
}
