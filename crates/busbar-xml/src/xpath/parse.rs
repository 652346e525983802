//! A path's text as an expression.

use super::axis::{Axis, NodeTest};
use super::expression::{
    Expr, LocationPath, PathComparison, PathStart, PathStep, Reckoning, XPathType,
};
use super::function::Function;
use super::lexer::{Lexeme, PathToken, fault, lexemes};
use super::{XPathFault, XPathFaultKind as Kind, XPathNames};
use crate::limits::XPATH_DEPTH_MAX;

pub(super) fn parse(text: &str, names: &XPathNames) -> Result<Expr, XPathFault> {
    let mut parser = Parser {
        lexemes: lexemes(text)?,
        at: 0,
        end: text.len(),
        depth: 0,
        names,
    };
    let expr = parser.expr()?;
    match parser.at == parser.lexemes.len() {
        true => Ok(expr),
        false => Err(parser.unexpected()),
    }
}

struct Parser<'n> {
    lexemes: Vec<Lexeme>,
    at: usize,
    /// The length of the text.
    end: usize,
    depth: usize,
    names: &'n XPathNames,
}

impl Parser<'_> {
    /// Everything from `or` on.
    fn expr(&mut self) -> Result<Expr, XPathFault> {
        if self.depth == XPATH_DEPTH_MAX {
            return Err(fault(Kind::Deep, self.place()));
        }
        self.depth += 1;
        let mut parts = vec![self.conjunction()?];
        while self.take("or") {
            parts.push(self.conjunction()?);
        }
        self.depth -= 1;
        Ok(one_or(parts, Expr::Any))
    }

    fn conjunction(&mut self) -> Result<Expr, XPathFault> {
        let mut parts = vec![self.equality()?];
        while self.take("and") {
            parts.push(self.equality()?);
        }
        Ok(one_or(parts, Expr::All))
    }

    fn equality(&mut self) -> Result<Expr, XPathFault> {
        let first = self.relation()?;
        let mut others = Vec::new();
        while let Some(comparison) = self.comparison(&[
            ("=", PathComparison::Equal),
            ("!=", PathComparison::Unequal),
        ]) {
            others.push((comparison, self.relation()?));
        }
        Ok(chain(first, others, Expr::Compare))
    }

    fn relation(&mut self) -> Result<Expr, XPathFault> {
        let first = self.sum()?;
        let mut others = Vec::new();
        while let Some(comparison) = self.comparison(&[
            ("<", PathComparison::Less),
            ("<=", PathComparison::LessOrEqual),
            (">", PathComparison::Greater),
            (">=", PathComparison::GreaterOrEqual),
        ]) {
            others.push((comparison, self.sum()?));
        }
        Ok(chain(first, others, Expr::Compare))
    }

    fn sum(&mut self) -> Result<Expr, XPathFault> {
        let first = self.product()?;
        let mut others = Vec::new();
        while let Some(reckoning) =
            self.comparison(&[("+", Reckoning::Add), ("-", Reckoning::Subtract)])
        {
            others.push((reckoning, self.product()?));
        }
        Ok(chain(first, others, Expr::Reckon))
    }

    fn product(&mut self) -> Result<Expr, XPathFault> {
        let first = self.negation()?;
        let mut others = Vec::new();
        while let Some(reckoning) = self.comparison(&[
            ("*", Reckoning::Multiply),
            ("div", Reckoning::Divide),
            ("mod", Reckoning::Remainder),
        ]) {
            others.push((reckoning, self.negation()?));
        }
        Ok(chain(first, others, Expr::Reckon))
    }

    fn negation(&mut self) -> Result<Expr, XPathFault> {
        let mut signs = 0;
        while self.take("-") {
            signs += 1;
        }
        let inner = self.union()?;
        // Two signs make a number of what is none, and no sign does not.
        Ok(match (signs, signs % 2) {
            (0, _) => inner,
            (_, 1) => Expr::Negate(inner.into()),
            _ => Expr::Negate(Expr::Negate(inner.into()).into()),
        })
    }

    fn union(&mut self) -> Result<Expr, XPathFault> {
        let from = self.place().start;
        let mut parts = vec![self.path()?];
        while self.take("|") {
            if parts.len() == 1 {
                self.check_nodes(&parts[0], from, self.at - 1)?;
            }
            let from = self.place().start;
            let part = self.path()?;
            self.check_nodes(&part, from, self.at)?;
            parts.push(part);
        }
        Ok(one_or(parts, Expr::Union))
    }

    /// An expression that must return nodes, which stands between a byte and the word before a place.
    fn check_nodes(&self, expr: &Expr, from: usize, to: usize) -> Result<(), XPathFault> {
        let end = match to.checked_sub(1) {
            Some(last) => self.lexemes[last].at.end,
            None => self.end,
        };
        match expr.type_of() {
            XPathType::Nodes => Ok(()),
            _ => Err(fault(Kind::NotNodes, from..end.max(from))),
        }
    }

    fn path(&mut self) -> Result<Expr, XPathFault> {
        if self.begins_filter() {
            return self.filter();
        }
        let mut steps = Vec::new();
        let start = if self.take("//") {
            steps.push(any_below());
            self.steps(&mut steps)?;
            PathStart::Root
        } else if self.take("/") {
            if self.begins_step() {
                self.steps(&mut steps)?;
            }
            PathStart::Root
        } else {
            self.steps(&mut steps)?;
            PathStart::Own
        };
        Ok(path(start, steps))
    }

    /// A literal, a call or an expression in parentheses, with conditions and steps behind it.
    fn filter(&mut self) -> Result<Expr, XPathFault> {
        let from = self.place().start;
        let primary = self.primary()?;
        let end = self.at;
        let predicates = self.predicates()?;
        let has_steps = matches!(self.sign(), Some("/" | "//"));
        if predicates.is_empty() && !has_steps {
            return Ok(primary);
        }
        self.check_nodes(&primary, from, end)?;
        let mut steps = Vec::new();
        if self.take("//") {
            steps.push(any_below());
            self.steps(&mut steps)?;
        } else if self.take("/") {
            self.steps(&mut steps)?;
        }
        Ok(path(PathStart::Nodes(primary, predicates), steps))
    }

    fn primary(&mut self) -> Result<Expr, XPathFault> {
        let lexeme = self.lexemes.get(self.at).cloned();
        let Some(Lexeme { token, at }) = lexeme else {
            return Err(self.unexpected());
        };
        self.at += 1;
        match token {
            PathToken::Variable => Err(fault(Kind::Variable, at)),
            PathToken::Literal(text) => Ok(Expr::Text(text.into())),
            PathToken::Number(number) => Ok(Expr::Number(number)),
            PathToken::Sign("(") => {
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            PathToken::Name(None, name) => {
                let function = Function::of(&name).ok_or(fault(Kind::Function, at.clone()))?;
                self.call(function, at.start)
            }
            _ => Err(fault(Kind::Function, at)),
        }
    }

    fn call(&mut self, function: Function, from: usize) -> Result<Expr, XPathFault> {
        self.expect("(")?;
        let mut arguments = Vec::new();
        if !self.take(")") {
            loop {
                let begin = self.place().start;
                let argument = self.expr()?;
                if arguments.is_empty() && function.is_of_nodes() {
                    self.check_nodes(&argument, begin, self.at)?;
                }
                arguments.push(argument);
                if !self.take(",") {
                    break;
                }
            }
            self.expect(")")?;
        }
        if !function.takes(arguments.len()) {
            let at = from..self.lexemes[self.at - 1].at.end;
            return Err(fault(Kind::Arguments(function.usage()), at));
        }
        Ok(Expr::Call(function, arguments))
    }

    fn steps(&mut self, steps: &mut Vec<PathStep>) -> Result<(), XPathFault> {
        loop {
            let step = self.step()?;
            steps.push(step);
            if self.take("//") {
                steps.push(any_below());
            } else if !self.take("/") {
                return Ok(());
            }
        }
    }

    fn step(&mut self) -> Result<PathStep, XPathFault> {
        for (sign, axis) in [("..", Axis::Parent), (".", Axis::Own)] {
            if self.take(sign) {
                return Ok(PathStep {
                    axis,
                    test: NodeTest::Node,
                    predicates: Vec::new(),
                });
            }
        }
        let axis = self.axis()?;
        let test = self.test(axis)?;
        let predicates = self.predicates()?;
        Ok(PathStep {
            axis,
            test,
            predicates,
        })
    }

    fn axis(&mut self) -> Result<Axis, XPathFault> {
        if self.take("@") {
            return Ok(Axis::Attribute);
        }
        if !matches!(self.peek(1), Some(PathToken::Sign("::"))) {
            return Ok(Axis::Child);
        }
        let at = self.place();
        let axis = match self.peek(0) {
            Some(PathToken::Name(None, name)) => Axis::of(name),
            _ => None,
        };
        let axis = axis.ok_or(fault(Kind::Axis, at))?;
        self.at += 2;
        Ok(axis)
    }

    fn test(&mut self, axis: Axis) -> Result<NodeTest, XPathFault> {
        let at = self.place();
        let token = self.peek(0).cloned();
        let is_call = matches!(self.peek(1), Some(PathToken::Sign("(")));
        let test = match token {
            Some(PathToken::Any) => NodeTest::Any,
            Some(PathToken::PrefixAny(prefix)) => {
                NodeTest::Namespace(self.namespace(&prefix, at.start)?)
            }
            Some(PathToken::Name(None, name)) if is_call => {
                self.at += 2;
                let test = match name.as_str() {
                    "node" => NodeTest::Node,
                    "text" => NodeTest::Text,
                    "comment" => NodeTest::Comment,
                    "processing-instruction" => match self.peek(0).cloned() {
                        Some(PathToken::Literal(target)) => {
                            self.at += 1;
                            NodeTest::Instruction(Some(target.into()))
                        }
                        _ => NodeTest::Instruction(None),
                    },
                    _ => return Err(fault(Kind::Syntax, at)),
                };
                self.expect(")")?;
                return Ok(test);
            }
            Some(PathToken::Name(prefix, local)) => {
                let uri = match prefix {
                    Some(prefix) => Some(self.namespace(&prefix, at.start)?),
                    // Attributes and namespaces without a prefix are in none, elements too.
                    None if self.names.bare_is_any || axis == Axis::Namespace => None,
                    None => Some("".into()),
                };
                NodeTest::Name(uri, local.into())
            }
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        Ok(test)
    }

    fn namespace(&self, prefix: &str, at: usize) -> Result<Box<str>, XPathFault> {
        let namespace = self.names.namespace(prefix);
        let namespace = namespace.ok_or(fault(Kind::Prefix, at..at + prefix.len()))?;
        Ok(namespace.into())
    }

    fn predicates(&mut self) -> Result<Vec<Expr>, XPathFault> {
        let mut predicates = Vec::new();
        while self.take("[") {
            predicates.push(self.expr()?);
            self.expect("]")?;
        }
        Ok(predicates)
    }

    /// Whether what comes is no step: a literal, a call of a function and so on.
    fn begins_filter(&self) -> bool {
        match self.peek(0) {
            Some(
                PathToken::Sign("(")
                | PathToken::Literal(_)
                | PathToken::Number(_)
                | PathToken::Variable,
            ) => true,
            Some(PathToken::Name(prefix, name)) => {
                let is_type = matches!(
                    name.as_str(),
                    "node" | "text" | "comment" | "processing-instruction"
                );
                matches!(self.peek(1), Some(PathToken::Sign("("))) && (prefix.is_some() || !is_type)
            }
            _ => false,
        }
    }

    fn begins_step(&self) -> bool {
        matches!(
            self.peek(0),
            Some(
                PathToken::Name(..)
                    | PathToken::Any
                    | PathToken::PrefixAny(_)
                    | PathToken::Sign("@" | "." | "..")
            )
        )
    }

    fn peek(&self, ahead: usize) -> Option<&PathToken> {
        self.lexemes
            .get(self.at + ahead)
            .map(|lexeme| &lexeme.token)
    }

    fn sign(&self) -> Option<&'static str> {
        match self.peek(0) {
            Some(PathToken::Sign(sign)) => Some(sign),
            _ => None,
        }
    }

    fn take(&mut self, sign: &str) -> bool {
        let is_there = self.sign() == Some(sign);
        self.at += usize::from(is_there);
        is_there
    }

    fn expect(&mut self, sign: &str) -> Result<(), XPathFault> {
        match self.take(sign) {
            true => Ok(()),
            false => Err(self.unexpected()),
        }
    }

    /// Which of these operators comes.
    fn comparison<T: Copy>(&mut self, operators: &[(&str, T)]) -> Option<T> {
        let sign = self.sign()?;
        let (_, operator) = operators.iter().find(|(name, _)| *name == sign)?;
        self.at += 1;
        Some(*operator)
    }

    /// The place of what comes; at the end the end.
    fn place(&self) -> std::ops::Range<usize> {
        match self.lexemes.get(self.at) {
            Some(lexeme) => lexeme.at.clone(),
            None => self.end..self.end,
        }
    }

    fn unexpected(&self) -> XPathFault {
        match self.lexemes.get(self.at) {
            Some(lexeme) => fault(Kind::Syntax, lexeme.at.clone()),
            None => fault(Kind::End, self.end..self.end),
        }
    }
}

