//! Columns as an XML Schema.

use std::collections::BTreeSet;
use std::fmt::Write;

use busbar_event::Error;
use busbar_event::format::{FieldSpec, FieldType, is_xml_name};
use busbar_table::{ColumnType, TableSpec};

use super::{XSD, wrong};

/// An element of the documents.
#[derive(Default)]
struct ElementOf<'c> {
    name: String,
    /// The column whose value the whole element is.
    column: Option<&'c FieldSpec>,
    is_list: bool,
    text: Option<&'c FieldSpec>,
    attributes: Vec<(String, &'c FieldSpec)>,
    children: Vec<ElementOf<'c>>,
}

/// The XML Schema of the documents that hold these columns below their root element; `within` is a dotted path to where they
/// begin. Elements stand in the order of the columns, and are in `namespace` if there is one.
///
/// # Errors
/// *Configuration*: `xsd.name` for what cannot be a name in XML, `xsd.path` for a path that no document can have,
/// `xsd.place` for two columns that exclude each other.
pub fn xsd_of(
    root: &str,
    namespace: Option<&str>,
    within: Option<&str>,
    columns: &[FieldSpec],
) -> Result<String, Error> {
    let mut element = ElementOf::of(root)?;
    for column in columns {
        let own = column.path.as_deref().unwrap_or(&column.name);
        let path = match within {
            Some(within) => format!("{within}.{own}"),
            None => own.to_owned(),
        };
        element.add(&path, &path, column)?;
    }
    let mut out =
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<xs:schema xmlns:xs=\"{XSD}\"");
    if let Some(namespace) = namespace {
        let _ = write!(
            out,
            " targetNamespace=\"{0}\" xmlns=\"{0}\" elementFormDefault=\"qualified\"",
            escaped(namespace)
        );
    }
    out.push_str(">\n");
    let mut types = BTreeSet::new();
    element.write(1, true, &mut types, &mut out);
    ValueType::declare(&types, &mut out);
    out.push_str("</xs:schema>\n");
    Ok(out)
}

impl<'c> ElementOf<'c> {
    fn of(name: &str) -> Result<ElementOf<'c>, Error> {
        match is_xml_name(name) {
            true => Ok(ElementOf {
                name: name.to_owned(),
                ..ElementOf::default()
            }),
            false => Err(wrong("xsd.name", name)),
        }
    }

    fn add(&mut self, path: &str, whole: &str, column: &'c FieldSpec) -> Result<(), Error> {
        let Some((first, rest)) = path.split_once('.') else {
            if path == "#text" {
                return match self.text.replace(column) {
                    None => Ok(()),
                    Some(_) => Err(wrong("xsd.place", whole)),
                };
            }
            if let Some(name) = path.strip_prefix('@') {
                if !is_xml_name(name) {
                    return Err(wrong("xsd.name", name));
                }
                if self.attributes.iter().any(|(known, _)| known == name) {
                    return Err(wrong("xsd.place", whole));
                }
                self.attributes.push((name.to_owned(), column));
                return Ok(());
            }
            let name = path.strip_suffix("[*]").unwrap_or(path);
            let child = self.child(name)?;
            child.is_list |= name.len() < path.len();
            return match child.column.replace(column) {
                None => Ok(()),
                Some(_) => Err(wrong("xsd.place", whole)),
            };
        };
        if first.starts_with('@') || first.ends_with("[*]") || first == "#text" {
            return Err(wrong("xsd.path", whole));
        }
        self.child(first)?.add(rest, whole, column)
    }

    fn child(&mut self, name: &str) -> Result<&mut ElementOf<'c>, Error> {
        let place = match self.children.iter().position(|child| child.name == name) {
            Some(place) => place,
            None => {
                self.children.push(ElementOf::of(name)?);
                self.children.len() - 1
            }
        };
        Ok(&mut self.children[place])
    }

    /// Whether every document has the element.
    fn is_required(&self) -> bool {
        let mut own = self.column.iter().chain(&self.text);
        own.any(|column| column.required)
            || self.attributes.iter().any(|(_, column)| column.required)
            || self.children.iter().any(ElementOf::is_required)
    }

    fn write(
        &self,
        depth: usize,
        is_root: bool,
        types: &mut BTreeSet<ValueType>,
        out: &mut String,
    ) {
        let indent = "  ".repeat(depth);
        let _ = write!(out, "{indent}<xs:element name=\"{}\"", self.name);
        if !is_root && !self.is_required() {
            out.push_str(" minOccurs=\"0\"");
        }
        if self.is_list {
            out.push_str(" maxOccurs=\"unbounded\"");
        }
        let has_parts = !self.children.is_empty() || !self.attributes.is_empty();
        match (self.column, self.text) {
            // What is within it is part of the column's value.
            (Some(column), _) if column.field_type == FieldType::Json || has_parts => {
                out.push_str(" type=\"xs:anyType\"/>\n");
            }
            (Some(column), _) => {
                let _ = writeln!(out, " type=\"{}\"/>", ValueType::of(column).used(types));
            }
            (None, Some(column)) if !has_parts => {
                // The root element is always there, and may be empty; any other one is nil then.
                let value = match is_root {
                    true => ValueType::of(column).or_empty(column),
                    false => ValueType::of(column),
                };
                let nillable = match is_root {
                    true => "",
                    false => " nillable=\"true\"",
                };
                let _ = writeln!(out, " type=\"{}\"{nillable}/>", value.used(types));
            }
            (None, Some(column)) if self.children.is_empty() => {
                let value = ValueType::of(column).or_empty(column);
                let _ = write!(
                    out,
                    ">\n{indent}  <xs:complexType>\n{indent}    <xs:simpleContent>\n{indent}      <xs:extension base=\"{}\">\n",
                    value.used(types)
                );
                self.write_attributes(depth + 4, types, out);
                let _ = write!(
                    out,
                    "{indent}      </xs:extension>\n{indent}    </xs:simpleContent>\n{indent}  </xs:complexType>\n{indent}</xs:element>\n"
                );
            }
            (None, text) => {
                let mixed = match text {
                    Some(_) => " mixed=\"true\"",
                    None => "",
                };
                let _ = write!(out, ">\n{indent}  <xs:complexType{mixed}>\n");
                if !self.children.is_empty() {
                    let _ = writeln!(out, "{indent}    <xs:sequence>");
                    for child in &self.children {
                        child.write(depth + 3, false, types, out);
                    }
                    let _ = writeln!(out, "{indent}    </xs:sequence>");
                }
                self.write_attributes(depth + 2, types, out);
                let _ = write!(out, "{indent}  </xs:complexType>\n{indent}</xs:element>\n");
            }
        }
    }

    fn write_attributes(&self, depth: usize, types: &mut BTreeSet<ValueType>, out: &mut String) {
        let indent = "  ".repeat(depth);
        for (name, column) in &self.attributes {
            let required = match column.required {
                true => " use=\"required\"",
                false => "",
            };
            let value = ValueType::of(column).used(types);
            let _ = writeln!(
                out,
                "{indent}<xs:attribute name=\"{name}\" type=\"{value}\"{required}/>"
            );
        }
    }
}

