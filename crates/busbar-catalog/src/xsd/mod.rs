//! XML Schemas and columns: a schema of the documents that hold a row, and the columns of a schema's documents.
//!
//! Both follow what `format: xml` reads and the step `xml` writes. An attribute `id` of the root element is the path `@id`, an
//! element `name`, an element in an element `name.family`, the text of an element with attributes `level.#text`; an element
//! that may come several times is a list, `line[*]`.
//!
//! | column | schema | read back |
//! | --- | --- | --- |
//! | `bool` | `xs:boolean` | `bool` |
//! | `int` | `xs:long` | whole numbers of every kind: `int` |
//! | `float` | `xs:double` | `xs:decimal`, `xs:float`, `xs:double`: `float` |
//! | `text` | `xs:string` | everything else that is simple: `text` |
//! | `time` | `xs:dateTime` with an offset; `xs:decimal` where the column has a unit | `xs:dateTime`: `time` |
//! | `json` | `xs:anyType` | an element that is repeated, recursive or of any type: `json` |
//! | required | `minOccurs="1"`, `use="required"` | required, where no document that is valid can have an empty value there |

mod columns;
mod load;
mod particle;
mod shape;
mod simple;
#[cfg(test)]
mod tests;
mod write;

pub use columns::{XsdColumns, columns_of_xsd};
pub use shape::{ShapeAttribute, ShapeContent, ShapeElement, ShapeType, XsdSchemas, XsdShape};
pub use write::{table_columns, xsd_of};

use busbar_event::{Class, Error, quote};

/// The namespace of the elements of schemas.
const XSD: &str = "http://www.w3.org/2001/XMLSchema";
/// The namespace of `xml:lang` and its like, which every document knows.
const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// What is wrong with a schema.
fn wrong(code: &'static str, name: &str) -> Error {
    Error::new(Class::Configuration, code).with("name", quote(name))
}
