//! Evaluates an expression on a document.

use std::borrow::Cow;
use std::collections::HashSet;

use super::EvaluationFault;
use super::expression::{
    Expr, LocationPath, PathComparison, PathStart, PathStep, Reckoning, XPathType,
};
use super::function::Function;
use super::number::{number_text, round, text_number};
use super::text::{is_language, normalized, substring, translated};
use crate::document::{NodeAt, NodeKind, XmlDocument};
use crate::limits::{XPATH_STEPS_MAX, XPATH_TEXT_MAX};

type Result<T> = std::result::Result<T, EvaluationFault>;

pub(super) struct Evaluation<'d> {
    document: &'d XmlDocument,
    steps: u64,
}

/// Where an expression is evaluated.
#[derive(Clone, Copy)]
pub(super) struct PathContext {
    node: NodeAt,
    /// The node's place among those that are looked at, from 1.
    position: usize,
    /// How many there are.
    last: usize,
}

impl<'d> Evaluation<'d> {
    pub fn new(document: &'d XmlDocument) -> Evaluation<'d> {
        Evaluation { document, steps: 0 }
    }

    pub fn context(&self, node: NodeAt) -> PathContext {
        PathContext {
            node,
            position: 1,
            last: 1,
        }
    }

    fn spend(&mut self, steps: usize) -> Result<()> {
        self.steps += steps as u64;
        match self.steps > XPATH_STEPS_MAX {
            true => Err(EvaluationFault),
            false => Ok(()),
        }
    }

    /// Time for a text of this length: a step for 64 bytes.
    fn spend_text(&mut self, bytes: usize) -> Result<()> {
        match bytes > XPATH_TEXT_MAX {
            true => Err(EvaluationFault),
            false => self.spend(1 + bytes / 64),
        }
    }

    pub fn truth(&mut self, expr: &Expr, at: PathContext) -> Result<bool> {
        match expr {
            Expr::Any(parts) => {
                for part in parts {
                    if self.truth(part, at)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Expr::All(parts) => {
                for part in parts {
                    if !self.truth(part, at)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Expr::Compare(first, others) => self.compared(first, others, at),
            Expr::Call(function, arguments) if function.returns() == XPathType::Truth => {
                self.truth_of_call(*function, arguments, at)
            }
            _ => match expr.type_of() {
                XPathType::Nodes => Ok(!self.nodes(expr, at)?.is_empty()),
                XPathType::Text => Ok(!self.text(expr, at)?.is_empty()),
                XPathType::Number | XPathType::Truth => {
                    let number = self.number(expr, at)?;
                    Ok(number != 0.0 && !number.is_nan())
                }
            },
        }
    }

    pub fn number(&mut self, expr: &Expr, at: PathContext) -> Result<f64> {
        match expr {
            Expr::Number(number) => Ok(*number),
            Expr::Negate(inner) => Ok(-self.number(inner, at)?),
            Expr::Reckon(first, others) => {
                let mut left = self.number(first, at)?;
                for (reckoning, other) in others {
                    let right = self.number(other, at)?;
                    left = match reckoning {
                        Reckoning::Add => left + right,
                        Reckoning::Subtract => left - right,
                        Reckoning::Multiply => left * right,
                        Reckoning::Divide => left / right,
                        Reckoning::Remainder => left % right,
                    };
                }
                Ok(left)
            }
            Expr::Call(function, arguments) if function.returns() == XPathType::Number => {
                self.number_of_call(*function, arguments, at)
            }
            _ => match expr.type_of() {
                XPathType::Truth => Ok(f64::from(u8::from(self.truth(expr, at)?))),
                _ => {
                    let text = self.text(expr, at)?;
                    Ok(text_number(&text))
                }
            },
        }
    }

    pub fn text<'a>(&mut self, expr: &'a Expr, at: PathContext) -> Result<Cow<'a, str>>
    where
        'd: 'a,
    {
        match expr {
            Expr::Text(text) => Ok(Cow::Borrowed(text)),
            Expr::Call(function, arguments) if function.returns() == XPathType::Text => {
                self.text_of_call(*function, arguments, at)
            }
            _ => match expr.type_of() {
                XPathType::Nodes => {
                    let nodes = self.nodes(expr, at)?;
                    Ok(Cow::Borrowed(self.first_text(&nodes)))
                }
                XPathType::Truth => Ok(Cow::Borrowed(match self.truth(expr, at)? {
                    true => "true",
                    false => "false",
                })),
                XPathType::Number | XPathType::Text => {
                    Ok(Cow::Owned(number_text(self.number(expr, at)?)))
                }
            },
        }
    }

    fn first_text(&self, nodes: &[NodeAt]) -> &'d str {
        nodes.first().map_or("", |node| self.document.value(*node))
    }

    pub fn nodes(&mut self, expr: &Expr, at: PathContext) -> Result<Vec<NodeAt>> {
        match expr {
            Expr::Path(path) => self.path(path, at),
            Expr::Union(parts) => {
                let mut all = Vec::new();
                for part in parts {
                    all.append(&mut self.nodes(part, at)?);
                }
                self.spend(all.len())?;
                all.sort_unstable();
                all.dedup();
                Ok(all)
            }
            Expr::Call(Function::Id, arguments) => self.by_id(&arguments[0], at),
            // Compiling has seen to it that nothing else stands where nodes are asked for.
            _ => Ok(Vec::new()),
        }
    }

    fn path(&mut self, path: &LocationPath, at: PathContext) -> Result<Vec<NodeAt>> {
        let mut nodes = match &path.start {
            PathStart::Own => vec![at.node],
            PathStart::Root => vec![self.document.root()],
            PathStart::Nodes(expr, predicates) => {
                let mut nodes = self.nodes(expr, at)?;
                for predicate in predicates {
                    nodes = self.filtered(nodes, predicate)?;
                }
                nodes
            }
        };
        for step in &path.steps {
            nodes = self.step(step, &nodes)?;
        }
        Ok(nodes)
    }

    fn step(&mut self, step: &PathStep, from: &[NodeAt]) -> Result<Vec<NodeAt>> {
        let mut all = Vec::new();
        for node in from {
            let mut found = self.axis(step, *node)?;
            for predicate in &step.predicates {
                found = self.filtered(found, predicate)?;
            }
            match all.is_empty() {
                true => all = found,
                false => all.append(&mut found),
            }
        }
        let is_in_order = from.len() < 2 && !step.axis.is_reverse();
        if !is_in_order {
            self.spend(all.len())?;
            all.sort_unstable();
            all.dedup();
        }
        Ok(all)
    }

    /// The nodes of a step's axis that its test takes, in the axis' order.
    fn axis(&mut self, step: &PathStep, node: NodeAt) -> Result<Vec<NodeAt>> {
        let mut found = Vec::new();
        let (document, mut steps) = (self.document, self.steps + 1);
        // `[3]` as the first condition needs no more than three.
        let enough = match step.predicates.first() {
            Some(Expr::Number(number)) if *number >= 1.0 => *number,
            _ => f64::INFINITY,
        };
        step.axis.walk(document, node, &mut |node| {
            steps += 1;
            if step.test.fits(document, step.axis, node) {
                found.push(node);
            }
            steps <= XPATH_STEPS_MAX && (found.len() as f64) < enough
        });
        self.steps = steps;
        self.spend(0)?;
        Ok(found)
    }

    fn filtered(&mut self, nodes: Vec<NodeAt>, predicate: &Expr) -> Result<Vec<NodeAt>> {
        let last = nodes.len();
        if let Expr::Number(number) = predicate {
            let wanted = nodes
                .iter()
                .enumerate()
                .find(|(at, _)| (at + 1) as f64 == *number);
            return Ok(wanted.map(|(_, node)| *node).into_iter().collect());
        }
        let is_number = predicate.type_of() == XPathType::Number;
        let mut kept = Vec::new();
        for (at, node) in nodes.into_iter().enumerate() {
            self.spend(1)?;
            let context = PathContext {
                node,
                position: at + 1,
                last,
            };
            let is_kept = match is_number {
                true => self.number(predicate, context)? == context.position as f64,
                false => self.truth(predicate, context)?,
            };
            if is_kept {
                kept.push(node);
            }
        }
        Ok(kept)
    }

    fn by_id(&mut self, argument: &Expr, at: PathContext) -> Result<Vec<NodeAt>> {
        let mut names = String::new();
        match argument.type_of() {
            XPathType::Nodes => {
                for node in self.nodes(argument, at)? {
                    let value = self.document.value(node);
                    self.spend_text(names.len() + value.len())?;
                    names.push_str(value);
                    names.push(' ');
                }
            }
            _ => names.push_str(&self.text(argument, at)?),
        }
        let wanted: HashSet<&str> = names.split(crate::names::is_space).collect();
        let mut found = Vec::new();
        let mut known = HashSet::new();
        for at in 0..self.document.nodes.len() as u32 {
            self.spend(1)?;
            let node = NodeAt::plain(at);
            if self.document.kind(node) == NodeKind::Attribute
                && self.document.written_name(node) == "xml:id"
                && let Some(element) = self.document.parent(node)
            {
                let id = normalized(self.document.value(node));
                if wanted.contains(id.as_str()) && known.insert(id) {
                    found.push(element);
                }
            }
        }
        Ok(found)
    }

    fn truth_of_call(
        &mut self,
        function: Function,
        arguments: &[Expr],
        at: PathContext,
    ) -> Result<bool> {
        Ok(match (function, arguments) {
            (Function::True, _) => true,
            (Function::Not, [condition]) => !self.truth(condition, at)?,
            (Function::Truth, [value]) => self.truth(value, at)?,
            (Function::StartsWith, [text, part]) => {
                let (text, part) = self.two_texts(text, part, at)?;
                text.starts_with(&*part)
            }
            (Function::Contains, [text, part]) => {
                let (text, part) = self.two_texts(text, part, at)?;
                text.contains(&*part)
            }
            (Function::Lang, [wanted]) => {
                let wanted = self.text(wanted, at)?;
                self.is_in_language(at.node, &wanted)?
            }
            _ => false,
        })
    }

    fn two_texts<'a>(
        &mut self,
        one: &'a Expr,
        other: &'a Expr,
        at: PathContext,
    ) -> Result<(Cow<'a, str>, Cow<'a, str>)>
    where
        'd: 'a,
    {
        let one = self.text(one, at)?;
        let other = self.text(other, at)?;
        self.spend_text(one.len())?;
        Ok((one, other))
    }

    fn is_in_language(&mut self, node: NodeAt, wanted: &str) -> Result<bool> {
        let document = self.document;
        let mut at = Some(node);
        while let Some(node) = at {
            self.spend(1)?;
            let mut attributes = document.attributes(node);
            if let Some(lang) = attributes.find(|a| document.written_name(*a) == "xml:lang") {
                return Ok(is_language(document.value(lang), wanted));
            }
            at = document.parent(node);
        }
        Ok(false)
    }

    fn number_of_call(
        &mut self,
        function: Function,
        arguments: &[Expr],
        at: PathContext,
    ) -> Result<f64> {
        Ok(match (function, arguments) {
            (Function::Last, _) => at.last as f64,
            (Function::Position, _) => at.position as f64,
            (Function::Count, [nodes]) => self.nodes(nodes, at)?.len() as f64,
            (Function::Sum, [nodes]) => {
                let mut sum = 0.0;
                for node in self.nodes(nodes, at)? {
                    let text = self.document.value(node);
                    self.spend_text(text.len())?;
                    sum += text_number(text);
                }
                sum
            }
            (Function::Number, [value]) => self.number(value, at)?,
            (Function::Number, _) => text_number(self.document.value(at.node)),
            (Function::Floor, [number]) => self.number(number, at)?.floor(),
            (Function::Ceiling, [number]) => self.number(number, at)?.ceil(),
            (Function::Round, [number]) => round(self.number(number, at)?),
            (Function::StringLength, arguments) => {
                let text = self.text_or_own(arguments, at)?;
                self.spend_text(text.len())?;
                text.chars().count() as f64
            }
            _ => f64::NAN,
        })
    }

    /// The argument's text; without one that of the node.
    fn text_or_own<'a>(&mut self, arguments: &'a [Expr], at: PathContext) -> Result<Cow<'a, str>>
    where
        'd: 'a,
    {
        match arguments {
            [argument, ..] => self.text(argument, at),
            [] => Ok(Cow::Borrowed(self.document.value(at.node))),
        }
    }

    fn text_of_call<'a>(
        &mut self,
        function: Function,
        arguments: &'a [Expr],
        at: PathContext,
    ) -> Result<Cow<'a, str>>
    where
        'd: 'a,
    {
        Ok(match (function, arguments) {
            (Function::LocalName | Function::NamespaceUri | Function::Name, arguments) => {
                let node = match arguments {
                    [nodes] => self.nodes(nodes, at)?.first().copied(),
                    _ => Some(at.node),
                };
                let document = self.document;
                Cow::Borrowed(node.map_or("", |node| match function {
                    Function::LocalName => document.local_name(node),
                    Function::Name => document.written_name(node),
                    _ => document.namespace(node),
                }))
            }
            (Function::Text, arguments) => self.text_or_own(arguments, at)?,
            (Function::Concat, arguments) => {
                let mut whole = String::new();
                for argument in arguments {
                    let part = self.text(argument, at)?;
                    self.spend_text(whole.len() + part.len())?;
                    whole.push_str(&part);
                }
                Cow::Owned(whole)
            }
            (Function::SubstringBefore, [text, part]) => {
                let (text, part) = self.two_texts(text, part, at)?;
                match text.find(&*part) {
                    Some(found) => Cow::Owned(text[..found].to_owned()),
                    None => Cow::Borrowed(""),
                }
            }
            (Function::SubstringAfter, [text, part]) => {
                let (text, part) = self.two_texts(text, part, at)?;
                match text.find(&*part) {
                    Some(found) => Cow::Owned(text[found + part.len()..].to_owned()),
                    None => Cow::Borrowed(""),
                }
            }
            (Function::Substring, [text, from, length @ ..]) => {
                let text = self.text(text, at)?;
                self.spend_text(text.len())?;
                let from = self.number(from, at)?;
                let length = match length {
                    [length, ..] => Some(self.number(length, at)?),
                    [] => None,
                };
                substring(text, from, length)
            }
            (Function::NormalizeSpace, arguments) => {
                let text = self.text_or_own(arguments, at)?;
                self.spend_text(text.len())?;
                Cow::Owned(normalized(&text))
            }
            (Function::Translate, [text, from, to]) => {
                let text = self.text(text, at)?;
                let from = self.text(from, at)?;
                let to = self.text(to, at)?;
                self.spend_text(text.len() + from.len() + to.len())?;
                Cow::Owned(translated(&text, &from, &to))
            }
            _ => Cow::Borrowed(""),
        })
    }