/// The type of the values of a column: one of XML Schema's own, or one that the schema itself declares.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ValueType {
    base: &'static str,
    /// Whether a value may be empty instead.
    or_empty: bool,
}

/// The types that schemas declare as they need them: name, what it is derived from, and the facet.
const OWN_TYPES: [(&str, &str, &str); 3] = [
    ("empty", "xs:string", "<xs:length value=\"0\"/>"),
    // White space around it does not count, so that a text of nothing else is an empty one.
    ("filled", "xs:token", "<xs:minLength value=\"1\"/>"),
    (
        "moment",
        "xs:dateTime",
        "<xs:pattern value=\".+(Z|[+\\-][0-9]{2}:[0-9]{2})\"/>",
    ),
];

impl ValueType {
    fn of(column: &FieldSpec) -> ValueType {
        let base = match column.field_type {
            FieldType::Bool => "xs:boolean",
            FieldType::Int => "xs:long",
            FieldType::Float => "xs:double",
            FieldType::Text if column.required => "filled",
            FieldType::Text | FieldType::Json => "xs:string",
            FieldType::Time if column.unit.is_some() => "xs:decimal",
            FieldType::Time => "moment",
        };
        ValueType {
            base,
            or_empty: false,
        }
    }

    /// The type where a column that may be null leaves an element empty.
    fn or_empty(self, column: &FieldSpec) -> ValueType {
        ValueType {
            or_empty: !column.required && self.base != "xs:string",
            ..self
        }
    }

    /// Its name, taken down as one that must be declared.
    fn used(self, types: &mut BTreeSet<ValueType>) -> String {
        let name = self.name();
        types.insert(self);
        name
    }

    fn name(&self) -> String {
        match self.or_empty {
            true => format!("{}-or-empty", self.base.trim_start_matches("xs:")),
            false => self.base.to_owned(),
        }
    }

    /// Declares the types that a schema uses.
    fn declare(types: &BTreeSet<ValueType>, out: &mut String) {
        let mut bases: BTreeSet<&str> = types.iter().map(|one| one.base).collect();
        if types.iter().any(|one| one.or_empty) {
            bases.insert("empty");
        }
        for (name, base, facet) in OWN_TYPES {
            if bases.contains(name) {
                let _ = write!(
                    out,
                    "  <xs:simpleType name=\"{name}\">\n    <xs:restriction base=\"{base}\">\n      {facet}\n    </xs:restriction>\n  </xs:simpleType>\n"
                );
            }
        }
        for one in types.iter().filter(|one| one.or_empty) {
            let _ = write!(
                out,
                "  <xs:simpleType name=\"{}\">\n    <xs:union memberTypes=\"{} empty\"/>\n  </xs:simpleType>\n",
                one.name(),
                one.base
            );
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

/// The columns that a table's file declares; those of its key are required.
pub fn table_columns(table: &TableSpec) -> Vec<FieldSpec> {
    let columns = table.columns.iter().map(|column| {
        let field_type = match column.kind {
            ColumnType::Bool => FieldType::Bool,
            ColumnType::Int => FieldType::Int,
            ColumnType::Float => FieldType::Float,
            ColumnType::Time => FieldType::Time,
            ColumnType::Json => FieldType::Json,
            ColumnType::Text | ColumnType::Binary => FieldType::Text,
        };
        FieldSpec {
            required: table.key.contains(&column.name),
            ..FieldSpec::new(&column.name, field_type)
        }
    });
    columns.collect()
}
