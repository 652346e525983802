//! Answers of operations: where columns stand in them, and their values as JSON.

use busbar_catalog::{ShapeContent, ShapeElement, ShapeType, XsdShape};
use busbar_event::format::{FieldSpec, FieldType, natural_type, write_json_text};
use busbar_event::{Class, Error, quote};
use busbar_xml::{NodeAt, NodeKind, XPath, XPathType, XmlDocument};

use super::message::ColumnFault;

/// A column of an answer.
pub(super) struct AnswerColumn {
    pub name: String,
    pub path: XPath,
    /// What is there by the WSDL.
    pub target: Option<AnswerTarget>,
    /// The type of the column, where a WSDL says more than the text does.
    pub field_type: Option<FieldType>,
}

/// What the schema says of a place in an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct AnswerTarget {
    content: ShapeContent,
    is_repeated: bool,
}

/// What the schema says of the place that a path leads to; none for paths that are more than names, and for places of which it
/// says nothing.
///
/// # Errors
/// There is no such place, or its values do not fit the column.
pub(super) fn target_of(
    shape: &XsdShape,
    field: &FieldSpec,
) -> Result<Option<AnswerTarget>, ColumnFault> {
    let path = field.path.as_deref().unwrap_or(&field.name);
    let Some(steps) = plain_steps(path) else {
        return Ok(None);
    };
    let new = |code| Error::new(Class::Configuration, code).with("column", quote(&field.name));
    let mut target = AnswerTarget {
        content: shape.root.content,
        is_repeated: false,
    };
    let mut around = shape.root.name.as_str();
    for step in &steps {
        let number = match target.content {
            _ if step == "text()" => break,
            ShapeContent::Any => return Ok(None),
            ShapeContent::Complex(number) => Some(number),
            ShapeContent::Value(..) => None,
        };
        let of = number.and_then(|number| shape.types.get(number));
        let attribute = step.strip_prefix('@');
        let found = match attribute {
            Some(name) => {
                let mut all = of.into_iter().flat_map(|of| &of.attributes);
                let found = all.find(|one| one.name == name);
                found.map(|one| AnswerTarget {
                    content: ShapeContent::Value(one.value.0, one.value.1),
                    is_repeated: false,
                })
            }
            None => {
                let mut all = of.into_iter().flat_map(|of| &of.elements);
                let found = all.find(|one| one.name == *step);
                found.map(|one| {
                    around = &one.name;
                    AnswerTarget {
                        content: one.content,
                        is_repeated: one.is_repeated,
                    }
                })
            }
        };
        let Some(found) = found else {
            let elements = of.into_iter().flat_map(|of| &of.elements);
            let names: Vec<&str> = elements.map(|one| one.name.as_str()).collect();
            let error = new("connect.soap-answer-path")
                .with("name", quote(step))
                .with("element", around);
            return Err(ColumnFault {
                error,
                help: busbar_catalog::suggest(step, names),
            });
        };
        target = found;
    }
    match reads(shape, target, field.field_type) {
        true => Ok(Some(target)),
        false => Err(ColumnFault {
            error: new("connect.soap-answer-type")
                .with("path", quote(path))
                .with("found", type_of(shape, target))
                .with("type", field.field_type.as_str()),
            help: None,
        }),
    }
}

/// The steps of a path that is a row of names, without prefixes and predicates.
fn plain_steps(path: &str) -> Option<Vec<String>> {
    let mut bare = String::new();
    let (mut depth, mut quote) = (0, None);
    for c in path.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) if depth > 0 => quote = Some(c),
            ('[', None) => depth += 1,
            (']', None) if depth > 0 => depth -= 1,
            (c, _) if depth == 0 => bare.push(c),
            _ => {}
        }
    }
    let steps = bare.split('/').map(str::trim);
    let steps: Option<Vec<String>> = steps
        .map(|step| {
            if step == "text()" {
                return Some(step.to_owned());
            }
            let (mark, name) = match step.strip_prefix('@') {
                Some(name) => ("@", name),
                None => ("", step),
            };
            let local = name.rsplit(':').next().unwrap_or(name);
            let is_name = local
                .chars()
                .next()
                .is_some_and(|c| c.is_alphabetic() || c == '_')
                && local
                    .chars()
                    .all(|c| c.is_alphanumeric() || "_-.".contains(c))
                && !name.contains("::");
            is_name.then(|| format!("{mark}{local}"))
        })
        .collect();
    steps
}