    fn compared(
        &mut self,
        first: &Expr,
        others: &[(PathComparison, Expr)],
        at: PathContext,
    ) -> Result<bool> {
        let mut others = others.iter();
        let Some((comparison, other)) = others.next() else {
            return self.truth(first, at);
        };
        let mut is_true = self.compare(*comparison, first, other, at)?;
        for (comparison, other) in others {
            // From the second one on a truth value is compared.
            is_true = match (comparison, other.type_of()) {
                (PathComparison::Equal | PathComparison::Unequal, _) => {
                    (is_true == self.truth(other, at)?) == (*comparison == PathComparison::Equal)
                }
                (_, XPathType::Nodes) => {
                    let other = self.truth(other, at)?;
                    comparison.holds(f64::from(u8::from(is_true)), f64::from(u8::from(other)))
                }
                _ => comparison.holds(f64::from(u8::from(is_true)), self.number(other, at)?),
            };
        }
        Ok(is_true)
    }

    fn compare(
        &mut self,
        comparison: PathComparison,
        left: &Expr,
        right: &Expr,
        at: PathContext,
    ) -> Result<bool> {
        let is_equality = matches!(comparison, PathComparison::Equal | PathComparison::Unequal);
        match (left.type_of(), right.type_of()) {
            (XPathType::Nodes, XPathType::Nodes) => {
                let left = self.nodes(left, at)?;
                let right = self.nodes(right, at)?;
                self.compare_nodes(comparison, &left, &right)
            }
            (XPathType::Truth, _) | (_, XPathType::Truth) => {
                let is_nodes = |expr: &Expr| expr.type_of() == XPathType::Nodes;
                if is_equality || is_nodes(left) || is_nodes(right) {
                    let left = f64::from(u8::from(self.truth(left, at)?));
                    let right = f64::from(u8::from(self.truth(right, at)?));
                    return Ok(comparison.holds(left, right));
                }
                let left = self.number(left, at)?;
                Ok(comparison.holds(left, self.number(right, at)?))
            }
            (XPathType::Nodes, _) => self.compare_some(comparison, left, right, at),
            (_, XPathType::Nodes) => self.compare_some(comparison.turned(), right, left, at),
            (left_type, right_type) => {
                if is_equality && left_type != XPathType::Number && right_type != XPathType::Number
                {
                    let (left, right) = self.two_texts(left, right, at)?;
                    return Ok((left == right) == (comparison == PathComparison::Equal));
                }
                let left = self.number(left, at)?;
                Ok(comparison.holds(left, self.number(right, at)?))
            }
        }
    }

