//! What a complex type allows in an element.

use busbar_event::Error;

use super::XSD;
use super::load::{Component, Declared, XsdFiles};
use super::simple::{ANY_SIMPLE, SimpleOf, built_in};
use crate::limits::{XSD_DERIVATIONS_MAX, XSD_STEPS_MAX};

/// The type of an element.
#[derive(Clone, Copy, Debug)]
pub(super) enum TypeOf {
    Simple(SimpleOf),
    /// A `complexType`.
    Complex(Component),
    Any,
}

/// What is in an element.
#[derive(Debug, Default)]
pub(super) struct ContentOf {
    pub attributes: Vec<AttributeOf>,
    pub children: Vec<ChildOf>,
    /// Its text, where it has no elements.
    pub text: Option<SimpleOf>,
    /// It has text between its elements.
    pub is_mixed: bool,
    /// It may have elements that the schema does not name.
    pub has_any: bool,
    /// It may have attributes that the schema does not name.
    pub has_any_attribute: bool,
}

#[derive(Debug)]
pub(super) struct AttributeOf {
    pub name: String,
    pub of: SimpleOf,
    pub is_required: bool,
}

/// An element in an element. Those of one name are one, as they are in payloads, where namespaces do not count.
#[derive(Clone, Debug)]
pub(super) struct ChildOf {
    pub name: String,
    /// Where it is declared: several places if they differ.
    pub declarations: Vec<Component>,
    pub is_required: bool,
    pub is_repeated: bool,
}

/// Reads complex types, and counts what it looks at.
pub(super) struct ContentReader<'x> {
    pub files: &'x XsdFiles,
    pub steps: usize,
}

/// A type of XML Schema itself.
fn of_xml_schema(local: &str) -> Option<TypeOf> {
    match local {
        "anyType" => Some(TypeOf::Any),
        local => built_in(local).map(TypeOf::Simple),
    }
}