/// Whether a column of a type can be read from such a place.
fn reads(shape: &XsdShape, target: AnswerTarget, column: FieldType) -> bool {
    if matches!(column, FieldType::Text | FieldType::Json) {
        return true;
    }
    let (found, built_in) = match target.content {
        ShapeContent::Any => return true,
        ShapeContent::Value(found, built_in) => (found, built_in),
        ShapeContent::Complex(number) => match shape.types.get(number).and_then(|of| of.text) {
            Some(text) => text,
            None => return false,
        },
    };
    match (column, found) {
        (FieldType::Float, FieldType::Int) => true,
        (FieldType::Time, FieldType::Text) => matches!(built_in, "date" | "string"),
        // The text of a number or of a truth value, if the service keeps its word.
        (_, FieldType::Text) => built_in == "string",
        (column, found) => column == found,
    }
}

fn type_of(shape: &XsdShape, target: AnswerTarget) -> String {
    let value = match target.content {
        ShapeContent::Value(_, built_in) => Some(built_in),
        ShapeContent::Complex(number) => {
            let text = shape.types.get(number).and_then(|of| of.text);
            text.map(|(_, built_in)| built_in)
        }
        ShapeContent::Any => None,
    };
    value.map_or_else(|| "json".to_owned(), |built_in| format!("xs:{built_in}"))
}

impl AnswerColumn {
    /// Appends the value as JSON.
    ///
    /// # Errors
    /// The path cannot be followed in this document.
    pub fn write(
        &self,
        tree: &XmlDocument,
        content: NodeAt,
        shape: Option<&XsdShape>,
        json: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let nodes = match self.path.returns() {
            XPathType::Nodes => {
                let nodes = self.path.nodes(tree, content);
                nodes.map_err(|fault| fault.error())?
            }
            _ => {
                let text = self.path.text(tree, content);
                let text = text.map_err(|fault| fault.error())?;
                self.scalar(&text, json);
                return Ok(());
            }
        };
        let Some(FieldType::Json) = self.field_type else {
            let first = nodes.first().map(|node| tree.value(*node));
            self.scalar(first.unwrap_or_default(), json);
            return Ok(());
        };
        let (content, is_list) = match self.target {
            Some(target) => (target.content, target.is_repeated),
            None => (ShapeContent::Any, nodes.len() > 1),
        };
        let types = shape.map_or(&[][..], |shape| &shape.types);
        let reader = ShapeReader { tree, types };
        match (is_list, nodes.first()) {
            (true, _) => reader.list(&nodes, content, json),
            (false, Some(node)) => reader.value(*node, content, json),
            (false, None) => json.extend_from_slice(b"null"),
        }
        Ok(())
    }

    fn scalar(&self, text: &str, json: &mut Vec<u8>) {
        write_scalar(text.trim(), self.field_type, json);
    }
}

/// Appends a text as the JSON of a value: by its looks, or as the type of the column.
fn write_scalar(text: &str, field_type: Option<FieldType>, json: &mut Vec<u8>) {
    let looks = natural_type(text);
    match (field_type, text) {
        (_, "") => json.extend_from_slice(b"null"),
        (Some(FieldType::Bool), "1") => json.extend_from_slice(b"true"),
        (Some(FieldType::Bool), "0") => json.extend_from_slice(b"false"),
        (Some(FieldType::Text | FieldType::Time), _) => write_json_text(text, json),
        (Some(FieldType::Int | FieldType::Float), _) => match number(text) {
            Some(number) => json.extend_from_slice(number.as_bytes()),
            None => write_json_text(text, json),
        },
        _ => match looks {
            FieldType::Bool | FieldType::Int | FieldType::Float => {
                json.extend_from_slice(text.as_bytes());
            }
            _ => write_json_text(text, json),
        },
    }
}