    /// Whether there is a node for which the comparison with a number or a text holds.
    fn compare_some(
        &mut self,
        comparison: PathComparison,
        nodes: &Expr,
        other: &Expr,
        at: PathContext,
    ) -> Result<bool> {
        let nodes = self.nodes(nodes, at)?;
        let is_equality = matches!(comparison, PathComparison::Equal | PathComparison::Unequal);
        if is_equality && other.type_of() == XPathType::Text {
            let other = self.text(other, at)?;
            for node in nodes {
                let value = self.document.value(node);
                self.spend_text(value.len().min(other.len()))?;
                if (value == other) == (comparison == PathComparison::Equal) {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        let other = self.number(other, at)?;
        for node in nodes {
            let value = self.document.value(node);
            self.spend_text(value.len())?;
            if comparison.holds(text_number(value), other) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether there are two nodes for which the comparison holds.
    fn compare_nodes(
        &mut self,
        comparison: PathComparison,
        left: &[NodeAt],
        right: &[NodeAt],
    ) -> Result<bool> {
        let document = self.document;
        if left.is_empty() || right.is_empty() {
            return Ok(false);
        }
        for node in left.iter().chain(right) {
            self.spend_text(document.value(*node).len())?;
        }
        let values = |nodes: &'_ [NodeAt]| -> Vec<&'d str> {
            nodes.iter().map(|node| document.value(*node)).collect()
        };
        match comparison {
            PathComparison::Equal => {
                let known: HashSet<&str> = values(left).into_iter().collect();
                Ok(values(right).into_iter().any(|value| known.contains(value)))
            }
            // Only if all of them are the same are there no two that differ.
            PathComparison::Unequal => {
                let first = document.value(left[0]);
                Ok(values(left)
                    .into_iter()
                    .chain(values(right))
                    .any(|value| value != first))
            }
            // The ends of both decide.
            _ => {
                let ends = |nodes: &[NodeAt]| {
                    let numbers = values(nodes).into_iter().map(text_number);
                    numbers
                        .filter(|number| !number.is_nan())
                        .fold(None, |ends, number| {
                            let (least, most) = ends.unwrap_or((number, number));
                            Some((f64::min(least, number), f64::max(most, number)))
                        })
                };
                let (Some(left), Some(right)) = (ends(left), ends(right)) else {
                    return Ok(false);
                };
                Ok(match comparison {
                    PathComparison::Less | PathComparison::LessOrEqual => {
                        comparison.holds(left.0, right.1)
                    }
                    _ => comparison.holds(left.1, right.0),
                })
            }
        }
    }
}

impl PathComparison {
    fn holds(self, left: f64, right: f64) -> bool {
        match self {
            PathComparison::Equal => left == right,
            PathComparison::Unequal => left != right,
            PathComparison::Less => left < right,
            PathComparison::LessOrEqual => left <= right,
            PathComparison::Greater => left > right,
            PathComparison::GreaterOrEqual => left >= right,
        }
    }

    /// The one that holds when the sides are changed.
    fn turned(self) -> PathComparison {
        match self {
            PathComparison::Less => PathComparison::Greater,
            PathComparison::LessOrEqual => PathComparison::GreaterOrEqual,
            PathComparison::Greater => PathComparison::Less,
            PathComparison::GreaterOrEqual => PathComparison::LessOrEqual,
            same => same,
        }
    }
}
