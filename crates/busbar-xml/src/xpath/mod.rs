//! XPath 1.0, whole: <https://www.w3.org/TR/1999/REC-xpath-19991116/>.
//!
//! What the standard leaves to the host: there are no variables; the prefixes that a path may use are given when it is
//! compiled, and `xml` is among them always; `id()` finds elements by `xml:id`, since documents declare no other one.
//!
//! Every expression has a type that is known when it is compiled, because there are no variables. What has the wrong type
//! for its place is refused then, so that evaluation only fails by its bounds.

mod axis;
mod evaluate;
mod expression;
mod function;
mod lexer;
mod number;
mod parse;
mod text;

use std::borrow::Cow;
use std::ops::Range;

use busbar_event::{Class, Error, quote};

use crate::document::{NodeAt, XmlDocument};
use crate::limits::{XPATH_BYTES_MAX, XPATH_DEPTH_MAX, XPATH_STEPS_MAX};
use evaluate::Evaluation;
use expression::Expr;

pub use expression::XPathType;
pub use number::number_text;

/// A compiled path or other expression.
#[derive(Clone, Debug)]
pub struct XPath {
    expr: Expr,
}

/// What the names in a path mean.
#[derive(Clone, Debug, Default)]
pub struct XPathNames {
    /// Namespaces by the prefixes that stand for them.
    pub prefixes: Vec<(String, String)>,
    /// A name without a prefix is of any namespace. The standard says: of none.
    pub bare_is_any: bool,
}

/// Why a path is not understood, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XPathFault {
    /// What is wrong.
    pub kind: XPathFaultKind,
    /// The bytes of the path that are meant.
    pub at: Range<usize>,
}

/// What is wrong with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XPathFaultKind {
    /// Something else is expected here.
    Syntax,
    /// The path ends here, and more is expected.
    End,
    /// A quotation mark is not closed.
    Unclosed,
    /// There is no such function.
    Function,
    /// There is no such axis.
    Axis,
    /// A function takes another number of arguments: this is how it is used.
    Arguments(&'static str),
    /// Here must be nodes, not a number, a text or a truth value.
    NotNodes,
    /// This prefix stands for no namespace.
    Prefix,
    /// There are no variables.
    Variable,
    /// It is nested too deep.
    Deep,
    /// It is too long.
    Long,
}

/// An evaluation has taken too long, or would make too long a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvaluationFault;

impl XPath {
    /// Compiles a path.
    ///
    /// # Errors
    /// What is not understood, and where.
    pub fn compile(text: &str, names: &XPathNames) -> Result<XPath, XPathFault> {
        if text.len() > XPATH_BYTES_MAX {
            let at = 0..text.len();
            return Err(XPathFault {
                kind: XPathFaultKind::Long,
                at,
            });
        }
        let expr = parse::parse(text, names)?;
        Ok(XPath { expr })
    }

    /// The type of what it returns.
    pub fn returns(&self) -> XPathType {
        self.expr.type_of()
    }

    /// The nodes that it leads to from a node, in the order of the document; none if it returns something else.
    ///
    /// # Errors
    /// It has taken too long.
    pub fn nodes(
        &self,
        document: &XmlDocument,
        from: NodeAt,
    ) -> Result<Vec<NodeAt>, EvaluationFault> {
        let mut evaluation = Evaluation::new(document);
        evaluation.nodes(&self.expr, evaluation.context(from))
    }

    /// What it returns as a text; of nodes the first one's.
    ///
    /// # Errors
    /// It has taken too long.
    pub fn text<'d>(
        &'d self,
        document: &'d XmlDocument,
        from: NodeAt,
    ) -> Result<Cow<'d, str>, EvaluationFault> {
        let mut evaluation = Evaluation::new(document);
        evaluation.text(&self.expr, evaluation.context(from))
    }

    /// What it returns as a number; not a number (NaN) where it is none.
    ///
    /// # Errors
    /// It has taken too long.
    pub fn number(&self, document: &XmlDocument, from: NodeAt) -> Result<f64, EvaluationFault> {
        let mut evaluation = Evaluation::new(document);
        evaluation.number(&self.expr, evaluation.context(from))
    }

    /// What it returns as a truth value; of nodes whether there are any.
    ///
    /// # Errors
    /// It has taken too long.
    pub fn truth(&self, document: &XmlDocument, from: NodeAt) -> Result<bool, EvaluationFault> {
        let mut evaluation = Evaluation::new(document);
        evaluation.truth(&self.expr, evaluation.context(from))
    }
}

impl XPathNames {
    /// Prefixes as they are written in an expression: `w=urn:water h=urn:hl7-org:v3`.
    ///
    /// # Errors
    /// The part that is no name, `=` and a namespace.
    pub fn parse(text: &str) -> Result<XPathNames, String> {
        let mut names = XPathNames::default();
        for part in text.split_whitespace() {
            match part.split_once('=') {
                Some((prefix, uri))
                    if !uri.is_empty()
                        && crate::names::name_length(prefix) == prefix.len()
                        && !prefix.is_empty() =>
                {
                    names.prefixes.push((prefix.to_owned(), uri.to_owned()));
                }
                _ => return Err(part.to_owned()),
            }
        }
        Ok(names)
    }

    fn namespace(&self, prefix: &str) -> Option<&str> {
        let given = self.prefixes.iter().find(|(name, _)| name == prefix);
        match given {
            Some((_, uri)) => Some(uri),
            None if prefix == "xml" => Some("http://www.w3.org/XML/1998/namespace"),
            None => None,
        }
    }
}

impl XPathFault {
    /// The fault in the words that people read.
    pub fn error(&self, path: &str) -> Error {
        use XPathFaultKind as Kind;
        let code = match self.kind {
            Kind::Syntax => "xml.path-syntax",
            Kind::End => "xml.path-end",
            Kind::Unclosed => "xml.path-unclosed",
            Kind::Function => "xml.path-function",
            Kind::Axis => "xml.path-axis",
            Kind::Arguments(_) => "xml.path-arguments",
            Kind::NotNodes => "xml.path-not-nodes",
            Kind::Prefix => "xml.path-prefix",
            Kind::Variable => "xml.path-variable",
            Kind::Deep => "xml.path-deep",
            Kind::Long => "xml.path-long",
        };
        let place = path.get(self.at.clone()).unwrap_or_default();
        let column = path
            .get(..self.at.start)
            .map_or(1, |before| before.chars().count() + 1);
        let error = Error::new(Class::Configuration, code)
            .with("path", quote(path))
            .with("at", quote(place))
            .with("column", column);
        match self.kind {
            Kind::Arguments(usage) => error.with("usage", usage),
            Kind::Deep => error.with("max", XPATH_DEPTH_MAX),
            Kind::Long => error.with("max", XPATH_BYTES_MAX),
            _ => error,
        }
    }
}

impl EvaluationFault {
    /// The fault in the words that people read.
    pub fn error(self) -> Error {
        Error::new(Class::Permanent, "xml.path-steps").with("max", XPATH_STEPS_MAX)
    }
}
