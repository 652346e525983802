//! The columns of a schema's documents.

use std::collections::HashSet;
use std::path::Path;

use busbar_event::format::{FieldSpec, FieldType, SchemaSpec};
use busbar_event::limits::{COLUMNS_MAX, XML_DEPTH_MAX};
use busbar_event::{Class, Error, is_relation_column, quote};

use super::load::{Component, XsdFiles};
use super::particle::{ContentReader, TypeOf};
use super::simple::SimpleOf;
use super::wrong;

/// The columns of a schema's documents.
#[derive(Debug)]
pub struct XsdColumns {
    /// The root element.
    pub root: String,
    /// The columns, in the order of the documents.
    pub schema: SchemaSpec,
    /// What documents may hold that no column has, or has as JSON only, and what a reader may refuse: each with its path.
    pub remarks: Vec<(String, Error)>,
}

/// The columns of the documents of a schema's file. Without `root`, the file declares one element. Elements that are more than
/// `depth` below the root are `json` columns.
///
/// # Errors
/// *Configuration*: what is wrong with the schema, with its file.
pub fn columns_of_xsd(
    file: &Path,
    root: Option<&str>,
    depth: Option<usize>,
) -> Result<XsdColumns, Error> {
    let files = XsdFiles::read(file)?;
    let name_of = |element: &Component| files.attribute(*element, "name").unwrap_or_default();
    let names = || {
        let names: Vec<&str> = files.roots.iter().map(name_of).collect();
        names.join(", ")
    };
    let element = match (root, files.roots.as_slice()) {
        (Some(root), all) => {
            let found = all.iter().find(|element| name_of(element) == root);
            *found.ok_or_else(|| wrong("xsd.no-element", root).with("names", names()))?
        }
        (None, [one]) => *one,
        (None, []) => return Err(Error::new(Class::Configuration, "xsd.no-root")),
        (None, _) => {
            let error = Error::new(Class::Configuration, "xsd.which-root");
            return Err(error.with("names", names()));
        }
    };
    let root = files.own_name(element)?.to_owned();
    let mut walk = ColumnWalk {
        reader: ContentReader {
            files: &files,
            steps: 0,
        },
        open: Vec::new(),
        names: HashSet::new(),
        columns: Vec::new(),
        remarks: Vec::new(),
        depth: depth.unwrap_or(XML_DEPTH_MAX - 1).min(XML_DEPTH_MAX - 1),
    };
    walk.root(element)?;
    Ok(XsdColumns {
        root,
        schema: SchemaSpec(walk.columns),
        remarks: walk.remarks,
    })
}

struct ColumnWalk<'x> {
    reader: ContentReader<'x>,
    /// The complex types around the element.
    open: Vec<Component>,
    names: HashSet<String>,
    columns: Vec<FieldSpec>,
    remarks: Vec<(String, Error)>,
    depth: usize,
}

