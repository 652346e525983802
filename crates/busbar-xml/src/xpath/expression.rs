//! What a compiled path consists of.

use super::axis::{Axis, NodeTest};
use super::function::Function;

/// The type of what an expression returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XPathType {
    /// A set of nodes.
    Nodes,
    /// A number.
    Number,
    /// A text.
    Text,
    /// True or false.
    Truth,
}

#[derive(Clone, Debug)]
pub(super) enum Expr {
    Number(f64),
    Text(Box<str>),
    /// One of them is true.
    Any(Vec<Expr>),
    /// All of them are true.
    All(Vec<Expr>),
    /// Comparisons of one rank, from left to right: what is compared next is a truth value.
    Compare(Box<Expr>, Vec<(PathComparison, Expr)>),
    /// Sums or products, from left to right.
    Reckon(Box<Expr>, Vec<(Reckoning, Expr)>),
    Negate(Box<Expr>),
    Union(Vec<Expr>),
    Path(Box<LocationPath>),
    Call(Function, Vec<Expr>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathComparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reckoning {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Debug)]
pub(super) struct LocationPath {
    pub start: PathStart,
    pub steps: Vec<PathStep>,
}

#[derive(Clone, Debug)]
pub(super) enum PathStart {
    /// The node that the path is evaluated at.
    Own,
    /// The root of its document.
    Root,
    /// The nodes of an expression, as far as they fulfil the conditions.
    Nodes(Expr, Vec<Expr>),
}

#[derive(Clone, Debug)]
pub(super) struct PathStep {
    pub axis: Axis,
    pub test: NodeTest,
    /// Conditions; a number is a position.
    pub predicates: Vec<Expr>,
}

impl Expr {
    pub fn type_of(&self) -> XPathType {
        match self {
            Expr::Number(_) | Expr::Reckon(..) | Expr::Negate(_) => XPathType::Number,
            Expr::Text(_) => XPathType::Text,
            Expr::Any(_) | Expr::All(_) | Expr::Compare(..) => XPathType::Truth,
            Expr::Union(_) | Expr::Path(_) => XPathType::Nodes,
            Expr::Call(function, _) => function.returns(),
        }
    }

    /// Whether it asks for the position of the node that it is evaluated at, or for how many there are.
    fn asks_position(&self) -> bool {
        match self {
            Expr::Number(_) | Expr::Text(_) => false,
            Expr::Any(parts) | Expr::All(parts) | Expr::Union(parts) => {
                parts.iter().any(Expr::asks_position)
            }
            Expr::Compare(first, others) => {
                first.asks_position() || others.iter().any(|(_, other)| other.asks_position())
            }
            Expr::Reckon(first, others) => {
                first.asks_position() || others.iter().any(|(_, other)| other.asks_position())
            }
            Expr::Negate(inner) => inner.asks_position(),
            // Conditions of steps are about other nodes.
            Expr::Path(path) => match &path.start {
                PathStart::Nodes(nodes, _) => nodes.asks_position(),
                PathStart::Own | PathStart::Root => false,
            },
            Expr::Call(Function::Position | Function::Last, _) => true,
            Expr::Call(_, arguments) => arguments.iter().any(Expr::asks_position),
        }
    }

    /// Whether a condition depends on which other nodes there are.
    pub fn is_positional(&self) -> bool {
        self.type_of() == XPathType::Number || self.asks_position()
    }
}