impl ContentReader<'_> {
    fn step(&mut self, at: Component) -> Result<(), Error> {
        self.steps += 1;
        match self.steps > XSD_STEPS_MAX {
            true => Err(self.files.at(at, "xsd.large", "")),
            false => Ok(()),
        }
    }

    /// The type of an element's declaration.
    pub fn type_of(&mut self, element: Component, depth: usize) -> Result<TypeOf, Error> {
        self.step(element)?;
        let files = self.files;
        let circular = || {
            let name = files.attribute(element, "name").unwrap_or_default();
            files.at(element, "xsd.circular", name)
        };
        if depth > XSD_DERIVATIONS_MAX {
            return Err(circular());
        }
        if let Some(name) = files.attribute(element, "type") {
            let (namespace, local) = files.name(element, name)?;
            if namespace == XSD {
                let known = of_xml_schema(&local);
                return known.ok_or_else(|| files.at(element, "xsd.unknown", name));
            }
            let declared = files.declared(Declared::Type, element, name)?;
            return self.of_type(declared);
        }
        if let Some(own) = files.child(element, &["simpleType", "complexType"]) {
            return self.of_type(own);
        }
        match files.attribute(element, "substitutionGroup") {
            Some(head) => {
                let head = head.split_whitespace().next().unwrap_or_default();
                let head = files.declared(Declared::Element, element, head)?;
                self.type_of(head, depth + 1)
            }
            None => Ok(TypeOf::Any),
        }
    }

    /// The type of a name; none if there is none.
    pub fn type_named(&self, namespace: &str, local: &str) -> Result<Option<TypeOf>, Error> {
        if namespace == XSD {
            return Ok(of_xml_schema(local));
        }
        let declared = self.files.type_of_name(namespace, local);
        declared.map(|declared| self.of_type(declared)).transpose()
    }

    fn of_type(&self, declared: Component) -> Result<TypeOf, Error> {
        match self.files.kind(declared) {
            Some("simpleType") => self.files.simple(declared, 0).map(TypeOf::Simple),
            _ => Ok(TypeOf::Complex(declared)),
        }
    }

    /// What a complex type allows.
    pub fn content(&mut self, complex: Component, depth: usize) -> Result<ContentOf, Error> {
        self.step(complex)?;
        let files = self.files;
        if depth > XSD_DERIVATIONS_MAX {
            let name = files.attribute(complex, "name").unwrap_or_default();
            return Err(files.at(complex, "xsd.circular", name));
        }
        let is_true = |at: Component| matches!(files.attribute(at, "mixed"), Some("true" | "1"));
        let mut found = ContentOf::default();
        if let Some(simple) = files.child(complex, &["simpleContent"]) {
            if let Some(derivation) = files.child(simple, &["extension", "restriction"]) {
                self.simple_content(derivation, depth, &mut found)?;
            }
            return Ok(found);
        }
        let (at, derivation) = match files.child(complex, &["complexContent"]) {
            Some(content) => {
                found.is_mixed = is_true(content);
                match files.child(content, &["extension", "restriction"]) {
                    Some(derivation) => (derivation, Some(derivation)),
                    None => (complex, None),
                }
            }
            None => (complex, None),
        };
        found.is_mixed |= is_true(complex);
        if let Some(derivation) = derivation {
            let base = self.base(derivation, depth)?;
            let is_extension = files.kind(derivation) == Some("extension");
            found.attributes = base.attributes;
            if is_extension {
                found.children = base.children;
                found.has_any = base.has_any;
                found.has_any_attribute = base.has_any_attribute;
                found.is_mixed |= base.is_mixed;
            }
        }
        if let Some(group) = files.child(at, &["sequence", "choice", "all", "group"]) {
            let own = self.particle(group, &mut found.has_any, depth)?;
            found.children = in_order(std::mem::take(&mut found.children), own);
        }
        self.attributes(at, &mut found, depth)?;
        Ok(found)
    }

    /// What the type that another one is derived from allows.
    fn base(&mut self, derivation: Component, depth: usize) -> Result<ContentOf, Error> {
        let files = self.files;
        let name = files.attribute(derivation, "base").unwrap_or("");
        let (namespace, local) = files.name(derivation, name)?;
        if namespace == XSD && local == "anyType" {
            return Ok(ContentOf::default());
        }
        if namespace == XSD {
            let text = built_in(&local).ok_or_else(|| files.at(derivation, "xsd.unknown", name))?;
            return Ok(ContentOf {
                text: Some(text),
                ..ContentOf::default()
            });
        }
        let declared = files.declared(Declared::Type, derivation, name)?;
        match files.kind(declared) {
            Some("simpleType") => Ok(ContentOf {
                text: Some(files.simple(declared, depth)?),
                ..ContentOf::default()
            }),
            _ => self.content(declared, depth + 1),
        }
    }

    fn simple_content(
        &mut self,
        derivation: Component,
        depth: usize,
        found: &mut ContentOf,
    ) -> Result<(), Error> {
        let files = self.files;
        let base = self.base(derivation, depth)?;
        found.attributes = base.attributes;
        found.has_any_attribute = base.has_any_attribute;
        let mut text = base.text.unwrap_or(ANY_SIMPLE);
        if files.kind(derivation) == Some("restriction") {
            if let Some(own) = files.child(derivation, &["simpleType"]) {
                text = files.simple(own, depth + 1)?;
            }
            text = files.restricted(text, derivation);
        }
        found.text = Some(text);
        self.attributes(derivation, found, depth)
    }

    /// Adds the attributes that stand in an element of a schema.
    fn attributes(
        &mut self,
        at: Component,
        found: &mut ContentOf,
        depth: usize,
    ) -> Result<(), Error> {
        let files = self.files;
        if depth > XSD_DERIVATIONS_MAX {
            return Err(files.at(at, "xsd.circular", ""));
        }
        for one in files.children(at) {
            self.step(one)?;
            match files.kind(one) {
                Some("attribute") => self.attribute(one, found)?,
                Some("attributeGroup") => {
                    if let Some(name) = files.attribute(one, "ref") {
                        let group = files.declared(Declared::AttributeGroup, one, name)?;
                        self.attributes(group, found, depth + 1)?;
                    }
                }
                Some("anyAttribute") => found.has_any_attribute = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn attribute(&mut self, one: Component, found: &mut ContentOf) -> Result<(), Error> {
        let files = self.files;
        let usage = files.attribute(one, "use");
        let (name, of) = match files.attribute(one, "ref") {
            Some(name) if files.is_of_xml(one, name) => {
                let local = name.rsplit(':').next().unwrap_or(name);
                (local.to_owned(), ANY_SIMPLE)
            }
            Some(name) => {
                let declared = files.declared(Declared::Attribute, one, name)?;
                let name = files.own_name(declared)?.to_owned();
                (name, self.attribute_type(declared)?)
            }
            None => {
                let name = files.own_name(one)?.to_owned();
                (name, self.attribute_type(one)?)
            }
        };
        found.attributes.retain(|known| known.name != name);
        if usage != Some("prohibited") {
            found.attributes.push(AttributeOf {
                name,
                of,
                is_required: usage == Some("required"),
            });
        }
        Ok(())
    }

    fn attribute_type(&self, declared: Component) -> Result<SimpleOf, Error> {
        let files = self.files;
        match (
            files.attribute(declared, "type"),
            files.child(declared, &["simpleType"]),
        ) {
            (Some(name), _) => files.simple_named(declared, name, 0),
            (None, Some(own)) => files.simple(own, 0),
            _ => Ok(ANY_SIMPLE),
        }
    }

    /// The elements of a group, with how often they come in it.
    fn particle(
        &mut self,
        at: Component,
        has_any: &mut bool,
        depth: usize,
    ) -> Result<Vec<ChildOf>, Error> {
        self.step(at)?;
        let files = self.files;
        if depth > XSD_DERIVATIONS_MAX {
            let name = files.attribute(at, "ref").unwrap_or_default();
            return Err(files.at(at, "xsd.circular", name));
        }
        let occurs = |name: &str| files.attribute(at, name);
        let is_optional = occurs("minOccurs").is_some_and(|n| n.parse() == Ok(0));
        let is_repeated = occurs("maxOccurs").is_some_and(|n| !matches!(n.parse(), Ok(0..=1)));
        if occurs("maxOccurs").is_some_and(|n| n.parse() == Ok(0)) {
            return Ok(Vec::new());
        }
        let mut found: Vec<ChildOf> = match files.kind(at) {
            Some("element") => self.element(at)?,
            Some("sequence" | "all") => {
                let mut all = Vec::new();
                for one in files.children(at) {
                    let next = self.particle(one, has_any, depth + 1)?;
                    all = in_order(all, next);
                }
                all
            }
            Some("choice") => {
                let mut all: Option<Vec<ChildOf>> = None;
                for one in files.children(at) {
                    let next = self.particle(one, has_any, depth + 1)?;
                    all = Some(match all {
                        None => next,
                        Some(all) => either(all, next),
                    });
                }
                all.unwrap_or_default()
            }
            Some("group") => match files.attribute(at, "ref") {
                Some(name) => {
                    let group = files.declared(Declared::Group, at, name)?;
                    match files.child(group, &["sequence", "choice", "all"]) {
                        Some(own) => self.particle(own, has_any, depth + 1)?,
                        None => Vec::new(),
                    }
                }
                None => Vec::new(),
            },
            Some("any") => {
                *has_any = true;
                Vec::new()
            }
            _ => Vec::new(),
        };
        for child in &mut found {
            child.is_required &= !is_optional;
            child.is_repeated |= is_repeated;
        }
        Ok(found)
    }

    /// An element, or those that may stand in its place.
    fn element(&mut self, at: Component) -> Result<Vec<ChildOf>, Error> {
        let files = self.files;
        let child = |declared: Component| -> Result<ChildOf, Error> {
            Ok(ChildOf {
                name: files.own_name(declared)?.to_owned(),
                declarations: vec![declared],
                is_required: true,
                is_repeated: false,
            })
        };
        let Some(name) = files.attribute(at, "ref") else {
            return Ok(vec![child(at)?]);
        };
        let declared = files.declared(Declared::Element, at, name)?;
        let is_abstract =
            |one: &Component| matches!(files.attribute(*one, "abstract"), Some("true" | "1"));
        let all = [declared].into_iter().chain(files.substitutes(declared));
        let mut all = all.filter(|one| !is_abstract(one));
        let Some(first) = all.next() else {
            return Ok(Vec::new());
        };
        all.try_fold(vec![child(first)?], |found, one| {
            Ok(either(found, vec![child(one)?]))
        })
    }
}

/// What comes of a group behind another one.
fn in_order(mut all: Vec<ChildOf>, next: Vec<ChildOf>) -> Vec<ChildOf> {
    for child in next {
        match all.iter_mut().find(|known| known.name == child.name) {
            Some(known) => {
                known.is_repeated = true;
                known.is_required |= child.is_required;
                known.also(child.declarations);
            }
            None => all.push(child),
        }
    }
    all
}

/// What comes of one of two groups.
fn either(mut all: Vec<ChildOf>, next: Vec<ChildOf>) -> Vec<ChildOf> {
    for known in &mut all {
        known.is_required &= next.iter().any(|child| child.name == known.name);
    }
    for mut child in next {
        match all.iter_mut().find(|known| known.name == child.name) {
            Some(known) => {
                known.is_repeated |= child.is_repeated;
                known.is_required &= child.is_required;
                known.also(child.declarations);
            }
            None => {
                child.is_required = false;
                all.push(child);
            }
        }
    }
    all
}

impl ChildOf {
    fn also(&mut self, declarations: Vec<Component>) {
        for one in declarations {
            if !self.declarations.contains(&one) {
                self.declarations.push(one);
            }
        }
    }
}
