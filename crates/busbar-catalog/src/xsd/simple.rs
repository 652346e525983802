//! Simple types: what a column of their values holds.

use busbar_event::Error;
use busbar_event::format::FieldType;

use super::XSD;
use super::load::{Component, Declared, XsdFiles};
use crate::limits::XSD_DERIVATIONS_MAX;

/// What the values of a simple type are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SimpleOf {
    pub field_type: FieldType,
    /// The type of XML Schema's own that it is derived from.
    pub built_in: &'static str,
    /// No value is empty or white space alone, which is read as none.
    pub is_filled: bool,
    /// White space around a value does not count.
    collapses: bool,
    /// The only value is the empty text.
    is_empty: bool,
    /// Numbers that may have a fraction, as far as their name says.
    is_decimal: bool,
}

pub(super) const ANY_SIMPLE: SimpleOf = SimpleOf {
    field_type: FieldType::Text,
    built_in: "string",
    is_filled: false,
    collapses: false,
    is_empty: false,
    is_decimal: false,
};

/// A type by its name, as far as it is one of XML Schema's own simple types.
pub(super) fn built_in(local: &str) -> Option<SimpleOf> {
    let of = |field_type, is_filled, collapses| SimpleOf {
        field_type,
        is_filled,
        collapses,
        ..ANY_SIMPLE
    };
    let found = match local {
        "boolean" => of(FieldType::Bool, true, true),
        "integer" | "nonNegativeInteger" | "nonPositiveInteger" | "positiveInteger"
        | "negativeInteger" | "long" | "int" | "short" | "byte" | "unsignedLong"
        | "unsignedInt" | "unsignedShort" | "unsignedByte" => of(FieldType::Int, true, true),
        "decimal" => SimpleOf {
            is_decimal: true,
            ..of(FieldType::Float, true, true)
        },
        "float" | "double" => of(FieldType::Float, true, true),
        "dateTime" | "dateTimeStamp" => of(FieldType::Time, true, true),
        "date" | "time" | "gYear" | "gYearMonth" | "gMonth" | "gMonthDay" | "gDay" | "duration"
        | "dayTimeDuration" | "yearMonthDuration" | "QName" | "NOTATION" | "language"
        | "NMTOKEN" | "NMTOKENS" | "Name" | "NCName" | "ID" | "IDREF" | "IDREFS" | "ENTITY"
        | "ENTITIES" => of(FieldType::Text, true, true),
        "token" | "anyURI" | "base64Binary" | "hexBinary" => of(FieldType::Text, false, true),
        "string" | "normalizedString" | "anySimpleType" | "anyAtomicType" => ANY_SIMPLE,
        _ => return None,
    };
    let built_in = NAMES.iter().find(|name| **name == local);
    Some(SimpleOf {
        built_in: built_in.copied().unwrap_or(match found.field_type {
            FieldType::Int => "integer",
            FieldType::Text if found.collapses => "token",
            _ => "string",
        }),
        ..found
    })
}

/// The types whose values are written in a way of their own.
const NAMES: [&str; 14] = [
    "boolean",
    "decimal",
    "float",
    "double",
    "dateTime",
    "date",
    "time",
    "duration",
    "gYear",
    "gYearMonth",
    "gMonthDay",
    "gMonth",
    "gDay",
    "base64Binary",
];

impl XsdFiles {
    /// The simple type of a name.
    pub fn simple_named(
        &self,
        from: Component,
        written: &str,
        depth: usize,
    ) -> Result<SimpleOf, Error> {
        let (namespace, local) = self.name(from, written)?;
        if namespace == XSD {
            return built_in(&local).ok_or_else(|| self.at(from, "xsd.unknown", written));
        }
        let declared = self.declared(Declared::Type, from, written)?;
        match self.kind(declared) {
            Some("simpleType") => self.simple(declared, depth),
            _ => Err(self.at(from, "xsd.not-simple", written)),
        }
    }

    /// What a `simpleType` says.
    pub fn simple(&self, component: Component, depth: usize) -> Result<SimpleOf, Error> {
        if depth > XSD_DERIVATIONS_MAX {
            let name = self.attribute(component, "name").unwrap_or_default();
            return Err(self.at(component, "xsd.circular", name));
        }
        let Some(derivation) = self.child(component, &["restriction", "list", "union"]) else {
            return Ok(ANY_SIMPLE);
        };
        match self.kind(derivation) {
            Some("restriction") => {
                let base = match self.attribute(derivation, "base") {
                    Some(base) => self.simple_named(derivation, base, depth + 1)?,
                    None => match self.child(derivation, &["simpleType"]) {
                        Some(inner) => self.simple(inner, depth + 1)?,
                        None => ANY_SIMPLE,
                    },
                };
                Ok(self.restricted(base, derivation))
            }
            Some("union") => self.union(derivation, depth),
            // Values with spaces between them.
            _ => Ok(SimpleOf {
                collapses: true,
                ..ANY_SIMPLE
            }),
        }
    }

    /// What is left of a type by the facets of a restriction.
    pub fn restricted(&self, base: SimpleOf, restriction: Component) -> SimpleOf {
        let mut found = base;
        let mut values: Vec<&str> = Vec::new();
        let mut length_min = 0;
        let mut length_max = None;
        for facet in self.children(restriction) {
            let value = self.attribute(facet, "value").unwrap_or_default();
            match self.kind(facet) {
                Some("enumeration") => values.push(value),
                Some("minLength") => length_min = length_min.max(value.parse().unwrap_or(0)),
                Some("length") => {
                    length_min = value.parse().unwrap_or(0);
                    length_max = Some(length_min);
                }
                Some("maxLength") => length_max = value.parse().ok(),
                Some("whiteSpace") => found.collapses |= value == "collapse",
                Some("fractionDigits") if found.is_decimal && value == "0" => {
                    found.field_type = FieldType::Int;
                }
                _ => {}
            }
        }
        found.is_empty |= length_max == Some(0u32);
        if !values.is_empty() {
            found.is_empty = values.iter().all(|value| value.is_empty());
            found.is_filled |= values.iter().all(|value| !value.is_empty());
        }
        found.is_filled |= found.collapses && length_min > 0 && found.field_type == FieldType::Text;
        found
    }

    fn union(&self, union: Component, depth: usize) -> Result<SimpleOf, Error> {
        let mut members: Vec<SimpleOf> = Vec::new();
        let named = self.attribute(union, "memberTypes").unwrap_or_default();
        for name in named.split_whitespace() {
            members.push(self.simple_named(union, name, depth + 1)?);
        }
        for inner in self.children(union) {
            if self.kind(inner) == Some("simpleType") {
                members.push(self.simple(inner, depth + 1)?);
            }
        }
        let is_filled = members.iter().all(|member| member.is_filled);
        // An empty text is read as none, whatever the other members are.
        let mut kinds = members.iter().filter(|member| !member.is_empty);
        let Some(first) = kinds.next() else {
            return Ok(ANY_SIMPLE);
        };
        let is_one = kinds.all(|member| member.field_type == first.field_type);
        Ok(match is_one {
            true => SimpleOf {
                is_filled,
                collapses: false,
                ..*first
            },
            false => SimpleOf {
                is_filled,
                ..ANY_SIMPLE
            },
        })
    }
}
