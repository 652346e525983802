//! The part of XPath 1.0 by which answers are read.
//!
//! | written | is |
//! | --- | --- |
//! | `a/b` | elements `b` in elements `a` |
//! | `//a` | elements `a` at any depth |
//! | `*`, `.`, `..` | any element, the element itself, the one around it |
//! | `@id` | an attribute, at the end |
//! | `text()` | the element's own text, at the end |
//! | `a[2]`, `a[last()]` | the second one, the last one |
//! | `a[@id='x']`, `a[b='x']`, `a[text()='x']`, `a[b]` | those with this value, or with such an element |
//! | `w:a` | of the namespace that the connection gives the prefix `w` |
//!
//! A name without a prefix is of any namespace. A path that begins with `/` begins at the envelope, another one at what the
//! body of the envelope holds.

use std::collections::BTreeMap;
use std::ops::Range;

use super::tree::{QualifiedName, TreeChild, XmlTree};

/// A compiled path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct XmlPath {
    from_root: bool,
    steps: Vec<PathStep>,
    end: PathEnd,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PathStep {
    axis: PathAxis,
    test: NameTest,
    predicates: Vec<PathPredicate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PathAxis {
    Child,
    /// At any depth below.
    Below,
    Own,
    Parent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct NameTest {
    /// None: any.
    local: Option<String>,
    namespace: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PathPredicate {
    /// From 1.
    Position(usize),
    Last,
    /// A value is equal to a text; without one, it is there.
    Value(PredicateValue, Option<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PredicateValue {
    Attribute(NameTest),
    Child(NameTest),
    OwnText,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PathEnd {
    /// All text in the element.
    Element,
    OwnText,
    Attribute(NameTest),
}

/// Where a path is not understood.
pub(super) type PathFault = Range<usize>;

impl XmlPath {
    /// Compiles a path.
    ///
    /// # Errors
    /// The place that is not understood.
    pub fn compile(
        text: &str,
        namespaces: &BTreeMap<String, String>,
    ) -> Result<XmlPath, PathFault> {
        let mut parser = PathParser {
            text,
            at: 0,
            namespaces,
        };
        parser.path()
    }

    /// The text that it leads to; none if it leads to nothing.
    pub fn find(&self, tree: &XmlTree, content: usize) -> Option<String> {
        let mut at = match self.from_root {
            // The root itself is found by its name: the way begins around it.
            true => None,
            false => Some(vec![content]),
        };
        for step in &self.steps {
            let mut next: Vec<usize> = Vec::new();
            let contexts: Vec<Option<usize>> = match at {
                None => vec![None],
                Some(places) => places.into_iter().map(Some).collect(),
            };
            for context in contexts {
                next.extend(step.from(tree, context));
            }
            next.sort_unstable();
            next.dedup();
            at = Some(next);
        }
        let places = at.unwrap_or_else(|| vec![0]);
        places
            .into_iter()
            .find_map(|place| self.end.read(tree, place))
    }
}

impl PathStep {
    fn from(&self, tree: &XmlTree, context: Option<usize>) -> Vec<usize> {
        let around = |place: usize| tree.element(place).parent;
        match self.axis {
            PathAxis::Child => self.among(tree, children(tree, context)),
            // The children of the context and of all below it, each by its place among its own.
            PathAxis::Below => {
                let below = tree
                    .with_all_below(context.unwrap_or(0))
                    .into_iter()
                    .map(Some);
                let contexts = context.is_none().then_some(None).into_iter().chain(below);
                contexts
                    .flat_map(|context| self.among(tree, children(tree, context)))
                    .collect()
            }
            PathAxis::Own => self.among(tree, vec![context.unwrap_or(0)]),
            PathAxis::Parent => self.among(tree, context.and_then(around).into_iter().collect()),
        }
    }

    fn among(&self, tree: &XmlTree, mut found: Vec<usize>) -> Vec<usize> {
        found.retain(|place| self.test.fits(&tree.element(*place).name));
        for predicate in &self.predicates {
            found = match predicate {
                PathPredicate::Position(position) => {
                    found.get(position - 1).copied().into_iter().collect()
                }
                PathPredicate::Last => found.last().copied().into_iter().collect(),
                PathPredicate::Value(value, wanted) => {
                    found.retain(|place| value.fits(tree, *place, wanted.as_deref()));
                    found
                }
            };
        }
        found
    }
}

/// The elements in an element; of none, which is around the root, the root.
fn children(tree: &XmlTree, place: Option<usize>) -> Vec<usize> {
    match place {
        None => vec![0],
        Some(place) => tree.children(place).collect(),
    }
}

impl NameTest {
    fn fits(&self, name: &QualifiedName) -> bool {
        self.local.as_ref().is_none_or(|local| *local == name.local)
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == name.namespace)
    }
}

impl PredicateValue {
    fn fits(&self, tree: &XmlTree, place: usize, wanted: Option<&str>) -> bool {
        let is_it = |value: &str| wanted.is_none_or(|wanted| wanted == value.trim());
        match self {
            PredicateValue::Attribute(test) => {
                let mut attributes = tree.element(place).attributes.iter();
                attributes.any(|(name, value)| test.fits(name) && is_it(value))
            }
            PredicateValue::Child(test) => {
                let mut children = tree.children(place);
                children
                    .any(|child| test.fits(&tree.element(child).name) && is_it(&tree.text(child)))
            }
            PredicateValue::OwnText => is_it(&own_text(tree, place)),
        }
    }
}

impl PathEnd {
    fn read(&self, tree: &XmlTree, place: usize) -> Option<String> {
        match self {
            PathEnd::Element => Some(tree.text(place).trim().to_owned()),
            PathEnd::OwnText => Some(own_text(tree, place).trim().to_owned()),
            PathEnd::Attribute(test) => {
                let mut attributes = tree.element(place).attributes.iter();
                let found = attributes.find(|(name, _)| test.fits(name));
                found.map(|(_, value)| value.trim().to_owned())
            }
        }
    }
}

fn own_text(tree: &XmlTree, place: usize) -> String {
    let children = tree.element(place).children.iter();
    let texts = children.filter_map(|child| match child {
        TreeChild::Text(text) => Some(text.as_str()),
        TreeChild::Element(_) => None,
    });
    texts.collect()
}

struct PathParser<'a> {
    text: &'a str,
    at: usize,
    namespaces: &'a BTreeMap<String, String>,
}

impl PathParser<'_> {
    fn path(&mut self) -> Result<XmlPath, PathFault> {
        let from_root = self.rest().starts_with('/');
        let mut steps = Vec::new();
        let mut end = PathEnd::Element;
        let mut axis = match (self.take("//"), from_root) {
            (true, _) => PathAxis::Below,
            (false, true) => {
                self.take("/");
                PathAxis::Child
            }
            (false, false) => PathAxis::Child,
        };
        loop {
            if self.take("@") {
                end = PathEnd::Attribute(self.name_test()?);
                break;
            }
            if self.take("text()") {
                end = PathEnd::OwnText;
                break;
            }
            let step = if self.take("..") {
                self.simple(PathAxis::Parent)
            } else if self.take(".") {
                self.simple(PathAxis::Own)
            } else {
                let test = self.name_test()?;
                PathStep {
                    axis,
                    test,
                    predicates: self.predicates()?,
                }
            };
            steps.push(step);
            axis = match (self.take("//"), self.take("/")) {
                (true, _) => PathAxis::Below,
                (_, true) => PathAxis::Child,
                _ => break,
            };
        }
        match self.rest().is_empty() {
            true => Ok(XmlPath {
                from_root,
                steps,
                end,
            }),
            false => Err(self.fault()),
        }
    }

    fn simple(&self, axis: PathAxis) -> PathStep {
        let test = NameTest {
            local: None,
            namespace: None,
        };
        PathStep {
            axis,
            test,
            predicates: Vec::new(),
        }
    }

    fn predicates(&mut self) -> Result<Vec<PathPredicate>, PathFault> {
        let mut predicates = Vec::new();
        while self.take("[") {
            self.blanks();
            let digits = self.rest().bytes().take_while(u8::is_ascii_digit).count();
            let predicate = if digits > 0 {
                let number = self.rest()[..digits].parse::<usize>().ok();
                let position = number
                    .filter(|number| *number > 0)
                    .ok_or_else(|| self.fault())?;
                self.at += digits;
                PathPredicate::Position(position)
            } else if self.take("last()") {
                PathPredicate::Last
            } else {
                let value = if self.take("@") {
                    PredicateValue::Attribute(self.name_test()?)
                } else if self.take("text()") || self.take(".") {
                    PredicateValue::OwnText
                } else {
                    PredicateValue::Child(self.name_test()?)
                };
                self.blanks();
                let wanted = match self.take("=") {
                    false => None,
                    true => {
                        self.blanks();
                        Some(self.quoted()?)
                    }
                };
                PathPredicate::Value(value, wanted)
            };
            self.blanks();
            if !self.take("]") {
                return Err(self.fault());
            }
            predicates.push(predicate);
        }
        Ok(predicates)
    }

    fn quoted(&mut self) -> Result<String, PathFault> {
        let quote = self.rest().chars().next();
        let quote = quote
            .filter(|c| matches!(c, '\'' | '"'))
            .ok_or_else(|| self.fault())?;
        let inner = &self.rest()[1..];
        let length = inner.find(quote).ok_or_else(|| self.fault())?;
        let text = inner[..length].to_owned();
        self.at += length + 2;
        Ok(text)
    }

    fn name_test(&mut self) -> Result<NameTest, PathFault> {
        let first = self.name()?;
        // `a::b` is an axis in full, which is not among what is understood.
        if self.rest().starts_with("::") {
            return Err(self.fault());
        }
        if !self.take(":") {
            return Ok(NameTest {
                local: (first != "*").then_some(first),
                namespace: None,
            });
        }
        let namespace = self.namespaces.get(&first).cloned();
        let namespace = namespace.ok_or(self.at - 1 - first.len()..self.at - 1)?;
        let local = self.name()?;
        Ok(NameTest {
            local: (local != "*").then_some(local),
            namespace: Some(namespace),
        })
    }

    fn name(&mut self) -> Result<String, PathFault> {
        if self.take("*") {
            return Ok("*".into());
        }
        let rest = self.rest();
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let starts = rest.starts_with(|c: char| c.is_alphabetic() || c == '_');
        // A function is not a name.
        if length == 0 || !starts || rest[length..].starts_with('(') {
            return Err(self.fault());
        }
        let name = rest[..length].to_owned();
        self.at += length;
        Ok(name)
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn take(&mut self, what: &str) -> bool {
        let is_there = self.rest().starts_with(what);
        if is_there {
            self.at += what.len();
        }
        is_there
    }

    fn blanks(&mut self) {
        let blank = self.rest().len() - self.rest().trim_start().len();
        self.at += blank;
    }

    fn fault(&self) -> PathFault {
        let next = self.rest().chars().next().map_or(0, char::len_utf8);
        // At the end there is nothing to point at but the whole.
        match next {
            0 => 0..self.text.len(),
            next => self.at..self.at + next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"<e:Envelope xmlns:e="urn:e"><e:Body>
      <GetLevels xmlns="urn:w" xmlns:x="urn:x" at="noon">
        <level station="a">1<!-- c -->2</level>
        <level station="b" x:unit="mm"> 7 &amp; 8 </level>
        <x:level station="c"><![CDATA[<9>]]></x:level>
        <name>own<b>bold</b>text</name>
        <list><item><id>1</id><v>one</v></item><item><id>2</id><v>two</v></item></list>
        <empty/>
      </GetLevels></e:Body></e:Envelope>"#;

    fn found(path: &str) -> Option<String> {
        let namespaces = BTreeMap::from([
            ("w".to_owned(), "urn:w".to_owned()),
            ("x".to_owned(), "urn:x".to_owned()),
        ]);
        let path = XmlPath::compile(path, &namespaces).unwrap_or_else(|at| panic!("{path} {at:?}"));
        let tree = XmlTree::read(DOCUMENT).expect("a document");
        let body = tree.child(0, "Body").expect("a body");
        let content = tree.children(body).next().expect("content");
        path.find(&tree, content)
    }

    #[test]
    fn paths_lead_to_texts() {
        for (path, text) in [
            ("level", Some("12")),
            ("level[2]", Some("7 & 8")),
            ("level[last()]", Some("<9>")),
            ("w:level[last()]", Some("7 & 8")),
            ("x:level", Some("<9>")),
            ("x:*/@station", Some("c")),
            ("level[@station='b']", Some("7 & 8")),
            ("level[@station = \"b\"]/@x:unit", Some("mm")),
            ("level[2]/@unit", Some("mm")),
            ("@at", Some("noon")),
            ("./@at", Some("noon")),
            ("name", Some("ownboldtext")),
            ("name/text()", Some("owntext")),
            ("list/item[id='2']/v", Some("two")),
            ("list/item[id=\"3\"]/v", None),
            ("list/item[v]/id", Some("1")),
            ("//v", Some("one")),
            ("list//v[text()='two']", Some("two")),
            ("list/item/v[.='two']/../id", Some("2")),
            ("/Envelope/Body/GetLevels/level[1]", Some("12")),
            ("/Envelope/Body/*/empty", Some("")),
            ("//item[2]/id", Some("2")),
            ("level[4]", None),
            ("nothing/level", None),
            ("@nothing", None),
            ("/GetLevels", None),
        ] {
            assert_eq!(found(path).as_deref(), text, "{path}");
        }
    }

    #[test]
    fn what_is_not_understood_is_pointed_at() {
        for (path, at) in [
            ("", 0..0),
            ("a/", 0..2),
            ("a[", 0..2),
            ("a[0]", 2..3),
            ("a[b='c]", 4..5),
            ("y:a", 0..1),
            ("count(a)", 0..1),
            ("a | b", 1..2),
            ("child::a", 5..6),
            ("a/@b/c", 4..5),
        ] {
            let compiled = XmlPath::compile(path, &BTreeMap::new());
            assert_eq!(compiled.err(), Some(at), "{path}");
        }
    }

    #[test]
    fn documents_that_declare_or_break_off_are_refused() {
        use super::super::tree::TreeFault;
        let deep = format!("{}{}", "<a>".repeat(600), "</a>".repeat(600));
        for (document, fault) in [
            (
                "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
                TreeFault::Declared,
            ),
            ("<a>&b;</a>", TreeFault::Declared),
            ("<a>", TreeFault::Syntax),
            ("<a></b>", TreeFault::Syntax),
            ("<a/><b/>", TreeFault::Syntax),
            ("a", TreeFault::Syntax),
            ("", TreeFault::Syntax),
            ("<p:a/>", TreeFault::Syntax),
            (&deep, TreeFault::Large),
        ] {
            assert_eq!(XmlTree::read(document).err(), Some(fault), "{document:.40}");
        }
    }
}