impl ColumnWalk<'_> {
    fn root(&mut self, element: Component) -> Result<(), Error> {
        match self.reader.type_of(element, 0)? {
            TypeOf::Simple(simple) => self.simple("#text", simple, true),
            TypeOf::Complex(complex) => self.complex("", complex, true),
            TypeOf::Any => {
                self.remark("", "xsd.any");
                Ok(())
            }
        }
    }

    fn remark(&mut self, path: &str, code: &'static str) {
        let error = Error::new(Class::Configuration, code);
        self.remarks.push((path.to_owned(), error));
    }

    /// Adds a column. A value that may be empty is never required, since an empty one is read as none.
    fn add(&mut self, path: &str, field_type: FieldType, required: bool) -> Result<(), Error> {
        if self.columns.len() == COLUMNS_MAX {
            let error = Error::new(Class::Configuration, "xsd.many");
            return Err(error.with("max", COLUMNS_MAX).with("path", quote(path)));
        }
        let name = self.name(path);
        self.columns.push(FieldSpec {
            path: (name != path).then(|| path.to_owned()),
            name,
            field_type,
            unit: None,
            required,
        });
        Ok(())
    }

    fn simple(&mut self, path: &str, simple: SimpleOf, required: bool) -> Result<(), Error> {
        if simple.field_type == FieldType::Time {
            self.remark(path, "xsd.offset");
        }
        self.add(path, simple.field_type, required && simple.is_filled)
    }

    /// The name of a column: the parts of its path, joined by `_`.
    fn name(&mut self, path: &str) -> String {
        let parts = path.trim_end_matches("[*]").replace(".#text", "");
        let letters = parts.trim_start_matches(['@', '#']).chars();
        let mut name = String::new();
        for letter in letters {
            match letter {
                '@' => {}
                _ if letter.is_alphanumeric() || letter == '_' => name.push(letter),
                _ => name.push('_'),
            }
        }
        let mut number = 1;
        let mut unique = name.clone();
        while is_relation_column(&unique) || self.names.contains(&unique) {
            number += 1;
            unique = format!("{name}_{number}");
        }
        self.names.insert(unique.clone());
        unique
    }

    /// Adds what is in an element: `path` is empty for the root, else it ends the paths to it.
    fn complex(&mut self, path: &str, complex: Component, required: bool) -> Result<(), Error> {
        let content = self.reader.content(complex, 0)?;
        let at = |part: &str| match path.is_empty() {
            true => part.to_owned(),
            false => format!("{path}.{part}"),
        };
        if content.has_any {
            self.remark(path, "xsd.any");
        }
        if content.has_any_attribute {
            self.remark(path, "xsd.any-attribute");
        }
        let is_bare = content.attributes.is_empty() && content.children.is_empty();
        match content.text {
            Some(text) if is_bare && !path.is_empty() => return self.simple(path, text, required),
            None if is_bare && !content.is_mixed && !content.has_any => {
                self.remark(path, "xsd.empty");
                return Ok(());
            }
            _ => {}
        }
        for attribute in &content.attributes {
            if attribute.name.contains('.') {
                self.remark(&at(&format!("@{}", attribute.name)), "xsd.dot");
                continue;
            }
            let path = at(&format!("@{}", attribute.name));
            self.simple(&path, attribute.of, required && attribute.is_required)?;
        }
        if let Some(text) = content.text {
            self.simple(&at("#text"), text, required)?;
        } else if content.is_mixed {
            self.add(&at("#text"), FieldType::Text, false)?;
        }
        self.open.push(complex);
        for child in &content.children {
            let name = &child.name;
            if name.contains('.') {
                self.remark(&at(name), "xsd.dot");
                continue;
            }
            let required = required && child.is_required;
            self.element(&at(name), &child.declarations, required, child.is_repeated)?;
        }
        self.open.pop();
        Ok(())
    }

    fn element(
        &mut self,
        path: &str,
        declarations: &[Component],
        required: bool,
        is_repeated: bool,
    ) -> Result<(), Error> {
        if is_repeated {
            return self.add(&format!("{path}[*]"), FieldType::Json, required);
        }
        let files = self.reader.files;
        let is_nillable = declarations
            .iter()
            .any(|one| matches!(files.attribute(*one, "nillable"), Some("true" | "1")));
        let required = required && !is_nillable;
        let [declaration] = declarations else {
            self.remark(path, "xsd.several");
            return self.add(path, FieldType::Json, false);
        };
        match self.reader.type_of(*declaration, 0)? {
            // An element that says that it is nil has an attribute, so that its text is a member.
            TypeOf::Simple(simple) if is_nillable => {
                self.simple(&format!("{path}.#text"), simple, false)
            }
            TypeOf::Simple(simple) => self.simple(path, simple, required),
            TypeOf::Any => self.add(path, FieldType::Json, false),
            TypeOf::Complex(complex) if self.open.contains(&complex) => {
                self.remark(path, "xsd.recursive");
                self.add(path, FieldType::Json, false)
            }
            TypeOf::Complex(_) if self.open.len() >= self.depth => {
                self.add(path, FieldType::Json, false)
            }
            TypeOf::Complex(complex) => self.complex(path, complex, required),
        }
    }
}