/// A number of XML Schema as JSON writes it; none where it cannot.
fn number(text: &str) -> Option<String> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text.parse::<serde_json::Number>().is_ok() {
        return Some(text.to_owned());
    }
    let number = text.parse::<f64>().ok()?;
    number.is_finite().then(|| number.to_string())
}

/// Elements as JSON, by the schema where there is one.
struct ShapeReader<'a> {
    tree: &'a XmlDocument,
    types: &'a [ShapeType],
}

impl ShapeReader<'_> {
    fn list(&self, nodes: &[NodeAt], content: ShapeContent, json: &mut Vec<u8>) {
        json.push(b'[');
        for (number, node) in nodes.iter().enumerate() {
            if number > 0 {
                json.push(b',');
            }
            self.value(*node, content, json);
        }
        json.push(b']');
    }

    fn value(&self, node: NodeAt, content: ShapeContent, json: &mut Vec<u8>) {
        let tree = self.tree;
        let of = match content {
            ShapeContent::Value(field_type, _) => {
                return write_scalar(tree.value(node).trim(), Some(field_type), json);
            }
            ShapeContent::Complex(number) => self.types.get(number),
            ShapeContent::Any => None,
        };
        let elements: Vec<NodeAt> = tree
            .children(node)
            .filter(|child| tree.kind(*child) == NodeKind::Element)
            .collect();
        if of.is_none() && elements.is_empty() {
            return write_scalar(tree.value(node).trim(), None, json);
        }
        json.push(b'{');
        let mut is_first = true;
        let mut member = |name: &str, json: &mut Vec<u8>| {
            if !std::mem::take(&mut is_first) {
                json.push(b',');
            }
            write_json_text(name, json);
            json.push(b':');
        };
        for attribute in of.into_iter().flat_map(|of| &of.attributes) {
            let mut all = tree.attributes(node);
            if let Some(found) = all.find(|one| tree.local_name(*one) == attribute.name) {
                member(&format!("@{}", attribute.name), json);
                write_scalar(tree.value(found).trim(), Some(attribute.value.0), json);
            }
        }
        if let Some((field_type, _)) = of.and_then(|of| of.text)
            && elements.is_empty()
            && !tree.value(node).trim().is_empty()
        {
            member("#text", json);
            write_scalar(tree.value(node).trim(), Some(field_type), json);
        }
        // In the order of the document; those of one name together, where the first one stands.
        for (at, element) in elements.iter().enumerate() {
            let name = tree.local_name(*element);
            let is_same = |other: &&NodeAt| tree.local_name(**other) == name;
            if elements[..at].iter().any(|other| is_same(&other)) {
                continue;
            }
            let known: Option<&ShapeElement> =
                of.and_then(|of| of.elements.iter().find(|one| one.name == name));
            let all: Vec<NodeAt> = elements[at..].iter().filter(is_same).copied().collect();
            member(name, json);
            let content = known.map_or(ShapeContent::Any, |known| known.content);
            match known.map_or(all.len() > 1, |known| known.is_repeated) || all.len() > 1 {
                true => self.list(&all, content, json),
                false => self.value(*element, content, json),
            }
        }
        json.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_xml_schema_are_numbers_of_json() {
        for (text, json) in [
            ("1.50", Some("1.50")),
            ("+7", Some("7")),
            (".5", Some("0.5")),
            ("5.", Some("5")),
            ("007", Some("7")),
            ("1e400", None),
            ("INF", None),
            ("x", None),
        ] {
            assert_eq!(number(text).as_deref(), json, "{text}");
        }
    }

    #[test]
    fn names_of_a_path_are_known_where_it_is_a_row_of_names() {
        for (path, steps) in [
            ("a", Some("a")),
            ("w:a/b/@id", Some("a b @id")),
            ("a[x='/']/b[2]/text()", Some("a b text()")),
            ("//a", None),
            ("/a/b", None),
            ("count(a)", None),
            ("a | b", None),
            ("../a", None),
            ("child::a", None),
            ("*", None),
        ] {
            let found = plain_steps(path).map(|steps| steps.join(" "));
            assert_eq!(found.as_deref(), steps, "{path}");
        }
    }
}