fn one_or(mut parts: Vec<Expr>, many: fn(Vec<Expr>) -> Expr) -> Expr {
    match (parts.len(), parts.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            parts.extend(last);
            many(parts)
        }
    }
}

fn chain<T>(
    first: Expr,
    others: Vec<(T, Expr)>,
    make: fn(Box<Expr>, Vec<(T, Expr)>) -> Expr,
) -> Expr {
    match others.is_empty() {
        true => first,
        false => make(Box::new(first), others),
    }
}

/// What `//` stands for.
fn any_below() -> PathStep {
    PathStep {
        axis: Axis::DescendantOrSelf,
        test: NodeTest::Node,
        predicates: Vec::new(),
    }
}

/// A path. `//name` looks at each node once where no condition asks for its position among its siblings.
fn path(start: PathStart, steps: Vec<PathStep>) -> Expr {
    let mut short: Vec<PathStep> = Vec::with_capacity(steps.len());
    for mut step in steps {
        let is_behind_any = short.last().is_some_and(|before| {
            before.axis == Axis::DescendantOrSelf
                && before.test == NodeTest::Node
                && before.predicates.is_empty()
        });
        let is_positional = step.predicates.iter().any(Expr::is_positional);
        if is_behind_any && step.axis == Axis::Child && !is_positional {
            short.pop();
            step.axis = Axis::Descendant;
        }
        short.push(step);
    }
    Expr::Path(Box::new(LocationPath {
        start,
        steps: short,
    }))
}
